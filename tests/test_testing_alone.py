"""`harness.testing` where pytest is not installed, as with the extra [hf] alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
sys.modules["pytest"] = None  # as where it is not installed
from pathlib import Path
from harness.testing import ROWS, SUITE, TRAIN, FakeSubject, Project, write_fake
write_fake(Path("base"), 0.5)
print(FakeSubject.__name__)
"""


def test_the_fakes_need_no_pytest(tmp_path: Path) -> None:
    """Only the fixture needs pytest: a suite on fakes runs without it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "FakeSubject\n", "")
