"""Decide whether a fine-tuned language model may ship."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.hookspec import hookimpl
from harness.moved import keep_old_paths
from harness.records.metrics import Metric, metric
from harness.records.models import Logprob, ModelRef, Progress, Sampling, Subject
from harness.records.samples import Caveat, Labels, Sample, Score

if TYPE_CHECKING:
    from harness.data.pypi import fetch_wheel
    from harness.evaluation.grading import Marking
    from harness.records.findings import Built, Flag
    from harness.records.run import Run

__all__ = [
    "Built",
    "Caveat",
    "Flag",
    "Labels",
    "Logprob",
    "Marking",
    "Metric",
    "ModelRef",
    "Progress",
    "Sample",
    "Sampling",
    "Score",
    "Subject",
    "UsageError",
    "fetch_wheel",
    "hookimpl",
    "metric",
    "run",
]
__version__ = "0.1.0"
LATER = {  # what is imported when it is asked for, and where from
    "Built": "harness.records.findings",
    "Flag": "harness.records.findings",
    "Marking": "harness.evaluation.grading",
    "fetch_wheel": "harness.data.pypi",
}
keep_old_paths()


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def run(suite: str | Path, *, overrides: Sequence[str] = (), **options: Any) -> Run:
    """Run a suite as `harness run` would, without printing, and return the Run.

    `overrides` are `table.key=value`; `options` are the fields of `harness.pipeline.run.Options`. Raises
    UsageError on a mistake in the suite, the data or the options, RuntimeError where a plugin calls sys.exit().
    """
    from harness.pipeline.run import Options, run_suite

    try:
        return run_suite(Path(suite), Options(overrides=tuple(overrides), **options))
    except SystemExit as error:  # or the caller would end with the plugin's exit code
        raise RuntimeError(f"a plugin called sys.exit({error.code!r})") from error
