"""The decoder-only transformer: RMSNorm, rotary positions, SwiGLU or experts, grouped queries.

The options `layernorm`, `gelu`, `learned`, `bias` give the GPT-2 shape (Radford et al. 2019),
`sinusoidal` the positions of Vaswani et al. 2017. Rotary positions follow Su et al. 2021 in the
half-split layout of Llama, so that weights export without a permutation. The factors of a
parametrisation (attention scale, residual branches, logits, initial weights) come from
`parametrization`.

Legend: B batch, T time, S time of keys, C width, H heads, G key/value heads, K head width,
V vocabulary.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from scaling.config import ModelConfig
from scaling.data.tokenizer import END
from scaling.model.loss import linear_cross_entropy, losses_in_pieces
from scaling.model.mlp import MLP
from scaling.model.moe import MoE, Routing
from scaling.model.parametrization import scales

ROPE_BASE = 10_000.0  # The base of the rotary angles' rates (Su et al. 2021).
NORM_EPS, EMBEDDING_EPS = 1e-5, 1e-8  # Of the blocks' norms, and of the embedding's.
# Matrices that lead back to the residual stream.
RESIDUAL_OUTPUTS = ("out.weight", "down.weight", "mlp.down")


@dataclass
class Cache:
    """Keys and values of the tokens so far, one pair per layer, filled in place.

    Made by `Transformer.new_cache`; `length` tokens of `capacity` are filled.
    """

    keys: list[Tensor]  # n_layer of (B, G, capacity, K)
    values: list[Tensor]
    length: int = 0


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.d_head = config.n_head, config.n_kv_head, config.d_head
        self.scale = scales(config).attention
        out = (config.n_head + 2 * config.n_kv_head) * config.d_head
        self.qkv = nn.Linear(config.d_model, out, bias=config.bias)
        self.out = nn.Linear(config.n_head * config.d_head, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        kv: "LayerCache | None",
    ) -> Tensor:
        """Return the attention's output, (B, T, C).

        x: the normed stream, (B, T, C)
        rope: cosine and sine of the rotary angles; None without rotary positions
        mask: True where a query may look; None for plain causal
        kv: the layer's cached keys and values, which the new ones are added to
        """
        B, T, _ = x.shape
        q, k, v = self.project(x, rope)
        if kv is not None:
            k, v = kv.append(k, v)  # (B, G, S, K)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and T > 1,
            scale=self.scale,
            enable_gqa=self.n_head != self.n_kv_head,
        )
        return self.out(y.transpose(1, 2).reshape(B, T, -1))  # (B, T, C)

    def project(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, K), keys and values (B, G, T, K), rotated by their positions."""
        B, T, _ = x.shape
        heads = self.qkv(x).view(B, T, -1, self.d_head).transpose(1, 2)  # (B, H+2G, T, K)
        qk, v = heads.split([self.n_head + self.n_kv_head, self.n_kv_head], dim=1)
        if rope is not None:
            qk = rotate(qk, *rope)  # one call for both: a small model's time is mostly calls
        q, k = qk.split([self.n_head, self.n_kv_head], dim=1)
        return q, k, v


@dataclass
class LayerCache:
    """One layer's view of a Cache."""

    keys: Tensor
    values: Tensor
    start: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values; return all up to now."""
        end = self.start + k.shape[2]
        self.keys[:, :, self.start : end] = k
        self.values[:, :, self.start : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


def norm(config: ModelConfig) -> nn.Module:
    """Return the norm of the config over the width."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.d_model, eps=NORM_EPS)
    return nn.LayerNorm(config.d_model, eps=NORM_EPS)


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_attention, self.attention = norm(config), Attention(config)
        self.norm_mlp = norm(config)
        self.mlp = MoE(config) if config.n_experts else MLP(config, config.d_ff)
        self.branch = scales(config).residual

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        kv: LayerCache | None,
    ) -> Tensor:
        """Add attention, then the MLP, to the stream."""
        x = self.add(x, self.attention(self.norm_attention(x), rope, mask, kv))
        return self.add(x, self.mlp(self.norm_mlp(x)))

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add a residual branch to the stream."""
        return x + branch if self.branch == 1 else torch.add(x, branch, alpha=self.branch)


class Transformer(nn.Module):
    """Tokens to logits.

    `context` is the number of learned positions; rotary and sinusoidal ones are computed on demand.
    With `recompute` set, training keeps only the blocks' inputs and computes the rest again (Chen
    et al. 2016, 1604.06174). With `document_end` set, no token attends to tokens before the last
    `document_end` before it. `text_end` is the token that ends a text: sampling stops there.
    """

    def __init__(self, config: ModelConfig, *, vocab_size: int, context: int) -> None:
        super().__init__()
        self.config, self.vocab_size, self.context = config, vocab_size, context
        self.recompute = False
        self.document_end: int | None = None
        self.text_end = END
        self._plain: tuple[Tensor, tuple[Tensor, Tensor]] | None = None
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        if config.positions == "learned":
            self.positions = nn.Embedding(context, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = norm(config)
        self.head = nn.Linear(config.d_model, vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        self.output_scale = scales(config).output
        self._initialise()

    def _initialise(self) -> None:
        """Set the standard deviations: matrices 1/sqrt(fan in), tables 0.02.

        Residual outputs are smaller by sqrt(2 layers). The logits then start near zero and the loss
        near log V.
        """
        factor = scales(self.config)
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                nn.init.zeros_(weight) if name.endswith("bias") else nn.init.ones_(weight)
            elif name.startswith(("embedding", "positions", "head")):
                nn.init.normal_(weight, std=0.02)
            else:
                scale = 1.0
                if name.endswith(RESIDUAL_OUTPUTS):
                    scale = factor.residual_init
                elif name.endswith("router.weight"):
                    scale = factor.router_init
                nn.init.normal_(weight, std=scale / math.sqrt(weight.shape[-1]))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """Return an empty key/value cache for `batch` rows of at most `capacity` tokens."""
        c = self.config
        like = self.embedding.weight

        def empty() -> list[Tensor]:
            size = (batch, c.n_kv_head, capacity, c.d_head)
            return [
                torch.zeros(size, dtype=like.dtype, device=like.device) for _ in range(c.n_layer)
            ]

        return Cache(keys=empty(), values=empty())

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        real: Tensor | None = None,
    ) -> Tensor:
        """Return the normed last hidden states times the logits' scale, (B, T, C).

        tokens: ids, (B, T)
        positions: (B, T) or (T,), counted from 0; default: the plain order
        mask: (B or 1, 1, T, S), True where a query may look; default: causal
        cache: the new tokens follow those stored in it, and are added to it
        real: (B, T), True for tokens that count in the routers' losses; default: all
        """
        start = cache.length if cache is not None else 0
        if positions is None:
            positions = _plain_order(start, start + tokens.shape[1], tokens.device)
        if mask is None and start and tokens.shape[1] > 1:
            mask = causal_mask(tokens.shape[1], start, tokens.device)
        if mask is None and cache is None and self.document_end is not None:
            mask = document_mask(tokens, self.document_end)
        for layer in self.mixtures():
            layer.counted = None if real is None else real.flatten()
        x, rope = self._embed(tokens, positions)
        for i, block in enumerate(self.blocks):
            kv = None if cache is None else LayerCache(cache.keys[i], cache.values[i], start)
            if self.recompute and self.training and kv is None:
                x = checkpoint(block, x, rope, mask, kv, use_reentrant=False)
            else:
                x = block(x, rope, mask, kv)  # (B, T, C)
        if cache is not None:
            cache.length += tokens.shape[1]
        x = self.norm(x)
        return x if self.output_scale == 1 else x * self.output_scale

    def _embed(
        self, tokens: Tensor, positions: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        x = self.embedding(tokens)  # (B, T, C)
        if self.config.embedding_norm:
            x = F.rms_norm(x, (self.config.d_model,), eps=EMBEDDING_EPS)
        if self.config.positions == "rope":
            return x, self._rotary(positions, x.dtype)
        if self.config.positions == "learned":
            return x + self.positions(positions), None
        return x + sinusoids(positions, self.config.d_model, x.dtype), None

    def _rotary(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the angles of the positions; those of the plain order are kept between steps."""
        if self._plain is None or self._plain[0] is not positions:
            angles = rotary_angles(positions, self.config.d_head, dtype)
            if positions.ndim == 2:
                return angles
            self._plain = (positions, angles)
        return self._plain[1]

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return the logits, (B, T, V); arguments as in `hidden`."""
        return self.head(self.hidden(tokens, positions=positions, mask=mask, cache=cache))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats/token of (B, T) targets."""
        hidden = self.hidden(tokens).flatten(0, 1)  # (B*T, C)
        return linear_cross_entropy(hidden, self.head.weight, targets.flatten())

    def token_losses(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of each of (B, T) targets in nats, and which are likeliest.

        Logits are computed in pieces, so that memory does not grow with context x vocabulary.
        """
        hidden = self.hidden(tokens).flatten(0, 1)  # (B*T, C)
        losses, hits = losses_in_pieces(hidden, self.head.weight, targets.flatten())
        return losses.view(targets.shape), hits.view(targets.shape)  # (B, T)

    def mixtures(self) -> list[MoE]:
        """Return the layers of experts; none when dense."""
        if not self.config.n_experts:
            return []
        return [block.mlp for block in self.blocks if isinstance(block.mlp, MoE)]  # type: ignore[union-attr]

    def routings(self) -> list[Routing]:
        """Return each layer's routing of the last training batch; none when dense."""
        return [layer.routing for layer in self.mixtures() if layer.routing is not None]

    def router_loss(self) -> Tensor | float:
        """Return the weighted load-balance and z losses, summed over layers; 0 when dense.

        It is added to the loss that is minimised, not to the loss that is reported.
        """
        c = self.config
        return sum(
            (c.balance_loss * r.balance + c.router_z_loss * r.z for r in self.routings()), 0.0
        )


@functools.lru_cache(maxsize=256)
def _plain_order(start: int, end: int, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.arange(start, end, device=device)


def causal_mask(n_new: int, start: int, device: torch.device) -> Tensor:
    """Return the (1, 1, T, S) mask of `n_new` queries after `start` stored tokens."""
    queries = torch.arange(start, start + n_new, device=device)[:, None]
    return (torch.arange(start + n_new, device=device)[None, :] <= queries)[None, None]


def document_mask(tokens: Tensor, end: int) -> Tensor:
    """Return the (B, 1, T, T) causal mask within documents of (B, T) tokens, each closed by `end`.

    The `end` token belongs to the document that it closes. Rotary positions need no restart.
    """
    closed = tokens == end
    return causal_within(closed.cumsum(1) - closed.long())


def causal_within(document: Tensor) -> Tensor:
    """Return the (B, 1, T, T) causal mask from the document of each token, (B, T)."""
    same = document[:, :, None] == document[:, None, :]  # (B, T, T)
    return same.tril()[:, None]


def rotary_angles(positions: Tensor, d_head: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary angles, (T, K) or (B, 1, T, K) (Su et al. 2021)."""
    with torch.inference_mode(mode=False):  # the angles are kept, and used in training too
        rates = ROPE_BASE ** (-torch.arange(0, d_head, 2, device=positions.device).float() / d_head)
        angles = positions[..., None].float() * rates  # (..., T, K/2)
        angles = torch.cat([angles, angles], dim=-1)
        if positions.ndim == 2:
            angles = angles[:, None]  # (B, 1, T, K)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of each head by the angles."""
    if x.is_cuda or torch.compiler.is_compiling():  # there the plain formula becomes one kernel
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin
    return Rotation.apply(x, cos, sin)  # type: ignore[no-any-return]


class Rotation(torch.autograd.Function):
    """`rotate` with half the passes over memory; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return the rotated halves."""
        ctx.save_for_backward(cos, sin)
        return rotate_halves(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Rotate the gradient back."""
        cos, sin = ctx.saved_tensors
        return rotate_halves(dy, cos, -sin), None, None


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return (a cos - b sin, b cos + a sin) of the halves a and b, whose angles are equal."""
    half, out = x.shape[-1] // 2, torch.empty_like(x)
    cos, sin = cos[..., :half], sin[..., :half]
    (a, b), (first, second) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=second).addcmul_(a, sin)
    return out


def sinusoids(positions: Tensor, d_model: int, dtype: torch.dtype) -> Tensor:
    """Return the (..., T, C) sinusoidal positions (Vaswani et al. 2017, section 3.5)."""
    half = -(-d_model // 2)
    rates = ROPE_BASE ** (-torch.arange(half, device=positions.device).float() / half)
    angles = positions[..., None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :d_model].to(dtype)
