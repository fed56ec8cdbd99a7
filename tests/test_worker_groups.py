"""Tests of one group run on one worker, one after another."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import os, time
from pathlib import Path
import pytest

@pytest.mark.alone
@pytest.mark.parametrize("i", range(6))
def test_alone(i):
    note("alone")

@pytest.fixture(scope="module")
def shared():
    return 1

@pytest.mark.parametrize("i", range(6))
def test_sharing(i, shared):
    note("sharing")

@pytest.mark.parametrize("i", range(12))
def test_free(i):
    note("free")

def note(group):
    time.sleep(.05)
    file = Path(__file__).with_name(f"{group}.{os.environ['PYTEST_XDIST_WORKER']}")
    file.write_text(file.read_text() + "x" if file.exists() else "x")
"""


@pytest.mark.slow
def test_a_group_runs_on_one_worker(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  alone: of a group\n")
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "from tests.worker_groups import WorkerGroups\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(WorkerGroups())\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert "24 passed" in found.stdout, found.stdout + found.stderr
    files = {f.name: len(f.read_text()) for f in tmp_path.glob("*.gw*")}
    assert [n for f, n in files.items() if f.startswith("alone")] == [6]
    assert [n for f, n in files.items() if f.startswith("sharing")] == [6]
    assert sum(n for f, n in files.items() if f.startswith("free")) == 12
    assert len({f.rsplit(".", 1)[1] for f in files}) == 2  # both workers took part
