"""A count of this process' progress, by which a process that hangs is told from a slow one.

A step, a batch of a test set, a batch of samples: each counts as one move. The beat of a lease
writes the count (scaling.study.lease); the pool sees whether it grows (scaling.jobs.stalls).
"""

_moves = 0


def moved() -> None:
    """Count one move of this process."""
    global _moves
    _moves += 1


def moves() -> int:
    """Return how many moves this process has made."""
    return _moves
