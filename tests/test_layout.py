"""The rules of the house: who imports whom, how large rooms are, and that every config composes."""

import ast
import itertools
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

import scaling.final
import scaling.sweep  # noqa: F401  registers its schema
from scaling.budget import resolve
from scaling.config import CellConfig

ROOT = Path(__file__).resolve().parents[1]
MOST_MODULES = 22  # of a folder: more are not taken in at a glance
MOST_COMMAND_LINES = 150
LINT = (sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()")


def contracts(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of the packages in a folder."""
    return subprocess.run(
        [*LINT, str(ROOT / ".importlinter"), "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_every_import_contract_is_kept():
    result = contracts(ROOT)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("wall")
    for name in ("scaling", "analysis", "hydra_plugins"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("analysis/forms/power.py", "import torch"),
        ("analysis/page/sections/task_tables.py", "from scaling.train import device"),
        ("scaling/data/hub.py", "from scaling.stages import stage"),
        ("scaling/stages/examples/gold.py", "def f():\n    import wandb"),
        ("analysis/solve/objective.py", "from analysis.solve import solver"),
    ],
)
def test_the_wall_sees_sub_folders_functions_and_circles(copy, name, line):
    before = (copy / name).read_text()
    (copy / name).write_text(f"{before}\n\n{line}\n")
    try:
        result = contracts(copy)
        assert result.returncode == 1
        room = ".".join(Path(name).parts[:-1])
        assert room in result.stdout.partition("Broken contracts")[2]
    finally:
        (copy / name).write_text(before)


def modules() -> list[Path]:
    return [p for room in ("scaling", "analysis") for p in sorted((ROOT / room).rglob("*.py"))]


def test_every_room_is_small_and_says_what_it_holds():
    counts = Counter(p.parent for p in modules())
    assert {str(k): v for k, v in counts.items() if v > MOST_MODULES} == {}
    for folder in counts:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_every_command_is_a_short_file():
    commands = [p for p in modules() if "__main__" in p.read_text() and p.parent.parent == ROOT]
    assert len(commands) >= 14
    lengths = {p.name: len(p.read_text().splitlines()) for p in commands}
    assert {k: v for k, v in lengths.items() if v > MOST_COMMAND_LINES} == {}


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "hydra_plugins").glob("*/*.py")),
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_running_and_explaining_meet_in_the_design_sweeper_alone(path):
    """And not in what Hydra imports for every application, which is all without a leading _."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            rooms.add(node.module.split(".")[0])
    assert "torch" not in rooms
    assert "analysis" not in rooms or path.parts[-2:] == ("scaling_design", "_pursuit.py")


def composed(*overrides: str) -> CellConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        config = compose("sweep", overrides=["~sweeps", *overrides])
    with open_dict(config):
        config.pop("hydra", None)
    return OmegaConf.to_object(config)


@pytest.mark.parametrize("path", sorted((ROOT / "conf/model").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_rung_composes_to_its_own_widths(path):
    cell = composed(f"model={path.stem}", "budget.n_tokens=1e6")
    said = OmegaConf.load(path)
    model = cell.model
    assert (model.n_layer, model.d_model) == (said.n_layer, said.d_model)
    assert model.n_head * model.d_head == model.d_model
    assert 2.5 < model.d_ff / model.d_model < 3.1
    wanted = float(path.stem[1:-1]) * {"k": 1e3, "m": 1e6}[path.stem[-1]]
    assert abs(resolve(cell).shape.params.non_embedding / wanted - 1) < 0.16


@pytest.mark.slow
def test_the_ladder_spans_three_decades_in_small_steps():
    sizes = sorted(
        resolve(composed(f"model={p.stem}", "budget.n_tokens=1e6")).shape.params.non_embedding
        for p in (ROOT / "conf/model").glob("*.yaml")
    )
    assert len(sizes) >= 8
    assert sizes[0] < 25_000
    assert sizes[-1] > 3e7
    assert max(b / a for a, b in itertools.pairwise(sizes)) < 2.7


@pytest.mark.parametrize(
    "group",
    ["data=files data.train=[x]", "schedule=cosine", "data=stdlib", "data=hub data.train=[x]"],
)
def test_every_choice_composes(group):
    assert composed(*group.split(), "budget.n_tokens=1e6").budget.n_tokens == 1e6


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_sweep_composes_and_says_its_command(path):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        config = compose("sweep", overrides=[f"sweeps={path.stem}"], return_hydra_config=True)
    assert config.study == path.stem
    assert config.hydra.sweeper.params
    assert "python -m scaling.sweep -m" in path.read_text()
