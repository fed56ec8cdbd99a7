"""The columns of a table: their names, units and legal values."""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from numbers import Real
from typing import Annotated, Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import named_rows
from analysis.alarms.loss_units import NATS, UNITS, converted, unit_of_name
from analysis.forms import column
from scaling.app.quoting import override
from scaling.schema import OneOf, checked

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
MOST_SHOWN = 40  # characters of a wrong value


@dataclass(kw_only=True)
@checked("columns")
class Columns:
    """Names of the table's columns; those that the form does not need may be absent."""

    params: str = "params"
    """Column of N, the parameters."""
    tokens: str = "tokens"
    """Column of D, the training tokens."""
    loss: str = "loss"
    """Column of the loss."""
    flops: str = "flops"
    """Column of C, the training FLOPs; where it is absent, C is 6 N D."""
    group: str = "group"
    """Column that tells the sources or settings of runs apart."""
    weight: str = "weight"
    """Column of the weights of runs in the fit."""
    seed: str = "seed"
    """Column of the seed."""
    unique_tokens: str = "unique_tokens"
    """Column of the different training tokens, where tokens repeat (form=data_constrained)."""
    experts: str = "experts"
    """Column of the number of experts, 1 for a dense model (form=mixture)."""
    trunk: str = "trunk"
    """Column that names the trunk of a run; the bootstrap resamples whole trunks."""
    lr: str = "lr"
    """Column of the peak learning rate (form=lr_batch)."""
    batch: str = "batch"
    """Column of the tokens of a step (form=lr_batch)."""
    examples: str = "examples"
    """Column of the fine-tuning examples."""
    epochs: str = "epochs"
    """Column of the passes over the fine-tuning examples."""
    pairs: str = "pairs"
    """Column of a reward model's training pairs."""
    kl: str = "kl"
    """Column of the KL from the fine-tuned model, in nats per sequence."""
    reward: str = "reward"
    """Column of the gold reward; it may be negative."""
    error: str = "error"
    """Column of a task's error (form=accuracy)."""
    loss_unit: Annotated[str, OneOf("", *UNITS)] = ""
    """Unit of the loss; empty takes what the column's name says, nats per token where it says
    nothing."""

    def names(self) -> dict[str, str]:
        """Return the table's name of each of our columns."""
        return {k: v for k, v in asdict(self).items() if k != "loss_unit"}


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
    if "loss" in table and (name := loss_unit_of(columns)) != NATS:
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
        raise ValueError(refused_twice(twice))


def loss_unit_of(columns: Columns) -> str:
    """Return the unit of the loss: what is stated, else what the column's name says."""
    return columns.loss_unit or unit_of_name(columns.loss)


def refused_twice(names: Sequence[str]) -> str:
    """Say that two columns have one name."""
    return f"two columns are called {', '.join(names)}; rename or drop one"


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
