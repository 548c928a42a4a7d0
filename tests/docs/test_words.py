"""The pages read as technical English: words of a mannered style have a plain replacement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPLACED = {  # a phrase that no page may have -> what to write
    "is told": "is reported", "are told": "are reported", "was told": "was reported", "were told": "were reported",
    "told of": "reported", "tells of": "reports", "nobody knows": "unknown", "whoever": "anybody who",
    "of which": "name the noun, or start a new sentence", "is asked": "gets, answers", "are asked": "get, answer",
    "was asked": "got, answered", "what is asked": "the prompt", "by itself": "alone, separately, automatically",
    "anew": "again", "held against": "compared with", "held to": "checked against", "goes on": "continues",
    "went on": "continued", "came to": "was, resulted in", "comes to": "is, results in", "came out": "resulted",
    "learnt": "trained, learned", "remembered": "cached", "struck": "redacted", "but for": "except",
    "where there is": "if there is", "where there are": "if there are", "where none": "if none",
    "of ours": "our own", "of others": "third-party", "of yours": "your own", "unasked": "unless allowed",
    "stands in": "is in", "stand in": "are in", "lies in": "is in", "speaks of": "is about", "says of": "says about",
    "said of": "said about", "without a word": "silently", "all else": "everything else", "what else": "other",
    "nothing but": "only", "knows of": "knows", "in the place of": "instead of", "for want of": "without",
    "judged by": "judged with", "as they lie": "unchanged", "a line each": "one per line", "a row each": "one per row",
    "likewise": "also", "mend": "fix", "what counts": "name it", "where it is not": "otherwise",
    "is no": "is not a", "are no": "are not", "nats a token": "nats per token", "as you say": "as given",
    "says of itself": "reports", "leaves open": "does not prove", "cannot be seen": "unknown",
    "whatever is there": "name it", "in a row of": "in", "that is wanted": "expected",
}  # fmt: skip
DENIED = re.compile(rf"(?<!there )\b(?:{'|'.join(map(re.escape, REPLACED))})\b(?!-)", re.IGNORECASE)
NO_PROSE = re.compile(  # code, output, comments, and tables that a command writes
    r"<!-- simulated.*?<!-- /simulated -->|^ *```.*?^ *```|<!--.*?-->|`[^`\n]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE
)
WRITTEN_BY_A_COMMAND = re.compile(r"^Written by `|<!-- generated from the code", re.MULTILINE)


def iterate_written_pages() -> Iterator[Path]:
    """Yield the pages that people write for users; a decision is a record of its time."""
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob(".github/*.md"), *(ROOT / "docs").rglob("*.md")]):
        if not WRITTEN_BY_A_COMMAND.search(path.read_text("utf-8")) and not re.match(r"\d{4}-", path.name):
            yield path


def iterate_denied_phrases(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the phrase of each denied phrase in a page's prose."""
    prose = NO_PROSE.sub(lambda found: "\n" * found[0].count("\n"), text)
    for number, line in enumerate(prose.split("\n"), 1):
        yield from ((number, found[0].lower()) for found in DENIED.finditer(line))


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in iterate_written_pages()])
def test_a_page_has_no_denied_phrase(page: str) -> None:
    """A failure names the page, the line, the phrase and its replacement."""
    found = iterate_denied_phrases((ROOT / page).read_text("utf-8"))
    assert [f'{page}:{line}: "{phrase}"; write: {REPLACED[phrase]}' for line, phrase in found] == []


def test_only_prose_is_searched() -> None:
    """A phrase is found with its line in prose, and not in code, output, links or "there is no"."""
    text = "# A\n\n```text\nis told\n```\n\nIt `is told`, there is no [x](whoever.md).\nThis is no file.\n"
    assert [*iterate_denied_phrases(text)] == [(8, "is no")]


def read_first_sentence(text: str) -> str:
    """Return the first sentence below a page's title, without the targets of links."""
    body = re.sub(r"\]\([^)]*\)", "]", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)).partition("\n")[2].strip()
    return re.split(r"(?<=[.:!?])\s", body, maxsplit=1)[0]


@pytest.mark.parametrize(
    "page", [path.relative_to(ROOT).as_posix() for path in iterate_written_pages() if path.parent != ROOT / ".github"]
)
def test_a_page_begins_with_a_short_sentence(page: str) -> None:
    """The first sentence of a page has at most 15 words."""
    first = read_first_sentence((ROOT / page).read_text("utf-8"))
    assert 0 < len(first.split()) <= 15, first


def test_no_page_installs_the_harness_from_an_index() -> None:
    """The name is not taken on PyPI, where anybody could register it."""
    by_name = re.compile(
        r"pip install[^\n]*[\s'\"]finetune-harness(\[[^\]]*\])?(?=[\s'\"`=<>]|$)(?!['\"]? @)", re.MULTILINE
    )
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.yml")]
    assert [page.name for page in pages if by_name.search(page.read_text("utf-8"))] == []
