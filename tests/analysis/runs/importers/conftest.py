"""Samples of logs, copied where a test changes them."""

import shutil
import sqlite3
from pathlib import Path

import pytest

LOGS = Path(__file__).parent / "logs"


@pytest.fixture
def copy_of(tmp_path):
    """Return a function that copies the sample of a tool into the test's folder."""

    def copy(tool: str) -> Path:
        return Path(shutil.copytree(LOGS / tool, tmp_path / tool))

    return copy


@pytest.fixture
def database(tmp_path) -> Path:
    """MLflow's database, from the tables that MLflow made."""
    path = tmp_path / "mlflow.db"
    store = sqlite3.connect(path)
    store.execute("PRAGMA synchronous = OFF")
    store.executescript((LOGS / "mlflow" / "mlflow.sql").read_text("utf-8"))
    store.commit()
    store.close()
    return path
