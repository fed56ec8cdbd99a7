"""Settings of the model."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from scaling.app.own_configs import choices
from scaling.config.ranges import DEEPEST, WEIGHT, WIDEST, check
from scaling.schema import OneOf, Range, Shape, checked, read_yaml

PARAMETRIZATIONS = ("layerwise", "standard", "mup", "completep")


@dataclass(kw_only=True)
@checked("model")
class ModelConfig:
    """A decoder-only transformer, dense or with a mixture of experts."""

    n_layer: Annotated[int, Range(1, DEEPEST)] = 2
    """Number of layers."""
    d_model: Annotated[int, Range(1, WIDEST)] = 32
    """Width of the residual stream."""
    d_head: Annotated[int, Range(1, WIDEST)] = 16
    """Width of an attention head; even with rotary positions, which turn pairs of dimensions."""
    n_head: Annotated[int, Range(0, WIDEST, note="0 follows d_head")] = 0
    """Number of query heads; 0 takes d_model / d_head."""
    n_kv_head: Annotated[int, Range(0, WIDEST, note="0 is n_head")] = 0
    """Number of key and value heads, a divisor of n_head; 0 takes n_head (no grouped queries)."""
    d_ff: Annotated[int, Range(0, 8 * WIDEST, note="0 follows d_model")] = 0
    """Width of the feed-forward layer; 0 takes 8/3 of d_model for swiglu, 4 times it for gelu."""
    mlp: Annotated[str, OneOf("swiglu", "gelu")] = "swiglu"
    """Kind of feed-forward layer; gelu is GPT-2's."""
    norm: Annotated[str, OneOf("rmsnorm", "layernorm")] = "rmsnorm"
    """Kind of normalisation; layernorm is GPT-2's."""
    positions: Annotated[str, OneOf("rope", "learned", "sinusoidal")] = "rope"
    """How positions enter: rotary (Su et al. 2021), a learned table, or fixed waves."""
    tied: bool = True
    """Use the embedding's table as the output head too."""
    bias: bool = False
    """Give linear layers a bias; a mixture of experts has none."""
    embedding_norm: bool = True
    """Normalise the embedding before the first layer."""
    n_experts: Annotated[int, Range(2, 65_536, also=(0,), note="0 is dense")] = 0
    """Number of experts in each feed-forward layer; 0 makes a dense model."""
    top_k: Annotated[int, Range(0, 65_536, note="0 is 2")] = 0
    """Number of experts that each token takes; 0 takes 2."""
    d_expert: Annotated[int, Range(0, 8 * WIDEST, note="0 divides d_ff")] = 0
    """Width of an expert; 0 divides d_ff among the experts that a token takes, so that the active
    parameters stay those of the dense model."""
    n_shared_experts: Annotated[int, Range(0, 65_536)] = 0
    """Number of experts that every token takes beside the top_k."""
    balance_loss: Annotated[float, WEIGHT] = 0.01
    """Weight of the loss that balances the experts' load (Switch, Fedus et al. 2021: 0.01)."""
    router_z_loss: Annotated[float, WEIGHT] = 0.001
    """Weight of the loss that keeps the router's logits small (ST-MoE, Zoph et al. 2022: 0.001)."""
    parametrization: Annotated[str, OneOf(*PARAMETRIZATIONS)] = "layerwise"
    """How initial weights, learning rates and forward pass change with width and depth
    (scaling.model.parametrization)."""
    base_width: Annotated[int, Range(1, WIDEST)] = 32
    """Width of the base model, at which all parametrisations are the same model."""
    base_depth: Annotated[int, Range(1, DEEPEST)] = 2
    """Number of layers of the base model."""
    base_head: Annotated[int, Range(1, WIDEST)] = 32
    """Width of an attention head of the base model."""

    def __post_init__(self) -> None:
        """Derive the widths that are 0, so that two ways to name a model are one identity."""
        if not self.n_head:
            check(
                "model.d_model",
                self.d_model,
                self.d_model % self.d_head == 0,
                f"is not a multiple of model.d_head={self.d_head}; change one of them",
            )
            self.n_head = self.d_model // self.d_head
        self.n_kv_head = self.n_kv_head or self.n_head
        check(
            "model.n_kv_head",
            self.n_kv_head,
            self.n_head % self.n_kv_head == 0,
            f"does not divide model.n_head={self.n_head}; choose a divisor of it",
        )
        check(
            "model.d_head",
            self.d_head,
            self.positions != "rope" or self.d_head % 2 == 0,
            "is odd, but rotary positions turn pairs of dimensions; make it even",
        )
        self.d_ff = self.d_ff or (
            4 * self.d_model if self.mlp == "gelu" else 8 * -(-self.d_model // 3)
        )
        self._resolve_experts()

    def _resolve_experts(self) -> None:
        """Derive top_k and d_expert; refuse settings of experts that contradict each other."""
        if not self.n_experts:
            for name in ("top_k", "d_expert", "n_shared_experts"):
                check(
                    f"model.{name}",
                    getattr(self, name),
                    not getattr(self, name),
                    "needs experts; set model.n_experts to 2 or more, or leave it 0",
                )
            return
        self.top_k = self.top_k or min(2, self.n_experts)
        check(
            "model.top_k",
            self.top_k,
            1 <= self.top_k <= self.n_experts,
            f"must lie between 1 and model.n_experts={self.n_experts}",
        )
        check(
            "model.bias",
            self.bias,
            not self.bias,
            "cannot be had with experts; set model.bias=false or model.n_experts=0",
        )
        self.d_expert = self.d_expert or max(
            1, round(self.d_ff / (self.top_k + self.n_shared_experts))
        )

    @property
    def plain(self) -> bool:
        """Say whether this is the dense decoder whose passes are written out for CPUs."""
        return (
            (self.norm, self.mlp) == ("rmsnorm", "swiglu")
            and self.positions != "learned"
            and not self.bias
            and not self.n_experts
            and self.n_kv_head == self.n_head
        )

    def shape(self, *, vocab_size: int, context: int) -> Shape:
        """Return the shape at a vocabulary and context, which counts parameters and FLOPs."""
        values = {
            k: v for k, v in dataclasses.asdict(self).items() if k in Shape.__dataclass_fields__
        }
        return Shape(**values, vocab_size=vocab_size, context=context)


def underived() -> ModelConfig:
    """Return a default model whose derived widths are still 0.

    Hydra merges the chosen model over this one. Widths that were derived for the default model
    would stay, and so be wrong for the chosen one.
    """
    model = object.__new__(ModelConfig)
    for f in dataclasses.fields(ModelConfig):
        setattr(model, f.name, f.default)
    return model


def rung(name: str, like: ModelConfig) -> ModelConfig:
    """Return the model of conf/model/NAME.yaml, in all else as `like`; ValueError for no rung."""
    files = choices("model")
    if name not in files:
        raise ValueError(f"ppo.reward_model={name} is no rung; choose one of {', '.join(files)}")
    shape = read_yaml(files[name])
    derived = dict.fromkeys(("n_head", "n_kv_head", "d_ff", "top_k", "d_expert"), 0)
    return ModelConfig(
        **{**dataclasses.asdict(like), **derived, **{str(k): shape[k] for k in shape}}
    )
