"""plan.yaml: how a plan is written and read."""

from pathlib import Path
from typing import Any

import yaml

from scaling.schema import check_schema, read_yaml, write_text

SCHEMA = 1


def write_plan(path: str | Path, plan: dict[str, Any]) -> Path:
    """Write plan.yaml atomically; a blank line between blocks, reasons under each."""
    parts = [
        yaml.safe_dump({key: value}, sort_keys=False, width=98, allow_unicode=True)
        for key, value in plan.items()
    ]
    head = "# Made by analysis.plan; `python -m scaling.final plan=...` executes it.\n"
    return write_text(
        path, head + "".join(part if len(part) < 60 else f"\n{part}" for part in parts)
    )


def read_plan(path: str | Path) -> dict[str, Any]:
    """Read plan.yaml; a missing or other file raises with its name."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no plan {path}; make one with analysis.plan")
    plan = read_yaml(path)
    fix = "make it again with analysis.plan"
    check_schema(plan, source=path, noun="plan", fix=fix, schema=SCHEMA)
    if not isinstance(plan.get("pretrain"), dict):
        raise ValueError(f"{path} is no plan (no block pretrain); {fix}")
    return plan
