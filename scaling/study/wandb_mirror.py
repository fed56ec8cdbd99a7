"""The mirror of curves in wandb, and what the mirrors of many cells share.

A process that starts a service of its own waits a second for it, and a first run imports as much
again. So a pool preloads `PRELOADED` in the server that its cells are forked from, and hands them
the address of one service.
"""

import logging
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scaling.config import LogConfig

log = logging.getLogger(__name__)
SERVICE = "WANDB_SERVICE"  # names the service to attach to
PRELOADED = (
    "wandb",
    "wandb._analytics",
    "wandb.sdk.launch",
    "wandb.apis.public",
    "requests",
    "yaml",
)  # what a run's start imports; a name that a version lacks is passed over
_said: set[str] = set()


def say_once(text: str) -> None:
    """Log a warning the first time it is said in this process."""
    if text not in _said:
        _said.add(text)
        log.warning(text)


def shared_service() -> dict[str, str]:
    """Start wandb's service; returns the environment by which other processes find it.

    What fails is said by the first cell that misses it.
    """
    with suppress(Exception):  # wandb's own faults, whatever they are, must not end a pool
        import wandb

        wandb.setup(wandb.Settings(silent=True, console="off"))
    return {SERVICE: os.environ[SERVICE]} if SERVICE in os.environ else {}


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
