"""Tables of the report as text: law, methods, hindcasts, confirmations, cost, provenance."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from analysis.designing.batch_file import Batch
from analysis.figures.charts import METHODS
from analysis.laws.law import Law
from analysis.number_text import duration, interval, number, power, supported, supported_interval
from analysis.page.contents import Material
from analysis.page.typeset import GREEK, mathml, name_markup
from scaling.schema import Record, code_version

Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table: its name, column heads, rows; which columns are numbers and which hold sentences."""

    name: str
    columns: Row
    rows: list[Row]
    numeric: tuple[int, ...] = ()
    wide: tuple[int, ...] = ()


def law_grid(law: Law | None) -> Grid:
    """Return the law's parameters with their intervals."""
    intervals = (law.intervals or {}) if law else {}
    ends = intervals.get("parameters", {})
    rows = [
        (
            typeset(name, name_markup(name)),
            supported(value, ends.get(name)),
            supported_interval(ends.get(name)),
            number(value, 6),
        )
        for name, value in (law.parameters if law else {}).items()
    ]
    if law and law.allocation.get("a") is not None:
        for name, text in (("a", "a (N ~ C^a)"), ("b", "b (D ~ C^b)")):
            rows.append(
                (
                    text,
                    supported(law.allocation[name], law.allocation.get(f"{name}_interval")),
                    supported_interval(law.allocation.get(f"{name}_interval")),
                    number(law.allocation[name], 6),
                )
            )
    level = f"{100 * intervals['level']:g}% interval" if intervals.get("level") else "interval"
    return Grid(
        name="Parameters of the law",
        columns=("parameter", "value", level, "six digits"),
        rows=rows,
        numeric=(1, 3),
    )


def methods_grid(law: Law | None) -> Grid:
    """Return the exponents a and b of the three methods side by side."""
    rows = [
        (
            METHODS.get(name, name),
            supported(m["a"], m.get("a_interval")),
            supported_interval(m.get("a_interval")),
            supported(m["b"], m.get("b_interval")),
            supported_interval(m.get("b_interval")),
        )
        for name, m in (law.methods if law else {}).items()
        if m and m.get("a") is not None and m.get("b") is not None
    ]
    return Grid(
        name="Allocation by three methods",
        columns=("method", "a", "interval of a", "b", "interval of b"),
        rows=rows,
        numeric=(1, 3),
    )


def power_grid(law: Law | None) -> Grid:
    """Return the plain power laws."""
    rows = []
    for block in law.power_laws if law else []:
        values, ends = block.get("parameters") or {}, block.get("intervals") or {}
        if values:
            known = block.get("intervals") or {}
            text = ", ".join(
                f"{GREEK.get(k, k)} {supported(v, known.get(k))}" for k, v in values.items()
            )
            rows.append(
                (
                    power_law(block),
                    text,
                    supported_interval(ends.get("exponent")),
                    str(block.get("n_runs", "–")),
                )
            )
    return Grid(
        name="Plain power laws",
        columns=("form", "parameters", "interval of the exponent", "runs"),
        rows=rows,
        numeric=(3,),
    )


def typeset(text: str, markup: str) -> str:
    """Return MathML beside its text, which a screen reader and a CSV take."""
    return Markup(f'<span class="sr">{escape(text)}</span><math aria-hidden="true">{markup}</math>')


def power_law(block: Mapping[str, Any]) -> str:
    """Return a plain power law's formula as MathML, or what is known of it as text."""
    formula = str(block.get("formula", block["variable"]))
    if " = " not in formula:
        return formula
    return typeset(formula, mathml(formula))


def comparison_grid(law: Law | None) -> Grid:
    """Return the forms that were compared (form=all, repetition), best first."""
    by_epochs = bool(law and law.comparison and law.comparison[0].get("asked") == "repetition")
    beyond = ">" if by_epochs else "x"
    rows = [
        (
            row["form"],
            f"{row['n_parameters']}",
            f"{100 * row['rms_in_range']:.2f}%",
            "no minimum" if row["score"] is None else f"{100 * row['score']:.2f}%",
            ", ".join(
                f"{beyond}{reach:.2g} {100 * error:.2f}%" for reach, error in row["by_cutoff"]
            ),
        )
        for row in (law.comparison if law else ())
    ]
    columns = (
        "form",
        "parameters",
        "error in range",
        "error of withheld runs",
        "beyond epochs" if by_epochs else "by reach in C",
    )
    return Grid(name="Forms compared", columns=columns, rows=rows, numeric=(1, 2, 3))


def backtest_grid(law: Law | None) -> Grid:
    """Return the hindcasts: what the law would have said of the dearer runs."""
    rows = [
        (
            power(row["cutoff_flops"], 3),
            f"{row['n_train']}",
            f"{row['n_test']}",
            f"{row['distance']:.2g}",
            f"{100 * row['rms_relative_error']:.2g}%",
            f"{100 * row['coverage']:.0f}%",
        )
        for row in ((law.backtest or {}).get("rows", ()) if law else ())
        if row.get("rms_relative_error") is not None
    ]
    columns = (
        "fitted up to (FLOPs)",
        "runs fitted",
        "runs forecast",
        "reach in C",
        "rms error of loss",
        "inside the interval",
    )
    return Grid(name="Held-out forecasts", columns=columns, rows=rows, numeric=(1, 2, 3, 4, 5))


def confirmation_grid(material: Material) -> Grid:
    """Return the confirmation runs: forecast, interval, outcome."""
    rows = [
        (
            line["study"],
            power(record.flops, 3),
            number(line["forecast"]),
            interval(line["interval"]),
            number(line["outcome"]),
            {True: "inside", False: "OUTSIDE", None: "no interval"}[line["inside"]],
        )
        for record, line in material.confirmations
    ]
    columns = ("confirmation run", "C (FLOPs)", "forecast", "interval", "reached", "")
    return Grid(name="Confirmation runs", columns=columns, rows=rows, numeric=(1, 2, 4))


def cost_grid(material: Material) -> Grid:
    """Return FLOPs and time of the sweep and of each stage."""
    done = [r for r in material.records if r.stage == "pretrain"]
    rows = [_cost(f"sweep, {len(done)} cells", done)]
    rows += [
        _cost(f"final run, {stage}", [record]) for stage, record in material.final.stages.items()
    ]
    if material.final.stages:
        rows.append(_cost("in all", [*done, *material.final.stages.values()]))
    columns = (
        "what",
        "FLOPs, trunks once",
        "wall seconds, trunks once",
        "device time, trunks once",
        "peak memory of the process",
    )
    return Grid(name="Cost", columns=columns, rows=rows, numeric=(1, 2, 3, 4))


def design_grid(batches: Sequence[Batch]) -> Grid:
    """Return the batches of a design: what they cost, and the interval before each."""
    rows = [
        (
            str(b.number),
            str(len(b.cells)) if b.cells else b.stop,
            power(b.spent) if b.spent else "0",
            str(b.n_runs),
            number(b.value),
            interval(b.interval),
            number(b.half, 3),
        )
        for b in batches
    ]
    columns = ("batch", "cells", "FLOPs before", "fitted", "target", "interval", "half-width")
    return Grid(name="Design", columns=columns, rows=rows, numeric=(2, 3, 4, 6))


def _cost(name: str, records: list[Record]) -> Row:
    memory = max((r.peak_memory_bytes for r in records), default=0)
    return (
        name,
        power(flops_run(records), 3),
        f"{spent(records, 'seconds'):.0f}",
        duration(spent(records, "device_seconds")),
        f"{memory / 2**20:.0f} MiB" if memory else "–",
    )


def flops_run(records: Sequence[Record]) -> float:
    """Return the FLOPs that were run: a trunk once, and of its shorter branches the decay alone."""
    return spent(records, "flops")


def spent(records: Sequence[Record], what: str) -> float:
    """Return what cells cost together: a trunk once, and of its shorter branches the decay alone.

    records: the cells, each of which holds the cost of its whole length
    what: flops, seconds or device_seconds
    """
    trunks: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        trunks.setdefault((r.stage, r.trunk), []).append(r)
    total = 0.0
    for branches in trunks.values():
        *rest, longest = sorted(branches, key=lambda r: r.flops)
        decay = longest.config.get("schedule", {}).get("decay", 1.0)
        total += getattr(longest, what) + decay * sum(getattr(r, what) for r in rest)
    return total


def provenance_grid(material: Material) -> Grid:
    """Return versions, hashes and machines."""
    rows: list[Row] = []
    code = code_version()
    rows.append(
        (
            "this report",
            (
                f"version {code['version']}, commit {code['git_sha'] or 'not a checkout'}, Python"
                f" {platform.python_version()}"
            ),
        )
    )
    if material.table is not None:
        rows += [(f"sha256 of {name}", digest) for name, digest in material.sha256.items()]
        return Grid(name="Provenance", columns=("what", "value"), rows=rows, wide=(1,))
    shas = sorted({r.git_sha or "no checkout" for r in material.records})
    rows.append(("cells trained by", f"commit {', '.join(shas)}"))
    versions: dict[str, set[str]] = {}
    for r in material.records:
        for name, version in r.versions.items():
            versions.setdefault(name, set()).add(str(version))
    rows.append(
        ("libraries", ", ".join(f"{k} {'/'.join(sorted(v))}" for k, v in sorted(versions.items())))
    )
    rows.append(("devices", ", ".join(sorted({r.device for r in material.records}))))
    started, ended = (
        min(r.started for r in material.records),
        max(r.ended for r in material.records),
    )
    rows.append(("trained", f"{started} to {ended}"))
    rows += [(f"sha256 of {name}", digest) for name, digest in material.sha256.items()]
    if material.plan:
        rows += [
            (f"plan made from {name}", digest) for name, digest in material.plan.made_from.items()
        ]
    return Grid(name="Provenance", columns=("what", "value"), rows=rows, wide=(1,))
