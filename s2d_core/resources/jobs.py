"""From a plan to what each worker of a stage holds and does: the input of ``memory.py``.

Of base models only ``config.json`` is read. Upper bounds: full micro-batches, sequences as long as they may be.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from s2d_core.config.inputs import ModelConfig, ScratchModel
from s2d_core.config.schema import Config
from s2d_core.plan import Plan
from s2d_core.recipe import STAGES, Row
from s2d_core.resources.geometry import Geometry, read_geometry
from s2d_core.resources.memory import Engine, MicroBatch, Precision, Training
from s2d_core.spec import StageSpec
from s2d_core.training.model_files import read_config


def training_job(config: Config, plan: Plan, spec: StageSpec) -> Training:
    """What a worker of a trained stage does in one step."""
    row, execution = STAGES[spec.name], config.training
    model = geometry(plan, spec)
    target = _target(plan, spec, row, model)
    ahead = target.pop() if spec.settings.get("cache_top_k") else None
    reference = [model] if spec.settings.get("policy_gradient", {}).get("kl_coefficient") else []
    length, sequences = longest(config, spec), -(-sequences_per_step(spec) // execution.workers)
    tokens = max(execution.token_budget, length)
    accumulates = sequences * length > tokens
    if not accumulates:
        tokens = sequences * length
    in_process = row.actor != "corpus" and config.rollouts.workers == 0
    return Training(
        model=model,
        precision=Precision.of(execution.dtype),
        micro=MicroBatch(tokens, tokens, tokens),
        losses=_losses(spec, row),
        chunk=execution.logits_chunk,
        frozen=[*reference, *target],
        target=target,
        ahead=ahead,
        checkpointing=execution.activation_checkpointing,
        accumulates=accumulates,
        shards=execution.workers,
        engine=engine(config, plan, spec, sequences) if in_process else None,
        adapters=adapter_parameters(model, spec.settings.get("lora")),
        offload=execution.offload,
    )


def engine(config: Config, plan: Plan, spec: StageSpec, sequences: int) -> Engine:
    """What samples ``sequences`` for the stage, all at once if they are not too many."""
    rows = min(config.rollouts.batch_size, sequences)
    vllm = config.rollouts.engine == "vllm"
    sleeps = vllm and config.training.gpus_per_worker > 0 and not spec.settings.get("staleness")
    leaves = sleeps or _is_sampled_once(spec)
    return Engine(actor(plan, spec), rows, longest(config, spec), 1 if vllm else rows, leaves)


def actor(plan: Plan, spec: StageSpec) -> Geometry:
    """Geometry of the model that samples."""
    return geometry(plan, plan.specs[spec.inputs["teacher" if _is_sampled_once(spec) else "policy"]])


def _is_sampled_once(spec: StageSpec) -> bool:
    """Whether the teacher samples, before the first update."""
    return spec.kind == "train" and STAGES[spec.name].actor == "teacher"


def sequences_per_step(spec: StageSpec) -> int:
    settings = spec.settings
    return int(settings.get("sequences_per_step") or settings["prompts_per_step"] * settings["group_size"])


def longest(config: Config, spec: StageSpec) -> int:
    """The most tokens a sequence may have; a prompt counts where there is a limit to it."""
    if "sampling" not in spec.settings:
        assert config.data.arithmetic is not None
        return config.data.arithmetic.corpus_tokens
    limit = config.data.files.max_prompt_tokens if config.data.files else config.data.arithmetic.prompt_tokens  # type: ignore[union-attr]
    return int(spec.settings["sampling"]["max_tokens"]) + (limit or 0)


def geometry(plan: Plan, spec: StageSpec) -> Geometry:
    """Of the base model that the stage's policy descends from."""
    while "policy" in spec.inputs:
        spec = plan.specs[spec.inputs["policy"]]
    if "scratch" in spec.settings:
        return base_geometry(ModelConfig(scratch=ScratchModel.model_validate(spec.settings["scratch"])))
    return base_geometry(ModelConfig.model_validate(spec.settings["model"]))


@cache
def base_geometry(model: ModelConfig) -> Geometry:
    """Raises CheckpointError when ``config.json`` cannot be read."""
    return _scratch(model.scratch) if model.scratch else read_geometry(read_config(model), str(model.path))


def _target(plan: Plan, spec: StageSpec, row: Row, model: Geometry) -> list[Geometry]:
    """The frozen models whose hidden states a dense loss reads."""
    if row.signal not in ("teacher", "both"):
        return []
    teacher = geometry(plan, plan.specs[spec.inputs["teacher"]])
    return [teacher, model, teacher] if spec.settings.get("target") == "delta" else [teacher]


def adapter_parameters(model: Geometry, lora: Mapping[str, Any] | None) -> int:
    """Parameters of the adapters in every layer: rank × (width in + width out) of each target."""
    if not lora:
        return 0
    width = {"q_proj": model.queries, "k_proj": model.keys, "v_proj": model.keys, "o_proj": model.queries}
    width |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), model.intermediate)
    return model.layers * int(lora["rank"]) * sum(model.hidden + width[target] for target in lora["targets"])


def _losses(spec: StageSpec, row: Row) -> Sequence[str]:
    if row.loss in ("nll", "policy_gradient"):
        return [row.loss]
    divergence = spec.settings["divergence"]
    dense = divergence["kind"] if divergence["estimator"] == "full" else divergence["estimator"]
    if spec.settings.get("cache_top_k"):
        dense = "stored_top_k"
    return [dense] if row.loss == "divergence" else ["policy_gradient", dense]


def _scratch(model: ScratchModel) -> Geometry:
    """As ``worlds/models.py`` makes it."""
    from s2d_core.worlds.tokenizer import VOCABULARY

    return Geometry(
        hidden=model.hidden_size,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.heads,
        head_dim=model.head_dim,
        intermediate=model.intermediate_size,
        vocab=len(VOCABULARY),
        tied=True,
        head_norms=True,
    )
