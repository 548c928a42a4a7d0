"""Checks that have a name beside their code."""

from __future__ import annotations

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.suites import make_waive_command

PLUGIN = """
from harness import hookimpl
from harness.records.findings import Finding

def shouts(rows):
    \"\"\"Rows in capitals.\"\"\"
    for row in rows:
        if row.answer.isupper():
            yield Finding("error", f"row {row.number} shouts", kind="loud")

shouts.title = "no-capitals"

def whispers(rows):
    \"\"\"Rows without a sound.\"\"\"
    return []

@hookimpl
def harness_checks():
    return {"X1": shouts, "X2": whispers}
"""


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with a check that has a title, and a row that it flags."""
    rows = [*TRAIN, {"input": "why", "target": "BECAUSE"}]
    return project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": rows, "harnessfile.py": PLUGIN})


def test_title_is_printed_and_reported(suite: Project) -> None:
    """The line of a finding has both, and so has the report that is printed again."""
    outcome = suite.run()
    assert outcome.code == 4
    assert "error    X1-loud no-capitals: row 21 shouts" in outcome.out
    told = [(f.code, f.title) for f in outcome.report.findings]
    ungated = ("D29", "ungated-merge")
    assert told == [ungated, ("X1-loud", "no-capitals"), ("build-unbuilt", "")]  # the fake trainer has no build
    again = suite.harness("show", str(next(suite.folder.glob("reports/*"))))
    assert "X1-loud no-capitals: row 21 shouts" in again.out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no-capitals", "X1", "X1-loud"])
def test_ignored_by_code_and_by_title(suite: Project, name: str) -> None:
    """Each of them takes the finding out of the count, and is waived by; a title that no check has is told."""
    assert suite.run("--ignore", name).code == 6
    assert suite.harness(*make_waive_command(name).split()).code == 0
    assert suite.run("--ignore", name).code == suite.run().code == 0
    outcome = suite.run("--ignore", "no-capital")
    assert (outcome.code, 'did you mean "no-capitals"?' in outcome.err) == (4, True)


def test_explained_by_title(suite: Project) -> None:
    """`harness explain` lists titles, and takes one for its code."""
    words = ("--suite", str(suite.folder / "suite.toml"))
    listed = suite.harness("explain", *words).out
    assert "\nX1     no-capitals: Rows in capitals.\n" in listed
    assert "\nX2     Rows without a sound.\n" in listed
    assert suite.harness("explain", "no-capitals", *words).out == "X1 no-capitals: Rows in capitals.\n"


@pytest.mark.parametrize("title", ["X2-loud", "No Capitals", "build-up"])
def test_titles_that_could_be_codes(suite: Project, title: str) -> None:
    """A title cannot be read as the code of another check."""
    suite.write({"harnessfile.py": PLUGIN.replace("no-capitals", title)})
    outcome = suite.run()
    assert (outcome.code, f'check "X1": has the title "{title}"' in outcome.err) == (4, True)
