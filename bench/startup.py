"""How long the command takes to start, to check a suite, and to run one that it ran before."""

from __future__ import annotations

import json
import random
import resource
import subprocess
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
TABLE_ROWS = 10_000  # of two tables of 0/1 rows that are gated
HARNESS = str(Path(sys.executable).with_name("harness"))
# The command in an interpreter that tells afterwards whether anything heavy was loaded.
INSIDE = """
import json, sys
from harness.cli.main import main
code = main(sys.argv[1:])
print(json.dumps("torch" in sys.modules))
sys.exit(code)
"""
# the command as it is where no extra is installed
SMALL = """
import sys
from harness.errors import EXTRAS
sys.modules |= dict.fromkeys(EXTRAS)
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
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
        gated = _time_gate_of_two_tables(Path(folder), repeats)
    return {
        "help": median(_time_command([HARNESS, "--help"], {}) for _ in range(repeats)),
        "collect": median(_time_command([HARNESS, "run", "--collect-only", collected], {}) for _ in range(repeats)),
        "first": first,
        "again": median(again),
        "gate": gated,
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
        [
            f"`harness gate a.csv b.csv` of the small install, {TABLE_ROWS:,} rows each, processor time",
            f"{found['gate']:.2f} s",
        ],
        ["the same suite again", f"{found['again']:.2f} s; {loaded}"],
    ]
    bars = [
        Bar("harness --help", f"{found['help']:.2f} s", "< 0.15 s", found["help"] < 0.15),
        Bar("harness --collect-only", f"{found['collect']:.2f} s", "< 1 s", found["collect"] < 1),
        Bar("second run of an unchanged suite", f"{found['again']:.2f} s", "< 3 s", found["again"] < 3),
        Bar("harness gate a.csv b.csv, processor time", f"{found['gate']:.2f} s", "< 1.5 s", found["gate"] < 1.5),
        Bar("second run: no model loaded", loaded, "no torch", not found["torch"]),
    ]
    text = [f"Medians of {found['repeats']} processes, from start to exit.", format_table(["command", ""], rows)]
    return Section("Start-up", text, bars)


def _time_gate_of_two_tables(folder: Path, repeats: int) -> float:
    """Return the processor time of a gate on two tables, of which a tenth of the rows differs."""
    luck = random.Random(74)
    scores = [luck.randint(0, 1) for _ in range(TABLE_ROWS)]
    others = [score if luck.random() < 0.9 else 1 - score for score in scores]
    for name, column in (("a", scores), ("b", others)):
        lines = [f"q{i},{score}\n" for i, score in enumerate(column)]
        (folder / f"{name}.csv").write_text("".join(["id,score\n", *lines]), "utf-8")
    words = [sys.executable, "-c", SMALL, "gate", "a.csv", "b.csv", "--worse-by-at-most", "0.02", "--out", "gated"]
    times = list[float]()
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, cwd=folder, check=False, capture_output=True)  # its exit code is the verdict
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(times)


def _time_command(command: list[str], environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    run(command, environment)
    return time.perf_counter() - begun
