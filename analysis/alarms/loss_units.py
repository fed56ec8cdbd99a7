"""The unit in which a table states its loss, and the conversion to nats per token.

The name of the column gives the unit (`perplexity`, `val_bpb`), or `columns.loss_unit` does.
Perplexity and bits per token are converted to nats. Bits per byte are another quantity, so the law
is then one of bits per byte and its `unit` says so. Where the name gives no unit, the median of the
column is checked against what a trained model can have in nats.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.forms import Array, column
from scaling.app.quoting import override

LossUnit = Literal[
    "nats_per_token", "bits_per_token", "perplexity", "bits_per_byte", "nats_per_byte"
]
NATS: LossUnit = "nats_per_token"
BITS_PER_BYTE: LossUnit = "bits_per_byte"
UNITS: tuple[LossUnit, ...] = get_args(LossUnit)
# Nats per token of guessing by frequency at a large vocabulary: no table of trained models has
# such a median.
HIGHEST_MEDIAN = 8.0
_DESCRIPTIONS = {
    "bits_per_token": ("bits per token", "it is multiplied by ln 2 and fitted in nats per token"),
    "perplexity": ("perplexity", "its logarithm is fitted, in nats per token"),
    "bits_per_byte": ("bits per byte", "the law is one of bits per byte"),
    "nats_per_byte": (
        "nats per byte",
        "it is divided by ln 2, and the law is one of bits per byte",
    ),
}


def unit_of_name(name: str) -> str:
    """Return the unit that a column's name states, nats per token where it states none."""
    words = re.findall(r"[a-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    letters = "".join(words)
    if words and (words[-1] in ("bpc", "bpch") or re.search(r"bits?perchar", letters)):
        raise ValueError(
            f"column {name!r} is in bits per character, which no law is stated in; where a "
            f"character is a byte add {override('columns.loss_unit', BITS_PER_BYTE)}, else give "
            "nats per token"
        )
    if re.search(r"(word|byte|char)_?perplexity", name.lower()):
        raise ValueError(
            f"column {name!r} is perplexity of a word or byte, not of a token; give bits per byte"
            f" instead, as {override('columns.loss', 'bits_per_byte')}"
        )
    if re.search(r"nats?(per)?bytes?", letters):
        return "nats_per_byte"
    if "bpb" in words or re.search(r"bits?(per)?bytes?", letters):
        return BITS_PER_BYTE
    exponential = any(re.fullmatch(r"(val|valid|test|train|eval|dev|lm)?ppls?", w) for w in words)
    if (exponential or "perplex" in letters) and not {"log", "ln", "nll"} & set(words):
        return "perplexity"
    bits = "bits" in words and not words[max(words.index("bits") - 1, 0)].isdigit()
    if bits or "bpt" in words or re.search(r"bits?pertok", letters):
        return "bits_per_token"
    return NATS


def convert_loss(values: Array, unit: str, name: str) -> Array:
    """Convert losses (n,) to the unit of the law: nats per token, or bits per byte.

    Raises ValueError for a perplexity that is not above 1; `name` is the column's, for the message.
    """
    if unit == "perplexity":
        low = np.flatnonzero(values <= 1)
        if len(low):
            raise ValueError(
                f"column {name!r} is perplexity, which is above 1, but {len(low)} of {len(values)} "
                f"rows have {values[low[0]]:g} or the like; repair them, or where it is no "
                f"perplexity add {override('columns.loss_unit', NATS)}"
            )
        return np.log(values)
    factor = {"bits_per_token": np.log(2), "nats_per_byte": 1 / np.log(2)}.get(unit, 1.0)
    return values * factor


def unit_of_law(inputs: Mapping[str, Any]) -> LossUnit:
    """Return the unit of a law's loss, given the `inputs` of its table."""
    unit = inputs.get("loss_unit", {}).get("unit", NATS)
    return BITS_PER_BYTE if unit.endswith("per_byte") else NATS


def loss_unit_alarm(inputs: Mapping[str, Any]) -> Alarm | None:
    """Say that a loss was not read as nats per token, unless the user gave a unit per token."""
    reading = inputs.get("loss_unit")
    if not reading or (reading["stated"] and not reading["unit"].endswith("per_byte")):
        return None
    quantity, conversion = _DESCRIPTIONS[reading["unit"]]
    by = "as stated" if reading["stated"] else "by its name"
    other = (
        ""
        if reading["stated"]
        else (f"; where it is in nats add {override('columns.loss_unit', NATS)}")
    )
    incomparable = ""
    if reading["unit"].endswith("per_byte"):
        incomparable = ", which no loss in nats per token compares with"
    return Alarm(
        code="loss_unit",
        sentence=f"Column {reading['column']} is read as {quantity} {by}: "
        f"{conversion}{incomparable}{other}.",
    )


def perplexity_alarm(table: pd.DataFrame) -> Alarm | None:
    """Say that the median loss is too large for nats, so that the column may be a perplexity."""
    middle = float(np.median(column(table, "loss")))
    if middle <= HIGHEST_MEDIAN:
        return None
    return Alarm(
        code="loss_unit",
        sentence=f"Column loss seems to be in perplexity, its median being {middle:.4g}, while "
        f"trained models are below {HIGHEST_MEDIAN:g} nats: add "
        f"{override('columns.loss_unit', 'perplexity')}, or constants and forecasts are no nats.",
    )
