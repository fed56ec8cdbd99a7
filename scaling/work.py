"""What a job does: tasks, each the cells of one trunk, and how tasks share jobs."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from scaling.budget import by_trunk, task_seconds
from scaling.config import CellConfig
from scaling.failure import trained_at


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
