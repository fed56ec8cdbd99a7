"""Completions from a terminal."""

import pytest

from scaling import sample
from scaling.sample import SampleConfig
from scaling.study.places import cell_folder
from scaling.train.trunk import train_trunk


def test_completions_are_printed_after_their_prompt(make_cell, capsys):
    cell = make_cell()
    train_trunk([cell])
    folder = str(cell_folder(cell))
    config = SampleConfig(checkpoint=folder, prompt="def read(", n=2, max_new_tokens=6)
    sample.main(config)
    first = capsys.readouterr().out
    assert first.startswith("--- 1\ndef read(")
    assert "--- 2\ndef read(" in first
    sample.main(config)
    assert capsys.readouterr().out == first  # the seed's
    sample.main(SampleConfig(checkpoint=folder, prompt="x" * 900, max_new_tokens=6, n=1))
    assert capsys.readouterr().out.startswith("x" * 900)  # longer than the context
    sample.main(SampleConfig(checkpoint=folder, prompt="a \ud83d", max_new_tokens=4, n=1))
    assert capsys.readouterr().out.startswith("a ?")  # half a character
    sample.main(SampleConfig(checkpoint=folder, max_new_tokens=4, separator=True))
    assert capsys.readouterr().out
    with pytest.raises(ValueError, match=r"max_new_tokens=40 must lie between 1 and 31: the"):
        sample.main(SampleConfig(checkpoint=folder, max_new_tokens=40))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "checkpoint=''"),
        ({"checkpoint": "x", "n": 0}, "n=0"),
        ({"checkpoint": "x", "temperature": -1}, "a number from 0"),
    ],
)
def test_settings_are_checked(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        SampleConfig(**values)
