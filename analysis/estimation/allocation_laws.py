"""Forms with a method of their own: IsoFLOP vertices, envelope, optimal rate and batch, surface.

`form=isoflop`, `form=isoflop_akima`, `form=envelope`, `form=lr_batch` and `form=critical_batch`
give a `Law` that plans read as any other. It has N* = k_params C^a and D* = k_tokens C^b, or
learning rate and batch, or the critical batch, and predicts no loss. C is the column flops, 6ND in
a table without one. `form=surface` predicts loss and settings (`analysis.estimation.surfaces.fit`).
"""

from collections.abc import Callable, Mapping
from typing import Any

from analysis.alarms.alarm import Alarm
from analysis.alarms.loss_units import loss_unit_alarm, unit_of_law
from analysis.alarms.of_fit import edge_alarm
from analysis.alarms.of_table import table_alarms
from analysis.alarms.units import unit_alarms
from analysis.estimation.critical_batch import FORM as CRITICAL_BATCH
from analysis.estimation.critical_batch import NEEDED as CRITICAL_BATCH_NEEDED
from analysis.estimation.critical_batch import critical_batch
from analysis.estimation.envelope import envelope
from analysis.estimation.isoflops.akima import akima
from analysis.estimation.isoflops.answers import (
    OPTIMA,
    convention_of,
    isoflop_both,
    lines_of_optima,
)
from analysis.estimation.isoflops.isoflop import Isoflop
from analysis.estimation.lr_batch import NEEDED as LR_BATCH_NEEDED
from analysis.estimation.lr_batch import lr_batch
from analysis.estimation.surfaces.fit import NEEDED as SURFACE_NEEDED
from analysis.estimation.surfaces.fit import surface
from analysis.forms import column
from analysis.laws.law import Law
from analysis.runs.columns import NEEDED
from analysis.runs.table import Runs

REACHES = (1.0, 10.0, 100.0)  # budgets of stated optima, in units of the largest C


def _isoflop_law(method: Callable[..., Isoflop | None]) -> Callable[..., Law]:
    def fit_lines(runs: Runs, *, resamples: int, level: float, seed: int) -> Law:
        if "loss" not in runs.table:
            lines = lines_of_optima(runs.table, intervals=resamples > 0, level=level)
        else:
            lines = method(runs.table, resamples=resamples, level=level, seed=seed)
        if lines is None:
            raise ValueError(
                "form=isoflop needs at least 3 budgets with 4 sizes each and a minimum inside "
                "them; add sizes at each budget, or use form=chinchilla"
            )
        return _allocation_law(runs, "isoflop", lines, lines.as_method(), level, resamples)

    return fit_lines


def _envelope_law(runs: Runs, *, resamples: int, level: float, seed: int) -> Law:
    lines = envelope(runs.table, resamples=resamples, level=level, seed=seed)
    if lines is None:
        raise ValueError(
            "form=envelope needs at least 3 sizes whose curves cross inside the data; add sizes or "
            "longer runs, or use form=chinchilla"
        )
    return _allocation_law(runs, "envelope", lines, lines.as_method(), level, resamples)


METHODS: Mapping[str, Callable[..., Law]] = {
    "isoflop": _isoflop_law(isoflop_both),
    "isoflop_akima": _isoflop_law(akima),
    "envelope": _envelope_law,
    "lr_batch": lr_batch,
    "surface": surface,
    CRITICAL_BATCH: critical_batch,
}
NEEDED_BY: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(METHODS, NEEDED),
    "isoflop": ("params", "tokens"),  # a table without a loss is one of optima
    "lr_batch": LR_BATCH_NEEDED,
    "surface": SURFACE_NEEDED,
    CRITICAL_BATCH: CRITICAL_BATCH_NEEDED,
}


def _allocation_law(
    runs: Runs, name: str, lines: Any, block: dict[str, Any], level: float, resamples: int
) -> Law:
    table = runs.table
    flops_6nd = 6 * column(table, "params") * column(table, "tokens")
    convention = convention_of(table, runs.inputs.get("columns", {}).get("flops", "flops"))
    reach = float(column(table, "flops").max())
    names = ("k_params", "a", "k_tokens", "b")
    optima = []
    for budget in (reach * r for r in REACHES):
        params, tokens = lines.k_params * budget**lines.a, lines.k_tokens * budget**lines.b
        optima.append(
            {
                "flops": budget,
                "params": params,
                "tokens": tokens,
                "tokens_per_param": tokens / params,
                "interval": None,
                "loss": None,
            }
        )
    known = [name for name in (*NEEDED, "flops") if name in table]
    values = {name: column(table, name) for name in known} | {"flops_6nd": flops_6nd}
    ranges = {name: [float(v.min()), float(v.max())] for name, v in values.items()}
    intervals = {n: getattr(lines, f"{n}_interval") for n in ("a", "b")}
    points = block.get("points", []) if name == "isoflop" else []
    of_optima = block.get("method") == OPTIMA
    unit_alarm = loss_unit_alarm(runs.inputs)
    edge = edge_alarm([p["flops"] for p in points if p["why"]], len(points))
    return Law(
        form=name,
        count=runs.count,
        parameters={n: float(getattr(lines, n)) for n in names},
        objective={"name": name, "delta": None, "value": None},
        status="converged",
        intervals={
            "level": level,
            "method": "regression, Student t" if of_optima else "bootstrap, percentile",
            "resamples": 0 if of_optima else resamples,
            "unit": "budget",
            "parameters": {k: v for k, v in intervals.items() if v is not None},
        }
        if resamples
        else None,
        allocation={
            **{n: float(getattr(lines, n)) for n in names},
            "a_interval": lines.a_interval,
            "b_interval": lines.b_interval,
            "convention": convention,
            "tokens_per_param": optima,
        },
        methods={name: {**block, "convention": convention}},
        alarms=(
            *([unit_alarm] if unit_alarm else []),
            *_alarms_of_rows(runs),
            *([edge] if edge else []),
        ),
        n_runs=len(table),
        dropped=runs.dropped,
        ranges=ranges,
        inputs=runs.inputs,
        unit=unit_of_law(runs.inputs),
    )


def _alarms_of_rows(runs: Runs) -> list[Alarm]:
    """Return the alarms of the table; of a table of optima, only those of its units."""
    if "loss" in runs.table:
        return table_alarms(runs.table, runs.inputs)
    return unit_alarms(runs.table, runs.inputs.get("columns", {}))
