"""What was written to the documentation of commit 5f30330 still works, or is refused by the rule that changed."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

import harness
from harness.testing import CommandOutcome, Project, StubJudge

HERE = Path(__file__).parent
KEPT = HERE / "kept"
VERDICTS: Mapping[str, list[list[Any]]] = json.loads((KEPT / "verdicts.json").read_text("utf-8"))
PLUGIN = ("-p", "house", "-p", "no:checks")
LEDGER = "cache/attempts.jsonl"
REFUSED = "has evidence of format digests: manifest.json has format 1, but this harness reads 2; export again"


@pytest.fixture
def old(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project with what its author wrote then, suites and plugins, and an empty cache."""
    lay(HERE / "project", project.folder)
    monkeypatch.syspath_prepend(project.folder)
    monkeypatch.setenv("PYTHONPATH", str(project.folder))  # of the children of `plan --measure`
    monkeypatch.delitem(sys.modules, "house", raising=False)
    yield project
    sys.modules.pop("house", None)


LIVELIER = tuple(f'["progress", "{stage}' for stage in ("preflight", "training rows", "checks of "))


@pytest.fixture
def left(old: Project) -> Project:
    """The same with all that the harness of then left behind: reports, exports, promotions, waivers, cache."""
    lay(KEPT, old.folder)
    with sqlite3.connect(old.folder / "cache/responses.sqlite") as db:
        db.executescript((old.folder / "cache/responses.sql").read_text("utf-8"))
    (old.folder / LEDGER).rename(old.folder / "then.jsonl")  # as it says
    return old


def lay(source: Path, to: Path) -> None:
    """Copy files into folders of today's user: a cache that others can write is refused."""
    for path in source.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            place = to / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            place.write_bytes(path.read_bytes())


def run(project: Project, suite: str, *flags: str) -> CommandOutcome:
    return project.run(*PLUGIN, *flags, suite=suite)


def said(outcome: CommandOutcome) -> list[list[Any]]:
    return [[v.candidate, v.gate, v.outcome, v.value] for v in outcome.report.verdicts]


def heard(log: Path) -> list[str]:
    """Return what listeners heard, each sign of life once: more rows are handed out at a time now, by more stages."""
    lines = (line for line in log.read_text("utf-8").splitlines() if not line.startswith(LIVELIER))
    return [line for line, _ in groupby(lines)]


def expected(suite: str) -> list[Any]:
    """Return the verdicts of then; what stops early stops after other numbers of rows now, so its value is another."""
    values = {i: ANY if gate == "early" else pytest.approx(v) for i, (_, gate, _, v) in enumerate(VERDICTS[suite])}
    return [[candidate, gate, outcome, values[i]] for i, (candidate, gate, outcome, _) in enumerate(VERDICTS[suite])]


# -- plugins -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plugins_say_what_they_said(old: Project) -> None:
    """Every documented hook, attribute and option does what it did: verdicts, exports, watched hooks in their order."""
    outcome = run(old, "suite.toml")
    assert (outcome.code, said(outcome)) == (0, expected("house"))
    assert [e.candidate for e in outcome.report.exports if e.written] == ["merged", "halved", "merged"]
    watched, then = (heard(folder / "watched.jsonl") for folder in (old.folder, KEPT))
    assert watched == then[: len(watched)]
    assert watched[-1] == '["run_finish", 0]'
    assert "lost 0.03" in (old.folder / "exports/halved/README.md").read_text("utf-8")
    for name in ("house", "halved", "plain"):
        assert old.harness("verify", f"exports/{name}").code == 0


@pytest.mark.slow
def test_sweep_chooses_what_it_chose(old: Project) -> None:
    outcome = run(old, "sweep.toml")
    assert (outcome.code, said(outcome)) == (0, expected("sweep"))
    assert outcome.report.sweep and outcome.report.sweep.chosen == 0.8


@pytest.mark.slow
def test_python_runs_what_it_ran(old: Project) -> None:
    """`harness.run` takes the options it took, and returns a run with `exit_code` and `verdicts`."""
    found = harness.run("sweep.toml", overrides=["export.0.to=elsewhere"], plugins=("house", "no:checks"))
    assert found.exit_code == 0, [v.why for v in found.verdicts]
    assert (old.folder / "elsewhere/model/skill.json").is_file()


def test_readme_shows_the_same_evaluator() -> None:
    """Who reads README.md today writes the plugin that is kept here."""
    text = (HERE.parents[1] / "README.md").read_text("utf-8")
    assert (HERE / "project/harnessfile.py").read_text("utf-8") in text


@pytest.mark.parametrize("folder", ["adapter", "merged"])
def test_candidates_trained_then_are_gated(left: Project, folder: str) -> None:
    """What the old cache holds as trained is a candidate made elsewhere."""
    [path] = left.folder.glob(f"cache/trained/*/{folder}")
    outcome = run(left, "sweep.toml", "--candidate", str(path))
    assert (outcome.code, outcome.verdict("floor")) == (0, "PASS")


# -- reports, evidence, releases ---------------------------------------------------------------------


def test_report_is_read(left: Project) -> None:
    """`show` prints an old report with its verdicts, `--flips` its rows; what was never judged is told."""
    shown = left.harness("show", "reports/small")
    assert (shown.code, shown.err.count("\n")) == (0, 0)
    assert "4 PASS, 2 INCONCLUSIVE (waived)" in shown.out
    assert "waived by somebody until 2099-12-31: first release" in shown.out
    flips = left.harness("show", "reports/small", "--flips")
    assert sum(line.split()[:2] == ["won", "question"] for line in flips.out.splitlines()) == 2 * 7
    outcome = left.harness("judge", "disputes", "reports/small")
    assert (outcome.code, outcome.err) == (4, "error: reports/small: has no judged rows\n")


def test_report_holds_the_same_verdicts(left: Project) -> None:
    assert said(CommandOutcome(0, "", "", left.folder)) == expected("small")


@pytest.mark.parametrize("export", ["released/small", "released/small.releases/fefaa00a3858200b"])
@pytest.mark.parametrize(
    "words",
    [
        ["verify", "EXPORT"],
        ["verify", "EXPORT", "--policy", "policy.toml"],
        ["verify", "EXPORT", "--replay", "2", "--suite", "small.toml", "--seed", "1", "-p", "house"],
        ["promote", "EXPORT"],
    ],
)
def test_evidence_is_refused_by_its_format(left: Project, words: list[str], export: str) -> None:
    """Weights were hashed in another way, so old evidence, signed or not, proves nothing any more; the line says so."""
    outcome = left.harness(*[export if word == "EXPORT" else word for word in words])
    unsigned = "--policy" in words and ".releases" in export
    assert outcome.code == 7
    assert ("signature" if unsigned else REFUSED) in outcome.err


def test_refusal_is_json_too(left: Project) -> None:
    found = json.loads(left.harness("verify", "released/small", "--json").out)
    assert (found["ok"], found["refused"]) == (False, REFUSED)


def test_promotions_are_read(left: Project) -> None:
    """The record of then lists its promotion, and has no way back."""
    listed = left.harness("promote", "released/small", "--list")
    assert listed.code == 0
    assert "promoted fefaa00a3858200b  merged of suite small  by somebody" in listed.out
    back = left.harness("promote", "released/small", "--back")
    assert (back.code, ": names no release before the last one to go back to" in back.err) == (4, True)


RELEASED = """
[[gate]]
id = "released"
metric = "qa.exact_match"
versus = "released"
worse_by_at_most = 0.9
"""
ANEW = (
    ": has evidence of format 1, but this harness reads 2; move the folder away, and release "
    "again with harness waive GATE"
)


@pytest.mark.slow
def test_old_release_is_no_baseline_and_makes_room_for_one(left: Project) -> None:
    """It is refused with the way out, and that way leads to a release that the next candidate is compared with."""
    text = (left.folder / "small.toml").read_text("utf-8")
    for before, after in (("exports/small", "released/small"), ("0.99", "0.1"), ('"talker"', '"fake"')):
        text = text.replace(before, after)
    left.write({"released.toml": text + RELEASED})
    outcome = run(left, "released.toml")
    assert outcome.code == 4
    [line] = outcome.err.splitlines()
    assert line.endswith(ANEW)
    shutil.move(line.split('"')[1], "away")
    waived = ("--reason", "first release", "--until", "2099-12-31", "--by", "somebody", "--suite", "released.toml")
    assert left.harness("waive", "released", *waived).code == 0
    assert run(left, "released.toml").code == 0
    assert left.harness("promote", "released/small").code == 0
    outcome = run(left, "released.toml", "--set", "train.reaches=0.8")
    assert outcome.report.digests["released"] != outcome.report.digests["merged"]
    assert outcome.verdict("released") == "PASS"


# -- cache, ledger, waivers --------------------------------------------------------------------------


@pytest.mark.slow
def test_cache_of_then_is_asked_anew(left: Project) -> None:
    """A key of then had no digest of the weights, so nothing is answered by it; nothing is lost or damaged either."""
    outcome = run(left, "small.toml")
    assert "cached" not in outcome.out
    assert "cache" not in outcome.err
    rows = [json.loads(line) for line in (left.folder / "test.jsonl").read_text("utf-8").splitlines()]
    rows[0] |= {"input": "another question say x", "target": "x"}
    left.write({"test.jsonl": rows})
    assert "7 of 8 cached" in run(left, "small.toml").out
    assert not list(left.folder.glob("cache/*damaged*"))
    assert "training: reused" not in outcome.out


def test_attempts_begin_anew(left: Project) -> None:
    """A ledger that knows rows by their bytes is refused by its format; once moved away, a run says what it lacks."""
    (left.folder / "then.jsonl").rename(left.folder / LEDGER)
    before = run(left, "small.toml")
    assert (before.code, before.err.count("attempts.jsonl")) == (4, 1)
    assert "has format 1, expected 4; move the file away" in before.err
    (left.folder / LEDGER).unlink()
    after = run(left, "small.toml")
    assert {v.attempt for v in after.report.verdicts} == {1}
    assert "the ledger begins with this run" in after.out


@pytest.mark.slow
def test_waiver_is_to_be_written_again(left: Project) -> None:
    """One without a digest of its claim opens no gate, and says how to write it; then the two stand in one file."""
    outcome = run(left, "small.toml")
    assert outcome.code == 6
    assert 'the waiver of somebody for "hope" does not say for which whole claim it is; write it again' in outcome.out
    waived = ("--reason", "first release", "--until", "2099-12-31", "--by", "somebody", "--suite", "small.toml")
    assert left.harness("waive", "hope", *waived).code == 0
    outcome = run(left, "small.toml")
    assert (outcome.code, said(outcome)) == (0, expected("small"))
    assert outcome.err == ""


# -- suites whose keys mean something else now -------------------------------------------------------


GATE = """
[[gate]]
id = "new"
metric = "{}"
"""
EITHER = '[[gate]]\nid = "either"\nany_of = ["new", "varied"]\n'
CHANGED = {
    "a mean at a point": (
        GATE.format("close.gap") + 'max = 3.0\ndecide = "point"\n',
        (
            'decide = "point" is for counts such as a size; gap is a mean of rows, and other rows '
            'would give another number: leave out "decide", or have its evaluator say scale = '
            '"count"'
        ),
    ),
    "a number of all rows at a point": (
        GATE.format("whole.largest") + 'max = 0.6\ndecide = "point"\n',
        'largest is made of rows, and other rows would give another number: leave out "decide"',
    ),
    "a count in a group": (
        GATE.format("graded.right") + f"max_failures = 20\n{EITHER}",
        (
            'any_of names "new", which counts failures and has no risk that an any_of could share; '
            "claim it in a gate of its own"
        ),
    ),
    "a size in a group": (
        GATE.format("clock.asks") + f"max = 2\n{EITHER}",
        (
            'is one of "either", which counts failures and has no risk that an any_of could share; '
            "claim it in a gate of its own"
        ),
    ),
    "a risk above one half": (
        GATE.format("polite.polite") + "min = 0.2\nalpha = 0.6\n",
        "alpha is 0.6; it must be more than 0 and at most 0.5",
    ),
}


@pytest.mark.parametrize("case", CHANGED)
def test_claim_that_is_none_any_more_says_what_to_write(old: Project, case: str) -> None:
    gate, line = CHANGED[case]
    old.write({"changed.toml": (old.folder / "suite.toml").read_text("utf-8") + gate})
    outcome = run(old, "changed.toml", "--collect-only")
    assert outcome.code == 4
    [told] = outcome.err.splitlines()
    assert line in told


def test_small_slices_warn_at_collection(old: Project) -> None:
    """Slices that are all below min_n passed unless harm was shown; they prove nothing, and the line says so."""
    text = (old.folder / "suite.toml").read_text("utf-8").replace("min_n = 30\n", "")
    outcome = run(old.write({"slices.toml": text}), "slices.toml", "--collect-only")
    assert outcome.code == 0
    assert "no slice has min_n = 60 rows, so the gate cannot pass; add rows, or lower min_n" in outcome.err


def test_new_project_of_then_is_collected(left: Project) -> None:
    """What `harness init` wrote is a suite with a harnessfile, and collects without a warning."""
    outcome = left.harness("run", "init/suite.toml", "--collect-only")
    assert outcome.code == 0
    # of a perplexity without a cap it is said before anything is measured that its gate cannot pass
    assert [
        line.partition(": ")[2]
        for line in outcome.err.splitlines()
        if 'is approximate, so the gate cannot pass; declare "range" or "cap"' not in line
    ] == []
    assert "9 items, 2 gates, 0 deselected" in outcome.out


# -- the judge ---------------------------------------------------------------------------------------


AGREES, _, BETTER = (HERE / "project/judged.toml").read_text("utf-8").partition("[[gate]]")[2].partition("[[gate]]")
WORD = "its word proves nothing of what people would say; run harness judge calibrate, or set trust_judge = true"
SIDES = "the labels A and B do not say whose answer is better; label candidate, baseline or tie"


def judged(left: Project, stub: StubJudge, *changes: tuple[str, str]) -> CommandOutcome:
    """Run the judged suite with some of its text changed; its answers are short enough for a talker."""
    text = (HERE / "project/judged.toml").read_text("utf-8").replace("http://127.0.0.1:PORT/v1", stub.openai_url)
    for before, after in (("max_usd", "max_new_tokens = 8\nmax_usd"), *changes):
        assert before in text
        text = text.replace(before, after)
    return run(left.write({"judged.toml": text}), "judged.toml")


@pytest.fixture
def stub() -> Iterator[StubJudge]:
    pytest.importorskip("openai")
    with StubJudge() as judge:
        yield judge


@pytest.mark.slow
def test_kappa_lower_is_kappa(left: Project, stub: StubJudge) -> None:
    """The gate on the bound is refused with the metric in its place, and then the calibration with its remedy."""
    outcome = judged(left, stub)
    assert outcome.code == 4
    assert outcome.err.endswith('eval "chat" has no metric "kappa_lower"; did you mean "kappa"?\n')
    outcome = judged(left, stub, ("kappa_lower", "kappa"))
    assert outcome.code == 4
    assert outcome.err.endswith(
        "it was written by another version of the harness; make it with harness judge calibrate\n"
    )


@pytest.mark.slow
def test_calibrating_again_is_enough(left: Project, stub: StubJudge) -> None:
    """Labels of then calibrate, the gate on kappa passes, and a win rate that they cannot correct says why."""
    judged(left, stub)
    assert left.harness("judge", "calibrate", "labels.jsonl", "--suite", "judged.toml").code == 0
    outcome = judged(left, stub, ("kappa_lower", "kappa"))
    assert outcome.code == 6
    assert outcome.verdict("the judge agrees with people", "adapter") == "PASS"
    assert SIDES in outcome.out


@pytest.mark.slow
def test_judge_without_labels_says_so(left: Project, stub: StubJudge) -> None:
    """Its gates passed by its word alone; now they are inconclusive until labels correct it or its word is taken."""
    alone = (("[[gate]]" + AGREES, ""), ('requires = ["the judge agrees with people"]', ""))
    outcome = judged(left, stub, *alone, ('calibration = "labels.calibration.json"', ""))
    assert (outcome.code, WORD in outcome.out) == (6, True)
    outcome = judged(left, stub, *alone, ('calibration = "labels.calibration.json"', "trust_judge = true"))
    assert outcome.code == 0


# -- command lines -----------------------------------------------------------------------------------


COMMANDS = {  # of README.md and docs/: exit code, and what is printed on either stream
    "run sweep.toml PLUGIN --collect-only": (0, "3 items, 1 gate, 0 deselected"),
    "run suite.toml PLUGIN --collect-only -q -k merged": (0, "28 deselected"),
    "run sweep.toml PLUGIN -k merged -q": (6, "2 items deselected"),
    "run sweep.toml PLUGIN -v -x --maxfail 2 --out elsewhere --junit-xml gate.xml": (0, "exported merged"),
    "run sweep.toml PLUGIN --limit 20": (6, "not exported"),
    "run sweep.toml PLUGIN --no-export": (0, "2 PASS"),
    "run sweep.toml PLUGIN --no-cache": (0, "2 PASS"),
    "run sweep.toml PLUGIN --select": (6, "because --select"),
    "run sweep.toml PLUGIN --ignore X1": (0, "ignored  X1"),
    "run sweep.toml PLUGIN --set export.0.to=elsewhere": (0, "elsewhere"),
    "run sweep.toml PLUGIN --candidate good": (0, "exported merged"),
    "run sweep.toml PLUGIN --lf": (4, '--lf: there is no report of suite "sweep" in'),
    "check suite.toml PLUGIN --limit 5 --ignore X2": (0, "suite.toml: 0 errors"),
    "plan sweep.toml PLUGIN": (0, "floor: qa.exact_match at least 0.5"),
    "plan sweep.toml PLUGIN --json --no-cache --limit 40": (0, '"suite": "sweep"'),
    "plan sweep.toml PLUGIN --measure": (0, "measuring evaluation"),
    "plan sweep.toml PLUGIN --candidate good": (0, "floor: qa.exact_match at least 0.5"),
    "selftest small.toml PLUGIN --only mute --limit 8": (0, "1 of 1 saboteurs caught"),
    "selftest suite.toml PLUGIN --only 'base itself'": (0, "1 of 1 saboteurs caught"),
    "selftest suite.toml PLUGIN --only 'graded: a parrot'": (0, "1 of 1 saboteurs caught"),
    "plugins": (0, "evaluator exact_match"),
    "plugins polite --suite suite.toml": (0, "words: a list of strings"),
    "plugins longer -p house": (0, "max_new_tokens: an integer, default 64"),
    "explain": (0, "D10"),
    "explain X1 -p house": (0, "the model will shout"),
    "init mine": (0, "next: harness run mine/suite.toml"),
    "init": (4, "exists already"),
    "keygen release": (0, "release.pub"),
    "waive floor --suite sweep.toml --reason late --until 2099-12-31": (0, "waived by"),
    "show reports/none": (4, ": the report cannot be read:"),
    "judge calibrate none.jsonl --suite judged.toml": (4, "none.jsonl"),
}


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=[pytest.mark.slow] * line.endswith("--measure")) for line in COMMANDS],  # in children
)
def test_command_line_does_what_it_did(old: Project, line: str) -> None:
    code, told = COMMANDS[line]
    words = [word for part in shlex.split(line) for word in (PLUGIN if part == "PLUGIN" else [part])]
    outcome = old.harness(*words)
    assert (outcome.code, told in outcome.out + outcome.err) == (code, True), outcome.out + outcome.err
