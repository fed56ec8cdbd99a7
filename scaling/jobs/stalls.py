"""Processes that are stopped or hang: what the pool sees of each, and when it kills one.

A stopped process writes no beat; a hung one may go on beating while its work does not move. Time
counts only while the pool looks, so that no process is killed because the machine or the whole job
slept for an hour.
"""

from dataclasses import dataclass
from pathlib import Path

from scaling.budget import core_seconds, workload
from scaling.config import MachineConfig
from scaling.jobs.tasks import Task
from scaling.schema import is_stopped
from scaling.study.lease import Attempt, last_attempt
from scaling.study.places import cell_folder, trunk_folder

LOOK_SECONDS = 2.0  # The pool looks at a process this often; its lease beats every five seconds.
# The most seconds that one look counts for: where more have passed, the pool itself slept.
LONGEST_GAP = 5.0
# A process hangs when it needs so many times the longest time between two moves, seen or expected.
PATIENCE = 20.0


@dataclass
class ProcessWatch:
    """What is seen of one process.

    pid: the process
    folders: folders of its trunks and cells, where its leases lie
    machine: the settings that say how long it may stop or hang
    expected: seconds a step, by the price list
    looked: when it was last looked at, on the monotonic clock
    moves: its moves by then; -1 before the first look
    stopped, idle: seconds for which it has been stopped, or has not moved
    longest: the longest time between two moves, in seconds
    """

    pid: int
    folders: list[Path]
    machine: MachineConfig
    expected: float
    looked: float
    moves: int = -1
    stopped: float = 0.0
    idle: float = 0.0
    longest: float = 0.0

    @classmethod
    def of(cls, pid: int, tasks: list[Task], moment: float) -> "ProcessWatch":
        """Return the watch of a process that starts to train tasks."""
        cells = [c for t in tasks for c in t.cells]
        loads = [workload(c) for c in cells]
        expected = sum(core_seconds(flops, steps) / max(1, steps) for flops, steps in loads)
        folders = [*{trunk_folder(c): None for c in cells}, *map(cell_folder, cells)]
        return cls(pid, folders, cells[0].machine, expected, moment)

    def lease(self) -> Attempt | None:
        """Return one attempt that the process holds; the beats of all its leases are alike."""
        for folder in self.folders:
            last = last_attempt(folder)
            if last and last.ended is None and last.pid == self.pid:
                return last
        return None

    @property
    def deadline(self) -> float:
        """The seconds without a move after which the process counts as hung."""
        # Ranks watch each other and name the one that hangs: they get the time to do so first.
        least = self.machine.hang_seconds * (3 if self.machine.ranks > 1 else 1)
        return max(least, PATIENCE * max(self.longest, self.expected))

    def look(self, moment: float) -> str:
        """Look at the process; return why it must be killed, empty while it need not be."""
        gone, self.looked = min(moment - self.looked, LONGEST_GAP), moment
        self.stopped = self.stopped + gone if is_stopped(self.pid) else 0.0
        if self.stopped > self.machine.stopped_seconds:
            return f"its process was stopped (SIGSTOP) for {self.stopped:.0f} s and was ended"
        self.idle += gone
        lease = self.lease()
        if lease and lease.moves > self.moves:
            if self.moves > 0:  # before its first move it imports and compiles
                self.longest = max(self.longest, self.idle / (lease.moves - self.moves))
            self.moves, self.idle = lease.moves, 0.0
        if self.idle > self.deadline:
            at = f"at step {lease.step}" if lease else "before its first step"
            return (
                f"its process hung {at}: it moved nothing for {self.idle:.0f} s, more than "
                f"{self.deadline:.0f} s (machine.hang_seconds, or {PATIENCE:.0f} times its slowest "
                "step before), and was ended"
            )
        return ""
