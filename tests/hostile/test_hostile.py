"""Every command that opens a folder of others is run on hostile ones; the whole corpus is `make hostile`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generated import SECURITY, security_page
from tests.hostile.commands import COMMANDS, FOLDER, iterate_parsed_commands

SECONDS = 45  # of drawn cases


def test_every_command_that_takes_a_path_is_listed() -> None:
    """With what each of its paths is; a command whose paths are a stranger's has lines that are run."""
    parsed = dict(iterate_parsed_commands())
    listed = {name: {*command.paths} for name, command in COMMANDS.items()}
    assert {name: paths for name, paths in parsed.items() if paths} == {n: p for n, p in listed.items() if p}
    for name, command in COMMANDS.items():
        if FOLDER in command.paths.values():
            assert command.lines and command.reads, name
            assert all(line.words.startswith(f"{name} ") for line in command.lines)


def test_the_table_of_commands_is_made_from_the_list() -> None:
    """SECURITY.md says of every command what the list says."""
    assert SECURITY.read_text("utf-8") == security_page()  # else run `make docs`


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs pidfd and /proc")
def test_drawn_hostile_folders_are_only_data() -> None:
    """No process, import, foreign file, socket, secret, traceback, hang or gigabytes, for every command."""
    words = [sys.executable, "-m", "tests.hostile", "--seconds", str(SECONDS), "--seed", "1"]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600)
    failed = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, failed) == (0, []), done.stderr[-2000:]
