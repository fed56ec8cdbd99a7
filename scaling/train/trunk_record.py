"""The record and the weights that a branch of a trunk leaves at its end."""

import math
from dataclasses import asdict
from pathlib import Path

import torch

from scaling.budget import resolve
from scaling.config import CellConfig
from scaling.optim.schedule import undercooled
from scaling.schema import Cost, Record, Status
from scaling.study.curve_steps import curve_windows, flops_of_tests
from scaling.train import checkpoint
from scaling.train.device import device_name, peak_flops, peak_memory
from scaling.train.forecast_band import FLAG, shares_outside
from scaling.train.heldout import Score
from scaling.train.rolling import TextScore
from scaling.train.step import Run, Setting
from scaling.train.trunk_state import fence


def finish(
    run: Run,
    setting: Setting,
    cell: CellConfig,
    folder: Path,
    *,
    score: Score | None,
    sets: dict[str, TextScore] | None = None,
    error: str | None = None,
) -> Record:
    """Write the cell's weights and, last of all, its record; return the record.

    run: the model at its end
    setting: what stayed the same along the trunk
    cell: whose record it is
    folder: the cell's own
    score: on the test set; None for a run that diverged
    sets: scores on the named test sets
    error: why it diverged
    """
    fence(setting)
    resolved = resolve(cell)
    sets = sets or {}
    losses = [s.loss + s.standard_error for s in (score, *sets.values()) if s is not None]
    if not all(map(math.isfinite, losses)):
        score, error = None, "the test loss is not finite; lower optim.peak_lr"
    if score is not None:
        path, state = folder / "model.safetensors", {"step": run.step}
        checkpoint.save_whole(path, run.model, setting.world, state=state)
        if setting.world.rank == 0:
            setting.corpus.write_vocabulary(folder)
    peak = peak_flops(setting.device, torch.get_num_threads(), setting.cell.machine.precision)
    trained_tokens = resolved.tokens_at(run.step)
    cost = Cost(
        device=device_name(setting.device),
        steps=run.step,
        tokens=trained_tokens,
        flops=trained_tokens * resolved.shape.flops_per_token,
        seconds=run.seconds,
        ranks=setting.world.size,
        peak_memory_bytes=peak_memory(setting.device),
        peak_flops=peak and peak * setting.world.size,
    )
    record = Record.of_cell(
        cost,
        run_id=cell.run_id(),
        study=cell.study,
        stage="pretrain",
        status=Status.DONE if score else Status.DIVERGED,
        seed=cell.seed,
        params=resolved.shape.params,
        tokens=resolved.n_tokens,
        unique_tokens=setting.batches.unique(resolved.n_tokens),
        flops=resolved.flops,
        test_loss=score.loss if score else None,
        test_loss_se=score.standard_error if score else None,
        bits_per_byte=score.bits_per_byte if score else None,
        test_sets={n: s.of_record() for n, s in sets.items()} if score else {},
        train_loss=run.rows[-1].get("train_loss") if run.rows else None,
        batch_tokens=resolved.batch_tokens,
        peak_lr=resolved.peak_lr,
        schedule=cell.schedule.name,
        trunk=cell.trunk_id(),
        config=asdict(cell),
        started=setting.started,
        error=error,
        metrics={**corpus_metrics(setting), **curve_metrics(run, cell, score)},
        inputs={
            **setting.corpus.inputs,
            "test": setting.corpus.test_sha256,
            **{f"test_set:{name}": texts.sha256 for name, texts in setting.sets.items()},
        },
        flags=flags(run, cell, setting),
        left_out=setting.corpus.meta.get("left_out", {}),
    )
    record.write(folder / "record.json")
    return record


def corpus_metrics(setting: Setting) -> dict[str, float]:
    """Return corpus tokens, blocks of the test set, the least possible loss, whether stacked."""
    metrics = {"corpus_tokens": float(setting.batches.windows * setting.batches.context)}
    metrics["test_blocks"] = float(setting.test.blocks(setting.corpus.meta))
    if setting.test.bayes_loss is not None:
        metrics["bayes_loss"] = setting.test.bayes_loss
    if setting.stacked:
        metrics["stacked"] = 1.0
    return metrics


def curve_metrics(run: Run, cell: CellConfig, score: Score | None) -> dict[str, float]:
    """Return what the curve's test losses cost, in FLOPs, and the end's loss on their windows.

    The rows of the trunk before the branch count. The second is left out for a run that diverged.
    """
    resolved, tokens = resolve(cell), cell.eval.curve_tokens
    metrics = {"curve_test_flops": flops_of_tests(run.rows, resolved, curve_tokens=tokens)}
    if score is not None:
        end = score.loss_of_first(curve_windows(resolved, tokens))
        metrics["curve_test_loss"] = end
    return metrics


def flags(run: Run, cell: CellConfig, setting: Setting) -> list[str]:
    """Return warnings for a reader of the cell's loss (Record.flags)."""
    resolved, outside = resolve(cell), shares_outside(setting.band.readings(run.rows))
    before = resolved.leaves if cell.branch.is_set else 0  # such a branch decays over its own steps
    hot = undercooled(
        cell.schedule,
        n_steps=resolved.n_steps - before,
        decay_start=resolved.decay_start - before,
    )
    holds_by_flag = {"undercooled": hot, "skipped_steps": run.skipped > 0, FLAG: bool(outside)}
    return [name for name, holds in holds_by_flag.items() if holds]
