"""Checks of settings that depend on each other, and the ranges that several configs share."""

from typing import Any

from scaling.schema import OneOf, Range


def check(what: str, value: Any, legal: bool, fix: str) -> None:
    """Raise a ValueError of four parts: what, the value, what is legal, what to do.

    what: the setting's dotted name
    value: its value, for the message
    legal: whether the value is legal
    fix: the rest of the message: what is wrong, what is legal and what to do
    """
    if not legal:
        raise ValueError(f"{what}={value!r} {fix}")


def one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices, and list them."""
    choice = OneOf(*choices)
    if not choice.holds(value):
        raise ValueError(choice.refusal(what, value))


# Ends of ranges lie far beyond what has been trained: they refuse what no machine could hold.
DEEPEST = 1000  # layers; Llama 3 405B has 126
WIDEST = 131_072  # the width of a layer, its heads and their width; Llama 3 405B has 16,384
MOST_TOKENS = 2**24  # the size of a vocabulary, and the tokens of a context
MOST_BATCH = 2**32  # tokens or rows of a step
MOST_TEXT = 10**18  # tokens or bytes; all public text is about 1e14 tokens
MOST_RATE = 1e30  # a learning rate that is too high ends as diverged, which is a result
RATE = Range(0, MOST_RATE)
LIMIT = Range(0, MOST_TEXT, note="0 is no limit")
COUNT = Range(0, 10**12)
SECONDS = Range(0, 1e12)
SPIKE = Range(1, 1e9, above=True, also=(0,), note="10 is usual, 0 skips only what is not finite")
WEIGHT = Range(0, 1e6)
SHARE = Range(0, 1)
SHARE_BELOW_1 = Range(0, 1, below=True)
FORECAST = Range(-1e9, 1e9)  # a value that a law predicts, in nats or units of reward
