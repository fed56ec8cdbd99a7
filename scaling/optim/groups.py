"""Which weights share an optimizer's settings."""

from torch import Tensor, nn

from scaling.config import ModelConfig

EMBEDDINGS = ("embedding", "positions", "head")  # How the names of tables by token begin.


def by_kind(
    model: nn.Module,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Divide the trainable weights into hidden matrices, vectors, and tables by token."""
    matrices, vectors, tables = {}, {}, {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        kind = vectors if weight.ndim < 2 else tables if name.startswith(EMBEDDINGS) else matrices
        kind[name] = weight
    return matrices, vectors, tables


def rows_apart(name: str, weight: Tensor, shape: ModelConfig) -> list[int]:
    """Return the rows of each matrix that a fused weight holds: query, key, value; gate, up."""
    rows = weight.shape[-2]
    if name.endswith("qkv.weight"):
        kv = shape.n_kv_head * shape.d_head
        return [rows - 2 * kv, kv, kv]
    if shape.mlp == "swiglu" and name.endswith(("up.weight", "mlp.up")):
        return [rows // 2] * 2
    return [rows]
