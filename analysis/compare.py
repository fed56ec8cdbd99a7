"""Compare studies or groups of a table: which is better at a target compute, and how sure.

    scaling compare studies=[runs/A,runs/B] target.flops=1e20
    scaling compare studies=[runs/A,runs/B,runs/C] reference=C out=compare.json
    scaling compare studies=[runs/A,runs/B] target=web unit=bits_per_byte
    scaling compare runs=table.csv by=corpus target.flops=1e21

Every arm has a law; draws of all laws together, in which runs of one seed or trunk are paired, give
the compute multiplier k, P(best) and the expected regret at the target. Studies whose losses do not
compare are refused with the command that mends it, and exit status 1; compare.json says why.
"""

import sys
from pathlib import Path

from analysis.comparing.comparison import compare
from analysis.comparing.options import CompareConfig
from analysis.comparing.text import lines_of
from analysis.solve.progress import progress_on_stderr
from scaling.app.application import start, store
from scaling.app.choices import wrote
from scaling.schema import write_json


def main(config: CompareConfig) -> None:
    """Compare, write compare.json, print arms, pairs, rankings and what to run next."""
    result = compare(config, progress_on_stderr())
    out = write_json(config.out or Path("compare.json"), result)
    if not result["comparable"]:
        raise ValueError(f"the arms do not compare: {result['why']} (written to {out})")
    ends = wrote([out], here=not config.out)
    sys.stdout.write("\n".join(lines_of(result)) + f"\n{ends}\n")


store("compare", CompareConfig)

if __name__ == "__main__":
    start(main, config_name="compare", schema=CompareConfig)
