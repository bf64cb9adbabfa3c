"""The packed forward pass against the plain Hugging Face one."""

import pytest
import torch
from ranks import Ragged
from tiny_geometries import GEOMETRIES, VOCAB
from tiny_geometries import model as geometry
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from s2d_core.errors import CheckpointError
from s2d_core.training.packing import Example, pack
from s2d_core.training.policy import Policy, load_model

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
}
EXAMPLES = [Example([1, 2, 3], [4, 5]), Example([6], [7, 8, 9, 10]), Example([11, 12], [13])]


def model(config_class):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_class(**SHAPE), attn_implementation="sdpa").double()


def micro():
    return pack(EXAMPLES, [torch.ones(len(each.completion_ids)) for each in EXAMPLES])


@pytest.mark.parametrize("config_class", [Qwen3Config, LlamaConfig])
def test_packed_hidden_states_and_gradients_equal_those_of_each_sequence_alone(config_class):
    plain, packed = model(config_class), Policy(model(config_class))
    logits = packed(micro(), lambda hidden, head: hidden @ head.T)
    alone = []
    for each in EXAMPLES:
        ids = torch.tensor([[*each.prompt_ids, *each.completion_ids]])
        alone.append(plain(ids).logits[0, len(each.prompt_ids) - 1 : -1])
    torch.testing.assert_close(logits, torch.cat(alone), rtol=1e-10, atol=1e-10)
    logits.square().sum().backward()
    torch.cat(alone).square().sum().backward()
    for ours, theirs in zip(packed.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_packed_equals_padded(name):
    plain = geometry(name).requires_grad_(False)
    examples = [Ragged(VOCAB).example(index) for index in range(6)]
    sequences = [torch.tensor([*each.prompt_ids, *each.completion_ids]) for each in examples]
    mask = pad_sequence([torch.ones_like(ids) for ids in sequences], batch_first=True)
    logits = plain(pad_sequence(sequences, batch_first=True), attention_mask=mask).logits
    padded = torch.cat(
        [row[len(each.prompt_ids) - 1 : len(each) - 1] for row, each in zip(logits, examples, strict=True)]
    )
    micro = pack(examples, [torch.ones(len(each.completion_ids)) for each in examples])
    packed = Policy(plain)(micro, lambda hidden, head: hidden @ head.T)
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlashAttention needs a GPU")
def test_flash_attention_on_packed_tokens_equals_the_padded_view():
    examples = [Ragged(VOCAB).example(index) for index in range(6)]
    micro = pack(examples, [torch.ones(len(each.completion_ids)) for each in examples]).to("cuda")
    exact, flash = (Policy(geometry("qwen3")).to("cuda", dtype) for dtype in (torch.float32, torch.bfloat16))
    found = [policy(micro, lambda hidden, head: (hidden @ head.T).float()) for policy in (exact, flash)]
    assert (found[1] - found[0]).norm() < 0.02 * found[0].norm()
    for logits in found:
        logits.square().sum().backward()
    for ours, theirs in zip(flash.parameters(), exact.parameters(), strict=True):
        assert (ours.grad.float() - theirs.grad).norm() < 0.05 * theirs.grad.norm()


def test_recomputing_activations_changes_no_gradient():
    plain, saving = Policy(model(Qwen3Config)), Policy(model(Qwen3Config))
    saving.model.gradient_checkpointing_enable({"use_reentrant": False})
    for policy in (plain, saving):
        policy.train()
        policy(micro(), lambda hidden, head: (hidden @ head.T).square().sum()).backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_model(tmp_path)


def test_truncated_weights_are_refused_in_words(tmp_path):
    model(Qwen3Config).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot load the model"):
        load_model(tmp_path)
