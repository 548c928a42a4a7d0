"""What an install takes: seconds and megabytes of each extra, in a new environment. Needs a package index.

python bench/installs.py EXTRA… (default: those without torch; "base" is none); a line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIGHT = ("base", "gate", "report", "view", "sign", "json", "api")


def measure_install(wheel: Path, extra: str) -> dict[str, float | str]:
    """Install the wheel with an extra, and return its seconds and its megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False)
        requirement = f"finetune-harness{f'[{extra}]' if extra != 'base' else ''} @ {wheel.as_uri()}"
        begun = time.perf_counter()
        pip = [sys.executable, "-m", "pip", "--python", f"{folder}/bin/python", "install", "--quiet", requirement]
        subprocess.run(pip, check=True)
        seconds = time.perf_counter() - begun
        used = sum(path.lstat().st_blocks * 512 for path in Path(folder).rglob("*") if not path.is_dir())
    return {"extra": extra, "seconds": round(seconds, 1), "mb": round(used / 1e6), "python": sys.version.split()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", default=LIGHT)
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        subprocess.run(build, check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        for extra in parser.parse_args().extras:
            print(json.dumps(measure_install(wheel, extra)), flush=True)


if __name__ == "__main__":
    main()
