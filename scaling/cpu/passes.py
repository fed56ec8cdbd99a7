"""Loss and gradient of the dense decoder on a CPU, forward and backward passes written out.

torch computes the matrix products; what is between them is one kernel each
(`scaling.cpu.kernels`), bound to buffers that are made once. The time of a small model's step is
that of calls and memory, not of products: autograd, its allocations and its many small operations
take most of it. A norm's gain is multiplied into the matrix after it, a branch's factor into its
matrix, and each norm first adds the branch before it. Gradients are written to one flat tensor,
which is clipped at once. The equations are those of `scaling.model.transformer`, whose weights are
used; tests compare the two.

With `precision="bf16"` inputs and outputs of products are in bfloat16 only. The residual stream,
norms, softmax, attention's scores and their gradient, loss and the weights' gradients stay in
float32. It is faster where the processor has such products: AMX, AVX-512 BF16.

Legend: n = B T tokens, C width, H heads, K head width, D = H K, F hidden width, V vocabulary.
`x` is the residual stream and `dx` the loss' gradient with respect to it, both changed in place.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scaling.config import ModelConfig
from scaling.cpu import kernels
from scaling.cpu.jit import bind
from scaling.model.loss import CHUNK_BYTES
from scaling.model.transformer import (
    EMBEDDING_EPS,
    NORM_EPS,
    Block,
    Transformer,
    document_mask,
    rotary_angles,
    sinusoids,
)

SCORE_BYTES = (
    1 << 20
)  # Bytes of attention's scores at once: they and their gradients fit the cache.
# Columns after wide rows: products are slow where rows are a power of two apart. They hold zeros:
# oneDNN reads long rows in whole tiles of 32, and a NaN there times 0 would be a NaN.
PAD = 16
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Passes:
    """Computes a model's mean loss on (rows, context) tokens and writes every weight's gradient.

    The gradients are views of the flat tensor `gradient`. Weights are read from the memory where
    they were when this was made: they must change in place.
    """

    def __init__(
        self, model: Transformer, *, rows: int, context: int, precision: str = "fp32"
    ) -> None:
        config, weights, kind = model.config, list(model.parameters()), KINDS[precision]
        self.model = model
        self.gradient = torch.zeros(sum(w.numel() for w in weights))
        views = self.gradient.split([w.numel() for w in weights])
        self.views = [(w, g.view_as(w)) for w, g in zip(weights, views, strict=True)]
        self.places = [w.data_ptr() for w in weights]
        self.set_gradients()
        apart = model.document_end is not None
        self.shared = s = Shared.of(config, rows=rows, context=context, apart=apart, kind=kind)
        self.parts: list[AttentionPass | SwiGLUPass] = []
        for block in model.blocks:
            assert isinstance(block, Block)
            self.parts += [AttentionPass(block, s), SwiGLUPass(block, s)]
        self.first = Normed(s, torch.float32, EMBEDDING_EPS) if config.embedding_norm else None
        self.head = HeadPass(model, s)
        self.ids = torch.empty(rows * context, dtype=torch.int64)
        self.add_rows = bind(kernels.add_rows, s.dx, self.ids, model.embedding.weight.grad)
        self.sines = None
        if config.positions == "sinusoidal":
            order = torch.arange(context)
            self.sines = sinusoids(order, config.d_model, torch.float32).repeat(rows, 1)

    def set_gradients(self) -> None:
        """Make the weights' gradients views of the flat tensor again, whatever they were set to."""
        for (weight, gradient), place in zip(self.views, self.places, strict=True):
            assert weight.data_ptr() == place, "a weight has moved; make its passes anew"
            weight.grad = gradient

    @torch.no_grad()
    def __call__(self, batch: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the mean loss in nats/token of parts of (rows, context) tokens and targets.

        The mean gradient of the parts replaces the last gradient.
        """
        self.set_gradients()
        self.gradient.zero_()
        losses = 0.0
        with rounded_inputs(self.shared.kind):
            for tokens, targets in batch:
                self.ids.view_as(tokens).copy_(tokens)
                if self.model.document_end is not None:
                    self.shared.separate(document_mask(tokens, self.model.document_end))
                self._forward()
                losses += self.head.step(targets, 1 / (len(self.ids) * len(batch)))
                self._backward()
        return torch.tensor(losses / (len(self.ids) * len(batch)), dtype=torch.float32)

    def clip(self, most: float) -> Tensor:
        """Scale the gradient down to a norm of `most` (0: never); return the norm before that."""
        norm = torch.linalg.vector_norm(self.gradient)
        if 0 < most < norm:
            self.gradient.mul_(most / norm)
        return norm

    def _forward(self) -> None:
        x = torch.index_select(self.model.embedding.weight, 0, self.ids, out=self.shared.x)
        self.shared.branch.zero_()
        if self.first:
            self.first.forward()
            x.copy_(self.first.out)
        if self.sines is not None:
            x.add_(self.sines)
        for part in self.parts:
            part.forward()

    def _backward(self) -> None:
        for part in reversed(self.parts):
            part.backward()
        if self.first:
            self.first.d_out.copy_(self.shared.dx)
            self.shared.dx.zero_()
            self.first.backward()
        self.add_rows()


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What all layers share: the residual stream, and buffers that live within one call."""

    config: ModelConfig
    rows: int
    context: int
    kind: torch.dtype  # of the inputs and outputs of products
    x: Tensor  # (n, C)
    dx: Tensor  # (n, C)
    low_dx: Tensor  # (n, C), dx of the kind
    branch: Tensor  # (n, C) of the kind: what is added to x; in the backward pass a norm's gradient
    mask: Tensor | None  # (B H, T, T), -inf where a query may not look; None without documents
    groups: list[slice]  # of the B H heads
    packed: Tensor  # (n, 3 D) of the kind, values and gradients
    mixed: Tensor  # (n, D) of the kind, a gradient
    heads: Tensor  # (3, B, H, T, K) of the kind, gradients
    mixed_heads: Tensor  # (1, B, H, T, K) of the kind, values and gradients
    exact_heads: Tensor  # as mixed_heads, in float32
    scores: Tensor  # (h, T, T) of float32, values and gradients of weights
    to_come: Tensor  # (T, T), -inf at the keys after a query
    d_scores: Tensor  # as the scores, of the kind; 0 at those keys
    d_up: Tensor  # (n, 2 F + PAD) of the kind
    d_act: Tensor  # (n, F) of the kind

    @classmethod
    def of(
        cls, config: ModelConfig, *, rows: int, context: int, apart: bool, kind: torch.dtype
    ) -> "Shared":
        """Allocate the buffers.

        config: of the model
        rows, context: of a batch
        apart: whether tokens attend within their document only
        kind: dtype of the inputs and outputs of products
        """
        n, heads, d_head = rows * context, config.n_head, config.d_head
        size = min(rows * heads, max(1, SCORE_BYTES // (4 * context**2)))
        square = (size, context, context)

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=kind)

        exact_heads, mixed_heads = float32_and_own(empty(1, rows, heads, context, d_head))
        return cls(
            config=config,
            rows=rows,
            context=context,
            kind=kind,
            x=torch.empty(n, config.d_model),
            dx=torch.empty(n, config.d_model),
            low_dx=empty(n, config.d_model),
            branch=empty(n, config.d_model),
            mask=torch.empty(rows * heads, context, context) if apart else None,
            groups=[slice(i, i + size) for i in range(0, rows * heads, size)],
            packed=empty(n, 3 * heads * d_head),
            mixed=empty(n, heads * d_head),
            heads=empty(3, rows, heads, context, d_head),
            mixed_heads=mixed_heads,
            exact_heads=exact_heads,
            scores=torch.empty(square),
            to_come=torch.full((context, context), -math.inf).triu_(1),
            d_scores=torch.zeros(square, dtype=kind),
            d_up=torch.zeros(n, 2 * config.d_ff + PAD, dtype=kind),
            d_act=empty(n, config.d_ff),
        )

    def separate(self, visible: Tensor) -> None:
        """Set the mask from what a batch's queries may see, (B, 1, T, T) bool."""
        assert self.mask is not None
        hidden = torch.zeros(visible.shape).masked_fill_(~visible, -math.inf)
        self.mask.view(self.rows, -1, self.context, self.context).copy_(hidden)


class Normed:
    """x over its root mean square along each row, without the gain (Zhang & Sennrich 2019)."""

    def __init__(self, shared: Shared, kind: torch.dtype, eps: float) -> None:
        s, shape = shared, shared.x.shape
        self.out, rate = torch.empty(shape, dtype=kind), torch.empty(shape[0])
        self.d_out = s.branch if kind == s.kind else torch.empty(shape, dtype=kind)
        self.forward = bind(kernels.norm, s.x, s.branch, eps, self.out, rate)
        self.backward = bind(kernels.norm_back, self.d_out, self.out, rate, s.dx, s.low_dx)


class Folded:
    """An (O, C) matrix times a gain (C,) and a factor, and its gradient's way back to both."""

    def __init__(
        self, weight: Tensor, gain: Tensor | None, factor: float, kind: torch.dtype
    ) -> None:
        self.matrix, self.gradient = (torch.empty_like(weight, dtype=kind) for _ in range(2))
        self.transposed = self.matrix.t()
        d_gain = torch.zeros(weight.shape[1]) if gain is None else gain.grad
        gain = torch.ones(weight.shape[1]) if gain is None else gain
        self.fold = bind(kernels.fold, weight, gain, factor, self.matrix)
        self.unfold = bind(kernels.unfold, self.gradient, weight, gain, factor, weight.grad, d_gain)


class NormedProduct:
    """A norm and the matrix (O, C) after it; `out` and its gradient are (n, O)."""

    def __init__(
        self, weight: Tensor, gain: Tensor, out: Tensor, d_out: Tensor, shared: Shared
    ) -> None:
        self.folded = Folded(weight, gain, 1.0, shared.kind)
        self.norm = Normed(shared, shared.kind, NORM_EPS)
        self.out, self.d_out, self.d_turned = out, d_out, d_out.t()

    def forward(self) -> None:
        """Add the branch before the norm to x; write the matrix times the normed x."""
        self.folded.fold()
        self.norm.forward()
        torch.mm(self.norm.out, self.folded.transposed, out=self.out)

    def backward(self) -> None:
        """Add to the gradients of matrix, gain and x."""
        torch.mm(self.d_out, self.folded.matrix, out=self.norm.d_out)
        torch.mm(self.d_turned, self.norm.out, out=self.folded.gradient)
        self.folded.unfold()
        self.norm.backward()


class ResidualProduct:
    """The (C, O) matrix that leads back to the residual stream, times the branch's factor.

    The inputs and their gradient are (n, O).
    """

    def __init__(
        self, weight: Tensor, factor: float, inputs: Tensor, d_inputs: Tensor, shared: Shared
    ) -> None:
        self.folded = Folded(weight, None, factor, shared.kind)
        self.inputs, self.d_inputs, self.out = inputs, d_inputs, shared.branch
        self.dx, self.dx_turned = shared.low_dx, shared.low_dx.t()

    def forward(self) -> None:
        """Write the branch, which the next norm adds to x."""
        self.folded.fold()
        torch.mm(self.inputs, self.folded.transposed, out=self.out)

    def backward(self) -> None:
        """Add to the gradient of the matrix, write that of its inputs."""
        torch.mm(self.dx, self.folded.matrix, out=self.d_inputs)
        torch.mm(self.dx_turned, self.inputs, out=self.folded.gradient)
        self.folded.unfold()


class AttentionPass:
    """Norm, causal attention and the product back to the residual stream, of one block."""

    def __init__(self, block: Block, shared: Shared) -> None:
        attention, s = block.attention, shared
        T, K, gain = s.context, attention.d_head, block.norm_attention.weight
        qkv, mixed = attention.qkv.weight, torch.empty_like(s.mixed)
        self.normed_product = NormedProduct(qkv, gain, s.packed, s.packed, shared)  # type: ignore[arg-type]
        self.residual_product = ResidualProduct(
            attention.out.weight, block.branch, mixed, s.mixed, shared
        )
        exact, low = float32_and_own(s.heads)
        angles = rotary_factors(s.config, T, attention.scale or 1 / math.sqrt(K))
        still = torch.ones(1, T, K // 2), torch.zeros(1, T, K // 2)
        lanes = (0,) * (K // 2)
        self.by_head = bind(
            kernels.by_head, s.packed, *angles, lanes, exact, unless_same(low, exact)
        )
        self.back_by_token = bind(kernels.by_token, s.heads, *angles, lanes, s.packed)
        self.by_token = bind(kernels.by_token, s.mixed_heads, *still, lanes, mixed)
        out = s.exact_heads, unless_same(s.mixed_heads, s.exact_heads)
        self.back_by_head = bind(kernels.by_head, s.mixed, *still, lanes, *out)
        weights = torch.zeros(len(s.heads[0].flatten(0, 1)), T, T, dtype=s.kind)
        self.groups = [Heads(at, exact, low, weights, shared) for at in s.groups]

    def forward(self) -> None:
        """Write the branch."""
        self.normed_product.forward()
        self.by_head()
        for heads in self.groups:
            heads.forward()
        self.by_token()
        self.residual_product.forward()

    def backward(self) -> None:
        """Add the weights' gradients and the branch's to dx."""
        self.residual_product.backward()
        self.back_by_head()
        for heads in self.groups:
            heads.backward()
        self.back_by_token()
        self.normed_product.backward()


class Heads:
    """Attention of some heads (h of B H) of a layer: as many as have their scores in the cache.

    Scores and the gradient of attention's weights are in float32: bfloat16 rounds them too much.
    """

    def __init__(
        self, at: slice, exact: Tensor, low: Tensor, weights: Tensor, shared: Shared
    ) -> None:
        s, T = shared, shared.context
        self.q, k, v = (part.flatten(0, 1)[at] for part in exact)  # (h, T, K) each
        self.low_q, self.low_k, self.low_v = (part.flatten(0, 1)[at] for part in low)
        self.dq, self.dk, self.dv = (part.flatten(0, 1)[at] for part in s.heads)
        self.mixed, self.exact_mixed = (
            part.flatten(0, 2)[at] for part in (s.mixed_heads, s.exact_heads)
        )
        self.weights = weights[at]
        self.scores, self.d_scores = (t[: len(self.q)] for t in (s.scores, s.d_scores))
        self.mask = s.mask[at] if s.mask is not None else None
        self.k_turned, self.v_turned = k.mT, v.mT
        self.weights_turned, self.d_scores_turned = self.weights.mT, self.d_scores.mT
        rows = [t.view(-1, T) for t in (self.scores, self.weights, self.d_scores)]
        self.softmax = bind(kernels.softmax, rows[0], s.to_come, rows[1])
        self.softmax_back = bind(kernels.softmax_back, *rows)

    def forward(self) -> None:
        """Mix the values."""
        torch.bmm(self.q, self.k_turned, out=self.scores)
        if self.mask is not None:
            self.scores.add_(self.mask)
        self.softmax()
        torch.bmm(self.weights, self.low_v, out=self.mixed)

    def backward(self) -> None:
        """Write the gradients of queries, keys and values."""
        torch.bmm(self.weights_turned, self.mixed, out=self.dv)
        torch.bmm(self.exact_mixed, self.v_turned, out=self.scores)
        self.softmax_back()
        torch.bmm(self.d_scores, self.low_k, out=self.dq)
        torch.bmm(self.d_scores_turned, self.low_q, out=self.dk)


class SwiGLUPass:
    """Norm, SwiGLU and the product back to the residual stream, of one block."""

    def __init__(self, block: Block, shared: Shared) -> None:
        s, gain = shared, block.norm_mlp.weight
        up, down = block.mlp.up.weight, block.mlp.down.weight  # type: ignore[union-attr]
        product, act = torch.empty_like(s.d_up), torch.empty_like(s.d_act)
        used = [t[:, :-PAD] for t in (product, s.d_up)]
        self.normed_product = NormedProduct(up, gain, *used, shared)  # type: ignore[arg-type]
        self.residual_product = ResidualProduct(down, block.branch, act, s.d_act, shared)  # type: ignore[arg-type]
        self.swiglu = bind(kernels.swiglu, product, act)
        self.swiglu_back = bind(kernels.swiglu_back, product, s.d_act, s.d_up)

    def forward(self) -> None:
        """Write the branch."""
        self.normed_product.forward()
        self.swiglu()
        self.residual_product.forward()

    def backward(self) -> None:
        """Add the weights' gradients and the branch's to dx."""
        self.residual_product.backward()
        self.swiglu_back()
        self.normed_product.backward()


class HeadPass:
    """The last norm; logits, losses and gradients, as many tokens at a time as the cache holds."""

    def __init__(self, model: Transformer, shared: Shared) -> None:
        weight, gain, kind = model.head.weight, model.norm.weight, shared.kind
        n, V = len(shared.x), weight.shape[0]
        self.folded = Folded(weight, gain, model.output_scale, kind)  # type: ignore[arg-type]
        self.norm, self.dx = Normed(shared, kind, NORM_EPS), shared.dx
        self.targets = torch.empty(n, dtype=torch.int64)
        rows, line = max(16, CHUNK_BYTES["cpu"] // (4 * V)), torch.empty(V)
        logits = torch.zeros(min(n, rows), V + PAD, dtype=kind)
        parts = (t.split(rows) for t in (self.norm.out, self.norm.d_out, self.targets))
        self.chunks = []
        for hidden, d_hidden, targets in zip(*parts, strict=True):
            z = logits[: len(targets)]
            score = bind(kernels.cross_entropy, z, targets, line)
            self.chunks.append((hidden, d_hidden, z[:, :V], z[:, :V].t(), score))

    def step(self, targets: Tensor, share: float) -> float:
        """Return the summed losses in nats of n targets; set dx to `share` times their gradient."""
        self.targets.view_as(targets).copy_(targets)
        self.folded.fold()
        self.norm.forward()
        total = 0.0
        for hidden, d_hidden, z, z_turned, score in self.chunks:
            torch.mm(hidden, self.folded.transposed, out=z)
            total += score(share)
            torch.mm(z, self.folded.matrix, out=d_hidden)
            torch.mm(z_turned, hidden, out=self.folded.gradient)
            self.folded.unfold()
        self.dx.zero_()
        self.norm.backward()
        return total


@contextmanager
def rounded_inputs(kind: torch.dtype) -> Iterator[None]:
    """Let products of float32 read their inputs as bfloat16 where `kind` is bfloat16.

    The products still add and write in float32, at more than twice the speed.
    """
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    precision_before = products.fp32_precision
    if kind == torch.bfloat16:
        products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = precision_before


def rotary_factors(config: ModelConfig, context: int, scale: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, (3, T, K/2), of queries (times attention's scale), keys, values."""
    half = config.d_head // 2
    cos, sin = torch.ones(3, context, half), torch.zeros(3, context, half)
    if config.positions == "rope":
        angles = rotary_angles(torch.arange(context), config.d_head, torch.float32)
        cos[:2], sin[:2] = (a[:, :half] for a in angles)
    cos[0] *= scale
    sin[0] *= scale
    return cos, sin


def float32_and_own(low: Tensor) -> tuple[Tensor, Tensor]:
    """Return new tensors like `low`, in float32 and in its dtype; one tensor if these are equal."""
    exact = torch.empty_like(low, dtype=torch.float32)
    return exact, exact if low.dtype == exact.dtype else torch.empty_like(low)


def unless_same(low: Tensor, exact: Tensor) -> Tensor | None:
    """Return `low`; None where it is the tensor `exact`, which is written anyway."""
    return None if low is exact else low
