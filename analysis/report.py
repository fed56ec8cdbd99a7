"""Write one self-contained HTML file: the question, the answer, and everything it rests on.

    scaling report runs=runs/quick [out=report.html]
    scaling report runs=TABLE.csv [columns.params=N ...] [law=law.json]
    scaling report runs=runs index=true
    scaling report compare=[runs/A,runs/B] [out=runs/A-against-B.html]

The command reads a study's records and, where they exist, law.json, plan.yaml and final/<stage>. Of
a table of runs from any other tool it fits the law, unless `law=` names one, and writes it beside
the page. A part that does not exist yet is a sentence in the page. Alarms come first. The page and
the command make no network request, except with `wandb=online`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from analysis.page import compared_studies
from analysis.page.contents import Material, read_material
from analysis.page.first_screen import (
    formula,
    formula_note,
    verdict,
)
from analysis.page.index_page import index_page
from analysis.page.render import report
from analysis.page.table_material import read_table
from analysis.page.wandb_artifact import MODES, mirror_report
from analysis.runs.columns import Columns
from analysis.runs.example import example_or
from analysis.solve.progress import progress_on_stderr
from scaling.app.application import start, store
from scaling.schema import LOSS_UNITS, OneOf, checked, write_text

NO_TABLE = (".json", ".yaml", ".yml", ".html")  # endings of the files that a study has beside it


@dataclass(kw_only=True)
@checked()
class ReportConfig:
    """The study or table whose page is written, several studies side by side, or an index."""

    runs: str = ""
    """Folder of the study, or a table of runs (CSV, JSONL or Parquet; `example` is the one that
    comes with the package); with index=true the folder that holds the studies."""
    index: bool = False
    """Write one page over all studies of the folder runs instead."""
    form: str = "chinchilla"
    """Form of the law that is fitted to a table (scaling fit); not read with law=."""
    columns: Columns = field(default_factory=Columns)
    compare: list[str] = field(default_factory=list)
    """Folders of two or more studies to compare, as [runs/A,runs/B], instead of runs."""
    target: str = ""
    """Named test set (eval.sets) whose loss the page shows; empty is that of the law."""
    unit: Annotated[str, OneOf("", *LOSS_UNITS)] = ""
    """Unit of the loss; empty is that of the law."""
    out: str = ""
    """File to write; empty is report.html in the study (report.web.html for a set named web),
    TABLE.html beside a table, index.html in a folder of studies, or A-against-B.html."""
    law: str = ""
    """The law's file; empty is law.json in the study (law.web.json for a set named web)."""
    plan: str = ""
    """The plan's file; empty is plan.yaml in the study (plan.web.yaml for a set named web)."""
    wandb: Annotated[str, OneOf("", *MODES)] = ""
    """Log the page to Weights & Biases as an artifact too, in this mode; empty does not."""


def main(config: ReportConfig) -> None:
    """Read the study, write the page."""
    if config.compare:
        compare(config)
        return
    if not config.runs:
        raise ValueError("runs is not set; give the study's folder, as runs=runs/quick")
    if config.index:
        write_index(config)
        return
    material, page = read(config)
    out = write_text(page, report(material, progress_on_stderr()))
    lines = [formula(material.law), formula_note(material.law)]
    outcome = verdict(material)
    if outcome:
        lines += [outcome["text"], outcome["head"]]
    lines.append(material.final.other_plan)
    sys.stdout.write("\n".join([*filter(None, lines), f"report written to {Path(out)}"]) + "\n")
    if config.wandb:
        mirror_report(material, Path(out), mode=config.wandb)


def read(config: ReportConfig) -> tuple[Material, Path]:
    """Return what the page shows, and the page's file."""
    path = Path(config.runs)
    if path.suffix in NO_TABLE and (path.is_file() or not path.exists()):
        raise ValueError(
            f"runs={path} is no study and no table; give the study's folder or a table of runs, as"
            f" runs={path.parent if path.parent.name else 'runs/NAME'} or runs=TABLE.csv"
        )
    if path.is_file() or example_or(path) is not path:
        if config.target or config.unit or config.wandb:
            raise ValueError(
                "target, unit and wandb are for a study; for a table name the column, as"
                " columns.loss=COLUMN columns.loss_unit=bits_per_byte"
            )
        page = Path(config.out or path.with_suffix(".html"))
        material = read_table(
            path, page=page, form=config.form, columns=config.columns, law=config.law,
            plan=config.plan, on_progress=progress_on_stderr(),
        )  # fmt: skip
        return material, page
    material = read_material(
        config.runs, law=config.law, plan=config.plan, target=config.target, unit=config.unit
    )
    return material, Path(config.out or material.folder / material.measure.file("report.html"))


def write_index(config: ReportConfig) -> None:
    """Write the page over all studies of a folder."""
    out = Path(config.out or Path(config.runs) / "index.html")
    text, count = index_page(config.runs, out)
    sys.stdout.write(f"index of {count} studies written to {write_text(out, text)}\n")


def compare(config: ReportConfig) -> None:
    """Write the page of two or more studies and print the multipliers."""
    if len(config.compare) < 2 or config.runs:
        raise ValueError(
            f"compare={config.compare} must name two studies or more, as compare=[runs/A,runs/B],"
            " and no runs="
        )
    result = compared_studies.compared(
        config.compare, target=config.target, unit=config.unit, on_progress=progress_on_stderr()
    )
    names = "-against-".join(Path(folder).resolve().name for folder in config.compare)
    default = Path(config.compare[0]).resolve().parent / f"{names}.html"
    out = write_text(config.out or default, compared_studies.page(result))
    if not result["comparable"]:
        raise ValueError(f"the studies do not compare: {result['why']} (page written to {out})")
    lines = [*compared_studies.answer(result), f"report written to {Path(out)}"]
    sys.stdout.write("\n".join(lines) + "\n")


store("report", ReportConfig)

if __name__ == "__main__":
    start(main, config_name="report", schema=ReportConfig)
