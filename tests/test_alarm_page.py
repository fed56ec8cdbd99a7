"""Pages that name everything: alarms every code, laws.md every form, sources.md every paper."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.estimation.lr_batch import AXES
from analysis.forms import FORMS, OTHERS
from analysis.laws.law_file import STATUSES
from analysis.page.sections.task_scores import WITHOUT
from scaling.schema.record import FLAGS, Status

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "alarms.md"
LAWS = ROOT / "docs" / "explanations" / "laws.md"
COMPUTED = {  # codes that the source computes: the text of the expression, and its values
    "f'no_{axis}_law'": [f"no_{axis}_law" for axis in AXES],
    "status": [
        *("not_identified", "bound_hit", "max_iter"),  # of a law
        *(status.value for status in Status if status != Status.DONE),  # of cells
    ],
    "law.status": list(STATUSES),
    "fit.status": ["drop_not_identified", "offset_not_identified", "not_identified"],
    "code": list(WITHOUT),
    "a.code": [],  # of an alarm that another place raises
    "alarm.code": [],
    "x.code": [],
}
OTHER_CODES = {  # uses of the word that are no alarms: the file, and the expression
    ("scaling/jobs/slurm/submit.py", "code.name"),
    ("analysis/designing/proposal.py", "code_version()"),
    ("analysis/comparing/comparison.py", "code_version()"),
    ("analysis/mixing/result.py", "code_version()"),
}


def expressions(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what is given as the code of an alarm: `code=...`, `{"code": ...}`, a default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Alarm":
            yield from (k.value for k in node.keywords if k.arg == "code")
        elif isinstance(node, ast.Call):
            yield from (
                k.value
                for k in node.keywords
                if k.arg == "code" and isinstance(k.value, ast.Constant)
            )
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from (v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "code")
        elif isinstance(node, ast.FunctionDef):
            arguments = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            yield from (d for a, d in arguments if a.arg == "code" and d is not None)


def codes_of(path: Path) -> set[str]:
    source = path.read_text(encoding="utf-8")
    found = set(re.findall(r"alarm (few_\w+):", source))  # codes of lines in a log
    if not re.search(r"\bcode=|[\"']code[\"']", source):
        return found
    for expression in expressions(ast.parse(source)):
        text = ast.unparse(expression)
        if (path.relative_to(ROOT).as_posix(), text) in OTHER_CODES:
            continue
        if isinstance(expression, ast.Constant):
            found.add(expression.value)
        elif (path.name, text) != ("units.py", "code"):  # an argument, whose values are constants
            assert text in COMPUTED, f"{path} computes the code {text}: say its values in COMPUTED"
            found |= set(COMPUTED[text])
    return found


def raised() -> set[str]:
    paths = [p for room in ("analysis", "scaling") for p in sorted((ROOT / room).rglob("*.py"))]
    return set().union(*map(codes_of, paths))


def test_the_page_names_every_alarm_and_no_other():
    named = re.findall(r'<a id="(\w+)"></a>`(\w+)`', PAGE.read_text(encoding="utf-8"))
    assert all(anchor == code for anchor, code in named)
    codes = [code for _, code in named]
    assert len(codes) == len(set(codes))
    assert set(codes) == raised() | set(STATUSES) | set(FLAGS)


def test_an_alarm_of_new_code_is_missed(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_alarm_page.ROOT", tmp_path)
    (tmp_path / "new.py").write_text('Alarm(code="brand_new", sentence="..")\n')
    assert codes_of(tmp_path / "new.py") == {"brand_new"}


@pytest.mark.parametrize("form", [*FORMS, *OTHERS])
def test_the_page_of_laws_explains_every_form(form):
    text = LAWS.read_text(encoding="utf-8")
    name = form.removesuffix("_offset") if form.startswith("power_") else form
    assert re.search(rf"(?m)^## .*\b{name}\b|`{name}`", text), name


def test_every_paper_that_the_source_cites_is_listed():
    paths = [p for room in ("analysis", "scaling") for p in (ROOT / room).rglob("*.py")]
    number = re.compile(r"\b[12]\d{3}\.\d{5}\b")
    cited = {n for p in paths for n in number.findall(p.read_text(encoding="utf-8"))}
    listed = set(number.findall((ROOT / "docs" / "sources.md").read_text(encoding="utf-8")))
    assert len(cited) > 50
    assert cited - listed == set()
