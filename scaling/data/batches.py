"""Training batches as a pure function of seed and step, the same for every model size.

A batch is windows of the training tokens, in an order permuted anew each epoch. A mixture draws
each window from one of its parts, each part with an order and epochs of its own.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scaling.config import DataConfig
from scaling.data.tokens import Corpus

BLOCK = 512  # windows over which the shares of a mixture hold to a window
_MIX, _KEEP = 2**31, 2**31 + 1  # what sets these random streams apart from an epoch's


@dataclass(frozen=True, kw_only=True)
class Batches:
    """`rows` windows of `context` tokens a step.

    `part_tokens` are the tokens of each part of a mixture, one after the other in `tokens`, and
    `weights` their shares of the windows (normalised here). With `unique_tokens` only that many
    tokens are ever seen, divided among the parts by their shares.
    """

    tokens: np.ndarray
    context: int
    rows: int
    seed: int
    part_tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = (1.0,)
    unique_tokens: int = 0

    @classmethod
    def of(cls, corpus: Corpus, config: DataConfig, *, rows: int, seed: int) -> "Batches":
        """Return the batches of a config."""
        return cls(
            tokens=corpus.train,
            context=config.context,
            rows=rows,
            seed=seed,
            part_tokens=tuple(corpus.meta["part_tokens"]) if config.weights else (),
            weights=tuple(config.weights) or (1.0,),
            unique_tokens=config.unique_tokens,
        )

    def __post_init__(self) -> None:
        """Refuse a part shorter than one window, and more unique tokens than there are."""
        for n_tokens, windows in zip(self._lengths, self._all, strict=True):
            if windows < 1:
                of = "the training part" if len(self._lengths) == 1 else "a part of the mixture"
                raise ValueError(
                    f"{of} has {n_tokens} tokens, fewer than one window of "
                    f"context+1={self.context + 1}; add text or shorten data.context"
                )
        if self.unique_tokens and not all(
            1 <= kept <= there for kept, there in zip(self._kept, self._all, strict=True)
        ):
            most = int((self._all / self._shares).min()) * self.context
            raise ValueError(
                f"data.unique_tokens={self.unique_tokens} must lie between one window of every "
                f"part and the {most} tokens there are; change it, or add text"
            )

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return self.part_tokens or (len(self.tokens),)

    @cached_property
    def _shares(self) -> np.ndarray:
        return np.asarray(self.weights, dtype=float) / sum(self.weights)

    @cached_property
    def _all(self) -> np.ndarray:
        """Windows of each part."""
        return (np.asarray(self._lengths) - 1) // self.context

    @cached_property
    def _kept(self) -> np.ndarray:
        """Windows of each part that are ever seen."""
        if not self.unique_tokens:
            return self._all
        return (self.unique_tokens * self._shares / self.context + 1e-9).astype(int)

    @property
    def windows(self) -> int:
        """Windows there are to be seen."""
        return int(self._kept.sum())

    def unique(self, n_tokens: int) -> int:
        """Return how many different tokens a run of `n_tokens` sees."""
        return int(np.minimum(self._seen(n_tokens), self._kept).sum()) * self.context

    def epochs(self, n_tokens: int) -> float:
        """Return how often a run of `n_tokens` sees the part that it repeats most."""
        return float((self._seen(n_tokens) / self._kept).max())

    def _seen(self, n_tokens: int) -> np.ndarray:
        """Return how many windows of each part a run of `n_tokens` takes, (parts,)."""
        windows = n_tokens // self.context
        whole = windows // BLOCK * BLOCK
        rest, _ = self._place(np.arange(whole, windows))
        return self._drawn(np.asarray([whole]))[0] + np.bincount(rest, minlength=len(self._lengths))

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of a step, (rows, context) int64 each."""
        wanted = np.arange(step * self.rows, (step + 1) * self.rows)
        part, rank = self._place(wanted)
        starts = np.empty(self.rows, dtype=np.int64)
        firsts = np.cumsum([0, *self._lengths])
        for index in np.unique(part):
            here = part == index
            starts[here] = firsts[index] + self._windows(int(index), rank[here]) * self.context
        return cut(self.tokens, starts, self.context)

    def _drawn(self, windows: np.ndarray) -> np.ndarray:
        """Return how many of the first `windows` (n,), whole blocks, are of each part."""
        edges = np.concatenate([[0.0], np.cumsum(self._shares)[:-1], [1.0]])
        return np.diff(np.floor(windows[:, None] * edges), axis=1).astype(np.int64)

    def _place(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the part that each window comes from, and its number within that part."""
        if len(self._lengths) == 1:
            return np.zeros_like(wanted), wanted
        part, rank = np.empty_like(wanted), np.empty_like(wanted)
        for block in np.unique(wanted // BLOCK):
            before, after = self._drawn(np.asarray([block, block + 1]) * BLOCK)
            labels = np.repeat(np.arange(len(before)), after - before)
            labels = np.random.default_rng([self.seed, block, _MIX]).permutation(labels)
            ranks = np.empty_like(labels)
            for index, first in enumerate(before):
                ranks[labels == index] = first + np.arange((labels == index).sum())
            here = wanted // BLOCK == block
            part[here], rank[here] = labels[wanted[here] % BLOCK], ranks[wanted[here] % BLOCK]
        return part, rank

    def _windows(self, part: int, rank: np.ndarray) -> np.ndarray:
        """Return the windows of a part at ranks of its endless sequence of epochs."""
        found, kept = np.empty_like(rank), int(self._kept[part])
        for epoch in np.unique(rank // kept):
            here = rank // kept == epoch
            found[here] = self._order(part, int(epoch))[rank[here] % kept]
        return found

    def _order(self, part: int, epoch: int) -> np.ndarray:
        key = (self.seed, part, int(self._all[part]), int(self._kept[part]))
        if epoch not in _orders.get(key, {}):
            seeds = [self.seed, epoch, part] if part else [self.seed, epoch]
            order = np.random.default_rng(seeds).permutation(int(self._kept[part]))
            if self.unique_tokens:
                there = np.random.default_rng([part, _KEEP]).permutation(int(self._all[part]))
                order = there[: len(order)][order]
            _orders[key] = {epoch: order}
        return _orders[key][epoch]


_orders: dict[tuple[int, ...], dict[int, np.ndarray]] = {}


def cut(tokens: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut windows: inputs and the targets one token later, (len(starts), length) int64 each."""
    rows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    return rows[:, :-1], rows[:, 1:]
