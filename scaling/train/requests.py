"""What a trunk in training asks for between two pieces of its own code: a step, a score, a probe.

The trainer is a generator of these. `alone` answers one trunk's at once, `scaling.stacked.turns`
those of several trunks together.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from scaling.train.health import PROBE_ROWS, health
from scaling.train.heldout import Score, evaluate
from scaling.train.step import Run, Setting, step_or_advise


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """One training step; the answer is its loss and gradient norm. Diverged past the bound."""

    run: Run
    setting: Setting
    clip: float

    def alone(self) -> tuple[float, float]:
        """Take it."""
        return step_or_advise(self.run, self.setting, self.clip)


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """The model's score on the first `windows` of the test set, all by default."""

    run: Run
    setting: Setting
    windows: int | None = None

    def alone(self) -> Score:
        """Make it."""
        return evaluate(self.run.model, self.setting.test, windows=self.windows)


@dataclass(frozen=True, kw_only=True)
class HealthRequest:
    """The health of a row; `before` are the matrices before its step (`copy_matrices`)."""

    run: Run
    setting: Setting
    before: list[Tensor]

    @property
    def tokens(self) -> Tensor:
        """The sequences of the probe."""
        found = torch.from_numpy(self.setting.test.inputs[:PROBE_ROWS])
        return found.to(self.setting.device)

    def alone(self) -> dict[str, float]:
        """Measure it."""
        return health(self.run.model, self.before, self.tokens)


T = TypeVar("T")
Request = StepRequest | ScoreRequest | HealthRequest
Work = Generator[Request, Any, T]


def alone(work: Work[T]) -> T:
    """Run a generator of requests, answering each at once; return what it returns."""
    try:
        request = next(work)
        while True:
            try:
                answer = request.alone()
            except BaseException as error:  # noqa: BLE001  thrown on
                request = work.throw(error)
            else:
                request = work.send(answer)
    except StopIteration as end:
        return end.value
