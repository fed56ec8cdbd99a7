"""The whole comparison: arms, their laws and draws, every pair, two rankings, as compare.json.

    arms [{study, law_status, loss_at_target, interval, p_best, regret}]
    pairs [{a, b, k, k_interval, p_better, trend, trend_interval, paired_seeds, seeds_needed}]

and what else a reader needs: which arms are promoted over the reference, and why not.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.comparing.arms import Arm, measure_of, records_of, study_arms, table_arms, unit_of
from analysis.comparing.comparability import Verdict, check_measured, judge, left_out
from analysis.comparing.draws import ArmLaw, budgets, curves_of, law_of, shared_weights
from analysis.comparing.effects import EFFECT, Believed, believed
from analysis.comparing.evidence import benjamini_hochberg
from analysis.comparing.matching import form_for, on_common_points
from analysis.comparing.multiplier import percentiles
from analysis.comparing.options import CompareConfig
from analysis.comparing.pairs import Setting, pair_of, refusal
from analysis.comparing.points import places
from analysis.comparing.rankings import common_of, hindcast, single_size
from analysis.forms import Array
from analysis.solve.progress import OnProgress, no_progress
from scaling.schema import code_version

SCHEMA = 1
SURE = 0.5  # p_better that a promotion needs beside its q-value


def compare(config: CompareConfig, on_progress: OnProgress = no_progress) -> dict[str, Any]:
    """Return the content of compare.json.

    config: what is compared, and at which compute
    on_progress: takes (stage, done, total) of steps that take long

    What cannot be compared has `comparable` false and `why`. Raises ValueError for studies and
    tables that cannot be read.
    """
    measure = measure_of(config)
    if config.studies:
        records = {folder: records_of(folder) for folder in config.studies}
        if why := check_measured(records, measure):
            return _refused(config, Verdict(why=why), list(records))
    elif not measure.is_default:
        raise ValueError(
            f"{measure.settings} is for studies, whose records hold the losses; for a table name"
            " the column, as columns.loss=COLUMN columns.loss_unit=bits_per_byte"
        )
    arms = study_arms(config) if config.studies else table_arms(config)
    verdict = judge(arms, measure)
    if not verdict.comparable:
        return _refused(config, verdict, [arm.name for arm in arms])
    return compare_arms(arms, config, verdict, on_progress=on_progress)


def _refused(config: CompareConfig, verdict: Verdict, names: Sequence[str]) -> dict[str, Any]:
    nothing = ("law_status", "loss_at_target", "interval", "p_best", "regret")
    return {
        "schema": SCHEMA,
        "unit": config.unit,
        "comparable": False,
        **_verdict(verdict),
        "arms": [{"study": name, **dict.fromkeys(nothing)} for name in names],
        "pairs": [],
        "single_size_ranking": None,
        "code": code_version(),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "why": verdict.why,
        "question": verdict.question,
        "accidents": verdict.accidents,
        "notes": verdict.notes,
    }


def compare_arms(
    arms: Sequence[Arm],
    config: CompareConfig,
    verdict: Verdict,
    *,
    thorough: bool = True,
    on_progress: OnProgress = no_progress,
) -> dict[str, Any]:
    """Compare arms whose losses compare; return the content of compare.json.

    arms: the reference first
    config: target, form, level, draws
    verdict: that they compare, and what they differ in
    thorough: whether alarms of each fit are looked for, and both rankings tested at withheld
        budgets; a simulation of many comparisons needs neither
    on_progress: takes (stage, done, total) of steps that take long
    """
    draws = config.intervals
    form, ray = form_for(arms, config.form)
    arms, matched, said = on_common_points(arms, form)
    where = places([arm.runs.table for arm in arms])
    weights = shared_weights(where, draws.resamples, draws.seed)
    laws = []
    for i, (arm, units) in enumerate(zip(arms, where.units, strict=True)):
        on_progress("laws of the arms", i, len(arms))
        laws.append(law_of(arm.runs, form, weights, units, level=draws.level, judged=thorough))
    on_progress("laws of the arms", len(arms), len(arms))
    largest = min(law.largest for law in laws)
    target = config.target.flops or largest
    flops = budgets(target)
    points, drawn = curves_of(
        laws, [arm.runs for arm in arms], flops, seed=draws.seed, matched=matched
    )
    whys = [refusal(law, arm.name, target) for arm, law in zip(arms, laws, strict=True)]
    setting = Setting(
        target=target, flops=flops, points=points, drawn=drawn, level=draws.level,
        difference=config.difference, whys=whys,
        believed=_believed(points, drawn, flops, whys, draws.seed),
    )  # fmt: skip
    pairs = []
    for i in range(len(arms)):
        on_progress("pairs of arms", i, len(arms))
        pairs += [pair_of(i, j, arms, where, setting) for j in range(i + 1, len(arms))]
    on_progress("pairs of arms", len(arms), len(arms))
    _promote(pairs, arms[0].name, config.rate)
    common = common_of(arms, where)
    ranking = single_size(arms, common)
    return {
        "schema": SCHEMA,
        "unit": unit_of(config, arms),
        "comparable": True,
        **_verdict(verdict),
        "notes": [*verdict.notes, *left_out(arms), *ray, *said],
        "matched": matched,
        "reference": arms[0].name,
        "target": {
            "flops": target,
            "extrapolation": target / largest,
            "given": bool(config.target.flops),
        },
        "level": draws.level,
        "rate": config.rate,
        "difference": config.difference,
        "form": form.name,
        "effect": {
            "prior": EFFECT,
            "deviation": setting.believed.deviation if setting.believed else None,
        },
        "arms": _arms(arms, laws, setting),
        "pairs": pairs,
        "single_size_ranking": ranking["order"] if ranking else None,
        "single_size": ranking,
        "hindcast": hindcast(arms, where, common, form, on_progress)
        if thorough else None,
        "inputs": {arm.name: arm.runs.inputs for arm in arms},
        "code": code_version(),
    }  # fmt: skip


def _believed(
    points: Sequence[Array], drawn: Sequence[Array], flops: Array, whys: Sequence[str], seed: int
) -> Believed | None:
    """Return what is believed of the losses of the usable arms at the target; None without one."""
    at = len(flops) // 2  # the target is the middle budget
    usable = [i for i, why in enumerate(whys) if not why]
    if not usable:
        return None
    step = 2 * float(np.log(flops[at + 1] / flops[at]))
    slopes = [(points[i][at - 1] - points[i][at + 1]) / step for i in usable]
    return believed(
        np.array([points[i][at] for i in usable]),
        np.column_stack([drawn[i][:, at] for i in usable]),
        float(np.mean(slopes)),
        seed,
    )


def _arms(arms: Sequence[Arm], laws: Sequence[ArmLaw], setting: Setting) -> list[dict[str, Any]]:
    """Return the entries of the arms; those whose law does not reach the target have no loss."""
    at = len(setting.flops) // 2  # the target is the middle budget
    usable = setting.usable
    several = len(usable) > 1
    best, regret = _best(
        np.exp(setting.believed.log_loss) if setting.believed else np.empty((0, 0))
    )
    entries = []
    for i, (arm, law) in enumerate(zip(arms, laws, strict=True)):
        known = i in usable
        entries.append({
            "study": arm.name,
            "law_status": law.status,
            "loss_at_target": float(np.exp(setting.points[i][at])) if known else None,
            "interval": percentiles(np.exp(setting.drawn[i][:, at]), setting.level)
            if known else None,
            "p_best": float(best[usable.index(i)]) if known and several else None,
            "regret": float(regret[usable.index(i)]) if known and several else None,
            "runs": len(arm.runs),
            "seeds": arm.seeds,
            "largest_flops": law.largest,
            "why": setting.whys[i],
            "alarms": [{"code": a.code, "sentence": a.sentence} for a in law.alarms],
        })  # fmt: skip
    return entries


def _best(losses: Array) -> tuple[Array, Array]:
    """Return P(best) and expected regret of each arm, from losses of the draws (S, arms)."""
    known = losses[~np.isnan(losses).any(axis=1)]
    if not len(known):
        return np.full(losses.shape[1], np.nan), np.full(losses.shape[1], np.nan)
    least = known.min(axis=1, keepdims=True)
    tied = known == least
    return (tied / tied.sum(axis=1, keepdims=True)).mean(axis=0), (known - least).mean(axis=0)


def _promote(pairs: list[dict[str, Any]], reference: str, rate: float) -> None:
    """Add `q_value` and `promoted` to each pair; of the reference alone are they numbers.

    Benjamini and Hochberg's rate is over the arms that are compared with the reference.
    """
    tested = [p for p in pairs if p["a"] == reference]
    values = [np.nan if p["p_value"] is None else p["p_value"] for p in tested]
    for pair in pairs:
        pair |= {"q_value": None, "promoted": None}
    for pair, q in zip(tested, benjamini_hochberg(np.array(values)), strict=True):
        if not np.isnan(q):
            pair["q_value"] = float(q)
            pair["promoted"] = bool(q <= rate and pair["p_better"] > SURE)
