"""One page over all studies of a folder: cells, law, forecast, outcome, date, link.

scaling report runs=runs index=true
"""

import os
from dataclasses import dataclass
from pathlib import Path

from analysis.number_text import number, supported, supported_interval
from analysis.page.contents import Material, read_material
from analysis.page.first_screen import verdict
from analysis.page.template import render

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """A study in the index; `link` leads to its page, empty where there is none yet."""

    name: str
    link: str
    cells: str
    law: str
    forecast: str
    outcome: str
    tone: str
    ended: str
    command: str
    problem: str = ""


def index_page(folder: str | Path, out: str | Path) -> tuple[str, int]:
    """Return the index of a folder of studies, the latest first, and how many studies it has.

    folder: whose folders are studies
    out: the page's file, from which the links lead

    Raises ValueError for a folder without a study.
    """
    folder = Path(folder)
    studies = sorted({p.parent.parent for p in folder.glob("*/*/record.json")})
    studies = [s for s in studies if s.name != "final"]
    if not studies:
        raise ValueError(
            f"{folder} has no study: no folder in it has a cell with a record.json; give the folder"
            " that holds the studies, as runs=runs, or one study without index=true"
        )
    beside = Path(out).resolve().parent
    rows = sorted((_row(s, beside) for s in studies), key=lambda row: row.ended, reverse=True)
    return render("index.html.j2", folder=folder.as_posix(), rows=rows), len(rows)


def _row(study: Path, beside: Path) -> StudyRow:
    command = f"python -m analysis.report runs={study.as_posix()}"
    page = study / PAGE
    link = Path(os.path.relpath(page.resolve(), beside)).as_posix() if page.is_file() else ""
    try:
        material = read_material(study)
    except ValueError as error:
        nothing = dict.fromkeys(("cells", "law", "forecast", "outcome", "tone", "ended"), "")
        return StudyRow(name=study.name, link=link, command=command, problem=str(error), **nothing)
    ended = max(r.ended for r in material.records)[:16].replace("T", " ")
    done = sum(r.status == "done" for r in material.records)
    reached = verdict(material)
    return StudyRow(
        name=study.name,
        link=link,
        cells=f"{done} of {len(material.records)} done",
        law=_law(material),
        forecast=_forecast(material),
        outcome=f"{reached['value']} {_held(reached['tone'])}".strip() if reached else "–",
        tone=reached["tone"] if reached else "",
        ended=ended,
        command=command,
    )


def _held(tone: str) -> str:
    return {"good": "inside", "bad": "OUTSIDE"}.get(tone, "")


def _law(material: Material) -> str:
    law = material.law
    if law is None:
        return "–"
    a = law.allocation.get("a")
    growth = f", N grows as C^{number(a, 2)}" if a is not None else ""
    return f"{law.form}, {law.status.replace('_', ' ')}{growth}"


def _forecast(material: Material) -> str:
    forecast = material.forecast
    if forecast is None or forecast.test_loss is None:
        return "–"
    ends = forecast.interval or None
    text = supported(forecast.test_loss, ends)
    return f"{text} {supported_interval(ends)}" if ends else text
