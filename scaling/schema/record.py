"""The record of one trained cell, and the readers of records and curves.

A record exists once its run has ended, and `status` says how. Fields and units are in the
dataclass; a NaN is a status, never a number. A field that is added has a default, for the records
that are older than it (`scaling.schema.reading`).
"""

import difflib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scaling.schema.damage import set_aside
from scaling.schema.files import read_json, write_json
from scaling.schema.reading import Later, read_as
from scaling.schema.safety import check_folder, listable, readable

log = logging.getLogger(__name__)
SCHEMA = 1
MOST_CURVE_BYTES = 1 << 30  # of one curve: two million rows
TRAIN_AGAIN = "run the command that trained it again, which sets the file aside"
STATUSES = ("done", "diverged", "failed")
STAGES = ("pretrain", "sft", "reward", "ppo")
FLAGS = ("undercooled", "skipped_steps", "left_forecast")
COUNTS = ("total", "non_embedding", "with_head", "active", "multiplying", "active_body")
# Settings of a cell that readers calculate with; an earlier version may lack any of them.
NUMBERS = {
    "model": (
        *("n_layer", "d_model", "d_head", "n_head", "n_kv_head", "d_ff", "n_experts", "top_k"),
        *("d_expert", "n_shared_experts", "base_width", "base_depth", "base_head"),
    ),
    "optim": (
        *("peak_lr", "batch_tokens", "lr_base", "lr_base_width", "lr_width_exponent"),
        *("lr_embedding", "batch_base", "batch_base_params", "batch_exponent", "weight_decay"),
    ),
    "schedule": ("warmup_steps", "decay", "floor"),
    "data": ("context", "unique_tokens"),
    "tokenizer": ("vocab_size",),
    "budget": ("flops", "n_tokens", "tokens_per_param"),
    "machine": ("ranks", "micro_batch"),
}


@dataclass(frozen=True, kw_only=True)
class Params:
    """Parameter counts under the conventions of the field.

    `non_embedding` is Kaplan's N; `with_head` counts every matrix that multiplies (Porian et al.
    2024), so the head but no lookup; `active` is what one token passes through: all but the experts
    that are not chosen.
    """

    total: int
    non_embedding: int
    with_head: int
    active: int

    @property
    def multiplying(self) -> int:
        """The N of 6 N D: what multiplies for one token, head included."""
        return self.with_head - (self.total - self.active)

    @property
    def active_body(self) -> int:
        """The non-embedding parameters of one token: what the batch rule goes by."""
        return self.non_embedding - (self.total - self.active)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One cell: what was trained, what it cost, what it reached.

    `flags` say what a reader of the loss should know: `undercooled` when the learning rate was
    hardly lowered before the end, `skipped_steps` when some updates were left out, `left_forecast`
    when a final run left the band of its forecast twice in a row. `left_out` counts what of the
    data was not used, by reason: null, empty, too_long, tied, repeated, unscored.
    """

    run_id: str
    study: str
    stage: str = "pretrain"
    status: str
    seed: int
    params: Params
    tokens: int
    unique_tokens: int
    flops: float
    flops_6nd: float
    test_loss: float | None
    test_loss_se: float | None
    bits_per_byte: float | None
    train_loss: float | None
    steps: int
    batch_tokens: int
    peak_lr: float
    schedule: str
    trunk: str
    seconds: float
    device: str
    device_seconds: float
    peak_memory_bytes: int
    tokens_per_second: float
    mfu: float | None
    config: dict[str, Any]
    versions: dict[str, str]
    git_sha: str | None
    started: str
    ended: str
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse a status, stage or schema that no reader knows, a path, settings of no type."""
        check_folder("run_id", self.run_id)
        _expect("schema", self.schema, (SCHEMA,))
        _expect("status", self.status, STATUSES)
        _expect("stage", self.stage, STAGES)
        for flag in self.flags:
            _expect("flag", flag, FLAGS)
        if self.status == "done" and self.stage == "pretrain" and self.test_loss is None:
            raise ValueError(f"record {self.run_id} is done but has no test_loss")
        _check_settings(self.config)

    def write(self, path: str | Path) -> Path:
        """Write the record atomically; non-finite numbers raise ValueError."""
        return write_json(path, asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Record":
        """Build a record of this version or an earlier one; ValueError names what does not fit."""
        return _built(values, "the record")

    def setting(self, *keys: str) -> Any:
        """Return a value of the cell's config by its keys; ValueError where it is not held.

        The config of a stage after pretraining holds its plan beside the cell's.
        """
        found: Any = self.config.get("cell", self.config)
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                raise ValueError(
                    f"the record of {self.study}/{self.run_id} has no config.{'.'.join(keys)};"
                    f" {TRAIN_AGAIN}"
                )
            found = found[key]
        return found


def _built(values: Any, source: str | Path) -> Record:
    return read_as(Record, values, source=source, noun="record", fix=TRAIN_AGAIN, schema=SCHEMA)


def _check_settings(config: dict[str, Any]) -> None:
    """Refuse a config whose blocks are none, or whose numbers are no numbers."""
    cell = _block(config, "cell") if "cell" in config else config
    for name, block in (("plan", config), ("before", config), *((n, cell) for n in NUMBERS)):
        _block(block, name)
    for name in _block(config, "before"):
        _block(_block(config, "before"), name)
    for block, names in NUMBERS.items():
        for name in names:
            value = _block(cell, block).get(name)
            if not (value is None or isinstance(value, int | float)):
                raise ValueError(f"record config.{block}.{name} is no number; {TRAIN_AGAIN}")


def _block(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    if not (found is None or isinstance(found, dict)) or (found is None and name in config):
        raise ValueError(f"record config.{name} holds no settings; {TRAIN_AGAIN}")
    return found or {}


def _expect(name: str, value: Any, legal: tuple[Any, ...]) -> None:
    if value not in legal:
        raise ValueError(
            f"record {name} is {value!r}; legal values are {', '.join(map(str, legal))}"
        )


def read_record(path: str | Path) -> Record:
    """Read one record.json; raises ValueError naming the file and what is wrong with it."""
    return _built(read_json(path), path)


def find_record(path: str | Path) -> Record | None:
    """Read a record for one who may train it again; None where it is missing or damaged.

    ValueError for one of a later version, which is not damaged.
    """
    try:
        return read_record(path)
    except FileNotFoundError:
        return None
    except Later:
        raise
    except ValueError:
        return None


def discard_record(path: str | Path) -> None:
    """Remove the record of a cell that is trained again; set it aside where it is damaged."""
    path = Path(path)
    try:
        read_record(path)
    except FileNotFoundError:
        return
    except Later:
        raise
    except ValueError as error:
        set_aside(path, str(error))
    else:
        path.unlink(missing_ok=True)


def no_study(folder: Path) -> FileNotFoundError:
    """Return the error of a study folder that is not there, with the one that may be meant."""
    return FileNotFoundError(
        f"no study folder {folder}{near_path(folder)}; run the sweep first or check the path"
    )


def near_path(path: Path) -> str:
    """Name what has a like name in the folder of a missing path, or in runs/; empty for none."""
    for parent in (path.parent, Path("runs")):
        names = [p.name for p in parent.glob("[!.]*")] if parent.is_dir() else []
        if close := difflib.get_close_matches(path.name, names, n=1, cutoff=0.75):
            return f", did you mean {parent / close[0]}?"
    return ""


def read_records(folder: str | Path) -> list[Record]:
    """Read every `<cell>/record.json` of a study, ordered by run_id.

    Cells without a record (queued, running, killed) are not there yet; a record that cannot be read
    is left out, which is said. Raises FileNotFoundError for a folder that does not exist. Records
    of a final run (`final/<stage>`) are left out.
    """
    folder = listable(Path(folder))
    if not folder.is_dir():
        raise no_study(folder)
    found = []
    for path in folder.glob("*/record.json"):
        try:
            found.append(read_record(path))
        except ValueError as error:
            log.warning("left out: %s", error)
    return sorted(found, key=lambda r: r.run_id)


def read_curve(path: str | Path, *, strict: bool = False) -> list[dict[str, Any]]:
    """Read a metrics.jsonl; a torn last line (a killed writer) is dropped.

    Rows hold at least `step, tokens, flops, train_loss`; those of an evaluation `test_loss` too. A
    damaged line before the last one is left out, which is said; `strict` readers, who go on writing
    the curve, get a ValueError that names it.
    """
    path, rows = Path(path), []
    for number, row, why in _rows(path):
        if strict and row is not None and not isinstance(row.get("step"), int):
            row, why = None, "has no step"
        if row is not None:
            rows.append(row)
        elif strict:
            raise ValueError(f"{path}: line {number} {why}")
        else:
            log.warning("%s: line %d %s; it is left out", path, number, why)
    return rows


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None, str]]:
    """Go through the lines: number, row, or None and what is wrong."""
    if not path.exists():
        return
    try:
        readable(path, most_bytes=MOST_CURVE_BYTES)
    except ValueError as error:  # a pipe or device would never end
        yield 1, None, f"cannot be read ({error})"
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line, parse_constant=lambda name: None)  # NaN, of earlier versions
        except (ValueError, RecursionError) as error:
            if number < len(lines):
                yield number, None, f"is not JSON ({error})"
            continue
        if isinstance(row, dict):
            yield number, row, ""
        else:
            yield number, None, "is no row"
