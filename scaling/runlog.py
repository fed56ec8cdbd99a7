"""The curve on disk and its mirror in wandb.

One line-buffered JSONL file is the truth: a row is whole or, after a kill, the torn last one, which
readers drop. wandb may be absent, offline or unwritable: that is said once and changes nothing.
"""

import json
import logging
import math
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from scaling.config import LogConfig
from scaling.schema import read_curve, write_text

log = logging.getLogger(__name__)
_said: set[str] = set()


def say_once(text: str) -> None:
    """Log a warning the first time it is said in this process."""
    if text not in _said:
        _said.add(text)
        log.warning(text)


class RunLog:
    """Append rows to `folder/metrics.jsonl` and mirror them to wandb as one run of a group.

    Use as a context manager. The file begins with `rows`, put there in one step: a kill while a
    run resumes must not cost rows that its checkpoint counts on. `resume_step` takes them from the
    file itself, up to that step. The wandb run starts with the first row.
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
        write_text(self.path, "".join(map(_line, rows)))
        self._mirror = Mirror(
            config, folder=self.path.parent.parent, name=name, group=group, details=details or {}
        )
        for row in rows:
            self._mirror.log(row)
        self._stream: TextIO = self.path.open("a", encoding="utf-8", buffering=1)

    def log(self, row: dict[str, Any]) -> None:
        """Write one row (it holds `step`); a non-finite value is left out of it."""
        finite = {k: v for k, v in row.items() if not isinstance(v, float) or math.isfinite(v)}
        try:
            self._stream.write(_line(finite))
        except OSError as error:
            raise OSError(
                f"cannot write {self.path}: {error.strerror}; free space or change the folder"
            ) from error
        self._mirror.log(finite)

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
        with suppress(OSError):  # a full disk was said when the row was written
            self._stream.close()
        self._mirror.finish(failed=kind is not None)


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Keep signals from a process started inside, which would die of the one that means `save`."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Mirror:
    """A wandb run that may fail at any time without harm.

    A cell is one run id for good. Offline, each start writes the whole curve again under its own
    steps, so the files of an interrupted start are removed: one folder a cell is left to sync.
    """

    def __init__(
        self, config: LogConfig, *, folder: Path, name: str, group: str, details: dict[str, Any]
    ) -> None:
        self._config, self._folder, self._details = config, folder, details
        self._name, self._group = name, group
        self._run: Any = None
        self._off = config.wandb == "disabled"

    def _start(self) -> None:
        try:
            import wandb

            probe = self._folder / "wandb"
            probe.mkdir(parents=True, exist_ok=True)
            (probe / ".writable").write_text("")
            os.environ.setdefault("WANDB_SILENT", "true")
            identity = f"{self._group}-{self._name}".replace("/", "-")
            if self._config.wandb == "offline":
                for former in probe.glob(f"offline-run-*-{identity}"):
                    shutil.rmtree(former, ignore_errors=True)
            with signals_held_back():
                self._run = wandb.init(
                    project=self._config.project,
                    mode=self._config.wandb,  # type: ignore[arg-type]
                    dir=str(self._folder),
                    id=identity,
                    name=self._name,
                    group=self._group,
                    tags=[self._group, *self._config.tags],
                    config=self._details,
                    resume="allow" if self._config.wandb == "online" else None,
                    reinit="finish_previous",
                    settings=wandb.Settings(
                        console="off",
                        silent=True,
                        disable_git=True,
                        disable_code=True,
                        x_disable_stats=True,
                        x_disable_machine_info=True,
                        x_save_requirements=False,  # the record names the code; a third of a second
                    ),
                )
        except Exception as error:  # noqa: BLE001  the mirror's own faults, whatever they are
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._off, self._run = True, None
        say_once(
            f"wandb is off for this run ({type(error).__name__}: {error}); "
            "records on disk are complete without it"
        )

    def log(self, row: dict[str, Any]) -> None:
        """Mirror a row under its own step."""
        if self._off:
            return
        if self._run is None:
            self._start()
        if self._run is not None:
            try:
                self._run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])
            except Exception as error:  # noqa: BLE001
                self._fail(error)

    def summary(self, values: dict[str, Any]) -> None:
        """Mirror results."""
        if self._run is not None:
            try:
                self._run.summary.update(values)
            except Exception as error:  # noqa: BLE001
                self._fail(error)

    def finish(self, *, failed: bool) -> None:
        """End the run."""
        if self._run is not None:
            try:
                self._run.finish(exit_code=int(failed))
            except Exception as error:  # noqa: BLE001
                self._fail(error)


def details(config: Any) -> dict[str, Any]:
    """Return a config dataclass as the plain values that wandb keeps."""
    return asdict(config)
