"""Show the state of every cell of a study, one line each.

    scaling status runs/NAME [--watch] [--json] [--cancel]

The state comes from the study's files (records, attempts, jobs.jsonl) and from SLURM where SLURM
answers, with or without accounting. The exit status is 1 when a cell failed, its record is damaged,
or the study does not exist.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from scaling import VERSION_LINE
from scaling.app.application import one_sentence
from scaling.app.plurals import plural
from scaling.app.positional import Parser
from scaling.jobs.cell_states import (
    ACTIVE,
    WATCH_SECONDS,
    CellStatus,
    cancel,
    counts,
    read_status,
    warn_of_damage,
)
from scaling.jobs.watched import watch
from scaling.study.states import CellState


def show(cells: list[CellStatus]) -> str:
    """Return the table: one line for each cell, the counts, the named test sets."""
    ends = [counts(cells) or "no cells yet", *map(printable, lines_of_sets(cells))]
    return "\n".join([*rows_of(cells), *ends]) + "\n"


def rows_of(cells: Sequence[CellStatus]) -> list[str]:
    """Return the head of the table and one line for each cell."""
    head = f"{'cell':10}  {'state':9} {'try':>3} {'node':8} {'job':12} {'step':>7} {'test loss':>9}"
    lines = [f"{head}  why"]
    for c in cells:
        loss = "" if c.test_loss is None else f"{c.test_loss:.4f}"
        lines.append(
            f"{c.run_id:10}  {c.state:9} {c.attempt or '':>3} {c.node[:8]:8} {c.job[:12]:12} "
            f"{c.step:7} {loss:>9}  {c.at_end or c.error}".rstrip()
        )
    return [printable(line) for line in lines]


def lines_of_sets(cells: Sequence[CellStatus]) -> list[str]:
    """Return a line on the named test sets that cells were scored on; [] where none was."""
    scored = Counter(name for c in cells for name in c.test_sets)
    ended = sum(c.state == CellState.DONE for c in cells)
    if not scored:
        return []
    parts = [f"{name} of {n} of {ended} done" for name, n in scored.items()]
    return [f"test sets scored (eval.sets): {', '.join(parts)}"]


def as_json(cells: list[CellStatus]) -> str:
    """Return the cells as one line of JSON."""
    return json.dumps([asdict(c) for c in cells]) + "\n"


def printable(line: str) -> str:
    """Return a line without characters that steer a terminal: its text comes from files."""
    return "".join(c if c.isprintable() else "?" for c in line)


def main() -> int:
    """Print the status; return the exit status."""
    with one_sentence(full=os.environ.get("HYDRA_FULL_ERROR") == "1"):
        return print_status(parse_arguments())
    return 1


def parse_arguments() -> argparse.Namespace:
    """Return the folder and the options of the command line."""
    parser = Parser(
        prog="scaling status",
        right_form="give one folder, as scaling status runs/NAME",
        description=__doc__,
        epilog="`python -m scaling.status` is the same command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="the study's folder, as runs/NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON list, not the table")
    parser.add_argument(
        "--watch",
        action="store_true",
        help=f"show a live table, read every {WATCH_SECONDS:g} s, until all cells have ended",
    )
    parser.add_argument(
        "--cancel", action="store_true", help="first cancel the jobs that are queued or running"
    )
    parser.add_argument("--version", action="version", version=VERSION_LINE)
    arguments = parser.parse_args()
    key, equals, folder = arguments.folder.partition("=")
    if equals and key == "runs" and not Path(arguments.folder).is_dir():
        parser.error(f"the folder is given without runs=, as {shlex.quote(folder)}")
    return arguments


def print_status(arguments: argparse.Namespace) -> int:
    """Print the status, with --watch until all cells have ended; return the exit status."""
    try:
        if arguments.cancel:
            sys.stderr.write(f"cancelled {plural(cancel(arguments.folder), 'job')}\n")
            time.sleep(1)  # so that jobs that end at once are shown as ended
        if arguments.watch and not arguments.json:
            cells = watch(arguments.folder, rows_of)
        else:
            cells = read_status(arguments.folder)
            while arguments.watch and any(c.state in ACTIVE for c in cells):
                sys.stdout.write(as_json(cells))
                sys.stdout.flush()
                time.sleep(WATCH_SECONDS)
                cells = read_status(arguments.folder)
        warn_of_damage(arguments.folder)
        sys.stdout.write(as_json(cells) if arguments.json else show(cells))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    return int(any(c.state in (CellState.FAILED, CellState.DAMAGED) for c in cells))


if __name__ == "__main__":
    sys.exit(main())
