"""Files of token ids: every format as its writer writes it, an exact split, no copy."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from scaling.config import DataConfig, TokenizerConfig
from scaling.corpus import describe_corpus
from scaling.data.batches import Batches, shuffled
from scaling.data.shards import open_shard
from scaling.data.tokens import open_corpus
from scaling.data.vocabulary import Vocabulary
from scaling.data.vocabulary_files import with_source
from scaling.train.trunk import train_trunk

from .test_vocabulary import gpt2_layout

IDS = np.random.default_rng(0).integers(1, 300, 5000)


def raw(path, ids, dtype):
    path.write_bytes(ids.astype(dtype).tobytes())


def llm_c(path, ids, dtype):
    header = np.zeros(256, dtype=np.int32)
    header[:3] = {"uint16": (20240520, 1), "uint32": (20240801, 7)}[dtype] + (len(ids),)
    path.write_bytes(header.tobytes() + ids.astype(dtype).tobytes())


def megatron(path, ids, dtype):
    lengths = [1000] * (len(ids) // 1000)
    code = {"uint16": 8, "int32": 4}[dtype]
    places = np.arange(len(lengths)) * 1000 * np.dtype(dtype).itemsize
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, len(lengths), len(lengths) + 1)
    parts = [
        np.array(lengths, "<i4"),
        places.astype("<i8"),
        np.arange(len(lengths) + 1, dtype="<i8"),
    ]
    path.with_suffix(".idx").write_bytes(head + b"".join(p.tobytes() for p in parts))
    path.write_bytes(ids.astype(dtype).tobytes())


FORMATS = [
    *((raw, d) for d in ("uint16", "uint32", "int64")),
    *((llm_c, d) for d in ("uint16", "uint32")),
    *((megatron, d) for d in ("uint16", "int32")),
]


@pytest.fixture
def cell(make_cell, tmp_path):
    data = DataConfig(source="tokens", train=[str(tmp_path / "t")], test_share=0.1, context=32)
    (tmp_path / "t").mkdir()
    return replace(make_cell(), data=data, tokenizer=TokenizerConfig(vocab_size=300))


@pytest.mark.parametrize(("write", "dtype"), FORMATS)
@pytest.mark.parametrize("vocab_size", [300, 70_000])
def test_every_format_gives_its_ids(tmp_path, write, dtype, vocab_size):
    write(tmp_path / "a.bin", IDS, dtype)
    shard = open_shard(tmp_path / "a.bin", vocab_size=vocab_size)
    assert (shard.dtype, shard.n_tokens) == (dtype, len(IDS))
    assert (shard.read(0, 5000) == IDS).all()


@pytest.mark.parametrize("dtype", ["uint32", "int64"])
@pytest.mark.parametrize("n", [*(2**k for k in range(4, 21)), 1_000_000, 999_999])
def test_a_raw_file_of_any_size_gives_its_ids(tmp_path, n, dtype):
    ids = np.random.default_rng(n).integers(1, 100_000, n)
    raw(tmp_path / "a.bin", ids, dtype)
    shard = open_shard(tmp_path / "a.bin", vocab_size=100_000)
    assert (shard.dtype, shard.n_tokens) == (dtype, n)
    assert (shard.read(n // 3, n // 3 + 50) == ids[n // 3 : n // 3 + 50]).all()


def test_files_are_one_stream_with_an_exact_test_part(cell, tmp_path):
    llm_c(tmp_path / "t/a.bin", IDS[:3000], "uint16")
    raw(tmp_path / "t/b.bin", IDS[3000:], "uint16")
    corpus = open_corpus(cell)
    assert (len(corpus.train), len(corpus.test)) == (4500, 500)
    assert "not looked for in token ids" in describe_corpus(corpus)
    with pytest.raises(ValueError, match=r"set tokenizer\.source to the tokenizer that made"):
        _ = corpus.special
    with pytest.raises(ValueError, match="no text to cut functions from"):
        next(corpus.train_texts())
    assert (corpus.train[:] == IDS[:4500]).all()
    assert (corpus.test[:] == IDS[4500:]).all()
    batches = Batches.of(corpus, cell.data, rows=140, seed=0)
    x, y = batches(0)
    assert {tuple(row) for row in x} == {tuple(IDS[i : i + 32]) for i in range(0, 140 * 32, 32)}
    assert (x[:, 1:] == y[:, :-1]).all()
    named = replace(cell.data, train=[str(tmp_path / "t/a.bin")], test=[str(tmp_path / "t/b.bin")])
    corpus = open_corpus(replace(cell, data=named))
    assert (len(corpus.train), len(corpus.test)) == (3000, 2000)
    with pytest.raises(ValueError, match="is named twice"):
        open_corpus(replace(cell, data=replace(named, test=[str(tmp_path / "t/a.bin")])))


def test_bytes_are_counted_where_the_vocabulary_is_given_and_unknown_where_it_is_not(
    cell, tmp_path
):
    (record,) = train_on(cell, tmp_path, "unknown", TokenizerConfig(vocab_size=400))
    assert (record.bits_per_byte, record.tokenizer) == (None, "")
    source = gpt2_layout(tmp_path / "tok")
    known = with_source(TokenizerConfig(source=str(source)))
    (record,) = train_on(cell, tmp_path, "known", known)
    vocabulary = Vocabulary.read(source)
    assert record.tokenizer == vocabulary.sha256
    test = open_corpus(replace(cell, tokenizer=known)).test[:]
    n_bytes = len(b"".join(text.encode() for text in TEXT)) // 10
    assert record.test_loss / np.log(2) / record.bits_per_byte == pytest.approx(
        n_bytes / len(test), rel=0.02
    )


TEXT = ["the number 12 is 中文 é, as anybody can see. It's a book.\n"] * 400


def train_on(cell, tmp_path, study, tokenizer):
    vocabulary = Vocabulary.read(gpt2_layout(tmp_path / "tok"))
    ids = np.concatenate(vocabulary.encode_completions(TEXT))
    raw(tmp_path / "t/text.bin", ids, "uint16")
    return train_trunk([replace(cell, study=study, tokenizer=tokenizer)])


def test_a_file_of_1e11_tokens_is_sampled_without_being_read(cell, tmp_path):
    with (tmp_path / "t/big.bin").open("wb") as stream:
        stream.truncate(200_000_000_000)  # sparse: it takes no room on the disk
    corpus = open_corpus(cell)
    assert (len(corpus.train), len(corpus.test)) == (99_900_000_000, 100_000_000)
    batches = Batches.of(corpus, cell.data, rows=8, seed=0)
    assert batches.windows > 3e9
    assert batches(10**6)[0].shape == (8, 32)


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 4097])
def test_a_computed_order_has_every_window_once(n):
    orders = [shuffled(np.arange(n), n, seeds=[0, seed, 0]) for seed in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(n)) for order in orders)
    assert n < 1000 or not (orders[0] == orders[1]).all()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: raw(p, IDS + 400, "uint16"), "set tokenizer.source to the tokenizer"),
        (lambda p: p.write_bytes(b"abc"), "an odd number"),
        (lambda p: p.write_bytes(b""), "holds no token"),
        (lambda p: p.with_suffix(".idx").write_bytes(b"x" * 40), "no index of Megatron"),
        (lambda p: p.with_suffix(".idx").write_bytes(b"x"), "fewer than its header"),
        (lambda p: (llm_c(p, IDS, "uint16"), p.write_bytes(p.read_bytes()[:-2])), "copy it again"),
        (lambda p: (megatron(p, IDS, "uint16"), raw(p, IDS[1:], "uint16")), "one data set"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, harm, message):
    path = tmp_path / "a.bin"
    raw(path, IDS, "uint16")
    harm(path)
    with pytest.raises(ValueError, match=message):
        open_shard(path, vocab_size=300)


def test_documents_of_megatron_s_index_may_have_several_sequences(tmp_path):
    ids = np.arange(6000) % 200
    path = tmp_path / "a.bin"
    megatron(path, ids, "uint16")
    assert open_shard(path, vocab_size=200).document_starts().tolist() == list(range(0, 6000, 1000))
    index = path.with_suffix(".idx")
    head, rest = index.read_bytes()[:34], index.read_bytes()[34:]
    head = head[:26] + struct.pack("<Q", 4)
    sentences = np.array([0, 2, 5, 6], "<i8").tobytes()
    index.write_bytes(head + rest[: 12 * 6] + sentences)
    assert open_shard(path, vocab_size=200).document_starts().tolist() == [0, 2000, 5000]
    index.write_bytes(head + rest[: 12 * 6] + np.array([0, 5, 2, 6], "<i8").tobytes())
    with pytest.raises(ValueError, match="documents that are not in order from sequence 0 to 6"):
        open_shard(path, vocab_size=200)
    swapped = rest[: 4 * 6] + np.array([2000, 0, 4000, 6000, 8000, 10000], "<i8").tobytes()
    index.write_bytes(head + swapped + sentences)
    with pytest.raises(ValueError, match="do not follow each other"):
        open_shard(path, vocab_size=200)
