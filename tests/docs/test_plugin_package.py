"""One package with a plugin of every kind, taken from the pages alone: strict mypy, its tests, its entry points."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import hookspec
from harness.plugins import HOOKS
from tests.docs.blocks import Block, needs_torch, parse_blocks

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/how-to").glob("write-*.md"))
PACKAGE = "from_pages"
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "from-pages"
version = "1"

[tool.hatch.build.targets.wheel]
packages = ["from_pages"]

[tool.mypy]
strict = true
files = ["from_pages"]

[project.entry-points."harness.commands"]
slowest = "from_pages.write_a_command.slowest:slowest"

[project.entry-points.harness]
"""
NAMES = {  # kind -> what the page on it provides
    "adapter": "replacement",
    "check": "X1",
    "evaluator": "words",
    "exporter": "float16",
    "loader": "bot",
    "saboteur": "zeros",
    "trainer": "loop",
    "workers": "threads",
}


def make_folder_name(page: Path) -> str:
    return page.stem.replace("-", "_")


def list_file_blocks(page: Path) -> list[Block]:
    return [block for block in parse_blocks(page, ROOT) if "file" in block.marks]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as an author would write it: a folder for each page, with its files and the Python it shows."""
    folder, text = tmp_path_factory.mktemp("project"), PROJECT
    for page in PAGES:
        part = folder / PACKAGE / make_folder_name(page)
        part.mkdir(parents=True)
        (part / "__init__.py").touch()
        for block in list_file_blocks(page):
            text_of = re.sub(
                r"^from slowest import", f"from {PACKAGE}.{part.name}.slowest import", block.text, flags=re.M
            )
            (part / block.marks["file"]).write_text(text_of, "utf-8")
        shown = [
            block for block in parse_blocks(page, ROOT) if block.language == "python" and "file" not in block.marks
        ]
        for number, block in enumerate(shown):
            (part / f"shown_{number}.py").write_text(block.text, "utf-8")
        if (part / "harnessfile.py").is_file():
            text += f'{make_folder_name(page)} = "{PACKAGE}.{make_folder_name(page)}.harnessfile"\n'
    (folder / PACKAGE / "__init__.py").touch()
    trainer = next(b for b in parse_blocks(ROOT / "docs/how-to/write-a-trainer.md", ROOT) if "tool.mypy" in b.text)
    (folder / "pyproject.toml").write_text(f"{text}\n{trainer.text}", "utf-8")
    return folder


def execute(words: list[str], folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, env=env)


def test_every_kind_has_a_page() -> None:
    """Every hook is implemented on a page, and the page on commands has one."""
    texts = "".join(page.read_text("utf-8") for page in PAGES)
    hooks = [name for name in vars(hookspec) if name.startswith("harness_")]
    assert [hook for hook in hooks if f"`{hook}(" not in texts and f"def {hook}(" not in texts] == []
    assert set(NAMES) == set(HOOKS)
    assert (ROOT / "docs/how-to/write-a-command.md") in PAGES


@pytest.mark.slow
def test_the_package_passes_strict_mypy(project: Path) -> None:
    """Everything that the pages show is typed; types of torch are skipped, as the page on trainers says."""
    pytest.importorskip("mypy")
    done = execute(["-m", "mypy"], project)
    assert done.returncode == 0, done.stdout
    assert "Success" in done.stdout


@pytest.mark.slow
def test_mypy_finds_a_wrong_plugin(project: Path, tmp_path: Path) -> None:
    """A callable that does not fit its Protocol is an error of the hook that returns it."""
    pytest.importorskip("mypy")
    text = (project / PACKAGE / "write_an_evaluator" / "harnessfile.py").read_text("utf-8")
    (tmp_path / "wrong.py").write_text(text.replace("-> Iterator[Score]:", "-> Iterator[float]:"), "utf-8")
    done = execute(["-m", "mypy", "--strict", "wrong.py"], tmp_path)
    assert 'has incompatible type "str": ' in done.stdout and 'expected "str": "Evaluator"' in done.stdout, done.stdout


@pytest.mark.slow
def test_installed_it_provides_every_kind(project: Path, tmp_path: Path) -> None:
    """The harness finds each plugin of the installed package by its entry point, and the command."""
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", str(site), str(project)]
    assert (done := execute(install, tmp_path)).returncode == 0, done.stderr
    for kind, name in NAMES.items():
        done = execute(["-m", "harness", "plugins", name], tmp_path, site)
        assert done.returncode == 0 and f"{kind} {name}" in done.stdout, (kind, done.stdout + done.stderr)
    done = execute(["-m", "harness", "slowest", "nowhere"], tmp_path, site)
    assert (done.returncode, "nowhere" in done.stderr) == (4, True), done.stderr


def _make_page_param(page: Path) -> object:
    return pytest.param(page, id=page.stem, marks=[pytest.mark.pages] if needs_torch(parse_blocks(page, ROOT)) else [])


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("page", [_make_page_param(page) for page in PAGES])
def test_the_tests_of_a_page_pass_in_the_package(page: Path, project: Path, tmp_path: Path) -> None:
    """What a page tests passes where its plugin is a part of a package."""
    here = project / PACKAGE / make_folder_name(page)
    for block in parse_blocks(page, ROOT):  # rows that a page writes before its tests
        if block.language == "python" and block.executed and "open(" in block.text:
            assert execute(["-c", block.text], here).returncode == 0
    tests = [block.marks["file"] for block in list_file_blocks(page) if block.marks["file"].startswith("test_")]
    assert tests, "a page on plugins ends with a test"
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *tests]
    done = execute(words, here, project)
    assert done.returncode == 0, done.stdout + done.stderr
