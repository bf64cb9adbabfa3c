"""The report's pictures: pure functions of ``report.json`` and ``curves.json``, legible for two arms and for thirty."""

from s2d_core.report.pictures.draw import Picture, draw_all

__all__ = ["Picture", "draw_all"]
