"""How every application of the project starts: Hydra, plain log lines, one-sentence errors.

    from scaling.app.application import start
    store("fit", FitConfig)                     # once, at import of the application module
    if __name__ == "__main__":
        start(main, config_name="fit", schema=FitConfig)     # main(config: FitConfig) -> None

`start` composes conf/<config_name>.yaml (whose defaults list begins with `schema_<config_name>`),
turns the result into the dataclass (so `__post_init__` checks it) and calls `main`. What is typed
is read by scaling.app.overrides. Every error ends in one sentence on stderr (scaling.app.errors)
and exit status 1, 2 for an option that there is not; HYDRA_FULL_ERROR=1 shows the traceback
instead.
"""

import dataclasses
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from scaling.app.conf_folder import conf_folder
from scaling.app.errors import sentence
from scaling.app.help import help_text
from scaling.app.overrides import WrongUsage, asks_for_help, nearest, prepared
from scaling.app.own_configs import add_settings
from scaling.schema import destination

T = TypeVar("T")
_TYPED: list[str] = []  # the arguments of the command that this process runs


def typed_arguments() -> list[str]:
    """Return what was typed after the command; [] where code was called without a command."""
    return list(_TYPED)


def store(name: str, schema: type) -> None:
    """Register a dataclass as `schema_<name>`, the first entry of conf/<name>.yaml's defaults."""
    ConfigStore.instance().store(name=f"schema_{name}", node=schema)
    add_settings(schema)


def start(
    main: Callable[[Any], None],
    *,
    config_name: str,
    schema: type,
    sweeps: bool = False,
    written: Sequence[str] = ("out",),
    launcher: type | None = None,
) -> None:
    """Run `main` on the composed config and exit with its status.

    main: takes the dataclass
    config_name: conf/<config_name>.yaml
    schema: the dataclass
    sweeps: whether commas separate the values of a sweep without `-m` too
    written: settings that name a file to write, checked before the work that fills it
    launcher: the dataclass of hydra.launcher.*, which --help explains, for a command that has one
    """
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    with one_sentence(schema, full=full), full_errors():
        if asks_for_help(sys.argv[1:]):
            text = help_text(main, config_name=config_name, schema=schema, launcher=launcher)
            sys.stdout.write(text)
            return
        _TYPED[:] = sys.argv[1:]
        sys.argv = [sys.argv[0], *prepared(sys.argv[1:], schema, sweeps=sweeps)]
        log_to()
        raised: list[Exception] = []

        def task(config: DictConfig) -> None:
            try:
                settings = to_dataclass(config, schema)
                for name in written:
                    if getattr(settings, name, None):
                        destination(getattr(settings, name))
                main(settings)
            except Exception as error:  # noqa: BLE001  raised again below: hydra would print a line
                raised.append(error)

        try:
            hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)(
                task
            )()
        finally:
            _TYPED.clear()
        if raised:
            raise raised[0]


@contextmanager
def full_errors() -> Iterator[None]:
    """Let Hydra raise its errors, of which it would print several lines, for this command alone."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextmanager
def one_sentence(schema: type | None = None, *, full: bool) -> Iterator[None]:
    """End the process on an error with one sentence; `full` lets the traceback through.

    Warnings of numbers (numpy's overflows on the way to a minimum) are shown with it alone: what
    comes out is checked.
    """
    with warnings.catch_warnings():
        if not full:
            warnings.simplefilter("ignore", RuntimeWarning)
        try:
            yield
            sys.stdout.flush()
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if full:
                raise
            end(sentence(error, schema), status=2 if isinstance(error, WrongUsage) else 1)


def end(text: str, *, status: int) -> None:
    """Write an error's sentence, which may repeat a file's words, and leave."""
    text = "".join(c if c.isprintable() else "?" for c in text)  # an escape steers the terminal
    try:
        sys.stdout.flush()
    finally:
        sys.stderr.write(f"error: {text}\n")
        sys.exit(status)


def to_dataclass(config: DictConfig, schema: type[T]) -> T:
    """Turn a composed config into its dataclass, nested ones included."""
    field_names = {f.name for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    for key in map(str, config):
        if key not in field_names:  # added with `+`
            raise ValueError(f"unknown key {key!r}{nearest(key, schema)}")
    value = OmegaConf.to_object(config)
    if not isinstance(value, schema):
        raise ValueError(f"the config composes to {type(value).__name__}, not {schema.__name__}")
    return value


class Printable(logging.Formatter):
    """Formats lines without the characters that steer a terminal; a file may hold any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record; line ends and tabs stay."""
        text = super().format(record)
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def log_to(stream: Any = None, level: int = logging.INFO) -> None:
    """Send plain log lines (time, message) to a stream, stderr by default."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Printable("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
