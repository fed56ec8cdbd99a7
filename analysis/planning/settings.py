"""Settings of `scaling plan`."""

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
from analysis.planning.schedules.rate import RateSettings
from analysis.planning.shapes.family import FamilySettings
from analysis.planning.shapes.shape import FLAT
from analysis.planning.written.plan_alarms import FAR
from scaling.schema import (
    LEVEL,
    LOSS_UNITS,
    MOST,
    MOST_FLOPS,
    OneOf,
    Range,
    checked,
)

# What `stages` may be: a stage starts from the weights of the one before it.
STAGES = ("pretrain", "pretrain,sft", "pretrain,sft,reward", "pretrain,sft,reward,ppo")
DEFAULT_LEVEL = 0.9  # of intervals, where neither setting nor law has one


@dataclass(kw_only=True)
@checked()
class PlanConfig:
    """The law, the study, one budget, and the constraints on the plan.

    Set exactly one budget: flops, gpu_hours, money, wall_hours or flops_multiple.
    """

    law: Any = ""
    """Law: a law.json, or a published one as besiroglu2024; of a list the first decides and the
    others stand beside it. Must be set."""
    runs: str = ""
    """Folder of the study; empty takes the one that the law was fitted on, where there is one."""
    target: str = ""
    """Named test set whose loss is forecast; the law must be fitted on it. Empty is the law's."""
    unit: Annotated[str, OneOf("", *LOSS_UNITS)] = ""
    """Unit of the forecast; the law must be in it. Empty is the law's."""
    stages: Annotated[str, OneOf("", *STAGES)] = ""
    """Stages to plan, each with those before it; empty plans the stages whose data can be used."""
    out: str = ""
    """File to write; empty is plan.yaml in the study, or here."""
    dry_run: bool = False
    """Print the plan and write nothing."""
    flops: Annotated[float, Range(0, MOST_FLOPS, above=True)] | None = None
    """Budget in training FLOPs."""
    gpu_hours: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Budget in hours of one device."""
    money: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Budget in the currency of price_per_hour."""
    wall_hours: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Budget in hours on all devices."""
    flops_multiple: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Budget as a multiple of the FLOPs of the study's largest cell."""
    device: str = ""
    """Device to train on, as h100; empty is the study's."""
    devices: Annotated[int, Range(1, 1e9)] = 1
    """Number of devices."""
    price_per_hour: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Price of an hour of one device."""
    utilisation: Any = 0.4
    """FLOPs that a device does over its peak, recomputation included; 0.3 to 0.5 is usual.
    measured takes the study's own share to the device."""
    flops_per_second: Annotated[float, Range(0, MOST_FLOPS, above=True)] | None = None
    """FLOPs that one device does in a second, instead of utilisation times its peak."""
    activation_checkpointing: bool | None = None
    """Compute activations again in the backward pass: less memory, a quarter of the FLOPs are
    recomputation; null does so where a known device is too small otherwise."""
    sharded: bool | None = None
    """Divide weights, gradients and moments among the devices; null does so where a known device
    is too small otherwise."""
    unique_tokens: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Tokens at hand; beyond one pass they repeat and are worth less."""
    max_epochs: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Most passes over unique_tokens; 1 forbids repetition."""
    inference_tokens: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Tokens served in the model's life; the budget then pays for training and serving."""
    max_params: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Most parameters, as the law counts them."""
    max_memory_gib: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Most memory of one device while training, in GiB."""
    params: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Parameters to use; the law then chooses the tokens."""
    tokens: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Training tokens to use; the law then chooses the parameters."""
    overtraining: Annotated[float, Range(0, MOST, above=True)] | None = None
    """Tokens per parameter, as a multiple of the optimum's at this budget."""
    reserve: Annotated[float, Range(0, 1, below=True)] = 0.0
    """Share of the FLOPs that is kept for failures, restarts and evaluations; 0.05 to 0.3 is
    usual."""
    lr_batch: str = ""
    """Law of learning rate and batch (form=surface, form=lr_batch, or published); empty takes those
    of a law of form surface, else the study's rule."""
    critical_batch: str = ""
    """Law of the critical batch (form=critical_batch), beside which the batch is put; empty leaves
    it out."""
    flat_nats: Annotated[float, Range(0, 1e6)] = FLAT
    """Loss in nats per token within which all N count as equal; for a law in bits per byte it is
    converted by the study's bytes per token. The default is about what two seeds differ by (Porian
    et al. 2024)."""
    far: Annotated[float, Range(1, MOST, above=True)] = FAR
    """Multiple of the largest compute fitted beyond which an alarm says so; no ladder has been seen
    to hold beyond 1000."""
    level: Annotated[float, LEVEL] | None = None
    """Level of the intervals; null takes the law's, or 0.9."""
    force: bool = False
    """Plan from a law that is not converged; the plan says so."""
    rate: RateSettings = field(default_factory=RateSettings)
    shape: FamilySettings = field(default_factory=FamilySettings)
    moe: MixtureSettings = field(default_factory=MixtureSettings)
    sft: SftSettings = field(default_factory=SftSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    ppo: PpoSettings = field(default_factory=PpoSettings)

    def __post_init__(self) -> None:
        """Check the utilisation, and that the constraints can be met together."""
        share = self.utilisation
        if share != MEASURED and not (isinstance(share, int | float) and 0 < share <= 1):
            raise ValueError(
                f"utilisation={share} must lie in (0, 1] (0.3 to 0.5 is usual) or be {MEASURED}"
            )
        constraints_of(self)
