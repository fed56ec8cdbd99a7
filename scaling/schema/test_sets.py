"""The score of a model on a named test set, as a record holds it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TestSetScore:
    """Loss on a named test set, every token scored once.

    loss: nats/token
    loss_se: its standard error, over blocks of text
    bits_per_byte: of the same loss
    bytes, tokens: of the set
    """

    __test__ = False

    loss: float
    loss_se: float
    bits_per_byte: float
    bytes: int
    tokens: int
