"""The one configuration object. Frozen, typed, and strict: an unknown key or an impossible value is an error.

Recipes are YAML under ``recipes/``; ``compose.py`` merges them with overrides and validates the result here.
Nothing reads environment variables or files for settings after that, secrets aside.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from s2d_core.data.slices import check_slice

Positive = Annotated[int, Field(ge=1)]
Split = Literal["labelled", "held_out", "unlabelled", "validation", "test"]
ProblemSlice = Annotated[
    str,
    AfterValidator(check_slice),
    Field(description="labelled, held_out, all, or START:STOP: fractions of both in their seeded order, e.g. 0:0.25"),
]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ScratchModel(Strict):
    """Geometry of a Qwen3-architecture model trained from scratch (the small world)."""

    hidden_size: Positive
    layers: Positive
    heads: Positive
    head_dim: Positive
    intermediate_size: Positive


class ModelConfig(Strict):
    """A base model: a local Hugging Face folder or Hub id (``path``), or a geometry to pretrain (``scratch``)."""

    path: str | None = None
    revision: str | None = None
    scratch: ScratchModel | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if (self.path is None) == (self.scratch is None):
            raise ValueError("give exactly one of path (a model folder or Hub id) and scratch (a geometry)")
        return self


class ModelsConfig(Strict):
    teacher: ModelConfig
    student: ModelConfig
    # Seeds cycle over this many independently pretrained pairs (scratch models only).
    pairs: Positive = 3


class SplitSizes(Strict):
    """Problems in each split. ``labelled`` and ``held_out`` are the two halves (1H, 2H) of the label budget."""

    labelled: Positive
    held_out: int = Field(0, ge=0)
    unlabelled: int = Field(0, ge=0)
    validation: int = Field(0, ge=0)
    test: Positive


class ArithmeticConfig(Strict):
    """The small world: chains of operations modulo ``modulus`` (``s2d_core/worlds``)."""

    modulus: int = Field(30, ge=2, le=100)
    min_operations: Positive = 2
    max_operations: Positive = 4
    corpus_min_operations: Positive = 2
    corpus_max_operations: Positive = 4
    # Shares of the imperfect corpus; what is left is worked out correctly.
    guess_share: float = Field(0.25, ge=0, le=1)
    skip_share: float = Field(0.10, ge=0, le=1)
    corrupt_share: float = Field(0.35, ge=0, le=1)
    corrupt_probability: float = Field(0.25, ge=0, le=1)

    @model_validator(mode="after")
    def _possible(self) -> "ArithmeticConfig":
        for low, high in (
            ("min_operations", "max_operations"),
            ("corpus_min_operations", "corpus_max_operations"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} ({getattr(self, low)}) exceeds {high} ({getattr(self, high)})")
        if (total := self.guess_share + self.skip_share + self.corrupt_share) > 1:
            raise ValueError(f"guess_share + skip_share + corrupt_share is {total:g}; at most 1 is allowed")
        return self


class FilesConfig(Strict):
    """A person's own problems, from JSONL, JSON or Parquet files."""

    train: str
    test: str | None = None  # None: the test split is cut from ``train``
    id_field: str | None = None
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    answer_pattern: str | None = None  # regular expression; its first group is the answer
    template: str = "{prompt}"
    chat: bool = False  # render ``template`` as a user turn with the tokenizer's chat template
    enable_thinking: bool = False


class DataConfig(Strict):
    splits: SplitSizes
    arithmetic: ArithmeticConfig | None = None
    files: FilesConfig | None = None
    seed: int = 0

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if (self.arithmetic is None) == (self.files is None):
            raise ValueError("give exactly one of arithmetic (the small world) and files (your own problems)")
        return self


class OptimiserConfig(Strict):
    """AdamW with linear warm-up, then decay to ``final_lr_ratio`` of ``lr`` at the last step."""

    lr: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    warmup_steps: int = Field(5, ge=0)
    decay: Literal["linear", "cosine", "constant"] = "linear"
    final_lr_ratio: float = Field(0.0, ge=0, le=1)


class SamplingConfig(Strict):
    max_tokens: Positive
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)


class PolicyGradientConfig(Strict):
    """GRPO's knobs; formulas in ``losses/policy_gradient.py``."""

    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    normalisation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    scale_by_std: bool = True
    kl_coefficient: float = Field(0.0, ge=0)
    truncated_importance_cap: float | None = Field(2.0, gt=0)  # None: off
    drop_zero_variance: bool = True
    minibatches: Positive = 1  # optimiser updates for each batch of rollouts


class DivergenceConfig(Strict):
    """Dense losses; formulas in ``losses/divergences.py``."""

    kind: Literal["forward_kl", "reverse_kl", "jsd"]
    beta: float = Field(0.5, gt=0, lt=1)  # jsd only
    teacher_temperature: float = Field(1.0, gt=0)
    estimator: Literal["full", "top_k", "sampled_token"] = "full"
    top_k: Positive = 20  # top_k only

    @model_validator(mode="after")
    def _estimable(self) -> "DivergenceConfig":
        if self.estimator == "sampled_token" and self.kind != "reverse_kl":
            raise ValueError("estimator sampled_token estimates the reverse KL; set kind=reverse_kl or estimator=full")
        return self


class TrainedStage(Strict):
    steps: Positive
    optimiser: OptimiserConfig


class CorpusStage(TrainedStage):
    """Next-token training on given sequences: pretraining."""

    sequences_per_step: Positive


class RolloutStage(TrainedStage):
    """Training on rollouts of the row's actor: ``group_size`` of each of ``prompts_per_step`` prompts a step."""

    prompts_per_step: Positive
    group_size: Positive
    sampling: SamplingConfig


class SparseStage(RolloutStage):
    """GRPO with verifier reward. One step looks at ``prompts_per_step`` answers."""

    group_size: int = Field(ge=2)
    policy_gradient: PolicyGradientConfig = PolicyGradientConfig()


class ImitationStage(RolloutStage):
    """Next-token training on the actor's rollouts: hard labels. With a verifier, on the right ones only."""


class DenseStage(RolloutStage):
    """Distillation from the teacher's next-token distribution on rollouts of the row's actor."""

    divergence: DivergenceConfig


class TrekConfig(Strict):
    """TREK (arXiv 2607.05339): only what the student can hardly do, only right proposals, only those near to it."""

    max_pass_rate: float = Field(0.125, ge=0, le=1)
    proposals: Positive = 2  # of each prompt, those to which the student gives the highest mean log-probability


class WarmupStage(DenseStage):
    """On rollouts of the teacher. Weighting and trek need the student's pass rate, so they look at answers."""

    # pass_rate: each prompt by p(1 − p) of the student's pass rate p, to a mean of 1 (PACED)
    weighting: Literal["uniform", "pass_rate"] = "uniform"
    trek: TrekConfig | None = None


class OpdStage(DenseStage):
    """On rollouts of the student. ``delta``: the target's logits are those of the student at the start of the stage
    plus what training changed in the teacher's (arXiv 2610.10460)."""

    target: Literal["teacher", "delta"] = "teacher"


class MixedStage(SparseStage):
    """Both rewards in one update: ``sparse_weight`` · policy gradient + (1 − ``sparse_weight``) · divergence, the λ
    of arXiv 2605.12483 (v1), Eq. 3."""

    sparse_weight: float = Field(gt=0, lt=1)
    divergence: DivergenceConfig
    policy_gradient: PolicyGradientConfig = PolicyGradientConfig(drop_zero_variance=False)

    @model_validator(mode="after")
    def _all_groups(self) -> "MixedStage":
        if self.policy_gradient.drop_zero_variance:
            raise ValueError(
                "policy_gradient.drop_zero_variance = true: the dense half learns from every group; set it to false"
            )
        return self


class StagesConfig(Strict):
    """Settings of each row of the stage table; rows that no arm uses may be left out."""

    pretrain_teacher: CorpusStage | None = None
    pretrain_student: CorpusStage | None = None
    teacher_rl: SparseStage
    warmup: WarmupStage
    opd: OpdStage
    student_rl: SparseStage
    teacher_sft: ImitationStage | None = None
    sft: ImitationStage | None = None
    mixed: MixedStage | None = None


class ArmStage(Strict):
    """One stage of an arm: a row of the stage table, where its prompts come from, and what it overrides."""

    stage: Literal["teacher_rl", "teacher_sft", "warmup", "sft", "opd", "mixed", "student_rl"]
    problems: ProblemSlice = "all"  # sparse rows look at their answers, dense rows read the prompts only
    set: dict[str, Any] = Field(default_factory=dict)  # dotted keys of the stage's configuration


class ArmConfig(Strict):
    """A way from base models to a deployed student."""

    description: str = ""
    # trained: by a stage of the arm. raw: not at all. same_size: trained, from the base student.
    teacher: Literal["trained", "raw", "same_size"] = "trained"
    stages: tuple[ArmStage, ...] = Field(min_length=1)


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
    dtype: Literal["float32", "bfloat16"] = "float32"
    token_budget: Positive = 16_384  # tokens in one micro-batch
    logits_chunk: Positive = 4096  # rows of [tokens, vocab] alive at once
    checkpoint_every: Positive = 20
    checkpoints_kept: Positive = 2
    max_failures: int = Field(3, ge=0)
    activation_checkpointing: bool = False


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
