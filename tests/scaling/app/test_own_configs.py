"""A user's own sweeps/ and conf/ in the current folder: found, first, and nothing else of it."""

import pytest
from hydra import compose, initialize_config_dir

import scaling.corpus
import scaling.sweep  # noqa: F401  registers its schema
from scaling.app.conf_folder import conf_folder
from scaling.app.errors import sentence
from scaling.app.own_configs import choices, groups, own_file, own_roots
from scaling.config import CellConfig, ModelConfig
from scaling.config.model import rung


@pytest.fixture
def folder(tmp_path, monkeypatch):
    files = {
        "sweeps/mine.yaml": "# @package _global_\nstudy: mine\n",
        "sweeps/quick.yaml": "# @package _global_\nstudy: quicker\n",
        "conf/model/mine.yaml": "n_layer: 1\nd_model: 8\nd_head: 8\n",
        "conf/model/m2k.yaml": "n_layer: 3\nd_model: 24\n",
        "conf/runs/a.yaml": "x: 1\n",
        "conf/common.yaml": "x: 1\n",
        "runs/a.yaml": "x: 1\n",
        "data/a.yaml": "x: 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(*overrides: str, hydra: bool = False):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_folder())):
        return compose("sweep", overrides=list(overrides), return_hydra_config=hydra)


@pytest.mark.slow
def test_the_users_files_are_found_and_win(folder):
    assert composed("sweeps=mine", "model=mine").model.d_model == 8
    assert composed("model=m2k").model.d_model == 24
    assert composed().study == "quicker"
    assert composed("sweeps=zipf").study == "zipf"


def test_choices_and_groups_name_the_users_too(folder):
    assert choices("model")["mine"] == folder / "conf/model/mine.yaml"
    assert choices("model")["m2k"] == folder / "conf/model/m2k.yaml"
    assert {"mine", "quick", "zipf"} <= set(choices("sweeps"))
    assert groups() == {"model", "data", "schedule", "sweeps"}


def test_a_folder_named_like_a_plain_setting_makes_no_group(folder):
    assert composed("runs=elsewhere").runs == "elsewhere"
    assert own_file("runs/a") is None


def test_a_file_of_another_program_replaces_no_command(folder):
    assert own_file("common") is None
    (folder / "conf/sweep.yaml").write_text("defaults: [schema_sweep, common, _self_]\nseed: 7\n")
    assert own_file("sweep") == folder / "conf/sweep.yaml"
    assert composed().seed == 7


def test_our_own_folder_is_not_searched_twice(monkeypatch):
    monkeypatch.chdir(conf_folder().parent)
    assert own_roots() == {}


def test_a_reward_model_may_be_a_rung_of_the_users(folder):
    assert rung("mine", ModelConfig(n_layer=2, d_model=16)).d_model == 8
    assert rung("m4k", ModelConfig(n_layer=2, d_model=16)).n_layer > 1
    with pytest.raises(ValueError, match=r"is no rung; choose one of .*mine"):
        rung("nobodys", ModelConfig(n_layer=2, d_model=16))


def test_a_setting_that_runs_code_is_taken_from_the_users_own_sweep(folder):
    text = "# @package _global_\nhydra:\n  launcher:\n    setup: [module load cuda]\n"
    (folder / "sweeps/code.yaml").write_text(text)
    config = composed("sweeps=code", "hydra/launcher=slurm", hydra=True)
    assert config.hydra.launcher.setup == ["module load cuda"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_layer: 1\nd_modle: 8\n", "unknown key 'model.d_modle'; did you mean model.d_model"),
        ("n_layer: [1\n", "a file is not valid YAML"),
        ("n_layer: many\n", "model.n_layer='many' is no whole number"),
    ],
)
def test_a_mistake_in_the_users_file_is_one_sentence_that_names_it(folder, text, words):
    file = folder / "conf/model/bad.yaml"
    file.write_text(text)
    with pytest.raises(Exception) as caught:  # noqa: PT011  what Hydra raises, of several types
        composed("model=bad")
    said = sentence(caught.value, CellConfig)
    assert words in said
    assert str(file) in said
