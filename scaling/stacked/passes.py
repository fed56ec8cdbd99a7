"""Loss, gradient, test losses and health of several small decoders of one shape at once, on a CPU.

The time of a step of a model with a few thousand parameters is mostly that of calls. Here every
call works on all models of a stack, whose weights are side by side. Activations are feature-major,
(models, features, tokens): the contiguous axis is the long one, on which the thin products and
broadcasts of small models are two to five times as fast as token-major (scaling.cpu.passes, for one
model). Logits and their gradients stay in the cache, a few models at a time. The equations are
those of `scaling.model.transformer`; tests compare the two. The code runs on any device, but was
measured on CPUs.

Legend: S models, n = B T tokens, C width, H heads, K head width, D = H K, F hidden width,
V vocabulary. `x` is the residual stream and `dx` the loss' gradient with respect
to it, both changed in place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scaling.config import ModelConfig
from scaling.model.parametrization import scales
from scaling.model.transformer import EMBEDDING_EPS, NORM_EPS, Transformer, rotary_angles, sinusoids
from scaling.optim.groups import by_kind

LOGIT_BYTES = 1 << 19  # Bytes of logits at once: half of a core's second-level cache.
FAINT = 1e-30  # Below this probability, its logarithm is computed from the logits instead.
STRIP = (
    32  # Queries at once: their scores fit the cache, and scores of later keys are not computed.
)
VECTOR = 16  # Floats in the widest registers of a processor.


def _each_norm(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [torch.linalg.vector_norm(t) for t in tensors]


# One call for all tensors, where this release of torch has the function: it is no public name.
foreach_norm = getattr(torch, "_foreach_norm", _each_norm)


class StackedWeights:
    """The weights of S models: a tensor (S, P) per kind (matrices, vectors, tables), and views.

    A kind is one group of the optimiser. `named` has every weight as (S, *shape). Rows are padded
    to whole rows of the tables and whole vectors of the processor, so that a model's numbers do not
    depend on its place in the stack.
    """

    def __init__(self, model: Transformer, size: int, device: torch.device) -> None:
        self.kinds: list[Tensor] = []
        self.named: dict[str, Tensor] = {}
        whole = VECTOR * model.config.d_model
        for kind in by_kind(model):
            counts = [w.numel() for w in kind.values()]
            counts.append(-sum(counts) % whole)
            self.kinds.append(torch.zeros(size, sum(counts), device=device))
            parts = self.kinds[-1].split(counts, dim=1)
            for part, (name, weight) in zip(parts, kind.items(), strict=False):
                self.named[name] = part.view(size, *weight.shape)

    def fill(self, models: Sequence[Transformer]) -> None:
        """Copy the weights of S models."""
        for row, model in enumerate(models):
            for name, weight in model.named_parameters():
                self.named[name][row].copy_(weight.detach())

    def norms(self) -> Tensor:
        """Return the norm over all weights of each model, (S,).

        The models are summed one by one: torch sums a stack of one in another order than a row of
        several.
        """
        norms = [torch.stack(foreach_norm(flat.unbind())) for flat in self.kinds]
        return torch.stack(norms).square_().sum(0).sqrt_()


class StackedPasses:
    """Computes S models' losses on (S, rows, context) tokens, and writes every weight's gradient.

    Without a `gradient` it has forward passes only.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: StackedWeights,
        gradient: StackedWeights | None = None,
        *,
        rows: int,
        context: int,
    ) -> None:
        table = weights.named["embedding.weight"]  # (S, V, C)
        size, device, n = len(table), table.device, rows * context
        self.config, self.weights, self.rows, self.context = config, weights, rows, context
        self.gradient = gradient
        shared = Shared.of(config, size=size, rows=rows, context=context, device=device)
        self.shared, self.x, self.dx = shared, shared.stream(), shared.stream()
        self.parts: list[AttentionPass | SwiGLUPass] = []
        for i in range(config.n_layer):
            for kind in (AttentionPass, SwiGLUPass):
                self.parts.append(kind(f"blocks.{i}.", weights, gradient, shared))
        self.first = Normed(shared, EMBEDDING_EPS) if config.embedding_norm else None
        self.last = Normed(shared, NORM_EPS)
        self.scale = scales(config).output
        self.gain = weights.named["norm.weight"][..., None]  # (S, C, 1)
        self.d_gain = gradient and gradient.named["norm.weight"]
        tables = weights.kinds[2].view(-1, table.shape[-1])  # (S V or 2 S V, C)
        d_tables = None if gradient is None else gradient.kinds[2].view(tables.shape)
        self.tables, self.d_tables = tables, d_tables
        apart = len(tables) // size  # rows of the tables of a model
        self.offsets = torch.arange(0, len(tables), apart, device=device)[:, None]
        self.by_token = torch.empty(size * n, table.shape[-1], device=device)
        self.head = HeadPass(weights, gradient, shared)
        self.sines = None
        if config.positions == "sinusoidal":
            order = torch.arange(context, device=device)
            self.sines = sinusoids(order, config.d_model, torch.float32).t().repeat(1, rows)

    def __call__(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean losses in nats/token, (S,), of (S, rows, context) tokens and targets.

        The mean gradients replace the last gradients.
        """
        ids = self._forward(tokens)
        torch.mul(self.last.out, self.gain * self.scale, out=self.head.hidden)
        loss = self.head.step(targets.flatten(1))
        self._backward(ids)
        return loss

    def losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every token, (S, rows, context); compute no gradient."""
        self._forward(tokens)
        torch.mul(self.last.out, self.gain * self.scale, out=self.head.hidden)
        return self.head.losses(targets.flatten(1)).view(-1, self.rows, self.context)

    def probe(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the values of `scaling.train.health.probe` for each model, (S,) each."""
        x, before = self._embed(tokens)[0], torch.empty_like(self.x)
        values: dict[str, list[Tensor]] = {"attention": [], "mlp": [], "scores": []}
        for part in self.parts:
            before.copy_(x)
            if isinstance(part, AttentionPass):
                values["scores"].append(part.watched(x))
            else:
                part.forward(x)
            name = "attention" if isinstance(part, AttentionPass) else "mlp"
            values[name].append(rms(torch.sub(x, before, out=before)))
        stream = rms(x)
        torch.mul(self.last.forward(x), self.gain * self.scale, out=self.head.hidden)
        return {
            "rms_attention": torch.stack(values["attention"]).mean(0),
            "rms_mlp": torch.stack(values["mlp"]).mean(0),
            "rms_stream": stream,
            "rms_logits": self.head.rms(),
            "attention_logit_max": torch.stack(values["scores"]).amax(0),
        }

    def _embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stream before the first block, and its rows' indices in the tables, (S n,)."""
        ids = (tokens.flatten(1) + self.offsets).flatten()  # (S n,)
        rows = torch.index_select(self.tables, 0, ids, out=self.by_token)
        x = self.x.copy_(rows.view(len(self.x), -1, self.x.shape[1]).mT)
        if self.first:
            x.copy_(self.first.forward(x))
        if self.sines is not None:
            x.add_(self.sines)
        return x, ids

    def _forward(self, tokens: Tensor) -> Tensor:
        x, ids = self._embed(tokens)
        for part in self.parts:
            part.forward(x)
        self.last.forward(x)
        return ids

    def _backward(self, ids: Tensor) -> None:
        dx, dy, spare = self.dx.zero_(), self.head.d_hidden, self.shared.spare
        assert self.d_gain is not None
        assert self.d_tables is not None
        dy.mul_(self.scale / dy.shape[-1])
        torch.sum(torch.mul(dy, self.last.out, out=spare), -1, out=self.d_gain)
        self.last.backward(dx, dy.mul_(self.gain), spare)
        for part in reversed(self.parts):
            part.backward(dx)
        if self.first:
            dy.copy_(dx)
            self.first.backward(dx.zero_(), dy, spare)
        self.by_token.view(len(dx), -1, dx.shape[1]).copy_(dx.mT)
        self.d_tables.index_add_(0, ids, self.by_token)


def rms(x: Tensor) -> Tensor:
    """Return the root mean square of each model's elements, (S,)."""
    flat = x.reshape(len(x), -1)
    return torch.linalg.vector_norm(flat, dim=1) / math.sqrt(flat.shape[1])


class Normed:
    """x over its root mean square along the features, without the gain (Zhang & Sennrich 2019)."""

    def __init__(self, shared: "Shared", eps: float) -> None:
        self.out = shared.stream()
        size, width, n = self.out.shape
        self.width, self.eps, self.root = width, width * eps, math.sqrt(width)
        self.rate, self.along = (self.out.new_empty(size, 1, n) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return y = x r, r = (mean x^2 + eps)^-1/2."""
        torch.sum(torch.mul(x, x, out=self.out), 1, keepdim=True, out=self.rate)
        return torch.mul(x, self.rate.add_(self.eps).rsqrt_().mul_(self.root), out=self.out)

    def backward(self, dx: Tensor, dy: Tensor, spare: Tensor) -> None:
        """Add r (dy - y mean(y dy)) to dx."""
        along = torch.sum(torch.mul(dy, self.out, out=spare), 1, keepdim=True, out=self.along)
        along.mul_(self.rate)
        dx.addcmul_(dy, self.rate).addcmul_(self.out, along, value=-1 / self.width)


class NormedProduct:
    """A norm and the (O, C) matrices after it; its gain is multiplied into the matrices."""

    def __init__(
        self,
        matrix: str,
        gain: str,
        weights: StackedWeights,
        gradient: StackedWeights | None,
        shared: "Shared",
    ) -> None:
        self.weight, self.gain = weights.named[matrix], weights.named[gain][:, None]  # (S, 1, C)
        self.norm, self.shared = Normed(shared, NORM_EPS), shared
        self.matrix = torch.empty_like(self.weight).contiguous()
        self.by_input = torch.empty_like(self.weight.mT).contiguous()  # (S, C, O): faster to write
        self.d_weight = gradient and gradient.named[matrix]
        self.d_gain = gradient and gradient.named[gain]

    def forward(self, x: Tensor, out: Tensor) -> None:
        """Write the matrices times the normed x, (S, O, n)."""
        torch.mul(self.weight, self.gain, out=self.matrix)
        torch.bmm(self.matrix, self.norm.forward(x), out=out)

    def backward(self, dx: Tensor, d_out: Tensor) -> None:
        """Take the gradient (S, O, n); write the gradients of gain and matrices, and add to dx."""
        dy, gradient = self.shared.dy, self.by_input.mT
        torch.bmm(self.matrix.mT, d_out, out=dy)
        torch.bmm(self.norm.out, d_out.mT, out=self.by_input)
        torch.mul(gradient, self.gain, out=self.d_weight)
        torch.sum(gradient.mul_(self.weight), 1, out=self.d_gain)
        self.norm.backward(dx, dy, self.shared.spare)


class ResidualProduct:
    """The (C, O) matrices that lead back to the residual stream, times the branch's factor."""

    def __init__(
        self, matrix: str, weights: StackedWeights, gradient: StackedWeights | None, factor: float
    ) -> None:
        self.factor, self.weight = factor, weights.named[matrix]
        # Products write a contiguous tensor fastest.
        self.gradient = torch.empty_like(self.weight).contiguous()
        self.d_weight = gradient and gradient.named[matrix]

    def forward(self, x: Tensor, inputs: Tensor) -> None:
        """Add the products with (S, O, n) inputs to x."""
        x.baddbmm_(self.weight, inputs, alpha=self.factor)

    def backward(self, dx: Tensor, inputs: Tensor, d_inputs: Tensor) -> None:
        """Write the gradients of the matrices and of their inputs."""
        into(d_inputs, self.weight.mT, dx, self.factor)
        assert self.d_weight is not None
        self.d_weight.copy_(into(self.gradient, dx, inputs.mT, self.factor))


@dataclass(frozen=True)
class Shared:
    """What all layers share: shapes, rotary angles, and buffers that live within one call."""

    config: ModelConfig
    size: int
    rows: int
    context: int
    angles: tuple[Tensor, Tensor] | None  # (K/2, T) each
    mask: Tensor  # (1, T, T), -inf where a query may not look
    spare: Tensor  # (S, C, n)
    dy: Tensor  # (S, C, n)
    qkv: Tensor  # (S, 3 D, n), values and gradients
    heads: Tensor  # (S, D, n)
    scores: Tensor  # (S B H t T,), of a strip
    dqkv: Tensor  # (3, S, B, H, K, T), gradients
    d_up: Tensor  # (S, 2 F, n)
    d_act: Tensor  # (S, F, n)

    @classmethod
    def of(
        cls, config: ModelConfig, *, size: int, rows: int, context: int, device: torch.device
    ) -> "Shared":
        """Allocate the buffers.

        config: of the models
        size: models in the stack
        rows, context: of a batch of each model
        device: of the weights
        """
        n, heads, d_head = rows * context, config.n_head, config.d_head

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device=device)

        angles = None
        if config.positions == "rope":
            order = torch.arange(context, device=device)
            cos, sin = rotary_angles(order, d_head, torch.float32)
            angles = tuple(a[:, : d_head // 2].t().contiguous() for a in (cos, sin))
        return cls(
            config=config,
            size=size,
            rows=rows,
            context=context,
            angles=angles,  # type: ignore[arg-type]
            mask=torch.full((1, context, context), -math.inf, device=device).triu(1),
            spare=empty(size, config.d_model, n),
            dy=empty(size, config.d_model, n),
            qkv=empty(size, 3 * heads * d_head, n),
            heads=empty(size, heads * d_head, n),
            scores=empty(size * rows * heads * max(STRIP, context // 4) * context),
            dqkv=empty(3, size, rows, heads, d_head, context),
            d_up=empty(size, 2 * config.d_ff, n),
            d_act=empty(size, config.d_ff, n),
        )

    def stream(self) -> Tensor:
        """Return a new (S, C, n) buffer."""
        return torch.empty_like(self.spare)


class AttentionPass:
    """Norm, causal attention and the residual sum of one block."""

    def __init__(
        self, block: str, weights: StackedWeights, gradient: StackedWeights | None, shared: Shared
    ) -> None:
        config, self.shared, factors = shared.config, shared, scales(shared.config)
        S, B, T = shared.size, shared.rows, shared.context
        H, K = config.n_head, config.d_head
        self.scale = factors.attention or 1 / math.sqrt(K)
        matrix, gain = f"{block}attention.qkv.weight", f"{block}norm_attention.weight"
        self.qkv = NormedProduct(matrix, gain, weights, gradient, shared)
        self.out = ResidualProduct(
            f"{block}attention.out.weight", weights, gradient, factors.residual
        )
        self.mixed = torch.empty_like(shared.heads)
        flat = (S * B * H, K, T)
        heads_of_parts = torch.empty_like(shared.dqkv)
        self.q, self.k, self.v = (part.view(flat) for part in heads_of_parts)
        self.dq, self.dk, self.dv = (part.view(flat) for part in shared.dqkv)
        packed = shared.qkv.view(S, 3, H, K, B, T).permute(1, 0, 4, 2, 3, 5)  # as `kept`
        self.rotated = [(heads_of_parts[:2], packed[:2])], [(packed[:2], shared.dqkv[:2])]
        self.copied = (heads_of_parts[2], packed[2]), (packed[2], shared.dqkv[2])
        if shared.angles is not None:
            self.rotated = tuple(  # type: ignore[assignment]
                [(*to.chunk(2, -2), *of.chunk(2, -2)) for to, of in pair] for pair in self.rotated
            )
        tokens, d_tokens = (
            t.view(S, H, K, B, T).permute(0, 3, 1, 2, 4) for t in (self.mixed, shared.heads)
        )
        self.strips: list[Strip] = []
        edges = [*range(0, T, max(STRIP, T // 4)), T]
        for first, last in pairwise(edges):
            here, before = slice(first, last), slice(0, last)
            scores = shared.scores[: S * B * H * (last - first) * last]
            self.strips.append(
                Strip(
                    shape=(S, B, H, K, last - first),
                    widest=last == T,
                    scores=scores.view(-1, last - first, last),
                    weights=torch.empty_like(scores).view(-1, last - first, last),
                    mask=shared.mask[:, here, before],
                    mixed=tokens[..., here],
                    d_mixed=d_tokens[..., here],
                    **{n: getattr(self, n)[..., here] for n in ("q", "dq")},
                    **{n: getattr(self, n)[..., before] for n in ("k", "v", "dk", "dv")},
                )
            )

    def forward(self, x: Tensor) -> None:
        """Add the branch to x."""
        self.qkv.forward(x, self.shared.qkv)
        reorder(self.copied[0], self.rotated[0][0], self.shared.angles, 1.0)
        for strip in self.strips:
            strip.forward(self.scale)
        self.out.forward(x, self.mixed)

    def watched(self, x: Tensor) -> Tensor:
        """Add the branch to x; return each model's largest score, (S,)."""
        self.forward(x)
        largest = []
        for strip in self.strips:
            strip.forward(self.scale)  # again: later strips have overwritten its scores
            largest.append(strip.scores.view(len(x), -1).amax(1))
        return torch.stack(largest).amax(0)

    def backward(self, dx: Tensor) -> None:
        """Write the weights' gradients and add the branch's to dx."""
        s = self.shared
        self.out.backward(dx, self.mixed, s.heads)
        for strip in reversed(
            self.strips
        ):  # the widest writes dk and dv, and the others add to them
            strip.backward(self.scale)
        reorder(self.copied[1], self.rotated[1][0], s.angles, -1.0)
        self.qkv.backward(dx, s.qkv)


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Attention of t queries, a strip of T, to the s keys up to the end of the strip."""

    shape: tuple[int, ...]  # S, B, H, K, t
    widest: bool
    scores: Tensor  # (S B H, t, s), values and gradients
    weights: Tensor  # (S B H, t, s), of the softmax
    mask: Tensor  # (1, t, s)
    q: Tensor  # (S B H, K, t)
    dq: Tensor  # (S B H, K, t)
    k: Tensor  # (S B H, K, s)
    v: Tensor  # (S B H, K, s)
    dk: Tensor  # (S B H, K, s)
    dv: Tensor  # (S B H, K, s)
    mixed: Tensor  # (S, B, H, K, t), a view in the order of tokens
    d_mixed: Tensor  # (S, B, H, K, t), a view in the order of tokens

    def forward(self, scale: float) -> None:
        """Write the mixed values of the strip."""
        torch.baddbmm(self.mask, self.q.mT, self.k, alpha=scale, out=self.scores)
        torch.softmax(self.scores, -1, out=self.weights)
        self.mixed.copy_(torch.bmm(self.v, self.weights.mT).view(self.shape))

    def backward(self, scale: float) -> None:
        """Take the gradient of the mixed values; write dq, and add to dk and dv."""
        d_mixed = self.d_mixed.contiguous().view(self.q.shape)
        self._add(self.dv, torch.bmm(d_mixed, self.weights))
        d_scores = torch.bmm(d_mixed.mT, self.v, out=self.scores)
        torch.ops.aten._softmax_backward_data.out(
            d_scores, self.weights, -1, torch.float32, grad_input=d_scores
        )
        torch.mul(torch.bmm(self.k, d_scores.mT), scale, out=self.dq)
        self._add(self.dk, torch.bmm(self.q, d_scores).mul_(scale))

    def _add(self, out: Tensor, part: Tensor) -> None:
        out.copy_(part) if self.widest else out.add_(part)


class SwiGLUPass:
    """Norm, SwiGLU and the residual sum of one block."""

    def __init__(
        self, block: str, weights: StackedWeights, gradient: StackedWeights | None, shared: Shared
    ) -> None:
        self.shared, factor = shared, scales(shared.config).residual
        gain = f"{block}norm_mlp.weight"
        self.up = NormedProduct(f"{block}mlp.up.weight", gain, weights, gradient, shared)
        self.down = ResidualProduct(f"{block}mlp.down.weight", weights, gradient, factor)
        self.product = torch.empty_like(shared.d_up)
        self.gate, self.linear = self.product.chunk(2, 1)
        self.silu, self.act = (torch.empty_like(shared.d_act) for _ in range(2))
        self.d_gate, self.d_linear = shared.d_up.chunk(2, 1)

    def forward(self, x: Tensor) -> None:
        """Add the branch to x."""
        self.up.forward(x, self.product)
        torch.ops.aten.silu.out(self.gate, out=self.silu)
        torch.mul(self.silu, self.linear, out=self.act)
        self.down.forward(x, self.act)

    def backward(self, dx: Tensor) -> None:
        """Write the weights' gradients and add the branch's to dx."""
        s = self.shared
        self.down.backward(dx, self.act, s.d_act)
        torch.mul(s.d_act, self.silu, out=self.d_linear)
        s.d_act.mul_(self.linear)
        torch.ops.aten.silu_backward.grad_input(s.d_act, self.gate, grad_input=self.d_gate)
        self.up.backward(dx, s.d_up)


class HeadPass:
    """Logits, losses and their gradients, as many models and tokens at a time as the cache holds.

    `hidden` and `d_hidden`, the gradient of the losses' sum, are (S, C, n).
    """

    def __init__(
        self, weights: StackedWeights, gradient: StackedWeights | None, shared: Shared
    ) -> None:
        tied = "head.weight" not in weights.named
        name = "embedding.weight" if tied else "head.weight"
        self.weight = weights.named[name]  # (S, V, C)
        self.d_weight = gradient and gradient.named[name]
        self.d_embedding = gradient and gradient.named["embedding.weight"]
        self.hidden, self.d_hidden = shared.stream(), shared.stream()
        size, width, n = self.hidden.shape
        V = self.weight.shape[1]
        tokens = min(n, max(16, LOGIT_BYTES // (4 * V)))
        models = min(size, max(1, LOGIT_BYTES // (4 * V * n)))
        self.picked = self.hidden.new_empty(size, n, 1)  # probabilities of the targets
        logits = self.hidden.new_empty(models * tokens * V)
        self.by_feature = self.hidden.new_empty(size, width, V)  # the weights' gradient, transposed
        self.minus = self.hidden.new_full((models, tokens, 1), -1.0)
        self.tiles: list[Tile] = []
        for m in range(0, size, models):
            for t in range(0, n, tokens):
                some, those = slice(m, min(m + models, size)), slice(t, min(t + tokens, n))
                shape = (some.stop - m, those.stop - t, V)
                count = math.prod(shape)
                self.tiles.append(
                    Tile(
                        models=some,
                        tokens=those,
                        hidden=self.hidden[some, :, those],
                        d_hidden=self.d_hidden[some, :, those],
                        weight=self.weight[some],
                        by_feature=self.by_feature[some],
                        logits=logits[:count].view(shape),
                        picked=self.picked[some, those],
                        minus=self.minus[: shape[0], : shape[1]],
                    )
                )

    def step(self, targets: Tensor) -> Tensor:
        """Return the mean losses, (S,), of (S, n) targets; write the gradients of their sums."""
        n = targets.shape[1]
        for tile in self.tiles:
            y = tile.score(targets)
            z = tile.logits.scatter_add_(2, y, tile.minus)  # softmax - one-hot
            if tile.d_hidden.is_contiguous():
                torch.bmm(tile.weight.mT, z.mT, out=tile.d_hidden)
            else:
                tile.d_hidden.copy_(torch.bmm(tile.weight.mT, z.mT))
            tile.by_feature.baddbmm_(tile.hidden, z, beta=0 if tile.tokens.start == 0 else 1)
        assert self.d_weight is not None
        assert self.d_embedding is not None
        torch.mul(self.by_feature.mT, 1 / n, out=self.d_weight)
        if self.d_embedding is not self.d_weight:
            self.d_embedding.zero_()
        return torch.stack([row.mean() for row in self._losses(targets).double()]).float()

    def losses(self, targets: Tensor) -> Tensor:
        """Return the loss of each of (S, n) targets."""
        for tile in self.tiles:
            tile.score(targets)
        return self._losses(targets)

    def rms(self) -> Tensor:
        """Return the root mean square of each model's logits, (S,)."""
        total = torch.zeros(len(self.hidden), device=self.hidden.device)
        for tile in self.tiles:
            z = tile.scores()
            total[tile.models] += torch.linalg.vector_norm(z.flatten(1), dim=1).square_()
        return (total / (self.hidden.shape[2] * self.weight.shape[1])).sqrt_()

    def _losses(self, targets: Tensor) -> Tensor:
        if float(self.picked.min()) < FAINT:
            for tile in self.tiles:
                z = tile.scores()
                tile.picked.copy_(z.gather(2, tile.of(targets)) - z.logsumexp(2, keepdim=True))
            return -self.picked[..., 0]
        return -self.picked[..., 0].log()


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Views of the buffers for some models and some tokens."""

    models: slice
    tokens: slice
    hidden: Tensor  # (models, C, tokens)
    d_hidden: Tensor  # (models, C, tokens)
    weight: Tensor  # (models, V, C)
    by_feature: Tensor  # (models, C, V)
    logits: Tensor  # (models, tokens, V), then their softmax
    picked: Tensor  # (models, tokens, 1), probabilities of the targets
    minus: Tensor  # (models, tokens, 1), all -1

    def score(self, targets: Tensor) -> Tensor:
        """Compute softmax and probabilities of (S, n) targets; return the tile's targets."""
        y = self.of(targets)
        z = self.scores()
        torch.gather(torch.softmax(z, 2, out=z), 2, y, out=self.picked)
        return y

    def of(self, targets: Tensor) -> Tensor:
        """Return the targets of the tile, (models, tokens, 1)."""
        return targets[self.models, self.tokens, None]

    def scores(self) -> Tensor:
        """Compute the logits."""
        return torch.bmm(self.hidden.mT, self.weight.mT, out=self.logits)


def into(out: Tensor, a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Write factor times the products of matrices into `out`."""
    return torch.baddbmm(out, a, b, beta=0, alpha=factor, out=out)


def reorder(
    values: tuple[Tensor, Tensor],
    rotated: tuple[Tensor, ...],
    angles: tuple[Tensor, Tensor] | None,
    sign: float,
) -> None:
    """Copy values from one order of tokens and heads to the other; rotate queries and keys.

    values: destination and source of the values
    rotated: destination and source of queries and keys or, where there are angles, both halves of
        the destination, then both halves of the source
    angles: cosine and sine, (K/2, T) each; None without rotary positions
    sign: 1 rotates, -1 rotates back
    """
    destination, source = values
    destination.copy_(source)
    if angles is None:
        destination, source = rotated
        destination.copy_(source)
        return
    cos, sin = angles
    first, second, a, b = rotated
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=second).addcmul_(a, sin, value=sign)
