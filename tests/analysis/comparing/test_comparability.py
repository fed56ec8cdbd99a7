"""Which studies compare: test text, vocabulary, recipe, by the hashes of their records."""

import dataclasses
import json
from pathlib import Path

import pytest

from scaling.schema import TestSetScore, read_records
from tests.analysis.synthetic import write_study
from tests.in_process import call


def study(folder: Path, *, seed: int = 0, loss: float = 1.0, web: str = "", **inputs: str) -> Path:
    """Write a study whose records hold hashes, and bits per byte of a test set `web`."""
    hashes = {"corpus": "c1", "test": "t1", "tokenizer": "v1"} | inputs
    write_study(folder, seed=seed)
    for record in read_records(folder):
        sets = {}
        if web:
            hashes["test_set:web"] = web
            score = TestSetScore(
                loss=record.test_loss, loss_se=0.01, bytes=1000, tokens=300,
                bits_per_byte=record.bits_per_byte * loss,
            )  # fmt: skip
            sets = {"web": score}
        dataclasses.replace(
            record, inputs=hashes, tokenizer=hashes["tokenizer"], test_sets=sets,
            test_loss=record.test_loss * loss,
        ).write(folder / record.run_id / "record.json")  # fmt: skip
    return folder


def compare(folder: Path, *arguments: str):
    names = "studies=[a,b]"
    done = call("analysis.compare", names, "intervals.resamples=100", *arguments, cwd=folder)
    return done, json.loads((folder / "compare.json").read_text())


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A folder with a study `a` to compare others with."""
    folder = tmp_path_factory.mktemp("studies")
    study(folder / "a", web="w1")
    return folder


def other(first: Path, tmp_path: Path, **options: str | float) -> Path:
    (tmp_path / "a").symlink_to(first / "a")
    study(tmp_path / "b", seed=1, **options)
    return tmp_path


@pytest.mark.slow
def test_other_corpora_with_one_test_text_compare(first, tmp_path):
    done, result = compare(other(first, tmp_path, corpus="c2", loss=0.98))
    assert done.returncode == 0, done.stderr
    assert result["comparable"] is True
    assert "the corpus (a: c1, b: c2)" in done.stdout.replace("\n", " ")
    (pair,) = result["pairs"]
    assert pair["k"] > 1
    assert pair["p_better"] > 0.95
    assert pair["paired_seeds"] > 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"test": "t2"}, "test parts are different text"),
        ({"tokenizer": "v2"}, "vocabularies differ"),
    ],
)
def test_what_does_not_compare_is_refused_with_what_to_run(first, tmp_path, options, word):
    done, result = compare(other(first, tmp_path, **options))
    assert done.returncode == 1
    assert word in done.stderr
    assert "eval.sets={common: [FILE.jsonl]}" in done.stderr
    assert result["comparable"] is False
    assert result["pairs"] == []
    assert result["arms"][1]["study"] == "b"
    assert word in result["why"]


@pytest.mark.slow
def test_other_vocabularies_compare_in_bits_per_byte_of_a_common_set(first, tmp_path):
    folder = other(first, tmp_path, tokenizer="v2", test="t2", web="w1", loss=0.97)
    done, _ = compare(folder)
    assert "target=web unit=bits_per_byte" in done.stderr
    done, result = compare(folder, "target=web", "unit=bits_per_byte", "target.flops=1e14")
    assert done.returncode == 0, done.stderr
    assert result["unit"] == "bits_per_byte"
    assert result["pairs"][0]["k"] > 1
    assert result["target"]["flops"] == 1e14


def test_nats_of_a_common_set_do_not_compare_across_vocabularies(first, tmp_path):
    done, _ = compare(other(first, tmp_path, tokenizer="v2", web="w1"), "target=web")
    assert done.returncode == 1
    assert "unit=bits_per_byte" in done.stderr


def test_a_named_set_of_another_text_is_refused(first, tmp_path):
    done, _ = compare(other(first, tmp_path, web="w2"), "target=web")
    assert done.returncode == 1
    assert "the test set web is not the same text" in done.stderr


def test_a_set_that_a_study_lacks_is_refused_and_written(first, tmp_path):
    done, result = compare(other(first, tmp_path), "target=web")
    assert done.returncode == 1
    assert "b: it has no test set web" in done.stderr
    assert result["comparable"] is False
