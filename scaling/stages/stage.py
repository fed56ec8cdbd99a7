"""What the stages after pretraining share: inputs, resumption, a supervised loop, the record.

A stage's identity is the hash of its plan block, its data, the vocabulary and the weights it starts
from. A stage whose record is done under the same identity is not run again; one with another
identity starts afresh. Its weights are in model.safetensors, its curve in metrics.jsonl.
"""

import logging
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaling.app.progress import Progress
from scaling.config import CellConfig, FinalConfig, OptimConfig, ScheduleConfig, described
from scaling.data.file_hashes import read_inputs
from scaling.data.row_text import LeftOut
from scaling.data.tokens import Corpus, cache_folder
from scaling.model.transformer import Transformer
from scaling.optim.optimizers import lr_factor, make_optimizer, set_lr
from scaling.schema import (
    Record,
    code_version,
    discard_record,
    find_record,
    now,
    read_record,
    sha256_file,
    sha256_json,
    write_json,
)
from scaling.stages.examples.pairs import rows_file
from scaling.study.activity import moved
from scaling.study.curve import RunLog, rows_before
from scaling.study.lease import Pulse, Stopped
from scaling.train import checkpoint
from scaling.train.device import count_memory_anew, device_name, peak_flops, peak_memory
from scaling.train.step import Diverged

log = logging.getLogger(__name__)

FLOOR = 0.1  # the rate's end as a share of its peak, Ouyang et al. 2022, appendix C
WARMUP_SHARE = 0.05
CONTEXT_STEP = 64  # tokens; a proposed context is a multiple of it
CURVE_ROWS = 400  # at most so many rows a curve
STALE = (
    "record.json",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "model.safetensors",
    "samples.json",
    "adapters.safetensors",
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage and all that it is made from; `sources` are the folders of the stages before it.

    A stage of a final run is named by what it is made from, one of a sweep by its cell (`run_id`).
    """

    name: str
    config: FinalConfig
    cell: CellConfig
    corpus: Corpus
    device: torch.device
    inputs: dict[str, str]
    folder: Path
    sources: dict[str, Path]
    run_id: str
    pulse: Pulse = field(default_factory=Pulse)
    started: str = field(default_factory=now)

    @property
    def block(self) -> Any:
        """The stage's block of the plan."""
        return getattr(self.config, self.name)

    def weights_of(self, stage: str) -> Path:
        """Return the file of another stage's weights."""
        return self.sources[stage] / "model.safetensors"

    def new_model(self) -> Transformer:
        """Return a transformer of the planned shape, on the device, weights not yet read."""
        torch.manual_seed(self.block.seed)
        cell = self.cell
        model = Transformer(
            cell.model, vocab_size=cell.tokenizer.vocab_size, context=cell.data.context
        )
        return model.to(self.device)

    def before(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the stages that this one starts from, pretraining left out."""
        return {n: described(getattr(self.config, n)) for n in self.sources if n != "pretrain"}

    @property
    def context_key(self) -> str:
        """The setting of the context: a plan's, or a sweep's."""
        planned = self.folder == root(self.config) / self.name
        return "pretrain.context" if planned else "data.context"

    def tell_left_out(self, left: LeftOut, *, used: str, **advice: str) -> None:
        """Say in one line what of the data is not used, and why; `advice` is what mends it.

        Nothing is said where all is used.
        """
        if left.longest:
            room = -(-left.longest // CONTEXT_STEP) * CONTEXT_STEP
            advice["too_long"] = (
                f"the context has {self.cell.data.context} tokens, the longest needs"
                f" {left.longest:,}; {self.context_key}={room} and a new pretraining hold all"
            )
        if left.as_dict():
            log.info("%s: %s used; left out: %s", self.name, used, left.said(**advice))

    def has_gold(self) -> bool:
        """Say whether the programmatic judge can score completions: prompts are functions."""
        return self.config.sft.data == "docstrings"


def root(config: FinalConfig) -> Path:
    """Return the folder of a final run."""
    return Path(config.runs) / config.study / "final"


def open_stage(
    config: FinalConfig,
    cell: CellConfig,
    *,
    name: str,
    corpus: Corpus,
    device: torch.device,
    sources: dict[str, Path],
    folder: Path,
    run_id: str = "",
    pulse: Pulse | None = None,
) -> Stage:
    """Collect what a stage is made from; ValueError or FileNotFoundError where a part is missing.

    `sources` are the folders of the stages whose weights it starts from, by name.
    """
    block = getattr(config, name)
    count_memory_anew(device)
    inputs = {"plan": sha256_json(described(block))}
    if name == "reward":  # its pairs are sampled as PPO samples
        inputs["sampling"] = f"{config.ppo.max_new_tokens} tokens at {config.ppo.temperature}"
    for key in ("data", "test"):
        path = getattr(block, key, "")
        if path not in ("docstrings", "gold", ""):
            inputs[key] = sha256_file(rows_file(path, cache_folder(cell), what=f"{name}.{key}"))
    inputs |= {"corpus": corpus.sha256, "tokenizer": sha256_file(corpus.tokenizer_path)}
    for earlier, place in sources.items():
        if not (place / "record.json").is_file() or not (place / "model.safetensors").is_file():
            raise FileNotFoundError(
                f"stage {name} needs {place}, which is not finished; run stages={earlier},{name}"
            )
        check_tokenizer(place, read_record(place / "record.json"), inputs)
        inputs[earlier] = sha256_file(place / "model.safetensors")
    return Stage(
        name=name,
        config=config,
        cell=cell,
        corpus=corpus,
        device=device,
        inputs=inputs,
        folder=folder,
        sources=sources,
        run_id=run_id or sha256_json([name, inputs])[:10],
        pulse=pulse or Pulse(),
    )


def open_planned(
    config: FinalConfig,
    cell: CellConfig,
    *,
    name: str,
    corpus: Corpus,
    device: torch.device,
    after: Sequence[str],
) -> Stage:
    """Open a stage of a final run; `after` names the stages whose weights it starts from."""
    return open_stage(
        config,
        cell,
        name=name,
        corpus=corpus,
        device=device,
        sources={earlier: root(config) / earlier for earlier in after},
        folder=root(config) / name,
    )


def check_tokenizer(folder: Path, record: Record, inputs: dict[str, str]) -> None:
    """Refuse a checkpoint whose text or vocabulary is not the one at hand."""
    if record.status != "done":
        raise ValueError(
            f"{folder} ended as {record.status} ({record.error}); "
            "mend its block of the plan and run it again"
        )
    for name in ("corpus", "tokenizer"):
        if record.inputs.get(name, inputs[name]) != inputs[name]:
            raise ValueError(
                f"{folder} was trained with another {name} "
                f"({record.inputs[name][:12]}, here {inputs[name][:12]}); "
                "restore it or run all stages again"
            )


def finished(stage: Stage) -> Record | None:
    """Return the record of a stage that is done with the same inputs."""
    if not same_inputs(stage):
        return None
    path = stage.folder / "record.json"
    if (record := find_record(path)) and record.status == "done":
        return record
    discard_record(path)
    return None


def same_inputs(stage: Stage) -> bool:
    """Say whether what is in the stage's folder was made from the stage's inputs."""
    return read_inputs(stage.folder) == stage.inputs


def make_room(stage: Stage) -> None:
    """Remove what a stage made from other inputs.

    To be called once the new inputs are read: a mistake in them must not cost what is finished.
    """
    if same_inputs(stage):
        return
    for name in STALE:
        (stage.folder / name).unlink(missing_ok=True)
    shutil.rmtree(stage.folder / "pairs", ignore_errors=True)
    write_json(stage.folder / "inputs.json", stage.inputs)


@dataclass(kw_only=True)
class Tally:
    """What a stage has done so far; kept in its checkpoint."""

    step: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    values: dict[str, Any] = field(default_factory=dict)

    def row(self, **values: Any) -> dict[str, Any]:
        """Return a row of the curve."""
        done = {k: getattr(self, k) for k in ("step", "tokens", "flops", "seconds")}
        return {**done, **values}


class Saver:
    """Write a stage's checkpoint every so many seconds, and when its pulse asks for it."""

    def __init__(
        self, stage: Stage, tally: Tally, *, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self.stage, self.tally, self.model, self.optimizer = stage, tally, model, optimizer
        self._before, self._began = 0.0, time.monotonic()
        self._saved = self._began

    def resume(self) -> bool:
        """Continue from the checkpoint; False where there is none."""
        if not self.stage.config.resume:
            return False
        folder = self.stage.folder
        checkpoint.set_aside_damaged(folder)
        if rows_before(folder / "checkpoint.safetensors", folder / "metrics.jsonl") is None:
            return False
        state = checkpoint.load(folder, model=self.model, optimizer=self.optimizer)
        for name, value in (state or {}).items():
            setattr(self.tally, name, value)
        self._before = self.tally.seconds
        return state is not None

    def row(self, **values: Any) -> dict[str, Any]:
        """Return a row of the curve, the time brought up to date."""
        self.tally.seconds = self._before + time.monotonic() - self._began
        return self.tally.row(**values)

    def tick(self) -> None:
        """After a step and its row: save when it is due; Stopped when asked to stop."""
        pulse, moment = self.stage.pulse, time.monotonic()
        self.tally.seconds = self._before + moment - self._began
        pulse.step = self.tally.step
        moved()
        due = moment - self._saved >= self.stage.config.machine.checkpoint_seconds
        if due or pulse.save or pulse.stop:
            self.save()
            pulse.save = False
        if pulse.stop:
            raise Stopped(pulse.stop)

    def save(self) -> None:
        """Write the checkpoint now; Stopped where somebody else has taken over."""
        self.stage.pulse.fence()
        state = asdict(self.tally)
        checkpoint.save(self.stage.folder, model=self.model, optimizer=self.optimizer, state=state)
        self._saved = time.monotonic()


def open_curve(stage: Stage, *, resume_step: int) -> RunLog:
    """Open the stage's curve, dropping rows beyond `resume_step`."""
    return RunLog(
        stage.folder,
        stage.config.log,
        name=f"final-{stage.name}",
        group=stage.config.study,
        details=asdict(stage.block),
        resume_step=resume_step,
    )


def open_progress(stage: Stage, *, total: float, done: float) -> Progress:
    """Return the stage's line of progress."""
    return Progress(
        stage.name, total=total, every_seconds=stage.config.log.every_seconds, done=done
    )


def fine_tuning(optim: OptimConfig) -> OptimConfig:
    """Return the optimiser's settings for a stage that starts from trained weights.

    AdamW without decay, however they were trained: adapters and value heads have no matrix to
    orthogonalise.
    """
    return replace(optim, name="adamw", weight_decay=0.0)


def fit(
    stage: Stage,
    model: nn.Module,
    tally: Tally,
    *,
    n_steps: int,
    peak_lr: float,
    loss_of: Callable[[int], tuple[Tensor, int, float]],
) -> None:
    """Minimise `loss_of(step) -> (loss, tokens, flops)` over `n_steps`, counting into `tally`.

    Warm-up over a twentieth, then cosine to a tenth of the peak. Resumes from the checkpoint.
    Raises Diverged when the loss is not finite.
    """
    optimizer = make_optimizer(model, fine_tuning(stage.cell.optim), peak_lr)
    saver = Saver(stage, tally, model=model, optimizer=optimizer)
    saver.resume()
    schedule = ScheduleConfig(
        name="cosine", floor=FLOOR, warmup_steps=max(1, round(WARMUP_SHARE * n_steps))
    )
    every = max(1, n_steps // CURVE_ROWS)
    progress = open_progress(stage, total=n_steps, done=tally.step)
    model.train()
    with open_curve(stage, resume_step=tally.step) as curve:
        while tally.step < n_steps:
            set_lr(
                optimizer,
                lr_factor(tally.step, schedule=schedule, n_steps=n_steps, decay_start=n_steps),
            )
            loss, tokens, flops = loss_of(tally.step)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), stage.cell.optim.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise Diverged(
                    f"the loss of stage {stage.name} stopped being finite "
                    f"at step {tally.step}; lower {stage.name}.peak_lr"
                )
            tally.step, tally.tokens, tally.flops = (
                tally.step + 1,
                tally.tokens + tokens,
                tally.flops + flops,
            )
            tally.values["train_loss"] = value
            if tally.step % every == 0 or tally.step == n_steps:
                curve.log(
                    saver.row(
                        train_loss=value, grad_norm=float(norm), lr=optimizer.param_groups[0]["lr"]
                    )
                )
            saver.tick()
            progress.update(tally.step, f"loss {value:.3f}")
        progress.close()
    model.eval()


def shuffled(
    n: int, *, batch: int, epochs: int, seed: int, lengths: list[int] | None = None
) -> list[list[int]]:
    """Return the batches of all epochs as indices, a pure function of the arguments.

    With `lengths`, rows of like length go together (less padding): each run of 8 batches of an
    epoch's random order is sorted by length and cut, and the batches are mixed again.
    """
    found: list[list[int]] = []
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(seed * 1_000 + epoch)
        order = torch.randperm(n, generator=generator).tolist()
        epoch_batches = list(_cut(order, batch, lengths))
        mixed = torch.randperm(len(epoch_batches), generator=generator).tolist()
        found += [epoch_batches[i] for i in mixed]
    return found


def _cut(order: list[int], batch: int, lengths: list[int] | None) -> Iterator[list[int]]:
    for at in range(0, len(order), 8 * batch):
        pool = order[at : at + 8 * batch]
        if lengths is not None:
            pool = sorted(pool, key=lengths.__getitem__)
        for start in range(0, len(pool), batch):
            yield pool[start : start + batch]


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
    import numpy

    stage.pulse.fence()
    cell, block = stage.cell, stage.block
    if not math.isfinite((metrics or {}).get("test_loss") or 0.0):
        error = error or f"the test loss is not finite; lower {stage.name}.peak_lr"
    params = cell.model.shape(
        vocab_size=cell.tokenizer.vocab_size, context=cell.data.context
    ).params
    seconds = max(tally.seconds, 1e-9)
    peak = peak_flops(stage.device, torch.get_num_threads())  # they compute in fp32
    versions = {
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }
    record = Record(
        run_id=stage.run_id,
        study=stage.config.study,
        stage=stage.name,
        status="diverged" if error else "done",
        seed=block.seed,
        params=params,
        tokens=tally.tokens,
        unique_tokens=unique_tokens,
        flops=tally.flops,
        flops_6nd=6.0 * params.multiplying * tally.tokens,
        test_loss=None if error else (metrics or {}).get("test_loss"),
        test_loss_se=None if error else (metrics or {}).get("test_loss_se"),
        bits_per_byte=None,
        train_loss=tally.values.get("train_loss"),
        steps=tally.step,
        batch_tokens=tally.tokens // max(1, tally.step),
        peak_lr=block.peak_lr,
        schedule="constant" if stage.name == "ppo" else "cosine",
        trunk=cell.run_id(),
        seconds=tally.seconds,
        device=device_name(stage.device),
        device_seconds=tally.seconds,
        peak_memory_bytes=peak_memory(stage.device),
        tokens_per_second=tally.tokens / seconds,
        mfu=tally.flops / seconds / peak if peak else None,
        config={"plan": asdict(block), "before": stage.before(), "cell": cell.science()},
        versions={**versions, "scaling": code_version()["version"] or ""},
        git_sha=code_version()["git_sha"],
        started=stage.started,
        ended=now(),
        error=error,
        metrics={k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)},
        inputs=stage.inputs,
        left_out=left.as_dict() if left else {},
    )
    record.write(stage.folder / "record.json")
    return record
