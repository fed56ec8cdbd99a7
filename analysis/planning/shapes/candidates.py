"""The shapes that a plan chooses from: the trained ones, and widths that heads and device allow.

A width has the depths next to the family's line (`analysis.runs.ladder`). Its heads have the
trained width nearest to the study's that divides it and is even. Steps of width are 8 on a CPU; on
an accelerator they are 8 below a width of 512, 64 below 2048 and 128 from there on, which keeps its
matrix units filled (NVIDIA, "Matrix Multiplication Background User's Guide", tile quantisation).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from analysis.planning.shapes.family import kv_heads_of
from analysis.runs.study import Study
from scaling.schema import Shape, check_size

ASPECTS = (0.75, 1.5)  # width / layers over that of the line: a rung further off is another family
HEADS = (128, 64)  # widths of heads where no cell was trained and the family has one of these
STEPS = ((0, 8), (512, 64), (2048, 128))  # (from this width, step of the width) on an accelerator
CPU_STEP = 8
CPU = re.compile(r"cpu|processor|xeon|epyc|ryzen|core|apple|graviton|neoverse|arm", re.IGNORECASE)
WIDER = 1.35  # widths that are tried beyond those of the line at the ends of the sizes
# d_ff / width may leave the family's by this factor to meet N; the loss hardly knows it (Kaplan et
# al. 2020, 2001.08361, figure 5: within 2 % over a factor of 10)
FFN = 1.5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape that a plan may take.

    params: N, as the law counts it
    trained: whether a cell had this shape
    off: |ln| of width / layers over that of the family's line
    ffn: |ln| of d_ff / width over the family's
    """

    shape: Shape
    params: float
    trained: bool
    off: float
    ffn: float = 0.0

    @property
    def text(self) -> str:
        """Layers x width."""
        return f"{self.shape.n_layer} x {self.shape.d_model}"


def width_step(width: int, device: str) -> int:
    """Return the step in which widths near `width` are tried on a device.

    device: its name, "" for one that is not known, which counts as an accelerator
    """
    if CPU.search(device):
        return CPU_STEP
    return max(step for least, step in STEPS if width >= least)


def candidates(
    study: Study, *, count: str, low: float, high: float, device: str = ""
) -> list[Candidate]:
    """Return the shapes of the family from N = `low` to `high`, smallest first.

    study: whose trained shapes, heads and line of depth against width they are
    count: which parameters N counts
    low, high: the least and the largest N
    device: on which the model is to train

    Raises ValueError for a size beyond all models.
    """
    check_size(high)
    trained_shapes = {s for s in study.shapes if _same_kind(s, study.like)}
    every = {**dict.fromkeys(trained_shapes, True)}
    for shape in _widths(study, count=count, low=low, high=high, device=device):
        every.setdefault(shape, False)
    options = [_candidate(study, shape, count, trained=t) for shape, t in every.items()]
    return sorted((c for c in options if low <= c.params <= high), key=lambda c: (c.params, c.off))


def with_params(
    base: Candidate, study: Study, target: float, *, count: str, device: str
) -> Candidate | None:
    """Return a candidate with d_ff moved to bring N near a target; None for a mixture of experts.

    base: a shape near the target
    study: whose ratio of d_ff to width is left by `FFN` at most
    target: N
    count: which parameters N counts
    device: on which the model is to train: d_ff moves in the steps of widths
    """
    shape, step = base.shape, ffn_step(base.shape, device)
    if shape.n_experts:
        return None
    more = replace(shape, d_ff=shape.d_ff + step)
    per_step = getattr(more.params, count) - base.params
    least, most = ffn_steps(shape, study.like, step)
    steps = min(max(round((target - base.params) / per_step), least), most)
    variant = replace(shape, d_ff=shape.d_ff + steps * step)
    return _candidate(study, variant, count, trained=base.trained and not steps)


def ffn_step(shape: Shape, device: str) -> int:
    """Return the step of a shape's d_ff on a device: that of its width, 64 at most."""
    return min(64, width_step(shape.d_model, device))


def ffn_steps(shape: Shape, like: Shape, step: int) -> tuple[int, int]:
    """Return how many steps d_ff may go down (at most 0) and up (at least 0).

    shape: whose d_ff moves
    like: the family's ratio of d_ff to width, from which it may go by `FFN`
    step: of d_ff
    """
    family = like.d_ff / like.d_model * shape.d_model
    least = math.ceil((family / FFN - shape.d_ff) / step)
    most = math.floor((family * FFN - shape.d_ff) / step)
    return min(0, least), max(0, most)


def _candidate(study: Study, shape: Shape, count: str, *, trained: bool) -> Candidate:
    line = shape.d_model / study.ladder.depth(shape.d_model)
    family = study.like.d_ff / study.like.d_model
    return Candidate(
        shape=shape,
        params=float(getattr(shape.params, count)),
        trained=trained,
        off=abs(math.log(shape.d_model / shape.n_layer / line)),
        ffn=abs(math.log(shape.d_ff / shape.d_model / family)),
    )


def _same_kind(shape: Shape, like: Shape) -> bool:
    """Tell whether two shapes differ in nothing but layers, width, heads and feed-forward."""
    sizes = ("n_layer", "d_model", "n_head", "n_kv_head", "d_head", "d_ff", "d_expert")
    return replace(shape, **{name: getattr(like, name) for name in sizes}) == like


def _widths(study: Study, *, count: str, low: float, high: float, device: str) -> Iterator[Shape]:
    """Yield the shapes of all widths near the line between two sizes."""
    heads = _heads(study)
    width = study.ladder.width(low, count) / WIDER
    most = study.ladder.width(high, count) * WIDER
    step = width_step(int(width), device)
    at = max(step, step * math.floor(width / step))
    while at <= most:
        head = _head_of(at, heads, study.like.d_head)
        if head and at // head % study.heads_multiple == 0:
            yield from (_shape(study, n, at, head) for n in _depths(study, at))
        step = width_step(at, device)
        if all(head % step and step % head for head in heads):
            step = min(heads)  # no head fits the device's steps: widths of whole heads
        at = step * (at // step + 1)


def _heads(study: Study) -> list[int]:
    """Return the widths of heads that may be taken, nearest to the study's first."""
    like = study.like
    widths = {s.d_head for s in study.shapes} | {like.d_head}
    if not study.cells and study.heads_multiple == 1 and like.d_head in HEADS:
        widths |= set(HEADS)
    return sorted(widths, key=lambda head: (abs(math.log(head / like.d_head)), -head))


def _head_of(width: int, heads: list[int], own: int) -> int:
    """Return the width of heads of a model, 0 where none divides it; the study's may be odd."""
    return next((h for h in heads if width % h == 0 and (h % 2 == 0 or h == own)), 0)


def _depths(study: Study, width: int) -> list[int]:
    """Return the depths next to the line, none of another kind than the family's least."""
    line, least = study.ladder.depth(width), min(2, study.like.n_layer)
    around = {max(least, math.floor(line) + i) for i in (-1, 0, 1, 2)}
    return sorted(n for n in around if ASPECTS[0] <= line / n <= ASPECTS[1])


def _shape(study: Study, n_layer: int, width: int, d_head: int) -> Shape:
    like, n_head = study.like, width // d_head
    d_ff = 8 * max(1, round(like.d_ff / like.d_model * width / 8))
    return replace(
        like,
        n_layer=n_layer,
        d_model=width,
        d_head=d_head,
        n_head=n_head,
        n_kv_head=kv_heads_of(study, n_head),
        d_ff=d_ff,
        d_expert=max(1, round(like.d_expert * d_ff / like.d_ff)) if like.n_experts else 0,
    )
