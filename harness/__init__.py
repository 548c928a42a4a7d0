"""Decide whether a fine-tuned language model may ship: `run`, and everything that a plugin may import.

A name is looked up when it is asked for, so that a plugin that is listed costs no more than its own module;
`__init__.pyi` says where each is defined.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.lazy import attach

if TYPE_CHECKING:
    from harness.records.run import Run

__version__ = "0.1.0"
__getattr__, _names = attach(__name__, __file__)
__all__ = [*_names, "gate", "run"]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


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


def gate(base: Any, candidate: Any = None, **said: Any) -> Any:
    """Gate rows that another tool scored, as `harness gate` would without printing, and return what came of it.

    Rows are a path, dicts, names with scores, or a frame; `said` are the words of the command: `worse_by_at_most=0.02`.
    Raises UsageError where rows cannot be read, paired or compared fairly, or nothing is claimed.
    """
    from harness.parts import part

    return part("gate")(base, candidate, **said)
