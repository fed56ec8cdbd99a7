"""Published laws as named constants with their sources, usable wherever a law.json is.

    load_law("besiroglu2024").optimum(1e24)
    settings(load_law("steplaw2025"), params=1e9, tokens=2e10)       of analysis.estimation.lr_batch

No draws were published, so predictions from these laws have no interval. Where authors printed
confidence intervals they are in `intervals`; their joint distribution is unknown. Other reasons for
care (another unit, another count) are alarms of the law. Regressions (`form="allocation"`) give N
and D and no loss; `form="lr_batch"` gives the learning rate and the batch in tokens. Laws in C are
converted to N and D by C = 6ND.

MiniCPM 2024 (2404.06395) is left out: its printed alpha .29, beta .23 and 192 tokens per parameter
give an optimum only together with A and B, or with the budget of that ratio, which moves as C^.115.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.alarms.alarm import Alarm
from analysis.forms import FORMS
from analysis.forms.optimum import optimal_split
from analysis.laws.fitted_ranges import with_fitted_range
from analysis.laws.law import Law, Optimum
from scaling.app.choices import did_you_mean
from scaling.app.values import pasted
from scaling.schema import Measure

PF_DAY = 8.64e19  # FLOPs of one petaFLOP/s for a day, the unit of C in Kaplan et al. 2020
PORIAN_CONTEXT = 2048  # tokens a sequence, in which Porian et al. 2024 count the batch

_NO_DRAWS = Alarm(
    code="no_draws",
    sentence="A published law carries no bootstrap draws: its forecasts have no interval; "
    "refit on your own runs to get one.",
)
_BITS_PER_CHARACTER = Alarm(
    code="unit_bits_per_character",
    sentence="This law's loss is in bits per character of the paper's own text, not in nats per "
    "token: take N, D and ratios of losses from it, and compare no level with yours.",
)
_NO_OPTIMUM = (
    "with constants of three digits its loss falls without end towards giant models on few tokens; "
    "take losses from it and N from another law"
)
_ROUNDED = f"The optimum of this law is refused: {_NO_OPTIMUM}."
_FLOPS_PER_TOKEN = Alarm(
    code="model_scale_equivalent",
    sentence="The paper's model scale is M = C/D, non-embedding FLOPs per token with attention; N "
    "here is M/6, an equivalent above the non-embedding parameters: size a model by its FLOPs.",
)
_AT_CONVERGENCE = Alarm(
    code="optimum_at_convergence",
    sentence="The optimum is that of eq. 1.5 (a = .575), not the paper's N ~ C^.73, which allows "
    "for unfinished training and has no checked prefactor: use a later law to choose N.",
)
_OWN_SETUP = Alarm(
    code="own_setup",
    sentence="Optimal learning rates and batches belong to one optimiser, schedule and "
    "parametrisation: start a sweep around these values rather than train at them.",
)
_PRINTED_RULE = Alarm(
    code="rule_disagrees",
    sentence="The printed D = .29 C^.53 gives 10.5T tokens at 3.8e25 FLOPs where the paper trained "
    "on 16.55T, which needs C^.537: expect a third off in D at such budgets.",
)


def _law(
    form: str,
    parameters: dict[str, float],
    source: str,
    *,
    count: str = "total",
    objective: str = "published",
    alarms: tuple[Alarm, ...] = (),
    intervals: dict[str, Any] | None = None,
) -> Law:
    """Return a law of a form; for a form of N and D with the exponents of N* and D*."""
    allocation: dict[str, Any] = {}
    if form in FORMS and FORMS[form].is_surface:
        split = optimal_split(FORMS[form], parameters, 1e20)
        allocation = {"a": float(split["a"]), "b": float(split["b"]), "convention": "C = 6 N D"}
        allocation |= {"a_interval": None, "b_interval": None, "tokens_per_param": []}
    return Law(
        form=form,
        count=count,
        parameters=parameters,
        objective={"name": objective, "delta": 1e-3 if "log" in objective else None, "value": None},
        status="converged",
        alarms=(_NO_DRAWS, *alarms),
        intervals=intervals,
        allocation=allocation,
        source=source,
    )


def _chinchilla(
    e: float,
    a: float,
    b: float,
    alpha: float,
    beta: float,
    source: str,
    *,
    intervals: dict[str, Any] | None = None,
    objective: str = "huber_log",
) -> Law:
    parameters = {"E": e, "A": a, "B": b, "alpha": alpha, "beta": beta}
    return _law("chinchilla", parameters, source, intervals=intervals, objective=objective)


def _allocation(
    a: float,
    k_params: float,
    source: str,
    *,
    b: float | None = None,
    k_tokens: float | None = None,
    a_interval: list[float] | None = None,
    b_interval: list[float] | None = None,
    count: str = "total",
    alarms: tuple[Alarm, ...] = (),
) -> Law:
    """Return N = k_params C^a with D = k_tokens C^b, or with D = C / 6N."""
    values = {"k_params": k_params, "a": a}
    values |= {} if k_tokens is None or b is None else {"k_tokens": k_tokens, "b": b}
    intervals = {"a_interval": a_interval, "b_interval": b_interval}
    allocation = {"b": 1 - a, **values, **intervals, "tokens_per_param": []}
    law = _law("allocation", values, source, count=count, alarms=alarms)
    return replace(law, allocation=allocation)


def _settings(source: str, *, count: str, **parameters: float) -> Law:
    return _law("lr_batch", parameters, source, count=count, alarms=(_OWN_SETUP,))


_BESIROGLU_INTERVALS = {
    "level": 0.95,
    "method": "bootstrap, as printed",
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


def _hoffmann() -> dict[str, Law]:
    paper = "Hoffmann et al. 2022, arXiv 2203.15556"
    wu = "regressed by Wu et al. 2023, arXiv 2303.17564 section 3.2"
    return {
        "hoffmann2022": _chinchilla(1.69, 406.4, 410.7, 0.34, 0.28, f"{paper}: eq. 10 as printed"),
        "hoffmann2022_tex": _chinchilla(
            1.69337,
            406.401,
            410.723,
            0.33917084,
            0.2849083,
            f"{paper}: unrounded constants of the TeX source",
        ),
        "hoffmann2022_approach1": _allocation(
            0.498,
            10**-1.004,
            f"{paper}: Table 3, {wu}",
            b=0.502,
            k_tokens=10**0.229,
            a_interval=[0.488, 0.502],
            b_interval=[0.501, 0.512],
        ),
        "hoffmann2022_approach2": _allocation(
            0.490,
            10**-0.839,
            f"{paper}: Table A3, {wu}",
            b=0.510,
            k_tokens=10**0.062,
            a_interval=[0.462, 0.534],
            b_interval=[0.483, 0.529],
        ),
        "besiroglu2024": _chinchilla(
            1.8172,
            482.01,
            2085.43,
            0.3478,
            0.3658,
            "Besiroglu et al. 2024, arXiv 2404.10102: refit of 240 digitised runs",
            intervals=_BESIROGLU_INTERVALS,
            objective="lad_log",
        ),
    }


def _kaplan() -> dict[str, Law]:
    """Return the joint law and the three in one variable, C (of C_min) in FLOPs."""
    paper = "Kaplan et al. 2020, arXiv 2001.08361"
    one_variable = {
        "params": (8.8e13, 0.076, "eq. 1.1, N without embeddings, at convergence"),
        "tokens": (5.4e13, 0.095, "eq. 1.2, large models stopped early"),
        "flops": (3.1e8 * PF_DAY, 0.050, "eq. 1.3, C_min of 3.1e8 PF-days, optimally spent"),
    }
    laws = {
        "kaplan2020": _law(
            "kaplan",
            {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
            f"{paper}: eq. 1.5 with Table 2",
            count="non_embedding",
            alarms=(_AT_CONVERGENCE,),
        )
    }
    for variable, (scale, exponent, where) in one_variable.items():
        laws[f"kaplan2020_{variable}"] = _law(
            f"power_{variable}",
            {"k": scale**exponent, "exponent": exponent},
            f"{paper}: {where}",
            count="non_embedding",
        )
    return laws


def _porian() -> dict[str, Law]:
    """Return N* = k C^a of the last experiment on each corpus, and its settings."""
    paper = "Porian et al. 2024, arXiv 2406.19146"
    tuned = "learning rate, batch and beta2 tuned, no decay; released fits"
    return {
        "porian2024_rw": _allocation(
            0.49689507817885203,
            0.11892648397493802,
            f"{paper}: RefinedWeb, {tuned}",
            a_interval=[0.4906815956168365, 0.5045239562081141],
            count="with_head",
        ),
        "porian2024_owt2": _allocation(
            0.5184542057238083,
            0.046935346310548694,
            f"{paper}: OpenWebText2, {tuned}",
            a_interval=[0.49309810922443176, 0.5414089256161447],
            count="with_head",
        ),
        "porian2024_lr_batch": _settings(
            f"{paper}: constant learning rate; batch of .00037 N^.703 sequences of 2048 tokens",
            count="with_head",
            k_lr=3.7,
            p_lr=-0.36,
            k_batch=0.00037 * PORIAN_CONTEXT,
            p_batch=0.703,
        ),
    }


def _deepseek() -> dict[str, Law]:
    paper = "DeepSeek-AI 2024 (DeepSeek LLM), arXiv 2401.02954"
    lr, batch = -0.1250, 0.3271
    return {
        "deepseek2024": _allocation(
            0.5243,
            0.1715 / 6,
            f"{paper}: M = .1715 C^.5243, D = 5.8316 C^.4757, M in FLOPs per token and N = M/6",
            b=0.4757,
            k_tokens=5.8316,
            count="non_embedding",
            alarms=(_FLOPS_PER_TOKEN,),
        ),
        "deepseek2024_lr_batch": _settings(
            f"{paper}: lr = .3118 C^-.1250, batch = .2920 C^.3271 tokens, written by C = 6ND; "
            "multi-step schedule",
            count="non_embedding",
            k_lr=0.3118 * 6**lr,
            p_lr=lr,
            q_lr=lr,
            k_batch=0.2920 * 6**batch,
            p_batch=batch,
            q_batch=batch,
        ),
    }


def _muennighoff() -> Law:
    e, a, b = (float(v) for v in np.exp([0.6254804, 6.255414, 7.3049974]))
    exponents = {"alpha": 0.3526596, "beta": 0.3526596}
    return _law(
        "data_constrained",
        {"E": e, "A": a, "B": b, **exponents, "R_D": 15.387756, "R_N": 5.309743},
        "Muennighoff et al. 2023, arXiv 2305.16264: eq. 5-6 with the constants of the released "
        "notebook, alpha = beta",
        objective="huber_log",
    )


def _gadre() -> dict[str, Law]:
    """Return loss and mean error over 17 tasks, refitted on the released runs."""
    paper = "Gadre et al. 2024, arXiv 2403.08540"
    fits = {
        "c4": ("C4", (1.508, 141.3, 189.5, 0.1213), (0.850, 2.08, 0.756)),
        "rpj": ("RedPajama", (1.837, 212.2, 366.7, 0.1365), (0.857, 2.21, 0.715)),
        "rw": ("RefinedWeb", (1.735, 157.1, 246.2, 0.1272), (0.865, 2.21, 0.707)),
    }
    laws = {}
    for name, (data, loss, error) in fits.items():
        laws[f"gadre2024_{name}"] = _law(
            "overtraining",
            dict(zip(("E", "a", "b", "eta"), loss, strict=True)),
            f"{paper}: eq. 4, released code on the released {data} runs",
            objective="ls",
        )
        laws[f"gadre2024_{name}_error"] = _law(
            "downstream_error",
            dict(zip(("eps", "k", "g"), error, strict=True)),
            f"{paper}: eq. 5, mean error of 17 tasks, released code on the released {data} runs",
            objective="ls",
        )
    return laws


@dataclass(frozen=True, kw_only=True)
class _LossOnly(Law):
    """A law of N and D whose constants, as printed, give losses but no optimum."""

    def optimum(
        self,
        flops: float,
        level: float = 0.9,
        *,
        unique_tokens: float | None = None,
        force: bool = False,
    ) -> Optimum:
        """Refuse unless `force`; the parameters are those of `Law.optimum`."""
        if not force:
            raise ValueError(f"this law of form {self.form} has no compute optimum: {_NO_OPTIMUM}")
        return super().optimum(flops, level, unique_tokens=unique_tokens, force=True)


def _farseer() -> Law:
    pieces = {"a1": -0.124, "alpha": 0.123, "b1": 0.424, "a2": 88.01, "beta": -0.1, "b2": -6.287}
    return _LossOnly(
        form="farseer",
        count="non_embedding",
        parameters={**pieces, "a3": -0.021, "gamma": 0.169, "b3": -0.091},
        objective={"name": "published", "delta": None, "value": None},
        status="converged",
        alarms=(_NO_DRAWS, _BITS_PER_CHARACTER, Alarm(code="no_optimum", sentence=_ROUNDED)),
        source="Li et al. 2025 (Farseer), arXiv 2506.10972: the fitted law as printed, its loss in "
        "bits per character",
    )


def _all_laws() -> dict[str, Law]:
    return {
        **_hoffmann(),
        **_kaplan(),
        "muennighoff2023": _muennighoff(),
        **_gadre(),
        **_porian(),
        **_deepseek(),
        "llama3_2024": _allocation(
            1 - 0.53,
            1 / (6 * 0.29),
            "Llama team 2024, arXiv 2407.21783: D = .29 C^.53 as printed, N = C / 6D",
            alarms=(_PRINTED_RULE,),
        ),
        "steplaw2025": _settings(
            "Li et al. 2025 (Step Law), arXiv 2503.04715: cosine to a fixed floor of 1e-5",
            count="non_embedding",
            k_lr=1.79,
            p_lr=-0.713,
            q_lr=0.307,
            k_batch=0.58,
            q_batch=0.571,
        ),
        "farseer2025": _farseer(),
    }


PUBLISHED: dict[str, Law] = {n: with_fitted_range(n, law) for n, law in _all_laws().items()}


def load_law(name_or_path: str | Path) -> Law:
    """Return a published law by name, or read law.json.

    The argument is a name of `PUBLISHED`, the path of a law.json, or a folder that holds one.
    Raises ValueError, naming the choices, for anything else.
    """
    if str(name_or_path) in PUBLISHED:
        return PUBLISHED[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "law.json"
    if not path.exists():
        names = ", ".join(PUBLISHED)
        meant = did_you_mean(str(name_or_path), PUBLISHED)
        raise ValueError(f"no law {name_or_path}{meant}: neither a file nor one of {names}")
    return Law.read(path)


def check_measure(law: Law, name: str, *, target: str, unit: str) -> None:
    """Raise ValueError, with the command to give, where a law is of another loss than asked for.

    law: the law
    name: its name or path
    target: a name of eval.sets; empty asks for none
    unit: of the loss; empty asks for none
    """
    own = law.measure
    measure = Measure(target=target or own.target, unit=unit or own.unit)
    if measure != own:
        source = law.inputs.get("source", "runs/NAME")
        raise ValueError(
            f"{name} is a law of the {own.words}, not of the {measure.words}; fit that with"
            f" scaling fit {pasted(f'runs={source}')} {measure.settings}, and give its file"
        )
