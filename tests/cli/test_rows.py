"""The rows of a run in the terminal: of the last unless told, what was lost or failed first, so many of each gate."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.reports.markdown import format_run_markdown
from harness.reports.report_json import read_run
from harness.reports.rows import read_all_rows, read_changed_rows, read_private_evals
from harness.testing import ROWS, SUITE, TRAIN, Project

FIT = """
[[eval]]
name = "fit"
use = "perplexity"
of = "completion"
data = "test.jsonl"

[[gate]]
id = "fits"
metric = "fit.perplexity"
allow_approximate = true
versus = "base"
better_by = 0.01

[[gate]]
id = "close"
metric = "fit.perplexity"
allow_approximate = true
max = 3.0
"""


@pytest.fixture
def ran(project: Project) -> Project:
    """A project that was run: a floor that is not reached, and a perplexity that is compared and bounded."""
    text = SUITE.replace("min = 0.5", "min = 0.99") + FIT
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    project.run()
    return project


def find_run_folder(project: Project) -> Path:
    """Return the run's folder."""
    (folder,) = project.folder.glob("reports/*")
    return folder


@pytest.mark.slow
def test_show_without_a_run_is_the_last(ran: Project) -> None:
    """`harness show` shows the newest run in reports/, `harness show FOLDER` the newest in a folder of runs."""
    first = find_run_folder(ran)
    os.utime(first / "report.json", (1, 1))
    ran.harness("run", "suite.toml", "--limit", "20")
    last = next(f for f in ran.folder.glob("reports/*") if f != first)
    assert ran.harness("show").out == ran.harness("show", str(last)).out == ran.harness("show", "reports").out
    assert ran.harness("show").out != ran.harness("show", str(first)).out


@pytest.mark.parametrize("words", [[], ["results"], ["nowhere"], ["nowhere/report.json"], ["suite.toml"]])
@pytest.mark.parametrize("flags", [[], ["--flips"], ["--rows"]])
def test_no_run_is_one_line(project: Project, words: list[str], flags: list[str]) -> None:
    """Where there is no run that is told in one clear line, without a number of the system's."""
    project.write({"suite.toml": SUITE})
    (project.folder / "reports").mkdir()
    outcome = project.harness("show", *words, *flags)
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert "Errno" not in outcome.err and ("run" in outcome.err or "report" in outcome.err)


def test_rows_that_failed_a_floor_are_shown(ran: Project) -> None:
    """A gate that compares with nothing shows the rows on the wrong side of its number, with the answer."""
    out = ran.harness("show", "--flips", "-n", "100").out
    part = out.partition("merged: floor: ")[2].partition("\n")[2].partition("\n-")[0]
    report = read_run(find_run_folder(ran))
    (verdict,) = [v for v in report.verdicts if (v.gate, v.candidate) == ("floor", "merged")]
    rows = read_changed_rows(report, find_run_folder(ran), verdict)
    wrong = round(verdict.n * (1 - (verdict.value or 0)))
    assert len(rows) == wrong > 0 and {row.change for row in rows} == {"failed"}
    assert f"{wrong} of {verdict.n} rows failed" in part
    assert sum(line.split() == ["merged", "wrong"] for line in part.splitlines()) == wrong


def test_rows_of_a_perplexity_have_numbers(ran: Project) -> None:
    """Where nothing is answered a row's numbers are shown, of a perplexity that of the row and not its logarithm."""
    report, folder = read_run(find_run_folder(ran)), find_run_folder(ran)
    (verdict,) = [v for v in report.verdicts if (v.gate, v.candidate) == ("fits", "merged")]
    rows = {row.id: dict(row.answers) for row in read_changed_rows(report, folder, verdict)}
    assert rows
    kept = [json.loads(x) for x in next(folder.glob("base/samples_fit_*")).read_text("utf-8").splitlines()]
    for row in kept:
        if row["id"] in rows:
            assert f"perplexity {math.exp(row['nats']['perplexity']):.4g}" in rows[row["id"]]["base"]
    assert "None" not in ran.harness("show", "--flips").out


def test_all_rows_that_changed_are_counted(ran: Project) -> None:
    """Of a perplexity, of which the 20 largest changes of a kind are kept, the terminal and a summary count all."""
    report, folder = read_run(find_run_folder(ran)), find_run_folder(ran)
    (verdict,) = [v for v in report.verdicts if (v.gate, v.candidate) == ("fits", "merged")]
    kept = len(verdict.lost) + len(verdict.won)
    assert verdict.lost_count + verdict.won_count > kept
    told = f"{verdict.lost_count} lost and {verdict.won_count} won against base"
    assert f"{told}; only the {kept} largest changes are stored; 2 shown, -n {kept} shows all" in " ".join(
        ran.harness("show", "--flips", "-n", "2").out.split()
    )
    alone = replace(report, results=[r for r in report.results if r.eval == "fit"])
    assert f"{verdict.lost_count} rows lost and {verdict.won_count} won against base" in format_run_markdown(
        alone, folder
    )


def test_rows_of_other_slices_are_left_out(project: Project) -> None:
    """A gate on a slice shows the rows of that slice that failed."""
    text = SUITE.replace("min = 0.5", 'min = 0.99\nslice = ["kind=a"]\nmin_n = 20')
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    project.run()
    report, folder = read_run(find_run_folder(project)), find_run_folder(project)
    (verdict,) = [v for v in report.verdicts if v.candidate == "merged"]
    kinds = {row["id"]: row["kind"] for row in ROWS}
    rows = read_changed_rows(report, folder, verdict)
    assert rows and {kinds[row.id] for row in rows} == {"a"}


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_rows_are_limited_and_counted(ran: Project, most: int) -> None:
    """-n rows of each gate are shown, and how many there are is said."""
    out = ran.harness("show", "--rows", "qa", "-n", str(most)).out
    assert out.count("\nid ") == min(most, len(ROWS))
    assert f"{len(ROWS)} of {len(ROWS)} rows" in out
    assert (f"-n {len(ROWS)}" in out) == (most < len(ROWS))


@pytest.mark.parametrize("n", ["0", "-3"])
def test_no_rows_at_all_is_a_mistake(ran: Project, n: str) -> None:
    """-n counts from 1."""
    outcome = ran.harness("show", "--rows", "-n", n)
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)


def test_what_was_lost_comes_first(ran: Project) -> None:
    """Rows are in the order lost, wrong, won, right; --wrong leaves out the right ones."""
    report, folder = read_run(find_run_folder(ran)), find_run_folder(ran)
    changes = [row.change for row in read_all_rows(report, folder, "qa").rows]
    order = ["lost", "wrong", "won", "right"]
    assert changes == sorted(changes, key=order.index) and {"wrong", "won", "right"} <= {*changes}
    out = ran.harness("show", "--rows", "qa", "--wrong", "-n", "1000").out
    assert out.count("\nid ") == sum(change in ("lost", "wrong") for change in changes)


def test_an_eval_that_is_not_there_is_guessed(ran: Project) -> None:
    """`--rows NAME` of no eval says which there are."""
    outcome = ran.harness("show", "--rows", "qq")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert '"qa"' in outcome.err


def test_texts_are_trimmed_and_cut(ran: Project) -> None:
    """White space around a text is not shown, and of a very long one its beginning and end."""
    folder = find_run_folder(ran)
    for path in folder.glob("*/samples_qa_*"):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        rows = [{**r, "resps": [["  \n padded \n\n"]], "arguments": [["long " * 5000]]} for r in rows]
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    out = ran.harness("show", "--rows", "qa", "-n", "1").out
    assert any(line.split() == ["merged", "padded"] for line in out.splitlines())
    assert len(out) < 5000 and " … " in out


def test_private_evals_are_known_from_the_lock(ran: Project) -> None:
    """Which rows no one may see outside is read from the run's folder, and a folder that cannot say is refused."""
    assert read_private_evals(find_run_folder(ran)) == frozenset()
    (find_run_folder(ran) / "suite.lock.json").unlink()
    assert "<details>" not in format_run_markdown(read_run(find_run_folder(ran)), find_run_folder(ran))
