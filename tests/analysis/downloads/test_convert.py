"""What authors published becomes tables of runs, from files of their shape."""

import io
import json
import lzma
import pickle

import numpy as np
import pandas as pd
import pytest

from analysis.downloads import convert

NOTEBOOK = """
NAMES_TO_VAL_LOSSES = {"2b832b4b": 2.7, "2b84b84b8": 2.9, "83m400m100m": 5.0, "1b112b12b": 2.5,
    "2b855b1b25": 0, "1b112b1b5dedup": 3.0, "574m2b7100m": 4.0}  # and a note
PARAMS_MAP = {"2b8": 2.81e9, "83m": 8.27e7, "1b1": 1.0963e9, "574m": 573.7e6}
TOKENS_MAP = {"100m": 0.1, "400m": 0.4, "1b5": 1.5}
import os
os.environ["RAN"] = "yes"
"""


def table(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def test_the_runs_of_highest_loss_are_marked_in_epoch_s_table():
    loss = [9.0, 2.0, 8.0, 7.0, 2.1, 6.0, 5.0]
    source = pd.DataFrame({"Model Size": 1e9, "Training FLOP": 6e19, "loss": loss})
    (text,) = convert.epoch({"x.csv": source.to_csv(index=False).encode()}).values()
    found = table(text)
    assert found["tokens"].tolist() == [1e10] * 7
    assert found["dropped_by_authors"].tolist() == [1, 0, 1, 1, 0, 1, 1]


def test_names_of_runs_say_size_tokens_and_unique_tokens(monkeypatch):
    cells = [{"source": []}] * convert.MUENNIGHOFF_CELL + [{"source": NOTEBOOK.splitlines(True)}]
    monkeypatch.delenv("RAN", raising=False)
    (text,) = convert.muennighoff({"x.ipynb": json.dumps({"cells": cells}).encode()}).values()
    found = table(text).set_index("run")
    assert found.index.tolist() == [
        "2b832b4b", "2b84b84b8", "83m400m100m", "1b112b12b", "574m2b7100m",
    ]  # fmt: skip
    assert found.loc["2b832b4b", ["params", "tokens", "unique_tokens"]].tolist() == [
        2.81e9, 32e9, 4e9,
    ]  # fmt: skip
    assert found["unique_tokens"].tolist() == [4e9, 4.8e9, 1e8, 12e9, 1e8]
    assert found["epochs"].tolist() == [8, 1, 4, 1, 27]
    assert found["flops"].to_numpy() == pytest.approx(6 * found["params"] * found["tokens"])
    import os

    assert "RAN" not in os.environ


def test_a_name_that_says_no_tokens_is_refused():
    with pytest.raises(ValueError, match="does not name tokens"):
        convert._tokens_of("12q", {})


def test_gadre_s_losses_are_told_apart_by_their_data():
    results = [
        {"val_data": [f"data/{folder}/x.tar"], "loss": float(i + 1)}
        for i, folder in enumerate(convert.GADRE_LOSSES)
    ]
    settings = {"params": 10, "params_no_embed": 8, "tokens": 200, "chinchilla_multiplier": 1}
    run = {
        "dataset_name": "rpj",
        "hyperparameters": {**settings, "model": "configs/small.json"},
        "results": results,
    }
    (text,) = convert.gadre({"a.json": json.dumps(run).encode()}).values()
    row = table(text).iloc[0]
    assert (row["flops"], row["loss"], row["loss_openlm"]) == (12000, 2.0, 1.0)
    assert (row["group"], row["model"]) == ("rpj", "small")


def experiments() -> bytes:
    """Return a frame of the shape of Porian's, as a pickle that is packed."""
    pairs = pd.DataFrame({"flops": [1e16, 2e16], "n": [1e6, np.nan]})
    vectors = {
        "n_vals": [np.array([1e6, 2e6]), np.array([3e6])],
        "t_vals": [np.array([1e9, 5e8]), np.array([2e9])],
        "loss_vals": [pd.Series([4.0, 3.5]), pd.Series([3.0])],
    }
    for name, values in vectors.items():
        column = np.empty(2, dtype=object)
        column[:] = values
        pairs[name] = column
    best = {"n_exponent": 0.5, "n_coef": 0.1, "n_r2": 0.99, "t_exponent": np.float64(0.25)}
    fits = {
        "bs_median_weighted": best,
        "bootstrap_weighted": [{"n_exponent": v} for v in np.linspace(0, 1, 41)] + [{"loss": 1.0}],
        "basic": {"n_exponent": 0.4},
        "weighted": {"n_exponent": 0.6},
    }
    row = dict.fromkeys(convert.PORIAN_KEYS, "k") | {"optimal_pairs": pairs, "fit_results": fits}
    values = np.empty((1, len(row)), dtype=object)
    values[0] = list(row.values())
    whole = pd.DataFrame(values, dtype=object)
    whole.columns = pd.Index(list(row), dtype=object)
    pairs.columns = pairs.columns.astype(object)
    return lzma.compress(pickle.dumps(whole, 5))


def test_porian_s_points_and_exponents_come_out_of_a_pickle():
    texts = convert.porian({"x.pickle.xz": experiments()})
    points, fits = (table(text) for text in texts.values())
    assert points["loss"].tolist() == [4.0, 3.5, 3.0]
    assert points["flops"].tolist() == [1e16, 1e16, 2e16]
    assert set(points["group"]) == {"k_k_k_k_k_k"}
    row = fits.iloc[0]
    assert (row["a"], row["b"], row["nboot"], row["n_pairs"]) == (0.5, 0.25, 41, 1)
    assert (row["a_lo"], row["a_hi"]) == pytest.approx((0.025, 0.975))


def test_a_file_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(convert, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="unpacks to more than 1,000 bytes"):
        convert.porian({"x": lzma.compress(bytes(100_000))})
