"""Low-rank adapters on every linear layer (Hu et al. 2021, 2106.09685), merged exactly.

A layer becomes W x + (alpha / r) B A x with W frozen, A random and B zero, so that nothing changes
before the first step. The tied output head and the embedding stay as they are; all others are
adapted, the MLP included (Schulman et al. 2025, "LoRA Without Regret"). W may be kept in 4 bits
(QLoRA, Dettmers et al. 2023); what is merged then is the matrix that the codes stand for.
"""

import math

import torch
from torch import Tensor, nn

from scaling.model.nf4 import NF4Linear

ADAPTERS = "adapters.safetensors"  # a tuned stage's factors, beside its merged weights
ALPHA = 32.0  # of the same source; the best learning rate then hardly depends on the rank


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
    """Freeze `model` and adapt its linear layers in place, those named in `skip` left out.

    With `four_bits` what is adapted is kept in 4 bits. ValueError for a rank that is not below
    every layer's width.
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
        _replace(model, name, LoraLinear(base, rank=rank, alpha=alpha))
    return model


def frozen_bytes(model: nn.Module) -> int:
    """Return the memory of what is not trained: frozen weights, codes and their scales."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    return sum(t.nbytes for t in [*frozen, *model.buffers()])


def adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return both factors of every adapted layer, by the layer's name."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            found[f"{name}.down"] = layer.down.detach().cpu().contiguous()
            found[f"{name}.up"] = layer.up.detach().cpu().contiguous()
    return found


def merge_lora(model: nn.Module) -> nn.Module:
    """Put merged linear layers in the place of adapted ones; everything is trainable again."""
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLinear)]:
        _replace(model, name, layer.merged())
    return model.requires_grad_(True)


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
