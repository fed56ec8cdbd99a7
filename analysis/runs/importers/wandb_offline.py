"""Offline run folders of wandb: `wandb/offline-run-*/run-*.wandb`.

The file is a log in LevelDB's format (a header of 7 bytes, blocks of 32 KiB, an unmasked CRC-32
for each piece) of wandb's protobuf records. wandb's own reader is part of its compiled
service, so the format is read here and the records by wandb's classes. A run that was killed ends
in the middle of a record: what stands before is read.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis.runs.importers.files import MOST_LOG_BYTES, below
from analysis.runs.importers.logged_run import (
    MOST_ROWS,
    History,
    LoggedRun,
    Logs,
    finite,
    flat,
    printable,
    read_each,
)
from scaling.schema import check_readable

HEADER = b":W&B"
HEADER_BYTES = 7
BLOCK = 32 << 10
PIECE = struct.Struct("<IHB")  # checksum, length, kind of a piece
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
DEEPEST = 5  # folders between the source and a file
PATTERN = "run-*.wandb"
OWN = ("_step", "_runtime", "_timestamp", "_wandb")  # keys that wandb adds itself


def recognises(path: Path) -> bool:
    """Return whether a folder is a run's or holds run folders, or a file is a run's."""
    return bool(below(path, PATTERN, deepest=DEEPEST))


def read(path: Path) -> Logs:
    """Read every run; of one run id the file that was written last."""
    files = below(path, PATTERN, deepest=DEEPEST)
    latest = {p.stem.removeprefix("run-"): p for p in sorted(files, key=lambda p: p.parent.name)}
    pb = _record_classes()
    runs, left_out = read_each(latest.items(), lambda name, p: _run(name, p, pb))
    notes = []
    if len(files) > len(latest):
        notes.append(
            f"{len(files) - len(latest)} folders hold earlier starts of the same run ids; the last"
            " start of each is read"
        )
    return Logs(
        tool="wandb", runs=runs, left_out=left_out, notes=notes, files=list(latest.values())
    )


def _record_classes() -> Any:
    """Return wandb's module of record classes; ValueError where wandb is missing."""
    try:
        from wandb.proto import wandb_internal_pb2
    except ImportError as error:
        raise ValueError(
            "wandb is not installed, which reading its runs needs; run pip install wandb"
        ) from error
    return wandb_internal_pb2


def _run(name: str, path: Path, pb: Any) -> LoggedRun:
    history, settings, summary = History(), dict[str, Any](), dict[str, Any]()
    ended, why, shown = False, "its log ends without wandb's closing record", ""
    for payload in payloads(path):
        record = pb.Record()
        try:
            record.ParseFromString(payload)
        except Exception as error:
            if type(error).__name__ != "DecodeError":  # protobuf's own class, which is not imported
                raise
            raise ValueError(f"{path.name} holds a record that is not wandb's") from error
        kind = record.WhichOneof("record_type")
        if kind == "run":
            shown = record.run.display_name
            settings |= _updates(record.run.config.update)
        elif kind == "config":
            settings |= _updates(record.config.update)
        elif kind == "history":
            row = {_key(item): _value(item) for item in record.history.item}
            step = record.history.step.num if record.history.HasField("step") else row["_step"]
            history.add(int(step), {k: v for k, v in row.items() if k not in OWN})
        elif kind == "summary":
            summary |= {_key(item): _value(item) for item in record.summary.update}
        elif kind == "exit":
            ended, why = record.exit.exit_code == 0, f"it ended with code {record.exit.exit_code}"
    summary = {k: finite(v) for k, v in summary.items() if not k.startswith(OWN)}
    return LoggedRun(
        name=printable(f"{shown} ({name})" if shown else name),
        settings=flat({k: v for k, v in settings.items() if k not in OWN}),
        history=history.values,
        summary={k: v for k, v in summary.items() if v is not None},
        last_step=history.last_step,
        ended=ended,
        why="" if ended else why,
    )


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _value(item: Any) -> Any:
    return json.loads(item.value_json)


def _updates(items: Any) -> dict[str, Any]:
    return {_key(item): _value(item) for item in items}


def payloads(path: Path) -> Iterator[bytes]:
    """Yield the records of a LevelDB log, whole ones alone.

    path: a file of at most `MOST_LOG_BYTES`

    A torn end is passed over. Raises ValueError for a file without wandb's header, and for a piece
    in the middle whose checksum is wrong.
    """
    check_readable(path, most_bytes=MOST_LOG_BYTES)
    content = path.read_bytes()
    if content[: len(HEADER)] != HEADER:
        raise ValueError(f"{path.name} does not begin as a file of wandb does")
    at, record, count = HEADER_BYTES, b"", 0
    while at + PIECE.size <= len(content):
        rest = BLOCK - at % BLOCK
        if rest < PIECE.size:  # the end of a block that no piece fits in
            at += rest
            continue
        checksum, length, kind = PIECE.unpack_from(content, at)
        piece = content[at + PIECE.size : at + PIECE.size + length]
        at += PIECE.size + length
        if len(piece) < length or kind == 0:
            return
        if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"{path.name} is damaged near byte {at:,}: a checksum is wrong")
        record = piece if kind in (FULL, FIRST) else record + piece
        if kind in (FULL, LAST):
            count += 1
            if count > MOST_ROWS:
                raise ValueError(f"{path.name} holds more than {MOST_ROWS:,} records")
            yield record
