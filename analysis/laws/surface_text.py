"""What a law of `form=surface` prints: its points with their settings, and what they lose."""

from typing import Any

from analysis.laws.law_file import LawFile
from analysis.laws.surface_law import FORM, best_settings

MOST_POINTS = 16  # rows of the table


def surface_notes(law: LawFile) -> list[str]:
    """Return the lines on points, withheld points and settings; none for another form."""
    block = law.methods.get(FORM)
    if not block:
        return []
    level = (law.intervals or {}).get("level", 0.9)
    points = block["points"]
    head = f"{'N':<11}{'D':<11}{'runs':>5}{'near':>5}{'best':>8}{'fit':>8}  lr* and batch* (tokens)"
    lines = [head]
    for point in points[-MOST_POINTS:]:
        at = best_settings(law, point["params"], point["tokens"], level)
        pairs = [_with_ends(getattr(at, name), at.intervals.get(name)) for name in ("lr", "batch")]
        lines.append(
            f"{point['params']:<11.4g}{point['tokens']:<11.4g}{point['n_runs']:>5}"
            f"{point['n_near']:>5}{point['best']['loss']:>8.4f}{point['loss']:>8.4f}"
            f"  {', '.join(pairs)}{' (end of the grid)' if point['edges'] else ''}"
        )
    if len(points) > MOST_POINTS:
        lines.append(f"and {len(points) - MOST_POINTS} smaller points")
    return [*lines, *map(_withheld, block["hindcasts"])]


def _withheld(row: dict[str, Any]) -> str:
    return (
        f"fitted on {row['n_points']} points, {row['n_withheld']} larger ones withheld (C x"
        f"{row['reach']:.3g}): settings lose {row['mean']:.2%}, at worst {row['worst']:.2%},"
        f" loss within {row['loss_error']:.2%}"
    )


def _with_ends(value: float, ends: tuple[float, float] | None) -> str:
    return f"{value:.3g}" + ("" if ends is None else f" [{ends[0]:.3g}, {ends[1]:.3g}]")
