"""Mixture of experts: token-choice routing to the top k of E experts, none dropped.

A router scores every expert for every token. The token goes to the k best experts, whose outputs
are weighted by their scores, renormalised over the k (GShard, Lepikhin et al. 2020, 2006.16668).
With k = 1 the weight is the plain probability (Switch, Fedus et al. 2021, 2101.03961): renormalised
it would be 1, and the router would get no gradient. Shared experts see every token (DeepSeekMoE,
Dai et al. 2024, 2401.06066). Experts have no capacity limit, so no token is dropped (MegaBlocks,
Gale et al. 2022, 2211.15841): assignments are sorted by expert, and each expert's rows go through
one grouped product.

Legend: n tokens, C width, E experts, k experts a token, F expert width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaling.config import ModelConfig
from scaling.model.mlp import MLP, activate, up_width

ALIGNMENT = 16  # Bytes; torch's grouped product wants operands' rows to begin at multiples of it.


@dataclass
class Routing:
    """Losses and load of a layer's router for one training batch."""

    balance: Tensor  # Switch eq. 4-6: E sum_i f_i P_i, 1 when even
    z: Tensor  # ST-MoE eq. 5: mean squared log-sum-exp of the router's logits
    load: Tensor  # (E,) share of the assignments


class MoE(nn.Module):
    """Routed experts, and shared ones, in the place of the MLP.

    `routing` is of the last training batch, None before the first. Where `counted` (n,) is set, it
    is of the tokens where `counted` is True, so that padding does not count. Expert weights are
    stacked: `up` is (E, F or 2F, C), `down` (E, C, F).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.gated = config.top_k, config.mlp == "swiglu"
        E, C, d_expert = config.n_experts, config.d_model, config.d_expert
        self.router = nn.Linear(C, E, bias=False)
        self.up = nn.Parameter(torch.empty(E, up_width(config, d_expert), C))
        self.down = nn.Parameter(torch.empty(E, C, d_expert))
        shared = config.n_shared_experts * d_expert
        self.shared = MLP(config, shared) if shared else None
        self.router_scale = 1.0
        self.routing: Routing | None = None
        self.counted: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Send each token of (..., C) through its experts."""
        flat = x.reshape(-1, x.shape[-1])  # (n, C)
        weights, index = self.route(flat)  # (n, k) each
        y = self.experts(flat, weights, index).view_as(x)
        return y if self.shared is None else y + self.shared(x)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight and index of each token's experts, (n, k) each.

        They are computed in float32 whatever the precision of the model: rounded scores make
        training unstable (Fedus et al. 2021, section 2.4).
        """
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.router.weight.float()) * self.router_scale  # (n, E)
            probabilities = logits.softmax(-1)
            weights, index = probabilities.topk(self.top_k, dim=-1)
            if self.top_k > 1:
                weights = weights / weights.sum(-1, keepdim=True)
            if self.training:
                values_of_batch = (logits, probabilities, index)
                if self.counted is not None:
                    values_of_batch = (values[self.counted] for values in values_of_batch)
                self.routing = measure(*values_of_batch)
        return weights, index

    def experts(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Return the weighted sum of the chosen experts' outputs, (n, C)."""
        n, k = chosen.shape
        assigned = chosen.flatten()  # (n*k,)
        order = assigned.argsort(stable=True)
        counts = assigned.new_zeros(len(self.up)).scatter_add_(
            0, assigned, torch.ones_like(assigned)
        )
        # Copies of a token are put back by a permutation and summed by a view, never by atomic
        # additions: so the same batch gives the same bits on a GPU too.
        rows = x[:, None].expand(n, k, -1).reshape(n * k, -1)[order]  # (n*k, C)
        inner = activate(grouped_linear(rows, self.up, counts), gated=self.gated)  # (n*k, F)
        out = grouped_linear(inner, self.down, counts)  # (n*k, C)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(n * k, device=x.device))
        return (out[back].view(n, k, -1) * weights.to(out.dtype)[..., None]).sum(1)


def measure(logits: Tensor, probabilities: Tensor, chosen: Tensor) -> Routing:
    """Return load-balance loss, z loss and load of a batch; logits (n, E), chosen (n, k).

    f_i counts all k choices of a token (GShard's extension of Switch to k > 1).
    """
    n_experts = logits.shape[1]
    load = logits.new_zeros(n_experts).scatter_add_(
        0, chosen.flatten(), torch.ones_like(chosen.flatten(), dtype=logits.dtype)
    ) / float(chosen.numel())
    balance = n_experts * (load * probabilities.mean(0)).sum()
    return Routing(balance=balance, z=logits.logsumexp(-1).square().mean(), load=load)


def summary(routings: list[Routing]) -> dict[str, float]:
    """Return the routers' losses (mean over layers) and the extreme loads of the last batch.

    A load of 1 is an even share of the assignments, a load of 0 an expert that no token chose.
    """
    if not routings:
        return {}
    loads = torch.stack([r.load for r in routings])  # (layers, E)
    loads = loads * loads.shape[1]
    return {
        "router_balance": float(torch.stack([r.balance.detach() for r in routings]).mean()),
        "router_z": float(torch.stack([r.z.detach() for r in routings]).mean()),
        "expert_load_max": float(loads.max()),
        "expert_load_min": float(loads.min()),
    }


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Multiply each run of rows by its expert's matrix: (m, C) by (E, F, C) to (m, F).

    `counts` (E,) are the runs' lengths. One grouped product where torch has a kernel for the type
    and the alignment; else runs are padded to the longest and multiplied as one batch.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    if has_kernel(x, weight):
        offsets = counts.cumsum(0).int()
        return F.grouped_mm(x, weight.transpose(1, 2), offs=offsets)
    return padded_linear(x, weight, counts)


def has_kernel(x: Tensor, weight: Tensor) -> bool:
    """Say whether torch's grouped product takes these operands without a loop of its own."""
    aligned = all(size * x.element_size() % ALIGNMENT == 0 for size in weight.shape[1:])
    if x.device.type == "cpu":
        return aligned
    capable = torch.cuda.get_device_capability(x.device) >= (8, 0)
    return aligned and capable and x.dtype == torch.bfloat16


def padded_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Multiply runs padded to the longest one, as a batch of products."""
    n_experts, longest = len(weight), int(counts.max())
    expert = torch.repeat_interleave(counts, output_size=len(x))  # (m,)
    first = counts.cumsum(0) - counts
    slot = torch.arange(len(x), device=x.device) - first[expert] + expert * longest
    runs = x.new_zeros(n_experts * longest, x.shape[1]).index_copy(0, slot, x)
    out = torch.bmm(runs.view(n_experts, longest, -1), weight.transpose(1, 2))
    return out.flatten(0, 1)[slot]
