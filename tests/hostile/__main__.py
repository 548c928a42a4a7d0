"""Run the corpus: `python -m tests.hostile`, or a part of it with --sample, --only and --part."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from tests.hostile.commands import Line, list_lines
from tests.hostile.corpus import Case
from tests.hostile.runner import Runner
from tests.hostile.world import make_world


def main() -> int:
    """Run the cases of every line; print each failure as one line of JSON, and a summary."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--only", default="", help="only lines that begin with this text")
    parser.add_argument("--case", default="", help="only cases whose name contains this text")
    parser.add_argument("--sample", type=int, default=0, help="so many drawn cases of each line, and no more")
    parser.add_argument("--seconds", type=float, default=0, help="draw cases of all lines in turn for so long")
    parser.add_argument("--seed", type=int, default=0, help="of the draw, and of the texts that take turns")
    parser.add_argument("--part", default="1/1", help="only the I-th of N parts of the cases, as I/N")
    args = parser.parse_args()
    part, parts = map(int, args.part.split("/"))
    with tempfile.TemporaryDirectory(prefix="hostile-world-") as folder:
        runner = Runner(make_world(Path(folder)), args.seed)
        started, count, failed = time.monotonic(), 0, 0
        try:
            lines = [line for line in list_lines() if line.words.startswith(args.only)]
            for line, case in _choose_cases(runner, lines, args)[part - 1 :: parts]:
                if args.seconds and time.monotonic() - started > args.seconds:
                    break
                count += 1
                if problem := runner.run(line, case):
                    failed += 1
                    print(json.dumps([line.words, case.name, problem]), flush=True)
        finally:
            runner.close()
    print(f"{count} cases, {failed} failed, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return min(failed, 1)


def _choose_cases(runner: Runner, lines: Sequence[Line], args: argparse.Namespace) -> list[tuple[Line, Case]]:
    """Return the cases of every line, or drawn ones of all lines in turn."""
    drawn = []
    for line in lines:
        cases = [case for case in runner.list_cases(line) if args.case in case.name]
        if args.sample or args.seconds:
            random.Random(f"{args.seed} {line.words}").shuffle(cases)
        drawn.append([(line, case) for case in (cases[: args.sample] if args.sample else cases)])
    if not args.seconds:
        return [pair for pairs in drawn for pair in pairs]
    return [pair for pairs in zip_longest(*drawn) for pair in pairs if pair is not None]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of libraries are left alone
