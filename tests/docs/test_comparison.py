"""The comparison with other tools says of us what a test shows, and of others where it was read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/comparison.md").read_text("utf-8")


def read_table_rows(title: str) -> list[list[str]]:
    """Return the cells of the first table under a title, without its head."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_each_line_about_us_has_a_test() -> None:
    """Every line of the overview names tests, and each of them is there."""
    shown = {line: re.findall(r"`([^`]+)`", tests) for line, tests in read_table_rows("What shows our column")}
    assert [*shown] == [row[0] for row in read_table_rows("Overview")]
    for line, tests in shown.items():
        assert tests, line
        for test in tests:
            path, _, name = test.partition("::")
            assert (ROOT / path).exists(), test
            if name:
                defined = ast.parse((ROOT / path).read_text("utf-8")).body
                assert name in {node.name for node in defined if isinstance(node, ast.FunctionDef)}, test


def test_each_tool_of_the_overview_has_its_release() -> None:
    """A column of the overview names a version, and the list of releases links to just that one."""
    head = PAGE.partition("\n## Overview\n")[2].strip().splitlines()[0].strip("|").split("|")
    releases = {row[0]: row[1] for row in read_table_rows("Releases")}
    for column in head[2:]:
        name, version = column.strip().rsplit(" ", 1)
        known = next(text for tool, text in releases.items() if name in tool or tool.lower() in name)
        assert f"[{version}" in known, column
