"""How long a command takes here, measured once and kept: python -m bench.times demo.

README names the range over the processors that are in the records.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from bench.machine import describe

RECORDS = Path(__file__).with_name("times.jsonl")
COMMANDS = ("demo", "test", "quick")


def main(arguments: list[str] | None = None) -> int:
    """Run `make COMMAND`, and add how long it took to the records; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.times", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    command = parser.parse_args(arguments).command
    begun = time.monotonic()
    if code := subprocess.run(["make", command], check=False).returncode:
        print(f"make {command} ended with {code}: not recorded", file=sys.stderr)
        return code
    record = {"command": command, "seconds": round(time.monotonic() - begun), "processor": describe("cpu")["processor"]}
    with RECORDS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**record, "measured": f"{date.today()}, make {command}"}) + "\n")
    return 0


def format_minutes(command: str) -> str:
    """Return the range of a command's times over all records, such as "6 to 25 minutes"."""
    records = [json.loads(line) for line in RECORDS.read_text("utf-8").splitlines()]
    seconds = [record["seconds"] for record in records if record["command"] == command]
    low, high = round(min(seconds) / 60), round(max(seconds) / 60)
    return f"{low} to {high} minutes" if low < high else f"{high} minutes"


if __name__ == "__main__":
    sys.exit(main())
