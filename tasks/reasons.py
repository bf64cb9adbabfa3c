"""Why a stage must run: nothing there, unfinished, damaged, or what differs from the nearest one there is."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from s2d_core.fairness import leaves
from s2d_core.spec import StageSpec
from s2d_core.store import Store

SHOWN = 3  # differences named in a reason


def reason_to_run(spec: StageSpec, store: Store, stale_parents: list[str]) -> str | None:
    """None when ``spec`` is finished; else the reason. ``stale_parents``: names of parents that must run as well."""
    if store.result(spec) is not None:
        return None
    directory = store.dir(spec)
    if (directory / "manifest.json").exists():
        return "its result is damaged (files missing or truncated)"
    if done := _steps_done(directory):
        return f"unfinished: {done[0]} of {done[1]} steps are logged"
    if nearest := _nearest(spec, store):
        return nearest
    return f"after {', '.join(stale_parents)}" if stale_parents else "never run"


def _steps_done(directory: Path) -> tuple[int, int] | None:
    try:
        last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
        return last["step"], last["steps"]
    except (FileNotFoundError, IndexError, KeyError, TypeError, ValueError):
        return None


def _nearest(spec: StageSpec, store: Store) -> str | None:
    """How ``spec`` differs from the finished stage of its name that is closest to it, if only in its own settings.

    Other inputs say nothing: every arm has its own.
    """
    wanted = leaves(_identity(spec))
    best: list[str] | None = None
    for manifest in store.stages.glob(f"{spec.name}-*/manifest.json"):
        if not (found := _written(manifest.parent / "spec.json")):
            continue
        names = [n for n in wanted.keys() | found.keys() if n.split(".")[0] in ("settings", "seed", "numerics")]
        changed = sorted(n for n in names if wanted.get(n) != found.get(n))
        same_inputs = all(wanted.get(n) == found.get(n) for n in wanted if n.startswith("inputs."))
        if changed and same_inputs and (best is None or len(changed) < len(best)):
            best = [f"{n.removeprefix('settings.')} {found.get(n)} → {wanted.get(n)}" for n in changed]
    if best is None:
        return None
    more = f" and {len(best) - SHOWN} more" if len(best) > SHOWN else ""
    return f"changed: {', '.join(best[:SHOWN])}{more}"


@lru_cache(maxsize=4096)  # each is compared with many; a fingerprint's spec does not change but in its execution
def _written(path: Path) -> dict[str, Any]:
    """The leaves of a spec in the store; none when it cannot be read."""
    try:
        return leaves(json.loads(path.read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _identity(spec: StageSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude={"execution"})
