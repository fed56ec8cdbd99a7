"""Which cells bring the target's variance down to a limit for the least FLOPs.

`select` adds one cell after another by the largest drop of variance per FLOP (LAWS 5.3 iii; Active
scaling-law design, 2604.22753). Then it goes back: needless cells are left out, and each cell is
exchanged for cheaper ones that do the same. Under known laws and linear theory, adding alone took
1.1 to 1.5 times the FLOPs. `spread` serves before a fit: it raises the determinant of the
information per square root of FLOPs, so that cells are spread out and most of them cheap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.designing.candidates import Bill, Candidate
from analysis.designing.information import Evidence, Information
from analysis.forms import Array

ROUNDS = 4  # of exchanging
LESS = 0.999  # an exchange must bring the cost below this share
MOST = 10_000  # cells of a selection


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


def select(
    information: Evidence,
    candidates: Sequence[Candidate],
    *,
    reached: Mapping[str, float],
    limit: float = 0.0,
    budget: float = np.inf,
    most: int = MOST,
) -> list[Pick]:
    """Return cells in the order in which to run them, until the variance is at its limit.

    Where it cannot be reached, these are all the cells that budget and `most` allow. A cell that
    would raise the variance in this order is left out.

    information: what the cells so far and each candidate say about the target
    candidates: the cells that may run
    reached: tokens up to which each trunk is trained already
    limit: variance of the logarithm at which to stop
    budget: FLOPs of all cells together
    most: number of cells
    """
    bill = Bill(cells=candidates, reached=reached)
    selection = _added(information, bill, [], limit=limit, budget=budget, most=most)
    if limit > 0 and information.variance(selection) <= limit:
        selection = _cheaper(information, bill, selection, limit)
    picks = _ordered(information, candidates, selection, reached)
    while harmful := [p for p in picks if not p.variance < p.before]:
        worst = max(harmful, key=lambda p: p.variance - p.before)
        selection = [p.index for p in picks if p.index != worst.index]
        picks = _ordered(information, candidates, selection, reached)
    return picks


def spread(
    information: Information,
    candidates: Sequence[Candidate],
    *,
    reached: Mapping[str, float],
    number: int,
    budget: float = np.inf,
    trunks: int = 0,
) -> list[Pick]:
    """Return the cells that say most about all parameters together for their cost, before a fit.

    information: what the cells so far and each candidate say, with a prior
    candidates: the cells that may run
    reached: tokens up to which each trunk is trained already
    number: how many cells to return
    budget: FLOPs of all cells together
    trunks: a bootstrap needs so many; the last cells are of new trunks while there are fewer
    """
    bill, cov = Bill(cells=candidates, reached=reached), np.linalg.inv(information.matrix())
    rows = information.weighed[information.n_runs :]
    of_runs = information.trunk[: information.n_runs]
    trunk = information.trunk[information.n_runs :]
    selection: list[int] = []
    while len(selection) < min(number, len(candidates)):
        gain = np.log1p(np.einsum("mp,pq,mq->m", rows, cov, rows))  # of the log determinant
        score = _affordable(gain / np.sqrt(_priced(bill)), bill, selection, budget)
        present = of_runs.tolist() + trunk[selection].tolist()
        fresh = ~np.isin(trunk, present) & (score > 0)
        if trunks - len(set(present)) >= number - len(selection) and fresh.any():
            score[~fresh] = -1.0
        best = int(np.argmax(score))
        if not score[best] > 0:
            break
        moved = cov @ rows[best]
        cov -= np.outer(moved, moved) / (1 + rows[best] @ moved)
        bill.add(best)
        selection.append(best)
    return _picks(information, candidates, selection, reached)


def _added(
    information: Evidence,
    bill: Bill,
    selection: list[int],
    *,
    limit: float,
    budget: float = np.inf,
    most: int = MOST,
    without: int = -1,
) -> list[int]:
    """Return the selection with cells of the largest drop per FLOP added, down to the limit."""
    selection = list(selection)
    while len(selection) < most and information.variance(selection) > limit:
        per_flop = information.drops(selection) / _priced(bill)
        score = _affordable(per_flop, bill, selection, budget)
        if without >= 0:
            score[without] = -1.0
        best = int(np.argmax(score))
        if not score[best] > 0:
            break
        bill.add(best)
        selection.append(best)
    return selection


def _cheaper(information: Evidence, bill: Bill, selection: list[int], limit: float) -> list[int]:
    """Leave out needless cells, the dearest first, and exchange the others for cheaper ones."""
    selection = _pruned(information, bill, selection, limit)
    for _ in range(ROUNDS):
        before = bill.total
        for index in sorted(selection, key=bill.saving, reverse=True):
            selection = _exchanged(information, bill, selection, index, limit)
        selection = _pruned(information, bill, selection, limit)
        if bill.total > LESS * before:
            break
    return selection


def _pruned(information: Evidence, bill: Bill, selection: list[int], limit: float) -> list[int]:
    """Leave out the cells without which the variance stays within the limit."""
    for index in sorted(selection, key=bill.saving, reverse=True):
        others = [i for i in selection if i != index]
        if information.variance(others) <= limit:
            bill.remove(index)
            selection = others
    return selection


def _exchanged(
    information: Evidence, bill: Bill, selection: list[int], index: int, limit: float
) -> list[int]:
    """Return the selection with one cell exchanged for others that cost less, or unchanged."""
    before = bill.total
    bill.remove(index)
    others = [i for i in selection if i != index]
    attempt = _added(information, bill, others, limit=limit, budget=LESS * before, without=index)
    if information.variance(attempt) <= limit and bill.total < LESS * before:
        return attempt
    for i in attempt[len(others) :]:
        bill.remove(i)
    bill.add(index)
    return selection


def _ordered(
    information: Evidence,
    candidates: Sequence[Candidate],
    selection: list[int],
    reached: Mapping[str, float],
) -> list[Pick]:
    """Return the selection by drop per FLOP, but no branch after a longer one of its trunk."""
    bill, remaining = Bill(cells=candidates, reached=reached), set(selection)
    order: list[int] = []
    while remaining:
        score = information.drops(order) / _priced(bill)
        best = max(remaining, key=lambda i: float(score[i]))
        last = candidates[best]
        mates = [i for i in remaining if candidates[i].trunk == last.trunk]
        shorter = [i for i in mates if candidates[i].leaves < last.leaves]
        for i in [*sorted(shorter, key=lambda i: candidates[i].leaves), best]:
            bill.add(i)
            remaining.remove(i)
            order.append(i)
    return _picks(information, candidates, order, reached)


def _picks(
    information: Evidence,
    candidates: Sequence[Candidate],
    order: Sequence[int],
    reached: Mapping[str, float],
) -> list[Pick]:
    """Return candidates in an order as picks, each with its cost and the variance after it."""
    bill = Bill(cells=candidates, reached=reached)
    now, picks = information.variance(), []
    for count, index in enumerate(order, 1):
        before, flops = now, float(bill.marginal[index])
        bill.add(index)
        now = information.variance(order[:count])
        picks.append(Pick(index=index, flops=flops, before=before, variance=now))
    return picks


def _priced(bill: Bill) -> Array:
    """Return what each candidate would cost now, never 0."""
    return np.maximum(bill.marginal, 1e-300)


def _affordable(score: Array, bill: Bill, selection: Sequence[int], budget: float) -> Array:
    """Return scores (M,), -1 for what is selected already or beyond the budget."""
    score[list(selection)] = -1.0
    score[bill.total + bill.marginal > budget] = -1.0
    return score
