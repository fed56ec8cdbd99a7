"""Set aside files that a crash, a full disk or a user has damaged.

A damaged file is renamed, never removed: `record.json` becomes `record.damaged-1.json`. Only the
process that holds the lease of the work renames; readers warn of what they leave out and go on.
"""

import itertools
import logging
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


def set_aside(path: str | Path, why: str) -> Path:
    """Rename a damaged file or folder to `<stem>.damaged-N<suffix>` and log a warning with `why`.

    N is the first free number. It is no error if another process has just renamed the file.
    """
    path = Path(path)
    names = (f"{path.stem}.damaged-{n}{path.suffix}" for n in itertools.count(1))
    target = next(t for t in map(path.with_name, names) if not t.exists())
    with suppress(FileNotFoundError):
        path.rename(target)
        log.warning("%s is damaged and set aside as %s: %s", path, target.name, why)
    return target
