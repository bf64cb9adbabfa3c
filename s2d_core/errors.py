"""Errors a person can act on: each message says what was wrong, which value, what is allowed, what to do."""


class S2DError(Exception):
    """Base of every error this project raises on purpose; its text is shown to the user without a traceback."""


class ConfigError(S2DError):
    """A configuration key, value or combination is not allowed."""


class FairnessError(ConfigError):
    """Two arms of a contrast differ in something that the contrast does not name."""


class GateError(S2DError):
    """A condition does not hold where a stage would start, and the recipe says to stop."""


class DataError(S2DError):
    """A dataset, label file or tokenizer cannot be used as given."""


class CheckpointError(S2DError):
    """A model folder or checkpoint is missing, truncated or of the wrong kind."""


class ResourceError(S2DError):
    """Not enough disk, memory, processors or accelerators for the run, or a cluster that does not answer."""


class LabelBudgetError(S2DError):
    """A stage tried to look at an answer it has no label for."""


class RolloutError(S2DError):
    """A rollout worker died too often or did not answer in time; names the worker."""


class StageError(S2DError):
    """A stage ended without a result; names the stage and where its log is."""
