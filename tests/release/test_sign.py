"""What is signed comes out of its rows, or whoever signs says that he did not look."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.attestation import CLAIMS, EVIDENCE, ITEMS
from harness.release import signing
from harness.testing import SUITE, Project
from tests.helpers.exports import edit_gates, reseal
from tests.helpers.suites import run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

PRIVATE = """
[[eval]]
name = "hidden"
use = "exact_match"
data = "test.jsonl"
private = true

[[gate]]
id = "in private"
metric = "hidden.exact_match"
min = 0.5
severity = "warn"
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exports and a key: one whose gates are all of rows that are there, and one with private rows."""
    plain = run_commands(tmp_path_factory.mktemp("plain"), "run suite.toml -q", "keygen release", suite=SUITE)
    private = run_commands(tmp_path_factory.mktemp("private"), "run suite.toml -q", suite=SUITE + PRIVATE)
    return {"plain": plain / "exports/fake", "private": private / "exports/fake", "key": plain / "release.key"}


@pytest.fixture
def export(exports: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the first."""
    return shutil.copytree(exports["plain"], tmp_path / "export")


def zero_row_scores(export: Path) -> None:
    """Give every row the score 0, and make the rest of the evidence agree, but for the verdicts."""
    path = export / EVIDENCE / ITEMS
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = [{**row, "values": dict.fromkeys(row["values"], 0.0)} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reseal(export)


def sign(project: Project, export: Path, key: Path, *flags: str) -> Any:
    return project.harness("sign", str(export), "--key", str(key), *flags)


@pytest.mark.parametrize("flags", [(), ("--unrecomputed",)])
def test_rows_that_say_otherwise_are_not_signed(
    export: Path, exports: dict[str, Path], project: Project, flags: tuple[str, ...]
) -> None:
    """Verdicts that do not come out of their rows get no name put to them, whoever asks."""
    zero_row_scores(export)
    before = (export / EVIDENCE / CLAIMS).read_bytes()
    outcome = sign(project, export, exports["key"], *flags)
    assert outcome.code == 4
    assert 'is not signed: verdicts: gate "floor" has value' in outcome.err
    assert (export / EVIDENCE / CLAIMS).read_bytes() == before


def test_gates_that_cannot_be_judged_again_are_signed_on_request(
    exports: dict[str, Path], project: Project, tmp_path: Path
) -> None:
    """Private rows are not there, so their verdicts are their producer's word, and signing says which."""
    export = shutil.copytree(exports["private"], tmp_path / "export")
    outcome = sign(project, export, exports["key"])
    assert outcome.code == 4
    assert (
        ': is not signed: gate "in private" cannot be decided again: the rows of "hidden" are private; '
        "to sign nevertheless use --unrecomputed"
    ) in outcome.err
    assert sign(project, export, exports["key"], "--unrecomputed").code == 0


def test_without_numpy_signing_says_so(
    export: Path, exports: dict[str, Path], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a module is missing nothing is signed, not even on request: installing it is all that lacks."""

    def decide_without_numpy(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr("harness.release.recomputation.decide_in_context", decide_without_numpy)
    outcome = sign(project, export, exports["key"])
    assert outcome.code == 4
    assert ": is not signed: gate " in outcome.err
    assert 'needs the module "numpy"; pip install numpy scipy, or install with the extra [gate]' in outcome.err
    assert sign(project, export, exports["key"], "--unrecomputed").code == 4


def test_what_is_signed_is_what_was_verified(
    export: Path, exports: dict[str, Path], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims that are swapped in after the verification get no signature, on whichever reading they come in."""
    forged = shutil.copytree(export, project.folder / "forged")
    edit_gates(forged, value=0.99)
    check = signing._check_secrets

    def swap(folder: Path) -> None:
        check(folder)
        shutil.copyfile(forged / EVIDENCE / CLAIMS, export / EVIDENCE / CLAIMS)

    monkeypatch.setattr(signing, "_check_secrets", swap)
    outcome = sign(project, export, exports["key"])
    assert outcome.code == 4 and "changed while it was verified" in outcome.err
    assert '"keyid"' not in (export / EVIDENCE / CLAIMS).read_text("utf-8")


def test_the_root_that_was_signed_is_printed(export: Path, exports: dict[str, Path], project: Project) -> None:
    """Whoever signs sees of which bytes, and can compare them with what they meant."""
    root = json.loads((export / EVIDENCE / "manifest.json").read_text("utf-8"))["root"]
    assert f"root {root}" in sign(project, export, exports["key"]).out


@pytest.mark.parametrize("flags", [(), ("--unrecomputed",)])
def test_a_folder_that_is_none_is_not_signed(
    exports: dict[str, Path], project: Project, flags: tuple[str, ...]
) -> None:
    """One line, which names it."""
    outcome = sign(project, project.folder / "nowhere", exports["key"], *flags)
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
    assert "nowhere: is not a folder" in outcome.err
