"""The rule that sets learning rate and batch for a size, shared by the sweep and the plan.

Hidden matrices take `lr_base * (lr_base_width / width)**lr_width_exponent`, vectors `lr_base`, the
embedding `lr_embedding`. The exponent is the config's under the parametrisation `layerwise`, 0
under `standard`, 1 under `mup` and `completep` (Yang et al. 2022, table 8), whose base width is
the model's. There Muon's is 1/2: its updates, of AdamW's root mean square, are orthogonal, so that
their spectral norm grows as the root of the width (Yang, Simon & Bernstein 2023, 2310.17813).

The batch stays at its base up to a size and grows as a power of the (active) non-embedding
parameters beyond it, rounded to a power of two of sequences; a trunk, whose branches have different
budgets, has one.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Constants of the rule; `batch_base` tokens hold up to `batch_base_params` (non-embedding)."""

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
        return whole_batch(self.wanted_batch(non_embedding), context)

    def wanted_batch(self, non_embedding: float) -> float:
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


LORA_FACTOR = 10.0  # Schulman et al. 2025, "LoRA Without Regret"


def tuning_lr(fraction: float, *, pretrain_lr: float, method: str = "full") -> float:
    """Return a stage's peak rate: a fraction of pretraining's, ten times it for adapters."""
    return fraction * pretrain_lr * (1.0 if method == "full" else LORA_FACTOR)


def first_coefficient(kl: float, *, reward_sd: float = 1.0) -> float:
    """Return the KL coefficient at which tilting a Gaussian reward exponentially costs `kl` nats.

    KL = s^2 / (2 beta^2) for a reward of deviation s, so beta = s / sqrt(2 KL).
    """
    return reward_sd / math.sqrt(2 * kl)
