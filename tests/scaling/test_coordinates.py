import subprocess
import sys

import numpy as np
import pytest

from scaling.train.coordinate_check import CoordinatesConfig, measure, slopes


def found(parametrization: str, **changes) -> np.ndarray:
    """Slopes after the last step, by kind of layer."""
    config = CoordinatesConfig(steps=6, seeds=1, **changes)
    return slopes(config.sizes, measure(config, parametrization))[:, -1]


@pytest.mark.slow
def test_activations_keep_their_size_over_width_under_mup_and_grow_under_standard():
    widths = {"widths": [32, 64, 128]}
    assert np.abs(found("mup", **widths)).max() < 0.1
    assert found("standard", **widths).max() > 0.4


@pytest.mark.slow
def test_the_logits_of_the_layerwise_default_grow_with_width():
    assert found("layerwise", widths=[32, 64, 128])[3] > 0.4


@pytest.mark.slow
def test_residual_branches_shrink_as_one_over_depth_under_completep():
    attention, mlp, stream, logits = found("completep", depths=[2, 4, 8], axis="depth")
    assert attention == pytest.approx(-1, abs=0.1)
    assert mlp == pytest.approx(-1, abs=0.1)
    assert abs(stream) < 0.1
    assert abs(logits) < 0.1


def test_slopes_of_a_power_law_are_its_exponent():
    values = np.array([2.0, 4.0, 8.0])[:, None] ** 0.7
    np.testing.assert_allclose(slopes([2, 4, 8], 3 * values), [0.7])


@pytest.mark.slow
def test_the_command_prints_a_line_a_parametrisation_and_writes_the_figure(tmp_path):
    out = tmp_path / "figure.svg"
    command = [sys.executable, "-m", "scaling.coordinates", "widths=[32,64]", "steps=2"]
    command += ["seeds=1", f"out={out}", "parametrizations=[mup,standard]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()[2:4]] == ["mup", "standard"]
    assert "<svg" in out.read_text()


def test_an_unknown_axis_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="width, depth"):
        CoordinatesConfig(axis="heads")
