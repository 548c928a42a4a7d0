"""axe-core finds nothing to mend on any page, and paper is not wasted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pytest

from bench import gallery
from harness.testing import SUITE, TRAIN, Project
from harness.testing.judge import StubJudge
from tests.helpers.browser import CHROMIUM, Browser, open_browser
from tests.helpers.late import import_late
from tests.helpers.serving import Served, serve_runs

import_late("starlette")
import_late("uvicorn")
import_late("jinja2")
import_late("openai")
EXAMPLES = Path(__file__).parents[2] / "docs/examples/reports"
FOUND = find_spec("axe_playwright_python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.skipif(FOUND is None, reason="needs axe-playwright-python"),
]
WIDTHS = (360, 800, 1300, 1900)
ASKED = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "rules": {"target-size": {"enabled": True}},  # of 2.2, and off by itself
    "resultTypes": ["violations"],
    "preload": False,
}
TOLD = """axe.run(document, %s).then((found) => found.violations.map(
  (v) => [v.tags.includes("best-practice"), `${v.id}: ` + v.nodes.map((n) => n.html.slice(0, 100)).join(" ")]))"""
FILTERS = """(() => {  // milliseconds of each filter, and of a search in 100,000 texts beside it
  const find = document.getElementById("find"), times = [], searches = [];
  const texts = Array.from({length: 100000}, (_, i) => `question ${i} about label ${i % 7}`);
  for (const text of ["label 3", "question 5", "about k", "zebra", "", "label", "q9", "question 77", "label 6 about"]) {
    const before = performance.now();
    find.value = text;
    find.dispatchEvent(new Event("input"));
    document.body.offsetHeight;
    const between = performance.now();
    texts.filter((one) => one.includes("label 3") || one.includes("q9") || one.includes("77 about")).length;
    times.push(between - before);
    searches.push(performance.now() - between);
  }
  return [times, searches];
})()"""
ROWS = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(60)]
JUDGED = """
[[eval]]
name = "judged"
use = "judge"
data = "test.jsonl"
backend = "openai"
model = "stub-judge"
max_new_tokens = 20
trust_judge = true
adversaries = 0
base_url = "URL"

[[gate]]
id = "never"
metric = "qa.exact_match"
min = 0.999

[[gate]]
id = "gains"
metric = "qa.exact_match"
versus = "base"
better_by = 0.0

[[gate]]
id = "keeps"
metric = "judged.win_rate"
min = 0.4
severity = "warn"
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a tab of Chromium that knows axe."""
    with open_browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def run(project: Project, pages: None) -> Path:
    """A run with what failed, passed, warns and was judged, beside one before it and one that goes on."""
    with StubJudge("always-A") as judge:
        text = SUITE + JUDGED.replace("URL", judge.openai_url)
        project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run()
    (found,) = (project.folder / "reports").iterdir()
    before, goes_on = (shutil.copytree(found, found.with_name(name)) for name in ("before", "goes on"))
    report = json.loads((found / "report.json").read_text("utf-8"))
    (before / "report.json").write_text(json.dumps(report | {"started": "2026-01-01T00:00:00+00:00"}), "utf-8")
    (goes_on / "report.json").unlink()
    assert project.harness("report", str(found), "--history", "reports").code == 0
    return found


@pytest.fixture
def server(run: Path) -> Iterator[Served]:
    with serve_runs(run.parent) as found:
        yield found


def find_axe_mistakes(tab: Browser) -> list[str]:
    """Return what axe finds on the page as it stands, unfolded, light and dark, at every width."""
    assert FOUND and FOUND.origin
    tab.value(Path(FOUND.origin).with_name("axe.min.js").read_text("utf-8") + "; 0")
    tab.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = []
    for dark in (False, True):
        for width in WIDTHS:
            tab.look(width, dark=dark)
            for advice, told in tab.value(TOLD % json.dumps(ASKED)):
                print(f"{width}, {'dark' if dark else 'light'}: {told}")
                found += [told] if not advice else []
    return found


def test_axe_finds_nothing_on_any_page(run: Path, server: Served, tab: Browser) -> None:
    """WCAG 2.2 A and AA: the list, a run, one that goes on, two compared, a history, and labels."""
    of_judge = f"/label/{run.name}?by=Ada&item=merged%3A%3Ajudged&drawn="
    paths = ["/", f"/run/{run.name}#qa/q1", "/run/goes%20on", f"/compare?run=before&run={run.name}"]
    paths += [f"/label/{run.name}", of_judge + "at+random", of_judge + "disputes"]
    found = {}
    tab.visit(f"http://{server.host}/?token={server.token}")  # from here on a cookie has it
    for page in (*(f"http://{server.host}{path}" for path in paths), (run / "history.html").as_uri()):
        tab.visit(page)
        found[page] = (tab.value("document.title") or "no title", find_axe_mistakes(tab))
        print(page, found[page])
    assert {page: odd for page, (_, odd) in found.items() if odd} == {}


@pytest.mark.parametrize("kind", ["train", "error", "sixty", "live", "compare", "notebook"])
def test_axe_finds_nothing_on_pages_of_every_kind(tab: Browser, tmp_path: Path, kind: str) -> None:
    """Those of the gallery that the pages above are not: rows of others, many gates, a live run, a notebook's cell."""
    with gallery.work_in_folder(tmp_path):
        page = gallery.KINDS[kind](tmp_path)
    tab.look(360)
    tab.visit(page.resolve().as_uri())
    assert tab.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert find_axe_mistakes(tab) == []


@pytest.mark.parametrize("name", ["domain", "lm-eval"])
def test_axe_finds_nothing_on_the_pages_of_the_docs(tab: Browser, name: str) -> None:
    """The reports that the documentation opens: a training of the demo, and rows of lm_eval."""
    tab.visit((EXAMPLES / f"{name}.html").as_uri())
    assert find_axe_mistakes(tab) == []


def test_a_hundred_thousand_rows(tab: Browser, tmp_path: Path) -> None:
    """Two megabytes at most, and a filter takes no longer than ten searches in as many texts."""
    with gallery.work_in_folder(tmp_path):
        page = gallery.KINDS["many"](tmp_path).resolve()
    assert page.stat().st_size <= 2_000_000
    tab.look(1300)
    tab.visit(page.as_uri())
    times, searches = tab.value(FILTERS)
    assert len(times) == 9
    assert median(times) < 10 * median(searches), (times, searches)  # 3.5 times on a quiet machine
