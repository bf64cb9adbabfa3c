"""Which pictures there are, and how they are drawn into a report's folder."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from s2d_core.report.pictures import arms, bridge, claims
from s2d_core.report.pictures.style import STYLE, Data

PICTURES: dict[str, tuple[str, Callable[[Data, Data], Figure | None]]] = {
    "accuracy": ("Accuracy on the test problems: mean, 95 % interval, a bar for each seed", arms.accuracy),
    "forest": ("Contrasts: is the first arm better than the second?", claims.forest),
    "compute": ("Accuracy against training compute: is it the route, or the operations?", claims.compute),
    "allocation": ("Allocation: the same labels, more or less of them upstream", claims.allocation),
    "sets": ("Accuracy by test set, avg@k in %", arms.sets),
    "levels": ("Accuracy by difficulty, avg@k in %", arms.levels),
    "conditions": (
        "Conditions: C1, what RL gained the teacher; C2, how near the student is on its own rollouts",
        bridge.conditions,
    ),
    "positions": ("C2 by position in the completion", bridge.positions),
    "bridge": ("Divergence across the bridge; dots: KL(student‖teacher) on test problems", bridge.bridge),
    "learning": ("Learning curves of the sparse stages", bridge.learning),
    "labels": ("Labels spent", arms.labels),
    "time": ("Time by stage", arms.time),
}


@dataclass(frozen=True)
class Picture:
    """A drawn picture, and the command that draws it again from the report's folder."""

    caption: str
    path: Path
    command: str


def draw_all(data: Data, curves: Data, folder: Path, names: Iterable[str] = PICTURES) -> list[Picture]:
    """Draw those of ``names`` that there is data for, in the order of PICTURES."""
    drawn = []
    wanted = set(names)
    for name, (caption, draw) in PICTURES.items():
        if name not in wanted:
            continue
        with matplotlib.rc_context(STYLE):
            figure = draw(data, curves)
            if figure is not None:
                path = folder / f"{name}.png"
                figure.savefig(path, metadata={"Software": ""})
                drawn.append(Picture(caption, path, f"python -m s2d_core.report {folder} {name}"))
    return drawn
