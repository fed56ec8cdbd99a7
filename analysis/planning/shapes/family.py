"""The family of shapes that a plan chooses from where no study fixes it, and its width rule.

`ladder` keeps depth by width as the study or Chinchilla's table has it; `levine` takes the width
from the depth, ln d = 5.039 + .0555 l (Levine et al. 2020, 2006.12467: the depth up to which layers
are worth more than width), the heads then rounded to a multiple that the hardware likes.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Annotated

from analysis.runs.study import Study
from scaling.schema import OneOf, Range, Shape, check_size, checked

RULES = ("ladder", "levine")
VOCAB_RULES = ("tokenizer", "tao")
MLPS, NORMS = ("swiglu", "gelu"), ("rmsnorm", "layernorm")  # those of scaling.config.model
TAO = (0.20, 0.42)  # V d = .20 C^.42: released code of Tao et al. 2024, 3.3e7 to 3e9 parameters
VOCAB_STEP = 128  # the vocabulary is a multiple of it, for fast matrix products
LEVINE = (5.039, 0.0555)  # ln width = 5.039 + .0555 depth (Levine et al. 2020)
DEEPEST = 200  # layers, the most that are tried


@dataclass(kw_only=True)
@checked("shape")
class FamilySettings:
    """The family of shapes to choose from, where no study fixes it; null keeps its own value."""

    rule: Annotated[str, OneOf(*RULES)] = "ladder"
    """How width follows depth: in the ladder's proportion, or by Levine et al. 2020."""
    vocab_rule: Annotated[str, OneOf(*VOCAB_RULES)] = "tokenizer"
    """Where the vocabulary comes from: the family's tokenizer, or the budget (tao: Tao et al. 2024,
    2407.13623)."""
    vocab_size: Annotated[int, Range(2, 2**24)] | None = None
    """Number of tokens in the vocabulary."""
    context: Annotated[int, Range(1, 2**24)] | None = None
    """Tokens of a training window."""
    d_head: Annotated[int, Range(1, 131_072)] | None = None
    """Width of an attention head."""
    ffn_ratio: Annotated[float, Range(0, 1e6, above=True)] | None = None
    """Width of the feed-forward layer over the model's."""
    heads_multiple: Annotated[int, Range(1, 131_072)] | None = None
    """Number that the heads are a multiple of, so that devices share them evenly; null takes 8
    where a plan without a study is of real size (1e22 FLOPs), else 1."""
    kv_heads: Annotated[int, Range(0, 131_072, note="0 is one for each head")] | None = None
    """Key-value heads, shared by groups of heads (Ainslie et al. 2023, 2305.13245); 0 is one for
    each head; null takes 8 where a plan without a study is of real size, else 0."""
    mlp: Annotated[str, OneOf(*MLPS)] | None = None
    """Kind of feed-forward layer."""
    tied: bool | None = None
    """Use the embedding's table as the output head too."""
    bias: bool | None = None
    """Give linear layers a bias."""
    norm: Annotated[str, OneOf(*NORMS)] | None = None
    """Kind of normalisation."""

    def __post_init__(self) -> None:
        """Refuse two settings of the vocabulary."""
        if self.vocab_rule == "tao" and self.vocab_size is not None:
            raise ValueError(
                f"shape.vocab_rule=tao and shape.vocab_size={self.vocab_size} both set the"
                " vocabulary; give one of them"
            )

    def changes(self) -> dict[str, object]:
        """Return the settings of the family that are to change."""
        rules = ("rule", "vocab_rule", "heads_multiple", "kv_heads")
        return {k: v for k, v in asdict(self).items() if v is not None and k not in rules}


def with_family(study: Study, settings: FamilySettings) -> Study:
    """Return the study with its family changed; ValueError where cells were trained on another."""
    changes = settings.changes()
    if settings.heads_multiple is not None:
        study = replace(study, heads_multiple=settings.heads_multiple)
    if settings.kv_heads is not None:
        study = replace(study, kv_heads=settings.kv_heads)
    given = [*changes, *(["kv_heads"] if settings.kv_heads is not None else [])]
    if study.cells and given:
        raise ValueError(
            f"shape.{min(given)} would leave the family that {study.source} trained, and its law"
            " with it; leave it out, or sweep the other family"
        )
    if not changes:
        return study
    ratio = changes.pop("ffn_ratio", study.like.d_ff / study.like.d_model)
    like = replace(study.like, **changes)  # type: ignore[arg-type]
    n_head = max(1, like.d_model // like.d_head)
    width = n_head * like.d_head
    like = replace(
        like,
        d_model=width,
        n_head=n_head,
        n_kv_head=n_head,
        d_ff=round(float(ratio) * width),  # type: ignore[arg-type]
    )
    return replace(study, like=like, source="default family with shape.* as set (no study)")


def best_vocabulary(flops: float, d_model: float) -> int:
    """Return the vocabulary of least loss at a budget and width (Tao et al. 2024, 2407.13623)."""
    return VOCAB_STEP * max(1, round(TAO[0] * flops ** TAO[1] / d_model / VOCAB_STEP))


def with_vocabulary(
    study: Study, settings: FamilySettings, *, flops: float, target: float, count: str
) -> Study:
    """Return the study with the vocabulary of `vocab_rule`.

    study: the study whose family it is
    settings: the family's settings
    flops: C of the budget
    target: N of the law's optimum, which gives the width
    count: which parameters N counts
    """
    if settings.vocab_rule != "tao":
        return study
    if study.cells:
        raise ValueError(
            f"shape.vocab_rule=tao would leave the tokenizer that {study.source} trained with, and"
            " its law; leave it out, or sweep the other vocabulary"
        )
    for _ in range(3):  # the width hardly depends on the vocabulary
        if settings.rule == "levine":
            width = float(levine_shape(target, study, count=count).d_model)
        else:
            width = study.ladder.width(target, count)
        like = replace(study.like, vocab_size=best_vocabulary(flops, width))
        study = replace(study, like=like)
    return study


def levine_width(n_layer: int) -> float:
    """Return the width that Levine et al. 2020 give a depth."""
    return math.exp(LEVINE[0] + LEVINE[1] * n_layer)


def kv_heads_of(study: Study, n_head: int) -> int:
    """Return the key-value heads of a shape of `n_head` heads; as many where none divides them.

    ValueError where `study.kv_heads` does not divide the heads.
    """
    if not study.kv_heads:
        group = max(1, study.like.n_head // study.like.n_kv_head)
        return n_head // group if n_head % group == 0 else n_head
    if n_head % study.kv_heads:
        raise ValueError(
            f"shape.kv_heads={study.kv_heads} does not divide {n_head} heads; give a divisor, or"
            f" shape.heads_multiple={study.kv_heads}"
        )
    return study.kv_heads


def levine_shape(target: float, study: Study, *, count: str) -> Shape:
    """Return the shape by Levine's rule nearest to a size, its heads then rounded.

    target: N
    study: whose heads, context and vocabulary are kept
    count: which parameters N counts

    Raises ValueError where even one layer is too large: the rule starts at a width of 163.
    """
    check_size(target)
    like = study.like
    ratio, step = like.d_ff / like.d_model, study.heads_multiple * like.d_head

    def at(n_layer: int, width: int, kv_heads: int = 0) -> Shape:
        n_head = max(1, width // like.d_head)
        return replace(
            like,
            n_layer=n_layer,
            d_model=width,
            n_head=n_head,
            n_kv_head=kv_heads or min(n_head, study.kv_heads or n_head),
            d_ff=8 * max(1, round(ratio * width / 8)),
        )

    unrounded = [at(n, round(levine_width(n))) for n in range(1, DEEPEST + 1)]
    best = min(unrounded, key=lambda s: abs(math.log(getattr(s.params, count) / target)))
    width = step * max(1, round(levine_width(best.n_layer) / step))
    shape = at(best.n_layer, width, kv_heads_of(study, width // like.d_head))
    reached = getattr(shape.params, count)
    if not 0.5 < reached / target < 2:
        raise ValueError(
            f"no shape of the levine rule has {target:.3g} {count} parameters: the nearest has"
            f" {reached:.3g}; choose shape.rule=ladder, another vocabulary or heads_multiple"
        )
    return shape
