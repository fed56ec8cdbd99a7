"""Whether a value fits the type of its setting, and one sentence where it does not."""

import math
import shlex
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

YES_NO = ("true", "false", "yes", "no", "on", "off", "y", "n", "1", "0")  # OmegaConf's words
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
LONGEST = 80  # characters of a value in a sentence
EXAMPLES = {int: "2", float: "0.1", bool: "true"}


def pasted(word: str) -> str:
    """Return one word of a command so that it can be pasted into a shell."""
    plain = "'" in word and not any(c in word for c in '"$`\\!')
    return f'"{word}"' if plain else shlex.quote(word)


def refusal(key: str, value: Any, kind: Any) -> str:
    """Say why a value does not fit; empty where it does, or where its type says nothing.

    key: the setting, dotted
    value: what was parsed, or read from a file
    kind: the type that the dataclass gives it
    """
    if get_origin(kind) is dict:
        return _mapping(key, value, kind)
    options = get_args(kind) if get_origin(kind) in (UnionType, Union) else (kind,)
    if value is None:
        if NoneType in options or kind is Any:
            return ""
        word = "for the word write " + pasted(f"{key}='null'") if kind is str else ""
        return f"{key}=null is no {WORDS.get(kind, 'list')}; {word or 'leave it out'}"
    kind = next(o for o in options if o is not NoneType)
    if isinstance(value, str) and "${" in value:
        return ""
    if get_origin(kind) is list:
        if not isinstance(value, list):
            return f"{key}={shown(value)} is no list; write {pasted(f'{key}=[{value}]')}"
        refusals = (refusal(key, part, get_args(kind)[0]) for part in value)
        return next((why for why in refusals if why), "")
    if kind is str and isinstance(value, (list, dict)):
        return f"{key}={shown(value)} is no text; put quotes around it"
    return _number(key, value, kind) if kind in EXAMPLES else ""


def _mapping(key: str, value: Any, kind: Any) -> str:
    """Say why a value is no mapping from names to values, as {web: [a.jsonl]} is one to lists."""
    of = get_args(kind)[1]
    form = pasted(f"{key}={{NAME: {'[FILE]' if get_origin(of) is list else 'VALUE'}}}")
    if isinstance(value, str) and value.strip().startswith("{"):
        return (
            f"{key}={shown(value)} cannot be read; write {form}: a NAME is letters, digits, _ - ."
            " without quotes, and a value with other signs stands in quotes"
        )
    if not isinstance(value, dict):
        what = f"{key}={shown(value)}" if value is not None else key  # null: a list of a file
        return f"{what} is no mapping from names; write {form}"
    for name, one in value.items():
        if get_origin(of) is list and not isinstance(one, list):
            fix = pasted(f"{key}={{{name}: [{one}]}}")
            return f"{key}.{name}={shown(one)} is no list; write {fix}"
        if why := refusal(f"{key}.{name}", one, of):
            return why
    return ""


def shown(value: Any) -> str:
    """Return a value as Python writes it, long ones cut."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _number(key: str, value: Any, kind: type) -> str:
    if kind is bool:
        fits = isinstance(value, bool) or str(value).lower() in YES_NO
    else:
        number = _float(value)
        if number is not None and kind is int and _is_whole(value, number):
            return f"{key}={value} is no whole number as it is written; write {key}={int(number)}"
        fits = number is not None and (kind is float or not isinstance(value, float))
        fits = fits and (kind is float or _int(value))
        if fits and number is not None and not math.isfinite(number):
            return f"{key}={shown(value)} is no finite number; give one, as {key}=0.1"
    if fits:
        return ""
    return f"{key}={shown(value)} is no {WORDS[kind]}; give one, as {key}={EXAMPLES[kind]}"


def _is_whole(value: Any, number: float) -> bool:
    return isinstance(value, float) and math.isfinite(number) and number.is_integer()


def _float(value: Any) -> float | None:
    """Return a number or the number that a text spells; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf


def _int(value: Any) -> bool:
    try:
        int(value)
    except ValueError:
        return False
    return True
