"""Logs of nanochat's pretraining: its console and the `meta_*.json` beside its checkpoints.

Layout: `scripts/base_train.py` and `nanochat/checkpoint_manager.py` of karpathy/nanochat. The
loss on held-out text is in bits per byte (`val/bpb`). The learning rate is a multiple (`lrm`) of
several peak rates, so that `lr` of a curve is that multiple.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.runs.importers.files import below, name_below, read_values
from analysis.runs.importers.logged_run import History, LoggedRun, Logs, finite, flat, read_each
from analysis.runs.importers.text_log import NUMBER, log_files, number, read_logs_of

TEST = "val/bpb"
MARK = re.compile(r"^Step \d+ \| Validation bpb:|^step \d+/\d+ \(.*\) \| loss: ")
STEP = re.compile(rf"^step (\d+)/(\d+) \(.*?\) \| loss: {NUMBER} \| lrm: {NUMBER}")
BPB = re.compile(rf"^Step (\d+) \| Validation bpb: {NUMBER}")
CORE = re.compile(rf"^Step (\d+) \| CORE metric: {NUMBER}")
SIZE = re.compile(r"^(?:total\s*|Number of parameters): ([\d,]+)$")
BATCH = re.compile(r"^Total batch size ([\d,]+) =>")
FLOPS = re.compile(rf"^Estimated FLOPs per token: {NUMBER}")
META = "meta_*.json"


def recognises(path: Path) -> bool:
    """Return whether a folder holds such logs or checkpoints, or a file is one."""
    return bool(log_files(path, MARK)) or any(map(_is_meta, below(path, META, deepest=2)))


def read(path: Path) -> Logs:
    """Read every console log; where there are none, the last `meta_*.json` of each folder."""
    runs, left_out, files = read_logs_of(path, MARK, _run)
    if not files:
        last = {p.parent: p for p in below(path, META, deepest=2) if _is_meta(p)}
        files = list(last.values())
        runs, left_out = read_each([(name_below(f, path), p) for f, p in last.items()], _meta)
    return Logs(tool="nanochat", runs=runs, left_out=left_out, losses=(TEST,), files=files)


def _run(name: str, lines: Iterable[str], _: Path) -> LoggedRun:
    history, stated = History(), dict[str, Any]()
    flops_per_token = None
    for line in lines:
        if match := STEP.match(line):
            stated["planned_steps"] = int(match[2])
            history.add(int(match[1]), {"train/loss": number(match[3]), "lrm": number(match[4])})
        elif match := BPB.match(line):
            history.add(int(match[1]), {TEST: number(match[2])})
        elif match := CORE.match(line):
            history.add(int(match[1]), {"core_metric": number(match[2])})
        elif match := SIZE.match(line):
            stated["params"] = number(match[1])
        elif match := BATCH.match(line):
            stated["batch"] = number(match[1])
        elif match := FLOPS.match(line):
            flops_per_token = number(match[1])
    if flops_per_token:
        stated["flops_per_token"] = flops_per_token
    return LoggedRun(name=name, history=history.values, stated=stated, last_step=history.last_step)


def _is_meta(path: Path) -> bool:
    try:
        values = read_values(path)
    except (ValueError, OSError):
        return False
    return isinstance(values, dict) and {"step", "val_bpb", "model_config"} <= values.keys()


def _meta(name: str, path: Path) -> LoggedRun:
    values = read_values(path)
    step = int(values["step"])
    bpb = finite(values["val_bpb"])
    settings = flat(values.get("user_config") or {}) | flat(values["model_config"])
    batch = finite(values.get("total_batch_size"))
    return LoggedRun(
        name=name,
        settings=settings,
        history={TEST: {step: bpb}} if bpb is not None else {},
        stated={"batch": batch} if batch else {},
        last_step=step,
    )
