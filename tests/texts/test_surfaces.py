"""Every surface that writes text strikes secrets: those in the code are known, and each is tried with a canary."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness.texts import secrets

ROOT = Path(__file__).parents[2]
WRITES = {"print", "write", "writelines", "write_text", "append_line", "log_text", "add_text"}
TRIED = """
harness/cli: github signals main parser run screen streams terminal verify
harness/pipeline: ledger lifecycle run_context
harness/reports: events run_folder
harness/rows: bundle to_every_eval_ever writing
harness/texts: printing
harness/training: callback
plugins/harness_report: __init__ commands compare svg history page
plugins/harness_trackers: log
"""  # by the canary below, or in test_secrets (a suite's options), test_trackers and tests/rows
NO_TEXT_OF_OTHERS = """
harness: files subprocess_call
harness/artifacts: artifact_cache
harness/cause: proof
harness/cli: init plan_report release selftest
harness/init: table
harness/pipeline: artifacts model_selection preflight record
harness/planning: aa_record benchmark
harness/release: export promote publish signing
harness/rows: bundle_verification
harness/suite: waiving
harness/workers: gpus child protocol
plugins/harness_checks: batches frames
plugins/harness_export: __init__ fp8 quantised writing
plugins/harness_hf: classes fp8 probe sabotage sources
plugins/harness_judge: calibration commands
plugins/harness_lm_eval: names
plugins/harness_lora: merge
plugins/harness_served: statement
plugins/harness_sft: processes train trainer worker
plugins/harness_view: commands labels
"""  # numbers, digests, models, names of a suite, own training rows, what a process says to its own, or what a
# run's folder or the card of an export holds
KEY, HEADER, PASSWORD, TOKEN = "corp-12345678", "team-87654321", "letmein99", "sk-" + "a" * 30
LEAKS = """
from harness import Score, hookimpl, metric

@metric("fine", better="higher", scale="proportion")
def leaky(subject, samples, *, api_key: str = "", headers: dict[str, str] = {}, address: str = "", late: bool = False):
    said = f"401 from {address} with {api_key} {headers} and TOKEN"
    for sample in samples:
        yield Score(sample.id, {"fine": 0.0}, note=said, details={"said": said})
    if not late:
        raise RuntimeError(said)

@hookimpl
def harness_evaluators():
    return {"leaky": leaky}
""".replace("TOKEN", TOKEN)
SECRETS = f'api_key = "{KEY}"\nheaders = {{ X-Corp = "{HEADER}" }}\naddress = "http://me:{PASSWORD}@host/v1"'


def parse_module_paths(text: str) -> set[str]:
    """Return the paths of modules that are listed by their folders."""
    lines = [line.split(": ") for line in text.strip().splitlines()]
    return {f"{folder}/{name}.py" for folder, names in lines for name in names.split()}


def iterate_text_writers() -> Iterator[str]:
    """Yield the modules that call what writes text."""
    for path in (*(ROOT / "harness").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
        if names & WRITES and not {"testing", "templates"} & {*path.parts}:
            yield path.relative_to(ROOT).as_posix()


@pytest.mark.slow
def test_every_module_that_writes_text_is_known() -> None:
    """A new one is a new surface: try it below, or say why nothing of others gets there."""
    assert sorted(iterate_text_writers()) == sorted(parse_module_paths(TRIED) | parse_module_paths(NO_TEXT_OF_OTHERS))


@pytest.mark.slow
@pytest.mark.parametrize("late", ["false", "true"], ids=["raised", "noted"])
def test_no_surface_tells_a_secret(late: str, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an evaluator raises, or notes of a row, with its options in the text, is struck wherever it is written."""
    monkeypatch.setattr(secrets, "_known", set())
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.folder / "summary.md"))
    text = SUITE.replace('use = "exact_match"', f'use = "leaky"\nlate = {late}\n{SECRETS}')
    text = text.replace("qa.exact_match", "qa.fine")
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": LEAKS})
    project.write({"summary.md": ""})
    marks = ["-v", "--github", "--events", "events.jsonl", "--junit-xml", "junit.xml"]
    said = [project.harness("run", "suite.toml", "--out", "reports", *marks)]
    (at,) = (project.folder / "reports").iterdir()
    for words in (
        ["show"],
        ["show", "--rows", "--wrong"],
        ["history", "suite.toml"],
        ["report", str(at), "--markdown"],
    ):
        said.append(project.harness(*words))
    run = harness.run(project.folder / "suite.toml", out=project.folder / "again", plugins=("harness.testing",))
    told = "".join(outcome.out + outcome.err for outcome in said)
    told += run._repr_html_() + (repr(run.rows("qa")) if late == "true" else "")
    texts = {"what was printed": told}
    for path in (path for path in project.folder.rglob("*") if path.is_file()):
        if path.name not in ("suite.toml", "harnessfile.py") and path.suffix != ".pyc":
            texts[path.relative_to(project.folder).as_posix()] = path.read_bytes().decode("utf-8", "replace")
    assert len([name for name, text in texts.items() if "401 from" in text]) >= 2
    assert not [name for name, text in texts.items() if any(s in text for s in (KEY, HEADER, PASSWORD, TOKEN))]
