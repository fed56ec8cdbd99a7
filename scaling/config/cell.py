"""The config of a cell, whose id is the hash of its science part, and of a sweep."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from scaling.config.data import BYTES_ALONE, OWN_TRUTH, TRUTHS, DataConfig, TokenizerConfig
from scaling.config.machine import LogConfig, MachineConfig
from scaling.config.model import ModelConfig, rung, underived
from scaling.config.ranges import COUNT, LIMIT, check
from scaling.config.stages import SAMPLING, PpoPlan, RewardPlan, SftPlan, described
from scaling.config.training import (
    BranchConfig,
    BudgetConfig,
    EvalConfig,
    OptimConfig,
    ScheduleConfig,
)
from scaling.schema import (
    FLOPS,
    LEVEL,
    OneOf,
    Range,
    Seed,
    check_study,
    checked,
    read_as,
    sha256_json,
)


@dataclass(kw_only=True)
@checked("grid")
class GridConfig:
    """Limits on the cells of the sweep's product: a cell outside one is left out."""

    min_steps: Annotated[int, LIMIT] = 0
    """Fewest steps of a cell; 0 is no limit."""
    min_tokens_per_param: Annotated[float, LIMIT] = 0.0
    """Fewest training tokens per parameter; 0 is no limit."""
    max_tokens_per_param: Annotated[float, LIMIT] = 0.0
    """Most training tokens per parameter; 0 is no limit."""
    max_flops: Annotated[float, FLOPS] = 0.0
    """Most training FLOPs of a cell; 0 is no limit."""
    max_flops_repeated: Annotated[float, FLOPS] = 0.0
    """Most training FLOPs of a cell whose seed is not 0, so that cells are repeated only where
    they are cheap; 0 is no limit."""


@dataclass(kw_only=True)
@checked("swarm")
class SwarmConfig:
    """Mixtures that each cell of the sweep's product is trained on, drawn around natural shares.

    The natural shares are data.weights, alike where it is empty; the first mixture is they. The
    others are Dirichlet draws with parameters concentration x sources x shares^(1 / temperature)
    (normalised), as of Liu et al. 2024 (RegMix, 2407.01492, section 3.1).
    """

    draws: Annotated[int, Range(0, 100_000, note="0 draws none")] = 0
    """Number of mixtures, the natural one included; 0 trains on data.weights as they are."""
    temperature: Annotated[float, Range(0.01, 1e3)] = 2.0
    """Temperature of the natural shares that the draws lie around: above 1 they are more alike."""
    concentration_min: Annotated[float, Range(0.01, 1e3)] = 0.2
    """Smallest concentration; each draw's is log-uniform between the two. Below 1 most of a mixture
    is one or two sources."""
    concentration_max: Annotated[float, Range(0.01, 1e3)] = 4.0
    """Largest concentration."""
    seed: Seed = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        """Check that the range of concentrations is one."""
        check(
            "swarm.concentration_max",
            self.concentration_max,
            self.concentration_max >= self.concentration_min,
            f"must be at least swarm.concentration_min={self.concentration_min:g}",
        )


@dataclass(kw_only=True)
@checked("target")
class TargetConfig:
    """The forecast that hydra/sweeper=design chooses cells for; it ends at precision or max_flops.

    scaling design has the same target.
    """

    flops: Annotated[float, FLOPS] = 0.0
    """Training FLOPs of the final run that is forecast."""
    quantity: Annotated[str, OneOf("loss", "params")] = "loss"
    """What should be known: the loss of the final run, or its optimal number of parameters."""
    precision: Annotated[float, Range(0, 1e3, note="0 leaves it open")] = 0.0
    """Half-width of the interval at which the design ends: in nats for loss, as a factor less one
    for params; 0 leaves it open."""
    max_flops: Annotated[float, FLOPS] = 0.0
    """FLOPs of the study at which the design ends; 0 leaves it open."""
    level: Annotated[float, LEVEL] = 0.9
    """Level of the interval."""
    start: Annotated[int, Range(1, 100_000)] = 12
    """Cells that are spread by the law prior before the first fit."""
    batch: Annotated[int, Range(1, 100_000)] = 4
    """Cells that are chosen at a time after that."""
    prior: str = "hoffmann2022"
    """Published law, or law.json, that spreads the first cells."""
    form: str = "chinchilla"
    """Form of the law that is fitted."""
    count: Annotated[str, OneOf("total", "non_embedding", "with_head", "active")] = "total"
    """Which parameters N counts in the fit."""


# The parts of the config that the id of a pretraining cell is made from.
SCIENCE = ("model", "tokenizer", "data", "optim", "schedule", "budget", "eval", "seed")
# Stage -> the stage whose model it starts from.
STARTS_FROM = {"pretrain": "", "sft": "pretrain", "reward": "sft", "ppo": "reward"}


@dataclass(kw_only=True)
@checked()
class CellConfig:
    """One cell: the science part, which its id is made from, and where and how it runs."""

    study: str = "quick"
    """Name of the study: its folder in runs."""
    model: ModelConfig = field(default_factory=underived)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    branch: BranchConfig = field(default_factory=BranchConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: Seed = 0
    """Seed of initial weights and of the order of the text."""
    stage: Annotated[str, OneOf(*STARTS_FROM)] = "pretrain"
    """Stage to train; sft, reward and ppo train that stage of the model that the rest describes.
    What the stage starts from is trained first where no study of runs has it."""
    sft: SftPlan = field(default_factory=SftPlan)
    reward: RewardPlan = field(default_factory=RewardPlan)
    ppo: PpoPlan = field(default_factory=PpoPlan)
    grid: GridConfig = field(default_factory=GridConfig)
    swarm: SwarmConfig = field(default_factory=SwarmConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    runs: str = "runs"
    """Folder of all studies."""
    dry_run: bool = False
    """Print the grid, N, D, FLOPs and minutes, and train nothing."""
    detach: bool = False
    """Submit the cells and return, without waiting for them."""
    retry: Annotated[int, COUNT] = 0
    """How often a failed cell is tried again."""
    cells_per_job: Annotated[int, Range(0, 1e6, note="0 is one trunk a job")] = 0
    """Most cells that share a job, for small ones; 0 gives each trunk a job."""
    branches: Annotated[str, OneOf("trunk", "jobs")] = "trunk"
    """Where the branches of a trunk run: in the job of their trunk, or each in a job of its own."""
    force: bool = False
    """Let PPO run on a reward model whose accuracy is at chance."""

    def __post_init__(self) -> None:
        """Derive the model's widths; check the settings that depend on each other."""
        check_study(self.study)
        self.model.__post_init__()
        taken = self.tokenizer.source or self.tokenizer.sha256 or self.data.source == "tokens"
        check(
            "tokenizer.vocab_size",
            self.tokenizer.vocab_size,
            bool(taken) or self.tokenizer.vocab_size >= BYTES_ALONE,
            f"must be {BYTES_ALONE} or more: 256 bytes and 8 special tokens",
        )
        check(
            "tokenizer.source",
            self.tokenizer.source,
            self.data.source not in TRUTHS or not self.tokenizer.source,
            f"would merge symbols of data={self.data.source}, each of which must be one token;"
            f" leave it out and set tokenizer.vocab_size={BYTES_ALONE}",
        )
        check(
            "tokenizer.vocab_size",
            self.tokenizer.vocab_size,
            self.data.source not in TRUTHS or self.tokenizer.vocab_size == BYTES_ALONE,
            f"merges symbols of data={self.data.source}; set tokenizer.vocab_size={BYTES_ALONE}",
        )
        check(
            "optim.name",
            self.optim.name,
            not (self.machine.shard and self.optim.name == "muon"),
            "needs whole matrices; machine.shard=true leaves each rank a part: take adamw",
        )
        check(
            "branch.at_tokens",
            self.branch.at_tokens,
            not self.branch.is_set or self.schedule.name == "wsd",
            f"needs a trunk, which schedule.name={self.schedule.name} has not; take schedule=wsd",
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CellConfig":
        """Build a cell from what `dataclasses.asdict` made of it, in this or an earlier version.

        A setting that this version does not know is refused: the cell would be another one.
        """
        fix = "give the sweep's command again"
        values = with_former_split(values)
        return read_as(cls, values, source="job", noun="cell", fix=fix, settings=True)

    def science(self) -> dict[str, Any]:
        """Return the complete science part: all that decides what the cell measures."""
        values = dataclasses.asdict(self)
        science = self._science_of_pretraining(values)
        if self.stage != "pretrain":
            science |= {"stage": self.stage, "sft": described(self.sft)}
        if self.stage in ("reward", "ppo"):
            science["reward"] = {k: v for k, v in described(self.reward).items() if k != "policy"}
            science["sampling"] = {name: values["ppo"][name] for name in SAMPLING}
        if self.stage == "ppo":
            ppo = described(self.ppo)
            del ppo["reward_model"]  # a name; its shape follows below where it is not the policy's
            if self.ppo.judge == "reward":
                del ppo["judge"]  # so that cells from before the control keep their ids
            science["ppo"] = ppo
            if (before := self.before()) and before.model != self.model:
                science["reward_model"] = dataclasses.asdict(before.model)
        return science

    def _science_of_pretraining(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the science part without later stages; settings of no effect are left out.

        So cells from before a setting keep their ids.
        """
        science = {name: values[name] for name in SCIENCE}
        science["tokenizer"] = self.tokenizer.identity()
        if self.branch.is_set:
            science["branch"] = values["branch"]
        for source, names in OWN_TRUTH.items():
            if self.data.source != source:
                for name in names:
                    del science["data"]["truth"][name]
        if not self.data.in_blocks:
            del science["data"]["split"]
        sets, hashes = (science["eval"].pop(name) for name in ("sets", "sets_sha256"))
        if sets:
            science["eval"]["sets"] = hashes or sets
        return science

    def run_id(self) -> str:
        """Return ten hex digits of the science part's hash."""
        return sha256_json(self.science())[:10]

    def before(self) -> "CellConfig | None":
        """Return the cell that this one starts from; None for pretraining.

        PPO starts from its reward model, which may have another shape (`ppo.reward_model`).
        """
        earlier, name = STARTS_FROM[self.stage], self.ppo.reward_model
        model = rung(name, self.model) if name and self.stage == "ppo" else self.model
        return dataclasses.replace(self, stage=earlier, model=model) if earlier else None

    def body(self) -> "CellConfig":
        """Return the pretraining cell that this one comes from, or itself if it pretrains."""
        return dataclasses.replace(self, stage="pretrain")

    def trunk_id(self) -> str:
        """Return ten hex digits of what the branches of a trunk share: everything but the budget.

        That of a branch with another batch is the trunk which it leaves. A cosine cell is its own
        trunk, since its schedule needs the budget. A later stage has the trunk of the model that it
        starts from.
        """
        if self.stage != "pretrain":
            return self.body().trunk_id()
        if self.schedule.name != "wsd":
            return self.run_id()
        shared = {k: v for k, v in self.science().items() if k not in ("budget", "branch")}
        return sha256_json(shared)[:10]


def with_former_split(values: Any) -> Any:
    """Return the settings of a cell with data.split as it was before the setting existed."""
    data = values.get("data") if isinstance(values, dict) else None
    if not isinstance(data, dict):
        return values
    return {**values, "data": {"split": "documents", **data}}
