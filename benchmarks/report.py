"""How long a report and the status of a large study take, and how large the page is.

    python benchmarks/report.py [--cells 500,5000] [--folder FOLDER]

Each study is written as records and curves with a known law (as a trained one, without weights):
sizes times budgets times seeds. A law is fitted with few resamples, a plan is made, and the two
commands are timed from start to end. The bar: 500 cells in 10 s, 5,000 cells in 60 s and below
3 MB, `scaling.status` on 5,000 cells in 2 s.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scaling.config import CellConfig, ModelConfig
from scaling.schema import Record

E, A, B, ALPHA, BETA = 1.2, 90.0, 300.0, 0.35, 0.38
WIDTHS = (32, 48, 64, 80, 96, 128, 160, 192, 224, 256)
BUDGETS = np.geomspace(1e11, 1e14, 10)
CURVE = 24  # rows of a cell's curve
SPEED = 3e10  # FLOP/s of the made-up device
NOISE = 0.002  # of log loss, between seeds


def write_study(folder: Path, n_cells: int) -> Path:
    """Write a study of so many cells, 100 (N, D) and as many seeds as that takes."""
    rng, written, seed = np.random.default_rng(0), 0, 0
    while written < n_cells:
        for i, width in enumerate(WIDTHS):
            for flops in BUDGETS:
                if written < n_cells:
                    scale = math.exp(NOISE * rng.normal())
                    _write_cell(folder, 2 + i // 2, width, float(flops), seed, scale)
                    written += 1
        seed += 1
    return folder


def _write_cell(
    folder: Path, n_layer: int, width: int, flops: float, seed: int, scale: float
) -> None:
    config = CellConfig(
        study=folder.name, model=ModelConfig(n_layer=n_layer, d_model=width), seed=seed
    )
    config.budget.flops = flops
    shape = config.model.shape(vocab_size=1024, context=128)
    tokens = max(512, int(flops / shape.flops_per_token / 512) * 512)
    n, spent = shape.params.with_head, tokens * shape.flops_per_token
    loss = scale * (E + A * n**-ALPHA + B * tokens**-BETA)
    record = Record(
        run_id=config.run_id(), study=folder.name, status="done", seed=seed, params=shape.params,
        tokens=tokens, unique_tokens=tokens, flops=spent, flops_6nd=6.0 * n * tokens,
        test_loss=loss, test_loss_se=0.004, bits_per_byte=loss / (math.log(2) * 3.1),
        train_loss=loss, steps=tokens // 512, batch_tokens=512, peak_lr=0.01 * 32 / width,
        schedule="wsd", trunk=f"t{n_layer}-{width}-{seed}", seconds=spent / SPEED, device="cpu",
        device_seconds=spent / SPEED, peak_memory_bytes=2**28,
        tokens_per_second=SPEED / shape.flops_per_token, mfu=None,
        config={**config.science(), "study": folder.name}, versions={"torch": "2.13.0"},
        git_sha="0123456789ab", started="2026-11-23T08:00:00+00:00",
        ended="2026-11-23T08:01:00+00:00",
    )  # fmt: skip
    cell = folder / record.run_id
    record.write(cell / "record.json")
    rows = []
    for share in np.geomspace(0.05, 1, CURVE):
        done = int(share * tokens)
        late = scale * (E + A * n**-ALPHA + B * max(done, 1) ** -BETA) * (1.03 if share < 1 else 1)
        row = {"step": done // 512, "tokens": done, "flops": done * shape.flops_per_token}
        rows.append(json.dumps({**row, "train_loss": late, "test_loss": late}))
    (cell / "metrics.jsonl").write_text("\n".join(rows) + "\n")


def timed(*arguments: str) -> float:
    """Run a command of the project; return its seconds. RuntimeError where it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr}")
    return time.perf_counter() - began


def measure(folder: Path, n_cells: int) -> dict[str, float]:
    """Return seconds of report and status, and megabytes of the page, for a study."""
    study = folder / f"cells{n_cells}"
    if not study.exists():
        write_study(study, n_cells)
    quick = ("intervals.resamples=200", "backtest=false", "sensitivity=false")
    fit = timed("analysis.fit", f"runs={study}", "count=with_head", *quick)
    timed("analysis.plan", f"law={study}/law.json", f"runs={study}", "flops=1e15")
    return {
        "cells": n_cells,
        "fit_s": fit,
        "report_s": timed("analysis.report", f"runs={study}"),
        "page_mb": (study / "report.html").stat().st_size / 1e6,
        "status_s": timed("scaling.status", str(study)),
    }


def main() -> None:
    """Measure and print a line a study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="500,5000")
    parser.add_argument("--folder", default="")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        for n_cells in map(int, arguments.cells.split(",")):
            row = measure(folder, n_cells)
            sys.stdout.write(", ".join(f"{k} {v:.4g}" for k, v in row.items()) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
