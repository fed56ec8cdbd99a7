"""Write three small corpora for sweeps/mixture.yaml: code, books and an encyclopaedia.

    python benchmarks/mixture_corpora.py ../shared/data/lm corpora

code is the source of the running interpreter's library, books and encyclopaedia (the articles of
WikiText-2's valid and test parts) are read from the folder of texts. Each gets NAME.jsonl to train
on and NAME_test.jsonl, whole documents each, chosen by the hash of their text.
"""

import gzip
import hashlib
import json
import lzma
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

TRAIN_BYTES, TEST_BYTES = (
    4_000_000,
    60_000,
)  # of each corpus at most, whole documents cut at the end
TEST_LENGTH = 5_000  # characters of a test document at most, so that a set holds a dozen
TEST_SHARE = 16  # one document of so many is for the test set


def code() -> Iterator[str]:
    """Yield the files of the library, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if not {"test", "tests", "site-packages", "idlelib"} & set(path.parts):
            yield path.read_text(encoding="utf-8", errors="ignore")


def books(folder: Path) -> Iterator[str]:
    """Yield parts of 20 thousand characters of books, so that a test set has several books."""
    with lzma.open(folder / "books" / "train-00.jsonl.xz", "rt", encoding="utf-8") as stream:
        for line in stream:
            text = json.loads(line)["text"]
            yield from (text[i : i + 20_000] for i in range(0, len(text), 20_000))


def encyclopaedia(folder: Path) -> Iterator[str]:
    """Yield the articles of WikiText-2: each begins with a line ` = Title = `."""
    for part in ("valid", "test"):
        with gzip.open(folder / "wikitext-2" / f"{part}.txt.gz", "rt", encoding="utf-8") as stream:
            text = stream.read()
        yield from re.split(r"(?m)^(?= = [^=].*[^=] = $)", text)


def write(name: str, documents: Iterable[str], out: Path) -> None:
    """Divide the documents of a corpus and write both parts."""
    parts: dict[str, list[str]] = {name: [], f"{name}_test": []}
    most = {name: TRAIN_BYTES, f"{name}_test": TEST_BYTES}
    texts = {hashlib.sha256(t.encode()).hexdigest(): t for t in documents if t.strip()}
    for digest in sorted(texts):
        part = f"{name}_test" if int(digest[:8], 16) % TEST_SHARE == 0 else name
        left = most[part] - sum(len(t) for t in parts[part])
        if left > 0:
            own = texts[digest] if part == name else texts[digest][:TEST_LENGTH]
            parts[part].append(own[:left])
    for part, of_part in parts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in of_part)
        (out / f"{part}.jsonl").write_text(lines, encoding="utf-8")
        sys.stdout.write(
            f"{part}: {len(of_part)} documents, {sum(map(len, of_part)):,} characters\n"
        )


def main() -> None:
    """Write the corpora."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    write("code", code(), out)
    write("books", books(folder), out)
    write("encyclopaedia", encyclopaedia(folder), out)


if __name__ == "__main__":
    main()
