"""The user's own YAML: `sweeps/` and `conf/` of the current folder, found before ours.

A file of the same name as one of ours wins. The rest of the current folder is no place of configs:
a folder `runs` would make `runs=` a choice of files. For the same reason a folder of `conf/` that
bears the name of a plain setting (`device`, `plan`) is left out, and a file of `conf/` replaces one
of ours only if its defaults list names our schema: other programs keep a `conf/` as well.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any, get_args, get_type_hints

from scaling.app.conf_folder import conf_folder

SWEEPS = "sweeps"
_settings: set[str] = set()  # top-level settings of the commands that are values, no sections


def add_settings(schema: type) -> None:
    """Remember which settings of a command are plain values and so no groups of files."""
    _settings.update(k for k, kind in get_type_hints(schema).items() if not _is_section(kind))


def _is_section(kind: Any) -> bool:
    return any(map(dataclasses.is_dataclass, (kind, *get_args(kind))))


def own_roots() -> dict[str, Path]:
    """Return the user's folders by the group they hold, `` for conf/; none that is ours."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the current folder was deleted
        return {}
    ours = conf_folder()
    pairs = {SWEEPS: (here / SWEEPS, ours / SWEEPS), "": (here / "conf", ours)}
    return {
        group: own
        for group, (own, our) in pairs.items()
        if os.path.isdir(own) and own.resolve() != our.resolve()
    }


def own_paths(path: str) -> list[Path]:
    """Return where the user may have a config or group, first what wins.

    path: as Hydra names it, `model/mine` or `sweeps`
    """
    roots = own_roots()
    top, _, rest = path.partition("/")
    places = [roots[SWEEPS] / rest] if top == SWEEPS and SWEEPS in roots else []
    if "" in roots and not (_is_setting(top) and os.path.isdir(roots[""] / top)):
        places.append(roots[""] / path)
    return places


def own_file(path: str) -> Path | None:
    """Return the user's file of a config, as `model/mine` or `model/mine.yaml`; None for none."""
    name = path if path.endswith(".yaml") else f"{path}.yaml"
    return next((p for p in own_paths(name) if p.is_file() and not _is_foreign(name, p)), None)


def own_folders(path: str) -> list[Path]:
    """Return the user's folders of a group."""
    return [p for p in own_paths(path) if os.path.isdir(p)]


def choices(group: str) -> dict[str, Path]:
    """Return the files of a group by name, the user's before ours."""
    folders = [conf_folder() / group, *reversed(own_folders(group))]
    files = {p.stem: p for folder in folders for p in folder.glob("*.yaml")}
    return dict(sorted(files.items()))


def groups() -> set[str]:
    """Name the groups of conf/, whose choices are files; ours and the user's."""
    roots = own_roots()
    folders = [conf_folder(), *([roots[""]] if "" in roots else [])]
    names = {p.name for folder in folders for p in folder.iterdir() if p.is_dir()} | {SWEEPS}
    return {name for name in names if choices(name)} - {"examples"}


def _is_setting(name: str) -> bool:
    """Say whether a name is a plain setting of a command and no group of ours."""
    return name in _settings and not (conf_folder() / name).is_dir()


def _is_foreign(name: str, file: Path) -> bool:
    """Say whether a file bears the name of a command's config and is that of another program."""
    if "/" in name or not (conf_folder() / name).is_file():
        return False
    return f"schema_{file.stem}" not in file.read_text("utf-8", "replace")
