"""Low-rank adapters on every linear layer (Hu et al. 2021, 2106.09685), merged exactly.

A layer becomes W x + (alpha / r) B A x with W frozen, A random and B zero, so that the model's
outputs are unchanged before the first step. The tied output head and the embedding stay as they
are; all other layers are adapted, the MLP included (Schulman et al. 2025, "LoRA Without Regret"). W
may be kept in 4 bits (QLoRA, Dettmers et al. 2023); the update is then merged into the matrix that
the codes stand for.
"""

import math

import torch
from torch import Tensor, nn

from scaling.model.nf4 import NF4Linear

ADAPTERS = "adapters.safetensors"  # The file of a tuned stage's factors, beside its merged weights.
# The scale of Schulman et al. 2025, with which the best learning rate hardly depends on the rank.
ALPHA = 32.0


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable update of rank `rank`."""

    def __init__(self, base: nn.Linear | NF4Linear, *, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        like = base.weight
        self.down = nn.Parameter(
            torch.empty(rank, base.in_features, dtype=like.dtype, device=like.device)
        )
        self.up = nn.Parameter(
            torch.zeros(base.out_features, rank, dtype=like.dtype, device=like.device)
        )
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its update."""
        return self.base(x) + self.scale * ((x @ self.down.T) @ self.up.T)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the linear layer with the update added to its weight, rounded once."""
        update = self.scale * (self.up.double() @ self.down.double())
        base = self.base.dense() if isinstance(self.base, NF4Linear) else self.base
        base.weight.copy_(base.weight.double() + update)
        return base


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float = ALPHA,
    skip: tuple[str, ...] = ("head",),
    four_bits: bool = False,
) -> nn.Module:
    """Freeze `model` and adapt its linear layers in place; return the model.

    model: changed in place
    rank: of the update, at most the narrowest layer's width
    alpha: the update's scale times the rank
    skip: names of layers that are not adapted
    four_bits: whether the frozen matrices of adapted layers are kept in 4 bits

    Raises ValueError for a rank out of range.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in skip}
    narrowest = min(min(m.in_features, m.out_features) for m in layers.values())
    if not 1 <= rank <= narrowest:
        raise ValueError(
            f"sft.lora_rank={rank} must lie between 1 and {narrowest}, the narrowest layer's width"
        )
    model.requires_grad_(False)
    for name, layer in layers.items():
        base = NF4Linear(layer) if four_bits else layer
        _set_layer(model, name, LoraLinear(base, rank=rank, alpha=alpha))
    return model


def frozen_bytes(model: nn.Module) -> int:
    """Return the bytes of all that is not trained: frozen weights, codes and their scales."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return sum(t.nbytes for t in [*frozen, *model.buffers()])


def adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return both factors of every adapted layer, by the layer's name."""
    factors = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            factors[f"{name}.down"] = layer.down.detach().cpu().contiguous()
            factors[f"{name}.up"] = layer.up.detach().cpu().contiguous()
    return factors


def merge_lora(model: nn.Module) -> nn.Module:
    """Replace adapted layers by merged linear layers; make every weight trainable again."""
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLinear)]:
        _set_layer(model, name, layer.merged())
    return model.requires_grad_(True)


def _set_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
