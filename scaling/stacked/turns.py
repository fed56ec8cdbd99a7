"""Trunks of one shape trained in turns by one process: what they ask for is computed at once.

Each trunk is a generator of requests (scaling.train.requests) with its own step, schedule, files
and leases. Scores and probes are answered first. Then every trunk waits for a step, which one stack
of weights takes for all of them (scaling.stacked.runs). A trunk that ends leaves; one that is added
joins at the next step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from scaling.config import CellConfig
from scaling.stacked.runs import StackedForward, StackedRuns
from scaling.study.lease import Pulse
from scaling.train.requests import (
    HealthRequest,
    Request,
    ScoreRequest,
    SetsRequest,
    StepRequest,
    StepRequests,
)
from scaling.train.step import Setting, prepare


@dataclass
class Trunk:
    """A trunk in training: what it asks for, None before it began."""

    requests: StepRequests[Any]
    request: Request | None = None


class Turns:
    """The trunks in training; at most `most` go through one stack."""

    def __init__(self, *, most: int) -> None:
        self.most = most
        self.trunks: list[Trunk] = []
        self.stacks: list[StackedRuns] = []
        self.forward = StackedForward()
        self.settings: list[Setting] = []
        self._seconds_each, self._clock_read_at = 0.0, time.monotonic()

    def add(self, requests: StepRequests[Any]) -> None:
        """Let a trunk join."""
        self.clock()
        self.trunks.append(Trunk(requests=requests))

    def clock(self) -> float:
        """Return seconds that are divided among the trunks as they pass."""
        now = time.monotonic()
        self._seconds_each += (now - self._clock_read_at) / max(1, len(self.trunks))
        self._clock_read_at = now
        return self._seconds_each

    def prepare(self, cell: CellConfig, pulse: Pulse) -> Setting:
        """Return a cell's setting, with the test set of the first trunk, whose data are the same.

        Progress is not reported: the trunks are at different steps.
        """
        if not self.settings:
            self.settings.append(prepare(cell, lambda flops: None, pulse))
        setting = self.settings[0].for_cell(cell, pulse)
        return replace(setting, clock=self.clock, stacked=True)

    @torch.no_grad()
    def run(self) -> None:
        """Train until every trunk has ended."""
        while self.trunks:
            while new := [t for t in self.trunks if t.request is None]:
                for trunk in new:  # which may add branches that can start at once
                    self._resume(trunk, trunk.requests.__next__)
            if not (self._answer_sets() or self._answer_scores_and_probes()):
                self._answer_steps()

    def _resume(self, trunk: Trunk, resume: Callable[..., Request], *answer: Any) -> None:
        """Let a trunk go on to its next request or to its end."""
        try:
            trunk.request = resume(*answer)
        except StopIteration:
            self.clock()
            self.trunks.remove(trunk)

    def _answer(self, trunks: Sequence[Trunk], answers: Sequence[Any]) -> None:
        """Give trunks their answers; an exception is raised where the trunk asked."""
        for trunk, answer in zip(trunks, answers, strict=True):
            failed = isinstance(answer, Exception)
            self._resume(trunk, trunk.requests.throw if failed else trunk.requests.send, answer)

    def _answer_sets(self) -> bool:
        """Score the trunks that ask for it on named test sets, one by one; say whether any did."""
        asking = [t for t in self.trunks if isinstance(t.request, SetsRequest)]
        for trunk in asking:
            self._answer([trunk], self._compute(lambda r: [r[0].answer()], [trunk]))
        return bool(asking)

    def _answer_scores_and_probes(self) -> bool:
        """Answer the scores and probes that are asked for; say whether there were any."""
        alike: dict[tuple[type, int | None], list[Trunk]] = {}
        for trunk in self.trunks:
            if isinstance(trunk.request, ScoreRequest | HealthRequest):
                windows = getattr(trunk.request, "windows", None)
                alike.setdefault((type(trunk.request), windows), []).append(trunk)
        for (kind, _), trunks in alike.items():
            compute = self.forward.scores if kind is ScoreRequest else self.forward.healths
            for piece in pieces(trunks, self.most):
                self._answer(piece, self._compute(compute, piece))
        return bool(alike)

    def _answer_steps(self) -> None:
        """Take a step of every trunk."""
        for number, trunks in enumerate(pieces(self.trunks, self.most)):
            self._answer(trunks, self._compute(self._step_of(number, trunks), trunks))

    def _step_of(self, number: int, trunks: Sequence[Trunk]) -> Callable[..., list[Any]]:
        """Return the step of the trunks' stack, made anew where it holds other trunks."""
        requests: list[StepRequest] = [t.request for t in trunks]  # type: ignore[misc]
        if number >= len(self.stacks):
            self.stacks.append(StackedRuns(requests))
        elif not self.stacks[number].holds(requests):
            self.stacks[number] = StackedRuns(requests)
        return self.stacks[number].step

    def _compute(self, compute: Callable[..., list[Any]], trunks: Sequence[Trunk]) -> list[Any]:
        """Return the answers to trunks, or for each the error that came instead."""
        try:
            return compute([t.request for t in trunks])
        except Exception as error:  # noqa: BLE001  each trunk says what it means for its cells
            return [error] * len(trunks)


def pieces(trunks: Sequence[Trunk], most: int) -> list[Sequence[Trunk]]:
    """Cut trunks into as few pieces of nearly equal length as have at most `most` each."""
    count = -(-len(trunks) // most) if trunks else 0
    edges = [len(trunks) * i // max(1, count) for i in range(count + 1)]
    return [trunks[a:b] for a, b in pairwise(edges)]
