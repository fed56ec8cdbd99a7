"""What the laws of the later stages choose: examples, epochs, method, pairs, KL budget, episodes.

Each law is a law.json of `scaling fit` on a sweep of its stage (`stage=sft`, `reward`, `ppo`), and
its `inputs.settings` hold the settings of that sweep. The choice is the cheapest within `flat_nats`
of the best loss that the law forecasts with the data at hand: fresh examples before repeated ones
(Zhang et al. 2024, 2402.17193; LAWS 8, steps 10 to 12). Losses are in nats, KL in nats per
sequence.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.estimation.fit import peak_of
from analysis.forms import FORMS, column, form_named
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.runs.table import load_runs
from scaling.schema import Shape, read_curve, read_records

SHARE = 0.7  # of d*: the reward is 95 % (RL) or 91 % (best-of-n) of its peak for half of the KL
SPARE_EPISODES = 1.5  # times the episodes after which the pilots passed the KL budget
SFT_FORMS = ("finetuning_epochs", "finetuning")
REWARD_FORMS = ("reward_model", "reward_model_noiseless")
CHOSEN_BY_LAWS = ("method", "examples", "epochs", "pairs", "kl_budget", "episodes")
KL_FORMS = ("rl_overoptimisation", "best_of_n", "rl_overoptimisation_sizes")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Values that replace settings of a block, their reasons, and the forecast of the stage."""

    values: dict[str, Any]
    reasons: dict[str, str]
    forecast: dict[str, Any] = field(default_factory=dict)


def laws_of(names: Any, *, forms: Sequence[str], key: str) -> dict[str, Law]:
    """Read the laws of a stage by name.

    Raises ValueError for a law of another form, and for one that is not usable.
    """
    if isinstance(names, str) and names.startswith("["):
        names = [n.strip() for n in names.strip("[]").split(",") if n.strip()]
    listed = [names] if isinstance(names, str) else [str(n) for n in names or []]
    laws = {name: load_law(name) for name in listed if name}
    for name, law in laws.items():
        if law.form not in forms:
            raise ValueError(
                f"{key}={name} is a law of form {law.form}; give one of {', '.join(forms)}"
            )
        if not law.usable:
            raise ValueError(
                f"{key}={name} has status {law.status}, which no plan should rest on; extend its"
                " sweep"
            )
    return laws


def choose_sft(
    laws: Mapping[str, Law], shape: Shape, *, examples: int, flat_nats: float, level: float
) -> Choice | None:
    """Choose method, examples and epochs of fine-tuning; None without a law.

    The method is the one of the lowest forecast with all examples at hand; examples and epochs are
    then the cheapest whose forecast is within `flat_nats` of that.

    laws: the laws by name, one for each method
    shape: the pretrained model
    examples: how many are at hand, 0 for the most that the cells of the laws had
    flat_nats: loss in nats per token within which the cheaper choice is taken
    level: share that the interval of the forecast holds
    """
    if not laws:
        return None
    examples = examples or round(max(law.ranges["examples"][1] for law in laws.values()))
    best = {name: _best_sft(law, shape, examples) for name, law in laws.items()}
    name = min(best, key=lambda n: best[n][0])
    law, (least, _) = laws[name], best[name]
    options = [_fewest(law, shape, examples, e, least + flat_nats) for e in _epochs(law)]
    fewest, epochs = min(
        ((n, e) for n, e in options if n), key=lambda o: (o[0] * o[1], o[1]), default=(examples, 1)
    )
    method = _common_setting(law, "method") or "full"
    others = ", ".join(
        f"{_common_setting(laws[n], 'method') or n} {loss:.4f}"
        for n, (loss, _) in best.items()
        if n != name
    )
    span = law.ranges["examples"]
    beyond = f", {fewest / span[1]:.2g} times the most fitted" if fewest > span[1] else ""
    worth = f"R = {law.parameters['R']:.3g}" if "R" in law.parameters else "as fitted"
    values: dict[str, Any] = {"method": method, "examples": fewest, "epochs": epochs}
    values |= _settings(law, ("batch_examples", "lora_rank", "lr_fraction"))
    reasons = {
        "method": f"lowest forecast loss with the {examples} examples at hand, {least:.4f}"
        + (f" (others: {others})" if others else "")
        + f"; {name}",
        "examples": f"the fewest whose forecast is within {flat_nats:g} nats of the best; {name},"
        f" fitted on {span[0]:.0f} to {span[1]:.0f}{beyond}",
        "epochs": f"with the examples the cheapest of 1 to {_epochs(law)[-1]} passes, the range"
        f" fitted; a pass repeated decays with {worth} (Muennighoff et al. 2023, eq. 5)",
        **{
            k: f"what the cells of {name} were trained at"
            for k in values
            if k not in CHOSEN_BY_LAWS
        },
    }
    row = {"examples": fewest, "epochs": epochs}
    return Choice(values=values, reasons=reasons, forecast=_forecast(law, shape, row, level))


def choose_reward(
    laws: Mapping[str, Law], shape: Shape, *, pairs: int, flat_nats: float, level: float
) -> Choice | None:
    """Choose how many pairs a reward model needs; None without a law.

    laws: the laws by name, of which the first is used
    shape: the reward model's shape
    pairs: how many may be labelled
    flat_nats: loss in nats per pair within which fewer pairs are taken
    level: share that the interval of the forecast holds
    """
    if not laws:
        return None
    name, law = next(iter(laws.items()))
    best = _predict(law, shape, {"pairs": pairs})
    fewest = _least(lambda n: _predict(law, shape, {"pairs": n}) <= best + flat_nats, pairs)
    double = _predict(law, shape, {"pairs": pairs}, params=2.0)
    span = law.ranges["pairs"]
    beyond = f", {fewest / span[1]:.2g} times the most fitted" if fewest > span[1] else ""
    values: dict[str, Any] = {"pairs": fewest}
    values |= _settings(law, ("batch_pairs", "lr_fraction"))
    reasons = {
        "pairs": f"the fewest whose forecast loss is within {flat_nats:g} nats of {best:.4f}, that"
        f" of the {pairs} that may be labelled; {name}, fitted on {span[0]:.0f} to"
        f" {span[1]:.0f}{beyond}; a reward model of twice the size would reach {double:.4f}",
        **{
            k: f"what the cells of {name} were trained at"
            for k in values
            if k not in CHOSEN_BY_LAWS
        },
    }
    return Choice(
        values=values, reasons=reasons, forecast=_forecast(law, shape, {"pairs": fewest}, level)
    )


def choose_kl(
    laws: Mapping[str, Law],
    shape: Shape,
    *,
    pairs: int,
    kl_budget: float,
    episodes: int,
    level: float,
) -> Choice | None:
    """Choose the KL budget and the episodes of PPO; None without a law.

    The budget is the KL at SHARE of d*, d = sqrt(KL) (Gao et al. 2022, 2210.10760). Where the
    turning point lies beyond the data, the budget is at most the largest KL seen. A law over sizes
    or pairs is read at those of the planned reward model.

    laws: the laws by name, of which the first is used
    shape: the reward model's shape
    pairs: how many pairs the reward model learns from
    kl_budget: the KL that was set, in nats per sequence
    episodes: the most episodes
    level: share that the interval of the forecast holds
    """
    if not laws:
        return None
    name, whole = next(iter(laws.items()))
    law, reading = at_reward_model(whole, shape, pairs, level)
    peak, (smallest, largest) = law.allocation["peak"], law.ranges["kl"]
    if peak["at"] is not None and peak["at"] < smallest:
        budget = smallest
        reason = (
            f"the smallest KL seen: {name} has the gold reward fall from the start (its peak is at"
            f" KL {peak['at']:.3g}); give the reward model more pairs or parameters"
        )
    elif peak["at"] is not None and peak["at"] <= largest:
        low, high = (peak.get("interval") or [peak["at"], peak["at"]])[:2]
        budget = SHARE**2 * peak["at"]
        ends = f"[{SHARE**2 * low:.3g}, {'∞' if high is None else f'{SHARE**2 * high:.3g}'}]"
        reason = (
            f"{ends}: {SHARE:g} of d* = {math.sqrt(peak['at']):.3g}, where {name} has the gold"
            f" reward turn (KL {peak['at']:.3g})"
        )
    else:
        budget = min(kl_budget, largest)
        at = "nowhere" if peak["at"] is None else f"at {peak['at']:.3g}"
        reason = (
            f"the smaller of ppo.kl_budget={kl_budget:g} and the largest KL seen, {largest:.3g}:"
            f" {name} did not reach its turning point, fitted {at}"
        )
    reason += reading
    if law.form == "best_of_n":
        reason += "; that is a KL of best-of-n, which PPO's is not (Gao et al. 2022, section 3.5)"
    values: dict[str, Any] = {"kl_budget": float(f"{budget:.3g}")}
    values |= _settings(law, ("batch_episodes", "lr_fraction"))
    reasons = {"kl_budget": reason}
    reasons |= {k: f"what the cells of {name} were trained at" for k in values if k != "kl_budget"}
    if needed := _episodes_to(law, budget):
        values["episodes"] = min(episodes, math.ceil(SPARE_EPISODES * needed))
        reasons["episodes"] = (
            f"{SPARE_EPISODES:g} times the {needed:.0f} after which the pilots of {name} first"
            f" passed that KL; at most ppo.episodes={episodes}"
        )
    row = law.predict_table(pd.DataFrame({"kl": [budget]}), level).iloc[0]
    forecast = {
        "forecast_gain": float(row["reward"]),
        "forecast_interval": (float(row["low"]), float(row["high"])) if "low" in row else (),
        "forecast_level": level,
    }
    return Choice(values=values, reasons=reasons, forecast=forecast)


def at_reward_model(law: Law, shape: Shape, pairs: int, level: float) -> tuple[Law, str]:
    """Return the law of over-optimisation against one reward model, and a clause that says so.

    In beta = c0 - c1 log x, x is the pairs of the reward model where the law's `params` come from a
    column that counts pairs, else its parameters. Any other law is returned unchanged.

    law: the law, whose form may be one over sizes or pairs
    shape, pairs: those of the planned reward model
    level: share that the interval of the peak holds
    """
    if law.form != "rl_overoptimisation_sizes":
        return law, ""
    by_pairs = "pairs" in law.inputs.get("columns", {}).get("params", "")
    x = float(pairs if by_pairs else getattr(shape.params, law.count))
    low, high = law.ranges["params"]
    values = law.parameters
    draws = None
    if law.draws is not None:
        columns = [list(values).index(name) for name in ("alpha", "c0", "c1")]
        alpha, c0, c1 = law.draws[:, columns].T
        draws = np.column_stack([alpha, c0 - c1 * np.log(x)])
    beta = values["c0"] - values["c1"] * math.log(x)
    at_x = replace(
        law,
        form="rl_overoptimisation",
        parameters={"alpha": values["alpha"], "beta": beta},
        draws=draws,
        intervals=None,
    )
    at_x = replace(
        at_x, allocation={"peak": peak_of(at_x, form_named("rl_overoptimisation"), level)}
    )
    what = "pairs" if by_pairs else "parameters of the reward model"
    beyond = "" if low <= x <= high else ", OUTSIDE them"
    return at_x, f"; read at {x:.0f} {what}, fitted on {low:.0f} to {high:.0f}{beyond}"


def _best_sft(law: Law, shape: Shape, examples: int) -> tuple[float, int]:
    """Return the least forecast loss with all examples, and its epochs."""
    return min((_predict(law, shape, {"examples": examples, "epochs": e}), e) for e in _epochs(law))


def _epochs(law: Law) -> list[int]:
    """Return the numbers of epochs that a law speaks of."""
    low, high = law.ranges.get("epochs", [1, 1])
    if law.form == "finetuning":
        return [round(high)]
    return list(range(max(1, round(low)), round(high) + 1))


def _fewest(
    law: Law, shape: Shape, examples: int, epochs: int, loss: float
) -> tuple[int | None, int]:
    """Return the fewest examples that reach a loss in so many epochs; None where none do."""

    def enough(n: int) -> bool:
        return _predict(law, shape, {"examples": n, "epochs": epochs}) <= loss + 1e-12

    return (_least(enough, examples) if enough(examples) else None), epochs


def _least(enough: Callable[[int], bool], most: int) -> int:
    """Return the smallest n up to `most` from which on `enough(n)` holds."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _row(law: Law, shape: Shape, row: Mapping[str, Any], params: float = 1.0) -> pd.DataFrame:
    size = params * getattr(shape.params, law.count)
    return pd.DataFrame({"params": [float(size)], **{k: [float(v)] for k, v in row.items()}})


def _predict(law: Law, shape: Shape, row: Mapping[str, Any], *, params: float = 1.0) -> float:
    table = _row(law, shape, row, params)
    values = {name: column(table, name) for name in table}
    return float(FORMS[law.form].predict(law.parameters, values)[0])


def _forecast(law: Law, shape: Shape, row: Mapping[str, Any], level: float) -> dict[str, Any]:
    """Return the forecast of a stage's loss with its prediction interval, where there is one."""
    predicted = law.predict_table(_row(law, shape, row), level).iloc[0]
    ends = (float(predicted["low"]), float(predicted["high"])) if "low" in predicted else ()
    return {
        "forecast_loss": float(predicted["loss"]),
        "forecast_interval": ends,
        "forecast_level": level,
    }


def _common_setting(law: Law, name: str) -> Any:
    """Return the setting that all runs of a law had; None where they differ or it is not known."""
    values = law.inputs.get("settings", {}).get(name, [])
    return values[0] if len(values) == 1 else None


def _settings(law: Law, names: Sequence[str]) -> dict[str, Any]:
    """Return those of the named settings that all runs of a law had."""
    return {n: value for n in names if (value := _common_setting(law, n)) is not None}


def _episodes_to(law: Law, kl: float) -> float | None:
    """Return the median of the episodes after which the pilots of a law passed a KL.

    Pilots whose KL budget was smaller do not count; None where there are none, or where fewer than
    half of them passed the KL.
    """
    source = Path(str(law.inputs.get("source", "")))
    if source == Path() or not source.is_dir():
        return None
    points = law.inputs.get("points", "records")
    table = load_runs(
        source, where=law.inputs.get("where"), stage="ppo", points=points, needed=()
    ).table
    pilots = set(table["trunk" if points == "updates" else "run"])
    episodes = []
    for record in read_records(source):
        if record.run_id not in pilots or record.config["plan"]["kl_budget"] < kl:
            continue
        rows = read_curve(source / record.run_id / "metrics.jsonl")
        episodes.append(next((r["episodes"] for r in rows if r["kl"] >= kl), math.inf))
    middle = float(np.median(episodes)) if episodes else math.inf
    return middle if math.isfinite(middle) else None
