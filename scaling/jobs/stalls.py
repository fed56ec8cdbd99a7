"""Processes that stop or hang: what a pool sees of each, and when it ends one.

A stopped process writes no beat, a hung one may go on beating while the work does not move. Time is
counted only while the pool itself looks, so that a machine or a whole job that sleeps for an hour
stalls nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from scaling.budget import core_seconds, workload
from scaling.config import MachineConfig
from scaling.jobs.tasks import Task
from scaling.schema import process_stopped
from scaling.study.lease import Attempt, last_attempt
from scaling.study.places import cell_folder, trunk_folder

LOOK_SECONDS = 2.0  # between two looks at a process; a beat comes every five
LONGEST_GAP = 5.0  # seconds that one look counts for at most: beyond it the pool itself slept
PATIENCE = 20.0  # times the longest that a process took between two moves, or is expected to


@dataclass
class Watched:
    """What was seen of a process: seconds that it is stopped, or has not moved."""

    pid: int
    folders: list[Path]
    machine: MachineConfig
    expected: float  # seconds a step, by the price list
    looked: float
    moves: int = -1
    stopped: float = 0.0
    idle: float = 0.0
    longest: float = 0.0

    @classmethod
    def of(cls, pid: int, tasks: list[Task], moment: float) -> "Watched":
        """Watch a process that trains tasks."""
        cells = [c for t in tasks for c in t.cells]
        works = [workload(c) for c in cells]
        expected = sum(core_seconds(flops, steps) / max(1, steps) for flops, steps in works)
        folders = [*{trunk_folder(c): None for c in cells}, *map(cell_folder, cells)]
        return cls(pid, folders, cells[0].machine, expected, moment)

    def lease(self) -> Attempt | None:
        """Return an attempt that the process holds: one tells of all, which beat together."""
        for folder in self.folders:
            last = last_attempt(folder)
            if last and last.ended is None and last.pid == self.pid:
                return last
        return None

    @property
    def deadline(self) -> float:
        """The seconds without a move after which the process counts as hung."""
        # Ranks watch each other and name the one that hangs: they come first.
        least = self.machine.hang_seconds * (3 if self.machine.ranks > 1 else 1)
        return max(least, PATIENCE * max(self.longest, self.expected))

    def look(self, moment: float) -> str:
        """Look at the process; say why it must be ended, nothing while it need not be."""
        gone, self.looked = min(moment - self.looked, LONGEST_GAP), moment
        self.stopped = self.stopped + gone if process_stopped(self.pid) else 0.0
        if self.stopped > self.machine.stopped_seconds:
            return f"its process was stopped (SIGSTOP) for {self.stopped:.0f} s and was ended"
        self.idle += gone
        held = self.lease()
        if held and held.moves > self.moves:
            if self.moves > 0:  # before its first move it imports and compiles
                self.longest = max(self.longest, self.idle / (held.moves - self.moves))
            self.moves, self.idle = held.moves, 0.0
        if self.idle > self.deadline:
            at = f"at step {held.step}" if held else "before its first step"
            return (
                f"its process hung {at}: it moved nothing for {self.idle:.0f} s, more than "
                f"{self.deadline:.0f} s (machine.hang_seconds, or {PATIENCE:.0f} times its slowest "
                "step before), and was ended"
            )
        return ""
