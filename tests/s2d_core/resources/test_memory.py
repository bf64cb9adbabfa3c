"""The prediction against the bytes that a real step allocates, and what it says of the sizes it is made for."""

import itertools
import json
from dataclasses import replace

import pytest
from allocations import measured_peak, measured_storing
from transformers import LlamaConfig, Qwen3Config

from s2d_core.config.stages import LoraConfig
from s2d_core.resources.geometry import read_geometry
from s2d_core.resources.jobs import adapter_parameters
from s2d_core.resources.memory import Engine, MicroBatch, Precision, Training, moments, peak
from s2d_core.training import parallel
from tests.s2d_core.training.ranks import on_ranks

LENGTH, CHUNK = 64, 64
SMALL_VOCAB, LARGE_VOCAB = 500, 8000  # activations decide; the head and a chunk of logits decide
LOSSES = ("nll", "policy_gradient", "forward_kl", "reverse_kl", "jsd", "top_k", "stored_top_k", "sampled_token")


@pytest.fixture(scope="module", autouse=True)
def group():
    """Mixed precision needs one."""
    assert parallel.join_alone()
    yield
    parallel.leave()


def config(family, vocab, *, tied, teacher=False):
    width = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "head_dim": 24}
    if not teacher:
        width = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "head_dim": 16}
    return family(vocab_size=vocab, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, **width)


def predicted(student, teacher, loss, *, dtype, checkpointing, length, sequences, micro_batches, chunk):
    model, other = (read_geometry(each.to_dict(), "here") for each in (student, teacher))
    dense = loss not in ("nll", "policy_gradient")
    target = [other] if dense and loss != "stored_top_k" else []
    frozen = [model] if loss == "policy_gradient" else target
    micro = MicroBatch(length * sequences, (length - 8) * sequences, length * sequences)
    return Training(
        model,
        Precision.of(dtype),
        micro,
        [loss],
        chunk,
        frozen=frozen,
        target=target,
        checkpointing=checkpointing,
        accumulates=micro_batches > 1,
    )


# Every loss with either checkpointing; families, dtypes, vocabularies, tied heads and accumulation take turns.
CASES = [
    (loss, checkpointing, *turns)
    for (loss, checkpointing), turns in zip(
        itertools.product(LOSSES, (False, True)),
        itertools.cycle(
            [
                (Qwen3Config, "float32", SMALL_VOCAB, True, 2),
                (LlamaConfig, "bfloat16", LARGE_VOCAB, False, 2),
                (Qwen3Config, "bfloat16", LARGE_VOCAB, True, 2),
                (LlamaConfig, "float32", LARGE_VOCAB, True, 1),
                (Qwen3Config, "bfloat16", SMALL_VOCAB, False, 1),
            ]
        ),
        strict=False,
    )
]


@pytest.mark.parametrize(
    ("loss", "checkpointing", "family", "dtype", "vocab", "tied", "micro_batches"),
    CASES,
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_predicted_peak_is_within_a_tenth_of_the_measured_one(
    loss, checkpointing, family, dtype, vocab, tied, micro_batches
):
    models = config(family, vocab, tied=tied), config(family, vocab, tied=tied, teacher=True)
    case = {"dtype": dtype, "checkpointing": checkpointing, "length": LENGTH, "sequences": 8}
    case |= {"micro_batches": micro_batches, "chunk": CHUNK}
    moment, parts = peak(predicted(*models, loss, **case))
    ratio = sum(parts.values()) / measured_peak(*models, loss, **case)
    assert 0.9 < ratio < 1.1, f"at {moment}: {parts}"


@pytest.mark.parametrize(
    ("dtype", "vocab"), [("float32", SMALL_VOCAB), ("float32", LARGE_VOCAB), ("bfloat16", LARGE_VOCAB)]
)
def test_what_a_teacher_needs_whose_top_k_is_stored_is_predicted_too(dtype, vocab):
    student, teacher = config(Qwen3Config, vocab, tied=True), config(LlamaConfig, vocab, tied=False, teacher=True)
    case = {"dtype": dtype, "length": LENGTH, "sequences": 8}
    job = predicted(student, teacher, "stored_top_k", **case, checkpointing=False, micro_batches=1, chunk=CHUNK)
    found = moments(replace(job, ahead=read_geometry(teacher.to_dict(), "here")))
    parts = [found[moment] | {"weights": 0.0, "optimiser": 0.0, "gathered": 0.0} for moment in ("teacher", "store")]
    ratio = max(sum(each.values()) for each in parts) / measured_storing(teacher, **case, chunk=CHUNK)
    assert 0.9 < ratio < 1.1


@pytest.mark.parametrize("family", [Qwen3Config, LlamaConfig])
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_exactly(family, tied):
    import torch
    from transformers import AutoModelForCausalLM

    shape = config(family, SMALL_VOCAB, tied=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    assert read_geometry(shape.to_dict(), "here").parameters == sum(each.numel() for each in model.parameters())


def _measure_on_ranks(cases, models, results) -> None:
    found = [measured_peak(*models, loss, **case) for loss, case in cases]
    if parallel.rank() == 0:
        results.write_text(json.dumps(found))


@pytest.mark.slow
def test_what_each_of_two_workers_needs_is_predicted_too(tmp_path):
    models = config(Qwen3Config, LARGE_VOCAB, tied=True), config(LlamaConfig, LARGE_VOCAB, tied=False, teacher=True)
    shared = {"length": LENGTH, "sequences": 8, "micro_batches": 2, "chunk": CHUNK}
    cases = [
        (loss, shared | {"dtype": dtype, "checkpointing": checkpointing})
        for loss, dtype, checkpointing in (
            ("reverse_kl", "bfloat16", True),
            ("forward_kl", "float32", False),
            ("policy_gradient", "bfloat16", False),
        )
    ]
    on_ranks(2, _measure_on_ranks, cases, models, tmp_path / "peaks.json")
    for (loss, case), measured in zip(cases, json.loads((tmp_path / "peaks.json").read_text()), strict=True):
        moment, parts = peak(replace(predicted(*models, loss, **case), shards=2))
        assert 0.9 < sum(parts.values()) / measured < 1.1, f"{loss} at {moment}: {parts}"


@pytest.mark.parametrize(
    ("loss", "checkpointing", "family", "dtype", "vocab"),
    [
        ("policy_gradient", False, Qwen3Config, "bfloat16", LARGE_VOCAB),
        ("reverse_kl", True, LlamaConfig, "bfloat16", SMALL_VOCAB),
        ("nll", False, Qwen3Config, "float32", SMALL_VOCAB),
    ],
)
def test_adapters_are_predicted_too(loss, checkpointing, family, dtype, vocab):
    models = config(family, vocab, tied=True), config(family, vocab, tied=True, teacher=True)
    case = {"dtype": dtype, "checkpointing": checkpointing, "length": LENGTH, "sequences": 8}
    case |= {"micro_batches": 2, "chunk": CHUNK}
    lora = LoraConfig(rank=4, alpha=8)
    job = predicted(*models, loss, **case)
    moment, parts = peak(replace(job, adapters=adapter_parameters(job.model, lora.model_dump())))
    ratio = sum(parts.values()) / measured_peak(*models, loss, **case, lora=lora)
    assert 0.9 < ratio < 1.1, f"at {moment}: {parts}"


# The published sizes, billions of parameters.
QWEN3 = {"vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128, "model_type": "qwen3"}
PUBLISHED = {
    "Qwen3-1.7B": (
        1.72,
        {
            **QWEN3,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "tie_word_embeddings": True,
        },
    ),
    "Qwen3-8B": (
        8.19,
        {**QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
    ),
    "Llama-3.1-8B": (
        8.03,
        {
            "vocab_size": 128_256,
            "num_key_value_heads": 8,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "model_type": "llama",
        },
    ),
    "Llama-3.3-70B": (
        70.55,
        {
            "vocab_size": 128_256,
            "num_key_value_heads": 8,
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "model_type": "llama",
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_sizes(name):
    billions, published = PUBLISHED[name]
    assert read_geometry(published, name).parameters / 1e9 == pytest.approx(billions, abs=0.01)


def job(**changes):
    student, teacher = (read_geometry(PUBLISHED[name][1], name) for name in ("Qwen3-1.7B", "Qwen3-8B"))
    micro = MicroBatch(16_384, 16_384, 16_384)
    settings = {"frozen": [teacher], "target": [teacher], "checkpointing": True} | changes
    return Training(student, Precision.of("bfloat16"), micro, ["reverse_kl"], settings.pop("chunk", 512), **settings)


def total(**changes):
    return sum(peak(job(**changes))[1].values())


def test_each_setting_that_saves_memory_is_seen_to_save_it():
    plain = total()
    assert total(chunk=4096) > plain
    assert total(checkpointing=False) > plain
    assert total(shards=8) < plain
    assert total(engine=Engine(job().model, 64, 2048, cached=64)) > plain
    assert total(accumulates=False) < plain
    assert total(offload=True) < plain
    assert total(adapters=job().model.parameters // 100) < plain


def test_logits_do_not_grow_with_the_number_of_tokens_beyond_a_chunk():
    states = 2 * (2048 * 2 + 4096)  # hidden states of both models, and the head's gradient of them in float32
    wide = states + 4 * 2048
    few, many = (
        Training(job().model, job().precision, MicroBatch(n, n, n), ["reverse_kl"], 512, target=job().target)
        for n in (1024, 16_384)
    )
    grown = moments(many)["loss"]["logits"] - moments(few)["loss"]["logits"]
    assert grown == (16_384 - 1024) * wide


def test_shards_divide_what_is_always_there():
    alone, shared = moments(job())["update"], moments(job(shards=4))["update"]
    for part in ("weights", "gradients", "optimiser", "frozen models"):
        assert shared[part] == alone[part] / 4
