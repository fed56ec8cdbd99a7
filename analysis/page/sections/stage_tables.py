"""The stages of a final run in a table each: what was measured, by name, before and after.

A record keeps its measurements under keys, as `test_loss_before`; `MEANINGS` says what each is.
A measurement that it does not know is shown by its key.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from analysis.number_text import duration, number, short
from analysis.page.contents import Material
from analysis.page.tables import Grid, Row
from scaling.schema import Record

NAMES = {
    "pretrain": "Pretraining",
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "ppo": "PPO",
}


class Meaning(NamedTuple):
    """What a measurement is: its name, its unit or meaning, whether it counts, is a share."""

    name: str
    meaning: str
    kind: str = "number"


LOSS_OF = {
    "pretrain": "nats per token of the held-out text",
    "sft": "nats per token of held-out completions",
    "reward": "nats per held-out pair; ln 2 = 0.693 is guessing",
    "ppo": "nats",
}
MEANINGS = {
    "test_loss": Meaning("Test loss", ""),
    "accuracy": Meaning("Accuracy", "share of held-out pairs ordered as labelled; 0.5 is guessing"),
    "length_accuracy": Meaning("Accuracy of length alone", "share of pairs whose longer one wins"),
    "over_length": Meaning("Accuracy above length alone", "difference of the two shares"),
    "ece": Meaning("Calibration error", "mean gap between stated confidence and accuracy"),
    "margin": Meaning("Margin", "mean score of the better completion above the worse one"),
    "gold_correlation": Meaning("Correlation with the gold judge", "of the scores, -1 to 1"),
    "length_correlation": Meaning("Correlation with length", "of the scores, -1 to 1"),
    "score_mean": Meaning("Mean score", "of fine-tuned samples, before it is set to 0"),
    "score_deviation": Meaning("Deviation of the score", "of fine-tuned samples, before it is 1"),
    "reward": Meaning("Reward", "score of the reward model, mean over held-out prompts"),
    "gold": Meaning("Gold reward", "score of the gold judge, mean over held-out prompts"),
    "length": Meaning("Length", "tokens of a completion"),
    "ended": Meaning("Ended", "share of completions that end by themselves", "share"),
    "kl": Meaning("KL", "nats per completion, to the fine-tuned policy"),
    "kl_budget": Meaning("KL budget", "nats per completion that the plan allows"),
    "kl_coefficient": Meaning("KL coefficient", "reward taken off per nat, at the end"),
    "entropy": Meaning("Entropy", "nats per token of the policy, at the end"),
    "explained_variance": Meaning("Explained variance", "of the returns by the critic; 1 is all"),
    "clip_fraction": Meaning("Clipped", "share of tokens at the clip, last update", "share"),
    "stopped_by_budget": Meaning("Stopped by the KL budget", "before all episodes", "yes"),
    "episodes": Meaning("Episodes", "completions learnt from", "count"),
    "examples": Meaning("Training examples", "pairs of prompt and completion", "count"),
    "test_examples": Meaning("Held-out examples", "pairs of prompt and completion", "count"),
    "completion_tokens": Meaning("Completion tokens", "trained on, one pass", "count"),
    "frozen_bytes": Meaning("Frozen weights", "bytes of the base under the adapters", "count"),
    "pairs": Meaning("Training pairs", "of a better and a worse completion", "count"),
    "test_pairs": Meaning("Held-out pairs", "of a better and a worse completion", "count"),
    "prompts": Meaning("Training prompts", "whose completions were compared", "count"),
    "sampling_seconds": Meaning("Sampling time", "of the completions to compare", "time"),
    "sampling_tokens": Meaning("Sampled tokens", "of the completions to compare", "count"),
    "sampling_tokens_per_second": Meaning("Sampling speed", "tokens per second", "count"),
    "reward_params": Meaning("Parameters of the reward model", "", "count"),
    "corpus_tokens": Meaning("Corpus", "tokens of the training part", "count"),
    "test_blocks": Meaning("Test blocks", "independent pieces of the held-out text", "count"),
    "bayes_loss": Meaning("Least possible loss", "nats per token; the source's own entropy"),
    "stacked": Meaning("Trained in a stack", "with other cells in one process", "yes"),
}
COLUMNS = ("measured", "before", "after", "unit or meaning")


def stage_grids(material: Material) -> list[Grid]:
    """Return a table a stage: its measurements with standard errors, before and after it."""
    return [_grid(stage, record) for stage, record in material.final.stages.items()]


def _grid(stage: str, record: Record) -> Grid:
    before, rows = False, []
    for name, first, last, meaning in _rows(stage, record):
        before = before or first != ""
        rows.append((name, first, last, meaning))
    columns: Row = COLUMNS
    if not before:
        columns, rows = ("measured", "value", COLUMNS[3]), [(a, c, d) for a, _, c, d in rows]
    numeric, wide = ((1, 2), (3,)) if before else ((1,), (2,))
    return Grid(
        name=f"{NAMES[stage]}: {record.status}", columns=columns, rows=rows, numeric=numeric,
        wide=wide,
    )  # fmt: skip


def _rows(stage: str, record: Record) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, value before, value after and meaning of every measurement, each once."""
    values = {"test_loss": record.test_loss, "test_loss_se": record.test_loss_se}
    if stage == "ppo":
        values = {}
    values = {k: v for k, v in (values | record.metrics).items() if isinstance(v, int | float)}
    for key in dict.fromkeys(_base(k, values) for k in values):
        known = MEANINGS.get(key, Meaning(key.replace("_", " "), ""))
        meaning = LOSS_OF[stage] if key == "test_loss" else known.meaning
        after = next((k for k in (key, f"{key}_after") if k in values), "")
        yield (
            known.name,
            _text(values, f"{key}_before", known.kind),
            _text(values, after, known.kind),
            meaning,
        )
    for name, score in record.test_sets.items():
        text = f"{number(score.loss, 4)} ± {number(score.loss_se, 2)}"
        per_byte = f"{number(score.bits_per_byte, 4)} bits per byte of {score.bytes:,} bytes"
        yield f"Loss on {name}", "", text, f"nats per token; {per_byte}"
    if record.bits_per_byte is not None:
        yield "Bits per byte", "", number(record.bits_per_byte, 4), "of the held-out text"
    yield "Steps", "", f"{record.steps:,}", "optimiser steps"
    yield "Training time", "", duration(record.seconds), f"on {record.device}"


def _base(key: str, values: Mapping[str, float]) -> str:
    """Return the measurement that a key belongs to: without before, after and standard error."""
    for end in ("_se_before", "_se_after", "_before_se", "_before", "_after", "_se"):
        stem = key.removesuffix(end)
        if stem != key and any(f"{stem}{e}" in values for e in ("", "_after", "_before")):
            return stem
    return key


def _text(values: Mapping[str, float], key: str, kind: str) -> str:
    """Write a measurement with its standard error where there is one; "" where it is missing."""
    if not key or key not in values:
        return ""
    value = values[key]
    if kind == "count":
        return f"{value:,.0f}" if value < 1e6 else short(value)
    if kind == "share":
        return f"{value:.1%}"
    if kind == "yes":
        return "yes" if value else "no"
    if kind == "time":
        return duration(value)
    stem, _, when = key.rpartition("_")
    errors = (f"{key}_se", f"{stem}_se_{when}")
    error = next((values[e] for e in errors if e in values), None)
    return number(value, 4) if error is None else f"{_rounded(value, error)} ± {number(error, 2)}"


def _rounded(value: float, error: float) -> str:
    """Write a value to the second digit of its standard error."""
    if error <= 0:
        return number(value, 4)
    places = len(number(error, 2).partition(".")[2])
    return f"{value:.{places}f}"


def stages_missing(stages: Sequence[str], other_plan: str) -> str:
    """Say that no stage after pretraining has ended; "" where one has."""
    if any(s != "pretrain" for s in stages):
        return ""
    return other_plan or "No stage after pretraining has ended yet."
