"""The scores of a model by scaling evaluate: evaluation.json, beside its weights."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scaling.schema.files import read_json, write_json
from scaling.schema.reading import read_as
from scaling.schema.record_parts import Params

EVALUATION = "evaluation.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores by task and by text."""

    schema: int = SCHEMA
    """Version of this layout."""
    run_id: str
    """Id of the cell that was evaluated."""
    stage: str
    """Its stage: pretrain, sft, reward or ppo."""
    params: Params
    """Its parameter counts."""
    tokens: int
    """Tokens that it was trained on."""
    flops: float
    """Its training FLOPs."""
    test_loss: float | None
    """Its test loss, in nats per token; null without one."""
    tasks: dict[str, dict[str, Any]]
    """Scores by task: accuracy, standard error, bits per byte of the right answers and others."""
    texts: dict[str, dict[str, Any]]
    """Scores by text: loss (nats per token), perplexity, bits per byte."""
    samples: list[dict[str, str]] = field(default_factory=list)
    """Completions of the prompts that were given, each with `prompt` and `completion`."""
    inputs: dict[str, str] = field(default_factory=dict)
    """sha256 of weights and tokenizer."""
    versions: dict[str, Any] = field(default_factory=dict)
    """Version and commit of the code."""
    ended: str = ""
    """When the evaluation ended, ISO 8601 in UTC."""

    def write(self, path: str | Path) -> Path:
        """Write evaluation.json atomically."""
        return write_json(path, asdict(self))


def read_evaluation(path: str | Path) -> Evaluation:
    """Read one evaluation.json; ValueError names the file and what does not fit."""
    fix = "remove the file and run scaling evaluate again"
    return read_as(
        Evaluation, read_json(path), source=path, noun="evaluation", fix=fix, schema=SCHEMA
    )
