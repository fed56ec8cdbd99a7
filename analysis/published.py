"""Published laws as named constants with their sources, usable wherever a law.json is.

    load_law("besiroglu2024").optimum(1e24)

No draws were published, so predictions from these laws have no interval; where authors printed
confidence intervals they stand in `intervals`, and their joint distribution is unknown.
Regressions (`form="allocation"`) give N and D, not the loss.
"""

from pathlib import Path
from typing import Any

import numpy as np

from analysis.alarms import Alarm
from analysis.allocation import chinchilla_optimum
from analysis.laws import CHINCHILLA, Law

PF_DAY = 8.64e19  # FLOPs of one petaFLOP/s for a day, the unit of C in Kaplan et al. 2020

_NO_DRAWS = Alarm(
    code="no_draws",
    sentence="A published law carries no bootstrap draws: its forecasts have no interval; "
    "refit on your own runs to get one.",
)


def _surface(
    constants: tuple[float, float, float, float, float],
    source: str,
    *,
    count: str = "total",
    intervals: dict[str, Any] | None = None,
    objective: str = "huber_log",
) -> Law:
    parameters = dict(zip(CHINCHILLA, constants, strict=True))
    split = chinchilla_optimum(parameters, 1e20)
    allocation = {"a": float(split["a"]), "b": float(split["b"]), "convention": "C = 6 N D"}
    return Law(
        form="chinchilla",
        count=count,
        parameters=parameters,
        objective={"name": objective, "delta": 1e-3, "value": None},
        status="converged",
        alarms=(_NO_DRAWS,),
        intervals=intervals,
        allocation={**allocation, "a_interval": None, "b_interval": None, "tokens_per_param": []},
        source=source,
    )


def _regression(
    a: float,
    log10_k_params: float,
    b: float,
    log10_k_tokens: float,
    source: str,
    *,
    a_interval: list[float] | None = None,
    b_interval: list[float] | None = None,
) -> Law:
    k_params, k_tokens = 10**log10_k_params, 10**log10_k_tokens
    return Law(
        form="allocation",
        count="total",
        parameters={"k_params": k_params, "a": a, "k_tokens": k_tokens, "b": b},
        objective={"name": "published", "delta": None, "value": None},
        status="converged",
        alarms=(_NO_DRAWS,),
        allocation={
            "a": a,
            "b": b,
            "k_params": k_params,
            "k_tokens": k_tokens,
            "a_interval": a_interval,
            "b_interval": b_interval,
            "tokens_per_param": [],
        },
        source=source,
    )


_BESIROGLU_INTERVALS = {
    "level": 0.95,
    "method": "bootstrap, printed by the authors",
    "resamples": 4000,
    "unit": "row",
    "parameters": {
        "E": [1.769, 1.871],
        "A": [285.0, 744.0],
        "B": [1042.0, 5810.0],
        "alpha": [0.317, 0.373],
        "beta": [0.331, 0.415],
    },
}


def _kaplan() -> Law:
    parameters = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
    return Law(
        form="kaplan",
        count="non_embedding",
        parameters=parameters,
        objective={"name": "published", "delta": None, "value": None},
        status="converged",
        alarms=(_NO_DRAWS,),
        allocation={
            "a": 0.73,
            "b": 0.27,
            "k_params": 1.3e9 / PF_DAY**0.73,
            "a_interval": None,
            "b_interval": None,
            "tokens_per_param": [],
        },
        source="Kaplan et al. 2020, arXiv 2001.08361: eq. 1.5 with Table 2; N = 1.3e9 C^0.73 of "
        "Table 6 as commonly quoted, C in PF-days, D = C / 6N",
    )


def _muennighoff() -> Law:
    e, a, b = np.exp([0.6254804, 6.255414, 7.3049974])
    source = "Muennighoff et al. 2023, arXiv 2305.16264: law before repetition, alpha = beta"
    return _surface((float(e), float(a), float(b), 0.3526596, 0.3526596), source)


def _gadre(e: float, a: float, b: float, eta: float, data: str) -> Law:
    source = f"Gadre et al. 2024, arXiv 2403.08540: refit on {data}, alpha = beta = 2 eta"
    return _surface((e, a / 6**eta, b / 6**eta, 2 * eta, 2 * eta), source, objective="ls")


def _published() -> dict[str, Law]:
    hoffmann = "Hoffmann et al. 2022, arXiv 2203.15556"
    return {
        "hoffmann2022": _surface(
            (1.69, 406.4, 410.7, 0.34, 0.28), f"{hoffmann}: eq. 10 as printed"
        ),
        "hoffmann2022_tex": _surface(
            (1.69337, 406.401, 410.723, 0.33917084, 0.2849083),
            f"{hoffmann}: unrounded constants of the TeX source",
        ),
        "hoffmann2022_approach1": _regression(
            0.498,
            -1.004,
            0.502,
            0.229,
            f"{hoffmann}: Table 3, regressed by Wu et al. 2023, arXiv 2303.17564 section 3.2",
            a_interval=[0.488, 0.502],
            b_interval=[0.501, 0.512],
        ),
        "hoffmann2022_approach2": _regression(
            0.490,
            -0.839,
            0.510,
            0.062,
            f"{hoffmann}: Table A3, regressed by Wu et al. 2023, arXiv 2303.17564 section 3.2",
            a_interval=[0.462, 0.534],
            b_interval=[0.483, 0.529],
        ),
        "besiroglu2024": _surface(
            (1.8172, 482.01, 2085.43, 0.3478, 0.3658),
            "Besiroglu et al. 2024, arXiv 2404.10102: refit of 240 digitised runs",
            intervals=_BESIROGLU_INTERVALS,
            objective="lad_log",
        ),
        "kaplan2020": _kaplan(),
        "muennighoff2023": _muennighoff(),
        "gadre2024_c4": _gadre(1.508, 141.3, 189.5, 0.1213, "C4"),
        "gadre2024_rpj": _gadre(1.837, 212.2, 366.7, 0.1365, "RedPajama"),
        "gadre2024_rw": _gadre(1.735, 157.1, 246.2, 0.1272, "RefinedWeb"),
    }


PUBLISHED: dict[str, Law] = _published()


def load_law(name_or_path: str | Path) -> Law:
    """Return a published law by name, or read law.json; raises ValueError naming the choices."""
    if str(name_or_path) in PUBLISHED:
        return PUBLISHED[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "law.json"
    if not path.exists():
        names = ", ".join(PUBLISHED)
        raise ValueError(f"no law {name_or_path}: neither a file nor one of {names}")
    return Law.read(path)
