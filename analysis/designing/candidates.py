"""Cells that might run next, and what each would cost on top of what is trained already.

A candidate is a branch of a trunk (`scaling.schema.training_length` is the trainer's rule), or a
cell that is trained alone. N parameters in the law's count, D tokens, C FLOPs: exact where the
shape is known, else 6ND.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.forms.optimum import optimal_split
from analysis.laws.law import Law
from analysis.number_text import power, short
from scaling.schema import Branch, Record, Shape, training_length

RATIOS = (1 / 16, 16.0)  # tokens per parameter over the optimum's: sizes within a factor 4
SIZES = 9  # of one budget
SAME = 0.02  # two cells are the same where their tokens differ by less: steps are whole


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One cell; `leaves` is the tokens at which it leaves its trunk, 0 for a cell alone."""

    name: str
    params: float
    tokens: float
    flops_per_token: float
    trunk: str
    leaves: float = 0.0
    seed: int = 0

    @property
    def flops(self) -> float:
        """FLOPs of the cell trained alone."""
        return self.flops_per_token * self.tokens

    @property
    def branch(self) -> Branch:
        """Tokens at which it leaves its trunk and ends."""
        return self.leaves, self.tokens


@dataclass(kw_only=True)
class Bill:
    """What a growing selection of cells costs; `reached` is the tokens that trunks have."""

    cells: Sequence[Candidate]
    reached: Mapping[str, float] = field(default_factory=dict)
    selection: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Price every cell by itself."""
        self.of_trunk: dict[str, list[int]] = {}
        for i, cell in enumerate(self.cells):
            self.of_trunk.setdefault(cell.trunk, []).append(i)
        self.marginal = np.empty(len(self.cells))
        for trunk in self.of_trunk:
            self._price(trunk)

    def add(self, index: int) -> None:
        """Add a cell to the selection."""
        trunk = self.cells[index].trunk
        self.selection.setdefault(trunk, []).append(index)
        self._price(trunk)

    def remove(self, index: int) -> None:
        """Take a cell out of the selection."""
        trunk = self.cells[index].trunk
        self.selection[trunk].remove(index)
        self._price(trunk)

    def saving(self, index: int) -> float:
        """Return the FLOPs that taking a cell out would save."""
        trunk = self.cells[index].trunk
        others = [i for i in self.selection[trunk] if i != index]
        return self._cost(trunk, self.selection[trunk]) - self._cost(trunk, others)

    @property
    def total(self) -> float:
        """FLOPs of the whole selection."""
        return sum(self._cost(trunk, cells) for trunk, cells in self.selection.items())

    def _price(self, trunk: str) -> None:
        """Price one more cell of a trunk."""
        selected = self.selection.get(trunk, [])
        now = self._cost(trunk, selected)
        for i in self.of_trunk[trunk]:
            self.marginal[i] = self._cost(trunk, [*selected, i]) - now

    def _cost(self, trunk: str, indices: Sequence[int]) -> float:
        """Return the FLOPs of some cells of one trunk together."""
        if not indices:
            return 0.0
        per_token = self.cells[indices[0]].flops_per_token
        branches = [self.cells[i].branch for i in indices]
        return per_token * training_length(branches, reached=self.reached.get(trunk, 0.0))


def flops_of(cells: Iterable[Candidate]) -> float:
    """Return the FLOPs of cells that are trained together, each trunk once."""
    every = list(cells)
    bill = Bill(cells=every)
    for i in range(len(every)):
        bill.add(i)
    return bill.total


def grid_around(
    law: Law,
    budgets: Sequence[float],
    *,
    ratios: tuple[float, float] = RATIOS,
    sizes: int = SIZES,
    seeds: int = 1,
) -> list[Candidate]:
    """Return cells trained alone, C = 6ND, at sizes around the law's optimum of each budget.

    law: the law whose optimum it is
    budgets: C of the cells, in FLOPs
    ratios: least and most tokens per parameter over those of the optimum
    sizes: how many sizes a budget has, evenly in log N
    seeds: how many seeds a cell has
    """
    cells = []
    for flops in budgets:
        best = _optimum(law, flops)["params"]
        for factor in np.geomspace(ratios[1] ** -0.5, ratios[0] ** -0.5, sizes):
            n = best * float(factor)
            for seed in range(seeds):
                name = f"N={short(n)} C={power(flops)}" + f" seed {seed}" * (seeds > 1)
                cell = {"name": name, "trunk": name, "params": n, "tokens": flops / 6 / n}
                cells.append(Candidate(**cell, flops_per_token=6 * n, seed=seed))
    return cells


def of_study(
    records: Sequence[Record],
    law: Law,
    budgets: Sequence[float],
    *,
    ratios: tuple[float, float] = RATIOS,
    seeds: int = 1,
) -> list[Candidate]:
    """Return the branches of a study's rungs at some budgets that the study lacks.

    A rung is a shape that was trained. A new branch of a trained trunk has the id of that trunk.

    records: the study's cells
    law: the law whose optimum bounds the tokens per parameter
    budgets: C of the cells, in exact FLOPs
    ratios: least and most tokens per parameter over those of the optimum
    seeds: how many seeds a cell has
    """
    cells = []
    trunks = {(Shape.of(r), r.seed): r.trunk or r.run_id for r in records}
    there = {(Shape.of(r), r.seed, r.tokens) for r in records}
    decay = decay_of(records)
    for shape in dict.fromkeys(shape for shape, _ in trunks):
        params, per_token = getattr(shape.params, law.count), shape.flops_per_token
        for flops, seed in itertools.product(budgets, range(seeds)):
            tokens = flops / per_token
            same = [
                t for s, k, t in there if (s, k) == (shape, seed) and abs(t / tokens - 1) < SAME
            ]
            spent = flops if law.flop_count else 6 * params * tokens
            off = tokens / params / _optimum(law, spent)["tokens_per_param"]
            if same or not ratios[0] <= off <= ratios[1]:
                continue
            name = f"{shape.n_layer}x{shape.d_model} C={power(flops)} seed {seed}"
            cell = {"name": name, "params": params, "tokens": tokens, "seed": seed}
            trunk = trunks.get((shape, seed), f"{shape.n_layer}x{shape.d_model} seed {seed}")
            if decay == 1.0:
                trunk = name
            leaves = (1 - decay) * tokens
            cells.append(Candidate(**cell, flops_per_token=per_token, trunk=trunk, leaves=leaves))
    return cells


def _optimum(law: Law, flops: float) -> dict[str, float]:
    """Return N, D and D/N of the law's optimum, of an average that of its forms together."""
    surface = law.surface
    split = optimal_split(surface.form, surface.parameters, flops, token_flops=law.flop_count)
    return {name: float(value) for name, value in split.items()}


def candidate_of(record: Record, count: str) -> Candidate:
    """Return the cell of a record as the branch that it was."""
    schedule = record.config.get("schedule", {})
    wsd = schedule.get("name", record.schedule) == "wsd"
    return Candidate(
        name=record.run_id,
        params=getattr(record.params, count),
        tokens=record.tokens,
        flops_per_token=record.flops / record.tokens,
        trunk=record.trunk or record.run_id,
        leaves=(1 - schedule.get("decay", 0.2)) * record.tokens if wsd else 0.0,
        seed=record.seed,
    )


def reached_by(records: Iterable[Record]) -> dict[str, float]:
    """Return the tokens that each trunk has: where the branch that ended last left it."""
    ended = sorted(records, key=lambda r: (r.ended, r.tokens))
    return {cell.trunk: cell.leaves for cell in (candidate_of(r, "total") for r in ended)}


def decay_of(records: Sequence[Record]) -> float:
    """Return the share of a cell's tokens that no other branch shares: 1 for cells alone."""
    schedule = records[-1].config.get("schedule", {})
    wsd = schedule.get("name", records[-1].schedule) == "wsd"
    return float(schedule.get("decay", 0.2)) if wsd else 1.0
