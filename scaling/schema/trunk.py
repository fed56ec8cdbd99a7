"""What the branches of one trunk cost together: the rule of the trainer, shared with the design.

A branch leaves its trunk at `leaves` and trains alone to `ends` (warm-up, constant, decay; MiniCPM
2404.06395, Hägele et al. 2405.18392). The trunk is trained once, as far as its last branch; a cell
that is trained alone leaves at 0. Steps or tokens, as the caller likes.
"""

from collections.abc import Iterable

Branch = tuple[float, float]  # leaves, ends


def trained(branches: Iterable[Branch], *, reached: float = 0.0) -> float:
    """Return what training these branches takes beyond a trunk that is kept at `reached`.

    A trunk is kept at its last point alone: a branch that leaves before it starts from 0, and all
    that are trained with it.
    """
    known = list(branches)
    if not known:
        return 0.0
    start = reached if all(leaves >= reached for leaves, _ in known) else 0.0
    shared = max(leaves for leaves, _ in known) - start
    return shared + sum(ends - leaves for leaves, ends in known)
