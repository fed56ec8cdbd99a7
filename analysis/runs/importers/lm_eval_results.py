"""Results of the lm-evaluation-harness: one row a file `results*.json`.

Layout: `EvaluationTracker` of EleutherAI/lm-evaluation-harness. A metric is named `task/metric`;
of every accuracy the error, 1 - accuracy, is given too, which form=accuracy reads. A file holds the
parameters of a local model and no training tokens.
"""

from pathlib import Path
from typing import Any

from analysis.runs.importers.files import below, name_below, read_values
from analysis.runs.importers.logged_run import LoggedRun, Logs, finite, flat, read_each

PATTERN = "*results*.json"
LOSSES = ("*/bits_per_byte",)
ACCURACIES = ("acc", "acc_norm", "exact_match", "acc_bytes")


def recognises(path: Path) -> bool:
    """Return whether a folder holds such results at most three folders down, or a file is one."""
    return any(map(_is_results, below(path, PATTERN, deepest=3)))


def read(path: Path) -> Logs:
    """Read every file of results."""
    files = [p for p in below(path, PATTERN, deepest=3) if _is_results(p)]
    runs, left_out = read_each(
        [(name_below(p, path).removesuffix(".json"), p) for p in files], _run
    )
    return Logs(tool="lm-eval", runs=runs, left_out=left_out, losses=LOSSES, files=files)


def _is_results(path: Path) -> bool:
    try:
        values = read_values(path)
    except (ValueError, OSError):
        return False
    return (
        isinstance(values, dict)
        and isinstance(values.get("results"), dict)
        and ("n-shot" in values or "versions" in values)
    )


def _run(name: str, path: Path) -> LoggedRun:
    values = read_values(path)
    metrics: dict[str, float] = {}
    for task, results in values["results"].items():
        for key, value in results.items():
            metric, _, kind = key.partition(",")
            number = finite(value)
            if number is None or metric.endswith("_stderr"):
                continue
            named = f"{task}/{metric}" if kind in ("none", "") else f"{task}/{metric},{kind}"
            metrics[named] = number
            if metric in ACCURACIES:
                metrics[f"{task}/error of {metric}"] = 1 - number
    config: dict[str, Any] = values.get("config") or {}
    params = finite(config.get("model_num_parameters"))
    settings = flat({"model_name": values.get("model_name"), "model": config.get("model")})
    return LoggedRun(
        name=name, settings=settings, summary=metrics, stated={"params": params} if params else {}
    )
