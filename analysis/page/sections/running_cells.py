"""Cells that train while the page is written, with the loss that each will end at."""

from collections.abc import Sequence

from analysis.page.tables import Grid
from scaling.schema import RunningCell

MOST_ROWS = 40  # Cells that are shown, those that are furthest.


def running_grid(cells: Sequence[RunningCell]) -> Grid:
    """Return a row for each running cell: step, last test loss, forecast and interval."""
    level = next((c.at_end.level for c in cells if c.at_end), 0.9)
    return Grid(
        name="Running cells",
        columns=("cell", "step", "test loss now", "at the end", f"{level:.0%} interval"),
        rows=[_row(cell) for cell in cells[:MOST_ROWS]],
        numeric=(1, 2, 3),
    )


def running_gist(cells: Sequence[RunningCell]) -> str:
    """Return the line that the part is folded to."""
    known = sum(c.at_end is not None for c in cells)
    return f"{len(cells)} in training, {known} with a forecast of its end"


def _row(cell: RunningCell) -> tuple[str, ...]:
    now = "–" if cell.test_loss is None else f"{cell.test_loss:.4f}"
    if cell.at_end is None:
        return cell.run_id, str(cell.step), now, "–", "too little is known yet"
    end, digits = cell.at_end, cell.at_end.digits
    return (
        cell.run_id,
        str(cell.step),
        now,
        f"{end.loss:.{digits}f}",
        f"[{end.low:.{digits}f}, {end.high:.{digits}f}]",
    )
