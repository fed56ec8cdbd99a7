"""The rules of the house: who imports whom, and that every config composes."""

import ast
import itertools
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

import scaling.final
import scaling.sweep  # noqa: F401  registers its schema
from scaling.budget import resolve
from scaling.config import CellConfig

ROOT = Path(__file__).resolve().parents[1]
# Leftwards only: a module imports from the groups before its own, or from its own group as listed.
ORDER = [
    "schema", "attempt", "config", "parametrization", "budget", "failure", "tokenizer", "texts",
    "jsonl",
    "truth", "documents", "chunks", "duplicates", "hub", "survey",
    "loss", "nf4", "lora", "mlp", "moe", "data", "batches", "parallel", "model", "device", "muon",
    "optim", "checkpoint",
    "mirror", "runlog", "heldout", "health", "jit", "kernels", "passes", "stack", "memory",
    "step", "request",
    "trainer", "ensemble", "gang",
]  # fmt: skip
ONLY = {
    "wandb": {"scaling.study.wandb_mirror", "analysis.page.wandb_artifact"},  # one place a room
    "submitit": {"scaling.jobs.slurm.submit"},
    "seaborn": {"analysis.figures.canvas"},
    "matplotlib": {"analysis.figures.canvas", "scaling.coordinates"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return found


def modules(room: str) -> dict[str, Path]:
    return {f"{room}.{p.stem}": p for p in sorted((ROOT / room).glob("*.py"))}


@pytest.mark.parametrize("name", modules("analysis"))
def test_analysis_imports_only_the_schema_of_scaling_and_no_torch(name):
    found = imports(modules("analysis")[name])
    assert not {
        i for i in found if i.startswith("scaling") and not i.startswith("scaling.schema")
    } - {"scaling"}
    assert not {i for i in found if i.split(".")[0] == "torch"}


@pytest.mark.parametrize("name", modules("scaling"))
def test_scaling_imports_leftwards_and_never_analysis(name):
    found = imports(modules("scaling")[name])
    assert not {i for i in found if i.split(".")[0] == "analysis"}
    own = name.removeprefix("scaling.")
    if own in ORDER:
        right = set(ORDER[ORDER.index(own) + 1 :]) | {
            "sweep",
            "launch",
            "final",
            "sft",
            "reward",
            "ppo",
        }
        assert not {i.split(".")[1] for i in found if i.startswith("scaling.")} & right


@pytest.mark.parametrize("name", modules("scaling") | modules("analysis"))
def test_outside_packages_are_imported_in_one_place(name):
    path = (modules("scaling") | modules("analysis"))[name]
    for package, owners in ONLY.items():
        if package in {i.split(".")[0] for i in imports(path)}:
            assert name in owners


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "hydra_plugins").glob("*/*.py")),
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_running_and_explaining_meet_in_the_design_sweeper_alone(path):
    """And not in what Hydra imports for every application, which is all without a leading _."""
    rooms = {i.split(".")[0] for i in imports(path)} & {"analysis", "torch"}
    assert not rooms or (path.parent.name, path.name) == ("scaling_design", "_pursuit.py")
    assert "torch" not in rooms


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
