"""Starting points: every combination of some values of each parameter."""

import itertools
from collections.abc import Sequence

import numpy as np

from analysis.forms.form import Array


def product(**values: Sequence[float]) -> dict[str, Array]:
    """Return {name: (S,)} over all combinations."""
    rows = np.array(list(itertools.product(*values.values())), dtype=float)
    return {name: rows[:, i] for i, name in enumerate(values)}
