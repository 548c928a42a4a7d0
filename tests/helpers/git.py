"""git, for tests that write a repository."""

from __future__ import annotations

import subprocess
from pathlib import Path


def run_git(folder: Path, *words: str) -> str:
    """Run git as nobody in particular, and return what it prints. Raises CalledProcessError where it fails."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()
