"""The evaluations of a study's models by scaling evaluate, as tables of the report."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.number_text import number
from analysis.page.tables import Grid
from scaling.schema import read_evaluation, read_record


def read_evaluations(folder: str | Path) -> list[dict[str, Any]]:
    """Return the evaluations of a study's cells and final stages, the least compute first.

    Each has `final`, whether it is of the final run, and the `trunk` of its cell (None: not known).
    Raises ValueError for a file that a later version wrote or that is damaged.
    """
    folder, evaluations = Path(folder), []
    for path in [*folder.glob("*/evaluation.json"), *folder.glob("final/*/evaluation.json")]:
        values = asdict(read_evaluation(path))
        beside = path.with_name("record.json")
        trunk = read_record(beside).trunk if beside.is_file() else None
        evaluations.append({**values, "trunk": trunk, "final": path.parent.parent.name == "final"})
    return sorted(evaluations, key=lambda v: (v["stage"] != "pretrain", v["flops"]))


def task_grid(evaluations: list[dict[str, Any]]) -> Grid:
    """Return a row a model and task: accuracies with standard errors, loss, calibration."""
    rows = []
    for name in sorted({task for v in evaluations for task in v["tasks"]}):
        for model in evaluations:
            s = model["tasks"].get(name)
            if s is None:
                continue
            rows.append(
                (
                    name,
                    *_model(model),
                    f"{s['acc']:.3f} ± {s['acc_se']:.3f}",
                    f"{s['acc_norm']:.3f} ± {s['acc_norm_se']:.3f}" if "acc_norm" in s else "–",
                    f"{s['chance']:.2f}" if "chance" in s else "–",
                    f"{s['acc_typos']:.3f}" if "acc_typos" in s else "–",
                    f"{s['bits_per_byte']:.3f}",
                    f"{s['ece']:.3f}" if "ece" in s else "–",
                    f"{s['n']:,}",
                )
            )
    columns = (
        "task", "model", "C", "test loss", "accuracy", "per character", "chance", "with typos",
        "bits/byte", "ECE", "questions",
    )  # fmt: skip
    return Grid(name="Tasks", columns=columns, rows=rows, numeric=tuple(range(2, len(columns))))


def text_grid(evaluations: list[dict[str, Any]]) -> Grid:
    """Return a row a model and text: loss with its standard error and bits per byte."""
    rows = []
    for name in sorted({text for v in evaluations for text in v["texts"]}):
        for model in evaluations:
            s = model["texts"].get(name)
            if s is not None:
                loss = f"{s['loss']:.3f} ± {s['standard_error']:.3f}"
                rows.append((name, *_model(model), loss, f"{s['bits_per_byte']:.3f}"))
    columns = ("text", "model", "C", "test loss", "loss, nats/token", "bits/byte")
    return Grid(name="Texts", columns=columns, rows=rows, numeric=(2, 3, 4, 5))


def _model(values: dict[str, Any]) -> tuple[str, str, str]:
    size = f"N {values['params']['with_head']:,}"
    name = size if values["stage"] == "pretrain" else f"{values['stage']}, {size}"
    return name, number(values["flops"], 3), number(values["test_loss"])
