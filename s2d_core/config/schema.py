"""The one configuration object. Frozen, typed, and strict: an unknown key or an impossible value is an error.

Recipes are YAML under ``recipes/``; ``compose.py`` merges them with the site's file and overrides, and validates the
result here.
Nothing reads environment variables or files for settings after that, secrets aside.
"""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from s2d_core.config.base import Positive, Strict
from s2d_core.config.inputs import DataConfig, ModelsConfig
from s2d_core.config.resources import StageResources, WorkersConfig
from s2d_core.config.stages import ArmConfig, SamplingConfig, StagesConfig


class EvaluationConfig(Strict):
    """avg@k, pass@k and greedy accuracy. Learning rates are chosen on the validation split, claims made on test."""

    split: Literal["test", "validation"] = "test"
    k: Positive = 4
    sampling: SamplingConfig
    pass_k: Positive | None = None  # defaults to k
    seed: int = 1234
    rollouts_shown: int = Field(6, ge=0)


class RolloutsConfig(WorkersConfig):
    """Where rollouts come from: ``workers`` engines for all training workers together. 0: one inside each of them."""

    engine: Literal["torch", "vllm"] = "torch"
    workers: int = Field(0, ge=0)
    batch_size: Positive = 512  # sequences sampled at once by one engine
    tensor_parallel: Positive = 1  # devices that hold one vLLM engine's model together
    # How new weights reach the vLLM engines of rollout workers: through the host's memory, or from GPU to GPU, to other
    # GPUs (nccl) or within the one that trainer and engine share (ipc).
    weight_transfer: Literal["host", "nccl", "ipc"] = "host"
    # Of a GPU's memory, what a vLLM engine takes on it: also in the training worker, where it must leave the rest.
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    timeout_s: float = Field(600.0, gt=0)
    sync_timeout_s: float = Field(60.0, gt=0)
    max_restarts: int = Field(3, ge=0)
    # 1: the next step's rollouts are sampled while this one trains, by weights one update old (training/overlap.py),
    # in the stages that bear it (``recipe.bears_staleness``).
    staleness: Literal[0, 1] = 0
    # The teacher's rollouts are drawn by teacher, sampling and seed alone, and kept for every student that reads them.
    share_teacher: bool = False

    @model_validator(mode="after")
    def _someone_to_use_them(self) -> "RolloutsConfig":
        if self.tensor_parallel > 1 and (self.engine != "vllm" or not self.workers):
            raise ValueError(
                f"tensor_parallel = {self.tensor_parallel}: only vLLM engines with rollout workers of their own can be "
                "spread; set engine=vllm and workers to 1 or more, or leave it at 1"
            )
        if self.tensor_parallel > 1 and 0 < self.gpus_per_worker < self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel = {self.tensor_parallel} with gpus_per_worker = {self.gpus_per_worker:g}: an engine "
                "needs as many GPUs; raise gpus_per_worker"
            )
        if self.gpus_per_worker and not self.workers:
            raise ValueError(
                f"gpus_per_worker = {self.gpus_per_worker:g} with workers = 0: the engine is inside the training "
                "worker, on its GPU (training.gpus_per_worker); raise workers, or leave gpus_per_worker at 0"
            )
        return self

    @model_validator(mode="after")
    def _from_gpu_to_gpu(self) -> "RolloutsConfig":
        kind, gpus = self.weight_transfer, self.gpus_per_worker
        if kind != "host" and (self.engine != "vllm" or not self.workers):
            raise ValueError(
                f"weight_transfer = {kind}: only vLLM engines with rollout workers of their own need it; set "
                "engine=vllm and workers to 1 or more, or leave it at host"
            )
        if kind == "nccl" and gpus < 1:
            raise ValueError(
                f"weight_transfer = nccl with gpus_per_worker = {gpus:g}: every rollout worker needs a GPU of its own; "
                "raise gpus_per_worker, or leave weight_transfer at host"
            )
        if kind == "ipc" and not (self.workers == 1 and 0 < gpus < 1):
            raise ValueError(
                f"weight_transfer = ipc with workers = {self.workers} and gpus_per_worker = {gpus:g}: one rollout "
                "worker shares the training worker's GPU; set workers to 1 and gpus_per_worker to its share, or use "
                "nccl"
            )
        return self


class VerifierConfig(Strict):
    workers: Positive = 1
    timeout_s: float = Field(5.0, gt=0)
    memory_mb: Positive = 2048


class TrainingConfig(WorkersConfig):
    """How a stage is executed. Only ``dtype`` can change a result beyond rounding."""

    workers: Positive = 1
    threads: Positive = 1
    # What models compute in. Trained weights, their gradients' sums and the optimiser are float32 in either case: an
    # update of 1e-6 is lost on a bfloat16 weight.
    dtype: Literal["float32", "bfloat16"] = "float32"
    token_budget: Positive = 16_384  # tokens in one micro-batch
    logits_chunk: Positive = 4096  # rows of [tokens, vocab] alive at once
    checkpoint_every: Positive = 20
    checkpoints_kept: Positive = 2
    max_failures: int = Field(3, ge=0)
    activation_checkpointing: bool = False
    offload: bool = False  # trained weights, gradients and optimiser in the host's memory, updated there

    @model_validator(mode="after")
    def _a_device_each(self) -> "TrainingConfig":
        if self.workers > 1 and self.gpus_per_worker % 1:
            raise ValueError(
                f"gpus_per_worker = {self.gpus_per_worker:g} with workers = {self.workers}: training workers cannot "
                "share a GPU; give whole GPUs, or one worker"
            )
        return self


class HardwareConfig(Strict):
    """The accelerators a recipe is meant for. The plan checks memory against it and takes hours from it.

    Shares are assumptions, not measurements: ``training_share`` and ``sampling_share`` of the peak that training and
    sampling reach, ``mean_length`` of a completion over the most tokens it may have, ``reserved`` of the memory, which
    contexts, communication and fragments take.
    """

    device: str
    devices: Positive
    memory_gb: float = Field(gt=0)  # of each, in 10^9 bytes
    peak_tflops: float = Field(gt=0)  # of each: dense, in the dtype of training
    training_share: float = Field(0.4, gt=0, le=1)
    sampling_share: float = Field(0.1, gt=0, le=1)
    mean_length: float = Field(1.0, gt=0, le=1)
    reserved: float = Field(0.1, ge=0, lt=1)


class LaunchConfig(Strict):
    """inproc: this process (tests); ray: the cluster this process attaches to; job: Ray Job Submission."""

    mode: Literal["inproc", "ray", "job"] = "ray"
    address: str = "local"  # ray: "local", "auto" or host:port; job: http://host:port
    cpus: Positive | None = None  # local clusters only; None: all of them
    python: str | None = None  # job only: the nodes' interpreter; None: this process's, at the same path
    parallel_stages: Positive = 2
    stage_timeout_s: float = Field(86_400.0, gt=0)  # from when it has its workers
    retries: int = Field(1, ge=0)


class TrackingConfig(Strict):
    uri: str | None = None  # None: SQLite in the store's folder
    experiment: str = "sparse-to-dense"


class ContrastConfig(Strict):
    """A claim that the report judges when both arms are in the run: the first arm is more accurate than the second."""

    name: str
    arms: tuple[str, str]  # first > second
    # Quantities of ``s2d_core/fairness.py`` or dotted settings that the arms may differ in: what the claim is about.
    differs: tuple[str, ...] = ()
    strict: bool = True  # any other difference is refused before training; false: it is printed in the report
    paper: float | None = None  # difference in arXiv 2605.12483, points
    margin: float | None = None  # points that the difference should reach
    reason: str = ""

    @model_validator(mode="after")
    def _two_arms(self) -> "ContrastConfig":
        if self.arms[0] == self.arms[1]:
            raise ValueError(f"arms {self.arms[0]!r} twice; a contrast compares two arms")
        return self


class GatesConfig(Strict):
    """Conditions of the paper as thresholds; see ``s2d_core/gates.py``."""

    c1_min_gain: float = 0.0  # points of avg@k that RL must gain the teacher
    c2_max_kl: float = Field(2.0, gt=0)  # nats a token, KL(student ‖ teacher) on student rollouts where OPD starts
    on_failure: Literal["warn", "stop"] = "warn"


class Config(Strict):
    """Everything a run needs; ``plan`` turns it into stage specs."""

    name: str
    store: str = "runs"
    # s3://bucket/prefix, gs://bucket/prefix or file:///folder: keeps a copy of every finished stage, and of the newest
    # checkpoint of those that run (s2d_core/mirror.py). Credentials come from the environment.
    mirror: str | None = None
    models: ModelsConfig
    data: DataConfig
    label_budget: Positive | None = None  # None: labelled + held_out
    stages: StagesConfig
    arms: dict[str, ArmConfig] = Field(min_length=1)
    default_arms: tuple[str, ...] | None = None  # what runs when no arms are named; None: all of them
    evaluation: EvaluationConfig
    rollouts: RolloutsConfig = RolloutsConfig()
    verifier: VerifierConfig = VerifierConfig()
    training: TrainingConfig = TrainingConfig()
    resources: dict[str, StageResources] = Field(default_factory=dict)  # stage → its own workers
    launch: LaunchConfig = LaunchConfig()
    hardware: HardwareConfig | None = None  # None: whatever this machine is
    tracking: TrackingConfig = TrackingConfig()
    contrasts: tuple[ContrastConfig, ...] = ()
    allocation: tuple[str, ...] = ()  # arms of the report's allocation curve: the same labels, spent in other places
    gates: GatesConfig = GatesConfig()
    # How many learning rates were tried for each stage of an arm, where that was kept count of (flow ``tune`` does).
    # A recipe whose world is another than that of the recipe it extends sets it to null.
    learning_rate_trials: dict[str, Positive] | None = None

    @field_validator("mirror")
    @classmethod
    def _an_address(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        found = urlsplit(uri)
        if "@" in found.netloc:
            raise ValueError("credentials in an address end in logs and reports; leave them to the environment")
        on_disk = found.scheme == "file" and not found.netloc and found.path.startswith("/")
        in_bucket = found.scheme in ("s3", "gs") and found.netloc
        if not (on_disk or in_bucket):
            raise ValueError(
                "not an address of a mirror; give s3://bucket/prefix, gs://bucket/prefix or file:///folder"
            )
        return uri
