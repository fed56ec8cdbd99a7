"""The small changes that CONTRIBUTING.md shows still apply, and do what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("scaling", "analysis", "hydra_plugins", "conf", "sweeps", "examples", "tests")
FORM_TESTS = "tests/analysis/forms/test_forms.py"
CHANGES = {
    "form": (["-m", "pytest", "-q", FORM_TESTS, "-k", "kaplan_steps"], "4 passed"),
    "data_source": (
        [
            "-m",
            "scaling",
            "corpus",
            "data=package",
            "data.train=[jinja2]",
            "tokenizer.vocab_size=300",
        ],
        "documents",
    ),
    "stage": (["-m", "pytest", "-q", "tests/scaling/stages/test_soup.py"], "1 passed"),
    "command": (["-m", "scaling", "count", "model=m150k"], "FLOPs a token"),
}


def test_contributing_shows_every_change():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    shown = set(re.findall(r"docs/changes/(\w+)\.diff", text))
    assert shown == set(CHANGES) == {p.stem for p in (ROOT / "docs/changes").glob("*.diff")}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_applies(name):
    patch = ROOT / f"docs/changes/{name}.diff"
    result = subprocess.run(
        ["git", "apply", "--check", str(patch)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.long
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_does_what_it_says(name, tmp_path):
    for part in PARTS:
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / part, symlinks=True, ignore=skip)
    for file in ("pyproject.toml", ".importlinter"):
        shutil.copy(ROOT / file, tmp_path)
    patch = str(ROOT / f"docs/changes/{name}.diff")
    subprocess.run(["git", "apply", patch], cwd=tmp_path, check=True)
    arguments, shown = CHANGES[name]
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert shown in result.stdout
