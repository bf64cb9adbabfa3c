"""The shapes in the losses' signatures are checked while these tests run."""

import sys

from jaxtyping import install_import_hook

if not any(name.startswith("s2d_core.losses") for name in sys.modules):
    install_import_hook("s2d_core.losses", "beartype.beartype")
