"""What was cut or changed on the disk is seen: made again where that can be, else refused."""

import json
import logging
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scaling.app.application import sentence
from scaling.config import CellConfig, DataConfig, TruthConfig
from scaling.data import file_hashes, hub
from scaling.data.file_hashes import read_hashed, read_inputs, write_hashed
from scaling.data.hub import fetch_rows
from scaling.data.tokens import open_corpus
from scaling.evaluate import main as evaluate
from scaling.inference.evaluation import EvaluateConfig
from scaling.inference.trained import open_trained
from scaling.schema import read_json, read_record, replacing, sweep_temporaries, temporary_name
from scaling.stages import preferences
from scaling.stages.examples import docstrings
from scaling.stages.examples.docstrings import corpus_pairs
from scaling.study.lease import Pulse, Stopped
from scaling.train import checkpoint
from scaling.train.tensor_files import Damaged, damage, write_tensors
from scaling.train.trunk import train_trunk

CPU = torch.device("cpu")


def flip(path: Path, at: float = 0.5) -> None:
    """Change one byte in place, as a share of the file's length."""
    place = int(path.stat().st_size * at)
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 0x10]))


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Leave nothing of a file."""
    os.truncate(path, 0)


@pytest.fixture
def own_cell(make_cell, tmp_path) -> CellConfig:
    """A tiny cell with a cache of its own."""
    cell = make_cell()
    cell.machine = replace(cell.machine, cache=str(tmp_path / "cache"))
    return cell


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("harm", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize(
    "name",
    ["train.bin", "test.bin", "train.jsonl", "test_starts.npy", "tokenizer.json", "meta.json"],
)
def test_damaged_tokens_are_made_again_and_one_line_says_so(own_cell, caplog, name, harm):
    corpus = open_corpus(own_cell)
    before = content(corpus.folder)
    harm(corpus.folder / name)
    with caplog.at_level(logging.WARNING):
        again = open_corpus(own_cell)
    said = [r.message for r in caplog.records if "damaged" in r.message]
    assert len(said) == 1
    assert name in said[0]
    assert content(again.folder) == before
    assert again.folder == corpus.folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.bin", "test_starts.npy", "train.jsonl", "tokenizer.json"])
def test_tokens_of_an_earlier_version_are_checked_by_size_and_given_hashes(own_cell, caplog, name):
    folder = open_corpus(own_cell).folder
    for harmed in (False, True):
        (folder / "files.json").unlink()
        if harmed:
            cut(folder / name)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            open_corpus(own_cell)
        assert ("damaged" in caplog.text) == harmed
        assert read_json(folder / "files.json")[name]["bytes"] == (folder / name).stat().st_size


@pytest.mark.slow
def test_a_cell_on_cut_tokens_trains_on_the_whole_of_them(own_cell, tmp_path):
    (whole,) = train_trunk([own_cell], folders=[tmp_path / "whole"])
    cut(open_corpus(own_cell).folder / "train.bin")
    (again,) = train_trunk([own_cell], folders=[tmp_path / "again"])
    assert again.test_loss == whole.test_loss
    assert again.metrics["corpus_tokens"] == whole.metrics["corpus_tokens"]


def test_tokens_are_hashed_once_and_again_only_after_a_write(own_cell, monkeypatch):
    folder, hashed = open_corpus(own_cell).folder, []
    whole = file_hashes.sha256_file
    monkeypatch.setattr(
        file_hashes, "sha256_file", lambda p: hashed.append(Path(p).name) or whole(p)
    )
    for _ in range(3):
        open_corpus(own_cell)
    assert hashed == []
    os.utime(folder / "train.bin", ns=(1, 1))  # a write that sets the times back is one too
    for _ in range(3):
        open_corpus(own_cell)
    assert hashed == ["train.bin"]


def test_what_is_known_of_a_text_is_not_believed_when_it_was_changed(own_cell, tmp_path, caplog):
    corpus = open_corpus(own_cell)
    (known,) = (tmp_path / "cache").glob("text-*.json")
    text = known.read_text()
    first = corpus.sha256[0]
    for harmed in (text[:20], "[]", text.replace(corpus.sha256, "0" + corpus.sha256[1:]), "{}"):
        if first == "0" and harmed == text:
            continue
        known.write_text(harmed)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert open_corpus(own_cell).folder == corpus.folder
        assert "is damaged; the text is read again" in caplog.text
        assert known.read_text() == text


def test_a_wrong_hash_of_an_earlier_version_makes_no_second_corpus(own_cell, tmp_path):
    corpus = open_corpus(own_cell)
    (known,) = (tmp_path / "cache").glob("text-*.json")
    known.write_text(json.dumps({"sha256": "f" * 64}))
    assert open_corpus(own_cell).folder == corpus.folder
    assert len(list((tmp_path / "cache").glob("tokens-????????????????"))) == 1


def test_made_text_that_was_changed_is_made_again(own_cell, tmp_path, caplog):
    truth = TruthConfig(symbols=4, order=1, train_symbols=4000, test_symbols=1000)
    own_cell.data = DataConfig(source="markov", truth=truth, context=16)
    own_cell.tokenizer.vocab_size = 264
    sha256 = open_corpus(own_cell).sha256
    (folder,) = (tmp_path / "cache").glob("made-????????????????")
    for harm in (flip, cut):
        harm(folder / "train.jsonl")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert open_corpus(own_cell).sha256 == sha256
        assert "is damaged (train.jsonl" in caplog.text
    (folder / "files.json").unlink()
    cut(folder / "test.jsonl")
    assert open_corpus(own_cell).sha256 == sha256


def test_rows_of_a_hub_set_that_were_changed_are_fetched_again(tmp_path, monkeypatch, caplog):
    rows = [{"prompt": f"{i}", "completion": "x" * 50} for i in range(20)]
    monkeypatch.setattr(hub, "_stream", lambda entry, split, skip=0: iter(rows[skip:]))
    path = fetch_rows("a/set", tmp_path)
    text = path.read_text()
    for harm in (flip, cut):
        harm(path)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert fetch_rows("a/set", tmp_path).read_text() == text
        assert "is damaged (rows.jsonl" in caplog.text


@pytest.mark.parametrize("at", [0.001, 0.02, 0.3, 0.6, 0.999])
def test_one_flipped_byte_of_stored_tensors_is_seen_anywhere(tmp_path, at):
    path = tmp_path / "a.safetensors"
    tensors = {"w": torch.randn(64, 8), "b": torch.zeros(3, dtype=torch.bfloat16)}
    tensors |= {"flag": torch.tensor(True), "none": torch.zeros(0), "at": torch.tensor(3.0)}
    write_tensors(path, tensors, {"state": json.dumps({"step": 3})})
    assert damage(path) == ""
    flip(path, at)
    assert damage(path)


def test_tensors_of_an_earlier_version_without_hashes_are_read(tmp_path, make_cell):
    from safetensors.torch import save_file

    save_file({"model.w": torch.ones(3)}, tmp_path / "a.safetensors", metadata={"state": "{}"})
    assert damage(tmp_path / "a.safetensors") == ""
    cut(tmp_path / "a.safetensors")
    assert "deserializing header" in damage(tmp_path / "a.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("harm", [cut, flip, empty])
def test_training_goes_on_without_a_damaged_checkpoint(make_cell, tmp_path, caplog, harm):
    cell = make_cell(n_tokens=2048)
    (whole,) = train_trunk([cell], folders=[tmp_path / "whole" / "cell"])

    class Impatient(Pulse):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "step" and value == 10:
                super().__setattr__("stop", "preempted")

    folder = tmp_path / "broken" / "cell"
    with pytest.raises(Stopped):
        train_trunk([cell], folders=[folder], pulse=Impatient())
    (state,) = folder.parent.rglob("checkpoint.safetensors")
    harm(state)
    with caplog.at_level(logging.WARNING):
        (again,) = train_trunk([cell], folders=[folder])
    assert again.test_loss == whole.test_loss
    assert state.with_name("checkpoint.damaged-1.safetensors").is_file()
    said = [r.message for r in caplog.records if "is damaged" in r.message]
    assert len(said) == 1
    assert "set aside as checkpoint.damaged-1.safetensors" in said[0]
    assert "training goes back to the state before it" in said[0]


def test_a_second_damaged_checkpoint_has_a_name_of_its_own(tmp_path):
    for number in (1, 2):
        (tmp_path / "checkpoint.safetensors").write_bytes(b"x" * number)
        assert checkpoint.set_aside_damaged(tmp_path)
    assert (tmp_path / "checkpoint.damaged-2.safetensors").read_bytes() == b"xx"
    assert not checkpoint.set_aside_damaged(tmp_path)


@pytest.mark.parametrize("harm", [cut, flip])
def test_damaged_weights_are_refused_in_one_sentence_with_the_fix(make_cell, tmp_path, harm):
    cell = make_cell()
    folder = Path(cell.runs) / "tiny" / cell.run_id()
    train_trunk([cell])
    harm(folder / "model.safetensors")
    fix = rf"damaged .*put a copy back, or delete .*{folder.name}/record\.json"
    with pytest.raises(Damaged, match=fix):
        open_trained(folder, CPU, tokenizer=str(open_corpus(cell).tokenizer_path))
    with pytest.raises(Damaged, match=fix):
        evaluate(EvaluateConfig(checkpoint=str(folder), prompts=["a"], machine=cell.machine))


def test_a_damaged_vocabulary_is_refused_where_it_cannot_be_made(make_cell, tmp_path):
    cell = make_cell()
    cell.machine = replace(cell.machine, cache=str(tmp_path / "cache"))
    train_trunk([cell])
    folder = Path(cell.runs) / "tiny" / cell.run_id()
    flip(open_corpus(cell).folder / "tokenizer.json")
    open_trained(folder, CPU)  # by the copy beside the weights
    (folder / "tokenizer.json").unlink()  # as a model of an earlier version
    with pytest.raises(ValueError, match=r"is damaged \(tokenizer\.json .*run the sweep again"):
        open_trained(folder, CPU)


def test_a_record_names_its_vocabulary(make_cell):
    cell = make_cell()
    (record,) = train_trunk([cell])
    assert record.inputs["tokenizer"] == file_hashes.sha256_file(open_corpus(cell).tokenizer_path)


@pytest.mark.parametrize("harm", [cut, flip, empty])
def test_damaged_pairs_are_cut_again(post_cell, tmp_path, caplog, monkeypatch, harm):
    post_cell.machine = replace(post_cell.machine, cache=str(tmp_path / "cache"))
    corpus = open_corpus(post_cell)
    pairs = corpus_pairs(corpus)
    path = corpus.folder / f"docstrings-{docstrings.VERSION}.json"
    kept = path.read_bytes()
    harm(path)
    with caplog.at_level(logging.WARNING):
        assert corpus_pairs(corpus) == pairs
    assert "is damaged; it is made again" in caplog.text
    assert path.read_bytes() == kept
    old = read_json(path)
    del old["sha256"]
    path.write_text(json.dumps(old))  # of an earlier version
    monkeypatch.setattr(docstrings, "cut_pairs", lambda text: 1 / 0)
    assert corpus_pairs(corpus) == pairs
    assert path.read_bytes() == kept


def test_damaged_samples_are_drawn_again(tmp_path, monkeypatch):
    path, made = tmp_path / "000000.json", []
    block = {"groups": [], "cost": {"tokens": 3}}
    monkeypatch.setattr(preferences, "_sample_block", lambda *a, **k: made.append(1) or dict(block))
    for harm in (None, None, flip, cut):
        if harm:
            harm(path)
        tally = preferences.Tally()
        assert preferences.read_or_sample(None, None, [], path, tally, seed=0) == []  # type: ignore[arg-type]
        assert tally.tokens == 3
    assert len(made) == 3


def test_a_stage_with_a_torn_list_of_inputs_is_known_by_its_record(tmp_path, make_cell, caplog):
    train_trunk([make_cell()], folders=[tmp_path / "cell"])
    folder = tmp_path / "cell"
    assert read_inputs(folder) is None
    (folder / "inputs.json").write_text('{"corp')
    with caplog.at_level(logging.WARNING):
        assert read_inputs(folder) == read_record(folder / "record.json").inputs
    assert "what the record says is taken" in caplog.text


def test_a_sealed_object_keeps_its_numbers(tmp_path):
    value = {"a": [0.1, 1e-300, 3], "b": {"c": None}}
    assert read_hashed(write_hashed(tmp_path / "a.json", value)) == value
    assert read_hashed(tmp_path / "none.json") is None


@pytest.mark.long
@pytest.mark.slow
def test_damaged_compiled_code_is_compiled_again(tmp_path):
    pytest.importorskip("numba")
    code = (
        "import numpy as np\nfrom scaling.cpu.jit import kernel\n\n\n"
        "def double(a):\n    for i in range(len(a)):\n        a[i] = 2 * a[i]\n\n\n"
        "if __name__ == '__main__':\n    a = np.ones(3)\n"
        "    kernel(double)(a)\n    print(a.sum())\n"
    )
    (tmp_path / "doubled.py").write_text(code)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "NUMBA_CACHE_DIR": str(tmp_path / "nb")}
    for harm, ending in ((None, "nbc"), (flip, "nbc"), (cut, "nbi")):
        for path in (tmp_path / "nb").rglob(f"*.{ending}"):
            harm(path)
        done = subprocess.run(
            [sys.executable, "doubled.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "6.0\n", done.stderr
        assert ("damaged" in done.stderr) == bool(harm)
    assert list((tmp_path / "nb").rglob("*.nbc"))


@contextmanager
def umask(value: int):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_every_file_has_the_mode_that_the_umask_gives(make_cell, tmp_path, mask, mode):
    cell = make_cell()
    cell.machine = replace(cell.machine, cache=str(tmp_path / "cache"), checkpoint_seconds=0)
    with umask(mask):
        train_trunk([cell])
    files = [*Path(cell.runs).rglob("*"), *(tmp_path / "cache").rglob("*")]
    modes = {p.name: p.stat().st_mode & 0o777 for p in files if p.is_file()}
    assert {"model.safetensors", "checkpoint.safetensors", "record.json", "train.bin"} <= set(modes)
    assert set(modes.values()) == {mode}


@contextmanager
def somebody_else():
    """Act as a user who owns nothing here."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_reader_without_permission_is_told_so(tmp_path):
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"w": torch.ones(3)}, {})
    for folder in [tmp_path, *tmp_path.parents][:-2]:  # pytest keeps its folders to itself
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    path.chmod(0)
    with somebody_else(), pytest.raises(PermissionError) as error:
        damage(path)
    assert sentence(error.value, CellConfig).startswith(f"permission denied: {path}; ask its owner")
    with somebody_else(), pytest.raises(PermissionError):
        read_json(path)
    path.parent.chmod(0)
    try:
        with somebody_else(), pytest.raises(PermissionError):
            read_json(path)
    finally:
        path.parent.chmod(0o755)


def test_what_dead_writers_left_is_swept_and_nothing_else(tmp_path):
    code = "import sys; from scaling.schema import temporary_name; print(temporary_name('a.json'))"
    dead = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    own = temporary_name("b.json")
    elsewhere = own.replace(own.split(".")[-2].split("-")[0], "0" * 8)
    old, folder = f".old.json.{'0' * 12}.tmp", temporary_name("gone").replace("gone", "dir")
    for name in (dead, own, elsewhere, old, f"{old[:-4]}.new.tmp", "plain.tmp", ".hidden"):
        (tmp_path / name).write_text("x")
    (tmp_path / dead.replace("a.json", "tree")).mkdir()
    (tmp_path / dead.replace("a.json", "tree") / "f").write_text("x")
    for name in (old, ".hidden", "plain.tmp", own):
        os.utime(tmp_path / name, (1, 1))
    sweep_temporaries(tmp_path, tmp_path / "absent")
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {own, elsewhere, f"{old[:-4]}.new.tmp", "plain.tmp", ".hidden"}
    assert folder not in left


def test_a_cell_that_is_taken_again_leaves_no_temporary_file(make_cell):
    from scaling.study.lease import Holder, Lease

    cell = make_cell()
    folder = Path(cell.runs) / "tiny" / cell.run_id()
    folder.mkdir(parents=True)
    code = "from scaling.schema import temporary_name; print(temporary_name('state'))"
    name = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    (folder / name).write_text("half")
    with Lease(folder, Holder.here(round="r", job="j"), Pulse()):
        assert [p.name for p in folder.iterdir()] == ["attempts"]


def fill_disk(path: Path) -> None:
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_a_failing_write_leaves_the_former_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("former")
    sentence = r"cannot write .*a\.json: No space left on device; free"
    with pytest.raises(OSError, match=sentence), replacing(path) as temporary:
        fill_disk(temporary)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="other"), replacing(path) as temporary:
        (tmp_path / "other").read_text()  # another file's error keeps its name
    shutil.rmtree(tmp_path)
    with replacing(path) as temporary:
        temporary.touch()
    assert path.is_file()
