"""Numbers as text for people: counts, intervals, durations. Files keep unrounded numbers."""

from collections.abc import Sequence


def short(value: float) -> str:
    """Write a count as 331k, 1.2M or 3e21: at most three digits."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size <= abs(value) < 999.5 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 or value == 0 else power(value)


def power(value: float, digits: int = 2) -> str:
    """Write 3.2e+12 as 3.2e12, to some significant digits."""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def number(value: float | None, digits: int = 4) -> str:
    """Write a measured number to some significant digits; a dash for None."""
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"
    return power(value, digits)


def interval(ends: Sequence[float] | None, digits: int = 4) -> str:
    """Write an interval as [lo, hi]; a dash for None."""
    if not ends:
        return "–"
    return f"[{number(ends[0], digits)}, {number(ends[1], digits)}]"


def counts(ends: Sequence[float] | None) -> str:
    """Write an interval of counts as [120k, 310k]; a dash for None."""
    return f"[{short(ends[0])}, {short(ends[1])}]" if ends else "–"


def duration(seconds: float | None) -> str:
    """Write seconds as 42 s, 3.5 min, 7.1 h or 12 days; a dash for None or 0."""
    if not seconds:
        return "–"
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
