"""Memory of one training worker, by part, at each of the moments where it can peak. Formulas, derived from the code.

What is always there: the trained model's weights and AdamW's moments, frozen models, an engine that lives in this
process and samples in every step. What comes and goes is counted at these moments of a step, for one full micro-batch:

    sample      the engine's KV cache and logits; and its weights, if it sleeps at all other moments
    teacher     a frozen model reads the micro-batch
    store       the logits of a frozen model whose likeliest tokens are stored
    loss        the policy has read it: saved activations, and logits of a chunk (``losses/chunking.py``)
    head        the head's gradient, which the losses keep in float32, is scaled and cast
    layers      the first layer of the backward pass; with checkpointing its activations are computed again
    embedding   all gradients, and that of the input embedding on its own
    update      all gradients

An engine or a frozen model that is gone before the first update counts in its own moments alone.

Widths in elements, ``Precision`` in bytes. Sharding (FSDP2) divides what is always there by the number of workers; the
embedding, the head and two layers are whole while they are used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from s2d_core.resources.geometry import Geometry

FLOAT32 = 4
# Tensors of [chunk, vocab] in float32 that are alive at once while a loss visits a chunk, its own gradient included.
LOGITS = {
    "nll": 5.0,
    "policy_gradient": 4.0,
    "forward_kl": 8.25,  # the quarter is a mask of one byte a number
    "reverse_kl": 9.25,
    "jsd": 13.5,
    "top_k": 6.0,
    "stored_top_k": 5.0,
    "top_k_logprobs": 2.0,
    "sampled_token": 6.0,
}
RECOMPUTED = ("policy_gradient",)  # losses whose logits are made again in the backward pass


@dataclass(frozen=True)
class Precision:
    """Bytes of a number: of trained weights, of their gradients and moments, and of what layers compute in."""

    weights: int
    gradients: int
    moments: int
    compute: int

    @classmethod
    def of(cls, dtype: str) -> "Precision":
        """Layers compute in ``dtype``; what is trained is held in float32."""
        return cls(FLOAT32, FLOAT32, FLOAT32, {"float32": FLOAT32, "bfloat16": 2}[dtype])


@dataclass(frozen=True)
class MicroBatch:
    """tokens: packed; predictions: positions that reach the loss; padded: sequences × longest, attention's own view."""

    tokens: int
    predictions: int
    padded: int


@dataclass(frozen=True)
class Engine:
    """An engine in the training worker's own process: ``rows`` sequences of up to ``length`` tokens at once.

    cached: of how many the keys and values must have room; an engine that can let sequences wait needs one. leaves: it
    gives its memory up while the worker trains, asleep or gone.
    """

    model: Geometry
    rows: int
    length: int
    cached: int
    leaves: bool = False


@dataclass(frozen=True)
class Training:
    """What a worker does in one step. losses: keys of ``LOGITS``, one or two from one pass.

    target: those of ``frozen`` whose hidden states the loss reads; ahead: a frozen model whose likeliest tokens are
    stored before the first update, and which is then gone; accumulates: whether a step has several
    micro-batches; shards: workers that share the models; adapters: parameters beside the model, trained instead of it;
    offload: what is trained, its gradients and moments are in the host's memory.
    """

    model: Geometry
    precision: Precision
    micro: MicroBatch
    losses: Sequence[str]
    chunk: int
    frozen: Sequence[Geometry] = ()
    target: Sequence[Geometry] = ()
    ahead: Geometry | None = None
    checkpointing: bool = False
    accumulates: bool = True
    shards: int = 1
    engine: Engine | None = None
    adapters: int = 0
    offload: bool = False

    @property
    def wrapped(self) -> bool:
        """Whether FSDP gathers what is used: a single worker needs it to compute in another dtype, or to offload."""
        mixed = self.precision.compute < self.precision.weights
        return self.shards > 1 or mixed or self.offload


Parts = dict[str, float]  # bytes


def moments(job: Training) -> dict[str, Parts]:
    """Bytes by part at each moment of the module's table."""
    precision = job.precision
    here = 0.0 if job.offload else 1 / job.shards
    trained, base = (job.adapters, job.model.parameters) if job.adapters else (job.model.parameters, 0)
    gradients = trained * here * precision.gradients
    always = {
        "weights": (trained * precision.weights + base * precision.compute) * here,
        "optimiser": 2 * trained * here * precision.moments,
        "frozen models": sum(each.parameters for each in job.frozen) * precision.compute / job.shards,
        "engine": 0.0 if job.engine is None or job.engine.leaves else engine_weights(job.engine, precision),
    }
    held = {"gradients": gradients if job.accumulates else 0.0}
    saved = {"activations": saved_activations(job)}
    head = _head(job) * precision.compute
    waiting = head if job.model.tied or not job.accumulates else 0.0  # a tied head's waits for the embedding's
    found: dict[str, Parts] = {
        "loss": held | saved | _loss(job),
        "head": held | saved | {"logits": _head_backward(job)},
        "layers": held | {"activations": saved["activations"] + _layer_backward(job), "logits": waiting},
        "embedding": {"gradients": gradients, "logits": head * (2 if job.model.tied else 1)},
        "update": {"gradients": gradients},
    }
    if job.frozen:
        reading = max(_reading(each, job.micro, precision) for each in job.frozen)
        found["teacher"] = held | {"activations": reading}
    if job.ahead:
        found |= _ahead(job, job.ahead)
    if job.engine:
        found["sample"] = {"engine": engine_weights(job.engine, precision), **sampling(job.engine, precision)}
    gathered = {"gathered": _gathered(job)} if job.wrapped else {}
    return {name: always | parts | gathered for name, parts in found.items()}


def peak(job: Training) -> tuple[str, Parts]:
    """The moment with the most bytes, and its parts."""
    return max(moments(job).items(), key=lambda item: sum(item[1].values()))


def engine_weights(engine: Engine, precision: Precision) -> float:
    """Bytes of the model that samples."""
    return float(engine.model.parameters * precision.compute)


def saved_activations(job: Training) -> float:
    """What the backward pass needs of the layers; with checkpointing their inputs alone."""
    tokens, compute = job.micro.tokens, job.precision.compute
    last_norm = tokens * job.model.hidden * (FLOAT32 + compute)
    if job.checkpointing:
        return job.model.layers * tokens * job.model.hidden * compute + last_norm
    return job.model.layers * _layer_activations(job) + last_norm


def _layer_activations(job: Training) -> float:
    """Saved by one layer, operation by operation.

    Feed-forward: gate, its activation, up, their product. A norm: its input in float32, the normalised one, its output.
    Queries, keys and values: before the scatter into the padded view and in it; attention's output likewise. Norms that
    are not trained do not save the normalised one.
    """
    model, micro, size = job.model, job.micro, job.precision.compute
    normalised = 0 if job.adapters else size
    token = 4 * model.intermediate * size
    token += 2 * model.hidden * (FLOAT32 + size + normalised)
    token += 2 * (model.queries + model.keys) * size
    if model.head_norms:
        token += (model.queries + model.keys) * (FLOAT32 + normalised) + (model.heads + model.kv_heads) * FLOAT32
    padded = 2 * (model.queries + model.keys) * size + model.heads * FLOAT32
    return micro.tokens * token + micro.padded * padded


def _layer_backward(job: Training) -> float:
    """Beyond what is saved: gradients on the way through a feed-forward block, and of its largest weight if trained."""
    model, size = job.model, job.precision.compute
    largest = 0 if job.adapters else model.intermediate * model.hidden
    gradients = job.micro.tokens * 2 * (model.intermediate + model.hidden) * size
    again = _layer_activations(job) if job.checkpointing else 0.0
    return again + gradients + largest * size


def _loss(job: Training) -> Parts:
    """Hidden states on both sides, the heads in float32, the head's gradient, and the logits of a chunk."""
    micro, precision = job.micro, job.precision
    states = micro.tokens * job.model.hidden * precision.compute
    states += micro.predictions * (job.model.hidden + _width(job.target)) * precision.compute
    heads = 0.0
    if precision.compute < FLOAT32:
        heads = job.model.embedding * FLOAT32 + _target_head(job) * FLOAT32
    if len(job.target) > 1:  # their heads side by side
        heads += _target_head(job) * precision.compute
    gradient = (_head(job) + micro.predictions * job.model.hidden) * FLOAT32 if _keeps(job) else 0.0
    return {"logits": states + heads + gradient + max((LOGITS[loss] for loss in job.losses), default=0.0) * _chunk(job)}


def _head_backward(job: Training) -> float:
    model, compute = job.model, job.precision.compute
    cast = _head(job) * compute if compute < FLOAT32 else 0.0
    found = 0.0
    states = (job.micro.tokens + job.micro.predictions) * model.hidden * compute
    if _keeps(job):
        found = 2 * _head(job) * FLOAT32 + cast + job.micro.predictions * model.hidden * (FLOAT32 + compute)
    if any(loss in RECOMPUTED for loss in job.losses):
        wide = model.embedding * FLOAT32 if compute < FLOAT32 else 0.0
        again = wide + _head(job) * FLOAT32 + LOGITS["policy_gradient"] * _chunk(job)
        found = max(found, again + job.micro.predictions * model.hidden * FLOAT32)
    return found + states


def _reading(model: Geometry, micro: MicroBatch, precision: Precision) -> float:
    """A forward pass without gradients: one layer's work beside the embedded tokens and their rotary angles."""
    size = precision.compute
    feed_forward = micro.tokens * (3 * model.intermediate + 4 * model.hidden + 2 * model.head_dim) * size
    attention = micro.tokens * (4 * model.hidden + 2 * model.head_dim + 2 * (model.queries + model.keys)) * size
    attention += micro.padded * 2 * (model.queries + model.keys) * size
    return max(feed_forward, attention)


def _ahead(job: Training, teacher: Geometry) -> dict[str, Parts]:
    """The model with what is gathered of it, and its work on a micro-batch: layers, then the logits of a chunk."""
    compute, micro = job.precision.compute, job.micro
    gathered = teacher.root_parameters if job.shards > 1 else 0
    weights = {"frozen models": (teacher.parameters / job.shards + gathered) * compute}
    head = min(job.model.vocab, teacher.vocab) * teacher.hidden * FLOAT32 if compute < FLOAT32 else 0.0
    states = (micro.tokens + micro.predictions) * teacher.hidden * compute
    return {
        "teacher": weights | {"activations": _reading(teacher, micro, job.precision)},
        "store": weights | {"logits": states + head + LOGITS["top_k_logprobs"] * _chunk(job)},
    }


def sampling(engine: Engine, precision: Precision) -> Parts:
    """Keys and values of every running sequence, those of one layer twice as they grow, and logits in float32 with
    their cumulated probabilities in float64."""
    model = engine.model
    cache = engine.cached * engine.length * 2 * model.keys * precision.compute * (model.layers + 1)
    return {"KV cache": cache, "logits": engine.rows * model.vocab * (3 * FLOAT32 + 2 * 8)}


def _gathered(job: Training) -> float:
    """Whole weights while they are used: embedding and head of each model, two of the policy's layers and, of what is
    trained, their gradients."""
    roots = sum(each.root_parameters for each in (job.model, *(job.frozen if job.shards > 1 else ())))
    return (roots + (2 if job.adapters else 4) * job.model.layer_parameters) * job.precision.compute


def _keeps(job: Training) -> bool:
    """Whether a loss computes its gradients in the forward pass and keeps them."""
    return any(loss not in RECOMPUTED for loss in job.losses)


def _head(job: Training) -> int:
    """Parameters of a head that has a gradient."""
    return 0 if job.adapters else job.model.embedding


def _chunk(job: Training) -> float:
    return min(job.chunk, job.micro.predictions) * job.model.vocab * FLOAT32


def _width(models: Sequence[Geometry]) -> int:
    return sum(each.hidden for each in models)


def _target_head(job: Training) -> int:
    vocab = min((each.vocab for each in (job.model, *job.target)), default=0)
    return vocab * _width(job.target)
