"""The parts of a report: place, name in the contents, heading, and the line beside it."""

from dataclasses import dataclass
from typing import Any

from analysis.number_text import duration, number, power, short
from analysis.page.contents import Material
from analysis.page.first_screen import verdict
from analysis.page.sections.running_cells import running_gist
from analysis.page.sections.stage_tables import NAMES as STAGE_NAMES
from analysis.page.tables import Grid


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the page: its place, its name in the contents, its heading, its answer in a line.

    `of_records` parts are left out of the page of a table, which has no records.
    """

    anchor: str
    name: str
    title: str
    gist: str = ""
    of_records: bool = True


def parts_of(material: Material, checked: Grid) -> list[Part]:
    """Return the parts of a page in order, each with the line that it is folded to."""
    every = [
        Part(anchor="law", name="Law", title="The law", gist=_law_gist(material), of_records=False),
        *([_mixture_part(material.mixture)] if material.mixture else []),
        Part(
            anchor="plan",
            name="Plan",
            title="The plan",
            gist=_plan_gist(material),
            of_records=False,
        ),
        Part(
            anchor="final",
            name="Forecast",
            title="Forecast against outcome",
            gist=(verdict(material) or {"head": "not run yet"})["head"],
        ),
        *_curve_parts(material),
        Part(
            anchor="stages",
            name="Stages",
            title="Stages of the final run",
            gist=", ".join(STAGE_NAMES[s] for s in material.final.stages) or "none has ended",
        ),
        Part(
            anchor="evaluation",
            name="Scores",
            title="Scores on tasks and texts",
            gist="by scaling evaluate",
        ),
        Part(
            anchor="samples",
            name="Samples",
            title="Samples before and after PPO",
            gist=f"{len(material.final.samples) or 'none'} kept",
        ),
        Part(anchor="cost", name="Cost", title="What it cost", gist=_cost_gist(material)),
        *_running(material),
        Part(
            anchor="cells",
            name="Cells" if material.table is None else "Runs",
            title="All cells" if material.table is None else "All runs of the table",
            gist=_cells_gist(material),
            of_records=False,
        ),
        Part(
            anchor="checklist",
            name="Checklist",
            title="Reporting checklist",
            gist=f"{sum(r[1] == 'given' for r in checked.rows)} of {len(checked.rows)} given",
            of_records=False,
        ),
        Part(
            anchor="provenance",
            name="Provenance",
            title="Provenance",
            gist="versions, hashes, and the commands that rebuild this",
            of_records=False,
        ),
    ]
    return [p for p in every if material.table is None or not p.of_records]


def _curve_parts(material: Material) -> list[Part]:
    """Return the part on schedules, where a law of the study's curves was fitted."""
    law = material.curve_law
    if law is None:
        return []
    sizes = len((law.curves or {})["sizes"])
    gist = f"{law.n_runs} curves of {sizes} sizes, {law.status.replace('_', ' ')}"
    return [Part(anchor="schedules", name="Schedules", title="Curves and schedules", gist=gist)]


def _running(material: Material) -> list[Part]:
    """Return the part on cells in training, nothing where none trains."""
    gist = running_gist(material.running)
    part = Part(anchor="running", name="Running", title="Running cells", gist=gist)
    return [part] if material.running else []


def _mixture_part(mixture: dict[str, Any]) -> Part:
    gain, order = mixture["gain_over_natural"], sorted(mixture["weights"].items(), key=_by_share)
    first = ", ".join(f"{name} {share:.0%}" for name, share in order[:3])
    return Part(
        anchor="mixture",
        name="Mixture",
        title="The mixture of sources",
        gist=f"{first}; {number(gain, 2)} nats below the natural shares",
        of_records=False,
    )


def _by_share(item: tuple[str, float]) -> float:
    return -item[1]


def _law_gist(material: Material) -> str:
    law = material.law
    if law is None:
        return "none fitted yet"
    growth = law.allocation.get("a")
    text = f"{law.form}, {law.n_runs} runs, {law.status.replace('_', ' ')}"
    return text if growth is None else f"{text}; N grows as C to the {number(growth, 2)}"


def _plan_gist(material: Material) -> str:
    plan = material.plan
    if plan is None:
        return "none made yet" if material.table is None else "move the budget"
    size = f"N {short(plan.pretrain.params)}, D {short(plan.pretrain.tokens)}"
    return f"{size} at C = {power(plan.pretrain.flops)}; move the budget"


def _cost_gist(material: Material) -> str:
    every = [*material.records, *material.final.stages.values()]
    return f"{duration(sum(r.device_seconds for r in every))} of device time"


def _cells_gist(material: Material) -> str:
    if material.table is not None:
        return f"{len(material.table)} rows"
    done = sum(r.status == "done" for r in material.records)
    return f"{done} of {len(material.records)} done, with training curves"
