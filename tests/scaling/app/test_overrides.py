"""Text on the command line arrives as it was typed; what does not fit is one sentence."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from scaling.app.overrides import WrongUsage, commas, leaves, prepared
from scaling.config import CellConfig

HOSTILE = [
    "a b", "loss (nats)", "#1", "x=y", "it's", 'say "yes"', "a,b", "größe", "数", "🙂", "[a]",
    "{a: b}", "true", "1e3", "007", "1_000", "back\\slash", "end\\", "\\'", "'", '"', "(", ")", ":",
    "%s", "~x", "two\nlines", "a\tb", " lead", "trail ", "*.jsonl", "$HOME", "a;b|c&d", "",
    "def f(x): # é, [1]=2",
]  # fmt: skip


@dataclass
class Part:
    """A nested part."""

    name: str = ""
    size: int = 1
    rate: float = 0.1
    limit: float | None = None


@dataclass
class Settings:
    """One setting of each kind."""

    text: str = ""
    maybe: str | None = None
    words: list[str] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    law: Any = ""
    flag: bool = False
    part: Part = field(default_factory=Part)
    fixed: dict[str, float] = field(default_factory=dict)
    sets: dict[str, list[str]] = field(default_factory=dict)


def read(argument: str, *, sweeps: bool = False) -> Any:
    """Return what Hydra reads of an argument."""
    override = OverridesParser.create().parse_override(
        prepared([argument], Settings, sweeps=sweeps)[-1]
    )
    return list(override.sweep_iterator()) if override.is_sweep_override() else override.value()


@pytest.mark.parametrize("value", HOSTILE)
def test_text_arrives_as_it_was_typed(value):
    assert read(f"text={value}") == value
    assert read(f"maybe={value}") == value
    assert read(f"part.name={value}") == value
    assert read(f"+text={value}") == value


@pytest.mark.parametrize(
    "value", [v for v in HOSTILE if "," not in v and v.strip() == v and v[:1] not in ("'", '"')]
)
def test_the_parts_of_a_list_arrive_as_they_were_typed(value):
    assert read(f"words=[{value},b]") == [value, "b"]


def test_quotes_around_the_whole_are_the_users_own():
    assert read("text='a,b'") == "a,b"
    assert read('text="it\'s"') == "it's"
    assert read("words=['a,b',c]") == ["a,b", "c"]
    assert read("words=[]") == []


def test_commas_part_the_values_of_a_sweep():
    assert len(read("text=a,b c,d#e", sweeps=True)) == 3
    assert read("text='a,b'", sweeps=True) == "a,b"
    assert len(read("text='a,b',c", sweeps=True)) == 2
    assert read("text=choice(a,b)", sweeps=True) == ["a", "b"]
    assert len(read("words=[a,b],[c d]", sweeps=True)) == 2
    assert read("part.size=1,2", sweeps=True) == [1, 2]


def test_a_list_without_brackets_in_a_sweep_is_answered_with_all_its_parts():
    with pytest.raises(ValueError, match=r"words=a,b is no list; write 'words=\[a,b\]'"):
        read("words=a,b", sweeps=True)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("setup=[module load cuda, export X=1]", ["module load cuda", "export X=1"]),
        ("container=apptainer exec --env A=1 -B /a,/b", "apptainer exec --env A=1 -B /a,/b"),
        ("partition=gpu,cpu", "gpu,cpu"),
        ("account=007", "007"),
        ("constraint=a100&nvlink", "a100&nvlink"),
        ("qos=null", None),
    ],
)
def test_what_sbatch_and_the_shell_read_arrives_as_it_was_typed(argument, value):
    assert read(f"hydra.launcher.{argument}", sweeps=True) == value


def test_a_law_may_be_several():
    assert read("law=my law (1).json") == "my law (1).json"
    assert read("law=[a b.json,c]") == ["a b.json", "c"]
    assert read("law=[1,4,16]") == [1, 4, 16]


def test_commas_within_quotes_and_brackets_part_nothing():
    assert commas("a,'b,c',[d,e],it's,f") == ["a", "'b,c'", "[d,e]", "it's", "f"]
    assert commas("") == [""]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("part.size=abc", "part.size='abc' is no whole number; give one, as part.size=2"),
        ("part.size=1000.0", "write part.size=1000"),
        ("part.size=1.5", "is no whole number"),
        ("part.size=[1,2]", "is no whole number"),
        ("part.size=null", "part.size=null is no whole number"),
        ("part.size=(", "is no whole number|cannot be read"),
        ("part.rate=nan", "is no finite number"),
        ("part.rate=1e400", "is no finite number"),
        (f"part.rate=1{'0' * 400}", "is no finite number"),
        (f"part.size=1{'0' * 5000}", "number|cannot be read"),
        ("part.limit=x", "is no number"),
        ("flag=maybe", "is no true or false"),
        ("text=null", "for the word write \"text='null'\""),
        ("words=a", r"words=a is no list; write 'words=\[a\]'"),
        ("words=[a", "is no list"),
        ("numbers=[a]", "is no number"),
        ("numbers=3", r"is no list; write 'numbers=\[3\]'"),
        ("fixed=((", "no|cannot be read"),
        ("part=3", "part is a section, no value; its keys are part.limit, part.name"),
        ("fixed={a: b}", r"fixed\.a='b' is no number"),
        ("sets=[a.txt]", r"no mapping from names; write 'sets=\{NAME: \[FILE\]\}'"),
        ("sets=a.txt", r"no mapping from names; write 'sets=\{NAME: \[FILE\]\}'"),
        ("sets={a: b.txt}", r"is no list; write 'sets=\{a: \[b\.txt\]\}'"),
        ("sets={'a b': [b.txt]}", r"cannot be read; write 'sets=\{NAME: .*without quotes"),
        ("txt=((", "unknown key 'txt'; did you mean text"),
        ("+part.nme=1", "unknown key 'part.nme'; did you mean part.name"),
        ("=3", "names no key|unknown key"),
        ("é=3", "unknown key 'é'"),
        ("text", "'text' has no value; write text=VALUE"),
        ("what", "is neither key=value nor an option"),
        ("text=\udc80", "is no text in UTF-8"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_what_would(argument, words):
    with pytest.raises(ValueError, match=words):
        read(argument)


def test_every_word_for_yes_and_no_and_spelled_numbers_fit():
    for word in ("true", "no", "on", "1"):
        read(f"flag={word}")
    assert read("part.rate=1e-3") == 1e-3
    assert read("part.limit=null") is None
    assert read("part.size=-3") == -3
    assert read("part.size=1.5e9") == 1_500_000_000
    assert read("part.size=1e3,2E+3", sweeps=True) == [1000, 2000]
    assert read("fixed={E: 1.7}") == {"E": 1.7}


def test_an_option_that_there_is_not_is_wrong_usage():
    with pytest.raises(WrongUsage, match="no option --foo"):
        prepared(["--foo", "text=a"], Settings, sweeps=False)
    with pytest.raises(WrongUsage, match="invalid choice: 'x'"):
        prepared(["--cfg", "x"], Settings, sweeps=False)


def test_overrides_and_options_may_be_mixed():
    found = prepared(["text=a", "-m", "part.size=1,2", "--cfg", "job"], Settings, sweeps=False)
    assert found[-3:] == ["-m", "--cfg", "job"]
    assert found[2:-3] == ["text='a'", "part.size=1,2"]


def test_a_path_without_its_key_is_answered_with_the_key(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean runs=runs/quick \?"):
        prepared(["runs/quick"], CellConfig, sweeps=True)
    with pytest.raises(ValueError, match=r"did you mean 'runs=my runs/quick' \?"):
        prepared(["my runs/quick"], CellConfig, sweeps=True)


def test_leaves_have_types_and_nested_parts():
    found = leaves(Settings)
    assert found["part.size"] is int
    assert "part" not in found
