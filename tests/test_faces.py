"""The two faces of the core: names that stay, names that move, and their types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness import internals

ROOT = Path(__file__).parent.parent
USER = """
from harness import Sample, Score

reveal_type(Score("a", {"m": 1.0}).values)
reveal_type(Sample("a").targets)
Score(1, {})
"""


def test_the_face_that_stays_is_small() -> None:
    """Fifty names and `gate` at most, each there, and none that is in the face that moves."""
    assert len(harness.__all__) <= 51
    assert not set(harness.__all__) & set(internals.__all__)
    for face in (harness, internals):
        for name in face.__all__:
            assert getattr(face, name) is not None
        assert set(dir(face)) >= set(face.__all__)
        assert not hasattr(face, "nothing")


def test_every_internal_name_is_used_by_a_plugin() -> None:
    """What nobody imports does not stand there."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "plugins").rglob("*.py"))
    assert [name for name in internals.__all__ if name not in text] == []


def test_importing_the_package_imports_nothing_else() -> None:
    """Names cost nothing before they are asked for."""
    code = "import harness, sys; print(*(m for m in sys.modules if m.startswith('harness.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["harness.lazy"]


@pytest.mark.slow
def test_a_user_under_strict_gets_types(tmp_path: Path) -> None:
    """mypy sees a Score and not Any, and a wrong call of it, from the package alone."""
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER, "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    said = done.stdout.replace("builtins.", "")
    assert 'Revealed type is "typing.Mapping[str, float]"' in said and 'Revealed type is "list[str]"' in said, said
    assert 'Argument 1 to "Score" has incompatible type "int"' in said and "py.typed" not in said, said
