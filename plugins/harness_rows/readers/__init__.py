"""The readers of other tools' rows, in the order in which they are asked whether a file is theirs."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from harness import UsageError, did_you_mean
from harness.internals import shown
from harness_rows.guard import head_of
from harness_rows.readers.asking import RowReader
from harness_rows.records import RawRows, Wanted

READERS = {  # name -> module:class; ours are lm_eval's too, and a table is what nobody knows
    "ours": "ours:Ours", "inspect": "inspect:Inspect", "nemo": "nemo:Nemo",
    "every_eval_ever": "every_eval_ever:EveryEvalEver", "promptfoo": "promptfoo:Promptfoo",
    "deepeval": "deepeval:Deepeval", "lm_eval": "lm_eval:LmEval", "table": "tables:Table",
}  # fmt: skip


def reader(name: str) -> RowReader:
    """Return a reader by its name. Raises UsageError where there is none."""
    if name not in READERS:
        raise UsageError(f'--as: there is no reader "{name}"{did_you_mean(name, READERS)}')
    module, _, kind = READERS[name].partition(":")
    made: RowReader = getattr(import_module(f"harness_rows.readers.{module}"), kind)()
    return made


def located(given: str) -> tuple[Path, str]:
    """Return a path and the label behind it, which may end it as #LABEL."""
    text, _, label = given.rpartition("#")
    return (Path(given), "") if not text or Path(given).exists() else (Path(text), label)


def read(given: str, want: Wanted) -> RawRows:
    """Return the rows of a path, which may end in #LABEL, by whoever knows it. Raises UsageError where nobody does."""
    path, label = located(given)
    head = head_of(path)
    for one in [reader(want.tool)] if want.tool else map(reader, READERS):
        if want.tool or one.sniff(path, head):
            return one.read(path, replace(want, label=label))
    raise UsageError(f"{shown(str(path))}: contains no rows in a known format; lm_eval needs --log_samples")
