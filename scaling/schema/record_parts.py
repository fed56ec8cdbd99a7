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
    """Parameter counts under the conventions of the field."""

    total: int
    """Every parameter, embeddings and all experts included."""
    non_embedding: int
    """Parameters without embedding and head (Kaplan et al. 2020)."""
    with_head: int
    """Parameters of every matrix that multiplies: the head counts, an embedding lookup does not."""
    active: int
    """Parameters that one token passes through: `total` without the experts that are not chosen."""

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
