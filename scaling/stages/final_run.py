"""The stages of a plan, run in order, each kept where it was finished before.

Pretraining is the planned cell. Its forecast is sealed before it starts and scored after it ends.
"""

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.app.progress import Progress
from scaling.config import CellConfig, FinalConfig, described
from scaling.data.file_hashes import read_inputs
from scaling.data.tokens import open_corpus
from scaling.schema import (
    Record,
    discard_record,
    find_record,
    read_json,
    sha256_json,
    sweep_temporaries,
    write_json,
)
from scaling.stages.plan import STAGES, StageName, final_folder, planned_cell
from scaling.stages.plan_that_ran import remember_run
from scaling.stages.preflight import (
    check_stages,
    log_checks,
    refuse_problems,
    resolve_trainable,
    write_checks,
)
from scaling.stages.sealed_forecast import (
    check_confirmation,
    score_forecast,
    seal_forecast,
    stopped_outside,
)
from scaling.study.lease import Held, Holder, Lease, Pulse, Stopped
from scaling.study.precision import settled
from scaling.study.stop_signals import stop_on_signal
from scaling.train.forecast_band import FLAG, ForecastBand, read_shares_outside

if TYPE_CHECKING:
    import torch

    from scaling.data.tokens import Corpus
    from scaling.train.ranks import World

log = logging.getLogger(__name__)
Begin = Callable[[CellConfig, ForecastBand], None]


def no_other_ranks(cell: CellConfig, band: ForecastBand) -> None:
    """Start no other ranks: the default of `begin`."""


def run_stages(
    config: FinalConfig,
    stages: Sequence[StageName],
    *,
    world: "World | None" = None,
    begin: Begin = no_other_ranks,
    ended: Callable[[Record], None] = lambda record: None,
    pulse: Pulse | None = None,
) -> list[Record]:
    """Run stages one after the other; return their records.

    config: the plan
    stages: which stages, in the order of a run
    world: the ranks that torchrun or srun started; None lets pretraining start `machine.ranks`
    begin: called right before pretraining trains, so that the other ranks of `world` begin too
    ended: called with the record of each stage that is done, before the next one starts
    pulse: requests to stop; a signal sets them while a stage trains

    Each stage is checked before the first one trains (scaling.stages.preflight); with
    `config.check` nothing is trained and there are no records. ValueError for a stage that cannot
    run, and when a stage diverges, so that no later stage starts from it. RuntimeError where a
    signal stopped a stage, after its checkpoint.
    """
    pulse = pulse or Pulse()
    cell = settled(planned_cell(config))
    config = replace(config, machine=cell.machine)
    final = final_folder(config)
    if StageName.PRETRAIN in stages and not final.is_dir():
        check_confirmation(config)  # before the corpus is opened, which may take minutes
    # torch takes seconds to import: a plan that is refused is refused before.
    from scaling.train.device import pick_device

    folders = [folder for name in STAGES for folder in written_folders(final / name)]
    sweep_temporaries(final.parent, final, *folders)
    device, corpus = pick_device(config.machine), open_corpus(cell)
    checks = check_stages(config, cell, stages, corpus=corpus, device=device)
    log_checks(checks)
    if config.out:
        write_checks(config.out, checks)
    refuse_problems(checks)
    if config.check:
        return []
    remember_run(config)
    records = []
    for name in stages:
        try:
            with stop_on_signal(pulse):
                if name == StageName.PRETRAIN:
                    record = pretrain(
                        config, cell, corpus=corpus, world=world, begin=begin, pulse=pulse
                    )
                else:
                    record = post_train(
                        config, cell, name=name, corpus=corpus, device=device, pulse=pulse
                    )
        except Stopped as stopped:
            raise RuntimeError(
                f"stage {name} was {stopped} at step {pulse.step}, after a checkpoint; the same"
                " command goes on from there"
            ) from None
        records.append(record)
        if record.status != "done":
            raise ValueError(f"stage {name} ended as {record.status}: {record.error}")
        ended(record)
    return records


def written_folders(stage: Path) -> tuple[Path, ...]:
    """Return the folders that a stage writes files to."""
    return stage, stage / ".trunk", stage / "pairs"


def pretrain(
    config: FinalConfig,
    cell: CellConfig,
    *,
    corpus: "Corpus",
    world: "World | None" = None,
    begin: Begin = no_other_ranks,
    pulse: Pulse,
) -> Record:
    """Train the planned cell, its forecast sealed before; keep a run that is finished.

    config: the plan
    cell: the planned cell
    corpus: its tokenised corpus
    world: the ranks that torchrun or srun started; None starts `machine.ranks` processes
    begin: called right before training, so that the other ranks of `world` begin too
    pulse: requests to stop

    ValueError where the confirmation is missing or missed, where the cell cannot be trained here,
    and where the run left its forecast band and `stop_outside` is set.
    """
    folder = final_folder(config) / StageName.PRETRAIN
    inputs = {"cell": cell.run_id(), **corpus.inputs}
    same = inputs.items() <= (read_inputs(folder) or {}).items() and config.resume
    if same and (record := done_record(folder)):
        log.info("pretrain: done before, kept")
    else:
        check_confirmation(config)
        resolved = resolve_trainable(cell)  # may refuse: before a former run is removed
        prepare_folder(config, folder, inputs, resume=same)
        band = seal_band(config, inputs, n_steps=resolved.n_steps)
        begin(cell, band)
        record = train_cell(config, cell, flops=resolved.flops, band=band, world=world, pulse=pulse)
        plan = sha256_json(described(config.pretrain))
        record = replace(record, inputs={**record.inputs, **inputs, "plan": plan})
        record.write(folder / "record.json")
    score_forecast(config, record)
    return record


def done_record(folder: Path) -> Record | None:
    """Return the record in a folder where its status is `done`, else None."""
    record = find_record(folder / "record.json")
    return record if record and record.status == "done" else None


def curve_file(config: FinalConfig) -> Path:
    """Return the file that compares the run with its forecast curve."""
    return final_folder(config) / "curve.json"


def prepare_folder(
    config: FinalConfig, folder: Path, inputs: dict[str, str], *, resume: bool
) -> None:
    """Make pretraining's folder ready for a run: remove what must not stay, write the inputs.

    config: the plan
    folder: where pretraining writes
    inputs: the hashes of what it is made from
    resume: whether the checkpoint in the folder was made from the same inputs and is kept

    ValueError where the run left its forecast band before and `stop_outside` is still set.
    """
    curve = curve_file(config)
    if not resume:
        refuse_other_run(config, folder)
        shutil.rmtree(folder, ignore_errors=True)
        curve.unlink(missing_ok=True)
    if config.stop_outside and (shares := read_shares_outside(curve)):
        raise ValueError(stopped_outside(shares))
    discard_record(folder / "record.json")
    write_json(folder / "inputs.json", inputs)


def refuse_other_run(config: FinalConfig, folder: Path) -> None:
    """Refuse to replace a finished run of another plan, unless `force` is set: it was paid for."""
    record = find_record(folder / "record.json")
    if record is None or record.status != "done" or config.force or not config.resume:
        return
    raise ValueError(
        f"{folder} holds a finished run of another plan ({record.run_id},"
        f" {record.params.total:.3g} parameters, {record.tokens:.3g} tokens), which this plan would"
        " replace; move the folder final away, or set force=true"
    )


def seal_band(config: FinalConfig, inputs: dict[str, str], *, n_steps: int) -> ForecastBand:
    """Seal the forecast of a run of `n_steps` and return the band that the run should stay in."""
    sealed = read_json(seal_forecast(config, inputs))
    path, stop = curve_file(config), config.stop_outside
    return ForecastBand.of(sealed, n_steps=n_steps, path=path, stop=stop)


def train_cell(
    config: FinalConfig,
    cell: CellConfig,
    *,
    flops: float,
    band: ForecastBand,
    world: "World | None",
    pulse: Pulse,
) -> Record:
    """Train the planned cell and return its record.

    config: the plan
    cell: the planned cell
    flops: the FLOPs of the whole run, for the line of progress
    band: the band that the run should stay in
    world: the ranks that torchrun or srun started; None starts `machine.ranks` processes
    pulse: requests to stop

    ValueError where the run is stopped outside its forecast band, Stopped where `pulse` asks to.
    """
    from scaling.train.local_ranks import train_by_ranks
    from scaling.train.trunk import train_trunk

    folder = final_folder(config) / StageName.PRETRAIN
    train = partial(train_trunk, world=world) if world else train_by_ranks
    every = config.log.every_seconds
    progress = Progress(StageName.PRETRAIN, total=flops, every_seconds=every, unit="FLOP")

    def report(flops: float) -> None:
        progress.update(flops, str(pulse.at_end or ""))

    with final_lease(folder, pulse) if world is None or world.first else nullcontext():
        try:
            (record,) = train([cell], folders=[folder], report=report, band=band, pulse=pulse)
        except Stopped as stopped:
            if str(stopped) != FLAG:
                raise
            raise ValueError(stopped_outside(read_shares_outside(curve_file(config)))) from stopped
        finally:
            progress.close()
    return record


@contextmanager
def final_lease(folder: Path, pulse: Pulse) -> Iterator[None]:
    """Hold the final run while it trains, so that `scaling status` and the report show it.

    folder: where pretraining writes
    pulse: its progress

    ValueError where another process trains the run.
    """
    holder = Holder.here(round=uuid.uuid4().hex[:10], job=f"local-{os.getpid()}")
    with ExitStack() as stack:
        try:
            stack.enter_context(Lease(folder, holder, pulse))
        except Held as held:
            raise ValueError(
                f"{folder} is {held}, which trains it now; wait for it, or end it and give the"
                " command again"
            ) from None
        yield


def post_train(
    config: FinalConfig,
    cell: CellConfig,
    *,
    name: StageName,
    corpus: "Corpus",
    device: "torch.device",
    pulse: Pulse,
) -> Record:
    """Run one stage after pretraining; keep it where it is done with the same inputs.

    config: the plan
    cell: the pretraining cell
    name: the stage
    corpus: the tokenised corpus of the cell
    device: where the stage trains
    pulse: requests to stop
    """
    from scaling.stages.run import run_or_keep
    from scaling.stages.stage import open_planned

    after = STAGES[name]
    return run_or_keep(
        open_planned(
            config, cell, name=name, corpus=corpus, device=device, after=after, pulse=pulse
        )
    )
