"""The score of a model on a named test set, as a record holds it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TestSetScore:
    """Loss on a named test set, every token scored once."""

    __test__ = False

    loss: float
    """Mean loss, in nats per token."""
    loss_se: float
    """Standard error of `loss` over blocks of text, in nats per token."""
    bits_per_byte: float
    """The same loss, in bits per byte of text."""
    bytes: int
    """Size of the set, in bytes of UTF-8."""
    tokens: int
    """Tokens that were scored."""
