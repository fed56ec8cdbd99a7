# ruff: noqa: E501  the lines of scripts
"""The page as a reader meets it: height, letters, links, downloads, print, accessibility."""

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis.page.contents import read_material
from analysis.page.render import report
from analysis.page.sections import cell_table
from analysis.planning.budgets import Budget
from analysis.planning.make import make_plan
from analysis.planning.written.plan_file import write_plan
from analysis.runs.study import study_of
from tests.analysis import synthetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = importlib.util.find_spec("axe_playwright_python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
RUN = """<script>addEventListener("load", async () => {
  const told = await (async () => { SCRIPT })();
  const place = document.createElement("pre"); place.id = "told"; place.textContent = JSON.stringify(told);
  document.body.append(place);
});</script>"""


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A whole study: cells, law, plan, final run with its stages."""
    folder = synthetic.write_study(tmp_path_factory.mktemp("runs") / "small")
    law = synthetic.known_law()
    law.write(folder / "law.json")
    plan = make_plan(law, Budget(flops=3e13), study_of(folder, count="with_head"))
    write_plan(folder / "plan.yaml", plan)
    synthetic.write_final(folder, plan=plan, loss=plan.forecast.test_loss)
    return folder


@pytest.fixture(scope="module")
def page(study) -> str:
    return report(read_material(study))


def chromium(folder: Path, *arguments: str) -> str:
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}/profile", *arguments]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    return done.stdout


def told(page: str, script: str, folder: Path, *, width: int = 1440, dark: bool = False):
    """Run a script in the page; return what it returns.

    Headless windows are at least 500 pixels wide: a narrower page stands in a frame of its width.
    """
    text = page.replace("</body>", RUN.replace("SCRIPT", script) + "</body>")
    (folder / "page.html").write_text(text)
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    flags = ("--dump-dom", "--virtual-time-budget=60000", f"--window-size={width},900", scheme)
    out = chromium(folder, *flags, f"file://{folder}/page.html")
    return json.loads(html.unescape(re.search(r'<pre id="told">(.*?)</pre>', out, re.S)[1]))


def test_folded_it_is_short_and_nothing_is_wider_than_the_window(page, tmp_path):
    script = """
      const root = document.documentElement, folded = root.scrollHeight;
      document.querySelectorAll("details").forEach(one => { one.open = true; });
      return { folded, wide: root.scrollWidth > root.clientWidth };"""
    seen = told(page, script, tmp_path)
    assert seen["folded"] <= 6000
    assert not seen["wide"]


def test_letters_of_figures_have_eleven_pixels_on_a_phone(page, tmp_path):
    script = """
      document.querySelectorAll("details").forEach(one => { one.open = true; });
      document.body.style.width = "390px"; document.body.style.fontSize = "15px";
      await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
      const seen = [...document.querySelectorAll("figure svg text")].map(text => {
        const svg = text.ownerSVGElement, scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
        return parseFloat(getComputedStyle(text).fontSize) * scale; });
      const widths = [...document.querySelectorAll("figure")].map(f => f.getBoundingClientRect().width);
      return { least: Math.min(...seen), texts: seen.length, width: Math.max(...widths) };"""
    seen = told(page, script, tmp_path, width=600)
    assert seen["texts"] > 100
    assert 340 < seen["width"] < 390
    assert seen["least"] >= 11


def test_figures_and_tables_are_saved_without_colours_of_the_page(page, tmp_path):
    script = """
      const saved = []; HTMLAnchorElement.prototype.click = function () { saved.push([this.download, this.href]); };
      document.querySelector("[data-svg=loss]").dispatchEvent(new MouseEvent("click", { bubbles: true }));
      document.querySelector("[data-png=loss]").dispatchEvent(new MouseEvent("click", { bubbles: true }));
      document.querySelector("[data-csv=cells]").dispatchEvent(new MouseEvent("click", { bubbles: true }));
      for (let i = 0; i < 100 && saved.length < 3; i++) await new Promise(done => setTimeout(done, 100));
      return saved.map(([name, url]) => [name, decodeURIComponent(url.slice(0, 200000))]);"""
    saved = dict(told(page, script, tmp_path))
    svg, table = saved["small-loss.svg"], saved["small-cells.csv"]
    assert 'xmlns="http://www.w3.org/2000/svg"' in svg
    assert "var(--" not in svg
    assert "currentColor" not in svg
    assert saved["small-loss.png"].startswith("data:image/png;base64,")
    head, *rows = table.removeprefix("data:text/csv;charset=utf-8,").strip().splitlines()
    assert head.startswith("run,status,schedule,seed,N,D,D/N")
    assert len(rows) == page.count('href="#curves-run-')
    assert re.search(r",\d\.\d{6,},", rows[0])  # numbers are not rounded as in the page


def test_a_touch_and_the_arrow_keys_show_the_run_behind_a_point(page, tmp_path):
    script = """
      const figure = document.getElementById("figure-loss"), plot = figure.querySelector(".plot"), bubble = figure.querySelector(".bubble");
      figure.scrollIntoView();
      const box = figure.querySelector("g.tip").getBoundingClientRect();
      const at = { bubbles: true, pointerType: "touch", clientX: box.x + box.width / 2 + 4, clientY: box.y + box.height / 2 + 4 };
      plot.dispatchEvent(new PointerEvent("pointerdown", at));
      const touched = bubble.textContent, seen = !bubble.hidden;
      plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
      return { touched, seen, next: bubble.textContent, role: plot.getAttribute("role") };"""
    shown = told(page, script, tmp_path)
    assert shown["seen"]
    assert re.match(r"\w+, N [\d.]+[kM], D [\d.]+[kM]", shown["touched"])
    assert shown["next"] not in ("", shown["touched"])


def test_a_link_opens_the_part_that_it_leads_to(page, tmp_path):
    script = """
      const before = document.getElementById("cells").open;
      document.querySelector('nav a[href="#cells"]').click();
      return [before, document.getElementById("cells").open];"""
    assert told(page, script, tmp_path) == [False, True]


def test_rows_beyond_the_first_are_made_when_the_table_is_opened(
    page, tmp_path, monkeypatch, study
):
    monkeypatch.setattr(cell_table, "MOST_ROWS", 5)
    short = report(read_material(study))
    script = """
      const texts = () => [...document.getElementById("celltable").tBodies[0].rows].map(row => row.textContent);
      const before = texts().length, part = document.getElementById("cells");
      part.open = true;
      await new Promise(done => setTimeout(done, 300));
      return { before, after: texts() };"""
    few, all_rows = told(short, script, tmp_path), told(page, script, tmp_path)
    assert few["before"] == 5
    assert few["after"] == all_rows["after"]  # written alike by page.js and by Python


@pytest.mark.long
@pytest.mark.skipif(AXE is None, reason="no axe: pip install axe-playwright-python")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_violation(page, tmp_path, dark):
    axe = (Path(AXE.submodule_search_locations[0]) / "axe.min.js").read_text()
    script = """
      document.querySelectorAll("details").forEach(one => { one.open = true; });
      const ground = getComputedStyle(document.body).backgroundColor;
      const found = await axe.run(document, { resultTypes: ["violations"] });
      return { ground, passed: found.passes.length, violations: found.violations.map(v => [v.id, v.nodes[0].target.join(" ")]) };"""
    with_axe = page.replace(
        "</body>", f"<script>{axe.replace('</script', '<[/script')}</script></body>"
    )
    seen = told(with_axe, script, tmp_path, dark=dark)
    assert seen["ground"] == ("rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)")
    assert seen["passed"] > 30
    assert seen["violations"] == []


def test_the_pdf_is_tagged_and_has_every_part_in_its_outline(page, tmp_path):
    (tmp_path / "page.html").write_text(page)
    out = tmp_path / "page.pdf"
    outline = ("--no-pdf-header-footer", "--generate-pdf-document-outline")
    chromium(tmp_path, f"--print-to-pdf={out}", *outline, f"file://{tmp_path}/page.html")
    pdf = out.read_bytes()
    for mark in (b"/StructTreeRoot", b"/Marked true", b"/Lang", b"/S /Table", b"/S /TH"):
        assert mark in pdf
    titles = set(re.findall(rb"/Title \(([^)]*)\)", pdf))
    assert {b"Answer", b"The law", b"The plan", b"All cells", b"Provenance"} <= titles


TEXT, GRAPHIC = 4.5, 3.0  # least contrast by WCAG 2.2, 1.4.3 and 1.4.11


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_stands_out_in_both_schemes(page):
    schemes = [
        dict(re.findall(r"--(\w+):(#\w+)", block))
        for block in re.findall(r":root \{(.*?)\}", page, re.S)
    ]
    light, dark, paper = schemes[0], schemes[0] | schemes[1], schemes[0] | schemes[2]
    for scheme in (light, dark, paper):
        for name in ("ink", "muted", "link", "good", "bad"):
            for ground in ("bg", "card"):
                assert contrast(scheme[name], scheme[ground]) >= TEXT, (name, ground)
        assert contrast(scheme["bad"], scheme["badbg"]) >= TEXT
        for name in [k for k in scheme if re.fullmatch(r"[cs]\d", k)]:
            assert contrast(scheme[name], scheme["bg"]) >= GRAPHIC, name
