"""A run folder may be anybody's: its names are names, its links lead nowhere, and nothing is written outside."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.files import append_line, hold_exclusively, open_file, write_text
from harness.reports.report_json import read_run
from harness.reports.run_folder import iterate_rows
from harness.testing import SUITE, Project
from tests.helpers.late import import_late
from tests.helpers.serving import serve_runs
from tests.helpers.suites import run_commands

import_late("starlette")
import_late("uvicorn")
import_late("jinja2")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    return next(run_commands(tmp_path_factory.mktemp("foreign"), "run suite.toml -q", suite=SUITE).glob("reports/*"))


@pytest.fixture
def run(once: Path, tmp_path: Path) -> Path:
    """A copy of it, of which somebody else may have made anything."""
    return shutil.copytree(once, tmp_path / "reports" / "run")


def edit(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    report = json.loads((run / "report.json").read_text("utf-8"))
    change(report)
    (run / "report.json").write_text(json.dumps(report), "utf-8")


NAMES = ["/etc", "..", "../..", "a/b", "", ".", ".hidden", "a\0b", "a\nb", "*", "~", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["subject", "eval"])
def test_names_of_a_report_are_plain(run: Path, key: str, name: str, project: Project) -> None:
    """A subject or an eval that is a path, a pattern or nothing is refused where the report is read."""
    edit(run, lambda report: report["results"][0].update({key: name}))
    with pytest.raises(UsageError, match="is not the name of a suite, a subject or an eval"):
        read_run(run)
    for words in (["show", "--rows", str(run)], ["judge", "disputes", str(run)], ["report", str(run)]):
        outcome = project.harness(*words)
        assert (outcome.code, outcome.err.count("\n"), outcome.out) == (4, 1, "")


@pytest.mark.parametrize("key", ["candidate", "versus", "metric"])
def test_names_of_a_verdict_are_plain(run: Path, key: str) -> None:
    """A verdict's names lead to rows as well."""
    edit(run, lambda report: next(r for r in report["results"] if r["verdicts"])["verdicts"][0].update({key: "../x"}))
    with pytest.raises(UsageError, match="is not the name"):
        read_run(run)


@pytest.mark.parametrize("what", ["report.json", "suite.lock.json", "merged", "samples"])
def test_nothing_in_a_run_is_read_through_a_link(run: Path, what: str, tmp_path: Path, project: Project) -> None:
    """A link in the place of a file or a folder is one line, whatever it leads to."""
    path = next(run.glob("merged/samples_*")) if what == "samples" else run / what
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    outcome = project.harness("show", "--rows", str(run))
    assert outcome.code == 4 and outcome.err.count("\n") == 1, outcome.err


def test_rows_of_no_plain_name_are_not_looked_for(run: Path) -> None:
    """Whoever asks for rows by a path gets none."""
    for subject, evaluation in (("..", "qa"), ("merged", "../qa"), (str(run / "merged"), "qa"), ("merged", "*")):
        with pytest.raises(UsageError, match=re.escape(f'has no rows of "{evaluation}" on {subject}')):
            list(iterate_rows(run, subject, evaluation))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """A link is replaced or refused, and the file behind it stays as it was."""
    target, folder = tmp_path / "target", tmp_path / "folder"
    target.write_text("as it was", "utf-8")
    folder.mkdir()
    (folder / "link").symlink_to(target)
    (folder / "away").symlink_to(tmp_path)
    with pytest.raises(OSError, match="it is a link"):
        append_line(folder / "link", {})
    with pytest.raises(OSError, match="it is a link"), hold_exclusively(folder / "link"):
        pass
    for write in (
        lambda path: append_line(path, {}, below=folder),
        lambda path: write_text(path, "new", below=folder),
        lambda path: open_file(path, below=folder),
    ):
        with pytest.raises(OSError, match="it is a link"):
            write(folder / "away" / "target")
    write_text(folder / "link", "new")
    assert (target.read_text("utf-8"), (folder / "link").is_symlink()) == ("as it was", False)


def test_logs_in_another_format_stay_in_the_run(run: Path, tmp_path: Path, project: Project) -> None:
    """A folder of a run that is a link to another takes no file."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (run / "every_eval_ever").symlink_to(outside)
    outcome = project.harness("report", str(run), "--as", "every-eval-ever")
    assert (outcome.code, outcome.err.count("\n"), [*outside.iterdir()]) == (4, 1, [])


# -- view ------------------------------------------------------------------------------------------


def test_view_shows_nothing_through_a_link(run: Path, tmp_path: Path) -> None:
    """A page that is a link to a private key is no page."""
    (tmp_path / "key").write_text("PRIVATE", "utf-8")
    (run / "report.html").unlink(missing_ok=True)
    (run / "report.html").symlink_to(tmp_path / "key")
    (run.parent / "other").symlink_to(run)
    with serve_runs(run.parent) as server:
        answer = server.ask(f"/run/{run.name}")
        assert (answer.status, "PRIVATE" in answer.body) == (400, False)
        assert server.ask("/run/other").status == 404


def test_view_goes_on_with_the_others(run: Path) -> None:
    """A NUL in a path, an absolute pattern or a pipe is one line of the list."""
    bad = {
        "nul": lambda r: r.update(exports=[{**r["exports"][0], "to": "a\0b", "digest": "0" * 64}]),
        "absolute": lambda r: r.update(suite="/etc"),
        "odd": lambda r: r.update(results=[{**r["results"][0], "metrics": {"a": 1e400}}]),
    }
    for name, change in bad.items():
        edit(shutil.copytree(run, run.parent / name), change)
    os.mkfifo(shutil.copytree(run, run.parent / "pipe", ignore=shutil.ignore_patterns("report.json")) / "report.json")
    with serve_runs(run.parent) as server:
        answer = server.ask("/")
        assert answer.status == 200
        for name in ("run", *bad, "pipe"):
            assert f"/run/{name}" in answer.body or name in answer.body
        assert server.ask("/run/run").status == 200


def test_view_prints_an_address_with_a_token(run: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not the token that is printed reads no row and writes no label, on loopback as elsewhere."""
    from harness_view import app

    class Stopped:
        def run(self, **_: object) -> None:
            return None

    with monkeypatch.context() as patched:
        patched.setattr(app, "make_server", lambda _: Stopped())
        printed = project.harness("view", str(run.parent), "--port", "0").out
    assert printed.startswith("http://127.0.0.1:") and len(printed.partition("/?token=")[2].strip()) >= 32
    with serve_runs(run.parent, known=False) as server:
        assert server.ask("/").status == 401
        assert server.post("/label/run", {"by": "me"}).status == 401
