"""What continuous integration reads of a run: JUnit XML, Markdown, and what a job of GitHub Actions is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.internals import lazily

if TYPE_CHECKING:
    from harness_ci.markdown import run_markdown

__all__ = ["run_markdown"]
__getattr__ = lazily(__name__, {"run_markdown": "harness_ci.markdown"})
