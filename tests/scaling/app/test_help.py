"""`--help` explains every key of every command, and speaks of the command first."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from analysis.laws.law import Law
from analysis.planning.plan import Plan
from scaling.app import application, help
from scaling.app.overrides import leaves
from scaling.config import CellConfig, LauncherOptions
from scaling.schema import Evaluation, Record
from scaling.schema.commands import Command
from scaling.schema.forecasts import ForecastScore
from scaling.study.jobs_file import Job, Submission
from scaling.study.lease import Attempt
from scaling.study.precision import StudyPrecision
from tests.in_process import command_module

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"
COMMANDS = sorted(p.stem for p in CONF.glob("*.yaml") if p.stem != "common")
GROUPS = {"model": "model.", "data": "data.", "schedule": "schedule.", "sweeps": ""}  # -> prefix


def module_of(command: str) -> ModuleType:
    room = "scaling" if (ROOT / "scaling" / f"{command}.py").is_file() else "analysis"
    return command_module(f"{room}.{command}")


def schema_of(command: str) -> type:
    module_of(command)
    return ConfigStore.instance().load(f"schema_{command}.yaml").node._metadata.object_type


def text_of(command: str) -> str:
    launcher = LauncherOptions if command == "sweep" else None
    return help.help_text(
        module_of(command).main, config_name=command, schema=schema_of(command), launcher=launcher
    )


def configs(root: type) -> list[type]:
    """Return a config and those within it."""
    inner = [k for k in get_type_hints(root).values() if dataclasses.is_dataclass(k)]
    return [root, *(c for kind in inner for c in configs(kind))]


def keys_of(path: Path) -> set[str]:
    """Return the dotted keys that a YAML file sets, Hydra's own left out."""

    def dotted(values: dict, prefix: str = "") -> set[str]:
        keys = set()
        for key, value in values.items():
            name = f"{prefix}{key}"
            keys |= dotted(value, f"{name}.") if isinstance(value, dict) and value else {name}
        return keys

    values = OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}
    return dotted({k: v for k, v in values.items() if k not in ("defaults", "hydra")})


ALL = {c for name in COMMANDS for c in configs(schema_of(name))} | {LauncherOptions}


@pytest.mark.parametrize("config", sorted(ALL, key=lambda c: c.__name__), ids=lambda c: c.__name__)
def test_every_key_has_a_sentence_of_its_own_and_every_block_a_line(config):
    hints = get_type_hints(config)
    names = [f.name for f in dataclasses.fields(config)]
    sentences = help.sentences(config)
    assert set(sentences) == {n for n in names if not dataclasses.is_dataclass(hints[n])}
    for name, sentence in sentences.items():
        assert sentence[0].isupper(), name
        assert sentence.endswith("."), name
    assert (inspect.getdoc(config) or "").strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_names_every_key_once(command):
    _, _, keys = text_of(command).partition("Keys, as key=value")
    lines = [line.strip().partition("=")[0] for line in keys.splitlines()]
    for key in leaves(schema_of(command)):
        assert lines.count(key) == 1, key


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_speaks_of_the_command_before_hydra_and_fits_a_terminal(command):
    text, about = text_of(command), inspect.getdoc(module_of(command))
    assert text.startswith(about)
    assert f"scaling {command} " in about
    assert text[len(about) :].startswith(
        f"\n\n`python -m {module_of(command).__name__}` is the same command.\n"
    )
    assert "Hydra" not in text[: text.index("Keys, as key=value")]
    assert text.count("Hydra") == 1
    assert max(map(len, text.splitlines())) <= help.WIDTH


def test_a_default_is_that_of_the_dataclass():
    text = text_of("plan")
    assert "  sft.epochs=null " in text
    assert "  ppo.kl_budget=6" in text


def test_types_ranges_and_choices_are_said_briefly():
    text = " ".join(text_of("sweep").split())
    assert "optim.name=adamw" in text
    assert "(one of adamw, muon)" in text
    assert "(whole number from 1 to 1000)" in text  # model.n_layer
    assert "(number from 0, below 1)" in text  # optim.beta1
    assert "(whole number, at least 0)" in text  # retry
    assert "(list, each a number above 0)" in text  # data.weights
    assert "1e+" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_group_of_a_command_is_explained_with_its_choices(command):
    groups = help.chosen_groups(command)
    assert set(groups) <= set(help.GROUPS)
    text = " ".join(text_of(command).split())
    for group, default in groups.items():
        assert f"{group}={default} " in text
        assert all(name in text for name in help.choices_of(group))


def test_rungs_stand_in_the_order_of_their_size():
    names = help.choices_of("model")
    assert names.index("m440k") < names.index("m1m") < names.index("m2700k") < names.index("m11m")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_a_commands_file_exists(command):
    known = set(leaves(schema_of(command)))
    assert keys_of(CONF / f"{command}.yaml") <= known


@pytest.mark.parametrize(
    "path",
    [p for group in GROUPS for p in sorted((CONF / group).glob("*.yaml"))],
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_every_key_of_a_choice_exists(path):
    prefix = GROUPS[path.parent.name]
    keys = {f"{prefix}{key}" for key in keys_of(path)}
    named = {key for key in keys if key.startswith("eval.sets.")}  # names of a study's own
    assert keys - named <= set(leaves(CellConfig))


def test_every_key_of_a_plans_example_exists():
    known = set(leaves(schema_of("plan")))
    for path in (CONF / "examples").glob("*.yaml"):
        assert keys_of(path) <= known


def test_every_option_of_a_launcher_is_explained_and_has_the_default_of_its_file():
    defaults = dataclasses.asdict(LauncherOptions())
    for path in (CONF / "hydra/launcher").glob("*.yaml"):
        values = OmegaConf.to_container(OmegaConf.load(path))
        for name in set(values) - {"_target_", "where"}:
            assert values[name] == defaults[name], name
    text = text_of("sweep")
    assert all(f"  hydra.launcher.{name}=" in text for name in defaults)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["runs=x", "--help", "no.such.key=1"]])
def test_help_is_printed_before_anything_is_composed_or_run(arguments, monkeypatch, capsys):
    def main(config):
        raise AssertionError("the command ran")

    main.__module__ = "analysis.fit"
    monkeypatch.setattr(sys, "argv", ["fit", *arguments])
    monkeypatch.setattr(application.hydra, "main", None)
    application.start(main, config_name="fit", schema=schema_of("fit"))
    printed = capsys.readouterr().out
    assert printed.startswith("Fit a law")
    assert "\n    scaling fit runs=runs/quick\n" in printed
    assert "\n`python -m analysis.fit` is the same command.\n" in printed


@pytest.mark.slow
def test_a_command_prints_its_help_and_the_options_of_hydra_stay():
    def run(*arguments):
        command = [sys.executable, "-m", "scaling.sweep", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    done = run("-h")
    assert done.returncode == 0, done.stderr
    assert done.stdout == text_of("sweep")
    assert "Hydra" in run("--hydra-help").stdout
    assert "n_layer: " in run("~sweeps", "--cfg", "job").stdout


def dataclasses_in(kind: Any) -> set[type]:
    """Return a dataclass and those that its fields hold, in lists and mappings too."""
    if dataclasses.is_dataclass(kind):
        inner = get_type_hints(kind).values()
        return {kind}.union(*map(dataclasses_in, inner))
    return set().union(*map(dataclasses_in, get_args(kind)))


FILES = {  # what a file holds, or one line of it
    "record.json": Record,
    "evaluation.json": Evaluation,
    "law.json": Law,
    "plan.yaml": Plan,
    "precision.json": StudyPrecision,
    "forecasts.jsonl": ForecastScore,
    "attempts": Attempt,
    "jobs.jsonl": Job,
    "jobs.jsonl, announced": Submission,
    "commands.jsonl": Command,
}
WRITTEN = sorted(set().union(*map(dataclasses_in, FILES.values())), key=lambda c: c.__name__)


@pytest.mark.parametrize("kind", WRITTEN, ids=lambda c: c.__name__)
def test_every_field_of_a_file_has_a_sentence(kind):
    sentences = help.sentences(kind)
    assert set(sentences) == {f.name for f in dataclasses.fields(kind)}
    for name, sentence in sentences.items():
        assert sentence.endswith("."), name
