"""Where the YAML of the commands lies: `conf/` of a checkout, or the copy inside a wheel."""

from functools import cache
from pathlib import Path

import scaling

PACKAGED = "_conf"  # the folder inside the package that a wheel carries


@cache
def conf_folder() -> Path:
    """Return the folder of the primary configs.

    A checkout has `conf/` beside the package that is running, and its pyproject.toml. A wheel has
    the copy inside the package. The order matters: with an editable install of one checkout, a
    command that runs the code of another reads the other's configs.
    """
    package = Path(scaling.__file__).resolve().parent
    checkout = package.parent / "conf"
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():
        return checkout
    return checkout if not (package / PACKAGED).is_dir() else package / PACKAGED
