"""What is left of a cell that failed: its record, its attempts, its last lines. No torch here."""

import platform
import signal
import traceback
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.schema import Record, code_version, now
from scaling.study.lease import (
    Attempt,
    Holder,
    Lease,
    Pulse,
    attempts,
    close_dead,
    failures,
    last_attempt,
    write_attempt,
)
from scaling.study.places import cell_folder, record_path

LAST_LINES = 6  # of a traceback or a log: the raising lines and the sentence
STUCK_LIMITS = 3  # time limits in a row without one more step


def failed_record(cell: CellConfig, error: BaseException | str) -> Record:
    """Return the record of a cell that failed, with the traceback or what is known of its end."""
    resolved, moment = resolve(cell), now()
    pretraining = cell.stage == "pretrain"
    last = last_attempt(cell_folder(cell))
    text = error if isinstance(error, str) else "".join(traceback.format_exception(error))
    return Record(
        run_id=cell.run_id(),
        study=cell.study,
        stage=cell.stage,
        status="failed",
        seed=cell.seed,
        params=resolved.shape.params,
        tokens=resolved.n_tokens if pretraining else 0,
        unique_tokens=0,
        flops=resolved.flops if pretraining else 0.0,
        flops_6nd=resolved.flops_6nd if pretraining else 0.0,
        test_loss=None,
        test_loss_se=None,
        bits_per_byte=None,
        train_loss=None,
        steps=last.step if last else 0,
        batch_tokens=resolved.batch_tokens,
        peak_lr=resolved.peak_lr,
        schedule=cell.schedule.name,
        trunk=cell.trunk_id(),
        seconds=0.0,
        device=platform.machine(),
        device_seconds=0.0,
        peak_memory_bytes=0,
        tokens_per_second=0.0,
        mfu=None,
        config=asdict(cell),
        versions={"torch": version("torch")},
        git_sha=code_version()["git_sha"],
        started=last.started if last else moment,
        ended=moment,
        error=text,
    )


def write_failed(cell: CellConfig, error: BaseException | str) -> None:
    """Write a failed record; on a disk too full for one the attempt alone says what happened."""
    try:
        failed_record(cell, error).write(record_path(cell))
    except OSError:
        return


def is_last(folder: Path, *, round: str, retry: int) -> bool:
    """Say whether a failure now would use up a round's retries of a cell."""
    return failures(attempts(folder), round) >= retry


def charge(cell: CellConfig, holder: Holder, error: BaseException | str, *, retry: int) -> None:
    """Note a failure that no attempt at the cell holds, as one of its own; the last past `retry`.

    A negative `retry` makes it the last whatever came before.
    """
    folder = cell_folder(cell)
    final = is_last(folder, round=holder.round, retry=retry)
    with Lease(folder, holder, Pulse()) as lease:
        if final:
            write_failed(cell, error)
        lease.outcome, lease.final = "failed", final
        lease.error = last_line(str(error)) or type(error).__name__


def note_end(cell: CellConfig, holder: Holder, *, outcome: str) -> None:
    """Note an end that is no failure and came before the cell was begun, as an attempt."""
    folder = cell_folder(cell)
    before = last_attempt(folder)
    with Lease(folder, holder, Pulse()) as lease:
        lease.pulse.step = before.step if before else 0
        lease.outcome, lease.final = outcome, False


def refuse_if_stuck(before: list[Attempt]) -> None:
    """Raise where the last attempts all ran into the time limit and none got any further."""
    recent = before[-STUCK_LIMITS:]
    if (
        len(recent) == STUCK_LIMITS
        and all(a.outcome == "timeout" for a in recent)
        and recent[-1].step <= recent[0].step
    ):
        raise RuntimeError(
            f"{STUCK_LIMITS} time limits passed without one more step than {recent[0].step}; "
            "raise hydra.launcher.timeout_min"
        )


def bury(cell: CellConfig, error: str, *, retry: int) -> Attempt | None:
    """Close the attempt of a process that died on a cell, as a failure; None where it had none."""
    folder = cell_folder(cell)
    last = last_attempt(folder)
    if last is None or last.ended is not None:
        return None
    final = is_last(folder, round=last.round, retry=retry)
    if final:
        write_failed(cell, error)
    return write_attempt(folder, replace(close_dead(folder, last, error=error), final=final))


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((t.strip() for t in reversed(text.splitlines()) if t.strip()), "")


def last_lines(text: str, count: int = LAST_LINES) -> str:
    """Return the last lines of a traceback or log, indented for the terminal."""
    kept = [t.rstrip() for t in text.splitlines() if t.strip()][-count:]
    return "\n".join(f"    {t}" for t in kept)


def tail(path: str | Path, n_bytes: int = 4000) -> str:
    """Return the end of a log file; empty where it cannot be read."""
    try:
        if not Path(path).is_file():  # a pipe or device would never end
            return ""
        with Path(path).open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - n_bytes))
            return stream.read(n_bytes).decode(errors="replace")
    except (OSError, ValueError):  # ValueError: a name that holds a NUL
        return ""


def said(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"its process ended with exit code {code} and left no record"
    name = signal.Signals(-code).name
    hint = " (kill -9, or the machine ran out of memory)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"
