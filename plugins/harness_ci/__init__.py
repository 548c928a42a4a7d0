"""What continuous integration reads of a run: JUnit XML, Markdown, and what a job of GitHub Actions is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.internals import attach

if TYPE_CHECKING:  # what is imported when it is asked for
    from harness_ci.markdown import run_markdown as run_markdown

__getattr__, _ = attach(__name__, __file__)
