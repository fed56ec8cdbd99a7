"""What to know before believing a plan: its own alarms, then the law's."""

from typing import Any

from analysis.laws.law import Law
from analysis.runs.study import Study

FAR = 1000.0  # times the largest compute fitted: beyond it no ladder has been seen to hold
FEW_WARMUPS = 5  # a run shorter than this many warm-ups is mostly warm-up


def plan_alarms(
    law: Law,
    study: Study,
    pretrain: dict[str, Any],
    forecast: dict[str, Any],
    *,
    forced: bool,
    far: float = FAR,
) -> list[dict[str, str]]:
    """Return what to know before believing the plan: its own alarms, then the law's."""
    found = []
    if forced:
        found.append(
            (
                "forced",
                f"this plan rests on a law whose status is {law.status}; force=true allowed it",
            )
        )
    if law.status == "offset_not_identified":
        found.append(
            (
                "offset",
                (
                    "the law's offset E is not identified: the loss far beyond the study is"
                    " uncertain, as the interval says"
                ),
            )
        )
    if "test_loss" not in forecast:
        found.append(("no_forecast", forecast["reasons"]["test_loss"]))
    found += _range_alarms(law, pretrain["flops"], far)
    steps = pretrain["tokens"] // pretrain["batch_tokens"]
    if steps < FEW_WARMUPS * pretrain["warmup_steps"]:
        found.append(
            (
                "short_run",
                (
                    f"the run has {steps} steps, of which {pretrain['warmup_steps']} are warm-up;"
                    " raise the budget"
                ),
            )
        )
    if study.unique_tokens and pretrain["tokens"] > study.unique_tokens:
        passes = pretrain["tokens"] / study.unique_tokens
        found.append(
            (
                "repeats",
                (
                    f"{passes:.2g} passes over the corpus of {study.unique_tokens:.3g} tokens; the"
                    " law knows fresh tokens alone"
                ),
            )
        )
    own = [{"code": code, "sentence": sentence} for code, sentence in found]
    return own + [{"code": a.code, "sentence": a.sentence} for a in law.alarms]


def reached_flops(law: Law) -> float | None:
    """Return the largest compute fitted, or None where a published law does not say it."""
    for name in ("flops", "flops_6nd"):
        if law.ranges.get(name):
            return float(law.ranges[name][1])
    return None


def _range_alarms(law: Law, flops: float, far: float) -> list[tuple[str, str]]:
    reach = reached_flops(law)
    if not reach:
        return [
            (
                "range_unknown",
                (
                    "the law does not say up to which compute it was fitted, so the extrapolation"
                    " is unknown"
                ),
            )
        ]
    low = float((law.ranges.get("flops") or law.ranges["flops_6nd"])[0])
    if flops < low:
        return [
            (
                "below_range",
                (
                    f"C = {flops:.3g} FLOPs is {flops / low:.3g} times the smallest fitted,"
                    f" {low:.3g}: the law was not seen to hold below it"
                ),
            )
        ]
    if flops > far * reach:
        return [
            (
                "far",
                (
                    f"C = {flops:.3g} FLOPs is {flops / reach:.3g} times the largest fitted,"
                    f" {reach:.3g}; beyond {far:g} times (far=), run a confirmation first"
                ),
            )
        ]
    return []
