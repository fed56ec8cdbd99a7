"""Tables of the report as text: law, methods, plan, stages, cost, all cells, provenance."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.designing.batch_file import Batch
from analysis.figures.canvas import MOST_TIPS
from analysis.laws.law import Law
from analysis.number_text import counts, duration, interval, number, power, short
from analysis.page.contents import Material
from analysis.planning.plan import Plan
from analysis.planning.written.derivation import blocks_of, shown
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


@dataclass(frozen=True, kw_only=True)
class CellText:
    """One cell of the sortable table: `sort` is None for text, empty for a missing number.

    `link` is the place in the page that it leads to.
    """

    text: str
    sort: str | None = None
    link: str = ""


def law_grid(law: Law | None) -> Grid:
    """Return the law's parameters with their intervals."""
    intervals = (law.intervals or {}) if law else {}
    ends = intervals.get("parameters", {})
    rows = [
        (name, number(value, 6), interval(ends.get(name)))
        for name, value in (law.parameters if law else {}).items()
    ]
    if law and law.allocation.get("a") is not None:
        for name, text in (("a", "a (N ~ C^a)"), ("b", "b (D ~ C^b)")):
            rows.append(
                (
                    text,
                    number(law.allocation[name]),
                    interval(law.allocation.get(f"{name}_interval")),
                )
            )
    level = f"{100 * intervals['level']:g}% interval" if intervals.get("level") else "interval"
    return Grid(
        name="Parameters of the law",
        columns=("parameter", "value", level),
        rows=rows,
        numeric=(1,),
    )


def methods_grid(law: Law | None) -> Grid:
    """Return the exponents a and b of the three methods side by side."""
    rows = [
        (
            name,
            number(m.get("a")),
            interval(m.get("a_interval")),
            number(m.get("b")),
            interval(m.get("b_interval")),
        )
        for name, m in (law.methods if law else {}).items()
        if m and m.get("a") is not None
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
            text = ", ".join(f"{k} {number(v)}" for k, v in values.items())
            rows.append(
                (
                    str(block.get("formula", block["variable"])),
                    text,
                    interval(ends.get("exponent")),
                    str(block.get("n_runs", "–")),
                )
            )
    return Grid(
        name="Plain power laws",
        columns=("form", "parameters", "interval of the exponent", "runs"),
        rows=rows,
        numeric=(3,),
    )


def comparison_grid(law: Law | None) -> Grid:
    """Return the forms that were compared (form=all), best first."""
    rows = [
        (
            row["form"],
            f"{row['n_parameters']}",
            f"{100 * row['rms_in_range']:.2f}%",
            "no minimum" if row["score"] is None else f"{100 * row['score']:.2f}%",
            ", ".join(f"x{reach:.2g} {100 * error:.2f}%" for reach, error in row["by_cutoff"]),
        )
        for row in (law.comparison if law else ())
    ]
    columns = ("form", "parameters", "error in range", "error of withheld runs", "by reach in C")
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


def plan_grids(plan: Plan | None) -> list[Grid]:
    """Return one table a block of the plan: value and reason."""
    if plan is None:
        return []
    grids = [*_derived(plan)]
    for block, values in blocks_of(plan):
        rows = [(k, shown(v), reason) for k, (v, reason) in values.items() if v != ""]
        grids.append(
            Grid(
                name=block,
                columns=("value of", "planned", "reason, and interval before rounding"),
                rows=rows,
                wide=(2,),
            )
        )
    return grids


def _derived(plan: Plan) -> Iterator[Grid]:
    """Return the derivation of N and D, the laws side by side, and the experts weighed."""
    steps = [
        (s.what, shown(s.value), shown(s.interval or "–"), s.rule, s.rounding) for s in plan.steps
    ]
    columns = ("step", "value", "interval before rounding", "law or rule", "rounding")
    yield Grid(name="derivation of N and D", columns=columns, rows=steps, wide=(3, 4))
    laws = [
        (
            row.law,
            row.count.replace("_", " "),
            short(row.params),
            counts(row.interval),
            short(row.tokens),
            number(row.tokens_per_param, 3),
            number(row.loss),
            number(row.regret, 2),
        )
        for row in plan.laws
    ]
    columns = ("law", "count", "N*", "interval", "D*", "D*/N*", "loss", "regret of the plan's N")
    yield Grid(name="laws side by side", columns=columns, rows=laws, numeric=(2, 4, 5, 6, 7))
    weighed = [
        (
            f"{row.experts}{', taken' if row.chosen else ''}",
            short(row.params),
            short(row.params_total),
            short(row.tokens),
            number(row.test_loss),
            interval(row.interval),
            number(row.memory_gib, 3),
        )
        for row in plan.mixtures
    ]
    columns = ("experts", "N active", "N in all", "D", "forecast loss", "interval", "GiB a device")
    yield Grid(name="experts weighed", columns=columns, rows=weighed, numeric=(1, 2, 3, 4, 6))


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


def stages_grid(material: Material) -> Grid:
    """Return the final figures of each stage."""
    rows = []
    for stage, record in material.final.stages.items():
        finals = (
            {"test loss": record.test_loss, **record.metrics} if stage != "ppo" else record.metrics
        )
        text = ", ".join(
            f"{k.replace('_', ' ')} {number(v, 3)}"
            for k, v in finals.items()
            if isinstance(v, int | float)
        )
        rows.append(
            (stage, record.status, text or "–", f"{record.steps}", duration(record.seconds))
        )
        rows += [
            (
                f"{stage}, loss on {name}",
                record.status,
                f"{number(score.loss, 4)} ± {number(score.loss_se, 2)} nats per token,"
                f" {number(score.bits_per_byte, 4)} bits per byte of {score.bytes:,} bytes",
                "–",
                "–",
            )
            for name, score in record.test_sets.items()
        ]
    columns = ("stage", "status", "reached", "steps", "time")
    return Grid(
        name="Stages of the final run", columns=columns, rows=rows, numeric=(3, 4), wide=(2,)
    )


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


CELL_COLUMNS = (
    "run",
    "status",
    "schedule",
    "seed",
    "N",
    "D",
    "D/N",
    "C (FLOPs)",
    "test loss",
    "±",
    "bits/byte",
    "steps",
    "batch",
    "peak lr",
    "seconds",
    "tokens/s",
)
TEXT_COLUMNS = 3


def cell_rows(material: Material) -> list[list[CellText]]:
    """Return every cell of the study, failed ones included, for the sortable table."""
    with_curve = set(material.training()["run"])
    return [
        list(_cell(r, material.count, with_curve))
        for r in material.records
        if r.stage == "pretrain"
    ]


def _cell(r: Record, count: str, with_curve: set[str]) -> Iterator[CellText]:
    """Write a record's columns; its name leads to its curve where that is `drawn`."""
    n = getattr(r.params, count)
    link = (
        f"#curves-run-{r.run_id}" if r.run_id in with_curve and len(with_curve) <= MOST_TIPS else ""
    )
    yield CellText(text=r.run_id, link=link)
    yield from (CellText(text=t) for t in (r.status, r.schedule))
    yield _number(r.seed, str(r.seed))
    yield _number(n, short(n))
    yield _number(r.tokens, short(r.tokens))
    yield _number(r.tokens / n, f"{r.tokens / n:.3g}")
    yield _number(r.flops, power(r.flops, 3))
    yield _number(r.test_loss, f"{r.test_loss or 0:.4f}")
    yield _number(r.test_loss_se, f"{r.test_loss_se or 0:.4f}")
    yield _number(r.bits_per_byte, f"{r.bits_per_byte or 0:.4f}")
    yield _number(r.steps, str(r.steps))
    yield _number(r.batch_tokens, str(r.batch_tokens))
    yield _number(r.peak_lr, f"{r.peak_lr:.3g}")
    yield _number(r.seconds, f"{r.seconds:.1f}")
    yield _number(r.tokens_per_second, short(r.tokens_per_second))


def _number(value: float | None, text: str) -> CellText:
    return (
        CellText(text="–", sort="")
        if value is None
        else CellText(text=text, sort=repr(float(value)))
    )


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
