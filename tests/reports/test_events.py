"""What a run's folder tells of it while it goes on, and what is left of one that was cut off."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from harness.records.models import Progress
from harness.reports.events import EVENTS, read_events
from harness.testing import Project

LOOK = """
import json, shutil, subprocess, sys
from pathlib import Path
from harness import hookimpl

@hookimpl
def harness_stage(run, stage):
    if stage == "merged":
        out = [sys.executable, "-m", "harness", "show"]
        for name, more in (("seen.txt", []), ("seen.json", ["--json"])):
            Path(name).write_text(subprocess.run([*out, *more], capture_output=True, text=True, check=True).stdout)
"""


def find_newest_run(suite: Project) -> Path:
    return max((suite.folder / "reports").iterdir())


def cut(suite: Project, after: str, torn: str = "") -> Path:
    """Leave of a run what a kill after its last event of a kind would have left."""
    suite.run()
    folder = find_newest_run(suite)
    (folder / "report.json").unlink()
    lines = (folder / EVENTS).read_text("utf-8").splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if json.loads(line)["event"] == after)
    (folder / EVENTS).write_text("".join(lines[: last + 1]) + torn, "utf-8")
    return folder


def test_every_run_folder_has_its_events(suite: Project) -> None:
    """From the run's beginning on, in the lines that --events writes, and without a place of this machine."""
    suite.harness("run", "suite.toml", "--events", "named.jsonl", "--set", f"model.path={suite.folder}/base")
    texts = [path.read_text("utf-8") for path in (find_newest_run(suite) / EVENTS, suite.folder / "named.jsonl")]
    ours, named = ([json.loads(line) for line in text.splitlines()] for text in texts)
    assert [line["event"] for line in ours] == [line["event"] for line in named]
    assert [line.keys() for line in ours] == [line.keys() for line in named]
    assert (ours[0]["event"], ours[-1]["event"]) == ("run_start", "run_finish")
    assert str(suite.folder) in texts[1] and str(suite.folder) not in texts[0]


@pytest.mark.slow
def test_events_of_every_run_of_a_command(suite: Project) -> None:
    """Not only those of the first of several suites."""
    suite.write({"other.toml": (suite.folder / "suite.toml").read_text("utf-8").replace('"fake"', '"other"', 1)})
    suite.harness("run", "suite.toml", "other.toml", "--events", "events.jsonl")
    lines = [json.loads(line) for line in (suite.folder / "events.jsonl").read_text("utf-8").splitlines()]
    assert [line["event"] for line in lines if line["event"].startswith("run_")] == ["run_start", "run_finish"] * 2


@pytest.mark.slow
def test_a_run_is_shown_while_it_runs(suite: Project) -> None:
    """By another process: the gates that fell, the stage, and that it runs."""
    suite.write({"harnessfile.py": LOOK})
    suite.run()
    seen, told = (suite.folder / "seen.txt").read_text("utf-8"), json.loads((suite.folder / "seen.json").read_text())
    assert "adapter::" in seen and "PASS" in seen and "\nrunning: merged, " in seen
    assert (told["underway"]["state"], told["underway"]["stage"]) == ("running", "merged")
    assert [r["subject"] for r in told["underway"]["results"]].count("merged") == 0


@pytest.mark.slow
@pytest.mark.parametrize("torn", ["", '{"format": 1, "event": "pro'])
def test_a_run_that_was_cut_off_is_shown(suite: Project, torn: str) -> None:
    """What fell until then, also where the last line is a half."""
    folder = cut(suite, "verdict", torn)
    outcome = suite.harness("show")
    assert (outcome.code, outcome.err) == (0, "")
    assert "cut off: merged" in outcome.out and "PASS" in outcome.out
    outcome = suite.harness("show", str(folder), "--rows")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    suite.run()
    assert "cut off" not in suite.harness("show").out


@pytest.mark.parametrize(
    "text", ["", "\n", "[1]\n", '{"format": 9, "event": "run_start"}\n', '{"format": 1}\n', "\x00\n{}\n"]
)
def test_events_that_cannot_be_read_are_a_line(suite: Project, text: str) -> None:
    """Empty, of a newer version, or no events at all."""
    suite.write({f"reports/x/{EVENTS}": text})
    outcome = suite.harness("show", "reports/x")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert EVENTS in outcome.err


def test_a_number_of_rows_that_is_a_text_is_a_line(suite: Project) -> None:
    """`harness view` writes the numbers of a run that goes on with commas."""
    folder = cut(suite, "verdict")
    text = (folder / EVENTS).read_text("utf-8")
    (folder / EVENTS).write_text(re.sub(r'("event": "verdict", .*?"n": )\d+', r'\1"many"', text), "utf-8")
    outcome = suite.harness("show", str(folder))
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert EVENTS in outcome.err


def test_time_left_is_of_the_pace_so_far(suite: Project) -> None:
    """Of what it is at since its first sign, and none where nothing moved."""
    folder = cut(suite, "stage")
    last = json.loads((folder / EVENTS).read_text("utf-8").splitlines()[-1])
    start = datetime(2026, 11, 28, 12, tzinfo=UTC)
    with (folder / EVENTS).open("a", encoding="utf-8") as file:
        for seconds, done in ((0, 100), (10, 100), (20, 300)):
            at = (start + timedelta(seconds=seconds)).isoformat()
            sign = {"what": "rows", "done": done, "total": 1000, "facts": {}, "remark": ""}
            file.write(json.dumps({"format": 1, "event": "progress", "at": at, **sign}) + "\n")
            file.flush()
            assert read_events(folder).left == {100: None, 300: 70.0}[done]
    assert read_events(folder).stage == last["stage"]


def test_stages_losses_and_open_items(suite: Project) -> None:
    """What ended, what goes on, and what waits; the loss of each step that was written."""
    found = read_events(cut(suite, "verdict"))  # that of the merged model, the last one
    assert [stage.name for stage in found.stages][-1] == "merged"
    assert [stage.ended for stage in found.stages] == [True] * (len(found.stages) - 1) + [False]
    assert found.losses == ((1, 1.0), (3, pytest.approx(1 / 3)))
    assert found.open_items == []


def test_the_time_left_in_all_counts_what_waits(suite: Project) -> None:
    """Each open item takes what its eval took elsewhere; without a pace, or of a run that ended, none is given."""
    found = read_events(cut(suite, "verdict"))
    (base, *_) = [replace(r, seconds=40.0) for r in found.run.results]
    run = replace(found.run, results=[base])
    assert replace(found, run=run, running=True, progress=None).seconds_left == pytest.approx(80)
    assert replace(found, run=run, running=False, progress=None).seconds_left is None
    standing = Progress("train", 3, 10)
    assert replace(found, run=run, running=True, progress=standing, since=found.heard, before=3).seconds_left is None
    assert replace(found, run=replace(run, results=[]), running=True, progress=None).seconds_left is None
