"""What a user types: a tiny study through hydra_plugins.scaling_launcher, and its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.laws.law_file import USABLE
from scaling.schema import read_records

from .in_process import Done, call

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "~sweeps",
    "study=tiny",
    "data=files",
    "data.test_share=0.2",
    "data.context=32",
    "tokenizer.vocab_size=300",
    "model.n_layer=1",
    "model.d_head=8",
    "optim.batch_tokens=64",
    "eval.test_tokens=512",
    "log.wandb=disabled",
    "machine.device=cpu",
]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        timeout=300,
        check=False,
    )


def sweep(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("scaling.sweep", "-m", *arguments, **environment)


@pytest.fixture
def tiny(corpus_folder, tmp_path) -> list[str]:
    return [
        *TINY,
        f"data.train=[{corpus_folder}]",
        f"runs={tmp_path}/runs",
        f"machine.cache={tmp_path}/cache",
    ]


@pytest.mark.long
@pytest.mark.slow
def test_a_study_goes_from_sweep_to_report(tiny, tmp_path):
    grid = ["model.d_model=8,16,24,32", "budget.n_tokens=1024,2048,4096", "seed=0"]
    priced = sweep(*tiny, *grid, "dry_run=true")
    assert priced.returncode == 0, priced.stderr
    assert "12 cells" in priced.stdout
    study = tmp_path / "runs/tiny"
    assert not list(study.glob("*/record.json"))

    first = sweep(*tiny, *grid)
    assert first.returncode == 0, first.stderr
    records = read_records(study)
    assert [r.status for r in records] == ["done"] * 12
    assert len({r.trunk for r in records}) == 4
    times = {p: p.stat().st_mtime_ns for p in study.glob("*/record.json")}
    grown = sweep(*tiny, *grid[:2], "seed=0,1")
    assert "12 done already, 12 to train" in grown.stderr
    assert " 100%  " in grown.stderr.splitlines()[-2]  # of the sweep's last line of progress
    assert grown.stderr.endswith(f"24 done. Next: scaling fit runs={study} form=all\n")
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())

    shown = run("scaling.status", str(study), "--json")
    assert shown.returncode == 0
    assert {c["state"] for c in json.loads(shown.stdout)} == {"done"}

    law = run("analysis.fit", f"runs={study}", "intervals.resamples=50")
    assert law.returncode == 0, law.stderr
    assert json.loads((study / "law.json").read_text())["n_runs"] == 24
    usable = json.loads((study / "law.json").read_text())["status"] in USABLE
    following = f"Next: scaling plan law={study}/law.json flops_multiple=3"
    assert (law.stdout.splitlines()[-1] == following) == usable
    planned = run(
        "analysis.plan", f"law={study}/law.json", f"runs={study}", "flops_multiple=2", "force=true",
        "sft.examples=16", "reward.pairs=32", "ppo.episodes=128", "ppo.max_new_tokens=8",
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.splitlines()[-1] == f"Next: scaling final plan={study}/plan.yaml"
    reported = run("analysis.report", f"runs={study}")
    assert reported.returncode == 0, reported.stderr
    page = (study / "report.html").read_text()
    assert "<svg" in page
    assert str(study / "report.html") in reported.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["modle=x"], "valid keys"),
        (["model.n_layr=3"], "model.n_layer"),
        (["model=huge"], "m25k"),
        (["model.d_model=33"], "multiple of model.d_head"),
        (["budget.flops=1e9", "budget.n_tokens=1e6"], "exactly one"),
        (["data.train=[nowhere]", "budget.n_tokens=2048"], "matches no file"),
        (["machine.device=cuda", "budget.n_tokens=2048"], "machine.device=cpu"),
        (["machine.device=tpu"], "auto, cpu, cuda"),
        (["budget.n_tokens=2048", "machine.threads=1,2"], "start each with a study of its own"),
        (["budget.n_tokens=2048", "machine.ranks=3"], "set optim.batch_tokens to a multiple"),
        (["budget.n_tokens=2048", "machine.ranks=two"], "machine.ranks='two' is no whole number"),
    ],
)
def test_a_mistake_ends_in_one_sentence_that_names_the_fix(tiny, tmp_path, arguments, words):
    if words == "machine.device=cpu":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    done = call("scaling.sweep", "-m", *tiny, *arguments, cwd=ROOT)
    ends_in_one_sentence(done, words, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["modle=x"], "valid keys"),
        (["data.train=[nowhere]", "budget.n_tokens=2048"], "matches no file"),
        (["budget.n_tokens=2048", "machine.ranks=3"], "set optim.batch_tokens to a multiple"),
    ],
)
def test_a_process_ends_in_that_sentence_too(tiny, tmp_path, arguments, words):
    ends_in_one_sentence(sweep(*tiny, *arguments), words, tmp_path)


def ends_in_one_sentence(
    done: Done | subprocess.CompletedProcess[str], words: str, folder: Path
) -> None:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert not list((folder / "runs").glob("tiny/*/record.json"))


@pytest.mark.slow
def test_a_cell_that_raises_is_a_record_and_the_others_go_on(tiny, tmp_path):
    grid = [
        "model.d_model=16",
        "optim.peak_lr=0.01",
        "budget.n_tokens=40000",
        "data.context=32,20000",
        "optim.batch_tokens=0",
    ]
    done = sweep(*[a for a in tiny if not a.startswith(("data.context", "optim.batch"))], *grid)
    assert done.returncode == 1
    records = read_records(tmp_path / "runs/tiny")
    assert sorted(r.status for r in records) == ["done", "failed"]
    assert "run the same command again" in done.stderr.splitlines()[-1]
    shown = run("scaling.status", str(tmp_path / "runs/tiny"))
    assert shown.returncode == 1
    assert "1 done, 1 failed" in shown.stdout


DESIGN = [
    "hydra/sweeper=design",
    "model.d_model=8,16,24,32",
    "budget.n_tokens=1024,2048,4096",
    "seed=0,1",
    "target.flops=1e11",
    "target.start=8",
]


@pytest.mark.long
@pytest.mark.slow
def test_a_design_runs_batches_until_its_budget_and_goes_on_where_it_was(tiny, tmp_path):
    first = sweep(*tiny, *DESIGN, "target.max_flops=1.2e9")
    assert first.returncode == 0, first.stderr
    assert "ended: the budget is" in first.stderr
    study = tmp_path / "runs/tiny"
    lines = [json.loads(text) for text in (study / "design.jsonl").read_text().splitlines()]
    records = read_records(study)
    assert {c["run"] for line in lines for c in line["cells"]} == {r.run_id for r in records}
    assert sum(line["cost"] for line in lines) <= 1.2e9
    assert lines[0]["half"] is None
    assert lines[-1]["spent"] == pytest.approx(sum(line["cost"] for line in lines))

    again = sweep(*tiny, *DESIGN, "target.max_flops=1.2e9")
    assert again.returncode == 0
    assert len(read_records(study)) == len(records)
    assert (study / "design.jsonl").read_text().count("\n") == len(lines)

    last = lines[-2]["cells"][-1]["run"]  # as if the last batch had been killed
    (study / last / "record.json").unlink()
    text = (study / "design.jsonl").read_text().splitlines(keepends=True)
    (study / "design.jsonl").write_text("".join(text[:-1]))
    resumed = sweep(*tiny, *DESIGN, "target.max_flops=1.2e9")
    assert resumed.returncode == 0
    assert "1 of its cells have no result" in resumed.stderr
    assert len(read_records(study)) == len(records)
    assert (study / "design.jsonl").read_text().count("\n") == len(lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "neither target.precision nor target.max_flops"),
        (["target.precision=0.1", "detach=true"], "detach=true cannot choose"),
        (["target.precison=0.1"], "did you mean target.precision"),
        (["target.precision=0.1", "target.flops=1e7"], "inside the range of the cells"),
    ],
)
def test_a_design_that_cannot_work_is_refused_in_one_sentence(tiny, tmp_path, arguments, words):
    done = call("scaling.sweep", "-m", *tiny, *DESIGN, *arguments, cwd=ROOT)
    ends_in_one_sentence(done, words, tmp_path)


@pytest.mark.long
@pytest.mark.slow
def test_a_sweep_of_fine_tunings_trains_their_model_first(tiny, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"name {i}", "completion": f"value {i % 3}"} for i in range(40)]
    pairs.write_text("".join(f"{json.dumps(r)}\n" for r in rows))
    grid = ["model.d_model=8", "budget.n_tokens=1024", "stage=sft", f"sft.data={pairs}"]
    grid += ["sft.batch_examples=4", "sft.examples=4,8"]
    priced = sweep(*tiny, *grid, "dry_run=true")
    assert "sft full, 8 examples x 2" in priced.stdout
    assert "not counted: 1 model to train first" in priced.stdout
    done = sweep(*tiny, *grid)
    assert done.returncode == 0, done.stderr
    study = tmp_path / "runs/tiny"
    assert sorted(r.stage for r in read_records(study)) == ["pretrain", "sft", "sft"]
    again = sweep(*tiny, *grid)
    assert "2 done already, 0 to train" in again.stderr
    shown = json.loads(run("scaling.status", str(study), "--json").stdout)
    assert [c["state"] for c in shown] == ["done"] * 3
    wrong = sweep(*tiny, *grid, "sft.method=prefix")
    assert wrong.returncode == 1
    assert "sft.method='prefix' is unknown; choose one of full, lora" in wrong.stderr
