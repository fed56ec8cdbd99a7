"""Write files so that they are whole or absent, with the mode that the umask gives.

A file is written under a temporary name in its folder and renamed once it is on the disk. The
temporary name holds the process that writes, so that files of killed processes can be removed.
"""

import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scaling.schema.process import machine_id, own_process, process_start
from scaling.schema.safety import destination

ABANDONED_SECONDS = 86_400.0  # A day: no writer pauses that long between two writes to a file.
NAME = re.compile(r"\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]{8}\.tmp$")


@contextmanager
def replacing(path: str | Path, *, advice: str = "change the folder") -> Iterator[Path]:
    """Yield a temporary path; at the end its file is flushed to the disk and renamed to `path`.

    The file has the mode that the umask gives, even if the library that writes it sets another. An
    error leaves the former file as it was. A link is followed. Raises ValueError where `path` is no
    regular file, OSError with the `advice` where it cannot be written.
    """
    file = destination(path)
    temporary = file.with_name(temporary_name(file.name))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(mode)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        about = error.filename and Path(error.filename)
        if not error.errno or (about and about != temporary and about not in file.parents):
            raise  # the error is of another file, which the caller read
        raise OSError(f"cannot write {path}: {error.strerror}; free space or {advice}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_name(name: str) -> str:
    """Return a hidden file name that holds the process that writes it."""
    pid, started = own_process()
    return f".{name}.{_machine()}-{pid}-{started}-{uuid.uuid4().hex[:8]}.tmp"


def sweep_temporaries(*folders: Path) -> None:
    """Remove temporary files of dead writers from folders, not from the folders below them.

    Any process may call this at any time. A temporary file of this machine is removed once the
    process in its name is gone. The writer of another machine, or of an earlier version, cannot be
    seen from here: its file is removed once nobody has written to it for a day.
    """
    for folder in folders:
        with suppress(OSError):
            files = [e for e in os.scandir(folder) if e.name[0] == "." and e.name.endswith(".tmp")]
            for entry in filter(_abandoned, files):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        Path(entry.path).unlink()


def _abandoned(entry: os.DirEntry[str]) -> bool:
    writer = NAME.search(entry.name)
    if writer and writer["machine"] == _machine() and machine_id():
        return process_start(int(writer["pid"])) != int(writer["started"])
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED_SECONDS
    except OSError:
        return False


def _machine() -> str:
    return hashlib.sha256(machine_id().encode()).hexdigest()[:8]
