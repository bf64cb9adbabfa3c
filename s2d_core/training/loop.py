"""The one training loop. GRPO, warm-up, distillation and pretraining differ only in source and objective.

    for step in range(start, steps):
        batch = source.batch(step)                  # the actor samples, the signal scores
        for micro in pack(batch, token_budget):
            objective(policy, micro).loss.backward()
        update(optimiser); source.load_weights(policy)

One denominator for each optimiser step, over all ranks and micro-batches: splitting never changes the gradient.
"""

import logging
import math
import time
from contextlib import closing

import torch
from torch import Tensor

from s2d_core.config.stages import TrainedStage
from s2d_core.errors import StageError
from s2d_core.losses import token_weights
from s2d_core.losses.normalisation import Normalisation
from s2d_core.spec import StageResult
from s2d_core.store import CHECKPOINTS
from s2d_core.training import checkpoint, parallel
from s2d_core.training.context import Context, MetricsLog, Stopwatch
from s2d_core.training.objectives import Mixed, Objective, PolicyGradient
from s2d_core.training.optimiser import learning_rate, make_optimiser, update
from s2d_core.training.packing import Example, MicroBatch, deal, pack
from s2d_core.training.policy import Policy
from s2d_core.training.sources import Batch, Source

logger = logging.getLogger(__name__)


def train(context: Context, stage: TrainedStage, policy: Policy, source: Source, objective: Objective) -> StageResult:
    """Run ``stage`` from its newest checkpoint (or from the start) to its last step. Collective over ranks.

    Leaves checkpoints and metrics in the stage directory; the caller exports and commits.
    """
    optimiser = make_optimiser(policy.parameters(), stage.optimiser)
    folder = context.directory / CHECKPOINTS
    start = checkpoint.restore(folder, policy, optimiser)
    saver = context.opened.enter_context(closing(checkpoint.Saver(folder, context.training.checkpoints_kept)))
    log = MetricsLog(context.directory / "metrics.jsonl", start) if parallel.rank() == 0 else None
    policy.train()
    if parallel.rank() == 0:
        logger.info(
            "%s on %d worker(s): %d parameters, steps %d to %d",
            context.spec.id,
            parallel.world_size(),
            parallel.count_parameters(policy),
            start + 1,
            stage.steps,
        )
    if start:
        source.load_weights(parallel.named_weights(policy))
    for step in range(start, stage.steps):
        context.check_cancelled()
        clock, began = Stopwatch(), time.perf_counter()
        batch = source.batch(step, clock)
        with clock("train"):
            sums = _optimise(context, stage, policy, optimiser, objective, batch, step)
        with clock("wait"):  # for what is sampled ahead
            source.settle()
        with clock("sync"):
            source.load_weights(parallel.named_weights(policy))
        metrics = step_metrics(batch.sums | sums, clock.seconds, time.perf_counter() - began)
        metrics = {"step": step + 1, "steps": stage.steps, "lr": _rate(stage, step), **metrics}
        if log:
            log.append(metrics)
        if (step + 1) % context.training.checkpoint_every == 0 or step + 1 == stage.steps:
            source.keep(step + 1)
            saved = saver.save(step + 1, policy, optimiser)
            context.report(metrics, saver.wait() if step + 1 == stage.steps else saved)
    return summary(context, log.read() if log else [])


def _optimise(
    context: Context,
    stage: TrainedStage,
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    objective: Objective,
    batch: Batch,
    step: int,
) -> dict[str, float]:
    """One optimiser update for each mini-batch of ``batch``; returns this rank's sums."""
    minibatches = _minibatches(context, stage, batch.examples)
    old = _old_logprobs(policy, objective, minibatches)
    sums: dict[str, float] = {"updates": 0.0, "grad_norm": 0.0, "tokens_trained": 0.0}
    for micros, olds in zip(minibatches, old, strict=True):
        if not micros:  # no rank has anything to learn from: every group had zero variance
            continue
        for micro, old_logprobs in zip(micros, olds, strict=True):
            output = objective(policy, micro, old_logprobs)
            (output.loss * parallel.gradient_scale()).backward()
            for name, value in {"loss": output.loss, **output.metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.detach().item() / len(minibatches)
            sums["tokens_trained"] += float(len(micro.input_ids))
        norm = update(optimiser, stage.optimiser, _rate(stage, step))
        if not math.isfinite(norm):
            raise StageError(
                f"{context.spec.id}, step {step + 1}: the gradient is not finite; lower optimiser.lr, or use float32"
            )
        # Every rank has the same norm, so it is divided here and summed later.
        sums["grad_norm"] += norm / parallel.world_size() / len(minibatches)
        sums["updates"] += 1.0 / parallel.world_size()
    return sums


def _minibatches(context: Context, stage: TrainedStage, examples: list[Example]) -> list[list[MicroBatch]]:
    """Packed micro-batches of each mini-batch, its sequences dealt anew so that ranks have equally many tokens.

    Every rank gets the same number of them: FSDP is collective.
    """
    settings = getattr(stage, "policy_gradient", None)
    count = settings.minibatches if settings else 1
    normalisation: Normalisation = settings.normalisation if settings else "token_mean"
    max_tokens = stage.sampling.max_tokens if hasattr(stage, "sampling") else 1  # type: ignore[attr-defined]
    size = -(-len(examples) // count)
    result: list[list[MicroBatch]] = []
    for index in range(count):
        shares = parallel.gather(examples[index * size : (index + 1) * size])
        part = [each for share in shares for each in share]
        if not part:
            result.append([])
            continue
        lengths = torch.tensor([len(each.completion_ids) for each in part], dtype=torch.long)
        weights = token_weights(
            lengths,
            normalisation,
            total_tokens=int(lengths.sum()),
            total_sequences=len(part),
            max_tokens=max_tokens,
        ).split(lengths.tolist())
        dealt = deal([len(each) for each in part], context.training.token_budget, parallel.world_size())
        idle = pack([Example([0], [0], [0.0])], [torch.zeros(1)])
        micros = [
            pack([part[i] for i in group], [weights[i] * part[i].weight for i in group]) if group else idle
            for group in dealt[parallel.rank()]
        ]
        result.append([micro.to(parallel.device()) for micro in micros])
    return result


def _old_logprobs(
    policy: Policy, objective: Objective, minibatches: list[list[MicroBatch]]
) -> list[list[Tensor | None]]:
    """Log-probabilities before the first update; with a single update they are the current ones (None)."""
    if len(minibatches) == 1 or not isinstance(objective, PolicyGradient | Mixed):
        return [[None] * len(micros) for micros in minibatches]
    with torch.no_grad():
        return [[objective.logprobs(policy, micro)[0] for micro in micros] for micros in minibatches]


def _rate(stage: TrainedStage, step: int) -> float:
    return learning_rate(stage.optimiser, step, stage.steps)


def step_metrics(sums: dict[str, float], seconds: dict[str, float], total: float) -> dict[str, float]:
    """What a step's line in ``metrics.jsonl`` says, from sums over ranks. Collective."""
    names = sorted(set().union(*parallel.gather(set(sums))))
    values = parallel.all_sum([sums.get(name, 0.0) for name in names], parallel.device())
    metrics = dict(zip(names, values, strict=True))
    rollouts, groups = metrics.pop("rollouts", 0.0), metrics.pop("groups", 0.0)
    if rollouts:
        metrics["completion_length"] = metrics.pop("completion_tokens") / rollouts
        for name in ("truncated", "reward", "malformed", "timeout", "staleness"):
            if name in metrics:
                metrics[name] /= rollouts
    if groups:
        metrics["zero_variance_groups"] /= groups
    for part, spent in seconds.items():
        metrics[f"seconds_{part}"] = spent
    metrics["seconds"] = total
    metrics["tokens_per_second"] = metrics["tokens_trained"] / total
    if sampled := metrics.get("tokens_sampled"):
        metrics["sampled_per_second"] = sampled / max(seconds.get("sample", total), 1e-9)
    return metrics


TIMES = ("seconds", "_per_second")


def summary(context: Context, lines: list[dict[str, float]]) -> StageResult:
    """The stage's result from its metrics: the last step's values, totals of tokens and seconds."""
    last = lines[-1] if lines else {}
    metrics = {
        name: value
        for name, value in last.items()
        if not any(part in name for part in TIMES) and name not in ("step", "tokens_sampled", "tokens_trained")
    }
    seconds = sum(line["seconds"] for line in lines)
    return StageResult(
        fingerprint=context.spec.fingerprint,
        name=context.spec.name,
        kind=context.spec.kind,
        model="model",
        metrics=metrics,
        tokens={kind: int(sum(line.get(f"tokens_{kind}", 0.0) for line in lines)) for kind in ("sampled", "trained")},
        seconds=seconds,
        device_seconds=seconds * parallel.world_size(),
    )
