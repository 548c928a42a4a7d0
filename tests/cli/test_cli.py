"""The command line: fast, light, and pytest-like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import harness

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "numpy", "scipy", "rich")
LIGHT = "import sys; from harness.cli.main import main\ntry:\n    main({words!r})\nexcept SystemExit: pass\n"
SUITES = Path(__file__).parents[2] / "suites"


def list_heavy_imports(words: list[str], cwd: Path) -> set[str]:
    """Run a command line in a process of its own and return the heavy modules it imported."""
    code = LIGHT.format(words=words) + f"print('IMPORTED', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    return set(done.stdout.rpartition("IMPORTED")[2].split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--help"], ["plugins"], ["run", "--collect-only", str(SUITES / "smoke.toml")], ["init", "new"]]
)
def test_light_commands_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    """Help, plugins, collection and init never pay for torch."""
    assert list_heavy_imports(words, tmp_path) == set()


@pytest.mark.slow
def test_module_is_the_command(tmp_path: Path) -> None:
    """`python -m harness` does and ends as `harness` does."""
    command = [sys.executable, "-m", "harness"]
    told = subprocess.run([*command, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (told.returncode, told.stdout) == (0, f"harness {harness.__version__}\n")
    missed = subprocess.run([*command, "verifi"], capture_output=True, text=True, cwd=tmp_path)
    assert (missed.returncode, missed.stdout) == (4, "")
    assert missed.stderr.endswith('error: no command "verifi"; did you mean "verify"?\n')


def test_help_is_light() -> None:
    """`harness --help` imports Python's own modules, those that declare commands, and no library but pluggy."""
    bare, helped = "print(*sys.modules)", "main(['--help'])\nfinally:\n    print(*sys.modules)"
    before = read_last_line_words(f"import sys; {bare}")
    found = read_last_line_words(f"import sys; from harness.cli.main import main\ntry:\n    {helped}") - before
    libraries = {name.partition(".")[0] for name in found} - sys.stdlib_module_names
    assert libraries == {"harness", "pluggy", "harness_judge", "harness_report", "harness_served", "harness_view"}


def read_last_line_words(code: str) -> set[str]:
    """Return the names in the last line that a process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [[], ["run"], ["rnu"], ["judge"], ["run", "suite.toml", "--limit", "few"]])
def test_mistyped_command_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be read as a command explains itself and ends with 4; 2 is for what was interrupted."""
    from harness.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 4
    assert "usage: harness" in capsys.readouterr().err


@pytest.mark.slow
def test_closed_pipe_is_no_crash(tmp_path: Path) -> None:
    """`harness plugins | head -1` ends without a traceback."""
    code = "import sys; from harness.cli.main import main; sys.exit(main(['plugins']))"
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as p:
        assert p.stdout
        assert p.stderr
        p.stdout.readline()
        p.stdout.close()
        assert b"Traceback" not in p.stderr.read()


def test_init_does_not_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`init` refuses a folder that has one of its files, and touches nothing."""
    from harness.cli.main import main

    (tmp_path / "suite.toml").write_text("mine", "utf-8")
    assert main(["init", str(tmp_path)]) == 4
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "suite.toml").read_text("utf-8") == "mine"
    assert len(list(tmp_path.iterdir())) == 1
