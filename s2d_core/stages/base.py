"""Stage kind ``base``: a person's own model enters the DAG. Checked, referenced where it is, never copied."""

import time

from s2d_core.config.inputs import ModelConfig
from s2d_core.spec import StageResult
from s2d_core.training.context import Context
from s2d_core.training.model_files import locate_model


def import_base(context: Context) -> StageResult:
    """Reference the model folder. Raises CheckpointError when it is missing, truncated or no causal LM."""
    began = time.perf_counter()
    path = locate_model(ModelConfig.model_validate(context.spec.settings["model"]))
    return StageResult(
        fingerprint=context.spec.fingerprint,
        name=context.spec.name,
        kind="base",
        model=str(path.absolute()),
        seconds=time.perf_counter() - began,
    )
