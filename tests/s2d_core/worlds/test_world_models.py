import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from s2d_core.config.inputs import ScratchModel
from s2d_core.worlds.models import make_model
from s2d_core.worlds.tokenizer import TOKEN_IDS, make_tokenizer

STUDENT = ScratchModel(hidden_size=64, layers=2, heads=2, head_dim=32, intermediate_size=176)


def test_the_seed_alone_decides_the_weights():
    first = make_model(STUDENT, 1).state_dict()
    state = torch.random.get_rng_state()
    torch.rand(3)
    again, other = make_model(STUDENT, 1).state_dict(), make_model(STUDENT, 2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    torch.random.set_rng_state(state)


def test_making_a_model_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    make_model(STUDENT, 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_saved_model_is_loaded_by_hugging_face_and_stops_at_eos(tmp_path):
    model = make_model(STUDENT, 0)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert reloaded.config.model_type == "qwen3" and reloaded.dtype == torch.float32
    assert reloaded.lm_head.weight is reloaded.model.embed_tokens.weight
    ids = torch.tensor([make_tokenizer()("47+8*3-6=").input_ids])
    assert torch.equal(model(ids).logits, reloaded(ids).logits)
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.eos_token_id, generation.pad_token_id) == (TOKEN_IDS["<eos>"], TOKEN_IDS["<pad>"])
