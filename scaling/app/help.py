"""What `--help` prints: what a command does, every key with its default and a sentence, options.

A key's sentence is the text below its field in the config's dataclass, which Python itself drops:
it is read from the source, which a wheel carries too. The line of a block is the first of its
dataclass' docstring. Defaults are the dataclass' own, or those of conf/<command>.yaml over them.
"""

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from scaling.app.conf_folder import conf_folder
from scaling.schema import OneOf, Range, limits_of

WIDTH = 100  # columns of the text
INDENT = 2
KEYS = 34  # columns of `key=default`; a longer one has a line of its own
FAR_END = 1e5  # an end of a range from here on refuses nonsense and tells a reader nothing
GROUPS = {  # folders of conf/ -> what one of their files sets
    "model": "Rung of the ladder (layers and width), named by its non-embedding parameters",
    "data": "Kind of text",
    "schedule": "Learning-rate schedule",
    "sweeps": "Study: the keys of a file in sweeps/, above all the grid in hydra.sweeper.params",
    "examples": "Known case of a plan, in examples/",
    "hydra/launcher": "Where the cells of a sweep run",
    "hydra/sweeper": "Which cells a sweep runs",
}
ABOUT = {  # kinds of launcher and sweeper, whose names say little
    "local": "a pool of processes on this machine",
    "slurm": "SLURM jobs",
    "grid": "the product of all lists of values",
    "design": "cells chosen in batches for the forecast at target.flops",
}
OPTIONS = """\
--cfg job prints the composed settings alone, --info how they came about, and -m runs every
combination of values that are separated by commas. Hydra composes the settings: --hydra-help lists
its other options. HYDRA_FULL_ERROR=1 before a command shows an error's traceback.
"""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key as it is shown."""

    name: str
    default: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """The keys of one dataclass, `name` being their common part, with the line about it."""

    name: str
    line: str
    keys: list[Key]


def help_text(
    main: Callable[[Any], None],
    *,
    config_name: str,
    schema: type,
    launcher: type | None = None,
) -> str:
    """Return the help of a command.

    main: the command's function, whose module's docstring says what it does
    config_name: conf/<config_name>.yaml, whose values stand over the dataclass' defaults
    schema: the config's dataclass
    launcher: the dataclass of the keys hydra.launcher.*, for a command that has a launcher
    """
    descriptions = _written(config_name)
    module = sys.modules[main.__module__]
    parts = [inspect.getdoc(module) or "", same_command(inspect.getsourcefile(module) or "")]
    if groups := chosen_groups(config_name):
        parts.append("Choices, as key=NAME:\n\n" + "\n".join(map(_group_text, groups.items())))
    parts.append("Keys, as key=value, with their defaults:")
    parts += [_block_text(b) for b in blocks(schema, descriptions=descriptions)]
    if launcher:
        parts += [_block_text(b) for b in blocks(launcher, "hydra.launcher.")]
    return "\n\n".join([*parts, OPTIONS])


def same_command(path: str) -> str:
    """Return the line that says how `scaling NAME` is run as a module; `path`: the module's."""
    file = Path(path)
    return f"`python -m {file.parent.name}.{file.stem}` is the same command."


def blocks(
    schema: type, prefix: str = "", *, descriptions: Mapping[str, Any] | None = None
) -> Iterator[Block]:
    """Yield the blocks of a config, its own keys first.

    schema: a dataclass
    prefix: what stands before its keys, with its dot
    written: values that stand over the dataclass' defaults
    """
    descriptions = descriptions or {}
    hints = get_type_hints(schema)
    nested = [f.name for f in fields(schema) if is_dataclass(hints[f.name])]
    own = [
        _key(schema, f, f"{prefix}{f.name}", hints[f.name], descriptions)
        for f in fields(schema)
        if f.name not in nested
    ]
    if own:
        line = (inspect.getdoc(schema) or "").partition("\n\n")[0]
        yield Block(name=prefix.removesuffix("."), line=" ".join(line.split()), keys=own)
    for name in nested:
        below = descriptions.get(name)
        inner = below if isinstance(below, Mapping) else {}
        yield from blocks(hints[name], f"{prefix}{name}.", descriptions=inner)


@functools.cache
def sentences(schema: type) -> Mapping[str, str]:
    """Return the sentence below each field of a dataclass, its bases' too, by the field's name."""
    texts: dict[str, str] = {}
    for base in filter(is_dataclass, schema.__bases__):
        texts |= sentences(base)
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    assert isinstance(node, ast.ClassDef)
    for field, below in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        value = below.value if isinstance(below, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts[field.target.id] = " ".join(value.value.split())
    return texts


def chosen_groups(config_name: str) -> dict[str, str]:
    """Return the folders of conf/ that a command takes a file of, with the one it takes itself."""
    entries = _file(config_name).get("defaults", [])
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {str(k).removeprefix("override "): str(v or "null") for k, v in pairs}


def choices_of(group: str) -> Sequence[str]:
    """Return the names of a folder's files, those of sizes in order of size."""
    return sorted((p.stem for p in (conf_folder() / group).glob("*.yaml")), key=_size)


def _size(name: str) -> tuple[float, str]:
    unit = {"k": 1e3, "m": 1e6}.get(name[-1:], 0.0)
    digits = name[1:-1]
    return (float(digits) * unit if unit and digits.isdigit() else 0.0, name)


def _written(config_name: str) -> Mapping[str, Any]:
    return {k: v for k, v in _file(config_name).items() if k not in ("defaults", "hydra")}


def _file(config_name: str) -> dict[str, Any]:
    """Return a command's file of conf/, references to other settings as they are written."""
    config = OmegaConf.load(conf_folder() / f"{config_name}.yaml")
    values = OmegaConf.to_container(config, resolve=False)
    return {str(k): v for k, v in values.items()} if isinstance(values, dict) else {}


def _key(schema: type, field: Field[Any], name: str, kind: Any, written: Mapping[str, Any]) -> Key:
    value: Any = None
    if field.name in written:
        value = written[field.name]
    elif field.default is not MISSING:
        value = field.default
    elif field.default_factory is not MISSING:
        value = field.default_factory()
    legal = _legal(kind, limits_of(schema).get(field.name))
    sentence = sentences(schema).get(field.name, "")
    return Key(
        name=name, default=shown(value), sentence=f"{sentence} ({legal})" if legal else sentence
    )


def shown(value: Any) -> str:
    """Return a default as it can be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value) or "''"


def _legal(kind: Any, limit: Range | OneOf | None) -> str:
    """Say which values a key takes: its choices, or its type and range; empty for plain text."""
    options = [k for k in get_args(kind) if k is not NoneType] if NoneType in get_args(kind) else []
    kind = options[0] if options else kind
    outer, inner = get_origin(kind), (get_args(kind) or (kind,))[-1]
    if isinstance(limit, OneOf):
        start = "list of" if outer is list else "one of"
        return f"{'empty, or ' if limit.holds('') else ''}{start} {limit}"
    if isinstance(limit, Range):
        noun = "whole number" if inner is int else "number"
        before = {list: "list, each a ", dict: "names, each with a "}.get(outer, "")
        return before + _range_text(noun, limit)
    if outer is list:
        return "list"
    return "true or false" if kind is bool and options else ""


def _range_text(noun: str, limit: Range) -> str:
    """Say a range briefly, without an end that only refuses nonsense."""
    if limit.least == limit.most:
        return f"{noun} {limit.least:g}"
    low, high = f"{limit.least:g}", f"{limit.most:g}"
    also = "".join(f", or {value:g}" for value in limit.also)
    start = f" above {low}" if limit.above else f" from {low}"
    if limit.most >= FAR_END:
        start = start if limit.above else f", at least {low}"
        return (noun if limit.least <= -FAR_END else f"{noun}{start}") + also
    if limit.above or limit.below:
        return f"{noun}{start}, {'below' if limit.below else 'at most'} {high}{also}"
    return f"{noun}{start} to {high}{also}"


def _group_text(item: tuple[str, str]) -> str:
    group, default = item
    names = [f"{n} ({ABOUT[n]})" if n in ABOUT else n for n in choices_of(group)]
    about = f"{GROUPS[group]}: {', '.join(names)}." if group in GROUPS else f"{', '.join(names)}."
    return _entry(f"{group}={default}", about)


def _block_text(block: Block) -> str:
    lines = [_entry(f"{k.name}={k.default}", k.sentence) for k in block.keys]
    head = f"{block.name}: {block.line}" if block.name else block.line
    return "\n".join([textwrap.fill(head, WIDTH), *lines])


def _entry(key: str, sentence: str) -> str:
    """Return a key and its sentence in two columns."""
    indent = " " * KEYS
    text = textwrap.fill(
        sentence, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    start = " " * INDENT + key
    if len(start) + 2 > KEYS:
        return f"{start}\n{text}"
    return start.ljust(KEYS) + text[KEYS:]
