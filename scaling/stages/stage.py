"""A stage after pretraining, and the inputs that identify it.

The inputs of a stage are hashes: of its settings, its data, the corpus, the vocabulary and the
weights that it starts from; they are kept in inputs.json. A stage whose record is done and whose
inputs are the same is not run again. With other inputs a stage starts afresh. The weights are in
model.safetensors, the curve in metrics.jsonl. loop.py trains a stage, stage_record.py writes its
record, run.py knows which function runs it.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scaling.config import CellConfig, FinalConfig, described
from scaling.data.file_hashes import read_inputs
from scaling.data.row_text import LeftOut
from scaling.data.tokens import Corpus, cache_folder
from scaling.data.vocabulary import VOCABULARY_FILES
from scaling.model.transformer import Transformer
from scaling.schema import (
    FEW_ROWS,
    Record,
    discard_record,
    find_record,
    now,
    read_record,
    sha256_file,
    sha256_json,
    write_json,
)
from scaling.stages.examples.pairs import (
    FEWEST_HELD_OUT,
    HELD_OUT,
    MOST_HELD_OUT,
    rows_file,
)
from scaling.stages.plan import DOCSTRINGS, GOLD, StageName, final_folder
from scaling.study.lease import Pulse
from scaling.train.device import count_memory_anew

log = logging.getLogger(__name__)

# A message that proposes a longer context rounds it up to a multiple of this many tokens.
CONTEXT_STEP = 64
# The files of a stage that are removed when its inputs have changed.
FILES = (
    "record.json",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "model.safetensors",
    "samples.json",
    "adapters.safetensors",
    *VOCABULARY_FILES,
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage after pretraining, with all that it is made from."""

    name: StageName
    config: FinalConfig  # the whole plan
    cell: CellConfig  # the pretraining cell: shape, context, vocabulary, corpus
    corpus: Corpus  # the tokenised corpus of the cell
    device: torch.device
    inputs: dict[str, str]  # hash of each thing that the stage is made from, by name
    folder: Path  # where the stage writes
    sources: dict[StageName, Path]  # folders of the stages whose weights it starts from, by stage
    run_id: str  # of a final run: hash of name and inputs; of a sweep: the cell's id
    pulse: Pulse = field(default_factory=Pulse)  # requests to save or stop, and the leases
    started: str = field(default_factory=now)  # UTC

    @property
    def block(self) -> Any:
        """The stage's block of the plan: SftPlan, RewardPlan or PpoPlan."""
        return getattr(self.config, self.name)

    def weights_of(self, stage: StageName) -> Path:
        """Return the weights' file of a stage that this one starts from."""
        return self.sources[stage] / "model.safetensors"

    def new_model(self) -> Transformer:
        """Return a transformer of the planned shape on the device; its weights are not read yet."""
        torch.manual_seed(self.block.seed)
        cell = self.cell
        model = Transformer(
            cell.model, vocab_size=cell.tokenizer.vocab_size, context=cell.data.context
        )
        model.text_end = self.corpus.special.end
        return model.to(self.device)

    def before(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the stages that this one starts from, without pretraining."""
        names = [name for name in self.sources if name != StageName.PRETRAIN]
        return {name: described(getattr(self.config, name)) for name in names}

    def longer_context(self, room: int | str = "") -> str:
        """Say how the context becomes longer: for a planned run in the sweep, before the law.

        room: the tokens that are needed; empty where this is not known
        """
        setting = f"data.context={room}" if room else "a longer data.context"
        if self.folder != final_folder(self.config) / self.name:
            return f"{setting} and a new pretraining"
        return f"{setting} in the sweep, before its law and plan,"

    def log_left_out(self, left_out: LeftOut, *, used: str, **advice: str) -> None:
        """Log in one line how much of the data is not used, and why; nothing where all is used.

        left_out: the counts by reason
        used: how much is used, in words
        advice: by reason, what the user can do about it
        """
        if left_out.longest:
            room = -(-left_out.longest // CONTEXT_STEP) * CONTEXT_STEP
            advice["too_long"] = (
                f"the context has {self.cell.data.context} tokens, the longest needs"
                f" {left_out.longest:,}; {self.longer_context(room)} would hold all{self._or_cut()}"
            )
        if left_out.as_dict():
            log.info("%s: %s used; left out: %s", self.name, used, left_out.in_words(**advice))

    def _or_cut(self) -> str:
        """Name the setting that cuts pairs, where it applies and is not set."""
        applies = self.name == StageName.SFT and self.config.sft.data != DOCSTRINGS
        return ", sft.truncate=prompt would cut them" * (applies and not self.config.sft.truncate)

    def log_held_out(self, *, held_out: int, rows: int, what: str) -> None:
        """Log how many rows of a file are held out, in the stage that divides the file.

        held_out: rows that are held out
        rows: rows in all
        what: the rows, in words
        """
        if not getattr(self.block, "test", "given"):
            rule = f"{HELD_OUT:.0%}, at least {FEWEST_HELD_OUT}, at most {MOST_HELD_OUT} and half"
            log.info("%s: %d of %d %s are held out (%s)", self.name, held_out, rows, what, rule)

    def warn_of_few_rows(self, *, rows: int, held_out: int, what: str, error: str) -> None:
        """Warn where a file has so few rows that the held-out result is a rough one.

        rows: rows in all
        held_out: rows that were scored
        what: the rows, in words
        error: what was measured and its standard error, in words
        """
        if rows < FEW_ROWS:
            log.warning(
                "%s: alarm few_rows: %d %s in all, fewer than %d; %s on %d held-out ones; give more"
                " rows",
                *(self.name, rows, what, FEW_ROWS, error, held_out),
            )

    def has_gold(self) -> bool:
        """Say whether the gold judge can score completions: it needs functions as prompts."""
        return self.config.sft.data == DOCSTRINGS


def open_stage(
    config: FinalConfig,
    cell: CellConfig,
    *,
    name: StageName,
    corpus: Corpus,
    device: torch.device,
    sources: dict[StageName, Path],
    folder: Path,
    run_id: str = "",
    pulse: Pulse | None = None,
) -> Stage:
    """Collect what a stage is made from, and hash it.

    config: the plan
    cell: the pretraining cell
    name: the stage
    corpus: the tokenised corpus of the cell
    device: where the stage trains
    sources: folders of the stages whose weights it starts from, by stage
    folder: where the stage writes
    run_id: the id of a sweep's cell; empty gives the hash of name and inputs
    pulse: requests to save or stop; a fresh one by default, which asks for nothing

    Raises FileNotFoundError where a source is not finished or a file of data is missing, ValueError
    where a source was trained on another corpus or vocabulary.
    """
    block = getattr(config, name)
    count_memory_anew(device)
    inputs = {"plan": sha256_json(described(block))}
    if name == StageName.REWARD:  # its pairs are sampled with PPO's settings
        inputs["sampling"] = f"{config.ppo.max_new_tokens} tokens at {config.ppo.temperature}"
    for key in ("data", "test"):
        path = getattr(block, key, "")
        if path not in (DOCSTRINGS, GOLD, ""):
            inputs[key] = sha256_file(rows_file(path, cache_folder(cell), what=f"{name}.{key}"))
    inputs |= corpus.inputs
    for earlier, source in sources.items():
        if not (source / "record.json").is_file() or not (source / "model.safetensors").is_file():
            raise FileNotFoundError(
                f"stage {name} needs {source}, which is not finished; run stages={earlier},{name}"
            )
        check_tokenizer(source, read_record(source / "record.json"), inputs)
        inputs[earlier] = sha256_file(source / "model.safetensors")
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
    name: StageName,
    corpus: Corpus,
    device: torch.device,
    after: Sequence[StageName],
    pulse: Pulse | None = None,
) -> Stage:
    """Open a stage of a final run, in its folder runs/NAME/final/STAGE.

    config: the plan
    cell: the pretraining cell
    name: the stage
    corpus: the tokenised corpus of the cell
    device: where the stage trains
    after: the stages whose weights it starts from
    pulse: requests to save or stop; a fresh one by default

    Raises what `open_stage` raises.
    """
    return open_stage(
        config,
        cell,
        name=name,
        corpus=corpus,
        device=device,
        sources={earlier: final_folder(config) / earlier for earlier in after},
        folder=final_folder(config) / name,
        pulse=pulse,
    )


def check_tokenizer(folder: Path, record: Record, inputs: dict[str, str]) -> None:
    """Raise ValueError for a source that failed or was trained on another corpus or vocabulary.

    folder: the source's folder, for the message
    record: the source's record
    inputs: the hashes of the corpus and the vocabulary at hand
    """
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


def finished_record(stage: Stage) -> Record | None:
    """Return the record of a stage that is done with the same inputs, else None.

    A record of the same inputs that is not `done` is removed: the stage runs again.
    """
    if not same_inputs(stage):
        return None
    path = stage.folder / "record.json"
    if (record := find_record(path)) and record.status == "done":
        return record
    discard_record(path)
    return None


def same_inputs(stage: Stage) -> bool:
    """Say whether the files in the stage's folder were made from the stage's inputs."""
    return read_inputs(stage.folder) == stage.inputs


def discard_other_inputs(stage: Stage) -> None:
    """Remove the files that a stage made from other inputs, and write down the new inputs.

    Call this after the new data are read: a mistake in them must not cost a finished stage.
    """
    if same_inputs(stage):
        return
    for name in FILES:
        (stage.folder / name).unlink(missing_ok=True)
    shutil.rmtree(stage.folder / "pairs", ignore_errors=True)
    write_json(stage.folder / "inputs.json", stage.inputs)
