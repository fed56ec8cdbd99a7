"""`scaling status --watch`: a live table of a study that ends with it.

On a terminal the table is redrawn in place: a bar over the cells with their rate and the time left,
then the cells that are not done, those that run first, as many as fit. Elsewhere it is a line
whenever a cell changed its state, at most one in `LOG_SECONDS`. The whole table follows at the end.
"""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scaling.app.progress import bar, clock, rate, rest
from scaling.jobs.cell_states import ACTIVE, WATCH_SECONDS, CellStates, CellStatus, counts
from scaling.schema import no_study
from scaling.study.states import CellState

LOG_SECONDS = 10.0
FIRST = (CellState.RUNNING, CellState.FAILED, CellState.DAMAGED, CellState.STOPPED)


def watch(
    folder: str | Path,
    rows_of: Callable[[Sequence[CellStatus]], list[str]],
    *,
    seconds: float = WATCH_SECONDS,
) -> list[CellStatus]:
    """Show a study until no cell waits or runs; return the cells as they ended.

    folder: of the study
    rows_of: returns the head and one row for each cell
    seconds: time between two looks

    Raises FileNotFoundError for a folder that does not exist.
    """
    if not Path(folder).is_dir():
        raise no_study(Path(folder))
    states, terminal = CellStates(Path(folder)), sys.stdout.isatty()
    began, at_start, last, logged = time.monotonic(), -1, "", -LOG_SECONDS
    while True:
        states.refresh()
        cells = states.cells()
        done = sum(c.state not in ACTIVE for c in cells)
        at_start = done if at_start < 0 else at_start
        now = time.monotonic()
        head = headline(cells, seconds=now - began, gained=done - at_start, terminal=terminal)
        if terminal:
            size = shutil.get_terminal_size()
            lines = [head, *fitting(cells, rows_of, size.lines - 2)]
            text = "".join(f"{line[: size.columns - 1]}\033[K\n" for line in lines)
            sys.stdout.write(f"\033[H{text}\033[J")
        elif counts(cells) != last and now - logged >= LOG_SECONDS:
            last, logged = counts(cells), now
            sys.stdout.write(f"{head}\n")
        sys.stdout.flush()
        if not any(c.state in ACTIVE for c in cells):
            sys.stdout.write("\033[H\033[J" if terminal else "")
            return cells
        time.sleep(seconds)


def headline(
    cells: Sequence[CellStatus], *, seconds: float, gained: int, terminal: bool = True
) -> str:
    """Return the first line: the share of cells that ended, their rate, the time left, the counts.

    seconds, gained: time that was watched, and cells that ended in it
    terminal: whether the line has a bar
    """
    ended = sum(c.state not in ACTIVE for c in cells)
    share = ended / len(cells) if cells else 1.0
    speed = f"{rate(gained / seconds, 'cells')}  " if gained and seconds > 0 else ""
    left = clock(rest(seconds, gained, len(cells) - ended))
    start = f"{bar(share)} " if terminal else ""
    return f"{start}{share:4.0%}  {speed}{left} left  {counts(list(cells))}"


def fitting(
    cells: Sequence[CellStatus], rows_of: Callable[[Sequence[CellStatus]], list[str]], most: int
) -> list[str]:
    """Return the head and the rows of at most `most` lines: cells that run or went wrong first."""
    rank = {state: i for i, state in enumerate(FIRST)}
    open_cells = [c for c in cells if c.state != CellState.DONE]
    ordered = sorted(open_cells, key=lambda c: rank.get(c.state, len(FIRST)))
    shown = ordered[: max(0, most - 2)]
    hidden = len(ordered) - len(shown)
    return rows_of(shown) + ([f"and {hidden} more"] if hidden else [])
