"""The columns of a table: what they are called in the source, their units and legal values.

`canonical` turns any table into one with our names and checked numbers. Every mistake is one
sentence, which names the column, the rows and the setting that repairs it.
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Annotated, Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import named_rows
from analysis.alarms.loss_units import NATS, UNITS, convert_loss, unit_of_name
from analysis.forms import column
from analysis.runs.setting_columns import kept_settings
from scaling.app.quoting import override
from scaling.schema import OneOf, checked

NEEDED = ("params", "tokens", "loss")  # columns that a law of pretraining needs
# Columns that are checked even where the form does not read them: alarms and units do.
ALWAYS_CHECKED = (*NEEDED, "flops", "weight", "unique_tokens", "experts")
NUMBERS = (
    *ALWAYS_CHECKED,
    "weight_decay",
    "lr",
    "batch",
    "at_tokens",
    "examples",
    "epochs",
    "pairs",
    "kl",
    "reward",
    "error",
    "k",
)
OF_CURVES = ("schedule", "step")  # columns of curves, which analysis.runs.curves reads
TARGETS = {"loss", "reward", "error"}  # of which every form has one
BESIDE = {"group", "weight", "seed", "trunk", "unique_tokens"}  # columns that alone carry no form
SIGNED = ("reward",)  # columns that may be negative
OR_ZERO = ("weight_decay",)  # columns that may be 0 beside positive
USUAL_RANGE = (1e-12, 1e30)  # legal values in any unit; beyond, sums of powers leave float64
RANGES = {"loss": (1e-9, 1e9), "flops": (1e-15, 1e40), "weight": (1e-9, 1e9)}  # other legal values
SEQUENCES = ""  # name of the column of sequences once they are tokens; no table has it
MOST_SHOWN = 40  # characters of a wrong value that a message repeats


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
    weight_decay: str = "weight_decay"
    """Column of the weight decay (form=surface, form=overfitting_decay)."""
    experts: str = "experts"
    """Column of the number of experts, 1 for a dense model (form=experts)."""
    trunk: str = "trunk"
    """Column that names the trunk of a run; the bootstrap resamples whole trunks."""
    lr: str = "lr"
    """Column of the peak learning rate (form=surface, form=lr_batch), or of a row's rate
    (form=schedule)."""
    batch: str = "batch"
    """Column of the tokens of a step (form=surface, form=lr_batch)."""
    batch_sequences: str = "batch_sequences"
    """Column of the sequences of a step, read with context= where there is no column batch."""
    at_tokens: str = "at_tokens"
    """Column of the tokens of its trunk before a branch with another batch
    (form=critical_batch)."""
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
    """Column of a task's error, 1 - accuracy (form=downstream)."""
    k: str = "k"
    """Column of the samples of a problem, of which one must solve it (form=pass_at_k)."""
    schedule: str = "schedule"
    """Column that names the schedule of a curve's row (form=schedule)."""
    step: str = "step"
    """Column of the step of a curve's row (form=schedule)."""
    loss_unit: Annotated[str, OneOf("", *UNITS)] = ""
    """Unit of the loss; empty takes what the column's name says, nats per token where it says
    nothing."""

    def names(self) -> dict[str, str]:
        """Return the table's name of each of our columns."""
        return {k: v for k, v in asdict(self).items() if k not in (*OF_CURVES, "loss_unit") and v}


def canonical(
    raw: pd.DataFrame,
    columns: Columns | None = None,
    *,
    needed: Sequence[str] = NEEDED,
    context: float | None = None,
) -> pd.DataFrame:
    """Return the table under our column names, with checked numbers.

    raw: the table as it was read
    columns: what our columns are called there
    needed: columns that must be there
    context: tokens of a sequence, which turns a column batch_sequences into the batch in tokens

    Numbers are finite and, except rewards, positive. Raises ValueError for an empty table, a
    missing column, two columns of one name, and a value that is no such number.
    """
    columns = columns or Columns()
    raw, columns = _with_batch(raw, columns, needed, context)
    sources = columns.names()
    _check_columns(raw, sources, needed)
    table = pd.DataFrame(index=pd.RangeIndex(len(raw)))
    for name, source in sources.items():
        if source in raw:
            table[name] = raw[source].to_numpy()
    table["run"] = raw["run"].astype(str).to_numpy() if "run" in raw else raw.index.astype(str)
    names_of_study = [name for name in ("curve", "curve_factor", "undercooled") if name in raw]
    table = table.assign(**{name: raw[name].to_numpy() for name in names_of_study})
    settings = kept_settings(raw, [source for source in sources.values() if source in raw])
    table = table.assign(**{name: values.to_numpy() for name, values in settings.items()})
    if pd.api.types.is_integer_dtype(raw.index):
        table["row"] = raw.index.to_numpy() + 1
    for name in dict.fromkeys((*needed, *NUMBERS)):
        if name in table and (name in needed or name in ALWAYS_CHECKED):
            table[name] = _check_numbers(table, name, sources[name])
    if "loss" in table and (name := loss_unit_of(columns)) != NATS:
        table["loss"] = convert_loss(column(table, "loss"), name, columns.loss)
    if "flops" not in table and {"params", "tokens"} <= set(table):
        table["flops"] = 6 * table["params"] * table["tokens"]
    return table


def _with_batch(
    raw: pd.DataFrame, columns: Columns, needed: Sequence[str], context: float | None
) -> tuple[pd.DataFrame, Columns]:
    """Return the table with a batch in tokens, where it has one in sequences, and its columns."""
    source = columns.batch_sequences
    in_tokens = columns.batch in raw and columns.batch != source
    columns = replace(columns, batch_sequences=SEQUENCES)  # no column of the checked table
    if source in raw and not in_tokens and (context is not None or "batch" in needed):
        if context is None:
            raise ValueError(
                f"column {source!r} counts the sequences of a step, and a batch is in tokens; give"
                " the tokens of a sequence, as context=2048"
            )
        tokens = context * _check_numbers(raw, source, source)
        return raw.drop(columns=source).assign(batch=tokens), replace(columns, batch="batch")
    if context is not None and source not in raw:
        raise ValueError(
            f"context={context:g} turns a column of sequences into the batch in tokens, and the"
            f" table has no column {source!r}; name it, as columns.batch_sequences=NAME, or leave"
            " context out where the batch is in tokens"
        )
    return raw, columns


def _check_columns(raw: pd.DataFrame, sources: dict[str, str], needed: Sequence[str]) -> None:
    """Refuse an empty table, a missing column, and two columns of one name."""
    if not len(raw):
        raise ValueError("the table has no rows; check the file, or loosen where=")
    there = {name for name, source in sources.items() if source in raw}
    if not needed and not (there & TARGETS and there - TARGETS - BESIDE):
        needed = NEEDED  # of form=all, which takes any target and the variables that are there
    absent = {n: s for n, s in sources.items() if s not in raw and (n in needed or s != n)}
    if absent:
        raise ValueError(missing_message(absent, list(map(str, raw.columns))))
    twice = [s for s in sources.values() if list(raw.columns).count(s) > 1]
    if twice:
        raise ValueError(duplicate_names_message(twice))


def loss_unit_of(columns: Columns) -> str:
    """Return the unit of the loss: the setting, else what the column's name gives."""
    return columns.loss_unit or unit_of_name(columns.loss)


def duplicate_names_message(names: Sequence[str]) -> str:
    """Return the message that two columns have one name."""
    return f"two columns are called {', '.join(names)}; rename or drop one"


def missing_message(absent: dict[str, str], present: list[str]) -> str:
    """Return the message of absent columns, with the settings that may repair it."""
    likely_of = {name: _nearest(name, source, present) for name, source in absent.items()}
    absences = " and ".join(f"{source!r} for {name}" for name, source in absent.items())
    likely = [column for columns in likely_of.values() for column in columns]
    hint = f"nearest are {', '.join(likely)}" if likely else f"columns are {', '.join(present)}"
    pairs = [override(f"columns.{name}", (likely_of[name] or ["NAME"])[0]) for name in absent]
    settings = " ".join(pairs)
    return f"the table has no column {absences}; {hint}: set {settings}"


def _nearest(name: str, source: str, present: list[str]) -> list[str]:
    """Return at most three columns that the user may mean; another column of ours is none."""
    ours = set(Columns().names()) - {name}
    free = {p.lower(): p for p in present if p not in ours}
    guesses = [g.lower() for g in (*_ALIASES.get(name, ()), source, name)]
    aliases = [free[g] for g in guesses if g in free]
    within = [p for p in free.values() if any(len(g) > 2 and g in p.lower() for g in guesses)]
    alike = difflib.get_close_matches(source, list(free.values()), n=3, cutoff=0.6)
    both = [*aliases, *within, *alike] if source == name else [*alike, *aliases, *within]
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
    "weight_decay": ("wd", "lambda"),
    "schedule": ("name", "curve", "run", "run_name"),
    "step": ("steps", "iteration", "iter", "_step"),
    "reward": ("gold", "gold_reward", "R"),
    "kl": ("KL", "kl_nats"),
    "pairs": ("n_pairs", "comparisons", "n"),
    "examples": ("n_examples", "D_f", "sft_examples"),
}


def _check_numbers(table: pd.DataFrame, name: str, source: str) -> np.ndarray:
    """Return a column as finite and, except rewards, positive numbers; ValueError names rows."""
    raw, signed = table.loc[:, name], name in SIGNED
    values = numbers(raw)
    zero = (values == 0) if name in OR_ZERO else np.zeros(len(values), dtype=bool)
    bad = np.flatnonzero(~(np.isfinite(values) & (signed | zero | (values > 0))))
    least, most = RANGES.get(name, USUAL_RANGE)
    beyond = np.flatnonzero((np.abs(values) > most) | (~(signed | zero) & (values < least)))
    if not len(bad) and len(beyond):
        raise ValueError(
            f"column {source!r} is beyond {least:g} to {most:g} in {len(beyond)} of {len(values)} "
            f"rows ({named_rows(table, beyond)}, counted from 1; the first holds "
            f"{values[beyond[0]]:g}), which no run's {name} is in any unit; repair or drop them "
            "with where="
        )
    if len(bad):
        kind = "finite number" if signed else "positive finite number"
        kind += " or 0" if name in OR_ZERO else ""
        raise ValueError(
            f"column {source!r} is not a {kind} in {len(bad)} of {len(values)} rows "
            f"({named_rows(table, bad)}, counted from 1; the first holds "
            f"{_short(raw.iloc[bad[0]])}); repair or drop them with where="
        )
    return values


def numbers(values: pd.Series) -> np.ndarray:
    """Return floats; NaN for text, dates, true and false, lists and missing values."""
    types = pd.api.types
    if types.is_float_dtype(values) or (types.is_integer_dtype(values)):
        return values.to_numpy(dtype=float, na_value=np.nan)
    return np.array([_number(value) for value in values], dtype=float)


def _number(value: Any) -> float:
    if isinstance(value, str):
        return _parse(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real | Decimal | np.number):
        return np.nan
    return np.nan if isinstance(value, np.timedelta64 | np.complexfloating) else _parse(value)


def _parse(value: Any) -> float:
    try:
        return np.nan if isinstance(value, str) and "_" in value else float(value)
    except OverflowError:
        return np.inf
    except ValueError:
        return np.nan


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}.."
