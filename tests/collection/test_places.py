"""Where a run writes: no place in another, none that cannot be written, told before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.testing import SUITE, Project

SECOND = '\n[[export]]\nuse = "safetensors"\nto = "{to}"\n'


@pytest.mark.parametrize(
    "to",
    ["exports/fake/", "exports/./fake", "exports/x/../fake", "link/fake", "EXPORTS/Fake", "exports/fake/b", "exports"],
)
def test_exports_to_one_place_are_refused(suite: Project, to: str) -> None:
    """Two exports to one folder, however it is written, or one inside the other, are one line."""
    (suite.folder / "exports").mkdir()
    (suite.folder / "link").symlink_to(suite.folder / "exports")
    outcome = suite.write({"suite.toml": SUITE + SECOND.format(to=to)}).run()
    assert outcome.code == 4
    assert 'to is "exports/fake", which' in outcome.err
    assert f'the export "{to}"; give each a folder of its own' in outcome.err
    assert not list((suite.folder / "exports").iterdir())


def test_exports_side_by_side_are_both_there(suite: Project) -> None:
    """Folders whose names begin alike are two places."""
    outcome = suite.write({"suite.toml": SUITE + SECOND.format(to="exports/fake-2")}).run()
    assert outcome.code == 0
    assert all((suite.folder / to / "model/model.safetensors").is_file() for to in ("exports/fake", "exports/fake-2"))


@pytest.mark.parametrize("out", ["exports/fake", "exports/fake/reports", "exports"])
def test_reports_and_exports_do_not_hold_each_other(suite: Project, out: str) -> None:
    """--out in an export would be gone with the next one, and the other way round."""
    outcome = suite.harness("run", str(suite.folder / "suite.toml"), "--out", out)
    assert (outcome.code, f'--out "{out}"; give each a folder of its own' in outcome.err) == (4, True)


def test_cache_and_exports_do_not_hold_each_other(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache in an export would be gone with the next one."""
    monkeypatch.setenv("HARNESS_CACHE", str(suite.folder / "exports/fake/cache"))
    outcome = suite.run()
    assert (outcome.code, "which holds the cache folder" in outcome.err) == (4, True)


PLACES = {
    "the base": ("base", 'is the model "base"'),
    "in the base": ("base/export", 'lies in the model "base"'),
    "the folder of all": (".", "holds"),
    "a home": ("~", "is not expanded to your home folder; write the path in full"),
    "a home of nobody": ("~nobody/x", "is not expanded to your home folder; write the path in full"),
    "a long name": ("x" * 200, "has a name of more than 150 bytes"),
    "a very long name": ("x" * 5000, "is not a path: "),
    "a link in a circle": ("circle/x", "is not a path: "),
}


@pytest.mark.parametrize("case", PLACES)
def test_export_to_what_is_read_or_no_place_is_refused(suite: Project, case: str) -> None:
    """An export that would replace the base, the data or the suite, or can be nowhere, is one line at collection."""
    to, told = PLACES[case]
    (suite.folder / "circle").symlink_to(suite.folder / "circle")
    outcome = suite.run("--collect-only", "--set", f'export.0.to="{to}"')
    assert (outcome.code, told in outcome.err, "Traceback" in outcome.err) == (4, True, False)


def test_export_over_the_candidate_is_refused(suite: Project) -> None:
    """A candidate that lies in the folder it would be exported to would be replaced while it is read."""
    assert suite.run().code == 0
    outcome = suite.run("--candidate", "exports/fake/model")
    assert (outcome.code, 'to is "exports/fake", which holds the candidate' in outcome.err) == (4, True)


@pytest.mark.parametrize("to", ["reports", "test.jsonl/junit.xml", "/proc/none/junit.xml", "x" * 300, "a" * 200])
def test_junit_xml_that_cannot_be_written_is_told_before_anything_runs(suite: Project, to: str) -> None:
    """A folder, a file in a file, a place where no file can be, a name too long: exit 4, and nothing was measured."""
    (suite.folder / "reports").mkdir()
    outcome = suite.run("--junit-xml", to)
    assert (outcome.code, outcome.err.startswith(f'error: --junit-xml "{to[:100]}')) == (4, True)
    assert not list((suite.folder / "reports").iterdir())
    assert not (suite.folder / "exports").exists()


def test_junit_xml_in_a_new_folder_is_written(suite: Project, tmp_path: Path) -> None:
    """A folder that is not there yet is made when the report is written, and not before."""
    assert suite.run("--collect-only", "--junit-xml", "new/a/junit.xml").code == 0
    assert not (tmp_path / "new").exists()
    assert suite.run("--junit-xml", "new/a/junit.xml").code == 0
    assert (tmp_path / "new/a/junit.xml").is_file()
