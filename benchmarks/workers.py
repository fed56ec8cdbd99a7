"""Start workers on one study, kill them at random and start others, until all cells have ended.

    python benchmarks/workers.py [--workers 10] [--cells 24] [--kills 20] [--seed 0]

Prints how many cells were lost (no record), doubled (more than one attempt that ended as done) and
changed (other losses than the same study trained by a local sweep without a kill).
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scaling.schema import read_records
from scaling.study.lease import attempts

GRID = [
    "~sweeps",
    "study=study",
    "model.n_layer=1",
    "model.n_head=2",
    "tokenizer.vocab_size=300",
    "data.context=32",
    "machine.device=cpu",
    "machine.threads=1",
    "machine.checkpoint_seconds=1",
    "log.wandb=disabled",
]


def sweep(runs: Path, cells: int, *options: str) -> None:
    """Run a sweep of `cells` cells in a folder."""
    seeds = ",".join(map(str, range(cells // 4)))
    grid = ["model.d_model=8,16", "budget.n_tokens=100000,200000", f"seed={seeds}"]
    command = [sys.executable, "-m", "scaling.sweep", "-m", *GRID, *grid, f"runs={runs}", *options]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def start(study: Path) -> subprocess.Popen[bytes]:
    """Start one worker of one process, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "scaling.work", str(study), "--workers", "1"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def main() -> None:
    """Run the study twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("workers", 10), ("cells", 24), ("kills", 20), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        quiet, killed = Path(folder, "quiet"), Path(folder, "killed")
        sweep(quiet, options.cells)
        sweep(killed, options.cells, "hydra/launcher=none", "detach=true")
        study, began = killed / "study", time.monotonic()
        workers = [start(study) for _ in range(options.workers)]
        kills = 0
        while any(w.poll() is None for w in workers):
            time.sleep(chance.uniform(0.5, 3.0))
            alive = [w for w in workers if w.poll() is None]
            if alive and kills < options.kills:
                victim = chance.choice(alive)
                os.killpg(victim.pid, chance.choice([signal.SIGKILL, signal.SIGTERM]))
                victim.wait()
                workers.append(start(study))
                kills += 1
        expected = {r.run_id: r.test_loss for r in read_records(quiet / "study")}
        losses = {r.run_id: r.test_loss for r in read_records(study) if r.status == "done"}
        tries = {name: attempts(study / name) for name in expected}
        ends = {name: sum(a.outcome == "done" for a in tries[name]) for name in expected}
        sys.stdout.write(
            f"{len(expected)} cells, {options.workers} workers, {kills} killed,"
            f" {time.monotonic() - began:.0f} s, {sum(map(len, tries.values()))} attempts:"
            f" {len(expected.keys() - losses.keys())} lost,"
            f" {sum(n > 1 for n in ends.values())} doubled,"
            f" {sum(losses.get(k) not in (None, v) for k, v in expected.items())} changed\n"
        )


if __name__ == "__main__":
    main()
