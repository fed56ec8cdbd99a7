"""Muon: momentum whose matrices are made orthogonal, at AdamW's learning rates.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the scale of Liu et al. 2025
(2502.16982, section 2.2): 0.2 sqrt(max(rows, columns)) gives an update the root mean square of
AdamW's, so that both share rate and weight decay.

Written by hand on purpose: torch.optim.Muon updates one two-dimensional weight after another. Here
all matrices of one shape, of all layers and experts, go through the iteration as one batch, and the
parts of a fused weight (query, key, value; gate, up) are orthogonalised separately, as in Liu et
al. 2025.
"""

import math
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Of the iteration; steepest at zero (Jordan et al. 2024).
ITERATIONS = 5  # Jordan et al. 2024.
RMS = 0.2  # The root mean square of an AdamW update (Liu et al. 2025).


class Muon(torch.optim.Optimizer):
    """Muon on one group of matrices, AdamW on the others; one state, one list of groups.

    The group `matrices` holds `params` (2-d, or stacked 3-d), `parts` (for each weight the rows of
    the matrices in it), `peak`, `weight_decay`, `momentum`.
    """

    def __init__(self, matrices: dict[str, Any], others: torch.optim.AdamW) -> None:
        super().__init__([matrices], {"lr": matrices["peak"]})
        self.others = others
        self.param_groups += others.param_groups
        self.state = others.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        self.others.step()
        group = self.param_groups[0]
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for weight, parts in zip(group["params"], group["parts"], strict=True):
            if weight.grad is None:
                continue
            direction = self._direction(weight, weight.grad, group["momentum"])
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            for w, d in zip(weight.split(parts, -2), direction.split(parts, -2), strict=True):
                by_shape.setdefault((w.shape[-2], w.shape[-1]), []).append((w, d))
        for (rows, columns), pairs in by_shape.items():
            batch = torch.cat([d.reshape(-1, rows, columns) for _, d in pairs])
            rate = group["lr"] * RMS * math.sqrt(max(rows, columns))
            updates = orthogonal(batch).split([d.numel() // (rows * columns) for _, d in pairs])
            for (w, _), update in zip(pairs, updates, strict=True):
                w.sub_(update.view(w.shape), alpha=rate)

    def _direction(self, weight: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """Return Nesterov's momentum of the gradient, and store the momentum."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Move the singular values of (batch, rows, columns) towards 1 by Newton-Schulz iterations.

    They end between about 0.7 and 1.2. The iteration is robust to rounding: it runs in bfloat16 on
    a GPU, where such products are fast, and in float32 elsewhere.
    """
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
