"""What all tests share: a tiny corpus, a tiny cell, and where the published data lie."""

import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.config import (
    BudgetConfig,
    CellConfig,
    DataConfig,
    EvalConfig,
    LogConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TokenizerConfig,
)
from scaling.train.trunk import train_trunk

from .worker_groups import WorkerGroups

ROOT = Path(__file__).resolve().parents[1]
FEW = 1  # row of a parametrised test that `--few` keeps


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--few", action="store_true", help=f"run {FEW} row of each table of cases")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(WorkerGroups())


@pytest.hookimpl(tryfirst=True)  # before -m reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as long the rows of `many` that `make test` leaves out."""
    row: Counter[str] = Counter()
    for item in items:
        name = item.nodeid.split("[")[0]
        if (many := item.get_closest_marker("many")) and row[name] % many.args[0]:
            item.add_marker(pytest.mark.long)
        row[name] += 1
    if config.getoption("few"):
        keep_few(config, items)


def keep_few(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out all but the first row (FEW) of each parametrised test."""
    seen: Counter[str] = Counter()
    few, others = [], []
    for item in items:
        name = item.nodeid.split("[")[0]
        (few if seen[name] < FEW else others).append(item)
        seen[name] += 1
    items[:] = few
    config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published runs and real text, which lies beside the project or nowhere."""
    folder = Path(os.environ.get("SCALING_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder} with published data; set SCALING_SHARED to run this test")
    return folder


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory) -> Path:
    """Thirty small documents of which some are nearly the same."""
    folder = tmp_path_factory.mktemp("corpus") / "text"
    folder.mkdir()
    for i in range(30):
        lines = [
            f"the number {i * k} is the product of {i} and {k}, as anybody can see"
            for k in range(40)
        ]
        (folder / f"doc{i:02}.txt").write_text("\n".join(lines))
    twin = (folder / "doc03.txt").read_text().replace("number 3 ", "figure 3 ")
    (folder / "twin.txt").write_text(twin)
    return folder


@pytest.fixture(scope="session")
def long_tokens(corpus_folder, tmp_path_factory) -> int:
    """Tokens that a tiny cell takes some 15 seconds for here: beats are written every five."""
    folder = tmp_path_factory.mktemp("pace")
    cell = CellConfig(
        study="pace",
        runs=str(folder),
        model=ModelConfig(n_layer=1, d_model=8, d_head=8),
        tokenizer=TokenizerConfig(vocab_size=300),
        data=DataConfig(source="files", train=[str(corpus_folder)], test_share=0.2, context=32),
        optim=OptimConfig(batch_tokens=64),
        budget=BudgetConfig(n_tokens=100_000),
        eval=EvalConfig(test_tokens=512),
        machine=MachineConfig(device="cpu", cache=str(folder / "cache")),
        log=LogConfig(wandb="disabled"),
    )
    train_trunk([replace(cell, seed=1)])  # compiles the kernels where they are not yet
    began = time.process_time()  # of this process alone: other work now would make it too short
    (record,) = train_trunk([cell])
    return round(15 * record.tokens / (time.process_time() - began), -4)


@pytest.fixture
def make_cell(corpus_folder, tmp_path):
    """Return a maker of tiny cells: `make_cell(n_tokens=..., model=..., **fields)`."""

    def make(
        *, n_tokens: float = 2048, model: dict | None = None, optim: dict | None = None, **fields
    ) -> CellConfig:
        return CellConfig(
            study="tiny",
            runs=str(tmp_path / "runs"),
            model=ModelConfig(**({"n_layer": 1, "d_model": 16, "d_head": 8} | (model or {}))),
            tokenizer=TokenizerConfig(vocab_size=300),
            data=DataConfig(source="files", train=[str(corpus_folder)], test_share=0.2, context=32),
            optim=OptimConfig(**({"batch_tokens": 64} | (optim or {}))),
            budget=BudgetConfig(n_tokens=n_tokens),
            eval=EvalConfig(test_tokens=512, curve_tokens=128),
            machine=MachineConfig(device="cpu", cache=str(corpus_folder.parent / "cache")),
            log=LogConfig(wandb="disabled"),
            **fields,
        )

    return make
