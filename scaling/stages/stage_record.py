"""The record of a stage after pretraining."""

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
    left: LeftOut | None = None,
) -> Record:
    """Write the stage's record; with an `error` its status is `diverged`.

    `left` is what of its data was left out.

    FLOPs are counted (forward passes, updates, sampling); `flops_6nd` is 6 N D of the tokens.
    """
    stage.pulse.fence()
    cell, block = stage.cell, stage.block
    if not math.isfinite((metrics or {}).get("test_loss") or 0.0):
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
        test_loss=None if error else (metrics or {}).get("test_loss"),
        test_loss_se=None if error else (metrics or {}).get("test_loss_se"),
        train_loss=tally.values.get("train_loss"),
        batch_tokens=tally.tokens // max(1, tally.step),
        peak_lr=block.peak_lr,
        schedule="constant" if stage.name == "ppo" else "cosine",
        trunk=cell.run_id(),
        config={"plan": asdict(block), "before": stage.before(), "cell": cell.science()},
        started=stage.started,
        error=error,
        metrics={k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)},
        inputs=stage.inputs,
        left_out=left.as_dict() if left else {},
    )
    record.write(stage.folder / "record.json")
    return record
