"""The record of one trained cell, and the readers of records and curves.

A record is written when its run ends; `status` says how the run ended. A loss that is NaN makes the
status `diverged` and is never written as a number. A new field has a default, so that older records
stay readable (`scaling.schema.reading`).
"""

import difflib
import json
import logging
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scaling.schema.damage import set_aside
from scaling.schema.files import code_version, now, read_json, write_json
from scaling.schema.reading import LaterVersion, read_as
from scaling.schema.record_parts import Cost, Params, Status, TestSetScore
from scaling.schema.safety import check_folder, check_listable, check_readable

log = logging.getLogger(__name__)
SCHEMA = 1
MOST_CURVE_BYTES = 1 << 30  # The largest curve that is read, in bytes: about two million rows.
TRAIN_AGAIN = "run the command that trained it again, which sets the file aside"
STAGES = ("pretrain", "sft", "reward", "ppo")
FLAGS = ("undercooled", "skipped_steps", "left_forecast")
COUNTS = ("total", "non_embedding", "with_head", "active", "multiplying", "active_body")
# Readers calculate with these settings of a cell. An earlier version may lack any of them.
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
class Record:
    """One cell: what was trained, what it cost, which loss it reached."""

    run_id: str
    """Id of the cell: ten hex digits of the sha256 of the science part of its config; also its
    folder's name."""
    study: str
    """Name of the study, which is the folder below runs/."""
    stage: str = "pretrain"
    """What was trained: pretrain, sft, reward or ppo."""
    status: Status
    """How the run ended: done, diverged (the loss was no number) or failed."""
    seed: int
    """Seed of weights and of the order of the data."""
    params: Params
    """Parameter counts, one for each convention."""
    tokens: int
    """D, the tokens that the cell was trained on, a trunk's shared part included."""
    unique_tokens: int
    """Distinct tokens among them; fewer than `tokens` when data repeat."""
    flops: float
    """C, the exact training FLOPs of these tokens, forward and backward."""
    flops_6nd: float
    """The approximation 6 N D in FLOPs, N being every parameter that multiplies for a token."""
    test_loss: float | None
    """Mean loss on the test part after the last step, in nats per token; of a reward model in nats
    per pair; null without one."""
    test_loss_se: float | None
    """Standard error of `test_loss` over blocks of text, in the same unit."""
    bits_per_byte: float | None
    """`test_loss` in bits per byte of the test text; null where bytes are not known."""
    train_loss: float | None
    """Mean training loss of the last logged steps, in nats per token."""
    steps: int
    """Optimiser steps behind this loss, those of the shared part of the trunk included."""
    batch_tokens: int
    """Tokens of one optimiser step."""
    peak_lr: float
    """Largest learning rate of the schedule."""
    schedule: str
    """Name of the learning-rate schedule, as wsd or cosine."""
    trunk: str
    """Id of the trunk that the cell branched from; of a later stage, the pretrained cell."""
    seconds: float
    """Time of these steps, in seconds; in a stack of models, the cell's share."""
    device: str
    """Name of the device of one rank."""
    device_seconds: float
    """`seconds` times the number of ranks."""
    peak_memory_bytes: int
    """The most memory that one device held, in bytes."""
    tokens_per_second: float
    """Mean training speed of all ranks together, in tokens per second."""
    mfu: float | None
    """Share of the devices' peak FLOP/s that was used; null where the peak is not known."""
    config: dict[str, Any]
    """The complete settings of the cell, by group."""
    versions: dict[str, str]
    """Versions of torch, numpy, Python and this package."""
    git_sha: str | None
    """Commit of the code, with a `+` where files were edited; null outside a checkout."""
    started: str
    """When the run began, ISO 8601 in UTC."""
    ended: str
    """When the run ended, ISO 8601 in UTC."""
    error: str | None = None
    """Error text of a failed or diverged run; null otherwise."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Further numbers by name, as accuracy of a reward model or `bayes_loss` (nats per token) of a
    known source."""
    inputs: dict[str, str] = field(default_factory=dict)
    """sha256 of everything that the cell was made from, by name: corpus, tokenizer, test sets,
    other cells."""
    flags: list[str] = field(default_factory=list)
    """Warnings about the loss: `undercooled` (the learning rate was hardly lowered before the end),
    `skipped_steps` (some updates were left out), `left_forecast` (a final run left its forecast
    band twice in a row)."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows of the data that were not used, by reason: null, empty, too_long, tied, repeated,
    unscored."""
    tokenizer: str = ""
    """sha256 of the vocabulary; empty where it was not recorded or token ids were learned alone."""
    test_sets: dict[str, TestSetScore] = field(default_factory=dict)
    """Losses on the named test sets of eval.sets, by name."""
    schema: int = SCHEMA
    """Version of this layout."""

    def __post_init__(self) -> None:
        """Raise ValueError for a word, path or setting that no reader can use."""
        check_folder("run_id", self.run_id)
        _expect("schema", self.schema, (SCHEMA,))
        _expect("status", self.status, tuple(Status))
        _expect("stage", self.stage, STAGES)
        for flag in self.flags:
            _expect("flag", flag, FLAGS)
        if self.status == "done" and self.stage == "pretrain" and self.test_loss is None:
            raise ValueError(f"record {self.run_id} is done but has no test_loss")
        _check_settings(self.config)

    @classmethod
    def of_cell(
        cls,
        cost: Cost,
        *,
        run_id: str,
        study: str,
        stage: str,
        status: Status,
        seed: int,
        params: Params,
        tokens: int,
        batch_tokens: int,
        peak_lr: float,
        schedule: str,
        trunk: str,
        config: dict[str, Any],
        started: str,
        unique_tokens: int = 0,
        flops: float = 0.0,
        test_loss: float | None = None,
        test_loss_se: float | None = None,
        bits_per_byte: float | None = None,
        train_loss: float | None = None,
        error: str | None = None,
        metrics: dict[str, float] | None = None,
        inputs: dict[str, str] | None = None,
        flags: list[str] | None = None,
        left_out: dict[str, int] | None = None,
        test_sets: dict[str, TestSetScore] | None = None,
        versions: dict[str, str] | None = None,
    ) -> "Record":
        """Return the record of a cell whose run ends now.

        The arguments are the fields of the record; what every cell has in common is filled in here:
        speed, 6 N D, versions, commit and end.

        cost: what the training took; `tokens` and `flops` beside it are those of the whole cell
        started: when the run began, ISO 8601 in UTC
        versions: versions of the libraries; None for those that are installed
        """
        return cls(
            run_id=run_id,
            study=study,
            stage=stage,
            status=status,
            seed=seed,
            params=params,
            tokens=tokens,
            unique_tokens=unique_tokens,
            flops=flops,
            flops_6nd=6.0 * params.multiplying * tokens,
            test_loss=test_loss,
            test_loss_se=test_loss_se,
            bits_per_byte=bits_per_byte,
            train_loss=train_loss,
            steps=cost.steps,
            batch_tokens=batch_tokens,
            peak_lr=peak_lr,
            schedule=schedule,
            trunk=trunk,
            seconds=cost.seconds,
            device=cost.device,
            device_seconds=cost.seconds * cost.ranks,
            peak_memory_bytes=cost.peak_memory_bytes,
            tokens_per_second=cost.tokens_per_second,
            mfu=cost.mfu,
            config=config,
            versions=_versions() if versions is None else versions,
            git_sha=code_version()["git_sha"],
            started=started,
            ended=now(),
            error=error,
            metrics=metrics or {},
            inputs=inputs or {},
            flags=flags or [],
            left_out=left_out or {},
            tokenizer=(inputs or {}).get("tokenizer", ""),
            test_sets=test_sets or {},
        )

    def write(self, path: str | Path) -> Path:
        """Write the record atomically; non-finite numbers raise ValueError."""
        return write_json(path, asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Record":
        """Build a record of this version or an earlier one; ValueError names what does not fit."""
        return _from_values(values, "the record")

    def setting(self, *keys: str) -> Any:
        """Return a value of the cell's config by its keys; ValueError where the config has none.

        The config of a stage after pretraining holds the plan of the stage and, under `cell`, the
        config of the pretrained cell: the value is the cell's.
        """
        value: Any = self.config.get("cell", self.config)
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise ValueError(
                    f"the record of {self.study}/{self.run_id} has no config.{'.'.join(keys)};"
                    f" {TRAIN_AGAIN}"
                )
            value = value[key]
        return value


def _versions() -> dict[str, str]:
    """Return the versions that numbers depend on, from the installed packages: no torch here."""
    return {
        "torch": version("torch"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "scaling": code_version()["version"] or "",
    }


def _from_values(values: Any, source: str | Path) -> Record:
    return read_as(Record, values, source=source, noun="record", fix=TRAIN_AGAIN, schema=SCHEMA)


def _check_settings(config: dict[str, Any]) -> None:
    """Refuse a config with a block that is no mapping, or with text where a number belongs."""
    cell = _block(config, "cell") if "cell" in config else config
    for name, block in (("plan", config), ("before", config), *((n, cell) for n in NUMBERS)):
        _block(block, name)
    for name in _block(config, "before"):
        _block(_block(config, "before"), name)
    for block, names in NUMBERS.items():
        values = _block(cell, block)
        for name in names:
            value = values.get(name)
            if not (value is None or isinstance(value, int | float)):
                raise ValueError(f"record config.{block}.{name} is no number; {TRAIN_AGAIN}")


def _block(config: dict[str, Any], name: str) -> dict[str, Any]:
    block = config.get(name)
    if not (block is None or isinstance(block, dict)) or (block is None and name in config):
        raise ValueError(f"record config.{name} holds no settings; {TRAIN_AGAIN}")
    return block or {}


def _expect(name: str, value: Any, legal: tuple[Any, ...]) -> None:
    if value not in legal:
        raise ValueError(
            f"record {name} is {value!r}; legal values are {', '.join(map(str, legal))}"
        )


def read_record(path: str | Path) -> Record:
    """Read one record.json; raises ValueError naming the file and what is wrong with it."""
    return _from_values(read_json(path), path)


def find_record(path: str | Path) -> Record | None:
    """Read a record for a caller who may train the cell again; None where it is missing or damaged.

    A record of a later version is not damaged: it raises ValueError.
    """
    try:
        return read_record(path)
    except FileNotFoundError:
        return None
    except LaterVersion:
        raise
    except ValueError:
        return None


def discard_record(path: str | Path) -> None:
    """Remove the record of a cell before it is trained again; set aside one that is damaged."""
    path = Path(path)
    try:
        read_record(path)
    except FileNotFoundError:
        return
    except LaterVersion:
        raise
    except ValueError as error:
        set_aside(path, str(error))
    else:
        path.unlink(missing_ok=True)


def no_study(folder: Path) -> FileNotFoundError:
    """Return the error for a missing study folder; it names a folder that may be meant."""
    return FileNotFoundError(
        f"no study folder {folder}{near_path(folder)}; run the sweep first or check the path"
    )


def near_path(path: Path) -> str:
    """Suggest a similar name, from the folder of a missing path or from runs/; empty for none."""
    for parent in (path.parent, Path("runs")):
        names = [p.name for p in parent.glob("[!.]*")] if parent.is_dir() else []
        if close := difflib.get_close_matches(path.name, names, n=1, cutoff=0.75):
            return f", did you mean {parent / close[0]}?"
    return ""


def read_records(folder: str | Path) -> list[Record]:
    """Read every `<cell>/record.json` of a study, ordered by run_id.

    Cells without a record (queued, running, killed) are left out, and so are the records of a final
    run (`final/<stage>`). A record that cannot be read is left out with a warning. Raises
    FileNotFoundError for a folder that does not exist.
    """
    folder = check_listable(Path(folder))
    if not folder.is_dir():
        raise no_study(folder)
    records = []
    for path in folder.glob("*/record.json"):
        try:
            records.append(read_record(path))
        except ValueError as error:
            log.warning("left out: %s", error)
    return sorted(records, key=lambda r: r.run_id)


def read_curve(path: str | Path, *, strict: bool = False) -> list[dict[str, Any]]:
    """Read a metrics.jsonl; the torn last line of a killed writer is dropped.

    Every row holds at least `step, tokens, flops, train_loss`; a row of an evaluation holds
    `test_loss` too. A damaged line before the last one is left out with a warning. With `strict`,
    for a caller who goes on writing the curve, it raises a ValueError that names the line.
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
    """Yield for each line its number, and its row or None, and what is wrong with the line."""
    if not path.exists():
        return
    try:
        check_readable(path, most_bytes=MOST_CURVE_BYTES)
    except ValueError as error:  # reading a pipe or a device would never end
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
