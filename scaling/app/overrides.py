"""What a user typed, made into overrides that Hydra's grammar reads, or refused in one sentence.

A setting of text takes what follows `key=` as it is: `#`, `(`, `,`, `=`, quotes, any script. Quotes
around the whole are the user's own and fall away. Where a sweep may be meant (`scaling sweep`, or
`-m`) commas separate its values; a comma within one is quoted twice: `"data.text_key='a,b'"`. A
list is written in brackets, its parts as text is. `${key}` is another setting's value, and `\\${`
the two characters.
"""

import argparse
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from scaling import VERSION_LINE
from scaling.app.own_configs import choices, groups
from scaling.app.values import pasted, refusal

FUNCTIONS = ("choice(", "range(", "glob(", "interval(", "shuffle(", "sort(", "tag(")
OWN_LOGS = ("hydra/job_logging=none", "hydra/hydra_logging=none")  # our log lines stay as they are
LAUNCHER = {  # settings of conf/hydra/launcher that are text: sbatch and the shell read them
    **{f"hydra.launcher.{k}": str | None for k in ("partition", "account", "qos", "constraint")},
    "hydra.launcher.container": str,
    "hydra.launcher.setup": list[str],
}
PLACES = (("plan", ".yaml"), ("law", ".json"), ("checkpoint", ""), ("runs", ""), ("law", ""))


class WrongUsage(Exception):
    """An option that the command does not have; exit status 2."""


def prepared(arguments: Sequence[str], schema: type, *, sweeps: bool) -> list[str]:
    """Return the command line for Hydra: overrides first, then options.

    arguments: as the shell gave them
    schema: the config's dataclass
    sweeps: whether commas separate a sweep's values without `-m` too
    """
    for argument in arguments:
        if any("\ud800" <= c <= "\udfff" for c in argument):
            raise ValueError(
                f"{argument!r} is no text in UTF-8; rename the file, or set a UTF-8 locale"
            )
    overrides, options = parted(arguments)
    overrides = [in_full(o, getattr(schema, "SHORT", {})) for o in overrides]
    multirun = sweeps or any(o in ("-m", "--multirun") for o in options)
    multirun = multirun or "hydra.mode=MULTIRUN" in overrides
    known = leaves(schema)
    return [*OWN_LOGS, *(readable(o, known, schema, multirun) for o in overrides), *options]


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Say whether --help or -h is among the arguments."""
    return any(a in ("--help", "-h") for a in arguments)


def parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part overrides from options; WrongUsage for an option that there is not."""
    parser = get_args_parser()

    def wrong(message: str) -> None:
        raise WrongUsage(f"{message}; --help lists the keys, --hydra-help the options")

    parser.error = wrong  # type: ignore[method-assign,assignment]
    for action in parser._actions:
        if isinstance(action, argparse._VersionAction):
            action.version = VERSION_LINE  # ours, not Hydra's
    known, rest = parser.parse_known_args(list(arguments))
    if known.experimental_rerun:
        wrong("--experimental-rerun reads a pickle, which can run code; type the overrides")
    unknown = [r for r in rest if r.startswith("-")]
    if unknown:
        wrong(f"there is no option {' '.join(unknown)}")
    overrides = [*known.overrides, *rest]
    others, options = list(overrides), []
    for argument in arguments:
        if argument in others:
            others.remove(argument)
        else:
            options.append(argument)
    return overrides, options


def in_full(argument: str, short: Mapping[str, str]) -> str:
    """Return an override whose short key is written in full, as target=web for target.test_set=web.

    short: {key: key in full} of the schema; a key that is given a mapping is the group itself
    """
    key, equals, value = argument.partition("=")
    is_short = equals and key in short and not value.startswith("{")
    return f"{short[key]}={value}" if is_short else argument


def readable(argument: str, known: dict[str, Any], schema: type, multirun: bool) -> str:
    """Return one override as Hydra's grammar reads it; ValueError says what is wrong with it."""
    name, equals, value = argument.partition("=")
    if not equals:
        if name.startswith("~") and parsed(argument):
            return argument
        raise ValueError(no_override(argument, schema))
    key = name.lstrip("+").partition("@")[0]
    kind = known.get(key, LAUNCHER.get(key))
    multirun = multirun and key not in LAUNCHER  # a sweep has one launcher
    parent = key.rpartition(".")[0]
    if parent in known and not inside(key, known) and plain(known[parent]) is not Any:
        raise ValueError(f"unknown key {key!r}: {parent} is one value; write {parent}=VALUE")
    added = name.startswith("+") and any(k.startswith(f"{parent}.") for k in known)
    if key not in known and (added or not parsed(f"{name}=x")):
        raise ValueError(f"unknown key {key!r}{nearest(key, schema)}")
    if kind is not None and not name.startswith("~"):
        argument = f"{name}={written(key, value, kind, multirun)}"
    override = parsed(argument)
    if override is None and (kind is Any or inside(key, known)):
        return f"{name}={quoted(value)}"
    if override is None:
        raise ValueError((kind and refusal(key, value, kind)) or unread(key, value, schema))
    for one in each(override):
        if why := refusal(key, one, kind) if kind is not None else no_name(key, one, schema):
            raise ValueError(why)
    mapping = get_origin(plain(kind)) is dict and name == key
    return f"++{argument}" if mapping else argument  # a mapping's keys are the user's to choose


def no_name(key: str, value: Any, schema: type) -> str:
    """Say that a value is no name of a file of its group, or that its key is a whole section."""
    section = sorted(k for k in leaves(schema) if k.startswith(f"{key}."))
    if not key:
        return f"={value} names no key{nearest(key, schema)}"
    if key in groups():
        names = ", ".join(choices(key))
        return "" if isinstance(value, str) else f"{key}={value} is no choice; choose of {names}"
    if section and not isinstance(value, (str, dict)):
        return f"{key}={value}: {key} is a section, no value; its keys are {', '.join(section)}"
    return ""


def written(key: str, value: str, kind: Any, multirun: bool) -> str:
    """Return the value of a known setting, text quoted so that the grammar takes it as it is."""
    kind = plain(kind)
    open_list = kind is Any and value.strip().startswith("[")  # of texts or numbers
    if kind is int:
        return ",".join(map(whole, value.split(",")))
    if kind not in (str, list[str]) and not open_list:
        return value
    if multirun and value.strip().startswith(FUNCTIONS):
        return value
    parts = commas(value) if multirun else [value]
    if kind is str:
        return ",".join(map(text, parts))
    if len(parts) > 1 and "[" not in value and not open_list:
        parts = [value]  # no sweep of lists but one list without its brackets
    return ",".join(list_text(key, p, numbers=open_list) for p in parts)


def whole(value: str) -> str:
    """Write a whole number with an exponent, as 1e9, in digits; return anything else as it is."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)[eE]\+?(\d{1,2})\s*", value)
    if not match:
        return value
    number = Decimal(match[1]).scaleb(int(match[2]))
    return str(int(number)) if number == int(number) else value


def text(value: str) -> str:
    """Quote a text, unless it is quoted or the word null."""
    override = parsed(f"x={value}")
    own = override is not None and isinstance(override._value, QuotedString)
    return value if own or value.strip().lower() == "null" else quoted(value)


def list_text(key: str, value: str, *, numbers: bool) -> str:
    """Quote the parts of a list in brackets, but for `numbers`; ValueError for one without."""
    inner = value.strip()
    if inner.startswith("${") or inner.lower() == "null":
        return value
    if not (inner.startswith("[") and inner.endswith("]")):
        bare = inner.removeprefix("[").removesuffix("]")
        raise ValueError(f"{key}={value} is no list; write {pasted(f'{key}=[{bare}]')}")
    parts = [p.strip() for p in commas(inner[1:-1])]
    if parts == [""]:
        return "[]"
    return "[" + ",".join(p if numbers and is_number(p) else text(p) for p in parts) + "]"


def is_number(part: str) -> bool:
    """Say whether the grammar reads a number or another list."""
    override = parsed(f"x={part}")
    return override is not None and isinstance(override._value, (int, float, list))


def quoted(value: str) -> str:
    """Return a text in quotes that Hydra takes off again."""
    return QuotedString(text=value, quote=Quote.single).with_quotes()


def commas(value: str, brackets: str = "([{") -> list[str]:
    """Part a value at the commas that are in no quotes, brackets, braces or parentheses.

    Brackets that are not closed are letters like others.
    """
    parts, depth, quote = [""], 0, ""
    for i, letter in enumerate(value):
        if quote:
            quote = "" if letter == quote and value[i - 1] != "\\" else quote
        elif letter in "'\"" and not parts[-1].strip():
            quote = letter  # an apostrophe within a word opens nothing
        elif letter in brackets:
            depth += 1
        elif brackets and letter in ")]}":
            depth -= 1
        if letter == "," and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return commas(value, "") if depth else parts


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def parsed(argument: str) -> Override | None:
    """Parse an override; None where the grammar refuses it."""
    try:
        return _parser().parse_override(argument)
    except (HydraException, ValueError, OverflowError, RecursionError):
        return None


def each(override: Override) -> list[Any]:
    """Return the values of an override: those of a sweep, or the one."""
    if not override.is_sweep_override():
        return [] if override.is_delete() else [override.value()]
    return list(override.sweep_iterator()) if override.is_choice_sweep() else []


def unread(key: str, value: str, schema: type) -> str:
    """Say that a value cannot be read, or that its key is not there."""
    if not key.startswith("hydra") and key not in groups():
        return f"unknown key {key!r}{nearest(key, schema)}"
    return (
        f"{key}={value!r} cannot be read: brackets or quotes are left open, or it holds signs that"
        f" text in quotes alone may; write {pasted(f'{key}={quoted(value)}')}"
    )


def no_override(argument: str, schema: type) -> str:
    """Say that an argument names no setting, and which one it may be the value of."""
    own = {f.name for f in dataclasses.fields(schema)}
    looks = Path(argument).exists() or "/" in argument or argument.endswith((".yaml", ".json"))
    if argument in groups() or argument in leaves(schema):
        return f"{argument!r} has no value; write {argument}=VALUE"
    for name, ending in PLACES if looks else ():
        if name in own and argument.endswith(ending):
            hint = pasted(f"{name}={argument}")
            return f"{argument!r} is the value of no setting; did you mean {hint} ?"
    return (
        f"{argument!r} is neither key=value nor an option; keys are {', '.join(sorted(own))}, and "
        "--help lists them all"
    )


def nearest(key: str, schema: type) -> str:
    """Name the legal keys: the closest ones, then all those of the same level."""
    keys = list(leaves(schema))
    tops = {k.partition(".")[0] for k in keys} | (groups() if "model.n_layer" in keys else set())
    return near(key, [*keys, *sorted(tops - set(keys))])


def near(key: str, keys: Sequence[str]) -> str:
    """Name the closest keys, then all those of the level of `key`."""
    close = difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
    parent = key.rpartition(".")[0]
    level = sorted(
        {
            k.removeprefix(f"{parent}.").split(".")[0]
            for k in keys
            if not parent or k.startswith(f"{parent}.")
        }
    )
    names = level or sorted({k.partition(".")[0] for k in keys})
    hint = f"; did you mean {' or '.join(close)}?" if close else ";"
    under = f" under {parent}" if level and parent else ""
    return f"{hint} valid keys{under}: {', '.join(names)}"


def inside(key: str, known: dict[str, Any]) -> bool:
    """Say whether a key lies in a setting that is a mapping."""
    parents = (key.rsplit(".", i)[0] for i in range(1, key.count(".") + 1))
    return any(get_origin(plain(known.get(p))) is dict for p in parents)


def plain(kind: Any) -> Any:
    """Return a type without its `| None`."""
    if get_origin(kind) in (UnionType, Union):
        return next(a for a in get_args(kind) if a is not type(None))
    return kind


@cache
def leaves(schema: type, prefix: str = "") -> dict[str, Any]:
    """Return the types of a config dataclass by dotted key."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(schema).items():
        key = f"{prefix}{name}"
        types |= leaves(kind, f"{key}.") if dataclasses.is_dataclass(kind) else {key: kind}  # type: ignore[arg-type]
    return types
