"""Rows for the checkpoints of a study's trunks."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from analysis import fit
from analysis.estimation.options import FitConfig
from analysis.runs.annealed import ERROR, law_errors, sentence_of, with_annealed
from analysis.runs.table import load_runs
from scaling.config import CellConfig, ModelConfig
from tests.analysis import synthetic

DROP = 0.06


def branch_rows(params: float, tokens: int, flops_per_token: float) -> list[dict]:
    """Return the curve of a branch: a trunk at a constant rate, then a decay to 0."""
    steps, rows = tokens // 512, []
    for step in sorted({*(round(10 * 1.22**k) for k in range(60)), steps}):
        if step > steps:
            break
        fallen = max(0.0, (step / steps - 0.8) / 0.2)
        loss = synthetic.true_loss(params, step * 512) * math.exp(DROP * (1 - fallen))
        rows.append({"step": step, "tokens": step * 512, "flops": step * 512 * flops_per_token})
        rows[-1] |= {"lr": 0.01 * (1 - fallen), "test_loss": loss, "train_loss": loss}
    return rows


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Write a study of five trunks with two branches each."""
    folder = tmp_path_factory.mktemp("runs") / "trunks"
    for width in (32, 48, 64, 96, 128):
        for n_steps in (400, 6000):
            config = CellConfig(study="trunks", model=ModelConfig(n_layer=2, d_model=width))
            config.budget.flops, config.budget.n_tokens = None, 512 * n_steps
            shape = config.model.shape(vocab_size=1024, context=128)
            size = shape.params.with_head
            loss = synthetic.true_loss(size, 512 * n_steps)
            record = synthetic.record_of(config, shape, 512 * n_steps, loss=loss, trunk=f"t{width}")
            record = dataclasses.replace(record, metrics={"curve_test_loss": loss})
            record.write(folder / record.run_id / "record.json")
            rows = branch_rows(size, 512 * n_steps, shape.flops_per_token)
            synthetic.write_rows(folder / record.run_id / "metrics.jsonl", rows)
    return folder


@pytest.mark.slow
def test_a_checkpoint_becomes_the_branch_that_was_not_trained(study):
    runs = load_runs(study, count="with_head")
    more = with_annealed(runs, study)
    rows = more.table[more.table[ERROR] > 0]
    assert len(rows) > 5 * 5
    assert set(rows["trunk"]) == set(runs.table["trunk"])
    assert all("annealed at step" in name for name in rows["run"])
    true = [synthetic.true_loss(n, d) for n, d in zip(rows["params"], rows["tokens"], strict=True)]
    assert np.abs(np.log(rows["loss"] / true)).max() < 0.02
    assert (rows["weight"] < 1).all()
    assert rows["tokens"].max() < runs.table["tokens"].max()
    block = more.inputs["annealed"]
    assert (block["rows"], block["trunks"]) == (len(rows), 5)
    assert sentence_of(more.inputs).startswith(f"{len(rows)} rows are annealed: checkpoints of 5")
    assert sentence_of(runs.inputs) == ""


@pytest.mark.slow
def test_the_error_of_annealed_rows_is_in_the_interval(study):
    runs = with_annealed(load_runs(study, count="with_head"), study)
    surer = dataclasses.replace(runs, table=runs.table.assign(**{ERROR: runs.table[ERROR] / 100}))
    options = {"resamples": 60, "hindcast": False, "sensitivity": False, "prior": "none"}
    wide, narrow = (fit(r, **options).predict(3e6, 3e7, level=0.9) for r in (runs, surer))
    assert math.log(wide.high / wide.low) > 1.3 * math.log(narrow.high / narrow.low)


def test_errors_are_drawn_for_annealed_rows_alone_and_shared_by_their_trunk():
    table = pd.DataFrame({"trunk": ["a", "a", "a", "b"], ERROR: [0.0, 0.01, 0.01, 0.01]})
    errors = law_errors(table, np.random.default_rng(0), 4000)
    assert errors is not None
    assert not errors[:, 0].any()
    assert errors[:, 1:].std(axis=0) == pytest.approx(0.01, rel=0.05)
    within, between = (np.corrcoef(errors[:, 1], errors[:, k])[0, 1] for k in (2, 3))
    assert within == pytest.approx(2 / 3, abs=0.05)
    assert between == pytest.approx(1 / 3, abs=0.05)
    assert law_errors(table.drop(columns=ERROR), np.random.default_rng(0), 4) is None


def test_a_table_and_a_study_without_trunks_are_refused(study, tmp_path):
    runs = load_runs(study)
    with pytest.raises(ValueError, match="annealed=true is for a study, whose trunks have curves"):
        with_annealed(runs, tmp_path / "table.csv")
    cosine = tmp_path / "cosine"
    synthetic.write_cell(cosine, 2, 64, 1e11)
    with pytest.raises(ValueError, match="has checkpoints that a decay could leave from"):
        with_annealed(load_runs(cosine), cosine)
    with pytest.raises(ValueError, match=r"annealed=true reads curves.*target=web"):
        FitConfig(runs="runs/a", annealed=True, target="web")
