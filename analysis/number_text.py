"""Numbers as text for people: counts, intervals, durations. Files keep unrounded numbers."""

import math
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


def supported(value: float, ends: Sequence[float] | None, digits: int = 4) -> str:
    """Write a number with the digits that its interval supports, as 0.34, 41 or 4.1e3.

    The half-width keeps two digits where it begins with 1 to 3.54, else one, and the number ends
    where it does (Particle Data Group, Review of Particle Physics, section 5.3). At least one digit
    of the number stays; without an interval there are `digits`.
    """
    if not ends or not all(map(math.isfinite, ends)) or not ends[1] > ends[0] or value == 0:
        return number(value, digits)
    place = min(last_place(ends), math.floor(math.log10(abs(value))))
    return at_place(value, place)


def supported_interval(ends: Sequence[float] | None) -> str:
    """Write an interval to the place at which its half-width supports digits; a dash for None."""
    if not ends or not all(map(math.isfinite, ends)) or not ends[1] > ends[0]:
        return interval(ends)
    low, high = (
        at_place(end, min(last_place(ends), math.floor(math.log10(abs(end)))) if end else 0)
        for end in ends
    )
    return f"[{low}, {high}]"


def last_place(ends: Sequence[float]) -> int:
    """Return the power of ten of the last digit that an interval supports."""
    half = (ends[1] - ends[0]) / 2
    first = math.floor(math.log10(half))
    lead = half / 10.0**first
    if lead >= 9.5:
        return first
    return first - 1 if lead < 3.545 else first


def at_place(value: float, place: int) -> str:
    """Round a number to a power of ten and write it; large and small ones as 4.1e3."""
    if value == 0:
        return "0"
    if place >= -4 and 1e-3 <= abs(value) < 1e4 and (place <= 0 or abs(value) < 1e3):
        return f"{round(value, -place):.{max(0, -place)}f}"
    digits = max(0, math.floor(math.log10(abs(value))) - place)
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
