"""In which unit a table states its loss, and the step to nats per token.

The name of the column says it (`perplexity`, `val_bpb`), or `columns.loss_unit` does. Perplexity
and bits per token are turned into nats; bits per byte are another quantity, so the law is then one
of bits per byte and says so in its `unit`. A column whose name says nothing is judged as a whole.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.alarms.alarm import Alarm
from analysis.forms import Array, column
from scaling.app.quoting import override

NATS, BITS_PER_BYTE = "nats_per_token", "bits_per_byte"
UNITS = (NATS, "bits_per_token", "perplexity", BITS_PER_BYTE, "nats_per_byte")
HIGHEST_MEDIAN = 8.0  # nats of unigram guessing at large vocabularies: no trained model's median
_SAID = {
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
    joined = "".join(words)
    if words and (words[-1] in ("bpc", "bpch") or re.search(r"bits?perchar", joined)):
        raise ValueError(
            f"column {name!r} is in bits per character, which no law is stated in; where a "
            f"character is a byte add {override('columns.loss_unit', BITS_PER_BYTE)}, else give "
            "nats per token"
        )
    if re.search(r"nats?(per)?bytes?", joined):
        return "nats_per_byte"
    if "bpb" in words or re.search(r"bits?(per)?bytes?", joined):
        return BITS_PER_BYTE
    exponential = any(re.fullmatch(r"(val|valid|test|train|eval|dev|lm)?ppls?", w) for w in words)
    if (exponential or "perplex" in joined) and not {"log", "ln", "nll"} & set(words):
        return "perplexity"
    bits = "bits" in words and not words[max(words.index("bits") - 1, 0)].isdigit()
    if bits or "bpt" in words or re.search(r"bits?pertok", joined):
        return "bits_per_token"
    return NATS


def converted(values: Array, unit: str, name: str) -> Array:
    """Return losses in the unit of the law: nats per token, or bits per byte."""
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


def unit_of_law(inputs: Mapping[str, Any]) -> str:
    """Return the unit of a law's loss from what its table was read as."""
    read = inputs.get("loss_unit", {}).get("unit", NATS)
    return BITS_PER_BYTE if read.endswith("per_byte") else NATS


def read_alarm(inputs: Mapping[str, Any]) -> Alarm | None:
    """Say that a loss was not read as nats per token; a unit that was stated is no surprise."""
    read = inputs.get("loss_unit")
    if not read or (read["stated"] and not read["unit"].endswith("per_byte")):
        return None
    said, done = _SAID[read["unit"]]
    by = "as stated" if read["stated"] else "by its name"
    other = (
        ""
        if read["stated"]
        else (f"; where it is in nats add {override('columns.loss_unit', NATS)}")
    )
    far = ""
    if read["unit"].endswith("per_byte"):
        far = ", which no loss in nats per token compares with"
    return Alarm(
        code="loss_unit",
        sentence=f"Column {read['column']} is read as {said} {by}: {done}{far}{other}.",
    )


def value_alarm(table: pd.DataFrame) -> Alarm | None:
    """Say that losses, taken as a whole, are too large for nats."""
    middle = float(np.median(column(table, "loss")))
    if middle <= HIGHEST_MEDIAN:
        return None
    return Alarm(
        code="loss_unit",
        sentence=f"Column loss seems to be in perplexity, its median being {middle:.4g}, while "
        f"trained models are below {HIGHEST_MEDIAN:g} nats: add "
        f"{override('columns.loss_unit', 'perplexity')}, or constants and forecasts are no nats.",
    )
