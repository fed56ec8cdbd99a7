"""`scaling table`: logs of other tools as a CSV, and the law that is fitted to them."""

import json

import pandas as pd
import pytest

from analysis.comparing.arms import table_arms
from analysis.comparing.options import CompareConfig
from tests.analysis.runs.importers.conftest import LOGS
from tests.analysis.runs.importers.make_logs import loss_of
from tests.in_process import call


def log_of(n: float, steps: int) -> str:
    """Return a log of torchtitan with a loss of the known law, without its noise."""
    head = (
        f"[titan] Model llama3 x size: {int(n):,} total parameters\n"
        "[titan] Trainer is initialized with 1 tokens per DP rank, 131072 tokens per train step,"
        f" total steps {steps} (warmup 2)\n"
    )
    return (
        head + f"[titan] validate step: {steps}  loss: {loss_of(n, steps * 131072):.6f}  tps: 1\n"
    )


@pytest.fixture
def logs(tmp_path):
    """A folder of logs of 24 runs of a known law, one of which is torn."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for n in (1e7, 3e7, 1e8, 3e8):
        for steps in (800, 2500, 8000, 25000, 80000, 250000):
            (folder / f"{n:.0e}-{steps}.log").write_text(log_of(n, steps))
    (folder / "torn.log").write_text(
        log_of(1e9, 1000).replace("total steps 1000", "total steps 9000")
    )
    return folder


@pytest.mark.long
def test_a_report_of_logs_says_what_was_left_out(logs, tmp_path):
    done = call("analysis.report", f"runs={logs}", "logs.tokens_per_step=131072", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "logs.html").read_text("utf-8")
    assert "runs left out" in page
    assert "torn.log: it stands at step 1,000 of 9,000" in page
    law = json.loads((tmp_path / "logs.law.json").read_text())
    assert "logs.tokens_per_step=131072" in law["inputs"]["arguments"]


@pytest.mark.slow
def test_a_law_of_logs_recovers_the_law_that_made_them(logs, tmp_path):
    out = tmp_path / "law.json"
    done = call(
        "analysis.fit", f"runs={logs}", f"out={out}", "intervals.resamples=20", "backtest=false",
        "sensitivity=false",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    law = json.loads(out.read_text())
    expected = {"E": 1.8, "A": 400, "B": 2000, "alpha": 0.34, "beta": 0.36}
    assert {k: law["parameters"][k] for k in expected} == pytest.approx(expected, rel=1e-3)
    assert [d["run"] for d in law["dropped"]] == ["torn.log"]
    assert law["inputs"]["logs"]["loss"] == "validation_metrics/loss"
    assert len(law["inputs"]["sha256"]) == 25
    assert law["alarms"][0]["code"] == "runs_left_out"
    assert "torn.log: it stands at step 1,000 of 9,000" in law["alarms"][0]["sentence"]
    printed = " ".join(done.stdout.split())
    assert "read as logs of torchtitan: loss is validation_metrics/loss, its last value" in printed


def test_the_written_table_gives_the_same_rows_as_the_logs(logs, tmp_path):
    done = call("analysis.table", f"runs={logs}", "out=runs.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "24 runs of" in done.stdout
    assert "left out: torn.log: it stands at step 1,000 of 9,000" in done.stdout
    assert "scaling fit runs=runs.csv columns.loss=validation_metrics/loss" in done.stdout
    table = pd.read_csv(tmp_path / "runs.csv")
    assert list(table.columns[:4]) == ["run", "params", "tokens", "validation_metrics/loss"]
    one = table[table["run"] == "1e+07-800.log"].iloc[0]
    assert one["tokens"] == 800 * 131072


def test_what_is_missing_is_an_empty_column_to_fill_in(tmp_path):
    done = call("analysis.table", f"runs={LOGS / 'lm_eval'}", "out=scores.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "missing: tokens of 2 runs (all)" in done.stdout
    assert pd.read_csv(tmp_path / "scores.csv")["tokens"].isna().all()


def test_curves_are_written(tmp_path):
    done = call(
        "analysis.table", f"runs={LOGS / 'mlflow'}", "curves=true", "out=curves.csv", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "curves.csv")
    assert list(table.columns) == ["schedule", "step", "lr", "loss"]
    assert "10 points of 3 runs" in done.stdout
    assert "loss_unit" not in done.stdout
    of_bytes = call(
        "analysis.table", f"runs={LOGS / 'nanochat'}", "curves=true", "out=b.csv", cwd=tmp_path
    )
    assert "form=schedule columns.loss_unit=bits_per_byte" in of_bytes.stdout
    assert pd.read_csv(tmp_path / "b.csv")["step"].min() > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "runs is not set"),
        (["runs=absent"], "is no log of another tool"),
        (["runs=wandb:one"], "runs=wandb:ENTITY/PROJECT"),
        (["runs=mlflow:absent"], "no logs absent"),
        (["runs=LOGS/mlflow", "columns.loss=val_los"], "nearest are val_loss"),
        (["runs=LOGS/lm_eval", "columns.loss=texts/word_perplexit"], "texts/word_perplexity"),
        (["runs=LOGS/olmo"], "name the one to fit, as columns.loss="),
    ],
)
def test_mistakes_are_one_sentence(arguments, said, tmp_path):
    words = [a.replace("LOGS", str(LOGS)) for a in arguments]
    done = call("analysis.table", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_alarm_of_a_training_loss_names_it(tmp_path):
    done = call(
        "analysis.table", f"runs={LOGS / 'torchtitan'}",
        "columns.loss=loss_metrics/global_avg_loss", "out=runs.csv", cwd=tmp_path,
    )  # fmt: skip
    assert (
        "! training_loss: Column loss_metrics/global_avg_loss is a loss of training" in done.stdout
    )


def test_a_setting_of_logs_tells_arms_apart():
    arms = table_arms(CompareConfig(runs=str(LOGS / "mlflow"), by="n_params"))
    assert [(arm.name, len(arm.runs.table)) for arm in arms] == [
        ("12000000.0", 1),
        ("30000000.0", 1),
    ]
