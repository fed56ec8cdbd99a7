"""The planned batch beside the critical batch of a fitted law (`form=critical_batch`).

A batch below the critical one wastes no tokens; how far below says how many more devices could
share a step. The critical batch rises along a run (Merrill et al. 2025, 2505.23971), so a constant
batch is above it until some number of tokens: a warm-up of the batch would save steps, not tokens.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from analysis.alarms.alarm import Alarm
from analysis.estimation.critical_batch import batch_at
from analysis.laws.law import Law
from analysis.number_text import interval, number, power
from analysis.planning.plan import PretrainBlock

FAR_TOKENS = 10.0  # times the largest T measured, beyond which a plan says so


def beside_critical(pretrain: PretrainBlock, law: Law | None, level: float) -> PretrainBlock:
    """Return the block with the critical batch in the batch's reason; as it is without a law.

    pretrain: the planned pretraining
    law: of form critical_batch
    level: of the interval
    """
    if law is None:
        return pretrain
    reason = f"{pretrain.reasons['batch_tokens']}; {sentence(pretrain, law, level)}"
    return replace(pretrain, reasons={**pretrain.reasons, "batch_tokens": reason})


def sentence(pretrain: PretrainBlock, law: Law, level: float) -> str:
    """Say how many times the batch is below, or above, the critical batch at the end of the run."""
    value, low, high = batch_at(law, pretrain.tokens, level)
    batch = pretrain.batch_tokens
    at = f"the critical batch at {power(pretrain.tokens, 3)} tokens, {power(value, 2)}"
    ends = [low / batch, high / batch] if value >= batch else [batch / high, batch / low]
    times = number(value / batch if value >= batch else batch / value, 2)
    side = "below" if value >= batch else "above"
    early = _early(pretrain, law)
    return (
        f"batch {batch} is {times} times {side} {at} ({100 * level:g}% {interval(ends, 2)}; below 1"
        f" it is on the other side){early}"
    )


def _early(pretrain: PretrainBlock, law: Law) -> str:
    """Say until when the batch is above the critical one; empty where it never is."""
    k, p = law.parameters["k"], law.parameters["p"]
    if p <= 0 or k * pretrain.tokens**p < pretrain.batch_tokens:
        return ""
    tokens = (pretrain.batch_tokens / k) ** (1 / p)
    share = tokens / pretrain.tokens
    return f", and above the critical batch for the first {share:.2g} of the run"


def critical_alarms(pretrain: PretrainBlock, law: Law | None, level: float) -> Iterator[Alarm]:
    """Yield that the batch is above the critical one, and that the law is far from the plan."""
    if law is None:
        return
    value, _, high = batch_at(law, pretrain.tokens, level)
    batch = pretrain.batch_tokens
    if batch > value:
        sure = "" if batch > high else ", though the interval holds it"
        yield Alarm(
            code="batch_above_critical",
            sentence=f"batch {batch} is {batch / value:.2g} times the critical batch at the end of"
            f" the run{sure}: tokens are wasted; divide the batch by"
            f" {2 ** math.ceil(math.log2(batch / value))}, and the rate by the root of that",
        )
    reach = pretrain.tokens / law.ranges["at_tokens"][1]
    if reach > FAR_TOKENS:
        yield Alarm(
            code="critical_batch_far",
            sentence=f"the critical batch was measured up to"
            f" {power(law.ranges['at_tokens'][1], 3)} tokens, and the run has {reach:.3g} times as"
            " many; it levels off along a run, so that a power law promises too large a batch:"
            " branch a longer trunk",
        )
