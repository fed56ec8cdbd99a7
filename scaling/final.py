"""Run the planned final run: pretraining, fine-tuning, reward model, PPO.

    python -m scaling.final plan=plan.yaml [stages=pretrain,sft,reward,ppo] [ppo.episodes=4096 ...]

The plan is merged strictly into FinalConfig; overrides apply on top of it. The forecast is sealed
in runs/NAME/final/forecast.json before pretraining starts, and scored in runs/forecasts.jsonl when
it ends; a plan far beyond what was fitted waits for its confirmation run. A stage that is done with
the same inputs is not run again, a killed one resumes from its checkpoint.
"""

import logging
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scaling.app.application import start, store
from scaling.app.errors import sentence
from scaling.app.values import pasted
from scaling.config import (
    BudgetConfig,
    CellConfig,
    FinalConfig,
    PpoPlan,
    RewardPlan,
    SftPlan,
    described,
)
from scaling.data.file_hashes import read_inputs
from scaling.schema import (
    CONFIRMING,
    LEDGER,
    Record,
    append_forecast,
    check_schema,
    discard_record,
    find_record,
    now,
    read_forecasts,
    read_json,
    read_yaml,
    scored,
    sha256_file,
    sha256_json,
    sweep_temporaries,
    write_json,
)
from scaling.study.lease import Stopped
from scaling.train.forecast_band import Corridor, read_left
from scaling.train.rank_exit import run_to_end

if TYPE_CHECKING:
    import torch

    from scaling.budget import Resolved
    from scaling.data.tokens import Corpus
    from scaling.train.ranks import World

log = logging.getLogger(__name__)
SCHEMA = 1  # of plan.yaml

STAGES = {"pretrain": (), "sft": ("pretrain",), "reward": ("sft",), "ppo": ("sft", "reward")}

store("final", FinalConfig)


def load_plan(path: str | Path, overrides: Sequence[str] = ()) -> FinalConfig:
    """Read a plan, then apply `key=value` overrides; unknown keys are refused by name.

    A plan may come from anybody: it writes beside itself or into a relative folder, and what it
    holds is read as values alone (`read_yaml`). Raises FileNotFoundError for a missing plan and
    ValueError for one that is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no plan {path}; write one with python -m analysis.plan law=... "
            f"{pasted(f'out={path}')}"
        )
    composed = OmegaConf.structured(FinalConfig)
    values = read_yaml(path)
    if not isinstance(values, dict) or "pretrain" not in values:
        raise ValueError(
            f"{path} holds no plan (no block pretrain); write one with python -m analysis.plan"
        )
    number = {"schema": values.get("schema", SCHEMA)}
    check_schema(number, source=path, noun="plan", fix="write it again", schema=SCHEMA)
    try:
        composed = OmegaConf.merge(composed, values)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"{path}: {sentence(error, FinalConfig)}; write the plan again or mend the key"
        ) from error
    apply(composed, overrides)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, FinalConfig)
    stays_near(config, Path(path), overrides)
    return replace(config, plan=str(path))


def stays_near(config: FinalConfig, path: Path, overrides: Sequence[str]) -> None:
    """Refuse a plan that would write far from itself, unless the command names the folder too.

    Near is below the plan or the current folder, the study's folder that the plan lies in, and
    what is a study or a cache already.
    """
    named = {o.partition("=")[0].lstrip("+") for o in overrides}
    here, beside = Path.cwd().resolve(), path.resolve().parent
    runs, cache = Path(config.runs), Path(config.machine.cache)
    own = beside == (runs / config.study.partition(CONFIRMING)[0]).resolve()
    study = any((runs / config.study).glob("*/record.json"))
    for setting, place, in_use in (
        ("runs", runs, own or study),
        ("machine.cache", cache, any(cache.glob("tokens-*"))),
    ):
        full = place.resolve()
        near = in_use or full.is_relative_to(beside) or full.is_relative_to(here)
        if not near and setting not in named:
            raise ValueError(
                f"{path} would write to {setting}={place}, which is neither beside it nor in the "
                f"current folder; if you want that, add {shlex.quote(f'{setting}={place}')} to the "
                "command"
            )


def apply(composed: Any, overrides: Sequence[str]) -> None:
    """Apply Hydra's overrides of values (not of groups) in place."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key != "plan" and not key.startswith("hydra"):
            OmegaConf.update(composed, key, override.value(), force_add=bool(override.is_add()))


def run_final(config: FinalConfig) -> list[Record]:
    """Run the stages that are asked for, in order; return their records.

    ValueError when a stage diverges, so that no later one starts from it.
    """
    from scaling.train.ranks import started_ranks

    wanted = chosen_stages(config.stages)
    if started_ranks() == 1:
        return run_stages(config, wanted)
    if wanted != ["pretrain"]:
        raise ValueError(
            "ranks of torchrun or srun train pretraining alone; set stages=pretrain, then run "
            "the other stages without them"
        )
    from scaling.jobs.external_ranks import pretrain_together

    return pretrain_together(
        lambda world, begin: run_stages(config, wanted, world=world, begin=begin),
        config.machine,
    )


def run_stages(config: FinalConfig, wanted: Sequence[str], **ranks: Any) -> list[Record]:
    """Run stages in their order; `ranks` are told to pretraining."""
    cell = planned_cell(config)
    if "pretrain" in wanted and not (Path(config.runs) / config.study / "final").is_dir():
        confirmed(config)  # before the corpus is opened, which may take minutes
    from scaling.data.tokens import open_corpus
    from scaling.train.device import pick_device

    final = Path(config.runs) / config.study / "final"
    sweep_temporaries(final.parent, final, *(p for name in STAGES for p in places(final / name)))
    device, corpus = pick_device(config.machine), open_corpus(cell)
    records = []
    for name in wanted:
        if name == "pretrain":
            record = pretrain(config, cell, name=name, corpus=corpus, **ranks)
        else:
            record = post_train(config, cell, name=name, corpus=corpus, device=device)
        records.append(record)
        if record.status != "done":
            raise ValueError(f"stage {name} ended as {record.status}: {record.error}")
    return records


def places(stage: Path) -> tuple[Path, ...]:
    """Return the folders of a stage that files are written to."""
    return stage, stage / ".trunk", stage / "pairs"


def chosen_stages(text: str) -> list[str]:
    """Return the stages of a comma-separated list in their order; ValueError for an unknown one."""
    names = [n.strip() for n in text.split(",") if n.strip()]
    unknown = sorted(set(names) - set(STAGES))
    if unknown or not names:
        raise ValueError(
            f"stages={text!r} names {', '.join(unknown) or 'nothing'}; "
            f"choose among {', '.join(STAGES)}"
        )
    return [n for n in STAGES if n in names]


def planned_cell(config: FinalConfig) -> CellConfig:
    """Return the pretraining cell: the study's science config with the plan's values put in."""
    plan = config.pretrain
    if plan.tokens < 1:
        raise ValueError(
            f"pretrain.tokens={plan.tokens} must be positive; "
            "write the plan with python -m analysis.plan"
        )
    known = {k: v for k, v in config.cell.items() if k not in ("budget", "model")}
    try:
        composed = OmegaConf.merge(OmegaConf.structured(CellConfig), known)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"the plan's cell: {sentence(error, CellConfig)}; write the plan again"
        ) from error
    cell = OmegaConf.to_object(composed)
    assert isinstance(cell, CellConfig)
    optim = {"weight_decay": plan.weight_decay}
    optim |= {k: getattr(plan, k) for k in ("peak_lr", "batch_tokens") if getattr(plan, k)}
    schedule = {"name": plan.schedule, "warmup_steps": plan.warmup_steps, "decay": plan.decay}
    return replace(
        cell,
        study=config.study,
        runs=config.runs,
        model=plan.model,
        data=replace(cell.data, context=plan.context),
        optim=replace(cell.optim, **optim),
        schedule=replace(cell.schedule, **schedule),
        budget=BudgetConfig(n_tokens=plan.tokens, count=plan.count),
        seed=plan.seed,
        machine=config.machine,
        log=config.log,
    )


def pretrain(
    config: FinalConfig,
    cell: CellConfig,
    *,
    name: str,
    corpus: "Corpus",
    world: "World | None" = None,
    begin: Callable[[CellConfig, Corridor], None] = lambda cell, corridor: None,
) -> Record:
    """Train the planned cell, its forecast sealed first; a finished one is kept.

    Other ranks of a `world` are told to `begin`; without one `machine.ranks` are started.
    """
    from scaling.app.progress import Progress
    from scaling.train.trunk import train_trunk

    folder = Path(config.runs) / config.study / "final" / name
    inputs = {
        "cell": cell.run_id(),
        "corpus": corpus.sha256,
        "tokenizer": sha256_file(corpus.tokenizer_path),
    }
    known, curve = folder / "inputs.json", folder.parent / "curve.json"
    same = inputs.items() <= (read_inputs(folder) or {}).items() and config.resume
    path = folder / "record.json"
    if same and (record := find_record(path)) and record.status == "done":
        log.info("pretrain: done before, kept")
        score_forecast(config, record)
        return record
    confirmed(config)
    resolved = trainable(cell)  # refuses while a former run is still there
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        curve.unlink(missing_ok=True)
    if config.stop_outside and (left := read_left(curve)):
        raise ValueError(outside(left))
    discard_record(path)
    write_json(known, inputs)
    sealed = read_json(seal_forecast(config, inputs))
    corridor = Corridor.of(sealed, n_steps=resolved.n_steps, path=curve, stop=config.stop_outside)
    progress = Progress(name, total=resolved.flops, every_seconds=config.log.every_seconds)
    begin(cell, corridor)
    report = progress.update
    try:
        (record,) = train_trunk(
            [cell], folders=[folder], report=report, corridor=corridor, world=world
        )
    except Stopped as stopped:
        raise ValueError(outside(read_left(curve))) from stopped
    finally:
        progress.close()
    block = described(config.pretrain)
    record = replace(record, inputs={**record.inputs, **inputs, "plan": sha256_json(block)})
    record.write(path)
    score_forecast(config, record)
    return record


def trainable(cell: CellConfig) -> "Resolved":
    """Work a cell out; ValueError where it cannot be trained, or not on this machine."""
    from scaling.budget import resolve
    from scaling.train.device import check_fits, pick_device

    check_fits(cell, pick_device(cell.machine))
    return resolve(cell)


def confirmed(config: FinalConfig) -> None:
    """Let the run pass if it needs no confirmation, or has one; `force` lets every run pass.

    ValueError for a confirmation that is missing or missed its interval, naming what to do.
    """
    if not config.confirmation.get("needed") or config.force:
        return
    study = config.confirmation.get("study", f"{config.study}{CONFIRMING}")
    law = config.made_from.get("law")
    lines = read_forecasts(Path(config.runs) / LEDGER)
    found = [line for line in lines if (line["study"], line["law_sha256"]) == (study, law)]
    if not found:
        beside = f"{Path(config.plan).with_suffix('')}.confirmation.yaml"
        raise ValueError(
            f"this run is {config.extrapolation:g} times the largest compute fitted and waits for"
            " its confirmation: run the plan written beside it, python -m scaling.final"
            f" {pasted(f'plan={beside}')} stages=pretrain, or set force=true"
        )
    if found[-1]["inside"] is False:
        raise ValueError(
            f"the confirmation reached {found[-1]['outcome']:.4f}, outside the forecast interval"
            f" {found[-1]['interval']}: {refitting(config.study, config.runs)}, whose intervals"
            " allow for the miss, or set force=true"
        )


def refitting(study: str, runs: str) -> str:
    """Say how a confirmation becomes a row of the law."""
    source = pasted(f"runs={Path(runs) / study.partition(CONFIRMING)[0]}")
    return f"python -m analysis.fit {source} takes it as a row; then plan again with that law"


def score_forecast(config: FinalConfig, record: Record) -> None:
    """Append the outcome of the sealed forecast to the ledger of all studies, once."""
    path = Path(config.runs) / config.study / "final" / "forecast.json"
    line = scored(read_json(path), record, study=config.study) if path.is_file() else None
    if line and append_forecast(Path(config.runs) / LEDGER, line):
        log.info("forecast scored in %s", Path(config.runs) / LEDGER)


def outside(left: Sequence[float]) -> str:
    """Say that a run was stopped, and how to go on."""
    at = " and ".join(f"{share:.0%}" for share in left)
    return (
        f"pretraining is stopped: outside the 95% band of its forecast at {at} of the tokens, its"
        " checkpoint kept; look at final/curve.json, then go on with stop_outside=false or plan"
        " again"
    )


def seal_forecast(config: FinalConfig, inputs: dict[str, str]) -> Path:
    """Write what is expected, and from what, before the outcome can be known.

    A forecast already sealed for the same inputs is left as it is.
    """
    path = Path(config.runs) / config.study / "final" / "forecast.json"
    if path.is_file() and read_json(path)["inputs"] == inputs:
        return path
    forecast = config.forecast
    return write_json(
        path,
        {
            "schema": 1,
            "test_loss": forecast.test_loss,
            "interval": list(forecast.interval),
            "level": forecast.level,
            "bits_per_byte": forecast.bits_per_byte,
            "bits_per_byte_interval": list(forecast.bits_per_byte_interval),
            "curve": list(forecast.curve),
            "stages": {name: expected(getattr(config, name)) for name in ("sft", "reward", "ppo")},
            "extrapolation": config.extrapolation,
            "plan_sha256": sha256_file(config.plan) if config.plan else None,
            "law": config.law,
            "made_from": config.made_from,
            "inputs": inputs,
            "sealed": now(),
        },
    )


def post_train(
    config: FinalConfig, cell: CellConfig, *, name: str, corpus: "Corpus", device: "torch.device"
) -> Record:
    """Run one stage after pretraining, or keep it where it is done with the same inputs."""
    from scaling.stages.stage import finished, open_planned

    stage = open_planned(config, cell, name=name, corpus=corpus, device=device, after=STAGES[name])
    record = finished(stage)
    if record is not None:
        log.info("%s: done before, kept", name)
        return record
    run: Callable[..., Record] = getattr(import_module(f"scaling.stages.{name}"), f"run_{name}")
    return run(stage)


def summary(config: FinalConfig, records: Sequence[Record]) -> list[str]:
    """Return the closing lines: forecast against outcome, and each stage's result."""
    lines = []
    for record in records:
        m = record.metrics
        if record.stage == "pretrain":
            text = outcome(config, record)
        elif record.stage == "sft":
            text = (
                f"completion loss {m['test_loss_before']:.3f} -> "
                f"{m['test_loss']:.3f} +- {m['test_loss_se']:.3f} "
                f"nats/token{against(config.sft, m['test_loss'])}, {m['examples']:.0f} examples"
            )
        elif record.stage == "reward":
            text = (
                f"accuracy {m['accuracy']:.3f} +- {m['accuracy_se']:.3f} "
                f"on {m['test_pairs']:.0f} held-out pairs, "
                f"{m['pairs']:.0f} trained on; loss {m['test_loss']:.4f}"
                f"{against(config.reward, m['test_loss'])}; "
                f"correlation with gold {m['gold_correlation']:.2f}, "
                f"with length {m['length_correlation']:.2f}; "
                f"length alone reaches {m['length_accuracy']:.3f}"
            )
        else:
            inside = "inside" if m["kl"] <= m["kl_budget"] else "OUTSIDE"
            gold = (
                f"gold {m['gold_before']:.3f} -> {m['gold_after']:.3f}"
                f"{against(config.ppo, m['gold_after'] - m['gold_before'])}, "
                if "gold_after" in m
                else ""
            )
            text = (
                f"reward {m['reward_before']:.2f} -> {m['reward_after']:.2f}, {gold}"
                f"KL {m['kl']:.2f} nats {inside} the "
                f"budget of {m['kl_budget']:g}, {m['episodes']:.0f} episodes"
            )
        lines.append(f"{record.stage:>8}: {text}  ({record.seconds:.0f} s)")
        if CONFIRMING in config.study:
            lines.append(f"confirmation: {refitting(config.study, config.runs)}")
    return lines


def expected(block: SftPlan | RewardPlan | PpoPlan) -> dict[str, Any]:
    """Return what a stage's law forecast of it, to be sealed; empty where no law set the block."""
    found = {k: v for k, v in asdict(block).items() if k.startswith("forecast_")}
    return found if block.forecast_level else {}


def against(block: SftPlan | RewardPlan | PpoPlan, reached: float) -> str:
    """Say what a stage's law forecast and whether it held; empty where no law set the block."""
    gain = isinstance(block, PpoPlan)
    expected = block.forecast_gain if gain else block.forecast_loss
    if not block.forecast_level:
        return ""
    text = f", forecast {'gain ' if gain else ''}{expected:.4f}"
    if len(block.forecast_interval) != 2:
        return text
    low, high = block.forecast_interval
    where = "inside" if low <= reached <= high else "OUTSIDE"
    return f"{text} ({where} [{low:.4f}, {high:.4f}])"


def outcome(config: FinalConfig, record: Record) -> str:
    """Compare the pretraining's test loss with the sealed forecast."""
    text = f"test loss {record.test_loss:.4f} +- {record.test_loss_se:.4f} nats/token"
    path = Path(config.runs) / config.study / "final" / "forecast.json"
    sealed = read_json(path) if path.is_file() else {}
    if not sealed.get("test_loss") or record.test_loss is None:
        return f"{text}, no forecast in the plan"
    error = record.test_loss / sealed["test_loss"] - 1
    text += f", forecast {sealed['test_loss']:.4f} ({error:+.1%})"
    if len(sealed["interval"]) != 2:
        return text
    low, high = sealed["interval"]
    where = "inside" if low <= record.test_loss <= high else "OUTSIDE"
    return f"{text}, {where} the {sealed['level']:.0%} interval [{low:.4f}, {high:.4f}]"


def main(config: FinalConfig) -> None:
    """Run the final run of `config.plan`."""
    from hydra.core.hydra_config import HydraConfig

    if not config.plan:
        raise ValueError(
            "no plan is named; give plan=plan.yaml (python -m analysis.plan writes one)"
        )
    planned = load_plan(config.plan, list(HydraConfig.get().overrides.task))
    for line in summary(planned, run_final(planned)):
        log.info(line)


if __name__ == "__main__":
    run_to_end(lambda: start(main, config_name="final", schema=FinalConfig))
