import numpy as np
import pandas as pd
import pytest

from analysis.page.index_page import index_page
from analysis.report import ReportConfig, main
from analysis.runs.columns import Columns
from analysis.runs.example import TABLE
from tests.analysis import synthetic


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a table with columns of another tool's names; its folder and its text."""
    folder = tmp_path_factory.mktemp("tables")
    rng, rows = np.random.default_rng(0), []
    for flops in (1e18, 1e19, 1e20):
        for n in np.geomspace(0.2, 5, 7) * 0.1 * flops**0.5:
            loss = 1.7 + 400 * n**-0.34 + 400 * (flops / 6 / n) ** -0.28
            rows.append({"N": n, "D": flops / 6 / n, "L": loss * np.exp(0.002 * rng.normal())})
    pd.DataFrame(rows).to_csv(folder / "their.csv", index=False)
    columns = Columns(params="N", tokens="D", loss="L")
    main(ReportConfig(runs=f"{folder}/their.csv", columns=columns))
    return folder, (folder / "their.html").read_text()


@pytest.mark.slow
def test_a_table_of_another_tool_has_law_figures_planner_and_next_command(page):
    folder, text = page
    assert "<title>Test loss against training compute</title>" in text
    assert "<title>IsoFLOP curves</title>" in text
    assert 'id="planner-law"' in text
    assert "21 runs of a table" in text
    assert f"python -m analysis.plan law={folder}/their.law.json flops=1e21" in text
    assert 'id="stages"' not in text  # it has no final run
    assert "columns.params=N" in text  # the command that fits it again


@pytest.mark.slow
def test_a_table_is_not_asked_for_what_a_study_has(page):
    folder, _ = page
    with pytest.raises(ValueError, match="target, unit and wandb are for a study"):
        main(ReportConfig(runs=f"{folder}/their.csv", target="web"))


@pytest.mark.parametrize("name", ["law.json", "absent.json", "plan.yaml"])
def test_a_law_or_plan_as_runs_is_answered_with_what_a_report_takes(tmp_path, name):
    (tmp_path / "law.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"is no study and no table; .* runs={tmp_path} or"):
        main(ReportConfig(runs=f"{tmp_path}/{name}"))


@pytest.mark.slow
def test_the_packaged_table_has_a_page_in_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(ReportConfig(runs="example"))
    assert {p.name for p in tmp_path.iterdir()} == {"example.html", "example.law.json"}
    assert "report written to example.html" in capsys.readouterr().out
    assert "runs=example form=chinchilla" in (tmp_path / "example.html").read_text()
    assert not list(TABLE.parent.glob("*.html"))


def test_the_index_names_every_study_and_leads_to_its_page(tmp_path):
    for name in ("small", "other"):
        synthetic.write_cell(tmp_path / name, 3, 64, 1e12)
    (tmp_path / "small/report.html").write_text("a page")
    text, count = index_page(tmp_path, tmp_path / "index.html")
    assert count == 2
    assert '<a href="small/report.html">small</a>' in text
    assert "1 of 1 done" in text
    assert f"python -m analysis.report runs={tmp_path}/other" in text


def test_a_folder_without_studies_is_said(tmp_path):
    with pytest.raises(ValueError, match="has no study"):
        index_page(tmp_path, tmp_path / "index.html")
