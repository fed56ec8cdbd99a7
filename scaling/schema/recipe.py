"""The rule that sets learning rate and batch for a model's size, shared by the sweep and the plan.

The learning rate of hidden matrices is `lr_base * (lr_base_width / width)**lr_width_exponent`, that
of vectors `lr_base`, that of the embedding `lr_embedding`. The exponent comes from the config under
the parametrisation `layerwise`; it is 0 under `standard`, and 1 under `mup` and `completep` (Yang
et al. 2022, table 8), whose base width is the model's. Under these two it is 1/2 for Muon: Muon's
updates have AdamW's root mean square and are orthogonal, so that their spectral norm grows as the
root of the width (Yang, Simon & Bernstein 2023, 2310.17813).

The batch is constant up to a size. Beyond it the batch grows as a power of the (active)
non-embedding parameters, rounded to a power of two of sequences. All branches of a trunk share one
batch, although their budgets differ.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Constants of the rule.

    The batch has `batch_base` tokens up to `batch_base_params` non-embedding parameters.
    """

    lr_base: float
    lr_base_width: int
    lr_width_exponent: float
    lr_embedding: float
    batch_base: int
    batch_base_params: float
    batch_exponent: float

    def peak_lr(self, d_model: int) -> float:
        """Return the peak learning rate of the hidden matrices at a width."""
        return self.lr_base * (self.lr_base_width / d_model) ** self.lr_width_exponent

    def batch_tokens(self, non_embedding: float, context: int) -> int:
        """Return the batch in tokens: a power of two of sequences of `context` tokens."""
        return whole_batch(self.unrounded_batch(non_embedding), context)

    def unrounded_batch(self, non_embedding: float) -> float:
        """Return the batch in tokens before it is rounded."""
        grown = max(1.0, non_embedding / self.batch_base_params)
        return self.batch_base * grown**self.batch_exponent

    @classmethod
    def from_config(cls, optim: dict[str, Any], model: dict[str, Any] | None = None) -> "Recipe":
        """Read the constants from a record's `config["optim"]` and `config["model"]`."""
        values = {name: optim[name] for name in cls.__dataclass_fields__}
        model = model or {}
        kind = model.get("parametrization", "layerwise")
        if kind == "standard":
            values["lr_width_exponent"] = 0.0
        elif kind != "layerwise":
            values["lr_base_width"] = model["base_width"]
            values["lr_width_exponent"] = 0.5 if optim.get("name") == "muon" else 1.0
        return cls(**values)


def whole_batch(tokens: float, context: int) -> int:
    """Round a batch to a power of two of sequences of `context` tokens."""
    return context * 2 ** max(0, round(math.log2(tokens / context)))


# The learning rate of adapters over that of full fine-tuning (Schulman et al. 2025, "LoRA Without
# Regret").
LORA_FACTOR = 10.0


def tuning_lr(fraction: float, *, pretrain_lr: float, method: str = "full") -> float:
    """Return a stage's peak learning rate: a fraction of pretraining's, times 10 for adapters."""
    return fraction * pretrain_lr * (1.0 if method == "full" else LORA_FACTOR)


def initial_kl_coefficient(kl: float, *, reward_sd: float = 1.0) -> float:
    """Return the KL coefficient beta that PPO starts with, for a budget of `kl` nats.

    The best policy under a KL penalty tilts the reward exponentially. For a Gaussian reward of
    standard deviation s this costs KL = s^2 / (2 beta^2), so beta = s / sqrt(2 KL).
    """
    return reward_sd / math.sqrt(2 * kl)
