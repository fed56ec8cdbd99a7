"""Tokens per second of one training step, rung by rung, on one thread.

    python benchmarks/train.py [RUNG ...]        default: m25k m150k m1m

Real batches of the default corpus; the median of rounds in which the rungs take turns, so that a
noisy machine hurts all alike. Achieved FLOP/s count the exact matmul FLOPs of the step.
"""

import statistics
import sys
import time
from pathlib import Path

from omegaconf import OmegaConf

from scaling.config import (
    BudgetConfig,
    CellConfig,
    LogConfig,
    MachineConfig,
    ModelConfig,
    TokenizerConfig,
)
from scaling.device import device_name, peak_flops
from scaling.trainer import new_run, prepare, train_step

ROOT = Path(__file__).resolve().parent.parent
ROUNDS, SECONDS = 5, 2.0


def cell(rung: str) -> CellConfig:
    """Return a cell of the default corpus at vocabulary 512, as the quick study has it."""
    model = ModelConfig(**OmegaConf.load(ROOT / f"conf/model/{rung}.yaml"))
    return CellConfig(
        runs=str(ROOT / "runs"),
        model=model,
        tokenizer=TokenizerConfig(vocab_size=512),
        budget=BudgetConfig(n_tokens=1e6),
        machine=MachineConfig(device="cpu", threads=1),
        log=LogConfig(wandb="disabled"),
    )


def main(rungs: list[str]) -> None:
    """Print a line a rung."""
    settings = {rung: prepare(cell(rung), lambda flops: None) for rung in rungs}
    runs = {rung: new_run(setting) for rung, setting in settings.items()}
    speeds: dict[str, list[float]] = {rung: [] for rung in rungs}
    for _ in range(ROUNDS):
        for rung, setting in settings.items():
            speeds[rung].append(speed(runs[rung], setting))
    device = next(iter(settings.values())).device
    peak = peak_flops(device, 1) or float("nan")
    print(
        f"{device_name(device)}, one thread, measured peak of 512 x 512 products "
        f"{peak / 1e9:.1f} GFLOP/s"
    )
    print(
        f"{'rung':8} {'non-emb. N':>11} {'batch':>6} {'tokens/s':>9} {'GFLOP/s':>8} {'of peak':>8}"
    )
    for rung, setting in settings.items():
        r = setting.resolved
        rate = statistics.median(speeds[rung])
        flops = rate * r.shape.flops_per_token
        print(
            f"{rung:8} {r.shape.params.non_embedding:11,} {r.batch_tokens:6} {rate:9,.0f} "
            f"{flops / 1e9:8.1f} {flops / peak:8.0%}"
        )


def speed(run, setting) -> float:
    """Train for a while; return tokens per second."""
    for _ in range(3):
        train_step(run, setting, 1.0)
        run.step += 1
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        train_step(run, setting, 1.0)
        run.step, steps = run.step + 1, steps + 1
    return steps * setting.resolved.batch_tokens / (time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1:] or ["m25k", "m150k", "m1m"])
