"""The guard ends a process at each thing that no hostile folder may cause, and at nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.hostile.guard import VIOLATION
from tests.hostile.world import MODULE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc"),
]
CHILD = """
import json, os, sys
from pathlib import Path
from tests.hostile.guard import Guard
place = Path(sys.argv[1])
sys.path.append(str(place / "site"))
theirs, outside = place / "theirs", place / "outside"
ends = {}
for name, code in json.loads(sys.argv[2]).items():
    child = os.fork()
    if child == 0:
        Guard([place / "yours"], [theirs], theirs, "http://127.0.0.1:1", 2).install()
        exec(code)
        os._exit(0)
    ends[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(ends))
"""
FORBIDDEN = {
    "a process": "import subprocess; subprocess.run(['true'])",
    "a shell": "os.system('true')",
    "a fork": "os.fork()",
    "a module by name": f"import {MODULE}",
    "a module below the folder": "sys.path.insert(0, str(theirs)); import code_of_others",
    "a script below the folder": "import runpy; runpy.run_path(str(theirs / 'code_of_others.py'))",
    "a pickle": "import pickle; pickle.loads(b\"cposix\\nsystem\\n(S'true'\\ntR.\")",
    "a file elsewhere": "(outside / 'secret.txt').read_text()",
    "a link to a file elsewhere": "(theirs / 'link').read_text()",
    "a link below a descriptor": "os.open('link', os.O_RDONLY, dir_fd=os.open(theirs, os.O_RDONLY))",
    "a file of what is yours, written": "(place / 'yours/mine.txt').write_text('')",
    "a file of what is yours, removed": "(place / 'yours/mine.txt').unlink()",
    "the environment": "open('/proc/self/environ').read()",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', 2))",
    "a name to look up": "import socket; socket.getaddrinfo('example.org', 443)",
}
ALLOWED = {
    "a file of the folder": "(theirs / 'code_of_others.py').read_text(); (theirs / 'new').write_text('')",
    "a file of yours": "(place / 'yours/mine.txt').read_text()",
    "a module of the environment": "import wave, pluggy",
    "rows of a process of ours": "import pickle, harness.rows.records as r; pickle.loads(pickle.dumps(r.RawRow))",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of others with code and a link in it, what is yours beside it, and a secret elsewhere."""
    folder = tmp_path_factory.mktemp("guard")
    texts = {"theirs/code_of_others.py": "", f"site/{MODULE}.py": "", "yours/mine.txt": "", "outside/secret.txt": ""}
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    (folder / "theirs/link").symlink_to(folder / "outside/secret.txt")
    return folder


@pytest.fixture(scope="module")
def ends(place: Path) -> Mapping[str, int]:
    """Return the exit code of each piece of code, in a fork of one process."""
    command = [sys.executable, "-c", CHILD, str(place), json.dumps(FORBIDDEN | ALLOWED)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    codes: Mapping[str, int] = json.loads(done.stdout)
    return codes


@pytest.mark.parametrize("case", FORBIDDEN)
def test_what_is_forbidden_ends_the_process(case: str, ends: Mapping[str, int], place: Path) -> None:
    """With the guard's own exit code, before it happened."""
    assert ends[case] == VIOLATION
    assert (place / "yours/mine.txt").exists()


@pytest.mark.parametrize("case", ALLOWED)
def test_what_is_allowed_is_left_alone(case: str, ends: Mapping[str, int]) -> None:
    """A guard that ended everything would prove nothing."""
    assert ends[case] == 0
