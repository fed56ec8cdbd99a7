"""The mixtures of a swarm: one cell becomes several that differ in data.weights."""

from dataclasses import replace

import numpy as np

from scaling.config import CellConfig

SMALLEST = 1e-3  # share of a source at least: every draw then has some windows of each
DIGITS = 4  # decimals of a drawn share, so that configs and ids stay readable


def swarm_of(cell: CellConfig) -> list[CellConfig]:
    """Return a cell for each mixture of its swarm; the cell itself where it draws none.

    cell: with `swarm`, the entries of `data.train` and their natural shares in `data.weights`

    Raises ValueError for fewer than two entries.
    """
    if not cell.swarm.draws:
        return [cell]
    if len(cell.data.train) < 2:
        raise ValueError(
            f"swarm.draws={cell.swarm.draws} draws mixtures of the entries of data.train, and there"
            f" are {len(cell.data.train)}; name two or more, as data=files"
            " 'data.train=[code.jsonl,books.jsonl]'"
        )
    natural = np.asarray(cell.data.weights or [1.0] * len(cell.data.train), dtype=float)
    rows = mixtures(
        natural,
        draws=cell.swarm.draws,
        temperature=cell.swarm.temperature,
        concentrations=(cell.swarm.concentration_min, cell.swarm.concentration_max),
        seed=cell.swarm.seed,
    )
    return [replace(cell, data=replace(cell.data, weights=row.tolist())) for row in rows]


def mixtures(
    natural: np.ndarray,
    *,
    draws: int,
    temperature: float,
    concentrations: tuple[float, float],
    seed: int,
) -> np.ndarray:
    """Return mixtures (draws, sources), the natural one first; rows add to 1 in rounding.

    natural: weights of the sources (sources,)
    draws: number of mixtures
    temperature: natural shares to the power of its inverse are the centre of the draws
    concentrations: least and most; each draw's is log-uniform between them
    seed: of the draws; more draws of one seed begin with the same ones
    """
    shares = natural / natural.sum()
    centre = shares ** (1 / temperature)
    centre /= centre.sum()
    rng = np.random.default_rng(seed)
    low, high = np.log(concentrations)
    rows = [shares]
    for _ in range(draws - 1):
        concentration = np.exp(rng.uniform(low, high)) * len(shares)
        rows.append(rng.dirichlet(concentration * centre))
    some = np.maximum(rows, SMALLEST)
    return np.round(some / some.sum(axis=1, keepdims=True), DIGITS)
