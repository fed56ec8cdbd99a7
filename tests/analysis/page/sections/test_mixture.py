"""The section of a mixture: on the page of a study or a table that has mixture.json."""

import json

import pytest

from analysis.mixing.options import DrawsConfig, MixtureConfig
from analysis.mixing.result import mixture
from analysis.page.sections.mixture import mixture_context, mixture_pictures, read_mixture
from tests.analysis.mixing.swarm_of import table_of
from tests.in_process import call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table of three sources and its mixture.json beside it."""
    path = tmp_path_factory.mktemp("mixtures")
    table_of(30, noise=0.003).to_csv(path / "t.csv", index=False)
    draws = DrawsConfig(resamples=20)
    result, _ = mixture(MixtureConfig(runs=str(path / "t.csv"), intervals=draws))
    (path / "mixture.json").write_text(json.dumps(result))
    return path


def test_three_sources_make_a_triangle_and_more_a_matrix(folder):
    result = read_mixture(folder)
    assert result is not None
    assert [p.name for p in mixture_pictures(result)] == ["mixture_shares", "mixture_triangle"]
    names = ["w", "x", "y", "z"]
    more = {name: dict.fromkeys(names, 0.25) for name in ("weights", "natural")}
    of_domains = {
        d: {**p, "w": dict(zip(names, (1.0, 2.0, 3.0, 4.0), strict=True))}
        for d, p in result["parameters"].items()
    }
    ends = {**result["intervals"], "weights": {name: [0.1, 0.3] for name in names}}
    wide = {**result, **more, "sources": names, "parameters": of_domains, "intervals": ends}
    assert [p.name for p in mixture_pictures(wide)] == ["mixture_shares", "mixture_worth"]


def test_the_page_of_the_table_shows_the_mixture_and_its_alarms_first(folder):
    content = json.loads((folder / "mixture.json").read_text())
    content["alarms"] = [{"code": "mixture_at_edge", "sentence": "The share of web is an edge."}]
    (folder / "mixture.json").write_text(json.dumps(content))
    done = call("analysis.report", "runs=t.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "t.html").read_text()
    assert page.index("The share of web is an edge.") < page.index('id="mixture"')
    assert "Shares of the sources" in page
    assert "which mixture of 3 sources gives the least mean loss of all domains?" in page


def test_a_mixture_of_another_table_is_not_shown_and_a_damaged_one_is_refused(folder, tmp_path):
    other = tmp_path / "mixture.json"
    other.write_text((folder / "mixture.json").read_text())
    table_of(8).to_csv(tmp_path / "u.csv", index=False)
    assert read_mixture(tmp_path, tmp_path / "u.csv") is None
    assert mixture_context(None) == {"mixture_lines": [], "mixture_grids": []}
    other.write_text("{}")
    with pytest.raises(ValueError, match="is no mixture"):
        read_mixture(tmp_path)
