"""Sizes of the stages after pretraining, where neither the user nor a law sets them.

Two recipes and what lies between. SMALL is what this project's models of up to 1e7 parameters were
tuned with: minutes on a CPU. LARGE, from 1e9 parameters on, is Llama 2's, the published chain of
fine-tuning, reward model and PPO that states all its sizes (Touvron et al. 2023, 2307.09288,
sections 3.1 to 3.4). Between them each number runs log-linearly in N. A learning rate of SMALL is a
share of pretraining's peak, one of LARGE an absolute rate.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

T = TypeVar("T")
SMALL_PARAMS, LARGE_PARAMS = 1e7, 1e9
# The largest completion as a share of the context: 1k of 2k tokens in InstructGPT (2203.02155).
COMPLETION_SHARE = 0.5
LLAMA2 = "Llama 2 (2307.09288)"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A number's value at both ends and where the large one is printed."""

    small: float
    large: float
    source: str


RULES: dict[str, dict[str, Rule]] = {
    "sft": {
        "examples": Rule(small=2048, large=27_540, source=f"{LLAMA2}, 3.1: 27,540 annotations"),
        "epochs": Rule(small=1, large=2, source=f"{LLAMA2}, 3.1"),
        "batch_examples": Rule(small=32, large=64, source=f"{LLAMA2}, 3.1"),
        "lora_rank": Rule(
            small=8, large=32, source="default of tinker-cookbook, LoRA Without Regret 2025"
        ),
    },
    "reward": {
        "pairs": Rule(
            small=2048, large=1_418_091, source=f"{LLAMA2}, table 6: Meta's own comparisons"
        ),
        "batch_pairs": Rule(small=32, large=512, source=f"{LLAMA2}, 3.2.2"),
    },
    "ppo": {
        "episodes": Rule(
            small=1024, large=204_800, source=f"{LLAMA2}, 3.4.3: 400 iterations of 512"
        ),
        "batch_episodes": Rule(small=64, large=512, source=f"{LLAMA2}, 3.4.3"),
        "minibatch_episodes": Rule(small=64, large=64, source=f"{LLAMA2}, 3.4.3"),
        "inner_epochs": Rule(small=2, large=1, source=f"{LLAMA2}, 3.4.3"),
    },
}
# share of pretraining's peak at SMALL, absolute rate at LARGE, source
RATES: dict[str, tuple[float, float, str]] = {
    "sft": (0.2, 2e-5, f"{LLAMA2}, 3.1"),
    "reward": (0.5, 1e-5, f"{LLAMA2}, 3.2.2"),
    "ppo": (0.1, 1e-6, f"{LLAMA2}, 3.4.3"),
}
SMALL_COMPLETION = 48  # tokens, in a context of 128
POWERS = ("batch_examples", "batch_pairs", "batch_episodes", "minibatch_episodes")
SMALL_REASON = "of models up to 1e7 parameters in this project"


def sized(
    settings: T, stage: str, *, params: float, context: int, pretrain_lr: float
) -> tuple[T, dict[str, str]]:
    """Return the settings with a value for each that is None, and the reasons of these.

    settings: of the stage; a value that is not None was set by the user or by conf
    stage: sft, reward or ppo
    params: all parameters of the model
    context: tokens of its window
    pretrain_lr: peak learning rate of the planned pretraining
    """
    share = _share(params)
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    unset = {f.name for f in fields(settings) if getattr(settings, f.name) is None}  # type: ignore[arg-type]
    for name, rule in RULES[stage].items():
        if name in unset:
            value = rule.small ** (1 - share) * rule.large**share
            values[name] = 2 ** round(math.log2(value)) if name in POWERS else _whole(value)
            reasons[name] = _reason(share, f"{rule.small:,.0f}", f"{rule.large:,.0f}", rule.source)
    if "lr_fraction" in unset:
        small, large, source = RATES[stage]
        rate = (small * pretrain_lr) ** (1 - share) * large**share
        values["lr_fraction"] = float(f"{rate / pretrain_lr:.3g}")
        reasons["lr_fraction"] = reasons["peak_lr"] = _reason(
            share, f"{small:g} x the pretraining peak", f"a rate of {large:g}", source
        )
    if "max_new_tokens" in unset:
        half = max(1, round(COMPLETION_SHARE * context))
        values["max_new_tokens"] = min(half, SMALL_COMPLETION) if share == 0 else half
        reasons["max_new_tokens"] = (
            f"{SMALL_REASON}, at most half of the context"
            if share == 0
            else f"half of the context of {context}, as 1k of 2k in InstructGPT (2203.02155, C.4)"
        )
    return replace(settings, **values), reasons  # type: ignore[type-var]


def _share(params: float) -> float:
    """Return how far N lies from the small to the large recipe, in log N, from 0 to 1."""
    across = math.log(params / SMALL_PARAMS) / math.log(LARGE_PARAMS / SMALL_PARAMS)
    return min(1.0, max(0.0, across))


def _whole(value: float) -> int:
    """Round to a whole number, large ones to three digits unless they are a recipe's own."""
    return round(value) if abs(value - round(value)) < 1e-6 * value else int(float(f"{value:.3g}"))


def _reason(share: float, small: str, large: str, source: str) -> str:
    """Say which recipe a number follows."""
    if share == 0:
        return f"{small}: {SMALL_REASON}"
    if share == 1:
        return f"{large}: {source}"
    return f"between {small}, {SMALL_REASON}, and {large} from 1e9 on ({source}), log-linear in N"
