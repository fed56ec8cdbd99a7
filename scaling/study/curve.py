"""The curve of a run: a JSONL file on disk, and its mirror in wandb.

The file is the truth. It is flushed row by row; after a kill only the last row may be torn, and
readers drop it. wandb may be absent, offline or unwritable: one warning says so and nothing else
changes. A checkpoint needs the rows before it: where they are damaged, both are set aside.
"""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from scaling.config import LogConfig
from scaling.schema import read_curve, set_aside, write_text
from scaling.study.wandb_mirror import Mirror


class RunLog:
    """A context manager that appends rows to `folder/metrics.jsonl` and mirrors them to wandb.

    The wandb run starts with the first row.

    folder: folder of the cell
    config: whether and how wandb is used
    name, group: the wandb run and its group
    details: settings that wandb shows beside the curve
    resume_step: keep the rows of the file up to this step, in place of `rows`
    rows: first rows of the file. They are written in one step, because a kill while a run resumes
        must not cost rows that its checkpoint needs
    """

    def __init__(
        self,
        folder: str | Path,
        config: LogConfig,
        *,
        name: str,
        group: str,
        details: dict[str, Any] | None = None,
        resume_step: int | None = None,
        rows: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.path = Path(folder) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None:
            rows = [r for r in read_curve(self.path) if r["step"] <= resume_step]
        write_text(self.path, "".join(map(json_line, rows)))
        self._mirror = Mirror(
            config, folder=self.path.parent.parent, name=name, group=group, details=details or {}
        )
        for row in rows:
            self._mirror.log(row)
        self._stream: TextIO = self.path.open("a", encoding="utf-8", buffering=1)

    def log(self, row: dict[str, Any]) -> None:
        """Write one row, which holds `step`, without its values that are not finite."""
        row = finite_values(row)
        try:
            self._stream.write(json_line(row))
        except OSError as error:
            raise OSError(
                f"cannot write {self.path}: {error.strerror}; free space or change the folder"
            ) from error
        self._mirror.log(row)

    def extend(self, rows: list[dict[str, Any]]) -> None:
        """Write several rows."""
        for row in rows:
            self.log(row)

    def summary(self, values: dict[str, Any]) -> None:
        """Put a run's results beside its curve in the mirror."""
        self._mirror.summary(values)

    def __enter__(self) -> "RunLog":
        """Return the log itself."""
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file and the mirror."""
        with suppress(OSError):  # the write of the row has raised for a full disk
            self._stream.close()
        self._mirror.finish(failed=kind is not None)


def finite_values(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without its values that are not finite: a NaN is a status, never a number."""
    return {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}


def json_line(row: dict[str, Any]) -> str:
    """Return a row as one line of JSON."""
    return json.dumps(row, allow_nan=False) + "\n"


def rows_before(
    checkpoint: Path, curve: Path, *, steps: Iterable[int] = ()
) -> list[dict[str, Any]] | None:
    """Return the rows of the curve before a checkpoint; they must hold a row of each of `steps`.

    None where there is no checkpoint. Where the rows are damaged, both files are set aside and None
    is returned: the run goes on from an earlier state.
    """
    if not checkpoint.is_file():
        return None
    try:
        rows = read_curve(curve, strict=True)
        if missing := sorted(set(steps) - {r["step"] for r in rows}):
            raise ValueError(f"it has no row of step {missing[0]}")
    except ValueError as error:
        if curve.is_file():
            set_aside(curve, str(error))
        set_aside(checkpoint, f"the curve before it, {curve.name}, is damaged or missing")
        return None
    return rows
