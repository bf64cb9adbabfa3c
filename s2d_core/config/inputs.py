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

    @property
    def prompt_tokens(self) -> int:
        """Of the longest prompt: BOS, a number, each operation's sign and digit, and what asks for the answer."""
        return 3 + 2 * self.max_operations

    @property
    def corpus_tokens(self) -> int:
        """Of the longest sequence: such a prompt, each operation again with the value after it, the box and EOS."""
        return 7 + 5 * self.corpus_max_operations

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


class MappingConfig(Strict):
    """Where in a row the problem is. Names may be dotted; of a pattern's last match the first group counts."""

    id_field: str | None = None
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    answer_pattern: str | None = None
    prompt_pattern: str | None = None  # what is around the problem's own text is left out


class SourceConfig(MappingConfig):
    """Problems in a JSONL, JSON or Parquet file, or in a data set: a folder, or an id on the Hub.

    subset, split, revision: of a data set, and of no effect on a file.
    """

    path: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None


class FilesConfig(MappingConfig):
    """A person's own problems. The mapping here is for sources that are given as a path alone."""

    train: str | SourceConfig
    test: str | SourceConfig | None = None  # None: the test split is cut from ``train``
    # Several test sets, by name, in place of ``test``; ids begin with the set's name.
    tests: dict[str, SourceConfig] = Field(default_factory=dict, exclude_if=lambda tests: not tests)
    max_prompt_tokens: Positive | None = None  # longer prompts are refused
    template: str = "{prompt}"
    chat: bool = False  # render ``template`` as a user turn with the tokenizer's chat template
    enable_thinking: bool = False

    @model_validator(mode="after")
    def _one_kind_of_test(self) -> "FilesConfig":
        if self.test is not None and self.tests:
            raise ValueError("give test (one set) or tests (several, by name), not both")
        return self

    def source(self, given: str | SourceConfig) -> SourceConfig:
        """``given`` with its mapping."""
        if isinstance(given, SourceConfig):
            return given
        return SourceConfig(path=given, **{name: getattr(self, name) for name in MappingConfig.model_fields})

    @property
    def test_sources(self) -> dict[str, SourceConfig]:
        """Every test set by name; a single one is called ``test``."""
        return dict(self.tests) or ({"test": self.source(self.test)} if self.test else {})


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
