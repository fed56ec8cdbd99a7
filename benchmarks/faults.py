"""Disturb a sweep at random and compare what it leaves with an undisturbed one.

    python benchmarks/faults.py [--cells 40] [--events 50] [--seed 0] [--only kill_cell,preempt]
    python benchmarks/faults.py --local          no SLURM and no root: the faults that need neither

Needs root and the SLURM of ../shared/slurm/cluster (start it; SCALING_SHARED says where else).
The study lies on a small tmpfs, which events fill up; the same sweep command is run again whenever
it ends, until every cell is done. A second study, whose test losses are no numbers, is left alone.
Prints each event, then how many records were lost, duplicated or unequal to those of the same study
trained undisturbed on this machine, and how many cells were tried without end; if any was, exit
status 1 and the folders of both studies, which are kept and named.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scaling.jobs.slurm import queries as slurm  # noqa: E402
from scaling.schema import find_record, read_curve, read_record  # noqa: E402
from scaling.study.jobs_file import jobs_path, read_jobs  # noqa: E402
from scaling.study.lease import Attempt, Held, Holder, Lease, Pulse, attempts, last_attempt  # noqa: E402

CLUSTER = Path(os.environ.get("SCALING_SHARED", ROOT.parent / "shared")) / "slurm/cluster"
SLURM_ROOT = Path(os.environ.get("SLURM_LOCAL_ROOT", "/var/lib/scaling-slurm"))
TIMES = {
    "seconds", "device_seconds", "tokens_per_second", "mfu", "started", "ended",
    "peak_memory_bytes", "git_sha",
}  # fmt: skip
PLACES = ("runs", "machine", "log", "grid", "dry_run", "detach", "retry", "cells_per_job")
FULL_SECONDS, BLOCKED_SECONDS, DOWN_SECONDS, URGENT_SECONDS = 5.0, 5.0, 4.0, 3
GAP_SECONDS = (0.5, 3.0)  # between two events
NAN_SECONDS = 300  # that the cells without numbers may take: some hundred times what they do
STOPPED_SECONDS = 3  # that a worker is stopped before its sweep ends it
NAN = ["optim.peak_lr=1e30", "optim.clip=0", "optim.max_skipped=1000000"]


def grid(n_cells: int, folder: Path) -> list[str]:
    """Return the overrides of a study of at least `n_cells` cells: two widths, two budgets."""
    seeds = -(-n_cells // 4)
    return [
        "~sweeps", "study=faults", "data=files", f"data.train=[{folder}/text]",
        "data.test_share=0.2", "data.context=32", "tokenizer.vocab_size=300", "model.n_layer=1",
        "model.d_head=8", "optim.batch_tokens=64", "eval.test_tokens=512", "machine.device=cpu",
        "machine.checkpoint_seconds=2", f"machine.cache={folder}/cache", "model.d_model=8,16",
        "budget.n_tokens=32000,128000", f"seed=range(0,{seeds})",
    ]  # fmt: skip


def write_text(folder: Path) -> None:
    """Write the small corpus."""
    (folder / "text").mkdir(parents=True)
    for i in range(30):
        lines = [f"the number {i * k} is the product of {i} and {k}, you see" for k in range(40)]
        (folder / f"text/doc{i:02}.txt").write_text("\n".join(lines))


def sweep(overrides: list[str], log: Path, within: list[str] | None = None) -> subprocess.Popen:
    """Start the sweep command in the background, `within` another command perhaps."""
    with log.open("a") as stream:
        return subprocess.Popen(
            [*(within or []), sys.executable, "-m", "scaling.sweep", "-m", *overrides],
            cwd=ROOT,
            stdout=stream,
            stderr=stream,
        )


class Faults:
    """The events, each a method that returns whether there was anything to disturb."""

    def __init__(self, study: Path, seed: int) -> None:
        self.study, self.random = study, random.Random(seed)
        self.front: subprocess.Popen | None = None
        self.again: Counter[str] = Counter()  # cells that must be trained again, and how often
        self.within: list[str] = []  # the command in which the next sweep is started

    def start_within(self) -> list[str]:
        """Return the command in which the next sweep is started; none after that."""
        within, self.within = self.within, []
        return within

    def running(self) -> list[Attempt]:
        """Return the attempts whose process lives now."""
        cells = [p for p in self.study.iterdir() if p.is_dir() and not p.name.startswith(".")]
        found = [last_attempt(p) for p in cells]
        return [a for a in found if a and a.ended is None and not a.gone()]

    def signal_cell(self, number: int) -> bool:
        """Send a signal to a cell's process."""
        found = self.running()
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(found).pid, number)
        return bool(found)

    def kill_cell(self) -> bool:
        """Kill -9 a cell."""
        return self.signal_cell(signal.SIGKILL)

    def terminate_cell(self) -> bool:
        """SIGTERM a cell."""
        return self.signal_cell(signal.SIGTERM)

    def kill_job(self) -> bool:
        """Kill -9 the first process of a job, above its cells."""
        mark = f"submitit.core._submit\0{self.study.resolve()}/.jobs".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                text = path.read_bytes()
                if mark in text and not text.startswith((b"srun", b"sh\0")):
                    found.append(int(path.parent.name))
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(found), signal.SIGKILL)
        return bool(found)

    def kill_launcher(self) -> bool:
        """Kill -9 the sweep command."""
        if self.front is None or self.front.poll() is not None:
            return False
        self.front.kill()
        self.front.wait()
        return True

    def kill_slurmd(self) -> bool:
        """Kill -9 a node's daemon; it comes back a little later."""
        node = self.random.choice(["n1", "n2"])
        pid = int((SLURM_ROOT / f"started/slurmd-{node}").read_text().split()[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(DOWN_SECONDS)
        cluster("start")
        return True

    def preempt(self) -> bool:
        """Let an urgent job take a node away."""
        if not self.running():
            return False
        command = ["sbatch", "-p", "urgent", "-N1", "--exclusive", "-t", "1", "-o", "/dev/null"]
        subprocess.run(
            [*command, f"--wrap=sleep {URGENT_SECONDS}"], check=True, capture_output=True
        )
        return True

    def fill_disk(self) -> bool:
        """Leave no byte on the study's disk for a while."""
        filler = self.study.parent / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"0" * 65536)
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as stream:
            while True:
                stream.write(b"0" * 512)
        time.sleep(FULL_SECONDS)
        filler.unlink()
        return True

    def block_wandb(self) -> bool:
        """Put a file where the mirror wants its folder, for a while."""
        folder, away = self.study / "wandb", self.study / ".wandb-away"
        if not folder.is_dir() or away.exists():
            return False
        folder.rename(away)
        with contextlib.suppress(OSError):
            folder.write_text("")
        time.sleep(BLOCKED_SECONDS)
        if folder.is_file():
            folder.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)
        away.rename(folder)
        return True


def stop_cell(faults: Faults) -> bool:
    """SIGSTOP a cell, for good."""
    return faults.signal_cell(signal.SIGSTOP)


def damage_record(faults: Faults) -> bool:
    """Cut the record of a cell that is done."""
    found = [p for p in faults.study.glob("[!.]*/record.json") if find_record(p)]
    done = [p for p in found if read_record(p).status == "done"]
    if not done:
        return False
    path = faults.random.choice(done)
    faults.again[path.parent.name] += 1
    return spoil(faults, path)


def damage_attempt(faults: Faults) -> bool:
    """Cut or empty the last attempt of a cell that nobody trains, as a crash of its machine did."""
    cells = [p.parent for p in faults.study.glob("[!.]*/attempts")]
    ended = [p for p in cells if (a := last_attempt(p)) and a.ended and a.outcome != "damaged"]
    if not ended:
        return False
    folder = faults.random.choice(ended)
    last = last_attempt(folder)
    assert last
    path = folder / f"attempts/{last.attempt:04}.json"
    spoil(faults, path)
    then = time.time() - 60
    os.utime(path, (then, then))
    return True


def damage_jobs(faults: Faults) -> bool:
    """Append lines to the list of jobs that are none."""
    if not jobs_path(faults.study).is_file():
        return False
    with jobs_path(faults.study).open("a") as stream:
        stream.write(faults.random.choice(["17\n", '{"job": 3}\n', '{"job": "1", "wh\n']))
    return True


def damage_curve(faults: Faults) -> bool:
    """Cut a line in the middle of a curve that a checkpoint counts on."""
    return damage_state(faults, "metrics.jsonl")


def damage_checkpoint(faults: Faults) -> bool:
    """Cut a checkpoint."""
    return damage_state(faults, "checkpoint.safetensors")


def damage_state(faults: Faults, name: str) -> bool:
    """Damage a file of a trunk, or of a cell that is not done, while nobody trains it."""
    places = [*faults.study.glob(".trunks/*"), *faults.study.glob("[!.]*")]
    undone = [p for p in places if (p / name).is_file() and not (p / "record.json").is_file()]
    faults.random.shuffle(undone)
    for folder in undone:
        me = Holder.here(round="fault", job="fault")
        with contextlib.suppress(Held), Lease(folder, me, Pulse()) as lease:
            lease.outcome, lease.final = "stopped", False
            return spoil(faults, folder / name)
    return False


def spoil(faults: Faults, path: Path) -> bool:
    """Leave the first half of a file, or nothing, or what is no content of it."""
    whole = path.read_bytes()
    half = whole[: len(whole) // 2]
    path.write_bytes(faults.random.choice([half, b"", b"\xff\xfe?\n" + half + b"?\n" + whole]))
    return True


def live_jobs(faults: Faults) -> list[str]:
    """Return the jobs of the study that run, in their imports too."""
    jobs = [j.job for j in read_jobs(faults.study) if j.where == "slurm"]
    found = slurm.states(jobs) or {}
    return sorted(j for j in set(jobs) if j in found and found[j].state == "RUNNING")


def signal_job(faults: Faults) -> bool:
    """Signal a job as SLURM does before its time limit, in its imports perhaps."""
    if jobs := live_jobs(faults):
        slurm.call("scancel", "--signal=USR2", faults.random.choice(jobs))
    return bool(jobs)


def end_job(faults: Faults) -> bool:
    """Shorten a job's time limit to a minute: SLURM signals it late or not at all and ends it."""
    if jobs := live_jobs(faults):
        job = faults.random.choice(jobs)
        slurm.call("scontrol", "update", f"jobid={job}", "timelimit=1")
    return bool(jobs)


def sweep_inside(faults: Faults) -> bool:
    """Kill -9 the sweep command and start the next one inside an allocation."""
    faults.within = ["salloc", "--quiet", "-p", "main", "-n1", "--mem-per-cpu=100M", "-t", "5"]
    return Faults.kill_launcher(faults)


Fault = Callable[[Faults], bool]
LOCAL: dict[str, Fault] = {
    "kill_cell": Faults.kill_cell,
    "terminate_cell": Faults.terminate_cell,
    "kill_launcher": Faults.kill_launcher,
    "stop_cell": stop_cell,
    "damage_record": damage_record,
    "damage_attempt": damage_attempt,
    "damage_jobs": damage_jobs,
    "damage_curve": damage_curve,
    "damage_checkpoint": damage_checkpoint,
}
EVENTS: dict[str, Fault] = {
    **LOCAL,
    "kill_job": Faults.kill_job,
    "kill_slurmd": Faults.kill_slurmd,
    "preempt": Faults.preempt,
    "fill_disk": Faults.fill_disk,
    "block_wandb": Faults.block_wandb,
    "signal_job": signal_job,
    "end_job": end_job,
    "sweep_inside": sweep_inside,
}


def cluster(word: str) -> None:
    """Call the script that runs the test cluster."""
    subprocess.run([str(CLUSTER), word], check=False, capture_output=True, timeout=120)


def disturb(
    faults: Faults,
    command: Callable[[], subprocess.Popen],
    kinds: list[str],
    *,
    on_slurm: bool,
) -> Counter:
    """Run the command again and again while the events happen, then until all is done."""
    happened: Counter = Counter()
    waiting, due, runs = list(kinds), time.monotonic() + 5, 0
    while True:
        if faults.front is None or faults.front.poll() is not None:
            if faults.front is not None and faults.front.returncode == 0:
                break
            if runs > 20 + 2 * len(kinds):
                print(f"not done after {runs} runs of the command; see the logs")
                break
            faults.front, runs = command(), runs + 1
        if waiting and time.monotonic() > due:
            kind = waiting.pop(0)
            if EVENTS[kind](faults):
                happened[kind] += 1
                print(f"{time.strftime('%H:%M:%S')} event {sum(happened.values())}: {kind}")
            else:
                waiting.append(kind)  # nothing to disturb now: later
            due = time.monotonic() + faults.random.uniform(*GAP_SECONDS)
        if on_slurm:
            cluster("hasten")
        time.sleep(0.5)
    if waiting:
        print(f"{len(waiting)} events found nothing left to disturb: {Counter(waiting)}")
    print(f"the command was run {runs} times")
    return happened


def science(path: Path) -> dict:
    """Return what of a record must not depend on what happened."""
    values = {k: v for k, v in vars(read_record(path)).items() if k not in TIMES}
    config = {k: v for k, v in values["config"].items() if k not in PLACES}
    return values | {"config": config}


def curve(path: Path) -> list[dict]:
    """Return a curve without its times."""
    rows = read_curve(path)
    return [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")} for r in rows]


def differences(quiet: Path, disturbed: Path) -> list[str]:
    """Name what of a cell differs: fields of its record, its curve."""
    a, b = science(quiet / "record.json"), science(disturbed / "record.json")
    wrong = [k for k in a if a[k] != b[k]]
    rows, others = curve(quiet / "metrics.jsonl"), curve(disturbed / "metrics.jsonl")
    if rows != others:
        steps = {r["step"] for r in rows} ^ {r["step"] for r in others}
        wrong.append(f"curve of {len(others)} rows instead of {len(rows)}, steps {sorted(steps)}")
    return wrong


def compare(quiet: Path, disturbed: Path, *, again: Counter[str], most: int) -> dict[str, int]:
    """Count records lost, cells trained to the end twice, unequal, or tried more than `most` times.

    A cell whose record was damaged is trained once more for each time (`again`).
    """
    wanted = {p.parent.name for p in quiet.glob("*/record.json")}
    found = {p.parent.name for p in disturbed.glob("*/record.json") if find_record(p)}
    twice = unequal = endless = 0
    for name in sorted(wanted & found):
        tried = attempts(disturbed / name)
        twice += sum(a.outcome == "done" for a in tried) > 1 + again[name]
        endless += len(tried) > most
        wrong = differences(quiet / name, disturbed / name)
        if wrong:
            print(f"unequal: {name}: {', '.join(wrong)}; {tried}")
        unequal += bool(wrong)
    return {
        "cells": len(wanted),
        "lost": len(wanted - found),
        "duplicated": len(found - wanted) + twice,
        "unequal": unequal,
        "endless": endless,
    }


def without_numbers(study: list[str], folder: Path) -> int:
    """Train cells whose test losses are no numbers; return how many did not end in one attempt."""
    command = [*study, *NAN, "study=nan", f"runs={folder}/nan", "log.wandb=disabled"]
    process = sweep([*command, "seed=0"], folder / "nan.log")
    try:
        process.wait(timeout=NAN_SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
    cells = [p.parent for p in (folder / "nan/nan").glob("[!.]*/attempts")]
    ended = [p for p in cells if (r := find_record(p / "record.json")) and r.status == "diverged"]
    endless = len(cells) - sum(len(attempts(p)) == 1 for p in ended)
    print(f"{len(cells)} cells without numbers, {len(ended)} diverged, {endless} endless")
    return endless if cells else 1


def spoiled(result: dict[str, int]) -> bool:
    """Say whether anything was lost, duplicated, unequal or endless."""
    return any(result[k] for k in ("lost", "duplicated", "unequal", "endless"))


@contextlib.contextmanager
def small_disk(folder: Path, *, mount: bool) -> Iterator[Path]:
    """Mount a tmpfs for the study, or take a folder; end its jobs and unmount it afterwards."""
    disk = folder / "disk"
    disk.mkdir(parents=True)
    if mount:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        end = [sys.executable, "-m", "scaling.status", str(disk / "faults"), "--cancel"]
        subprocess.run(end, cwd=ROOT, check=False, capture_output=True)
        if mount:
            subprocess.run(["umount", "-l", str(disk)], check=False)


def run(options: argparse.Namespace, folder: Path, disk: Path) -> dict[str, int]:
    """Run the undisturbed and the disturbed study; return the counts of the comparison."""
    began = time.monotonic()
    write_text(folder)
    study = grid(options.cells, folder)
    quiet = sweep([*study, f"runs={folder}/quiet", "log.wandb=disabled"], folder / "quiet.log")
    if quiet.wait():
        sys.exit(f"the undisturbed study failed: {(folder / 'quiet.log').read_text()[-500:]}")
    print(f"undisturbed study: {time.monotonic() - began:.0f} s")
    disturbed = disk / "faults"
    disturbed.mkdir()
    faults = Faults(disturbed, options.seed)
    names = options.only.split(",") if options.only else list(LOCAL if options.local else EVENTS)
    kinds = [names[i % len(names)] for i in range(options.events)]
    faults.random.shuffle(kinds)
    command = [*study, f"runs={disk}", "retry=1", f"machine.stopped_seconds={STOPPED_SECONDS}"]
    command += ["log.wandb=disabled"] if options.local else [
        "log.wandb=offline", "hydra/launcher=slurm", "cells_per_job=4",
        "hydra.launcher.partition=main", "hydra.launcher.mem_gb=0.5",
        "hydra.launcher.timeout_min=10", "hydra.launcher.poll_seconds=2",
    ]  # fmt: skip
    happened = disturb(
        faults,
        lambda: sweep(command, folder / "disturbed.log", faults.start_within()),
        kinds,
        on_slurm=not options.local,
    )
    result = compare(
        folder / "quiet/faults", disturbed, again=faults.again, most=10 + 2 * options.events
    )
    result["endless"] += without_numbers(study, folder)
    if spoiled(result):
        shutil.copytree(disturbed, folder / "disturbed", symlinks=True)
        print(f"both studies are kept in {folder}")
    cells = disturbed.glob("[!.]*/attempts")
    outcomes = Counter(a.outcome for p in cells for a in attempts(p.parent))
    print(f"{sum(happened.values())} events: {json.dumps(dict(happened))}")
    print(f"attempts by outcome: {json.dumps(dict(outcomes))}")
    print(json.dumps(result), f"{time.monotonic() - began:.0f} s")
    return result


def main() -> int:
    """Read the options; return 1 if anything was lost, duplicated, unequal or endless."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", type=int, default=40)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"kinds of events: {', '.join(EVENTS)}")
    parser.add_argument("--local", action="store_true", help="on this machine, without SLURM")
    options = parser.parse_args()
    if unknown := set(filter(None, options.only.split(","))) - EVENTS.keys():
        parser.error(f"no event {', '.join(sorted(unknown))}; choose of {', '.join(EVENTS)}")
    if not options.local and (
        shutil.which("sbatch") is None or not CLUSTER.is_file() or os.geteuid()
    ):
        sys.exit(f"needs root and a running SLURM: {CLUSTER} start")
    folder, keep = Path(tempfile.mkdtemp(prefix="faults-")), False
    try:
        with small_disk(folder, mount=not options.local) as disk:
            keep = spoiled(run(options, folder, disk))
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return int(keep)


if __name__ == "__main__":
    sys.exit(main())
