"""The words that say how cells, attempts and jobs stand.

Every member is a str: files hold the plain word, and a word from a file compares equal to it.
"""

from enum import StrEnum


class CellState(StrEnum):
    """How a cell stands: its record's status, or what is known of a cell without a record."""

    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"
    RUNNING = "running"
    QUEUED = "queued"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    DAMAGED = "damaged"
    MISSING = "missing"


class Outcome(StrEnum):
    """How an attempt ended.

    preempted, timeout: SLURM took the machine away, or its time limit passed
    stopped: a user ended it
    superseded: another process took the work over
    stalled: the process was stopped or hung, and the pool ended it
    damaged: the file of the attempt cannot be read
    """

    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"
    PREEMPTED = "preempted"
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    SUPERSEDED = "superseded"
    STALLED = "stalled"
    DAMAGED = "damaged"


# Ends that are no fault of the work: they use up no retry.
TAKEN_AWAY = (
    Outcome.PREEMPTED,
    Outcome.TIMEOUT,
    Outcome.SUPERSEDED,
    Outcome.STALLED,
    Outcome.DAMAGED,
)


class Part(StrEnum):
    """Which part of a trunk a task trains.

    all: the shared part and every branch
    trunk: the shared part alone, with a checkpoint for each branch
    branch: branches that start from those checkpoints
    lead: the shared part and the longest branch, the other branches being tasks of their own
    """

    ALL = "all"
    TRUNK = "trunk"
    BRANCH = "branch"
    LEAD = "lead"


class Where(StrEnum):
    """Where jobs run: in a pool on this machine, on a SLURM cluster, or wherever a worker starts.

    none: the sweep starts nothing; `scaling work` takes the cells
    """

    LOCAL = "local"
    SLURM = "slurm"
    NONE = "none"
