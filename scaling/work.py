"""Train the cells of a study that nobody has: a worker that anything can start.

    scaling work runs/NAME [--workers N] [--leave]

A sweep with hydra/launcher=none writes its cells and starts nothing. Start as many workers as you
like, on any machine that sees the folder: by hand, a Kubernetes job, SkyPilot, PBS or LSF. Each
takes cells that no other process has, until all have ended; what a lost worker held is taken over.
Ctrl-C or SIGTERM leaves checkpoints. The exit status is 0 when all cells have ended, 1 when a cell
failed, 75 when the worker was told to stop.
"""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

from scaling import VERSION_LINE
from scaling.app.application import log_to, one_sentence
from scaling.app.next_command import next_command
from scaling.app.positional import Parser
from scaling.jobs.cell_states import counts, read_status
from scaling.jobs.open_work import read_open_jobs, work
from scaling.jobs.tasks import ExitCode
from scaling.schema import no_study
from scaling.study.states import CellState

log = logging.getLogger(__name__)


def main() -> int:
    """Work; return the exit status."""
    with one_sentence(full=os.environ.get("HYDRA_FULL_ERROR") == "1"):
        return run(parse_arguments())
    return 1


def parse_arguments() -> argparse.Namespace:
    """Return the folder and the options of the command line."""
    parser = Parser(
        prog="scaling work",
        right_form="give one folder, as scaling work runs/NAME",
        description=__doc__,
        epilog="`python -m scaling.work` is the same command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", help="the study's folder, as runs/NAME")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes at a time; 0 is one a core, or one a GPU"
    )
    parser.add_argument(
        "--leave", action="store_true", help="end once other workers have all that is left"
    )
    parser.add_argument("--version", action="version", version=VERSION_LINE)
    arguments = parser.parse_args()
    if arguments.workers < 0:
        parser.error(f"--workers={arguments.workers} is below 0")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    """Work on the study that the arguments name; return the exit status."""
    log_to()
    study = Path(arguments.folder)
    if not study.is_dir():
        raise no_study(study)
    if not read_open_jobs(study.resolve()):
        raise ValueError(
            f"{study} has no cells for workers, or they were cancelled; give its sweep command with"
            " hydra/launcher=none"
        )
    stop = work(study, workers=arguments.workers, leave=arguments.leave)
    cells = read_status(study)
    log.info("%s: %s", study, counts(cells))
    if stop:
        if read_open_jobs(study.resolve()):
            log.info("%s; scaling work %s goes on", stop, shlex.quote(str(study)))
        else:
            log.info("the cells were cancelled; the sweep command makes them open again")
        return ExitCode.STOPPED
    if any(c.state in (CellState.FAILED, CellState.DAMAGED) for c in cells):
        return 1
    if all(c.state in (CellState.DONE, CellState.DIVERGED) for c in cells):
        log.info(next_command("fit", runs=study, form="all"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
