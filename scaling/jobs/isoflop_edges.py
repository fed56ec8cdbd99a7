"""Budgets of a grid whose IsoFLOP minimum would lie outside the sizes that they have.

Where the study has a law already, its optimum says where the minimum lies. Else a guess does: 20
tokens per parameter from 1e19 FLOPs on (Hoffmann et al. 2022, 2203.15556), and fewer below, as
C^.1, which meets the 3.5 that the default study's law has at 6.3e11 FLOPs. N counts the head.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.schema import read_json
from scaling.study.places import study_folder

GUESS = (20.0, 1e19, 0.1)  # tokens per parameter from so many FLOPs on, and its power of C below
FEWEST = 2  # sizes of a budget, below which it is no IsoFLOP curve
NEXT = 1.1  # a size so near to the minimum still holds it


def edge_warnings(cells: Sequence[CellConfig]) -> list[str]:
    """Return a sentence for each budget whose minimum would lie outside its sizes.

    cells: the grid; cells whose budget is not stated in FLOPs and later stages are left out
    """
    budgets: dict[float, dict[int, CellConfig]] = {}
    for cell in cells:
        if cell.stage == "pretrain" and cell.budget.flops:
            sizes = budgets.setdefault(cell.budget.flops, {})
            sizes.setdefault(resolve(cell).shape.params.with_head, cell)
    law = _law_of(cells[0]) if cells else None
    warnings = (_warning(flops, budgets[flops], law) for flops in sorted(budgets))
    return [sentence for sentence in warnings if sentence]


def _warning(flops: float, sizes: dict[int, CellConfig], law: dict[str, Any] | None) -> str:
    if len(sizes) < FEWEST:
        return ""
    low, high = min(sizes), max(sizes)
    if law is None:
        at = {n: resolve(cell).tokens_per_param for n, cell in sizes.items()}
        ratio, start, power = GUESS
        best = ratio * min(1.0, (flops / start) ** power)
        small, large = at[low] * NEXT < best, at[high] > best * NEXT
        why = f"about {best:.2g} tokens per parameter, a guess"
    else:
        counts = [getattr(resolve(c).shape.params, law["count"]) for c in sizes.values()]
        best = law["params"] * (flops / law["flops"]) ** law["a"]
        small, large = best * NEXT < min(counts), best > max(counts) * NEXT
        why = f"N = {best:.3g} by the study's law"
    if not small and not large:
        return ""
    side = "smaller than the smallest" if small else "larger than the largest"
    return (
        f"warning: the IsoFLOP minimum of C = {flops:.3g} would lie at {why}, {side} of its"
        f" {len(sizes)} sizes ({low:,} to {high:,}): add {'smaller' if small else 'larger'} models"
        " at this budget, or widen grid.*"
    )


def _law_of(cell: CellConfig) -> dict[str, Any] | None:
    """Return C, N*, exponent and count of the law beside the study's cells; None without one."""
    path = Path(study_folder(cell)) / "law.json"
    if not path.is_file():
        return None
    try:
        law = read_json(path)
        block = law["optimum"]
        first = block["tokens_per_param"][0]
        numbers = {"flops": first["flops"], "params": first["params"], "a": block["a"]}
        return {**{k: float(v) for k, v in numbers.items()}, "count": str(law["count"])}
    except (ValueError, KeyError, IndexError, TypeError):
        return None  # a law without an optimum; the guess serves
