"""The scores of a model by scaling.evaluate: evaluation.json, beside its weights."""

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
    """Scores by task and by text; losses in nats/token. `inputs` holds the weights' sha256."""

    schema: int = SCHEMA
    run_id: str
    stage: str
    params: Params
    tokens: int
    flops: float
    test_loss: float | None
    tasks: dict[str, dict[str, Any]]
    texts: dict[str, dict[str, Any]]
    samples: list[dict[str, str]] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    ended: str = ""

    def write(self, path: str | Path) -> Path:
        """Write evaluation.json atomically."""
        return write_json(path, asdict(self))


def read_evaluation(path: str | Path) -> Evaluation:
    """Read one evaluation.json; ValueError names the file and what does not fit."""
    fix = "remove the file and run scaling.evaluate again"
    return read_as(
        Evaluation, read_json(path), source=path, noun="evaluation", fix=fix, schema=SCHEMA
    )
