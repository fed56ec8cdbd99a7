"""The shape of the planned model: the one of the family nearest to the split's N.

A search says what that rounding costs: L(N, D(N)) over the shapes around N, where D follows from
the exact FLOPs per token of each shape, attention and head included.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from analysis.forms import FORMS
from analysis.planning.shape_family import FamilySettings, levine_width, shape_near
from analysis.planning.split import Split
from analysis.runs.study import Study
from scaling.schema import Shape

SEARCHED = 8.0  # the search spans this factor to both sides of N*
SIZES = 33  # targets of the search, evenly in log N
FLAT = 0.002  # nats per token: about what two seeds differ by (Porian et al. 2024)
SHRINK = 0.97  # the target N shrinks by this factor until a shape meets every cap
MOST_SHRINKS = 400
ALL = 0.999  # a plan that takes all tokens at hand must reach this share of them


@dataclass(frozen=True, kw_only=True)
class PlannedShape:
    """The shape, the split before rounding, and the rule that gave the width.

    `exact_params` and `exact_loss` are N and loss of the family's best at exact FLOPs, `flat` the
    ends of the N that lose at most `flat_nats` more; None where the law predicts no loss.
    """

    shape: Shape
    split: Split
    rule: str
    exact_params: float | None = None
    exact_loss: float | None = None
    flat: tuple[float, float] | None = None

    @property
    def tokens(self) -> float:
        """Tokens that budget and data allow this shape."""
        params = getattr(self.shape.params, self.split.law.count)
        return self.split.tokens_at(params, self.shape.flops_per_token)

    def interval(self, name: str, symbol: str) -> str:
        """Say the law's value before rounding, with its interval."""
        optimum = self.split.optimum
        value, ends = getattr(optimum, name), optimum.intervals.get(name)
        level = (
            f" ({100 * optimum.level:g}% [{ends[0]:.4g}, {ends[1]:.4g}])"
            if ends
            else " (no interval: the law has no draws)"
        )
        return f"{symbol} {value:.4g}{level}"

    def reasons(self) -> dict[str, str]:
        """Return the reasons for N and the shape."""
        split = self.split
        reached = getattr(self.shape.params, split.law.count)
        nearest = f"nearest of the family to N, {100 * (reached / split.params - 1):+.2g}%"
        if self.flat and self.exact_params:
            low, high = self.flat
            others = f"{low:.3g} to {high:.3g} lose" if high > low else "no other loses"
            nearest += (
                f"; with exact FLOPs per token the family's best has {self.exact_params:.4g}, and "
                f"{others} at most {split.flat_nats:g} nats more"
            )
        best = split.optimum
        why = (
            f"{self.interval('params', 'N*')}: the law's optimum of {split.form} at C = 6ND ="
            f" {split.flops:.4g} FLOPs, N ~ C^{best.a:.3f}"
        )
        if split.constraints.given():
            why += f"; then the constraints {', '.join(split.constraints.given())}"
        return {
            "params_target": why,
            "params": nearest,
            "count": "what one token passes: of dense runs the count that the law was fitted on"
            if self.shape.n_experts
            else "the count that the law was fitted on",
            "model": f"{self.shape.n_layer} layers of width {self.shape.d_model} ({self.rule})",
        }


def choose_shape(
    split: Split,
    study: Study,
    *,
    family: FamilySettings,
    memory: Callable[[Shape], float] | None = None,
) -> PlannedShape:
    """Return the family's shape nearest to the split's N that meets the caps.

    split: N and D before rounding, with the caps
    study: the study whose family and width / layers are kept
    family: the width rule
    memory: the GiB that one device needs for a shape; None leaves memory out

    Raises ValueError where the caps leave no shape.
    """
    count, aspect = split.law.count, study.aspect(split.params)

    def near(target: float) -> Shape:
        options = {"count": count, "aspect": aspect, "settings": family}
        try:
            return shape_near(target, study=study, **options)
        except ValueError:
            small = study.like_near(target)
            if small is None or study.like.n_experts != small.n_experts:
                raise
            return shape_near(target, study=replace(study, like=small), **options)

    shape = _largest_allowed(split, near, count, memory)
    if family.rule == "levine":
        text = (
            f"width from depth, exp(5.039 + .0555 x {shape.n_layer}) ="
            f" {levine_width(shape.n_layer):.0f}, Levine et al. 2020 (2006.12467), rounded to"
            f" {shape.n_head} heads of {shape.d_head}"
        )
    else:
        text = f"width / layers near {aspect:.3g}, family of the {study.source}"
    form = split.law.form
    if form not in FORMS or not FORMS[form].is_surface:
        return PlannedShape(shape=shape, split=split, rule=text)
    sizes, losses = _profile(split, near, count)
    flat = sizes[losses <= losses.min() + split.flat_nats]
    return PlannedShape(
        shape=shape,
        split=split,
        rule=text,
        exact_params=float(sizes[losses.argmin()]),
        exact_loss=float(losses.min()),
        flat=(float(flat.min()), float(flat.max())),
    )


def _largest_allowed(
    split: Split,
    near: Callable[[float], Shape],
    count: str,
    memory: Callable[[Shape], float] | None,
) -> Shape:
    """Return the largest shape not above N that meets the caps; the nearest where none binds."""
    c, target = split.constraints, split.params
    fixed, why = c.params is not None, ""
    for _ in range(MOST_SHRINKS):
        try:
            shape = near(target)
        except ValueError as error:
            if target == split.params:
                raise ValueError(
                    f"the budget of {split.flops:.3g} FLOPs asks for a size that the family lacks:"
                    f" {error}; or change the budget"
                ) from error
            break
        why = _broken(split, shape, getattr(shape.params, count), memory)
        if not why:
            return shape
        if fixed:
            raise ValueError(f"params={c.params:g} gives a shape {why}; change one")
        target *= SHRINK
    raise ValueError(f"no shape of the family keeps the caps: the smallest tried is {why}")


def _broken(
    split: Split, shape: Shape, params: float, memory: Callable[[Shape], float] | None
) -> str:
    """Say which cap a shape breaks, if any."""
    c = split.constraints
    if c.max_params is not None and params > c.max_params:
        return f"of {params:.4g} parameters, above max_params={c.max_params:g}"
    if c.max_memory_gib is not None and memory and memory(shape) > c.max_memory_gib:
        return (
            f"of {params:.4g} parameters that takes {memory(shape):.3g} GiB a device, above"
            f" max_memory_gib={c.max_memory_gib:g}"
        )
    tokens = split.tokens_at(params, shape.flops_per_token)
    least = c.tokens or (split.tokens * ALL if split.limited and c.params is None else 0.0)
    if tokens < least:
        return (
            f"of {params:.4g} parameters, whose exact FLOPs afford {tokens:.4g} of {least:.4g}"
            " tokens within the budget"
        )
    return f"of {params:.4g} parameters that the budget cannot serve" if tokens <= 0 else ""


def _profile(
    split: Split, near: Callable[[float], Shape], count: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes of the family and the predicted loss of each at the budget, exact FLOPs."""
    shapes: dict[int, Shape] = {}
    for target in np.geomspace(split.params / SEARCHED, split.params * SEARCHED, SIZES):
        try:
            shape = near(target)
        except ValueError:
            continue  # below the smallest shape of the family
        shapes[getattr(shape.params, count)] = shape
    sizes = np.array(sorted(shapes), dtype=float)
    tokens = np.array([split.tokens_at(n, shapes[int(n)].flops_per_token) for n in sizes])
    affordable = tokens > 0
    return sizes[affordable], split.loss(sizes[affordable], tokens[affordable])
