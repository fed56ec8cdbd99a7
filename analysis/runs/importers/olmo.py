"""Console logs of OLMo and OLMo-core, with the metrics that OLMo-core's MetricSaver writes.

Layout: `olmo/train.py` and `scripts/train.py` of allenai/OLMo;
`train/callbacks/{console_logger,evaluator_callback,metric_saver,config_saver}.py` of
allenai/OLMo-core. The console rounds losses to 4 digits. Evaluations stand between two steps and
belong to the one before.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from analysis.runs.importers.files import below, name_below, read_values
from analysis.runs.importers.logged_run import History, LoggedRun, Logs, finite, flat, read_each
from analysis.runs.importers.text_log import NUMBER, log_files, number, read_logs_of

LOSSES = ("eval/*/CrossEntropyLoss", "eval/*/CE loss")
MARK = re.compile(r"\[step=\d+/(?:\d+|\?\?\?),epoch=\d+")
STEP = re.compile(r"\[step=(\d+)/(\d+|\?\?\?),epoch=\d+")
METRIC = re.compile(rf"^ {{4}}([^=]+)={NUMBER}$")
FINISHED = re.compile(r"Finished (.+) evals in [\d.]+ seconds\. Metrics:")
SIZE = re.compile(r"Total number of parameters: ([\d,]+)|([\d,]+) total params")
SMALL = re.compile(r"parameters: ([\d,]+)$|([\d,]+) non-embedding params")
SETTING = re.compile(r"^\W*(global_train_batch_size|max_sequence_length)\W+(\d+)")
FLOPS = {"throughput/total_training_Gflops": 1e9, "throughput/total petaflops": 1e15}
TOKENS = ("throughput/total_tokens", "throughput/total tokens")
METRICS = "metrics.json"  # of OLMo-core's MetricSaver, beside the config.json of a checkpoint


def recognises(path: Path) -> bool:
    """Return whether a folder holds such logs or metrics, or a file is one."""
    return bool(log_files(path, MARK)) or any(map(_is_metrics, below(path, METRICS, deepest=2)))


def read(path: Path) -> Logs:
    """Read every console log; where there are none, the `metrics.json` of each folder."""
    runs, left_out, files = read_logs_of(path, MARK, _run)
    notes = ["OLMo's console rounds losses to 4 digits; wandb or metrics.json has all"]
    if not files:
        files, notes = [p for p in below(path, METRICS, deepest=2) if _is_metrics(p)], []
        found = [(name_below(p.parent, path), p) for p in files]
        runs, left_out = read_each(found, _saved)
    return Logs(tool="OLMo", runs=runs, left_out=left_out, losses=LOSSES, notes=notes, files=files)


def _run(name: str, lines: Iterable[str], _: Path) -> LoggedRun:
    history, stated, settings = History(), dict[str, Any](), dict[str, Any]()
    step, evaluator = 0, ""
    for line in lines:
        if match := STEP.search(line):
            step, evaluator = int(match[1]), ""
            history.add(step, {})
            stated |= {"planned_steps": int(match[2])} if match[2].isdigit() else {}
        elif match := FINISHED.search(line):
            evaluator = f"eval/{match[1]}/"
        elif match := METRIC.match(line):
            own = match[1].startswith(("train/", "throughput/", "optim/", "eval/", "System/"))
            history.add(step, {match[1] if own else evaluator + match[1]: number(match[2])})
        elif match := SIZE.search(line):
            stated["params"] = number(match[1] or match[2])
        elif match := SETTING.match(line):
            settings[match[1]] = int(match[2])
    return LoggedRun(
        name=name,
        settings=settings,
        history=history.values,
        stated=stated | _by_step(history.values),
        last_step=history.last_step,
    )


def _by_step(history: dict[str, dict[int, float]]) -> dict[str, Any]:
    """Return the tokens and the FLOPs by step, where they were logged."""
    stated: dict[str, Any] = {}
    for name, values in history.items():
        if name in TOKENS:
            stated["tokens"] = values
        elif name in FLOPS:
            stated["flops"] = {step: FLOPS[name] * value for step, value in values.items()}
    return stated


def _is_metrics(path: Path) -> bool:
    try:
        values = read_values(path)
    except (ValueError, OSError):
        return False
    names = values if isinstance(values, dict) else {}
    return any(str(k).startswith(("train/CE loss", "throughput/total tokens")) for k in names)


def _saved(name: str, path: Path) -> LoggedRun:
    metrics = {str(k): v for k, v in read_values(path).items() if finite(v) is not None}
    config = path.with_name("config.json")
    tokens = next((metrics[name] for name in TOKENS if name in metrics), None)
    return LoggedRun(
        name=name,
        settings=flat(read_values(config)) if config.is_file() else {},
        summary=metrics,
        stated={"tokens": tokens} if tokens else {},
    )
