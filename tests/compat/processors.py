"""Verdicts made under one setting of the processor, and verified under another.

`python -m tests.compat.processors write FILE` decides cases of `tests.compat.verdicts` and keeps their verdicts;
`... verify FILE ...` prints a line for each case that verify refuses here.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.compat.verdicts import CASES, Evidence, decide_case, draw_case, verify_case

NUMBERS = [number for number in range(0, CASES, 37) if not draw_case(number).is_removed]


def write(path: str) -> None:
    """Decide the cases, and write what an export keeps of their verdicts."""
    verdicts = {number: decide_case(draw_case(number)) for number in NUMBERS}
    Path(path).write_text(json.dumps(verdicts), "utf-8")


def verify(*paths: str) -> None:
    """Print the cases whose verdicts are refused, or recomputed to others."""
    for number in NUMBERS:
        case = draw_case(number)
        with tempfile.TemporaryDirectory() as folder:
            evidence = Evidence(case, Path(folder))
            for path in paths:
                verdicts = json.loads(Path(path).read_text("utf-8"))[str(number)]
                numbers, words = verify_case(evidence, verdicts)
                if numbers[0] is not True:
                    print(f"{path}: case {number}: {words}")


if __name__ == "__main__":
    {"write": write, "verify": verify}[sys.argv[1]](*sys.argv[2:])
