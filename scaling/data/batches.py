"""Training batches as a pure function of seed and step, the same for every model size.

A batch is windows of the training tokens, in an order permuted anew each epoch. A mixture draws
each window from one of its parts, each part with an order and epochs of its own.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scaling.config import DataConfig
from scaling.data.shards import TokenStream
from scaling.data.tokens import Corpus

BLOCK = 512  # In each block of this many windows, a mixture's shares hold to within one window.
# Windows of a part whose order is listed: 2^24 take 128 MiB. The order of more is computed.
LISTED = 1 << 24
ROUNDS = 8  # of the Feistel network that computes it
_MIX, _SUBSET = 2**31, 2**31 + 1  # Seeds of two random streams; no epoch's number is as large.


@dataclass(frozen=True, kw_only=True)
class Batches:
    """`rows` windows of `context` tokens a step.

    `part_tokens` are the numbers of tokens of a mixture's parts, which follow one another in
    `tokens`, and `weights` their shares of the windows (normalised here). With `unique_tokens` only
    that many tokens are ever seen, divided among the parts by their shares. Steps before
    `first_step` had batches of other rows, `first_window` windows in all.
    """

    tokens: np.ndarray | TokenStream
    context: int
    rows: int
    seed: int
    part_tokens: tuple[int, ...] = ()
    weights: tuple[float, ...] = (1.0,)
    unique_tokens: int = 0
    first_step: int = 0
    first_window: int = 0

    @classmethod
    def of(cls, corpus: Corpus, config: DataConfig, *, rows: int, seed: int) -> "Batches":
        """Return the batches of a config.

        corpus: with the training tokens
        config: context, weights and unique tokens
        rows: of a step
        seed: of the order of the windows
        """
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
            1 <= used <= windows for used, windows in zip(self._used, self._all, strict=True)
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
    def _used(self) -> np.ndarray:
        """Windows of each part that are ever seen."""
        if not self.unique_tokens:
            return self._all
        return (self.unique_tokens * self._shares / self.context + 1e-9).astype(int)

    @property
    def windows(self) -> int:
        """How many different windows are ever seen."""
        return int(self._used.sum())

    def unique(self, n_tokens: int) -> int:
        """Return how many different tokens a run of `n_tokens` sees."""
        return int(np.minimum(self._windows_seen(n_tokens), self._used).sum()) * self.context

    def epochs(self, n_tokens: int) -> float:
        """Return how often a run of `n_tokens` sees the part that it repeats most."""
        return float((self._windows_seen(n_tokens) / self._used).max())

    def _windows_seen(self, n_tokens: int) -> np.ndarray:
        """Return how many windows of each part a run of `n_tokens` takes, (parts,)."""
        windows = n_tokens // self.context
        whole = windows // BLOCK * BLOCK
        rest, _ = self._place(np.arange(whole, windows))
        return self._windows_by_part(np.asarray([whole]))[0] + np.bincount(
            rest, minlength=len(self._lengths)
        )

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of a step, (rows, context) int64 each."""
        first = self.first_window + (step - self.first_step) * self.rows
        numbers = np.arange(first, first + self.rows)
        part, rank = self._place(numbers)
        starts = np.empty(self.rows, dtype=np.int64)
        firsts = np.cumsum([0, *self._lengths])
        for index in np.unique(part):
            here = part == index
            starts[here] = firsts[index] + self._windows(int(index), rank[here]) * self.context
        return cut(self.tokens, starts, self.context)

    def _windows_by_part(self, windows: np.ndarray) -> np.ndarray:
        """Return how many of the first `windows`, (n,) whole blocks, come from each part."""
        edges = np.concatenate([[0.0], np.cumsum(self._shares)[:-1], [1.0]])
        return np.diff(np.floor(windows[:, None] * edges), axis=1).astype(np.int64)

    def _place(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the part that each window comes from, and its number within that part."""
        if len(self._lengths) == 1:
            return np.zeros_like(numbers), numbers
        part, rank = np.empty_like(numbers), np.empty_like(numbers)
        for block in np.unique(numbers // BLOCK):
            counts_before, counts_after = self._windows_by_part(
                np.asarray([block, block + 1]) * BLOCK
            )
            labels = np.repeat(np.arange(len(counts_before)), counts_after - counts_before)
            labels = np.random.default_rng([self.seed, block, _MIX]).permutation(labels)
            ranks = np.empty_like(labels)
            for index, first in enumerate(counts_before):
                ranks[labels == index] = first + np.arange((labels == index).sum())
            here = numbers // BLOCK == block
            part[here], rank[here] = labels[numbers[here] % BLOCK], ranks[numbers[here] % BLOCK]
        return part, rank

    def _windows(self, part: int, rank: np.ndarray) -> np.ndarray:
        """Return the windows of a part at ranks in its sequence of epochs, which never ends."""
        windows, n_windows = np.empty_like(rank), int(self._used[part])
        for epoch in np.unique(rank // n_windows):
            here = rank // n_windows == epoch
            if int(self._all[part]) > LISTED:
                windows[here] = self._computed(part, int(epoch), rank[here] % n_windows)
            else:
                windows[here] = self._order(part, int(epoch))[rank[here] % n_windows]
        return windows

    def _computed(self, part: int, epoch: int, rank: np.ndarray) -> np.ndarray:
        """Return windows of a part that is too large for a list of its order."""
        places = shuffled(rank, int(self._used[part]), seeds=[self.seed, epoch, part])
        if self.unique_tokens:
            places = shuffled(places, int(self._all[part]), seeds=[part, _SUBSET])
        return places

    def _order(self, part: int, epoch: int) -> np.ndarray:
        key = (self.seed, part, int(self._all[part]), int(self._used[part]))
        if epoch not in _orders.get(key, {}):
            seeds = [self.seed, epoch, part] if part else [self.seed, epoch]
            order = np.random.default_rng(seeds).permutation(int(self._used[part]))
            if self.unique_tokens:
                all_windows = np.random.default_rng([part, _SUBSET]).permutation(
                    int(self._all[part])
                )
                order = all_windows[: len(order)][order]
            _orders[key] = {epoch: order}
        return _orders[key][epoch]


_orders: dict[tuple[int, ...], dict[int, np.ndarray]] = {}


def shuffled(places: np.ndarray, n: int, *, seeds: list[int]) -> np.ndarray:
    """Return the numbers at `places` of a permutation of 0 to n - 1, which is not listed.

    places: below n
    seeds: of the permutation

    A Feistel network of ROUNDS rounds permutes the numbers below the next power of 4; a result that
    is not below n is permuted again (Black and Rogaway 2002, cycle walking).
    """
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.random.default_rng(seeds).integers(1 << 63, size=ROUNDS, dtype=np.uint64)
    result = places.astype(np.uint64)
    todo = np.ones(result.shape, dtype=bool)
    while todo.any():
        left, right = result[todo] >> half, result[todo] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right, key) & mask)
        result[todo] = (left << half) | right
        todo &= result >= n
    return result.astype(np.int64)


def _mixed(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Return a hash of each value under a key (the finaliser of splitmix64)."""
    mixed = values ^ key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def cut(
    tokens: np.ndarray | TokenStream, starts: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut windows: inputs and the targets one token later, (len(starts), length) int64 each."""
    rows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)
    return rows[:, :-1], rows[:, 1:]
