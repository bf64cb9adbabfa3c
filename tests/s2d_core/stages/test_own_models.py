"""A person's own models and files go the same way as the small world: nothing in the path is special to it."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3Config

from s2d_core.config.compose import load_config
from s2d_core.errors import CheckpointError, DataError, ResourceError
from s2d_core.plan import plan
from s2d_core.preflight import preflight
from s2d_core.report.data import report_data
from s2d_core.report.results import Results
from s2d_core.run_stage import run_stage
from s2d_core.store import Store

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k.jsonl"
TEXT = ["What is 12 + 30? Let's think step by step.", "The answer is \\boxed{42}.", "0123456789 apples and pears"]


def save_model(folder, config_class, hidden, vocab_text=TEXT, vocab=400, eos="<eos>"):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<pad>", eos], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(vocab_text, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config = config_class(
        vocab_size=512, hidden_size=hidden, intermediate_size=48, eos_token_id=1, pad_token_id=0, **shape
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def problems(tmp_path):
    file = tmp_path / "problems.jsonl"
    lines = [{"question": f"What is {i} + {i * 3}?", "answer": f"It is so.\n#### {4 * i}"} for i in range(40)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def overrides(tmp_path, file, teacher, student, sizes="{labelled: 8, held_out: 8, test: 8}"):
    small = [
        f"stages.{s}.{k}" for s in ("teacher_rl", "student_rl", "warmup", "opd") for k in ("steps=2", "group_size=2")
    ]
    small += [
        f"stages.{s}.{k}"
        for s in ("teacher_rl", "student_rl", "warmup", "opd")
        for k in ("prompts_per_step=4", "sampling.max_tokens=6")
    ]
    return [
        *small,
        f"store={tmp_path / 'store'}",
        f"models.teacher.path={teacher}",
        f"models.student.path={student}",
        f"data.files.train={file}",
        r"data.files.answer_pattern='####\s*(.+)$'",
        f"data.splits={sizes}",
        "evaluation.k=2",
        "evaluation.sampling.max_tokens=6",
    ]


@pytest.mark.parametrize("family", [Qwen3Config, LlamaConfig])
def test_own_models_and_gsm8k_run_through_to_a_report(tmp_path, family):
    if not GSM8K.exists():
        pytest.skip(f"{GSM8K.name} is not beside the checkout")
    teacher = save_model(tmp_path / "teacher", family, 64)
    student = save_model(tmp_path / "student", family, 32)
    sizes = "{labelled: 32, held_out: 32, test: 64}"
    config = load_config("own_models", overrides(tmp_path, GSM8K, teacher, student, sizes))
    planned = plan(config, None, [0], preflight(config))
    for spec in planned.specs.values():
        run_stage(spec)
    data = report_data(Results(planned, Store(config.store)), set(), config, "c")
    assert set(data["arms"]) == {"full", "direct_grpo"}
    assert data["arms"]["full"][0]["labels"] == 8
    assert data["arms"]["full"][0]["conditions"]["c2_kl_before"] > 0


def test_tokenizers_that_differ_are_refused_before_anything_runs(tmp_path, problems):
    teacher = save_model(tmp_path / "teacher", Qwen3Config, 64)
    student = save_model(tmp_path / "student", Qwen3Config, 32, eos="<end>")
    config = load_config("own_models", overrides(tmp_path, problems, teacher, student))
    with pytest.raises(DataError, match=r"eos_token: '<eos>' .teacher. and '<end>' .student."):
        preflight(config)
    assert not Path(config.store).exists()


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (lambda t, p: (t / "model.safetensors").write_bytes(b"short"), CheckpointError, "model.safetensors"),
        (lambda t, p: (t / "config.json").unlink(), CheckpointError, "config.json"),
        (lambda t, p: p.write_text(""), DataError, "no problems"),
        (lambda t, p: p.write_text('{"question": "a", "answer": "none"}\n' * 3), DataError, "have no answer"),
        (lambda t, p: p.write_text('{"question": "a", "ans'), DataError, "problems.jsonl"),
        (lambda t, p: p.unlink(), DataError, "problems.jsonl"),
    ],
)
def test_bad_inputs_are_found_before_training_and_named(tmp_path, problems, damage, error, named):
    teacher = save_model(tmp_path / "teacher", Qwen3Config, 64)
    damage(teacher, problems)
    config = load_config("own_models", overrides(tmp_path, problems, teacher, teacher))
    with pytest.raises(error, match=named):
        preflight(config)
    assert not Path(config.store).exists()


def test_too_few_problems_for_the_splits_are_counted(tmp_path, problems):
    teacher = save_model(tmp_path / "teacher", Qwen3Config, 64)
    sizes = "{labelled: 30, held_out: 30, test: 8}"
    config = load_config("own_models", overrides(tmp_path, problems, teacher, teacher, sizes))
    with pytest.raises(DataError, match=r"= 68 problems, but .* hold 40"):
        preflight(config)


def test_a_run_that_cannot_fit_the_disk_is_refused_with_what_it_needs(tmp_path, problems):
    config = load_config("smoke", [f"store={tmp_path}", "models.teacher.scratch.hidden_size=4000000"])
    with pytest.raises(ResourceError, match="GiB of disk"):
        preflight(config)


def test_a_changed_data_file_changes_the_fingerprints(tmp_path, problems):
    teacher = save_model(tmp_path / "teacher", Qwen3Config, 64)
    config = load_config("own_models", overrides(tmp_path, problems, teacher, teacher))
    before = preflight(config)
    problems.write_text(problems.read_text().replace("What is 0", "How much is 0"))
    after = preflight(config)
    assert before["teacher"] == after["teacher"]
    assert before["data"] != after["data"]
