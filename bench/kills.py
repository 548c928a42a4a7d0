"""Kill real runs of the smoke suite at random moments, run them again, and compare with a run that nobody disturbed.

python bench/kills.py [--kills N] [--suite SUITE] [--seed N]

KILL, TERM, INT and HUP take turns. Each cache takes several kills before a run is left alone; its verdicts, digests
of weights and exported bytes must be those of the undisturbed run. Prints one JSON line; ends with 1 at a difference.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import EVIDENCE, MANIFEST

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
IN_A_ROW = 5  # kills of one cache
CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us in the background
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--suite", type=Path, default=Path("suites/smoke.toml"))
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Run(args.suite, Path(folder) / "undisturbed")
        begun = time.monotonic()
        assert whole.go() == 0, whole.said()
        seconds, wanted = time.monotonic() - begun, whole.found()
        ended: dict[str, int] = {}
        wrong: list[Any] = []
        kills, caches = 0, 0
        while kills < args.kills:
            run, caches = Run(args.suite, Path(folder) / f"killed-{caches}"), caches + 1
            for _ in range(IN_A_ROW):
                name = SIGNALS[kills % len(SIGNALS)]
                code = run.go(getattr(signal, name), chance.uniform(0.02, 1.0) * seconds)
                if code == 0:
                    break  # it was faster
                kills, key = kills + 1, f"{name} {code}"
                ended[key] = ended.get(key, 0) + 1
            code = run.go()
            if code != 0 or run.found() != wanted:
                wrong.append({"code": code, "found": run.found(), "wanted": wanted})
        print(json.dumps({"seconds": round(seconds, 1), "caches": caches, "ended": ended, "wrong": wrong}))
        return 1 if wrong else 0


class Run:
    """A suite in a folder of its own, with a cache, reports and exports there."""

    def __init__(self, suite: Path, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.command = [sys.executable, "-c", CODE, "run", str(suite.resolve()), "--out", "reports"]
        self.env = {**os.environ, "HARNESS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def go(self, number: int | None = None, after: float = 0.0) -> int:
        """Run the suite; with a signal, send it after so many seconds. Return the exit code."""
        with (self.folder / "said.txt").open("w") as said:
            process = subprocess.Popen(self.command, cwd=self.folder, env=self.env, stdout=said, stderr=said)
            if number is not None:
                try:
                    process.wait(after)
                except subprocess.TimeoutExpired:
                    process.send_signal(number)
            return process.wait()

    def said(self) -> str:
        return (self.folder / "said.txt").read_text("utf-8")

    def found(self) -> dict[str, Any]:
        """Return what must not depend on kills: verdicts and digests of the last run, the root of its export."""
        path = max(self.folder.glob("reports/*/report.json"), key=lambda p: p.stat().st_mtime_ns)
        report = json.loads(path.read_text("utf-8"))
        manifest = next(self.folder.glob(f"exports/*/{EVIDENCE}/{MANIFEST}"))
        verdicts = [
            [v["candidate"], v["gate"], v["outcome"], v["value"]] for r in report["results"] for v in r["verdicts"]
        ]
        return {
            "verdicts": sorted(verdicts),
            "digests": report["digests"],
            "root": json.loads(manifest.read_bytes())["root"],
        }


if __name__ == "__main__":
    sys.exit(main())
