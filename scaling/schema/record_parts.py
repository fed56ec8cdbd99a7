"""Parts of a record: how a run ended, counts of parameters, cost, the score on a named test set."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How the run of a record ended."""

    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Params:
    """Parameter counts under the conventions of the field.

    `non_embedding` is Kaplan's N. `with_head` counts every matrix that multiplies (Porian et al.
    2024): the head, but no embedding lookup. `active` counts what one token passes through: all
    parameters but the experts that are not chosen.
    """

    total: int
    non_embedding: int
    with_head: int
    active: int

    @property
    def multiplying(self) -> int:
        """The N of 6 N D: what multiplies for one token, head included."""
        return self.with_head - (self.total - self.active)

    @property
    def active_body(self) -> int:
        """The non-embedding parameters that one token passes through; the batch rule's size."""
        return self.non_embedding - (self.total - self.active)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the training of one cell cost, and where it ran; the defaults mean that it never ran.

    device: name of the device of one rank
    steps: steps made
    tokens: tokens trained on in these steps
    flops: FLOPs of these tokens, forward and backward
    seconds: time of these steps
    ranks: devices that worked at the same time
    peak_memory_bytes: the most memory that the device held
    peak_flops: FLOP/s that all ranks' devices could reach together; None where it is unknown
    """

    device: str
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    ranks: int = 1
    peak_memory_bytes: int = 0
    peak_flops: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """The mean speed."""
        return self.tokens / self._seconds

    @property
    def mfu(self) -> float | None:
        """The share of the devices' peak FLOP/s that was used; None where the peak is unknown."""
        return self.flops / self._seconds / self.peak_flops if self.peak_flops else None

    @property
    def _seconds(self) -> float:
        return max(self.seconds, 1e-9)


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
