"""Write the table that a fit reads from logs of another tool, so that it can be looked at.

    scaling table runs=FOLDER|wandb:ENTITY/PROJECT [out=runs.csv]
    scaling table runs=FOLDER columns.loss=eval/c4/loss logs.beside=sizes.csv
    scaling table runs=FOLDER curves=true out=curves.csv      schedule, step, lr, loss

The CSV has a row a run: run, params, tokens, flops, lr, batch, the loss under its name in the logs,
then every other metric and setting. What the logs do not say is an empty column to fill in. Every
command reads the CSV: `scaling fit runs=runs.csv columns.loss=NAME`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from analysis.alarms.loss_units import NATS
from analysis.runs.columns import Columns
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.sources import is_logs
from analysis.runs.importers.written import write_courses, write_runs
from scaling.app.application import start, store
from scaling.app.choices import wrote
from scaling.app.next_command import next_command
from scaling.schema import near_path


@dataclass(kw_only=True)
class TableConfig:
    """The logs, what they do not say, and the CSV that is written."""

    runs: str = ""
    """Logs: a folder, a file, wandb:ENTITY/PROJECT, or TOOL:PATH where a folder holds several."""
    curves: bool = False
    """Write the courses of the runs (schedule, step, lr, loss) instead of a row a run."""
    out: str = ""
    """File to write; empty is runs.csv, or curves.csv."""
    columns: Columns = field(default_factory=Columns)
    logs: LogsConfig = field(default_factory=LogsConfig)

    def __post_init__(self) -> None:
        """Refuse to start without logs."""
        if not self.runs:
            raise ValueError("runs is not set; give logs, as runs=FOLDER or runs=wandb:ENTITY/NAME")


def main(config: TableConfig) -> None:
    """Read the logs, write the CSV, and say what was read and what is missing."""
    if not is_logs(config.runs):
        near = near_path(Path(config.runs)) if not Path(config.runs).exists() else ""
        raise ValueError(
            f"runs={config.runs} is no log of another tool{near}; give its folder or file, as"
            " runs=FOLDER (scaling fit reads studies and tables as they are)"
        )
    out = Path(config.out or ("curves.csv" if config.curves else "runs.csv"))
    if config.curves:
        unit, lines = write_courses(config.runs, out, columns=config.columns, logs=config.logs)
        named = {} if unit == NATS else {"columns.loss_unit": unit}
        following = next_command("fit", runs=out, form="schedule", **named)
    else:
        table, lines = write_runs(config.runs, out, columns=config.columns, logs=config.logs)
        named = {"columns.loss": table.loss} if table.loss not in ("", "loss") else {}
        following = next_command("fit", runs=out, **named)
    sys.stdout.write("\n".join([*lines, wrote([out], here=not config.out), following]) + "\n")


store("table", TableConfig)

if __name__ == "__main__":
    start(main, config_name="table", schema=TableConfig)
