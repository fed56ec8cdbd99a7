"""A corpus of token ids that others made (data=tokens): nothing is copied, a cache keeps counts.

The test part is the files of `data.test` or, without these, an exact number of tokens: the share
`data.test_share` of each entry's tokens, at most MOST_TEST in all, from the entry's end.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.app.plurals import plural
from scaling.config import CellConfig, DataConfig
from scaling.data.shards import Shard, Span, TokenStream, open_shard, shard_files
from scaling.data.vocabulary import Vocabulary
from scaling.schema import sha256_json, write_json

log = logging.getLogger(__name__)
# Tokens that are held out at most: more would cost training tokens and gain no certainty.
MOST_TEST = 100_000_000
STARTS = "test_starts.npy"
BLOCK = 8192  # Tokens of a block that stands for a document where the documents are not known.
COUNTED = 1 << 22  # Ids whose bytes are counted at once.


def read_shards(config: CellConfig) -> dict[str, Any]:
    """Open the files of a config; return what `scaling.data.tokens.Corpus` holds as its meta.

    FileNotFoundError or ValueError for files that cannot be read.
    """
    data, size = config.data, config.tokenizer.vocab_size
    entries = [[open_shard(f, vocab_size=size) for f in shard_files(e)] for e in data.train]
    if not data.weights:
        entries = [[shard for entry in entries for shard in entry]]
    held = [[open_shard(f, vocab_size=size) for f in shard_files(e)] for e in data.test]
    refuse_shared(entries, held)
    train, test = divide(entries, [shard for entry in held for shard in entry], data)
    meta: dict[str, Any] = {
        "vocab_size": size,
        "dropped": 0,
        "twins": 0,
        "own_test": bool(data.test),
        "train_spans": [_plain(s) for part in train for s in part],
        "test_spans": [_plain(s) for s in test],
        "part_tokens": [sum(s.stop - s.start for s in part) for part in train],
    }
    meta["train_tokens"] = sum(meta["part_tokens"])
    meta["test_tokens"] = sum(s.stop - s.start for s in test)
    for part in ("train", "test"):
        if not meta[f"{part}_tokens"]:
            raise ValueError(
                f"the files of data.train leave no tokens for the {part} part; change"
                f" data.test_share={data.test_share}, or name files for the test in data.test"
            )
    hashes = {id(s): s.sha256() for part in (*entries, *held) for s in part}
    spans = [[(hashes[id(s.shard)], s.start, s.stop) for s in part] for part in (*train, test)]
    meta["sha256"] = sha256_json(spans)
    log.info(
        "token ids: %s training and %s test tokens in %s",
        f"{meta['train_tokens']:,}",
        f"{meta['test_tokens']:,}",
        plural(len(hashes), "file"),
    )
    return meta


def divide(
    entries: list[list[Shard]], held: list[Shard], data: DataConfig
) -> tuple[list[list[Span]], list[Span]]:
    """Return the spans of each training part, and those of the test part.

    entries: the files of each part
    held: the files of the test; empty takes the end of each part
    data: the share of the test
    """
    totals = [sum(s.n_tokens for s in shards) for shards in entries]
    share = 0.0 if held else min(data.test_share, MOST_TEST / max(1, sum(totals)))
    if share < data.test_share and not held:
        log.info("data.test_share=%g would hold out more than %d tokens", share, MOST_TEST)
    train, test = [], [Span(shard=s, start=0, stop=s.n_tokens) for s in held]
    for shards, total in zip(entries, totals, strict=True):
        border = total - round(share * total)
        train.append(TokenStream.of(shards, 0, border, vocab_size=0).spans)
        test += TokenStream.of(shards, border, total, vocab_size=0).spans
    return train, test


def refuse_shared(entries: list[list[Shard]], held: list[list[Shard]]) -> None:
    """Raise ValueError for a file that is named twice, in one part or in both."""
    distinct: set[Path] = set()
    for shard in (s for part in (*entries, *held) for s in part):
        real = shard.path.resolve()
        if real in distinct:
            raise ValueError(
                f"{shard.path} is named twice in data.train and data.test; name training and test"
                " files apart, as 'data.train=[FOLDER/train_*.bin]' 'data.test=[FOLDER/val.bin]'"
            )
        distinct.add(real)


def stream(spans: Sequence[dict[str, Any]], *, vocab_size: int) -> TokenStream:
    """Return the tokens of the spans that a corpus' meta holds."""
    return TokenStream([_span(values) for values in spans], vocab_size=vocab_size)


def document_starts(spans: Sequence[dict[str, Any]], end: int | None) -> np.ndarray:
    """Return the first token of each test document, (documents,).

    They follow from Megatron's index or from the token that ends a text; where neither is known, a
    block of BLOCK tokens stands for a document.

    spans: of the test part
    end: the id that ends a text; None where it is not known
    """
    shards, first = [], 0
    for span in map(_span, spans):
        starts = span.shard.document_starts()
        if starts is not None:
            starts = starts[(starts >= span.start) & (starts < span.stop)] - span.start
        elif end is not None:
            n = span.stop - span.start
            parts = (
                np.flatnonzero(ids == end) + number * COUNTED + 1
                for number, ids in enumerate(pieces_of(span))
            )
            starts = np.concatenate([*parts])
            starts = starts[starts < n]
        else:
            starts = np.arange(0, span.stop - span.start, BLOCK)
        shards.append(np.union1d([0], starts).astype(np.int64) + first)
        first += span.stop - span.start
    return np.concatenate(shards)


def count_bytes(spans: Sequence[dict[str, Any]], vocabulary: Vocabulary) -> int:
    """Return the UTF-8 bytes of the text that the ids of a part are."""
    sizes = bytes_of_ids(vocabulary)
    return sum(int(sizes[ids].sum()) for span in map(_span, spans) for ids in pieces_of(span))


def cached_files(folder: Path, meta: dict[str, Any], vocabulary: Vocabulary | None) -> None:
    """Write what a cache keeps of a corpus: counts, documents of the test part, the vocabulary.

    folder: is there
    meta: of `read_shards`; bytes are added where the vocabulary is known
    vocabulary: of the ids, where it is known
    """
    end = vocabulary.special.end if vocabulary else None
    starts = document_starts(meta["test_spans"], end)
    np.save(folder / STARTS, starts)
    meta["test_documents"] = len(starts)
    if vocabulary:
        vocabulary.write(folder)
        meta["test_bytes"] = count_bytes(meta["test_spans"], vocabulary)
    write_json(folder / "meta.json", meta)


def pieces_of(span: Span) -> Iterator[np.ndarray]:
    """Yield the ids of a span, COUNTED at a time."""
    for at in range(span.start, span.stop, COUNTED):
        yield span.shard.read(at, min(at + COUNTED, span.stop))


def bytes_of_ids(vocabulary: Vocabulary) -> np.ndarray:
    """Return the bytes of text that each id stands for, (ids,); special tokens stand for none.

    A token of byte-level pairs has a letter for each byte. Other tokens are text in which one
    letter stands for a space, or one byte of a character, as <0xE4>.
    """
    tokenizer, sizes = vocabulary.tokenizer, np.zeros(vocabulary.n_ids, dtype=np.int64)
    added = tokenizer.get_added_tokens_decoder().values()
    special, plain = {t.content for t in added if t.special}, {t.content for t in added}
    level = "ByteLevel" in str(tokenizer.decoder)
    for token, index in tokenizer.get_vocab().items():
        if token in special or index == vocabulary.special.end:
            continue
        if level and token not in plain:
            sizes[index] = len(token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            sizes[index] = 1
        else:
            sizes[index] = len(token.replace("\u2581", " ").encode())
    return sizes


def _plain(span: Span) -> dict[str, Any]:
    """Return a span as JSON holds it."""
    shard = span.shard
    return {
        "path": str(shard.path.resolve()),
        "dtype": shard.dtype,
        "first_byte": shard.first_byte,
        "n_tokens": shard.n_tokens,
        "index": str(shard.index.resolve()) if shard.index else "",
        "start": span.start,
        "stop": span.stop,
    }


def _span(values: dict[str, Any]) -> Span:
    layout = {k: values[k] for k in ("dtype", "first_byte", "n_tokens")}
    index = Path(values["index"]) if values["index"] else None
    shard = Shard(path=Path(values["path"]), index=index, **layout)
    return Span(shard=shard, start=values["start"], stop=values["stop"])
