"""Small cells trained together against the same cells one after the other.

    python benchmarks/stack.py [--rungs m2k,m4k,m25k,m83k] [--sizes 1,4,8,16,32] [--rounds 5]
        [--seconds 1] [--device cpu]
    python benchmarks/stack.py --sweep [--rungs m2k] [--tokens 1e5] [--rounds 2] [--workers 1]

The first times training steps alone (gradient, clipping, optimiser, batches): one model's step of
`scaling.train.step` by autograd (without numba) and by compiled kernels and, in turns with them,
the steps of stacks of several sizes. The second times the command `python -m scaling.sweep -m` on a
grid of 8 seeds and 4 learning rates, start to end, with machine.stack=0 and with the default, in
turns. Rates are medians over rounds, ratios medians of the rounds' ratios: the machine may be
noisy, it hurts both alike.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from train import cell, our_step, speed

from scaling.stacked.runs import StackedRuns
from scaling.study.lease import Pulse
from scaling.train.requests import StepRequest
from scaling.train.step import Setting, new_run, prepare

ROOT = Path(__file__).resolve().parent.parent
GRID = ("seed=0,1,2,3,4,5,6,7", "optim.peak_lr=0.01,0.02,0.04,0.08")


def stack_requests(setting: Setting, size: int) -> list[StepRequest]:
    """Return what as many seeds of a cell ask a stack for."""
    requests = []
    for seed in range(size):
        own = replace(setting.for_cell(replace(setting.cell, seed=seed), Pulse()), stacked=True)
        requests.append(StepRequest(run=new_run(own), setting=own, clip=1.0))
    return requests


def stacked_step(setting: Setting, size: int) -> Callable[[], None]:
    """Return the step of a stack of as many seeds."""
    requests = stack_requests(setting, size)
    stack = StackedRuns(requests)

    @torch.no_grad()
    def step() -> None:
        stack.step(requests)
        for request in requests:
            request.run.step += 1

    return step


def compare_steps(options: argparse.Namespace) -> None:
    """Print two lines a rung: tokens/s of one model alone, and each stack's over it."""
    sizes = [int(s) for s in options.sizes.split(",")]
    print(
        f"{'rung':8}{'N (head)':>10}  {'alone by':10}{'tokens/s':>10}"
        + "".join(f"{f'x{s}':>8}" for s in sizes)
    )
    for rung in options.rungs.split(","):
        setting = prepare(cell(rung, options.device), lambda flops: None)
        tokens = setting.resolved.batch_tokens
        runs = {
            "autograd": new_run(replace(setting, stacked=True)),
            "compiled": new_run(setting),
        }
        if not runs["compiled"].passes:
            del runs["compiled"]
        steps = {name: (our_step(run, setting), tokens) for name, run in runs.items()}
        stacks = {size: (stacked_step(setting, size), size * tokens) for size in sizes}
        rates: dict[str | int, list[float]] = {name: [] for name in (*steps, *stacks)}
        for _ in range(options.rounds):
            for name, (step, count) in (steps | stacks).items():
                rates[name].append(speed(step, count, options.seconds, setting.device))
        for name in steps:
            ratios = [
                statistics.median(b / a for a, b in zip(rates[name], rates[size], strict=True))
                for size in sizes
            ]
            print(
                f"{rung:8}{setting.resolved.shape.params.with_head:10,}  {name:10}"
                f"{statistics.median(rates[name]):10,.0f}" + "".join(f"{r:8.2f}" for r in ratios),
                flush=True,
            )


def command(rung: str, stack: int, options: argparse.Namespace) -> float:
    """Return the seconds of the sweep command on the grid."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "scaling.sweep", "-m", "~sweeps", f"runs={folder}"]
        line += ["study=grid", f"model={rung}", *GRID, f"budget.n_tokens={options.tokens}"]
        line += ["tokenizer.vocab_size=512", f"machine.stack={stack}", "log.wandb=disabled"]
        line += [f"machine.cache={ROOT / 'runs/.cache'}", f"machine.device={options.device}"]
        line += [f"machine.workers={options.workers}"]
        began = time.perf_counter()
        subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - began


def compare_sweeps(options: argparse.Namespace) -> None:
    """Print a line a rung: seconds of the command without stacks and with them."""
    print(
        f"{'rung':8}{'workers':>8}{'alone':>9}{'stacked':>9}{'ratio':>7}   32 cells, start to end"
    )
    for rung in options.rungs.split(","):
        pairs = []
        for _ in range(options.rounds):
            pairs.append((command(rung, 0, options), command(rung, options.stack, options)))
        alone, stacked = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{rung:8}{options.workers:8}{alone:8.1f}s{stacked:8.1f}s{ratio:7.2f}", flush=True)


def main() -> None:
    """Compare steps, or whole sweeps."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rungs", default="m2k,m4k,m25k,m83k")
    parser.add_argument("--sizes", default="1,4,8,16,32", help="of stacks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sweep", action="store_true", help="time the command instead of steps")
    parser.add_argument("--tokens", default="1e5", help="of each cell of the sweep")
    parser.add_argument("--workers", type=int, default=1, help="of the sweep")
    parser.add_argument("--stack", type=int, default=-1, help="machine.stack of the sweep")
    options = parser.parse_args()
    compare_sweeps(options) if options.sweep else compare_steps(options)


if __name__ == "__main__":
    main()
