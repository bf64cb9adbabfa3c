"""Three ways to launch a stage from the same spec: in this process, on an attached Ray cluster, as a Ray job."""

from s2d_core.launch.handles import Handle, launch

__all__ = ["Handle", "launch"]
