"""Time `harness verify` beside `sha256sum` on the same export, and its import; print both and the bars.

python bench/verify.py [--size BYTES] [--files N] [--work FOLDER]

The export is written by a real run of a suite of fakes around random bytes. Both read from the page cache, take turns,
and the best of three counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.testing import write_fake

SPEED, IMPORT = 1 / 2.2, 0.2  # the bars: ours over sha256sum's bytes a second, and seconds
ROUNDS = 3
SUITE = """
[suite]
name = "large"

[model]
use = "fake"
path = "base"

[candidate]
merged = "made"

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"

[[gate]]
id = "floor"
metric = "qa.exact_match"
min = 0.5

[[export]]
use = "safetensors"
to = "export"
"""
HARNESS = [sys.executable, "-c", "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"]
LIGHT = """
import time
begun = time.perf_counter()
import harness.cli.main, harness.release.policy, harness.release.verify
print(time.perf_counter() - begun)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=3 << 30, help="bytes of weights")
    parser.add_argument("--files", type=int, default=1, help="shards they are in")
    parser.add_argument("--work", type=Path, help="where the export goes (three times its size)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        export = write_export(Path(folder), args.size, args.files)
        files = [str(p) for p in sorted(export.rglob("*")) if p.is_file()]
        size = sum(Path(p).stat().st_size for p in files)
        assert size >= args.size, "the weights are not in the export"
        commands = {"sha256sum": ["sha256sum", *files], "verify": [*HARNESS, "verify", str(export)]}
        best = dict.fromkeys(commands, float("inf"))
        for _ in range(ROUNDS):
            for name, command in commands.items():
                best[name] = min(best[name], time_command(command))
    imports = min(float(subprocess.check_output([sys.executable, "-c", LIGHT])) for _ in range(ROUNDS))
    ratio = best["sha256sum"] / best["verify"]
    for name, took in best.items():
        print(f"{name:9}  {took:6.2f} s  {size / took / 1e9:.2f} GB/s, {size / 1e9:.2f} GB in {len(files)} files")
    print(f"speed {ratio:.2f} of sha256sum's (bar {SPEED:.2f}), with its start; import {imports:.3f} s (bar {IMPORT})")
    sys.exit(not (ratio >= SPEED and imports < IMPORT))


def write_export(folder: Path, size: int, files: int) -> Path:
    """Run a suite whose candidate has `size` bytes of random weights, and return what it exported."""
    for name, skill in (("base", 0.3), ("made", 0.95)):
        write_fake(folder / name, skill)
    (folder / "made" / "model.safetensors").unlink()
    names = {f"w{n}": f"model-{n + 1:05}-of-{files:05}.safetensors" for n in range(files)}
    for tensor, name in names.items():
        write_shard(folder / "made" / name, tensor, size // files)
    (folder / "made" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), "utf-8")
    rows = [{"input": f"question {i} say w{i}", "target": f"w{i}"} for i in range(60)]
    (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    (folder / "suite.toml").write_text(SUITE, "utf-8")
    env = {**os.environ, "HARNESS_CACHE": str(folder / "cache")}
    command = [*HARNESS, "run", "suite.toml", "-q", "-p", "harness.testing"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "export"


def write_shard(path: Path, name: str, size: int) -> None:
    header = json.dumps({name: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        while size:
            size -= f.write(os.urandom(min(1 << 24, size)))


def time_command(command: list[str]) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
