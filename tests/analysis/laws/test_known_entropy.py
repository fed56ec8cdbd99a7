"""A fitted E beside the entropy that it should find."""

import json
from pathlib import Path

import pytest

from analysis.estimation.fit import fit
from analysis.laws.known_entropy import true_offset
from tests.analysis import synthetic


def write_entropy(path: Path, value: float) -> None:
    record = json.loads(path.read_text())
    record["metrics"]["bayes_loss"] = value
    path.write_text(json.dumps(record))


@pytest.mark.long
def test_the_studys_known_loss_reaches_the_law_and_is_judged(tmp_path):
    study = synthetic.write_study(tmp_path / "entropy")
    paths = sorted(study.glob("*/record.json"))
    assert true_offset(fit(study, resamples=100)) is None
    for entropy, verdict in ((1.25, "inside"), (0.5, "OUTSIDE")):
        for path in paths:
            write_entropy(path, entropy)
        judgement = true_offset(fit(study, resamples=100))
        assert judgement is not None
        assert judgement[0] == entropy
        assert verdict in judgement[1]
    point = true_offset(fit(study, resamples=0))
    assert point is not None
    assert "off" in point[1]
    write_entropy(paths[0], 1.0)  # of another test set
    assert true_offset(fit(study, resamples=0)) is None
