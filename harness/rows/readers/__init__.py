"""Readers of other tools' rows, in order of detection."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from harness.errors import UsageError, did_you_mean
from harness.rows.readers import layouts
from harness.rows.readers.fields import RowReader
from harness.rows.records import RawRows, Wanted
from harness.rows.safe_read import read_head
from harness.rows.wording import write_option

READERS = {  # name -> module:class; ours are lm_eval's too, and a table is what nobody knows
    "ours": "ours:Ours", "inspect": "inspect:Inspect", "nemo": "nemo:Nemo",
    "every_eval_ever": "every_eval_ever:EveryEvalEver", "promptfoo": "promptfoo:Promptfoo",
    "deepeval": "deepeval:Deepeval", "lm_eval": "lm_eval:LmEval", "table": "tables:Table",
}  # fmt: skip


def find_reader(name: str) -> RowReader:
    """Return a reader by its name. Raises UsageError where there is none."""
    if name not in READERS:
        raise UsageError(f'{write_option("tool")}: there is no reader "{name}"{did_you_mean(name, READERS)}')
    module, _, kind = READERS[name].partition(":")
    made: RowReader = getattr(import_module(f"harness.rows.readers.{module}"), kind)()
    return made


def split_label(given: str) -> tuple[Path, str]:
    """Split PATH#LABEL into path and label.

    A path that exists as given has no label. Both may contain "#", so that the longest path that exists is taken.
    """
    ends = [i for i, character in enumerate(given) if character == "#" and i][::-1]
    if not ends or Path(given).exists():
        return Path(given), ""
    end = next((i for i in ends if Path(given[:i]).exists()), ends[0])
    return Path(given[:end]), given[end + 1 :]


def read_run_rows(given: str, want: Wanted) -> RawRows:
    """Read the rows of a path, which may end in #LABEL.

    The first reader that detects its format is used, unless one is named. Raises UsageError if none does.
    """
    path, label = split_label(given)
    head = read_head(path)
    for one in [find_reader(want.tool)] if want.tool else map(find_reader, READERS):
        if want.tool or one.sniff(path, head):
            return one.read(path, replace(want, label=label))
    raise UsageError(layouts.describe_unreadable(path, head))
