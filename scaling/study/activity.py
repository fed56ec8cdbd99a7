"""Signs that a process gets on with its work, by which one that hangs is told from a slow one.

A step, a batch of a test set, a batch of samples: each counts as a move. The beat of a lease writes
the count (scaling.study.lease), the pool sees whether it grows (scaling.jobs.stalls).
"""

_moves = 0


def moved() -> None:
    """Count a move of this process."""
    global _moves
    _moves += 1


def moves() -> int:
    """Return how many moves this process has made."""
    return _moves
