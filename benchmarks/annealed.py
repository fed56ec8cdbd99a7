"""Do the checkpoints of trunks, as annealed rows, halve what a study costs for the same interval?

    python benchmarks/annealed.py runs=[runs/A,runs/B] [form=chinchilla] [resamples=400]

First each trained branch but a trunk's longest is withheld and forecast from its trunk and the
other cells: the error of an annealed row. Then laws of the whole study, of the longest branch of
each trunk alone, and both with annealed rows: FLOPs trained (the trunk once, each decay once), and
the forecast of a run of ten times the largest cell's compute, with the width of its 90 % interval.
"""

import math
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from analysis import fit, load_runs
from analysis.runs.annealed import MOST_OTHERS, with_annealed
from scaling.curves.at_end import EndedCurve, loss_after_decay
from scaling.schema import Record, read_curve, read_records

BEYOND = math.sqrt(10)  # times the N and D of the largest cell


def flops_trained(records: list[Record]) -> float:
    """Return the FLOPs of a study's trunks and decays, each step counted once."""
    total = 0.0
    for trunk in {r.trunk for r in records}:
        branches = sorted((r for r in records if r.trunk == trunk), key=lambda r: r.steps)
        total += branches[-1].flops
        total += sum(r.config["schedule"]["decay"] * r.flops for r in branches[:-1])
    return total


def longest(records: list[Record]) -> list[Record]:
    """Return the longest branch of each trunk."""
    best: dict[str, Record] = {}
    for r in sorted(records, key=lambda r: r.steps):
        best[r.trunk or r.run_id] = r
    return list(best.values())


def withheld_errors(folder: Path, records: list[Record]) -> list[tuple[float, float]]:
    """Return (error, stated deviation) in log loss of branches that are withheld one by one."""
    curves = {r.run_id: read_curve(folder / r.run_id / "metrics.jsonl") for r in records}
    ends = {r.trunk: r for r in longest(records)}
    errors = []
    for r in records:
        end = ends[r.trunk]
        if end is r:
            continue
        others = [o for o in records if o is not r and o.trunk != r.trunk]
        others.sort(key=lambda o: abs(math.log(o.flops / r.flops)))
        own = [o for o in records if o is not r and o.trunk == r.trunk]
        answer = loss_after_decay(
            curves[end.run_id],
            start=round(r.steps * (1 - r.config["schedule"]["decay"])),
            n_steps=r.steps,
            warmup_steps=r.config["schedule"]["warmup_steps"],
            unique_tokens=r.unique_tokens or math.inf,
            finished=[
                EndedCurve.of(o, curves[o.run_id], same_trunk=o.trunk == r.trunk)
                for o in own + others[:MOST_OTHERS]
            ],
        )
        if answer is not None:
            errors.append((math.log((r.test_loss or math.nan) / answer[0]), answer[1]))
    return errors


def main() -> None:
    """Print the errors of withheld branches, then a line for each study and choice of rows."""
    settings = dict(a.split("=", 1) for a in sys.argv[1:])
    form, resamples = settings.get("form", "chinchilla"), int(settings.get("resamples", "400"))
    for folder in map(Path, settings["runs"].strip("[]").split(",")):
        records = [r for r in read_records(folder) if r.status == "done" and r.stage == "pretrain"]
        errors = np.array(withheld_errors(folder, records))
        held = np.mean(np.abs(errors[:, 0]) < 1.645 * errors[:, 1])
        print(
            f"{folder.name}: {len(errors)} branches withheld, mean error"
            f" {100 * np.mean(np.abs(errors[:, 0])):.2f} %,"
            f" bias {100 * errors[:, 0].mean():+.2f} %,"
            f" stated {100 * np.median(errors[:, 1]):.2f} %"
            f" and held {held:.0%}"
        )
        largest = max(records, key=lambda r: r.flops)
        with tempfile.TemporaryDirectory() as name:
            few = Path(name) / folder.name
            few.mkdir()
            for r in longest(records):
                (few / r.run_id).symlink_to((folder / r.run_id).resolve())
            for words, source, annealed in (
                ("all branches", folder, False),
                ("all + annealed", folder, True),
                ("longest branches", few, False),
                ("longest + annealed", few, True),
            ):
                runs = load_runs(source)
                runs = with_annealed(runs, source) if annealed else runs
                trained = records if source is folder else longest(records)
                try:
                    law = fit(
                        runs, form, prior="none", resamples=resamples, hindcast=False,
                        sensitivity=False,
                    )  # fmt: skip
                    answer = law.predict(
                        BEYOND * largest.params.total, BEYOND * largest.tokens, level=0.9
                    )
                    width = 50 * math.log(
                        float(answer.high or math.nan) / float(answer.low or math.nan)
                    )
                    line = f"{float(answer.loss):.3f} +- {width:.2f} %, {law.status}"
                except ValueError as error:
                    line = str(error)[:80]
                print(
                    f"  {words:18} {len(runs):4} rows {flops_trained(trained):.2e} FLOPs  {line}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
