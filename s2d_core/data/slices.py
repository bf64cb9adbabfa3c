"""Slices of the labelled pool: its halves, all of it, or the part between two fractions. Knows no problems."""

NAMED = ("labelled", "held_out", "all")


def fractions(which: str) -> tuple[float, float]:
    """Start and stop of ``START:STOP``. Raises ValueError unless both are numbers with 0 ≤ START < STOP ≤ 1."""
    try:
        start, stop = (float(part) for part in which.split(":"))
    except ValueError:
        start, stop = 1.0, 0.0
    if not 0 <= start < stop <= 1:
        raise ValueError(
            f"allowed: {', '.join(NAMED)}, or START:STOP, fractions of the labelled pool with 0 ≤ START < STOP ≤ 1"
        )
    return start, stop


def check_slice(which: str) -> str:
    """``which`` itself. Raises ValueError, which says what is allowed, when it names no slice."""
    if which not in NAMED:
        fractions(which)
    return which


def slice_range(which: str, labelled: int, held_out: int) -> range:
    """Positions of a slice in the pool, which is the labelled problems and then the held-out ones in seeded order.

    Slices that share a bound neither overlap nor leave a problem out.
    """
    pool = labelled + held_out
    if which == "all":
        return range(pool)
    if which in NAMED:
        return range(labelled) if which == "labelled" else range(labelled, pool)
    start, stop = fractions(which)
    return range(round(start * pool), round(stop * pool))


def slice_name(start: int, stop: int, labelled: int, held_out: int) -> str:
    """The slice of these positions; the short name where it has one, so that equal slices read alike."""
    pool = labelled + held_out
    for name in reversed(NAMED):
        if slice_range(name, labelled, held_out) == range(start, stop):
            return name
    return f"{start / pool:.12g}:{stop / pool:.12g}"
