"""A folder of tables: experiments, what is left out, errors and coverage, the command."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.backtesting.chinchilla_package import is_installed
from analysis.backtesting.experiments import experiments_of, holds_tables
from analysis.backtesting.folder import FolderBacktest, backtest_folder
from analysis.backtesting.scores import LBFGS, LINE, Settings, our_name, rows_of
from analysis.backtesting.splits import BINS, by_distance, rms, splits
from analysis.backtesting.summary import ALL_RUNS, FRONTIER, coverage_of
from analysis.forms import column
from analysis.number_text import power
from analysis.page.backtest_page import backtest_page, percent, share
from scaling.schema import write_json
from tests.analysis.backtesting.conftest import HOSTILE
from tests.in_process import call

OURS = our_name("chinchilla")
SETTINGS = Settings(forms=("chinchilla",), starts=10, level=0.9, seed=0)


@pytest.fixture(scope="module")
def progress() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture(scope="module")
def result(tables, progress) -> FolderBacktest:
    return backtest_folder(
        tables,
        SETTINGS,
        most_cutoffs=2,
        processes=1,
        on_progress=lambda *said: progress.append(said),
    )


# --- experiments --------------------------------------------------------------------------------


def test_groups_are_experiments_and_what_cannot_be_used_is_named(tables):
    found, left_out = experiments_of(tables, form="chinchilla", most_cutoffs=3)
    names = [e.name for e in found]
    assert names == ["one.csv", f"two & <b>.csv: {HOSTILE}", "two & <b>.csv: plain"]
    assert [row["file"] for row in left_out] == ["broken.csv", "other.jsonl"]
    assert "UTF-8" in left_out[0]["why"]
    assert "no column 'params'" in left_out[1]["why"]
    assert not any("\n" in row["why"] for row in left_out)


def test_a_table_too_narrow_is_left_out_with_its_span(tables, tmp_path):
    (tmp_path / "one.csv").write_bytes((tables / "one.csv").read_bytes())
    narrow = pd.read_csv(tables / "one.csv").head(5)
    narrow.to_csv(tmp_path / "narrow.csv", index=False)
    _, left_out = experiments_of(tmp_path, form="chinchilla", most_cutoffs=3)
    assert left_out[0]["file"] == "narrow.csv"
    assert "5 runs span x1 in C" in left_out[0]["why"]


def test_a_folder_without_a_usable_table_is_one_sentence(tmp_path):
    (tmp_path / "x.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"no table of .* can be backtested; x\.csv: "):
        backtest_folder(tmp_path, SETTINGS)


def test_a_study_is_no_folder_of_tables(tmp_path, tables):
    assert holds_tables(tables)
    assert not holds_tables(tables / "one.csv")
    assert not holds_tables(tmp_path)
    (tmp_path / "copy.csv").write_text("params,tokens,loss\n")
    assert holds_tables(tmp_path)
    (tmp_path / "jobs.jsonl").write_text("")
    assert not holds_tables(tmp_path)
    (tmp_path / "jobs.jsonl").unlink()
    write_json(tmp_path / "cell/record.json", {})
    assert not holds_tables(tmp_path)


def test_cutoffs_leave_what_a_form_needs_below_them(tables):
    found, _ = experiments_of(tables, form="chinchilla", most_cutoffs=5)
    table = found[0].table
    flops = column(table, "flops")
    assert list(found[0].cutoffs) == splits(table, flops, "chinchilla", 5)
    for cutoff in found[0].cutoffs:
        assert (flops <= cutoff).sum() >= 10
        assert (flops > cutoff).any()
    assert splits(table, flops, "chinchilla", 1) == [found[0].cutoffs[0]]


# --- scores and their summary -------------------------------------------------------------------


@pytest.mark.slow
def test_ours_beats_the_line_on_exact_laws_and_all_methods_answer(result):
    farthest = {
        row["method"]: row
        for row in result.summary
        if row["runs"] == FRONTIER and row["distance"] == "beyond x30"
    }
    assert set(farthest) >= {OURS, LBFGS, LINE}
    assert farthest[OURS]["rms"] < 0.03 < farthest[LINE]["rms"]
    assert farthest[LINE]["coverage"] is None
    assert LINE not in {row["method"] for row in result.summary if row["runs"] == ALL_RUNS}


@pytest.mark.slow
def test_the_summary_is_that_of_the_splits(result):
    rows = rows_of(result.splits)
    for row in result.summary:
        low, high = BINS[row["distance"]]
        here = rows[(rows["method"] == row["method"]) & (rows["distance"] > low)]
        here = here[here["distance"] <= high]
        here = here[here["frontier"]] if row["runs"] == FRONTIER else here
        error = np.expm1(here["error"])
        assert row["n_runs"] == len(here)
        assert row["rms"] == pytest.approx(np.sqrt((error**2).mean()))
        assert row["median"] == pytest.approx(error.abs().median())
        if row["coverage"] is not None:
            assert row["coverage"] == pytest.approx(here["covered"].mean())
            low, high = row["coverage_interval"]
            assert 0 <= low <= row["coverage"] <= high <= 1


@pytest.mark.slow
def test_a_split_says_what_every_method_predicts(result):
    split = result.splits[0]
    assert split["n_test"] == len(split["distance"]) == len(split["measured"])
    assert min(split["distance"]) > 1
    for name, answer in split["methods"].items():
        assert len(answer["predicted"]) == split["n_test"]
        assert (answer["low"] is not None) == (name == OURS)
        assert answer["seconds"] >= 0
    line = split["methods"][LINE]["predicted"]
    assert [v is not None for v in line] == split["frontier"]
    assert result.usable[OURS][1] == len(result.splits)


@pytest.mark.slow
def test_progress_counts_every_split(result, progress):
    assert progress[0] == ("backtests", 0, len(result.splits))
    assert progress[-1] == ("backtests", len(result.splits), len(result.splits))


@pytest.mark.slow
def test_a_method_that_cannot_answer_says_why_and_is_not_counted(result):
    splits = json.loads(json.dumps(result.splits))
    splits[0]["methods"][LBFGS] |= {"predicted": None, "note": "no minimum"}
    fewer, all_rows = rows_of(splits), rows_of(result.splits)
    assert len(all_rows) - len(fewer) == splits[0]["n_test"]


@pytest.mark.slow
def test_a_fit_without_an_answer_stands_in_the_page_with_its_reason(result):
    splits = json.loads(json.dumps(result.splits))
    splits[0]["methods"][LBFGS] |= {"predicted": None, "note": "no <minimum>"}
    page = Page(backtest_page(replace(result, splits=splits)))
    row = [splits[0]["experiment"], f"C = {power(splits[0]['cutoff_flops'])}", LBFGS]
    assert [*row, "no <minimum>"] in page.rows
    assert "Fits without an answer: 1" in page.text
    assert "Fits without an answer" not in Page(backtest_page(result)).text


@pytest.mark.parametrize(
    ("covered", "share_inside", "low"),
    [([1, 1, 0, 1, np.nan], 0.75, 0.3), ([np.nan], None, None), ([], None, None)],
)
def test_coverage_counts_runs_that_have_an_interval(covered, share_inside, low):
    found = coverage_of(covered)
    assert found["coverage"] == share_inside
    if low is not None:
        assert found["coverage_interval"][0] > low


def test_distances_fall_into_bins_once():
    rows = pd.DataFrame({"distance": [1.5, 3.0, 4.0, 10.0, 16.0, 32.0]})
    assert [len(part) for part in by_distance(rows).values()] == [2, 2, 1, 1]
    assert by_distance(rows.head(0)) == {}
    assert rms([3.0, -4.0]) == pytest.approx(np.sqrt(12.5))


# --- the page -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects tables as rows of cell texts, all texts, tags and addresses."""

    VOID = ("meta", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text, self.tags, self.addresses = "", set(), []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v[:1] != "#"]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        self.text += data


@pytest.mark.slow
def test_the_page_shows_the_figures_of_backtest_json(result, tmp_path):
    written = json.loads(result.write(tmp_path / "b.json").read_text())
    text = backtest_page(result)
    page = Page(text)
    assert page.open == []
    shown = {tuple(row[:3]): row for row in page.rows if len(row) == 8}
    for row in written["summary"]:
        cells = [row["distance"], row["method"], str(row["n_runs"])]
        expected = [percent(row[k]) for k in ("rms", "median", "median_rms")]
        found = [r for r in page.rows if r[:3] == cells and r[4:7] == expected]
        assert found, (cells, shown.get(tuple(cells)))
        assert share(row) in [r[7] for r in found]
    for row in written["experiments"]:
        (cells,) = [r for r in page.rows if r[0] == row["experiment"]]
        assert cells[3:] == [percent(row["rms"][m]) for m in written["methods"]]
    for row in written["left_out"]:
        assert [row["file"], row["why"]] in page.rows


@pytest.mark.slow
def test_the_page_is_light_whole_and_asks_nothing_of_a_network(result):
    text = backtest_page(result)
    page = Page(text)
    assert len(text) < 1_000_000
    assert text.count("<svg") == 3
    assert text.count("<script") == 1  # that of the downloads
    assert HOSTILE not in text
    assert f"two & <b>.csv: {HOSTILE}" in page.text
    assert set(page.addresses) == {"data:,"}
    assert "http" not in text.replace("http-equiv", "")
    if not is_installed():
        assert "package chinchilla: not installed: pip install chinchilla" in page.text


# --- the command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_writes_page_and_numbers_with_two_processes(tables, tmp_path, result):
    out = tmp_path / "deep/page.html"
    options = ["forms=[chinchilla]", "cutoffs=2", "starts=10", "processes=2"]
    done = call("analysis.backtest", f"runs={tables}", f"out={out}", *options)
    assert done.returncode == 0, done.stderr
    assert "left out: broken.csv" in done.stdout
    written = json.loads(out.with_suffix(".json").read_text())
    assert written["summary"] == result.summary
    assert written["inputs"]["sha256"].keys() >= {"one.csv", "broken.csv"}
    assert Page(out.read_text()).open == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["form=coupled"], "form is for one study or table"),
        (["plot=true", "within=0.1"], "within, plot is for one study or table"),
        (["forms=[]"], "names no form"),
        (["forms=[isoflop]"], "gives N and D only"),
        (["cutoffs=0"], "cutoffs"),
        (["starts=5000"], "starts"),
        (["columns.loss=nothing"], "can be backtested"),
    ],
)
def test_a_mistake_is_one_sentence(tables, tmp_path, options, words):
    done = call("analysis.backtest", f"runs={tables}", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.long
def test_form_all_is_compared_too(tables, tmp_path):
    (tmp_path / "one.csv").write_bytes((tables / "one.csv").read_bytes())
    settings = Settings(forms=("all",), starts=5, level=0.9, seed=0)
    found = backtest_folder(tmp_path, settings, most_cutoffs=1, processes=1)
    row = next(r for r in found.summary if r["method"] == our_name("all"))
    assert row["rms"] < 0.05
    assert row["coverage"] is not None
