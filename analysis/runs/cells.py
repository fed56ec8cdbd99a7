"""Rows of a table from a study's records: cells, confirmation runs, updates of PPO."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.schema import (
    Record,
    confirmations,
    read_curve,
    read_record,
    sha256_file,
)

log = logging.getLogger(__name__)


SETTINGS = (  # of a stage, that its law holds for
    "method", "lora_rank", "data", "epochs", "batch_examples", "batch_pairs", "batch_episodes",
    "lr_fraction", "policy_sha256",
)  # fmt: skip
FORM_OF = {
    "pretrain": "chinchilla",
    "sft": "finetuning_epochs",
    "reward": "reward_model",
    "ppo": "rl_overoptimisation",
}
SAME_LOSS = ("data", "tokenizer", "eval")  # of a config: what losses are compared on
LEAST_KL = 0.1  # nats; the law of PPO does not hold nearer to the start
FEWEST_BODIES = 8  # of stages: with fewer models a resample of them leaves no law


def sha256_of(folder: Path) -> dict[str, str]:
    """Hash every record of a study by cell."""
    found = sorted(p for p in folder.glob("*/record.json") if p.is_file())
    return {path.parent.name: sha256_file(path) for path in found}


def study_rows(
    folder: Path, count: str, stage: str, points: str
) -> tuple[pd.DataFrame, list[dict[str, str]], dict[str, Any]]:
    """Return the rows of a study's cells, the cells left out and why, and the table's `inputs`.

    folder: of the study, with a record a cell
    count: how N is counted
    stage: of the cells that are meant
    points: `records` or, of PPO, `updates`
    """
    paths = sorted(folder.glob("*/record.json"))
    if not paths:
        raise ValueError(f"{folder} holds no record.json; run the sweep first or check the path")
    kept: list[dict[str, Any]] = []
    records, dropped = _readable(paths)
    least: set[float | None] = set()
    for path, record in records.items():
        why = _why_not(record, stage)
        if why:
            dropped.append({"run": record.run_id, "why": why})
        else:
            kept += _rows(record, path.parent, count, points)
            least.add(record.metrics.get("bayes_loss"))
    if not kept:
        whys = sorted({d["why"] for d in dropped})
        others = sorted({r.stage for r in records.values()} - {stage})
        if others and all(w.startswith("stage is") for w in whys):
            raise ValueError(
                f"{folder} has {len(dropped)} records of stage {' and '.join(others)}, none of"
                f" {stage}; fit a form of that stage, as form={FORM_OF[others[0]]}"
            )
        raise ValueError(
            f"{folder} has {len(dropped)} records but none that is done and {stage} "
            f"({'; '.join(whys)}); finish the sweep first"
        )
    inputs: dict[str, Any] = {"source": folder.as_posix(), "sha256": sha256_of(folder)}
    if stage == "pretrain":
        rows, told, strange = _confirmed(
            folder, count, read_record(folder / kept[0]["run"] / "record.json")
        )
        kept, dropped = kept + rows, dropped + strange
        inputs |= {"confirmations": told} if told else {}
    if len(least) == 1 and None not in least:  # one test set, of known entropy
        inputs["bayes_loss"] = least.pop()
    table = pd.DataFrame(kept)
    table.index = pd.Index(table["run"].tolist())  # cells are named, not counted
    if points == "updates":
        inputs["points"] = points
    elif stage != "pretrain" and (n := len(set(table["trunk"]))) < FEWEST_BODIES:
        table = table.drop(columns="trunk")  # rows are resampled, what their models share is not
        inputs["bodies"] = n
    return table, dropped, inputs


def _readable(paths: list[Path]) -> tuple[dict[Path, Record], list[dict[str, str]]]:
    """Read records; return those that cannot be read as dropped, which is said."""
    found, damaged = {}, []
    for path in paths:
        try:
            found[path] = read_record(path)
        except ValueError as error:
            log.warning("left out: %s", error)
            damaged.append({"run": path.parent.name, "why": f"its record cannot be read: {error}"})
    return found, damaged


def _confirmed(
    folder: Path, count: str, cell: Record
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, str]]]:
    """Return the rows of confirmation runs, how each forecast ended, and those of other data."""
    rows, told, strange = [], [], []
    for path, record, line in confirmations(folder):
        if any(record.config.get(k) != cell.config.get(k) for k in SAME_LOSS):
            why = f"confirmation with other {' or '.join(SAME_LOSS)} than the cells"
            strange.append({"run": record.run_id, "why": why})
            continue
        rows.append(_row(record, path.parent, count))
        kept = ("study", "forecast", "interval", "level", "outcome", "error", "z", "inside")
        told.append(
            {"run": record.run_id, "flops": record.flops, **{k: line[k] for k in kept}}
            | {"sha256": sha256_file(path)}
        )
    return rows, told, strange


def _why_not(record: Record, stage: str) -> str | None:
    if record.stage != stage:
        return f"stage is {record.stage}, not {stage}"
    if record.status != "done":
        return f"status is {record.status}"
    return None


def _rows(record: Record, folder: Path, count: str, points: str) -> list[dict[str, Any]]:
    """Return a run's row, or with `points` of updates one each; their unit is the run."""
    row = _row(record, folder, count)
    if points == "records":
        return [row]
    scored = [r for r in read_curve(folder / "metrics.jsonl") if "held_out_gold" in r]
    if not scored:
        raise ValueError(
            f"{folder} has no gold reward of held-out prompts in its curve; sweep it again with"
            " ppo.eval_updates=4, or fit points=records"
        )
    return [
        {
            **row,
            "kl": r["held_out_kl"],
            "reward": r["held_out_gold"] - record.metrics["gold_before"],
            "proxy": r["held_out_reward"] - record.metrics["reward_before"],
            "episodes": r["episodes"],
            "run": f"{record.run_id} at {r['episodes']:.0f}",
            "trunk": record.run_id,
        }
        for r in scored
        if r["held_out_kl"] >= LEAST_KL
    ]


def _row(record: Record, folder: Path, count: str) -> dict[str, Any]:
    curve, config = folder / "metrics.jsonl", record.config
    if record.stage != "pretrain":
        return _stage_row(record, count)
    model, optim = config.get("model", {}), config.get("optim", {})
    return {
        **_common(record, count),
        "flops_6nd": record.flops_6nd,
        "batch": record.batch_tokens,
        "schedule": record.schedule,
        "lr_base": optim.get("lr_base"),
        "optimizer": optim.get("name", "adamw"),
        "parametrization": model.get("parametrization", "layerwise"),
        "n_experts": model.get("n_experts", 0),
        "experts": max(1, model.get("n_experts", 0)),
        "undercooled": "undercooled" in record.flags,
        "curve": str(curve) if curve.exists() else None,
    }


def _common(record: Record, count: str) -> dict[str, Any]:
    return {
        "run": record.run_id,
        "params": getattr(record.params, count),
        "tokens": record.tokens,
        "loss": record.test_loss,
        "flops": record.flops,
        "unique_tokens": record.unique_tokens,
        "seed": record.seed,
        "trunk": record.trunk,
        "lr": record.peak_lr,
    }


def _stage_row(record: Record, count: str) -> dict[str, Any]:
    """Return a stage's settings beside what it reached.

    `loss` is of completions or of pairs; of PPO `reward` is the gold judge's gain at `kl`.
    """
    config = record.config
    earlier = {"pretrain": config.get("cell", {}).get("budget", {}), **config.get("before", {})}
    settings = {f"{stage}_{k}": v for stage, block in earlier.items() for k, v in block.items()}
    settings = {k: v for k, v in (settings | config.get("plan", {})).items() if _plain(v)}
    found = {**settings, **record.metrics, **_common(record, count)}
    if {"gold_after", "gold_before"} <= found.keys():
        found["reward"] = found["gold_after"] - found["gold_before"]
    return {k: v for k, v in found.items() if v is not None}


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def held_settings(raw: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the values that a stage's settings have in a table: what its law was measured at."""
    return {k: sorted(raw[k].unique().tolist()) for k in SETTINGS if k in raw}
