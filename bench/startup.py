"""How long the command takes to start, to check a suite, and to run one that it ran before."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.child import run
from bench.page import Bar, Section, format_table
from bench.setting import Setting

QUICK = {"repeats": 3}
SUITE, DEFAULT = "suites/smoke.toml", "suites/domain.toml"
HARNESS = str(Path(sys.executable).with_name("harness"))
# The command in an interpreter that tells afterwards whether anything heavy was loaded.
INSIDE = """
import json, sys
from harness.cli.main import main
code = main(sys.argv[1:])
print(json.dumps("torch" in sys.modules))
sys.exit(code)
"""


def measure(_: Setting, *, repeats: int = 5, suite: str = SUITE, collected: str = DEFAULT) -> dict[str, Any]:
    """Time the command, each time in a new process; the suite that runs has a cache of its own, empty at first."""
    _time_command([HARNESS, "run", "--collect-only", collected], {})  # fetches the data
    with tempfile.TemporaryDirectory() as folder:
        own = {"HARNESS_CACHE": f"{folder}/cache"}
        words = ["run", suite, "--out", f"{folder}/reports", "--set", f"export.0.to={folder}/export"]
        first = _time_command([HARNESS, *words], own)
        again = [_time_command([HARNESS, *words], own) for _ in range(repeats)]
        inside = run([sys.executable, "-c", INSIDE, *words], own)
    return {
        "help": median(_time_command([HARNESS, "--help"], {}) for _ in range(repeats)),
        "collect": median(_time_command([HARNESS, "run", "--collect-only", collected], {}) for _ in range(repeats)),
        "first": first,
        "again": median(again),
        "torch": json.loads(inside.splitlines()[-1]),
        "repeats": repeats,
        "suites": [suite, collected],
    }


def section(found: dict[str, Any]) -> Section:
    """Write the part's table."""
    ran, collected = found["suites"]
    loaded = "torch was loaded" if found["torch"] else "torch was not even imported"
    rows = [
        ["`harness --help`", f"{found['help']:.2f} s"],
        [f"`harness run --collect-only {collected}`, its data in the cache", f"{found['collect']:.2f} s"],
        [f"`harness run {ran}`, with an empty cache", f"{found['first']:.2f} s"],
        ["the same suite again", f"{found['again']:.2f} s; {loaded}"],
    ]
    bars = [
        Bar("harness --help", f"{found['help']:.2f} s", "< 0.15 s", found["help"] < 0.15),
        Bar("harness --collect-only", f"{found['collect']:.2f} s", "< 1 s", found["collect"] < 1),
        Bar("second run of an unchanged suite", f"{found['again']:.2f} s", "< 3 s", found["again"] < 3),
        Bar("second run: no model loaded", loaded, "no torch", not found["torch"]),
    ]
    text = [f"Medians of {found['repeats']} processes, from start to exit.", format_table(["command", ""], rows)]
    return Section("Start-up", text, bars)


def _time_command(command: list[str], environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    run(command, environment)
    return time.perf_counter() - begun
