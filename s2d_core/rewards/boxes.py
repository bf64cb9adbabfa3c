"""Finds the answer in a completion: what stands in its last ``\\boxed{}``. Knows nothing about what it means."""

import re

_OPENING = re.compile(r"\\boxed\s*\{")


def last_box(text: str) -> str | None:
    """Content of the last ``\\boxed{...}``, outer whitespace stripped; None where there is none.

    Braces are balanced, and ``\\{`` and ``\\}`` are letters, not braces. The last box decides even when it is
    not the best one: if it was never closed, or holds nothing, the result is None and no earlier box counts.
    """
    start = None
    for opening in _OPENING.finditer(text):
        start = opening.end()
    if start is None:
        return None
    depth, position = 1, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1  # whatever follows is escaped
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[start:position].strip() or None
        position += 1
    return None
