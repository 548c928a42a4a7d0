"""How answers ended: told by the loader, kept with the rows, and asked for once where an older cache does not know."""

from __future__ import annotations

import copy
import json
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import Completion
from harness.answers.cache import CachedSubject, StageModels
from harness.answers.store import Responses, _compute_checksum
from harness.evaluation.evaluate import FinishReasonRecorder
from harness.internals import generate_final_answers
from harness.records.completion import completion_from_json, completion_to_json, format_finish_reasons
from harness.records.models import ModelRef
from harness.testing import ROWS, SUITE, TRAIN, Project
from tests.helpers.endings import HARNESSFILE

ABOUT = ("finish_reason", "tokens", "thought_tokens", "forced", "lost")


def write_telling_suite(project: Project, suite: str = SUITE, **options: int) -> Project:
    """Write a suite whose models tell how their answers ended."""
    said = "\n".join(f"{name} = {value}" for name, value in options.items())
    suite = suite.replace('use = "fake"\npath', f'use = "telling"\n{said}\npath')
    return project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": HARNESSFILE})


def read_newest_rows(project: Project, subject: str) -> list[dict[str, Any]]:
    """Read the newest samples file of a subject."""
    path = max(project.folder.glob(f"reports/*/{subject}/samples_*"), key=lambda p: p.stat().st_mtime_ns)
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class Model:
    """Answers as somebody scripted it; the name of what is asked is the ending."""

    name, digest = "base", "d"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, prompts: list[str], **_: Any) -> list[str]:
        """Say which prompt it was, and end as that says."""
        self.asked += prompts
        return [Completion(f"to {p}", p.split()[0], 3) if " " in p else f"to {p}" for p in prompts]  # type: ignore[arg-type]


def test_an_answer_is_a_text_that_knows_its_end() -> None:
    """It equals its text, hashes like it, and keeps what it knows through a copy, a pickle and JSON."""
    said = Completion("a", "length", 7, 2, True, 5)
    assert said == "a" and hash(said) == hash("a") and {"a": 1}[said] == 1 and json.dumps(said) == '"a"'
    for one in (
        copy.deepcopy(said),
        pickle.loads(pickle.dumps(said)),
        completion_from_json(json.loads(json.dumps(completion_to_json(said)))),
    ):
        assert type(one) is Completion and one == "a"
        assert [getattr(one, name) for name in ABOUT] == ["length", 7, 2, True, 5]
    assert completion_to_json("a") == "a" == completion_from_json("a") and Completion.of("a").finish_reason == ""
    assert (
        format_finish_reasons({"eos": 361, "stop": 8, "length": 30, "context": 1})
        == "ended 361 · stop 8 · truncated 31"
    )


def test_of_several_answers_the_worst_counts() -> None:
    """And what was heard is told once; a prompt that nobody asked has no ending."""
    heard: Any = FinishReasonRecorder(Model())  # type: ignore[arg-type]
    answers = iter([Completion("a", "eos"), Completion("b", "length"), Completion("c", "stop")])
    heard._subject.generate = lambda prompts, **_: [next(answers) for _ in prompts]
    heard.generate(["x", "y"])
    heard.generate(["y"])
    assert [s and s.finish_reason for s in heard.pop_completions(["y", "x", "z"])] == ["length", "eos", None]
    assert heard.pop_completions(["y"]) == [None]


def test_an_older_cache_is_asked_again_once_where_an_ending_is_needed(tmp_path: Path) -> None:
    """A text alone is an answer of which nobody knows how it ended; one that a loader will never tell is asked once."""
    model = Model()

    def subject() -> CachedSubject:
        @contextmanager
        def load() -> Iterator[list[Any]]:
            yield [model]

        responses = Responses(tmp_path / "cache.sqlite", lambda warning: None)
        return CachedSubject(ModelRef("base", "x", "d"), "weights", StageModels(load), 0, responses)

    old = subject()
    asked = (64, [], False)
    for prompt in ("eos a", "silent"):
        old.responses.store(old._key("generate", prompt, asked, None, None), f"to {prompt}")
    old.responses.flush()
    assert old.generate(["eos a", "silent"]) == ["to eos a", "to silent"] and not model.asked
    for times in range(2):
        again = subject()
        again.wants_endings = True
        found = again.generate(["eos a", "silent"])
        assert found == ["to eos a", "to silent"] and [Completion.of(a).finish_reason for a in found] == ["eos", ""]
        assert model.asked == ["eos a", "silent"]
        assert again.found == 2 * times


@pytest.mark.slow
def test_rows_tell_how_their_answers_ended(project: Project) -> None:
    """Samples and evidence carry it, from the model and from the cache; what tells nothing has no key for it."""
    write_telling_suite(project, cut=5)
    assert project.run().code == 0
    for _ in range(2):
        found = read_newest_rows(project, "merged")
        assert [row["finish_reason"] for row in found] == ["length"] * 5 + ["eos"] * 55
        assert [row["tokens"] for row in found] == [32] * 5 + [2] * 55
        assert project.run().code == 0
    lines = (project.folder / "exports/fake/evidence/items.jsonl").read_text("utf-8").splitlines()
    told_ = [json.loads(line) for line in lines]
    assert {(r["finish_reason"], r["tokens"]) for r in told_ if r["item"] == "merged::qa"} == {
        ("length", 32),
        ("eos", 2),
    }
    assert project.harness("verify", "exports/fake").code == 0
    project.write({"suite.toml": SUITE}).run()
    assert not any("finish_reason" in row or "tokens" in row for row in read_newest_rows(project, "merged"))


@pytest.mark.slow
def test_a_run_says_how_answers_ended(project: Project) -> None:
    """In a line where some did not end by themselves, and on its page; a check says what to do."""
    write_telling_suite(project, cut=12, base_cut=60)
    done = project.run()
    assert done.out.count("    ended 48 · truncated 12\n") == 2 and "    truncated 60\n" in done.out
    said = (
        '"merged::qa": 12 of 60 answers were truncated at 32 tokens; their exact_match is 1.00, that of the others 0.88'
    )
    assert f"cut-answers: {said}" in done.out
    assert "complete answers have at most 2 tokens (p99), so more would not help" in done.out
    assert "check that the model generates a stop token" in done.out
    folder = next(project.folder.glob("reports/*"))
    assert project.harness("report", str(folder)).code == 0
    page = (folder / "report.html").read_text("utf-8")
    assert "merged::qa ended 48 · truncated 12" in page
    done = write_telling_suite(project, cut=0, empty=2).run()
    assert "    ended 60" not in done.out and "E2" not in done.out and "E3" not in done.out
    assert '"merged::qa": 3 of 60 answers are empty' in write_telling_suite(project, empty=3).run().out


@pytest.mark.slow
def test_workers_and_no_cache_change_nothing(project: Project) -> None:
    """Two workers, or nobody who remembers, tell the same endings."""
    write_telling_suite(project, cut=5)
    seen = []
    for flags in (["--no-cache"], ["--on", "local:2"]):
        assert project.run(*flags).code == 0
        seen.append([row["finish_reason"] for row in read_newest_rows(project, "merged")])
    assert seen[0] == seen[1] == ["length"] * 5 + ["eos"] * 55


def test_a_thought_keeps_its_end() -> None:
    """What is said after a thought is another text, and the whole answer still knows how it ended."""
    said = generate_final_answers(Model(), ["length a"], thought=["<t>", "</t>"])  # type: ignore[arg-type]
    assert Completion.of(said[0][1]).finish_reason == "length"


GATE = '\n[[gate]]\nid = "ends"\nmetric = "qa.{}"\nmax = {}\n'


@pytest.mark.slow
def test_a_gate_on_endings_is_a_gate_as_any_other(project: Project) -> None:
    """What was cut, or says nothing, is counted, proved and recomputed; where nobody tells it is an ERROR."""
    gates = SUITE + GATE.format("cut", 0.1) + GATE.format("empty", 0.5).replace("ends", "speaks")
    for cut, outcome in ((0, "PASS"), (20, "FAIL")):
        write_telling_suite(project, gates, cut=cut, empty=5)
        done = project.run()
        assert done.verdict("ends") == outcome and done.verdict("speaks") == "PASS"
        report = next(r for r in done.report.results if r.subject == "merged")
        assert (report.metrics["cut"], report.metrics["empty"]) == (cut / 60, 5 / 60)
        assert [*report.metrics] == ["exact_match", "cut", "empty"]
    write_telling_suite(project, gates, empty=5)
    assert project.run().code == 0
    assert "3 of 3 decided again from their rows" in project.harness("verify", "exports/fake").out
    project.write({"suite.toml": gates})
    done = project.run()
    assert done.verdict("ends") == done.verdict("speaks") == "ERROR"
    assert "cut is not a finite number on 60 rows" in done.out


def test_an_evaluators_own_metric_wins(project: Project) -> None:
    """One that is called "cut" is what its evaluator says, and one that asks for no answers has none."""
    own = """
from harness import Score, hookimpl, metric

@metric("cut", better="higher", scale="proportion")
def haircut(subject, samples, *, max_new_tokens: int = 8):
    subject.generate([s.input for s in samples])
    for s in samples:
        yield Score(s.id, {"cut": 1.0})

@hookimpl
def harness_evaluators():
    return {"haircut": haircut}
"""
    suite = SUITE.replace("exact_match", "haircut", 1).replace("qa.exact_match", "qa.cut")
    write_telling_suite(project, suite, cut=5)
    project.write({"harnessfile.py": HARNESSFILE + own})
    done = project.run()
    assert done.verdict("floor") == "PASS" and {row["cut"] for row in read_newest_rows(project, "merged")} == {1.0}
    write_telling_suite(project, SUITE.replace("exact_match", "multiple_choice") + GATE.format("cut", 0.1))
    assert 'eval "qa" has no metric "cut"' in project.run().err


VERSUS = """
[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.1
cut_at_most = 0.05
"""


@pytest.mark.slow
def test_a_guard_keeps_a_gate_undecided(project: Project) -> None:
    """Answers of either side that were cut beyond its share say INCONCLUSIVE, and which losses are among them."""
    most = "the allowed share of 0.05"
    for cut, base_cut, says in (
        (3, 3, ""),
        (4, 0, f"merged: 4 of 60 answers were truncated, more than {most}; raise max_new_tokens"),
        (0, 60, f"base: 60 of 60 answers were truncated, more than {most}; 43 of its 43 losses are among them"),
    ):
        done = write_telling_suite(project, SUITE + VERSUS, cut=cut, base_cut=base_cut).run()
        [verdict] = [v for v in done.report.verdicts if (v.gate, v.candidate) == ("better", "merged")]
        assert verdict.outcome == ("INCONCLUSIVE" if says else "PASS") and says in verdict.why
        assert verdict.claim == "better than base by 0.1, at most 0.05 of the answers truncated"
    half = write_telling_suite(project, SUITE + VERSUS + 'slice = "kind=a"\nmin_n = 20\n', base_cut=60).run()
    assert "of its 21 losses are among them" in next(v.why for v in half.report.verdicts if v.gate == "better")
    write_telling_suite(project, SUITE + VERSUS + 'severity = "warn"', base_cut=60).run()
    assert "2 of 2 decided again from their rows" in project.harness("verify", "exports/fake").out
    project.write({"suite.toml": SUITE + VERSUS})
    assert "the finish reason of 60 of 60 answers is unknown" in project.run().out


@pytest.mark.slow
def test_thoughts_are_guarded_by_themselves(project: Project) -> None:
    """A cut thought is never an answer: more than one in twenty, and no gate on the evaluation is decided."""
    suite = SUITE.replace('data = "test', 'thought = ["<t>", "</t>"]\ndata = "test')
    for empty, outcome in ((3, "PASS"), (4, "INCONCLUSIVE")):
        done = write_telling_suite(project, suite, cut=60, empty=empty).run()
        assert done.verdict("floor") == outcome
    assert "merged: 4 of 60 answers were truncated while reasoning, more than the allowed share of 0.05" in done.out
    write_telling_suite(project, suite.replace("min = 0.5", "min = 0.5\ncut_at_most = 1"), cut=60, empty=4)
    assert project.run().verdict("floor") == "PASS"
    project.write({"suite.toml": suite})  # whose loader tells nothing
    assert project.run().verdict("floor") == "PASS"


def test_a_guard_is_a_share_of_answers(project: Project) -> None:
    """What is none, or guards what asks for no answers, is told at collection."""
    write_telling_suite(project, SUITE + VERSUS.replace("0.05", "5"))
    assert "cut_at_most is 5; it must be a share of answers from 0 to 1" in project.run().err
    write_telling_suite(project, SUITE.replace("exact_match", "multiple_choice") + VERSUS.replace("exact_match", "acc"))
    assert 'cut_at_most: "multiple_choice" generates no answers that could be truncated; remove it' in project.run().err


def test_marked_answers_tell_how_they_ended(project: Project) -> None:
    """An evaluator that marks when the model is gone has the endings, and their metrics, as any other."""
    marker = """
from harness import Score, evaluator, hookimpl, metric

@evaluator(marks="answers")
@metric("right", better="higher", scale="proportion")
def marked(samples, answers, baseline_answers, *, marking, max_new_tokens: int = 8):
    for s, a in zip(samples, answers):
        yield Score(s.id, {"right": float(a == s.target)})

@hookimpl
def harness_evaluators():
    return {"marked": marked}
"""
    suite = SUITE.replace("exact_match", "marked", 1).replace("qa.exact_match", "qa.right")
    write_telling_suite(
        project, suite + GATE.format("cut", 0.3) + GATE.format("empty", 0.3).replace("ends", "speaks"), cut=6, empty=3
    )
    project.write({"harnessfile.py": HARNESSFILE + marker})
    assert project.run().code == 0
    assert [row["finish_reason"] for row in read_newest_rows(project, "merged")] == ["length"] * 6 + ["eos"] * 54
    assert [sum(row[name] for row in read_newest_rows(project, "merged")) for name in ("cut", "empty")] == [6, 3]


@pytest.mark.slow
def test_a_plan_knows_what_is_asked_again(project: Project) -> None:
    """Answers of which nobody knows how they ended are remembered, until a gate wants to know."""
    write_telling_suite(project, cut=5).run()
    db = sqlite3.connect(next(project.folder.glob("cache/responses.sqlite")))
    for key, value in db.execute("SELECT key, value FROM responses").fetchall():
        if isinstance(answer := json.loads(value), list):  # as versions before this one wrote it
            text = json.dumps(answer[0])
            db.execute(
                "UPDATE responses SET value = ?, checksum = ? WHERE key = ?", (text, _compute_checksum(key, text), key)
            )
    db.commit()
    db.close()
    for more, remembered in (("", 60), (GATE.format("cut", 0.2), 0), (GATE.format("cut", 0.2), 60)):
        write_telling_suite(project, SUITE + more, cut=5)
        planned = json.loads(project.harness("plan", "suite.toml", "--json").out)["workloads"]
        assert [one["cache_hits"] for one in planned if one["subject"] == "base"] == [remembered]
        if more:
            project.run()
