"""A folder of two small tables, one broken file and one that is no table of runs."""

from pathlib import Path

import pandas as pd
import pytest

from tests.analysis.conftest import LAWS, isoflop_table

BUDGETS = tuple(1e18 * 4.0**i for i in range(7))
HOSTILE = "<script>alert(1)</script>"


def write_tables(folder: Path) -> Path:
    """Write the tables into a folder and return it."""
    folder.mkdir(exist_ok=True)
    one = isoflop_table(LAWS["besiroglu"], budgets=BUDGETS, n=5, noise=0.003)
    one.to_csv(folder / "one.csv", index=False)
    parts = [
        isoflop_table(LAWS[law], budgets=BUDGETS, n=5, noise=0.003, seed=i).assign(group=group)
        for i, (law, group) in enumerate((("besiroglu", HOSTILE), ("steep_in_data", "plain")))
    ]
    pd.concat(parts).to_csv(folder / "two & <b>.csv", index=False)
    (folder / "broken.csv").write_bytes(b"\x80\x81\xff,,\n")
    (folder / "other.jsonl").write_text('{"a": 1}\n')
    (folder / "README.txt").write_text("no table")
    return folder


@pytest.fixture(scope="session")
def tables(tmp_path_factory) -> Path:
    return write_tables(tmp_path_factory.mktemp("tables") / "tables")
