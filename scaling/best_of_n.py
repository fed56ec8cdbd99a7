"""Measure over-optimisation by best-of-n: gold reward against KL, for several reward models.

    scaling best_of_n plan=runs/NAME/plan.yaml [prompts=64] [n=256] [pairs=[64,256]]
        [bodies=[runs/NAME/CELL]]

Run this after the reward stage of a final run. Completions of held-out prompts are sampled once
from the fine-tuned model, and judges choose among them. The gain of the best of n is estimated from
the whole pool without bias. The KL of the best of n from the fine-tuned model is log n - (n-1)/n
nats per completion (Gao, Schulman & Hilton 2022, 2210.10760, section 2); where completions repeat,
this is an upper bound.

The judges are the run's own reward model, one more for each number of `pairs` and each body (the
fine-tuned model, or pretrained cells of other sizes), and the gold judge, which cannot be
over-optimised. The table has a row for each judge, prompt and n; `scaling fit form=best_of_n`
reads it and resamples prompts.
"""

import csv
import io
import logging
import sys
from dataclasses import replace

from scaling.app.application import start, store
from scaling.app.values import pasted
from scaling.data.tokens import open_corpus
from scaling.schema import write_text
from scaling.stages.best_of_n import (
    FOLDER,
    REPEATED,
    BestOfNConfig,
    curve,
    judges,
    sample_pool,
    summary,
)
from scaling.stages.plan import STAGES, StageName, final_folder, load_plan, planned_cell
from scaling.stages.stage import open_planned
from scaling.train import checkpoint
from scaling.train.device import pick_device

log = logging.getLogger(__name__)


def main(config: BestOfNConfig) -> None:
    """Sample, judge, write the table, and print one line for each judge."""
    plan = load_plan(config.plan)
    cell = planned_cell(plan)
    device, corpus = pick_device(plan.machine), open_corpus(cell)
    # PPO starts from the two models that are needed here; the pairs are those of the reward stage.
    name, after = StageName.PPO, STAGES[StageName.PPO]
    opened = open_planned(plan, cell, name=name, corpus=corpus, device=device, after=after)
    reward = StageName.REWARD
    stage = replace(opened, name=reward, folder=opened.sources[reward])
    if not stage.has_gold():
        raise ValueError("sft.data is a file, whose completions have no gold judge; use docstrings")
    tuned = stage.new_model()
    checkpoint.load_weights(stage.weights_of(StageName.SFT), tuned)
    pool = sample_pool(stage, tuned, config)
    if pool.distinct < REPEATED:
        log.warning(
            "only %.0f %% of a prompt's completions differ: log n - (n-1)/n is above the true KL",
            100 * pool.distinct,
        )
    rows = [row for judge in judges(stage, tuned, config, pool) for row in curve(judge, pool)]
    path = final_folder(plan) / FOLDER / "curve.csv"
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())
    for line in summary(rows, pool):
        sys.stdout.write(f"{line}\n")
    source = pasted(f"runs={path}")
    fit = f"scaling fit {source} form=best_of_n where=\"judge == 'own'\""
    sys.stdout.write(f"{path}: {fit}\n")


store("best_of_n", BestOfNConfig)

if __name__ == "__main__":
    start(main, config_name="best_of_n", schema=BestOfNConfig)
