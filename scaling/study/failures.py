"""Records, attempts and log lines of cells that failed. No torch here."""

import platform
import signal
import traceback
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.schema import Cost, Record, Status, now
from scaling.study.lease import (
    Attempt,
    Holder,
    Lease,
    Pulse,
    attempts,
    close_dead,
    count_failures,
    last_attempt,
    write_attempt,
)
from scaling.study.places import cell_folder, record_path
from scaling.study.states import Outcome

LAST_LINES = 6  # Lines of a traceback or a log that are shown: the raising lines and the sentence.
STUCK_LIMITS = 3  # So many time limits in a row without one more step are a failure.


def failed_record(cell: CellConfig, error: BaseException | str) -> Record:
    """Return the record of a cell that failed; `error` is the exception, or how the process ended.

    Tokens and FLOPs are those of the budget; a stage after pretraining has 0 of both.
    """
    resolved = resolve(cell)
    pretraining = cell.stage == "pretrain"
    last = last_attempt(cell_folder(cell))
    text = error if isinstance(error, str) else "".join(traceback.format_exception(error))
    return Record.of_cell(
        Cost(device=platform.machine(), steps=last.step if last else 0),
        run_id=cell.run_id(),
        study=cell.study,
        stage=cell.stage,
        status=Status.FAILED,
        seed=cell.seed,
        params=resolved.shape.params,
        tokens=resolved.n_tokens if pretraining else 0,
        flops=resolved.flops if pretraining else 0.0,
        batch_tokens=resolved.batch_tokens,
        peak_lr=resolved.peak_lr,
        schedule=cell.schedule.name,
        trunk=cell.trunk_id(),
        config=asdict(cell),
        versions={"torch": version("torch")},
        started=last.started if last else now(),
        error=text,
    )


def write_failed(cell: CellConfig, error: BaseException | str) -> None:
    """Write the record of a cell that failed; nothing where the disk is too full for a record.

    The attempt still says what happened: its file has room for that.
    """
    try:
        failed_record(cell, error).write(record_path(cell))
    except OSError:
        return


def is_last(folder: Path, *, round: str, retry: int) -> bool:
    """Say whether one more failure would use up a round's retries of a cell."""
    return count_failures(attempts(folder), round) >= retry


def record_failure(
    cell: CellConfig, holder: Holder, error: BaseException | str, *, retry: int
) -> None:
    """Write a failure that happened outside any attempt at the cell, as an attempt of its own.

    cell: the cell that fails
    holder: the process that writes
    error: the exception, or the sentence that says what happened
    retry: failures of a round that are tried again; negative: this failure is the last in any case
    """
    folder = cell_folder(cell)
    final = is_last(folder, round=holder.round, retry=retry)
    with Lease(folder, holder, Pulse()) as lease:
        if final:
            write_failed(cell, error)
        lease.outcome, lease.final = Outcome.FAILED, final
        lease.error = last_line(str(error)) or type(error).__name__


def note_end(cell: CellConfig, holder: Holder, *, outcome: Outcome) -> None:
    """Write, as an attempt, that a job ended before it began the cell; this is no failure."""
    folder = cell_folder(cell)
    before = last_attempt(folder)
    with Lease(folder, holder, Pulse()) as lease:
        lease.pulse.step = before.step if before else 0
        lease.outcome, lease.final = outcome, False


def refuse_if_stuck(before: list[Attempt]) -> None:
    """Raise RuntimeError where the last attempts all met the time limit without one more step."""
    recent = before[-STUCK_LIMITS:]
    if (
        len(recent) == STUCK_LIMITS
        and all(a.outcome == Outcome.TIMEOUT for a in recent)
        and recent[-1].step <= recent[0].step
    ):
        raise RuntimeError(
            f"{STUCK_LIMITS} time limits passed without one more step than {recent[0].step}; "
            "raise hydra.launcher.timeout_min"
        )


def fail_dead_attempt(cell: CellConfig, error: str, *, retry: int) -> Attempt | None:
    """Close, as a failure, the attempt that a dead process left open; None where there is none."""
    folder = cell_folder(cell)
    last = last_attempt(folder)
    if last is None or last.ended is not None:
        return None
    final = is_last(folder, round=last.round, retry=retry)
    if final:
        write_failed(cell, error)
    return write_attempt(folder, replace(close_dead(folder, last, error=error), final=final))


def last_line(text: str) -> str:
    """Return the last line that is not blank."""
    return next((t.strip() for t in reversed(text.splitlines()) if t.strip()), "")


def last_lines(text: str, count: int = LAST_LINES) -> str:
    """Return the last lines of a traceback or log, indented for the terminal."""
    lines = [t.rstrip() for t in text.splitlines() if t.strip()][-count:]
    return "\n".join(f"    {t}" for t in lines)


def tail(path: str | Path, n_bytes: int = 4000) -> str:
    """Return the end of a log file; empty where the file cannot be read."""
    try:
        if not Path(path).is_file():  # reading a pipe or a device would never end
            return ""
        with Path(path).open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - n_bytes))
            return stream.read(n_bytes).decode(errors="replace")
    except (OSError, ValueError):  # ValueError: a name that holds a NUL
        return ""


def describe_exit(code: int) -> str:
    """Say in words how a process with this exit code ended."""
    if code >= 0:
        return f"its process ended with exit code {code} and left no record"
    name = signal.Signals(-code).name
    hint = " (kill -9, or the machine ran out of memory)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"
