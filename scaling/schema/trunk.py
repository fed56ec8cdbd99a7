"""The cost of the branches of one trunk together: one rule for the trainer and for the design.

A branch leaves its trunk at `leaves` and trains alone to `ends` (warm-up, constant, decay; MiniCPM
2404.06395, Hägele et al. 2405.18392). The trunk is trained once, as far as its last branch. A cell
that is trained alone leaves at 0. The unit is steps or tokens, as the caller likes.
"""

from collections.abc import Iterable

Branch = tuple[float, float]  # leaves, ends


def training_length(branches: Iterable[Branch], *, reached: float = 0.0) -> float:
    """Return how long training these branches is, beyond a trunk that is trained up to `reached`.

    Only the last point of a trunk is kept. If any branch leaves before that point, the trunk starts
    again from 0.
    """
    branches = list(branches)
    if not branches:
        return 0.0
    start = reached if all(leaves >= reached for leaves, _ in branches) else 0.0
    shared = max(leaves for leaves, _ in branches) - start
    return shared + sum(ends - leaves for leaves, ends in branches)
