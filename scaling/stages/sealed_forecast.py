"""The forecast that is sealed before the run and scored after it."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.app.values import pasted
from scaling.config import (
    FinalConfig,
    PpoPlan,
    RewardPlan,
    SftPlan,
)
from scaling.schema import (
    CONFIRMING,
    FORECASTS,
    Record,
    append_forecast,
    forecast_score,
    now,
    read_forecasts,
    read_json,
    sha256_file,
    write_json,
)

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


def confirmed(config: FinalConfig) -> None:
    """Let the run pass if it needs no confirmation, or has one; `force` lets every run pass.

    ValueError for a confirmation that is missing or missed its interval, naming what to do.
    """
    if not config.confirmation.get("needed") or config.force:
        return
    study = config.confirmation.get("study", f"{config.study}{CONFIRMING}")
    law = config.made_from.get("law")
    lines = read_forecasts(Path(config.runs) / FORECASTS)
    found = [line for line in lines if (line["study"], line["law_sha256"]) == (study, law)]
    if not found:
        beside = f"{Path(config.plan).with_suffix('')}.confirmation.yaml"
        raise ValueError(
            f"this run is {config.extrapolation:g} times the largest compute fitted and waits for"
            " its confirmation: run the plan written beside it, python -m scaling.final"
            f" {pasted(f'plan={beside}')} stages=pretrain, or set force=true"
        )
    if found[-1]["inside"] is False:
        raise ValueError(
            f"the confirmation reached {found[-1]['outcome']:.4f}, outside the forecast interval"
            f" {found[-1]['interval']}: {refitting(config.study, config.runs)}, whose intervals"
            " allow for the miss, or set force=true"
        )


def refitting(study: str, runs: str) -> str:
    """Say how a confirmation becomes a row of the law."""
    source = pasted(f"runs={Path(runs) / study.partition(CONFIRMING)[0]}")
    return f"python -m analysis.fit {source} takes it as a row; then plan again with that law"


def score_forecast(config: FinalConfig, record: Record) -> None:
    """Append the outcome of the sealed forecast to the ledger of all studies, once."""
    path = Path(config.runs) / config.study / "final" / "forecast.json"
    line = forecast_score(read_json(path), record, study=config.study) if path.is_file() else None
    if line and append_forecast(Path(config.runs) / FORECASTS, line):
        log.info("forecast scored in %s", Path(config.runs) / FORECASTS)


def outside(left: Sequence[float]) -> str:
    """Say that a run was stopped, and how to go on."""
    at = " and ".join(f"{share:.0%}" for share in left)
    return (
        f"pretraining is stopped: outside the 95% band of its forecast at {at} of the tokens, its"
        " checkpoint kept; look at final/curve.json, then go on with stop_outside=false or plan"
        " again"
    )


def seal_forecast(config: FinalConfig, inputs: dict[str, str]) -> Path:
    """Write what is expected, and from what, before the outcome can be known.

    A forecast already sealed for the same inputs is left as it is.
    """
    path = Path(config.runs) / config.study / "final" / "forecast.json"
    if path.is_file() and read_json(path)["inputs"] == inputs:
        return path
    forecast = config.forecast
    return write_json(
        path,
        {
            "schema": 1,
            "test_loss": forecast.test_loss,
            "interval": list(forecast.interval),
            "level": forecast.level,
            "bits_per_byte": forecast.bits_per_byte,
            "bits_per_byte_interval": list(forecast.bits_per_byte_interval),
            "curve": list(forecast.curve),
            "stages": {name: expected(getattr(config, name)) for name in ("sft", "reward", "ppo")},
            "extrapolation": config.extrapolation,
            "plan_sha256": sha256_file(config.plan) if config.plan else None,
            "law": config.law,
            "made_from": config.made_from,
            "inputs": inputs,
            "sealed": now(),
        },
    )


def expected(block: SftPlan | RewardPlan | PpoPlan) -> dict[str, Any]:
    """Return what a stage's law forecast of it, to be sealed; empty where no law set the block."""
    found = {k: v for k, v in asdict(block).items() if k.startswith("forecast_")}
    return found if block.forecast_level else {}
