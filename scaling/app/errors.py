"""One sentence of what went wrong, for people: what, the value, what is legal, what to do.

What our own code raises is such a sentence already. Hydra's and OmegaConf's errors and the
operating system's are told in our words. Anything else was not foreseen: the sentence says so, and
how to see where it came from.
"""

import difflib
import dis
import errno
import re
from pathlib import Path
from types import TracebackType

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)
from yaml import YAMLError

from scaling.app.conf_folder import conf_folder
from scaling.app.overrides import leaves, near, nearest
from scaling.app.own_configs import groups, own_file
from scaling.app.values import refusal

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("analysis", "scaling", "hydra_plugins")
OURS = tuple(f"{ROOT / name}/" for name in ROOMS)
LONGEST = 300  # characters of a message that is not ours
FULL = "HYDRA_FULL_ERROR=1 before the command shows where"
REFERS = (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationResolutionError,
    UnsupportedInterpolationType,
)
FIXES = {
    errno.EACCES: "ask its owner for it (chmod), or name another",
    errno.EPERM: "ask its owner for it (chmod), or name another",
    errno.EROFS: "name another place",
    errno.ENOSPC: "free space, or name another disk",
    errno.EDQUOT: "free space, or name another disk",
    errno.EISDIR: "name a file, not a folder",
    errno.ENOTDIR: "name a folder, not a file",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "mend the link",
}


def sentence(error: BaseException, schema: type | None) -> str:
    """Say in one sentence what was wrong; `schema` names the legal keys of a Hydra command."""
    of_hydra = composing(error, schema) if schema else ""
    if of_hydra:
        return of_hydra
    text = flat(str(error))
    ours = type(error).__module__.partition(".")[0] in ROOMS
    if ours or (isinstance(error, (OSError, ValueError, RuntimeError)) and raised_by_us(error)):
        return text or type(error).__name__
    if isinstance(error, OSError):
        return of_system(error)
    if isinstance(error, MemoryError):
        return f"memory does not suffice ({text or 'no size given'}); ask for less, or {FULL}"
    if isinstance(error, HydraException) or raised_by_hydra(error):
        return text.split(" See https://")[0]
    return f"not foreseen: {type(error).__name__}: {text[:LONGEST]}; {FULL}"


def flat(text: str) -> str:
    """Put a message on one line."""
    return " ".join(text.split())


def raised_by_us(error: BaseException) -> bool:
    """Say whether one of our `raise` statements made an error, and so its sentence.

    An error that a call of ours fell into (int("x"), json, numpy) has another instruction last.
    """
    last = origin(error)
    if last is None:
        return False
    code = last.tb_frame.f_code
    instruction = dis.opname[code.co_code[last.tb_lasti]]
    return code.co_filename.startswith(OURS) and instruction == "RAISE_VARARGS"


def raised_by_hydra(error: BaseException) -> bool:
    """Say whether Hydra refused the command, as it does in plain errors too."""
    last = origin(error)
    return last is not None and str(last.tb_frame.f_globals["__name__"]).startswith("hydra.")


def origin(error: BaseException) -> TracebackType | None:
    """Return the innermost entry of an error's traceback."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last


def of_system(error: OSError) -> str:
    """Say what the operating system refused, and what to do about it."""
    why = error.strerror or flat(str(error)) or type(error).__name__
    name = f": {error.filename}" if error.filename else ""
    return f"{why[0].lower()}{why[1:]}{name}; {FIXES.get(error.errno or 0, FULL)}"


# --- Hydra and OmegaConf ------------------------------------------------------------------------


def composing(error: BaseException, schema: type) -> str:
    """Say what was wrong with a config; empty for an error of another kind."""
    if isinstance(error, MissingConfigException):
        return no_choice(error)
    if isinstance(error, YAMLError):
        return f"a file is not valid YAML ({flat(str(error))[:LONGEST]}); correct it"
    if isinstance(error, ConfigCompositionException) and (
        match := re.match(r"In '([^']+)': \w+ raised while composing", str(error))
    ):
        return in_file(match[1], error.__context__, schema)
    inner = error.__cause__ if isinstance(error, HydraException) else error
    if isinstance(inner, OmegaConfBaseException):
        return of_value(inner, schema, str(error))
    if match := re.search(r"Could not override '([^']+)'", str(error)):
        if match[1] in groups():
            return (
                f"{match[1]} is a group that the command's file does not list; write +{match[1]}="
            )
        return f"unknown key {match[1]!r}{nearest(match[1], schema)}"
    return ""


def in_file(name: str, error: BaseException | None, schema: type) -> str:
    """Say what is wrong with a file of conf/ or sweeps/, a user's own above all."""
    file = own_file(name) or conf_folder() / f"{name}.yaml"
    why = of_value(error, schema, "") if isinstance(error, OmegaConfBaseException) else ""
    return f"{file}: {why or flat(str(error))[:LONGEST]}"


def of_value(error: OmegaConfBaseException, schema: type, said: str) -> str:
    """Say what is wrong with a setting of a config or of a file that is merged into it."""
    key = error.full_key or ""
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)):
        match = re.search(r"Could not override '([^']+)'", said)
        return unknown(key or (match[1] if match else ""), error, schema)
    if isinstance(error, MissingMandatoryValue):
        return f"{key or 'a setting'} has no value; give one, as {key or 'key'}=VALUE"
    if isinstance(error, REFERS):
        why = flat((error.msg or str(error)).splitlines()[0])
        return (
            f"{key or 'a setting'} refers to another setting that cannot be read ({why}); write"
            r" \${ for the two characters themselves"
        )
    kind = leaves(schema).get(key)
    why = refusal(key, error.value, kind) if kind is not None else ""
    if why:
        return why
    text = flat((error.msg or str(error)).splitlines()[0])
    return f"{key}: {text}" if key and key not in text else text


def unknown(key: str, error: OmegaConfBaseException, schema: type) -> str:
    """Say that a key is not there, and which are."""
    keys = list(leaves(schema))
    parent = key.rpartition(".")[0]
    if key.startswith("hydra"):
        try:
            keys = [f"{parent}.{k}" for k in error.parent_node]
        except Exception:  # noqa: BLE001  a node that cannot be listed: no hint then
            keys = []
        if not keys:
            return f"unknown key {key!r}; python -m ... --cfg hydra lists those of hydra"
        return f"unknown key {key!r}{near(key, keys)}"
    if any(k == parent for k in keys):
        return f"unknown key {key!r}: {parent} is one value; write {parent}=VALUE"
    return f"unknown key {key!r}{nearest(key, schema)}"


def no_choice(error: MissingConfigException) -> str:
    """Say that a group has no such choice, and which are."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    options = sorted(error.options or ())
    if not group or not options:
        return flat(str(error)).split(" Config search path")[0]
    close = difflib.get_close_matches(name, options, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{group}={name} is no choice; {hint}choose one of {', '.join(options)}"
