"""A run in a pull request: annotations at the lines of gates, a summary, JUnit XML, and the action."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.cli.github import (
    MAX_ANNOTATIONS,
    MAX_MESSAGE_CHARS,
    format_annotation,
    limit_annotations,
    list_annotations,
)
from harness.records.run import ItemResult, Run
from harness.records.verdicts import Outcome, Verdict
from harness.reports.junit import format_junit
from harness.reports.markdown import MAX_FLIPS, MAX_SUMMARY_BYTES, format_run_markdown
from harness.reports.report_json import read_run
from harness.suite.lines import read_gate_lines
from harness.testing import ROWS, SUITE, TRAIN, Project

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "</code></td></table></details>\n\n# heading\n::error::pwned\n##[error]pwned | `x` ![i](http://x.y/z) <img src=x>"
)
GATES = """
[[gate]]
id = "a: 100 %, and more"
metric = "qa.exact_match"
min = 0.999

[[gate]]
id = "hope"
metric = "qa.exact_match"
min = 0.998
severity = "warn"
"""


@pytest.fixture
def job(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in a job of GitHub Actions, of which one gate blocks and one warns."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.folder))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.folder / "summary.md"))
    return project.write({"suite.toml": SUITE + GATES, "test.jsonl": ROWS, "train.jsonl": TRAIN})


def find_gate_line(folder: Path, gate: str) -> int:
    """Return the line of a gate's table."""
    lines = (folder / "suite.toml").read_text("utf-8").split("\n")
    return lines.index(f'id = "{gate}"')


def test_gates_are_annotated_at_their_lines(job: Project) -> None:
    """What blocks is an error at the line of its [[gate]], what warns a warning, and a PASS is neither."""
    outcome = job.run()
    told = [line for line in outcome.out.splitlines() if line.startswith(("::error", "::warning", "::notice"))]
    where = f"file=suite.toml,line={find_gate_line(job.folder, 'a: 100 %, and more')},"
    (error,) = [line for line in told if line.startswith("::error")]
    assert error.startswith(
        f"::error {where}title=INCONCLUSIVE a%3A 100 %25%2C and more::merged: "
    ) or error.startswith(f"::error {where}title=FAIL a%3A 100 %25%2C and more::merged: ")
    assert "qa.exact_match at least 0.999: " in error
    hope = f"line={find_gate_line(job.folder, 'hope')},"
    assert any(line.startswith("::warning ") and hope in line for line in told)
    assert not any("floor" in line for line in told)


@pytest.mark.slow
def test_commands_of_models_are_stopped(job: Project) -> None:
    """All that is printed stands between a token nobody can guess and its end; our commands come after it."""
    first, second = (job.run().out.splitlines() for _ in range(2))
    tokens = [lines[0].removeprefix("::stop-commands::") for lines in (first, second)]
    assert len(set(tokens)) == 2
    for lines, token in zip((first, second), tokens, strict=True):
        end = lines.index(f"::{token}::")
        assert all(line.startswith(("::error ", "::warning ", "::notice ")) for line in lines[end + 1 :])
        assert not any(line.startswith("::") for line in lines[1:end])


@pytest.mark.slow
def test_annotations_can_be_asked_for(project: Project) -> None:
    """`run --github` annotates anywhere; where there is no summary to write none is."""
    project.write({"suite.toml": SUITE + GATES, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    assert "::warning " in project.run("--github").out
    assert "::" not in project.run().out.replace("::qa", "")


@pytest.mark.slow
def test_a_summary_that_cannot_be_written_changes_nothing(job: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict and its exit code are what they are, and that there is no summary is told."""
    code = job.run().code
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job.folder))
    outcome = job.run()
    assert (outcome.code, "::warning::the summary cannot be written" in outcome.out) == (code, True)


@pytest.mark.slow
def test_files_hold_no_commands(job: Project) -> None:
    """What is written into a file, or read by a script, has no command in it; mistakes are still annotated."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for words in (["schema"], ["plugins"], ["show", "nowhere"], ["schema", "--json"]):
        command = [sys.executable, "-c", "import sys; from harness.cli.main import main; sys.exit(main())", *words]
        with (job.folder / "out").open("w") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, env=env, check=False)
        assert "::" not in (job.folder / "out").read_text("utf-8"), words
        assert done.stderr.count("::error") == (done.returncode != 0)


def test_a_refused_run_is_summed_up(job: Project) -> None:
    """The summary of a run that ends with exit 4 says that it was refused, and why, as text."""
    job.write({"suite.toml": SUITE + '\n[[gate]]\nid = "x"\n"<b>metrik" = "qa"\nmin = 0.5\n'})
    assert job.run().code == 4
    summary = (job.folder / "summary.md").read_text("utf-8")
    assert summary.startswith("## Refused: there is no verdict, and nothing may ship\n\n- ")
    assert "metrik" in summary and "<b>" not in summary


def test_mistakes_are_annotated_too(job: Project) -> None:
    """A mistake in the suite stands at its line."""
    job.write({"suite.toml": SUITE + '\n[[gate]]\nid = "x"\nmetrik = "qa.exact_match"\nmin = 0.5\n'})
    outcome = job.run()
    assert outcome.code == 4
    line = find_gate_line(job.folder, "x") + 2
    assert any(
        x.startswith(f"::error file=suite.toml,line={line}::") and "metrik" in x for x in outcome.out.splitlines()
    )


def test_the_summary_holds_decision_gates_and_rows(job: Project) -> None:
    """The job's summary begins with the sentence, then gates worst first, then rows that unfold."""
    job.run()
    text = (job.folder / "summary.md").read_text("utf-8")
    assert text.startswith("## nothing ships: ")
    table = [line for line in text.splitlines() if line.startswith("| ") and "qa." in line]
    assert "a: 100 %, and more" in table[0] and "✓ PASS" in table[-1]
    assert "at 95%, one-sided" in text
    assert 0 < text.count("<tr><td>") <= MAX_FLIPS


class Tags(html.parser.HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.slow
def test_answers_have_no_effect_in_the_summary(job: Project) -> None:
    """A model's answer is text in the summary: no tag, no Markdown, no link, no command, and no end of its block."""
    job.run()
    folder = max((job.folder / "reports").iterdir())
    for path in folder.glob("*/samples_qa_*.jsonl"):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        rows = [{**row, "resps": [[HOSTILE]], "target": HOSTILE, "id": row["id"]} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    text = format_run_markdown(read_run(folder), folder)
    block = text[text.index("<details>") : text.rindex("</details>")]
    assert "\n\n" not in block.replace("</details>\n\n<details>", "")
    page = Tags()
    page.feed(block)
    assert set(page.tags) <= {"details", "summary", "table", "tr", "th", "td", "code"}
    assert any("<img src=x>" in part for part in page.texts)
    assert "##[" not in text and "http://x" not in text
    assert not any(line.lstrip().startswith(("::error", "# heading")) for line in text.splitlines())


def test_rows_of_private_evals_are_in_no_summary(job: Project) -> None:
    """What is private is not shown to whoever may read a pull request."""
    job.write({"suite.toml": (SUITE + GATES).replace('name = "qa"', 'name = "qa"\nprivate = true')})
    job.run()
    assert "<details>" not in (job.folder / "summary.md").read_text("utf-8")


def make_run(verdicts: list[Verdict]) -> Run:
    """Return a run with one report."""
    report = ItemResult("s::merged::qa", "merged", "qa", "done", {"em": 0.5}, verdicts=tuple(verdicts))
    return Run("s", "s.toml", "d", 17, 0.05, "m", "2026-11-26T00:00:00+00:00", "0.1.0", len(verdicts), results=[report])


def make_failed_verdict(gate: str, **other: object) -> Verdict:
    """Return a verdict that failed."""
    made = Verdict(gate, "merged", Outcome.FAIL, "0.1 [0.0, 0.2]", "qa.em", "at least 0.5", blocking=True)
    made = replace(made, estimate=0.1, lower=0.0, upper=0.2, threshold=0.5, alpha=0.05, n=60)
    return replace(made, **other)  # type: ignore[arg-type]


def test_at_most_ten_annotations_of_a_kind() -> None:
    """GitHub drops the eleventh of a kind without a word, so the tenth says how many more there are."""
    many = list_annotations(make_run([make_failed_verdict(f"g{i}") for i in range(25)]), {})
    assert len(many) == MAX_ANNOTATIONS and "and 16 more" in many[-1]
    assert len(list_annotations(make_run([make_failed_verdict(f"g{i}") for i in range(10)]), {})) == MAX_ANNOTATIONS
    assert limit_annotations([]) == []


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "50 %", "x::y,z", HOSTILE, "%0A::error::x", "x" * 5000, "\x1b[2J"])
def test_an_annotation_is_one_line(text: str) -> None:
    """Nothing in a text ends a command or begins another; what the runner reads back is the text, spelt out."""
    line = format_annotation("error", text, text, 3, text)
    assert line.startswith("::error file=") and len(line.splitlines()) == 1
    properties, _, data = line.removeprefix("::error ").partition("::")
    assert len(properties.split(",")) == 3 and "::" not in properties
    assert len(data) <= 3 * MAX_MESSAGE_CHARS + 10
    assert "%" not in data.replace("%25", "").replace("%0A", "").replace("%0D", "")


def test_a_summary_stays_under_a_mebibyte() -> None:
    """GitHub refuses a summary of more: a long one ends with where the rest is."""
    text = format_run_markdown(make_run([make_failed_verdict(f"g{i}", claim="é" * 3000) for i in range(400)]))
    assert len(text.encode()) <= MAX_SUMMARY_BYTES + 100 < 2**20
    assert text.endswith("in report.json\n")


@pytest.mark.parametrize(
    "text", [None, "", "[[gate]]\n", "gate = 3\n", "[[gate]]\nid = 1\n[x", "\udcff", "[gate]\nid = 'a'"]
)
def test_lines_of_a_suite_that_changed_meanwhile(tmp_path: Path, text: str | None) -> None:
    """A suite that is gone or broken by the end of a run has no lines, and that is all."""
    path = tmp_path / "suite.toml"
    if text is not None:
        path.write_text(text, "utf-8", errors="surrogateescape")
    assert read_gate_lines(path) == {}


def list_junit_cases(verdicts: list[Verdict]) -> list[ET.Element]:
    """Return the cases of a run's JUnit XML."""
    return ET.fromstring(format_junit(make_run(verdicts))).findall("testcase")


def test_junit_has_thresholds() -> None:
    """A case says what was claimed and found, and a failure's message names the threshold."""
    (case,) = list_junit_cases([make_failed_verdict("floor")])
    told = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert (told["claim"], told["threshold"], told["estimate"], told["n"]) == ("at least 0.5", "0.5", "0.1", "60")
    failure = case.find("failure")
    assert failure is not None and "qa.em at least 0.5: 0.1 [0.0, 0.2]" in (failure.get("message") or "")


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("other", [{"blocking": False}, {"decides": False}])
def test_what_holds_nothing_up_is_never_red(outcome: Outcome, other: dict[str, object]) -> None:
    """A warn gate and a candidate that does not ship are skipped at worst."""
    (case,) = list_junit_cases([make_failed_verdict("g", outcome=outcome, **other)])
    assert case.find("failure") is None and case.find("error") is None
    assert (case.find("skipped") is None) == (outcome is Outcome.PASS)


def test_an_item_that_broke_is_red_though_its_gates_warn() -> None:
    """What could not be evaluated ends a run with 6, and no severity hides it."""
    run = make_run([make_failed_verdict("g", outcome=Outcome.ERROR, blocking=False)])
    broken = replace(run, results=[replace(run.results[0], outcome="error", error="boom")])
    suite = ET.fromstring(format_junit(broken))
    assert (suite.get("errors"), suite.get("skipped"), suite.get("tests")) == ("1", "1", "2")


@pytest.mark.slow
def test_the_action_is_sound(tmp_path: Path) -> None:
    """action.yml is read by YAML, hands no input to a shell but by the environment, and its words run the harness."""
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    assert action["runs"]["using"] == "composite"
    steps = {step.get("name", step.get("uses")): step for step in action["runs"]["steps"]}
    scripts = [step["run"] for step in steps.values() if "run" in step]
    assert all("${{" not in script for script in scripts)
    assert all(step.get("shell") == "bash" for step in steps.values() if "run" in step)
    used = {name.split(".")[1].split(" ")[0] for name in json.dumps(action).split("${{ inputs")[1:]}
    assert used <= {*action["inputs"]} and {"suite", "args", "extras", "reports", "artifact"} <= {*action["inputs"]}
    assert steps["Upload"]["if"].startswith("always()")
    output = tmp_path / "output"
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(output)}
    env |= {
        "SUITE": str(ROOT / "suites/none.toml"),
        "ARGS": "--collect-only -k *",
        "REPORTS": str(tmp_path / "reports"),
    }
    done = subprocess.run(
        ["bash", "-e", "-c", steps["Run"]["run"]], capture_output=True, text=True, env=env, check=False
    )
    assert (done.returncode, output.read_text("utf-8").splitlines()[0]) == (4, "exit-code=4")
    assert "::error file=" in done.stdout and "cannot be read" in done.stderr
    done = subprocess.run(
        ["bash", "-e", "-c", steps["Run"]["run"]], capture_output=True, text=True, env={**env, "BASE": "x"}
    )
    assert done.returncode == 4 and "one of the two" in done.stdout


@pytest.mark.slow
def test_the_action_gates_rows_and_edits_its_comment(tmp_path: Path) -> None:
    """Two folders of lm_eval come to a verdict, told in one comment of at most sixty lines, which is then edited."""
    steps = {
        step.get("name"): step for step in yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["runs"]["steps"]
    }
    (tmp_path / "bin").mkdir()
    gh = tmp_path / "bin" / "gh"
    gh.write_text(
        '#!/bin/bash\necho "$@" >> told\nfor word in "$@"; do case "$word" in body=@*) cp "${word#body=@}" body;;'
        " --jq) cat known 2>/dev/null;; esac; done\n"
    )
    gh.chmod(0o755)
    rows = ROOT / "tests/fixtures/rows/lm_eval-0.4.13"
    env = {"PATH": f"{gh.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}", "GITHUB_OUTPUT": "output"}
    env |= {
        "BASE": f"{rows}/base",
        "CANDIDATE": f"{rows}/candidate_bf16",
        "REPORTS": "reports",
        "GITHUB_ACTIONS": "true",
    }
    env |= {"CLAIM": "--metric cap_mc:acc --worse-by-at-most 0.1", "HARNESS_CACHE": "cache"}
    env |= {"GITHUB_REPOSITORY": "me/it", "PULL_REQUEST": "7", "NAME": "rows", "JOB": "gate 0", "ARGS": "--alpha 0.04"}
    env |= {"GITHUB_STEP_SUMMARY": "summary", "GITHUB_SERVER_URL": "https://github.test", "GITHUB_RUN_ID": "5"}

    def ended(name: str, **more: str) -> int:
        for file in ("summary", "output") if name == "Run" else ():  # each step has files of its own
            (tmp_path / file).write_text("", "utf-8")
        given = {**env, **more, **_read_step_outputs(tmp_path / "output")}
        script = ["bash", "-e", "-c", steps[name]["run"]]
        return subprocess.run(script, cwd=tmp_path, env=given, check=False).returncode

    assert (ended("Run"), ended("Comment")) == (6, 0)
    assert next((tmp_path / "reports").iterdir()).name in (tmp_path / "output").read_text("utf-8")
    assert json.loads(next((tmp_path / "reports").glob("*/report.json")).read_text("utf-8"))["alpha"] == 0.04
    body = (tmp_path / "body").read_text("utf-8")
    assert body.startswith("<!-- finetune-harness ") and "not proven" in body and len(body.splitlines()) <= 61
    mine = (tmp_path / "told").read_text("utf-8").splitlines()[0]
    assert 'select(.user.login == "github-actions[bot]" and' in mine and body.splitlines()[0] in mine
    assert (
        (tmp_path / "told").read_text("utf-8").splitlines()[1].startswith("api --silent repos/me/it/issues/7/comments")
    )
    (tmp_path / "known").write_text("41\n")
    assert ended("Comment") == 0
    last = (tmp_path / "told").read_text("utf-8").splitlines()[-1]
    assert last.startswith("api --silent --method PATCH repos/me/it/issues/comments/41")
    # a refused run takes no older report of the checkout for its own, and says why
    assert (ended("Run", CLAIM="--worse-by-at-most nothing"), ended("Comment")) == (4, 0)
    refused = (tmp_path / "body").read_text("utf-8")
    assert "**Exit code 4: this run gave no verdict.**" in refused and "not proven" not in refused
    assert (ended("Run", CANDIDATE="none"), ended("Comment")) == (4, 0)
    refused = (tmp_path / "body").read_text("utf-8")
    assert "## Refused: there is no verdict, and nothing may ship" in refused and "cannot be read" in refused
    # another gate has a comment of its own
    assert ended("Comment", NAME="other") == 0
    assert (tmp_path / "body").read_text("utf-8").splitlines()[0] != body.splitlines()[0]
    # a step that never came to its end hands nothing over
    (tmp_path / "output").write_text("", "utf-8")
    assert ended("Comment") == 0
    assert "before it could say why: https://github.test/me/it/actions/runs/5" in (tmp_path / "body").read_text("utf-8")


def _read_step_outputs(output: Path) -> dict[str, str]:
    """Return the outputs of a step as the next one gets them."""
    told = dict(line.split("=", 1) for line in output.read_text("utf-8").splitlines()) if output.exists() else {}
    return {"SAID": told.get("said", ""), "CODE": told.get("exit-code", "")}


def test_a_matrix_keeps_its_attempts() -> None:
    """Each job of a matrix goes on from its own ledger, and what it saves has a key of its content."""
    steps = {s.get("name"): s for s in yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["runs"]["steps"]}
    job = "${{ inputs.ledger }}-${{ github.job }}-${{ strategy.job-index }}-"
    assert steps["Attempts"]["with"]["key"] == job + "${{ hashFiles('.harness-ledger/**') }}"
    restored = steps["Earlier attempts"]["with"]
    assert restored["key"].startswith(job) and restored["restore-keys"].splitlines()[0] == job


LEAKS = """
from harness import Score, hookimpl, metric

@metric("fine", better="higher", scale="proportion")
def leaky(samples, model, *, api_key: str = "", address: str = ""):
    raise RuntimeError(f"401 from {address} with KEY {{'X-Corp': '{api_key}'}} and sk-{'a' * 30}")

@hookimpl
def harness_evaluators():
    return {"leaky": leaky}
"""


def test_the_summary_tells_no_secret(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an evaluator raises with its options in the text is struck, as it is everywhere else."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.folder / "summary.md"))
    given = 'api_key = "corp-12345678"\naddress = "http://me:letmein99@host/v1"'
    text = SUITE.replace('use = "exact_match"', f'use = "leaky"\n{given}').replace("qa.exact_match", "qa.fine")
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": LEAKS})
    project.run("--github")
    told = (project.folder / "summary.md").read_text("utf-8")
    assert "401 from" in told
    assert not [word for word in ("corp-12345678", "letmein99", "a" * 30) if word in told]
