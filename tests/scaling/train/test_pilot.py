"""The pilot decides for bf16 only where it is faster and ends at the same loss."""

from dataclasses import asdict, replace

import pytest

from scaling.budget import resolve
from scaling.config import BudgetConfig
from scaling.study.lease import Holder
from scaling.study.places import study_folder
from scaling.study.precision import StudyPrecision, read_precision, with_precision, write_precision
from scaling.train import pilot
from scaling.train.pilot import decided


@pytest.fixture
def waiting(make_cell):
    """Return a cell whose study waits for a pilot of 4 steps."""
    cell = with_precision(make_cell(), "auto")
    short = replace(cell, budget=BudgetConfig(n_tokens=4 * resolve(cell).batch_tokens))
    write_precision(study_folder(cell), StudyPrecision(pilot=asdict(short)))
    return cell


HERE = {"round": "r", "job": "j"}


@pytest.mark.parametrize(
    ("loss", "seconds", "chosen"),
    [(4.001, 5.0, "bf16"), (4.003, 5.0, "fp32"), (4.0, 9.9, "fp32"), (None, 1.0, "fp32")],
)
def test_faster_and_as_good_is_taken(waiting, monkeypatch, loss, seconds, chosen):
    measured = {"fp32": (4.0, 10.0), "bf16": (loss, seconds)}
    monkeypatch.setattr(pilot, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(pilot, "_measured", lambda cell, name: measured[name])
    (cell,) = decided([waiting], holder=Holder.here(**HERE))
    choice = read_precision(study_folder(cell))
    assert choice is not None
    assert cell.machine.precision == choice.precision == chosen
    assert "of fp32's time" in choice.why


def test_a_processor_without_bf16_takes_fp32(waiting, monkeypatch):
    monkeypatch.setattr(pilot, "multiplies_bf16", lambda: False)
    monkeypatch.setattr(pilot, "_measured", None)  # nothing is trained
    assert decided([waiting], holder=Holder.here(**HERE))[0].machine.precision == "fp32"


@pytest.mark.slow
def test_a_real_pilot_leaves_its_losses_and_no_cell(waiting, monkeypatch):
    monkeypatch.setattr(pilot, "multiplies_bf16", lambda: True)
    (cell,) = decided([waiting], holder=Holder.here(**HERE))
    folder = study_folder(cell)
    choice = read_precision(folder)
    assert choice is not None
    losses = [choice.measured[name]["test_loss"] for name in ("fp32", "bf16")]
    assert abs(losses[0] - losses[1]) < 0.05
    assert not list(folder.rglob("record.json"))
    again = decided([waiting], holder=Holder.here(**HERE))
    assert again == [cell]
    assert read_precision(folder) == choice


def test_a_pilot_that_fails_leaves_fp32_with_its_reason(waiting, monkeypatch):
    def fails(cell, name):
        raise RuntimeError("out of room")

    monkeypatch.setattr(pilot, "multiplies_bf16", lambda: True)
    monkeypatch.setattr(pilot, "_measured", fails)
    assert decided([waiting], holder=Holder.here(**HERE))[0].machine.precision == "fp32"
    choice = read_precision(study_folder(waiting))
    assert choice is not None
    assert "out of room" in choice.why
