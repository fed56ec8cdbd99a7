"""What is doubtful about a proposed mixture, a sentence each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.alarms.alarm import Alarm
from analysis.forms import Array
from analysis.mixing.laws import MixtureLaw
from analysis.mixing.proposal import Goal
from analysis.mixing.solve import Ends
from analysis.mixing.table import Swarm
from analysis.mixing.validation import Withheld, rank

BEYOND = 0.25  # part of the gain that may rest on extrapolation before an alarm says so
MANY_EPOCHS = 4.0  # up to which repeats are worth nearly fresh text (Muennighoff et al. 2023)
WEAK = 0.8  # rank correlation of withheld mixtures below which an order of mixtures is doubtful
ROWS_A_PARAMETER = 2  # different mixtures for each parameter of a domain's law
AT_EDGE = 0.999  # of the largest share that was trained
SMALL = 1e-6  # nats below which a gain is none


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A proposed mixture and what it is compared with.

    shares, natural: (J,)
    distance: of the best shares to the hull of the trained ones, before they were moved back
    usual: the distance up to which a mixture is near the trained ones
    values: weighted losses of `natural`, the proposed `shares`, the `free` best and the `mix` of
        trained rows that is nearest to it
    goal: what is minimised
    """

    shares: Array
    natural: Array
    distance: float
    usual: float
    values: dict[str, float]
    goal: Goal

    @property
    def gain(self) -> float:
        """Weighted loss of the natural shares less that of the proposal, nats."""
        return self.values["natural"] - self.values["shares"]

    @property
    def beyond(self) -> float:
        """Part of the gain that the nearest mix of trained rows does not have, 0 to 1."""
        if self.gain < SMALL:
            return 0.0
        return float(np.clip((self.values["mix"] - self.values["shares"]) / self.gain, 0, 1))


def alarms_of(
    swarm: Swarm,
    law: MixtureLaw,
    ends: Ends,
    withheld: Withheld,
    proposal: Proposal,
    gain: Sequence[float],
) -> list[Alarm]:
    """Return the alarms of a proposal, the gravest first.

    swarm: the trained rows
    law, ends: the form and its fits
    withheld: predictions of withheld rows
    proposal: what is proposed
    gain: interval of the gain over natural shares
    """
    said = [
        Alarm(code="mixture_not_converged", sentence=_unsettled(swarm, ends)),
        Alarm(code="mixture_weak_order", sentence=_weak(withheld, proposal.goal)),
        Alarm(code="mixture_few_rows", sentence=_few(swarm, law)),
        Alarm(code="mixture_moved_back", sentence=_moved(proposal)),
        Alarm(code="mixture_extrapolated", sentence=_beyond(proposal)),
        Alarm(code="mixture_at_edge", sentence=_edge(swarm, proposal)),
        Alarm(code="mixture_gain_unsure", sentence=_unsure(proposal, gain)),
        Alarm(code="mixture_gain_small", sentence=_small(withheld, proposal)),
        Alarm(code="mixture_repeats", sentence=_repeats(swarm, proposal)),
    ]
    return [alarm for alarm in said if alarm.sentence]


def _weak(withheld: Withheld, goal: Goal) -> str:
    order = rank(withheld.predicted @ goal.target, withheld.seen @ goal.target)
    if order >= WEAK:
        return ""
    return (
        f"Withheld mixtures are ranked with a correlation of {order:.2f} only; train more mixtures,"
        " or more seeds of each, before the proposal is believed."
    )


def _unsure(proposal: Proposal, gain: Sequence[float]) -> str:
    if gain[0] > 0:
        return ""
    return (
        f"The gain of {proposal.gain:.3g} nats over the natural shares has an interval that reaches"
        f" {gain[0]:.2g}: a gain is not shown; train the proposal and the natural shares with three"
        " seeds each."
    )


def _unsettled(swarm: Swarm, ends: Ends) -> str:
    names = [n for n, done in zip(swarm.domains, ends.converged, strict=True) if not done]
    if not names:
        return ""
    return (
        f"The fit of {', '.join(names)} had not settled after the last step; its weights are"
        " uncertain: train more mixtures."
    )


def _few(swarm: Swarm, law: MixtureLaw) -> str:
    different = len(np.unique(swarm.shares, axis=0))
    size = law.size(len(swarm.sources))
    if different >= ROWS_A_PARAMETER * size:
        return ""
    return (
        f"{different} different mixtures are few for {size} parameters a domain; train"
        f" {ROWS_A_PARAMETER * size} or more."
    )


def _moved(proposal: Proposal) -> str:
    if proposal.distance <= proposal.usual:
        return ""
    lost = proposal.values["shares"] - proposal.values["free"]
    return (
        f"The best shares lay {proposal.distance:.2f} of the mixture beyond the trained ones, whose"
        f" own distances end at {proposal.usual:.2f}; the proposal was moved back to there, which"
        f" gives up {max(lost, 0):.2g} nats of predicted gain: train mixtures near it."
    )


def _beyond(proposal: Proposal) -> str:
    if proposal.beyond <= BEYOND:
        return ""
    return (
        f"{proposal.beyond:.0%} of the predicted gain lies beyond what any mix of trained rows"
        " reaches; train the proposal at the small size before it is used."
    )


def _edge(swarm: Swarm, proposal: Proposal) -> str:
    trained = swarm.shares.max(axis=0)
    at = (proposal.shares >= AT_EDGE * trained) & (proposal.goal.most >= AT_EDGE * trained)
    at &= trained < 1
    if not at.any():
        return ""
    names = ", ".join(f"{swarm.sources[j]} ({trained[j]:.3g})" for j in np.flatnonzero(at))
    return (
        f"The share of {names} is the largest that was trained, so the best may lie beyond it;"
        " train mixtures with more of it."
    )


def _small(withheld: Withheld, proposal: Proposal) -> str:
    target = proposal.goal.target
    errors = (withheld.seen - withheld.predicted) @ target
    sd = float(1.4826 * np.median(np.abs(errors)))  # one corner of the simplex must not decide
    if proposal.gain >= sd:
        return ""
    return (
        f"The gain of {proposal.gain:.2g} nats is below the {sd:.2g} that one run differs from its"
        " prediction by: a few seeds will not show it, and the natural shares are as good a choice."
    )


def _repeats(swarm: Swarm, proposal: Proposal) -> str:
    goal = proposal.goal
    epochs = np.where(np.isfinite(goal.unique), proposal.shares / goal.unique, 0.0)
    if not (epochs > MANY_EPOCHS).any():
        return ""
    names = ", ".join(
        f"{swarm.sources[j]} {epochs[j]:.1f} times" for j in np.flatnonzero(epochs > MANY_EPOCHS)
    )
    return (
        f"The proposal repeats {names}; beyond about {MANY_EPOCHS:g} epochs repeats are worth"
        " clearly less, and the price is another study's (repeat_decay): cap it with"
        f" epochs={MANY_EPOCHS:g} if that is in doubt."
    )
