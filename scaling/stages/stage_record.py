"""The record of a stage after pretraining: what it cost, what it reached, what it is made from."""

import math
from dataclasses import asdict

import torch

from scaling.data.row_text import LeftOut
from scaling.schema import Cost, Record, Status
from scaling.stages.loop import Tally
from scaling.stages.stage import Stage
from scaling.train.device import device_name, peak_flops, peak_memory


def write_record(
    stage: Stage,
    tally: Tally,
    *,
    unique_tokens: int = 0,
    metrics: dict[str, float] | None = None,
    error: str | None = None,
    left_out: LeftOut | None = None,
) -> Record:
    """Write the stage's record and return it.

    stage: the stage that has ended
    tally: its steps, tokens, FLOPs and seconds; FLOPs are counted (forward passes, updates,
        sampling), while `flops_6nd` of the record is 6 N D of the tokens
    unique_tokens: tokens of the data, each counted once
    metrics: results by name; numbers that are not finite are left out
    error: why the stage failed; the status is then `diverged`, as it is for a test loss that is not
        finite
    left_out: how much of the data was not used, by reason

    Stopped where another process has taken over the stage.
    """
    stage.pulse.fence()
    cell, block, metrics = stage.cell, stage.block, metrics or {}
    if not math.isfinite(metrics.get("test_loss") or 0.0):
        error = error or f"the test loss is not finite; lower {stage.name}.peak_lr"
    params = cell.model.shape(
        vocab_size=cell.tokenizer.vocab_size, context=cell.data.context
    ).params
    cost = Cost(
        device=device_name(stage.device),
        steps=tally.step,
        tokens=tally.tokens,
        flops=tally.flops,
        seconds=tally.seconds,
        peak_memory_bytes=peak_memory(stage.device),
        peak_flops=peak_flops(stage.device, torch.get_num_threads()),  # stages compute in fp32
    )
    record = Record.of_cell(
        cost,
        run_id=stage.run_id,
        study=stage.config.study,
        stage=stage.name,
        status=Status.DIVERGED if error else Status.DONE,
        seed=block.seed,
        params=params,
        tokens=tally.tokens,
        unique_tokens=unique_tokens,
        flops=tally.flops,
        test_loss=None if error else metrics.get("test_loss"),
        test_loss_se=None if error else metrics.get("test_loss_se"),
        train_loss=tally.values.get("train_loss"),
        batch_tokens=tally.tokens // max(1, tally.step),
        peak_lr=block.peak_lr,
        schedule="constant" if stage.name == "ppo" else "cosine",
        trunk=cell.run_id(),
        config={"plan": asdict(block), "before": stage.before(), "cell": cell.science()},
        started=stage.started,
        error=error,
        metrics={k: float(v) for k, v in metrics.items() if math.isfinite(v)},
        inputs=stage.inputs,
        left_out=left_out.as_dict() if left_out else {},
    )
    stage.corpus.write_vocabulary(stage.folder)
    record.write(stage.folder / "record.json")
    return record
