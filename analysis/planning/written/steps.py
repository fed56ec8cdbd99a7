"""The derivation of N and D as steps: value, interval before rounding, law or rule, rounding."""

import numpy as np

from analysis.forms import FORMS
from analysis.forms.optimum import edge_of
from analysis.laws.text import used_alone
from analysis.planning.passes import best_passes, can_rise
from analysis.planning.plan import PretrainBlock, Step
from analysis.planning.shapes.family import VOCAB_STEP, best_vocabulary
from analysis.planning.shapes.shape import PlannedShape
from analysis.planning.split import Split, serving_saving
from scaling.app.plurals import plural
from scaling.schema import Shape


def steps_of(
    planned: PlannedShape, pretrain: PretrainBlock, *, source: str, vocab_rule: str = "tokenizer"
) -> list[Step]:
    """Return the derivation of N and D; its last two lines say what rounding made of them.

    planned: the shape, and the split of C before rounding
    pretrain: the block whose N and D are derived
    source: where vocabulary and context come from, as the lines name it
    vocab_rule: `tao` where that rule set the vocabulary, else `tokenizer`
    """
    split, shape = planned.split, planned.shape
    n, d, per_token = pretrain.params, pretrain.tokens, shape.flops_per_token
    return [
        *split_steps(split),
        *_text_steps(shape, flops=split.flops, source=source, vocab_rule=vocab_rule),
        *_expert_steps(shape),
        _step(
            what="params",
            value=n,
            rule=planned.rule,
            interval=split.interval,
            rounding=f"{100 * (n / split.params - 1):+.2g}%: from {split.params:.5g} to"
            f" {shape.n_layer} layers of width {shape.d_model}"
            f"{_outside(n, split.interval, 'the shape was rounded')}",
        ),
        _step(
            what="tokens",
            value=d,
            rule=f"exact FLOPs per token of that shape, {per_token:.5g}, which is"
            f" {per_token / 6 / n:.3g} x 6N",
            interval=split.tokens_interval,
            rounding=f"{100 * (d / planned.tokens - 1):+.2g}%: whole steps of"
            f" {pretrain.batch_tokens} tokens; {100 * (d / split.tokens - 1):+.2g}% of D"
            f"{_outside(d, split.tokens_interval, _why_other_tokens(split))}",
        ),
    ]


def _outside(value: float, ends: tuple[float, float] | None, why: str) -> str:
    """Say why a planned value lies outside the interval beside it, "" where it lies inside."""
    if ends is None or ends[0] <= value <= ends[1]:
        return ""
    return f"; it lies outside the interval: {why}"


def _why_other_tokens(split: Split) -> str:
    if split.law.flop_count is None:
        return "the law counts C = 6ND, and the shape's FLOPs per token are other than 6N"
    return "the shape and its batch were rounded"


def _text_steps(shape: Shape, *, flops: float, source: str, vocab_rule: str) -> list[Step]:
    """Return the lines of vocabulary and context, which the law does not choose."""
    best = best_vocabulary(flops, shape.d_model)
    paper = "Tao et al. 2024 (2407.13623)"
    by_study = f"tokenizer of the {source}: another one has another loss; {paper} would take {best}"
    by_rule = f"V x width = .20 C^.42, {paper}, seen from 3.3e7 to 3e9 parameters"
    uses_rule = vocab_rule == "tao"
    return [
        _step(
            what="vocabulary",
            value=shape.vocab_size,
            rule=by_rule if uses_rule else by_study,
            rounding=f"a multiple of {VOCAB_STEP}" if uses_rule else "",
        ),
        _step(
            what="context",
            value=shape.context,
            rule=f"that of the {source}: another context is another law",
        ),
    ]


def _expert_steps(shape: Shape) -> list[Step]:
    """Return the line that says what experts do to the counts; none for a dense model."""
    if not shape.n_experts:
        return []
    used = f"top {shape.top_k} of {shape.n_experts}"
    used += f" and {shape.n_shared_experts} shared" if shape.n_shared_experts else ""
    return [
        _step(
            what="experts",
            value=shape.n_experts,
            rule=f"{used} serve a token: N, C and serving count those, memory counts all,"
            f" {shape.params.total:.4g} parameters",
            rounding=f"each {shape.d_expert} wide, so that a token's share keeps the family's"
            f" d_ff of {shape.d_ff}",
        )
    ]


def split_steps(split: Split) -> list[Step]:
    """Return the law's optimum, the effect of each constraint, and N and D before rounding."""
    c, best = split.constraints, split.optimum
    steps = [
        _step(
            what="N*",
            value=best.params,
            rule=f"{_whose_optimum(split)} at {split.law.convention} = {split.flops:.4g} FLOPs"
            + ("" if edge_of(best.tokens_per_param) else f", N ~ C^{best.a:.3f}"),
            interval=best.intervals.get("params"),
        ),
        _step(
            what="D*",
            value=best.tokens,
            rule="of the same optimum"
            + ("" if edge_of(best.tokens_per_param) else f", D ~ C^{best.b:.3f}"),
            interval=best.intervals.get("tokens"),
        ),
        _step(
            what="D*/N*",
            value=best.tokens_per_param,
            rule="tokens per parameter",
            interval=best.intervals.get("tokens_per_param"),
        ),
    ]
    steps += [_step(what=k, value=v, rule=_effect(split, k)) for k, v in c.given().items()]
    if c.given():
        steps += [
            _step(
                what="N",
                value=split.params,
                rule="under these constraints",
                interval=split.interval,
            ),
            _step(what="D", value=split.tokens, rule=_limit_on_tokens(split)),
        ]
    if split.flat:
        low, high = split.flat
        steps.append(
            _step(
                what="flat N",
                value=high / low,
                interval=split.flat,
                rule=f"all N of the interval lose at most {split.flat_loss:.3g}"
                f" {split.law.measure.unit_words} against the best; the value is their ratio",
            )
        )
    return steps


def _whose_optimum(split: Split) -> str:
    """Say whose optimum a plan starts from, or that it is the edge of the search."""
    if edge_of(split.optimum.tokens_per_param):
        return f"at the edge of the search, no optimum of {split.form},"
    return f"optimum of {split.form}"


def _limit_on_tokens(split: Split) -> str:
    """Say which limit D stands at, and which share of C it leaves."""
    used = float(split.law.flops_per_token(split.params)) * split.tokens / split.flops
    if split.rises:
        rest = f"{100 * (1 - used):.3g}% of the compute is left in reserve"
        return f"data-limited: more passes would raise the loss again; {rest}"
    if split.limited and split.constraints.tokens is None:
        rest = f"{100 * (1 - used):.3g}% of the compute is left in reserve"
        return f"data-limited: every token at hand, where the optimum asks for more; {rest}"
    return f"what the budget leaves at this N; training takes {100 * used:.3g}% of it"


def _serving(split: Split) -> str:
    saved = serving_saving(split)
    saving = "" if saved is None else f"; {100 * saved:.3g}% fewer than the training optimum's"
    return (
        "tokens to serve: C = training + 2N D_inf, Sardana et al. 2023 (2401.00448), the budget"
        f" paying for both{saving} at the same loss"
    )


def _effect(split: Split, name: str) -> str:
    """Say what one constraint does to the split."""
    c, best = split.constraints, split.optimum
    if name == "unique_tokens":
        short = c.unique_tokens is not None and best.tokens > c.unique_tokens
        passes = split.tokens / (c.unique_tokens or np.inf)
        alone = used_alone(split.law)
        if split.law.form == "data_constrained" and (alone or not split.law.forecast):
            p = split.law.parameters
            law = (
                f"{plural(passes, 'pass', text=f'{passes:.3g}')}, worth D' of Muennighoff et al."
                f" 2023 (2305.16264) with R_D = {p['R_D']:.4g}, R_N = {p['R_N']:.4g}"
            )
        elif can_rise(split.law) and c.unique_tokens is not None:
            chosen = best_passes(split.law, c.unique_tokens, split.params, 0.9)
            law = f"{plural(passes, 'pass', text=f'{passes:.3g}')}: {chosen.reason}"
        elif split.law.form in FORMS and not short:
            law = "no token is seen twice, and the plan is that without unique_tokens"
        else:
            law = "one pass at most: nothing values a second"
        law += f"; {alone}" if alone else ""
        return f"{'fewer than D*, so data-limited' if short else 'more than D*'}; {law}"
    return {
        "max_epochs": "passes over the data at most",
        "inference_tokens": _serving(split) if name == "inference_tokens" else "",
        "max_params": "largest N allowed" + ("" if best.params > (c.max_params or 0) else ", idle"),
        "max_memory_gib": "largest memory of one device while training; bounds the shape",
        "params": "N as given",
        "tokens": "D as given",
        "overtraining": (
            "times the optimum's tokens per parameter at the same C: N = N* / sqrt of it"
        ),
        "reserve": (
            f"share of C kept back: {(1 - c.reserve) * split.flops:.4g} FLOPs are planned with"
        ),
    }[name]


def _step(
    *,
    what: str,
    value: float,
    rule: str,
    interval: tuple[float, float] | None = None,
    rounding: str = "",
) -> Step:
    """Return a line with plain floats; no interval is an empty one."""
    ends = tuple(float(end) for end in interval or ())
    return Step(what=what, value=float(value), rule=rule, interval=ends, rounding=rounding)
