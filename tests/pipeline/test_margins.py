"""An edited margin: only what looks at gates is looked at again."""

from __future__ import annotations

from harness.testing import ROWS, SUITE, TRAIN, Project

PLUGIN = """
from pathlib import Path
from harness import Finding, hookimpl

def rows_looked_at(rows):
    '''Rows.'''
    with open("looked.txt", "a") as f:
        f.write("rows\\n")
    return [Finding("note", f"{len(rows)} rows")]

def gates_looked_at(gates, suite):
    '''Gates.'''
    with open("looked.txt", "a") as f:
        f.write("gates\\n")
    return [Finding("note", f"min = {gates[0].min}, suite has {len(suite.gates)}")]

@hookimpl
def harness_checks():
    return {"X2": rows_looked_at, "X1": gates_looked_at}
"""


def test_an_edited_margin_repeats_no_check_of_the_rows(project: Project) -> None:
    """Checks of rows are remembered while a margin is edited; those that look at gates see the new one, in order."""
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": PLUGIN})
    looked = project.folder / "looked.txt"
    for margin, seen in ((0.5, ["rows", "gates"]), (0.4, ["gates"]), (0.4, ["gates"])):
        looked.write_text("")
        run = project.write({"suite.toml": SUITE.replace("min = 0.5", f"min = {margin}")}).run().report
        assert looked.read_text().split() == seen
        said = [flag.what for flag in run.findings if flag.code in ("X1", "X2")]
        assert said == ["20 rows", f"min = {margin}, suite has 0"]
    looked.write_text("")
    project.write({"test.jsonl": ROWS[:50]}).run()
    assert looked.read_text().split() == ["rows", "gates"]
