"""A hook of MkDocs that tells the site's search which pages to show first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

BOOSTS = {"reference/suite": 3, "reference/keys": 3, "decisions/": 0.2, "explanation/statistics-": 0.2}


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> None:
    """Set the search boost of a page by the beginning of its path."""
    for start, boost in BOOSTS.items():
        if page.file.src_uri.startswith(start):
            page.meta["search"] = {"boost": boost}
