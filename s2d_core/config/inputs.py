"""Configuration of what a run starts from: models and problems."""

from typing import Literal

from pydantic import Field, model_validator

from s2d_core.config.base import Positive, Strict

Split = Literal["labelled", "held_out", "unlabelled", "validation", "test"]


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
