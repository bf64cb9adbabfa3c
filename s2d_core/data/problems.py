"""A problem and its label. Knows no file format and no model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable problem.

    ``prompt`` is the exact text the model reads (template already applied). ``answer`` is the label: it is
    None wherever no label may be spent (unlabelled prompts). ``level`` is a difficulty, for breakdowns only.
    """

    id: str
    prompt: str
    answer: str | None = None
    level: int = 0
