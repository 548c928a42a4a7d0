"""The pages at the top of the repository, which no site is built from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import times
from harness.testing import Project
from tests.mutations.catalogue import MUTATIONS

ROOT = Path(__file__).parent.parent
PAGES = [
    p.relative_to(ROOT).as_posix()
    for p in (*ROOT.glob("*.md"), *ROOT.glob(".github/*.md"), ROOT / "changelog.d/README.md")
]
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)|src(?:set)?=\"([^\"]+)\"")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link and picture of a page is there, as GitHub and an unpacked sdist would look for it."""
    found = [first or second for first, second in LINK.findall((ROOT / page).read_text("utf-8"))]
    near = [name for name in found if not name.startswith("https://")]
    assert not [name for name in near if not ((ROOT / page).parent / name).exists()]


def list_prose_words(text: str) -> list[str]:
    """Return the words of a page without code blocks, comments and the targets of links."""
    return re.sub(r"```.*?```|<!--.*?-->|(?<=\])\([^)]*\)", "", text, flags=re.DOTALL).split()


def test_readme_is_short_and_counts_right(project: Project) -> None:
    """README has at most 600 words, and its counts, times and speeds are those of the tree and the records."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= 600 and text.count("\n") < 150
    listed = project.harness("explain").out.splitlines()
    checks = len([line for line in listed if re.match(r"(build|[A-Z]\d+) ", line)])
    assert re.findall(r"make (?:demo|test) .*?: (.*? minutes)", text) == [
        times.format_minutes("demo"),
        times.format_minutes("test"),
    ]
    assert f"{checks} checks caught {len(MUTATIONS)} of {len(MUTATIONS)} deliberately broken runs" in text
    [(size, seconds)] = re.findall(
        r"`harness verify` of (\d+\.\d)\d GB .*? takes (\d+\.\d)\d s",
        (ROOT / "docs/reference/evidence.md").read_text("utf-8"),
    )
    assert f"takes {seconds} s for {size} GB" in text
