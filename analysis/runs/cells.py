"""Rows of a table from a study's records: cells, confirmation runs, updates of PPO.

A pretraining table takes the done cells and the confirmation runs that were trained on the same
data. A table of a later stage takes that stage's cells with the settings of the stages before.
Records that cannot be read, and cells that are not done, are dropped with the reason.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.forms.token_flops import TokenFlops
from analysis.runs.ladder import token_flops_of
from scaling.schema import (
    Measure,
    Record,
    confirmations,
    read_curve,
    read_record,
    sha256_file,
    sha256_json,
)

log = logging.getLogger(__name__)


SETTINGS = (  # settings of a later stage that its law holds for
    "method", "lora_rank", "data", "epochs", "batch_examples", "batch_pairs", "batch_episodes",
    "lr_fraction", "policy_sha256",
)  # fmt: skip
FORM_OF = {  # form that an error suggests for the cells of a stage
    "pretrain": "chinchilla",
    "sft": "finetuning_epochs",
    "reward": "reward_model",
    "ppo": "rl_overoptimisation",
}
TEXT = "text"  # column of a study's rows that tells texts apart, where there are several
SAME_LOSS = ("data", "tokenizer", "eval")  # config groups that runs of comparable loss share
RULE = (  # settings that say how the rate and the batch, which rows have, follow from the size
    "peak_lr", "batch_tokens", "lr_base_width", "lr_width_exponent", "batch_base",
    "batch_base_params", "batch_exponent", "max_skipped",
)  # fmt: skip
IS_BRANCH = "a branch with another batch (branch.at_tokens), which form=critical_batch reads"
LEAST_KL = 0.1  # nats a sequence; the law of PPO does not hold nearer to the start
FEWEST_BODIES = 8  # pretrained models of a stage's cells that are resampled; fewer leave no law


def sha256_of(folder: Path) -> dict[str, str]:
    """Return {cell: sha256 of its record} of a study."""
    paths = sorted(p for p in folder.glob("*/record.json") if p.is_file())
    return {path.parent.name: sha256_file(path) for path in paths}


def study_rows(
    folder: Path, count: str, stage: str, points: str, measure: Measure, *, branches: bool = False
) -> tuple[pd.DataFrame, list[dict[str, str]], dict[str, Any], TokenFlops | None]:
    """Return a study's rows, the cells that were dropped, the `inputs`, and FLOPs per token by N.

    folder: of the study, which has a folder with a record for each cell
    count: how N is counted (`scaling.schema.COUNTS`)
    stage: of the cells to read
    points: `records`, or `updates` for the course of PPO runs
    measure: which loss of a pretraining cell is meant
    branches: whether branches with another batch than their trunk are meant (`branch.at_tokens`)
        instead of the other cells

    Raises ValueError for a folder without records or without a done cell of the stage.
    """
    paths = sorted(folder.glob("*/record.json"))
    if not paths:
        raise ValueError(f"{folder} holds no record.json; run the sweep first or check the path")
    rows: list[dict[str, Any]] = []
    records, dropped = _read_records(paths)
    of_stage: list[Record] = []
    for path, record in records.items():
        why = _reason_to_drop(record, stage, measure) or _other_kind(record, branches)
        if why:
            dropped.append({"run": record.run_id, "why": why})
        else:
            of_row = _rows(measure.of(record), path.parent, count, points)
            rows += [row | _curve(record, path.parent, measure) for row in of_row]
            of_stage.append(record)
    if not rows:
        raise ValueError(_no_rows(folder, stage, records.values(), dropped))
    inputs: dict[str, Any] = {"source": folder.as_posix(), "sha256": sha256_of(folder)}
    if stage == "pretrain":
        confirmation_rows, confirmations_met, other_data = _confirmation_rows(
            folder, count, read_record(folder / rows[0]["run"] / "record.json"), measure
        )
        rows, dropped = (
            _with_texts(rows, of_stage, measure) + confirmation_rows,
            dropped + other_data,
        )
        inputs |= {"confirmations": confirmations_met} if confirmations_met else {}
    if measure.target and stage == "pretrain":
        log.info("training curves are not used: they hold no loss on %s", measure.target)
    inputs |= _of_the_test_set(of_stage, measure)
    table = pd.DataFrame(rows)
    table.index = pd.Index(table["run"].tolist())  # cells are named, not counted
    if points == "updates":
        inputs["points"] = points
    elif stage != "pretrain" and (n := len(set(table["trunk"]))) < FEWEST_BODIES:
        table = table.drop(columns="trunk")  # rows are resampled, what their models share is not
        inputs["bodies"] = n
    pretraining = [r for r in records.values() if not _reason_to_drop(r, "pretrain", Measure())]
    token_flops = token_flops_of(pretraining, count) if stage == "pretrain" else None
    return table, dropped, inputs, token_flops


def _no_rows(
    folder: Path, stage: str, records: Collection[Record], dropped: Sequence[Mapping[str, str]]
) -> str:
    """Return why a study has no row of a stage, and what to do."""
    whys = sorted({d["why"] for d in dropped})
    others = sorted({r.stage for r in records} - {stage})
    if others and all(w.startswith("stage is") for w in whys):
        return (
            f"{folder} has {len(dropped)} records of stage {' and '.join(others)}, none of"
            f" {stage}; fit a form of that stage, as form={FORM_OF[others[0]]}"
        )
    if whys == [IS_BRANCH]:
        return f"each of {len(dropped)} cells of {folder} is {IS_BRANCH}"
    return (
        f"{folder} has {len(dropped)} records but none that is done and {stage} "
        f"({'; '.join(whys)}); finish the sweep first"
    )


def _with_texts(
    rows: list[dict[str, Any]], records: list[Record], measure: Measure
) -> list[dict[str, Any]]:
    """Return the rows of cells, with a column `text` where they are of several texts.

    A text is a corpus, a vocabulary and a test set, known by their hashes.
    """
    names = ["corpus", "tokenizer", *([f"test_set:{measure.target}"] if measure.target else [])]
    texts = {r.run_id: [r.inputs.get(name, "") for name in names] for r in records}
    if len({tuple(text) for text in texts.values()}) < 2:
        return rows
    return [{**row, TEXT: sha256_json(texts[row["run"]])[:8]} for row in rows]


def refuse_several_texts(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return a study's rows without their column `text`; ValueError where it has several values.

    Losses of different texts or vocabularies follow different laws.
    """
    if TEXT not in table:
        return table
    counts = table[TEXT].value_counts()
    if len(counts) > 1:
        texts = ", ".join(f"{n} of text {name}" for name, n in counts.items())
        raise ValueError(
            f"the cells of {source} were trained or tested on different texts or vocabularies"
            f" ({texts}), and one law is of one text; fit one of them, as"
            f" where=\"{TEXT} == '{counts.index[0]}'\", and give each a study of its own"
        )
    return table.drop(columns=TEXT)


def _of_the_test_set(records: list[Record], measure: Measure) -> dict[str, Any]:
    """Return the named set, or of the test part its blocks and, where it is known, its entropy."""
    inputs: dict[str, Any] = {"target": measure.target} if measure.target else {}
    if not measure.is_default:
        return inputs
    if blocks := [r.metrics["test_blocks"] for r in records if "test_blocks" in r.metrics]:
        inputs["test_blocks"] = int(min(blocks))
    entropies = {r.metrics.get("bayes_loss") for r in records}
    if len(entropies) == 1 and None not in entropies:  # one test set, of known entropy
        inputs["bayes_loss"] = entropies.pop()
    return inputs


def _read_records(paths: list[Path]) -> tuple[dict[Path, Record], list[dict[str, str]]]:
    """Return the records by path, and those that cannot be read as dropped; the log names them."""
    records, damaged = {}, []
    for path in paths:
        try:
            records[path] = read_record(path)
        except ValueError as error:
            log.warning("left out: %s", error)
            damaged.append({"run": path.parent.name, "why": f"its record cannot be read: {error}"})
    return records, damaged


def _confirmation_rows(
    folder: Path, count: str, cell: Record, measure: Measure
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, str]]]:
    """Return the rows of confirmation runs, how each met its forecast, and runs on other data."""
    rows, outcomes, other_data = [], [], []
    for path, record, line in confirmations(folder):
        why = measure.why_missing(record)
        if any(_known(record, k) != _known(cell, k) for k in SAME_LOSS):
            why = f"confirmation with other {' or '.join(SAME_LOSS)} than the cells"
        if why:
            other_data.append({"run": record.run_id, "why": why})
            continue
        row = _row(measure.of(record), count)
        rows.append(row | _curve(record, path.parent, measure))
        keys = ("study", "forecast", "interval", "level", "outcome", "error", "z", "inside")
        outcomes.append(
            {"run": record.run_id, "flops": record.flops, **{k: line[k] for k in keys}}
            | {"sha256": sha256_file(path)}
        )
    return rows, outcomes, other_data


def _known(record: Record, group: str) -> dict[str, Any]:
    """Return a group of settings, those that its version did not know at their former values."""
    former = {"data": {"split": "documents"}, "eval": {"sets": {}, "sets_sha256": {}}}
    return former.get(group, {}) | record.config.get(group, {})


def _reason_to_drop(record: Record, stage: str, measure: Measure) -> str | None:
    if record.stage != stage:
        return f"stage is {record.stage}, not {stage}"
    if record.status != "done":
        return f"status is {record.status}"
    return measure.why_missing(record) or None


def _other_kind(record: Record, branches: bool) -> str | None:
    """Say that a cell is a branch with another batch where others are meant, or the other way."""
    if record.stage != "pretrain" or branches == (branch_point(record) > 0):
        return None
    if branches:
        return "no branch with another batch: branch.at_tokens is not set"
    return IS_BRANCH


def branch_point(record: Record) -> float:
    """Return the tokens after which a branch with another batch left its trunk; 0 for no such."""
    return float(record.config.get("branch", {}).get("at_tokens", 0.0))


def _rows(record: Record, folder: Path, count: str, points: str) -> list[dict[str, Any]]:
    """Return the row of a run, or one row an update; rows of one run share it as their trunk."""
    row = _row(record, count)
    if points == "records":
        return [row]
    updates = [r for r in read_curve(folder / "metrics.jsonl") if "held_out_gold" in r]
    if not updates:
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
        for r in updates
        if r["held_out_kl"] >= LEAST_KL
    ]


def _row(record: Record, count: str) -> dict[str, Any]:
    config = record.config
    if record.stage != "pretrain":
        return _stage_row(record, count)
    model, optim = config.get("model", {}), config.get("optim", {})
    return {
        **_common(record, count),
        "flops_6nd": record.flops_6nd,
        "batch": record.batch_tokens,
        "schedule": record.schedule,
        "lr_base": optim.get("lr_base"),
        "weight_decay": optim.get("weight_decay", 0.1),
        "optimizer": optim.get("name", "adamw"),
        "parametrization": model.get("parametrization", "layerwise"),
        "n_experts": model.get("n_experts", 0),
        "experts": max(1, model.get("n_experts", 0)),
        "undercooled": "undercooled" in record.flags,
        **({"at_tokens": at} if (at := branch_point(record)) else {}),
        **{f"optim.{k}": v for k, v in optim.items() if k not in RULE and _plain(v)},
        **{f"schedule.{k}": v for k, v in config.get("schedule", {}).items() if _plain(v)},
    }


def _curve(record: Record, folder: Path, measure: Measure) -> dict[str, Any]:
    """Return the path of a cell's curve, and what turns its losses into those that are meant."""
    if record.stage != "pretrain":
        return {}
    path, factor = folder / "metrics.jsonl", measure.curve_factor(record)
    has_losses = factor is not None and path.exists()
    return {"curve": str(path) if has_losses else None, "curve_factor": factor}


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
    """Return the row of a later stage: its settings, those of the stages before, and its metrics.

    `loss` is that of completions or of pairs. For PPO, `reward` is the gain of the gold judge's
    score at `kl`.
    """
    config = record.config
    earlier = {"pretrain": config.get("cell", {}).get("budget", {}), **config.get("before", {})}
    settings = {f"{stage}_{k}": v for stage, block in earlier.items() for k, v in block.items()}
    settings = {k: v for k, v in (settings | config.get("plan", {})).items() if _plain(v)}
    row = {**settings, **record.metrics, **_common(record, count)}
    if {"gold_after", "gold_before"} <= row.keys():
        row["reward"] = row["gold_after"] - row["gold_before"]
    return {k: v for k, v in row.items() if v is not None}


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str)


def stage_settings(raw: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the values of a stage's settings in a table, at which its law was measured."""
    return {k: sorted(raw[k].unique().tolist()) for k in SETTINGS if k in raw}
