"""benchmarks/gpu.py: every part is a row, whatever becomes of it; all parts run on a CPU, small."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


def run(gpu, folder: Path, *parts, seconds: float = 60.0) -> dict[tuple[str, str], str]:
    """Run parts; return the status and text of each row, which stand in both files."""
    options = argparse.Namespace(device="cpu", tiny=True, seconds=seconds, out=folder / "out")
    gpu.run_parts(parts, options, folder)
    rows = json.loads((folder / "out/gpu.json").read_text())["rows"]
    table = (folder / "out/gpu.md").read_text()
    assert all(f"| {r['part']} | {r['what']} | {r['status']} |" in table for r in rows)
    return {(r["part"], r["what"]): f"{r['status']}: {r['text']}" for r in rows}


def good(job):
    job.row("first", "ok", "provisional")
    job.row("first", "ok", "1 | 2")
    job.check("near", 1e-6, 1e-5, "a difference")
    job.check("far", float("nan"), 1e-5, "a difference")


def raises(job):
    job.row("first", "ok", "before")
    with job.trying("second"):
        raise ValueError("no such\nthing")
    raise SystemExit("the end")


def crashes(job):
    job.row("first", "ok", "before")
    os._exit(9)


def hangs(job):
    sys.stdout.write("it hangs\n")
    time.sleep(600)


@pytest.mark.slow
def test_a_part_that_fails_crashes_or_hangs_is_a_row_and_the_others_run(gpu, tmp_path):
    part = gpu.Part
    began = time.monotonic()
    found = run(
        gpu,
        tmp_path,
        part(name="raises", work=raises, seconds=20),
        part(name="crashes", work=crashes, seconds=20),
        part(name="hangs", work=hangs, seconds=1, least=0.5),
        part(name="good", work=good, seconds=20),
    )
    assert time.monotonic() - began < 30
    assert found["raises", "second"] == "failed: ValueError: no such thing"
    assert found["raises", "raises"] == "failed: SystemExit: the end"
    assert found["raises", "first"] == found["crashes", "first"] == "ok: before"
    assert found["crashes", "crashes"].startswith("failed: its process ended with 9; what it")
    assert found["hangs", "hangs"].startswith("failed: not done after 1 s, its limit; what it")
    assert (tmp_path / "out/gpu-hangs.log").read_text() == "it hangs\n"
    assert found["good", "first"] == "ok: 1 | 2"
    assert found["good", "near"].startswith("ok: a difference: 1e-06, at most 1e-05")
    assert found["good", "far"].startswith("failed: a difference: nan")


def test_a_part_for_which_the_time_is_short_is_a_row(gpu, tmp_path):
    part = gpu.Part(name="long", work=good, seconds=100, least=50)
    found = run(gpu, tmp_path, part, seconds=20)
    assert found["long", "long"] == "skipped: 20 s left, 50 needed; --only long runs it alone"


def test_what_a_machine_lacks_is_named_with_the_commands_that_fetch_it(gpu, monkeypatch, capsys):
    assert gpu.absent({"json": "a", "no_such_module": "b==1"}) == ["b==1"]
    said = gpu.how_to_fetch(["hydra-core==1.3.8", "antlr4-python3-runtime==4.9.3"])
    assert "pip download --no-deps --only-binary=:all: --python-version 3.12" in said
    assert "-d wheels hydra-core==1.3.8 && python -m pip wheel" in said  # the other has no wheel
    assert "--no-index --no-deps --find-links wheels hydra-core==1.3.8 antlr4" in said
    monkeypatch.setattr(gpu, "NEEDED", {"no_such_module": "nothing==1"})
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 1
    assert (
        "nothing==1 missing; where a network is: python -m pip download" in capsys.readouterr().err
    )


@pytest.mark.long
def test_all_parts_run_small_on_a_cpu(tmp_path):
    """From the root of a checkout, as on a machine where the package is not installed."""
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OUT")}
    said = subprocess.run(
        [*command, "--seconds", "900", "--out", str(tmp_path)],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failed"] == 0
    parts = {row["part"] for row in found["rows"] if row["status"] == "ok"}
    for name in ("resume", "branches", "ranks", "stack", "experts", "qlora", "evaluation"):
        assert name in parts
    stages = {row["what"] for row in found["rows"] if row["part"] == "stages"}
    assert stages == {"pretrain", "lora", "qlora", "sft", "reward", "ppo"}
    assert {"m11m", "m85m", "m302m", "m1080m", "small", "processes"} <= parts
