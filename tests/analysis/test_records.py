"""Tables: what enters, what is dropped, and one sentence for each mistake."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.records import Columns, load_runs


def table(n=8):
    params = np.geomspace(1e6, 1e8, n)
    return pd.DataFrame({"params": params, "tokens": 20 * params, "loss": np.linspace(4, 3, n)})


def record(run_id, *, status="done", stage="pretrain", loss=3.0, params=1000):
    counts = {"total": params, "non_embedding": params // 2, "with_head": params, "active": params}
    return {
        "schema": 1, "run_id": run_id, "study": "s", "stage": stage, "status": status, "seed": 0,
        "params": counts, "tokens": 20 * params, "unique_tokens": 10, "flops": 130.0 * params**2,
        "flops_6nd": 120.0 * params**2, "test_loss": loss, "test_loss_se": 0.01,
        "bits_per_byte": 1.0, "train_loss": loss, "steps": 10, "batch_tokens": 2, "peak_lr": 0.01,
        "schedule": "wsd", "trunk": "t0", "seconds": 1.0, "device": "cpu", "device_seconds": 1.0,
        "peak_memory_bytes": 1, "tokens_per_second": 1.0, "mfu": None, "config": {}, "versions": {},
        "git_sha": None, "started": "", "ended": "",
    }  # fmt: skip


def write_study(folder, records):
    for values in records:
        cell = folder / values["run_id"]
        cell.mkdir(parents=True)
        (cell / "record.json").write_text(json.dumps(values))
    return folder


def test_only_finished_pretraining_enters_and_the_rest_is_listed(tmp_path):
    good, bad = record("a"), record("b", status="diverged", loss=None)
    study = write_study(tmp_path / "s", [good, bad, record("c", stage="sft")])
    runs = load_runs(study, count="non_embedding")
    assert list(runs.table["run"]) == ["a"]
    assert runs.table["params"].item() == 500
    assert runs.table["flops"].item() == 130e6
    assert {d["run"]: d["why"] for d in runs.dropped} == {
        "b": "status is diverged",
        "c": "stage is sft, not pretrain",
    }
    assert set(runs.inputs["sha256"]) == {"a", "b", "c"}


def test_a_final_run_is_not_fitted(tmp_path):
    study = write_study(tmp_path / "s", [record("a")])
    write_study(study / "final", [record("pretrain", params=9000)])
    assert len(load_runs(study)) == 1


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_every_kind_of_table_reads_alike(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    writers = {
        "csv": lambda t: t.to_csv(path, index=False),
        "parquet": lambda t: t.to_parquet(path),
        "jsonl": lambda t: t.to_json(path, orient="records", lines=True),
    }
    writers[suffix](table())
    read = load_runs(path).table
    assert np.allclose(read["params"], table()["params"], rtol=1e-9)
    assert np.allclose(read["flops"], 6 * read["params"] * read["tokens"])


def test_columns_are_renamed_and_filtered():
    renamed = table().rename(columns={"params": "N"}).assign(kind=["x", "y"] * 4)
    runs = load_runs(renamed, where="kind == 'x'", columns=Columns(params="N"))
    assert len(runs) == 4
    assert runs.inputs["columns"] == {"params": "N"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.iloc[:0], "no rows"),
        (lambda t: t.rename(columns={"loss": "val_loss"}), "columns.loss=val_loss"),
        (lambda t: t.rename(columns={"params": "N"}), "columns.params=N"),
        (lambda t: t.assign(loss=[np.nan, *t["loss"][1:]]), "rows 0"),
        (lambda t: t.assign(tokens=[*t["tokens"][:-1], -1.0]), "rows 7"),
        (lambda t: t.assign(loss="much"), "not a positive finite number in 8 of 8"),
    ],
)
def test_a_bad_table_is_one_sentence(change, words):
    with pytest.raises(ValueError, match=words) as raised:
        load_runs(change(table()))
    assert "\n" not in str(raised.value)


def test_a_bad_query_names_the_columns():
    with pytest.raises(ValueError, match="columns are params, tokens, loss"):
        load_runs(table(), where="group == 'x'")


def test_a_query_that_keeps_nothing_says_so():
    with pytest.raises(ValueError, match="keeps none of 8 rows"):
        load_runs(table(), where="loss > 100")


def test_missing_files_and_unknown_kinds_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="check the path"):
        load_runs(tmp_path / "absent.csv")
    (tmp_path / "t.xls").write_text("x")
    with pytest.raises(ValueError, match="not a table we read"):
        load_runs(tmp_path / "t.xls")
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        load_runs(tmp_path / "e.csv")
