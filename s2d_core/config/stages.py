"""Configuration of the stage table's rows and of the arms, which are lists of them."""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from s2d_core.config.base import Positive, Strict, later
from s2d_core.data.slices import check_slice

ProblemSlice = Annotated[
    str,
    AfterValidator(check_slice),
    Field(description="labelled, held_out, all, or START:STOP: fractions of both in their seeded order, e.g. 0:0.25"),
]


Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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
    # Tokens of all completions of a prompt together; those still running when they are used up are cut off.
    group_tokens: Positive | None = later(None)


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
    # Rounds of further prompts for groups whose rewards are all equal (dynamic sampling); each look is charged.
    refill_rounds: int = later(0, ge=0)

    @model_validator(mode="after")
    def _refillable(self) -> "PolicyGradientConfig":
        if self.refill_rounds and not self.drop_zero_variance:
            raise ValueError("refill_rounds replaces the groups that are dropped; set drop_zero_variance=true")
        return self


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


class LoraConfig(Strict):
    """Train low-rank adapters (arXiv 2106.09685) instead of the weights; the result is exported merged."""

    rank: Positive = 32
    alpha: Positive = 64
    targets: tuple[Projection, ...] = Field(get_args(Projection), min_length=1)


class RolloutStage(TrainedStage):
    """Training on rollouts of the row's actor: ``group_size`` of each of ``prompts_per_step`` prompts a step."""

    prompts_per_step: Positive
    group_size: Positive
    sampling: SamplingConfig
    # Left out where there is none, so that fingerprints of stages without it stay as they were.
    lora: LoraConfig | None = Field(None, exclude_if=lambda lora: lora is None)


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
    # The teacher's top_k at each token lie beside its rollouts, and no teacher is in memory while the student trains.
    cache_top_k: bool = later(False)

    @model_validator(mode="after")
    def _cacheable(self) -> "WarmupStage":
        if self.cache_top_k and self.divergence.estimator != "top_k":
            raise ValueError(
                f"cache_top_k with divergence.estimator = {self.divergence.estimator}: only the teacher's likeliest "
                "tokens are stored; set divergence.estimator=top_k, or leave cache_top_k at false"
            )
        return self


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
