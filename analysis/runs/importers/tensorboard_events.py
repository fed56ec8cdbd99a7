"""TensorBoard's event files, read with TensorBoard's own reader.

One folder with event files is one run; its scalars are metrics by their tags. Event files hold no
configuration: torchtitan, OLMo and most others write the learning rate, and a CSV named by
logs.beside says the parameters.
"""

from pathlib import Path
from typing import Any

from analysis.runs.importers.files import MOST_LOG_BYTES, below, name_below
from analysis.runs.importers.logged_run import History, LoggedRun, Logs, read_each
from scaling.schema import check_readable

PATTERN = "*tfevents*"
FRAME_BYTES = 16  # of a record beside its event
DEEPEST = 4  # folders between the source and an event file
LOSSES = ("validation_metrics/loss", "eval/loss")


def recognises(path: Path) -> bool:
    """Return whether a folder holds event files, or a file is one."""
    return bool(below(path, PATTERN, deepest=DEEPEST))


def read(path: Path) -> Logs:
    """Read the event files of each folder as one run, in the order of their names."""
    files = below(path, PATTERN, deepest=DEEPEST)
    of_run: dict[Path, list[Path]] = {}
    for file in files:
        of_run.setdefault(file.parent, []).append(file)
    loader = _loader()
    root = path.parent if path.is_file() else path
    found = [(name_below(folder, root), paths) for folder, paths in of_run.items()]
    runs, left_out = read_each(found, lambda name, paths: _run(name, paths, loader))
    return Logs(tool="TensorBoard", runs=runs, left_out=left_out, losses=LOSSES, files=files)


def _loader() -> Any:
    """Return TensorBoard's reader of one file; ValueError where TensorBoard is missing."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    except ImportError as error:
        raise ValueError(
            "tensorboard is not installed, which reading its event files needs; run pip install"
            " tensorboard"
        ) from error
    return EventFileLoader


def _run(name: str, paths: list[Path], loader: Any) -> LoggedRun:
    history, why = History(), ""
    for path in paths:
        check_readable(path, most_bytes=MOST_LOG_BYTES)
        count = 0
        for count, event in enumerate(loader(str(path)).Load(), 1):  # noqa: B007  counted
            values = {v.tag: _scalar(v) for v in event.summary.value}
            scalars = {tag: value for tag, value in values.items() if value is not None}
            if scalars:
                history.add(int(event.step), scalars)
        if count != records_in(path):  # TensorBoard's reader stops without a word
            why = f"{path.name} is torn or damaged after event {count:,}"
    return LoggedRun(
        name=name,
        history=history.values,
        last_step=history.last_step,
        ended=False if why else None,
        why=why,
    )


def records_in(path: Path) -> float:
    """Count the records of an event file by their lengths; a half where the last one is torn.

    A record is 8 bytes of length, 4 of checksum, the event, and 4 of checksum.
    """
    size, at, count = path.stat().st_size, 0, 0
    with path.open("rb") as stream:
        while at < size:
            stream.seek(at)
            at += FRAME_BYTES + int.from_bytes(stream.read(8), "little")
            count += 1
    return count if at == size else count - 0.5


def _scalar(value: Any) -> float | None:
    """Return a summary's number; None for a text, an image or a histogram."""
    tensor = value.tensor
    if any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    for numbers in (tensor.float_val, tensor.double_val, tensor.int_val, tensor.int64_val):
        if len(numbers) == 1:
            return float(numbers[0])
    return None
