"""A programmatic judge of completions: the known gold reward that a reward model stands in for.

It scores a body for a prompt of signature and docstring in [0, 1], as a weighted mean of checks
that need no execution: has it ended, does signature + body parse, how far does it parse, are the
names it reads known, does it use the arguments, does it act, does it repeat itself, is its length
that of a short body. Dense enough that weak models get varied scores. Code is parsed, never run.
"""

import ast
import builtins
import math
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache

WEIGHTS = {
    "ended": 0.1,
    "parses": 0.15,
    "leading": 0.15,
    "known": 0.15,
    "arguments": 0.2,
    "acts": 0.05,
    "varied": 0.05,
    "length": 0.15,
}
SHORT, LONG = 60, 240  # characters of a body between which its length is not held against it
WORD = re.compile(r"[A-Za-z_]\w*")
TOKEN = re.compile(r"\w+|[^\w\s]")
ACTS = re.compile(r"^\s*(return|raise|yield)\b", re.MULTILINE)
CHANGES = re.compile(r"[^=!<>]=[^=]|\w\(")  # assigns or calls
Function = ast.FunctionDef | ast.AsyncFunctionDef
BUILTINS = frozenset(dir(builtins))


def gold_scores(
    prompts: Sequence[str], completions: Sequence[str], ended: Sequence[bool]
) -> list[float]:
    """Return the score of each completion for its prompt, in [0, 1]."""
    rows = zip(prompts, completions, ended, strict=True)
    return [sum(WEIGHTS[k] * v for k, v in verdict(p, c, ended=e).items()) for p, c, e in rows]


def verdict(prompt: str, completion: str, *, ended: bool) -> dict[str, float]:
    """Return each check's value in [0, 1], by name; `ended` says whether END was reached."""
    if not completion.strip():
        return dict.fromkeys(WEIGHTS, 0.0)
    tree, leading = parse(prompt, completion)
    arguments = argument_names(prompt)
    words = set(WORD.findall(completion))
    return {
        "ended": float(ended),
        "parses": float(tree is not None),
        "leading": leading,
        "known": known_share(tree) if tree else 0.0,
        "arguments": len(words & arguments) / len(arguments) if arguments else 1.0,
        "acts": 1.0 if ACTS.search(completion) else 0.5 * bool(CHANGES.search(completion)),
        "varied": varied(completion),
        "length": length_score(len(completion)),
    }


def parse(prompt: str, completion: str) -> tuple[Function | None, float]:
    """Parse prompt and completion as one function.

    Returns it, or None where they are none, and the share of the completion's characters that
    stand before the first error.
    """
    source = prompt + completion.rstrip() + "\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
        except SyntaxError as error:
            return None, share_before(error, prompt, completion)
        except (ValueError, RecursionError, MemoryError):
            return None, 0.0
    if len(tree.body) == 1 and isinstance(tree.body[0], Function) and len(tree.body[0].body) > 1:
        return tree.body[0], 1.0
    return None, 0.5  # it parses, but leaves the function or adds nothing to it


def share_before(error: SyntaxError, prompt: str, completion: str) -> float:
    """Return the share of the completion's characters before a syntax error, below 1."""
    lines = completion.split("\n")
    line = (error.lineno or 0) - prompt.count("\n") - 1  # 0-based within the completion
    if line < 0:
        return 0.0
    before = sum(len(s) + 1 for s in lines[:line]) + max(0, (error.offset or 1) - 1)
    return min(0.99, before / len(completion))


@lru_cache(maxsize=65_536)
def argument_names(prompt: str) -> frozenset[str]:
    """Return the arguments of the prompt's signature, `self` and `cls` included."""
    own, _ = parse(prompt, "    pass")
    return (
        frozenset(a.arg for a in ast.walk(own.args) if isinstance(a, ast.arg))
        if own
        else frozenset()
    )


def known_share(function: Function) -> float:
    """Return the share of the names read after the docstring that are bound in it or built in."""
    bound = {n.arg for n in ast.walk(function) if isinstance(n, ast.arg)}
    read = []
    for node in (n for statement in function.body[1:] for n in ast.walk(statement)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.append(name)
            case ast.Name(id=name) | ast.ExceptHandler(name=str(name)) | ast.FunctionDef(name=name):
                bound.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                bound |= {(a.asname or a.name).split(".")[0] for a in names}
    if not read:
        return 0.5
    return sum(name in bound or name in BUILTINS for name in read) / len(read)


def varied(text: str) -> float:
    """Return the share of distinct runs of three tokens, 1 for a text too short for one."""
    tokens = TOKEN.findall(text)
    runs = [tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)]
    return len(set(runs)) / len(runs) if runs else float(bool(tokens))


def length_score(characters: int) -> float:
    """Return 1 between SHORT and LONG characters, falling to 0 at none and at twice LONG."""
    if characters < SHORT:
        return characters / SHORT
    return max(0.0, 1.0 - max(0, characters - LONG) / LONG)


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Pearson's correlation, 0 where one of the two does not vary."""
    n = len(a)
    mean_a, mean_b = sum(a) / n, sum(b) / n
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread = math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))
    return covariance / spread if spread else 0.0
