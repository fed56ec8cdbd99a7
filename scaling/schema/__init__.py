"""What crosses the wall between running and explaining: files, records, shapes, recipes.

The only part of `scaling` that `analysis` imports; standard library alone, no torch.
"""

from scaling.schema.damage import built, built_of, set_aside
from scaling.schema.files import (
    SNAPSHOT,
    code_version,
    now,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)
from scaling.schema.forecasts import (
    CONFIRMING,
    LEDGER,
    append_forecast,
    confirmations,
    deviations,
    read_forecasts,
    scored,
)
from scaling.schema.recipe import (
    LORA_FACTOR,
    Recipe,
    first_coefficient,
    tuning_lr,
    whole_batch,
)
from scaling.schema.record import (
    COUNTS,
    SCHEMA,
    Params,
    Record,
    discard_record,
    find_record,
    read_curve,
    read_record,
    read_records,
)
from scaling.schema.shape import Shape, ladder_shape
from scaling.schema.trunk import Branch, trained

__all__ = [
    "CONFIRMING",
    "COUNTS",
    "LEDGER",
    "LORA_FACTOR",
    "SCHEMA",
    "SNAPSHOT",
    "Branch",
    "Params",
    "Recipe",
    "Record",
    "Shape",
    "append_forecast",
    "built",
    "built_of",
    "code_version",
    "confirmations",
    "deviations",
    "discard_record",
    "find_record",
    "first_coefficient",
    "ladder_shape",
    "now",
    "read_curve",
    "read_forecasts",
    "read_json",
    "read_record",
    "read_records",
    "scored",
    "set_aside",
    "sha256_file",
    "sha256_json",
    "trained",
    "tuning_lr",
    "whole_batch",
    "write_json",
    "write_text",
]
