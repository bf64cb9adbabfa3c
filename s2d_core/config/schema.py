"""The one configuration object. Frozen, typed, and strict: an unknown key or an impossible value is an error.

Recipes are YAML under ``recipes/``; ``compose.py`` merges them with overrides and validates the result here.
Nothing reads environment variables or files for settings after that, secrets aside.
"""

from typing import Literal

from pydantic import Field, model_validator

from s2d_core.config.base import Positive, Strict
from s2d_core.config.inputs import DataConfig, ModelsConfig
from s2d_core.config.stages import ArmConfig, SamplingConfig, StagesConfig


class EvaluationConfig(Strict):
    """avg@k, pass@k and greedy accuracy. Learning rates are chosen on the validation split, claims made on test."""

    split: Literal["test", "validation"] = "test"
    k: Positive = 4
    sampling: SamplingConfig
    pass_k: Positive | None = None  # defaults to k
    seed: int = 1234
    rollouts_shown: int = Field(6, ge=0)


class RolloutsConfig(Strict):
    """Where rollouts come from. ``workers`` 0: the engine lives inside each training worker."""

    engine: Literal["torch", "vllm"] = "torch"
    workers: int = Field(0, ge=0)
    batch_size: Positive = 512  # sequences sampled at once by one engine
    timeout_s: float = Field(600.0, gt=0)
    sync_timeout_s: float = Field(60.0, gt=0)
    max_restarts: int = Field(3, ge=0)


class VerifierConfig(Strict):
    workers: Positive = 1
    timeout_s: float = Field(5.0, gt=0)
    memory_mb: Positive = 2048


class TrainingConfig(Strict):
    """How a stage is executed. Only ``dtype`` can change a result beyond rounding."""

    workers: Positive = 1
    cpus_per_worker: float = Field(1.0, gt=0)
    gpus_per_worker: float = Field(0.0, ge=0)
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


class LaunchConfig(Strict):
    """inproc: this process (tests); ray: the cluster this process attaches to; job: Ray Job Submission."""

    mode: Literal["inproc", "ray", "job"] = "ray"
    address: str = "local"  # ray: "local", "auto" or host:port; job: http://host:port
    cpus: Positive | None = None  # local clusters only; None: all of them
    parallel_stages: Positive = 2
    stage_timeout_s: float = Field(86_400.0, gt=0)
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
    launch: LaunchConfig = LaunchConfig()
    tracking: TrackingConfig = TrackingConfig()
    contrasts: tuple[ContrastConfig, ...] = ()
    allocation: tuple[str, ...] = ()  # arms of the report's allocation curve: the same labels, spent in other places
    gates: GatesConfig = GatesConfig()
    # How many learning rates were tried for an arm, where that was kept count of.
    learning_rate_trials: dict[str, Positive] = Field(default_factory=dict)
