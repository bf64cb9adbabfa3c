"""Stage kind ``train``: a row of the stage table, from its parents' checkpoints to its own."""

from collections.abc import Sequence
from contextlib import closing
from functools import partial

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from s2d_core.config.inputs import ArithmeticConfig, ScratchModel
from s2d_core.config.stages import (
    CorpusStage,
    DenseStage,
    DivergenceConfig,
    MixedStage,
    OpdStage,
    RolloutStage,
    SparseStage,
    TrainedStage,
    WarmupStage,
)
from s2d_core.data.dataset import read_split
from s2d_core.data.ledger import LabelLedger
from s2d_core.data.problems import Problem
from s2d_core.data.slices import slice_range
from s2d_core.data.tokens import encode_prompts
from s2d_core.recipe import STAGES, Row, spends_labels
from s2d_core.rollouts.types import Engine, Request, Rollout
from s2d_core.spec import StageResult
from s2d_core.training import checkpoint, parallel
from s2d_core.training.context import Context
from s2d_core.training.curation import BEFORE, hard_problems, nearest, pass_rate_weights, pass_rates, right_ones
from s2d_core.training.loop import train
from s2d_core.training.lora import adapt
from s2d_core.training.objectives import Divergence, Mixed, NextToken, Objective, PolicyGradient, StoredDivergence
from s2d_core.training.policy import Policy, load_model
from s2d_core.training.prompts import PromptStream
from s2d_core.training.shared_engine import open_engine
from s2d_core.training.sources import Corpus, PolicyRollouts, Source, TeacherRollouts, sampling
from s2d_core.training.teacher_cache import TeacherTopK
from s2d_core.training.verified import Grader, VerifierSignal

EXTRA_SETTINGS = ("problems", "engine", "dtype", "weights", "scratch", "arithmetic", "staleness", "share_teacher")


def run_row(context: Context) -> StageResult:
    """Train the row ``context.spec.name`` and export its model."""
    settings = context.spec.settings
    row = STAGES[context.spec.name]
    stage = row.config.model_validate({k: v for k, v in settings.items() if k not in EXTRA_SETTINGS})
    if isinstance(stage, CorpusStage):
        policy, tokenizer, source = _from_scratch(context, stage)
        result = train(context, stage, policy, source, _objective(context, stage))
    else:
        assert isinstance(stage, RolloutStage)
        policy, tokenizer = _policy(context, stage), load_tokenizer(context)
        problems = read_problems(context, settings["problems"])
        source = _rollout_source(context, stage, row, problems, tokenizer)
        result = train(context, stage, policy, source, _objective(context, stage))
        result = result.model_copy(update=_spent(context, stage, problems))
    checkpoint.export(context.directory / "model", policy, tokenizer)
    return result


def read_problems(context: Context, which: str) -> list[Problem]:
    """The problems of a slice of the labelled pool (``labelled``, ``all``, ``0:0.25``, ...) or of any other split."""
    directory, _ = context.parent("data")
    if which in ("unlabelled", "validation", "test"):
        return read_split(directory / "dataset", which)
    labelled, held_out = (read_split(directory / "dataset", split) for split in ("labelled", "held_out"))
    span = slice_range(which, len(labelled), len(held_out))
    return [*labelled, *held_out][span.start : span.stop]


def encode(tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> dict[str, tuple[int, ...]]:
    """Problem id → token ids of its prompt."""
    ids = encode_prompts(tokenizer, problems)
    return {problem.id: tokens for problem, tokens in zip(problems, ids, strict=True)}


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of a completion, special tokens left out."""
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _rollout_source(
    context: Context,
    stage: RolloutStage,
    row: Row,
    problems: list[Problem],
    tokenizer: PreTrainedTokenizerBase,
) -> Source:
    encoded = encode(tokenizer, problems)
    if row.actor == "teacher":
        return _teacher_rollouts(context, stage, row, problems, tokenizer, encoded)
    engine = context.opened.enter_context(closing(_engine(context, "policy", stage, tokenizer, encoded)))
    scorer = None
    if isinstance(stage, SparseStage):
        scorer = VerifierSignal(stage, _grader(context, tokenizer))
    stream = PromptStream(problems, stage.prompts_per_step, context.seed("prompts"))
    return PolicyRollouts(context, stage, engine, stream, encoded, scorer)


def _teacher_rollouts(
    context: Context,
    stage: RolloutStage,
    row: Row,
    problems: list[Problem],
    tokenizer: PreTrainedTokenizerBase,
    encoded: dict[str, tuple[int, ...]],
) -> Source:
    """The teacher's rollouts; which of them, and how much of each, where the stage says so."""
    weights: dict[str, float] = {}
    trek = stage.trek if isinstance(stage, WarmupStage) else None
    weighted = isinstance(stage, WarmupStage) and stage.weighting == "pass_rate"
    grader = _grader(context, tokenizer) if spends_labels(context.spec.name, context.spec.settings) else None
    if grader and (trek or weighted):
        wanted = [Request(p.id, encoded[p.id], context.seed("pass_rate", p.id)) for p in problems]
        with closing(_engine(context, "policy", stage, tokenizer, encoded)) as student:
            rates = pass_rates(student, grader, problems, wanted, sampling(stage.sampling, stage.group_size))
        weights = pass_rate_weights(rates) if weighted else {}
        problems = hard_problems(problems, rates, trek.max_pass_rate) if trek else problems
    stream = PromptStream(problems, min(stage.prompts_per_step, len(problems)), context.seed("prompts"))

    def verified(problems: Sequence[Problem], groups: list[list[Rollout]]) -> list[list[Rollout]]:
        assert grader is not None
        groups = right_ones(grader, problems, groups)
        if trek:
            near = load_frozen(context, "policy")
            groups = nearest(near, groups, trek.proposals, context.training.token_budget)
        return groups

    curate = verified if grader and (trek or row.signal == "verifier") else None
    if grader and curate:
        grader.charge(stream.used(stage.steps), step=BEFORE)
    top_k = _teacher_top_k(context, stage) if isinstance(stage, WarmupStage) and stage.cache_top_k else None
    engine = _engine(context, "teacher", stage, tokenizer, encoded, at_once=False)
    context.opened.enter_context(closing(engine))
    return TeacherRollouts(context, stage, engine, stream, encoded, curate, weights, top_k)


def _teacher_top_k(context: Context, stage: WarmupStage) -> TeacherTopK:
    vocab = AutoConfig.from_pretrained(context.model_path("policy"), trust_remote_code=False).vocab_size
    budget, chunk = context.training.token_budget, context.training.logits_chunk
    return TeacherTopK(partial(load_frozen, context, "teacher"), stage.divergence.top_k, vocab, budget, chunk)


def _engine(
    context: Context,
    role: str,
    stage: RolloutStage,
    tokenizer: PreTrainedTokenizerBase,
    encoded: dict[str, tuple[int, ...]],
    at_once: bool = True,
) -> Engine:
    length = max(map(len, encoded.values())) + stage.sampling.max_tokens
    return open_engine(context, role, eos_token_id=tokenizer.eos_token_id, max_length=length, at_once=at_once)


def _grader(context: Context, tokenizer: PreTrainedTokenizerBase) -> Grader:
    grader = Grader(context, lambda ids: decode(tokenizer, ids), _ledger(context))
    return context.opened.enter_context(closing(grader))


def _objective(context: Context, stage: TrainedStage) -> Objective:
    chunk = context.training.logits_chunk
    if isinstance(stage, MixedStage):
        return Mixed(_sparse(context, stage), _dense(context, stage.divergence), stage.sparse_weight)
    if isinstance(stage, SparseStage):
        return _sparse(context, stage)
    if isinstance(stage, WarmupStage) and stage.cache_top_k:
        return StoredDivergence(stage.divergence, chunk)
    if isinstance(stage, DenseStage):
        return _dense(context, stage.divergence, delta=isinstance(stage, OpdStage) and stage.target == "delta")
    return NextToken(chunk)


def _sparse(context: Context, stage: SparseStage) -> PolicyGradient:
    frozen = load_frozen(context, "policy") if stage.policy_gradient.kl_coefficient else None
    return PolicyGradient(stage, context.training.logits_chunk, frozen)


def _dense(context: Context, config: DivergenceConfig, delta: bool = False) -> Divergence:
    """``delta``: the target's logits are those of the starting policy + the teacher − the untrained teacher."""
    target = [(load_frozen(context, "teacher"), 1.0)]
    if delta:
        target += [(load_frozen(context, "policy"), 1.0)]
        target += [(load_frozen(context, "raw_teacher"), -1.0)]
    return Divergence(config, context.training.logits_chunk, target)


def load_frozen(context: Context, role: str) -> Policy:
    """The model in ``role``, to be read only, sharded over the ranks."""
    model = load_model(context.model_path(role), context.spec.settings["dtype"]).requires_grad_(False)
    return parallel.shard(Policy(model).to(parallel.device()))


def _policy(context: Context, stage: RolloutStage) -> Policy:
    """The model that is trained. Weights that adapters leave frozen are held in what they are computed in."""
    path, dtype = context.model_path("policy"), context.spec.settings["dtype"]
    if stage.lora:
        return _trained(context, adapt(load_model(path, dtype), stage.lora, context.seed("lora")))
    return _trained(context, load_model(path, "float32"))


def _trained(context: Context, model: PreTrainedModel) -> Policy:
    """``model``, whose trained weights are float32, computing in the stage's dtype, sharded over the ranks."""
    training = context.training
    if training.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = Policy(model, getattr(torch, context.spec.settings["dtype"])).to(parallel.device())
    if (parallel.is_mixed(policy) or training.offload) and parallel.join_alone():
        context.opened.callback(parallel.leave)
    return parallel.shard(policy, training.offload)


def load_tokenizer(context: Context) -> PreTrainedTokenizerBase:
    """The tokenizer that lies with the policy's weights."""
    return AutoTokenizer.from_pretrained(context.model_path("policy"), trust_remote_code=False)


def _from_scratch(context: Context, stage: CorpusStage) -> tuple[Policy, PreTrainedTokenizerBase, Source]:
    from s2d_core.worlds.corpus import make_corpus
    from s2d_core.worlds.models import make_model
    from s2d_core.worlds.tokenizer import make_tokenizer

    settings = context.spec.settings
    world = ArithmeticConfig.model_validate(settings["arithmetic"])
    model = make_model(ScratchModel.model_validate(settings["scratch"]), context.spec.seed)
    policy = _trained(context, model)
    corpus = make_corpus(world, stage.steps * stage.sequences_per_step, context.spec.seed)
    return policy, make_tokenizer(), Corpus(corpus, stage.sequences_per_step)


def _ledger(context: Context) -> LabelLedger:
    """The stage's ledger; evaluation problems cannot be charged to it."""
    evaluation = {problem.id for split in ("validation", "test") for problem in read_problems(context, split)}
    return LabelLedger(context.directory / "ledger.jsonl", context.spec.execution["label_budget"], evaluation)


def _spent(context: Context, stage: RolloutStage, problems: list[Problem]) -> dict[str, int]:
    """Labels looked at and prompts used, for the result."""
    used = len(PromptStream(problems, stage.prompts_per_step, context.seed("prompts")).used(stage.steps))
    if not spends_labels(context.spec.name, context.spec.settings):
        return {"prompts": used}
    ledger = _ledger(context)
    return {"prompts": max(used, ledger.labels), "labels": ledger.labels, "label_looks": ledger.looks}
