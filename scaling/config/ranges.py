"""Checks of settings and the ranges that several of them share."""

from typing import Any

from scaling.schema import (
    Range,
)


def check(what: str, value: Any, legal: bool, fix: str) -> None:
    """Raise a ValueError of four parts: what, the value, what is legal, what to do."""
    if not legal:
        raise ValueError(f"{what}={value!r} {fix}")


def one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices, which are named."""
    check(what, value, value in choices, f"is unknown; choose one of {', '.join(choices)}")


# Ends of ranges lie far beyond what has been trained: they refuse what no machine could hold.
DEEPEST = 1000  # layers; 126 is Llama 3 405B
WIDEST = 131_072  # of a layer, its heads and their width; 16,384 is Llama 3 405B
MOST_TOKENS = 2**24  # of a vocabulary, and of a context
MOST_BATCH = 2**32  # tokens or rows of a step
MOST_TEXT = 10**18  # tokens or bytes; all public text is about 1e14 tokens
MOST_RATE = 1e30  # of learning: one that is too high ends as diverged, which is a result
RATE = Range(0, MOST_RATE)
LIMIT = Range(0, MOST_TEXT, note="0 is no limit")
COUNT = Range(0, 10**12)
SECONDS = Range(0, 1e12)
SPIKE = Range(1, 1e9, above=True, also=(0,), note="10 is usual, 0 skips only what is not finite")
WEIGHT = Range(0, 1e6)
SHARE = Range(0, 1)
SHARE_BELOW_1 = Range(0, 1, below=True)
FORECAST = Range(-1e9, 1e9)  # what a law says, in nats or units of reward
