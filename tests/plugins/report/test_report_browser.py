"""The page of a run in Chromium, and its script in node."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import Outcome
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness_report.page import render_run
from harness_report.reading import read_folder
from tests.helpers.browser import CHROMIUM, Browser, open_browser

pytest.importorskip("jinja2")
SCRIPT = Path(__file__).parents[3] / "plugins/harness_report/templates/rows.js"
DEMO = Path(__file__).parents[3] / "docs/examples/reports/domain.html"
NODE = shutil.which("node")
HOSTILE = "</script><img src=x onerror=alert(1)>"
EVAL = """
const e = {name: "qa", binary: true, lower: false, subjects: ["base", "adapter", "merged"], theirs: 0, ours: 2,
  counts: [1, 1, 0, 1, 0], total: 3, rows: [
  ["q10", 0, "a", "line", "Prompt one", "", ["x", "y", "z"], [1, 1, 0]],
  ["q9", 1, "b", "line", "prompt TWO", "", ["x", "y", "z"], [0, 1, 1]],
  ["q1", 3, "a", "line", "prompt three", "", ["x", "y", "zebra"], [0, 1, 0]]]};
const ids = (found) => found.map((i) => e.rows[i][0]);
"""


def evaluate_script(code: str) -> Any:
    """Return what an expression gives after the page's script."""
    whole = f"const {{parse, hashOf, filter, diff, pretty, explained}} = require({json.dumps(str(SCRIPT))});{EVAL}"
    words = [NODE or "node", "-e", f"{whole}console.log(JSON.stringify({code}))"]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_rows_are_filtered_and_sorted() -> None:
    """By outcome, slice and words in any case; by change as they stand, or by id as numbers."""
    asked = ["{}", "{outcome: 'lost'}", "{slice: 'a'}", "{text: 'two PROMPT'}", "{text: 'zebra'}", "{sort: 'id'}",
             "{outcome: 'lost', against: 'adapter'}",
             "{outcome: 'wrong'}", "{outcome: 'wrong', of: 'base'}"]  # fmt: skip
    found = evaluate_script(f"[{', '.join(asked)}].map((s) => ids(filter(e, {{...parse(''), ...s}})))")
    assert found == [["q10", "q9", "q1"], ["q10"], ["q10", "q1"], ["q9"], ["q1"], ["q1", "q9", "q10"], ["q10", "q1"],
                     ["q10", "q1"], ["q9", "q1"]]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="needs node")
def test_links_name_rows_and_filters() -> None:
    """A link is read as it was written: a row, an outcome, and the rest of a filter; odd names and all."""
    assert evaluate_script("parse('#chapter/1234')")["row"] == "1234"
    assert evaluate_script("parse('#capitals:lost')") == evaluate_script(
        "({...parse(''), name: 'capitals', outcome: 'lost'})"
    )
    for state in ("{name: 'a:b/c', outcome: 'won', text: 'x & y', slice: '%'}", "{name: 'é', row: 'a/b?c'}"):
        assert evaluate_script(f"parse(hashOf({{...parse(''), ...{state}}}))") == evaluate_script(
            f"({{...parse(''), ...{state}}})"
        )
    assert evaluate_script("parse('#%')")["name"] == "%"


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_script_marks_words_as_the_page_does() -> None:
    """The script's word diff is the page's: marked where a third is shared, else whole."""
    same = "diff('Diseases of the nervous system', 'Diseases of the digestive system')"
    assert evaluate_script(same)[0] == [["Diseases of the", False], ["nervous", True], ["system", False]]
    assert evaluate_script("diff('Paris', 'Rome')") == [[["Paris", False]], [["Rome", False]]]


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_answers_are_explained() -> None:
    """Against what was expected, not told twice, and JSON as a person reads it."""
    said = [f"{n} dollars a year" for n in ("4,300", "3,400", "4,300")] + ["[1,2]"]
    row = json.dumps(["q", 3, "", "", "", said[1], said, []])
    base, adapter, merged, other = evaluate_script(f"[0, 1, 2, 3].map((side) => explained(e, {row}, side))")
    assert base == [["4,300", True], ["dollars a year", False]]
    assert (adapter, merged) == ([["the same as expected", False]], [["the same as base", False]])
    assert other == [["[\n  1,\n  2\n]", False]] and evaluate_script("pretty('{no')") == "{no"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a tab of Chromium."""
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(project: Project) -> Path:
    """Write the page of a run that lost 4 rows and won 26, with a hostile answer in a row it lost."""
    gate = '\n[[gate]]\nid = "better <b>"\nmetric = "qa.exact_match"\nversus = "base"\nbetter_by = 0.0\n'
    rows = [{**r, "kind": HOSTILE} if r["kind"] == "a" else r for r in ROWS]  # in charts and lists, too
    project.write({"suite.toml": SUITE + gate, "test.jsonl": rows, "train.jsonl": TRAIN}).run()
    (run,) = project.folder.glob("reports/*")
    for subject, right in (("base", range(4, 30)), ("merged", range(4, 60)), ("adapter", range(60))):
        (path,) = run.glob(f"{subject}/samples_qa_*")
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for i, row in enumerate(rows):
            row["exact_match"] = float(i in right or (subject == "base" and i < 4))
            row.update(
                note=f"noted of {i}", details={"reasons": ["it is so"]}, metrics=["exact_match", "parses"], parses=0.25
            )
            row["resps"] = [[HOSTILE if subject == "merged" and i == 0 else f"{subject} said {i}"]]
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    html = run / "page.html"
    html.write_text(render_run(read_folder(run)), "utf-8")
    return html


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_hostile_answers_are_text_and_the_console_is_empty(tab: Browser, page: Path) -> None:
    """An answer that would end the script is shown as text; nothing is logged, refused, loaded or asked."""
    tab.open(page)
    shown = tab.value("document.querySelector('#body').textContent")
    assert HOSTILE in shown and tab.value("document.images.length") == 0
    assert tab.value("performance.getEntriesByType('resource').length") == 0
    assert tab.console == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [360, 800, 1300])
def test_page_fits_its_window(tab: Browser, page: Path, width: int) -> None:
    """Nothing makes the page scroll sideways on a phone, a tablet or a desk; the decision is on the first screen."""
    tab.open(page, width, dark=width == 800)
    assert tab.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.value("document.querySelector('.driver .number').getBoundingClientRect().bottom") < 900


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_paper_has_every_reason_and_no_browser(tab: Browser, page: Path) -> None:
    """What unfolds on a screen stands open on paper, in the columns of a desk; marks stand on the side of the text."""
    tab.open(page, 700)
    every = "[...document.querySelectorAll('.gates details p')]"
    seen = f"{every}.filter((p) => p.checkVisibility({{contentVisibilityAuto: true}}))"
    assert tab.value(f"{seen}.length") == 0
    tab.call("Emulation.setEmulatedMedia", media="print")
    tab.value("new Promise((drawn) => setTimeout(drawn, 200))")
    assert tab.value(f"{seen}.length") == tab.value(f"{every}.length") > 0
    assert tab.value("getComputedStyle(document.querySelector('.gates thead')).position") == "static"
    assert tab.value("document.querySelector('#sec-rows').getBoundingClientRect().height") == 0
    tab.call("Emulation.setEmulatedMedia", media="screen")
    tab.value("document.querySelector('.changed .answer').dir = 'rtl'")
    box, mark = (
        f"document.querySelector('.changed .answer{part}').getBoundingClientRect().right" for part in ("", " .mark")
    )
    assert tab.value(f"{mark} <= {box}")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_demo_is_six_sheets_of_paper(tab: Browser) -> None:
    """The page of the demo, as the docs have it."""
    tab.open(DEMO)
    assert 1 < tab.printed() <= 6


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_sixty_gates_are_seen_at_once(tab: Browser, page: Path) -> None:
    """Thirty on each of two models end within two screens, the page's head included; one key unfolds them.

    Buttons and a search show some of them.
    """
    kept = read_folder(page.parent)
    (floor,) = (v for v in kept.run.verdicts if v.gate == "floor" and v.decides)
    several = [
        replace(floor, gate=f"gate {i}", decides=ships, candidate=name, outcome=Outcome.FAIL if i < 4 else Outcome.PASS)
        for name, ships in (("merged", True), ("adapter", False))
        for i in range(30)
    ]
    reports = [replace(kept.run.results[0], verdicts=tuple(several))]
    page.write_text(render_run(replace(kept, run=replace(kept.run, results=reports))), "utf-8")
    tab.open(page)
    folds = "[...document.querySelectorAll('#sec-gates > .fold')].map((fold) => fold.getBoundingClientRect().bottom)"
    assert 600 < tab.value(f"Math.max(...{folds})") <= 2 * 900
    rows = "[...document.querySelectorAll('.gates tbody tr')]"
    assert tab.value(f"{rows}.filter((row) => row.checkVisibility()).length") == 10
    tab.value("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'o', bubbles: true}))")
    assert tab.value(f"{rows}.filter((row) => row.checkVisibility()).length") == 60
    assert tab.value("document.querySelectorAll('details:not([open])').length") == 0
    tally = "[...document.querySelectorAll('#tally button')]"
    assert tab.value(f"{tally}.map((one) => one.textContent)") == ["All 60", "FAIL 8", "PASS 52"]
    tab.value(f"{tally}[1].click()")
    assert tab.value(f"{rows}.filter((row) => row.checkVisibility()).length") == 8
    find = "document.querySelector('#tally input')"
    tab.value(f"{find}.value = 'gate 3 on'; {find}.dispatchEvent(new Event('input'))")
    assert tab.value(f"{rows}.filter((row) => row.checkVisibility()).length") == 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_rows_are_browsed_by_link_and_key(tab: Browser, page: Path) -> None:
    """Links filter and open rows, keys move and open them, and the address follows."""
    tab.open(page, hash="#qa:lost")
    count = "document.getElementById('count').textContent"
    assert tab.value(count).startswith("rows 1 to 4 of 4 ")
    tab.open(page, hash="#qa:wrong?of=base")
    assert tab.value(count).startswith("rows 1 to 30 of 30 ")
    tab.open(page, hash="#qa/q1")
    detail = tab.value("document.querySelector('#body .detail').textContent")
    assert all(text in detail for text in ("base said 1", "note: noted of 1", '"it is so"', "parses: 0.25"))
    tab.open(page)
    press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
    tab.value(f"{press % 'j'}; {press % 'j'}")
    tab.value("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")
    assert tab.value("location.hash").startswith("#qa/q")
    assert tab.value("document.querySelectorAll('#body .detail').length") == 1
    tab.value("const b = document.querySelector('#outcomes button:nth-child(2)'); b.focus(); b.click()")
    assert tab.value("document.activeElement.textContent").startswith("lost 4")
    tab.value("document.querySelector('#outcomes button').click()")
    tab.value("const f = document.getElementById('find'); f.value = 'question 17'; f.dispatchEvent(new Event('input'))")
    assert tab.value(count).startswith("rows 1 to 1 of 1 ")
    assert tab.value("location.hash") == "#qa?text=question+17"
    assert tab.console == []
