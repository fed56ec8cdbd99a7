"""The closing lines of a plan: what to run, for how long, how sure the forecast is, and why."""

import textwrap
from collections.abc import Iterator

from analysis.alarms.alarm import Alarm
from analysis.number_text import duration, number, short, supported, supported_interval
from analysis.planning.plan import CostBlock, Plan
from analysis.planning.written.derivation import WIDTH
from scaling.app.plurals import plural

NAMED_ALARMS = 3  # alarms that the closing lines name
WIDE_BY = {  # causes of the interval's width (Prediction.parts), in words
    "parameters": "the law's parameters",
    "forms": "the disagreement of the forms that are averaged",
    "scatter": "the scatter of runs about the law",
    "hindcast": "the error that the law made on runs beyond its fit",
    "region": "the shape's distance from the frontier",
}
FIRST = (  # alarms that question the plan itself, the gravest first; all others follow as they are
    "forced", "no_forecast", "swapped_columns", "mixed_units", "loss_unit", "compute_unit",
    "ratio_bound", "no_optimum", "memory", "wall_time", "short_run", "far", "below_range",
    "range_unknown", "repeats", "single_ray", "methods_disagree", "offset", "low_coverage",
    "unusual_exponent", "edge_minimum", "few_test_blocks", "count_disagrees",
)  # fmt: skip
SAME = {"offset": "offset_not_identified"}  # alarms of a plan that repeat one of its law


def closing(plan: Plan) -> list[str]:
    """Return the closing lines of a plan: the run, and how sure its forecast is."""
    lines = (_run(plan), f"How sure: {'; '.join(_sure(plan))}.")
    return ["", *(row for line in lines for row in textwrap.wrap(line, WIDTH))]


def _run(plan: Plan) -> str:
    """Say what is trained, for how long, at what price, and which loss is expected."""
    first, forecast = plan.pretrain, plan.forecast
    text = f"Train {short(first.params)} parameters on {short(first.tokens)} tokens"
    if plan.cost and plan.cost.wall_hours and plan.cost.device_hours:
        text += f": {_time(plan, plan.cost)}"
    if plan.cost and plan.cost.money is not None:
        text += f", {short(plan.cost.money)} in money"
    if forecast.test_loss is None:
        return f"{text}."
    what = f"Loss on {forecast.target}" if forecast.target else "Test loss"
    loss = supported(forecast.test_loss, forecast.interval)
    ends = supported_interval(forecast.interval)
    interval = f" {ends} ({100 * forecast.level:g} %)" if forecast.interval else ""
    return f"{text}. {what} {loss}{interval} {forecast.unit.replace('_', ' ')}."


def _time(plan: Plan, cost: CostBlock) -> str:
    """Return the wall time of pretraining and the devices that it runs on."""
    assert cost.wall_hours
    assert cost.device_hours
    devices = round(cost.device_hours / cost.wall_hours)
    on = f" on {devices:,} {plan.budget.device}" if plan.budget.device else ""
    if devices == 1 or not plan.budget.device:
        on = f" on {plan.budget.device or plural(devices, 'device')}"
    return f"{duration(3600 * cost.wall_hours)}{on}"


def _sure(plan: Plan) -> Iterator[str]:
    """Yield what the interval's width is made of, how far the plan reaches, and the alarms."""
    parts = sorted(plan.forecast.parts.items(), key=lambda part: -part[1])
    if parts:
        shown = [f"{WIDE_BY.get(name, name)} (±{value:.2g} %)" for name, value in parts[:2]]
        then = f", then {shown[1]}" if len(shown) > 1 else ""
        yield f"the interval is wide by {shown[0]} above all{then}"
    elif plan.forecast.test_loss is None:
        yield "the law gives no loss, so there is no forecast"
    else:
        yield "the law has no draws, so the forecast has no interval"
    yield _reach(plan.extrapolation)
    yield _alarms(plan.alarms)


def _reach(times: float) -> str:
    """Say how far beyond the runs that were fitted the plan is."""
    if not times:
        return "how far the plan is beyond the runs of the law is not known"
    if times <= 1:
        return f"the compute is within what was fitted, {number(times, 2)} of its largest"
    return f"the compute is {number(times, 3)} times the largest that was fitted"


def _alarms(alarms: tuple[Alarm, ...]) -> str:
    """Name the alarms that matter most, by their codes."""
    codes = list(dict.fromkeys(alarm.code for alarm in alarms))
    codes = [c for c in codes if c not in {SAME[other] for other in codes if other in SAME}]
    if not codes:
        return "no alarm"
    ordered = sorted(codes, key=lambda code: FIRST.index(code) if code in FIRST else len(FIRST))
    named = ", ".join(ordered[:NAMED_ALARMS])
    if len(codes) > NAMED_ALARMS:
        return f"of {len(codes)} alarms above read first {named}"
    return f"read the alarm{'s' * (len(codes) > 1)} above: {named}"
