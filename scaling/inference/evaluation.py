"""A model's loss on texts and its scores on tasks, as `scaling.evaluate` writes them."""

import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from scaling.app.progress import Progress
from scaling.config import MachineConfig, check
from scaling.data.documents import read_documents, source_files
from scaling.data.row_text import LeftOut, clean
from scaling.inference.generate import generate
from scaling.inference.likelihood import Likelihoods, log_likelihoods, score_texts
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
    """Text files whose loss is measured."""
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
    """A tokenizer.json to use; empty takes the one in the cache."""
    machine: MachineConfig = field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        """Check that a model is named, and something to score it on."""
        check("checkpoint", self.checkpoint, bool(self.checkpoint), "is missing; give runs/NAME")
        asked = bool(self.tasks or self.texts or self.prompts)
        check("tasks", self.tasks, asked, "is empty, and so are texts and prompts; set one of them")


def score_task(task: Task, trained: Trained, tell: Progress | None = None) -> dict[str, Any]:
    """Return a task's scores.

    `acc` is the share of questions whose right continuation has the highest log-likelihood,
    `acc_norm` the same per character, each with its standard error; for single continuations `acc`
    is the share said word for word. `bits_per_byte` of the right continuations is the task's loss;
    `choice_loss` and `ece` (expected calibration error, Guo et al. 2017, equation 3) are those of
    the choices' probabilities, which the likelihoods give when they are made to sum to one.
    """
    requests = [r for q in task.questions for r in q.requests]
    heard = tell or Progress(task.name, total=len(requests))
    found = log_likelihoods(trained.model, trained.tokenizer, requests, tell=heard.update)
    heard.close()
    starts = np.cumsum([0, *(len(q.requests) for q in task.questions)])[:-1]
    gold = starts + np.array([q.gold for q in task.questions])
    n_bytes = sum(len(q.text.encode()) for q in task.questions)
    scores: dict[str, Any] = {
        "n": len(gold),
        "bits_per_byte": -float(found.nats[gold].sum()) / math.log(2) / n_bytes,
    }
    if not task.ranked:
        scores |= with_error("acc", found.greedy[gold])
        scores["perplexity"] = math.exp(min(700.0, -float(found.nats[gold].mean())))
        return scores
    scores["chance"] = task.chance
    return scores | rank(task, found, starts)


def rank(task: Task, found: Likelihoods, starts: np.ndarray) -> dict[str, Any]:
    """Return the scores of a task with choices; `starts` are the questions' first requests."""
    right, right_norm, confidence, choice_loss = [], [], [], []
    for question, at in zip(task.questions, starts, strict=True):
        nats = found.nats[at : at + len(question.requests)]
        lengths = np.array([max(1, len(said.strip())) for _, said in question.requests])
        log_share = nats - np.logaddexp.reduce(nats)
        right.append(nats.argmax() == question.gold)
        right_norm.append((nats / lengths).argmax() == question.gold)
        confidence.append(math.exp(log_share.max()))
        choice_loss.append(-log_share[question.gold])
    scores: dict[str, Any] = with_error("acc", np.array(right))
    scores |= with_error("acc_norm", np.array(right_norm))
    scores["choice_loss"] = float(np.mean(choice_loss))
    scores["ece"] = calibration_error(np.array(confidence), np.array(right))
    groups = sorted({q.group for q in task.questions} - {""})
    if groups:
        of = np.array([q.group for q in task.questions])
        scores["groups"] = {g: float(np.mean(np.array(right)[of == g])) for g in groups}
    return scores


def with_error(name: str, values: np.ndarray) -> dict[str, float]:
    """Return the mean of 0/1 values and its standard error."""
    n = len(values)
    error = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    return {name: float(values.mean()), f"{name}_se": error}


def score(trained: Trained, config: EvaluateConfig, tasks: list[Task]) -> dict[str, Any]:
    """Return what is asked of one model."""
    found: dict[str, Any] = {"tasks": {}, "texts": {}}
    for task in tasks:
        found["tasks"][task.name] = score_task(task, trained)
        if config.typos:
            spoilt = score_task(with_typos(task, config.typos, config.seed), trained)
            found["tasks"][task.name] |= {"typos": config.typos, "acc_typos": spoilt["acc"]}
    for text in config.texts:
        left, files = LeftOut(), source_files([text])
        read = read_documents(files, text_key=config.text_key, left=left)
        documents = [d.text for d in read]
        if left.as_dict():
            log.info("%s: rows left out: %s", text, left.said())
        found["texts"][text_name(text)] = asdict(
            score_texts(trained.model, trained.tokenizer, documents)
        )
    if config.prompts:
        found["samples"] = samples(trained, config)
    return found


def text_name(path: str) -> str:
    """Name a text by its folder and file, without endings."""
    return f"{Path(path).resolve().parent.name}/{Path(path).name.split('.')[0]}"


def samples(trained: Trained, config: EvaluateConfig) -> list[dict[str, str]]:
    """Complete the prompts."""
    asked = [clean(p) for p in config.prompts]
    prompts = [trained.tokenizer.encode(p).ids for p in asked]
    said = generate(
        trained.model,
        prompts,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=config.seed,
    )
    texts = [trained.tokenizer.decode(c) for c in said.completions]
    return [{"prompt": p, "completion": t} for p, t in zip(asked, texts, strict=True)]


def keep(trained: Trained, found: dict[str, Any], limit: int) -> Evaluation:
    """Write evaluation.json, with what earlier calls found of the same weights."""
    path, record = trained.folder / EVALUATION, trained.record
    weights = sha256_file(trained.weights)
    before = read_evaluation(path) if path.is_file() else None
    if before is not None and before.inputs.get("weights") != weights:
        before = None
    scored = {name: {**scores, "limit": limit} for name, scores in found["tasks"].items()}
    whole = Evaluation(
        run_id=record.run_id,
        stage=record.stage,
        params=record.params,
        tokens=record.tokens,
        flops=record.flops,
        test_loss=record.test_loss,
        tasks=(before.tasks if before else {}) | scored,
        texts=(before.texts if before else {}) | found["texts"],
        samples=found.get("samples", before.samples if before else []),
        inputs={"weights": weights, "tokenizer": sha256_file(trained.tokenizer_path)},
        versions={**code_version(), "torch": torch.__version__},
        ended=now(),
    )
    whole.write(path)
    return whole


def show(trained: Trained, found: dict[str, Any]) -> str:
    """Return the lines of one model."""
    record = trained.record
    lines = [
        f"{trained.folder}: {record.stage}, N {record.params.with_head:,}, D {record.tokens:,}, "
        f"C {record.flops:.3g}"
    ]
    for name, s in found["tasks"].items():
        line = f"  {name:18} acc {s['acc']:.4f} +- {s['acc_se']:.4f}"
        if "acc_norm" in s:
            line += f"  acc_norm {s['acc_norm']:.4f} +- {s['acc_norm_se']:.4f}"
            line += f"  chance {s['chance']:.2f}"
            line += f"  choice loss {s['choice_loss']:.3f}  ECE {s['ece']:.3f}"
        if "acc_typos" in s:
            line += f"  acc with typos {s['acc_typos']:.4f}"
        lines.append(f"{line}  bits/byte {s['bits_per_byte']:.3f}  n {s['n']:,}")
    for name, s in found["texts"].items():
        lines.append(
            f"  {name:18} loss {s['loss']:.4f} +- {s['standard_error']:.4f} nats/token  "
            f"perplexity {math.exp(s['loss']):.1f}  bits/byte {s['bits_per_byte']:.3f}"
        )
    for sample in found.get("samples", []):
        lines.append(f"  {sample['prompt']!r} -> {sample['completion']!r}")
    return "\n".join(lines) + "\n"
