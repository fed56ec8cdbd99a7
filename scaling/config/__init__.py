"""Settings of every command of `scaling`: dataclasses that own the types, defaults and ranges.

Each file holds a group of settings. YAML in `conf/` and `sweeps/` only overrides these defaults.
The text below a field is its sentence in `--help`. `checked` refuses a value outside a field's
range or choices; `__post_init__` refuses values that contradict each other.
"""

from scaling.config.cell import (
    SCIENCE,
    CellConfig,
    GridConfig,
    SwarmConfig,
    TargetConfig,
    with_former_split,
)
from scaling.config.data import (
    BYTES_ALONE,
    OWN_TRUTH,
    TRUTHS,
    DataConfig,
    TokenizerConfig,
    TruthConfig,
)
from scaling.config.final import FinalConfig, PretrainPlan
from scaling.config.machine import LauncherOptions, LogConfig, MachineConfig, check_launcher
from scaling.config.model import PARAMETRIZATIONS, ModelConfig, rung
from scaling.config.ranges import check, one_of
from scaling.config.stages import PpoPlan, RewardPlan, SftColumns, SftPlan, described
from scaling.config.training import (
    LR_POWERS,
    BranchConfig,
    BudgetConfig,
    EvalConfig,
    OptimConfig,
    ScheduleConfig,
)

__all__ = [
    "BYTES_ALONE",
    "LR_POWERS",
    "OWN_TRUTH",
    "PARAMETRIZATIONS",
    "SCIENCE",
    "TRUTHS",
    "BranchConfig",
    "BudgetConfig",
    "CellConfig",
    "DataConfig",
    "EvalConfig",
    "FinalConfig",
    "GridConfig",
    "LauncherOptions",
    "LogConfig",
    "MachineConfig",
    "ModelConfig",
    "OptimConfig",
    "PpoPlan",
    "PretrainPlan",
    "RewardPlan",
    "ScheduleConfig",
    "SftColumns",
    "SftPlan",
    "SwarmConfig",
    "TargetConfig",
    "TokenizerConfig",
    "TruthConfig",
    "check",
    "check_launcher",
    "described",
    "one_of",
    "rung",
    "with_former_split",
]
