"""The commands that a report prints rebuild it when they are pasted in an empty folder."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.schema import Record, read_record, read_records

from .test_commands import ROOT, TINY

STAGES = ("pretrain", "sft", "reward", "ppo")


def bash(command: str, folder: Path) -> str:
    """Run one pasted line in a folder; return what it printed."""
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | paths | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout + done.stderr


def printed_commands(page: Path) -> list[str]:
    """Return the lines below "Commands that rebuild this"."""
    found = re.search(r"Commands that rebuild this</h3><pre>(.*?)</pre>", page.read_text(), re.S)
    assert found is not None
    return html.unescape(found[1]).splitlines()


def measured(record: Record) -> float:
    """Return what a stage was measured by: its test loss, or the reward that PPO reached."""
    found = record.metrics.get("test_loss", record.test_loss)
    return record.metrics["reward_after"] if found is None else found


@pytest.mark.long
@pytest.mark.slow
def test_a_report_is_rebuilt_from_an_empty_folder(corpus_folder, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    answers = [("up", "it rises"), ("down", "it falls"), ("left", "it turns")]
    pairs, preferences = tmp_path / "pairs.jsonl", tmp_path / "preferences.jsonl"
    rows = [
        {"prompt": f"{a} {i}", "chosen": b, "rejected": "no"} for i in range(60) for a, b in answers
    ]
    preferences.write_text("\n".join(map(json.dumps, rows)))
    pairs.write_text(
        "\n".join(json.dumps({"prompt": r["prompt"], "completion": r["chosen"]}) for r in rows)
    )
    grid = "model.d_model=8,16,24,32 budget.n_tokens=1024,2048,4096 seed=0"
    bash(
        f"python -m scaling.sweep -m {' '.join(TINY)} 'data.train=[{corpus_folder}]' {grid}", first
    )
    bash("python -m analysis.fit runs=runs/tiny intervals.resamples=50", first)
    told = bash(
        "python -m analysis.plan law=runs/tiny/law.json flops_multiple=2 force=true"
        f" sft.data={pairs} reward.data={preferences} reward.pairs=32 ppo.max_new_tokens=8",
        first,
    )
    assert "training pairs of sft.data=" in " ".join(told.split())
    bash(
        "python -m scaling.final plan=runs/tiny/plan.yaml force=true ppo.episodes=16"
        " ppo.batch_episodes=8 ppo.minibatch_episodes=8 machine.device=cpu log.wandb=disabled",
        first,
    )
    bash("python -m analysis.report runs=runs/tiny", first)
    lines = printed_commands(first / "runs/tiny/report.html")
    assert [line.split()[2] for line in lines] == [
        "scaling.sweep", "analysis.fit", "analysis.plan", "scaling.final", "analysis.report",
    ]  # fmt: skip
    for line in lines:
        bash(line, second)
    ids = [sorted(r.run_id for r in read_records(f / "runs/tiny")) for f in (first, second)]
    assert ids[0] == ids[1]
    for stage in STAGES:
        path = f"runs/tiny/final/{stage}/record.json"
        one, two = (read_record(folder / path) for folder in (first, second))
        assert one.flops == two.flops
        assert measured(one) == pytest.approx(measured(two), rel=1e-6)
    assert two.metrics["episodes"] == 16
    assert printed_commands(second / "runs/tiny/report.html") == lines
