"""Trunks of one shape trained in turns by one process: what they ask for is computed at once.

Each trunk is a generator of requests (scaling.train.requests) with its own step, schedule, files
and leases. Scores and probes are answered first, then all wait for a step, which one stack of
weights takes (scaling.stacked.runs). A trunk that ends leaves, one that is added joins at the next
step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from scaling.config import CellConfig
from scaling.stacked.runs import Ensemble, Forward
from scaling.study.lease import Pulse
from scaling.train.requests import HealthRequest, Request, ScoreRequest, StepRequest, Work
from scaling.train.step import Setting, prepare


@dataclass
class Member:
    """A trunk at work: what it asks for, None before it began."""

    work: Work[Any]
    request: Request | None = None


class Gang:
    """The trunks at work; at most `most` go through one stack."""

    def __init__(self, *, most: int) -> None:
        self.most = most
        self.members: list[Member] = []
        self.ensembles: list[Ensemble] = []
        self.forward = Forward()
        self.settings: list[Setting] = []
        self._shared, self._seen = 0.0, time.monotonic()

    def add(self, work: Work[Any]) -> None:
        """Let a trunk join."""
        self.clock()
        self.members.append(Member(work=work))

    def clock(self) -> float:
        """Return seconds that are divided among the members as they pass."""
        now = time.monotonic()
        self._shared += (now - self._seen) / max(1, len(self.members))
        self._seen = now
        return self._shared

    def prepare(self, cell: CellConfig, pulse: Pulse) -> Setting:
        """Return a cell's setting, with the test set of the first member, whose data are the same.

        Nothing is reported: members are far apart.
        """
        if not self.settings:
            self.settings.append(prepare(cell, lambda flops: None, pulse))
        made = self.settings[0].beside(cell, pulse)
        return replace(made, clock=self.clock, stacked=True)

    @torch.no_grad()
    def run(self) -> None:
        """Train until every member has ended."""
        while self.members:
            while new := [m for m in self.members if m.request is None]:
                for member in new:  # which may bring branches that can start at once
                    self._go_on(member, member.work.__next__)
            if not self._look():
                self._step()

    def _go_on(self, member: Member, resume: Callable[..., Request], *answer: Any) -> None:
        """Let a member go on to its next request or to its end."""
        try:
            member.request = resume(*answer)
        except StopIteration:
            self.clock()
            self.members.remove(member)

    def _answer(self, members: Sequence[Member], answers: Sequence[Any]) -> None:
        """Give members their answers; an exception is raised where it was asked."""
        for member, answer in zip(members, answers, strict=True):
            failed = isinstance(answer, Exception)
            self._go_on(member, member.work.throw if failed else member.work.send, answer)

    def _look(self) -> bool:
        """Answer the scores and probes that are asked for; say whether there were any."""
        asked: dict[tuple[type, int | None], list[Member]] = {}
        for member in self.members:
            if isinstance(member.request, ScoreRequest | HealthRequest):
                windows = getattr(member.request, "windows", None)
                asked.setdefault((type(member.request), windows), []).append(member)
        for (kind, _), members in asked.items():
            compute = self.forward.scores if kind is ScoreRequest else self.forward.healths
            for some in pieces(members, self.most):
                self._answer(some, self._computed(compute, some))
        return bool(asked)

    def _step(self) -> None:
        """Take a step of every member."""
        for number, members in enumerate(pieces(self.members, self.most)):
            self._answer(members, self._computed(self._stack(number, members), members))

    def _stack(self, number: int, members: Sequence[Member]) -> Callable[..., list[Any]]:
        """Return the step of the members' stack, made anew where they are others than before."""
        requests: list[StepRequest] = [m.request for m in members]  # type: ignore[misc]
        if number >= len(self.ensembles):
            self.ensembles.append(Ensemble(requests))
        elif not self.ensembles[number].serves(requests):
            self.ensembles[number] = Ensemble(requests)
        return self.ensembles[number].step

    def _computed(self, compute: Callable[..., list[Any]], members: Sequence[Member]) -> list[Any]:
        """Return the answers to members, or for each the error that came instead."""
        try:
            return compute([m.request for m in members])
        except Exception as error:  # noqa: BLE001  each trunk says what it means for its cells
            return [error] * len(members)


def pieces(members: Sequence[Member], most: int) -> list[Sequence[Member]]:
    """Cut members into as few equal parts of at most `most` as there are."""
    count = -(-len(members) // most) if members else 0
    edges = [len(members) * i // max(1, count) for i in range(count + 1)]
    return [members[a:b] for a, b in pairwise(edges)]
