"""From trained mixtures to mixture.json: laws, proposal, intervals, alarms.

    form, domains, sources, parameters, weights {source: share}, epochs {source},
    predicted {domain: loss}, gain_over_natural, intervals {weights, predicted, gain_over_natural}

The gain is the weighted loss of the natural shares less that of the proposal, in nats per token.
Intervals of `predicted` are of one run: they hold the draws of the laws and the errors on withheld
rows.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.forms import Array
from analysis.mixing.alarms import Proposal, alarms_of
from analysis.mixing.draws import Draws, draw, percentiles
from analysis.mixing.hull import usual_distance
from analysis.mixing.laws import LAWS, MixtureLaw
from analysis.mixing.options import MixtureConfig
from analysis.mixing.proposal import ROUNDING, Goal, best_shares, check_room, held_near
from analysis.mixing.solve import Ends, fit_domains
from analysis.mixing.table import (
    Swarm,
    check_size,
    load_swarm,
    natural_shares,
    read_shares,
    weights_of,
)
from analysis.mixing.validation import Withheld, rank, withhold
from scaling.schema import code_version

SCHEMA = 1
LEAST_SKILL = 0.2  # of withheld variance that the laws explain; noise alone reaches .1 at times
DIGITS = 6  # decimals of a predicted loss in the table of predictions


def mixture(config: MixtureConfig) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """Return the content of mixture.json, and the table of predictions where one is asked for.

    config: the trained mixtures and what is asked of them

    Raises ValueError for tables and settings of which no proposal can be made, and for a law that
    does not predict withheld mixtures.
    """
    swarm, law = load_swarm(config), LAWS[config.form]
    check_size(swarm, law)
    natural = natural_shares(config, swarm)
    goal = goal_of(config, swarm)
    others = read_shares(config.predict, swarm, config.shares) if config.predict else None
    ends = fit_domains(law, swarm.shares, swarm.losses)
    withheld = withhold(law, ends.theta, swarm, config.intervals.seed)
    _refuse_blind(withheld, goal, swarm)
    usual = usual_distance(swarm.shares)
    proposal = _propose(law, ends.theta, swarm, goal, natural, usual)
    draws = draw(
        law, ends.theta, swarm, goal, start=proposal.shares, usual=usual,
        resamples=config.intervals.resamples, seed=config.intervals.seed,
    )  # fmt: skip
    result = _content(config, swarm, law, ends, withheld, proposal, draws)
    table = None
    if others is not None:
        table = pd.DataFrame(law.losses(ends.theta, others), columns=list(swarm.columns))
        table = table.round(DIGITS)
    return result, table


def goal_of(config: MixtureConfig, swarm: Swarm) -> Goal:
    """Return what is minimised; ValueError for unknown names and for limits without room."""
    target = weights_of(config.target, swarm.domains, "target", "domain")
    target = np.ones(len(swarm.domains)) if target is None else target
    caps = weights_of(config.caps, swarm.sources, "caps", "source")
    own = weights_of(config.unique, swarm.sources, "unique", "source")
    unique = np.full(len(swarm.sources), np.inf)
    if own is not None:
        unique = np.where(own > 0, own / config.tokens, np.inf)
    most = swarm.shares.max(axis=0)
    if caps is not None:
        most = np.minimum(most, np.where(caps > 0, caps, 1.0))
    if config.epochs:
        most = np.minimum(most, config.epochs * unique)
    goal = Goal(
        target=target / target.sum(),
        least=np.minimum(swarm.shares.min(axis=0), most),
        most=most,
        unique=unique,
        decay=config.repeat_decay,
    )
    check_room(goal, "caps, epochs and the largest shares that were trained")
    return goal


def _refuse_blind(withheld: Withheld, goal: Goal, swarm: Swarm) -> None:
    if (skill := withheld.skill(goal.target)) < LEAST_SKILL:
        raise ValueError(
            f"the laws predict withheld mixtures of {swarm.inputs['source']} hardly better than"
            f" their mean (1 - error/variance = {skill:.2g}), so there is no proposal; train more"
            " mixtures, or mixtures that differ more"
        )


def _propose(
    law: MixtureLaw, theta: Array, swarm: Swarm, goal: Goal, natural: Array, usual: float
) -> Proposal:
    free = best_shares(law, theta, goal, natural)
    shares, distance, mix = held_near(free, swarm.shares, usual, goal)
    values = {
        name: goal.value(law, theta, at)[0]
        for name, at in (("natural", natural), ("shares", shares), ("free", free), ("mix", mix))
    }
    within = (natural <= goal.most + ROUNDING) & (natural >= goal.least - ROUNDING)
    if values["natural"] < values["shares"] and within.all():
        shares, values["shares"] = natural, values["natural"]
    return Proposal(
        shares=shares, natural=natural, distance=distance, usual=usual, values=values, goal=goal
    )


def _content(
    config: MixtureConfig,
    swarm: Swarm,
    law: MixtureLaw,
    ends: Ends,
    withheld: Withheld,
    proposal: Proposal,
    draws: Draws,
) -> dict[str, Any]:
    goal, level = proposal.goal, config.intervals.level
    both = np.stack([proposal.shares, proposal.natural])
    proposed, natural = goal.losses(law, ends.theta, both)
    drawn = np.array([goal.losses(law, theta, both) for theta in draws.theta])  # (S, 2, domains)
    gains = (drawn[:, 1] - drawn[:, 0]) @ goal.target
    gain = float((natural - proposed) @ goal.target)
    rng = np.random.default_rng(config.intervals.seed)
    chosen = rng.integers(0, len(withheld.residuals), len(drawn))
    one_run = drawn[:, 0] * np.exp(withheld.residuals[chosen])
    epochs = np.where(np.isfinite(goal.unique), proposal.shares / goal.unique, np.nan)
    by_source, by_domain = swarm.sources, swarm.domains
    alarms: list[Alarm] = alarms_of(
        swarm, law, ends, withheld, proposal, percentiles(gains, level, gain)
    )
    return {
        "schema": SCHEMA,
        "form": law.name,
        "formula": law.formula,
        "status": "converged" if ends.converged.all() else "max_iter",
        "alarms": [asdict(a) for a in alarms],
        "domains": list(by_domain),
        "sources": list(by_source),
        "n_runs": len(swarm.shares),
        "parameters": {
            name: law.named(theta, by_source)
            for name, theta in zip(by_domain, ends.theta, strict=True)
        },
        "target": _named(by_domain, goal.target),
        "natural": _named(by_source, proposal.natural),
        "natural_given": bool(config.natural),
        "tokens": config.tokens or None,
        "unique": {name: float(n) for name, n in config.unique.items()},
        "caps": {name: float(n) for name, n in config.caps.items()},
        "repeat_decay": config.repeat_decay,
        "weights": _named(by_source, proposal.shares),
        "epochs": {
            n: None if np.isnan(e) else float(e) for n, e in zip(by_source, epochs, strict=True)
        },
        "predicted": _named(by_domain, proposed),
        "predicted_natural": _named(by_domain, natural),
        "gain_over_natural": gain,
        "p_better": float((gains > 0).mean()),
        "distance": {
            "proposal": min(proposal.distance, proposal.usual),
            "unbounded": proposal.distance,
            "usual": proposal.usual,
            "gain_beyond_trained": proposal.beyond,
        },
        "intervals": {
            "level": level,
            "method": "bayesian_bootstrap",
            "resamples": config.intervals.resamples,
            "weights": {
                name: percentiles(draws.shares[:, j], level, proposal.shares[j])
                for j, name in enumerate(by_source)
            },
            "predicted": {
                name: percentiles(one_run[:, i], level, proposed[i])
                for i, name in enumerate(by_domain)
            },
            "gain_over_natural": percentiles(gains, level, gain),
        },
        "validation": {
            "folds": withheld.folds,
            "rank_of_target": rank(withheld.predicted @ goal.target, withheld.seen @ goal.target),
            "rank": _named(by_domain, withheld.ranks),
            "median_error": _named(by_domain, withheld.errors),
        },
        "ranges": {
            name: [float(low), float(high)]
            for name, low, high in zip(
                by_source, swarm.shares.min(axis=0), swarm.shares.max(axis=0), strict=True
            )
        },
        "dropped": swarm.left_out,
        "inputs": swarm.inputs,
        "code": code_version(),
    }


def _named(names: tuple[str, ...], values: Array) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
