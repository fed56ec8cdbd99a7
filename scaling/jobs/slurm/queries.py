"""Questions to a SLURM cluster: states of jobs, limits, refusals; and cancelling.

They work with accounting (sacct) and without it (squeue and scontrol alone). `states` returns None
where SLURM does not answer; the study's files must do then.

Written by hand on purpose: submitit asks sacct alone, which many clusters lack, and knows no limits
and no refusals.
"""

import getpass
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.schema import machine_id
from scaling.study.states import Outcome

LIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_FED",
    "REQUEUE_HOLD", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED",
}  # fmt: skip
# Ends that are no fault of a job: the outcome of its cells by SLURM's state of the job.
TAKEN_AWAY = {
    "TIMEOUT": Outcome.TIMEOUT,
    "PREEMPTED": Outcome.PREEMPTED,
    "NODE_FAIL": Outcome.PREEMPTED,
    "BOOT_FAIL": Outcome.PREEMPTED,
}
ASK_SECONDS = 60  # A SLURM command that takes longer counts as unanswered, in seconds.
# The flags of sbatch that choose a node.
WHERE_FLAGS = {"--partition", "--account", "--qos", "--constraint", "--reservation"}
PROBE_SECONDS = 20  # A node has so many seconds to look for the folder before the probe ends.
# An allocation, or a process in one, passes on variables that begin so. Each of them changes what a
# command of SLURM does.
OF_A_JOB = (
    "SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_",
    "SCONTROL_", "SUBMITIT_", "PMI_", "PMIX_",
)  # fmt: skip
OF_A_RANK = {
    "MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
    "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK",
}  # fmt: skip
OF_THE_CLUSTER = {"SLURM_CONF", "SLURM_CLUSTERS"}  # They choose the cluster and stay as they are.


@dataclass(frozen=True, kw_only=True)
class State:
    """A job's state, node and reason to wait, in SLURM's words."""

    state: str
    node: str = ""
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether the job waits or runs."""
        return self.state in LIVE

    @property
    def taken_away(self) -> Outcome | None:
        """The outcome where SLURM took the machine away, which is no failure; None otherwise."""
        return TAKEN_AWAY.get(self.state)


def inside() -> bool:
    """Say whether this process is in an allocation (sbatch, salloc, srun)."""
    return "SLURM_JOB_ID" in os.environ or "SLURM_JOBID" in os.environ


def environment() -> dict[str, str]:
    """Return the environment for SLURM's commands, without the variables of an allocation.

    A job inherits the environment of the command that submits it, and srun in that job would then
    read the memory, tasks and cores of the outer allocation. Outside of an allocation, SBATCH_*
    variables are the user's own defaults and stay.
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
    """Remove the variables of an allocation meanwhile: submitit submits with this environment."""
    removed = {k: os.environ[k] for k in os.environ.keys() - environment().keys()}
    for name in removed:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(removed)


def call(*command: str, seconds: float = ASK_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run a SLURM command to its end, with the environment outside of any allocation."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=environment(),
    )


def ask(*command: str) -> str | None:
    """Return the output of a SLURM command; None where it is missing, fails or hangs."""
    try:
        done = call(*command)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def states(jobs: list[str]) -> dict[str, State] | None:
    """Return the state of each job that SLURM still knows; None where SLURM does not answer."""
    if not jobs:
        return {}
    queue = ask("squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T|%N|%r")
    queued = _table(queue) if queue is not None else {}
    missing = {j.partition("_")[0] for j in jobs if j not in queued}
    history = (
        ask("sacct", "-n", "-X", "-P", "-o", "JobID,State,NodeList,Reason", "-j", ",".join(missing))
        if missing
        else ""
    )
    if queue is None and not history:
        return None
    return _table(history or "") | queued


def _table(text: str) -> dict[str, State]:
    """Return the states in the output of squeue or sacct, by job."""
    table = {}
    for line in text.splitlines():
        job, state, node, reason = [*line.split("|", 3), "", "", ""][:4]
        one = State(
            state=state.split()[0] if state else "UNKNOWN",
            node="" if node.startswith("None") else node,
            reason="" if reason in ("None", "(null)") else reason,
        )
        table |= dict.fromkeys(expand(job), one)
    return table


def expand(job: str) -> list[str]:
    """List the jobs of `12_[3,5-7%2]`, as SLURM writes the waiting jobs of an array."""
    array = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", job)
    if not array:
        return [job]
    spans = [part.partition("-") for part in array[2].split(",")]
    return [f"{array[1]}_{i}" for a, _, b in spans for i in range(int(a), int(b or a) + 1)]


JOB_ID = re.compile(r"\d+(_\d+)?")


def jobs_named(name: str) -> list[str]:
    """Return the ids (of arrays, without index) of this user's live jobs with a name."""
    text = ask("squeue", "-h", "-u", getpass.getuser(), "-n", name, "-o", "%F") or ""
    return sorted(set(text.split()))


def cancel(jobs: Mapping[str, str]) -> None:
    """Cancel jobs; `jobs` holds the name of each by its id. A job that has ended is no error.

    Both come from a study's file, which may be from another cluster: scancel gets nothing but ids,
    and cancels a job only if it has that name.
    """
    for name in sorted(set(jobs.values())):
        ids = [j for j, n in jobs.items() if n == name and JOB_ID.fullmatch(j)]
        name_option = [f"--name={name}"] if name else []
        for i in range(0, len(ids), 500):
            call("scancel", "--quiet", *name_option, *ids[i : i + 500])


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


def max_array(size: int = 0) -> int:
    """Return how many jobs an array may have: `size`, or the cluster's limit for 0.

    Raises ValueError where `size` is above the limit.
    """
    line = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config") or "", re.M)
    limit = int(line.group(1)) - 1 if line else 1000
    if limit < 1:
        raise ValueError("this cluster allows no job arrays (MaxArraySize=0); use cells_per_job")
    if size > limit:
        raise ValueError(
            f"hydra.launcher.array_size={size} is above this cluster's limit of {limit} jobs an "
            f"array (MaxArraySize={limit + 1}); set {limit} or less, or 0 for the limit itself"
        )
    return size or limit


def test_only(flags: list[str], *, n_jobs: int) -> None:
    """Let sbatch check a job without submitting it; ValueError where sbatch refuses it."""
    array = [f"--array=0-{n_jobs - 1}"] if n_jobs > 1 else []
    done = call("sbatch", "--test-only", *flags, *array, "--wrap=true")
    if done.returncode:
        raise ValueError(refusal(done.stderr, flags))


def refusal(text: str, flags: list[str]) -> str:
    """Return one sentence with sbatch's reason against a job, and what to change."""
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
    """Let a node look for `folder`; ValueError where the node does not see it.

    This takes a second on a free cluster. On a full one no node is free to look; then a folder on
    a local file system is refused, unless all nodes are this machine.
    """
    mark = folder / f"{machine_id()[-8:] or 'shared'}.probe"
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("")
    why = (
        f"the nodes do not see {folder}; set runs= to a folder of a file system that is "
        "shared with them"
    )
    where = [f for f in flags if f.partition("=")[0] in WHERE_FLAGS]
    command = [
        "srun", "--quiet", f"--immediate={PROBE_SECONDS}", "--time=1", "--ntasks=1", "--mem=100M",
        "--chdir=/", *where, "test", "-e", str(mark),
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


# File systems that belong to one machine.
LOCAL_TYPES = {"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs"}


def file_system(folder: Path, mounts: str | None = None) -> str:
    """Return the type of the file system that holds a folder; empty where it is unknown.

    `mounts` replaces the text of /proc/self/mounts.
    """
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
    """Say whether every node of the cluster is this machine."""
    text = ask("scontrol", "show", "nodes") or ""
    hosts = set(re.findall(r"NodeHostName=(\S+)", text))
    return bool(hosts) and hosts <= {socket.gethostname(), socket.gethostname().split(".")[0]}


def flags_of(options: dict[str, Any]) -> list[str]:
    """Return, as flags of sbatch, those of submitit's parameters that a cluster may refuse."""
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
