"""What a job does: tasks, each the cells of one trunk, and how tasks share jobs."""

import os
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from scaling.budget import by_trunk, resolve, task_seconds
from scaling.config import CellConfig
from scaling.cpu.compiler import has_numba
from scaling.schema import sha256_json
from scaling.study.places import trained_at


@dataclass(frozen=True, kw_only=True)
class Task:
    """Cells of one trunk that one process trains.

    `part` is `all`, or `trunk` for the shared part and `branch` for a cell that starts from it.
    """

    cells: list[CellConfig]
    part: str = "all"

    @property
    def trunk_id(self) -> str:
        """The trunk that the cells leave."""
        return self.cells[0].trunk_id()

    @property
    def seconds(self) -> float:
        """What it takes on one core, roughly."""
        return task_seconds(self.cells)

    def branches(self) -> list["Task"]:
        """Return a task for each branch of a trunk whose shared part is there."""
        return [replace(self, cells=[c], part="branch") for c in self.cells]


STACK = 16  # trunks of one stack: beyond it the gain was within the noise (benchmarks/RESULTS.md)
# With the head: larger models step as fast alone, by compiled kernels or by autograd.
STACK_PARAMS = {"compiled": 9_000, "autograd": 120_000}
STACK_CONTEXT = 512  # tokens of a row: as of scaling.train.step


def alike(task: Task) -> str:
    """Return what tasks that can train as one stack have in common; empty for one that cannot.

    Seeds, learning rates, weight decay, schedules, budgets and clipping may differ.
    """
    cell = task.cells[0]
    machine, optim = cell.machine, cell.optim
    if cell.stage != "pretrain" or most_together(task) < 2:
        return ""
    plain = cell.model.plain and not cell.data.mask_documents and optim.name == "adamw"
    rows_at_once = not machine.micro_batch and machine.precision == "fp32"
    own_way = machine.compile or machine.activation_checkpointing or machine.deterministic
    own_way = own_way or machine.ranks > 1
    if not plain or not rows_at_once or own_way or cell.data.context > STACK_CONTEXT:
        return ""
    parts = (cell.model, cell.data, cell.tokenizer, cell.eval, machine)
    return sha256_json([*map(asdict, parts), resolve(cell).batch_tokens, optim.beta1, optim.beta2])


def most_together(task: Task) -> int:
    """Return how many trunks like a task's train together at most, 0 for none.

    What is automatic was measured on a CPU (scaling.jobs.pool leaves GPUs out).
    """
    cell = task.cells[0]
    if cell.machine.stack >= 0:
        return cell.machine.stack
    if cell.machine.device != "cpu" and gpu_count():
        return 0
    alone = "compiled" if has_numba() else "autograd"
    return STACK if resolve(cell).shape.params.with_head <= STACK_PARAMS[alone] else 0


@dataclass(frozen=True, kw_only=True)
class Work:
    """The tasks of one job, and what it must know beside them; a file or a pickle carries it.

    `round` is shared by all jobs of one sweep command; retries are counted within it. With
    `then_branches` the process that trained a trunk's shared part trains its branches too.
    """

    round: str
    tasks: list[Task]
    retry: int = 0
    workers: int = 1
    then_branches: bool = False
    seconds_limit: float = 0.0
    signal_seconds: float = 0.0
    schema: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` returned."""
        tasks = [
            Task(part=t["part"], cells=[CellConfig.from_dict(c) for c in t["cells"]])
            for t in values["tasks"]
        ]
        return cls(**{**values, "tasks": tasks})


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What becomes one job: its tasks, and the trunk whose job must end well before it."""

    tasks: list[Task] = field(default_factory=list)
    after: str | None = None

    @property
    def cells(self) -> list[str]:
        """The run ids in it."""
        return [c.run_id() for t in self.tasks for c in t.cells]


def tasks_of(cells: list[CellConfig], *, part: str = "all") -> list[Task]:
    """Group cells by trunk, the longest first, so that the last process to end ends soon.

    A stage whose model is trained already is a task of its own.
    """
    trunks, stages = [c for c in cells if c.stage == "pretrain"], []
    tasks = []
    for cell in cells:
        before = cell.before()
        if before and trained_at(before):
            tasks.append(Task(cells=[cell], part="branch"))
        elif before:
            stages.append(cell)
    tasks += [Task(cells=members) for members in by_trunk(stages).values()]
    tasks += [Task(cells=members, part=part) for members in by_trunk(trunks).values()]
    return sorted(tasks, key=lambda t: -t.seconds)


def parcels(cells: list[CellConfig], *, cells_per_job: int, branches: str) -> list[Parcel]:
    """Divide cells among jobs: a trunk a job, several small ones, or a job for every branch.

    With `branches=jobs` a trunk of one branch stays one job: there is nothing to share.
    """
    tasks = tasks_of(cells)
    if branches == "jobs":
        shared = [t for t in tasks if len(t.cells) > 1 and t.cells[0].stage == "pretrain"]
        found = [Parcel(tasks=[replace(t, part="trunk")]) for t in shared]
        found += [Parcel(tasks=[b], after=t.trunk_id) for t in shared for b in t.branches()]
        return found + pack([t for t in tasks if t not in shared], cells_per_job)
    return pack(tasks, cells_per_job)


def pack(tasks: list[Task], cells_per_job: int) -> list[Parcel]:
    """Put tasks together until a job has `cells_per_job` cells (0: one task a job)."""
    found: list[Parcel] = []
    for task in tasks:
        last = found[-1] if found else None
        if last and len(last.cells) + len(task.cells) <= cells_per_job:
            last.tasks.append(task)
        else:
            found.append(Parcel(tasks=[task]))
    return found


def gpu_count() -> int:
    """Count the GPUs that a process here would see, without torch, whose import takes seconds."""
    if version("torch").endswith("+cpu"):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([v for v in visible.split(",") if v.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


STOPPED, HELD = 75, 76  # as in scaling.jobs.worker, which this module cannot import: torch
