"""Read runs into one table, from a study's records or from any CSV, Parquet or JSONL.

Columns afterwards: params (N, under the chosen count), tokens (D), loss (L, nats per token), flops
(C; 6ND where the source has none), run, and where the source has them trunk, group, weight, seed,
unique_tokens, experts (1: dense), lr, batch, curve (path of metrics.jsonl), and those of
post-training (examples, pairs, epochs, kl, reward, error). Which must be there is for the form to
say, and of a study which stage: pretraining unless the form is a law of another. Of that stage the
cells that are done enter, and of pretraining the study's confirmation runs (LAWS 8, step 9); failed
ones are listed in `dropped` with the reason. With `points=updates` a PPO run is a row for every
update at which held-out prompts were scored, not one where it ended. Every mistake is one sentence.
"""

import csv
import difflib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import named_rows
from analysis.alarms.loss_units import NATS, check_unit, converted, unit_of_name
from analysis.forms import column
from analysis.runs.condition import rows
from analysis.runs.jsonl import read_jsonl
from scaling.app.choices import check_choice_of
from scaling.app.quoting import override
from scaling.schema import (
    COUNTS,
    Record,
    confirmations,
    near_path,
    read_curve,
    read_record,
    readable,
    sha256_file,
)

log = logging.getLogger(__name__)

NEEDED = ("params", "tokens", "loss")
ALWAYS_CHECKED = (
    *NEEDED,
    "flops",
    "weight",
    "unique_tokens",
    "experts",
)  # also where no form asked for them
NUMBERS = (*ALWAYS_CHECKED, "lr", "batch", "examples", "epochs", "pairs", "kl", "reward", "error")
SIGNED = ("reward",)
USUAL_RANGE = (1e-12, 1e30)  # of a column in any unit; beyond, sums of powers leave float64
RANGES = {"loss": (1e-9, 1e9), "flops": (1e-15, 1e40), "weight": (1e-9, 1e9)}
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
MOST_SHOWN = 40  # characters of a wrong value
MOST_COLUMNS = 2_000  # pandas takes a second for each ten thousand, and a table of runs has twenty
MOST_HEADER = 1 << 20  # characters of a header
MOST_TABLE_BYTES = 2 << 30  # of a table's file: ten million rows
MOST_TABLE_VALUES = 200_000_000  # of a Parquet table, which a few bytes can stand for; 1.6 GB
POINTS = ("records", "updates")
LEAST_KL = 0.1  # nats; the law of PPO does not hold nearer to the start
FEWEST_BODIES = 8  # of stages: with fewer models a resample of them leaves no law


@dataclass(kw_only=True)
class Columns:
    """Names of the table's columns; the optional ones may be absent from the table.

    `loss_unit` is the loss's: nats_per_token, bits_per_token, perplexity, bits_per_byte or
    nats_per_byte; by default the column's name says it.
    """

    params: str = "params"
    tokens: str = "tokens"
    loss: str = "loss"
    flops: str = "flops"
    group: str = "group"
    weight: str = "weight"
    seed: str = "seed"
    unique_tokens: str = "unique_tokens"
    experts: str = "experts"
    trunk: str = "trunk"
    lr: str = "lr"
    batch: str = "batch"
    examples: str = "examples"
    epochs: str = "epochs"
    pairs: str = "pairs"
    kl: str = "kl"
    reward: str = "reward"
    error: str = "error"
    loss_unit: str = ""

    def __post_init__(self) -> None:
        """Refuse an unknown unit."""
        check_unit(self.loss_unit)

    def names(self) -> dict[str, str]:
        """Return the table's name of each of our columns."""
        return {k: v for k, v in asdict(self).items() if k != "loss_unit"}


@dataclass(frozen=True, kw_only=True)
class Runs:
    """A table of runs (one row each), what was left out and why, and what it was read from."""

    table: pd.DataFrame
    dropped: list[dict[str, str]] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    count: str = "total"

    def __len__(self) -> int:
        """Count the runs."""
        return len(self.table)


def load_runs(
    source: str | Path | pd.DataFrame,
    *,
    count: str = "total",
    where: str | None = None,
    columns: Columns | None = None,
    needed: Sequence[str] = NEEDED,
    stage: str = "pretrain",
    points: str = "records",
) -> Runs:
    """Read a study's folder, a file, or a data frame into checked `Runs`.

    `where` is a condition over the source's own columns (`analysis.runs.condition`); `needed` names
    the columns that must be there, `stage` the cells of a study that are meant, `points` what a row
    of them is. Raises ValueError or FileNotFoundError with one sentence.
    """
    check_choice_of("count", count, COUNTS)
    check_points(points, stage)
    columns = columns or Columns()
    dropped: list[dict[str, str]] = []
    if isinstance(source, pd.DataFrame):
        raw, inputs = source.copy(), {"source": "data frame"}
    elif Path(source).is_dir():
        raw, dropped, inputs = _study(Path(source), count, stage, points)
    else:
        raw, inputs = _read_file(Path(source))
    if where:
        raw, inputs = _filter(raw, where), {**inputs, "where": where}
    if stage != "pretrain" and "lr_fraction" in raw:
        inputs = {**inputs, "settings": _held(raw)}
    table = canonical(raw, columns, needed=needed)
    renamed = {k: v for k, v in columns.names().items() if k != v}
    inputs |= {"columns": renamed} if renamed else {}
    if "loss" in table and (unit := _unit_of(columns)) != NATS:
        read = {"column": columns.loss, "unit": unit, "stated": bool(columns.loss_unit)}
        inputs |= {"loss_unit": read}
    return Runs(table=table, dropped=dropped, inputs=inputs, count=count)


def check_points(points: str, stage: str) -> None:
    """Refuse unknown points, and updates of a stage whose law is not one of its course."""
    if points not in POINTS or (points == "updates" and stage != "ppo"):
        raise ValueError(
            f"points={points} of stage {stage} is not known; choose records, or updates for a form"
            " of PPO"
        )


def canonical(
    raw: pd.DataFrame, columns: Columns | None = None, *, needed: Sequence[str] = NEEDED
) -> pd.DataFrame:
    """Return the table under our column names, numbers finite and, but for rewards, positive."""
    columns = columns or Columns()
    sources = columns.names()
    _check_columns(raw, sources, needed)
    table = pd.DataFrame(index=pd.RangeIndex(len(raw)))
    for name, source in sources.items():
        if source in raw:
            table[name] = raw[source].to_numpy()
    table["run"] = raw["run"].astype(str).to_numpy() if "run" in raw else raw.index.astype(str)
    kept = [name for name in ("curve", "undercooled") if name in raw]
    table = table.assign(**{name: raw[name].to_numpy() for name in kept})
    if pd.api.types.is_integer_dtype(raw.index):
        table["row"] = raw.index.to_numpy() + 1
    for name in dict.fromkeys((*needed, *NUMBERS)):
        if name in table and (name in needed or name in ALWAYS_CHECKED):
            table[name] = _checked(table, name, sources[name])
    if "loss" in table and (name := _unit_of(columns)) != NATS:
        table["loss"] = converted(column(table, "loss"), name, columns.loss)
    if "flops" not in table and {"params", "tokens"} <= set(table):
        table["flops"] = 6 * table["params"] * table["tokens"]
    return table


def _check_columns(raw: pd.DataFrame, sources: dict[str, str], needed: Sequence[str]) -> None:
    """Refuse an empty table, a column that is missing, two of one name."""
    if not len(raw):
        raise ValueError("the table has no rows; check the file, or loosen where=")
    absent = {n: s for n, s in sources.items() if s not in raw and (n in needed or s != n)}
    if absent:
        raise ValueError(_missing(absent, list(map(str, raw.columns))))
    twice = [s for s in sources.values() if list(raw.columns).count(s) > 1]
    if twice:
        raise ValueError(_twice(twice))


def _unit_of(columns: Columns) -> str:
    return columns.loss_unit or unit_of_name(columns.loss)


def sha256_of(folder: Path) -> dict[str, str]:
    """Hash every record of a study by cell."""
    found = sorted(p for p in folder.glob("*/record.json") if p.is_file())
    return {path.parent.name: sha256_file(path) for path in found}


def _study(
    folder: Path, count: str, stage: str, points: str
) -> tuple[pd.DataFrame, list[dict[str, str]], dict[str, Any]]:
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


def _held(raw: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the values that a stage's settings have in a table: what its law was measured at."""
    return {k: sorted(raw[k].unique().tolist()) for k in SETTINGS if k in raw}


def _read_file(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    if not path.exists():
        raise FileNotFoundError(
            f"no table or study {path}{near_path(path)}; check the path given as runs="
        )
    readable(path, most_bytes=MOST_TABLE_BYTES)
    readers = {
        ".csv": lambda p: pd.read_csv(p, low_memory=False),  # one type a column, no warning of two
        ".parquet": _read_parquet,
        ".jsonl": read_jsonl,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path} is not a table we read; give {', '.join(readers)} or a study")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; a table needs a header and rows")
    if suffix == ".csv":
        _refuse_header(path)
    try:
        raw = readers[suffix](path)
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty; a table needs a header and rows") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}); save it as such") from error
    except ValueError as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} does not read as {suffix[1:]} ({text}); repair it") from error
    if suffix == ".csv" and not raw.index.equals(pd.RangeIndex(len(raw))):
        raise ValueError(
            f"{path} has rows with more values than its header has names, so that no column is "
            "sure; repair it"
        )
    raw.columns = [name.strip() if isinstance(name, str) else name for name in raw.columns]
    if len(raw.columns) == 1:
        _refuse_separator(path, str(raw.columns[0]))
    return raw, {"source": path.as_posix(), "sha256": sha256_file(path)}


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet table; refuse one that a few bytes make larger than memory."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        meta = read_metadata(path)
        if meta.num_rows * meta.num_columns > MOST_TABLE_VALUES:
            raise ValueError(
                f"it holds {meta.num_rows:,} rows of {meta.num_columns} columns, more than"
                f" {MOST_TABLE_VALUES:,} values"
            )
        return pd.read_parquet(path)
    except ArrowException as error:
        raise ValueError(str(error)) from error


def _refuse_header(path: Path) -> None:
    """Refuse two columns of one name, the second of which pandas would rename, and too many."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        line = stream.readline(MOST_HEADER)
    try:
        header = next(csv.reader([line]), [])
    except csv.Error:  # a name longer than any
        header = []
    if len(header) > MOST_COLUMNS:
        raise ValueError(f"{path} has {len(header):,} columns; at most {MOST_COLUMNS:,} are read")
    names = [name.strip() for name in header if name.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    known = {name.lower() for name in Columns().names()}
    if any(name.lower() in known for name in twice):
        raise ValueError(_twice(twice))


def _twice(names: Sequence[str]) -> str:
    return f"two columns are called {', '.join(names)}; rename or drop one"


def _refuse_separator(path: Path, header: str) -> None:
    for mark, said in ((";", "';'"), ("\t", "tabs"), ("|", "'|'")):
        if mark in header:
            raise ValueError(
                f"{path} is separated by {said}, not by commas; save it with commas between "
                "columns and points in decimals"
            )


def _filter(raw: pd.DataFrame, where: str) -> pd.DataFrame:
    met = rows(raw, where)
    if not met.any():
        names = ", ".join(map(str, raw.columns))
        raise ValueError(f"where={where} keeps none of {len(raw)} rows; columns are {names}")
    return raw.loc[met]


def _missing(absent: dict[str, str], present: list[str]) -> str:
    """Name every absent column and, where one looks like it, the override that maps it."""
    near = {name: _nearest(name, source, present) for name, source in absent.items()}
    said = " and ".join(f"{source!r} for {name}" for name, source in absent.items())
    found = [column for columns in near.values() for column in columns]
    hint = f"nearest are {', '.join(found)}" if found else f"columns are {', '.join(present)}"
    pairs = [override(f"columns.{name}", (near[name] or ["NAME"])[0]) for name in absent]
    settings = " ".join(pairs)
    return f"the table has no column {said}; {hint}: set {settings}"


def _nearest(name: str, source: str, present: list[str]) -> list[str]:
    """Return at most three columns that may be meant; one of another name of ours is not."""
    ours = set(Columns().names()) - {name}
    free = {p.lower(): p for p in present if p not in ours}
    guesses = [g.lower() for g in (*_ALIASES.get(name, ()), source, name)]
    known = [free[g] for g in guesses if g in free]
    within = [p for p in free.values() if any(len(g) > 2 and g in p.lower() for g in guesses)]
    alike = difflib.get_close_matches(source, list(free.values()), n=3, cutoff=0.6)
    both = [*known, *within, *alike] if source == name else [*alike, *known, *within]
    return list(dict.fromkeys(both))[:3]


_ALIASES = {
    "params": ("N", "n_params", "parameters", "model_size", "Model Size"),
    "tokens": ("D", "n_tokens", "training_tokens", "Training Tokens"),
    "loss": (
        *("L", "test_loss", "val_loss", "eval_loss", "perplexity", "ppl", "val_ppl"),
        *("bits_per_token", "bits_per_byte", "bpb", "val_bpb"),
    ),
    "flops": ("C", "compute", "training_flop", "Training FLOP"),
    "unique_tokens": ("U", "unique", "U_D", "dataset_tokens"),
    "lr": ("peak_lr", "learning_rate", "eta"),
    "batch": ("batch_tokens", "bs", "batch_size"),
    "reward": ("gold", "gold_reward", "R"),
    "kl": ("KL", "kl_nats"),
    "pairs": ("n_pairs", "comparisons", "n"),
    "examples": ("n_examples", "D_f", "sft_examples"),
}


def _checked(table: pd.DataFrame, name: str, source: str) -> np.ndarray:
    """Return a column as numbers, finite and but for rewards positive; ValueError names rows."""
    given, signed = table.loc[:, name], name in SIGNED
    values = _numbers(given)
    bad = np.flatnonzero(~(np.isfinite(values) & (signed | (values > 0))))
    least, most = RANGES.get(name, USUAL_RANGE)
    far = np.flatnonzero((np.abs(values) > most) | (~signed & (values < least)))
    if not len(bad) and len(far):
        raise ValueError(
            f"column {source!r} is beyond {least:g} to {most:g} in {len(far)} of {len(values)} "
            f"rows ({named_rows(table, far)}, counted from 1; the first holds {values[far[0]]:g}), "
            f"which no run's {name} is in any unit; repair or drop them with where="
        )
    if len(bad):
        kind = "finite number" if signed else "positive finite number"
        raise ValueError(
            f"column {source!r} is not a {kind} in {len(bad)} of {len(values)} rows "
            f"({named_rows(table, bad)}, counted from 1; the first holds "
            f"{_short(given.iloc[bad[0]])}); repair or drop them with where="
        )
    return values


def _numbers(given: pd.Series) -> np.ndarray:
    """Return floats, NaN for what is no number: text, dates, true and false, lists, nothing."""
    kinds = pd.api.types
    if kinds.is_float_dtype(given) or (kinds.is_integer_dtype(given)):
        return given.to_numpy(dtype=float, na_value=np.nan)
    return np.array([_number(value) for value in given], dtype=float)


def _number(value: Any) -> float:
    if isinstance(value, str):
        return _parsed(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real | Decimal | np.number):
        return np.nan
    return np.nan if isinstance(value, np.timedelta64 | np.complexfloating) else _parsed(value)


def _parsed(value: Any) -> float:
    try:
        return np.nan if isinstance(value, str) and "_" in value else float(value)
    except OverflowError:
        return np.inf
    except ValueError:
        return np.nan


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}.."
