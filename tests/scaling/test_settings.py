"""What makes a cell another one changes what is measured, and nothing else does."""

import ast
from dataclasses import fields, replace
from pathlib import Path

import pytest

import scaling
from scaling.config import (
    BYTES_ALONE,
    OWN_TRUTH,
    SCIENCE,
    BranchConfig,
    CellConfig,
    DataConfig,
    GridConfig,
    PpoPlan,
    RewardPlan,
    SftColumns,
    SftPlan,
    SwarmConfig,
    TargetConfig,
    TokenizerConfig,
)
from scaling.schema import Recipe, Shape, ranges_of
from scaling.train.trunk import train_trunk

PACKAGE = Path(scaling.__file__).parent
# Read as a mapping, by the names of these dataclasses, and not as attributes.
BY_NAME = {*Recipe.__dataclass_fields__, *Shape.__dataclass_fields__}
BLOCKS = {"sft": SftPlan, "reward": RewardPlan, "ppo": PpoPlan}


def attributes() -> set[str]:
    """Return every attribute and every name in a text that the package reads outside the config."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)  # getattr(config, "name"), config["name"]
    return found


def hashed(values: dict, prefix: str = "") -> set[str]:
    """Return the dotted names of what a cell's identity is made of."""
    found = set()
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= hashed(value, f"{name}.") if isinstance(value, dict) else {name}
    return found


def science_fields() -> set[str]:
    columns = SftColumns(prompt="a", completion="b", context="c")
    sft = SftPlan(data="a.jsonl", packing=True, template="chat", columns=columns, truncate="prompt")
    cells = [CellConfig(stage="ppo", sft=sft, ppo=PpoPlan(judge="gold"))]
    cells.append(CellConfig(tokenizer=TokenizerConfig(source="a", sha256="b")))
    cells.append(CellConfig(data=DataConfig(source="files", train=["x"])))
    cells.append(CellConfig(branch=BranchConfig(at_tokens=1e6, tokens=1e6)))
    for source in OWN_TRUTH:
        data = DataConfig(source=source)
        cells.append(CellConfig(data=data, tokenizer=TokenizerConfig(vocab_size=BYTES_ALONE)))
    return {name for cell in cells for name in hashed(cell.science())}


def constants() -> set[str]:
    """Return the settings that have one legal value: kept for the ids that they are part of."""
    cell, found = CellConfig(), set()
    for group in SCIENCE[:-1]:
        for name, limit in ranges_of(type(getattr(cell, group))).items():
            if limit.least == limit.most:
                found.add(f"{group}.{name}")
    return found


@pytest.mark.slow
def test_every_setting_of_the_science_part_is_read():
    read = attributes() | BY_NAME
    unread = {n for n in science_fields() if n.rpartition(".")[2] not in read}
    assert unread - constants() == set()
    assert constants() == {"eval.curve_points"}


OUTSIDE = {  # settings outside the hash -> another value of each that this machine can do
    "machine.device": "auto",
    "machine.deterministic": True,
    "machine.micro_batch": 1,
    "machine.activation_checkpointing": True,
    "machine.shard": True,
    "machine.threads": 2,
    "machine.workers": 2,
    "machine.checkpoint_seconds": 0.0,
    "machine.stack": 0,
    "machine.meet_seconds": 60.0,
    "machine.stopped_seconds": 30.0,
    "machine.hang_seconds": 900.0,
    "log.health": False,
    "log.every_seconds": 0.0,
    "log.wandb": "offline",
    "log.project": "other",
    "log.tags": ["a"],
    "study": "other",
    "dry_run": True,
    "detach": True,
    "retry": 3,
    "cells_per_job": 5,
    "branches": "jobs",
    "force": True,
    "grid": GridConfig(min_steps=5, max_flops=1e9),
    "swarm": SwarmConfig(draws=3, temperature=5.0),
    "target": TargetConfig(flops=1e12, start=3),
}
NOT_HERE = {  # elsewhere: what compiles, joins other processes or rounds otherwise, and places
    "machine.compile",
    "machine.precision",
    "machine.ranks",
    "machine.cache",
    "runs",
}


def test_every_setting_outside_the_hash_is_looked_at():
    known, cell = set(), CellConfig()
    for field in fields(CellConfig):
        if field.name in ("machine", "log"):
            known |= {f"{field.name}.{f.name}" for f in fields(getattr(cell, field.name))}
        elif field.name not in (*SCIENCE, "branch", "stage", *BLOCKS):
            known.add(field.name)
    assert known == set(OUTSIDE) | NOT_HERE


def changed(cell: CellConfig, name: str, value: object) -> CellConfig:
    group, _, field = name.rpartition(".")
    if not group:
        return replace(cell, **{name: value})
    return replace(cell, **{group: replace(getattr(cell, group), **{field: value})})


@pytest.fixture(scope="module")
def known() -> dict[str, float]:
    """The loss of the cell as it is, trained once."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_setting_outside_the_hash_changes_neither_id_nor_losses(
    make_cell, tmp_path, monkeypatch, known, name
):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    cell = make_cell(n_tokens=1536)
    if not known:
        (record,) = train_trunk([cell], folders=[tmp_path / "plain"])
        known |= {"test": record.test_loss, "train": record.train_loss}
    other = changed(cell, name, OUTSIDE[name])
    assert other.run_id() == cell.run_id()
    (record,) = train_trunk([other], folders=[tmp_path / "other"])
    assert record.test_loss == pytest.approx(known["test"], rel=1e-6)
    assert record.train_loss == pytest.approx(known["train"], rel=1e-6)


def test_half_precision_is_no_other_cell_and_hardly_another_loss(make_cell, tmp_path):
    cell = make_cell(n_tokens=1536)
    half = changed(cell, "machine.precision", "bf16")
    assert half.run_id() == cell.run_id()
    losses = [
        train_trunk([c], folders=[tmp_path / str(i)])[0].test_loss
        for i, c in enumerate((cell, half))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_every_field_of_the_science_part_is_hashed():
    names = science_fields()
    for group in SCIENCE[:-1]:
        held = {f"{group}.{f.name}" for f in fields(getattr(CellConfig(), group))}
        # The fields of data.truth are there by themselves; of a source the hash counts; sets are
        # there by name (train/test_rolling.py).
        by_hash = {"data.truth", "tokenizer.source", "eval.sets", "eval.sets_sha256"}
        assert held - names <= by_hash
    assert {"seed", "data.truth.depth", "data.truth.noise", "stage"} <= names
