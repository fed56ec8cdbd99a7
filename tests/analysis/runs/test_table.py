"""Tables: what enters, what is dropped, and one sentence for each mistake."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.runs.columns import Columns
from analysis.runs.table import load_runs
from tests.in_process import call


def table(n=8):
    params = np.geomspace(1e6, 1e8, n)
    return pd.DataFrame({"params": params, "tokens": 20 * params, "loss": np.linspace(4, 3, n)})


def test_all_forms_name_the_columns_to_set():
    named = table().rename(columns={"params": "N_params", "tokens": "D_tokens", "loss": "val_loss"})
    asked = r"set columns\.params=N_params columns\.tokens=D_tokens columns\.loss=val_loss"
    with pytest.raises(ValueError, match=asked):
        load_runs(named, needed=())
    with pytest.raises(ValueError, match=r"set columns\.params=N_params columns\.tokens=D_tokens"):
        load_runs(named, needed=(), columns=Columns(loss="val_loss"))


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
        (lambda t: t.assign(loss=[np.nan, *t["loss"][1:]]), "row 1, counted from 1"),
        (lambda t: t.assign(tokens=[*t["tokens"][:-1], -1.0]), "row 8, counted from 1"),
        (lambda t: t.assign(loss="much"), "not a positive finite number in 8 of 8"),
    ],
)
def test_a_bad_table_is_one_sentence(change, words):
    with pytest.raises(ValueError, match=words) as raised:
        load_runs(change(table()))
    assert "\n" not in str(raised.value)


def test_every_missing_column_is_offered_its_nearest_at_once():
    capitals = table().rename(columns={"params": "N", "tokens": "D", "loss": "Loss"})
    with pytest.raises(ValueError, match=r"columns.params=N columns.tokens=D columns.loss=Loss$"):
        load_runs(capitals)
    spaced = table().rename(columns={"params": "Model Size"})
    with pytest.raises(ValueError, match=r"""set 'columns.params="Model Size"'$"""):
        load_runs(spaced)


def test_a_column_of_another_name_of_ours_is_not_offered():
    with pytest.raises(ValueError, match=r"columns are params, tokens, x: set columns.loss=NAME"):
        load_runs(table().rename(columns={"loss": "x"}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -2.0, 0.0, "20B", "1,000"])
def test_bad_values_are_listed_with_the_first_of_them(value):
    loss = table()["loss"].astype(object)
    loss[[2, 5]] = value
    with pytest.raises(ValueError, match=rf"rows 3, 6, counted from 1; the first holds {value}"):
        load_runs(table().assign(loss=loss))


def test_true_and_false_are_no_numbers():
    with pytest.raises(ValueError, match="in 8 of 8 rows"):
        load_runs(table().assign(loss=True))


def test_bad_rows_are_counted_in_the_file_also_after_a_filter():
    changed = table().assign(loss=[4.0] * 7 + [-1.0])
    with pytest.raises(ValueError, match=r"1 of 4 rows .row 8, counted from 1"):
        load_runs(changed, where="params > 1e7")


def test_two_columns_of_one_name_are_refused(tmp_path):
    twice = pd.concat([table(), table()["loss"]], axis=1)
    twice.to_csv(tmp_path / "t.csv", index=False)
    for source in (twice, tmp_path / "t.csv"):
        with pytest.raises(ValueError, match="two columns are called loss; rename or drop one"):
            load_runs(source)


@pytest.mark.parametrize(("mark", "said"), [(";", "';'"), ("\t", "tabs"), ("|", "'|'")])
def test_another_separator_is_named(tmp_path, mark, said):
    table().to_csv(tmp_path / "t.csv", index=False, sep=mark)
    with pytest.raises(ValueError, match="not by commas") as raised:
        load_runs(tmp_path / "t.csv")
    assert f"is separated by {said}" in str(raised.value)


def test_a_byte_order_mark_stray_spaces_and_capital_suffixes_do_no_harm(tmp_path):
    spaced = table().rename(columns={"params": " params", "loss": "loss "})
    spaced.to_csv(tmp_path / "T.CSV", index=False, encoding="utf-8-sig")
    assert np.allclose(load_runs(tmp_path / "T.CSV").table["params"], table()["params"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"\n\n", "is empty"),
        ("t.csv", b"params,tokens,loss\n", "no rows"),
        ("t.csv", b"params,tokens,loss\n1,2,3\n1,2,3,4\n", "does not read as csv"),
        ("t.csv", "params,tokens,loss\n1,2,3\n".encode("utf-16"), "not text in UTF-8"),
        ("t.parquet", b"", "is empty"),
        ("t.parquet", b"PAR1 and no more", "does not read as parquet"),
        ("t.jsonl", b"{no json}\n", "does not read as jsonl"),
        ("t", b"1", "not a table we read"),
    ],
)
def test_an_unreadable_file_is_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as raised:
        load_runs(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "override", "words"),
    [
        (lambda t: t.iloc[:6], ("prior=none",), "6 rows cannot carry the 5 parameters"),
        (lambda t: t.assign(params=1e8), (), "all 8 rows have params=1e+08"),
        (lambda t: t, ("where=loss > 100",), "keeps none of 8 rows"),
        (lambda t: t.rename(columns={"loss": "val_loss"}), (), "set columns.loss=val_loss"),
    ],
)
def test_the_command_ends_in_one_sentence(tmp_path, change, override, words):
    change(table()).to_csv(tmp_path / "t.csv", index=False)
    done = call("analysis.fit", f"runs={tmp_path / 't.csv'}", *override)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


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


def test_a_table_of_more_columns_than_runs_have_is_refused(tmp_path):
    (tmp_path / "wide.csv").write_text("params,tokens,loss" + ",x" * 200_000 + "\n")
    with pytest.raises(ValueError, match="has 200,003 columns; at most 2,000 are read"):
        load_runs(tmp_path / "wide.csv")
