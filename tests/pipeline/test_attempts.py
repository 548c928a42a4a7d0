"""Select and confirm splits, and the ledger of attempts, seen from outside."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from harness.records.parts.attempts import InterimLooks
from harness.reports.report_json import read_run
from harness.stats.hypothesis_tests import attempt_alpha
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.suites import EXPORTER, SELECT, SPLIT, WHOLE, read_ledger

Rows = list[dict[str, Any]]

OTHER = [{"id": f"q{i}", "input": f"other {i} say u{i}", "target": f"u{i}", "kind": "ab"[i % 2]} for i in range(60)]


@pytest.fixture
def suite(project: Project) -> Project:
    """A project with both splits whose suite passes."""
    files = {"suite.toml": SPLIT, "test.jsonl": ROWS, "train.jsonl": TRAIN, "select.jsonl": SELECT}
    return project.write(files)  # type: ignore[arg-type]


def run_and_get_attempt(suite: Project, skill: float, *flags: str) -> int:
    """Run with a recipe and return which attempt the gate on the merged model was."""
    outcome = suite.run("--set", f"train.skill={skill}", *flags)
    return next(v.attempt for v in outcome.report.verdicts if v.candidate == "merged")


def test_select_chooses_and_confirms_nothing(suite: Project) -> None:
    """--select measures on the other split: no attempt, no export, never exit 0."""
    outcome = suite.run("--select", "-p", "no:checks")
    assert outcome.code == 6
    assert outcome.verdict("floor") == "PASS"
    assert outcome.report.results[-1].n == len(SELECT)
    assert "split  select" in outcome.out
    assert "because --select: rows used to choose a candidate cannot confirm it" in outcome.out
    assert read_ledger(suite) == []
    assert not (suite.folder / "exports").exists()


def test_confirm_is_the_default(suite: Project) -> None:
    """Without --select the gates are judged on `data`."""
    outcome = suite.run()
    assert outcome.code == 0
    assert outcome.report.results[-1].n == len(ROWS)


@pytest.mark.slow
def test_evals_without_a_select_split_are_left_alone(suite: Project) -> None:
    """Choosing never looks at rows that are kept to confirm."""
    suite.write({"suite.toml": SPLIT + '\n[[eval]]\nname = "other"\nuse = "contains"\ndata = "test.jsonl"\n'})
    assert {r.eval for r in (suite.run("--select"), suite.run("--select"))[0].report.results} == {"qa"}
    assert "suite.toml::base::other" not in suite.run("--select", "--collect-only").out
    suite.write({"suite.toml": SUITE})
    told = suite.run("--select")
    assert told.code == 4
    assert "no eval has a select split" in told.err


LEAKS = {
    "a row": ([*SELECT, {**ROWS[3], "id": "copied"}], "", "1 of 41 rows are in"),
    "a cluster": (SELECT, '\ncluster = "kind"', '40 of 40 rows share their "kind" with "data"'),
}


@pytest.mark.parametrize("case", LEAKS)
def test_splits_must_have_nothing_in_common(suite: Project, case: str) -> None:
    """A row, or a cluster of rows, in both splits is a mistake at collection."""
    rows, extra, told = LEAKS[case]
    suite.write({"select.jsonl": rows, "suite.toml": SPLIT.replace('"select.jsonl"', '"select.jsonl"' + extra)})  # type: ignore[dict-item]
    outcome = suite.run("--collect-only")
    assert outcome.code == 4
    assert told in outcome.err
    assert "rows used to choose a candidate cannot confirm it" in outcome.err


@pytest.mark.slow
def test_every_new_candidate_is_an_attempt_and_the_same_one_is_not(suite: Project) -> None:
    """Recipes are attempts at the same rows; answers that were given before are none."""
    assert run_and_get_attempt(suite, 0.9) == 1
    assert run_and_get_attempt(suite, 0.6) == 2
    assert run_and_get_attempt(suite, 0.8) == 3
    assert run_and_get_attempt(suite, 0.9) == 1
    assert run_and_get_attempt(suite, 0.6, "--no-cache") == 2
    lines = [line for line in read_ledger(suite) if line["candidate"] == "merged"]
    assert [line["attempt"] for line in lines] == [1, 2, 3]
    assert {line["suite"] for line in lines} == {"fake"}
    assert len({line["suite_digest"] for line in lines}) == 3


@pytest.mark.slow
def test_attempts_are_told(suite: Project) -> None:
    """Report, export and JUnit say which attempt it was, and what that does to the risk."""
    for skill in (0.6, 0.7):
        run_and_get_attempt(suite, skill)
    outcome = suite.run("--junit-xml", str(suite.folder / "ci.xml"))
    assert outcome.code == 0
    said = 'attempt 3 of "floor" on the same rows: 3 attempts at 0.05 may add up to a risk of 0.15'
    assert said in outcome.out
    assert "; attempt 3" in outcome.out
    assert "attempt 3" in (suite.folder / "ci.xml").read_text("utf-8")
    card = (suite.folder / "exports/fake/README.md").read_text("utf-8")
    assert "; attempt 3 |" in card
    assert (
        json.loads((suite.folder / "exports/fake/evidence/gates.json").read_text("utf-8"))[0]["parts"]["attempt"][
            "number"
        ]
        == 3
    )


@pytest.mark.slow
def test_attempts_in_copies_of_a_project_are_named(suite: Project) -> None:
    """The same rows in a copied folder count, and where the other attempts were is told."""
    assert run_and_get_attempt(suite, 0.6) == 1
    for name in ("one", "two"):
        files = ("suite.toml", "test.jsonl", "train.jsonl", "select.jsonl")
        suite.write({f"{name}/{file}": (suite.folder / file).read_text("utf-8") for file in files})
        shutil.copytree(suite.folder / "base", suite.folder / name / "base")
    outcome = suite.harness("run", "one/suite.toml", "--set", "train.skill=0.7", "--out", "reports")
    outcome = suite.harness("run", "two/suite.toml", "--set", "train.skill=0.8", "--out", "reports")
    (told,) = [line for line in outcome.out.splitlines() if line.startswith("attempt 3 of ")]
    assert told.endswith(f"; previous: {suite.folder.name}/suite.toml, one/suite.toml")
    assert str(suite.folder) not in told


@pytest.mark.slow
def test_other_thresholds_are_attempts_too(suite: Project) -> None:
    """A floor that is lowered after a failure is asked of rows that were looked at; other rows were not."""
    assert run_and_get_attempt(suite, 0.6) == 1
    assert run_and_get_attempt(suite, 0.7, "--set", "gate.0.min=0.4") == 2
    suite.write({"test.jsonl": OTHER})
    assert run_and_get_attempt(suite, 0.8) == 1


@pytest.mark.slow
def test_spending_keeps_the_stated_risk(suite: Project) -> None:
    """attempts = "spend" tests attempt k at alpha * 6 / (pi k)^2: a bare pass at first is none at the third attempt."""
    suite.write({"suite.toml": SPLIT.replace('name = "fake"', 'name = "fake"\nattempts = "spend"')})
    alphas = []
    for skill in (0.75, 0.77, 0.8):
        outcome = suite.run("--set", f"train.skill={skill}", "--set", "gate.0.min=0.3")
        alphas.append(next(v.alpha for v in outcome.report.verdicts if v.candidate == "merged"))
    assert alphas == [pytest.approx(attempt_alpha(0.05, k)) for k in (1, 2, 3)]
    assert "was tested at alpha 0.0034" in outcome.out
    assert math.fsum(attempt_alpha(0.05, k) for k in range(1, 100_000)) <= 0.05


def test_a_budget_is_no_attempt_and_whatever_was_scored_is_one(suite: Project) -> None:
    """A budget carries no risk; a gate that could not be judged showed its rows' scores all the same."""
    budget = '\n[[eval]]\nname = "size"\nuse = "size"\n\n[[gate]]\nid = "small"\nmetric = "size.bytes"\nmax = 5000\n'
    suite.write({"suite.toml": SPLIT.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.0') + budget})
    outcome = suite.run("--candidate", str(suite.folder / "base"), "-p", "no:checks")
    assert (outcome.verdict("floor"), outcome.verdict("small")) == ("ERROR", "PASS")
    assert [line["eval"] for line in read_ledger(suite)] == ["qa"]


@pytest.mark.slow
def test_an_eval_without_a_gate_is_a_look(suite: Project) -> None:
    """Three candidates whose scores were printed, and gated by nothing, make the gated one attempt 4."""
    gateless = SUITE.partition("[[gate]]")[0] + "[[export" + SUITE.partition("[[export")[2]
    suite.write({"suite.toml": gateless})
    for skill in (0.5, 0.6, 0.7):
        assert suite.run("--set", f"train.skill={skill}").code == 5
    suite.write({"suite.toml": SUITE})
    assert run_and_get_attempt(suite, 0.9) == 4


@pytest.mark.slow
def test_damaged_ledger_ends_the_run_before_it_begins(suite: Project) -> None:
    """A line that was changed is an attempt that may be missing: exit 4 and one line, and nothing is measured."""
    run_and_get_attempt(suite, 0.6)
    path = suite.folder / "cache/attempts.jsonl"
    text = path.read_text("utf-8")
    path.write_text(text + '{"half', "utf-8")  # what a kill cut off, and nobody was told of
    assert run_and_get_attempt(suite, 0.7) == 2
    path.write_text(path.read_text("utf-8").replace('"attempt": 1', '"attempt": 9', 1), "utf-8")
    outcome = suite.run("--set", "train.skill=0.8")
    assert (outcome.code, outcome.err.count("attempts.jsonl:2: was changed or truncated after it was written")) == (
        4,
        1,
    )
    assert "base::qa" not in outcome.out


@pytest.mark.slow
def test_a_ledger_that_begins_is_told(suite: Project) -> None:
    """Who has no ledger knows of no earlier attempt, and says so; the next run goes on."""
    said = "earlier attempts at these rows are unknown: the ledger begins with this run"
    assert [said in suite.run("--set", f"train.skill={skill}").out for skill in (0.6, 0.7)] == [True, False]


@pytest.mark.slow
def test_ledger_may_lie_elsewhere(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """HARNESS_LEDGER names the file that a job keeps, with its rows beside it."""
    monkeypatch.setenv("HARNESS_LEDGER", str(suite.folder / "kept/mine.jsonl"))
    assert [run_and_get_attempt(suite, skill) for skill in (0.6, 0.7)] == [1, 2]
    assert (suite.folder / "kept/mine").is_dir()
    assert not (suite.folder / "cache/attempts.jsonl").exists()


TWO = """
from dataclasses import dataclass, replace
from harness import hookimpl
from harness.testing import FakeAdapter, write_fake, _read_skill

@dataclass(frozen=True)
class Two(FakeAdapter):
    def check_merge(self, variant, base, adapter=None):
        pass

    def merge(self, base, adapter, out, *, variant):
        write_fake(out, _read_skill(adapter) - (0.3 if variant == "original" else 0.0))

def two():
    return Two()

@hookimpl
def harness_adapters():
    return {"two": two}
"""
CHOOSE = '\n[merge]\nbase = ["original", "dequantized"]\nchoose = "qa.exact_match"\n'


@pytest.mark.slow
def test_another_base_is_another_merge(suite: Project) -> None:
    """A merge onto one base is never taken for the merge onto another, though both candidates are called the same."""
    text = SPLIT.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "two"')
    suite.write({"harnessfile.py": TWO})
    found = {}
    for base in ("original", "dequantized", "original"):
        outcome = suite.write({"suite.toml": f'{text}\n[merge]\nbase = "{base}"\n'}).run()
        found[base] = next(r.metrics for r in outcome.report.results if r.subject == "merged")
        assert f"onto the {base} base" in outcome.out
    assert found["original"] != found["dequantized"]
    assert "reusing the merge onto the original base" in outcome.out


def test_merged_model_is_chosen_on_select_and_gated_once(suite: Project) -> None:
    """Of two merges the better one on the select rows is the candidate; the other never sees the rows that confirm."""
    text = SPLIT.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "two"') + CHOOSE
    outcome = suite.write({"suite.toml": text, "harnessfile.py": TWO}).run()
    assert outcome.code == 0
    assert [v.candidate for v in outcome.report.verdicts] == ["adapter", "merged"]
    assert "choose  by qa.exact_match on 40 selection rows" in outcome.out
    told = "the merge onto the dequantized base was chosen by qa.exact_match on selection rows: original 0."
    assert told in outcome.out
    assert [line["candidate"] for line in read_ledger(suite)] == ["adapter", "merged"]
    assert outcome.report.exports[0].written


CHOICES = {
    "an eval that is not there": ('"qa.exact_match"\n', '"qb.exact_match"\n', 'no eval "qb"'),
    "a metric that is not there": ('"qa.exact_match"\n', '"qa.exact"\n', 'has no metric "exact"'),
    "no metric": ('"qa.exact_match"\n', '"qa"\n', "write EVAL.METRIC"),
    "one base": ('["original", "dequantized"]', '"original"', "needs several bases to choose from"),
    "no select split": ('\nselect = "select.jsonl"', "", "has no select split"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_mistakes_of_choosing(suite: Project, case: str) -> None:
    """A choice that cannot be made is told at collection."""
    before, after, told = CHOICES[case]
    head, _, tail = SPLIT.partition("[[gate]]")
    text = head + CHOOSE + "\n[[gate]]" + tail
    cut = text.rfind(before) if "exact_match" not in before else text.index(CHOOSE) + CHOOSE.index(before)
    text = text[:cut] + after + text[cut + len(before) :]
    outcome = suite.write({"suite.toml": text, "harnessfile.py": TWO}).run("--collect-only")
    assert outcome.code == 4
    assert told in outcome.err


def add_spend_setting(text: str) -> str:
    return text.replace("[model]", 'attempts = "spend"\n\n[model]', 1)


def write(suite: Project, text: str, rows: Rows = ROWS) -> Project:
    return suite.write({"suite.toml": add_spend_setting(text), "test.jsonl": rows})


def make_messages_row(row: dict[str, Any]) -> dict[str, Any]:
    said = [{"role": "user", "content": row["input"]}, {"role": "assistant", "content": row["target"]}]
    return {"id": row["id"], "kind": row["kind"], "messages": said}


SYSTEM = {"role": "system", "content": "Be brief."}
SAME: dict[str, tuple[str, Rows, list[str]]] = {
    "another name of the suite": (
        SUITE.replace('name = "fake"', 'name = "other"', 1),
        ROWS,
        [],
    ),
    "another name of the eval": (SUITE.replace('"qa', '"quiz'), ROWS, []),
    "another name of the gate": (SUITE.replace('"floor"', '"other"'), ROWS, []),
    "another order": (SUITE, ROWS[::-1], []),
    "other ids": (SUITE, [{**r, "id": f"x{i}"} for i, r in enumerate(ROWS)], []),
    "another column": (SUITE, [{**r, "kind": "c"} for r in ROWS], []),
    "a limit one short": (SUITE, ROWS, ["--limit", "59"]),
    "a limit of the eval": (SUITE, ROWS, ["--set", "eval.0.limit=59"]),
    "one more row": (SUITE, [*ROWS, OTHER[0] | {"id": "new"}], []),
    "nine tenths of other rows": (SUITE, [*ROWS[:6], *OTHER[6:]], []),
    "another option": (SUITE, ROWS, ["--set", "eval.0.max_new_tokens=31"]),
    "another evaluator": (SUITE.replace("exact_match", "contains"), ROWS, []),
    "another threshold": (SUITE.replace("min = 0.5", "min = 0.45"), ROWS, []),
    "another baseline": (SUITE.replace("min = 0.5", 'versus = "base"\nbetter_by = 0.0'), ROWS, []),
    "a slice": (SUITE.replace("min = 0.5", 'min = 0.5\nslice = "kind=a"\nmin_n = 20'), ROWS, []),
    "a cluster": (SUITE.replace("slices =", 'cluster = "id"\nslices ='), ROWS, []),
    "rows as messages": (SUITE, [make_messages_row(r) for r in ROWS], []),
    "a template": (SUITE.replace("slices =", 'template = "Do this: {input}!"\nslices ='), ROWS, []),
    "a template of two columns": (SUITE.replace("slices =", 'template = "{kind}: {input}"\nslices ='), ROWS, []),
    "a system message": (
        SUITE,
        [{**make_messages_row(r), "messages": [SYSTEM, *make_messages_row(r)["messages"]]} for r in ROWS],
        [],
    ),
    "capital letters": (SUITE, [{**r, "input": r["input"].upper()} for r in ROWS], []),
    "one more target": (SUITE, [{**r, "target": [r["target"], "else"]} for r in ROWS], []),
    "more white space": (SUITE, [{**r, "input": f" {r['input']}\n".replace(" ", "  ")} for r in ROWS], []),
    "rows beside others": (SUITE, [*ROWS, *(r | {"id": f"o{i}"} for i, r in enumerate(OTHER))], []),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SAME)
def test_rows_that_were_looked_at_are_known_again(suite: Project, case: str) -> None:
    """Names, order, ids, options, claims, slices, baselines and a few other rows make no other question."""
    assert run_and_get_attempt(write(suite, SUITE), 0.9) == 1
    text, rows, flags = SAME[case]
    outcome = write(suite, text, rows).run("--set", "train.skill=0.95", *flags)
    assert {v.attempt for v in outcome.report.verdicts} == {2}
    assert {v.alpha for v in outcome.report.verdicts} == {attempt_alpha(0.05, 2)}


@pytest.mark.slow
def test_other_rows_are_another_question(suite: Project) -> None:
    """Under a tenth of the smaller set in common, with the same suite, eval and gate: the first attempt."""
    assert run_and_get_attempt(write(suite, SUITE), 0.9) == 1
    assert run_and_get_attempt(write(suite, SUITE, [*ROWS[:5], *OTHER[5:]]), 0.95) == 1


@pytest.mark.slow
def test_roles_are_counted_apart(suite: Project) -> None:
    """An adapter, the merged model, and what an export makes of it are looked at once each."""
    suite.write({"suite.toml": WHOLE, "harnessfile.py": EXPORTER})
    outcome = suite.run()
    assert {v.candidate: v.attempt for v in outcome.report.verdicts} == {"adapter": 1, "merged": 1, "fewer": 1}
    assert [line["role"] for line in read_ledger(suite)] == ["adapter", "merged", "conversion"]
    assert {v.attempt for v in suite.run("--set", "train.skill=0.95").report.verdicts} == {2}


TWO_EVALS = SUITE.replace(
    "[[gate]]",
    '[[eval]]\nname = "more"\nuse = "contains"\ndata = "more.jsonl"\n\n'
    '[[gate]]\nid = "second"\nmetric = "more.contains"\nmin = 0.4\n\n[[gate]]',
    1,
)


@pytest.fixture
def pair(suite: Project) -> Project:
    """A project with gates on two sets of rows."""
    return write(suite, TWO_EVALS).write({"more.jsonl": OTHER})  # type: ignore[arg-type]


def run_and_list_attempts(suite: Project, *flags: str) -> list[int]:
    """Run and return the attempts of all gates on the merged model, gate by gate in the suite's order."""
    found = {v.gate: v.attempt for v in suite.run(*flags).report.verdicts if v.candidate == "merged"}
    return [found[g] for g in sorted(found)]


@pytest.mark.slow
def test_each_eval_has_its_own_number(pair: Project) -> None:
    """Gates on rows that were looked at before are the second attempt, a gate on other rows is the first."""
    write(pair, SUITE)
    assert run_and_list_attempts(pair) == [1]
    write(pair, TWO_EVALS)
    assert run_and_list_attempts(pair, "--set", "train.skill=0.95") == [2, 1]


@pytest.mark.slow
def test_unchanged_run_keeps_its_number(pair: Project) -> None:
    """Whatever came after it, with all its gates; the same weights on other rows are a new look."""
    assert run_and_list_attempts(pair) == [1, 1]
    assert run_and_list_attempts(pair, "--set", "train.skill=0.95") == [2, 2]
    lines = len(read_ledger(pair))
    assert run_and_list_attempts(pair) == [1, 1]
    assert run_and_list_attempts(pair, "--no-cache", "--set", "eval.1.max_new_tokens=33") == [1, 1]  # heard the same
    assert len(read_ledger(pair)) == lines
    # a claim more on the questions of the first eval, after two candidates were put to the claim that was there
    assert run_and_list_attempts(pair, "--set", "eval.1.max_new_tokens=0", "--set", 'eval.1.data="test.jsonl"') == [
        3,
        3,
    ]


COIN = """
from harness import Score, hookimpl, metric

@metric("contains", better="higher", scale="proportion")
def coin(subject, samples, *, flip: int = 0):
    for s in samples:
        yield Score(s.id, {"contains": float((int(s.id[1:]) + flip) % 10 < 7)})

@hookimpl
def harness_evaluators():
    return {"coin": coin}
"""


@pytest.mark.slow
def test_other_scores_of_the_same_weights_are_a_new_look(pair: Project) -> None:
    """On the same rows, of the eval that scored otherwise."""
    write(pair, TWO_EVALS.replace('"contains"', '"coin"')).write({"harnessfile.py": COIN})
    assert run_and_list_attempts(pair) == [1, 1]
    assert run_and_list_attempts(pair, "--set", "eval.1.flip=1") == [1, 2]
    assert run_and_list_attempts(pair) == [1, 1]
    assert run_and_list_attempts(pair, "--set", "eval.1.flip=1") == [1, 2]
    assert [(x["eval"], x["attempt"]) for x in read_ledger(pair) if x["role"] == "merged"] == [
        ("qa", 1),
        ("more", 1),
        ("more", 2),
    ]


@pytest.mark.slow
def test_run_that_was_cut_off_counts_for_what_it_told(pair: Project) -> None:
    """What was told before the cut counts for others, and its own weights complete it."""
    pair.write({"harnessfile.py": CUT})
    pair.write({"cut": "merged"})
    assert pair.run().code == 2
    (pair.folder / "cut").unlink()
    assert [line["eval"] for line in read_ledger(pair) if line["role"] == "merged"] == ["qa"]
    assert run_and_list_attempts(pair, "--set", "train.skill=0.95") == [2, 1]
    assert run_and_list_attempts(pair) == [1, 2]


CUT = """
from pathlib import Path
from harness import hookimpl

@hookimpl
def harness_item_finish(run, item):
    if Path("cut").exists() and item.subject == "merged":
        raise KeyboardInterrupt
"""


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_at_once_every_run_is_an_attempt_of_its_own(suite: Project) -> None:
    """Four processes with four recipes: attempts 1, 2, 3 and 4, each at its share of alpha."""
    write(suite, SUITE)
    code = "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "run", "suite.toml", "-p", "harness.testing", "-p", "no:checks"]
    runs = []
    for skill in (0.9, 0.92, 0.94, 0.96):
        own = ["--set", f"train.skill={skill}", "--out", f"out/{skill}", "--set", f'export.0.to="exports/{skill}"']
        runs.append(subprocess.Popen([*command, *own], cwd=suite.folder, stdout=subprocess.DEVNULL))
    assert {run.wait() for run in runs} <= {0, 6}
    reports = [read_run(path.parent) for path in suite.folder.glob("out/*/*/report.json")]
    for role in ("adapter", "merged"):
        found = sorted((v.attempt, v.alpha) for r in reports for v in r.verdicts if v.candidate == role)
        assert found == [(k, attempt_alpha(0.05, k)) for k in (1, 2, 3, 4)]
        assert sorted(line["attempt"] for line in read_ledger(suite) if line["role"] == role) == [1, 2, 3, 4]  # type: ignore[type-var]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_rows_that_cannot_be_read_count_as_these(suite: Project, damage: str) -> None:
    """Where nobody knows any more what a look was on, it counts for every question, and that is told."""
    assert run_and_get_attempt(suite, 0.9) == 1
    (path,) = (suite.folder / "cache/attempts").iterdir()
    if damage == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text("utf-8")[33:], "utf-8")  # a row less
    outcome = suite.write({"test.jsonl": OTHER}).run("--set", "train.skill=0.95")  # type: ignore[dict-item]
    assert outcome.out.count("cannot be read, so its attempts count as attempts at these rows") == 1
    assert {v.attempt for v in outcome.report.verdicts} == {2}


def test_strange_line_separators_hide_no_attempt(suite: Project) -> None:
    """A line of the ledger ends where JSON lines end, whatever stands in it; and no gate has such a name."""
    suite.write({"suite.toml": SPLIT.replace('"fake"', '"fa\\u2028ke"', 1)})
    outcome = suite.write({"suite.toml": SUITE.replace('id = "floor"', 'id = "fl\\u2028oor"')}).run()
    assert (
        outcome.code,
        "id is empty or has unprintable characters; give the gate a name for its reports" in outcome.err,
    ) == (4, True)


# -- more rows of the same weights ------------------------------------------------------------------


def run_on_first_rows(
    suite: Project, rows: int, *, most: int = 240, more: str = ""
) -> tuple[int, tuple[int, ...], float | None]:
    """Run on the first of so many rows, and return attempt, looks and level of the gate on the merged model."""
    data = [{**row, "id": f"{n}", "input": f"{n} {row['input']}"} for n in range(4) for row in ROWS]
    data = [{**row, "id": str(i)} for i, row in enumerate(data)]
    text = SUITE.replace('data = "test.jsonl"', f'data = "test.jsonl"\nrows_at_most = {most}')
    outcome = suite.write({"suite.toml": text, "test.jsonl": data[:rows]}).run(*more.split())  # type: ignore[dict-item]
    v = next(v for v in outcome.report.verdicts if v.candidate == "merged")
    look = v.get(InterimLooks)
    return v.attempt, look.looks if look else (), v.alpha


@pytest.mark.slow
def test_rows_that_come_in_share_one_risk(suite: Project) -> None:
    """Each look at more of the declared rows is tested at its level, and all of them are one attempt."""
    from harness.stats.multiple_testing import interim_levels

    looks: tuple[int, ...] = ()
    for rows in (60, 120, 240):
        looks = (*looks, rows)
        found = run_on_first_rows(suite, rows)
        assert found == (1, looks, pytest.approx(interim_levels(looks, 240, 0.05)[-1]))
    export = suite.folder / "exports/fake"
    assert suite.harness("verify", str(export)).code == 0
    assert run_on_first_rows(suite, 240, more="--set train.skill=0.95")[:2] == (2, (240,))


@pytest.mark.slow
def test_looks_that_are_denied_are_refused(suite: Project) -> None:
    """Evidence without its earlier looks, or with rows beyond those declared, does not verify."""
    run_on_first_rows(suite, 60)
    run_on_first_rows(suite, 240)
    export = suite.folder / "exports/fake"
    for looks in ([240], [60, 300], [], [120, 60]):
        copy = shutil.copytree(export, suite.folder / "copy")
        gates = json.loads((copy / "evidence/gates.json").read_text("utf-8"))
        gates[0]["parts"]["interim_analysis"]["looks"] = looks
        write_evidence(copy, gates)
        done = suite.harness("verify", str(copy))
        assert (done.code, "gates" in done.err or "looks" in done.err) == (7, True), looks
        shutil.rmtree(copy)


def write_evidence(export: Any, gates: Any) -> None:
    """Write other verdicts into an export, with digests and claims that fit them: whoever writes it may do that."""
    from harness.artifacts import attestation

    evidence = export / "evidence"
    text = json.dumps(gates).encode()
    (evidence / "gates.json").write_bytes(text)
    manifest = json.loads((evidence / "manifest.json").read_text("utf-8"))
    manifest["files"]["evidence/gates.json"] = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    raw = json.dumps(manifest).encode()
    (evidence / "manifest.json").write_bytes(raw)
    statements = attestation.make_statements(raw, (evidence / "suite.lock.json").read_bytes(), gates)
    lines = [attestation.Envelope(s, {}).to_json_line() for s in statements]
    (evidence / "claims.intoto.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")


MOST = {
    "fewer than there are": ("rows_at_most = 59", "rows_at_most is 59, but there are 60 rows already"),
    "stopping early": (
        'rows_at_most = 90\nstop = "early"',
        ('rows_at_most and stop = "early" both spend the risk on interim analyses; remove one of them'),
    ),
    "none": ("rows_at_most = 0", "rows_at_most is 0, but there are 60 rows already"),
}


@pytest.mark.parametrize("case", MOST)
def test_rows_at_most_that_cannot_be_meant_is_a_mistake(suite: Project, case: str) -> None:
    """Told at collection, before anything is measured."""
    key, told = MOST[case]
    text = SUITE.replace('data = "test.jsonl"', f'data = "test.jsonl"\n{key}')
    outcome = suite.write({"suite.toml": text}).run("--collect-only")
    assert (outcome.code, told in outcome.err) == (4, True)


@pytest.mark.parametrize("how", ["a folder", "a file that cannot be written"])
def test_ledger_that_cannot_be_kept_is_one_line(suite: Project, how: str) -> None:
    """Attempts that cannot be written down end the run with exit 4, and nothing ships."""
    path = suite.folder / "cache/attempts.jsonl"
    (path if how == "a folder" else path.with_suffix("")).mkdir(parents=True)
    if how != "a folder":
        (path.parent / "attempts").rmdir()
        (path.parent / "attempts").write_text("", "utf-8")
    outcome = suite.run()
    problem = outcome.err if how == "a folder" else outcome.report.problem
    assert outcome.code == 4
    assert re.search(r"attempts\.jsonl: attempts cannot be (read|recorded): ", problem)
    assert not (suite.folder / "exports").exists()
