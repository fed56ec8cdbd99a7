"""The mirror of curves in wandb, and the service that the mirrors of many cells share.

A process that starts a service of its own waits a second for it, and the imports of a first run
take another second. So the pool imports `PRELOADED` in the server that its cells are forked from,
and gives every cell the address of one service.
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
SERVICE = "WANDB_SERVICE"  # The environment variable that holds the address of the service.
# Modules that the start of a run imports; the preload passes over one that this version lacks.
PRELOADED = (
    "wandb",
    "wandb._analytics",
    "wandb.sdk.launch",
    "wandb.apis.public",
    "requests",
    "yaml",
)
_logged: set[str] = set()


def warn_once(text: str) -> None:
    """Log a warning unless this process has logged it already."""
    if text not in _logged:
        _logged.add(text)
        log.warning(text)


def shared_service() -> dict[str, str]:
    """Start wandb's service; return the environment variables by which other processes find it.

    No error is raised: a cell without the service starts its own, and warns where that fails.
    """
    with suppress(Exception):  # whatever fails in wandb must not end a pool
        import wandb  # for speed: here and below, a cell without a mirror does not import it

        wandb.setup(wandb.Settings(silent=True, console="off"))
    return {SERVICE: os.environ[SERVICE]} if SERVICE in os.environ else {}


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Block signals in a process that is started inside: SIGUSR2, `save`, would kill it."""
    blocked = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Mirror:
    """A wandb run that may fail at any time without harm to the training.

    A cell always has the same run id. Offline, each start writes the whole curve again under its
    own steps; the files of an earlier start are removed, so that each cell has one folder to sync.
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
                        # It takes a third of a second, and the record names the versions.
                        x_save_requirements=False,
                    ),
                )
        except Exception as error:  # noqa: BLE001  whatever fails in wandb
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._off, self._run = True, None
        warn_once(
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
        """Put results beside the curve."""
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
