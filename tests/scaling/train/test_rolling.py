"""Texts and named test sets: every token is scored once, and records hold the losses."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scaling.app.progress import clock
from scaling.budget import CORE_FLOPS, resolve, scoring_seconds
from scaling.config import EvalConfig, TokenizerConfig
from scaling.data.tokenizer import END
from scaling.jobs.cell_states import read_status
from scaling.jobs.cells import check_test_sets, resolve_corpus
from scaling.jobs.pricing import price
from scaling.jobs.study_run import run_cells
from scaling.model.loss import losses_in_pieces
from scaling.schema import Record, read_record
from scaling.status import show
from scaling.study.places import cell_folder
from scaling.train.rolling import TextSet, rolling_windows, score_set
from scaling.train.test_files import sets_sha256
from scaling.train.trunk import train_trunk

CONTEXT = 16
WORDS = [
    *("the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", "over", "hills", "and"),
    *("dogs", "ran", "home", "to", "eat"),
]


@pytest.mark.parametrize("n", [1, 5, 16, 17, 40, 48, 100])
def test_each_token_is_scored_once_with_as_much_before_it_as_fits(n):
    ids = list(range(10, 10 + n))
    seen = []
    for window, scored, place in rolling_windows(ids, context=CONTEXT):
        assert len(window) - 1 == (min(n, CONTEXT) if place == 0 else CONTEXT)
        assert ids[place : place + scored] == window[-scored:]
        assert ([END, *ids])[place + scored + 1 - len(window) : place + scored + 1] == window
        seen += window[-scored:]
    assert seen == ids


def test_the_loss_is_that_of_each_token_alone(model, tokenizer):
    texts = [" ".join(WORDS * 6), "rain", " ".join(WORDS[:9])]
    score = score_set(model, TextSet.of(texts, tokenizer, context=CONTEXT))
    nats, tokens = 0.0, 0
    for text in texts:
        ids = tokenizer.encode(text).ids
        for window, scored, _ in rolling_windows(ids, context=CONTEXT):
            with torch.no_grad():
                log_p = model(torch.tensor(window[:-1])[None]).log_softmax(-1)[0]
            for i in range(len(window) - scored, len(window)):
                nats -= float(log_p[i - 1, window[i]])
        tokens += len(ids)
    n_bytes, n_words = sum(len(t.encode()) for t in texts), sum(len(t.split()) for t in texts)
    assert (score.tokens, score.bytes, score.words) == (tokens, n_bytes, n_words)
    assert score.loss == pytest.approx(nats / tokens, rel=1e-5)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)
    assert score.word_perplexity == pytest.approx(math.exp(nats / n_words), rel=1e-4)


def test_the_error_is_of_blocks_and_a_long_document_has_several(model, tokenizer):
    long = TextSet.of([" ".join(WORDS * 60)], tokenizer, context=CONTEXT)
    assert 20 <= len(np.unique(long.blocks)) <= 33
    many = TextSet.of([w for w in WORDS for _ in range(4)], tokenizer, context=CONTEXT)
    assert len(np.unique(many.blocks)) == 4 * len(WORDS)
    four, one = (
        score_set(model, many),
        score_set(model, TextSet.of(WORDS, tokenizer, context=CONTEXT)),
    )
    assert four.standard_error == pytest.approx(one.standard_error / 2, rel=0.05)
    with pytest.raises(ValueError, match="no token to score"):
        TextSet.of([], tokenizer, context=CONTEXT)


@pytest.fixture
def sets(tmp_path) -> dict[str, list[str]]:
    rows = [json.dumps({"text": f"row {i} of the web"}) for i in range(20)]
    (tmp_path / "web.jsonl").write_text("\n".join([*rows, json.dumps({"text": None})]))
    (tmp_path / "code.txt").write_text("def f(x):\n    return x\n" * 40)
    return {"web": [str(tmp_path / "web.jsonl")], "code": [str(tmp_path / "code.txt")]}


def test_a_cell_is_scored_on_its_named_sets_and_its_other_numbers_stay(make_cell, sets, tmp_path):
    plain = make_cell()
    (before,) = train_trunk([plain])
    cell = replace(plain, eval=replace(plain.eval, sets=sets))
    (record,) = train_trunk([cell])
    assert record.test_loss == before.test_loss
    assert before.test_sets == {}
    assert list(record.test_sets) == ["web", "code"]
    shown = read_status(cell_folder(cell).parent)
    assert "web of 1 of 2 done, code of 1 of 2 done" in show(shown)
    web = record.test_sets["web"]
    assert web.bytes == sum(len(f"row {i} of the web") for i in range(20))
    assert web.bits_per_byte == pytest.approx(web.loss * web.tokens / math.log(2) / web.bytes)
    assert 0 < web.loss_se < web.loss < math.log(300) + 1
    again = read_record(cell_folder(cell) / "record.json")
    assert again.test_sets == record.test_sets
    values = json.loads((cell_folder(cell) / "record.json").read_text())
    del values["test_sets"]  # a record of an earlier version
    assert Record.from_dict(values).test_sets == {}


def test_the_files_of_a_set_are_part_of_the_id_and_their_names_are_not(make_cell, sets, tmp_path):
    plain = make_cell()
    cells = [replace(plain, eval=replace(plain.eval, sets=sets)) for _ in range(3)]
    assert "sets" not in plain.science()["eval"]
    (tmp_path / "elsewhere.jsonl").write_bytes((tmp_path / "web.jsonl").read_bytes())
    moved = {"web": [str(tmp_path / "elsewhere.jsonl")], "code": sets["code"]}
    cells[1].eval = replace(cells[1].eval, sets=moved)
    ids = [resolve_corpus([c])[0].run_id() for c in (*cells[:2], plain)]
    assert ids[0] == ids[1] != ids[2]
    (tmp_path / "code.txt").write_text("print()\n" * 99)
    with pytest.raises(ValueError, match="files of test set code changed since the study started"):
        train_trunk([cells[0]])
    assert resolve_corpus([cells[2]])[0].run_id() != ids[0]


def test_wrong_sets_are_one_sentence(tmp_path):
    for name, other in {"1x": "set_1x", "a b/c": "a_b_c", "é": "set_é"}.items():
        with pytest.raises(ValueError, match=rf"eval\.sets='{name}' .*start with.*write {other}$"):
            EvalConfig(sets={name: ["a"]})
    with pytest.raises(ValueError, match=r"eval\.sets\.web=\[\] is empty; name its files"):
        EvalConfig(sets={"web": []})
    with pytest.raises(FileNotFoundError, match=r"test set web: data path .*none matches no file"):
        sets_sha256({"web": [str(tmp_path / "none")]})


def test_sets_that_cannot_be_scored_are_refused_before_anything_is_submitted(
    make_cell, sets, tmp_path, monkeypatch
):
    submitted = []
    monkeypatch.setattr("scaling.jobs.study_run.train", lambda *a, **b: submitted.append(a))
    (tmp_path / "empty.txt").touch()
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    plain = make_cell()
    for name, message in {
        "empty.txt": r"test set web holds no text \(.*empty\.txt\); give files",
        "rows.jsonl": r"test set web: .*line 2: text is the number 3",
    }.items():
        wrong = {**sets, "web": [str(tmp_path / name)]}
        with pytest.raises(ValueError, match=message):
            run_cells([replace(plain, eval=replace(plain.eval, sets=wrong))])
    np.arange(5000, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    ids = replace(plain.data, source="tokens", train=[str(tmp_path / "ids.bin")], sha256="")
    cell = replace(plain, data=ids, tokenizer=TokenizerConfig(vocab_size=5000))
    with pytest.raises(
        ValueError, match=r"eval\.sets are texts, .* name it with tokenizer\.source"
    ):
        run_cells([replace(cell, eval=replace(cell.eval, sets=sets))])
    assert not submitted


def test_logits_of_a_large_vocabulary_are_scored_in_pieces(model, tokenizer, monkeypatch):
    texts = TextSet.of([" ".join(WORDS * 20), "rain"], tokenizer, context=CONTEXT)
    whole, sizes = score_set(model, texts), []
    entropy = F.cross_entropy
    monkeypatch.setattr(
        F, "cross_entropy", lambda z, y, **kw: sizes.append(z) or entropy(z, y, **kw)
    )
    pieces = partial(losses_in_pieces, n_bytes=3 * 4 * 320)
    monkeypatch.setattr("scaling.model.transformer.losses_in_pieces", pieces)
    assert score_set(model, texts).loss == pytest.approx(whole.loss, rel=1e-6)
    assert max(map(len, sizes)) == 3


def test_the_dry_run_lists_the_sets_and_prices_their_scoring(make_cell, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the cat sat on a mat\n" * 5000)
    cells = [make_cell(), make_cell(n_tokens=2**15)]
    for cell in cells:
        cell.eval = EvalConfig(sets={"web": [str(tmp_path / "a.txt")]})
    set_bytes = check_test_sets(cells[:1])
    assert set_bytes == {cells[0].run_id(): {"web": 105_000}}
    seconds = scoring_seconds(cells[0], 105_000)
    flops = resolve(cells[0]).shape.flops_per_token / 3
    assert 105_000 / 3.5 * flops < seconds * CORE_FLOPS < 105_000 * flops
    price(cells, set_bytes)
    text = capsys.readouterr().out
    assert text.count("scoring\n") == 1  # the other cell is done
    assert f"test sets (eval.sets): web 0.105 MB; scoring takes {clock(seconds)}" in text
