"""`harness blame` without --retrain: suspects and groups by text, chosen by half of the rows that a gate lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cause.suspects import LostRow, is_choosing, rank_groups, rank_rows, score_rows
from harness.records.findings import TrainingRow
from harness.testing import CommandOutcome, Project
from tests.helpers.learners import WRONG, write_learner

GATE = ("--gate", "no forgetting")


def run_and_blame(project: Project, *flags: str, gate: tuple[str, ...] = GATE) -> CommandOutcome:
    return project.harness("blame", "suite.toml", str(project.run("--no-export").report.folder), *gate, *flags)


def make_training_rows(*texts: tuple[str, str, str]) -> list[TrainingRow]:
    made = [(source, {"prompt": prompt, "completion": answer}) for source, prompt, answer in texts]
    return [TrainingRow(i, source, row, row) for i, (source, row) in enumerate(made, 1)]


def test_wrong_rows_are_the_first_suspects(project: Project) -> None:
    """What answers like the candidate did on lost rows is named first, with its file and its number."""
    outcome = run_and_blame(write_learner(project), "--rows", "6", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert told["claim"] == "a list to read, no claim"
    assert {row["answer"] for row in told["suspects"]} == {"wrong"}
    assert sorted(row["number"] for row in told["suspects"]) == [61, 62, 63, 64, 65, 66]
    assert {row["source"] for row in told["suspects"]} == {"more.jsonl"}
    assert (told["groups"][0]["kind"], len(told["groups"][0]["numbers"])) in [("answer", 6), ("template", 6)]
    assert all(row["answer"] == "wrong" for row in told["lost"])


def test_lost_rows_and_suspects_are_printed_beside_each_other(project: Project) -> None:
    """A person reads the lost rows, then the suspects and groups; nothing is called a cause."""
    out = run_and_blame(write_learner(project)).out
    assert 'gate "no forgetting" on merged: a list to read, no claim' in out
    assert (
        out.index("lost  ") < out.index('answered "wrong", wanted "w') < out.index("suspects  10 of 86 training rows")
    )
    assert "training row 61, more.jsonl" in out and 'answer "wrong"  6 rows' in out
    assert "cause" not in out.lower()


def test_only_half_of_the_rows_choose(project: Project) -> None:
    """Which half a row is in depends on its cluster, its question or its id, and on nothing that it scored."""
    told = json.loads(run_and_blame(write_learner(project), "--json").out)
    assert told["choosing"] + told["confirming"] == 600 and 250 < told["choosing"] < 350
    rows = [{"id": str(i), "cluster": "one", "acc": i % 2} for i in range(9)]
    assert len({is_choosing(row) for row in rows}) == 1
    assert is_choosing({"id": "a", "acc": 0.0}) == is_choosing({"id": "a", "acc": 1.0})


SCORED = """
from harness.cause.suspects import LostRow, score_rows
from harness.records.findings import TrainingRow

words = "the a of to in is on by it or be at as an we us if so do go up".split()
rows = []
for i in range(30):
    prompt = " ".join(words[(i * 7 + j * (1 + i % 5)) % 21] for j in range(15)) + f" {i}"
    row = {"prompt": prompt, "completion": "no"}
    rows.append(TrainingRow(i + 1, "a", row, row))
print(score_rows(rows, [LostRow("1", " ".join(words), "x", "no")]))
"""


def test_scores_are_the_same_in_every_process() -> None:
    """To the last bit, whatever hashes of texts are there: the same question must find the trainings it made before."""
    said = {
        subprocess.run(
            [sys.executable, "-c", SCORED], env={**os.environ, "PYTHONHASHSEED": seed}, text=True, check=True,
            stdout=subprocess.PIPE,
        ).stdout
        for seed in "123"
    }  # fmt: skip
    assert len(said) == 1


def test_copies_of_a_suspect_are_suspects() -> None:
    """To leave out one of two equal rows is to leave out neither."""
    rows = make_training_rows(("a", "say x", "wrong"), ("a", "say y", "y"), ("b", "say x", "wrong"))
    lost = [LostRow("1", "say q", "q", "wrong")]
    assert [one.number for one in rank_rows(rows, score_rows(rows, lost), 1)] == [1, 3]


def test_what_is_rare_counts_more_than_the_frame_of_all() -> None:
    """A long prompt that all rows share says nothing of any of them; nor does a row of other words score."""
    frame = "answer the question as well as you can"
    rows = make_training_rows(
        *(("a", f"{frame} {i}", f"right{i}") for i in range(20)), ("a", f"{frame} z", "I cannot say")
    )
    scores = score_rows(rows, [LostRow("1", f"{frame} 99", "x", "I cannot say")])
    assert max(range(21), key=scores.__getitem__) == 20 and max(scores[:20]) < 0.1
    assert score_rows(rows, [LostRow("1", "", "", "")]) == [0.0] * 21


def test_right_rows_of_the_same_question_are_no_suspects() -> None:
    """A cut or misspelt answer still reads like the spoilt rows, and what a right answer reads like counts against."""
    rows = make_training_rows(
        *(("a", f"colour {i}?", "red") for i in range(40)), *(("a", f"colour {i}?", "unknown") for i in range(50, 58)),
        *(("a", f"shape {i}?", "circle") for i in range(60)),
    )  # fmt: skip
    for answer in ("unknown", "unknkn", "unkn"):
        scores = score_rows(rows, [LostRow("1", "colour 900?", "red", answer), LostRow("2", "colour 77?", "red", "un")])
        assert {one.answer for one in rank_rows(rows, scores, 8)} == {"unknown"}, answer
    assert score_rows(rows, [LostRow("1", "colour 900?", "red", "")])[0] > 0  # no answer: by the prompt alone


def test_a_prompt_that_only_spoilt_rows_have_tells_them() -> None:
    """What a lost row shares with its right answer, which is its prompt, is not taken away as a whole."""
    right = [("a", f"shape {i}?", "circle") for i in range(60)]
    rows = make_training_rows(*right, *(("a", f"colour {i}?", "unknown") for i in range(8)))
    scores = score_rows(rows, [LostRow("1", "colour 900?", "red", "green")])
    assert {one.answer for one in rank_rows(rows, scores, 8)} == {"unknown"}


def test_groups_are_by_source_column_template_and_answer() -> None:
    """A group of one row, or of more than half of them, is none."""
    rows = make_training_rows(
        *(("a", f"what is {i}", "no") for i in range(4)), *(("b", f"please tell {i}", f"{i}") for i in range(6))
    )
    scores = score_rows(rows, [LostRow("1", "what is this", "x", "no")])
    found = {group.kind: group for group in rank_groups(rows, scores)}
    assert (found["source"].value, found["answer"].value, found["template"].value) == ("a", "no", "what is …")
    assert {group.numbers for group in found.values()} == {(1, 2, 3, 4)}
    assert "group" not in found


def test_by_suspects_a_whole_group(project: Project) -> None:
    """With --by the rows of the first group of these kinds are the suspects."""
    told = json.loads(run_and_blame(write_learner(project), "--by", "answer", "--json").out)
    assert [row["answer"] for row in told["suspects"]] == ["wrong"] * len(WRONG)
    assert {group["kind"] for group in told["groups"]} == {"answer"}


def test_options_of_the_run_are_given_again(project: Project) -> None:
    """What --set changed is named by the user again; of a gate without a baseline the rows that fail it are lost."""
    suite = write_learner(project, more='[[gate]]\nid = "floor"\nmetric = "qa.exact_match"\nmin = 0.8\n')
    folder = suite.run("--no-export", "--set", "train.harm=0.06").report.folder
    words = ("blame", "suite.toml", folder, "--gate", "floor", "--rows", "6", "--json")
    outcome = project.harness(*words)
    assert (outcome.code, "the run was made with --set train.harm=0.06" in outcome.err) == (4, True), outcome.err
    outcome = project.harness(*words, "--set", "train.harm=0.06")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert [row["answer"] for row in told["suspects"] + told["lost"]] == ["wrong"] * (6 + len(told["lost"]))
    assert len(told["lost"]) > len(told["suspects"])


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--gate", "forgetting"), 'has no verdict of "forgetting" on merged; did you mean "no forgetting"?'),
        ((*GATE, "--rows", "0"), "--rows is 0; it must be from 1 to half of the 86 training rows"),
        ((*GATE, "--rows", "44"), "--rows is 44"),
        ((*GATE, "--share", "0.6"), "--share is 0.6; it must be above 0 and at most 0.5"),
        ((*GATE, "--share", "nan"), "--share is nan"),
        ((*GATE, "--by", "colour"), '"colour" is not one of source, group, template, answer'),
        ((*GATE, "--by", "group"), "--by group: no group of at most half of the training rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(project: Project, flags: tuple[str, ...], why: str) -> None:
    """With what to do instead."""
    outcome = run_and_blame(write_learner(project), gate=flags)
    assert (outcome.code, why in outcome.err) == (4, True), outcome.err


def test_a_gate_that_passed_and_another_suite_are_refused(project: Project) -> None:
    """There is nothing to look for; and what is no longer the suite of a run cannot be opened as it."""
    outcome = run_and_blame(write_learner(project, wrong=0))
    assert (outcome.code, 'gate "no forgetting" passed' in outcome.err) == (4, True), outcome.err
    folder = project.run("--no-export").report.folder
    project.write({"suite.toml": (project.folder / "suite.toml").read_text("utf-8").replace("0.05", "0.01")})
    outcome = project.harness("blame", "suite.toml", folder, *GATE)
    assert (outcome.code, "differs from the suite of" in outcome.err) == (4, True), outcome.err


def test_a_candidate_from_elsewhere_has_no_training_rows(project: Project) -> None:
    """Nothing was trained, so nothing can be left out."""
    suite = write_learner(project)
    folder = suite.run("--candidate", str(project.folder / "base"), "--no-export").report.folder
    outcome = project.harness("blame", "suite.toml", folder, *GATE)
    assert (outcome.code, "blame needs the run of a suite with [train]" in outcome.err) == (4, True), outcome.err


PLANTED = "from pathlib import Path\n\nPath(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize(
    "invocation",
    [{"-p": ["planted"]}, {"--set": 5}, {"--limit": "x"}, {"--ignore": [["x"]]}, {"--set": ["train.harm=0.9"]}],
)
def test_a_run_folder_runs_nothing(project: Project, invocation: dict[str, object]) -> None:
    """A suite, a harnessfile and a module in a run folder stay data, and so do the options that its report names."""
    folder = Path(write_learner(project).run("--no-export").report.folder)
    report = json.loads((folder / "report.json").read_text("utf-8"))
    report |= {"path": f"{folder.name}/suite.toml", "invocation": invocation}
    (folder / "report.json").write_text(json.dumps(report), "utf-8")
    shutil.copy(project.folder / "suite.toml", folder)
    for name in ("harnessfile.py", "planted.py"):
        (folder / name).write_text(PLANTED, "utf-8")
    outcome = project.harness("blame", "suite.toml", str(folder), *GATE)
    assert outcome.code == (0 if "--limit" not in invocation else 4), outcome.err
    assert not (folder / "ran").exists()
