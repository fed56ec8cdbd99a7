"""The table that comes with the package: `runs=example`, 43 runs of the default study.

A law can so be fitted before anything is trained. A file or folder of the user called `example`
comes first.
"""

from pathlib import Path

import pandas as pd

EXAMPLE = "example"
TABLE = Path(__file__).with_suffix(".csv")


def example_or(source: str | Path | pd.DataFrame) -> str | Path | pd.DataFrame:
    """Return the path of the example table for `example`, any other source as it is."""
    return source if isinstance(source, pd.DataFrame) else example_path(source)


def example_path(source: str | Path) -> str | Path:
    """Return the path of the example table for `example`, any other path as it is."""
    return TABLE if str(source) == EXAMPLE and not Path(source).exists() else source
