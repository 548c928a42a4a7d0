"""The decisions: one number each, all of them in the index, and what is superseded says so first."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DECISIONS = ROOT / "docs/decisions"
TEXTS = {path.name: path.read_text("utf-8") for path in sorted(DECISIONS.glob("*.md")) if path.name != "index.md"}
LINE = re.compile(r"^- \[(\d{4})\]\((\S+)\): (.+?)(?: \(superseded (?:in part )?by (\d{4})\))?$", re.M)
SUPERSEDED = re.compile(r"# .+\n\nSuperseded by \[(\d{4})\]\((\S+)\)")


def test_each_has_a_number_of_its_own() -> None:
    """A file and its title begin with one number, which no other has."""
    numbers = [name.partition("-")[0] for name in TEXTS]
    assert len(numbers) > 30 and len({*numbers}) == len(numbers)
    assert {name for name, text in TEXTS.items() if not text.startswith(f"# {name[:4]}: ")} == set()


def test_the_index_has_every_one_once() -> None:
    """Each is in the index under its number, with its title and with what supersedes it."""
    known = []
    for name, text in TEXTS.items():
        later = SUPERSEDED.match(text)
        known.append((name[:4], name, text.partition("\n")[0][8:], later[1] if later else ""))
    assert sorted(LINE.findall((DECISIONS / "index.md").read_text("utf-8"))) == known


def test_what_is_superseded_says_so_first() -> None:
    """Nothing stands before it, what it names is a later decision, and no other line says so."""
    for name, text in TEXTS.items():
        later = SUPERSEDED.match(text)
        assert not later or (later[2].startswith(later[1]) and later[2] in TEXTS and later[2] > name), name
        assert text.count("Superseded") + text.count("is now decided in") == bool(later), name


def test_a_decision_that_is_named_is_there() -> None:
    """What code and pages call `decision 0022` or `decisions/0022-…` is one of them."""
    known = {name[:4] for name in TEXTS}
    tops = (ROOT / top for top in ("harness", "plugins", "docs"))
    for path in (*ROOT.glob("*.md"), *(path for top in tops for path in top.rglob("*.[mp][dy]"))):
        text = path.read_text("utf-8")
        assert {*re.findall(r"decisions/(\d{4}[\w-]*\.md)", text)} <= TEXTS.keys(), path
        assert {*re.findall(r"\bdecision:? (\d{4})\b", text, re.I)} <= known, path
