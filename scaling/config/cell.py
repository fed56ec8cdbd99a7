"""The config of a cell, which its id is the hash of, and of a sweep."""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from scaling.config.data import BYTES_ALONE, OWN_TRUTH, TRUTHS, DataConfig, TokenizerConfig
from scaling.config.machine import LogConfig, MachineConfig
from scaling.config.model import ModelConfig, rung, underived
from scaling.config.ranges import COUNT, LIMIT, check, one_of
from scaling.config.stages import SAMPLING, PpoPlan, RewardPlan, SftPlan, described
from scaling.config.training import BudgetConfig, EvalConfig, OptimConfig, ScheduleConfig
from scaling.schema import (
    FLOPS,
    LEVEL,
    Range,
    Seed,
    check_ranges,
    check_study,
    read_as,
    sha256_json,
)


@dataclass(kw_only=True)
class GridConfig:
    """Which cells of the sweep's product are kept: limits on what a cell is, 0 for no limit.

    `max_flops_repeated` bounds the cells of seeds other than 0: repeats where they are cheap.
    """

    min_steps: Annotated[int, LIMIT] = 0
    min_tokens_per_param: Annotated[float, LIMIT] = 0.0
    max_tokens_per_param: Annotated[float, LIMIT] = 0.0
    max_flops: Annotated[float, FLOPS] = 0.0
    max_flops_repeated: Annotated[float, FLOPS] = 0.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_ranges(self, "grid")


@dataclass(kw_only=True)
class TargetConfig:
    """What `hydra/sweeper=design` chooses cells for: the forecast at `flops` of a final run.

    It ends at `precision`: half the width of the forecast's interval at `level` in nats
    (`quantity=loss`), or that of the optimal N as a factor less one (`params`); or at `max_flops`
    of the study. `start` cells are spread by the law `prior`, then `batch` are chosen at a time.
    """

    flops: Annotated[float, FLOPS] = 0.0
    quantity: str = "loss"
    precision: Annotated[float, Range(0, 1e3, note="0 leaves it open")] = 0.0
    max_flops: Annotated[float, FLOPS] = 0.0
    level: Annotated[float, LEVEL] = 0.9
    start: Annotated[int, Range(1, 100_000)] = 12
    batch: Annotated[int, Range(1, 100_000)] = 4
    prior: str = "hoffmann2022"
    form: str = "chinchilla"
    count: str = "total"

    def __post_init__(self) -> None:
        """Check the names and ranges."""
        check_ranges(self, "target")
        one_of("target.quantity", self.quantity, ("loss", "params"))
        one_of("target.count", self.count, ("total", "non_embedding", "with_head", "active"))


SCIENCE = ("model", "tokenizer", "data", "optim", "schedule", "budget", "eval", "seed")
STARTS_FROM = {"pretrain": "", "sft": "pretrain", "reward": "sft", "ppo": "reward"}  # by stage


@dataclass(kw_only=True)
class CellConfig:
    """One cell: the science part, and where and how it runs.

    `stage` of `sft`, `reward` or `ppo` trains that stage of the model that the rest describes; what
    it starts from is trained first where no study of `runs` has it. `detach` submits and returns;
    `retry` is how often a failed cell is tried again; `cells_per_job` lets small cells share a job;
    `branches=jobs` gives every branch of a trunk a job of its own; `force` lets PPO run on a reward
    model whose accuracy is at chance.
    """

    study: str = "quick"
    model: ModelConfig = field(default_factory=underived)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: Seed = 0
    stage: str = "pretrain"
    sft: SftPlan = field(default_factory=SftPlan)
    reward: RewardPlan = field(default_factory=RewardPlan)
    ppo: PpoPlan = field(default_factory=PpoPlan)
    grid: GridConfig = field(default_factory=GridConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    log: LogConfig = field(default_factory=LogConfig)
    runs: str = "runs"
    dry_run: bool = False
    detach: bool = False
    retry: Annotated[int, COUNT] = 0
    cells_per_job: Annotated[int, Range(0, 1e6, note="0 is one trunk a job")] = 0
    branches: str = "trunk"
    force: bool = False

    def __post_init__(self) -> None:
        """Derive the model's widths; check how the cells are run."""
        check_ranges(self)
        check_study(self.study)
        self.model.__post_init__()
        one_of("stage", self.stage, tuple(STARTS_FROM))
        one_of("branches", self.branches, ("trunk", "jobs"))
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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CellConfig":
        """Build a cell from what `dataclasses.asdict` made of it, here or in an earlier version.

        A setting that this version does not know is refused: the cell would be another one.
        """
        fix = "give the sweep's command again"
        return read_as(cls, values, source="job", noun="cell", fix=fix, settings=True)

    def science(self) -> dict[str, Any]:
        """Return the part that makes the cell what it is, complete."""
        values = dataclasses.asdict(self)
        found = {name: values[name] for name in SCIENCE}
        for source, names in OWN_TRUTH.items():
            if self.data.source != source:
                for name in names:
                    del found["data"]["truth"][name]
        if self.stage != "pretrain":
            found |= {"stage": self.stage, "sft": described(self.sft)}
        if self.stage in ("reward", "ppo"):
            found["reward"] = {k: v for k, v in described(self.reward).items() if k != "policy"}
            found["sampling"] = {name: values["ppo"][name] for name in SAMPLING}
        if self.stage == "ppo":
            ours = described(self.ppo)
            del ours["reward_model"]  # a name; its values are told where they are not the policy's
            if self.ppo.judge == "reward":
                del ours["judge"]  # cells older than the control stay what they were
            found["ppo"] = ours
            if (before := self.before()) and before.model != self.model:
                found["reward_model"] = dataclasses.asdict(before.model)
        return found

    def run_id(self) -> str:
        """Ten hex digits of the science part's hash."""
        return sha256_json(self.science())[:10]

    def before(self) -> "CellConfig | None":
        """Return the cell that this one starts from; None for pretraining.

        PPO starts from its reward model, which may be of another shape (`ppo.reward_model`).
        """
        earlier, name = STARTS_FROM[self.stage], self.ppo.reward_model
        model = rung(name, self.model) if name and self.stage == "ppo" else self.model
        return dataclasses.replace(self, stage=earlier, model=model) if earlier else None

    def body(self) -> "CellConfig":
        """Return the pretraining that this cell comes from, itself if it is one."""
        return dataclasses.replace(self, stage="pretrain")

    def trunk_id(self) -> str:
        """Ten hex digits of what the branches of a trunk share: everything but the budget.

        A cosine cell is its own trunk, since its schedule needs the budget; the stages of a model
        have its trunk.
        """
        if self.stage != "pretrain":
            return self.body().trunk_id()
        if self.schedule.name != "wsd":
            return self.run_id()
        shared = {k: v for k, v in self.science().items() if k != "budget"}
        return sha256_json(shared)[:10]
