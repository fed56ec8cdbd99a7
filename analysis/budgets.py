"""What may be spent: one of FLOPs, device hours or a multiple of the study, turned into FLOPs.

A speed is measured by the study where it ran on the same device, else stated: the device's peak
times `utilisation`, or `flops_per_second` itself. C = hours x 3600 x FLOP/s.
"""

from dataclasses import dataclass
from typing import Protocol

from analysis.devices import flops_of_hours, peak_flops
from analysis.laws import Law
from analysis.study import Study


class Asked(Protocol):
    """The settings that a budget is made of."""

    flops: float | None
    gpu_hours: float | None
    flops_multiple: float | None
    device: str
    utilisation: float
    flops_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Training FLOPs, and the speed at which they are spent (None when it is not known)."""

    flops: float
    reason: str = "stated"
    device: str = ""
    flops_per_second: float | None = None
    speed_reason: str = "no speed is known: no study, no device"

    def __post_init__(self) -> None:
        """Refuse a budget that buys nothing."""
        if not 0 < self.flops < float("inf"):
            raise ValueError(
                f"the budget is {self.flops:g} FLOPs; give a positive number, as flops=1e21"
            )


def budget_of(asked: Asked, law: Law, study: Study) -> Budget:
    """Turn the settings into a budget; ValueError unless exactly one way to state it is used."""
    found = {
        k: getattr(asked, k)
        for k in ("flops", "gpu_hours", "flops_multiple")
        if getattr(asked, k) is not None
    }
    if len(found) != 1:
        text = " and ".join(f"{k}={v:g}" for k, v in found.items()) or "nothing"
        raise ValueError(
            f"the budget sets {text}; set exactly one of flops, gpu_hours, flops_multiple (got"
            f" {len(found)})"
        )
    ((kind, value),) = found.items()
    if not value > 0:
        raise ValueError(
            f"{kind}={value:g} must be positive; give the budget as {kind}=1e3 or the like"
        )
    flops, reason = _flops(kind, value, asked, law, study)
    speed, device, speed_reason = speed_of(asked, study, law.optimum(flops).params)
    return Budget(
        flops=flops,
        reason=reason,
        device=device,
        flops_per_second=speed,
        speed_reason=speed_reason,
    )


def speed_of(asked: Asked, study: Study, params: float) -> tuple[float | None, str, str]:
    """Return FLOP/s (None when unknown), the device and where the speed comes from."""
    device = asked.device or study.device
    if asked.flops_per_second is not None:
        if not asked.flops_per_second > 0:
            raise ValueError(
                f"flops_per_second={asked.flops_per_second:g} must be positive; measure it or"
                " leave it out"
            )
        return asked.flops_per_second, device, "stated by flops_per_second"
    measured = study.speed(params)
    same = not asked.device or (bool(study.device) and asked.device.lower() in study.device.lower())
    if measured and same:
        return (
            measured,
            device,
            (
                f"measured by the {study.source} on {study.device}, median of the cells nearest in"
                " size"
            ),
        )
    if not asked.device:
        return None, "", "no speed is known: no study, no device"
    peak = peak_flops(asked.device)
    return (
        peak * asked.utilisation,
        asked.device.lower(),
        (
            f"{asked.device.lower()}: {peak:g} FLOP/s dense bf16 peak x utilisation"
            f" {asked.utilisation:g}, stated and not measured"
        ),
    )


def _flops(kind: str, value: float, asked: Asked, law: Law, study: Study) -> tuple[float, str]:
    if kind == "flops":
        return float(value), "stated by flops"
    if kind == "flops_multiple":
        if study.largest_flops is None:
            raise ValueError(
                f"flops_multiple={value:g} needs a study to multiply; give runs=runs/NAME, or"
                " flops="
            )
        return (
            value * study.largest_flops,
            f"{value:g} x the largest cell of the {study.source}, {study.largest_flops:.4g} FLOPs",
        )
    speed, _, why = speed_of(asked, study, max((c.params for c in study.cells), default=1e9))
    if speed is None:
        raise ValueError(
            f"gpu_hours={value:g} needs a speed; give device=h100 or the like, flops_per_second=,"
            " or runs="
        )
    for _ in range(4):  # a measured speed depends on the size, which depends on the budget
        params = law.optimum(flops_of_hours(value, flops_per_second=speed)).params
        speed = speed_of(asked, study, params)[0] or speed
    return (
        flops_of_hours(value, flops_per_second=speed),
        f"{value:g} device hours x 3600 x {speed:.4g} FLOP/s ({why})",
    )
