"""Baselines that were released, and what the evidence says of prompting, seen from outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.testing import SUITE, TRAIN, CommandOutcome, Project, _map_prompt_to_fraction
from tests.helpers.suites import FEWSHOT, SLIDE, run_commands

ROWS = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(300)]

ANCHORED = SLIDE.replace("no slide", "no slow slide").replace('"released"', '"anchor"')
SKILL = "train.skill"


@pytest.fixture
def suite(project: Project) -> Project:
    """A project that has released a model of skill 0.9 once, by a suite without comparisons."""
    return project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which that suite has released its model."""
    return run_commands(tmp_path_factory.mktemp("released"), "run suite.toml", suite=SUITE, files={"test.jsonl": ROWS})


def compare_with_release(passed: Project, gates: str = SLIDE) -> Project:
    """Ask what was released once for comparisons with it."""
    return passed.write({"suite.toml": SUITE + gates})


@pytest.mark.slow
def test_first_release_has_nothing_to_be_compared_with(suite: Project) -> None:
    """Before there is a release a gate on it is an error, told at once, and never a silent pass."""
    outcome = suite.write({"suite.toml": SUITE + SLIDE}).run()
    assert outcome.code == 6
    assert outcome.verdict("no slide") == "ERROR"
    assert 'nothing was released to "exports/fake" yet; for the first release use harness waive GATE' in outcome.out
    assert outcome.out.index("nothing was released") < outcome.out.index("\ntrain")
    assert not (suite.folder / "exports").exists()


@pytest.mark.slow
def test_release_is_measured_beside_the_candidate(passed: Project) -> None:
    """What was exported last is loaded and answers the same rows; a worse candidate does not replace it."""
    outcome = compare_with_release(passed).run("--set", f"{SKILL}=0.92")
    assert outcome.code == 0
    assert "released::qa  exact_match" in outcome.out
    assert outcome.report.digests["released"] not in (outcome.report.digests["merged"], "")
    worse = passed.run("--set", f"{SKILL}=0.6")
    assert worse.code in (1, 6)
    assert worse.verdict("no slide", "adapter") != "PASS"


@pytest.mark.slow
def test_releasing_the_release_again_is_refused(passed: Project) -> None:
    """The same weights on both sides are an error, not a tie."""
    outcome = compare_with_release(passed).run()
    assert outcome.code == 6
    assert outcome.verdict("no slide") == "ERROR"
    assert "candidate and baseline have identical weights" in outcome.out


@pytest.mark.slow
def test_anchor_sees_a_slow_slide(suite: Project) -> None:
    """Each step down is small enough; the first release, kept beside the export, shows where they lead."""
    assert suite.run("--set", f"{SKILL}=0.9").code == 0
    before = (suite.folder / "exports/fake/model/model.safetensors").read_bytes()
    suite.write({"suite.toml": SUITE + SLIDE + ANCHORED})
    codes, steps, far = [], [], []
    for skill in (0.87, 0.84, 0.81):
        outcome = suite.run("--set", f"{SKILL}={skill}")
        codes.append(outcome.code)
        steps.append(outcome.verdict("no slide", "adapter"))
        far.append(outcome.verdict("no slow slide", "adapter"))
    assert steps == ["PASS", "PASS", "PASS"]
    assert (codes[0], far[0]) == (0, "PASS")
    assert codes[-1] != 0
    assert far[-1] != "PASS"
    assert (suite.folder / "exports/fake.first/model/model.safetensors").read_bytes() == before


def tamper(suite: Project) -> None:
    (suite.folder / "exports/fake/model/config.json").write_text('{"x": 1}', "utf-8")


def rename(suite: Project) -> None:
    path = suite.folder / "exports/fake/evidence/report.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "suite": "other"}), "utf-8")


def unpass(suite: Project) -> None:
    path = suite.folder / "exports/fake/evidence/gates.json"
    path.write_text(json.dumps([{**g, "outcome": "FAIL"} for g in json.loads(path.read_text("utf-8"))]), "utf-8")


def strip(suite: Project) -> None:
    shutil.rmtree(suite.folder / "exports/fake/evidence")


BROKEN = {
    "a file that was changed": (tamper, ': "model/config.json" differs from the released file'),
    "another suite's release": (rename, 'was released by suite "other", not by "fake"'),
    "gates that did not pass": (unpass, ': gate "floor" was FAIL, so it is not a release'),
    "no evidence": (
        strip,
        '" cannot be read, so this is not an export; name a folder that harness run exported',
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_release_is_refused(passed: Project, case: str) -> None:
    """A baseline is what was gated, or a mistake that is told before anything is measured."""
    breaks, told = BROKEN[case]
    breaks(compare_with_release(passed))
    outcome = passed.run("--set", f"{SKILL}=0.92")
    assert outcome.code == 4
    assert told in outcome.err


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('digest = "0123456789"', "the suite pins 0123456789"),
        ('digest = "latest"', "8 to 64 hex digits"),
        ('path = "elsewhere"', ': there is no release at "elsewhere"'),
        ('from = "base"', '"released" is the last release'),
        ('use = "fake"', 'remove "use"'),
    ],
)
def test_mistakes_about_releases(passed: Project, table: str, told: str) -> None:
    """A pin that does not fit, a folder that is not there, keys that contradict: one line each, exit 4."""
    compare_with_release(passed, f"\n[subject.released]\n{table}\n" + SLIDE)
    outcome = passed.run("--set", f"{SKILL}=0.92")
    assert outcome.code == 4
    assert told in outcome.err


@pytest.mark.slow
def test_pinned_release_is_accepted(suite: Project) -> None:
    """The first digits of the digest that the export was reported with are a pin."""
    digest = suite.run().report.digests["merged"]
    suite.write({"suite.toml": SUITE + f'\n[subject.released]\ndigest = "{digest[:12]}"\n' + SLIDE})
    assert suite.run("--set", f"{SKILL}=0.92").code == 0


def run_few_shot(suite: Project, *flags: str) -> CommandOutcome:
    return suite.write({"suite.toml": SUITE + FEWSHOT}).run(*flags)


@pytest.mark.slow
def test_better_than_prompting_is_said(suite: Project) -> None:
    """A proven gain over worked examples is stated in words, in the report and on the model card."""
    outcome = run_few_shot(suite)
    said = "fine-tuning is warranted: merged is better than the base with 3 examples in its prompt on qa.exact_match"
    assert outcome.code == 0
    assert said in outcome.out
    assert said[1:] in (suite.folder / "exports/fake/README.md").read_text("utf-8")
    assert said in outcome.report.conclusions


@pytest.mark.slow
@pytest.mark.parametrize(("skill", "how"), [(0.1, "is proven not to be"), (0.302, "rows would be needed")])
def test_prompting_that_suffices_is_said(suite: Project, skill: float, how: str) -> None:
    """Not shown to be better than ten examples: the report says that fine-tuning is not warranted."""
    outcome = run_few_shot(suite, "--set", f"{SKILL}={skill}")
    assert outcome.code != 0
    line = next(x for x in outcome.out.splitlines() if x.startswith("fine-tuning is not warranted by this evidence"))
    assert how in line


def find_skill_for_gain(wins: int) -> float:
    """Return the skill of a model that is right on so many rows more than the base."""
    luck = sorted(_map_prompt_to_fraction(row["input"]) for row in ROWS)
    return next(x for x in luck if sum(0.3 <= y < x for y in luck) == wins)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wins", "attempts", "evals", "attempt", "warranted"),
    [
        (4, "count", 1, 2, True),  # p = 0.031
        (4, "count", 2, 2, False),  # by Holm 0.063
        (5, "spend", 1, 1, True),  # p = 0.016, alpha 0.030
        (5, "spend", 1, 2, False),  # alpha 0.0076
    ],
)
def test_words_take_no_more_risk_than_gates(
    suite: Project, wins: int, attempts: str, evals: int, attempt: int, warranted: bool
) -> None:
    """A comparison that no gate asks for is at the attempt's share of alpha, and at Holm's of several evals."""
    more = '\n[[eval]]\nname = "three"\nuse = "contains"\ndata = "test.jsonl"\nlimit = 3\n' if evals > 1 else ""
    text = SUITE.replace("[model]", f'attempts = "{attempts}"\n\n[model]', 1).replace("min = 0.5", "min = 0.01")
    suite.write({"suite.toml": text + more + "\n[subject.fewshot]\nshots = 3\n"})
    for skill in [0.9] * (attempt - 1) + [find_skill_for_gain(wins)]:
        outcome = suite.run("--set", f"{SKILL}={skill}")
    assert ("fine-tuning is warranted" in outcome.out) is warranted, outcome.out


@pytest.mark.slow
def test_prompting_is_compared_without_a_gate_too(suite: Project) -> None:
    """A few-shot baseline that no gate names is still compared with, and gates nothing."""
    text = SUITE + "\n[subject.fewshot]\nshots = 3\n"
    outcome = suite.write({"suite.toml": text}).run()
    assert outcome.code == 0
    assert [v.gate for v in outcome.report.verdicts] == ["floor", "floor"]
    assert "fine-tuning is warranted: merged" in outcome.out


def test_a_file_of_an_option_that_changes_after_the_lock_ships_nothing(suite: Project) -> None:
    """What an evaluator reads under way is what the lock has a digest of, or nothing is exported."""
    plugin = """
from pathlib import Path
from harness import Score, hookimpl, metric

@metric("kept", better="higher", scale="proportion")
def kept(subject, samples, *, words: str):
    "Share of rows, whatever the file says."
    path = Path(__file__).with_name(words)
    path.write_text(path.read_text() + "!")
    for s in samples:
        yield Score(s.id, {"kept": 1.0}, answer="")

@hookimpl
def harness_evaluators():
    return {"kept": kept}
"""
    text = SUITE.replace('use = "exact_match"', 'use = "kept"\nwords = "words.txt"').replace("exact_match", "kept")
    suite.write({"suite.toml": text, "harnessfile.py": plugin, "words.txt": "please"})
    outcome = suite.run()
    assert not (suite.folder / "exports/fake").exists(), outcome.out
    assert '"words.txt" of eval "qa" changed after the suite was locked' in " ".join(
        (outcome.out + outcome.err).split()
    )
