"""The section on wrong answers: pairs of expected and said, what kind of mistake, and links whose count is right."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest

from harness.testing import Project
from harness_report import mistakes

pytest.importorskip("jinja2")
SCRIPT = Path(mistakes.__file__).parent / "templates/rows.js"
LABELS = ["diseases of the skin", "diseases of the ear"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("", "empty"),
        ("Diseases of the", "cut"),
        ("diseases of the skin and hair", "more"),
        ("Diseases of the ear", "label"),
        ("something else", "other"),
    ],
)
def test_a_wrong_answer_has_a_kind(said: str, kind: str) -> None:
    """Nothing said, a beginning, more than was expected, another label, any other text."""
    assert mistakes._classify_mistake(LABELS[0], said, {*LABELS}) == kind


def format_answer_rows(answers: dict[int, str]) -> str:
    """Return 90 rows of three labels, right but for some answers."""
    rows = [{"id": f"q{i}", "input": f"what {i}", "target": "abc"[i % 3] * 3} for i in range(90)]
    told = [{**r, "answer": answers.get(i, r["target"])} for i, r in enumerate(rows)]
    return "\n".join(json.dumps({**r, "score": int(r["answer"] == r["target"])}) for r in told) + "\n"


@pytest.fixture
def page(project: Project) -> str:
    """The page of a candidate that says "bbb" for "aaa" eleven times, of which the base did two, and "" thrice."""
    ours = {**dict.fromkeys(range(0, 33, 3), "bbb"), 1: "", 4: "", 7: "", 8: "cc"}
    project.write({"base.jsonl": format_answer_rows({0: "bbb", 3: "bbb"}), "cand.jsonl": format_answer_rows(ours)})
    assert project.harness("gate", "base.jsonl", "cand.jsonl", "--worse-by-at-most", "0.02").code in (1, 6)
    (folder,) = project.folder.glob("reports/*")
    assert project.harness("report", str(folder)).code == 0
    return Path(folder, "report.html").read_text("utf-8")


def test_wrong_answers_stand_by_what_was_expected(page: str) -> None:
    """The commonest pair comes first, with how many rows the candidate lost, and how many the base had."""
    section = re.findall(r'id="sec-wrong">(.*?)</section>', page, re.DOTALL)[0]
    assert "15 rows of 90 wrong: empty (3), cut short (1), another label (11)." in html.unescape(section)
    cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", section)]
    assert cells == ["aaa", "bbb", "another label", "11", "9", "2", "bbb", "(empty)", "empty", "3", "3", "0"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_count_on_a_link_is_its_filters(page: str) -> None:
    """Each link of the section opens as many rows as it says."""
    section = re.findall(r'id="sec-wrong">(.*?)</section>', page, re.DOTALL)[0]
    links = [(html.unescape(link), int(n)) for link, n in re.findall(r'<a href="([^"]+)"[^>]*>(\d+)</a>', section)]
    data = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0]
    whole = SCRIPT.read_text("utf-8").partition("function page(")[0]
    code = f"const d = {data}; console.log(JSON.stringify({json.dumps([link for link, _ in links])}"
    code += ".map((h) => { const s = parse(h); return filter(d.find((e) => e.name === s.name), s).length; })));"
    done = subprocess.run(["node", "-e", whole + code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [n for _, n in links] == [11, 3]
    assert "said=" in unquote(links[1][0])
