"""The section of a mixture: its alarms, shares, losses and figures, from mixture.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from analysis.figures import mixture_charts
from analysis.forms import Array
from analysis.mixing.repetition import worth
from analysis.mixing.text import DOMAIN_COLUMNS, SOURCE_COLUMNS, domain_rows, gain_lines, law_lines
from analysis.mixing.text import source_rows as rows_of_sources
from analysis.page.gallery import Picture
from analysis.page.tables import Grid
from scaling.schema import read_json, sha256_file

FILE = "mixture.json"
GRID = 40  # steps of a share in the triangle
NEEDED = ("alarms", "domains", "sources", "parameters", "weights", "natural", "predicted")


def read_mixture(folder: Path, table: Path | None = None) -> dict[str, Any] | None:
    """Return the mixture.json of a study, or of a table by its hash; None where there is none.

    folder: of the study, or that the table lies in
    table: the table, whose hash the file must hold

    Raises ValueError for a file that is no mixture.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    result = read_json(path)
    if not isinstance(result, dict) or any(name not in result for name in NEEDED):
        raise ValueError(f"{path} is no mixture; write it again with scaling mixture")
    if table is not None and result.get("inputs", {}).get("sha256") != sha256_file(table):
        return None
    return result


def mixture_context(result: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the template shows of a mixture; empty tables without one."""
    if result is None:
        return {"mixture_lines": [], "mixture_grids": []}
    return {
        "mixture_lines": [" ".join(law_lines(result)), " ".join(gain_lines(result))],
        "mixture_grids": [
            _grid("Shares of the sources", SOURCE_COLUMNS, rows_of_sources(result)),
            _grid("Losses of the domains", DOMAIN_COLUMNS, domain_rows(result)),
        ],
    }


def mixture_pictures(result: Mapping[str, Any] | None) -> list[Picture]:
    """Draw shares as bars, and a triangle for three sources, else the worth of each source."""
    if result is None:
        return []
    level = result["intervals"]["level"]
    order = sorted(result["weights"], key=lambda n: -result["weights"][n])
    bars = Picture(
        name="mixture_shares",
        svg=mixture_charts.shares(
            {n: result["weights"][n] for n in order},
            result["natural"],
            result["intervals"]["weights"],
        ),
        caption=f"Proposed shares with their {level:.0%} intervals, and the natural ones.",
    )
    if result["form"] != "effective_data":
        return [bars]
    return [bars, _triangle(result) if len(order) == 3 else _matrix(result)]


def _grid(name: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Grid:
    return Grid(name=name, columns=columns, rows=rows, numeric=tuple(range(1, len(columns))))


def _losses(result: Mapping[str, Any], shares: Array) -> Array:
    """Return the weighted losses (n,) of the law in the file at shares (n, J), repeats priced."""
    unique = np.full(len(result["sources"]), np.inf)
    for j, name in enumerate(result["sources"]):
        if name in result["unique"]:
            unique[j] = result["unique"][name] / result["tokens"]
    fresh, _ = worth(shares, unique, result["repeat_decay"])
    total = np.zeros(len(shares))
    for domain, weight in result["target"].items():
        p = result["parameters"][domain]
        w = np.array([p["w"][name] for name in result["sources"]])
        total += weight * (p["E"] + (p["eps"] + fresh ** p["g"] @ w) ** -p["beta"])
    return total


def _triangle(result: Mapping[str, Any]) -> Picture:
    steps = np.arange(GRID + 1)
    a, b = (part.ravel() for part in np.meshgrid(steps, steps))
    inside = a + b <= GRID
    points = np.column_stack([a, b, GRID - a - b])[inside] / GRID
    low, high = np.array([result["ranges"][name] for name in result["sources"]]).T
    points = points[((points >= low - 1e-9) & (points <= high + 1e-9)).all(axis=1)]
    shares = [np.array([result[k][n] for n in result["sources"]]) for k in ("weights", "natural")]
    svg = mixture_charts.triangle(
        result["sources"], points, _losses(result, points), proposed=shares[0], natural=shares[1]
    )
    return Picture(
        name="mixture_triangle",
        svg=svg,
        caption=(
            "Weighted loss by the law over the shares that were trained, ranked: the brighter, the"
            " lower."
        ),
    )


def _matrix(result: Mapping[str, Any]) -> Picture:
    """Draw w_ij of each domain over its largest."""
    rows = []
    for domain in result["domains"]:
        w = np.array([result["parameters"][domain]["w"][name] for name in result["sources"]])
        rows.append(w / max(w.max(), 1e-300))
    return Picture(
        name="mixture_worth",
        svg=mixture_charts.worth(result["domains"], result["sources"], np.array(rows)),
        caption=(
            "Worth w of a source (column) for a domain (row), over the largest of the row: "
            + ", ".join(f"{j} {name}" for j, name in enumerate(result["sources"], start=1))
            + "."
        ),
    )
