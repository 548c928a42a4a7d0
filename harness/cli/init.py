"""`harness init`: a small project that runs and passes as it is, to be changed into one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.cli.examples import EXAMPLES
from harness.errors import UsageError
from harness.files import write_text


def write_project(folder: Path, task: str) -> tuple[list[Path], Sequence[str]]:
    """Write the suites and rows of a task, and return their paths and the commands that run them in the folder.

    Raises UsageError when one of the files is there already.
    """
    example = EXAMPLES[task]()
    taken = [name for name in example.files if (folder / name).exists()]
    if taken:
        raise UsageError(f"{folder / taken[0]}: is there already; choose an empty folder")
    for name, text in example.files.items():
        write_text(folder / name, text)
    return [folder / name for name in example.files], example.commands
