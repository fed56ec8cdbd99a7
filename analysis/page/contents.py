"""Everything that a report shows, read from a study's folder; what is missing is None or empty."""

import logging
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.laws.law import Law
from analysis.laws.published import check_measure
from analysis.page.final_run import FinalRun, read_final
from analysis.planning.plan import Forecast, Plan
from analysis.planning.written.plan_file import read_plan
from scaling.schema import (
    NATS_PER_TOKEN,
    Measure,
    Record,
    RunningCell,
    confirmations,
    read_curve,
    read_records,
    running_cells,
    sha256_file,
)

log = logging.getLogger(__name__)
CURVE_LAW = "law.schedule.json"  # of a study's loss curves (scaling fit form=schedule)
CURVE_ROWS = 120  # points of one cell's curve in a figure: nobody sees more
FEWEST_ROWS = 12  # of one cell's curve, where there are thousands of cells
MOST_CURVE_ROWS = 20_000  # points of all curves of a figure, but for the fewest of each


@dataclass(frozen=True, kw_only=True)
class Material:
    """A study, its law, its plan and the final run of that plan.

    `curve_factors` turn the losses of each cell's curve into the page's (a cell without one has no
    curve of that loss), `confirmations` are the records of confirmation runs with the score of
    their forecast, `mixture` the content of mixture.json, `as_read` the records with the losses of
    their files, `sha256` the hash of each file by its name. A page of a table of runs has no
    records: `table` holds its rows under our column names, `unread_rows` says how many beyond are
    not drawn. `asked` are N and D at which the settings of a surface are shown, None for those of
    the plan or of the largest point. `curve_law` is the study's law of form=schedule.
    """

    folder: Path
    records: list[Record]
    law: Law | None
    measure: Measure = field(default_factory=Measure)
    plan: Plan | None
    law_path: Path | None = None
    plan_path: Path = Path("plan.yaml")
    final: FinalRun = field(default_factory=FinalRun)
    curve_factors: dict[str, float] = field(default_factory=dict)
    confirmations: list[tuple[Record, dict[str, Any]]] = field(default_factory=list)
    sha256: dict[str, str] = field(default_factory=dict)
    as_read: list[Record] = field(default_factory=list)
    table: pd.DataFrame | None = None
    mixture: dict[str, Any] | None = None
    unread_rows: int = 0
    asked: tuple[float, float] | None = None
    curve_law: Law | None = None

    @property
    def name(self) -> str:
        """The study's name, or that of the table's file."""
        return self.folder.name

    @cached_property
    def running(self) -> list[RunningCell]:
        """The cells that train while the page is written; none of a table."""
        return [] if self.table is not None else running_cells(self.folder)

    @property
    def forecast(self) -> Forecast | None:
        """The sealed forecast, else that of the plan."""
        return self.final.sealed or (self.plan.forecast if self.plan else None)

    @property
    def count(self) -> str:
        """The parameter count that the law was fitted on."""
        return self.law.count if self.law else "non_embedding"

    @property
    def why_no_curves(self) -> str:
        """Say why no training curve is drawn; empty where the curves hold the page's loss."""
        target = self.measure.target
        what = f"they hold the loss of the test part, not that on {target}"
        return f"No training curves are shown: {what}." if target else ""

    def cells(self) -> pd.DataFrame:
        """Return the runs of the law: run, params (under `count`), tokens, flops, loss and so on.

        Done cells and confirmation runs, or the rows of a table; `experts` of a dense model is 1.
        """
        if self.table is not None:
            return self.table
        rows = [
            {
                "run": r.run_id,
                "params": float(getattr(r.params, self.count)),
                "tokens": float(r.tokens),
                "flops": r.flops,
                "loss": r.test_loss,
                "seed": r.seed,
                "trunk": r.trunk,
                "experts": float(max(1, r.config.get("model", {}).get("n_experts", 0))),
            }
            for r in (*self.records, *(r for r, _ in self.confirmations))
            if r.status == "done" and r.stage == "pretrain" and r.test_loss is not None
        ]
        names = ["run", "params", "tokens", "flops", "loss", "seed", "trunk", "experts"]
        return pd.DataFrame(rows, columns=names)

    @cached_property
    def training(self) -> pd.DataFrame:
        """The cells' curves: run, params, tokens, flops, loss; `CURVE_ROWS` or so each.

        A curve is scored on some of the test tokens; the last row of each is the record's test
        loss, over all of them, so that a curve ends at the cell's point.
        """
        known = [r for r in self.records if r.run_id in self.curve_factors]
        most = max(FEWEST_ROWS, min(CURVE_ROWS, MOST_CURVE_ROWS // max(1, len(known))))
        columns: dict[str, list[Any]] = {
            k: [] for k in ("tokens", "flops", "loss", "run", "params")
        }
        for r in known:
            factor = self.curve_factors[r.run_id]
            rows = curve_rows(read_curve(self.folder / r.run_id / "metrics.jsonl"))
            rows = rows[:: max(1, len(rows) // most)]
            points = [(d, c, factor * loss) for d, c, loss in rows]
            if points and r.test_loss is not None:
                points = [p for p in points if p[0] < r.tokens]
                points.append((float(r.tokens), r.flops, r.test_loss))
            for name, values in zip(columns, zip(*points, strict=True), strict=False):
                columns[name] += values
            columns["run"] += [r.run_id] * len(points)
            columns["params"] += [float(getattr(r.params, self.count))] * len(points)
        return pd.DataFrame(columns)


def read_material(
    folder: str | Path, *, law: str = "", plan: str = "", target: str = "", unit: str = ""
) -> Material:
    """Read a study's folder; a named file must exist, a default one may be missing.

    folder: of the study
    law, plan: their files
    target: named test set whose loss is shown; empty is that of the law
    unit: of the loss; empty is that of the law

    The test loss of all records, those of the final run's pretraining too, is then that loss.
    ValueError where the law is of another one.
    """
    folder = Path(folder)
    records = read_records(folder)
    asked = Measure(target=target, unit=unit or NATS_PER_TOKEN)
    if not records:
        raise ValueError(
            f"{folder} has no cell with a record; run the sweep first or check the path"
        )
    law_path = Path(law or folder / asked.file("law.json"))
    read_law = Law.read(law_path) if law or law_path.exists() else None
    if read_law:
        check_measure(read_law, str(law_path), target=target, unit=unit)
        if read_law.curves:
            raise ValueError(
                f"law={law_path} is of loss curves (form=schedule), which the page shows beside a"
                " law of N and D; leave law= out"
            )
    measure = read_law.measure if read_law else asked
    curve_path = folder / CURVE_LAW
    plan_path = Path(plan or folder / measure.file("plan.yaml"))
    read_plan_file = read_plan(plan_path) if plan or plan_path.exists() else None
    if read_plan_file:
        _check_plan(read_plan_file, plan_path, measure)
    final = read_final(
        folder / "final",
        read_plan_file,
        measure,
        plan_sha256=sha256_file(plan_path) if read_plan_file else "",
    )
    files = [*(p for p in (law_path, plan_path, curve_path) if p.exists()), *final.files]
    return Material(
        folder=folder,
        records=_measured(records, measure),
        as_read=records,
        measure=measure,
        law=read_law,
        law_path=law_path if read_law else None,
        curve_law=Law.read(curve_path) if curve_path.exists() and measure.is_default else None,
        plan=read_plan_file,
        plan_path=plan_path,
        final=final,
        curve_factors={
            r.run_id: factor for r in records if (factor := measure.curve_factor(r)) is not None
        },
        confirmations=[
            (measure.of(record), line)
            for _, record, line in confirmations(folder)
            if not measure.why_missing(record)
        ],
        sha256={_name(p, folder): sha256_file(p) for p in files},
    )


def _check_plan(plan: Plan, path: Path, measure: Measure) -> None:
    """Refuse a plan whose forecast is of another loss than the page."""
    forecast = plan.forecast
    planned = Measure(target=forecast.target, unit=forecast.unit)
    if forecast.test_loss is not None and planned != measure:
        settings = planned.settings or "neither target= nor unit="
        raise ValueError(
            f"{path} forecasts the {planned.words}, and the page is of the {measure.words}; write"
            f" it with {settings}, or give a plan of this loss"
        )


def _measured(records: list[Record], measure: Measure) -> list[Record]:
    """Return the records with the loss that is meant; ValueError where no record holds it."""
    done = [r for r in records if r.status == "done" and r.stage == "pretrain"]
    whys = [measure.why_missing(r) for r in done]
    if whys and all(whys):
        raise ValueError(f"no cell holds the {measure.words}: of {done[0].run_id}, {whys[0]}")
    for record, why in zip(done, whys, strict=True):
        if why:
            log.warning("left out: cell %s, %s", record.run_id, why)
    return [
        measure.of(r) if r.stage == "pretrain" else r
        for r in records
        if r.stage != "pretrain" or not measure.why_missing(r)
    ]


def ended_at(curve: pd.DataFrame, record: Record) -> pd.DataFrame:
    """Return a curve (tokens, flops, loss) whose last row is the record's end."""
    if record.test_loss is None:
        return curve
    end = {"tokens": float(record.tokens), "flops": record.flops, "loss": record.test_loss}
    return pd.concat([curve.loc[curve["tokens"] < record.tokens], pd.DataFrame([end])])


def loss_curve(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return tokens, flops, loss of a curve: the test loss, else the training loss."""
    return pd.DataFrame(curve_rows(rows), columns=["tokens", "flops", "loss"], dtype=float)


def curve_rows(rows: list[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """Return (tokens, flops, loss) of each measured row: the test loss, else the training loss."""
    for name in ("test_loss", "train_loss"):
        found = [
            (float(r["tokens"]), float(r["flops"]), float(r[name]))
            for r in rows
            if r.get(name) is not None and r[name] == r[name] and r.get("flops") and r.get("tokens")
        ]
        if found or any(r.get(name) is not None and r[name] == r[name] for r in rows):
            return found
    return []


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
