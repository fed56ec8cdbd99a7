"""Health of a model in training: activations by kind of layer, attention logits, size of a step.

Activations are root mean squares over a few sequences; attention logits grow without bound before a
run diverges (Dehghani et al. 2023, 2302.05442, section 3.2; Wortsman et al. 2023, 2309.14322).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scaling.model.parametrization import scales
from scaling.model.transformer import Attention, Block, Transformer, causal_mask
from scaling.optim.groups import by_kind
from scaling.train.ranks import as_part, own_part, whole

STRIP = 512  # Queries whose scores are held at once: those of a long context would fill a device.
PROBE_ROWS = 2  # Sequences of a probe: few, so that a probe costs little beside a step.


def health(model: Transformer, before: list[Tensor], tokens: Tensor) -> dict[str, float]:
    """Return a row's health, without values that are not finite: the step's size and a probe.

    `before` are the matrices before the step (`copy_matrices`).
    """
    return finite({"update_ratio": update_ratio(before, model), **probe(model, tokens)})


def finite(values: dict[str, float]) -> dict[str, float]:
    """Return the values that are finite."""
    return {k: v for k, v in values.items() if math.isfinite(v)}


@torch.no_grad()
def probe(model: Transformer, tokens: Tensor) -> dict[str, float]:
    """Return the activations of (B, T) tokens in the model.

    `rms_attention`, `rms_mlp`: what the branches add to the stream, mean over layers;
    `rms_stream`: the stream after the last block; `rms_logits`; `attention_logit_max`: the largest
    score of any layer.
    """
    seen: dict[str, list[Tensor]] = {}
    was_training = model.training
    model.eval()  # else a mixture would overwrite its routers' statistics of the training batch
    eager = torch.compiler.set_stance("force_eager")  # compiled code would call no hooks
    with eager, watched(model, seen):
        logits = model(tokens)
    model.train(was_training)
    scale = scales(model.config).residual
    stacked = {name: torch.stack(values) for name, values in seen.items()}
    return {
        "rms_attention": float(stacked["attention"].mean()) * scale,
        "rms_mlp": float(stacked["mlp"].mean()) * scale,
        "rms_stream": float(stacked["stream"][-1]),
        "rms_logits": float(rms(logits)),
        "attention_logit_max": float(stacked["scores"].max()),
    }


def rms(x: Tensor) -> Tensor:
    """Return the root mean square of all elements."""
    return x.float().square().mean().sqrt()


@contextmanager
def watched(model: Transformer, seen: dict[str, list[Tensor]]) -> Iterator[None]:
    """Collect the outputs' root mean squares and the largest scores while the model runs."""

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.setdefault(name, []).append(rms(output))

    def score(module: Attention, inputs: tuple[Any, ...]) -> None:
        seen.setdefault("scores", []).append(largest_score(module, inputs[0], inputs[1]))

    handles = []
    for block in model.blocks:
        assert isinstance(block, Block)
        handles += [
            block.attention.register_forward_pre_hook(score),
            block.attention.register_forward_hook(keep("attention")),
            block.mlp.register_forward_hook(keep("mlp")),
            block.register_forward_hook(keep("stream")),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def largest_score(attention: Attention, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """Return the largest causal attention logit of (B, T, C) inputs."""
    q, k, _ = attention.project(x, rope)  # (B, H, T, K), (B, G, T, K)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scale = attention.scale or 1 / math.sqrt(attention.d_head)
    largest = []
    for at in range(0, q.shape[2], STRIP):
        end = min(at + STRIP, q.shape[2])
        scores = (q[:, :, at:end] @ k[:, :, :end].mT).float() * scale  # (B, H, strip, end)
        mask = causal_mask(end - at, at, x.device)
        largest.append(scores.masked_fill(~mask, -math.inf).max())
    return torch.stack(largest).max()


def copy_matrices(model: nn.Module) -> list[Tensor]:
    """Copy this rank's hidden matrices to the CPU, to compare with after a step."""
    return [own_part(w.detach()).to("cpu", copy=True) for w in by_kind(model)[0].values()]


@torch.no_grad()
def update_ratio(before: list[Tensor], model: nn.Module) -> float:
    """Return the norm of a step over the norm of the weights, over all hidden matrices.

    One matrix at a time goes to the device: training may leave no room there for a copy of all.
    """
    norms = []
    for after, copy in zip(by_kind(model)[0].values(), before, strict=True):
        matrix = as_part(after.detach(), copy)
        both = (torch.linalg.vector_norm(t) for t in (after.detach() - matrix, matrix))
        norms.append(torch.stack([whole(n) for n in both]))
    step, size = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    return float(step / size)
