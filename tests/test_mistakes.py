"""Each kind of mistake over all commands: one sentence, exit status 1 or 2, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.app.overrides import leaves, plain
from scaling.app.values import pasted
from scaling.config import CellConfig, ModelConfig
from scaling.data.tokenizer import train_tokenizer
from scaling.model.transformer import Transformer
from scaling.schema import sha256_file
from scaling.train import checkpoint

from .in_process import call, schema_of

OLD = max(p for p in Path(__file__).with_name("old").iterdir() if p.is_dir())
COMMANDS = (
    *(f"scaling.{n}" for n in ("sweep", "final", "evaluate", "export", "sample", "corpus")),
    *(f"scaling.{n}" for n in ("coordinates", "best_of_n")),
    *(f"analysis.{n}" for n in ("fit", "backtest", "plan", "design", "report", "compare", "table")),
    "analysis.mixture",
)

NEED_NOTHING = ("scaling.sweep", "scaling.corpus", "scaling.coordinates")


def run(command: str, *arguments: str) -> tuple[int, str]:
    """Run a command in this process; return its status and what it wrote on stderr."""
    done = call(command, *arguments)
    return done.returncode, done.stderr


def refused(found: tuple[int, str], words: str = "") -> str:
    """Return the sentence of a refusal; AssertionError for a traceback or several lines."""
    status, text = found
    assert "Traceback" not in text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert status in (1, 2), text
    assert len(errors) == 1, text
    assert "not foreseen" not in errors[0]
    assert words in errors[0]
    return errors[0]


def tree(folder: Path) -> set[tuple[str, bool]]:
    """Return what lies in a folder."""
    return {(str(p.relative_to(folder)), p.is_dir()) for p in folder.rglob("*")}


# --- what is typed ------------------------------------------------------------------------------


def key_of(schema: type, kind: object) -> str:
    """Return a setting of a type; skip where there is none."""
    found = [k for k, t in leaves(schema).items() if plain(t) == kind]
    return found[0] if found else pytest.skip(f"no setting of {kind}")


MISTAKES = {
    "unknown key": (lambda s: ["colour=red"], "unknown key 'colour'"),
    "unknown key with odd text": (lambda s: ["colour=((#"], "unknown key 'colour'"),
    "unknown key added": (lambda s: ["+colour=red"], "unknown key 'colour'"),
    "no key": (lambda s: ["=3"], "names no key"),
    "no value": (lambda s: ["colour"], "neither key=value nor an option"),
    "a path alone": (lambda s: ["a/b.yaml"], "'a/b.yaml'"),
    "unknown option": (lambda s: ["--colour"], "no option --colour"),
    "odd option": (lambda s: ["--cfg", "x"], "invalid choice"),
    "deleted": (lambda s: ["~colour"], "colour"),
    "no UTF-8": (lambda s: ["seed=\udce9"], "no text in UTF-8"),
    "text for a whole number": (lambda s: [f"{key_of(s, int)}=abc"], "is no whole number"),
    "fraction for a whole number": (lambda s: [f"{key_of(s, int)}=1.5"], "is no whole number"),
    "list for a whole number": (lambda s: [f"{key_of(s, int)}=[1,2]"], "is no whole number"),
    "open bracket for a number": (lambda s: [f"{key_of(s, int)}=(1"], "is no whole number"),
    "null for a whole number": (lambda s: [f"{key_of(s, int)}=null"], "is no whole number"),
    "a key below a value": (lambda s: [f"{key_of(s, int)}.x=1"], "is one value"),
    "text for a number": (lambda s: [f"{key_of(s, float)}=abc"], "is no number"),
    "NaN": (lambda s: [f"{key_of(s, float)}=nan"], "is no finite number"),
    "infinity": (lambda s: [f"{key_of(s, float)}=inf"], "is no finite number"),
    "beyond any float": (lambda s: [f"{key_of(s, float)}=1{'0' * 400}"], "is no finite number"),
    "text for true or false": (lambda s: [f"{key_of(s, bool)}=perhaps"], "is no true or false"),
    "text for a list": (lambda s: [f"{key_of(s, list[str])}=a b"], "is no list; write"),
    "a number for a section": (lambda s: ["machine=3"], "section"),
    "a reference to nothing": (lambda s: [key_of(s, str) + "=${nothing}"], "refers to another"),
    "half a reference": (lambda s: [key_of(s, str) + "=${"], "refers to another"),
    "no such config": (lambda s: ["--config-name=colour"], "colour"),
    "no such folder of configs": (lambda s: ["--config-dir=nowhere"], "nowhere"),
}


@pytest.mark.many(3)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_what_is_typed_is_one_sentence(command, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    schema = schema_of(command)
    make, words = MISTAKES[mistake]
    if mistake == "a number for a section" and "machine.device" not in leaves(schema):
        pytest.skip("no section machine")
    refused(run(command, *make(schema)), words)
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in NEED_NOTHING])
def test_without_what_it_needs_a_command_says_so(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run(command))
    assert tree(tmp_path) == set()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=m25", "model=m25 is no choice; did you mean m25k"),
        ("model=huge", "choose one of"),
        ("model=[1,2]", "is no choice"),
        ("data=foo", "choose one of files, hierarchy, hmm, hub"),
        ("schedule=wsdd", "did you mean wsd"),
        ("sweeps=quik", "did you mean quick"),
        ("hydra/launcher=slrm", "did you mean slurm"),
        ("hydra/sweeper=desing", "did you mean design"),
        ("hydra.launcher.wherr=x", "did you mean hydra.launcher.where"),
        ("hydra.mode=FAST", "RUN, MULTIRUN"),
        ("modle=m25k", "did you mean model"),
        ("model.n_layr=3", "did you mean model.n_layer"),
        ("+model.colour=3", "unknown key 'model.colour'"),
        ("stage=sfd", "choose one of pretrain, sft, reward, ppo"),
        ("machine.device=tpu", "choose one of auto, cpu, cuda"),
        ("data.train=folder", "write 'data.train=[folder]'"),
    ],
)
def test_a_choice_that_is_not_there_is_answered_with_those_that_are(
    override, words, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    refused(run("scaling.sweep", "-m", override, "dry_run=true"), words)
    assert tree(tmp_path) == set()


# --- what is read -------------------------------------------------------------------------------

BAD = {
    "empty": b"",
    "binary": bytes(range(256)) * 8,
    "a list": b"[]",
    "nothing in it": b"{}",
    "later": b'{"schema": 99, "optimum": {}, "pretrain": {}, "id": "x", "job": "1"}',
    "a NaN": b'{"schema": NaN}',
    "deep": b"[" * 100_000,
    "endless digits": b'{"schema": 1' + b"0" * 5000 + b"}",
    "other types": b'{"schema": 1, "id": 3, "job": [], "optimum": 3, "pretrain": 4, "form": 3}',
    "half a letter": b'{"study": "\xc3',
}
READ = {  # which commands read a file of the study
    "cell/record.json": ("sample", "evaluate", "export", "fit", "report", "plan", "status"),
    "cell/model.safetensors": ("sample", "evaluate", "export"),
    "cell/evaluation.json": ("evaluate", "export", "report"),
    "cell/metrics.jsonl": ("plan",),
    "cell/attempts/0001.json": ("status",),
    "tokenizer.json": ("sample", "evaluate", "export"),
    "law.json": ("report", "plan"),
    "plan.yaml": ("final", "report"),
    "final/forecast.json": ("report",),
    "final/curve.json": ("report",),
    "final/pretrain/record.json": ("report",),
    "jobs.jsonl": ("status",),
    "../forecasts.jsonl": ("plan",),
}
SLOW = ("report", "plan", "fit")  # seconds each: a few kinds of damage stand for all
FEW = ("binary", "a list", "other types")
CASES = [
    (f, b, c)
    for f, commands in READ.items()
    for b in BAD
    for c in commands
    if b in FEW or c not in SLOW
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A study with a model, its vocabulary and what the analysis reads."""
    study = tmp_path_factory.mktemp("my runs") / "runs" / "tiny"
    cell = study / "cell"
    cell.mkdir(parents=True)
    text = study.parent.parent / "words.txt"
    text.write_text("the number 12 is the product of 3 and 4\n" * 20)
    train_tokenizer([text.read_text()], vocab_size=300).save(str(study / "tokenizer.json"))
    values = json.loads((OLD / "record.json").read_text())
    values["inputs"]["tokenizer"] = sha256_file(study / "tokenizer.json")
    for name, tokens in (("cell", 1024), ("b", 2048), ("d", 4096)):
        (study / name).mkdir(exist_ok=True)
        record = {**values, "run_id": name, "tokens": tokens, "flops": 1e5 * tokens}
        (study / name / "record.json").write_text(json.dumps(record))
    model = Transformer(ModelConfig(**values["config"]["model"]), vocab_size=300, context=32)
    checkpoint.save(cell, model=model, name="model", state={})
    for name in ("law.json", "plan.yaml", "jobs.jsonl"):
        shutil.copy(OLD / name, study)
    shutil.copy(OLD / "evaluation.json", cell)
    (cell / "attempts").mkdir()
    shutil.copy(OLD / "attempt.json", cell / "attempts" / "0001.json")
    shutil.copy(OLD / "forecasts.jsonl", study.parent)
    (study / "final" / "pretrain").mkdir(parents=True)
    for name in ("forecast.json", "curve.json"):
        shutil.copy(OLD / name, study / "final")
    shutil.copy(OLD / "record.json", study / "final" / "pretrain")
    row = {"step": 1, "tokens": 64, "flops": 1e5, "train_loss": 3.0, "test_loss": 3.0}
    (cell / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return study


@pytest.fixture
def study(whole, tmp_path, monkeypatch) -> Path:
    """A copy of it, in a folder whose name has a space."""
    place = tmp_path / "my runs"
    shutil.copytree(whole.parent, place)
    monkeypatch.chdir(tmp_path)
    return place / "tiny"


def command_line(command: str, study: Path) -> list[str]:
    """Return what makes a command read the study."""
    model = [f"checkpoint={study}/cell", f"tokenizer={study}/tokenizer.json"]
    return {
        "sample": ["scaling.sample", *model, "max_new_tokens=2", "machine.device=cpu"],
        "evaluate": ["scaling.evaluate", *model, "prompts=[the]", "max_new_tokens=2"],
        "export": ["scaling.export", *model, f"out={study.parent}/out"],
        "fit": ["analysis.fit", f"runs={study}", "intervals.resamples=5"],
        "report": ["analysis.report", f"runs={study}"],
        "plan": ["analysis.plan", f"law={study}/law.json", f"runs={study}", "flops=1e9"],
        "final": ["scaling.final", f"plan={study}/plan.yaml", "stages=pretrain", "machine.ranks=7"],
        "status": ["scaling.status", str(study)],
    }[command]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sample", "evaluate", "export", "report", "plan", "status"])
def test_the_whole_study_is_read(command, study):
    status, text = run(*command_line(command, study))
    assert status == 0, text


@pytest.mark.many(4)
@pytest.mark.slow
@pytest.mark.parametrize(("file", "bad", "command"), CASES)
def test_a_damaged_file_is_named_in_one_sentence_or_left_out(file, bad, command, study):
    (study / file).write_bytes(BAD[bad])
    before = tree(study.parent)
    status, text = run(*command_line(command, study))
    assert "Traceback" not in text
    assert "not foreseen" not in text
    if status and not (command == "status" and "error: " not in text):  # its table names it
        sentence = refused((status, text))
        assert Path(file).name in sentence or command == "fit"
        assert tree(study.parent) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["checkpoint", "tokenizer", "plan", "law", "runs", "tasks", "texts"]
)
@pytest.mark.parametrize("what", ["missing", "folder", "empty file", "device", "long name"])
def test_a_path_that_leads_nowhere_is_named(key, what, study, tmp_path):
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "empty").touch()
    path = {
        "missing": "no/such (file)#1.json",
        "folder": "empty folder",
        "empty file": "empty",
        "device": "/dev/null",
        "long name": "x" * 5000,
    }[what]
    command = {
        "plan": "final", "law": "plan", "runs": "fit", "tokenizer": "sample", "checkpoint": "sample"
    }.get(key, "evaluate")  # fmt: skip
    given = [a for a in command_line(command, study) if not a.startswith((f"{key}=", "prompts="))]
    refused(run(*given, f"{key}=[{path}]" if key in ("tasks", "texts") else f"{key}={path}"))


@pytest.mark.parametrize(
    "arguments", [[], ["runs/none"], ["--colour", "runs/none"], ["a", "b"], ["\0"], ["runs=x"]]
)
def test_status_of_nothing_is_one_sentence(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run("scaling.status", *arguments))


# --- what a sentence proposes -------------------------------------------------------------------

HINTS = [
    ("scaling.final", "plan=my runs/none.yaml", "out=my runs/none.yaml"),
    ("scaling.final", "my runs/none.yaml", "plan=my runs/none.yaml"),
    ("scaling.sample", "my runs/it's", "checkpoint=my runs/it's"),
    ("scaling.sample", "checkpoint=my runs/tiny", "checkpoint=my runs/tiny/cell"),
    ("analysis.fit", "my runs/tiny", "runs=my runs/tiny"),
    ("scaling.evaluate", "texts=my runs/a b.txt", "texts=[my runs/a b.txt]"),
    ("scaling.corpus", "data.train=my (runs)", "data.train=[my (runs)]"),
    ("scaling.status", "runs=my runs/tiny", "my runs/tiny"),
]


@pytest.mark.parametrize(("command", "given", "hint"), HINTS)
def test_what_a_sentence_proposes_can_be_pasted_into_a_shell(command, given, hint, study):
    shutil.copytree(study / "cell", study / "c")
    sentence = refused(run(command, given))
    at = sentence.index(pasted(hint)) if command != "scaling.status" else sentence.index("'my")
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {sentence[at:]}".replace(";", " ")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.splitlines()[0] == hint


# --- in a process of its own --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["scaling.sample", "checkpoint=nowhere", "prompt=def f(x): # é, [1]=2"], 1),
        (["scaling.sweep", "-m", "model=m25"], 1),
        (["scaling.sweep", "--colour"], 2),
        (["scaling.status", "--colour"], 2),
        (["analysis.fit", "runs/quick"], 1),
    ],
)
def test_a_process_ends_in_one_sentence(arguments, status, tmp_path):
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
        | {"PYTHONPATH": str(root)},
        timeout=120,
        check=False,
    )
    assert done.returncode == status
    refused((done.returncode, done.stderr))
    assert done.stdout == ""
    assert tree(tmp_path) == set()


def test_what_was_not_foreseen_is_one_sentence_that_says_how_to_see_more(capsys):
    from scaling.app.application import one_sentence

    with pytest.raises(SystemExit) as left, one_sentence(CellConfig, full=False):
        {}["colour"]
    assert left.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith("error: not foreseen: KeyError: 'colour'; HYDRA_FULL_ERROR=1")
    with pytest.raises(KeyError), one_sentence(CellConfig, full=True):
        {}["colour"]
    with pytest.raises(SystemExit), one_sentence(CellConfig, full=False):
        int("x" * 3)
    assert "not foreseen: ValueError: invalid literal" in capsys.readouterr().err
