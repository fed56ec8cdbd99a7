"""An installed copy: built, installed, run from a folder that is empty or full of decoys."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from scaling.__main__ import COMMANDS
from scaling.schema import read_records

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("scaling", "analysis", "hydra_plugins", "conf", "sweeps", "examples")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
BUILD = "from setuptools.build_meta import build_{0}; import sys; print(build_{0}(sys.argv[1]))"
MINE = """# @package _global_
study: mine
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      model: mine
      budget.n_tokens: 1024,2048
data:
  train: [text]
  test_share: 0.2
  context: 32
tokenizer:
  vocab_size: 300
optim:
  batch_tokens: 64
eval:
  test_tokens: 512
log:
  wandb: disabled
machine:
  device: cpu
"""
RUNG = "n_layer: 1\nd_model: 8\nd_head: 8\n"
# What a user may have beside his data; importing or taking any of them ends the command.
DECOYS = {
    "conf.py": "raise ImportError('the user has a conf.py')",
    "analysis.py": "raise ImportError('the user has an analysis.py')",
    "hydra_plugins.py": "raise ImportError('the user has a hydra_plugins.py')",
    "scaling/__init__.py": "raise ImportError('the user has a scaling/')",
    "analysis/__init__.py": "raise ImportError('the user has an analysis/')",
    "conf/__init__.py": "raise ImportError('the user has a conf/')",
    "conf/common.yaml": "of_another_program: 1",
    "conf/plan.yaml": "of_another_program: 1",
    "conf/runs/a.yaml": "of_another_program: 1",
    "conf/law/a.yaml": "of_another_program: 1",
    "runs/notes.yaml": "of_another_program: 1",
}


def run(*command: str | Path, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command without what this process' environment says of Python's paths."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert fails or done.returncode == 0, (command, done.stdout, done.stderr)
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Build the source distribution from a copy of the checkout; return it unpacked."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "checkout"
    for name in PARTS:
        shutil.copytree(
            ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-c", BUILD.format("sdist"), folder, cwd=copy)
    (packed,) = folder.glob("*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("scaling_laws-*/")
    return unpacked


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return built("wheel", source, tmp_path_factory.mktemp("wheel"))


def built(kind: str, source: Path, folder: Path) -> Path:
    """Build a wheel, or the one of an editable install."""
    run(sys.executable, "-c", BUILD.format(kind), folder, cwd=source)
    (path,) = folder.glob("*.whl")
    return path


def installed(wheel: Path, place: Path) -> Path:
    """Install a wheel beside the libraries of this environment; return the entry point."""
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    libraries = [p for p in sys.path if p.endswith("site-packages")]
    (packages / "libraries.pth").write_text("\n".join(libraries))
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check")
    pip = (place / "bin/python", "-m", "pip", "install", *options, "--ignore-installed")
    run(*pip, wheel, cwd=place)
    return place / "bin/scaling"


@pytest.fixture(scope="module")
def scaling(wheel, tmp_path_factory) -> Path:
    """Install the wheel into an environment in a user's repository, whose commit is not ours."""
    project = tmp_path_factory.mktemp("project")
    author = ("-c", "user.name=user", "-c", "user.email=user@localhost")
    run("git", "init", "-q", cwd=project)
    run("git", *author, "commit", "-q", "--allow-empty", "-m", "theirs", cwd=project)
    entry = installed(wheel, project / "venv")
    where = run(entry.with_name("python"), "-c", "import scaling; print(scaling)", cwd=project)
    assert f"{project}/venv/lib" in where.stdout
    return entry


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, corpus_folder) -> Path:
    """A user's folder, with a sweep and a model of his own among files of other programs."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "text").symlink_to(corpus_folder)
    files = DECOYS | {"sweeps/mine.yaml": MINE, "conf/model/mine.yaml": RUNG}
    files |= {"conf/data/stdlib.yaml": "source: files\n"}  # in place of ours
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.long
def test_the_wheel_puts_three_names_at_the_top(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.partition("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {
        "scaling", "analysis", "hydra_plugins",
    }  # fmt: skip
    inside = {n.removeprefix("scaling/_conf/") for n in names if n.startswith("scaling/_conf/")}
    ours = {p.relative_to(ROOT / "conf").as_posix() for p in (ROOT / "conf").rglob("*.yaml")}
    for linked in ("sweeps", "examples"):
        files = (ROOT / linked).rglob("*.yaml")
        ours |= {f"{linked}/{p.relative_to(ROOT / linked).as_posix()}" for p in files}
    assert inside == ours
    assert {"scaling/py.typed", "analysis/py.typed", "analysis/page/planner.js"} <= set(names)


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_from_an_empty_folder(scaling, empty, name):
    assert run(scaling, name, "--help", cwd=empty).stdout.strip()
    assert not list(empty.iterdir())


@pytest.mark.long
def test_the_entry_point_lists_the_commands_and_refuses_others(scaling, empty):
    alone = run(scaling, cwd=empty).stdout
    assert alone == run(scaling, "--help", cwd=empty).stdout
    assert alone == run(scaling.with_name("python"), "-m", "scaling", cwd=empty).stdout
    assert all(f"\n  {name} " in alone for name in COMMANDS)
    wrong = run(scaling, "swep", cwd=empty, fails=True)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean sweep?" in wrong.stderr
    version = run(scaling, "--version", cwd=empty).stdout
    assert version.startswith("scaling-laws ")
    assert run(scaling, "status", "--version", cwd=empty).stdout == version
    assert run(scaling, "fit", "--version", cwd=empty).stdout == version


@pytest.mark.long
def test_a_study_of_the_users_own_runs_among_decoys(scaling, hostile):
    run(scaling, "sweep", "sweeps=mine", "runs=runs", "hydra.launcher.workers=1", cwd=hostile)
    records = read_records(hostile / "runs/mine")
    assert [r.status for r in records] == ["done"] * 2
    assert {r.config["model"]["d_model"] for r in records} == {8}
    assert {r.config["data"]["source"] for r in records} == {"files"}
    assert {r.git_sha for r in records} == {None}
    cells = json.loads(run(scaling, "status", "runs/mine", "--json", cwd=hostile).stdout)
    assert [c["state"] for c in cells] == ["done"] * 2
    run(scaling, "report", "runs=runs/mine", cwd=hostile)
    assert "<svg" in (hostile / "runs/mine/report.html").read_text()


@pytest.mark.long
def test_a_law_and_its_plan_are_made_among_decoys(scaling, hostile):
    rows = [
        (n, d, 1.8 + 480 * n**-0.35 + 2100 * d**-0.37)
        for n in (1e6, 3e6, 1e7, 3e7)
        for d in (1e8, 3e8, 1e9, 3e9)
    ]
    lines = ["params,tokens,loss", *(",".join(map(str, row)) for row in rows)]
    (hostile / "table.csv").write_text("\n".join(lines))
    options = ("intervals.resamples=5", "backtest=false", "sensitivity=false")
    run(scaling, "fit", "runs=table.csv", *options, cwd=hostile)
    assert json.loads((hostile / "law.json").read_text())["n_runs"] == 16
    run(scaling, "plan", "law=law.json", "flops=1e18", "out=p.yaml", "force=true", cwd=hostile)
    assert "sft:" in (hostile / "p.yaml").read_text()


@pytest.mark.long
def test_the_example_table_comes_with_the_wheel(scaling, hostile):
    options = ("intervals.resamples=0", "backtest=false", "sensitivity=false")
    run(scaling, "fit", "runs=example", "out=example.json", *options, cwd=hostile)
    law = json.loads((hostile / "example.json").read_text())
    assert (law["n_runs"], law["inputs"]["source"]) == (43, "example")


@pytest.mark.long
def test_a_choice_of_the_users_is_named_where_none_fits(scaling, hostile):
    wrong = run(scaling, "sweep", "sweeps=mien", cwd=hostile, fails=True)
    assert wrong.returncode == 1
    assert "sweeps=mien is no choice; did you mean mine" in wrong.stderr


@pytest.mark.long
def test_the_copy_of_the_code_that_a_job_runs_carries_its_yaml(scaling, hostile, tmp_path):
    python = scaling.with_name("python")
    take = (
        "import sys; from pathlib import Path;"
        "from scaling.jobs.slurm.code_snapshot import take_snapshot;"
        "print(take_snapshot(Path(sys.argv[1])))"
    )
    snapshot = run(python, "-P", "-c", take, tmp_path, cwd=hostile).stdout.strip()
    use = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from scaling.app.conf_folder import conf_folder;"
        "from scaling.config.model import ModelConfig, rung;"
        "print(conf_folder(), rung('m2k', ModelConfig(n_layer=1, d_model=16)).d_model)"
    )
    shown = run(python, "-P", "-c", use, snapshot, cwd=hostile).stdout.split()
    assert shown == [f"{snapshot}/scaling/_conf", "8"]


@pytest.mark.long
def test_an_editable_install_reads_its_own_conf_and_finds_its_plugins(source, empty, tmp_path):
    python = installed(built("editable", source, tmp_path), tmp_path / "venv").with_name("python")
    code = (
        "from hydra.core.plugins import Plugins;"
        "from scaling.app.conf_folder import conf_folder;"
        "names = Plugins.instance().class_name_to_class;"
        "print(conf_folder(), *[n for n in names if n.startswith('hydra_plugins.scaling_')])"
    )
    folder, *plugins = run(python, "-P", "-c", code, cwd=empty).stdout.split()
    assert Path(folder) == source / "conf"
    assert {p.rpartition(".")[2] for p in plugins} == {
        "DesignSweeper", "GridSweeper", "TrunkLauncher", "OwnConfigSource", "OwnConfigs",
    }  # fmt: skip
