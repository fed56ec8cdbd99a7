"""Samples of every tool become the table that a fit reads, and their curves."""

import json
import shutil
import sqlite3
import sys

import pytest

from analysis.runs.columns import Columns
from analysis.runs.importers.options import LogsConfig
from analysis.runs.importers.sources import (
    IMPORTERS,
    is_logs,
    is_study,
    read_curves,
    read_logs,
    read_runs,
    tools_of,
)
from analysis.runs.table import load_runs
from tests.analysis.runs.importers.conftest import LOGS
from tests.analysis.runs.importers.make_logs import BATCH, STEPS, loss_of


def read(source, **logs):
    return read_runs(source, logs=LogsConfig(**logs))[0]


def row(table, run):
    return table.rows.set_index("run").loc[run]


LOADER = "tensorboard.backend.event_processing.event_file_loader"
CORE = "eval/lm/c4_en-validation/CE loss"
SCORES = "w8/results_2026-12-01T04-47-54.995901"
TEST, D = "validation_metrics/loss", STEPS * BATCH
SAMPLES = {  # folder: tool, loss, a run, its N, its D, N and D of its loss where a law made it
    "transformers": ("transformers", "eval_loss", "w16", 3632, 1280, None),
    "tensorboard": ("tensorboard", TEST, "small", None, D, (1.2e7, D)),
    "wandb_offline": ("wandb_offline", "val/loss", "small (idsmall)", 1.2e7, D, (1.2e7, D)),
    "mlflow": ("mlflow", "val_loss", "small (0fbea695)", 1.2e7, D, (1.2e7, D)),
    "torchtitan": ("torchtitan", TEST, "6m.log", 6139136, 13107200, (6139136, 13107200)),
    "nanochat": ("nanochat", "val/bpb", "d4.txt", 12345630, 120 * 524288, None),
    "olmo_core": ("olmo", CORE, "14M.log", 14345728, 39321600, (14345728, 39321600)),
    "lm_eval": ("lm_eval", "texts/bits_per_byte", SCORES, 4760, None, None),
}


@pytest.mark.parametrize("folder", SAMPLES)
def test_a_sample_is_recognised_and_read(folder):
    tool, loss, run, n, d, law = SAMPLES[folder]
    if folder == "tensorboard":
        pytest.importorskip("tensorboard")
    path = LOGS / folder
    assert tools_of(path) == [tool]
    assert is_logs(path)
    assert not is_study(path)
    table = read(path)
    values = row(table, run)
    assert table.loss == loss
    assert values.get("params") == n
    assert values.get("tokens") == d
    if law:  # consoles round
        assert values[loss] == pytest.approx(loss_of(*law), abs=1e-3)


def test_every_importer_has_a_sample():
    assert {tool for tool, *_ in SAMPLES.values()} == set(IMPORTERS)


def test_the_database_of_mlflow_holds_what_its_folder_holds(database):
    of_folder, of_database = read(LOGS / "mlflow").rows, read(database).rows
    names = ["params", "tokens", "lr", "batch", "seed", "val_loss", "train/loss"]
    for _, one in of_folder.iterrows():
        other = of_database[of_database["params"] == one["params"]].iloc[0]
        assert list(other[names]) == list(one[names])


def test_a_run_that_failed_is_named_and_taken_when_asked():
    table = read(LOGS / "wandb_offline")
    assert table.left_out == [
        {"run": "failed (idfailed)", "why": "it ended with code 1 (logs.unfinished=true takes it)"}
    ]
    assert len(read(LOGS / "wandb_offline", unfinished=True).rows) == 3


def test_a_run_that_stopped_early_is_left_out(copy_of):
    path = copy_of("nanochat") / "d6.txt"
    text = path.read_text().split("Step 00200")[0].split("step 00150")[0]
    path.write_text(text)
    (one,) = read(path.parent).left_out
    assert one["run"] == "d6.txt"
    assert "stands at step 150 of 200" in one["why"]


def test_one_damaged_run_is_left_out_and_named(copy_of):
    folder = copy_of("wandb_offline")
    path = next(folder.glob("*/run-idlarge.wandb"))
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    table = read(folder)
    (damaged, _) = table.left_out
    assert damaged["run"] == "idlarge"
    assert "a checksum is wrong" in damaged["why"]
    assert list(table.rows["run"]) == ["small (idsmall)"]


def test_a_run_of_wandb_that_was_killed_has_what_it_wrote(copy_of):
    path = next(copy_of("wandb_offline").glob("*/run-idlarge.wandb"))
    path.write_bytes(path.read_bytes()[:1800])
    (run,) = read_logs(path).runs
    assert run.ended is False
    assert "closing record" in run.why
    assert run.last_step


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ('{"log_history": 3}', "not iterable"),
        ('{"log_history": [{"loss": 3}], "global_step": 1}', "step"),
        ("{}", "log_history"),
        ("[" * 100_000, "nested too deep"),
        ("no json", "is not JSON"),
        ('{"log_history": [{"step": -4, "loss": 3.0}], "global_step": 1}', "step -4"),
    ],
)
def test_hostile_states_are_left_out_one_by_one(copy_of, state, why):
    folder = copy_of("transformers")
    (folder / "w16" / "trainer_state.json").write_text(state)
    table = read(folder)
    assert list(table.rows["run"]) == ["w8"]
    assert why in table.left_out[0]["why"]


def test_a_header_of_a_safetensors_file_is_bounded(copy_of):
    folder = copy_of("transformers")
    (folder / "w16" / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    assert "header of" in read(folder).left_out[0]["why"]


def test_a_checkpoint_that_is_a_pickle_is_never_opened(copy_of):
    folder = copy_of("transformers")
    (folder / "w16" / "training_args.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    read(folder)
    assert not (folder / "pwned").exists()


def test_a_link_out_of_the_folder_is_not_followed(copy_of, tmp_path):
    folder, outside = copy_of("transformers"), tmp_path / "outside.json"
    shutil.copy(folder / "w16" / "trainer_state.json", outside)
    (folder / "w16" / "trainer_state.json").unlink()
    (folder / "w16" / "trainer_state.json").symlink_to(outside)
    assert list(read(folder).rows["run"]) == ["w8"]


def test_several_losses_are_asked_for_and_one_can_be_named():
    with pytest.raises(ValueError, match=r"2 losses on held-out text .*columns\.loss="):
        read(LOGS / "olmo")
    columns = Columns(loss="eval/pile-validation/CrossEntropyLoss")
    table, inputs = read_runs(LOGS / "olmo", columns=columns)
    assert inputs["logs"]["loss"] == columns.loss
    assert row(table, "20M.log")["flops"] == pytest.approx(6 * 22345728 * 200 * 262144, rel=1e-5)


def test_a_training_loss_is_read_only_where_it_is_named(copy_of):
    folder = copy_of("torchtitan")
    for path in folder.iterdir():
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if "validate step" not in line))
    with pytest.raises(ValueError, match="no loss on held-out text, only loss_metrics"):
        read(folder)
    columns = Columns(loss="loss_metrics/global_avg_loss")
    assert read_runs(folder, columns=columns)[1]["logs"]["training_loss"]


def test_the_old_and_the_new_batch_line_of_torchtitan_agree():
    rows = read(LOGS / "torchtitan").rows
    assert set(rows["batch"]) == {131072.0}


def test_the_csv_beside_gives_what_event_files_lack(tmp_path):
    pytest.importorskip("tensorboard")
    with pytest.raises(ValueError, match=r"no params; give logs\.beside=FILE\.csv"):
        load_runs(LOGS / "tensorboard")
    beside = tmp_path / "sizes.csv"
    beside.write_text("run,params,corpus\nsmall,12M,web\nlar*,3e7,web\n")
    logs = LogsConfig(beside=str(beside))
    runs = load_runs(LOGS / "tensorboard", logs=logs, where="corpus == 'web'")
    assert sorted(runs.table["params"]) == [1.2e7, 3e7]
    assert any("12M" in note for note in runs.inputs["logs"]["notes"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name,params\nw8,1\n", "no column run"),
        ("run,params\nother,12M\n", "there is none; runs are w16, w8"),
        ("run,params\nw8,1e6\nw*,2e6\n", "two rows .* 'w8'"),
    ],
)
def test_a_csv_beside_that_does_not_fit_is_refused(tmp_path, text, why):
    beside = tmp_path / "b.csv"
    beside.write_text(text)
    with pytest.raises(ValueError, match=why):
        read(LOGS / "transformers", beside=str(beside))


def test_tokens_come_from_the_tokens_of_a_step_where_logs_hold_steps(copy_of):
    folder = copy_of("transformers")
    for path in folder.rglob("trainer_state.json"):
        state = json.loads(path.read_text())
        state["num_input_tokens_seen"] = 0
        for one in state["log_history"]:
            one.pop("num_input_tokens_seen", None)
        path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=r"no tokens; give logs\.tokens_per_step=N"):
        load_runs(folder)
    runs = load_runs(folder, logs=LogsConfig(tokens_per_step=64))
    assert set(runs.table["tokens"]) == {1280}


def test_parameters_in_millions_are_refused(tmp_path):
    beside = tmp_path / "b.csv"
    beside.write_text("run,params\nw*,12\n")
    with pytest.raises(ValueError, match="params are 12, which is in millions or billions"):
        read(LOGS / "transformers", beside=str(beside))


def test_bits_per_byte_make_a_law_of_bits_per_byte():
    runs = load_runs(LOGS / "nanochat")
    assert runs.inputs["loss_unit"]["unit"] == "bits_per_byte"
    assert runs.inputs["columns"] == {"loss": "val/bpb"}
    assert "lr" not in runs.table  # nanochat's is a multiple of several rates


def test_curves_hold_step_rate_and_loss():
    curves = read_curves(LOGS / "mlflow")
    one = curves[curves["schedule"] == "small (0fbea695)"]
    assert list(curves.columns) == ["schedule", "step", "lr", "loss"]
    assert list(one["step"]) == [25, 50, 75, 100]
    assert list(one["lr"]) == pytest.approx([8e-4, 6e-4, 4e-4, 2e-4])
    assert list(one["loss"]) == pytest.approx([loss_of(1.2e7, s * BATCH) for s in one["step"]])
    with pytest.raises(ValueError, match="learning rate"):
        read_curves(LOGS / "torchtitan")


def test_a_folder_of_two_tools_says_so_and_each_can_be_named(copy_of):
    folder = copy_of("nanochat")
    shutil.copy(LOGS / "torchtitan" / "6m.log", folder)
    logs = read_logs(folder)
    assert logs.tool == "nanochat"
    assert f"runs=torchtitan:{folder}" in logs.notes[-1]
    assert read_logs(f"torchtitan:{folder}").tool == "torchtitan"
    with pytest.raises(ValueError, match="no logs of mlflow; it holds those of nanochat"):
        read_logs(f"mlflow:{folder}")


def test_studies_and_tables_are_no_logs(tmp_path, copy_of):
    study = copy_of("nanochat")
    (study / "jobs.jsonl").write_text("")
    assert not is_logs(study)
    assert is_study(study)
    table = tmp_path / "t.csv"
    table.write_text("params,tokens,loss\n")
    assert not is_logs(table)
    assert not is_logs(tmp_path / "absent")


def test_a_database_that_is_a_costly_view_or_no_mlflow_is_refused(tmp_path):
    path = tmp_path / "other.db"
    store = sqlite3.connect(path)
    store.execute("CREATE TABLE t (x)")
    store.commit()
    store.close()
    with pytest.raises(ValueError, match="no database of MLflow"):
        read_logs(path)


@pytest.mark.parametrize(
    ("folder", "module"),
    [
        ("wandb_offline", "wandb.proto"),
        ("tensorboard", LOADER),
    ],
)
def test_a_missing_library_is_one_sentence(monkeypatch, folder, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"is not installed.*pip install"):
        read_logs(LOGS / folder)


@pytest.mark.parametrize(("change", "event"), [(lambda c: c[:-9], 10), (lambda c: b"", 0)])
def test_a_torn_event_file_is_named(copy_of, change, event):
    pytest.importorskip("tensorboard")
    folder = copy_of("tensorboard")
    path = next((folder / "small").iterdir())
    path.write_bytes(change(path.read_bytes()))
    table = read(folder)
    assert [one["run"] for one in table.left_out] == ["small"]
    why = f"after event {event}" if event else "has no finite validation"
    assert why in table.left_out[0]["why"]


def test_losses_that_are_nan_do_not_count(copy_of):
    path = copy_of("torchtitan") / "6m.log"
    text = path.read_text()
    value = f"{loss_of(6139136, 100 * 131072):7.4f}"
    assert value in text
    path.write_text(text.replace(f"loss: {value}", "loss:     nan"))
    with pytest.raises(ValueError, match="its loss is of step 50 of 100"):
        read(path)
