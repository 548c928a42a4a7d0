"""Reports name no place of the machine that a suite was run on."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

import harness
from harness.records.run import Run
from harness.reports.report_json import read_run, relative_paths
from harness.testing import Project


def make_run(folder: str = "/data/project/reports/x-1", path: str = "/data/project/suite.toml") -> Run:
    return Run("x", path, "d", 0, 0.05, "m", "now", "0", folder=folder)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("breaks", [False, True])
def test_report_holds_no_absolute_path(suite: Project, again: bool, breaks: bool) -> None:
    """Of a run that trains, one that reuses it and one that crashes, in folders told by whole paths."""
    suite.run() if again else None
    if breaks:
        crash = "from harness import hookimpl\n@hookimpl\ndef harness_stage(run, stage):\n"
        suite.write({"harnessfile.py": crash + '    if stage == "merge": raise OSError(5, "broken", __file__)\n'})
    suite.run("--set", f"model.path={suite.folder}/base")
    folder = max(suite.folder.glob("reports/*"))
    texts = [path.read_text("utf-8") for path in (folder / "report.json", *folder.glob("*/results_*.json"))]
    run = read_run(folder)
    assert (run.traceback is not None) is breaks
    for place in {str(suite.folder), str(Path.cwd()), str(Path.home()), tempfile.gettempdir(), "site-packages/harness"}:
        assert not any(place in text for text in texts), [
            line for t in texts for line in t.splitlines() if place in line
        ]
    assert json.loads(texts[0])["folder"] == f"reports/{folder.name}"
    assert (run.path, run.model, run.folder) == ("suite.toml", "base", str(folder))
    if again and not breaks:
        assert run.facts["training"]["reused"].startswith("$HARNESS_CACHE/trained/")


def test_paths_are_what_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whole names only, the longest folder first; rows' names stay, and so does what lies elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    text = "/data/project/data/a.jsonl:3: see file:///data/project/x, /data/projects, /srv/data/project and /home/ada"
    told = relative_paths({"why": text, "won": ["/data/project/1"], "deep": [{"at": "/data/project"}]}, make_run())
    assert told["why"] == "data/a.jsonl:3: see file://x, /data/projects, /srv/data/project and ~"
    assert (told["won"], told["deep"]) == (["/data/project/1"], [{"at": "."}])
    assert relative_paths(f"{tmp_path}/reports/x", make_run()) == "reports/x"
    assert relative_paths("/out/x-1/training", make_run(folder="/out/x-1")) == "x-1/training"


def test_run_that_is_returned_names_where_its_folder_is(suite: Project) -> None:
    """In Python the folder can be opened from wherever one goes on."""
    run = harness.run("suite.toml", plugins=("harness.testing",))
    assert (Path(run.folder) / "report.json").is_file()
