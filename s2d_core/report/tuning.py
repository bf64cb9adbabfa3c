"""What a search for learning rates tried and chose: the table, a picture, and a recipe with the chosen values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from s2d_core.report.pictures.style import COLOURS
from s2d_core.report.summary import Picture, Summary
from s2d_core.tuning import ArmTuner

SCHEME = (
    "Stages are searched in order, those before at their chosen values and those after at the recipe's; a stage of the "
    "teacher by the teacher's accuracy, a stage of the student by the deployed student's. The grid grows by a factor "
    "of 2 on the side of the optimum until that is bracketed; what is left of the trials goes between it and its "
    "neighbours. Accuracy is the mean avg@k over seeds on the validation problems."
)


def tuning_summary(tuners: Sequence[ArmTuner], trials: int, seeds: Sequence[int], recipe: str) -> Summary:
    """``trials``: what each search was given."""
    entries = [entry for tuner in tuners for entry in _entries(tuner)]
    findings = [_finding(tuner) for tuner in tuners]
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    notes = [f"{trials} trials for each stage of each arm, seeds {' '.join(map(str, seeds))}.", SCHEME]
    chosen = {
        tuner.name: [
            {"stage": entry.stage, "lr": search.best, "bracketed": search.bracketed, "trials": len(search.scores)}
            for _, entry, search in tuner.searched
        ]
        for tuner in tuners
    }
    return Summary(
        title=f"Learning rates of {recipe}",
        findings=findings,
        notes=notes,
        rows=[_row(entry) for entry in entries],
        data={"chosen": chosen, "trials": entries, "trials_each": trials, "seeds": list(seeds)},
        pictures=[
            Picture(
                "learning_rates",
                "Accuracy on the validation problems by learning rate; rings: chosen",
                len(stages),
                lambda axes: _draw(axes, stages, entries),
            )
        ]
        if stages
        else [],
    )


def overlay(tuners: Sequence[ArmTuner], trials: int, name: str, recipe: str, command: str) -> str:
    """A recipe that extends ``recipe`` by the chosen learning rates, as YAML; arms whose search failed are left out."""
    arms = {t.name: t.tuned().model_dump(mode="json", exclude_defaults=True) for t in tuners if not t.failed}
    parent = str(Path(recipe).absolute()) if recipe.endswith((".yaml", ".yml")) else recipe
    counts = dict.fromkeys(arms, trials)
    body: Mapping[str, Any] = {"extends": parent, "name": f"{name}_tuned", "arms": arms, "learning_rate_trials": counts}
    heading = (
        f"# Learning rates chosen on the validation split, {trials} trials for each stage of each arm:\n#   {command}\n"
    )
    return heading + OmegaConf.to_yaml(OmegaConf.create(dict(body)))


def _entries(tuner: ArmTuner) -> list[dict[str, Any]]:
    return [
        {
            "arm": tuner.name,
            "stage": f"{place + 1}.{entry.stage}" if _repeats(tuner, entry.stage) else entry.stage,
            "trial": number,
            "lr": rate,
            "factor": round(rate / search.base, 4),
            "accuracy": score,
            "chosen": rate == search.best,
        }
        for place, entry, search in tuner.searched
        for number, (rate, score) in enumerate(search.scores.items(), start=1)
    ]


def _repeats(tuner: ArmTuner, stage: str) -> bool:
    return sum(entry.stage == stage for entry in tuner.arm.stages) > 1


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    score = entry["accuracy"]
    return {
        "arm": entry["arm"],
        "stage": entry["stage"],
        "trial": entry["trial"],
        "learning rate": f"{entry['lr']:g}",
        "× recipe": f"{entry['factor']:g}",
        "avg@k %": "failed" if score is None else f"{100 * score:.1f}",
        "chosen": "✓" if entry["chosen"] else "",
    }


def _finding(tuner: ArmTuner) -> str:
    words = []
    for _, entry, search in tuner.searched:
        if search.best is None:
            words.append(
                f"{entry.stage} failed under every learning rate" if search.scores else f"{entry.stage} not reached"
            )
        else:
            edge = "" if search.bracketed else ", at the edge of what was tried: give it more trials"
            words.append(f"{entry.stage} {search.best:g} ({search.best / search.base:.3g} × the recipe's{edge})")
    return f"{tuner.name}: {', '.join(words)}."


def _draw(axes: Sequence[Any], stages: Sequence[str], entries: Sequence[dict[str, Any]]) -> None:
    arms = list(dict.fromkeys(entry["arm"] for entry in entries))
    for panel, stage in zip(axes, stages, strict=True):
        for index, arm in enumerate(arms):
            shown = sorted(
                (e for e in entries if (e["arm"], e["stage"]) == (arm, stage) and e["accuracy"] is not None),
                key=lambda entry: entry["lr"],
            )
            colour = COLOURS[index % len(COLOURS)]
            rates, heights = [entry["lr"] for entry in shown], [100 * entry["accuracy"] for entry in shown]
            panel.plot(rates, heights, "o-", ms=4, lw=1.4, color=colour, label=arm)
            best = [
                (rate, height) for rate, height, entry in zip(rates, heights, shown, strict=True) if entry["chosen"]
            ]
            if best:
                panel.plot(*best[0], "o", ms=9, mfc="none", color=colour)
        panel.set_xscale("log")
        panel.set_title(stage, fontsize=9)
        panel.set_xlabel("learning rate")
    axes[0].set_ylabel("avg@k on validation, %")
    axes[0].legend(fontsize=7)
