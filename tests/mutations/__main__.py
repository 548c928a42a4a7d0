"""Run every mutation and its healthy twin; print caught, missed and false alarms."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.lab import Lab, Seen
from tests.mutations.mutations import Mutation

SHIPPED = ("smoke", "domain", "domain-forgets", "shell", "chat", "methods", "preference", "latency")
SUITES = Path(__file__).parents[2] / "suites"


def main(words: list[str]) -> int:
    """Return 0 when every mutation was caught and no healthy twin was flagged."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    begun = time.monotonic()
    caught, missed, alarms = 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("HARNESS_CACHE", str(Path(folder) / "cache"))
        for mutation in MUTATIONS:
            if words and not any(word in mutation.name for word in words):
                continue
            hit, alarm, told = _try(mutation, Path(folder))
            caught += hit
            missed += [] if hit else [mutation.name]
            alarms += [mutation.name] if alarm else []
            verdict = ("caught" if hit else "MISSED") + (", FALSE ALARM" if alarm else "")
            print(f"{verdict:<8} {mutation.code:<14} {mutation.name}: {told}", flush=True)
        for suite in SHIPPED if not words else ():
            seen = _call_quietly(lambda suite=suite: Lab(Path(folder) / "shipped").check_file(SUITES / f"{suite}.toml"))
            alarms += [suite] if seen.alarms else []
            print(f"{'FALSE ALARM' if seen.alarms else 'clean':<23} {suite}: {seen}", flush=True)
    total = caught + len(missed)
    print(f"{caught} of {total} caught, {len(missed)} missed, {len(alarms)} false alarms", end=" ")
    print(f"in {time.monotonic() - begun:.0f} s")
    return 1 if missed or alarms or not total else 0


def _try(mutation: Mutation, folder: Path) -> tuple[bool, bool, str]:
    name = "".join(c if c.isalnum() else "-" for c in mutation.name)
    broken = _call_quietly(lambda: mutation.broken(Lab(folder / name / "broken")))
    healthy = _call_quietly(lambda: mutation.healthy(Lab(folder / name / "healthy")))
    return broken.has(mutation.code), bool(healthy.alarms), f"{broken}; its twin: {healthy}"


def _call_quietly(call: object) -> Seen:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            seen = call()  # type: ignore[operator]
            assert isinstance(seen, Seen)
            return seen
        except Exception as error:  # a crash of ours is a miss and an alarm
            return Seen((f"crash-{type(error).__name__}: {error}"[:160],), 3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
