"""What a plan takes from a study: shape family, recipe, schedule, speed, bytes per token.

`study_of` reads the done pretraining cells of a folder. `default_study` replaces it in a plan from
a published law alone, and every reason of the plan then names it. N parameters, C FLOPs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analysis.forms.token_flops import TokenFlops
from analysis.runs.ladder import Ladder, chinchilla_ladder, trained_ladder
from scaling.schema import NATS_PER_TOKEN, Measure, Recipe, Record, Shape, read_curve, read_records

NEAREST_CELLS = 6  # cells nearest in size whose speed is taken
FASTEST = 0.9  # quantile of their speeds where cells ran several at once: those hindered least
MOST_COURSES = 12  # largest cells whose curves are read, for the forecast band


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The part of a trained cell that a plan compares with."""

    params: float
    tokens: float
    flops: float
    flops_per_second: float
    peak_lr: float
    utilisation: float | None = None
    shape: Shape | None = None


@dataclass(frozen=True, kw_only=True)
class Course:
    """Test losses (nats per token) during the training of a cell, at shares of its tokens."""

    params: float
    tokens: float
    shares: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything but the law that a plan needs.

    name: of the study's folder
    source: where the values come from, for the reasons of a plan
    like: shape of the largest cell
    recipe: optimiser and parametrisation of that cell; None for the default study
    schedule: of that cell, with `decay` (share of the steps), `warmup_steps` and `weight_decay`
    device: on which it was trained
    cells: every done cell
    courses: training curves of the largest cells
    bytes_per_token: of the test set, None where it was not measured
    unique_tokens: of the corpus, None where it was not recorded
    checkpointing: whether activations were recomputed
    heads_multiple: number that the heads of a planned shape are a multiple of
    kv_heads: key-value heads of a planned shape; 0 shares them as `like` does
    at_once: trunks that trained at a time while a cell ran, the median over cells; None where the
        records do not say when they ran
    config: of the largest cell
    """

    name: str
    source: str
    like: Shape
    recipe: Recipe | None
    schedule: str = "wsd"
    decay: float = 0.2
    warmup_steps: int | None = None
    weight_decay: float = 0.1
    seed: int = 0
    device: str = ""
    cells: tuple[Cell, ...] = ()
    courses: tuple[Course, ...] = ()
    bytes_per_token: float | None = None
    unique_tokens: float | None = None
    checkpointing: bool = False
    heads_multiple: int = 1
    kv_heads: int = 0
    at_once: int | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> dict[str, Any]:
        """The model's settings other than its shape, such as its parametrisation."""
        model = self.config.get("model", {})
        return {k: v for k, v in model.items() if k not in Shape.__dataclass_fields__}

    @property
    def largest_flops(self) -> float | None:
        """FLOPs of the largest cell."""
        return max((c.flops for c in self.cells), default=None)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes of the cells, each once."""
        return tuple(dict.fromkeys(c.shape for c in self.cells if c.shape))

    @cached_property
    def ladder(self) -> Ladder:
        """The line of depth against width: through the trained shapes, else Chinchilla's."""
        return (
            trained_ladder(self.shapes, self.like) if self.cells else chinchilla_ladder(self.like)
        )

    def token_flops(self, count: str) -> TokenFlops | None:
        """Return FLOPs per token by N of the trained shapes' line, None where none was trained.

        count: which parameters N counts
        """
        sizes = [getattr(shape.params, count) for shape in self.shapes]
        return self.ladder.token_flops(count, sizes=sizes) if sizes else None

    def speed(self, target: float) -> float | None:
        """Return the measured FLOP/s near a size, at `speed_quantile` of up to six cells."""
        timed = [c for c in self.cells if c.flops_per_second > 0]
        return _near(target, timed, [c.flops_per_second for c in timed], self.speed_quantile)

    @property
    def speed_quantile(self) -> float:
        """The median; the fastest tenth where cells ran several at once and hindered each other."""
        return FASTEST if (self.at_once or 1) > 1 else 0.5

    @property
    def speed_words(self) -> str:
        """Say of which cells the speed is, and how many ran at a time."""
        if self.at_once is None:
            return "median of the cells nearest in size; how many ran at a time is not recorded"
        if self.at_once == 1:
            return "median of the cells nearest in size"
        return (
            f"at the speed of cells that ran {self.at_once} at a time, the fastest tenth of the"
            " cells nearest in size: a run alone may take less"
        )

    def utilisation(self, target: float) -> float | None:
        """Return the measured share of the device's peak near a size, in the same way."""
        measured = [(c, c.utilisation) for c in self.cells if c.utilisation]
        cells, shares = [c for c, _ in measured], [share for _, share in measured]
        return _near(target, cells, shares, self.speed_quantile)


def _near(
    target: float, cells: Sequence[Cell], values: Sequence[float], quantile: float
) -> float | None:
    """Return a quantile of the values of the six cells nearest in size."""
    distances = np.array([abs(math.log(c.params / target)) for c in cells])
    nearest = [values[i] for i in np.argsort(distances, kind="stable")[:NEAREST_CELLS]]
    return float(np.quantile(nearest, quantile)) if nearest else None


def _at_once(records: Sequence[Record]) -> int | None:
    """Return how many trunks trained while a cell ran, the median; None where it is unknown.

    Branches of a trunk, and cells stacked in one process, share their time already and count once.
    """
    spans: dict[str, list[datetime]] = {}
    for r in records:
        if not (r.started and r.ended):
            return None
        name = "stacked" if r.metrics.get("stacked") else r.trunk or r.run_id
        ends = [datetime.fromisoformat(r.started), datetime.fromisoformat(r.ended)]
        known = spans.get(name, ends)
        spans[name] = [min(known[0], ends[0]), max(known[1], ends[1])]
    middles = [start + (end - start) / 2 for start, end in spans.values()]
    counts = [sum(s <= at <= e for s, e in spans.values()) for at in middles]
    return int(np.median(counts)) if counts else None


def study_of(
    folder: str | Path,
    *,
    count: str,
    measure: Measure | None = None,
    read: Sequence[Record] | None = None,
) -> Study:
    """Read a study's done pretraining cells; ValueError when there are none.

    `measure` is the loss that is forecast. Curves are of the test loss in nats per token alone.
    `read` are the folder's records where they were read already.
    """
    measure = measure or Measure()
    records = read_records(folder) if read is None else read
    records = [r for r in records if r.status == "done" and r.stage == "pretrain"]
    if not records:
        raise ValueError(f"{folder} has no cell that is done; run the sweep first")
    in_nats = replace(measure, unit=NATS_PER_TOKEN)
    of_text = [in_nats.of(r) for r in records if not in_nats.why_missing(r)]
    largest = max(records, key=lambda r: r.flops)
    config, like = largest.config, Shape.of(largest)
    schedule = config.get("schedule", {})
    return Study(
        name=Path(folder).name or largest.study,
        source=f"study {largest.study}",
        like=like,
        recipe=Recipe.from_config(largest.setting("optim"), largest.setting("model")),
        schedule=schedule.get("name", largest.schedule),
        decay=schedule.get("decay", 0.2),
        warmup_steps=schedule.get("warmup_steps"),
        weight_decay=config["optim"].get("weight_decay", 0.1),
        seed=largest.seed,
        device=largest.device,
        cells=tuple(_cell(r, count) for r in records),
        courses=_courses(Path(folder), records, count) if measure.is_default else (),
        bytes_per_token=_bytes_per_token(of_text),
        unique_tokens=max(
            (r.metrics["corpus_tokens"] for r in records if "corpus_tokens" in r.metrics),
            default=None,
        ),
        checkpointing=config.get("machine", {}).get("activation_checkpointing", False),
        at_once=_at_once(records),
        config=config,
    )


def default_study() -> Study:
    """Return a Llama-like family (Touvron et al. 2023, 2302.13971); nothing is measured."""
    like = Shape(
        n_layer=32, d_model=4096, n_head=32, n_kv_head=32, d_head=128, d_ff=11008,
        vocab_size=32_000, context=2048, tied=False,
    )  # fmt: skip
    return Study(
        name="final", source="default Llama-like family (no study)", like=like, recipe=None
    )


def _cell(record: Record, count: str) -> Cell:
    shape = Shape.of(record)
    return Cell(
        params=getattr(record.params, count),
        tokens=record.tokens,
        flops=record.flops,
        flops_per_second=record.tokens_per_second * record.flops / max(record.tokens, 1),
        peak_lr=record.peak_lr,
        utilisation=record.mfu,
        shape=shape,
    )


def _courses(folder: Path, records: Sequence[Record], count: str) -> tuple[Course, ...]:
    """Return the curves of the largest cells: for each trunk that of its longest branch."""
    longest: dict[str, Record] = {}
    for r in sorted(records, key=lambda r: r.flops, reverse=True):
        longest.setdefault(r.trunk or r.run_id, r)
    curves = []
    for r in list(longest.values())[:MOST_COURSES]:
        rows = read_curve(folder / r.run_id / "metrics.jsonl")
        points = [
            (row["tokens"] / r.tokens, row["test_loss"])
            for row in rows
            if row.get("test_loss") and 0 < row["tokens"] < r.tokens
        ]
        if points:
            shares, losses = zip(*sorted(points), strict=True)
            params = getattr(r.params, count)
            curves.append(Course(params=params, tokens=r.tokens, shares=shares, losses=losses))
    return tuple(curves)


def _bytes_per_token(records: Sequence[Record]) -> float | None:
    """Invert bits per byte = loss / (ln 2 x bytes per token), one number for a study."""
    ratios = [
        r.test_loss / (math.log(2) * r.bits_per_byte)
        for r in records
        if r.test_loss and r.bits_per_byte
    ]
    return float(np.median(ratios)) if ratios else None
