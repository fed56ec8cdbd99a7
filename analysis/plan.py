"""Derive the final run from a law and a budget, every value with its reason and interval.

    python -m analysis.plan law=runs/quick/law.json flops_multiple=3 runs=runs/quick
    python -m analysis.plan law=besiroglu2024 flops=5.76e23 out=plan.yaml
    python -m analysis.plan law=[besiroglu2024,hoffmann2022] gpu_hours=1e6 device=h100 \\
        unique_tokens=2e12 inference_tokens=1e13
    python -m analysis.plan examples=bloomberggpt

N* and D* are the law's closed form under C = 6ND (Hoffmann et al. 2022, 2203.15556, eq. 4), moved
by the constraints (`analysis.planning.split`); the shape is the nearest of the study's ladder, and
D then follows from that shape's exact FLOPs per token in whole steps, so the budget is kept and the
rounding is paid in N / D, where the loss is flat. Of several laws the first decides and the others
stand beside it. plan.yaml is the config of `scaling.final`; dry_run=true prints and writes nothing.
N parameters, D tokens, C FLOPs, L nats per token.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from analysis.forms import FORMS
from analysis.laws.law import Law
from analysis.laws.published import load_law
from analysis.planning.budgets import MEASURED, Budget, budget_of
from analysis.planning.confirmation import confirmation_of
from analysis.planning.constraints import Constraints, constraints_of
from analysis.planning.cost import cost_block, memory_alarm, memory_gib
from analysis.planning.experts import (
    MixtureSettings,
    check_choice,
    experts_of,
    law_for,
    least_loss,
    mixture_alarm,
    with_mixture,
)
from analysis.planning.forecast import forecast_block
from analysis.planning.later_stages.blocks import (
    PpoSettings,
    RewardSettings,
    SftSettings,
    ppo_block,
    reward_block,
    rounded,
    sft_block,
)
from analysis.planning.later_stages.choices import (
    KL_FORMS,
    REWARD_FORMS,
    SFT_FORMS,
    choose_kl,
    choose_reward,
    choose_sft,
    laws_of,
)
from analysis.planning.laws_compared import disagreement_alarm, side_by_side
from analysis.planning.machine_block import machine_block
from analysis.planning.pretrain_block import pretrain_block
from analysis.planning.shape import FLAT, Chosen, choose_shape
from analysis.planning.shape_family import FamilySettings, with_family, with_vocabulary
from analysis.planning.split import repeating, split_of
from analysis.planning.written.derivation import derivation, shown
from analysis.planning.written.plan_alarms import FAR, plan_alarms, reached_flops
from analysis.planning.written.plan_file import SCHEMA, write_plan
from analysis.planning.written.steps import steps_of
from analysis.runs.study import Study, default_study, study_of
from analysis.runs.table import sha256_of
from scaling.app.application import start, store
from scaling.schema import (
    LEDGER,
    LEVEL,
    MOST,
    MOST_FLOPS,
    Range,
    Shape,
    check_ranges,
    check_study,
    code_version,
    read_forecasts,
    sha256_file,
    sha256_json,
)

DEFAULT_LEVEL = 0.9


@dataclass(kw_only=True)
class PlanConfig:
    """Settings of `analysis.plan`; exactly one of the five budgets is set.

    flops in FLOPs, gpu_hours in device hours, money in units of price_per_hour (of one device),
    wall_hours on `devices`, flops_multiple in units of the study's largest cell; utilisation is the
    FLOPs a device does over its peak, recomputation by activation_checkpointing included, or
    `measured`. Beyond `far` times the largest compute fitted an alarm says so. `law` is one law or
    a list. The constraints, from unique_tokens to reserve, are explained in
    `analysis.planning.constraints`; `lr_batch` is a law of learning rate and batch (form=lr_batch,
    or published), else the study's rule sets them; flat_nats is the loss within which all N count
    as equal.
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
        """Check ranges that need nothing else."""
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


def make_plan(
    law: Law,
    budget: Budget,
    study: Study,
    settings: PlanConfig | None = None,
    *,
    name: str = "the plan's law",
    others: Mapping[str, Law] | None = None,
    scored: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the plan as plain values, the keys of plan.yaml.

    `name` is the law's, `others` are laws to compare with, `scored` the ledger's lines of earlier
    forecasts.

    Raises ValueError for a law whose status is not fit for plans (unless `settings.force`), for a
    target that no shape of the study's family has, and for constraints that contradict each other.
    """
    settings = settings or PlanConfig()
    check_choice(law, settings.moe)
    if len(settings.moe.choices()) > 1:
        each = [
            replace(settings, moe=replace(settings.moe, experts=n)) for n in settings.moe.choices()
        ]
        told = {"name": name, "others": others, "scored": scored}
        return least_loss([make_plan(law, budget, study, s, **told) for s in each])
    study = with_mixture(with_family(study, settings.shape), settings.moe)
    experts = experts_of(study)
    unseen = mixture_alarm(law, experts)
    law = law_for(permitted(law, settings), experts)
    compared = {k: law_for(permitted(v, settings), experts) for k, v in (others or {}).items()}
    if settings.unique_tokens is not None:
        study = replace(study, unique_tokens=None)  # the plan prices repetition: no alarm for it
    level = settings.level or (law.intervals or {}).get("level", DEFAULT_LEVEL)
    study = with_vocabulary(
        study,
        settings.shape,
        flops=budget.flops,
        target=law.optimum(budget.flops).params,
        count=law.count,
    )
    chosen, memory = _chosen(law, budget, study, settings, level)
    rates = load_law(settings.lr_batch) if settings.lr_batch else None
    pretrain = pretrain_block(budget, study, chosen, lr_batch=rates, level=level)
    teller = _teller(law, compared)
    forecast = forecast_block(
        repeating(teller, chosen.split.constraints),
        study,
        pretrain,
        chosen,
        level=level,
        scored=scored,
    )
    later = _later_blocks(settings, chosen.shape, pretrain, seed=study.seed, level=level)
    reach = reached_flops(law)
    rows = (
        side_by_side({name: law, **compared}, budget.flops, level=level, params=pretrain["params"])
        if compared
        else []
    )
    needed = memory(chosen.shape)
    machine, reasons = machine_block(
        study.config,
        rows=pretrain["batch_tokens"] // pretrain["context"],
        device=budget.device,
        devices=budget.devices,
        sharded=settings.sharded,
        checkpointing=settings.activation_checkpointing,
    )
    derived = steps_of(chosen, pretrain, source=study.source, vocab_rule=settings.shape.vocab_rule)
    found = plan_alarms(law, study, pretrain, forecast, forced=not law.usable, far=settings.far)
    found = [*_own_alarms(rows, budget, needed, unseen, settings), *found]
    return {
        "schema": SCHEMA,
        "study": study.name,
        "runs": "runs",
        "budget": budget_block(budget, pretrain),
        "steps": [s.as_dict() for s in derived],
        "laws": rows,
        "mixtures": [],
        "forecast": forecast,
        "confirmation": confirmation_of(
            budget,
            chosen.split,
            pretrain,
            reach,
            study=study.name,
            done=law.inputs.get("confirmations", ()),
        ),
        "extrapolation": rounded(pretrain["flops"] / reach, 4) if reach else 0.0,
        "pretrain": pretrain,
        "cost": cost_block(law, budget, chosen.split, pretrain, shape=chosen.shape, memory=needed),
        **later,
        "machine": machine,
        "reasons": {"machine": reasons},
        "cell": study.config or _bare_cell(study.like),
        "law": _law_block(law),
        "alarms": found,
        "made_from": {"law": sha256_json([law.form, law.count, law.parameters])},
        "versions": code_version(),
    }


def _later_blocks(
    settings: PlanConfig, shape: Shape, pretrain: dict[str, Any], *, seed: int, level: float
) -> dict[str, Any]:
    """Return the blocks of fine-tuning, reward model and PPO, by their laws where given."""
    sft, reward, ppo = settings.sft, settings.reward, settings.ppo
    post = {"pretrain_lr": pretrain["peak_lr"], "seed": seed}
    laws = {
        "sft": laws_of(sft.law, forms=SFT_FORMS, key="sft.law"),
        "reward": laws_of(reward.law, forms=REWARD_FORMS, key="reward.law"),
        "ppo": laws_of(ppo.law, forms=KL_FORMS, key="ppo.law"),
    }
    tuning = choose_sft(
        laws["sft"],
        shape,
        examples=sft.examples,
        flat_nats=sft.flat_nats,
        level=level,
    )
    judging = choose_reward(
        laws["reward"],
        shape,
        pairs=reward.pairs,
        flat_nats=reward.flat_nats,
        level=level,
    )
    spending = choose_kl(
        laws["ppo"],
        shape,
        pairs=judging.values["pairs"] if judging else reward.pairs,
        kl_budget=ppo.kl_budget,
        episodes=ppo.episodes,
        level=level,
    )
    return {
        "stage_laws": {stage: list(found) for stage, found in laws.items() if found},
        "sft": sft_block(sft, **post, by_law=tuning),
        "reward": reward_block(reward, **post, by_law=judging),
        "ppo": ppo_block(ppo, **post, by_law=spending),
    }


def permitted(law: Law, settings: PlanConfig) -> Law:
    """Return the law, forced to extrapolate where it is not usable and `settings.force` is set."""
    if law.usable:
        return law
    if not settings.force:
        raise ValueError(
            f"the law's status is {law.status}, which no plan should rest on; "
            "extend the study or fix its grid, or set force=true to plan all the same"
        )
    return replace(law, forced=True)


def budget_block(budget: Budget, pretrain: dict[str, Any]) -> dict[str, Any]:
    """Return what may be spent, on what, and how long that takes."""
    return {
        "flops": budget.flops,
        "device": budget.device,
        "flops_per_second": budget.flops_per_second or 0.0,
        "seconds": pretrain["seconds"],
        "reasons": {
            "flops": budget.reason,
            "flops_per_second": budget.speed_reason,
            "seconds": (
                "pretraining alone; the stages after it are small beside it or are timed by their"
                " own records"
            ),
        },
    }


def main(config: PlanConfig) -> None:
    """Read laws and study, derive, print the derivation, write plan.yaml."""
    laws = _laws(config.law)
    name, law = next(iter(laws.items()))
    others = {k: v for k, v in laws.items() if k != name}
    folder = _folder(config, name, law)
    study = study_of(folder, count=law.count) if folder else default_study()
    law = permitted(law, config)
    budget = budget_of(config, law, study)
    scored = read_forecasts((folder.parent if folder else Path("runs")) / LEDGER)
    plan = make_plan(law, budget, study, config, name=name, others=others, scored=scored)
    out = Path(config.out) if config.out else _beside(config, name, folder) / "plan.yaml"
    plan = _named(plan, name, law, folder)
    plan["command"] = command_of(config)
    sys.stdout.write("\n".join(derivation(plan)) + "\n")
    if config.dry_run:
        return
    if "test_loss" not in plan["forecast"]:
        raise ValueError(
            f"law={name} gives N and D but no loss, so there is no forecast to hold the run"
            f" to and {out} was not written; give a law that predicts loss beside it, as"
            f" law=[{name},besiroglu2024], or dry_run=true to see N and D alone"
        )
    write_plan(out, plan)
    sys.stdout.write(f"plan written to {out}\n")
    if plan["confirmation"]["needed"]:
        smaller = _confirming(plan, law, budget, study, config, scored)
        smaller = _named(smaller, name, law, folder)
        smaller |= {"study": plan["confirmation"]["study"], "confirmation": {}}
        path = write_plan(out.with_name(f"{out.stem}.confirmation{out.suffix}"), smaller)
        first = smaller["pretrain"]
        sys.stdout.write(
            f"confirmation written to {path}: N = {first['params']:.4g}, D = {first['tokens']:.4g},"
            f" C = {first['flops']:.4g}, forecast {smaller['forecast']['test_loss']:.4f}"
            f" {shown(smaller['forecast']['interval'])}; run it first,"
            f" python -m scaling.final plan={path} stages=pretrain\n"
        )


def _confirming(
    plan: dict[str, Any],
    law: Law,
    budget: Budget,
    study: Study,
    config: PlanConfig,
    scored: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the plan of the confirmation run."""
    confirmation, experts = plan["confirmation"], plan["pretrain"]["model"]["n_experts"]
    free = {f.name: f.default for f in fields(Constraints)}
    asked = replace(config, **free | {"overtraining": confirmation["overtraining"]})
    if config.moe.choices():
        asked = replace(asked, moe=replace(config.moe, experts=max(1, experts)))
    return make_plan(law, replace(budget, flops=confirmation["flops"]), study, asked, scored=scored)


def command_of(config: PlanConfig) -> str:
    """Return the command that asks for the same plan; sizes of later stages are left to conf."""
    asked = []
    for prefix, block, usual in (
        ("", config, PlanConfig()),
        ("shape.", config.shape, FamilySettings()),
        ("moe.", config.moe, MixtureSettings()),
    ):
        for f in fields(block):
            value = getattr(block, f.name)
            if not is_dataclass(value) and value != getattr(usual, f.name):
                asked.append(f"{prefix}{f.name}={_written(value)}")
    for name in ("sft", "reward", "ppo"):
        if law := getattr(config, name).law:
            asked.append(f"{name}.law={_written(law)}")
    kept = (a for a in asked if not a.startswith(("out=", "dry_run=")))
    return shlex.join(["python", "-m", "analysis.plan", *kept])


def _written(value: Any) -> str:
    """Write a value as Hydra reads it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named(plan: dict[str, Any], name: str, law: Law, folder: Path | None) -> dict[str, Any]:
    """Return the plan with the names and hashes of what it was made from."""
    if folder:
        plan |= {"study": check_study(folder.name), "runs": folder.parent.as_posix()}
    plan["made_from"] = _made_from(name, law, folder)
    plan["law"]["name"] = name
    return plan


def _chosen(
    law: Law, budget: Budget, study: Study, settings: PlanConfig, level: float
) -> tuple[Chosen, Any]:
    """Return the shape that the law and the constraints lead to, and memory (GiB) by shape."""

    def memory(shape: Shape) -> float:
        return memory_gib(
            shape,
            devices=budget.devices,
            sharded=settings.sharded,
            checkpointing=settings.activation_checkpointing,
        )

    split = split_of(
        law, budget.flops, constraints_of(settings), level=level, flat_nats=settings.flat_nats
    )
    return choose_shape(split, study, family=settings.shape, memory=memory), memory


def _teller(law: Law, others: Mapping[str, Law]) -> Law:
    """Return the law that forecasts: the first that predicts a loss of the same N."""
    for one in (law, *others.values()):
        if one.form in FORMS and FORMS[one.form].is_surface and one.count == law.count:
            return one
    return law


def _own_alarms(
    rows: list[dict[str, Any]],
    budget: Budget,
    needed: float,
    unseen: tuple[str, str] | None,
    settings: PlanConfig,
) -> list[dict[str, str]]:
    """Return the alarms of unseen experts, laws that disagree and a device too small."""
    found = [{"code": unseen[0], "sentence": unseen[1]}] if unseen else []
    if rows and (apart := disagreement_alarm(rows)):
        found.append({"code": apart.code, "sentence": apart.sentence})
    if small := memory_alarm(
        budget.device, needed, spread=settings.sharded and settings.devices > 1
    ):
        found.append({"code": small[0], "sentence": small[1]})
    return found


def _laws(names: Any) -> dict[str, Law]:
    """Return the laws by name, the deciding one first; ValueError for none and for one twice."""
    if isinstance(names, str) and names.startswith("[") and names.endswith("]"):
        names = [n.strip() for n in names[1:-1].split(",") if n.strip()]
    listed = [names] if isinstance(names, str) else [str(n) for n in names or []]
    if not listed or not all(listed):
        raise ValueError(
            "law is not set; give law=runs/NAME/law.json or a published one, as law=besiroglu2024"
        )
    if len(set(listed)) < len(listed):
        raise ValueError(f"law={listed} names a law twice; name each once")
    return {name: load_law(name) for name in listed}


def _folder(config: PlanConfig, name: str, law: Law) -> Path | None:
    """Return the study: `runs`, else the one the law was fitted on, else the law's own folder."""
    if config.runs:
        folder = Path(config.runs)
        return folder if folder.name not in ("", "..") else folder.resolve()  # as of runs=.
    named, beside = Path(str(law.inputs.get("source", ""))), Path(name).parent
    for folder in (named, beside):
        if folder != Path() and any(folder.glob("*/record.json")):
            return folder
    return None


def _beside(config: PlanConfig, name: str, folder: Path | None) -> Path:
    """Return where the plan goes: to its study, unless only the law's file says where that is.

    A law of somebody else names a folder that it was fitted on; one that lies elsewhere on this
    machine is read and not written to.
    """
    if folder is None:
        return Path()
    place, law = folder.resolve(), Path(name).resolve()
    near = place.is_relative_to(Path.cwd()) or law.is_relative_to(place)
    return folder if config.runs or near or place.is_relative_to(law.parent) else Path()


def _made_from(name: str, law: Law, folder: Path | None) -> dict[str, str]:
    path = Path(name)
    found = {
        "law": (
            sha256_file(path)
            if path.is_file()
            else sha256_json([law.form, law.count, law.parameters])
        )
    }
    if folder:
        found["records"] = sha256_json(sha256_of(folder))
    return found


def _law_block(law: Law) -> dict[str, Any]:
    return {
        "form": law.form,
        "count": law.count,
        "status": law.status,
        "parameters": {k: float(v) for k, v in law.parameters.items()},
        "source": law.source,
        "n_runs": law.n_runs,
    }


def _bare_cell(like: Shape) -> dict[str, Any]:
    return {"tokenizer": {"vocab_size": like.vocab_size}, "data": {"context": like.context}}


store("plan", PlanConfig)

if __name__ == "__main__":
    start(main, config_name="plan", schema=PlanConfig)
