"""Stage kind ``train``: a row of the stage table, from its parents' checkpoints to its own."""

from collections.abc import Sequence

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from s2d_core.config.schema import (
    ArithmeticConfig,
    CorpusStage,
    DenseStage,
    ScratchModel,
    SparseStage,
    TrainedStage,
)
from s2d_core.data.dataset import read_split
from s2d_core.data.ledger import LabelLedger
from s2d_core.data.problems import Problem
from s2d_core.data.slices import slice_range
from s2d_core.data.tokens import encode_prompts
from s2d_core.recipe import STAGES, Row
from s2d_core.rollouts import make_engine
from s2d_core.spec import StageResult
from s2d_core.training import checkpoint, parallel
from s2d_core.training.context import Context
from s2d_core.training.loop import train
from s2d_core.training.objectives import Divergence, NextToken, Objective, PolicyGradient
from s2d_core.training.policy import Policy, load_model
from s2d_core.training.prompts import PromptStream
from s2d_core.training.sources import Corpus, PolicyRollouts, Source, TeacherRollouts, VerifierSignal

EXTRA_SETTINGS = ("problems", "engine", "dtype", "scratch", "arithmetic")


def run_row(context: Context) -> StageResult:
    """Train the row ``context.spec.name`` and export its model."""
    settings = context.spec.settings
    row = STAGES[context.spec.name]
    stage = row.config_class.model_validate({k: v for k, v in settings.items() if k not in EXTRA_SETTINGS})
    if row.actor == "corpus":
        assert isinstance(stage, CorpusStage)
        policy, tokenizer, source = _from_scratch(context, stage)
        objective: Objective = NextToken(context.training.logits_chunk)
        result = train(context, stage, policy, source, objective)
    else:
        policy, tokenizer = load_policy(context, "policy"), load_tokenizer(context)
        problems = read_problems(context, settings["problems"])
        source = _rollout_source(context, stage, row, problems, tokenizer)
        result = train(context, stage, policy, source, _objective(context, stage))
        result = result.model_copy(update=_spent(context, stage, problems, row))
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
    stage: TrainedStage,
    row: Row,
    problems: list[Problem],
    tokenizer: PreTrainedTokenizerBase,
) -> Source:
    assert isinstance(stage, SparseStage | DenseStage)
    stream = PromptStream(problems, stage.prompts_per_step, context.seed("prompts"))
    encoded = encode(tokenizer, problems)
    engine = make_engine(
        context.model_path("teacher" if row.actor == "teacher" else "policy"),
        context.rollouts.model_copy(update={"engine": context.spec.settings["engine"]}),
        eos_token_id=tokenizer.eos_token_id,
        dtype=context.spec.settings["dtype"],
        max_length=max(map(len, encoded.values())) + stage.sampling.max_tokens,
    )
    if row.actor == "teacher":
        assert isinstance(stage, DenseStage)
        return TeacherRollouts(context, stage, engine, stream, encoded)
    scorer = None
    if row.spends_labels:
        assert isinstance(stage, SparseStage)
        scorer = VerifierSignal(context, stage, lambda ids: decode(tokenizer, ids), _ledger(context))
    return PolicyRollouts(context, stage, engine, stream, encoded, scorer)


def _objective(context: Context, stage: TrainedStage) -> Objective:
    chunk = context.training.logits_chunk
    if isinstance(stage, SparseStage):
        frozen = load_policy(context, "policy", frozen=True) if stage.policy_gradient.kl_coefficient else None
        return PolicyGradient(stage, chunk, frozen)
    assert isinstance(stage, DenseStage)
    return Divergence(stage, chunk, load_policy(context, "teacher", frozen=True))


def load_policy(context: Context, role: str, frozen: bool = False) -> Policy:
    """The model in ``role``, sharded over the ranks."""
    model = load_model(context.model_path(role), context.spec.settings["dtype"])
    if context.training.activation_checkpointing and not frozen:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = Policy(model.requires_grad_(not frozen)).to(parallel.device())
    return parallel.shard(policy)


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
    policy = parallel.shard(Policy(model).to(parallel.device()))
    corpus = make_corpus(world, stage.steps * stage.sequences_per_step, context.spec.seed)
    return policy, make_tokenizer(), Corpus(corpus, stage.sequences_per_step)


def _ledger(context: Context) -> LabelLedger:
    """The stage's ledger; evaluation problems cannot be charged to it."""
    evaluation = {problem.id for split in ("validation", "test") for problem in read_problems(context, split)}
    return LabelLedger(context.directory / "ledger.jsonl", context.spec.execution["label_budget"], evaluation)


def _spent(context: Context, stage: TrainedStage, problems: list[Problem], row: Row) -> dict[str, int]:
    """Labels looked at and prompts used, for the result."""
    assert isinstance(stage, SparseStage | DenseStage)
    used = len(PromptStream(problems, stage.prompts_per_step, context.seed("prompts")).used(stage.steps))
    if not row.spends_labels:
        return {"prompts": used}
    ledger = _ledger(context)
    return {"prompts": used, "labels": ledger.labels, "label_looks": ledger.looks}
