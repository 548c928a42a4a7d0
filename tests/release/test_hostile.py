"""Run folders, exports, rows and statements that somebody made to deceive: refused in a line, and nothing outside."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.attestation import CLAIMS, EVIDENCE, GATES, LOCK, MANIFEST, SERVED, statement_bytes
from harness.release.signing import load_signer, make_envelope
from harness.release.verify import verify_export
from harness.testing import SUITE, Project
from tests.helpers.exports import edit_gates, reseal
from tests.helpers.suites import run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

pytestmark = pytest.mark.xdist_group("hostile")

ROWS = [{"id": f"q-{i}", "input": f"question {i}", "score": 1} for i in range(400)]
IDS = {"verdict": "same", "reason": "the same tokens", "seen": "/tokenize", "numbers": {}}
VSA = "https://slsa.dev/verification_summary/v1"
Make = Callable[[Path], object]  # what makes a folder of all these hostile: its part of them stands in the name


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a signed export, rows that pass, and a policy, all of them whole."""
    lines = ("run suite.toml -q", "keygen release", "sign exports/fake --key release.key")
    folder = run_commands(tmp_path_factory.mktemp("hostile"), *lines, suite=SUITE)
    next((folder / "reports").iterdir()).rename(folder / "run")
    shutil.rmtree(folder / "reports")
    base = [{**row, "score": int(i > 0)} for i, row in enumerate(ROWS)]
    for name, rows in (("base", base), ("candidate", ROWS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    head = 'suites = ["fake"]\nthreshold = 1\n\n[served]\nlayers = ["ids"]\n\n'
    (folder / "policy.toml").write_text(head + (folder / "release.pub").read_text("utf-8"), "utf-8")
    write_statement(folder)
    return folder


@pytest.fixture
def there(once: Path, tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, beside a folder that nothing may write to, in which a login script lies."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "profile").write_text("as it was\n", "utf-8")
    (outside / "report.json").write_bytes((once / "run/report.json").read_bytes())
    folder = shutil.copytree(once, tmp_path / "theirs")
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the modes and the bytes of all that lies in a folder."""
    return {p.name: (p.stat().st_mode, p.read_bytes() if p.is_file() else b"") for p in sorted(folder.rglob("*"))}


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(change(data) or data), "utf-8")


def make_link_edit(name: str, to: str = "") -> Make:
    """Let a link stand in the place of a file or a folder, to itself elsewhere or to what is said."""

    def make(folder: Path) -> None:
        path, kept = next(folder.glob(name)), folder.parent / "outside" / "moved"
        if to:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            path.rename(kept)
        path.symlink_to(folder.parent / "outside" / (to or "moved"))

    return make


def make_pipe_edit(name: str) -> Make:
    def make(folder: Path) -> None:
        path = next(folder.glob(name))
        path.unlink()
        os.mkfifo(path)

    return make


def make_report_edit(change: Callable[[dict[str, Any]], Any]) -> Make:
    return lambda folder: edit_json(folder / "run/report.json", change)


def make_name_edit(key: str, name: str) -> Make:
    return make_report_edit(lambda r: [one.update({key: name}) for one in r["results"]] and None)


def put(name: str, data: str | bytes) -> Make:
    def make(folder: Path) -> None:
        path = next(folder.glob(name), folder / name)
        path.unlink(missing_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))

    return make


def make_manifest_edit(change: Callable[[dict[str, Any]], Any]) -> Make:
    return lambda folder: edit_json(folder / "exports/fake" / EVIDENCE / MANIFEST, change)


def make_lock_edit(change: Callable[[dict[str, Any]], Any]) -> Make:
    def make(folder: Path) -> None:
        edit_json(folder / "exports/fake" / EVIDENCE / LOCK, change)
        reseal(folder / "exports/fake")

    return make


def lower_gates(one: dict[str, Any]) -> None:
    one["gates"] = [{**g, "min": 0.01, "claim": "at least 0.01"} for g in one["gates"]]


def write_statement(folder: Path, kind: str = SERVED, key: str = "release", root: str = "", **changes: Any) -> None:
    """Write a statement about the export, signed where a key is named."""
    told: dict[str, Any] = {"layers": {"ids": IDS}, "runtime": {"kind": "vllm", "name": "vLLM", "model": "m"}}
    told |= {"ended": datetime.now(UTC).isoformat(), "endpoint": {"name": "x"}, "longest": 9}
    if kind == VSA:
        told = {"verificationResult": "PASSED", "timeVerified": "2026", "policy": {"uri": "x"}, "verifiedLevels": []}
    root = root or verify_export(folder / "exports/fake").root
    made = statement_bytes(kind, [{"name": "fake", "digest": {"sha256": root}}], {**told, **changes})
    line = make_envelope(made, load_signer(folder / f"{key}.key")).to_json_line() if key else made.decode()
    (folder / "statement.jsonl").write_text(line + "\n", "utf-8")


def make_statement_edit(**changes: Any) -> Make:
    return lambda folder: write_statement(folder, **changes)


def rows(change: Callable[[int, dict[str, Any]], Mapping[str, Any]]) -> Make:
    lines = (json.dumps(change(i, dict(row))) + "\n" for i, row in enumerate(ROWS))
    return put("candidate.jsonl", "".join(lines))


def make_zip_edit(name: str, text: bytes, mode: int = 0) -> Make:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as log:
        log.writestr("header.json", b'{"version": 2, "status": "success", "eval": {"task_id": ""}}')
        info = zipfile.ZipInfo(name)
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        log.writestr(info, text)
    return put("candidate.jsonl", data.getvalue())


DEEP = "[" * 100_000
EVERY = ("--as", "every-eval-ever")
POLICY = ("--policy", "policy.toml")
RUNS: dict[str, Make] = {
    "a subject that is a path": make_name_edit("subject", "/etc"),
    "a subject above": make_name_edit("subject", "../../outside"),
    "an eval above": make_name_edit("eval", "../../outside/x"),
    "an eval that is a pattern": make_name_edit("eval", "*"),
    "a subject with a NUL": make_name_edit("subject", "merged\0"),
    "an absolute suite": make_report_edit(lambda r: r.update(suite="/etc")),
    "a verdict's candidate above": make_report_edit(
        lambda r: [v.update(candidate="../..") for one in r["results"] for v in one["verdicts"]] and None
    ),
    "a report that is a link": make_link_edit("run/report.json"),
    "a report that is a pipe": make_pipe_edit("run/report.json"),
    "a report nested without end": put("run/report.json", DEEP),
    "a report that holds another's": put("run/report.json", '{"format": 1, "format": 1}'),
    "a subject's folder that is a link": make_link_edit("run/merged"),
    "rows that are a link": make_link_edit("run/merged/samples_*"),
    "rows that are a pipe": make_pipe_edit("run/merged/samples_*"),
    "a lock that is a link": make_link_edit("run/suite.lock.json"),
}
EXPORTS: dict[str, Make] = {
    "a manifest that is a link": make_link_edit(f"exports/fake/{EVIDENCE}/{MANIFEST}"),
    "claims that are a link": make_link_edit(f"exports/fake/{EVIDENCE}/{CLAIMS}"),
    "claims that are a link to a script": make_link_edit(f"exports/fake/{EVIDENCE}/{CLAIMS}", "profile"),
    "an evidence folder that is a link": make_link_edit(f"exports/fake/{EVIDENCE}"),
    "a model folder that is a link": make_link_edit("exports/fake/model"),
    "weights that are a link": make_link_edit("exports/fake/model/model.safetensors"),
    "a lock that is a pipe": make_pipe_edit(f"exports/fake/{EVIDENCE}/{LOCK}"),
    "a card that is a link to a script": make_link_edit("exports/fake/README.md", "profile"),
    "a name above in the manifest": make_manifest_edit(
        lambda m: m["files"].update({"model/../../../outside/x": {"size": 1}})
    ),
    "an absolute name in the manifest": make_manifest_edit(lambda m: m["files"].update({"/etc/passwd": {"size": 1}})),
    "a key twice": put(f"exports/fake/{EVIDENCE}/{MANIFEST}", '{"format": 1, "format": 1}'),
    "gates nested without end": put(f"exports/fake/{EVIDENCE}/{GATES}", DEEP),
    "a verdict that its rows do not come to": lambda folder: edit_gates(folder / "exports/fake", value=0.99),
    "a gate that was lowered": make_lock_edit(
        lambda one: [g.update(min=0.01, claim="at least 0.01") for g in one["gates"]] and None
    ),
    "a risk that was raised": make_lock_edit(lambda one: one["suite"]["header"].update(alpha=0.5)),
    "a candidate that is a path": make_manifest_edit(lambda m: m.update(candidate="../../outside")),
    "a root of another": make_manifest_edit(lambda m: m.update(root="0" * 64)),
}
OTHERS: dict[str, Make] = {
    "a weight whose sum is none": rows(lambda i, row: {**row, "w": 1e308}),
    "a score whose sum is none": rows(lambda i, row: {**row, "score": 1e308}),
    "a score of thousands of digits": rows(lambda i, row: row if i else {**row, "score": "9" * 5000}),
    "a row twice": rows(lambda i, row: {**row, "id": "q-0", "input": "question 0"}),
    "a line nested without end": put("candidate.jsonl", DEEP),
    "rows that are a pipe": make_pipe_edit("candidate.jsonl"),
    "rows that are a folder of links": lambda folder: (
        (folder / "candidate.jsonl").unlink()
        or (folder / "candidate.jsonl").mkdir()
        or (folder / "candidate.jsonl/samples_qa_2026-11-27T12-35-20.177890.jsonl").symlink_to(folder / "base.jsonl")
    ),
    "a zip that leads out": make_zip_edit("../../outside/profile", b"{}"),
    "a zip with a link": make_zip_edit("samples/1.json", b"../../outside/profile", 0o120777),
    "a zip that is a bomb": make_zip_edit("samples/1.json", bytes(300 << 20)),
    "a zip that is cut": put("candidate.jsonl", b"PK\x03\x04header.json"),
}
STATEMENTS: dict[str, Make] = {
    "about another root": make_statement_edit(root="0" * 64),
    "signed by nobody": make_statement_edit(key=""),
    "of tomorrow": make_statement_edit(ended="2999-01-01T00:00:00+00:00"),
    "of layers that differ": make_statement_edit(layers={"ids": {**IDS, "verdict": "differs"}}),
    "of no layer": make_statement_edit(layers={}),
    "of a layer with an escape sequence": make_statement_edit(
        layers={"ids": {**IDS, "verdict": "\x1b]0;pwned\x07same"}}
    ),
    "of no runtime": make_statement_edit(runtime=None),
    "of another predicate": make_statement_edit(kind="urn:other"),
    "that is nested without end": put("statement.jsonl", '{"_type": ' + DEEP),
    "that is cut": put("statement.jsonl", '{"payload": "e30="'),
}


def check(project: Project, words: list[str], codes: tuple[int, ...], outside: dict[str, tuple[int, bytes]]) -> None:
    """Run a command: it ends with one of these codes and a line, with no escape, and writes nothing outside."""
    outcome = project.harness(*words)
    assert outcome.code in codes, (words, outcome)
    assert outcome.err.count("\n") <= 1 and "Traceback" not in outcome.err and "\x1b" not in outcome.out + outcome.err
    assert snapshot(project.folder / "outside") == outside, words


@pytest.mark.parametrize("case", RUNS)
def test_hostile_runs(case: str, there: Path, project: Project) -> None:
    """No command that looks at a run writes elsewhere, and none takes its rows for a proof."""
    RUNS[case](there)
    outside = snapshot(project.folder / "outside")
    gate = ["gate", "run#base", "run#merged", "--metric", "qa:exact_match", "--better-by", "0"]
    check(project, gate, (4,), outside)
    for words in (["show", "run"], ["show", "run", "--rows"], ["report", "run"], ["report", "run", "--markdown"]):
        check(project, words, (0, 1, 4), outside)
    for words in (
        ["compare", "run", "run"],
        ["judge", "disputes", "run"],
        ["report", "run", "--as", "every-eval-ever"],
    ):
        check(project, words, (0, 4), outside)


@pytest.mark.parametrize("case", EXPORTS)
def test_hostile_exports(case: str, there: Path, project: Project) -> None:
    """None is verified, signed or promoted, and no key or record gets a line of it."""
    EXPORTS[case](there)
    export, outside = "exports/fake", snapshot(project.folder / "outside")
    check(project, ["verify", export], (7,), outside)
    check(project, ["verify", export, "--policy", "policy.toml", "--served", "statement.jsonl"], (7,), outside)
    check(project, ["sign", export, "--key", "release.key"], (4,), outside)
    check(project, ["sign", export, "--key", "release.key", "--unrecomputed"], (4,), outside)
    check(project, ["promote", export, "--policy", "policy.toml"], (4, 7), outside)
    check(project, ["parity", export, "--runtime", "http://127.0.0.1:9/v1"], (4, 8), outside)
    assert not [*there.glob("exports/fake.releases/*/evidence")]


@pytest.mark.parametrize("case", OTHERS)
def test_hostile_rows(case: str, there: Path, project: Project) -> None:
    """None of them passes a gate."""
    OTHERS[case](there)
    weight = ["--weight", "w"] if "weight" in case else []
    if weight:
        text = [json.dumps({**row, "w": 1}) + "\n" for row in ROWS]
        put("base.jsonl", "".join(text))(there)
    outside = snapshot(project.folder / "outside")
    gate = ["gate", "base.jsonl", "candidate.jsonl", "--worse-by-at-most", "0.02", *weight]
    check(project, gate, (1, 4, 6), outside)


@pytest.mark.parametrize("case", STATEMENTS)
def test_hostile_statements(case: str, there: Path, project: Project) -> None:
    """None makes an export one that a policy takes."""
    STATEMENTS[case](there)
    outside = snapshot(project.folder / "outside")
    check(project, ["verify", "exports/fake", *POLICY, "--served", "statement.jsonl"], (4, 7), outside)


def test_what_is_whole_is_taken(there: Path, project: Project) -> None:
    """The same files pass when nobody changed them, so that what is refused is refused for what was changed."""
    outside = snapshot(project.folder / "outside")
    gate = ["gate", "run#base", "run#merged", "--metric", "qa:exact_match", "--better-by", "0", "--allow", "dtype"]
    check(project, gate, (0,), outside)
    check(project, ["gate", "base.jsonl", "candidate.jsonl", "--worse-by-at-most", "0.02"], (0,), outside)
    check(project, ["verify", "exports/fake", *POLICY, "--served", "statement.jsonl"], (0,), outside)
    check(project, ["promote", "exports/fake"], (0,), outside)
    assert len({*RUNS, *EXPORTS}) + len(OTHERS) + len(STATEMENTS) >= 40
