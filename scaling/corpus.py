"""Make a corpus and print what is in it: documents, tokens, copies, near-duplicates.

    scaling corpus [data=files data.train=[FOLDER] tokenizer.vocab_size=4096]

The settings are those of a sweep, and a sweep of the same text uses the same tokens. A large
corpus is read and tokenised by one process per core (`machine.workers`). The command goes on where
it was when it is started again.
"""

import sys
from dataclasses import dataclass, field

from scaling.app.application import start, store
from scaling.app.plurals import plural
from scaling.config import CellConfig, DataConfig, EvalConfig, MachineConfig, TokenizerConfig
from scaling.data.blocks import few_blocks
from scaling.data.row_text import LeftOut
from scaling.data.tokens import Corpus, open_corpus
from scaling.data.vocabulary import altered_text
from scaling.data.vocabulary_files import with_source
from scaling.schema import checked

PARTS = ("train", "test")


def describe_corpus(corpus: Corpus) -> str:
    """Return the facts about a corpus, one a line."""
    meta = corpus.meta
    lines = [f"text {corpus.sha256[:12]} with {meta['vocab_size']:,} tokens: {corpus.folder}"]
    for part in PARTS:
        documents, tokens, size = (
            meta.get(f"{part}_{k}") for k in ("documents", "tokens", "bytes")
        )
        count = f"{documents:>12,} documents" if documents else f"{'':>22}"
        sources = meta.get(f"{part}_sources")
        if documents and sources and sources < documents:
            count = f"{documents:>12,} blocks of {plural(sources, 'document')}"
        text = f"{size / 1e6:>10,.1f} MB" if size else f"{'':>13}"
        per_token = f"  {size / tokens:.3f} bytes per token" if size else ""
        lines.append(f"{part:>5}  {count}  {text}  {tokens:>14,} tokens{per_token}")
    if any(meta.get(f"{p}_sources", 0) < (meta.get(f"{p}_documents") or 0) for p in PARTS):
        lines.append(
            "a document is a file of text or a row of a table; long ones are cut into blocks, and"
            " training and test text may lie in one document"
        )
    if len(meta["part_tokens"]) > 1:
        counts = ", ".join(f"{n:,}" for n in meta["part_tokens"])
        lines.append(f"parts of the mixture: {counts} tokens")
    if meta.get("train_spans"):
        return "\n".join([*lines, "copies and near-duplicates are not looked for in token ids"])
    if blocks := meta.get("test_blocks"):
        both = meta["train_bytes"] + meta["test_bytes"] + meta["gap_bytes"]
        lines.append(
            f"test part: {meta['test_bytes'] / both:.2%} of the bytes in {blocks:,} independent "
            f"blocks; {meta['gap_bytes'] / 1e3:,.1f} kB lie in the gaps around them"
        )
    if few := few_blocks(meta):
        lines.append(f"alarm few_test_blocks: {few}")
    if altered := altered_text(meta):
        lines.append(f"alarm: {altered}")
    lines.append(f"dropped as copies of another text: {meta['dropped']:,} documents")
    if rows_left_out := LeftOut(**meta.get("left_out", {})).in_words():
        lines.append(f"rows left out: {rows_left_out}")
    meaning = (
        "test documents share most of their lines with a training document"
        if meta["own_test"]
        else "documents or blocks share most lines with another, and lie in the same part as it"
    )
    lines.append(f"near-duplicates: {meta['twins']:,} {meaning}")
    return "\n".join(lines)


@dataclass(kw_only=True)
@checked()
class CorpusConfig:
    """The text, its vocabulary, and where its tokens are kept."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    runs: str = "runs"
    """Folder of all studies; tokens are kept in its .cache, unless machine.cache names a folder."""


def main(config: CorpusConfig) -> None:
    """Make the corpus, unless it is cached, and print what is in it."""
    tokenizer = with_source(config.tokenizer)
    cell = CellConfig(**{**vars(config), "tokenizer": tokenizer})
    sys.stdout.write(f"{describe_corpus(open_corpus(cell))}\n")


store("corpus", CorpusConfig)

if __name__ == "__main__":
    start(main, config_name="corpus", schema=CorpusConfig)
