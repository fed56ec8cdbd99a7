"""The tasks of a job, each some cells of one trunk, and how tasks are divided among jobs."""

import os
from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from scaling.budget import by_trunk, resolve, task_seconds
from scaling.config import CellConfig
from scaling.cpu.compiler import has_numba
from scaling.schema import code_version, sha256_json
from scaling.study.places import trained_at
from scaling.study.states import Part


class ExitCode(IntEnum):
    """How a process of the pool ended, beside the codes of signals."""

    DONE = 0
    FAILED = 1
    STOPPED = 75  # it was asked to stop and left a checkpoint
    HELD = 76  # another process holds some of its cells


@dataclass(frozen=True, kw_only=True)
class Task:
    """Cells of one trunk that one process trains, and which part of the trunk it trains."""

    cells: list[CellConfig]
    part: Part = Part.ALL

    @property
    def trunk_id(self) -> str:
        """The trunk that the cells branch from."""
        return self.cells[0].trunk_id()

    @property
    def seconds(self) -> float:
        """The estimated time on one core."""
        return task_seconds(self.cells)

    def branches(self) -> list["Task"]:
        """Return a task for each branch of a trunk whose shared part is trained."""
        return [replace(self, cells=[c], part=Part.BRANCH) for c in self.cells]


STACK = 16  # Trunks of one stack: more gained nothing above the noise (benchmarks/RESULTS.md).
# Models with more parameters (head included) step as fast alone, by compiled kernels or autograd.
STACK_PARAMS = {"compiled": 9_000, "autograd": 120_000}
STACK_CONTEXT = 512  # The longest row of a stack, in tokens, as in scaling.train.step.


def stack_key(task: Task) -> str:
    """Return a key that is equal for tasks which can train as one stack; empty for one that cannot.

    Seeds, learning rates, weight decay, schedules, budgets and clipping may differ within a stack.
    """
    cell = task.cells[0]
    machine, optim = cell.machine, cell.optim
    if cell.stage != "pretrain" or max_stack(task) < 2:
        return ""
    plain = cell.model.plain and not cell.data.mask_documents and optim.name == "adamw"
    rows_at_once = not machine.micro_batch and machine.precision != "bf16"
    special = machine.compile or machine.activation_checkpointing or machine.deterministic
    special = special or machine.ranks > 1 or any(c.branch.is_set for c in task.cells)
    if not plain or not rows_at_once or special or cell.data.context > STACK_CONTEXT:
        return ""
    parts = (cell.model, cell.data, cell.tokenizer, cell.eval, machine)
    return sha256_json([*map(asdict, parts), resolve(cell).batch_tokens, optim.beta1, optim.beta2])


def max_stack(task: Task) -> int:
    """Return how many trunks like the task's one stack may hold; 0 for no stack.

    The automatic number was measured on CPUs; on a GPU it is 0.
    """
    cell = task.cells[0]
    if cell.machine.stack >= 0:
        return cell.machine.stack
    if cell.machine.device != "cpu" and gpu_count():
        return 0
    alone = "compiled" if has_numba() else "autograd"
    return STACK if resolve(cell).shape.params.with_head <= STACK_PARAMS[alone] else 0


@dataclass(frozen=True, kw_only=True)
class JobTasks:
    """The tasks of one job and how to run them; a file or a pickle carries this to the job.

    round: the sweep command; retries are counted within a round
    retry: failures of a cell that are tried again
    workers: processes that train at the same time
    then_branches: whether the pool queues the branches once their trunk's shared part is trained
    seconds_limit: time limit of a SLURM job; 0 for none
    signal_seconds: how long before the limit SLURM sends its signal
    code: version and commit of the code that made the list
    """

    round: str
    tasks: list[Task]
    retry: int = 0
    workers: int = 1
    then_branches: bool = False
    seconds_limit: float = 0.0
    signal_seconds: float = 0.0
    code: dict[str, Any] = field(default_factory=code_version)
    schema: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read the values that `to_dict` returned."""
        tasks = [
            Task(part=Part(t["part"]), cells=[CellConfig.from_dict(c) for c in t["cells"]])
            for t in values["tasks"]
        ]
        return cls(**{**values, "tasks": tasks})


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """The tasks of one job, before it is submitted.

    after: the trunk whose job must end well before this one starts; None for no such trunk
    """

    tasks: list[Task] = field(default_factory=list)
    after: str | None = None

    @property
    def cells(self) -> list[str]:
        """The run ids of all tasks."""
        return [c.run_id() for t in self.tasks for c in t.cells]


def tasks_of(cells: list[CellConfig], *, part: Part = Part.ALL) -> list[Task]:
    """Group cells by trunk, the longest task first, so that processes end at about the same time.

    `part` is that of the pretraining tasks. A cell of a later stage is a task of its own where the
    model that it starts from is trained.
    """
    trunks, stages = [c for c in cells if c.stage == "pretrain"], []
    tasks = []
    for cell in cells:
        before = cell.before()
        if before and trained_at(before):
            tasks.append(Task(cells=[cell], part=Part.BRANCH))
        elif before:
            stages.append(cell)
    tasks += [Task(cells=members) for members in by_trunk(stages).values()]
    tasks += [Task(cells=members, part=part) for members in by_trunk(trunks).values()]
    return sorted(tasks, key=lambda t: -t.seconds)


def parcels(cells: list[CellConfig], *, cells_per_job: int, branches: str) -> list[Parcel]:
    """Divide cells among jobs: one trunk each, several small trunks, or one branch each.

    With `branches=jobs` a trunk of one branch stays one job: it has nothing to share.
    """
    tasks = tasks_of(cells)
    if branches == "jobs":
        shared = [t for t in tasks if len(t.cells) > 1 and t.cells[0].stage == "pretrain"]
        divided = [Parcel(tasks=[replace(t, part=Part.TRUNK)]) for t in shared]
        divided += [Parcel(tasks=[b], after=t.trunk_id) for t in shared for b in t.branches()]
        return divided + pack([t for t in tasks if t not in shared], cells_per_job)
    return pack(tasks, cells_per_job)


def pack(tasks: list[Task], cells_per_job: int) -> list[Parcel]:
    """Put tasks into one job until it has `cells_per_job` cells; 0 for one task a job."""
    packed: list[Parcel] = []
    for task in tasks:
        last = packed[-1] if packed else None
        if last and len(last.cells) + len(task.cells) <= cells_per_job:
            last.tasks.append(task)
        else:
            packed.append(Parcel(tasks=[task]))
    return packed


def gpu_count() -> int:
    """Count the GPUs that a process here would see; without torch, whose import takes seconds."""
    if version("torch").endswith("+cpu"):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([v for v in visible.split(",") if v.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
