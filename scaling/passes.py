"""Loss and gradient of the dense decoder on a CPU, forward and backward passes written out.

A small model is bound by calls and by memory, not by products: autograd, its allocations and norms
made of many calls take half of a step of 25 thousand parameters. Here buffers and their views are
made once, a norm's gain is folded into the matrix behind it (a pass over the matrix for several
over all tokens), and gradients land in one flat tensor that is clipped at once. The equations are
those of `scaling.model`, which stays the model: weights are its own, tests hold the two equal.

Legend: n = B T tokens, C width, H heads, K head width, D = H K, F hidden width, V vocabulary.
`x` is the residual stream and `dx` the loss' gradient with respect to it, both changed in place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scaling.config import ModelConfig
from scaling.loss import score
from scaling.model import (
    EMBEDDING_EPS,
    NORM_EPS,
    Block,
    Transformer,
    document_mask,
    rotary_angles,
    sinusoids,
)

LONGEST = 512  # tokens of a row; beyond it scores no longer fit the cache and flash attention wins


def has_passes(config: ModelConfig, *, context: int, device: torch.device, precision: str) -> bool:
    """Say whether Passes computes this model; autograd does where it does not."""
    return (
        (device.type, precision) == ("cpu", "fp32")
        and (config.norm, config.mlp) == ("rmsnorm", "swiglu")
        and config.positions != "learned"
        and not config.bias
        and not config.n_experts
        and config.n_kv_head == config.n_head
        and context <= LONGEST
    )


class Passes:
    """Computes a model's mean loss on (rows, context) tokens and writes every weight's gradient.

    The gradients are views of `gradient`, the flat tensor of all of them.
    """

    def __init__(self, model: Transformer, *, rows: int, context: int) -> None:
        config, weights = model.config, list(model.parameters())
        self.model = model
        self.gradient = torch.zeros(sum(w.numel() for w in weights))
        views = self.gradient.split([w.numel() for w in weights])
        self.views = [(w, g.view_as(w)) for w, g in zip(weights, views, strict=True)]
        self.attach()
        n, d_model = rows * context, config.d_model
        apart = model.document_end is not None
        shared = Shared.of(config, rows=rows, context=context, apart=apart)
        self.x, self.dx = torch.empty(n, d_model), torch.empty(n, d_model)
        self.shared = shared
        self.parts: list[AttentionPass | SwiGLUPass] = []
        for block in model.blocks:
            assert isinstance(block, Block)
            self.parts += [AttentionPass(block, shared), SwiGLUPass(block, shared)]
        self.first = Normed(n, d_model, EMBEDDING_EPS) if config.embedding_norm else None
        self.last = Normed(n, d_model, NORM_EPS)
        self.gain: nn.Parameter = model.norm.weight  # type: ignore[assignment]
        self.hidden, self.d_hidden = torch.empty(n, d_model), torch.empty(n, d_model)
        self.sines = None
        if config.positions == "sinusoidal":
            self.sines = sinusoids(torch.arange(context), d_model, torch.float32).repeat(rows, 1)

    def attach(self) -> None:
        """Make the weights' gradients the views again, whatever they were set to."""
        for weight, gradient in self.views:
            weight.grad = gradient

    @torch.no_grad()
    def __call__(self, batch: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the mean loss in nats/token of parts of (rows, context) tokens and targets.

        Their mean gradient takes the place of the last one.
        """
        self.attach()
        if len(batch) == 1:
            return self._part(*batch[0])
        total, mean = torch.zeros(()), torch.zeros_like(self.gradient)
        for tokens, targets in batch:
            total += self._part(tokens, targets) / len(batch)
            mean.add_(self.gradient, alpha=1 / len(batch))
        self.gradient.copy_(mean)
        return total

    def _part(self, tokens: Tensor, targets: Tensor) -> Tensor:
        ids = tokens.flatten()
        if self.model.document_end is not None:
            self.shared.separate(document_mask(tokens, self.model.document_end))
        self._forward(ids)
        head, scale = self.model.head.weight, self.model.output_scale
        torch.mul(self.last.out, self.gain * scale, out=self.hidden)
        loss = score(self.hidden, head, targets.flatten(), self.d_hidden, head.grad)  # type: ignore[arg-type]
        self._backward(ids, scale)
        return loss

    def clip(self, most: float) -> Tensor:
        """Scale the gradient down to a norm of `most` (0: never); return the norm before."""
        norm = torch.linalg.vector_norm(self.gradient)
        if 0 < most < norm:
            self.gradient.mul_(most / norm)
        return norm

    def _forward(self, ids: Tensor) -> None:
        x = torch.index_select(self.model.embedding.weight, 0, ids, out=self.x)
        if self.first:
            x.copy_(self.first.forward(x))
        if self.sines is not None:
            x.add_(self.sines)
        for part in self.parts:
            part.forward(x)
        self.last.forward(x)

    def _backward(self, ids: Tensor, scale: float) -> None:
        dx, dy, spare = self.dx.zero_(), self.d_hidden, self.shared.spare
        if scale != 1:
            dy.mul_(scale)
        torch.sum(torch.mul(dy, self.last.out, out=spare), 0, out=self.gain.grad)
        self.last.backward(dx, dy.mul_(self.gain), spare)
        for part in reversed(self.parts):
            part.backward(dx)
        if self.first:
            dy.copy_(dx)
            self.first.backward(dx.zero_(), dy, spare)
        table = self.model.embedding.weight.grad
        assert table is not None
        if not self.model.config.tied:
            table.zero_()
        table.index_add_(0, ids, dx)


class Normed:
    """x over its root mean square along each row, without the gain (Zhang & Sennrich 2019)."""

    def __init__(self, n: int, width: int, eps: float) -> None:
        self.width, self.eps, self.root = width, width * eps, math.sqrt(width)
        self.out, self.rate, self.along = (torch.empty(n, k) for k in (width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return y = x r, r = (mean x^2 + eps)^-1/2."""
        torch.sum(torch.mul(x, x, out=self.out), -1, keepdim=True, out=self.rate)
        return torch.mul(x, self.rate.add_(self.eps).rsqrt_().mul_(self.root), out=self.out)

    def backward(self, dx: Tensor, dy: Tensor, spare: Tensor) -> None:
        """Add r (dy - y mean(y dy)) to dx."""
        along = torch.sum(torch.mul(dy, self.out, out=spare), -1, keepdim=True, out=self.along)
        along.mul_(self.rate)
        dx.addcmul_(dy, self.rate).addcmul_(self.out, along, value=-1 / self.width)


class Folded:
    """A norm's gain and the (O, C) matrix behind it as one matrix, and back to two gradients."""

    def __init__(self, weight: Tensor, gain: Tensor) -> None:
        self.weight, self.gain = weight, gain
        self.matrix, self.gradient = torch.empty_like(weight), torch.empty_like(weight)
        self.transposed = self.matrix.t()

    def forward(self) -> Tensor:
        """Return the transpose of weight x gain, (C, O)."""
        torch.mul(self.weight, self.gain, out=self.matrix)
        return self.transposed

    def backward(self, d_out: Tensor, y: Tensor, dy: Tensor) -> None:
        """Take (n, O) and the normed inputs (n, C); write dy and the two weights' gradients."""
        torch.mm(d_out, self.matrix, out=dy)
        torch.mm(d_out.t(), y, out=self.gradient)
        torch.mul(self.gradient, self.gain, out=self.weight.grad)
        torch.sum(self.gradient.mul_(self.weight), 0, out=self.gain.grad)


@dataclass(frozen=True)
class Shared:
    """What all layers share: shapes, rotary angles, and buffers that live within one call."""

    config: ModelConfig
    rows: int
    context: int
    angles: tuple[Tensor, Tensor] | None  # (T, K/2) each
    mask: Tensor  # (1 or B H, T, T), -inf where a query may not look
    spare: Tensor  # (n, C), as the next
    dy: Tensor
    qkv: Tensor  # (n, 3 D), values and gradients
    heads: Tensor  # (n, D)
    scores: Tensor  # (B H, T, T)
    dqkv: Tensor  # (3, B, H, T, K), gradients
    mixed: Tensor  # (B, H, T, K)
    d_up: Tensor  # (n, 2 F)
    d_act: Tensor  # (n, F)

    @classmethod
    def of(cls, config: ModelConfig, *, rows: int, context: int, apart: bool) -> "Shared":
        """Allocate for batches of rows x context; `apart` if documents are kept apart."""
        n, heads, d_head = rows * context, config.n_head, config.d_head
        angles = None
        if config.positions == "rope":
            cos, sin = rotary_angles(torch.arange(context), d_head, torch.float32)
            angles = tuple(a[:, : d_head // 2].contiguous() for a in (cos, sin))
        mask = torch.full((1, context, context), -math.inf).triu(1)
        return cls(
            config=config,
            rows=rows,
            context=context,
            angles=angles,  # type: ignore[arg-type]
            mask=mask.repeat(rows * heads, 1, 1) if apart else mask,
            spare=torch.empty(n, config.d_model),
            dy=torch.empty(n, config.d_model),
            qkv=torch.empty(n, 3 * heads * d_head),
            heads=torch.empty(n, heads * d_head),
            scores=torch.empty(rows * heads, context, context),
            dqkv=torch.empty(3, rows, heads, context, d_head),
            mixed=torch.empty(rows, heads, context, d_head),
            d_up=torch.empty(n, 2 * config.d_ff),
            d_act=torch.empty(n, config.d_ff),
        )

    def separate(self, visible: Tensor) -> None:
        """Set the mask to what a batch's queries may see, (B, 1, T, T)."""
        hidden = torch.zeros(visible.shape).masked_fill_(~visible, -math.inf)
        self.mask.view(self.rows, -1, self.context, self.context).copy_(hidden)


class AttentionPass:
    """Norm, causal attention and the residual sum of one block."""

    def __init__(self, block: Block, shared: Shared) -> None:
        attention, self.shared = block.attention, shared
        B, T, H, K = shared.rows, shared.context, attention.n_head, attention.d_head
        self.scale, self.branch = attention.scale or 1 / math.sqrt(K), block.branch
        self.norm = Normed(B * T, attention.qkv.in_features, NORM_EPS)
        self.qkv = Folded(attention.qkv.weight, block.norm_attention.weight)  # type: ignore[arg-type]
        self.out = attention.out.weight
        self.mixed = torch.empty(B * T, H * K)
        self.weights = torch.empty(B * H, T, T)  # of the softmax
        kept = torch.empty(3, B, H, T, K)
        flat = (B * H, T, K)
        self.q, self.k, self.v = (part.view(flat) for part in kept)
        self.dq, self.dk, self.dv = (part.view(flat) for part in shared.dqkv)
        packed = shared.qkv.view(B, T, 3, H, K).permute(2, 0, 3, 1, 4)  # as `kept`
        self.turned = [(kept[:2], packed[:2])], [(packed[:2], shared.dqkv[:2])]
        self.copied = (kept[2], packed[2]), (packed[2], shared.dqkv[2])
        if shared.angles is not None:
            self.turned = tuple(  # type: ignore[assignment]
                [(*to.chunk(2, -1), *of.chunk(2, -1)) for to, of in pair] for pair in self.turned
            )
        self.by_head = shared.mixed.view(flat)
        self.by_token = shared.mixed.transpose(1, 2), self.mixed.view(B, T, H, K)
        self.d_by_token = shared.heads.view(B, T, H, K).transpose(1, 2)

    def forward(self, x: Tensor) -> None:
        """Add the branch to x."""
        s = self.shared
        torch.mm(self.norm.forward(x), self.qkv.forward(), out=s.qkv)
        self._turn(0, 1.0)
        torch.baddbmm(s.mask, self.q, self.k.mT, alpha=self.scale, out=s.scores)
        torch.softmax(s.scores, -1, out=self.weights)
        torch.bmm(self.weights, self.v, out=self.by_head)
        self.by_token[1].copy_(self.by_token[0])
        x.addmm_(self.mixed, self.out.t(), alpha=self.branch)

    def backward(self, dx: Tensor) -> None:
        """Write the weights' gradients and add the branch's to dx."""
        s = self.shared
        into(s.heads, dx, self.out, self.branch)
        into(self.out.grad, dx.t(), self.mixed, self.branch)  # type: ignore[arg-type]
        s.mixed.copy_(self.d_by_token)
        d_mixed, d_scores = self.by_head, s.scores
        torch.bmm(self.weights.mT, d_mixed, out=self.dv)
        torch.bmm(d_mixed, self.v.mT, out=d_scores)
        torch.ops.aten._softmax_backward_data.out(
            d_scores, self.weights, -1, torch.float32, grad_input=d_scores
        )
        torch.baddbmm(self.dq, d_scores, self.k, beta=0, alpha=self.scale, out=self.dq)
        torch.baddbmm(self.dk, d_scores.mT, self.q, beta=0, alpha=self.scale, out=self.dk)
        self._turn(1, -1.0)
        self.qkv.backward(s.qkv, self.norm.out, s.dy)
        self.norm.backward(dx, s.dy, s.spare)

    def _turn(self, which: int, sign: float) -> None:
        """Bring queries, keys, values from by-token to by-head order (0) or gradients back (1)."""
        to, of = self.copied[which]
        to.copy_(of)
        if self.shared.angles is None:
            to, of = self.turned[which][0]
            to.copy_(of)
            return
        cos, sin = self.shared.angles
        first, second, a, b = self.turned[which][0]  # type: ignore[misc]
        torch.mul(a, cos, out=first).addcmul_(b, sin, value=-sign)
        torch.mul(b, cos, out=second).addcmul_(a, sin, value=sign)


class SwiGLUPass:
    """Norm, SwiGLU and the residual sum of one block."""

    def __init__(self, block: Block, shared: Shared) -> None:
        up, down = block.mlp.up.weight, block.mlp.down.weight  # type: ignore[union-attr]
        (d_model, d_ff), n = down.shape, shared.rows * shared.context  # type: ignore[misc]
        self.shared, self.branch, self.down = shared, block.branch, down
        self.norm = Normed(n, d_model, NORM_EPS)
        self.up = Folded(up, block.norm_mlp.weight)  # type: ignore[arg-type]
        self.product = torch.empty(n, 2 * d_ff)
        self.gate, self.linear = self.product.chunk(2, -1)
        self.silu, self.act = torch.empty(n, d_ff), torch.empty(n, d_ff)
        self.d_gate, self.d_linear = shared.d_up.chunk(2, -1)

    def forward(self, x: Tensor) -> None:
        """Add the branch to x."""
        torch.mm(self.norm.forward(x), self.up.forward(), out=self.product)
        torch.ops.aten.silu.out(self.gate, out=self.silu)
        torch.mul(self.silu, self.linear, out=self.act)
        x.addmm_(self.act, self.down.t(), alpha=self.branch)  # type: ignore[operator]

    def backward(self, dx: Tensor) -> None:
        """Write the weights' gradients and add the branch's to dx."""
        s = self.shared
        into(s.d_act, dx, self.down, self.branch)  # type: ignore[arg-type]
        into(self.down.grad, dx.t(), self.act, self.branch)  # type: ignore[arg-type]
        torch.mul(s.d_act, self.silu, out=self.d_linear)
        s.d_act.mul_(self.linear)
        torch.ops.aten.silu_backward.grad_input(s.d_act, self.gate, grad_input=self.d_gate)
        self.up.backward(s.d_up, self.norm.out, s.dy)
        self.norm.backward(dx, s.dy, s.spare)


def into(out: Tensor, a: Tensor, b: Tensor, factor: float) -> None:
    """Write factor times the product of two matrices into `out`."""
    torch.addmm(out, a, b, beta=0, alpha=factor, out=out)
