"""The JSON Schemas of what a run and an export write: real files of each kind are held against them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from harness.cli.main import main
from harness.release.file_schemas import file_schemas
from harness.testing import SUITE, Project
from tests.helpers.suites import run_commands

FILES = {  # a schema -> the files of a project that it describes
    "report": ("reports/*/report.json", "exports/*/evidence/report.json"),
    "event": ("events.jsonl",),
    "sample": ("reports/*/*/samples_*.jsonl",),
    "lock": ("reports/*/suite.lock.json", "exports/*/evidence/suite.lock.json"),
    "manifest": ("exports/*/evidence/manifest.json",),
    "gates": ("exports/*/evidence/gates.json",),
    "item": ("exports/*/evidence/items.jsonl",),
    "claim": ("exports/*/evidence/claims.intoto.jsonl",),
    "attempt": ("cache/attempts.jsonl",),
}


def read_documents(path: Path) -> list[Any]:
    """Return what a file holds: one document, or one a line."""
    text = path.read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose suite ran and exported, with events, slices, a private eval and an early stop."""
    folder = tmp_path_factory.mktemp("written")
    private = '\n[[eval]]\nname = "secret"\nuse = "exact_match"\ndata = "test.jsonl"\nprivate = true\n'
    fit = '\n[[eval]]\nname = "fit"\nuse = "perplexity"\nof = "completion"\ndata = "test.jsonl"\n'
    early = '\n[[eval]]\nname = "early"\nuse = "exact_match"\ndata = "test.jsonl"\nstop = "early"\n'
    gate = '\n[[gate]]\nid = "early"\nmetric = "early.exact_match"\nmin = 0.1\n'
    suite = SUITE + private + fit + early + gate
    return run_commands(folder, "run suite.toml --events events.jsonl", suite=suite)


@pytest.mark.slow
def test_files_of_a_run_and_an_export_are_valid(written: Path) -> None:
    """Every file that a schema describes is there, and is what the schema says."""
    schemas = file_schemas()
    assert FILES.keys() == schemas.keys()
    for name, patterns in FILES.items():
        Draft4Validator.check_schema(schemas[name])
        validator = Draft4Validator(schemas[name])
        for pattern in patterns:
            paths = sorted(written.glob(pattern))
            assert paths, pattern
            for document in (found for path in paths for found in read_documents(path)):
                errors = [f"{'/'.join(map(str, e.path))}: {e.message[:300]}" for e in validator.iter_errors(document)]
                assert errors == [], (pattern, errors)


@pytest.mark.parametrize(
    ("name", "pattern", "change"),
    [
        ("report", "reports/*/report.json", {"seed": "17"}),
        ("report", "reports/*/report.json", {"colour": 1}),
        ("sample", "reports/*/*/samples_*.jsonl", {"doc_hash": "abc"}),
        ("manifest", "exports/*/evidence/manifest.json", {"format": 2}),
        ("item", "exports/*/evidence/items.jsonl", {"number": -1}),
        ("event", "events.jsonl", {"event": "other"}),
        ("claim", "exports/*/evidence/claims.intoto.jsonl", {"payload": None}),
        ("lock", "exports/*/evidence/suite.lock.json", {"recorded": None}),
        ("attempt", "cache/attempts.jsonl", {"id": "abc"}),
    ],
)
def test_what_is_changed_is_not_valid(written: Path, name: str, pattern: str, change: dict[str, Any]) -> None:
    """A key of another type, an unknown one, and an unknown kind are told."""
    document = read_documents(sorted(written.glob(pattern))[0])[0] | change
    assert list(Draft4Validator(file_schemas()[name]).iter_errors(document))


@pytest.mark.parametrize("name", FILES)
def test_the_command_prints_the_schema_of_a_file(suite: Project, name: str) -> None:
    """`harness schema --of NAME` prints the schema."""
    outcome = suite.harness("schema", "--of", name)
    assert (outcome.code, json.loads(outcome.out)) == (0, json.loads(json.dumps(file_schemas()[name])))


def test_the_help_names_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of `harness schema` names all files that have a schema."""
    with pytest.raises(SystemExit):
        main(["schema", "--help"])
    told = capsys.readouterr().out
    assert [name for name in FILES if name not in told] == []


def test_a_file_that_has_no_schema_is_told(suite: Project) -> None:
    """Another name is one line with the names there are, and exit 4."""
    outcome = suite.harness("schema", "--of", "reprot")
    assert (outcome.code, outcome.err) == (4, 'error: --of "reprot": is not a kind of file; did you mean "report"?\n')
