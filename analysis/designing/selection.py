"""Which cells bring the target's variance to what is wanted for the least FLOPs.

One cell after another by the largest drop of variance per FLOP (LAWS 5.3 iii; Active scaling-law
design, 2604.22753), then back: cells that turned out needless are left out, and each is exchanged
for cheaper ones that do the same. Known laws, linear theory: going forth alone took 1.1 to 1.5
times the FLOPs. Before a fit the determinant of the information counts instead, per
square root of FLOPs: cells spread out, most of them cheap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.designing.candidates import Bill, Candidate
from analysis.designing.information import Belief
from analysis.forms import Array

ROUNDS = 4  # of exchanging
MOST = 10_000  # cells


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A candidate's index, its FLOPs on top of those before it, and the variance after it."""

    index: int
    flops: float
    before: float
    variance: float

    @property
    def per_flop(self) -> float:
        """Drop of the target's variance per FLOP."""
        return (self.before - self.variance) / self.flops


def allot(
    belief: Belief,
    candidates: Sequence[Candidate],
    *,
    reached: Mapping[str, float],
    wanted: float = 0.0,
    budget: float = np.inf,
    most: int = MOST,
) -> list[Pick]:
    """Return cells in the order in which to run them, until the variance is `wanted`.

    All that the budget (FLOPs) and `most` (cells) allow where it is not met.
    """
    bill = Bill(cells=candidates, reached=reached)
    chosen = _forth(belief, bill, [], wanted=wanted, budget=budget, most=most)
    if wanted > 0 and belief.variance(chosen) <= wanted:
        chosen = _back(belief, bill, chosen, wanted)
    return _ordered(belief, candidates, chosen, reached)


def spread(
    belief: Belief,
    candidates: Sequence[Candidate],
    *,
    reached: Mapping[str, float],
    number: int,
    budget: float = np.inf,
    trunks: int = 0,
) -> list[Pick]:
    """Return cells that tell most of all parameters together for their cost: where no fit is.

    The last of them are of new trunks while there are fewer than `trunks`, which a bootstrap needs.
    """
    bill, cov = Bill(cells=candidates, reached=reached), np.linalg.inv(belief.information())
    rows, trunk = belief.weighed[belief.known :], belief.trunk[belief.known :]
    chosen: list[int] = []
    while len(chosen) < min(number, len(candidates)):
        told = np.log1p(np.einsum("mp,pq,mq->m", rows, cov, rows))
        score = _affordable(told / np.sqrt(_priced(bill)), bill, chosen, budget)
        here = belief.trunk[: belief.known].tolist() + trunk[chosen].tolist()
        fresh = ~np.isin(trunk, here) & (score > 0)
        if trunks - len(set(here)) >= number - len(chosen) and fresh.any():
            score[~fresh] = -1.0
        best = int(np.argmax(score))
        if not score[best] > 0:
            break
        moved = cov @ rows[best]
        cov -= np.outer(moved, moved) / (1 + rows[best] @ moved)
        bill.add(best)
        chosen.append(best)
    return _as_they_stand(belief, candidates, chosen, reached)


def _forth(
    belief: Belief,
    bill: Bill,
    chosen: list[int],
    *,
    wanted: float,
    budget: float = np.inf,
    most: int = MOST,
    without: int = -1,
) -> list[int]:
    """Add the cell of the largest drop per FLOP to those chosen until the variance is wanted."""
    chosen = list(chosen)
    while len(chosen) < most and belief.variance(chosen) > wanted:
        score = _affordable(belief.drops(chosen) / _priced(bill), bill, chosen, budget)
        if without >= 0:
            score[without] = -1.0
        best = int(np.argmax(score))
        if not score[best] > 0:
            break
        bill.add(best)
        chosen.append(best)
    return chosen


def _back(belief: Belief, bill: Bill, chosen: list[int], wanted: float) -> list[int]:
    """Leave out what is needless, the dearest first, and exchange the rest for cheaper cells."""
    chosen = _pruned(belief, bill, chosen, wanted)
    for _ in range(ROUNDS):
        before = bill.total
        for index in sorted(chosen, key=bill.saving, reverse=True):
            chosen = _exchanged(belief, bill, chosen, index, wanted)
        chosen = _pruned(belief, bill, chosen, wanted)
        if bill.total > 0.999 * before:
            break
    return chosen


def _pruned(belief: Belief, bill: Bill, chosen: list[int], wanted: float) -> list[int]:
    for index in sorted(chosen, key=bill.saving, reverse=True):
        kept = [i for i in chosen if i != index]
        if belief.variance(kept) <= wanted:
            bill.remove(index)
            chosen = kept
    return chosen


def _exchanged(
    belief: Belief, bill: Bill, chosen: list[int], index: int, wanted: float
) -> list[int]:
    """Return the choice with one cell exchanged for others that cost less, or as it is."""
    before = bill.total
    bill.remove(index)
    kept = [i for i in chosen if i != index]
    tried = _forth(belief, bill, kept, wanted=wanted, budget=0.999 * before, without=index)
    if belief.variance(tried) <= wanted and bill.total < 0.999 * before:
        return tried
    for i in tried[len(kept) :]:
        bill.remove(i)
    bill.add(index)
    return chosen


def _ordered(
    belief: Belief,
    candidates: Sequence[Candidate],
    chosen: list[int],
    reached: Mapping[str, float],
) -> list[Pick]:
    """Return the chosen by drop per FLOP, but no branch after a longer one of its trunk."""
    bill, left = Bill(cells=candidates, reached=reached), set(chosen)
    order: list[int] = []
    while left:
        score = belief.drops(order) / _priced(bill)
        best = max(left, key=lambda i: float(score[i]))
        last = candidates[best]
        mates = [i for i in left if candidates[i].trunk == last.trunk]
        shorter = [i for i in mates if candidates[i].leaves < last.leaves]
        for i in [*sorted(shorter, key=lambda i: candidates[i].leaves), best]:
            bill.add(i)
            left.remove(i)
            order.append(i)
    return _as_they_stand(belief, candidates, order, reached)


def _as_they_stand(
    belief: Belief,
    candidates: Sequence[Candidate],
    order: Sequence[int],
    reached: Mapping[str, float],
) -> list[Pick]:
    bill = Bill(cells=candidates, reached=reached)
    now, found = belief.variance(), []
    for count, index in enumerate(order, 1):
        before, flops = now, float(bill.marginal[index])
        bill.add(index)
        now = belief.variance(order[:count])
        found.append(Pick(index=index, flops=flops, before=before, variance=now))
    return found


def _priced(bill: Bill) -> Array:
    return np.maximum(bill.marginal, 1e-300)


def _affordable(score: Array, bill: Bill, chosen: Sequence[int], budget: float) -> Array:
    """Return scores (M,), -1 for what is chosen already or beyond the budget."""
    score[list(chosen)] = -1.0
    score[bill.total + bill.marginal > budget] = -1.0
    return score
