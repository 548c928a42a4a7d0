"""Decide whether a fine-tuned language model may ship."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.hookspec import hookimpl
from harness.result import Caveat, Labels, Metric, Sample, Score, metric
from harness.subject import Logprob, ModelRef, Progress, Sampling, Subject

if TYPE_CHECKING:
    from harness.report import Run

__all__ = [
    "Caveat",
    "Labels",
    "Logprob",
    "Metric",
    "ModelRef",
    "Progress",
    "Sample",
    "Sampling",
    "Score",
    "Subject",
    "UsageError",
    "hookimpl",
    "metric",
    "run",
]
__version__ = "0.1.0"


def run(suite: str | Path, *, overrides: Sequence[str] = (), **options: Any) -> Run:
    """Run a suite as `harness run` would, without printing, and return the Run.

    `overrides` are `table.key=value`; `options` are the fields of `harness.runner.Options`. Raises
    UsageError on a mistake in the suite, the data or the options, RuntimeError where a plugin calls sys.exit().
    """
    from harness.runner import Options, run_suite

    try:
        return run_suite(Path(suite), Options(overrides=tuple(overrides), **options))
    except SystemExit as error:  # or the caller would end with the plugin's exit code
        raise RuntimeError(f"a plugin called sys.exit({error.code!r})") from error
