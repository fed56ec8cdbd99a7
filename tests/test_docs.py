"""README and docs: blocks run and print what the page says; the site builds without a fault."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def loaded(name: str, path: Path):
    """Return a module of a file that is in no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


doc_blocks = loaded("doc_blocks", ROOT / "tests" / "doc_blocks.py")
PAGES = doc_blocks.pages()
MARKS = {"": (), "long": (pytest.mark.long,), "slurm": (pytest.mark.slurm, pytest.mark.long)}


def named(page) -> str:
    return str(page.path.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(p, id=named(p), marks=MARKS[p.needs]) for p in PAGES]
)
def test_the_blocks_of_a_page_print_what_it_says(page, tmp_path):
    wrong = doc_blocks.run_page(page, tmp_path)
    assert not wrong, "\n\n".join(wrong)


def test_readme_is_short_and_runs_what_it_shows():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 160
    (page,) = [p for p in PAGES if p.path.name == "README.md"]
    assert len(page.commands) >= 6


@pytest.mark.slow
def test_reference_pages_are_those_of_the_code():
    generate = loaded("docs_generate", DOCS / "generate.py")
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generate.pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run `make docs`: {', '.join(stale)}"


@pytest.mark.slow
def test_site_builds_strictly_and_offline(tmp_path):
    pytest.importorskip("mkdocs", reason="MkDocs is not installed (extra docs)")
    build = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    done = subprocess.run(
        list(map(str, build)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outward = r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"'
    for page in sorted((tmp_path / "site").rglob("*.html")):
        loads = re.findall(outward, page.read_text(encoding="utf-8"))
        assert not loads, f"{page.name} loads {loads} from elsewhere"
    laws = (tmp_path / "site" / "explanations" / "laws.html").read_text(encoding="utf-8")
    assert "<math" in laws
    assert "$$" not in laws


@pytest.mark.parametrize(
    ("expected", "printed", "equal"),
    [
        ("43 runs of example", "43 runs of example", True),
        ("43 runs of example", "42 runs of example", False),
        ("alpha 0.3473", "alpha 0.3474", True),
        ("alpha 0.3473", "alpha 0.39", False),
        ("a0c1f2e3d4  63,096  0:01", "b1c1f2e3d4  63,100  0:07", True),
        ("forecast 3.8 ... inside", "forecast 3.81 [3.7, 3.9]: inside", True),
        ("forecast 3.8 ... inside", "forecast 3.81 [3.7, 3.9]: outside", False),
        ("N* 1e21", "N* 1.01e21", True),
        ("N* 1e21", "N* 2e21", False),
        ("model=m14k", "model=m25k", False),
    ],
)
def test_lines_are_compared_but_for_rounding(expected, printed, equal):
    assert doc_blocks.same(expected, printed) is equal


def test_lines_are_missed_where_nothing_stands_for_them():
    assert not doc_blocks.unlike(["a", "...", "c"], ["a", "b", "c"])
    assert doc_blocks.unlike(["a", "c"], ["a", "b", "c"])
    assert doc_blocks.unlike(["a", "b"], ["a", "b", "c"])
    assert doc_blocks.unlike(["a", "...", "d"], ["a", "b", "c"])
    assert not doc_blocks.unlike([], ["a"])
