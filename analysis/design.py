"""Which cells to run next: those that take most off the target's interval for their FLOPs.

    scaling design runs=runs/quick target.flops=6e11 [target.precision=0.05]
    scaling design runs=table.csv law=law.json target.flops=1e21 target.quantity=params
    scaling design law=besiroglu2024 target.flops=1e21 pool.flops=[1e17,1e19]

With cells (a study's folder or a table) the law is fitted to them, unless `law=` gives it. The pool
is the study's ladder and the tokens that its trunks have; for a table, it is sizes around the law's
optimum of each budget. Without cells a study is designed from the law as if it were true: the
expected interval against FLOPs, and at some points a simulation (losses drawn with the usual noise,
fitted, the median of the intervals). The command prints a table and writes design.json, with
`plot=true` a curve beside it. As a sweeper, the same selection runs its batches:
`scaling sweep -m hydra/sweeper=design`.
"""

import sys
from pathlib import Path

from analysis.designing.proposal import DesignConfig, lines_of, of_cells, of_law
from analysis.runs.importers.sources import is_study
from scaling.app.application import start, store
from scaling.app.choices import wrote
from scaling.schema import write_json


def main(config: DesignConfig) -> None:
    """Design, print the table, write design.json."""
    goal = config.target.goal()
    proposal = of_cells(config, goal) if config.runs else of_law(config, goal)
    beside = Path(config.runs) if config.runs and is_study(config.runs) else Path()
    out = write_json(config.out or beside / "design.json", proposal)
    paths = [out]
    if config.plot and proposal["cells"]:
        from analysis.page.figure_files import (
            write_design_figure,  # matplotlib, only where it is asked for
        )

        paths += write_design_figure(proposal, out)
    ends = wrote(paths, here=not config.out and beside == Path())
    sys.stdout.write("\n".join(lines_of(proposal)) + f"\n{ends}\n")


store("design", DesignConfig)

if __name__ == "__main__":
    start(main, config_name="design", schema=DesignConfig)
