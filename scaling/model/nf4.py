"""Linear layers kept in 4 bits: NormalFloat codes and scales that are themselves in 8 bits.

Follows Dettmers et al. 2023, QLoRA (2305.14314), section 3: each block of 64 weights is divided by
its largest magnitude, and each weight becomes the nearest of 16 quantiles of a normal, 4.13 bits a
weight in all. Codes and their order in a byte are those of bitsandbytes. It is plain torch: the
same code runs on a GPU and on a CPU, where it is slower than full matrices.

Written by hand on purpose: torchao's NF4Tensor (0.18) takes only matrices of a multiple of 16,384
weights and keeps the scales as int8, so that a GPU would tune and merge other matrices than a CPU.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip  # of 2305.14314, appendix E
BLOCK = 64  # Weights that share a scale.
SCALES = 256  # Scales that share a scale of their own.
LARGEST = torch.finfo(torch.float8_e4m3fn).max  # The largest number of the scales' 8-bit format.


def codes_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return two codes a byte, (n / 2,) uint8, the first in the high half, and each block's scale.

    The last block is padded with zeros.
    """
    flat = weight.detach().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)  # (n / BLOCK,)
    levels = torch.tensor(LEVELS, device=weight.device)
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / scales.clamp(min=1e-30)[:, None], between).view(-1, 2)
    return (codes[:, 0] << 4 | codes[:, 1]).to(torch.uint8), scales


def weights_of(codes: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 weights of bytes of codes and the scales of their blocks, flat."""
    levels = torch.tensor(LEVELS, device=codes.device)
    pairs = torch.stack([codes >> 4, codes & 15], dim=1)  # (n / 2, 2)
    return (levels[pairs.int()].view(-1, BLOCK) * scales[:, None]).flatten()


class Scales(nn.Module):
    """Scales in 8 bits: each less the mean, divided by the largest magnitude of its 256."""

    values: Tensor  # (blocks, SCALES) float8
    spread: Tensor  # (blocks, 1)
    mean: Tensor

    def __init__(self, scales: Tensor) -> None:
        super().__init__()
        self.n, mean = len(scales), scales.mean()
        blocks = F.pad(scales - mean, (0, -len(scales) % SCALES)).view(-1, SCALES)
        spread = blocks.abs().amax(1, keepdim=True).clamp(min=1e-30) / LARGEST
        self.register_buffer("values", (blocks / spread).to(torch.float8_e4m3fn))
        self.register_buffer("spread", spread)
        self.register_buffer("mean", mean)

    def dense(self) -> Tensor:
        """Return the scales, (n,) float32."""
        return (self.values.float() * self.spread).flatten()[: self.n] + self.mean


class NF4Linear(nn.Module):
    """A frozen linear layer in 4 bits; every pass computes its matrix anew and keeps none."""

    codes: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        codes, scales = codes_of(layer.weight)
        self.register_buffer("codes", codes)
        self.scales = Scales(scales)

    @property
    def weight(self) -> Tensor:
        """The matrix that the codes stand for, (out, in)."""
        flat = weights_of(self.codes, self.scales.dense())
        return flat[: self.in_features * self.out_features].view(self.out_features, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        y = QuantisedProduct.apply(x, self)
        return y if self.bias is None else y + self.bias  # type: ignore[operator,return-value]

    def dense(self) -> nn.Linear:
        """Return a plain layer of the same weights."""
        sizes = self.in_features, self.out_features
        layer = nn.Linear(
            *sizes, bias=self.bias is not None, device="meta"
        )  # no memory: weights follow
        layer.weight, layer.bias = nn.Parameter(self.weight), self.bias
        return layer


class QuantisedProduct(torch.autograd.Function):
    """x W^T of an NF4Linear; the backward pass computes W again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        """Return the (..., out) products of (..., in) rows."""
        ctx.layer = layer
        return x @ layer.weight.to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Return the gradient of the rows; the weight is frozen and has none."""
        return dy @ ctx.layer.weight.to(dy.dtype), None
