"""Start and end ranks again and again, each way that a run of ranks ends; count odd ends.

    python benchmarks/exits.py [--starts 200] [--ways kept,refused] [--torchrun]

Two ranks run `scaling.final` on a plan of a few steps. Without --torchrun they are forks of this
process, which has torch imported, and meet at a store of another process, as torchrun's do: a start
takes a second instead of ten. An end is odd that a signal made, or that is no exit status of its
way. The last line is a table; exit status 1 where any end was odd.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scaling.app.application import start  # noqa: E402
from scaling.config import (  # noqa: E402
    BudgetConfig,
    CellConfig,
    DataConfig,
    EvalConfig,
    FinalConfig,
    ModelConfig,
    OptimConfig,
    PretrainPlan,
    TokenizerConfig,
)
from scaling.final import main as final  # noqa: E402
from scaling.jobs.external_ranks import pretrain_together  # noqa: E402, F401  imports torch, for all forks
from scaling.train.rank_exit import run_to_end  # noqa: E402

STORE = """
import sys
from torch.distributed import TCPStore
for line in sys.stdin:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    print(store.port, flush=True)
"""
LONG = "pretrain.tokens=100000000"


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to end: overrides of the plan, the exit statuses it may have, a signal to a rank."""

    overrides: list[str] = field(default_factory=list)
    status: tuple[int, ...] = (0,)
    signal: int = 0


WAYS = {
    "kept": Way(),
    "finished": Way(overrides=["resume=false"]),
    "refused": Way(overrides=["study=refused", "force=false"], status=(1, 0)),
    "failed": Way(overrides=["study=failed", "pretrain.batch_tokens=32"], status=(1,)),
    "terminated": Way(overrides=["study=long", LONG], status=(1, -15), signal=signal.SIGTERM),
    "interrupted": Way(overrides=["study=long", LONG], status=(1, 130), signal=signal.SIGINT),
}


def write_plan(folder: Path) -> Path:
    """Write a plan of a few steps on a corpus of a few lines."""
    (folder / "text").mkdir()
    for i in range(30):
        lines = [f"the number {i * k} is the product of {i} and {k}" for k in range(40)]
        (folder / f"text/{i:02}.txt").write_text("\n".join(lines))
    cell = CellConfig(
        model=ModelConfig(n_layer=1, d_model=16, d_head=8),
        tokenizer=TokenizerConfig(vocab_size=300),
        data=DataConfig(source="files", train=[str(folder / "text")], test_share=0.2, context=32),
        optim=OptimConfig(batch_tokens=64),
        budget=BudgetConfig(n_tokens=256),
        eval=EvalConfig(test_tokens=256),
    )
    plan = FinalConfig(
        study="kept",
        runs=str(folder / "runs"),
        pretrain=PretrainPlan(
            tokens=256, model=cell.model, context=32, peak_lr=0.01, batch_tokens=64
        ),
        cell=asdict(cell),
        force=True,
        stages="pretrain",
        confirmation={"needed": True},
    )
    plan.machine.device, plan.machine.cache = "cpu", str(folder / "cache")
    plan.log.wandb = "disabled"
    path = folder / "plan.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(plan)))
    return path


@contextmanager
def stores() -> Iterator[subprocess.Popen[str]]:
    """Run the process that keeps a store for each start."""
    process = subprocess.Popen(
        [sys.executable, "-c", STORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def forked(words: list[str], log: Path, keeper: subprocess.Popen[str]) -> list[int]:
    """Start two ranks as forks; return their processes."""
    assert keeper.stdin
    assert keeper.stdout
    keeper.stdin.write("\n")
    keeper.stdin.flush()
    port = keeper.stdout.readline().strip()
    pids = []
    for rank in (0, 1):
        pid = os.fork()
        if not pid:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
            stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            sys.argv = ["scaling.final", *words]
            run_to_end(lambda: start(final, config_name="final", schema=FinalConfig))
            sys.exit(0)
        pids.append(pid)
    return pids


def end_of(pids: list[int], way: Way, began: Path) -> list[int]:
    """Wait for ranks, signal them where their way says so; return their exit statuses."""
    if way.signal:
        for _ in range(600):
            if began.exists():
                break
            time.sleep(0.1)
        time.sleep(1.0)
        for pid in pids:
            os.kill(pid, way.signal)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def by_torchrun(words: list[str], log: Path) -> list[int]:
    """Start two ranks by torchrun; return its exit status."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    with log.open("a") as stream:
        command += ["-m", "scaling.final", *words]
        return [subprocess.run(command, cwd=ROOT, stderr=stream, stdout=stream).returncode]


def main() -> int:
    """Run every way; return 1 where an end was odd."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", type=int, default=200, help="of each way")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--torchrun", action="store_true", help="the real one; no signals")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    folder = Path(tempfile.mkdtemp(prefix="exits-"))
    plan, log, odd = write_plan(folder), folder / "log.txt", 0
    with stores() as keeper:
        first = forked([f"plan={plan}"], log, keeper)
        assert end_of(first, Way(), folder) == [0, 0], log.read_text()
        for name in options.ways.split(","):
            way, ends, began = WAYS[name], Counter(), time.monotonic()
            if way.signal and options.torchrun:
                continue
            for _ in range(options.starts):
                words = [f"plan={plan}", *way.overrides]
                if options.torchrun:
                    found = by_torchrun(words, log)
                else:
                    shutil.rmtree(folder / "runs/long", ignore_errors=True)
                    mark = folder / "runs/long/final/forecast.json"  # written right before a step
                    found = end_of(forked(words, log, keeper), way, mark)
                ends.update(found)
            wrong = sum(n for code, n in ends.items() if code not in way.status)
            odd += wrong
            took = (time.monotonic() - began) / options.starts
            print(
                f"{name:12} {options.starts} starts, exit statuses {dict(ends)}, {wrong} odd, "
                f"{took:.1f} s each",
                flush=True,
            )
    aborted = log.read_text(errors="replace").count("terminate called")
    print(f"{odd} odd ends, {aborted} aborts")
    if odd or aborted:
        print(f"what they said is kept in {log}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
