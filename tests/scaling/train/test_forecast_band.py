"""The stop rule: a final run against the band of its sealed forecast curve."""

from dataclasses import replace
from pathlib import Path

import pytest

from scaling.final import run_final
from scaling.schema import read_json
from scaling.train.forecast_band import ForecastBand, read_shares_outside, shares_outside

CURVE = [
    {"share": s, "tokens": 1000 * s, "curves": 5, "test_loss": 3.0, "interval": [2.7, 3.3]}
    for s in (0.1, 0.25, 0.5, 0.75)
]
SEALED = {"level": 0.9, "curve": CURVE}


def band(tmp_path: Path, *, stop: bool = False, sealed: dict | None = None) -> ForecastBand:
    path = tmp_path / "curve.json"
    return ForecastBand.of(sealed or SEALED, n_steps=100, path=path, stop=stop)


def rows(*losses: float) -> list[dict]:
    return [
        {"step": step, "tokens": 10 * step, "test_loss": loss}
        for step, loss in zip((10, 25, 50, 75), losses, strict=False)
    ]


def test_the_band_is_95_percent_whatever_the_forecasts_level(tmp_path):
    (reading,) = band(tmp_path).readings(rows(3.0))
    # 90 % is 1.645 deviations, 95 % 1.960
    assert reading["band"] == pytest.approx(
        [3.0 * 0.9 ** (1.95996 / 1.64485), 3.0 * 1.1 ** (1.95996 / 1.64485)], rel=1e-5
    )
    edge = 3.0 * 1.1 ** (1.95996 / 1.64485)
    inside = [band(tmp_path).readings(rows(edge + d))[0]["inside"] for d in (-1e-3, 1e-3)]
    assert inside == [True, False]


@pytest.mark.parametrize(
    ("losses", "shares"),
    [
        ((3.0, 3.1, 3.0, 2.9), []),
        ((4.0, 3.0, 4.0, 3.0), []),
        ((3.0, 4.0, 4.0, 3.0), [0.25, 0.5]),
        ((2.0, 4.0), [0.1, 0.25]),
    ],
)
def test_two_readings_outside_in_a_row_leave_the_band(tmp_path, losses, shares):
    assert shares_outside(band(tmp_path).readings(rows(*losses))) == shares


def test_the_comparison_is_written_and_the_run_stops_only_with_stop(tmp_path, caplog):
    assert band(tmp_path).compare(rows(4.0, 4.0)) == ""
    assert "has left the 95% band" in caplog.text
    assert read_shares_outside(tmp_path / "curve.json") == [0.1, 0.25]
    assert band(tmp_path, stop=True).compare(rows(4.0)) == ""
    assert read_shares_outside(tmp_path / "curve.json") == []
    assert band(tmp_path, stop=True).compare(rows(4.0, 4.0))


def test_a_curve_that_rests_on_no_runs_gives_no_band(tmp_path):
    bare = [{**row, "curves": 0} for row in CURVE]
    assert band(tmp_path, sealed={**SEALED, "curve": bare}).steps == frozenset()


def watched(config, *, middle: float, **changed):
    """Return a plan of 16 steps whose curve forecasts `middle` throughout."""
    ends = [0.9 * middle, 1.1 * middle]
    curve = [{**row, "test_loss": middle, "interval": ends} for row in CURVE]
    forecast = replace(config.forecast, test_loss=middle, interval=ends, level=0.9, curve=curve)
    pretrain = replace(config.pretrain, tokens=96 * 4 * 16)
    return replace(config, forecast=forecast, pretrain=pretrain, stages="pretrain", **changed)


def test_a_run_inside_its_band_has_no_flag(final_config):
    (record,) = run_final(watched(final_config, middle=5.8))
    kept = read_json(Path(final_config.runs) / "tiny/final/curve.json")
    assert [r["share"] for r in kept["rows"]] == [0.1, 0.25, 0.5, 0.75]
    assert [r["step"] for r in kept["rows"]] == [2, 4, 8, 12]
    assert all(r["inside"] for r in kept["rows"])
    assert record.flags == []


@pytest.mark.slow
def test_a_run_outside_is_flagged_and_trained_to_the_same_end(final_config):
    (record,) = run_final(watched(final_config, middle=3.0))
    assert record.flags == ["left_forecast"]
    unwatched = replace(final_config, study="unwatched", stages="pretrain")
    unwatched.pretrain.tokens = 96 * 4 * 16
    (plain,) = run_final(unwatched)
    assert record.test_loss == plain.test_loss


@pytest.mark.long
@pytest.mark.slow
def test_two_ranks_compare_with_one_band(final_config):
    config = watched(final_config, middle=3.0, stop_outside=True)
    config.machine.ranks = 2
    with pytest.raises(ValueError, match=r"outside the 95% band .* at 10% and 25%"):
        run_final(config)
    (two,) = run_final(replace(config, stop_outside=False))
    assert two.flags == ["left_forecast"]
    alone = watched(replace(final_config, study="alone"), middle=3.0)
    alone.machine.ranks = 1
    (one,) = run_final(alone)
    assert two.test_loss == pytest.approx(one.test_loss, rel=1e-5)
    assert two.device_seconds == 2 * two.seconds


@pytest.mark.slow
def test_stop_outside_stops_keeps_a_checkpoint_and_goes_on_when_allowed(final_config):
    config = watched(final_config, middle=3.0, stop_outside=True)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"outside the 95% band .* at 10% and 25%"):
            run_final(config)
    final = Path(config.runs) / "tiny/final"
    assert not (final / "pretrain/record.json").exists()
    assert list((final / "pretrain").rglob("checkpoint.safetensors"))
    (record,) = run_final(replace(config, stop_outside=False))
    assert (record.status, record.flags) == ("done", ["left_forecast"])
    assert len(read_json(final / "curve.json")["rows"]) == 4
