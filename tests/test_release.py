"""What a release is made of: the fragments of the changelog, and what must hold before anything is built."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_fragment_has_a_category() -> None:
    """towncrier leaves out, without a word, a file whose category it does not know."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["towncrier"]
    known = "|".join(kind["directory"] for kind in settings["type"])
    files = [p.name for p in (ROOT / settings["directory"]).iterdir() if p.name != "README.md"]
    assert not [name for name in files if not re.fullmatch(rf"\+[a-z0-9-]+\.({known})\.md", name)]


def test_every_fragment_is_one_line() -> None:
    """A fragment is a sentence or two, without the mark of a list, which is towncrier's."""
    texts = {p.name: p.read_text("utf-8") for p in (ROOT / "changelog.d").glob("+*.md")}
    assert not [name for name, text in texts.items() if "\n" in text.strip() or text.startswith(("- ", "* ", " "))]
