"""What a release is made of: the fragments of the changelog, and what must hold before anything is built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from harness.version import __version__
from tests.helpers.git import run_git

ROOT = Path(__file__).parent.parent
FILES = {
    "harness/version.py": '__version__ = "1.2.3"\n',
    "CHANGELOG.md": "# Changes\n\n## 1.2.3 (2026-11-26)\n",
    "changelog.d/README.md": "how\n",
    "README.md": "# a package\n",
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.3\n",
    ".gitignore": "dist/\n",
    "pyproject.toml": """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "a-package"
version = "1.2.3"
readme = "README.md"
requires-python = ">=3.11"

[tool.hatch.build.targets.wheel]
packages = ["harness"]
""",
}


def test_every_fragment_has_a_category() -> None:
    """towncrier leaves out, without a word, a file whose category it does not know."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["towncrier"]
    known = "|".join(kind["directory"] for kind in settings["type"])
    files = [p.name for p in (ROOT / settings["directory"]).iterdir() if p.name != "README.md"]
    assert not [name for name in files if not re.fullmatch(rf"\+[a-z0-9-]+\.({known})\.md", name)]


def test_every_fragment_is_one_line() -> None:
    """A fragment is a sentence or two, without the mark of a list, which is towncrier's."""
    texts = {p.name: p.read_text("utf-8") for p in (ROOT / "changelog.d").glob("+*.md")}
    assert not [name for name, text in texts.items() if "\n" in text.strip() or text.startswith(("- ", "* ", " "))]


def write_repository(folder: Path, changes: dict[str, str | None]) -> Path:
    """Write a repository that is ready for release but for changes, and commit it."""
    for name, text in (FILES | changes).items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
    run_git(folder, "init", "--quiet")
    run_git(folder, "add", ".")
    run_git(folder, "commit", "--quiet", "--message", "all")
    return folder


def release(folder: Path, tag: str = "") -> subprocess.CompletedProcess[str]:
    """Run what `make release` runs."""
    command, env = [sys.executable, ROOT / ".ci/release.py"], {**os.environ, "TAG": tag}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"CHANGELOG.md": "## 1.2.2 (2026-11-25)\n"}, "CHANGELOG.md has no section 1.2.3; "),
        ({"CHANGELOG.md": None}, "CHANGELOG.md has no section 1.2.3; "),
        ({"CITATION.cff": "version: 1.2.2\n"}, "CITATION.cff names another version than 1.2.3"),
        (
            {"changelog.d/+new.added.md": "New.\n"},
            "changelog.d/+new.added.md is not in CHANGELOG.md, one of 1; ",
        ),
        (
            {"changelog.d/0001-old.md": "Old.\n"},
            "changelog.d/0001-old.md is not in CHANGELOG.md, one of 1; ",
        ),
    ],
)
def test_release_is_refused(tmp_path: Path, changes: dict[str, str | None], says: str) -> None:
    """A version without a section, and a change that none tells of, are one line each, and nothing is built."""
    done = release(write_repository(tmp_path, changes))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"error: {says}")
    assert not (tmp_path / "dist").exists()


def test_release_wants_what_is_committed(tmp_path: Path) -> None:
    """A file that is changed or unknown to git, and a tag that is there, are refused together."""
    folder = write_repository(tmp_path, {})
    run_git(folder, "tag", "v1.2.3")
    (folder / "README.md").write_text("# another\n", "utf-8")
    (folder / "notes.txt").write_text("x", "utf-8")
    done = release(folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: README.md is not as it was committed, one of 2; commit or remove what there is",
        "error: v1.2.3 is tagged already; raise __version__ in harness/version.py",
    ]


def test_a_workflows_tag_is_the_version(tmp_path: Path) -> None:
    """The tag that started the release workflow names the version, and another one is refused."""
    folder = write_repository(tmp_path, {"CHANGELOG.md": None})
    run_git(folder, "tag", "v1.2.3")
    assert "is tagged already" not in release(folder, "v1.2.3").stderr
    assert "error: the tag is v1.2.4, and harness/version.py says 1.2.3\n" in release(folder, "v1.2.4").stderr


def test_the_citation_is_of_this_version() -> None:
    """CITATION.cff has the keys that its format requires, and this version."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["version"] == __version__


@pytest.mark.slow
def test_release_builds_and_uploads_nothing(tmp_path: Path) -> None:
    """What is ready is built and checked, and the commands that are left are printed."""
    folder = write_repository(tmp_path, {})
    done = release(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name for p in (folder / "dist").iterdir()} == {
        "a_package-1.2.3-py3-none-any.whl",
        "a_package-1.2.3.tar.gz",
    }
    assert "nothing was tagged or uploaded" in done.stdout
    assert f"git tag --annotate v1.2.3 --message 1.2.3 {run_git(folder, 'rev-parse', '--short', 'HEAD')}" in done.stdout
    assert "twine upload dist/a_package-1.2.3-py3-none-any.whl dist/a_package-1.2.3.tar.gz" in done.stdout
    assert run_git(folder, "tag") == ""
    assert run_git(folder, "status", "--porcelain") == ""
