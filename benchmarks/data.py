"""Tokenise a large corpus: seconds, megabytes a second, and the memory that it takes.

    python benchmarks/data.py [--megabytes 100 300 1000] [--format jsonl] [--folder FOLDER]

The text is the standard library's own: documents of 20 to 200 lines, each line with one word
changed, so that documents differ as those of a crawl do, and one document in fifty is a copy of
another with a tenth of its lines changed. It is written once to FOLDER. Each size is then built
from nothing in a process of its own, as `python -m scaling.corpus` builds it; the memory is the
sum over its processes of what each holds for itself (PSS), at its largest, sampled every 50 ms.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from scaling.data.documents import stdlib_files


def documents(megabytes: float) -> Iterator[str]:
    """Yield made documents of that many bytes together."""
    rng = random.Random(0)
    lines = [s for f in stdlib_files() for s in f.read_text(errors="replace").split("\n") if s]
    words = sorted({w for line in lines for w in line.split() if w.isalpha()})
    left, kept = megabytes * 1e6, []
    while left > 0:
        if kept and rng.random() < 0.02:
            found = rng.choice(kept).split("\n")
        else:
            start = rng.randrange(len(lines))
            found = [vary(s, words, rng) for s in lines[start : start + rng.randint(20, 200)]]
        for index in rng.sample(range(len(found)), len(found) // 10):
            found[index] = vary(found[index], words, rng)
        text = "\n".join(found)
        kept = [*kept[-999:], text]
        left -= len(text.encode())
        yield text


def vary(line: str, words: list[str], rng: random.Random) -> str:
    """Change one word."""
    found = line.split(" ")
    found[rng.randrange(len(found))] = rng.choice(words)
    return " ".join(found)


def write(folder: Path, megabytes: float, form: str) -> Path:
    """Write a corpus of a size, unless it is there."""
    path = folder / f"{megabytes:g}.{form}"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        texts = list(documents(megabytes))
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=4096)
    else:
        with path.open("w") as out:
            for text in documents(megabytes):
                out.write(f"{json.dumps({'text': text})}\n" if form == "jsonl" else f"{text}\n\n")
    return path


def memory(parent: int) -> float:
    """Return the proportional memory (MB) of a process and all that descend from it."""
    total, waiting = 0, [parent]
    while waiting:
        pid = waiting.pop()
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            held = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        waiting += [int(c) for c in children]
        anonymous = (line for line in held.splitlines() if line.startswith("Pss_Anon:"))
        total += sum(int(line.split()[1]) for line in anonymous)
    return total / 1e3


def measure(path: Path) -> tuple[float, float]:
    """Build a corpus anew and return its seconds and its largest memory (MB)."""
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        command = [sys.executable, "-m", "scaling.corpus", "data=files", f"data.train=['{path}']"]
        began, peak = time.monotonic(), 0.0
        process = subprocess.Popen([*command, f"machine.cache={cache}"])
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.05)
        if process.returncode:
            sys.exit(process.returncode)
        return time.monotonic() - began, peak


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--format", choices=("jsonl", "parquet", "txt"), default="jsonl")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "big")
    given = parser.parse_args()
    for megabytes in given.megabytes:
        path = write(given.folder, megabytes, given.format)
        seconds, peak = measure(path)
        print(
            f"{megabytes:6g} MB {given.format}: {seconds:6.1f} s, {megabytes / seconds:5.2f} MB/s, "
            f"at most {peak:6.0f} MB of memory",
            flush=True,
        )


if __name__ == "__main__":
    main()
