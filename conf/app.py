"""How every application of the project starts: Hydra, plain log lines, one-sentence errors.

    from conf.app import start
    store("fit", FitConfig)                     # once, at import of the application module
    if __name__ == "__main__":
        start(main, config_name="fit", schema=FitConfig)     # main(config: FitConfig) -> None

`start` composes conf/<config_name>.yaml (whose defaults list begins with `schema_<config_name>`),
turns the result into the dataclass (so `__post_init__` checks it) and calls `main`. A mistake of
the user (ValueError, OSError, a wrong key) ends in one sentence on stderr and exit status 1, with
the traceback only under HYDRA_FULL_ERROR=1. Values of `free_text` keys may hold anything, as in
`where=group == 'x'`, which Hydra's own grammar refuses.
"""

import dataclasses
import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONF = Path(__file__).resolve().parent
T = TypeVar("T")
OWN_LOGS = (
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)  # Hydra leaves our log lines alone


def store(name: str, schema: type) -> None:
    """Register a dataclass as `schema_<name>`, the first entry of conf/<name>.yaml's defaults."""
    ConfigStore.instance().store(name=f"schema_{name}", node=schema)


def start(
    main: Callable[[Any], None],
    *,
    config_name: str,
    schema: type,
    free_text: Sequence[str] = ("where", "runs", "out", "plan", "law"),
) -> None:
    """Run `main` on the composed config and exit with its status."""
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us; hydra would print several lines
    sys.argv = [sys.argv[0], *with_own_logs([quoted(a, free_text) for a in sys.argv[1:]])]

    log_to()

    raised: list[Exception] = []

    def task(config: DictConfig) -> None:
        try:
            main(to_dataclass(config, schema))
        except Exception as error:  # noqa: BLE001  raised again below: hydra would print a line of its own
            raised.append(error)

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)()
        if raised:
            raise raised[0]
    except KeyboardInterrupt:
        sys.exit(130)
    except (HydraException, OmegaConfBaseException, ValueError, OSError, RuntimeError) as error:
        if full:
            raise
        sys.stdout.flush()
        sys.stderr.write(f"error: {sentence(error, schema)}\n")
        sys.exit(1)


def with_own_logs(arguments: list[str]) -> list[str]:
    """Add our logging overrides beside the others: argparse takes overrides in one run only."""
    first = next(
        (i for i, a in enumerate(arguments) if "=" in a and not a.startswith("-")), len(arguments)
    )
    return [*arguments[:first], *OWN_LOGS, *arguments[first:]]


def to_dataclass(config: DictConfig, schema: type[T]) -> T:
    """Turn a composed config into its dataclass, nested ones included."""
    value = OmegaConf.to_object(config)
    if not isinstance(value, schema):
        raise ValueError(f"the config composes to {type(value).__name__}, not {schema.__name__}")
    return value


def quoted(argument: str, free_text: Sequence[str]) -> str:
    """Quote the value of a free-text override that Hydra's grammar cannot parse."""
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in free_text or value[:1] in ("'", '"', "["):
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'{key}="{escaped}"'
    return argument


def sentence(error: BaseException, schema: type) -> str:
    """Say in one sentence what was wrong; a wrong key is answered with the right ones."""
    if isinstance(error, PermissionError) and error.filename:
        return f"permission denied: {error.filename}; ask its owner for it (chmod), or name another"
    text = " ".join(str(error).split()) or type(error).__name__
    wrong = re.search(
        r"Could not override '([^']+)'|Key '([^']+)' (?:is )?not in|Could not find '([^']+)'", text
    )
    if not wrong and text.startswith("Error merging override") and error.__cause__:
        return f"{text}: {' '.join(str(error.__cause__).splitlines()[0].split())}"
    if not wrong:
        return text.removesuffix(
            " See https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details"
        )
    key = next(group for group in wrong.groups() if group)
    if "/" in key:
        return text
    return f"unknown key {key!r}{nearest(key, schema)}"


def nearest(key: str, schema: type) -> str:
    """Name the legal keys: the closest ones, then all those of the same level."""
    keys = list(leaves(schema))
    close = difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
    parent = key.rpartition(".")[0]
    level = sorted(
        {
            k.removeprefix(f"{parent}.").split(".")[0]
            for k in keys
            if not parent or k.startswith(f"{parent}.")
        }
    )
    hint = f"; did you mean {' or '.join(close)}?" if close else ";"
    under = f" under {parent}" if level and parent else ""
    return f"{hint} valid keys{under}: {', '.join(level or sorted(keys))}"


def leaves(schema: type, prefix: str = "") -> list[str]:
    """List the dotted keys of a config dataclass."""
    names = []
    for field in dataclasses.fields(schema):
        name = f"{prefix}{field.name}"
        kind = (
            field.default_factory if dataclasses.is_dataclass(field.default_factory) else field.type
        )
        names += leaves(kind, f"{name}.") if dataclasses.is_dataclass(kind) else [name]  # type: ignore[arg-type]
    return names


def log_to(stream: Any = None, level: int = logging.INFO) -> None:
    """Send plain log lines (time, message) to a stream, stderr by default."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
