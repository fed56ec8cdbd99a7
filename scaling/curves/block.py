"""A fit of curves as numbers and names that JSON holds, and back."""

from dataclasses import fields
from typing import Any

import numpy as np

from scaling.curves.fit import CONVERGED, NO_DROP, NOT_IDENTIFIED, OFFSET, CurveFit
from scaling.curves.law_fit import LawFit
from scaling.curves.laws import LAWS, Unit

STATUSES = (CONVERGED, NO_DROP, OFFSET, NOT_IDENTIFIED)


def as_block(fit: CurveFit) -> dict[str, Any]:
    """Return the fit as a dictionary without arrays; an unknown error is null."""
    values = {f.name: getattr(fit, f.name) for f in fields(fit)}
    values["laws"] = [
        {
            "law": one.law.name,
            "unit": {"rate": one.unit.rate, "sum": one.unit.sum},
            "theta": one.theta.tolist(),
            "covariance": one.covariance.tolist(),
            "noise": one.noise,
            "spread": one.spread,
            "drop": one.drop,
            "parameters": one.parameters(),
        }
        for one in fit.laws
    ]
    values["error"] = fit.error if np.isfinite(fit.error) else None
    return {**values, "weights": list(fit.weights), "names": list(fit.names)}


def read_block(block: Any) -> CurveFit:
    """Return the fit of a block that `as_block` wrote; ValueError for one that is damaged."""
    try:
        values = dict(block)
        values["laws"] = tuple(_law(one) for one in values["laws"])
        values["weights"] = tuple(float(one) for one in values["weights"])
        values["names"] = tuple(str(one) for one in values["names"])
        values["error"] = float("nan") if values["error"] is None else float(values["error"])
        fit = CurveFit(**values)
        if fit.status not in STATUSES or len(fit.laws) != len(fit.weights):
            raise ValueError("its status or weights are unknown")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the curves of the law do not read ({error})") from error
    return fit


def _law(one: dict[str, Any]) -> LawFit:
    law = LAWS[one["law"]]
    theta, covariance = np.array(one["theta"], float), np.array(one["covariance"], float)
    size = 4 + len(law.names)
    if theta.shape != (size,) or covariance.shape != (size, size):
        raise ValueError(f"the law {law.name} has {size} parameters")
    if not (np.isfinite(theta).all() and np.isfinite(covariance).all()):
        raise ValueError(f"parameters of the law {law.name} are not finite")
    return LawFit(
        law=law,
        unit=Unit(rate=float(one["unit"]["rate"]), sum=float(one["unit"]["sum"])),
        theta=theta,
        covariance=covariance,
        noise=float(one["noise"]),
        spread=float(one["spread"]),
        drop=bool(one["drop"]),
    )
