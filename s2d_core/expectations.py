"""What a run is expected to find, as a gate for continuous integration: contrast → verdict. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from s2d_core.config.schema import Config
from s2d_core.errors import ConfigError
from s2d_core.evaluation.comparison import Verdict


def check_expectations(config: Config, arms: Sequence[str], expect: Mapping[str, Verdict]) -> None:
    """Raises ConfigError naming each contrast of ``expect`` that a run of ``arms`` cannot judge."""
    contrasts = {contrast.name: contrast for contrast in config.contrasts}
    problems = []
    for name in expect:
        if name not in contrasts:
            allowed = ", ".join(map(repr, contrasts)) or "none, the recipe has no contrasts"
            problems.append(f"expect = {name!r}: unknown contrast; allowed: {allowed}")
        elif missing := [arm for arm in contrasts[name].arms if arm not in arms]:
            problems.append(f"expect = {name!r}: the run lacks {', '.join(missing)}; add to arms or do not expect it")
    if problems:
        raise ConfigError("\n".join(problems))


def unmet(data: Mapping[str, Any], expect: Mapping[str, Verdict]) -> list[str]:
    """A line for each expectation that a report's data (``report.json``) does not meet; differences in points."""
    found = {contrast["name"]: contrast for contrast in data["contrasts"]}
    lines = []
    for name, verdict in expect.items():
        if name not in found:
            lines.append(f"{name}: expected {verdict!r}, not judged: no seed of both arms is complete")
        elif (contrast := found[name])["verdict"] != verdict:
            difference, low, high = (100 * value for value in (contrast["difference"], *contrast["interval"]))
            lines.append(
                f"{name}: expected {verdict!r}, found {contrast['verdict']!r}: "
                f"{difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
            )
    return lines
