"""`trainer_state.json` of transformers' Trainer: a run, or a folder of runs with checkpoints.

Layout: `TrainerState` and `Trainer.log` of transformers. The last state of each run is read; a
checkpoint's run is the folder above it. N comes from the header of the safetensors file beside the
state: tensors are counted, not loaded, and a tied matrix is stored once.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from analysis.runs.importers.files import below, name_below, read_values
from analysis.runs.importers.logged_run import History, LoggedRun, Logs, finite, flat, read_each

DEEPEST = 5  # folders between the source and a file
STATE = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
MOST_HEADER = 64 << 20  # bytes of a safetensors header; one of a large model has 100 kB
LOSSES = ("eval_loss", "test_loss", "eval_*_loss")
NAMES = {"loss": "train/loss", "train_loss": "train/mean_loss"}  # its own losses are of training
CONFIG = ("model_type", "hidden_size", "n_embd", "num_hidden_layers", "n_layer", "vocab_size")


def recognises(path: Path) -> bool:
    """Return whether a folder holds a state at most two folders down, or a file is one."""
    return bool(below(path, STATE, deepest=DEEPEST))


def read(path: Path) -> Logs:
    """Read the last state of each run."""
    states: dict[Path, list[Path]] = {}
    for file in below(path, STATE, deepest=DEEPEST):
        in_checkpoint = CHECKPOINT.fullmatch(file.parent.name) and path not in (file, file.parent)
        run = file.parent.parent if in_checkpoint else file.parent
        states.setdefault(run, []).append(file)
    last = {run: max(files, key=_step_of) for run, files in states.items()}
    root = path.parent if path.is_file() else path
    runs, left_out = read_each([(name_below(r, root), p) for r, p in last.items()], _run)
    return Logs(
        tool="transformers",
        runs=runs,
        left_out=left_out,
        losses=LOSSES,
        files=list(last.values()),
    )


def _step_of(path: Path) -> tuple[int, int]:
    """Order the states of a run: the one beside its checkpoints was written at its end."""
    match = CHECKPOINT.fullmatch(path.parent.name)
    return (0, int(match[1])) if match else (1, 0)


def _run(name: str, path: Path) -> LoggedRun:
    state = read_values(path)
    history = History()
    tokens: dict[int, float] = {}
    for row in state["log_history"]:
        step = int(row["step"])
        values = {str(k): v for k, v in row.items() if k not in ("step", "epoch")}
        metrics = {NAMES.get(name, name): value for name, value in values.items()}
        seen = finite(metrics.pop("num_input_tokens_seen", None))
        tokens |= {step: seen} if seen else {}
        history.add(step, metrics)
    last_step = int(state["global_step"])
    stated: dict[str, Any] = {"planned_steps": finite(state.get("max_steps")) or None}
    if total := finite(state.get("num_input_tokens_seen")):
        tokens[last_step] = total
    stated["tokens"] = tokens or None
    stated["params"] = _params(path.parent) or _params_of_last_checkpoint(path.parent)
    config = path.with_name("config.json")
    values = flat(read_values(config)) if config.is_file() else {}
    return LoggedRun(
        name=name,
        settings={k: v for k, v in values.items() if k in CONFIG},
        history=history.values,
        stated={k: v for k, v in stated.items() if v},
        last_step=last_step,
    )


def _params_of_last_checkpoint(folder: Path) -> float | None:
    named = [(int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := CHECKPOINT.match(p.name))]
    return _params(max(named)[1]) if named else None


def _params(folder: Path) -> float | None:
    """Count the parameters of the safetensors files of a folder, by their headers."""
    files = below(folder, "model*.safetensors", deepest=0)
    return float(sum(map(_tensor_sizes, files))) if files else None


def _tensor_sizes(path: Path) -> int:
    """Return the number of values of a safetensors file: a length, then JSON with every shape."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= MOST_HEADER:
            raise ValueError(f"{path.name} has a header of {length:,} bytes")
        header = json.loads(stream.read(length))
    shapes = [v["shape"] for k, v in header.items() if k != "__metadata__"]
    return sum(math.prod(map(int, shape)) for shape in shapes)
