"""The optimisers, with a learning rate of its own for each kind of weight.

AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only, or Muon for hidden matrices and
AdamW for the rest.
"""

import functools
import operator
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scaling.config import ModelConfig, OptimConfig
from scaling.model.parametrization import scales
from scaling.optim.groups import by_kind, rows_apart
from scaling.optim.muon import Muon


def make_optimizer(
    model: nn.Module, config: OptimConfig, peak_lr: float
) -> torch.optim.AdamW | Muon:
    """Return the optimiser: three groups, each with its `peak` learning rate.

    Hidden matrices have `peak_lr` and the weight decay. Tables and vectors have the rates of the
    config, multiplied by the ratio of `peak_lr` to the recipe's peak rate.
    """
    shape: ModelConfig = model.config  # type: ignore[assignment]
    factor, scale = scales(shape), peak_lr / config.recipe(shape).peak_lr(shape.d_model)
    matrices, vectors, tables = by_kind(model)
    groups = [
        {
            "params": list(matrices.values()),
            "peak": peak_lr,
            "weight_decay": config.weight_decay * factor.decay,
            "eps": config.eps * factor.eps_blocks,
        },
        {
            "params": list(vectors.values()),
            "peak": config.lr_base * scale,
            "weight_decay": 0.0,
            "eps": config.eps * factor.eps_blocks,
        },
        {
            "params": list(tables.values()),
            "peak": config.lr_embedding * scale,
            "weight_decay": 0.0,
            "eps": config.eps * factor.eps_tables,
        },
    ]
    groups = [g for g in groups if g["params"]]
    if config.name == "muon" and matrices:
        parts = [rows_apart(name, w, shape) for name, w in matrices.items()]
        groups[0] |= {"parts": parts, "momentum": config.momentum}
        return Muon(groups[0], adamw(groups[1:], config, peak_lr))
    return adamw(groups, config, peak_lr)


class AdamW(torch.optim.AdamW):
    """torch's fused AdamW without the work around its kernel, most of a small model's step.

    Lists of moments are made once, and again where a checkpoint brings new tensors. Steps are
    counted in one tensor on the weights' device; every weight's `step` is an element of it. torch's
    own step is used where this release of torch has another kernel (`fused_kernel`).
    """

    _states: tuple[dict[str, Tensor], ...] = ()  # of the weights last updated, in their order
    _counts: Tensor
    _each: tuple[Tensor, ...]  # its elements
    _moments: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        groups = [(g, [w for w in g["params"] if w.grad is not None]) for g in self.param_groups]
        states = [self.state[w] for _, weights in groups for w in weights]
        kernel = fused_kernel()
        if kernel is None or not all(states):
            self._follow(states)
            super().step()  # also the first step, which makes the moments
            return
        if len(states) != len(self._states) or any(map(operator.is_not, states, self._states)):
            self._gather(states)
        self._counts.add_(1)
        start = 0
        for group, weights in groups:
            here = slice(start, start := start + len(weights))
            if not weights:
                continue
            kernel(
                weights,
                [w.grad for w in weights],
                *(each[here] for each in self._moments),
                [],
                self._each[here],
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _follow(self, states: list[dict[str, Tensor]]) -> None:
        """Move every `step` to the device of its moments: a checkpoint or a stack has it on CPU."""
        for state in filter(None, states):
            state["step"] = state["step"].to(state["exp_avg"].device)

    def _gather(self, states: list[dict[str, Tensor]]) -> None:
        self._follow(states)
        self._counts = torch.stack([s["step"] for s in states])
        self._each = self._counts.unbind()
        for state, count in zip(states, self._each, strict=True):
            state["step"] = count
        self._moments = tuple(  # type: ignore[assignment]
            tuple(s[name] for s in states) for name in ("exp_avg", "exp_avg_sq")
        )
        self._states = tuple(states)


AdamW.step.hooked = True  # type: ignore[attr-defined]  # torch's hook for its profiler costs as much as the step


@functools.cache
def fused_kernel() -> Callable[..., None] | None:
    """Return torch's fused AdamW kernel; None where a release of torch lacks or changed it.

    The kernel is no public name of torch. It is therefore tried on one weight whose first step is
    known.
    """
    kernel = getattr(torch, "_fused_adamw_", None)
    if kernel is None:
        return None
    weight, gradient, first, second, count = torch.tensor(
        [[1.0], [2.0], [0.0], [0.0], [1.0]], device="cpu"
    )
    lists = [weight], [gradient], [first], [second], [], [count[0]]
    rates = {"lr": 0.25, "beta1": 0.5, "beta2": 0.5, "weight_decay": 1.0, "eps": 0.0}
    try:
        kernel(*lists, **rates, amsgrad=False, maximize=False)
    except (TypeError, RuntimeError):
        return None
    values = torch.cat([weight, first, second]).tolist()
    # 1 less a quarter of decay and a quarter of rate; means of gradient and square
    return kernel if values == [0.5, 1.0, 2.0] else None


def adamw(groups: list[dict], config: OptimConfig, lr: float) -> AdamW:
    """Return a fused AdamW of the groups."""
    return AdamW(groups, lr=lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
