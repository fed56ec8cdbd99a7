"""Write one self-contained HTML file: the question, the answer, and everything it rests on.

    scaling report runs=runs/quick [out=report.html]
    scaling report runs=TABLE.csv [columns.params=N ...] [law=law.json]
    scaling report runs=CURVES.csv form=schedule [law=law.json]
    scaling report runs=runs index=true
    scaling report compare=[runs/A,runs/B] [out=runs/A-against-B.html]

The command reads a study's records and, where they exist, law.json, plan.yaml and final/<stage>. Of
a table of runs from any other tool it fits the law, unless `law=` names one, and writes it beside
the page. A part that does not exist yet is a sentence in the page. Alarms come first. The page and
the command make no network request, except with `wandb=online`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from analysis.estimation.checks import SCHEDULE
from analysis.page import compared_studies
from analysis.page.contents import Material, read_material
from analysis.page.first_screen import (
    formula,
    formula_note,
    verdict,
)
from analysis.page.index_page import index_page
from analysis.page.render import report
from analysis.page.sections.curve_page import curve_page
from analysis.page.sections.mixture import read_mixture
from analysis.page.sections.options import ReportConfig
from analysis.page.table_material import read_table, refuse_no_table
from analysis.page.wandb_artifact import mirror_report
from analysis.runs.example import example_or
from analysis.runs.importers.sources import is_logs
from analysis.solve.progress import progress_on_stderr
from scaling.app.application import start, store
from scaling.schema import write_text


def main(config: ReportConfig) -> None:
    """Read the study, write the page."""
    if config.compare:
        compare(config)
        return
    if not config.runs:
        raise ValueError("runs is not set; give the study's folder, as runs=runs/quick")
    if config.index:
        out = Path(config.out or Path(config.runs) / "index.html")
        text, count = index_page(config.runs, out)
        sys.stdout.write(f"index of {count} studies written to {write_text(out, text)}\n")
        return
    if config.form == SCHEDULE:
        page = curve_page(config.runs, out=config.out, columns=config.columns, law=config.law)
        sys.stdout.write(f"report written to {page}\n")
        return
    material, page = read(config)
    if config.params and config.tokens:
        material = replace(material, asked=(config.params, config.tokens))
    out = write_text(page, report(material, progress_on_stderr()))
    lines = [formula(material.law), formula_note(material.law)]
    if outcome := verdict(material):
        lines += [outcome["text"], outcome["head"]]
    lines.append(material.final.other_plan)
    sys.stdout.write("\n".join([*filter(None, lines), f"report written to {Path(out)}"]) + "\n")
    if config.wandb:
        mirror_report(material, Path(out), mode=config.wandb)


def read(config: ReportConfig) -> tuple[Material, Path]:
    """Return what the page shows, and the page's file."""
    path = Path(config.runs)
    of_logs = is_logs(config.runs)
    if not of_logs:
        refuse_no_table(path)
    if path.is_file() or of_logs or example_or(path) is not path:
        if config.target or config.unit or config.wandb:
            raise ValueError(
                "target, unit and wandb are for a study; for a table name the column, as"
                " columns.loss=COLUMN columns.loss_unit=bits_per_byte"
            )
        page = Path(config.out or (f"{path.name}.html" if of_logs else path.with_suffix(".html")))
        material = read_table(
            path, page=page, form=config.form, columns=config.columns, law=config.law,
            plan=config.plan, context=config.context, logs=config.logs,
            on_progress=progress_on_stderr(),
        )  # fmt: skip
        return material, page
    material = read_material(
        config.runs, law=config.law, plan=config.plan, target=config.target, unit=config.unit
    )
    material = replace(material, mixture=read_mixture(material.folder))
    return material, Path(config.out or material.folder / material.measure.file("report.html"))


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
