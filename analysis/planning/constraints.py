"""The constraints of a plan beside its budget, and which of them contradict each other.

N parameters (in the law's count), D tokens, U unique tokens, C training FLOPs.
"""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Demands on N, D and C; None where there is none.

    unique_tokens: tokens at hand. A second pass repeats them, and repeated tokens are worth less.
    max_epochs: most passes over them. 1 forbids repetition.
    inference_tokens: tokens that the model will serve; the budget then pays training and serving.
    max_params, max_memory_gib: largest N, and largest memory of one device while training.
    params, tokens: a fixed N or D; the law chooses the other.
    overtraining: tokens per parameter in units of the optimum's at this budget.
    reserve: share of C for failures, restarts and evaluations.
    """

    unique_tokens: float | None = None
    max_epochs: float | None = None
    inference_tokens: float | None = None
    max_params: float | None = None
    max_memory_gib: float | None = None
    params: float | None = None
    tokens: float | None = None
    overtraining: float | None = None
    reserve: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values out of range, and demands that no plan can meet together."""
        for name, value in self.given().items():
            if name != "reserve" and not 0 < value < float("inf"):
                raise ValueError(f"{name}={value:g} must be a positive number; leave it out if not")
        if not 0 <= self.reserve < 1:
            raise ValueError(f"reserve={self.reserve:g} must lie in [0, 1); .05 to .3 is usual")
        if self.max_epochs is not None and self.unique_tokens is None:
            raise ValueError(
                f"max_epochs={self.max_epochs:g} needs the tokens that are passed over; give"
                " unique_tokens="
            )
        self._refuse_contradictions()

    @property
    def most_tokens(self) -> float:
        """Return the largest D that the data allow: inf where they may repeat freely."""
        if self.unique_tokens is None or self.max_epochs is None:
            return float("inf")
        return self.max_epochs * self.unique_tokens

    def given(self) -> dict[str, float]:
        """Return the constraints that are set."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            k: float(v) for k, v in values.items() if v is not None and (k, v) != ("reserve", 0)
        }

    def _refuse_contradictions(self) -> None:
        for name in ("params", "tokens"):
            if self.overtraining is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"overtraining={self.overtraining:g} and {name}={getattr(self, name):g} both"
                    " set the tokens per parameter; give one of them"
                )
        if self.params is not None and self.params > (self.max_params or float("inf")):
            raise ValueError(
                f"params={self.params:g} is above max_params={self.max_params:g}; change one"
            )
        if self.tokens is not None and self.tokens > self.most_tokens:
            raise ValueError(
                f"tokens={self.tokens:g} is more than max_epochs={self.max_epochs:g}"
                f" {'pass' if self.max_epochs == 1 else 'passes'} over"
                f" unique_tokens={self.unique_tokens:g} give, {self.most_tokens:g}; change one"
            )


def constraints_of(settings: Any) -> Constraints:
    """Return the constraints among the settings of a command, which have the same names."""
    return Constraints(**{f.name: getattr(settings, f.name) for f in fields(Constraints)})
