"""What `scaling` and `analysis` share: files, records, shapes, recipes.

Beside scaling.app it is the only part of `scaling` that `analysis` imports. It imports the standard
library and PyYAML, no torch.
"""

from scaling.schema.atomic import replacing, sweep_temporaries, temporary_name
from scaling.schema.commands import Command, read_commands, remember_command
from scaling.schema.damage import set_aside
from scaling.schema.devices import DEVICES, Device, device_named, device_of_label
from scaling.schema.end_forecast import EndForecast
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
    FORECASTS,
    append_forecast,
    confirmations,
    deviations,
    forecast_score,
    measure_of,
    read_forecasts,
)
from scaling.schema.measured import BITS_PER_BYTE, LOSS_UNITS, NATS_PER_TOKEN, Measure
from scaling.schema.memory import (
    activation_bytes,
    stage_disk_bytes,
    stage_memory_bytes,
    training_memory_bytes,
)
from scaling.schema.process import is_stopped, machine_id, process_start, seconds_here
from scaling.schema.ranges import (
    FLOPS,
    LEVEL,
    MOST,
    MOST_FLOPS,
    MOST_RESAMPLES,
    OneOf,
    Range,
    Seed,
    check_settings,
    checked,
    did_you_mean,
    limits_of,
    numeric_fields,
    ranges_of,
)
from scaling.schema.reading import LaterVersion, check_schema, read_as
from scaling.schema.recipe import (
    LORA_FACTOR,
    Recipe,
    initial_kl_coefficient,
    tuning_lr,
    whole_batch,
)
from scaling.schema.record import (
    COUNTS,
    SCHEMA,
    Record,
    discard_record,
    find_record,
    near_path,
    no_study,
    read_curve,
    read_record,
    read_records,
)
from scaling.schema.record_parts import Cost, Params, Status, TestSetScore
from scaling.schema.safety import (
    MOST_TEXT_BYTES,
    check_folder,
    check_listable,
    check_readable,
    check_study,
    destination,
    refuse_code,
)
from scaling.schema.sft_columns import FEW_ROWS, SftColumns
from scaling.schema.shape import MOST_PARAMS, Shape, check_size
from scaling.schema.trunk import Branch, training_length
from scaling.schema.yaml_file import read_yaml

__all__ = [
    "BITS_PER_BYTE",
    "CONFIRMING",
    "COUNTS",
    "DEVICES",
    "EVALUATION",
    "FEW_ROWS",
    "FLOPS",
    "FORECASTS",
    "LEVEL",
    "LORA_FACTOR",
    "LOSS_UNITS",
    "MOST",
    "MOST_FLOPS",
    "MOST_PARAMS",
    "MOST_RESAMPLES",
    "MOST_TEXT_BYTES",
    "NATS_PER_TOKEN",
    "SCHEMA",
    "SNAPSHOT",
    "Branch",
    "Command",
    "Cost",
    "Device",
    "EndForecast",
    "Evaluation",
    "LaterVersion",
    "Measure",
    "OneOf",
    "Params",
    "Range",
    "Recipe",
    "Record",
    "Seed",
    "SftColumns",
    "Shape",
    "Status",
    "TestSetScore",
    "activation_bytes",
    "append_forecast",
    "check_folder",
    "check_listable",
    "check_readable",
    "check_schema",
    "check_settings",
    "check_size",
    "check_study",
    "checked",
    "code_version",
    "confirmations",
    "destination",
    "deviations",
    "device_named",
    "device_of_label",
    "did_you_mean",
    "discard_record",
    "find_record",
    "forecast_score",
    "initial_kl_coefficient",
    "is_stopped",
    "limits_of",
    "machine_id",
    "measure_of",
    "near_path",
    "no_study",
    "now",
    "numeric_fields",
    "parse_json",
    "process_start",
    "ranges_of",
    "read_as",
    "read_commands",
    "read_curve",
    "read_evaluation",
    "read_forecasts",
    "read_json",
    "read_record",
    "read_records",
    "read_yaml",
    "refuse_code",
    "remember_command",
    "replacing",
    "seconds_here",
    "set_aside",
    "sha256_file",
    "sha256_json",
    "stage_disk_bytes",
    "stage_memory_bytes",
    "sweep_temporaries",
    "temporary_name",
    "training_length",
    "training_memory_bytes",
    "tuning_lr",
    "whole_batch",
    "write_json",
    "write_text",
]
