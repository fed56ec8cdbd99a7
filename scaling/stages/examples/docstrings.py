"""Pairs of a docstring and the body that follows it, cut from Python documents.

A prompt is a function's signature and the first line of its docstring, as they stand in the file
but moved to column 0; the completion is the rest of the body, so that prompt + completion is source
that parses. Functions whose body holds another documented function keep it.
"""

import ast
import contextlib
import gc
import logging
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from scaling.data.file_hashes import read_hashed, write_hashed
from scaling.stages.examples.pairs import Pair

log = logging.getLogger(__name__)

VERSION = 1  # of the rules below; a change makes cached pairs unused
LONGEST = 2_000  # characters of a body; longer ones fit no context this is meant for
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Texts(Protocol):
    """What is needed of a corpus (scaling.data.tokens.Corpus)."""

    @property
    def folder(self) -> Path:
        """Where the tokens are cached."""
        ...

    def train_texts(self) -> Iterator[str]:
        """Yield the raw training documents."""
        ...

    def test_texts(self) -> Iterator[str]:
        """Yield the raw test documents."""
        ...


def corpus_pairs(corpus: Texts) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of the training and of the test documents, cached beside the tokens.

    A held-out prompt that also occurs in training is left out. ValueError when a part has none.
    """
    cached = corpus.folder / f"docstrings-{VERSION}.json"
    if parts := read_hashed(cached):
        return [Pair(*p) for p in parts["train"]], [Pair(*p) for p in parts["test"]]
    log.info("cutting docstring-to-body pairs from the corpus")
    with uncollected():
        train = unique(p for text in corpus.train_texts() for p in cut_pairs(text))
        held_out = unique(p for text in corpus.test_texts() for p in cut_pairs(text))
    known = {p.prompt for p in train}
    test = [p for p in held_out if p.prompt not in known]
    for part, found in (("training", train), ("test", test)):
        if not found:
            raise ValueError(
                f"the corpus' {part} part has no documented Python function to fine-tune on; "
                "set sft.data=FILE.jsonl with prompt/completion rows"
            )
    write_hashed(cached, {"train": [list(p) for p in train], "test": [list(p) for p in test]})
    return train, test


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Put the garbage collector off: it would walk the syntax trees over and over, in vain."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def unique(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep the first pair of every prompt."""
    return list({p.prompt: p for p in reversed(list(pairs))}.values())[::-1]


def cut_pairs(source: str) -> Iterator[Pair]:
    """Yield the pairs of one document, in order; text that is not Python has none."""
    tree = parse(source)
    if tree is None:
        return
    lines = source.split("\n")
    for function in functions(tree):
        pair = cut_pair(function, lines)
        if pair is not None and parse(pair.prompt + pair.completion) is not None:
            yield pair


def parse(source: str) -> ast.Module | None:
    """Parse source; None where it is not Python. Never runs it, never warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def functions(node: ast.AST) -> Iterator[Function]:
    """Yield the functions under a node; only statements are visited, expressions hold none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from functions(child)


def cut_pair(function: Function, lines: list[str]) -> Pair | None:
    """Cut one function into prompt and completion; None where there is nothing to learn from it."""
    text = ast.get_docstring(function)
    if not text or len(function.body) < 2 or "\t" in lines[function.lineno - 1]:
        return None
    document, first, last = function.body[0], function.body[1], function.end_lineno or 0
    summary = re.sub(r"\s+", " ", text.split("\n\n")[0].strip())
    if (
        not summary
        or '"' in summary
        or "\\" in summary
        or first.lineno <= (document.end_lineno or 0)
    ):
        return None
    signature = lines[function.lineno - 1 : document.lineno - 1]
    body = lines[document.end_lineno : last]
    if not signature or sum(map(len, body)) > LONGEST:
        return None
    margin = len(signature[0]) - len(signature[0].lstrip())
    head = "\n".join(line[margin:] for line in signature)
    tail = textwrap.dedent("\n".join(body).strip("\n"))
    return Pair(
        prompt=f'{head}\n    """{summary}"""\n',
        completion=textwrap.indent(tail.rstrip(), "    ") + "\n",
    )
