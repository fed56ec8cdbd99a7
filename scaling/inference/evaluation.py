"""What `scaling evaluate` measures of a model: scores on tasks, loss on texts, completions.

The results are written to evaluation.json beside the weights.
"""

import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from scaling.app.progress import Progress
from scaling.config import MachineConfig, check
from scaling.data.row_text import clean
from scaling.inference.generate import generate
from scaling.inference.likelihood import Likelihoods, log_likelihoods
from scaling.inference.tasks import Task, with_typos
from scaling.inference.trained import Trained
from scaling.schema import (
    EVALUATION,
    Evaluation,
    Range,
    Seed,
    checked,
    code_version,
    now,
    read_evaluation,
    sha256_file,
)
from scaling.train.heldout import calibration_error
from scaling.train.rolling import read_text_set, score_set

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
@checked()
class EvaluateConfig:
    """The models, and what they are scored on: tasks, texts or prompts."""

    checkpoint: str = ""
    """Folder of a cell, of a final stage, or of a study, whose models are all scored; must be
    set."""
    tasks: list[str] = field(default_factory=list)
    """Tasks to score, by name as [blimp,piqa], or by file."""
    folder: str = ""
    """Folder of the tasks' files."""
    texts: list[str] = field(default_factory=list)
    """Text files whose loss is measured; every token of each document is scored once."""
    text_key: str = "text"
    """Column of a table, or key of a JSON line, that holds the text."""
    limit: Annotated[int, Range(0, 1e12, note="0 is all")] = 0
    """Questions of each task, spread evenly over its file; 0 takes all."""
    typos: Annotated[float, Range(0, 1, below=True)] = 0.0
    """Share of neighbouring letters to swap; the tasks are then scored with and without. 0 swaps
    none."""
    prompts: list[str] = field(default_factory=list)
    """Prompts to complete, so that their answers can be read."""
    max_new_tokens: Annotated[int, Range(1, 2**24)] = 32
    """Most tokens of a prompt's completion."""
    temperature: Annotated[float, Range(0, 1e3, note="0 takes the likeliest")] = 0.8
    """Temperature of these completions; 0 takes the likeliest token each time."""
    seed: Seed = 0
    """Seed of typos and completions."""
    tokenizer: str = ""
    """A tokenizer.json to use; empty takes the one beside the weights."""
    machine: MachineConfig = field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        """Check that a model is named, and something to score it on."""
        check("checkpoint", self.checkpoint, bool(self.checkpoint), "is missing; give runs/NAME")
        any_set = bool(self.tasks or self.texts or self.prompts)
        check(
            "tasks", self.tasks, any_set, "is empty, and so are texts and prompts; set one of them"
        )


def score_task(task: Task, trained: Trained, progress: Progress | None = None) -> dict[str, Any]:
    """Return a task's scores.

    `acc` is the share of questions whose right continuation has the highest log-likelihood,
    `acc_norm` the same with log-likelihoods per character, each with its standard error. For tasks
    with single continuations `acc` is the share that greedy decoding reproduces. `bits_per_byte` of
    the right continuations is the task's loss. `choice_loss` (nats) and `ece` (expected calibration
    error, Guo et al. 2017, equation 3) come from the probabilities of the choices: the likelihoods
    of a question's choices, divided by their sum.
    """
    requests = [r for q in task.questions for r in q.requests]
    progress = progress or Progress(task.name, total=len(requests), unit="requests")
    likelihoods = log_likelihoods(
        trained.model, trained.tokenizer, requests, report=progress.update
    )
    progress.close()
    starts = np.cumsum([0, *(len(q.requests) for q in task.questions)])[:-1]
    gold = starts + np.array([q.gold for q in task.questions])
    n_bytes = sum(len(q.text.encode()) for q in task.questions)
    scores: dict[str, Any] = {
        "n": len(gold),
        "bits_per_byte": -float(likelihoods.nats[gold].sum()) / math.log(2) / n_bytes,
    }
    if not task.ranked:
        scores |= mean_with_error("acc", likelihoods.greedy[gold])
        scores["perplexity"] = math.exp(min(700.0, -float(likelihoods.nats[gold].mean())))
        return scores
    scores["chance"] = task.chance
    return scores | choice_scores(task, likelihoods, starts)


def choice_scores(task: Task, likelihoods: Likelihoods, starts: np.ndarray) -> dict[str, Any]:
    """Return the scores of a task with choices; `starts` is the first request of each question."""
    right, right_norm, confidence, choice_loss = [], [], [], []
    for question, at in zip(task.questions, starts, strict=True):
        nats = likelihoods.nats[at : at + len(question.requests)]
        lengths = np.array(
            [max(1, len(continuation.strip())) for _, continuation in question.requests]
        )
        log_share = nats - np.logaddexp.reduce(nats)
        right.append(nats.argmax() == question.gold)
        right_norm.append((nats / lengths).argmax() == question.gold)
        confidence.append(math.exp(log_share.max()))
        choice_loss.append(-log_share[question.gold])
    scores: dict[str, Any] = mean_with_error("acc", np.array(right))
    scores |= mean_with_error("acc_norm", np.array(right_norm))
    scores["choice_loss"] = float(np.mean(choice_loss))
    scores["ece"] = calibration_error(np.array(confidence), np.array(right))
    groups = sorted({q.group for q in task.questions} - {""})
    if groups:
        of = np.array([q.group for q in task.questions])
        scores["groups"] = {g: float(np.mean(np.array(right)[of == g])) for g in groups}
    return scores


def mean_with_error(name: str, values: np.ndarray) -> dict[str, float]:
    """Return the mean of 0/1 values under `name`, and its standard error."""
    n = len(values)
    error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    return {name: float(values.mean()), f"{name}_se": error}


def score_model(trained: Trained, config: EvaluateConfig, tasks: list[Task]) -> dict[str, Any]:
    """Return the scores of one model on tasks and texts, and its completions of the prompts."""
    scores: dict[str, Any] = {"tasks": {}, "texts": {}}
    for task in tasks:
        scores["tasks"][task.name] = score_task(task, trained)
        if config.typos:
            misspelt = score_task(with_typos(task, config.typos, config.seed), trained)
            scores["tasks"][task.name] |= {"typos": config.typos, "acc_typos": misspelt["acc"]}
    for text in config.texts:
        texts = read_text_set(
            text,
            [text],
            trained.tokenizer,
            context=trained.model.context,
            text_key=config.text_key,
            end=trained.model.text_end,
        )
        score = score_set(trained.model, texts)
        derived = ("bits_per_byte", "byte_perplexity", "word_perplexity")
        scores["texts"][text_name(text)] = asdict(score) | {n: getattr(score, n) for n in derived}
    if config.prompts:
        scores["samples"] = complete_prompts(trained, config)
    return scores


def text_name(path: str) -> str:
    """Return the name of a text: its folder and its file, without endings."""
    return f"{Path(path).resolve().parent.name}/{Path(path).name.split('.')[0]}"


def complete_prompts(trained: Trained, config: EvaluateConfig) -> list[dict[str, str]]:
    """Return each prompt with a completion."""
    texts = [clean(p) for p in config.prompts]
    prompts = [trained.tokenizer.encode(p).ids for p in texts]
    samples = generate(
        trained.model,
        prompts,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
    )
    completions = [trained.tokenizer.decode(c) for c in samples.completions]
    return [{"prompt": p, "completion": t} for p, t in zip(texts, completions, strict=True)]


def write_evaluation(trained: Trained, scores: dict[str, Any], limit: int) -> Evaluation:
    """Write evaluation.json; scores that it holds of the same weights stay.

    trained: the model
    scores: of `score_model`
    limit: questions of each task, which is written beside its scores (0: all)
    """
    path, record = trained.folder / EVALUATION, trained.record
    weights = sha256_file(trained.weights)
    earlier = read_evaluation(path) if path.is_file() else None
    if earlier is not None and earlier.inputs.get("weights") != weights:
        earlier = None
    tasks = {name: {**values, "limit": limit} for name, values in scores["tasks"].items()}
    evaluation = Evaluation(
        run_id=record.run_id,
        stage=record.stage,
        params=record.params,
        tokens=record.tokens,
        flops=record.flops,
        test_loss=record.test_loss,
        tasks=(earlier.tasks if earlier else {}) | tasks,
        texts=(earlier.texts if earlier else {}) | scores["texts"],
        samples=scores.get("samples", earlier.samples if earlier else []),
        inputs={"weights": weights, "tokenizer": trained.vocabulary.sha256},
        versions={**code_version(), "torch": torch.__version__},
        ended=now(),
    )
    evaluation.write(path)
    return evaluation


def evaluation_text(trained: Trained, scores: dict[str, Any]) -> str:
    """Return the lines that the command prints for one model."""
    record = trained.record
    lines = [
        f"{trained.folder}: {record.stage}, N {record.params.with_head:,}, D {record.tokens:,}, "
        f"C {record.flops:.3g}"
    ]
    for name, s in scores["tasks"].items():
        line = f"  {name:18} acc {s['acc']:.4f} +- {s['acc_se']:.4f}"
        if "acc_norm" in s:
            line += f"  acc_norm {s['acc_norm']:.4f} +- {s['acc_norm_se']:.4f}"
            line += f"  chance {s['chance']:.2f}"
            line += f"  choice loss {s['choice_loss']:.3f}  ECE {s['ece']:.3f}"
        if "acc_typos" in s:
            line += f"  acc with typos {s['acc_typos']:.4f}"
        lines.append(f"{line}  bits/byte {s['bits_per_byte']:.3f}  n {s['n']:,}")
    for name, s in scores["texts"].items():
        lines.append(
            f"  {name:18} loss {s['loss']:.4f} +- {s['standard_error']:.4f} nats/token  "
            f"perplexity {math.exp(s['loss']):.1f}  bits/byte {s['bits_per_byte']:.4f}  "
            f"perplexity of words {s['word_perplexity']:.2f}, of bytes {s['byte_perplexity']:.4f}  "
            f"{s['tokens']:,} tokens, {s['bytes']:,} bytes"
        )
    for sample in scores.get("samples", []):
        lines.append(f"  {sample['prompt']!r} -> {sample['completion']!r}")
    return "\n".join(lines) + "\n"
