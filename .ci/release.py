"""Build and check what a release would upload, and upload nothing: `make release`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

DIST = Path("dist")


def main() -> int:
    """Refuse what is not ready, one line each and exit 1; else build, check, and print the commands that are left."""
    version = re.findall(r'^__version__ = "(.+)"$', Path("harness/version.py").read_text("utf-8"), re.MULTILINE)[0]
    if wrong := list(refusals(version)):
        print(*(f"error: {line}" for line in wrong), sep="\n", file=sys.stderr)
        return 1
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST))
    files = sorted(map(str, DIST.iterdir()))
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    print(f"\n{version} is built and checked; nothing was tagged or uploaded. What is left:")
    print(f"  git tag --annotate v{version} --message {version} {output('git', 'rev-parse', '--short', 'HEAD')}")
    print(f"  git push origin v{version}")
    print("  twine upload", *files)
    print(*(f"  {sha256(Path(name).read_bytes()).hexdigest()}  {name}" for name in files), sep="\n")
    return 0


def refusals(version: str) -> Iterator[str]:
    """Yield why a version is not to be released."""
    if dirty := output("git", "status", "--porcelain").splitlines():
        yield f"{dirty[0][2:].strip()} is not as it was committed, one of {len(dirty)}; commit or remove what there is"
    tagged, tag = output("git", "tag", "--list", f"v{version}"), os.environ.get("TAG", "")  # of the workflow
    if tag and tag != f"v{version}":
        yield f"the tag is {tag}, and harness/version.py says {version}"
    if tagged and not tag:
        yield f"v{version} is tagged already; raise __version__ in harness/version.py"
    if f"\nversion: {version}\n" not in Path("CITATION.cff").read_text("utf-8"):
        yield f"CITATION.cff names another version than {version}"
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changelog(), re.MULTILINE):
        yield f"CHANGELOG.md has no section {version}; towncrier build --version {version} writes it"
    if left := sorted(p.name for p in Path("changelog.d").glob("*") if p.name != "README.md"):
        yield f"changelog.d/{left[0]} is not in CHANGELOG.md, one of {len(left)}; towncrier build joins them"


def changelog() -> str:
    """Return CHANGELOG.md, empty where there is none."""
    return Path("CHANGELOG.md").read_text("utf-8") if Path("CHANGELOG.md").is_file() else ""


def output(*command: str) -> str:
    """Return what a command prints. Raises CalledProcessError where it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()


def run(*command: str) -> None:
    """Run a command and show what it prints. Raises SystemExit where it fails."""
    if subprocess.run(command).returncode:
        sys.exit(f"error: {' '.join(command[1:3])} failed; nothing was tagged or uploaded")


if __name__ == "__main__":
    sys.exit(main())
