"""The shape of a decoder and what it costs: parameters, FLOPs, bytes.

Only matrix products count. Forward and backward together cost 3 x forward; embeddings are lookups
and cost nothing. Attention scores and values count as the full square, 4*T*d_attn per token and
layer in the forward pass (PaLM, Chowdhery et al. 2022, appendix B); the causal half would be 2.
`6 N D` is a named approximation, never the stored value. In a mixture of experts all experts count
as parameters; the chosen experts, the shared ones and the router count as active and as FLOPs.
"""

from dataclasses import asdict, dataclass
from typing import Any

from scaling.schema.record import Record
from scaling.schema.record_parts import Params

MOST_PARAMS = 1e15  # The largest shape that is searched for: 500 times the largest announced model.


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder-only transformer as numbers; `vocab_size` and `context` in tokens."""

    n_layer: int
    d_model: int
    n_head: int
    n_kv_head: int
    d_head: int
    d_ff: int
    vocab_size: int
    context: int
    mlp: str = "swiglu"
    norm: str = "rmsnorm"
    positions: str = "rope"
    tied: bool = True
    bias: bool = False
    n_experts: int = 0
    top_k: int = 0
    d_expert: int = 0
    n_shared_experts: int = 0

    @property
    def layer_matrices(self) -> int:
        """Parameters of one layer's matrices, all experts included."""
        return self._matrices(self.n_experts)

    @property
    def active_matrices(self) -> int:
        """Parameters of one layer's matrices that one token passes through."""
        return self._matrices(self.top_k)

    def _matrices(self, routed: int) -> int:
        attention = 2 * self.d_model * self.d_head * (self.n_head + self.n_kv_head)
        products = 3 if self.mlp == "swiglu" else 2
        if not self.n_experts:
            return attention + products * self.d_model * self.d_ff
        experts = (routed + self.n_shared_experts) * products * self.d_model * self.d_expert
        return attention + self.d_model * self.n_experts + experts

    @property
    def layer_vectors(self) -> int:
        """Parameters of one layer's norms and biases."""
        norms = 2 * self._norm
        if not self.bias:
            return norms
        attention = self.d_head * (self.n_head + 2 * self.n_kv_head) + self.d_model
        return norms + attention + self.d_model + (2 if self.mlp == "swiglu" else 1) * self.d_ff

    @property
    def _norm(self) -> int:
        return self.d_model * (2 if self.norm == "layernorm" else 1)

    @property
    def params(self) -> Params:
        """Parameter counts under the four conventions."""
        body = self.n_layer * (self.layer_matrices + self.layer_vectors) + self._norm
        table = self.vocab_size * self.d_model
        positions = self.context * self.d_model if self.positions == "learned" else 0
        total = body + table * (1 if self.tied else 2) + positions
        idle = self.n_layer * (self.layer_matrices - self.active_matrices)
        return Params(total=total, non_embedding=body, with_head=body + table, active=total - idle)

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token, forward and backward, at the full context."""
        matrices = self.n_layer * self.active_matrices + self.vocab_size * self.d_model
        return 6.0 * matrices + 12.0 * self.n_layer * self.n_head * self.d_head * self.context

    def training_bytes(self, batch_tokens: int) -> int:
        """Estimate peak training memory in fp32: weights, gradients, two moments, activations."""
        copies = self.top_k + self.n_shared_experts
        wide = (2 * self.d_model + 3 * self.d_expert) * copies if self.n_experts else 3 * self.d_ff
        activations = self.n_layer * (14 * self.d_model + wide + self.n_head * self.context)
        return 4 * (4 * self.params.total + batch_tokens * (activations + 3 * self.vocab_size))

    def as_model(self) -> dict[str, Any]:
        """Return the values of a model config: all but vocabulary and context."""
        return {k: v for k, v in asdict(self).items() if k not in ("vocab_size", "context")}

    @classmethod
    def from_config(cls, model: dict[str, Any], *, vocab_size: int, context: int) -> "Shape":
        """Read the shape from a record's `config["model"]`."""
        names = cls.__dataclass_fields__.keys() - {"vocab_size", "context"}
        values = {k: v for k, v in model.items() if k in names}
        return cls(**values, vocab_size=vocab_size, context=context)

    @classmethod
    def of(cls, record: Record) -> "Shape":
        """Return the shape of the model of a record."""
        vocab_size = record.setting("tokenizer", "vocab_size")
        context = record.setting("data", "context")
        return cls.from_config(record.setting("model"), vocab_size=vocab_size, context=context)


def check_size(target: float) -> None:
    """Raise ValueError for a number of parameters for which the search would not end."""
    if not 0 < target <= MOST_PARAMS:
        raise ValueError(
            f"a model of {target:.3g} parameters is planned; sizes from 1 to {MOST_PARAMS:.0e} are"
            " shaped: lower the budget, set max_params=, or look at the law's exponents"
        )
