"""How the tests lie."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent


def list_imports(path: Path) -> set[str]:
    """Return the names of all modules that a file may import, inside functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    names = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    for node in (n for n in nodes if isinstance(n, ast.ImportFrom) and n.module):
        names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_test_file_is_imported() -> None:
    """What several tests need lies in `harness.testing` or `tests.helpers`, not in a test file."""
    files = {f"tests.{p.relative_to(HERE).with_suffix('')}".replace("/", ".") for p in HERE.rglob("test_*.py")}
    assert len(files) > 50
    assert {str(p): both for p in HERE.rglob("*.py") if (both := list_imports(p) & files)} == {}
