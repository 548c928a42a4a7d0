"""What an install takes: seconds and megabytes of each extra, in a new environment. Needs a package index.

python bench/installs.py EXTRA… (default: those of README's table; "base" is none) writes a record of each to
bench/records-installs.jsonl, from which `make docs` writes the table. Seconds are those of installing what was fetched.
Which torch it is depends on pip's settings: PIP_CONFIG_FILE=/dev/null takes the default one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "bench/records-installs.jsonl"
SHOWN = ("base", "gate", "report", "view", "sign", "api", "hf")
LARGEST = 5  # packages that a record names


def measure_install(wheel: Path, extra: str) -> dict[str, Any]:
    """Fetch the wheels of an extra, install them, and return the seconds of the latter and the megabytes of both."""
    requirement = f"finetune-harness{f'[{extra}]' if extra != 'base' else ''} @ {wheel.as_uri()}"
    with tempfile.TemporaryDirectory() as folder:
        wheels, environment = Path(folder, "wheels"), Path(folder, "environment")
        run_pip("wheel", "--wheel-dir", str(wheels), requirement)
        venv.create(environment, with_pip=False)
        offline = ["--no-index", "--find-links", str(wheels)]
        begun = time.perf_counter()
        run_pip("--python", str(environment / "bin/python"), "install", *offline, requirement)
        seconds = time.perf_counter() - begun
        sizes = _measure_packages(environment)
        (site,) = environment.glob("lib/python*/site-packages")
        versions = {found.name: found.version for found in distributions(path=[str(site)])}
        return {
            "extra": extra,
            "torch": versions.get("torch", ""),
            "python": sys.version.split()[0],
            "seconds": round(seconds, 1),
            "fetched_mb": round(_measure_folder(wheels) / 1e6),
            "mb": round(_measure_folder(environment) / 1e6),
            "packages": len(versions),
            "largest_mb": {name: round(size / 1e6) for name, size in sizes.most_common(LARGEST)},
        }


def run_pip(*words: str) -> None:
    """Run pip with this machine's settings."""
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], check=True)


def _measure_folder(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_dir())


def _measure_packages(environment: Path) -> Counter[str]:
    """Return the bytes of what lies in site-packages by its name; scipy.libs is scipy's."""
    sizes = Counter[str]()
    for path in environment.glob("lib/python*/site-packages/*"):
        size = _measure_folder(path) if path.is_dir() else path.lstat().st_blocks * 512
        sizes[path.name.partition(".")[0]] += size
    return sizes


def read_records() -> list[dict[str, Any]]:
    """Return what was measured."""
    return [json.loads(line) for line in RECORDS.read_text("utf-8").splitlines()] if RECORDS.is_file() else []


def _is_default_torch(record: dict[str, Any]) -> bool:
    return bool(record["torch"]) and "+" not in record["torch"]


def write_record(record: dict[str, Any]) -> None:
    """Write a record in the place of the one of the same extra and kind of torch."""
    kept = [old for old in read_records() if (old["extra"], _is_default_torch(old)) != key(record)]
    records = sorted([*kept, record], key=key)
    RECORDS.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def key(record: dict[str, Any]) -> tuple[str, bool]:
    """Return what a record is about: an extra, and whether its torch is the index' default one."""
    return record["extra"], _is_default_torch(record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", default=SHOWN)
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        subprocess.run(build, check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        for extra in parser.parse_args().extras:
            record = measure_install(wheel, extra)
            print(json.dumps(record), flush=True)
            write_record(record)


if __name__ == "__main__":
    main()
