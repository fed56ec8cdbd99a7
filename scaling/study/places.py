"""Where the files of a cell lie, and how its record stands."""

from pathlib import Path

from scaling.config import CellConfig
from scaling.schema import find_record


def study_folder(cell: CellConfig) -> Path:
    """Return the folder of a cell's study."""
    return Path(cell.runs) / cell.study


def cell_folder(cell: CellConfig) -> Path:
    """Return where a cell's files are."""
    return Path(cell.runs) / cell.study / cell.run_id()


def trunk_folder(cell: CellConfig) -> Path:
    """Return where the shared part of a cell's trunk is kept."""
    return Path(cell.runs) / cell.study / ".trunks" / cell.trunk_id()


def record_path(cell: CellConfig) -> Path:
    """Return where a cell's record is or will be."""
    return cell_folder(cell) / "record.json"


def status_of(cell: CellConfig) -> str:
    """Return the status of a cell's record, `missing` without one, `damaged` where unreadable."""
    path = record_path(cell)
    if not path.is_file():
        return "missing"
    record = find_record(path)
    return record.status if record else "damaged"


def trained_at(cell: CellConfig) -> Path | None:
    """Return the folder of a cell that is done, in its own study or another one of `runs`."""
    others = sorted(Path(cell.runs).glob(f"*/{cell.run_id()}/record.json"))
    for path in (record_path(cell), *others):
        record = find_record(path)
        if record and record.status == "done":
            return path.parent
    return None
