"""The confirmation run: smaller, by the same rules, before the budget is spent (LAWS 8, step 9).

It costs C/10 to C/30, near the middle in log C between what was fitted and what is planned, so that
it tests half of the extrapolation. A final run that is further than ten times beyond the fitted
compute waits for it: `scaling final` looks for its scored forecast in the ledger. Once it has ended
it is a row of the study's next fit (`analysis.runs.table`). Inside its interval it opens the way up
to 30 times its own compute. Outside its interval it widens the law's error at such distances, and a
plan more than ten times beyond it needs another.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.planning.plan import Confirmation, PretrainBlock
from analysis.planning.split import Split
from scaling.schema import CONFIRMING

NEAREST, FARTHEST = 10.0, 30.0  # C of the plan over C of its confirmation, at least and at most
SLACK = 1.05  # whole steps make a confirmation a little smaller than its budget


def confirmation_of(
    split: Split,
    pretrain: PretrainBlock,
    reach: float | None,
    *,
    study: str = "",
    done: Sequence[Mapping[str, Any]] = (),
) -> Confirmation:
    """Return which run is to confirm the plan at which compute, or why none is needed.

    split: N and D before rounding, for the plan's tokens per parameter over the optimum's
    pretrain: the planned pretraining
    reach: the largest C that the law was fitted to, None where it is not known
    study: the study's name, from which that of the confirmation is made
    done: the confirmations that are rows of the law already (its `inputs`)
    """
    beyond = pretrain.flops / reach if reach else None
    last = max(done, key=lambda one: one["flops"], default=None)
    far = FARTHEST if last and last["inside"] else NEAREST
    if beyond is not None and beyond <= far * SLACK:
        return Confirmation(needed=False, reasons={"needed": _why_none(beyond, done)})
    ratio = NEAREST if beyond is None else min(max(math.sqrt(beyond), NEAREST), FARTHEST)
    place = (
        "the compute fitted is not known"
        if beyond is None
        else f"{beyond:.3g} times beyond what was fitted"
    )
    return Confirmation(
        needed=beyond is not None,
        study=f"{study}{CONFIRMING}{f'-{len(done) + 1}' if done else ''}",
        flops=pretrain.flops / ratio,
        overtraining=_overtraining(split, pretrain),
        reasons={
            "needed": (
                f"{place}; a confirmation inside its interval opens the way. Then fit again: it is"
                " a row of the law that makes the final forecast"
            ),
            "study": "where scaling final keeps it, beside the study",
            "flops": f"C/{ratio:.3g}: near the middle in log C, within C/10 to C/30",
            "overtraining": (
                "tokens per parameter over the optimum's, as the plan has them; the final run's"
                " own data and rules"
            ),
        },
    )


def _why_none(beyond: float, done: Sequence[Mapping[str, Any]]) -> str:
    """Say why no confirmation is needed."""
    if not done:
        return f"the plan is {beyond:.3g} times the largest compute fitted: C/10 has been run"
    last = max(done, key=lambda one: one["flops"])
    text = (
        f"confirmed at C/{beyond:.3g}: forecast {last['forecast']:.4f}, reached"
        f" {last['outcome']:.4f}"
    )
    if last["inside"] is False:
        return (
            f"{text}, outside its interval; it is a row of this law, and the intervals here allow"
            f" for an error of {abs(last['error']):.1%} at such a distance"
        )
    return f"{text}, inside its interval; it is a row of this law (prequential)"


def _overtraining(split: Split, pretrain: PretrainBlock) -> float:
    """Return the plan's D/N over that of the optimum, 1 without constraints."""
    if not split.constraints.given():
        return 1.0
    return pretrain.tokens / pretrain.params / split.optimum.tokens_per_param
