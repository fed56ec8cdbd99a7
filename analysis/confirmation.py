"""The confirmation run: smaller, by the same rules, before the budget is spent (LAWS 8, step 9).

It costs C/10 to C/30, near the middle in log C between what was fitted and what is planned, so that
half the extrapolation is tested. A final run that is further than ten times beyond the fitted
compute waits for it: `scaling.final` looks for its scored forecast in the ledger.
"""

import math
from typing import Any

from analysis.budgets import Budget
from analysis.split import Split

NEAREST, FARTHEST = 10.0, 30.0


def confirmation_of(
    budget: Budget, split: Split, pretrain: dict[str, Any], reach: float | None
) -> dict[str, Any]:
    """Return what is to be confirmed at which compute, or why nothing is.

    `reach` is the largest compute fitted, None where it is not known.
    """
    beyond = pretrain["flops"] / reach if reach else None
    if beyond is not None and beyond <= NEAREST:
        why = f"the plan is {beyond:.3g} times the largest compute fitted: C/10 has been run"
        return {"needed": False, "flops": None, "reasons": {"needed": why}}
    ratio = NEAREST if beyond is None else min(max(math.sqrt(beyond), NEAREST), FARTHEST)
    place = (
        "the compute fitted is not known"
        if beyond is None
        else f"{beyond:.3g} times beyond what was fitted"
    )
    return {
        "needed": beyond is not None,
        "flops": pretrain["flops"] / ratio,
        "overtraining": _ratio(split, pretrain),
        "reasons": {
            "needed": (
                f"{place}; a confirmation inside its interval opens the way, else refit with it"
            ),
            "flops": f"C/{ratio:.3g}: near the middle in log C, within C/10 to C/30",
            "overtraining": (
                "tokens per parameter over the optimum's, as the plan has them; the final run's"
                " own data and rules"
            ),
        },
    }


def _ratio(split: Split, pretrain: dict[str, Any]) -> float:
    if not split.constraints.given():
        return 1.0
    return pretrain["tokens"] / pretrain["params"] / split.optimum.tokens_per_param
