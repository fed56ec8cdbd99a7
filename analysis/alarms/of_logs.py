"""Alarms of a table that was read from another tool's logs: runs left out, a loss of training."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.alarms.alarm import Alarm

SHOWN_RUNS = 3  # runs that the sentence names, with why each was left out


def log_alarms(inputs: Mapping[str, Any], dropped: Sequence[Mapping[str, str]]) -> list[Alarm]:
    """Return what a reader of a law of logs should know first; [] for a study or a table.

    inputs: of the runs; `logs` names the tool and the loss that was read
    dropped: [{"run", "why"}]
    """
    logs = inputs.get("logs")
    if not logs:
        return []
    alarms = []
    if dropped:
        named = "; ".join(f"{one['run']}: {one['why']}" for one in dropped[:SHOWN_RUNS])
        more = "; .." if len(dropped) > SHOWN_RUNS else ""
        alarms.append(
            Alarm(
                code="runs_left_out",
                sentence=f"{len(dropped)} {logs['tool']} {_runs(len(dropped))} left out"
                f" ({named}{more}): repair the logs, give what they lack by logs.beside=FILE.csv,"
                " or read on knowing it.",
            )
        )
    if logs["training_loss"]:
        alarms.append(
            Alarm(
                code="training_loss",
                sentence=f"Column {logs['loss']} is a loss of training, the last that was logged:"
                " it is noisier than a loss on held-out text and falls below it where data repeat."
                " Give the held-out loss by columns.loss=NAME or logs.beside=FILE.csv.",
            )
        )
    return alarms


def _runs(count: int) -> str:
    return "run is" if count == 1 else "runs are"
