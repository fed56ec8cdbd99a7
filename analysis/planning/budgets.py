"""A budget in FLOPs, from FLOPs, device hours, money, wall time, or cells of a study.

C = hours x 3600 x FLOP/s. The speed is the study's where the study ran on the same device, else the
settings state it: the device's peak times `utilisation`, or `flops_per_second`.
`utilisation=measured` applies the study's share of its own device's peak (mfu of the records) to
another device. A stated speed counts all FLOPs of a device, of which .75 are the model's with
activation checkpointing. A measured speed counts the model's FLOPs, and says whether its cells
computed activations again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from analysis.laws.law import Law
from analysis.runs.study import Study
from scaling.app.plurals import plural
from scaling.schema import MOST_FLOPS, device_named

MEASURED = "measured"  # the value of `utilisation` that takes it from the study
# share of a device's FLOPs that are the model's: forward 1 and backward 2 of 4 parts, of which the
# fourth is the second forward pass
CHECKPOINTED = 0.75
KINDS = ("flops", "gpu_hours", "money", "wall_hours", "flops_multiple")


class BudgetSettings(Protocol):
    """The settings that state a budget; those of `scaling plan` have them."""

    flops: float | None
    gpu_hours: float | None
    money: float | None
    wall_hours: float | None
    flops_multiple: float | None
    device: str
    devices: int
    price_per_hour: float | None
    utilisation: Any
    flops_per_second: float | None
    activation_checkpointing: bool | None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Training FLOPs, and the speed of one device at which they are spent (None when unknown).

    `flops_per_second` counts the model's FLOPs alone, recomputation left out.
    """

    flops: float
    reason: str = "stated"
    device: str = ""
    devices: int = 1
    flops_per_second: float | None = None
    speed_reason: str = "no speed is known: no study, no device"
    price_per_hour: float | None = None
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Refuse a budget that buys nothing."""
        check_flops(self.flops)


def check_flops(flops: float) -> float:
    """Return the FLOPs of a budget; ValueError for one that buys nothing, or more than exists."""
    if not 0 < flops <= MOST_FLOPS:
        raise ValueError(
            f"the budget is {flops:g} FLOPs; give a number above 0 and up to {MOST_FLOPS:g}, as"
            " flops=1e21"
        )
    return flops


def budget_of(settings: BudgetSettings, law: Law, study: Study) -> Budget:
    """Return the budget that the settings state; ValueError unless they state exactly one."""
    kind, value = _stated(settings)
    if kind == "flops":
        flops, reason = float(value), "stated by flops"
    elif kind == "flops_multiple":
        flops, reason = _multiple(value, study)
    else:
        hours, text = _hours(kind, value, settings)
        flops, reason = _bought(
            hours,
            text,
            speed=lambda size: speed_of(settings, study, size),
            size=lambda c: law.optimum(c).params,
            start=max((c.params for c in study.cells), default=1e9),
        )
    check_flops(flops)
    speed, device, why = speed_of(settings, study, law.optimum(flops).params)
    return Budget(
        flops=flops,
        reason=reason,
        device=device,
        devices=settings.devices,
        flops_per_second=speed,
        speed_reason=why,
        price_per_hour=settings.price_per_hour,
        activation_checkpointing=bool(settings.activation_checkpointing),
    )


def flops_of_hours(hours: float, *, flops_per_second: float) -> float:
    """Return the training FLOPs that device hours buy at a sustained speed."""
    return hours * 3600 * flops_per_second


def speed_of(
    settings: BudgetSettings, study: Study, params: float
) -> tuple[float | None, str, str]:
    """Return the model's FLOP/s on one device (None if unknown), the device, and the reason."""
    device = settings.device or study.device
    share_of_model, recomputed = _share_of_model(
        bool(settings.activation_checkpointing), before=False
    )
    if settings.flops_per_second is not None:
        if not settings.flops_per_second > 0:
            raise ValueError(
                f"flops_per_second={settings.flops_per_second:g} must be positive; measure it or"
                " leave it out"
            )
        peak_of_device = device_named(settings.device).peak if settings.device else None
        if peak_of_device and settings.flops_per_second > peak_of_device:
            raise ValueError(
                f"flops_per_second={settings.flops_per_second:g} is above the peak of"
                f" {settings.device}, {peak_of_device:g}; state the speed of one device"
            )
        return (
            share_of_model * settings.flops_per_second,
            device,
            f"stated by flops_per_second{recomputed}",
        )
    measured = study.speed(params)
    same = not settings.device or (
        bool(study.device) and settings.device.lower() in study.device.lower()
    )
    if measured and same:
        share_of_model, recomputed = _share_of_model(
            bool(settings.activation_checkpointing), before=study.checkpointing
        )
        share = study.utilisation(params)
        of_peak = f" ({100 * share:.2g}% of its peak)" if share else ""
        return (
            share_of_model * measured,
            device,
            f"measured by the {study.source} on {study.device}{of_peak},"
            f" {study.speed_words}{recomputed}",
        )
    if not settings.device:
        return None, "", "no speed is known: no study, no device"
    peak, share, source = (
        device_named(settings.device).peak,
        settings.utilisation,
        "stated and not measured",
    )
    if share == MEASURED:
        share = study.utilisation(params)
        if share is None:
            raise ValueError(
                f"utilisation={MEASURED} needs cells whose records have an mfu, and the"
                f" {study.source} has none; state it, as utilisation=0.4"
            )
        share_of_model, recomputed = _share_of_model(
            bool(settings.activation_checkpointing), before=study.checkpointing
        )
        source = f"measured by the {study.source} on {study.device}, not on {settings.device}"
    return (
        share_of_model * peak * share,
        settings.device.lower(),
        f"{settings.device.lower()}: {peak:g} FLOP/s dense bf16 peak x utilisation {share:.4g},"
        f" {source}{recomputed}",
    )


def _share_of_model(checkpointing: bool, *, before: bool) -> tuple[float, str]:
    """Return the share of a speed that the model's FLOPs are, and a clause that says why.

    checkpointing: whether the run computes activations again
    before: whether the runs did whose speed it is
    """
    if checkpointing == before:
        return 1.0, ""
    if checkpointing:
        text = "activation checkpointing computes the forward pass twice"
        return CHECKPOINTED, f" x {CHECKPOINTED:g}: {text}"
    text = "the cells computed the forward pass twice and this run does not"
    return 1 / CHECKPOINTED, f" / {CHECKPOINTED:g}: {text}"


def _stated(settings: BudgetSettings) -> tuple[str, float]:
    """Return the one way in which the budget is stated, and its value."""
    stated = {k: getattr(settings, k) for k in KINDS if getattr(settings, k) is not None}
    if len(stated) != 1:
        text = " and ".join(f"{k}={v:g}" for k, v in stated.items()) or "nothing"
        raise ValueError(
            f"the budget sets {text}; set exactly one of {', '.join(KINDS)} (got {len(stated)})"
        )
    ((kind, value),) = stated.items()
    if not value > 0:
        raise ValueError(
            f"{kind}={value:g} must be positive; give the budget as {kind}=1e3 or the like"
        )
    return kind, value


def _multiple(value: float, study: Study) -> tuple[float, str]:
    """Return a multiple of the study's largest cell in FLOPs, and the reason."""
    if study.largest_flops is None:
        raise ValueError(
            f"flops_multiple={value:g} needs a study to multiply; give runs=runs/NAME, or flops="
        )
    return (
        value * study.largest_flops,
        f"{value:g} x the largest cell of the {study.source}, {study.largest_flops:.4g} FLOPs",
    )


def _hours(kind: str, value: float, settings: BudgetSettings) -> tuple[float, str]:
    """Return device hours and a clause that says from what."""
    if kind == "wall_hours":
        return value * settings.devices, f"{value:g} h on {plural(settings.devices, 'device')}"
    if kind == "money":
        if settings.price_per_hour is None:
            raise ValueError(
                f"money={value:g} needs the price of a device hour in the same currency; give"
                " price_per_hour=2.5 or the like"
            )
        hours = value / settings.price_per_hour
        return hours, f"{value:g} / {settings.price_per_hour:g} an hour = {hours:.4g} device hours"
    return value, f"{value:g} device hours"


def _bought(
    hours: float,
    text: str,
    *,
    speed: Callable[[float], tuple[float | None, str, str]],
    size: Callable[[float], float],
    start: float,
) -> tuple[float, str]:
    """Return the FLOPs of device hours; a measured speed depends on N, and N on C: iterate."""
    per_second, _, speed_reason = speed(start)
    if per_second is None:
        raise ValueError(
            f"a budget of {text} needs a speed; give device=h100 or the like, flops_per_second=,"
            " or runs="
        )
    for _ in range(4):
        per_second, _, speed_reason = speed(
            size(check_flops(flops_of_hours(hours, flops_per_second=per_second)))
        )
        assert per_second is not None  # a speed at one size means a speed at all
    return (
        flops_of_hours(hours, flops_per_second=per_second),
        f"{text} x 3600 x {per_second:.4g} FLOP/s ({speed_reason})",
    )
