"""How much processor time a gate on two tables takes where no extra is installed, and the judging of their rows."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.child import ChildError
from bench.page import Bar, Section, format_table
from bench.setting import Setting

QUICK = {"repeats": 1, "rows": 2_000}
MAX_SECONDS, MAX_JUDGING_SECONDS = 1.5, 1.0
DISCORDANT = 0.1  # share of the rows whose score differs
# a command in a process that can import no module of an extra
COMMAND = """
import sys
from harness.errors import EXTRAS
sys.modules |= dict.fromkeys(EXTRAS)
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
# the judging alone: the bounds and the p-value of one table of changes
JUDGING = """
import sys, time
from harness.errors import EXTRAS
sys.modules |= dict.fromkeys(EXTRAS)
from harness.stats.shares import tango
wins, losses, rows = map(int, sys.argv[1:])
begun = time.process_time()
tango(wins, losses, rows, 0.05, 0.05)
print(time.process_time() - begun)
"""
GATE = ["gate", "a.csv", "b.csv", "--worse-by-at-most", "0.05", "--out", "gated"]


def measure(_: Setting, *, repeats: int = 5, rows: int = 10_000) -> dict[str, Any]:
    """Gate two tables of 0 and 1, each time in a new process, and verify the last run with its decision made again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        changed = _write_tables(folder, rows)
        _time_command(folder, GATE)  # which writes the bytecode
        gate = [_time_command(folder, GATE) for _ in range(repeats)]
        run = max((folder / "gated").iterdir())
        judging = float(_run(folder, JUDGING, [str(n) for n in (*changed, rows)]))
        verify = ["verify", f"{run}/gate"]
        verified = [_time_command(folder, verify) for _ in range(repeats)]
    return {"rows": rows, "repeats": repeats, "gate": gate, "verify": verified, "judging": judging, "changed": changed}


def section(found: dict[str, Any]) -> Section:
    """Write the part's table."""
    gate, verified = median(found["gate"]), median(found["verify"])
    judging, (wins, losses) = found["judging"], found["changed"]
    rows = [
        ["`harness gate a.csv b.csv`", f"{gate:.2f} s"],
        [f"of these the bounds and p-values of {wins:,} rows won and {losses:,} lost", f"{judging:.2f} s"],
        ["`harness verify RUN/gate`", f"{verified:.2f} s"],
    ]
    text = [
        f"Processor time from start to exit, without any extra, on two tables of {found['rows']:,} rows of 0 and 1, "
        f"a tenth of which differ. Medians of {found['repeats']} processes.",
        format_table(["command", ""], rows),
    ]
    bars = [
        Bar("harness gate a.csv b.csv, processor time", f"{gate:.2f} s", f"< {MAX_SECONDS} s", gate < MAX_SECONDS),
        Bar("judging of their rows", f"{judging:.2f} s", f"< {MAX_JUDGING_SECONDS} s", judging < MAX_JUDGING_SECONDS),
    ]
    return Section("Two tables", text, bars)


def _write_tables(folder: Path, rows: int) -> tuple[int, int]:
    """Write two tables, and return how many rows the second won and lost."""
    luck = random.Random(74)
    base = [luck.randint(0, 1) for _ in range(rows)]
    candidate = [score if luck.random() >= DISCORDANT else 1 - score for score in base]
    for name, scores in (("a", base), ("b", candidate)):
        lines = [f"q{i},{score}\n" for i, score in enumerate(scores)]
        (folder / f"{name}.csv").write_text("".join(["id,score\n", *lines]), "utf-8")
    pairs = [*zip(base, candidate, strict=True)]
    return pairs.count((0, 1)), pairs.count((1, 0))


def _time_command(folder: Path, words: Sequence[str]) -> float:
    """Return the processor time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run(folder, COMMAND, words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(folder: Path, code: str, words: Sequence[str]) -> str:
    """Run code in a new process with bytecode written, as for a user, and a ledger of its own. Raises ChildError."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "HARNESS_CACHE": f"{folder}/cache"}
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChildError(f"exit {done.returncode}: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout
