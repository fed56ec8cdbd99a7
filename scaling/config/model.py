"""Settings of the model."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from scaling.app.own_configs import choices
from scaling.config.ranges import DEEPEST, WEIGHT, WIDEST, check, one_of
from scaling.schema import (
    Range,
    Shape,
    check_ranges,
    read_yaml,
)

PARAMETRIZATIONS = ("layerwise", "standard", "mup", "completep")


@dataclass(kw_only=True)
class ModelConfig:
    """A decoder's shape; a 0 is derived: heads from d_head, d_ff from d_model.

    `n_experts` of 0 is dense. With experts, each token takes `top_k` of them (2 by default) and
    `n_shared_experts` besides; `d_expert` divides d_ff among these, so that active parameters stay
    those of the dense model. `balance_loss` (Switch, Fedus et al. 2021: 1e-2) and `router_z_loss`
    (ST-MoE, Zoph et al. 2022: 1e-3) weigh the router's losses.

    `parametrization` says how the model changes with width and depth against the base shape
    (`base_width`, `base_depth`, `base_head`): see scaling.model.parametrization.
    """

    n_layer: Annotated[int, Range(1, DEEPEST)] = 2
    d_model: Annotated[int, Range(1, WIDEST)] = 32
    d_head: Annotated[int, Range(1, WIDEST)] = 16
    n_head: Annotated[int, Range(0, WIDEST, note="0 follows d_head")] = 0
    n_kv_head: Annotated[int, Range(0, WIDEST, note="0 is n_head")] = 0
    d_ff: Annotated[int, Range(0, 8 * WIDEST, note="0 follows d_model")] = 0
    mlp: str = "swiglu"
    norm: str = "rmsnorm"
    positions: str = "rope"
    tied: bool = True
    bias: bool = False
    embedding_norm: bool = True
    n_experts: Annotated[int, Range(2, 65_536, also=(0,), note="0 is dense")] = 0
    top_k: Annotated[int, Range(0, 65_536, note="0 is 2")] = 0
    d_expert: Annotated[int, Range(0, 8 * WIDEST, note="0 divides d_ff")] = 0
    n_shared_experts: Annotated[int, Range(0, 65_536)] = 0
    balance_loss: Annotated[float, WEIGHT] = 0.01
    router_z_loss: Annotated[float, WEIGHT] = 0.001
    parametrization: str = "layerwise"
    base_width: Annotated[int, Range(1, WIDEST)] = 32
    base_depth: Annotated[int, Range(1, DEEPEST)] = 2
    base_head: Annotated[int, Range(1, WIDEST)] = 32

    def __post_init__(self) -> None:
        """Resolve the derived widths, so that two ways to say a model are one identity."""
        check_ranges(self, "model")
        one_of("model.mlp", self.mlp, ("swiglu", "gelu"))
        one_of("model.norm", self.norm, ("rmsnorm", "layernorm"))
        one_of("model.positions", self.positions, ("rope", "learned", "sinusoidal"))
        one_of("model.parametrization", self.parametrization, PARAMETRIZATIONS)
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
        """Derive top_k and d_expert; refuse a mixture that cannot be."""
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
            "is not there for stacked experts; set model.bias=false or model.n_experts=0",
        )
        self.d_expert = self.d_expert or max(
            1, round(self.d_ff / (self.top_k + self.n_shared_experts))
        )

    @property
    def plain(self) -> bool:
        """Whether it is the dense decoder whose passes are written out (scaling.cpu)."""
        return (
            (self.norm, self.mlp) == ("rmsnorm", "swiglu")
            and self.positions != "learned"
            and not self.bias
            and not self.n_experts
            and self.n_kv_head == self.n_head
        )

    def shape(self, *, vocab_size: int, context: int) -> Shape:
        """Return the countable shape at a vocabulary and context."""
        values = {
            k: v for k, v in dataclasses.asdict(self).items() if k in Shape.__dataclass_fields__
        }
        return Shape(**values, vocab_size=vocab_size, context=context)


def underived() -> ModelConfig:
    """Return a default model whose derived widths are still 0.

    Hydra merges a chosen model over the default: widths derived for the default would stay.
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
