"""Every check and figure that needs a GPU, in one command, one table and under eight minutes.

    python benchmarks/gpu.py                            # prints the table, writes gpu.md, gpu.json
    python benchmarks/gpu.py [--seconds 460] [--out FOLDER] [--only resume,m85m] [--list]
    python benchmarks/gpu.py --device cpu --tiny        # the same parts, small, where no GPU is

Correctness comes first (benchmarks/gpu_checks.py), then speed (benchmarks/gpu_speed.py). Each part
runs in a process of its own with a time limit, the most important first: one that fails, crashes,
runs out of memory or hangs is a row with its sentence, and one for which the time left is short is
a row that says so. The files are written anew after every part, in $OUT where that is set, else
beside this file. Runs from a checkout, the package installed or not.
"""

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOG_BYTES = 100_000  # of what a part that failed printed, its end, kept beside the table
SECONDS = 460  # of all parts, in seconds: eight minutes less the start and a margin
NEEDED = {  # module: the package that brings it, without which no part runs
    "torch": "torch",
    "hydra": "hydra-core==1.3.8",
    "omegaconf": "omegaconf==2.3.1",
    "antlr4": "antlr4-python3-runtime==4.9.3",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "scipy": "scipy",
}
WANTED = {"transformers": "transformers", "numba": "numba"}  # without which some rows are missing
BUILT = ("antlr4-python3-runtime",)  # packages that are published as source alone
FETCH = (
    "python -m pip download --no-deps --only-binary=:all: --python-version 3.12 "
    "--platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; a later one of the same part and `what` takes its place.

    `status` is ok, failed or skipped; `numbers` are what the text says, for programs.
    """

    part: str
    what: str
    status: str
    text: str
    numbers: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the benchmark: its function, and the seconds that it may take.

    With less than `least` seconds left it is not begun.
    """

    name: str
    work: "Callable[[Job], None]"
    seconds: float
    least: float = 8.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a part is given: where and how large it runs, until when, and where its rows go.

    `until` is of time.monotonic; `folder` is shared by all parts.
    """

    part: str
    device: str
    tiny: bool
    folder: Path
    until: float

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.until - time.monotonic()

    @property
    def rows(self) -> Path:
        """The file of the part's rows."""
        return self.folder / f"{self.part}.rows.jsonl"

    def row(self, what: str, status: str, text: str, **numbers: float) -> None:
        """Add a row, at once: what comes after may crash."""
        row = Row(part=self.part, what=what, status=status, text=text, numbers=numbers)
        with self.rows.open("a") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")

    def check(self, what: str, found: float, tolerance: float, text: str) -> None:
        """Add a row that says whether a difference is within its tolerance; NaN is not."""
        said = f"{text}: {found:.2g}, at most {tolerance:.2g} allowed"
        status = "ok" if found <= tolerance else "failed"
        self.row(what, status, said, found=found, tolerance=tolerance)

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Make a row of an error, so that the rest of the part goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  said in the table
            traceback.print_exc()
            self.row(what, "failed", one_line(error))


def one_line(error: BaseException) -> str:
    """Return an error's kind and its first words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def absent(modules: dict[str, str]) -> list[str]:
    """Return the packages of modules that are not here."""
    return [p for m, p in modules.items() if importlib.util.find_spec(m) is None]


def how_to_fetch(packages: Sequence[str]) -> str:
    """Return the commands that bring packages to a machine without a network."""
    built = [p for p in packages if p.startswith(BUILT)]
    ready = [p for p in packages if p not in built]
    lines = [f"{FETCH} {' '.join(ready)}"] if ready else []
    lines += [f"python -m pip wheel --no-deps -w wheels {' '.join(built)}"] if built else []
    return (
        f"where a network is: {' && '.join(lines)}; then here: python -m pip install --no-index "
        f"--no-deps --find-links wheels {' '.join(packages)}"
    )


def enter(part: Part, job: Job) -> None:
    """Be the process of a part: everything that it prints goes to a file."""
    os.setsid()
    log = os.open(job.folder / f"{part.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    try:
        part.work(job)
    except BaseException as error:  # noqa: BLE001  said in the table
        traceback.print_exc()
        job.row(part.name, "failed", one_line(error))
    sys.stderr.flush()
    os._exit(0)  # threads and servers of what it started are not waited for


def run_part(part: Part, job: Job) -> list[Row]:
    """Run a part in a process of its own; return its rows, a bad end of its process among them."""
    process = multiprocessing.get_context("fork").Process(target=enter, args=(part, job))
    began = time.monotonic()
    process.start()
    assert process.pid
    process.join(max(0.0, job.left))
    ended, seconds = process.exitcode, time.monotonic() - began
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started too
    process.join()
    rows = read_rows(job.rows)
    if ended is None:
        text = f"not done after {seconds:.0f} s, its limit; what it printed: gpu-{part.name}.log"
    elif ended:
        text = f"its process ended with {ended}; what it printed: gpu-{part.name}.log"
    else:
        return rows
    return [*rows, Row(part=part.name, what=part.name, status="failed", text=text, numbers={})]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a part, the last of each name."""
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return list({row.what: row for row in rows}.values())


def run_parts(parts: Sequence[Part], options: argparse.Namespace, folder: Path) -> list[Row]:
    """Run parts while the time lasts; return all rows, which are written after each part."""
    began, rows = time.monotonic(), missing_rows()
    seconds: dict[str, float] = {}
    for part in parts:
        left = began + options.seconds - time.monotonic()
        if left < part.least:
            text = f"{left:.0f} s left, {part.least:.0f} needed; --only {part.name} runs it alone"
            found = [Row(part=part.name, what=part.name, status="skipped", text=text, numbers={})]
        else:
            until = time.monotonic() + min(left, part.seconds)
            job = Job(
                part=part.name,
                device=options.device,
                tiny=options.tiny,
                folder=folder,
                until=until,
            )
            start = time.monotonic()
            found = run_part(part, job)
            seconds[part.name] = round(time.monotonic() - start, 1)
        rows += found
        for row in found:
            print(line(row), flush=True)
        write(rows, options, seconds)
        log = folder / f"{part.name}.log"
        if log.is_file() and any(row.status == "failed" for row in found):
            (options.out / f"gpu-{log.name}").write_bytes(log.read_bytes()[-LOG_BYTES:])
    return rows


def missing_rows() -> list[Row]:
    """Return a row a package that is missing, with the command that fetches it."""
    return [
        Row(part="packages", what=p, status="skipped", text=how_to_fetch([p]), numbers={})
        for p in absent(WANTED)
    ]


def line(row: Row) -> str:
    """Return a row as a line of a Markdown table."""
    text = " ".join(row.text.split()).replace("|", "/")
    return f"| {row.part} | {row.what} | {row.status} | {text} |"


def write(rows: Sequence[Row], options: argparse.Namespace, seconds: dict[str, float]) -> None:
    """Write gpu.md and gpu.json; `seconds` are those of each part."""
    count = {s: sum(r.status == s for r in rows) for s in ("ok", "failed", "skipped")}
    summary = ", ".join(f"{n} {s}" for s, n in count.items())
    whole = sum(seconds.values())
    head = f"{summary}, {whole:.0f} s, device {options.device}{', tiny' * options.tiny}"
    table = ["| part | what | status | result |", "|---|---|---|---|", *map(line, rows)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.md").write_text("\n".join([head, "", *table, ""]))
    body: dict[str, Any] = {**count, "device": options.device, "tiny": options.tiny}
    body |= {"seconds": whole, "part_seconds": seconds, "rows": [asdict(r) for r in rows]}
    (options.out / "gpu.json").write_text(json.dumps(body, indent=1) + "\n")


def all_parts() -> list[Part]:
    """Return the parts, the most important first."""
    import gpu_checks
    import gpu_speed

    return [
        Part(name=name, work=work, seconds=seconds, least=least)
        for name, work, seconds, least in (*gpu_checks.PARTS, *gpu_speed.PARTS)
    ]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small models and few rounds")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all parts together")
    parser.add_argument("--only", default="", help="names of parts, separated by commas")
    parser.add_argument("--list", action="store_true", help="print the parts and end")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or HERE))
    return parser.parse_args()


def main() -> int:
    """Run the parts; 1 where one failed."""
    options = parse()
    if missing := absent(NEEDED):
        print(f"{', '.join(missing)} missing; {how_to_fetch(missing)}", file=sys.stderr)
        return 1
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
    os.environ |= {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    parts = all_parts()
    known = [p.name for p in parts]
    names = [n for n in options.only.split(",") if n] or known
    if options.list:
        print(*known, sep="\n")
        return 0
    if unknown := sorted(set(names) - set(known)):
        choices = ", ".join(known)
        print(f"--only={unknown[0]} is no part; choose among {choices}", file=sys.stderr)
        return 2
    print("| part | what | status | result |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="scaling-gpu-") as folder:
        rows = run_parts([p for p in parts if p.name in names], options, Path(folder))
    failed = sum(r.status == "failed" for r in rows)
    print(f"{len(rows)} rows, {failed} failed; {options.out}/gpu.md, {options.out}/gpu.json")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
