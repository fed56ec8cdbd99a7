"""The code that a queued job runs: a copy of the packages as they were when it was submitted.

`runs/NAME/.jobs/code-<hash>/` is named by its content and made once; jobs put it first on their
path. `snapshot.json` in it says the version and commit, so that records name the submitted code.
The YAML comes along: from a checkout as conf/, from a wheel inside the package.
"""

import hashlib
import shutil
import uuid
from pathlib import Path

import scaling
from scaling.app.conf_folder import conf_folder
from scaling.schema import SNAPSHOT, code_version, write_json

PLUGINS = "hydra_plugins/scaling_*"  # beside them lie those of other projects, in site-packages
KEPT = (".py", ".yaml")


def source_files() -> dict[str, Path]:
    """List the files that make up the code, by their path from its root."""
    root = Path(scaling.__file__).resolve().parent.parent
    folders = [root / "scaling", *root.glob(PLUGINS)]
    if conf_folder().parent == root:  # else it lies inside the package
        folders.append(conf_folder())
    return {
        str(p.relative_to(root)): p
        for folder in sorted(folders)
        for p in sorted(folder.rglob("*"))
        if p.suffix in KEPT and p.is_file()
    }


def take_snapshot(folder: Path) -> Path:
    """Copy the code into `folder` unless that content is there; return where it is.

    A study may come from somebody else: a folder that bears the name of our code must hold it, and
    what Python and numba compiled beside it is made again.
    """
    files = source_files()
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    target = folder.resolve() / f"code-{digest.hexdigest()[:12]}"
    if target.is_dir():
        check_snapshot(target, files)
        return target
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    for name, path in files.items():
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, temporary / name)
    write_json(temporary / SNAPSHOT, code_version())
    try:
        temporary.rename(target)
    except OSError:  # another sweep made the same one meanwhile
        shutil.rmtree(temporary)
    return target


def check_snapshot(folder: Path, files: dict[str, Path]) -> None:
    """Raise ValueError unless a snapshot holds these files and no other; drop what was compiled."""
    for compiled in [p for p in folder.rglob("__pycache__") if p.is_dir()]:
        shutil.rmtree(compiled, ignore_errors=True)
    present = {str(p.relative_to(folder)): p for p in folder.rglob("*") if not p.is_dir()}
    present.pop(SNAPSHOT, None)
    same = present.keys() == files.keys() and all(
        not present[name].is_symlink() and present[name].read_bytes() == path.read_bytes()
        for name, path in files.items()
    )
    if not same or any(p.is_symlink() for p in folder.rglob("*")):
        raise ValueError(
            f"{folder} bears the name of this version's code and holds something else; look at it,"
            " then delete it"
        )
