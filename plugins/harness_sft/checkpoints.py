"""The checkpoints of a training: which are whole, and what is said where no more can be written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import UsageError, disk_full

CHECKPOINTS = "checkpoints"  # a folder in that of a training
WHOLE = "harness-checkpoint.json"  # written last, so its existence means that the checkpoint is whole


def last_whole_checkpoint(folder: Path, stamp: str | None = None) -> Path | None:
    """Return the last checkpoint that was written to its end, of this very training if its stamp is given, or None."""
    marks = folder.glob(f"checkpoint-*/{WHOLE}")
    found = [mark.parent for mark in marks if stamp in (None, json.loads(mark.read_text("utf-8"))["stamp"])]
    return max(found, key=_step, default=None)


def run_again(folder: Path) -> str:
    """Return what is to be done where the training of a folder ended early."""
    last = last_whole_checkpoint(folder / CHECKPOINTS)
    return f"run again: it goes on from the last checkpoint, step {_step(last)}" if last else "run again"


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Raise UsageError where something cannot be written for a training because its folder's disk is full."""
    try:
        yield
    except BaseException as error:  # that of torch for slices is no Exception
        if full := disk_full(error, folder):
            raise UsageError(f"{full}; make room and {run_again(folder)}") from None
        raise


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
