"""Files that a crash, a full disk or a hand has damaged: how they are told, and put aside.

What is damaged is renamed, never removed: `record.json` becomes `record.damaged-1.json`. Only the
process that holds the work renames; readers say what they leave out and go on.
"""

import itertools
import logging
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


def set_aside(path: str | Path, why: str) -> Path:
    """Rename a damaged file or folder to `<stem>.damaged-N<suffix>`, and say so in one line.

    N is the first that is free. One that another process has just put aside is no error.
    """
    path = Path(path)
    names = (f"{path.stem}.damaged-{n}{path.suffix}" for n in itertools.count(1))
    target = next(t for t in map(path.with_name, names) if not t.exists())
    with suppress(FileNotFoundError):
        path.rename(target)
        log.warning("%s is damaged and set aside as %s: %s", path, target.name, why)
    return target
