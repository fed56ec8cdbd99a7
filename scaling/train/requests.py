"""What a trunk in training asks for between two pieces of its own code: a step, a score, a probe.

The training loop is a generator of these requests. `answer_each` answers the requests of one trunk
at once, `scaling.stacked.turns` those of several trunks together.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from scaling.train.health import PROBE_ROWS, health
from scaling.train.heldout import Score, evaluate
from scaling.train.rolling import TextScore, score_set
from scaling.train.step import Run, Setting, step_or_advise


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """Ask for one training step; the answer is its loss and gradient norm.

    Diverged is raised where more steps were skipped than `optim.max_skipped` allows.
    """

    run: Run
    setting: Setting
    clip: float

    def answer(self) -> tuple[float, float]:
        """Take the step."""
        return step_or_advise(self.run, self.setting, self.clip)


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Ask for the model's score on the first `windows` of the test set, all by default."""

    run: Run
    setting: Setting
    windows: int | None = None

    def answer(self) -> Score:
        """Score the model."""
        return evaluate(self.run.model, self.setting.test, windows=self.windows)


@dataclass(frozen=True, kw_only=True)
class SetsRequest:
    """Ask for the model's score on each named test set of the setting."""

    run: Run
    setting: Setting

    def answer(self) -> dict[str, TextScore]:
        """Score the model."""
        return {name: score_set(self.run.model, s) for name, s in self.setting.sets.items()}


@dataclass(frozen=True, kw_only=True)
class HealthRequest:
    """Ask for the health of a row; `before` are the matrices before its step (`copy_matrices`)."""

    run: Run
    setting: Setting
    before: list[Tensor]

    @property
    def tokens(self) -> Tensor:
        """The sequences of the probe."""
        inputs = torch.from_numpy(self.setting.test.inputs[:PROBE_ROWS])
        return inputs.to(self.setting.device)

    def answer(self) -> dict[str, float]:
        """Measure the health."""
        return health(self.run.model, self.before, self.tokens)


T = TypeVar("T")
Request = StepRequest | ScoreRequest | SetsRequest | HealthRequest
StepRequests = Generator[Request, Any, T]


def answer_each(requests: StepRequests[T]) -> T:
    """Run a generator of requests, answering each at once; return what the generator returns."""
    try:
        request = next(requests)
        while True:
            try:
                answer = request.answer()
            except BaseException as error:  # noqa: BLE001  raised where it was asked for
                request = requests.throw(error)
            else:
                request = requests.send(answer)
    except StopIteration as end:
        return end.value
