"""How many inputs a kind gets, how long one may take, and what may come of it.

FUZZ unset: a few of each, the same ones every time. FUZZ=300s: as many as fit into so many seconds for all kinds.
FUZZ=20000: so many of each kind.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KINDS = 30  # tests in this folder, among which the seconds of FUZZ=300s are shared
ASKED = os.environ.get("FUZZ", "")
SECONDS = float(ASKED.removesuffix("s")) / KINDS if ASKED.endswith("s") else None
FEW = 12
LONGEST = 30.0  # seconds for one input; most take milliseconds, on a busy machine too
OURS = (0, 1, 2, 4, 5, 6, 7)  # exit codes that are not a bug


class Hang(BaseException):
    """An input took too long; no `except Exception` of the product may take it for an answer."""


def fuzz(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a test inputs of the strategies, as many as FUZZ says, each within the deadline."""
    most = 10**9 if SECONDS else int(ASKED or FEW)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        begun: list[float] = []

        def once(*drawn: Any, **fixtures: Any) -> None:
            begun.append(time.monotonic()) if not begun else None
            if SECONDS and time.monotonic() - begun[0] > SECONDS:
                pytest.skip("the time is up, and nothing was found")
            with limit_time():
                test(*drawn, **fixtures)

        once.__name__, once.__doc__, once.__module__ = test.__name__, test.__doc__, test.__module__
        return _make_hypothesis_test(once, test, strategies, most)

    return decorate


def _make_hypothesis_test(once: Any, test: Any, strategies: Any, most: int) -> Any:
    once.__signature__ = inspect.signature(test)
    names = list(inspect.signature(test).parameters)[: len(strategies)]
    chosen = settings(
        max_examples=most,
        derandomize=not ASKED,
        deadline=None,  # `limit_time` ends a hang, which hypothesis would only notice afterwards
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    return chosen(given(**dict(zip(names, strategies, strict=True)))(once))


@contextlib.contextmanager
def limit_time(seconds: float = LONGEST) -> Iterator[None]:
    """Raise Hang in what takes longer."""

    def ended(*_: object) -> None:
        raise Hang(f"no answer in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ended)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_harness(*words: str) -> tuple[int, str]:
    """Run a command line in process; return its exit code and stderr, and fail where that is a bug of ours."""
    from harness.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = int(main(list(words)))
        except SystemExit as ended:  # argparse
            code = 4 if ended.code == 2 else int(ended.code or 0)
    told = out.getvalue() + err.getvalue()
    assert code in OURS, f"exit {code}: {told[-3000:]}"
    assert "Traceback (most recent call last)" not in told, told[-3000:]
    return code, err.getvalue()
