"""What crosses the wall between running and explaining: files, records, shapes, recipes.

The only part of `scaling` that `analysis` imports; the standard library and PyYAML, no torch.
"""

from scaling.schema.atomic import replacing, sweep_temporaries, temporary_name
from scaling.schema.damage import set_aside
from scaling.schema.evaluation import EVALUATION, Evaluation, read_evaluation
from scaling.schema.files import (
    SNAPSHOT,
    code_version,
    now,
    parse_json,
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
from scaling.schema.process import machine_id, process_started, process_stopped, seconds_here
from scaling.schema.ranges import (
    FLOPS,
    LEVEL,
    MOST,
    MOST_FLOPS,
    MOST_RESAMPLES,
    Range,
    Seed,
    check_ranges,
    numeric_fields,
    ranges_of,
)
from scaling.schema.reading import Later, check_schema, read_as
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
from scaling.schema.safety import (
    MOST_TEXT_BYTES,
    check_study,
    destination,
    finite,
    listable,
    readable,
    refuse_code,
)
from scaling.schema.shape import MOST_PARAMS, Shape, check_size, ladder_shape
from scaling.schema.trunk import Branch, trained
from scaling.schema.yaml_file import read_yaml

__all__ = [
    "CONFIRMING",
    "COUNTS",
    "EVALUATION",
    "FLOPS",
    "LEDGER",
    "LEVEL",
    "LORA_FACTOR",
    "MOST",
    "MOST_FLOPS",
    "MOST_PARAMS",
    "MOST_RESAMPLES",
    "MOST_TEXT_BYTES",
    "SCHEMA",
    "SNAPSHOT",
    "Branch",
    "Evaluation",
    "Later",
    "Params",
    "Range",
    "Recipe",
    "Record",
    "Seed",
    "Shape",
    "append_forecast",
    "check_ranges",
    "check_schema",
    "check_size",
    "check_study",
    "code_version",
    "confirmations",
    "destination",
    "deviations",
    "discard_record",
    "find_record",
    "finite",
    "first_coefficient",
    "ladder_shape",
    "listable",
    "machine_id",
    "now",
    "numeric_fields",
    "parse_json",
    "process_started",
    "process_stopped",
    "ranges_of",
    "read_as",
    "read_curve",
    "read_evaluation",
    "read_forecasts",
    "read_json",
    "read_record",
    "read_records",
    "read_yaml",
    "readable",
    "refuse_code",
    "replacing",
    "scored",
    "seconds_here",
    "set_aside",
    "sha256_file",
    "sha256_json",
    "sweep_temporaries",
    "temporary_name",
    "trained",
    "tuning_lr",
    "whole_batch",
    "write_json",
    "write_text",
]
