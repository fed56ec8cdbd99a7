"""Runs a command of the project in this process: seconds less than a process of its own.

It goes through the `start` that the command's own file calls, so parsing, composing, the refusal in
one sentence and the exit status are those of the command. What a command leaves behind in the
process (arguments, folder, environment, Hydra's state, log handlers, signal handlers, warning
filters) is put back. Some mistakes of each kind still run as processes of their own.
"""

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from hydra.core.global_hydra import GlobalHydra

import analysis
from analysis.estimation.fit import fit
from scaling.app.application import start
from scaling.config import CellConfig

POSITIONAL = ("status", "work", "published_tables")  # commands that take a folder and no settings
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True)
class Done:
    """How a command ended: the fields of subprocess.CompletedProcess that tests read."""

    returncode: int
    stdout: str
    stderr: str


def command_module(name: str) -> ModuleType:
    """Import a command's module, as `analysis.fit`, and leave `analysis.fit` the function."""
    module = importlib.import_module(name)
    analysis.fit = fit
    return module


def schema_of(command: str) -> type:
    """Return a command's config dataclass."""
    name = command.rpartition(".")[2].replace("_", "")
    if name == "sweep":
        return CellConfig
    module = command_module(command)
    return next(v for k, v in vars(module).items() if k.lower() == f"{name}config")


def call(command: str, *arguments: str, cwd: str | Path | None = None) -> Done:
    """Run a command in this process, as `python -m command arguments` would; return how it ended.

    command: a module, as `analysis.fit`
    arguments: what is typed after it
    cwd: the folder that it runs in; the present one by default
    """
    out, err = io.StringIO(), io.StringIO()
    with process_state_kept(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if cwd is not None:
            os.chdir(cwd)
        sys.argv = [command, *arguments]
        status = status_of(command)
    return Done(status, out.getvalue(), err.getvalue())


def status_of(command: str) -> int:
    """Run the command of sys.argv; return its exit status."""
    name = command.rpartition(".")[2]
    main = command_module(command).main
    try:
        if name in POSITIONAL:
            return main()
        start(
            main,
            config_name=name,
            schema=schema_of(command),
            sweeps=name == "sweep",
            written=() if name == "export" else ("out",),
        )
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@contextlib.contextmanager
def process_state_kept() -> Iterator[None]:
    """Put back what a command changes in its process; Hydra and logging begin as in a new one."""
    folder, argv, environment = Path.cwd(), sys.argv, dict(os.environ)
    handlers, level = logging.root.handlers, logging.root.level
    off = logging.root.manager.disable
    heard = {s: signal.getsignal(s) for s in SIGNALS}
    logging.root.handlers = []
    os.environ.pop("HYDRA_FULL_ERROR", None)
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.chdir(folder)
        sys.argv = argv
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        logging.root.handlers = handlers
        logging.root.setLevel(level)
        logging.disable(off)
        GlobalHydra.instance().clear()
        if threading.current_thread() is threading.main_thread():
            for number, handler in heard.items():
                signal.signal(number, handler)
