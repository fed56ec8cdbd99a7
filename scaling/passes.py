"""Loss and gradient of the dense decoder on a CPU, forward and backward passes written out.

A small model is bound by calls and by memory, not by products: autograd, its allocations and norms
made of many calls take half of a step of 25 thousand parameters. Here buffers and their views are
made once, a norm's gain is folded into the matrix behind it (a pass over the matrix for several
over all tokens), and gradients land in one flat tensor that is clipped at once. The equations are
those of `scaling.model`, which stays the model: weights are its own, tests hold the two equal.

With `precision="bf16"` matrices meet in bfloat16 (norms, residual stream, attention and the
softmax of the loss stay in float32), which pays where the processor has such products: AMX.

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

KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}
LONGEST = 512  # tokens of a row; beyond it scores no longer fit the cache and flash attention wins


def has_passes(config: ModelConfig, *, context: int, device: torch.device, precision: str) -> bool:
    """Say whether Passes computes this model; autograd does where it does not."""
    return device.type == "cpu" and precision in KINDS and config.plain and context <= LONGEST


class Passes:
    """Computes a model's mean loss on (rows, context) tokens and writes every weight's gradient.

    The gradients are views of `gradient`, the flat tensor of all of them.
    """

    def __init__(
        self, model: Transformer, *, rows: int, context: int, precision: str = "fp32"
    ) -> None:
        config, weights, kind = model.config, list(model.parameters()), KINDS[precision]
        self.model = model
        self.gradient = torch.zeros(sum(w.numel() for w in weights))
        views = self.gradient.split([w.numel() for w in weights])
        self.views = [(w, g.view_as(w)) for w, g in zip(weights, views, strict=True)]
        self.attach()
        n, d_model = rows * context, config.d_model
        apart = model.document_end is not None
        shared = Shared.of(config, rows=rows, context=context, apart=apart, kind=kind)
        self.x, self.dx = torch.empty(n, d_model), Cast(torch.empty(n, d_model), kind)
        self.shared = shared
        self.parts: list[AttentionPass | SwiGLUPass] = []
        for block in model.blocks:
            assert isinstance(block, Block)
            self.parts += [AttentionPass(block, shared), SwiGLUPass(block, shared)]
        self.first = Normed(n, d_model, EMBEDDING_EPS) if config.embedding_norm else None
        self.last = Normed(n, d_model, NORM_EPS)
        self.gain: nn.Parameter = model.norm.weight  # type: ignore[assignment]
        self.hidden, self.d_hidden = Cast(torch.empty(n, d_model), kind), torch.empty(n, d_model)
        self.head = Cast(model.head.weight, kind)
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
        scale = self.model.output_scale
        torch.mul(self.last.out, self.gain * scale, out=self.hidden.full)
        loss = score(
            self.hidden.down(),
            self.head.down(),
            targets.flatten(),
            self.d_hidden,
            self.head.full.grad,  # type: ignore[arg-type]
        )
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
        dx, dy, spare = self.dx.full.zero_(), self.d_hidden, self.shared.spare
        if scale != 1:
            dy.mul_(scale)
        torch.sum(torch.mul(dy, self.last.out, out=spare), 0, out=self.gain.grad)
        self.last.backward(dx, dy.mul_(self.gain), spare)
        for part in reversed(self.parts):
            part.backward(self.dx)
        if self.first:
            dy.copy_(dx)
            self.first.backward(dx.zero_(), dy, spare)
        table = self.model.embedding.weight.grad
        assert table is not None
        if not self.model.config.tied:
            table.zero_()
        table.index_add_(0, ids, dx)


class Cast:
    """A float32 tensor, and the one that products read or write for it: itself or in bfloat16."""

    def __init__(self, full: Tensor, kind: torch.dtype) -> None:
        self.full = full
        self.low = full if full.dtype == kind else torch.empty_like(full, dtype=kind)

    def down(self) -> Tensor:
        """Bring the full values to the products' kind."""
        return self.low if self.low is self.full else self.low.copy_(self.full)

    def up(self) -> Tensor:
        """Bring a product to float32."""
        return self.full if self.low is self.full else self.full.copy_(self.low)


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

    def __init__(self, n: int, weight: Tensor, gain: Tensor, kind: torch.dtype) -> None:
        self.weight, self.gain = weight, gain
        self.norm = Normed(n, weight.shape[1], NORM_EPS)
        self.normed = Cast(self.norm.out, kind)
        self.matrix, self.gradient = (Cast(torch.empty_like(weight), kind) for _ in range(2))
        self.transposed = self.matrix.low.t()

    def forward(self, x: Tensor, out: Tensor) -> None:
        """Write the matrix times the normed x, (n, O)."""
        torch.mul(self.weight, self.gain, out=self.matrix.full)
        self.matrix.down()
        self.norm.forward(x)
        torch.mm(self.normed.down(), self.transposed, out=out)

    def backward(self, dx: Tensor, d_out: Tensor, shared: "Shared") -> None:
        """Take the gradient (n, O); write the two weights' and add the input's to dx."""
        torch.mm(d_out, self.matrix.low, out=shared.dy.low)
        torch.mm(d_out.t(), self.normed.low, out=self.gradient.low)
        gradient = self.gradient.up()
        torch.mul(gradient, self.gain, out=self.weight.grad)
        torch.sum(gradient.mul_(self.weight), 0, out=self.gain.grad)
        self.norm.backward(dx, shared.dy.up(), shared.spare)


class Branch:
    """The (C, O) matrix that leads back to the residual stream, times the branch's factor."""

    def __init__(self, weight: Tensor, factor: float, kind: torch.dtype) -> None:
        self.factor = factor
        self.matrix, self.gradient = Cast(weight, kind), Cast(weight.grad, kind)  # type: ignore[arg-type]

    def forward(self, x: Tensor, inputs: Tensor, shared: "Shared") -> None:
        """Add the product with (n, O) inputs to x."""
        matrix = self.matrix.down().t()
        if inputs.dtype == x.dtype:
            x.addmm_(inputs, matrix, alpha=self.factor)
        else:
            torch.mm(inputs, matrix, out=shared.dy.low)
            x.add_(shared.dy.up(), alpha=self.factor)

    def backward(self, dx: Cast, inputs: Tensor, d_inputs: Tensor) -> None:
        """Write the gradients of the matrix and of its inputs."""
        low = dx.down()
        into(d_inputs, low, self.matrix.low, self.factor)
        into(self.gradient.low, low.t(), inputs, self.factor)
        self.gradient.up()


@dataclass(frozen=True)
class Shared:
    """What all layers share: shapes, rotary angles, and buffers that live within one call."""

    config: ModelConfig
    rows: int
    context: int
    angles: tuple[Tensor, Tensor] | None  # (T, K/2) each
    mask: Tensor  # (1 or B H, T, T), -inf where a query may not look
    kind: torch.dtype  # of what matrices multiply
    spare: Tensor  # (n, C), as the next
    dy: Cast
    qkv: Cast  # (n, 3 D), values and gradients
    heads: Cast  # (n, D)
    scores: Tensor  # (B H, T, T)
    dqkv: Tensor  # (3, B, H, T, K), gradients
    mixed: Tensor  # (B, H, T, K)
    d_up: Tensor  # (n, 2 F), of the kind, as the next
    d_act: Tensor  # (n, F)

    @classmethod
    def of(
        cls, config: ModelConfig, *, rows: int, context: int, apart: bool, kind: torch.dtype
    ) -> "Shared":
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
            kind=kind,
            spare=torch.empty(n, config.d_model),
            dy=Cast(torch.empty(n, config.d_model), kind),
            qkv=Cast(torch.empty(n, 3 * heads * d_head), kind),
            heads=Cast(torch.empty(n, heads * d_head), kind),
            scores=torch.empty(rows * heads, context, context),
            dqkv=torch.empty(3, rows, heads, context, d_head),
            mixed=torch.empty(rows, heads, context, d_head),
            d_up=torch.empty(n, 2 * config.d_ff, dtype=kind),
            d_act=torch.empty(n, config.d_ff, dtype=kind),
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
        self.scale, gain = attention.scale or 1 / math.sqrt(K), block.norm_attention.weight
        self.qkv = Folded(B * T, attention.qkv.weight, gain, shared.kind)  # type: ignore[arg-type]
        self.out = Branch(attention.out.weight, block.branch, shared.kind)
        self.mixed = Cast(torch.empty(B * T, H * K), shared.kind)
        self.weights = torch.empty(B * H, T, T)  # of the softmax
        kept = torch.empty(3, B, H, T, K)
        flat = (B * H, T, K)
        self.q, self.k, self.v = (part.view(flat) for part in kept)
        self.dq, self.dk, self.dv = (part.view(flat) for part in shared.dqkv)
        packed = shared.qkv.full.view(B, T, 3, H, K).permute(2, 0, 3, 1, 4)  # as `kept`
        self.turned = [(kept[:2], packed[:2])], [(packed[:2], shared.dqkv[:2])]
        self.copied = (kept[2], packed[2]), (packed[2], shared.dqkv[2])
        if shared.angles is not None:
            self.turned = tuple(  # type: ignore[assignment]
                [(*to.chunk(2, -1), *of.chunk(2, -1)) for to, of in pair] for pair in self.turned
            )
        self.by_head = shared.mixed.view(flat)
        self.by_token = shared.mixed.transpose(1, 2), self.mixed.full.view(B, T, H, K)
        self.d_by_token = shared.heads.full.view(B, T, H, K).transpose(1, 2)

    def forward(self, x: Tensor) -> None:
        """Add the branch to x."""
        s = self.shared
        self.qkv.forward(x, s.qkv.low)
        s.qkv.up()
        reorder(self.copied[0], self.turned[0][0], s.angles, 1.0)
        torch.baddbmm(s.mask, self.q, self.k.mT, alpha=self.scale, out=s.scores)
        torch.softmax(s.scores, -1, out=self.weights)
        torch.bmm(self.weights, self.v, out=self.by_head)
        self.by_token[1].copy_(self.by_token[0])
        self.out.forward(x, self.mixed.down(), s)

    def backward(self, dx: Cast) -> None:
        """Write the weights' gradients and add the branch's to dx."""
        s = self.shared
        self.out.backward(dx, self.mixed.low, s.heads.low)
        s.heads.up()
        s.mixed.copy_(self.d_by_token)
        d_mixed, d_scores = self.by_head, s.scores
        torch.bmm(self.weights.mT, d_mixed, out=self.dv)
        torch.bmm(d_mixed, self.v.mT, out=d_scores)
        torch.ops.aten._softmax_backward_data.out(
            d_scores, self.weights, -1, torch.float32, grad_input=d_scores
        )
        torch.baddbmm(self.dq, d_scores, self.k, beta=0, alpha=self.scale, out=self.dq)
        torch.baddbmm(self.dk, d_scores.mT, self.q, beta=0, alpha=self.scale, out=self.dk)
        reorder(self.copied[1], self.turned[1][0], s.angles, -1.0)
        self.qkv.backward(dx.full, s.qkv.down(), s)


class SwiGLUPass:
    """Norm, SwiGLU and the residual sum of one block."""

    def __init__(self, block: Block, shared: Shared) -> None:
        up, down = block.mlp.up.weight, block.mlp.down.weight  # type: ignore[union-attr]
        d_ff, n, kind = down.shape[1], shared.rows * shared.context, shared.kind  # type: ignore[index]
        self.shared = shared
        self.up = Folded(n, up, block.norm_mlp.weight, kind)  # type: ignore[arg-type]
        self.down = Branch(down, block.branch, kind)  # type: ignore[arg-type]
        self.product = torch.empty(n, 2 * d_ff, dtype=kind)
        self.gate, self.linear = self.product.chunk(2, -1)
        self.silu, self.act = (torch.empty(n, d_ff, dtype=kind) for _ in range(2))
        self.d_gate, self.d_linear = shared.d_up.chunk(2, -1)

    def forward(self, x: Tensor) -> None:
        """Add the branch to x."""
        self.up.forward(x, self.product)
        torch.ops.aten.silu.out(self.gate, out=self.silu)
        torch.mul(self.silu, self.linear, out=self.act)
        self.down.forward(x, self.act, self.shared)

    def backward(self, dx: Cast) -> None:
        """Write the weights' gradients and add the branch's to dx."""
        s = self.shared
        self.down.backward(dx, self.act, s.d_act)
        torch.mul(s.d_act, self.silu, out=self.d_linear)
        s.d_act.mul_(self.linear)
        torch.ops.aten.silu_backward.grad_input(s.d_act, self.gate, grad_input=self.d_gate)
        self.up.backward(dx.full, s.d_up, s)


def into(out: Tensor, a: Tensor, b: Tensor, factor: float) -> None:
    """Write factor times the product of two matrices into `out`."""
    torch.addmm(out, a, b, beta=0, alpha=factor, out=out)


def reorder(
    values: tuple[Tensor, Tensor],
    turned: tuple[Tensor, ...],
    angles: tuple[Tensor, Tensor] | None,
    sign: float,
) -> None:
    """Copy values from one order of tokens and heads to the other, queries and keys turned.

    `values` is (to, of); `turned` is that too where there are no `angles`, else the halves of to,
    then those of of. The sign -1 turns back.
    """
    to, of = values
    to.copy_(of)
    if angles is None:
        to, of = turned
        to.copy_(of)
        return
    cos, sin = angles
    first, second, a, b = turned
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=second).addcmul_(a, sin, value=sign)
