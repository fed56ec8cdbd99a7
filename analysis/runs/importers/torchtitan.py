"""Console logs of torchtitan: training and validation losses, size, tokens of a step.

Layout: `torchtitan/components/metrics.py` (`log`, `log_validation`) and `torchtitan/trainer.py` of
pytorch/torchtitan, with or without colours. Metrics have the names of its TensorBoard scalars. The
log holds no learning rate.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.runs.importers.logged_run import History, LoggedRun, Logs
from analysis.runs.importers.text_log import NUMBER, log_files, number, read_logs_of

TRAIN, TEST = "loss_metrics/global_avg_loss", "validation_metrics/loss"
MARK = re.compile(r"\[titan\]|validate step:\s*\d+\s+loss:|\bstep:\s*\d+\s+loss:.*\btps:")
STEP = re.compile(rf"(validate )?\bstep:\s*(\d+)\s+loss:\s*{NUMBER}")
SIZE = re.compile(r"size: ([\d,]+) total parameters")
TOKENS = re.compile(r"([\d,]+) tokens per train step")
SEQUENCES = re.compile(r"global batch size ([\d,]+),.*sequence length ([\d,]+)")  # until mid 2026
STEPS = re.compile(r"total steps ([\d,]+) \(warmup ([\d,]+)\)")


def recognises(path: Path) -> bool:
    """Return whether a folder holds such logs, or a file is one."""
    return bool(log_files(path, MARK))


def read(path: Path) -> Logs:
    """Read every log; a line of another kind is passed over."""
    runs, left_out, files = read_logs_of(path, MARK, _run)
    return Logs(tool="torchtitan", runs=runs, left_out=left_out, losses=(TEST,), files=files)


def _run(name: str, lines: Iterable[str], _: Path) -> LoggedRun:
    history, stated = History(), dict[str, Any]()
    for line in lines:
        if match := STEP.search(line):
            metric = TEST if match[1] else TRAIN
            history.add(int(match[2]), {metric: number(match[3])})
        elif match := SIZE.search(line):
            stated["params"] = number(match[1])
        if match := TOKENS.search(line):
            stated["batch"] = number(match[1])
        elif match := SEQUENCES.search(line):
            stated["batch"] = number(match[1]) * number(match[2])
        if match := STEPS.search(line):
            stated["planned_steps"] = number(match[1])
    return LoggedRun(name=name, history=history.values, stated=stated, last_step=history.last_step)
