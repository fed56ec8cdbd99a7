"""What do the curve's further test losses cost: the same cell with them and without, in turns.

    python benchmarks/curve_cost.py [rounds=3] [steps=3833] [cache=runs/.cache]

The cell is the longest of the default study (91 k parameters, batch 256): the short trunks are
where test losses weigh most. Processor seconds of the whole training, and the losses, which must
be equal.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import scaling.study.curve_steps as curve_steps
from scaling.config import (
    BudgetConfig,
    CellConfig,
    EvalConfig,
    LogConfig,
    MachineConfig,
    ModelConfig,
    TokenizerConfig,
)
from scaling.schema import read_curve
from scaling.train.trunk import train_trunk


def main() -> None:
    """Print seconds, number of test losses, and the ratio."""
    settings = dict(a.split("=", 1) for a in sys.argv[1:])
    rounds, steps = int(settings.get("rounds", "3")), int(settings.get("steps", "3833"))
    torch.set_num_threads(1)
    share = curve_steps.MOST_SHARE
    seconds: dict[float, list[float]] = {0.0: [], share: []}
    ends = {}
    for _ in range(rounds):
        for most in seconds:
            curve_steps.MOST_SHARE = most
            with tempfile.TemporaryDirectory() as name:
                cell = CellConfig(
                    runs=name,
                    model=ModelConfig(n_layer=2, d_model=32, d_head=32),
                    tokenizer=TokenizerConfig(vocab_size=2048),
                    budget=BudgetConfig(n_tokens=256 * steps),
                    eval=EvalConfig(test_tokens=32768),
                    machine=MachineConfig(device="cpu", threads=1, cache=settings.get("cache", "")),
                    log=LogConfig(wandb="disabled"),
                )
                began = time.process_time()
                (record,) = train_trunk([cell], folders=[Path(name)])
                seconds[most].append(time.process_time() - began)
                tests = sum("test_loss" in r for r in read_curve(Path(name) / "metrics.jsonl"))
                ends[most] = record.test_loss
                print(
                    f"share {most}: {seconds[most][-1]:.1f} s, {tests} test losses, "
                    f"{record.metrics['curve_test_flops'] / record.flops:.1%} of the FLOPs",
                    flush=True,
                )
    ratios = np.array(seconds[share]) / np.array(seconds[0.0])
    print(f"ratio {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})")
    print(f"final loss equal: {len(set(ends.values())) == 1}")


if __name__ == "__main__":
    main()
