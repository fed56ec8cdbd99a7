"""What the stages after pretraining share: inputs, resumption, a supervised loop, the record.

A stage's identity is the hash of its plan block, its data, the vocabulary and the weights it starts
from. A stage whose record is done under the same identity is not run again; one with another
identity starts afresh. Its weights are in model.safetensors, its curve in metrics.jsonl.
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
from scaling.model.transformer import Transformer
from scaling.schema import (
    Record,
    discard_record,
    find_record,
    now,
    read_record,
    sha256_file,
    sha256_json,
    write_json,
)
from scaling.stages.examples.pairs import rows_file
from scaling.study.lease import Pulse
from scaling.train.device import count_memory_anew

log = logging.getLogger(__name__)

CONTEXT_STEP = 64  # tokens; a proposed context is a multiple of it
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
            log.info("%s: %s used; left out: %s", self.name, used, left.in_words(**advice))

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
