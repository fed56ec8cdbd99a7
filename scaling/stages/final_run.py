"""The stages of a plan, run in order."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import (
    CellConfig,
    FinalConfig,
    described,
)
from scaling.data.file_hashes import read_inputs
from scaling.schema import (
    Record,
    discard_record,
    find_record,
    read_json,
    sha256_file,
    sha256_json,
    sweep_temporaries,
    write_json,
)
from scaling.study.lease import Stopped
from scaling.train.forecast_band import ForecastBand, read_shares_outside

if TYPE_CHECKING:
    import torch

    from scaling.budget import Resolved
    from scaling.data.tokens import Corpus
    from scaling.train.ranks import World
from scaling.stages.plan import STAGES, planned_cell
from scaling.stages.sealed_forecast import confirmed, outside, score_forecast, seal_forecast

log = logging.getLogger(__name__)


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


def pretrain(
    config: FinalConfig,
    cell: CellConfig,
    *,
    name: str,
    corpus: "Corpus",
    world: "World | None" = None,
    begin: Callable[[CellConfig, ForecastBand], None] = lambda cell, band: None,
) -> Record:
    """Train the planned cell, its forecast sealed first; a finished one is kept.

    Other ranks of a `world` are told to `begin`; without one `machine.ranks` are started.
    """
    from scaling.app.progress import Progress
    from scaling.train.local_ranks import train_by_ranks
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
    if config.stop_outside and (left := read_shares_outside(curve)):
        raise ValueError(outside(left))
    discard_record(path)
    write_json(known, inputs)
    sealed = read_json(seal_forecast(config, inputs))
    band = ForecastBand.of(sealed, n_steps=resolved.n_steps, path=curve, stop=config.stop_outside)
    progress = Progress(name, total=resolved.flops, every_seconds=config.log.every_seconds)
    begin(cell, band)
    report = progress.update
    try:
        train = partial(train_trunk, world=world) if world else train_by_ranks
        (record,) = train([cell], folders=[folder], report=report, band=band)
    except Stopped as stopped:
        raise ValueError(outside(read_shares_outside(curve))) from stopped
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
