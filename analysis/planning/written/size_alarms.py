"""The alarms of a plan whose numbers no real run has: ratio, wall time, context, vocabulary."""

import math
from collections.abc import Iterator

from analysis.alarms.alarm import Alarm
from analysis.forms.optimum import AT_BOUND, RATIOS
from analysis.planning.plan import CostBlock
from analysis.planning.split import Split
from scaling.app.plurals import plural
from scaling.schema import Shape

# Hours of a run that nobody waits for: 2 years; the longest printed runs take half of one.
MOST_WALL_HOURS = 2 * 365 * 24.0
GOAL_DAYS = 90  # days that such an alarm proposes: Llama 3 405B took 54 (2407.21783)
# Tokens of a window: the longest with a printed training recipe (Liu et al. 2024, 2402.08268).
MOST_CONTEXT = 2**20
LEAST_VOCABULARY = 256  # bytes, each of which a byte-level vocabulary holds


def size_alarms(split: Split, cost: CostBlock, shape: Shape, *, devices: int) -> Iterator[Alarm]:
    """Yield the alarms of a plan that no real run resembles.

    split: N and D before rounding, with the law's optimum
    cost: of the pretraining
    shape: the planned model
    devices: that train it
    """
    yield from _ratio_alarm(split)
    yield from _wall_alarm(cost, devices)
    if shape.context > MOST_CONTEXT:
        yield Alarm(
            code="context",
            sentence=f"a context of {shape.context:,} tokens is above {MOST_CONTEXT:,}, the longest"
            " with a published training recipe (2402.08268): give a shorter one, as"
            " shape.context=131072",
        )
    if shape.vocab_size < LEAST_VOCABULARY:
        yield Alarm(
            code="vocabulary",
            sentence=f"a vocabulary of {shape.vocab_size} tokens does not hold the"
            f" {LEAST_VOCABULARY} bytes of byte-level text: give shape.vocab_size=264 or more, or"
            " train on ids of your own (data.source=tokens)",
        )


def _ratio_alarm(split: Split) -> Iterator[Alarm]:
    """Yield the alarm of an optimum at, or beyond, a bound of the search."""
    ratio, (low, high) = split.optimum.tokens_per_param, RATIOS
    if low * AT_BOUND < ratio < high / AT_BOUND:
        return
    side = "lower" if ratio < 1 else "upper"
    bound = low if ratio < 1 else high
    yield Alarm(
        code="ratio_bound",
        sentence=f"the optimum has {ratio:.3g} tokens per parameter, at or beyond the {side} bound"
        f" {bound:g} of the search: the law gives no optimum at this budget; fix it with params=,"
        " tokens= or overtraining=, or take another law",
    )


def _wall_alarm(cost: CostBlock, devices: int) -> Iterator[Alarm]:
    """Yield the alarm of a wall time that nobody waits for, with the devices that it takes."""
    if cost.wall_hours is None or cost.device_hours is None or cost.wall_hours <= MOST_WALL_HOURS:
        return
    needed = math.ceil(cost.device_hours / (24 * GOAL_DAYS))
    yield Alarm(
        code="wall_time",
        sentence=f"pretraining takes {cost.wall_hours / 24 / 365:,.3g} years on"
        f" {plural(devices, 'device')}; for {GOAL_DAYS} days give devices={needed}, or a"
        " smaller budget",
    )
