"""The alarms of a plan: first those of the plan itself, then those of its law."""

from collections.abc import Iterator

from analysis.alarms.alarm import Alarm
from analysis.laws.law import Law
from analysis.planning.plan import Forecast, PretrainBlock
from analysis.runs.study import Study
from scaling.app.plurals import plural

FAR = 1000.0  # times the largest compute fitted: beyond it no ladder has been seen to hold
FEW_WARMUPS = 5  # a run shorter than this many warm-ups is mostly warm-up


def plan_alarms(
    law: Law,
    study: Study,
    pretrain: PretrainBlock,
    forecast: Forecast,
    *,
    forced: bool,
    far: float = FAR,
) -> list[Alarm]:
    """Return the alarms to read before the plan, those of the law last.

    law: the law that the plan follows
    study: the study whose family and corpus the plan takes
    pretrain: the planned pretraining
    forecast: its forecast, which may hold no loss
    forced: whether `force=true` let a law pass that no plan should rest on
    far: times the largest C fitted beyond which the plan is called far
    """
    return [*_own_alarms(law, study, pretrain, forecast, forced=forced, far=far), *law.alarms]


def _own_alarms(
    law: Law,
    study: Study,
    pretrain: PretrainBlock,
    forecast: Forecast,
    *,
    forced: bool,
    far: float,
) -> Iterator[Alarm]:
    if forced:
        yield Alarm(
            code="forced",
            sentence=f"this plan rests on a law whose status is {law.status}; force=true allowed"
            " it",
        )
    if law.status == "offset_not_identified":
        yield Alarm(
            code="offset",
            sentence="the law's offset E is not identified: the loss far beyond the study is"
            " uncertain, as the interval says",
        )
    if forecast.test_loss is None:
        yield Alarm(code="no_forecast", sentence=forecast.reasons["test_loss"])
    yield from _range_alarms(law, pretrain.flops, far)
    steps = pretrain.tokens // pretrain.batch_tokens
    if steps < FEW_WARMUPS * pretrain.warmup_steps:
        yield Alarm(
            code="short_run",
            sentence=f"the run has {steps} steps, of which {pretrain.warmup_steps} are warm-up;"
            " raise the budget",
        )
    if study.unique_tokens and pretrain.tokens > study.unique_tokens:
        passes = pretrain.tokens / study.unique_tokens
        yield Alarm(
            code="repeats",
            sentence=f"{plural(passes, 'pass', text=f'{passes:.2g}')} over the corpus of"
            f" {study.unique_tokens:.3g} tokens; the law knows fresh tokens alone",
        )


def reached_flops(law: Law) -> float | None:
    """Return the largest compute fitted, or None where a published law does not say it."""
    for name in ("flops", "flops_6nd"):
        if law.ranges.get(name):
            return float(law.ranges[name][1])
    return None


def _range_alarms(law: Law, flops: float, far: float) -> Iterator[Alarm]:
    """Yield the alarm of a C outside the range that was fitted."""
    reach = reached_flops(law)
    if not reach:
        yield Alarm(
            code="range_unknown",
            sentence="the law does not say up to which compute it was fitted, so the extrapolation"
            " is unknown",
        )
        return
    low = float((law.ranges.get("flops") or law.ranges["flops_6nd"])[0])
    if flops < low:
        yield Alarm(
            code="below_range",
            sentence=f"C = {flops:.3g} FLOPs is {flops / low:.3g} times the smallest fitted,"
            f" {low:.3g}: the law was not seen to hold below it",
        )
    elif flops > far * reach:
        yield Alarm(
            code="far",
            sentence=f"C = {flops:.3g} FLOPs is {flops / reach:.3g} times the largest fitted,"
            f" {reach:.3g}; beyond {far:g} times (far=), run a confirmation first",
        )
