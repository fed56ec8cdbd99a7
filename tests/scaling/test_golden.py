"""The losses of three tiny seeded cells in tests/golden/curves.json: changed numerics show here.

`python -m tests.scaling.test_golden`, in the repository's root, writes the file anew. Do so only
where the numbers are meant to change, and say so in the CHANGELOG.

The cells compute in float32 on one CPU thread. Another processor adds the same products in another
order (vectors of another width, fused multiply-add). So its losses differ by rounding, about 1e-7,
in the first steps, and by more later, since each step starts from the weights of the one before.
With torch's and MKL's kernels for processors without AVX2, and numba's for a generic one, the
largest relative difference of the 100 steps was 2e-6; without numba it was 7e-7; up to step 15,
2e-8. EARLY and LATE are fifty times that, for a processor that is further away. A learning
rate that changes by a thousandth moves the losses by 3e-4 in the first steps.
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from scaling.config import (
    BudgetConfig,
    CellConfig,
    DataConfig,
    EvalConfig,
    LogConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TokenizerConfig,
)
from scaling.schema import read_curve
from scaling.train.trunk import train_trunk

GOLDEN = Path(__file__).parents[1] / "golden" / "curves.json"
LOSSES = ("train_loss", "test_loss")
EARLY_STEPS = 15  # the warm-up and a few more
EARLY, LATE = 1e-6, 1e-4  # relative differences of the losses up to that step, and after it
N_TOKENS = 6400  # 100 steps of 64 tokens
CELLS = {
    "dense": {"model": {}, "schedule": {"name": "wsd"}},
    "experts": {"model": {"n_experts": 4, "n_shared_experts": 1}, "schedule": {"name": "wsd"}},
    "cosine": {"model": {}, "schedule": {"name": "cosine", "floor": 0.1}},
}


def write_corpus(folder: Path) -> Path:
    """Write thirty documents that are the same everywhere; return their folder."""
    text = folder / "text"
    text.mkdir()
    for i in range(30):
        lines = (f"{i} times {k} is {i * k}, and {i} plus {k} is {i + k}" for k in range(40))
        (text / f"doc{i:02}.txt").write_text("\n".join(lines))
    return text


def golden_cell(name: str, folder: Path, text: Path) -> CellConfig:
    """Return one of the cells."""
    kind = CELLS[name]
    return CellConfig(
        study="golden",
        runs=str(folder / name),
        model=ModelConfig(n_layer=2, d_model=16, d_head=8, **kind["model"]),
        tokenizer=TokenizerConfig(vocab_size=300),
        data=DataConfig(
            source="files", train=[str(text)], test_share=0.2, split="documents", context=32
        ),
        optim=OptimConfig(batch_tokens=64, peak_lr=0.01),
        schedule=ScheduleConfig(warmup_steps=5, **kind["schedule"]),
        budget=BudgetConfig(n_tokens=N_TOKENS),
        eval=EvalConfig(test_tokens=512, curve_tokens=128),
        machine=MachineConfig(device="cpu", threads=1, cache=str(folder / "cache")),
        log=LogConfig(wandb="disabled"),
        seed=7,
    )


def train(cell: CellConfig) -> dict:
    """Train a cell; return the rows of its curve and its test loss, in nats a token."""
    folder, threads = Path(cell.runs), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        (record,) = train_trunk([cell], folders=[folder])
    finally:
        torch.set_num_threads(threads)
    rows = read_curve(folder / "metrics.jsonl")
    return {
        "curve": [{k: row[k] for k in ("step", *LOSSES) if k in row} for row in rows],
        "test_loss": record.test_loss,
    }


def write_golden(path: Path = GOLDEN) -> None:
    """Train the three cells and write their losses."""
    with tempfile.TemporaryDirectory() as name:
        text = write_corpus(Path(name))
        losses = {kind: train(golden_cell(kind, Path(name), text)) for kind in CELLS}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(losses, indent=1) + "\n")


def golden(name: str) -> dict:
    """Return what is kept of one of the cells."""
    return json.loads(GOLDEN.read_text())[name]


def differing(losses: dict, kept_losses: dict) -> list[dict]:
    """Return the rows of a curve that differ from those that are kept by more than rounding."""
    assert [r.keys() for r in losses["curve"]] == [r.keys() for r in kept_losses["curve"]]
    return [
        row
        for row, kept_row in zip(losses["curve"], kept_losses["curve"], strict=True)
        if row != pytest.approx(kept_row, rel=EARLY if row["step"] <= EARLY_STEPS else LATE)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_losses_are_those_that_are_kept(name, tmp_path):
    losses = train(golden_cell(name, tmp_path, write_corpus(tmp_path)))
    assert differing(losses, golden(name)) == []
    assert losses["test_loss"] == pytest.approx(golden(name)["test_loss"], rel=LATE)


@pytest.mark.slow
def test_a_rate_that_changes_by_a_thousandth_is_seen(tmp_path):
    cell = golden_cell("dense", tmp_path, write_corpus(tmp_path))
    cell.optim.peak_lr *= 1.001
    rows = differing(train(cell), golden("dense"))
    assert len(rows) > len(golden("dense")["curve"]) / 2


if __name__ == "__main__":
    write_golden()
