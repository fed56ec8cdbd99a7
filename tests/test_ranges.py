"""Every number has a range, every choice its values; others are refused before anything starts."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import pytest
from hydra.core.config_store import ConfigStore

from scaling.app.overrides import leaves
from scaling.config import CellConfig, EvalConfig, ModelConfig
from scaling.jobs.study_run import run_cells
from scaling.schema import OneOf, Range, check_settings, limits_of, numeric_fields, ranges_of
from tests.in_process import call, command_module

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(p.stem for p in (ROOT / "conf").glob("*.yaml") if p.stem != "common")


def schema_of(command: str) -> type:
    """Return the config of a command, as its module registers it."""
    room = "scaling" if (ROOT / "scaling" / f"{command}.py").is_file() else "analysis"
    command_module(f"{room}.{command}")
    node = ConfigStore.instance().load(f"schema_{command}.yaml").node
    return node._metadata.object_type


def configs(root: type) -> set[type]:
    """Return a config and those within it."""
    found = {root}
    for field in dataclasses.fields(root):
        for kind in (field.type, field.default_factory):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                found |= configs(kind)
    return found | ({ModelConfig} if root is CellConfig else set())


def with_value(config, name, value):
    """Return a config of defaults but for one value, not yet checked."""
    given = object.__new__(config)
    for field in dataclasses.fields(config):
        made = field.default_factory
        setattr(given, field.name, field.default if made is dataclasses.MISSING else made())
    setattr(given, name, {list: [value], dict: {"E": value}}.get(type(getattr(given, name)), value))
    return given


ALL = sorted({c for name in COMMANDS for c in configs(schema_of(name))}, key=lambda c: c.__name__)


def test_the_configs_of_all_commands_are_looked_at():
    assert {"CellConfig", "PpoPlan", "PlanConfig", "FitConfig"} <= {c.__name__ for c in ALL}
    assert "model.n_layer" in leaves(CellConfig)


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.__name__)
def test_every_numeric_field_has_a_range(config):
    assert not set(numeric_fields(config)) - set(ranges_of(config))


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.__name__)
def test_every_config_refuses_a_number_outside_the_range_of_each_field(config):
    for name, limit in ranges_of(config).items():
        for value in (limit.least - 1, limit.most * 2 + 1, math.nan, math.inf, -math.inf, "x"):
            if limit.holds(value):
                continue
            with pytest.raises(ValueError, match=rf"{name}=.* is out of range; set "):
                with_value(config, name, value).__post_init__()


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.__name__)
def test_every_config_refuses_a_word_that_is_none_of_the_choices_of_a_field(config):
    for name, limit in limits_of(config).items():
        if isinstance(limit, OneOf):
            with pytest.raises(ValueError, match=rf"{name}=.*'x'.* is unknown; choose one of "):
                with_value(config, name, "x").__post_init__()


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.__name__)
def test_every_default_lies_in_its_range(config):
    for field in dataclasses.fields(config):
        limit = limits_of(config).get(field.name)
        if limit and field.default not in (None, dataclasses.MISSING):
            assert limit.holds(field.default), field.name


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Range(0, 1), "a number from 0 to 1"),
        (Range(0, 1, below=True), "a number of at least 0 and below 1"),
        (Range(0, 1, above=True), "a number above 0 and at most 1"),
        (Range(1, 9, above=True, also=(0,), note="0 is off"), "and at most 9, or 0 (0 is off)"),
        (Range(24, 24), "24"),
    ],
)
def test_a_range_says_what_is_legal(limit, words):
    assert str(limit).endswith(words)


def test_a_list_is_refused_for_one_number_in_it():
    @dataclasses.dataclass
    class Shares:
        weights: list[Annotated[float, Range(0, 1, above=True)]]

    with pytest.raises(ValueError, match=r"a\.weights=\[0\.5, -2\.0\] holds -2\.0, which is out"):
        check_settings(Shares([0.5, -2.0]), "a")


def test_an_unknown_word_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"model\.mlp='swigl' is unknown, did you mean swiglu\?"):
        ModelConfig(mlp="swigl")


def test_a_word_of_a_list_is_answered_with_the_nearest_one():
    @dataclasses.dataclass
    class Names:
        kinds: list[Annotated[str, OneOf("standard", "mup")]]

    with pytest.raises(ValueError, match=r"holds 'standrd', which is unknown, did you mean stand"):
        check_settings(Names(["mup", "standrd"]))


def test_a_config_checks_its_fields_before_what_it_checks_itself():
    with pytest.raises(ValueError, match=r"model\.d_model=0 is out of range"):
        ModelConfig(d_model=0, d_head=7)


def test_a_setting_that_nothing_reads_keeps_its_value_and_so_the_ids():
    assert EvalConfig().curve_points == 24
    with pytest.raises(ValueError, match=r"eval\.curve_points=12 .*set 24 \(nothing reads it"):
        EvalConfig(curve_points=12)


@pytest.mark.parametrize(
    ("option", "value"),
    [("timeout_min", 0), ("workers", -1), ("mem_gb", "lots"), ("poll_seconds", math.nan)],
)
def test_a_launcher_refuses_numbers_out_of_range_before_anything_is_submitted(option, value):
    with pytest.raises(ValueError, match=rf"hydra\.launcher\.{option}=.* is out of range; set"):
        run_cells([], where="slurm", **{option: value})


@pytest.mark.slow
def test_a_sweep_refuses_one_bad_cell_before_any_job_starts(tmp_path):
    arguments = ["-m", "model=m4k", "budget.n_tokens=1e5", "optim.peak_lr=0.01,-1", "~sweeps"]
    done = call("scaling.sweep", *arguments, f"runs={tmp_path / 'runs'}", cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: optim.peak_lr=-1.0 is out of range; set "
    )
    assert not (tmp_path / "runs").exists()
