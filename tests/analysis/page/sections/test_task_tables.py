"""Tables of what scaling.evaluate found."""

import json
from pathlib import Path

import pytest

from analysis.number_text import number
from analysis.page.sections.task_tables import read_evaluations, task_grid, text_grid

RANKED = {
    "n": 300, "acc": 0.51, "acc_se": 0.03, "acc_norm": 0.53, "acc_norm_se": 0.03, "chance": 0.5,
    "choice_loss": 2.6, "ece": 0.41, "bits_per_byte": 3.76,
}  # fmt: skip
PARAMS = {"total": 1234, "non_embedding": 234, "with_head": 1234, "active": 1234}
SAID = {"n": 200, "acc": 0.0, "acc_se": 0.0, "bits_per_byte": 4.4, "perplexity": 99.0}


def write(folder: Path, *, flops: float, stage: str = "pretrain", **changes: object) -> None:
    folder.mkdir(parents=True)
    values = {
        "schema": 1, "run_id": "x", "stage": stage, "params": PARAMS, "tokens": 10,
        "flops": flops, "test_loss": 3.25, "tasks": {"blimp": RANKED}, "texts": {},
    } | changes  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(values))


def test_rows_go_by_task_then_compute_then_stage(tmp_path):
    write(
        tmp_path / "b", flops=3e11, tasks={"blimp": RANKED | {"acc_typos": 0.49}, "lambada": SAID}
    )
    write(tmp_path / "a", flops=1e11)
    write(tmp_path / "final/sft", flops=1e10, stage="sft", test_loss=None)
    rows = task_grid(read_evaluations(tmp_path)).rows
    assert [r[:3] for r in rows] == [
        ("blimp", "N 1,234", number(1e11, 3)),
        ("blimp", "N 1,234", number(3e11, 3)),
        ("blimp", "sft, N 1,234", number(1e10, 3)),
        ("lambada", "N 1,234", number(3e11, 3)),
    ]
    assert rows[1][4:] == (
        "0.510 ± 0.030", "0.530 ± 0.030", "0.50", "0.490", "3.760", "0.410", "300",
    )  # fmt: skip
    assert rows[2][3] == "–"
    assert rows[3][5:] == ("–", "–", "–", "4.400", "–", "200")


def test_texts_have_loss_and_bits(tmp_path):
    score = {"loss": 4.42061, "standard_error": 0.0043, "bits_per_byte": 3.847}
    write(tmp_path / "a", flops=1e11, tasks={}, texts={"wiki/valid": score})
    found = read_evaluations(tmp_path)
    assert not task_grid(found).rows
    ((name, model, _, loss, said, bits),) = text_grid(found).rows
    assert (name, model, loss, said) == ("wiki/valid", "N 1,234", "3.25", "4.421 ± 0.004")
    assert bits == "3.847"


def test_another_schema_is_refused(tmp_path):
    write(tmp_path / "a", flops=1e11, schema=7)
    with pytest.raises(ValueError, match=r"has schema 7: a later version wrote it"):
        read_evaluations(tmp_path)
