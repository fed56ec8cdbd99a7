"""The plan as tables in groups: what it decides in sight, what stays as it was folded.

`MAIN` names the values of each block that a reader looks for. The others are folded where they are
at their default, follow a rule, or are those of the study; one that the user set is in sight.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from analysis.number_text import counts, interval, number, short
from analysis.page.tables import Grid, Row
from analysis.planning.later_stages.blocks import PpoSettings, RewardSettings, SftSettings
from analysis.planning.plan import Plan
from analysis.planning.written.derivation import blocks_of, shown

GROUPS = {  # block of plan.yaml: heading
    "budget": "Budget",
    "pretrain": "Pretraining",
    "machine": "Machine",
    "cost": "Cost",
    "forecast": "Forecast",
    "confirmation": "Confirmation run",
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "ppo": "PPO",
}
MAIN = {
    "budget": ("flops", "device", "seconds"),
    "pretrain": ("params", "tokens", "model", "peak_lr", "batch_tokens", "seconds"),
    "machine": ("precision", "ranks"),
    "cost": ("flops", "device_hours", "memory_per_device_gib", "money"),
    "forecast": ("test_loss", "interval", "bits_per_byte"),
    "confirmation": ("needed", "flops"),
    "sft": ("method", "data", "examples", "epochs", "peak_lr", "forecast_loss"),
    "reward": ("data", "pairs", "epochs", "peak_lr", "forecast_loss"),
    "ppo": ("kl_budget", "episodes", "estimator", "peak_lr", "forecast_gain"),
}
NAMES = {  # a value of the plan by its key
    "flops": "C, training FLOPs",
    "flops_per_second": "speed, FLOP/s",
    "seconds": "time, s",
    "params_target": "N of the law",
    "params": "N, parameters",
    "tokens": "D, tokens",
    "model": "layers x width",
    "context": "context, tokens",
    "peak_lr": "peak learning rate",
    "batch_tokens": "batch, tokens",
    "warmup_steps": "warm-up, steps",
    "weight_decay": "weight decay",
    "decay": "share of steps that decay",
    "count": "what N counts",
    "test_loss": "test loss, nats per token",
    "bits_per_byte": "bits per byte",
    "bits_per_byte_interval": "interval, bits per byte",
    "level": "level of the interval",
    "curve": "forecast on the way",
    "device_hours": "device hours",
    "wall_hours": "hours by the clock",
    "memory_per_device_gib": "memory of a device, GiB",
    "params_total": "parameters in memory",
    "serving_flops": "FLOPs of serving",
    "share_of_budget": "share of the budget",
    "stage_hours": "hours of the later stages",
    "deadweight": "share of C lost to constraints",
    "lr_fraction": "share of the pretraining rate",
    "lora_rank": "rank of LoRA",
    "batch_examples": "examples a step",
    "batch_pairs": "pairs a step",
    "batch_episodes": "episodes a batch",
    "minibatch_episodes": "episodes a step",
    "inner_epochs": "passes over a batch",
    "samples_per_prompt": "samples a prompt",
    "kl_budget": "KL budget, nats per completion",
    "kl_coefficient": "KL coefficient at the start",
    "max_new_tokens": "most tokens of a completion",
    "missing_end_penalty": "penalty of a missing end",
    "eval_updates": "updates between held-out scores",
    "pretrain_mix": "share of the pretraining loss",
    "gae_lambda": "lambda of GAE",
    "forecast_loss": "forecast loss",
    "forecast_gain": "forecast gain of gold reward",
    "forecast_interval": "interval of the forecast",
    "forecast_level": "level of that interval",
    "ranks": "devices",
    "shard": "weights divided over devices",
    "micro_batch": "windows at a time",
    "activation_checkpointing": "activations recomputed",
    "needed": "a smaller run first",
    "overtraining": "D/N over the optimum's",
}
COLUMNS = ("what", "planned", "reason, and interval before rounding", "key in plan.yaml")
_SETTINGS: Mapping[str, Any] = {"sft": SftSettings, "reward": RewardSettings, "ppo": PpoSettings}


@dataclass(frozen=True, kw_only=True)
class PlanGroup:
    """A block of the plan: heading, the rows in sight, the rows that are folded."""

    heading: str
    shown: Grid
    folded: Grid


def plan_groups(plan: Plan | None) -> list[PlanGroup]:
    """Return the blocks of a plan; [] without one."""
    return [] if plan is None else list(_groups(plan))


def _groups(plan: Plan) -> Iterator[PlanGroup]:
    for block, values in blocks_of(plan):
        rows: dict[bool, list[Row]] = {True: [], False: []}
        for key, (value, reason) in values.items():
            if value in ("", [], ()) or (isinstance(value, dict) and not any(value.values())):
                continue
            name = NAMES.get(key, key.replace("_", " "))
            in_sight = key in MAIN[block] or _is_set(block, key, value)
            rows[in_sight].append((name, _shown(value), reason, key))
        if not rows[True] and not rows[False]:
            continue
        heading = GROUPS[block]
        yield PlanGroup(
            heading=heading,
            shown=Grid(name=f"Plan: {heading}", columns=COLUMNS, rows=rows[True], wide=(2,)),
            folded=Grid(
                name=f"Plan: {heading}, the rest", columns=COLUMNS, rows=rows[False], wide=(2,)
            ),
        )


def _shown(value: Any) -> str:
    """Write a value; true and false as yes and no."""
    return ("yes" if value else "no") if isinstance(value, bool) else shown(value)


def _is_set(block: str, key: str, value: Any) -> bool:
    """Tell whether a value of a later stage is other than its setting's default."""
    if block not in _SETTINGS:
        return False
    default = next((f.default for f in fields(_SETTINGS[block]) if f.name == key), None)
    known = isinstance(default, bool | int | float | str)
    return known and value != default


def derivation_grids(plan: Plan | None) -> list[Grid]:
    """Return the derivation of N and D, the laws side by side, and the experts weighed."""
    return [] if plan is None else [g for g in _derivation(plan) if g.rows]


def _derivation(plan: Plan) -> Iterator[Grid]:
    steps = [
        (s.what, shown(s.value), shown(s.interval or "–"), s.rule, s.rounding or "–")
        for s in plan.steps
    ]
    columns = ("step", "value", "interval before rounding", "law or rule", "rounding")
    yield Grid(name="Derivation of N and D", columns=columns, rows=steps, wide=(3, 4))
    laws = [
        (
            row.law,
            row.count.replace("_", " "),
            short(row.params),
            counts(row.interval),
            short(row.tokens),
            number(row.tokens_per_param, 3),
            number(row.loss),
            number(row.regret, 2),
        )
        for row in plan.laws
    ]
    columns = ("law", "count", "N*", "interval", "D*", "D*/N*", "loss", "regret of the plan's N")
    yield Grid(name="Laws side by side", columns=columns, rows=laws, numeric=(2, 4, 5, 6, 7))
    weighed = [
        (
            f"{row.experts}{', taken' if row.chosen else ''}",
            short(row.params),
            short(row.params_total),
            short(row.tokens),
            number(row.test_loss),
            interval(row.interval),
            number(row.memory_gib, 3),
        )
        for row in plan.mixtures
    ]
    columns = ("experts", "N active", "N in all", "D", "forecast loss", "interval", "GiB a device")
    yield Grid(name="Experts weighed", columns=columns, rows=weighed, numeric=(1, 2, 3, 4, 6))
