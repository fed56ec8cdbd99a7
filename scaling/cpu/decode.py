"""One token per row through the dense decoder on a CPU, written out: most of the time of sampling.

The time of a small model's step is mostly that of calls. Here the gains of norms and the scales of
branches are multiplied into the matrices once, the embedding is normalised once, and a step is a
dozen calls per layer. The equations are those of `scaling.model.transformer`; tests compare the
logits.

Legend: B rows, C width, H heads, K head width, F hidden width, S keys so far, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from scaling.model.transformer import (
    EMBEDDING_EPS,
    NORM_EPS,
    Attention,
    Block,
    Cache,
    Transformer,
    rotary_angles,
    rotate_halves,
)


def has_decoder(model: Transformer) -> bool:
    """Say whether Decoder computes this model; the model does where it does not."""
    dtype = model.embedding.weight.dtype
    return (
        dtype == torch.float32
        and model.config.positions == "rope"
        and model.config.plain
        and model.device.type == "cpu"
    )


class Decoder:
    """A model's weights, prepared for steps of one token; the cache is `Transformer.new_cache`."""

    def __init__(self, model: Transformer) -> None:
        self.config = model.config
        self.table = model.embedding.weight
        if model.config.embedding_norm:
            self.table = F.rms_norm(self.table, (model.config.d_model,), eps=EMBEDDING_EPS)
        places = torch.arange(model.context)
        angles = rotary_angles(places, model.config.d_head, torch.float32)
        self.cos, self.sin = (a[:, None] for a in angles)  # (context, 1, K)
        self.layers = [Layer(block) for block in model.blocks]  # type: ignore[arg-type]
        gain = model.norm.weight * model.output_scale  # type: ignore[operator]
        self.head = (model.head.weight * gain).T  # (C, V)

    def step(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Return the next logits, (B, V), and add keys and values to the cache.

        tokens, positions: (B,)
        mask: (B, 1, S), 0 where a key, the new one included, may be seen and -inf elsewhere
        cache: of the tokens before
        """
        x = self.table[tokens]  # (B, C)
        cos, sin = self.cos[positions], self.sin[positions]  # (B, 1, K)
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            x = layer.step(x, cos, sin, mask, keys, values, cache.length)
        cache.length += 1
        return over_rms(x) @ self.head


class Layer:
    """One block, with its gains and scales multiplied into its matrices."""

    def __init__(self, block: Block) -> None:
        attention = block.attention
        assert isinstance(attention, Attention)
        self.n_head, self.d_head = attention.n_head, attention.d_head
        scale = attention.d_head**-0.5 if attention.scale is None else attention.scale
        qkv = attention.qkv.weight * block.norm_attention.weight  # type: ignore[operator]
        queries = qkv[: self.n_head * self.d_head] * scale
        self.qkv = torch.cat([queries, qkv[self.n_head * self.d_head :]]).T.contiguous()
        self.out = (attention.out.weight * block.branch).T.contiguous()
        self.up = (block.mlp.up.weight * block.norm_mlp.weight).T.contiguous()  # type: ignore[operator,union-attr]
        self.down = (block.mlp.down.weight * block.branch).T.contiguous()  # type: ignore[operator,union-attr]

    def step(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        keys: Tensor,
        values: Tensor,
        at: int,
    ) -> Tensor:
        """Return the residual stream after the block, (B, C).

        x: the stream before the block, (B, C)
        cos, sin: of the rotary angles, (B, 1, K)
        mask: as in `Decoder.step`
        keys, values: the layer's cache, (B, H, capacity, K)
        at: the place of the new token in the cache
        """
        B, H = len(x), self.n_head
        heads = (over_rms(x) @ self.qkv).view(B, 3 * H, self.d_head)
        qk = rotate_halves(heads[:, : 2 * H], cos, sin)  # (B, 2H, K)
        keys[:, :, at], values[:, :, at] = qk[:, H:], heads[:, 2 * H :]
        keys_so_far = keys[:, :, : at + 1].transpose(2, 3)  # (B, H, K, S)
        scores = torch.matmul(qk[:, :H, None], keys_so_far)[:, :, 0] + mask  # (B, H, S)
        mixed_values = torch.matmul(scores.softmax(-1)[:, :, None], values[:, :, : at + 1])
        x = torch.addmm(x, mixed_values.view(B, -1), self.out)
        gate, up = (over_rms(x) @ self.up).chunk(2, dim=1)  # (B, F) each
        return torch.addmm(x, F.silu(gate).mul_(up), self.down)


def over_rms(x: Tensor) -> Tensor:
    """Return each row divided by its root mean square, (B, C)."""
    square = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_()
    return x * square.div_(x.shape[1]).add_(NORM_EPS).rsqrt_()
