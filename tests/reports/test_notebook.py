"""A run in a notebook: a table that a person can read, and rows to work with."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.errors import UsageError
from harness.records.run import Run
from harness.reports import notebook
from harness.reports.summary import verdict_sentence
from harness.testing import ROWS, SUITE, Project

HOSTILE = "<script>alert(1)</script>\x1b[31m"


@pytest.fixture
def run(suite: Project) -> Run:
    return harness.run("suite.toml", plugins=("harness.testing",))


def test_gates_are_a_table(suite: Project, run: Run) -> None:
    """A row a verdict under the page's sentence, what ships first, its outcome as a word; what others wrote is text."""
    page = run._repr_html_()
    assert page.startswith(f"<p><b>✓ {verdict_sentence(run)}</b></p><p>fake · exit 0</p>")
    assert re.findall(r"<caption>(.*?)</caption>", page) == ["merged", "adapter, which does not ship"]
    assert re.findall(r"<td>(. PASS[^<]*)</td>", page) == ["✓ PASS", "✓ PASS"]
    assert f"<p>{run.folder}</p>" in page
    assert page.count('<div style="overflow-x:auto"') == page.count("<table>")  # a narrow cell scrolls
    run.suite = HOSTILE
    assert "<script>" not in run._repr_html_() and "\x1b" not in run._repr_html_()


@pytest.mark.slow
def test_what_failed_is_told(suite: Project) -> None:
    """With its reason; a run that gated nothing has no table."""
    suite.write({"suite.toml": SUITE.replace("0.5", "0.99")})
    page = harness.run("suite.toml", plugins=("harness.testing",))._repr_html_()
    assert "✗ nothing ships: one gate failed" in page and "exit 1" in page and "✗ FAIL" in page
    suite.write({"suite.toml": SUITE.partition("[[gate]]")[0]})
    assert "<table>" not in harness.run("suite.toml", plugins=("harness.testing",))._repr_html_()


def test_rows_are_joined(run: Run) -> None:
    """Every row once, with each subject's answer and scores, as the report counts them."""
    rows = run.rows("qa")
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert list(rows[0]) == [
        "id",
        "prompt",
        "target",
        "cluster",
        "kind",
        *(f"{s}.{what}" for s in ("base", "adapter", "merged") for what in ("answer", "exact_match")),
    ]
    for report in run.results:
        mean = sum(row[f"{report.subject}.exact_match"] for row in rows) / len(rows)
        assert mean == pytest.approx(report.metrics["exact_match"])


def test_rows_of_a_folder_that_moved(run: Run, tmp_path: Path) -> None:
    """A run that is read knows where it was found; one whose rows are gone says so in one line."""
    moved = Path(run.folder).rename(tmp_path / "elsewhere")
    assert harness.read_run(moved).rows("qa")[0]["id"] == "q0"
    with pytest.raises(UsageError, match='has no rows of "qa"'):
        run.rows("qa")
    with pytest.raises(UsageError, match='has no rows of "qe"; known: "qa"'):
        run.rows("qe")
    [path] = moved.glob("base/samples_*.jsonl")
    path.write_text('{"id": "q0"}\n', "utf-8")
    with pytest.raises(UsageError, match="is incomplete; run the suite again"):
        harness.read_run(moved).rows("qa")


def test_rows_are_a_data_frame(run: Run) -> None:
    pytest.importorskip("pandas")
    frame = run.frame("qa")
    assert frame.shape == (60, 11)
    assert frame["merged.exact_match"].mean() == pytest.approx(run.results[-1].metrics["exact_match"])


def test_without_pandas_the_way_out_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        run.frame("qa")


def test_others_draw_under_the_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they return stands there, and one that fails costs no table."""

    class Point:
        def __init__(self, draw: Any) -> None:
            self.load = lambda: draw

    def fails(run: Run) -> str:
        raise OSError("no renderer")

    points = [Point(fails), Point(lambda run: f"<svg>{run.suite}</svg>"), Point(lambda run: None)]
    own = importlib.metadata.entry_points
    monkeypatch.setattr(
        notebook.importlib.metadata,
        "entry_points",
        lambda **f: points if f["group"] == notebook.NOTEBOOK_ENTRY_POINTS else own(**f),
    )
    assert run._repr_html_().endswith("</p><svg>fake</svg>")


def test_the_page_is_linked(run: Run) -> None:
    """Where a run has one, by a path that a notebook's server finds."""
    Path(run.folder, "report.html").write_text("", "utf-8")
    assert f'<a href="{run.folder}/report.html">' in run._repr_html_()
