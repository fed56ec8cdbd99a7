"""Where the files of a cell lie, and what its record says of its state."""

from pathlib import Path

from scaling.config import CellConfig
from scaling.schema import Status, find_record
from scaling.study.states import CellState


def study_folder(cell: CellConfig) -> Path:
    """Return the folder of a cell's study."""
    return Path(cell.runs) / cell.study


def cell_folder(cell: CellConfig) -> Path:
    """Return the folder of a cell's files."""
    return Path(cell.runs) / cell.study / cell.run_id()


def trunk_folder(cell: CellConfig) -> Path:
    """Return the folder of the shared part of a cell's trunk."""
    return Path(cell.runs) / cell.study / ".trunks" / cell.trunk_id()


def record_path(cell: CellConfig) -> Path:
    """Return the path of a cell's record, which may not exist yet."""
    return cell_folder(cell) / "record.json"


def status_of(cell: CellConfig) -> CellState:
    """Return the status of a cell's record; `missing` or `damaged` where there is none to read."""
    path = record_path(cell)
    if not path.is_file():
        return CellState.MISSING
    record = find_record(path)
    return CellState(record.status) if record else CellState.DAMAGED


def trained_at(cell: CellConfig) -> Path | None:
    """Return the folder with the done record of a cell, in its own study or another of `runs`."""
    others = sorted(Path(cell.runs).glob(f"*/{cell.run_id()}/record.json"))
    for path in (record_path(cell), *others):
        record = find_record(path)
        if record and record.status == Status.DONE:
            return path.parent
    return None
