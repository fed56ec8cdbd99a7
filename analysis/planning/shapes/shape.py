"""The shape of the planned model: trained or nearly so, near N*, and as good as N* at the budget.

Of the candidates within 5 % of the split's N, those count that lose at most .0005 nats against the
split at their exact FLOPs per token; of these a trained shape is taken first, then the one nearest
to the family's line of depth against width. The law ranks sizes and no proportions, so it never
draws the choice towards flat models whose attention is cheap.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from analysis.forms import FORMS
from analysis.forms.optimum import edge_of
from analysis.planning.shapes.candidates import Candidate, candidates, with_params
from analysis.planning.shapes.family import FamilySettings, levine_shape, levine_width
from analysis.planning.split import Split
from analysis.runs.study import Study
from scaling.schema import Shape

NEAR = 0.05  # relative distance from N* within which shapes are compared
NO_LOSS = 0.0005  # nats per token: a quarter of what two seeds differ by (Porian et al. 2024)
STATED = 0.01  # relative distance at which a stated N is met
FLAT = 0.002  # nats per token: about what two seeds differ by (Porian et al. 2024)
SPANS = (1.5, 2.0, 10.0, 1e3, 1e6)  # candidates are made so far around N; wider where caps refuse
# Share of N that is tried too where all tokens at hand must be afforded: a shape's exact FLOPs per
# token may be some percent above the law's.
SMALLER = 0.96
ALL = 0.999  # a plan that takes all tokens at hand must reach this share of them


@dataclass(frozen=True, kw_only=True)
class PlannedShape:
    """The shape, the split before rounding, and the rule that chose it.

    `best_loss` is the law's loss of the split itself at the family's FLOPs per token; None where
    the law predicts no loss.
    """

    shape: Shape
    split: Split
    rule: str
    best_loss: float | None = None

    @property
    def params(self) -> float:
        """N of the shape, as the law counts it."""
        return float(getattr(self.shape.params, self.split.law.count))

    @property
    def tokens(self) -> float:
        """Tokens that budget and data allow this shape."""
        return self.split.tokens_at(self.params, self.shape.flops_per_token)

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
        nearest = f"{100 * (self.params / split.params - 1):+.2g}% of N before rounding"
        if split.flat:
            low, high = split.flat
            nearest += f"; {low:.3g} to {high:.3g} lose at most {split.flat_loss:.3g}"
            nearest += f" {split.law.measure.unit_words} more"
        best = split.optimum
        why = (
            f"{self.interval('params', 'N*')}: the optimum of {split.form} at"
            f" {split.law.convention} = {split.flops:.4g} FLOPs, N ~ C^{best.a:.3f}"
        )
        if edge_of(best.tokens_per_param):
            why = f"N at the edge of the search: {split.form} has no optimum at this budget"
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
    device: str = "",
) -> PlannedShape:
    """Return the shape for the split's N that meets the caps.

    split: N and D before rounding, with the caps
    study: the study whose trained shapes and line of depth against width are candidates
    family: the width rule
    memory: the GiB that one device needs for a shape; None leaves memory out
    device: on which the model is to train, for the steps of its width

    Raises ValueError where the caps leave no shape, and for a stated N from which every shape is
    further than 5 %.
    """
    if family.rule == "levine":
        return _by_levine(split, study, memory=memory)
    choice = _Choice(split=split, study=study, memory=memory, device=device)
    fixed = split.constraints.params
    candidate = choice.nearest_to(fixed) if fixed is not None else choice.best()
    return PlannedShape(
        shape=candidate.shape,
        split=split,
        rule=_rule(candidate, study),
        best_loss=choice.best_loss,
    )


def best_candidate(
    usable: Sequence[Candidate],
    target: float,
    extra: Callable[[Candidate], float] | None,
    no_loss: float = NO_LOSS,
) -> tuple[Candidate | None, bool]:
    """Return the candidate for N*, and whether it is as good as N*; None without one within 5 %.

    usable: candidates that meet the caps
    target: N*
    extra: loss of a candidate above that of N* at the budget; None for a law without a loss
    no_loss: loss, in the same unit, within which a candidate is as good as N*
    """
    near = [c for c in usable if abs(c.params / target - 1) <= NEAR]
    if not near:
        return None, False
    if extra is None:
        return min(near, key=lambda c: abs(math.log(c.params / target))), True
    losses = [extra(c) for c in near]
    within = [c for c, loss in zip(near, losses, strict=True) if loss <= no_loss]
    if not within:
        return near[losses.index(min(losses))], False
    key = {id(c): c.off + c.ffn + abs(math.log(c.params / target)) for c in within}
    return min(within, key=lambda c: (not c.trained, key[id(c)])), True


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """One choice of a shape: its split, the study, and what the caps are checked with."""

    split: Split
    study: Study
    memory: Callable[[Shape], float] | None
    device: str

    @cached_property
    def best_loss(self) -> float | None:
        """The loss of the split itself at the family's FLOPs per token."""
        split, law = self.split, self.split.law
        if law.form not in FORMS or not FORMS[law.form].is_surface:
            return None
        cost = law.flop_count or self.study.ladder.token_flops(law.count, sizes=[split.params])
        tokens = split.tokens_at(split.params, float(cost(split.params)))
        return float(split.loss(split.params, tokens)) if tokens > 0 else None

    def extra(self, candidate: Candidate) -> float:
        """Return the loss of a candidate above that of the split, at the budget."""
        tokens = self.split.tokens_at(candidate.params, candidate.shape.flops_per_token)
        return float(self.split.loss(candidate.params, tokens)) - (self.best_loss or 0.0)

    def best(self) -> Candidate:
        """Return the best candidate that meets the caps, the nearest where none is near."""
        target, refused = self.split.params, ""
        extra = self.extra if self.best_loss is not None else None
        measure = self.split.law.measure
        no_loss = measure.of_nats(NO_LOSS, self.study.bytes_per_token)
        for span in SPANS:
            every = self._made(target, span)
            usable = [c for c in every if not self._broken(c)]
            candidate, as_good = best_candidate(usable, target, extra, no_loss)
            if usable and not as_good:  # d_ff fills gaps between widths
                wide_steps = self.split.limited and self.study.heads_multiple > 1
                aims = (target, SMALLER * target) if wide_steps else (target,)
                moved = [c for aim in aims for c in self._moved(every, aim)]
                usable += [c for c in moved if not self._broken(c)]
                candidate, _ = best_candidate(usable, target, extra, no_loss)
            if usable:
                return candidate or min(usable, key=lambda c: abs(math.log(c.params / target)))
            if not every and span > SPANS[0]:
                break  # no cap is in the way
            refused = self._broken(every[0]) if every else refused
        raise ValueError(self._none(target, refused))

    def nearest_to(self, target: float) -> Candidate:
        """Return the candidate of a stated N: within 1 %, else the nearest within 5 %."""
        made = self._made(target, SPANS[1])
        every = [*made, *self._moved(made, target)]
        near = [c for c in every if abs(c.params / target - 1) <= STATED]
        if near:
            nearest = min(near, key=lambda c: (not c.trained, c.ffn + c.off))
        else:
            away = {id(c): abs(math.log(c.params / target)) for c in every}
            nearest = min(every, key=lambda c: away[id(c)], default=None)
        if nearest is None or abs(nearest.params / target - 1) > NEAR:
            raise ValueError(self._too_far(target, every))
        if why := self._broken(nearest):
            raise ValueError(f"params={target:g} gives a shape {why}; change one")
        return nearest

    @property
    def _count(self) -> str:
        return self.split.law.count

    def _made(self, target: float, span: float) -> list[Candidate]:
        """Return the candidates from N / span to N * span, or to twice N: caps only shrink N."""
        high = target * min(span, SPANS[1])
        return candidates(
            self.study, count=self._count, low=target / span, high=high, device=self.device
        )

    def _moved(self, every: Sequence[Candidate], target: float) -> list[Candidate]:
        """Return the candidates whose d_ff can be moved so that N meets the target."""
        variants = [
            with_params(c, self.study, target, count=self._count, device=self.device) for c in every
        ]
        return [c for c in variants if c]

    def _none(self, target: float, refused: str) -> str:
        if refused:
            return f"no shape of the family keeps the caps: the smallest tried is {refused}"
        return (
            f"no shape has {target:.3g} {self._count} parameters, which the budget of"
            f" {self.split.flops:.3g} FLOPs asks for: none of the family lies within a factor of"
            f" {SPANS[1]:g}; change the budget, or choose another vocabulary or head width"
        )

    def _too_far(self, target: float, every: Sequence[Candidate]) -> str:
        below = max((c for c in every if c.params < target), key=lambda c: c.params, default=None)
        above = min((c for c in every if c.params > target), key=lambda c: c.params, default=None)
        two = [f"{c.text} with {c.params:,.0f}" for c in (below, above) if c]
        if not two:
            return (
                f"no shape of the family is near params={target:g}: its embedding alone, of"
                f" {self.study.like.vocab_size:,} tokens, may have more; give a size nearer to the"
                " study's, or leave params out"
            )
        return (
            f"no shape of the family has params={target:g} within {100 * NEAR:g}%; the nearest are"
            f" {' and '.join(two)}: give one of these, or leave params out"
        )

    def _broken(self, candidate: Candidate) -> str:
        return broken(self.split, candidate.shape, candidate.params, self.memory)


def broken(
    split: Split, shape: Shape, params: float, memory: Callable[[Shape], float] | None
) -> str:
    """Say which cap a shape breaks, "" for none."""
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
    if tokens < least * (1 - 1e-9):
        return (
            f"of {params:.4g} parameters, whose exact FLOPs afford {tokens:.4g} of {least:.4g}"
            " tokens within the budget"
        )
    return f"of {params:.4g} parameters that the budget cannot serve" if tokens <= 0 else ""


def _rule(chosen: Candidate, study: Study) -> str:
    """Say where a shape comes from."""
    if chosen.trained:
        return f"trained in the {study.source}"
    line = study.ladder.depth(chosen.shape.d_model)
    text = f"next to {line:.3g} layers, the line of depth against width of the {study.source}"
    if chosen.ffn > 0.02:
        text += f"; d_ff {chosen.shape.d_ff} instead of the family's ratio, to meet N"
    return text + heads_text(chosen.shape, study)


def heads_text(shape: Shape, study: Study) -> str:
    """Say how many heads a shape has, where a rule set their number; empty where none did."""
    if study.heads_multiple == 1 and not study.kv_heads:
        return ""
    text = f"; {shape.n_head} heads of {shape.d_head}"
    if study.heads_multiple > 1:
        text += f", a multiple of {study.heads_multiple} so that devices share them evenly"
    if study.kv_heads:
        text += (
            f", and {shape.n_kv_head} key-value heads (grouped queries, Ainslie et al. 2023,"
            " 2305.13245; 8 in every Llama 3, 2407.21783)"
        )
    return text


def _by_levine(
    split: Split,
    study: Study,
    *,
    memory: Callable[[Shape], float] | None,
) -> PlannedShape:
    """Return the shape by Levine's rule; ValueError where it breaks a cap."""
    count = split.law.count
    shape = levine_shape(split.params, study, count=count)
    if why := broken(split, shape, getattr(shape.params, count), memory):
        raise ValueError(f"shape.rule=levine gives a shape {why}; relax it, or take rule=ladder")
    rule = (
        f"width from depth, exp(5.039 + .0555 x {shape.n_layer}) ="
        f" {levine_width(shape.n_layer):.0f}, Levine et al. 2020 (2006.12467), rounded to"
        f" {shape.n_head} heads of {shape.d_head}"
    )
    gives_loss = split.law.form in FORMS and FORMS[split.law.form].is_surface
    best = float(split.loss(split.params, split.tokens)) if gives_loss else None
    return PlannedShape(shape=shape, split=split, rule=rule, best_loss=best)
