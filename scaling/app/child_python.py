"""Processes of our own code: they import what this process imports, never the current folder.

`python -m scaling.jobs.pool` would look in the current folder first, where the user may have a
`scaling/`, `analysis.py` or `conf.py` of his own.
"""

import os
import site
import sys
from pathlib import Path

import scaling


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours, without the current folder (-P)."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """Return this process' environment, in which a child without the current folder finds our code.

    A checkout that is run in its own folder is found nowhere else. Code in site-packages is found
    without help, and PYTHONPATH would hand that folder to Pythons of another version too.
    """
    root = str(Path(scaling.__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH", "")
    places = {os.path.realpath(p) for p in (*site.getsitepackages(), site.getusersitepackages())}
    if root in places:
        return dict(os.environ)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, path]))}
