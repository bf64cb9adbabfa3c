"""The losses are imported with shape and type checking on: every call in these tests checks the annotations too."""

import sys

import pytest
import torch
from jaxtyping import install_import_hook

# Another test module may have imported the losses unchecked by now.
for name in [name for name in sys.modules if name.startswith("s2d_core.losses")]:
    del sys.modules[name]
with install_import_hook("s2d_core.losses", "beartype.beartype"):
    import s2d_core.losses  # noqa: F401


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
