"""The forecast of a final run: sealed before the run, scored after it.

runs/NAME/final/forecast.json holds the forecast with the hashes of what the run is made from; it is
written before the run can know its outcome. When pretraining ends, a line with forecast and outcome
goes into runs/forecasts.jsonl, the ledger of all studies. A plan far beyond the compute that was
fitted waits for a confirmation: a smaller run whose line stands in that ledger.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaling.app.values import pasted
from scaling.config import FinalConfig, PpoPlan, RewardPlan, SftPlan
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
from scaling.stages.plan import STAGES, StageName, final_folder

log = logging.getLogger(__name__)


def check_confirmation(config: FinalConfig) -> None:
    """Raise ValueError where a plan needs a confirmation that is missing or missed its interval.

    The message says what to do. `force` lets every plan pass.
    """
    if not config.confirmation.get("needed") or config.force:
        return
    study = config.confirmation.get("study", f"{config.study}{CONFIRMING}")
    law = config.made_from.get("law")
    forecasts = [
        line
        for line in read_forecasts(Path(config.runs) / FORECASTS)
        if (line["study"], line["law_sha256"]) == (study, law)
    ]
    if not forecasts:
        beside = f"{Path(config.plan).with_suffix('')}.confirmation.yaml"
        raise ValueError(
            f"this run is {config.extrapolation:g} times the largest compute fitted and waits for"
            " its confirmation: run the plan written beside it, scaling final"
            f" {pasted(f'plan={beside}')} stages=pretrain, or set force=true"
        )
    if forecasts[-1]["inside"] is False:
        raise ValueError(
            f"the confirmation reached {forecasts[-1]['outcome']:.4f}, outside the forecast"
            f" interval {forecasts[-1]['interval']}: {refit_advice(config.study, config.runs)},"
            " whose intervals allow for the miss, or set force=true"
        )


def refit_advice(study: str, runs: str) -> str:
    """Say how a confirmation becomes a row of the law."""
    source = pasted(f"runs={Path(runs) / study.partition(CONFIRMING)[0]}")
    return f"scaling fit {source} takes it as a row; then plan again with that law"


def forecast_file(config: FinalConfig) -> Path:
    """Return the file of a final run's sealed forecast."""
    return final_folder(config) / "forecast.json"


def score_forecast(config: FinalConfig, record: Record) -> None:
    """Append the outcome of the sealed forecast to the ledger of all studies, once."""
    path, ledger = forecast_file(config), Path(config.runs) / FORECASTS
    line = forecast_score(read_json(path), record, study=config.study) if path.is_file() else None
    if line and append_forecast(ledger, line):
        log.info("forecast scored in %s", ledger)


def stopped_outside(shares: Sequence[float]) -> str:
    """Say that a run was stopped outside its band at these shares of its tokens, and what to do."""
    points = " and ".join(f"{share:.0%}" for share in shares)
    return (
        f"pretraining is stopped: outside the 95% band of its forecast at {points} of the tokens,"
        " its checkpoint kept; look at final/curve.json, then go on with stop_outside=false or plan"
        " again"
    )


def seal_forecast(config: FinalConfig, inputs: dict[str, str]) -> Path:
    """Write the forecast and what the run is made from (`inputs`); return the file.

    A forecast that was sealed before for the same inputs stays as it is.
    """
    path = forecast_file(config)
    if path.is_file() and read_json(path)["inputs"] == inputs:
        return path
    forecast = config.forecast
    later = [name for name in STAGES if name != StageName.PRETRAIN]
    return write_json(
        path,
        {
            "schema": 1,
            "test_loss": forecast.test_loss,
            "interval": list(forecast.interval),
            "level": forecast.level,
            "target": forecast.target,
            "unit": forecast.unit,
            "bits_per_byte": forecast.bits_per_byte,
            "bits_per_byte_interval": list(forecast.bits_per_byte_interval),
            "curve": list(forecast.curve),
            "stages": {name: stage_forecast(getattr(config, name)) for name in later},
            "extrapolation": config.extrapolation,
            "plan_sha256": sha256_file(config.plan) if config.plan else None,
            "law": config.law,
            "made_from": config.made_from,
            "inputs": inputs,
            "sealed": now(),
        },
    )


def stage_forecast(block: SftPlan | RewardPlan | PpoPlan) -> dict[str, Any]:
    """Return the forecast that a law made of a stage; empty where no law set the block."""
    if not block.forecast_level:
        return {}
    return {k: v for k, v in asdict(block).items() if k.startswith("forecast_")}
