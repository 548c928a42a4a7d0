"""What can go wrong, and how the process ends.

UsageError   the user can fix it: one clear line each, no traceback (exit 4)
Finding      the model is broken, and a check saw it: one line, no export (exit 1)
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from enum import IntEnum

MOST = 300  # names that a misspelt one is compared with, and characters of it


class ExitCode(IntEnum):
    """How `harness` ends, as pytest would end where the two agree."""

    OK = 0  # every blocking gate passed, or is waived
    FAILED = 1  # a gate failed, or an error finding after training
    INTERRUPTED = 2  # Ctrl-C
    INTERNAL = 3  # a bug of ours
    USAGE = 4  # a mistake in the suite, the data or the command, or a broken candidate that was made elsewhere
    NOTHING_GATED = 5  # nothing was gated, which is never "ok"
    INCONCLUSIVE = 6  # none failed, but one is inconclusive or could not be evaluated
    REFUSED = 7  # `verify` refused


class UsageError(Exception):
    """One or more mistakes of the user, each a line `where: what is wrong; what to do`."""

    def __init__(self, *messages: str) -> None:
        self.messages = tuple(map(one_line, messages))
        super().__init__("\n".join(self.messages))


def one_line(text: str) -> str:
    """Return a text with what would begin another line, or steer a terminal, spelt out as in a Python string."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


class Finding(RuntimeError):
    """Something is wrong with the model, not with the suite: training diverged, a merge changed nothing."""


RAISES = (Exception, SystemExit)  # what plugin code may raise: a sys.exit() ends what it was called for, not the run


class Mistakes:
    """Collect mistakes, so that all of them are reported at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}")

    def raise_if_any(self) -> None:
        if self.found:
            raise UsageError(*dict.fromkeys(self.found))


def disk_full(error: BaseException) -> str:
    """Say in a line that a disk is full, where that is what an error is, else nothing."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f'"{error.filename}": ' if error.filename else ""
        return f"{where}{error.strerror}; make room and run again, and what was finished is not done again"
    return ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean "x"?`, or what there is to choose from, or nothing."""
    known = sorted(known)
    if len(known) > MOST or len(word) > MOST:
        return ""  # to compare each mistake with so many takes longer than to look it up
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    if known and len(known) <= 12:
        return "; known: " + ", ".join(f'"{k}"' for k in known)
    return ""
