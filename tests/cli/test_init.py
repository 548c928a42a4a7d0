"""`harness init`: what it writes runs, passes and tells how to go on."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.cli.init import SCHEMA, TASKS, list_example_suites
from harness.cli.main import main
from harness.pipeline.run import Options, prepare_collection


@pytest.mark.parametrize("task", TASKS)
def test_what_init_writes_is_a_suite_without_a_warning(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every suite of a task is collected, has rows to test on that it does not train on, and is warned of nothing."""
    assert main(["init", str(tmp_path / task), "--task", task]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(tmp_path / task / name) for name in (*TASKS[task], SCHEMA)]
    here = tmp_path / task
    several = f"cd {here} && harness run train.toml && harness run suite.toml"
    assert f"next: {several if task == 'candidate' else f'harness run {here}/suite.toml'}\n" in said.err
    for suite in (tmp_path / task).glob("*.toml"):
        collection = prepare_collection(suite, Options())
        alone = task == "candidate" and suite.name == "suite.toml"
        assert collection.warnings == ()
        assert collection.suite.gates and bool(collection.training) != alone
        tested = {str(s.input) for t in collection.tasks.values() for s in t.samples or ()}
        assert len(tested) >= 30 and not tested & {str(row.get("prompt")) for row in collection.training or ()}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize("task", ["classify", "tools"])  # a text and a chat; all six take two minutes of a core
def test_what_init_writes_runs_and_passes(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that init names end with exit 0, every gate passed and the model exported, as its rows say."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--task", task]) == 0
    for name in list_example_suites(task):
        assert main(["run", name]) == 0
    assert list(tmp_path.glob("exports/*/model/*.safetensors"))
    assert main(["verify", str(next(tmp_path.glob("exports/*")))]) == 0


def test_unknown_task_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task that there is not is told with those that there are, and nothing is written."""
    with pytest.raises(SystemExit) as ended:
        main(["init", str(tmp_path), "--task", "clasify"])
    err = capsys.readouterr().err
    assert (ended.value.code, "classify" in err, list(tmp_path.iterdir())) == (4, True, [])


def test_a_plugin_is_a_package_of_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has an entry point of its name; nothing is written into a folder that holds something."""
    assert main(["init", str(tmp_path), "--plugin", "my-plugin"]) == 0
    said, folder = capsys.readouterr(), tmp_path / "my-plugin"
    written = sorted(path.relative_to(tmp_path).as_posix() for path in folder.rglob("*") if path.is_file())
    assert sorted(Path(line).relative_to(tmp_path).as_posix() for line in said.out.splitlines()) == written
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["harness"] == {"my-plugin": "my_plugin.plugin"}
    assert "next: cd " in said.err and "mypy && pytest" in said.err
    assert main(["init", str(tmp_path), "--plugin", "my-plugin"]) == 4
    assert "exists and is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--plugin", "My Plugin"], "is not a package name"),
        (["--plugin", "a" * 300], "has 300 characters; choose at most 100"),
        (["--plugin", "A" * 300], "is not a package name"),
        (["--plugin", "class"], "is a keyword of Python"),
        (["--plugin", "match"], "is a keyword of Python"),
        (["--plugin", "nul"], "is reserved on Windows"),
        (["--plugin", "com1"], "is reserved on Windows"),
        (["--plugin", "json"], "is the name of another module"),
        (["--plugin", "harness-x"], "is the name of another module"),
        (["--plugin", "hf"], "is the name of an installed plugin"),
        (["--plugin", "mine", "--task", "qa"], "--task is for a suite"),
        (["--plugin", "mine", "--label", "x"], "--label is for a suite"),
    ],
)
def test_a_plugin_that_cannot_be_is_one_line(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name that no package can have, or options of a suite: exit 4, and nothing is written."""
    assert main(["init", str(tmp_path), *words]) == 4
    assert why in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_plugin_package_passes_strict_mypy_and_its_tests(tmp_path: Path) -> None:
    """What is written is installed, is found by its entry point, and passes its own checks."""
    pytest.importorskip("mypy")
    assert main(["init", str(tmp_path), "--plugin", "my-plugin"]) == 0
    folder, site = tmp_path / "my-plugin", tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
        str(folder),
    ]
    for command in (install, [sys.executable, "-m", "mypy"], [sys.executable, "-m", "pytest", "-q"]):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(site)}
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
