"""plan.yaml: how a plan is written and read.

Files of earlier versions are read too: a field that they lack keeps its default in
`analysis.planning.plan`.
"""

from pathlib import Path

import yaml

from analysis.planning.plan import SCHEMA, Plan
from scaling.schema import check_schema, read_as, read_yaml, write_text


def write_plan(path: str | Path, plan: Plan) -> Path:
    """Write plan.yaml atomically, a blank line between blocks, the reasons last in each."""
    parts = [
        yaml.safe_dump({key: value}, sort_keys=False, width=98, allow_unicode=True)
        for key, value in plan.to_dict().items()
    ]
    head = "# Made by scaling plan; `scaling final plan=...` executes it.\n"
    return write_text(
        path, head + "".join(part if len(part) < 60 else f"\n{part}" for part in parts)
    )


def read_plan(path: str | Path) -> Plan:
    """Read plan.yaml; a missing, damaged or other file raises an error that names it."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no plan {path}; make one with scaling plan")
    values = read_yaml(path)
    how = {"source": path, "noun": "plan", "fix": "make it again with scaling plan"}
    check_schema(values, **how, schema=SCHEMA)
    if not isinstance(values.get("pretrain"), dict):
        raise ValueError(f"{path} is no plan (no block pretrain); {how['fix']}")
    return read_as(Plan, values, **how, schema=SCHEMA)
