"""Settings of `python -m analysis.plan`."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from analysis.planning.budgets import MEASURED
from analysis.planning.constraints import constraints_of
from analysis.planning.experts import MixtureSettings
from analysis.planning.later_stages.blocks import (
    PpoSettings,
    RewardSettings,
    SftSettings,
)
from analysis.planning.shape import FLAT
from analysis.planning.shape_family import FamilySettings
from analysis.planning.written.plan_alarms import FAR
from scaling.schema import (
    LEVEL,
    MOST,
    MOST_FLOPS,
    Range,
    check_ranges,
)

DEFAULT_LEVEL = 0.9  # of intervals, where neither setting nor law has one


@dataclass(kw_only=True)
class PlanConfig:
    """Settings of `analysis.plan`; exactly one of the five budgets is set.

    The budgets: `flops` in FLOPs, `gpu_hours` in device hours, `money` in the units of
    `price_per_hour` (of one device), `wall_hours` on `devices`, `flops_multiple` in units of the
    study's largest cell. `utilisation` is the FLOPs that a device does, with the recomputation by
    activation_checkpointing, over its peak, or `measured`. `law` is one law or a list. The
    constraints, from `unique_tokens` to `reserve`, are explained in
    `analysis.planning.constraints`. `lr_batch` is a law of learning rate and batch (form=lr_batch,
    or published); without it the study's rule sets them. `flat_nats` is the loss within which all N
    count as equal. Beyond `far` times the largest C fitted the plan has an alarm.
    """

    law: Any = ""
    runs: str = ""
    out: str = ""
    dry_run: bool = False
    flops: Annotated[float, Range(0, MOST_FLOPS, above=True)] | None = None
    gpu_hours: Annotated[float, Range(0, MOST, above=True)] | None = None
    money: Annotated[float, Range(0, MOST, above=True)] | None = None
    wall_hours: Annotated[float, Range(0, MOST, above=True)] | None = None
    flops_multiple: Annotated[float, Range(0, MOST, above=True)] | None = None
    device: str = ""
    devices: Annotated[int, Range(1, 1e9)] = 1
    price_per_hour: Annotated[float, Range(0, MOST, above=True)] | None = None
    utilisation: Any = 0.4
    flops_per_second: Annotated[float, Range(0, MOST_FLOPS, above=True)] | None = None
    activation_checkpointing: bool = False
    sharded: bool = False
    unique_tokens: Annotated[float, Range(0, MOST, above=True)] | None = None
    max_epochs: Annotated[float, Range(0, MOST, above=True)] | None = None
    inference_tokens: Annotated[float, Range(0, MOST, above=True)] | None = None
    max_params: Annotated[float, Range(0, MOST, above=True)] | None = None
    max_memory_gib: Annotated[float, Range(0, MOST, above=True)] | None = None
    params: Annotated[float, Range(0, MOST, above=True)] | None = None
    tokens: Annotated[float, Range(0, MOST, above=True)] | None = None
    overtraining: Annotated[float, Range(0, MOST, above=True)] | None = None
    reserve: Annotated[float, Range(0, 1, below=True)] = 0.0
    lr_batch: str = ""
    flat_nats: Annotated[float, Range(0, 1e6)] = FLAT
    far: Annotated[float, Range(1, MOST, above=True)] = FAR
    level: Annotated[float, LEVEL] | None = None
    force: bool = False
    shape: FamilySettings = field(default_factory=FamilySettings)
    moe: MixtureSettings = field(default_factory=MixtureSettings)
    sft: SftSettings = field(default_factory=SftSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    ppo: PpoSettings = field(default_factory=PpoSettings)

    def __post_init__(self) -> None:
        """Check the numbers, which needs no file."""
        check_ranges(self)
        share = self.utilisation
        if share != MEASURED and not (isinstance(share, int | float) and 0 < share <= 1):
            raise ValueError(
                f"utilisation={share} must lie in (0, 1] (0.3 to 0.5 is usual) or be {MEASURED}"
            )
        if not self.far > 1:
            raise ValueError(f"far={self.far:g} must be above 1; 1000 is the most that was seen")
        if self.level is not None and not 0 < self.level < 1:
            raise ValueError(f"level={self.level} must lie between 0 and 1; 0.9 is usual")
        if self.devices < 1:
            raise ValueError(f"devices={self.devices} must be at least 1")
        if self.price_per_hour is not None and not self.price_per_hour > 0:
            raise ValueError(f"price_per_hour={self.price_per_hour:g} must be positive")
        if not self.flat_nats >= 0:
            raise ValueError(f"flat_nats={self.flat_nats:g} must not be negative; .002 is usual")
        constraints_of(self)
