"""Hostile and degenerate input to every command of the analysis: one sentence, or an answer.

The suite treats warnings as errors, so that numpy's are failures here too.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.backtest import BacktestConfig
from analysis.backtest import main as backtest
from analysis.design import main as design
from analysis.designing.proposal import DesignConfig, PoolSettings, TargetSettings
from analysis.estimation.options import FitConfig, IntervalsConfig, ObjectiveConfig
from analysis.plan import main as plan
from analysis.planning.settings import PlanConfig
from analysis.report import ReportConfig
from analysis.report import main as report
from analysis.runs.table import load_runs
from scaling.app.quoting import override
from tests.analysis.conftest import LAWS, isoflop_table, main_of

ROOT = Path(__file__).parents[2]
fit = main_of("fit")
NAN, INF = float("nan"), float("inf")
RAW = re.compile(  # what libraries say, which helps nobody
    r"JSON compliant|non-negative integer|did not converge|[Ss]ingular|zero-size|NoneType|"
    r"has no attribute|broadcast|Traceback|\[Errno"
)


def good(**columns):
    return isoflop_table(LAWS["besiroglu"], noise=0.003).assign(**columns)


def with_cell(column, value):
    table = good()
    table[column] = table[column].astype(object)
    table.loc[3, column] = value
    return table


def run_fit(path, form="chinchilla", **options):
    quick = {"backtest": False, "sensitivity": False, "intervals": IntervalsConfig(resamples=5)}
    fit(FitConfig(runs=str(path), form=form, **quick | options))


def run_backtest(path, **options):
    backtest(BacktestConfig(runs=str(path), **options))


def run_design(path, **options):
    fields = {"target": TargetSettings(flops=1e23), "resamples": 5, **options}
    design(DesignConfig(runs=str(path), **fields))


def run_plan(path, **options):
    plan(PlanConfig(law=str(path), dry_run=True, **{"flops": 1e21, **options}))


def run_report(path):
    report(ReportConfig(runs=str(path)))


COMMANDS = {
    "fit": run_fit,
    "isoflop": lambda path: run_fit(path, "isoflop"),
    "envelope": lambda path: run_fit(path, "envelope"),
    "lr_batch": lambda path: run_fit(path, "lr_batch"),
    "power": lambda path: run_fit(path, "power_flops_offset"),
    "backtest": run_backtest,
    "design": run_design,
}


def in_one_sentence(call, *arguments, **options):
    """Return the sentence of a refusal, None where there is an answer."""
    try:
        call(*arguments, **options)
    except np.linalg.LinAlgError:
        raise  # a library's sentence, though a ValueError
    except (ValueError, OSError) as error:
        said = str(error)
    else:
        return None
    assert said
    assert "\n" not in said
    assert not RAW.search(said), said
    return said


REFUSED = {
    "no rows": lambda: good().iloc[:0],
    "one row": lambda: good().iloc[:1],
    "two rows": lambda: good().iloc[:2],
    "one column": lambda: good()[["params"]],
    "two columns of a name": lambda: pd.concat([good(), good()["loss"]], axis=1),
    **{
        f"{value!r} as {column}": lambda column=column, value=value: with_cell(column, value)
        for column in ("params", "tokens", "loss", "flops")
        for value in (0, -1.0, NAN, INF, -INF, "much", "2024-01-01", 1e300, 1e-300, 10**400)
    },
    "true and false": lambda: good(loss=True),
    "a date": lambda: good(loss=pd.Timestamp("2024-01-01")),
}
ANSWERED = {
    "identical rows": lambda: pd.concat([good().iloc[:1]] * 28, ignore_index=True),
    "equal params": lambda: good(params=1e8),
    "a constant loss": lambda: good(loss=3.0),
    "a nearly constant loss": lambda: good(loss=3 + 1e-13 * np.arange(28)),
    "copies": lambda: pd.concat([good(), good()], ignore_index=True),
    "a ray": lambda: good(tokens=lambda t: 20 * t["params"]).drop(columns="flops"),
    "extremes": lambda: with_cell("params", 1e30),
    "wild weights": lambda: good(weight=np.where(np.arange(28) % 2, 1e-9, 1e9)),
    "no seed": lambda: good(seed=NAN, group=NAN, trunk=NAN),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_table_of_runs_is_refused(command, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if command == "design" and kind in ("one row", "two rows"):
        pytest.skip("a design says which cells are missing")
    table = REFUSED[kind]()
    table.to_csv("t.csv", index=False)
    assert in_one_sentence(COMMANDS[command], "t.csv") is not None
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.slow
@pytest.mark.many(4)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ANSWERED)
def test_degenerate_tables_end_in_an_answer_or_a_sentence(command, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ANSWERED[kind]().to_csv("t.csv", index=False)
    in_one_sentence(COMMANDS[command], "t.csv")


FILES = {
    "empty.csv": b"",
    "binary.csv": bytes(range(128, 256)),
    "zeros.csv": b"\0\0\0\n\0",
    "binary.jsonl": bytes(range(128, 256)),
    "binary.parquet": bytes(range(256)),
    "more values than names.csv": b"params,tokens,loss\n1,2,3,4\n5,6,7,8\n",
    "open quote.csv": b'params,tokens,loss\n1,"2,3\n',
    "list.jsonl": b"[1, 2]\n",
    "cut.jsonl": b'{"params": 1}\n{"params":',
    "twice.jsonl": b'{"params": 1, "params": 2}\n',
    "table.xls": b"x",
}


@pytest.mark.parametrize("command", ["fit", "backtest", "design"])
@pytest.mark.parametrize("name", [*FILES, "absent.csv", "folder.csv", "folder"])
def test_files_that_are_no_tables_are_refused(command, name, tmp_path):
    path = tmp_path / name
    if name in FILES:
        path.write_bytes(FILES[name])
    elif name.startswith("folder"):
        path.mkdir()
    assert in_one_sentence(COMMANDS[command], path)


@pytest.mark.parametrize("name", [*FILES, "absent.json", "folder"])
def test_what_is_no_law_and_no_study_is_refused(name, tmp_path):
    path = tmp_path / name
    if name in FILES:
        path.write_bytes(FILES[name])
    elif name == "folder":
        path.mkdir()
    assert in_one_sentence(run_plan, path)
    assert in_one_sentence(run_report, path)


OPTIONS = {
    "fit": [
        {"intervals": {"seed": -1}},
        {"intervals": {"level": NAN}},
        {"intervals": {"resamples": -1}},
        {"objective": {"delta": INF}},
        {"objective": {"name": "huber"}},
        {"within": INF},
        {"fixed": {"alpha": NAN}},
        {"fixed": {"alpha": 1e300}},
        {"fixed": {"E": -1.0}},
        {"fixed": {"gamma": 1.0}},
        {"stage": "pretran"},
        {"points": "update"},
        {"form": "isoflop", "intervals": {"seed": -1}},
    ],
    "backtest": [{"seed": -1}, {"level": 2.0}, {"within": NAN}, {"form": "isoflop"}],
    "design": [
        {"target": {"flops": INF}},
        {"target": {"flops": -1.0}},
        {"target": {"flops": 1e23, "precision": NAN}},
        {"pool": {"flops": [1e17, INF]}},
        {"cells": -3},
        {"start": 0},
        {"simulate": -1},
        {"resamples": -5},
        {"form": "isoflop"},
        {"form": "accuracy"},
    ],
}


BLOCKS = {
    "intervals": IntervalsConfig,
    "objective": ObjectiveConfig,
    "target": TargetSettings,
    "pool": PoolSettings,
}


def built(options):
    """Make the blocks of a config, which refuse some values themselves."""
    return {k: BLOCKS[k](**v) if k in BLOCKS else v for k, v in options.items()}


@pytest.mark.parametrize(
    ("command", "options"), [(c, o) for c, each in OPTIONS.items() for o in each], ids=str
)
def test_settings_that_no_run_can_have_are_refused(command, options, tmp_path):
    good().to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"\w") as raised:
        COMMANDS[command](tmp_path / "t.csv", **built(options))
    assert "\n" not in str(raised.value)
    assert not RAW.search(str(raised.value))


@pytest.mark.parametrize(
    "options", [{"flops": INF}, {"flops": NAN}, {"flops": None, "gpu_hours": INF}, {"far": INF}]
)
def test_a_plan_of_what_is_no_number_is_refused(options):
    said = in_one_sentence(run_plan, "besiroglu2024", **options)
    assert said is not None
    assert "is out of range" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options", "meant"),
    [
        (run_fit, {"form": "chinchila"}, "did you mean chinchilla?"),
        (run_fit, {"form": "isoflp"}, "did you mean isoflop?"),
        (run_fit, {"count": "non_embeding"}, "did you mean non_embedding?"),
        (run_backtest, {"count": "totl"}, "did you mean total?"),
        (run_design, {"prior": "hofmann2022"}, "did you mean hoffmann2022?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(command, options, meant, tmp_path):
    good().to_csv(tmp_path / "t.csv", index=False)
    said = in_one_sentence(command, tmp_path / "t.csv", **options)
    assert said is not None
    assert meant in said


def test_a_published_law_that_is_misspelt_is_answered_with_the_nearest():
    assert "did you mean hoffmann2022?" in str(in_one_sentence(run_plan, "hofmann2022"))


def test_integers_of_any_size_in_jsonl_fit_as_in_csv(tmp_path):
    table = good()
    counts = table[["params", "tokens", "flops"]].map(int).astype(object)
    whole = counts.assign(loss=table["loss"]).to_dict("records")
    lines = "".join(json.dumps(row) + "\n" for row in whole)
    assert max(row["flops"] for row in whole) > 2**64
    (tmp_path / "t.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    header = ",".join(whole[0])
    rows = "\n".join(",".join(map(str, row.values())) for row in whole)
    (tmp_path / "t.csv").write_text(f"{header}\n{rows}\n")
    one, other = (load_runs(tmp_path / f"t.{kind}").table for kind in ("jsonl", "csv"))
    for name in ("params", "tokens", "flops", "loss"):
        assert one[name].to_numpy() == pytest.approx(other[name].to_numpy(), rel=1e-15)


@pytest.mark.parametrize(
    "name",
    ["loss (nats)", "a,loss", "loss=x", "loss#1", "loss é", "loss's", 'loss "q"', "${loss}"],
)
def test_the_hint_for_a_column_works_when_pasted_into_bash(name, tmp_path):
    """One process a name would take a minute: bash and Hydra's grammar are asked alone."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    table = good().rename(columns={"loss": name})
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="set ") as raised:
        load_runs(tmp_path / "t.csv")
    hint = str(raised.value).rpartition(": set ")[2]
    assert hint == override("columns.loss", name)
    echoed = subprocess.run(
        ["bash", "-c", f"printf %s {hint}"], capture_output=True, encoding="utf-8", check=True
    ).stdout
    value = OverridesParser.create().parse_override(echoed).value()
    assert OmegaConf.create({"loss": str(value)}).loss == name


@pytest.mark.slow
def test_a_pasted_hint_fits_and_a_law_without_out_is_said_to_be_in_the_current_folder(tmp_path):
    good().rename(columns={"loss": "loss (nats)"}).to_csv(tmp_path / "my table.csv", index=False)
    command = f"{sys.executable} -m analysis.fit 'runs=my table.csv' intervals.resamples=0 "
    here = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    path = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    first = subprocess.run(["bash", "-c", command], env=path, **here)
    assert first.returncode == 1
    (line,) = first.stderr.splitlines()
    hint = line.rpartition(": set ")[2]
    second = subprocess.run(["bash", "-c", command + hint], env=path, **here)
    assert second.returncode == 0, second.stderr
    assert f"in the current folder (out=FILE writes elsewhere): {tmp_path}" in second.stdout


def test_the_repository_ignores_a_law_that_lands_in_it():
    assert "/law.json" in (ROOT / ".gitignore").read_text().splitlines()
