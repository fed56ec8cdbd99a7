"""The feed-forward part of a block, which maps each position by itself."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.config import ModelConfig


class MLP(nn.Module):
    """SwiGLU (Shazeer 2020), gate and up in one product, or GELU; `d_ff` wide."""

    def __init__(self, config: ModelConfig, d_ff: int) -> None:
        super().__init__()
        self.gated = config.mlp == "swiglu"
        self.up = nn.Linear(config.d_model, up_width(config, d_ff), bias=config.bias)
        self.down = nn.Linear(d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position by itself."""
        return self.down(activate(self.up(x), gated=self.gated))


def up_width(config: ModelConfig, d_ff: int) -> int:
    """Return the width of the first product's output: gate and up, or up alone."""
    return (2 if config.mlp == "swiglu" else 1) * d_ff


def activate(x: Tensor, *, gated: bool) -> Tensor:
    """Apply GELU, or multiply the second half by SiLU of the first."""
    if not gated:
        return F.gelu(x, approximate="tanh")
    gate, up = torch.chunk(x, 2, dim=-1)  # (..., F) each
    return F.silu(gate) * up
