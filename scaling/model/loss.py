"""Cross-entropy of a linear head without ever holding all logits.

Logits are computed, scored and turned into gradients a few rows at a time while they are in the
cache (as in Liger, Hsu et al. 2024, 2410.10989). On a CPU the passes over a (tokens, V) array would
cost more than the products of a small model; on a GPU all logits would take most of the memory.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = {  # Bytes of logits at once, by device.
    "cpu": 1 << 20,  # about a core's second-level cache
    "cuda": 1 << 28,  # products that fill the device; fewer logits than this are not cut
}

PIECE_BYTES = (
    1 << 28
)  # Bytes of logits at once where a model is scored: three copies of them exist.


def score(
    hidden: Tensor, weight: Tensor, targets: Tensor, d_hidden: Tensor, d_weight: Tensor
) -> Tensor:
    """Return the mean of -log softmax(hidden @ weight.T)[target] in nats; write its gradients.

    Products are computed in hidden's dtype, softmax and gradients in float32.

    hidden: the states before the head, (n, C)
    weight: of the head, (V, C)
    targets: token ids, (n,)
    d_hidden, d_weight: buffers that the gradients are written to, shaped like hidden and weight
    """
    n = len(targets)
    rows = max(16, CHUNK_BYTES[hidden.device.type] // (4 * weight.shape[0]))
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    d_weight.zero_()
    for at in range(0, n, rows):
        h, y = hidden[at : at + rows], targets[at : at + rows, None]
        z = torch.mm(h, weight.t()).float()  # (rows, V); out= would hide it from FLOP counters
        picked, top = z.gather(1, y), z.amax(1, keepdim=True)
        z = torch.softmax(z, 1)
        # the largest probability is one over the sum of exp(z - top)
        total += (top - z.amax(1, keepdim=True).log_() - picked).sum(dtype=torch.float64)
        z.scatter_add_(1, y, z.new_full((len(h), 1), -1.0))  # softmax - one-hot
        z = z.to(h.dtype)
        d_hidden[at : at + rows] = torch.mm(z, weight)
        d_weight += torch.mm(z.t(), h)
    d_hidden.div_(n)
    d_weight.div_(n)
    return (total / n).to(d_hidden.dtype)


class LinearCrossEntropy(torch.autograd.Function):
    """`score` under autograd; the forward pass computes the gradients."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Return the loss in nats; hidden (n, C), weight (V, C), targets (n,)."""
        d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)
        kind, device = hidden.dtype, hidden.device.type
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
        loss = score(hidden.to(kind), weight.to(kind), targets, d_hidden, d_weight)
        ctx.save_for_backward(d_hidden, d_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scale the gradients of the forward pass."""
        d_hidden, d_weight = ctx.saved_tensors
        return d_hidden * gradients[0], d_weight * gradients[0], None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats/token of (n, C) states and an unbiased (V, C) head.

    With gradients the two steps are fused: on a CPU in float32, on a GPU for large logits.
    """
    if torch.is_grad_enabled() and pays(hidden, weight):
        return LinearCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-any-return]
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


@torch.no_grad()
def losses_in_pieces(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, n_bytes: int = PIECE_BYTES
) -> tuple[Tensor, Tensor]:
    """Return each token's cross-entropy in nats, and whether it is the likeliest; both (n,).

    hidden: the states before the head, (n, C)
    weight: of the head, (V, C)
    targets: token ids, (n,)
    n_bytes: of logits in fp32 at once: a window of 131,072 tokens would have 67 GB of them in a
        vocabulary as large
    """
    rows = max(1, n_bytes // (4 * len(weight)))
    losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    hits = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
    for at in range(0, len(targets), rows):
        here = slice(at, at + rows)
        logits = F.linear(hidden[here], weight).float()  # (rows, V)
        losses[here] = F.cross_entropy(logits, targets[here], reduction="none")
        hits[here] = logits.argmax(-1) == targets[here]
    return losses, hits


def pays(hidden: Tensor, weight: Tensor) -> bool:
    """Say whether fusing head and loss is faster or saves memory for (n, C) states."""
    if hidden.device.type == "cpu":
        return hidden.dtype == torch.float32
    return 4 * len(hidden) * len(weight) > CHUNK_BYTES.get(hidden.device.type, math.inf)
