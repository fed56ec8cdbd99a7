"""Pairs of a docstring and the body that follows it, cut from Python documents.

The prompt is a function's signature and the first paragraph of its docstring, moved to column 0;
the completion is the rest of the body, so that prompt + completion is source that parses. A body
that holds another documented function keeps it.
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

VERSION = 1  # of the rules below: raise it with a change, so that pairs in caches are cut again
LONGEST_BODY = 2_000  # characters; longer bodies fit no context that this is meant for
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Texts(Protocol):
    """The part of a corpus (scaling.data.tokens.Corpus) that this module needs."""

    @property
    def folder(self) -> Path:
        """Where the tokens are kept."""
        ...

    def train_texts(self) -> Iterator[str]:
        """Yield the raw training documents."""
        ...

    def test_texts(self) -> Iterator[str]:
        """Yield the raw test documents."""
        ...


def corpus_pairs(corpus: Texts) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of the training documents and of the test documents.

    They are kept in a file beside the tokens. A test prompt that also occurs in training is left
    out. ValueError when a part has no pair.
    """
    cached = corpus.folder / f"docstrings-{VERSION}.json"
    if parts := read_hashed(cached):
        return [Pair(*p) for p in parts["train"]], [Pair(*p) for p in parts["test"]]
    log.info("cutting docstring-to-body pairs from the corpus")
    with garbage_collection_off():
        train = first_of_each_prompt(p for text in corpus.train_texts() for p in cut_pairs(text))
        held_out = first_of_each_prompt(p for text in corpus.test_texts() for p in cut_pairs(text))
    train_prompts = {p.prompt for p in train}
    test = [p for p in held_out if p.prompt not in train_prompts]
    for part, pairs in (("training", train), ("test", test)):
        if not pairs:
            raise ValueError(
                f"the corpus' {part} part has no documented Python function to fine-tune on; "
                "set sft.data=FILE.jsonl with prompt/completion rows"
            )
    write_hashed(cached, {"train": [list(p) for p in train], "test": [list(p) for p in test]})
    return train, test


@contextlib.contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Turn the garbage collector off: it would walk the syntax trees again and again, in vain."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def first_of_each_prompt(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the first pair of every prompt."""
    return list({p.prompt: p for p in reversed(list(pairs))}.values())[::-1]


def cut_pairs(source: str) -> Iterator[Pair]:
    """Yield the pairs of one document, in order; nothing for text that is not Python."""
    tree = parse(source)
    if tree is None:
        return
    lines = source.split("\n")
    for function in functions(tree):
        pair = cut_pair(function, lines)
        if pair is not None and parse(pair.prompt + pair.completion) is not None:
            yield pair


def parse(source: str) -> ast.Module | None:
    """Return the syntax tree of source, None where it is not Python. The source is never run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def functions(node: ast.AST) -> Iterator[Function]:
    """Yield the functions under a node. Statements alone are visited: expressions hold none."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from functions(child)


def cut_pair(function: Function, lines: list[str]) -> Pair | None:
    """Cut one function into prompt and completion; None for a function that is not used.

    Not used are functions without a docstring or a body, with tabs, with a quote or a backslash in
    the docstring's first paragraph, and those longer than LONGEST_BODY.
    """
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
    if not signature or sum(map(len, body)) > LONGEST_BODY:
        return None
    margin = len(signature[0]) - len(signature[0].lstrip())
    head = "\n".join(line[margin:] for line in signature)
    tail = textwrap.dedent("\n".join(body).strip("\n"))
    return Pair(
        prompt=f'{head}\n    """{summary}"""\n',
        completion=textwrap.indent(tail.rstrip(), "    ") + "\n",
    )
