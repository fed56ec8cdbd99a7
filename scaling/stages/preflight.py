"""What a final run checks before it trains anything: data, lengths, memory and disk of each stage.

A stage that cannot run is thus refused in seconds, not after pretraining. The data of the stages
after pretraining are read, encoded and counted as the stages themselves do it; what depends on
weights, such as sampled pairs, is known only later. `scaling final plan=... check=all`
ends after the checks.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.app.plurals import plural
from scaling.budget import Resolved, resolve
from scaling.config import CellConfig, FinalConfig
from scaling.data.row_text import LeftOut
from scaling.schema import (
    FEW_ROWS,
    activation_bytes,
    find_record,
    now,
    stage_disk_bytes,
    stage_memory_bytes,
    write_json,
)
from scaling.stages.plan import DOCSTRINGS, GOLD, STAGES, StageName, final_folder

if TYPE_CHECKING:
    import torch

    from scaling.data.tokens import Corpus
    from scaling.stages.sft import SftData
    from scaling.stages.stage import Stage

log = logging.getLogger(__name__)
MANY_PASSES = (
    4.0  # Passes beyond which repeated tokens are clearly worth less (2305.16264, fig. 1).
)
# Passes beyond which a run is refused: repeats are worth nothing after some 15 (2305.16264, eq. 5).
MOST_PASSES = 100.0
DATA_ALONE = "data"  # The value of `check` of a plan for another machine than this one.
GIB = 2.0**30  # bytes


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was found of one stage.

    stage: its name
    problem: why it cannot run, with the fix; empty where it can
    found: one line of what was counted
    left_out: data that are not used, by reason
    alarms: what the plan and its report should say of the data, each with `code` and `sentence`
    memory_gib: memory of one device, activations of the rows at once included: of a step in
        pretraining, of one in later stages
    disk_gib: disk that its checkpoint and weights take
    """

    stage: str
    problem: str = ""
    found: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    alarms: list[dict[str, str]] = field(default_factory=list)
    memory_gib: float = 0.0
    disk_gib: float = 0.0


def check_stages(
    config: FinalConfig,
    cell: CellConfig,
    stages: Sequence[StageName],
    *,
    corpus: "Corpus",
    device: "torch.device",
) -> list[Check]:
    """Return what was found of each stage, in order.

    config: the plan
    cell: the planned cell
    stages: the stages that are to run
    corpus: the tokenised corpus of the cell
    device: where the stages train
    """
    data = StageData(config=config, cell=cell, corpus=corpus, device=device)
    checks = [_check(name, stages, data) for name in stages]
    disk = [] if config.check == DATA_ALONE else _disk(final_folder(config), checks)
    return [*checks, *disk]


def refuse_problems(checks: Sequence[Check]) -> None:
    """Raise ValueError for the first stage that cannot run."""
    for check in checks:
        if check.problem:
            raise ValueError(f"stage {check.stage} cannot run: {check.problem}")


def log_checks(checks: Sequence[Check]) -> None:
    """Log a line for each stage."""
    for check in checks:
        if check.problem:
            log.error("check of %s: %s", check.stage, check.problem)
        else:
            log.info("check of %s: %s", check.stage, check.found)
        for alarm in check.alarms:
            log.warning("%s: alarm %s: %s", check.stage, alarm["code"], alarm["sentence"])


def write_checks(path: str | Path, checks: Sequence[Check]) -> Path:
    """Write what was checked as JSON."""
    return write_json(Path(path), {"at": now(), "checks": [asdict(check) for check in checks]})


@dataclass(frozen=True, kw_only=True)
class StageData:
    """What the stages of a plan share, and the pairs of fine-tuning, which are read once.

    config: the plan
    cell: the planned cell
    corpus: its tokenised corpus
    device: where the stages train
    rows: by stage, the rows of a file that fit, in all and held out; filled by the finders
    """

    config: FinalConfig
    cell: CellConfig
    corpus: "Corpus"
    device: "torch.device"
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)

    def stage(self, name: StageName) -> "Stage":
        """Return a stage that is not opened: it has no inputs and starts from nothing."""
        from scaling.stages.stage import Stage

        return Stage(
            name=name,
            config=self.config,
            cell=self.cell,
            corpus=self.corpus,
            device=self.device,
            inputs={},
            folder=final_folder(self.config) / name,
            sources={},
            run_id="",
        )

    @cached_property
    def pairs(self) -> "SftData":
        """The pairs of fine-tuning, whose prompts the stages after it take too."""
        from scaling.stages.sft import load_pairs

        return load_pairs(self.stage(StageName.SFT))

    def prompts(self, left_out: LeftOut) -> str:
        """Count the prompts that leave room for a completion; ValueError where there are none."""
        train, test = self.pairs.prompts(
            context=self.cell.data.context,
            max_new_tokens=self.config.ppo.max_new_tokens,
            left_out=left_out,
        )
        return f"{len(train):,} training and {len(test):,} held-out prompts"


def _check(name: StageName, stages: Sequence[StageName], data: StageData) -> Check:
    """Return what was found of one stage; a mistake is its `problem`."""
    from scaling.train.device import device_memory, device_name

    config, cell = data.config, data.cell

    shape = cell.model.shape(vocab_size=cell.tokenizer.vocab_size, context=cell.data.context)
    options = {
        "method": config.sft.method,
        "critic": config.ppo.estimator == "gae",
        "ranks": cell.machine.ranks if cell.machine.shard else 1,
    }
    needed = stage_memory_bytes(shape.params.total, name, **options) + activation_bytes(shape, 1)
    if name == StageName.PRETRAIN:
        needed = resolve(cell).memory_bytes
    memory_gib = needed / GIB
    disk_gib = stage_disk_bytes(shape.params.total, name) / GIB
    left_out = LeftOut()

    def check(*, problem: str = "", found: str = "") -> Check:
        return Check(
            stage=name,
            problem=problem,
            found=found,
            left_out=left_out.as_dict(),
            alarms=few_rows(name, *data.rows[name]) if name in data.rows else [],
            memory_gib=memory_gib,
            disk_gib=disk_gib,
        )

    try:
        _refuse_missing_source(config, name, stages)
        if config.check != DATA_ALONE:
            memory = device_memory(data.device)
            if needed > memory and name != StageName.PRETRAIN:
                raise ValueError(
                    f"it takes {_size(memory_gib)} on one device with one row of the context, and"
                    f" {device_name(data.device)} has {_size(memory / GIB)}; leave it out of"
                    " stages=, take sft.method=lora, or export the model and tune it elsewhere"
                )
        find = FINDERS.get(name)
        found = find(data, left_out) if find else "it reads no data of its own"
    except (ValueError, OSError) as error:
        return check(problem=str(error))
    text = f"{found}; left out: {left_out.in_words()}" if left_out.as_dict() else found
    of_rows = "" if name == StageName.PRETRAIN else " with one row at once"
    return check(found=f"{text}; {_size(memory_gib)} of memory{of_rows}, {_size(disk_gib)} of disk")


def _refuse_missing_source(
    config: FinalConfig, name: StageName, stages: Sequence[StageName]
) -> None:
    """Raise FileNotFoundError where a stage starts from one that is neither done nor to run."""
    for earlier in STAGES[name]:
        folder = final_folder(config) / earlier
        record = find_record(folder / "record.json")
        done = record is not None and (folder / "model.safetensors").is_file()
        if earlier not in stages and not done:
            raise FileNotFoundError(
                f"it needs {folder}, which is not finished; run stages={earlier},{name}"
            )


def _pretraining(data: StageData, left_out: LeftOut) -> str:
    """Say how often the planned tokens pass over the corpus; ValueError where it cannot train."""
    from scaling.data.batches import Batches

    config, cell, corpus = data.config, data.cell, data.corpus
    budget = resolve(cell) if config.check == DATA_ALONE else resolve_trainable(cell)
    batches = Batches.of(corpus, cell.data, rows=budget.rows, seed=cell.seed)
    passes = batches.epochs(budget.n_tokens)
    if passes > MOST_PASSES and not config.force:
        raise ValueError(
            f"{budget.n_tokens:,} tokens are {plural(round(passes), 'pass')} over the corpus of"
            f" {corpus.meta['train_tokens']:,}; give more text (cell.data.source=files"
            " 'cell.data.train=[FOLDER]'), plan with unique_tokens=, or set force=true"
        )
    if passes > MANY_PASSES:
        log.warning(
            "pretrain takes %s tokens of a corpus of %s: %.3g passes; beyond %g passes repeated "
            "tokens are worth less (Muennighoff et al. 2023), and the forecast knows fresh ones",
            f"{budget.n_tokens:,}",
            f"{corpus.meta['train_tokens']:,}",
            passes,
            MANY_PASSES,
        )
    over = plural(passes, "pass", text=f"{passes:.2g}")
    train_tokens = corpus.meta["train_tokens"]
    return f"{budget.n_tokens:,} tokens, {over} over the corpus of {train_tokens:,}"


def resolve_trainable(cell: CellConfig) -> Resolved:
    """Work out a cell's budget; ValueError where the cell cannot be trained on this machine."""
    from scaling.train.device import check_fits, pick_device

    check_fits(cell, pick_device(cell.machine))
    return resolve(cell)


def _fine_tuning(data: StageData, left_out: LeftOut) -> str:
    """Count the pairs that fit the context; ValueError where none does."""
    from scaling.stages.sft import check_method

    check_method(data.stage(StageName.SFT))
    left_out.counts.update(data.pairs.left_out.counts)
    block, train = data.config.sft, data.pairs.train
    if block.data != DOCSTRINGS:
        held_out = len(data.pairs.test)
        data.rows[StageName.SFT] = (len(train) + held_out, held_out)
    return (
        f"{min(block.examples, len(train)):,} of {len(train):,} training pairs of"
        f" sft.data={block.data} are used, {len(data.pairs.test):,} are held out"
    )


def _preferences(data: StageData, left_out: LeftOut) -> str:
    """Count the pairs of a file, or the prompts that are to be sampled."""
    from scaling.stages.preferences import check_sampling, file_groups, refuse_few_pairs

    block, stage = data.config.reward, data.stage(StageName.REWARD)
    if block.data == GOLD:
        check_sampling(stage)
        return f"{data.prompts(left_out)}; {block.samples_per_prompt} samples of each"
    counts = refuse_few_pairs(stage, file_groups(stage, left_out), left_out)
    data.rows[StageName.REWARD] = (sum(counts), counts[1])
    data.prompts(LeftOut())  # the scores are standardised on samples of them
    return f"{counts[0]:,} training and {counts[1]:,} held-out pairs of reward.data={block.data}"


def _episodes(data: StageData, left_out: LeftOut) -> str:
    """Count the prompts that leave room for a completion."""
    from scaling.stages.ppo import refuse_no_judge

    refuse_no_judge(data.stage(StageName.PPO))
    return f"{data.config.ppo.episodes:,} episodes on {data.prompts(left_out)}"


FINDERS: dict[StageName, Callable[[StageData, LeftOut], str]] = {
    StageName.PRETRAIN: _pretraining,
    StageName.SFT: _fine_tuning,
    StageName.REWARD: _preferences,
    StageName.PPO: _episodes,
}


def few_rows(name: StageName, rows: int, held_out: int) -> list[dict[str, str]]:
    """Return the alarm of a file with so few rows that its held-out result is a rough one.

    name: the stage
    rows: rows that fit, in all
    held_out: of these, the rows that are held out
    """
    if rows >= FEW_ROWS:
        return []
    sentence = (
        f"{name} has {plural(rows, 'row')} that fit, fewer than {FEW_ROWS}: the standard error of"
        f" its held-out result is {1 / max(1, held_out) ** 0.5:.0%} of the deviation between the"
        f" {held_out} held-out rows; give more rows"
    )
    return [{"code": "few_rows", "sentence": sentence}]


def _size(gib: float) -> str:
    """Write GiB for people, as MiB below one."""
    return f"{1024 * gib:.3g} MiB" if gib < 1 else f"{gib:,.3g} GiB"


def _disk(folder: Path, checks: Sequence[Check]) -> list[Check]:
    """Return a check that fails where all stages together need more disk than is free."""
    place = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    free, needed = shutil.disk_usage(place).free / GIB, sum(c.disk_gib for c in checks)
    if needed <= free:
        return []
    problem = (
        f"all stages write {needed:,.0f} GiB of checkpoints and weights to {folder}, where"
        f" {free:,.0f} GiB are free; give runs= on a larger disk, or fewer stages="
    )
    return [Check(stage="disk", problem=problem)]
