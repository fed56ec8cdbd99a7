"""What is asked of a SLURM cluster beside submitting: states, limits, refusals, cancelling.

Works with accounting (sacct), without it (squeue and scontrol alone) and, for states, with SLURM
gone: None then, and the files of a study must do.
"""

import getpass
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.schema import machine_id

LIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_FED",
    "REQUEUE_HOLD", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED",
}  # fmt: skip
# Ends that are no fault of a job: the outcome of its cells by the state that SLURM gives.
TAKEN_AWAY = {
    "TIMEOUT": "timeout",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "preempted",
    "BOOT_FAIL": "preempted",
}
ASK_SECONDS = 60
WHERE_FLAGS = {"--partition", "--account", "--qos", "--constraint", "--reservation"}
PROBE_SECONDS = 20  # that a node may take to look at the folder, before the look is given up
# What an allocation, or a process in one, passes on: each of these changes what a command does.
OF_A_JOB = (
    "SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_",
    "SCONTROL_", "SUBMITIT_", "PMI_", "PMIX_",
)  # fmt: skip
OF_A_RANK = {
    "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
    "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK",
}  # fmt: skip
OF_THE_CLUSTER = {"SLURM_CONF", "SLURM_CLUSTERS"}  # which cluster answers: kept


@dataclass(frozen=True, kw_only=True)
class State:
    """A job as SLURM has it."""

    state: str
    node: str = ""
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in LIVE

    @property
    def taken_away(self) -> str:
        """The outcome of an end by SLURM itself, no failure; empty for any other."""
        return TAKEN_AWAY.get(self.state, "")


def inside() -> bool:
    """Say whether this process is in an allocation (sbatch, salloc, srun)."""
    return "SLURM_JOB_ID" in os.environ or "SLURM_JOBID" in os.environ


def environment() -> dict[str, str]:
    """Return the environment of SLURM's commands: without what another job left in ours.

    A job inherits the environment of the command that submits it, and srun in that job then reads
    the memory, tasks and cores of the allocation around it. A user's own SBATCH_* defaults are left
    outside of an allocation, where they cannot be another job's.
    """

    def foreign(name: str) -> bool:
        if name in OF_THE_CLUSTER:
            return False
        if name.startswith("SBATCH_") and not inside():
            return False
        return name.startswith(OF_A_JOB) or (name in OF_A_RANK and inside())

    return {k: v for k, v in os.environ.items() if not foreign(k)}


@contextmanager
def outside() -> Iterator[None]:
    """Be outside of any allocation, for a library that submits with our environment."""
    removed = {k: os.environ[k] for k in os.environ.keys() - environment().keys()}
    for name in removed:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(removed)


def call(*command: str, seconds: float = ASK_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a SLURM command to its end, outside of any allocation."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=environment(),
    )


def ask(*command: str) -> str | None:
    """Run a SLURM command; its output, or None where it is absent, fails or hangs."""
    try:
        done = call(*command)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def states(jobs: list[str]) -> dict[str, State] | None:
    """Return the state of each job that SLURM still knows; None when SLURM does not answer."""
    if not jobs:
        return {}
    queue = ask("squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T|%N|%r")
    known = _table(queue) if queue is not None else {}
    missing = {j.partition("_")[0] for j in jobs if j not in known}
    history = (
        ask("sacct", "-n", "-X", "-P", "-o", "JobID,State,NodeList,Reason", "-j", ",".join(missing))
        if missing
        else ""
    )
    if queue is None and not history:
        return None
    return _table(history or "") | known


def _table(text: str) -> dict[str, State]:
    found = {}
    for line in text.splitlines():
        job, state, node, reason = [*line.split("|", 3), "", "", ""][:4]
        one = State(
            state=state.split()[0] if state else "UNKNOWN",
            node="" if node.startswith("None") else node,
            reason="" if reason in ("None", "(null)") else reason,
        )
        found |= dict.fromkeys(expand(job), one)
    return found


def expand(job: str) -> list[str]:
    """List the jobs of `12_[3,5-7%2]`, as SLURM writes the part of an array that waits."""
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if not found:
        return [job]
    spans = [part.partition("-") for part in found[2].split(",")]
    return [f"{found[1]}_{i}" for a, _, b in spans for i in range(int(a), int(b or a) + 1)]


JOB_ID = re.compile(r"\d+(_\d+)?")


def jobs_named(name: str) -> list[str]:
    """Return the ids (of arrays, without index) of this user's jobs of a name that still live."""
    text = ask("squeue", "-h", "-u", getpass.getuser(), "-n", name, "-o", "%F") or ""
    return sorted(set(text.split()))


def cancel(jobs: Mapping[str, str]) -> None:
    """Cancel jobs, given with their names; those that have ended already are no error.

    Both are read from a study's file, which may be of another cluster: only what is an id is told
    to scancel, and only a job that bears the name is cancelled.
    """
    for name in sorted(set(jobs.values())):
        ids = [j for j, n in jobs.items() if n == name and JOB_ID.fullmatch(j)]
        named = [f"--name={name}"] if name else []
        for i in range(0, len(ids), 500):
            call("scancel", "--quiet", *named, *ids[i : i + 500])


def require() -> None:
    """Raise ValueError where SLURM's commands are missing or its controller does not answer."""
    for command in ("sbatch", "srun", "squeue", "scontrol"):
        if not shutil.which(command):
            raise ValueError(
                f"no SLURM here ({command} is not on the path); use hydra/launcher=local, "
                "or load your cluster's module"
            )
    if ask("squeue", "-h", "-u", getpass.getuser()) is None:
        raise ValueError(
            "SLURM does not answer squeue; wait until its controller is back, "
            "or use hydra/launcher=local"
        )


def max_array(wanted: int = 0) -> int:
    """Return how many jobs an array may have; ValueError where more are asked for."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "", re.M)
    limit = int(found.group(1)) - 1 if found else 1000
    if limit < 1:
        raise ValueError("this cluster allows no job arrays (MaxArraySize=0); use cells_per_job")
    if wanted > limit:
        raise ValueError(
            f"hydra.launcher.array_size={wanted} is above this cluster's limit of {limit} jobs an "
            f"array (MaxArraySize={limit + 1}); set {limit} or less, or 0 for the limit itself"
        )
    return wanted or limit


def test_only(flags: list[str], *, n_jobs: int) -> None:
    """Let sbatch judge a job without submitting it; ValueError with its refusal."""
    array = [f"--array=0-{n_jobs - 1}"] if n_jobs > 1 else []
    done = call("sbatch", "--test-only", *flags, *array, "--wrap=true")
    if done.returncode:
        raise ValueError(refusal(done.stderr, flags))


def refusal(text: str, flags: list[str]) -> str:
    """Make one sentence of what sbatch said against a job."""
    lines = [t.removeprefix("sbatch: ").removeprefix("error: ") for t in text.splitlines() if t]
    why = lines[-1].removeprefix("allocation failure: ") if lines else "no reason was given"
    hint = "change hydra.launcher.* to what the cluster allows"
    if "account" in why.lower() or "qos" in why.lower():
        hint = "set hydra.launcher.account (sacctmgr show associations lists yours)"
    elif "partition" in why.lower():
        names = sorted(set((ask("sinfo", "-h", "-o", "%R") or "").split()))
        hint = f"set hydra.launcher.partition to one of {', '.join(names)}"
    return f"SLURM refuses the jobs: {why} ({shlex.join(flags)}); {hint}"


def check_shared(folder: Path, flags: list[str]) -> None:
    """Let a node look for `folder`; ValueError where it does not see it.

    The look takes a second on a free cluster and is given up on a full one, where a folder of a
    file system that is this machine's own is refused unless all nodes are this machine.
    """
    mark = folder / f"{machine_id()[-8:] or 'shared'}.probe"
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("")
    why = (
        f"the nodes do not see {folder}; set runs= to a folder of a file system that is "
        "shared with them"
    )
    kept = [f for f in flags if f.partition("=")[0] in WHERE_FLAGS]
    command = [
        "srun", "--quiet", f"--immediate={PROBE_SECONDS}", "--time=1", "--ntasks=1", "--mem=100M",
        "--chdir=/", *kept, "test", "-e", str(mark),
    ]  # fmt: skip
    try:
        done = call(*command, seconds=3 * PROBE_SECONDS)
        saw = done.returncode == 0
        looked = saw or "Exited with exit code 1" in done.stderr
    except subprocess.TimeoutExpired:
        saw = looked = False
    finally:
        mark.unlink(missing_ok=True)
    if looked and not saw:
        raise ValueError(why)
    if not looked and file_system(folder) in LOCAL_TYPES and not nodes_are_here():
        raise ValueError(why)


LOCAL_TYPES = {"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs"}


def file_system(folder: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds a folder; empty where that is unknown."""
    try:
        text = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    except OSError:
        return ""
    place, best = str(folder.resolve()), ("", "")
    for line in text.splitlines():
        _, point, kind, *_ = line.split()
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def nodes_are_here() -> bool:
    """Say whether every node of the cluster is this very machine."""
    import socket

    text = ask("scontrol", "show", "nodes") or ""
    hosts = set(re.findall(r"NodeHostName=(\S+)", text))
    return bool(hosts) and hosts <= {socket.gethostname(), socket.gethostname().split(".")[0]}


def flags_of(options: dict[str, Any]) -> list[str]:
    """Write submitit's parameters as flags of sbatch, those that it can refuse."""
    names = {
        "timeout_min": "time",
        "slurm_partition": "partition",
        "slurm_account": "account",
        "slurm_qos": "qos",
        "slurm_constraint": "constraint",
        "cpus_per_task": "cpus-per-task",
        "gpus_per_node": "gpus-per-node",
    }
    flags = [f"--{flag}={options[name]}" for name, flag in names.items() if options.get(name)]
    if "mem_gb" in options:
        flags.append(f"--mem={round(options['mem_gb'] * 1024)}M")
    extra = options.get("slurm_additional_parameters") or {}
    for key, value in extra.items():
        flag = f"--{key.replace('_', '-')}"
        flags.append(flag if value is True else f"{flag}={value}")
    return flags
