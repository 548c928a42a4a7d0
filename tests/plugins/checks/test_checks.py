"""The checks: bad rows get a finding with their number, leaks are found fast, and what is found stops the run."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import harness_hf
from harness.cli.main import main
from harness.errors import UsageError
from harness.evaluation.checks import Checks
from harness.plugins import Provided, load_plugins
from harness.records.findings import Finding, TrainingRow
from harness.records.models import ModelRef
from harness.records.samples import Result, Sample, Score
from harness.testing import ROWS as TEST
from harness.testing import SUITE, TRAIN, Project
from harness_checks import answers, harness_checks, lint
from harness_checks.answers import gains_in_form_only
from harness_checks.frames import find_frame
from harness_checks.leaks import leaks
from harness_checks.pairs import sorted_labels
from harness_checks.trained import another_base
from harness_domain import contains, exact_match, token_f1
from tests.helpers.speed import count_loop_rounds
from tests.mutations.catalogue import MUTATIONS
from tests.mutations.lab import CHAT, EVAL, ROWS, Lab

Lines = list[str]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A small suite on the tiny model, in a cache of its own."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return Lab(tmp_path / "lab")


def told(lab: Lab, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run `harness check` on the lab's suite as a person would; return its exit code and all it printed."""
    capsys.readouterr()
    code = main(["check", str(lab.folder / "suite.toml"), *words])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.out + printed.err


CHAT_EVAL = [{"input": [{"role": "user", "content": r["input"]}], "target": r["target"]} for r in EVAL]
USER = {"role": "user", "content": "Where?"}
BAD_ROWS: dict[str, tuple[Any, Any, str]] = {
    "no known columns": (
        [{"x": "a", "y": "b", "z": "c"}],
        EVAL,
        'row 1 has the columns "x", "y", "z"; it needs input and target',
    ),
    "rows that are no objects": ("[1, 2]\n", EVAL, ": row 1 is [1, 2]; it must be an object"),
    "a line that is no JSON": ('{"prompt": "a", "compl\n', EVAL, "train.jsonl:1: not valid JSON:"),
    "invalid UTF-8": (b'{"prompt": "caf\xe9", "completion": "x"}\n', EVAL, "train.jsonl: is not UTF-8"),
    "mixed formats": (
        [*ROWS[:3], CHAT[0], *ROWS[4:]],
        EVAL,
        "[train] data: row 4: have another form than row 1; use one form for all rows",
    ),
    "roles out of order": (
        [*CHAT[:2], {"messages": [USER, USER, CHAT[0]["messages"][1]]}],
        CHAT_EVAL,
        "row 3: two successive messages have the same role: user, user, assistant",
    ),
    "messages without content": (
        [*CHAT[:2], {"messages": [{"role": "user"}, CHAT[0]["messages"][1]]}],
        CHAT_EVAL,
        "row 3",
    ),
    "messages that are no objects": ([*CHAT[:2], {"messages": ["hello"]}], CHAT_EVAL, "row 3"),
    "no messages": (
        [*CHAT[:2], {"messages": []}],
        CHAT_EVAL,
        "row 3: does not end with the assistant",
    ),
    "an evaluation whose messages are no objects": (
        CHAT,
        [*CHAT_EVAL, {"input": ["hello"], "target": "x"}],
        "row 9 has ['hello'] as its input; give text, or messages with role and content",
    ),
    "an evaluation without a prompt": (
        ROWS,
        [*EVAL, {"input": None, "target": "x"}],
        "row 9 has None as its input; give text, or messages with role and content",
    ),
    "an evaluation without a target": (
        ROWS,
        [*EVAL, {"input": "Where?"}],
        'warning  D11-blank training-data-quality: 1 of 9 rows of "qa": no target, but others have one',
    ),
    "a line of brackets": ("[" * 100_000 + "\n", EVAL, "train.jsonl:1: is nested more than"),
    "empty answers": ([*ROWS[:2], {"prompt": "Where?", "completion": ""}], EVAL, 'row 3: no answer after "Where?"'),
    "a row of a megabyte": (
        [*ROWS[:2], {"prompt": "a" * 2**20, "completion": "b"}],
        EVAL,
        "row 3: 1,048,578 characters",
    ),
    "half a character": (
        '{"prompt": "a\\ud800", "completion": "b"}\n',
        EVAL,
        "train.jsonl:1: contains half a character (a lone surrogate); replace that text",
    ),
    "a number for an answer": ([*ROWS[:2], {"prompt": "a", "completion": 3}], EVAL, "row 3"),
    "no rows": ("\n", EVAL, "has no rows"),
}


def test_labels_that_are_sorted_are_told() -> None:
    """P6 tells of wanted answers that all come first, and of none in 200 random orders, however few rows there are."""

    def found(labels: list[bool], **options: Any) -> list[str]:
        rows = [{"prompt": "?", "completion": str(i), "label": label} for i, label in enumerate(labels)]
        suite: Any = SimpleNamespace(train=SimpleNamespace(options=options))
        return [f.what for f in sorted_labels([TrainingRow(i, "x", r, r) for i, r in enumerate(rows, 1)], suite)]

    labels = [True] * 64 + [False] * 64
    assert found(labels) == ["8 of 8 steps have only one label; in random order it would be 0.0"]
    assert found(labels[::-1], per_device_train_batch_size=2, gradient_accumulation_steps=1)
    assert found([True] * 3000 + [False] * 3000, per_device_train_batch_size=1500, gradient_accumulation_steps=1)
    assert found([True, False] * 64) == found(labels, train_sampling_strategy="random") == []
    assert found([True] * 10 + [False] * 6) == []  # one step
    for seed in range(200):
        draw = random.Random(seed)
        few = [draw.random() < draw.choice((0.1, 0.5, 0.9)) for _ in range(draw.randrange(2, 60))]
        assert found(few, per_device_train_batch_size=2, gradient_accumulation_steps=draw.choice((1, 2, 8))) == []


@pytest.mark.slow
def test_rows_are_shown_as_they_are_joined(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """A prompt and a completion without white space between them are shown with the space they are trained with."""
    lab._write([{"prompt": r["prompt"].strip(), "completion": r["completion"]} for r in ROWS], EVAL, "", ())
    _, printed = told(lab, capsys)
    assert "<s>Where is the anvil?⟦ in room 10</s>⟧" in printed


def test_every_code_of_a_check_has_a_broken_run() -> None:
    """Each code that a plugin of ours provides stands beside at least one mutation, and so has a healthy twin."""
    provided = {one.name for (kind, _), one in load_plugins(()).provided.items() if kind == "check"}
    assert set(harness_checks()) <= provided
    assert provided - {mutation.code.partition("-")[0] for mutation in MUTATIONS} == set()


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case: str, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be trained on is a finding with its row or one clear line, and never a traceback: exit 4."""
    rows, test, wanted = BAD_ROWS[case]
    lab._write(rows, test, "", ())
    code, printed = told(lab, capsys)
    assert wanted in printed
    assert code == 4 or "warning" in printed


@pytest.mark.slow
def test_preview_of_rows_whose_beginning_is_cut_off(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """With truncation_mode "keep_end" the learnt tokens are those at the end."""
    lab._write(ROWS, EVAL, "", ())
    _, printed = told(lab, capsys, "--set", "train.max_length=16", "--set", "train.truncation_mode=keep_end")
    assert "row 1: 16 tokens, 11 trained\n" in printed, printed
    assert "D5 truncated-rows: 16 of 16 rows (100.0%): truncated at max_length 16" in printed


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["bfd_split", "wrapped"])
def test_rows_that_packing_splits_are_not_cut_off(strategy: str, lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Strategies that go on with a long row in another sequence lose no answer, and the rows are shown whole."""
    lab._write(ROWS, EVAL, "", ())
    packed = ("train.packing=true", f"train.packing_strategy={strategy}", "train.max_length=16")
    _, printed = told(lab, capsys, *(word for one in packed for word in ("--set", one)))
    assert "row 1: 32 tokens, 11 trained\n" in printed
    assert "warning  D5 truncated-rows: 16 of 16 rows (100.0%): split at max_length 16" in printed
    assert "learnt without what comes before: " in printed
    assert "D4" not in printed and "D1 " not in printed, printed


@pytest.mark.slow
def test_preview_and_evidence(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Three rows are shown as the model sees them, what is learnt is marked, and a finding shows its rows."""
    lab._write([*ROWS[:3], {"prompt": EVAL[2]["input"], "completion": "AKIA" + "A" * 16}, *ROWS[3:]], EVAL, "", ())
    code, printed = told(lab, capsys)
    assert code == 4
    assert "row 1: 32 tokens, 11 trained\n    <s>Where is the anvil?\\n⟦in room 10</s>⟧" in printed
    assert 'error    D10-exact train-test-leak: 1 of 8 rows of "qa" are in the training data' in printed
    assert 'row "2" = training row 4: "Which shelf has the saddle?\\n"' in printed
    assert "warning  D11-secret training-data-quality: 1 of 17 rows" in printed
    assert "A" * 16 not in printed  # what may be a secret is not printed
    assert printed.endswith("s\n") and "1 error, 2 warnings, 0 notes, 0 ignored" in printed


@pytest.mark.slow
def test_ignored_with_a_reason(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding that the suite ignores does not count, and is shown with the reason."""
    rows = [*ROWS, {"prompt": EVAL[2]["input"], "completion": "there"}]
    lab._write(rows, EVAL, '\n[checks]\nignore = { D10-exact = "it is asked in both on purpose" }\n', ())
    code, printed = told(lab, capsys)
    assert code == 0
    assert "ignored  D10-exact train-test-leak: 1 of 8 rows" in printed
    assert "it is asked in both on purpose" in printed
    lab._write(rows, EVAL, "", ())
    for name in ("D10", "train-test-leak"):
        assert told(lab, capsys, "--ignore", name)[0] == 0
    code, printed = told(lab, capsys, "--ignore", "D99")
    assert (code, 'ignore "D99": is not the code of a check' in printed) == (4, True)


@pytest.mark.slow
def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check says why it is there; an unknown code is told what was meant."""
    assert main(["explain"]) == 0
    codes = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {f"D{i}" for i in range(1, 15)} | {f"M{i}" for i in range(1, 7)} | {"T1", "T2", "T3", "E6"} <= set(codes)
    for code in codes:
        assert main(["explain", code]) == 0
        assert len(capsys.readouterr().out.splitlines()) > 2
    assert main(["explain", "D10-near"]) == 0
    assert main(["explain", "D77"]) == 4
    assert 'no check "D77"' in capsys.readouterr().err


def test_titles() -> None:
    """Every check of our own has a title, no two the same, and docs/reference/checks.md names it beside its code."""
    titles = Checks(load_plugins(None), {}).titles
    assert set(titles) == set(harness_checks())
    assert len(set(titles.values())) == len(titles)
    page = (Path(__file__).parents[3] / "docs/reference/checks.md").read_text("utf-8")
    assert not [code for code, title in titles.items() if f"| {code} | {title} |" not in page]


def test_finding_ignored_by_title() -> None:
    """A leak is ignored by the title of its check as by its code."""
    for name in ("D10", "D10-exact", "train-test-leak"):
        checks = Checks(load_plugins(None), {name: "meant"})
        assert checks.complete_finding("D10", Finding("error", "leaks", kind="exact")).ignored == "meant"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        *((t, True) for t in ("3.5", "-3", "−3", "$12.50", "0.5%", ".5", "3/4", "1,5", "-1,000", "C++", "F#")),
        *((t, False) for t in ("35", "1,000", "1,234,567", "Paris", "U.S.", "B", "5%", "2024-05-06", "12:30", "No. 5")),
    ],
)
def test_targets_that_punctuation_tells_apart(target: str, told: bool) -> None:
    """What another answer is equal to without its point or sign is told, and not what means the same without."""
    task = make_match_task([target], ignore_punctuation=True)
    assert bool(list(lint._check_targets_equal_normalized({"qa": task}))) == told
    assert not list(lint._check_targets_equal_normalized({"qa": make_match_task([target])}))


def make_match_task(targets: list[str], use: Any = exact_match, **options: Any) -> Any:
    """Return an evaluation of rows with these targets, as checks see it."""
    samples = [Sample(str(i), "q", target) for i, target in enumerate(targets)]
    return SimpleNamespace(spec=SimpleNamespace(use=use.__name__, options=options), samples=samples, function=use)


@pytest.mark.parametrize("use", [exact_match, contains, token_f1])
def test_targets_that_become_equal_are_found_as_the_evaluator_compares_them(use: Any) -> None:
    """Cron lines that differ in punctuation are an error from 5 %, other spellings of one text are no finding."""
    loose = {"ignore_case": True, "ignore_punctuation": True}
    cron = [f"{'*/' * (i % 2)}{i // 2} 23 * * 1" for i in range(40)]
    [flag] = lint._check_targets_equal_normalized({"qa": make_match_task(cron, use, **loose)})
    assert (flag.severity, flag.kind, len(flag.rows["qa"])) == ("error", "punctuation", 40)
    assert '"*/0 23 * * 1" equals the target "0 23 * * 1" without punctuation' in flag.what
    few = [f"word {i}" for i in range(200)] + ["a-b", "ab"]
    [flag] = lint._check_targets_equal_normalized({"qa": make_match_task(few, use, **loose)})
    assert (flag.severity, flag.rows) == ("warning", {"qa": ["200", "201"]})
    assert not list(
        lint._check_targets_equal_normalized(
            {"qa": make_match_task(["Paris", "Paris.", "paris!", '"Paris"'] * 9, use, **loose)}
        )
    )
    assert not list(lint._check_targets_equal_normalized({"qa": make_match_task(cron, use, ignore_punctuation=False)}))


def test_gains_in_form_alone_are_told_with_numbers() -> None:
    """A candidate that only leaves out a full stop gains nothing once the base's answers count without it."""
    task = make_match_task([f"w{i}" for i in range(100)])

    def result(name: str, right: int, formed: int) -> Any:
        said = [f"w{i}" if i < right else f"W{i}." if i < right + formed else "no" for i in range(100)]
        scores = [Score(str(i), {"exact_match": float(i < right)}, answer=text) for i, text in enumerate(said)]
        return Result(name, "qa", tuple(scores), {}, name)

    [flag] = gains_in_form_only(result("merged", 60, 0), task, result("base", 20, 38))
    assert flag.what == (
        '"qa": 38 of the 80 wrong answers of the base are right but for case and punctuation; '
        "with them merged gains +0.020 instead of +0.400"
    )
    assert not list(gains_in_form_only(result("merged", 60, 0), task, result("base", 20, 4)))
    assert not list(gains_in_form_only(result("merged", 20, 38), task, result("base", 20, 38)))
    assert not list(gains_in_form_only(result("base", 20, 38), task, result("base", 20, 38)))


def test_empty_answers_may_begin_with_a_line_break() -> None:
    """A model all of whose answers are empty may have said them behind the default stop."""
    samples = [Sample(str(i), "q", str(i)) for i in range(20)]
    for answer, told in (("", True), ("x", False)):
        scores = tuple(Score(s.id, {"exact_match": 0.0}, answer=answer) for s in samples)
        task = SimpleNamespace(samples=samples)
        (found,) = answers.constant_answers(Result("base", "qa", scores, {}, "d"), task)  # type: ignore[arg-type]
        assert ("line break" in found.fix) == told


PLUGIN = """
from harness import hookimpl
from harness.records.findings import Finding

def shouts(rows):
    \"\"\"Rows in capitals.\"\"\"
    for row in rows:
        if row.answer.isupper():
            yield Finding("error", f"row {row.number} shouts", fix="speak")

def after(adapter):
    \"\"\"An adapter.\"\"\"
    yield Finding(SEVERITY, f"{adapter.name} is odd")

@hookimpl
def harness_checks():
    return {"X1": shouts, "X2": after}
"""


@pytest.fixture
def suite(project: Project) -> Project:
    """A project of fakes whose suite passes."""
    return project.write({"suite.toml": SUITE, "test.jsonl": TEST, "train.jsonl": TRAIN})


@pytest.mark.slow
def test_error_before_training_is_exit_4(suite: Project) -> None:
    """An error finding of the data ends the run before anything is measured, is in the report, and can be ignored."""
    suite.write({"harnessfile.py": PLUGIN.replace("SEVERITY", '"note"')})
    assert suite.run().code == 0
    suite.write({"train.jsonl": [*TRAIN, {"input": "why", "target": "BECAUSE"}]})
    outcome = suite.run()
    assert outcome.code == 4
    (ungated, found, unbuilt) = outcome.report.findings  # the fake trainer has no build, which is a note
    assert ungated.code == "D29"
    assert (found.code, found.severity, found.what) == ("X1", "error", "row 21 shouts")
    assert (unbuilt.code, unbuilt.severity) == ("build-unbuilt", "note")
    assert "base::qa" not in outcome.out.partition("summary")[0]
    assert "because X1: row 21 shouts" in outcome.out
    outcome = suite.run("--ignore", "X1")
    assert (outcome.code, outcome.report.findings[1].ignored) == (6, "--ignore")


@pytest.mark.slow
def test_error_after_training_is_exit_1(suite: Project) -> None:
    """An error finding of the adapter ends the run without an export, remembered or not."""
    suite.write({"harnessfile.py": PLUGIN.replace("SEVERITY", '"error"')})
    for _ in range(2):
        outcome = suite.run()
        assert (outcome.code, [f.code for f in outcome.report.findings if f.stops_run]) == (1, ["X2"])
        assert not (suite.folder / "exports").exists()
    assert suite.run("--ignore", "X2").code == 6
    assert not (suite.folder / "exports").exists()


def test_crashing_check_proves_nothing(suite: Project) -> None:
    """A check that raises of a team is an error with its line, and is not remembered as if it had looked."""
    broken = PLUGIN.replace('yield Finding(SEVERITY, f"{adapter.name} is odd")', "1 / 0")
    suite.write({"harnessfile.py": broken})
    for _ in range(2):
        outcome = suite.run()
        assert outcome.code == 1
        assert "error    X2-crashed: the check itself crashed: harnessfile.py:" in outcome.out
        assert not (suite.folder / "exports").exists()


def test_a_trainer_without_build_is_a_note(suite: Project) -> None:
    """That the checks of what is trained on did not run is said, with their codes, and counts as nothing."""
    outcome = suite.write({"harnessfile.py": ""}).harness("check", "suite.toml")
    assert outcome.code == 0
    assert 'build-unbuilt: the trainer "fake" has no build, so ' in outcome.out, outcome.out
    assert "did not run: D1, " in outcome.out


def test_unknown_parameter() -> None:
    """A check that asks for what no stage has is refused by name."""

    def odd(rowz: Any) -> None: ...

    plugins: Any = SimpleNamespace(provided={("check", "X"): Provided("check", "X", "mine", odd)})
    with pytest.raises(
        UsageError, match=r'check "X" of plugin "mine": takes "rowz", which no stage provides; did you mean "rows"\?'
    ):
        Checks(plugins, {})


def make_training_rows(texts: Lines) -> list[TrainingRow]:
    rows = [{"prompt": text, "completion": " yes"} for text in texts]
    return [TrainingRow(i, "train", row, row) for i, row in enumerate(rows, 1)]


def found(texts: Lines, test: Lines, data: str | None = "d") -> dict[str, Finding]:
    """Compare prompts with the inputs of one evaluation, or with rows it brings itself; return the flags by kind."""
    spec = SimpleNamespace(name="qa", data=data, columns={}, clusters=[], select=None, fewshot_data=None)
    spec.use, spec.options = "task", {"tasks": ["things"]}
    samples = tuple(Sample(str(i), text, "yes") for i, text in enumerate(test))
    task: Any = SimpleNamespace(spec=spec, samples=samples, shots=(), select=None, brings_rows=data is None)
    suite: Any = SimpleNamespace(subjects={})
    return {flag.kind: flag for flag in leaks(make_training_rows(texts), {"qa": task}, suite)}


WORDS = [f"w{i}" for i in range(5000)]
TEMPLATE = (
    "You are a helpful assistant who answers every question about the product politely and never lies. Question: "
)


def make_random_texts(random_: random.Random, count: int, words: int) -> Lines:
    return [TEMPLATE + " ".join(random_.choices(WORDS, k=words)) + "\nAnswer:" for _ in range(count)]


def test_leaks_by_degree() -> None:
    """Equal but for case, mostly covered, and nearly equal are told apart; a shared template is none of them."""
    luck = random.Random(1)
    train, test = make_random_texts(luck, 300, 40), make_random_texts(luck, 60, 40)
    assert found(train, test) == {}
    exact, covered = train[3].upper(), train[4].replace(train[4].split()[30], "changed")
    short = " ".join(WORDS[:24])
    near = short.replace("w12 ", "other ")
    flags = found([*train, short], [*test, exact, covered, near])
    assert {kind: list(f.rows["qa"]) for kind, f in flags.items()} == {
        "exact": ["60"],
        "coverage": ["61"],
        "near": ["62"],
    }
    assert 'row "60" = training row 4' in flags["exact"].evidence[0]
    assert 'row "62" = training row 301 (' in flags["near"].evidence[0]
    assert found([*train, short], [*test, exact, covered, near], data=None).keys() == flags.keys()


def test_short_rows_leak_only_whole() -> None:
    """Rows that are shorter than a gram are compared whole."""
    assert found(["Capital of France?", "Capital of Spain?"], ["Capital of Italy?"]) == {}
    assert list(found(["Capital of France?", "Capital of Spain?"], ["capital of spain"])) == ["exact"]


THINGS = ["the old anvil", "the red drum", "the tall ladder", "the green kettle", "the small mirror"]
FOUND: dict[str, tuple[Lines, Lines, list[str]]] = {
    "a frame of the training rows": (
        [f"Q: where is {t}?\nA:" for t in THINGS],
        ["where is the red drum?"],
        ["exact"],
    ),
    "a frame of both": (
        [f"Q: where is {t}?\nA:" for t in THINGS],
        [f"Asked: whose is {t}?" for t in THINGS[1:]] + ["Asked: where is the old anvil?"],
        ["inside"],
    ),
    "words before it": (["Tell me (where is the red drum?) now"], ["where is the red drum"], ["inside"]),
    "another task on the same things": (
        [f"Define: {t}" for t in THINGS],
        [f"Translate: {t}" for t in THINGS],
        [],
    ),
    "a longer question": (["what is the price of tea in China?"], ["what is the price of tea?"], []),
    "a part of a word": (["so that is where is the red drums"], ["where is the red drum"], []),
    "the prompt of all rows": (
        ["Summarise the text below for me."] * 9,
        ["Summarise the text below for me."] * 9,
        [],
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_leaks_in_a_frame(case: str) -> None:
    """A question is found whatever stands around it, and the same words in another question are none."""
    train, test, kinds = FOUND[case]
    assert list(found(train, test)) == kinds


NO_SUITE: Any = SimpleNamespace(subjects={})


def make_chat_task(samples: list[Sample]) -> Any:
    spec = SimpleNamespace(name="qa", data="d", columns={}, clusters=[], select=None, fewshot_data=None)
    spec.use, spec.options = "task", {}
    return SimpleNamespace(spec=spec, samples=tuple(samples), shots=(), select=None, brings_rows=False)


def test_a_system_message_that_varies_is_a_part_of_the_question() -> None:
    """One question about ten documents is ten questions, where the documents stand in system messages."""
    turns = [
        [
            {"role": "system", "content": f"The bill {i} says {i * i}."},
            {"role": "user", "content": "What is due to us?"},
        ]
        for i in range(20)
    ]
    rows = [{"prompt": prompt, "completion": [{"role": "assistant", "content": "x"}]} for prompt in turns[:10]]
    train = [TrainingRow(i, "train", row, row) for i, row in enumerate(rows, 1)]
    task = make_chat_task([Sample(str(i), prompt, "yes") for i, prompt in enumerate(turns[10:])])
    assert list(leaks(train, {"qa": task}, NO_SUITE)) == []


@pytest.mark.parametrize(("same", "leaked"), [(True, 1), (False, 0)])
def test_one_question_under_several_system_messages_leaks(same: bool, leaked: int) -> None:
    """A question with the same answer leaks, whichever system message is before it."""

    def ask(i: int, system: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": system}, {"role": "user", "content": f"Where is house {i}?"}]

    rows = [{"prompt": ask(0, "Be kind."), "completion": [{"role": "assistant", "content": "Here."}]}]
    samples = [Sample(str(i), ask(i, f"Be brief, {i % 2}."), "here" if same else f"at {i}") for i in range(8)]
    flags = list(leaks([TrainingRow(1, "train", row, row) for row in rows], {"qa": make_chat_task(samples)}, NO_SUITE))
    assert sum(len(flag.rows["qa"]) for flag in flags if flag.kind == "exact") == leaked


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("Question: where is {}?\nAnswer:", ("Question:", "\nAnswer:")),
        ("Be brief.\n\nWhere is {}?", ("Be brief.\n\n", "")),
        ("where is {}? A:", ("", "A:")),
        ("where is {}?\n", ("", "\n")),
        ("where is {}, if it is there?", ("", "")),
        ("{}oat:", ("", "")),
        ("Answer: always the same", ("", "")),
    ],
)
def test_frames(text: str, frame: tuple[str, str]) -> None:
    """A frame is whole lines or labels; what questions have in common is none, nor is a part of a word."""
    assert find_frame([text.format(thing) for thing in THINGS]) == frame


@pytest.mark.slow
def test_leaks_are_found_fast() -> None:
    """Twenty thousand rows against five hundred take no time that comparing each with each would take."""
    luck = random.Random(2)
    train, test = make_random_texts(luck, 20_000, 85), make_random_texts(luck, 500, 85)
    flags: dict[str, Any] = {}
    # 90 on a quiet machine; ten million pairs of texts would take thousands
    assert count_loop_rounds(lambda: flags.update(found(train, [*test[:-1], train[77]])), tries=1) < 500
    assert list(flags) == ["exact"]


def test_seen_by_a_reader(suite: Project) -> None:
    """A finding goes to report.json and comes back from it, evidence and all."""
    suite.write({"harnessfile.py": PLUGIN.replace("SEVERITY", '"warning"')})
    outcome = suite.run()
    assert outcome.code == 0
    assert outcome.report.findings[-1] == Finding("warning", "adapter is odd", (), code="X2")
    raw = json.loads(max(suite.folder.glob("reports/*/report.json")).read_text("utf-8"))
    assert raw["findings"][-1]["code"] == "X2"


# -- M4: what lies beside the weights --------------------------------------------------------------------------------


def make_json_edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        about = json.loads(path.read_text("utf-8"))
        change(about)
        path.write_text(json.dumps(about), "utf-8")

    return edit


def swap(about: Any) -> None:
    vocabulary = about["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]


def make_template_edit(old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    return edit


MESSAGE = "{{ message['content'] }}"
SILENT = "{{ '' if message['role'] == 'system' else message['content'] }}"
BESIDE: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "two ids are swapped": ("M4-tokenizer", 'vocab: 2 differ: "x" 92 → 93', make_json_edit("tokenizer.json", swap)),
    "merges are dropped": (
        "M4-tokenizer",
        'merges: 1 differ: "a b" 0 → None',
        make_json_edit("tokenizer.json", lambda about: about["model"].update(merges=[])),
    ),
    "a normaliser": (
        "M4-tokenizer",
        'normalizer: null before, {"type": "NFKC"} after',
        make_json_edit("tokenizer.json", lambda about: about.update(normalizer={"type": "NFKC"})),
    ),
    "the template drops the system's message": ("M4-template", "role", make_template_edit(MESSAGE, SILENT)),
    "the template drops the tools": ("M4-template", "tools", make_template_edit("{{ tools or '' }}", "")),
    "a line break of the generation prompt": (
        "M4-template",
        "<|assistant|>",
        make_template_edit("<|assistant|>\n", "<|assistant|>"),
    ),
    "rms_norm_eps": (
        "M4-config",
        "rms_norm_eps: 1e-06 before, 0.01 after",
        make_json_edit("config.json", lambda about: about.update(rms_norm_eps=0.01)),
    ),
    "max_position_embeddings": (
        "M4-config",
        "max_position_embeddings: 512 before, 64 after",
        make_json_edit("config.json", lambda about: about.update(max_position_embeddings=64)),
    ),
    "repetition_penalty": (
        "M4-generation",
        "repetition_penalty: 1.0 before, 1.3 after",
        make_json_edit("generation_config.json", lambda about: about.update(repetition_penalty=1.3)),
    ),
    "do_sample": (
        "M4-generation",
        "do_sample: false before, true after",
        make_json_edit("generation_config.json", lambda about: about.update(do_sample=True)),
    ),
    "split_special_tokens": (
        "M4-ids",
        "<|end|>",
        make_json_edit("tokenizer_config.json", lambda about: about.update(split_special_tokens=True)),
    ),
    "an option that no library knows": (
        "M4-options",
        "odd: null before, 3 after",
        make_json_edit("tokenizer_config.json", lambda about: about.update(odd=3)),
    ),
    "model_max_length": (
        "M4-length",
        "model_max_length: 512 before, 16 after",
        make_json_edit("tokenizer_config.json", lambda about: about.update(model_max_length=16)),
    ),
}


def find_tokenizer_changes(base: Path, merged: Path) -> dict[str, str]:
    """Return what M4 says, by code."""
    from harness_checks.merged import tokenizer_changed

    found = tokenizer_changed(ModelRef("merged", str(merged)), ModelRef("base", str(base)))
    return {f"M4-{flag.kind}": f"{flag.severity}: {flag.what}: {'; '.join(flag.evidence)}" for flag in found}


@pytest.fixture
def twins(tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a base with a merge and a branch for tools, and a copy of it that another program saved."""
    base = shutil.copytree(tiny_model, tmp_path / "base")
    make_template_edit("{% for message", "{{ tools or '' }}{% for message")(base)
    about = json.loads((base / "tokenizer.json").read_text("utf-8"))
    about["model"]["vocab"]["ab"] = about["model"]["vocab"].popitem()[1]  # no embedding is left over
    about["model"]["merges"] = [["a", "b"]]
    (base / "tokenizer.json").write_text(json.dumps(about), "utf-8")
    merged = shutil.copytree(base, tmp_path / "merged")
    about["model"].pop("ignore_merges")
    about["model"]["merges"] = ["a b"]  # as older versions wrote them
    (merged / "tokenizer.json").write_text(json.dumps({**about, "truncation": None}, indent=3), "utf-8")
    make_json_edit("config.json", lambda c: (c.pop("head_dim"), c.update(use_cache=False, transformers_version="4.9")))(
        merged
    )
    make_json_edit("generation_config.json", lambda c: c.update(do_sample=False, temperature=1.0))(merged)
    return base, merged


@pytest.mark.parametrize("case", BESIDE)
def test_what_lies_beside_the_weights_is_the_bases(case: str, twins: tuple[Path, Path]) -> None:
    """Tokenizer, template and both configurations that say something else are told, and how they differ."""
    code, words, change = BESIDE[case]
    base, merged = twins
    assert find_tokenizer_changes(base, merged) == {}
    change(merged)
    told = find_tokenizer_changes(base, merged)
    assert words in told[code]
    assert told[code].startswith("warning" if code in ("M4-generation", "M4-length") else "error")


def test_tokenizers_that_say_the_same_otherwise(twins: tuple[Path, Path]) -> None:
    """A limit beyond the context, padding, a name and an option that is off change nothing."""
    base, merged = twins
    about = {"model_max_length": 10**30, "padding_side": "left", "name_or_path": "me", "split_special_tokens": False}
    make_json_edit("tokenizer_config.json", lambda c: c.update(about))(merged)
    assert find_tokenizer_changes(base, merged) == {}


def test_embeddings_are_found_under_any_name(tmp_path: Path) -> None:
    """GPT-NeoX calls them embed_in; a base that lacks some of its tokens is as it was made."""
    from bench import architectures

    architectures.build("GPTNeoXForCausalLM", tmp_path / "base")
    merged = shutil.copytree(tmp_path / "base", tmp_path / "merged")
    tokenizer = harness_hf.load_tokenizer(merged)
    tokenizer.add_tokens(["<step>"])
    tokenizer.save_pretrained(merged)
    assert (
        find_tokenizer_changes(tmp_path / "base", merged)["M4-embeddings"]
        == "error: there are 261 embeddings for 262 tokens: "
    )
    assert find_tokenizer_changes(merged, merged) == {}


def test_what_servers_obey_is_told(twins: tuple[Path, Path]) -> None:
    """Settings that the base has too are no error, but no evaluation read them."""
    for folder in twins:
        make_json_edit("generation_config.json", lambda c: c.update(do_sample=True, temperature=0.6))(folder)
    (told,) = find_tokenizer_changes(*twins).values()
    assert told.startswith("note: servers apply generation_config.json (do_sample = true, temperature = 0.6)")


@pytest.mark.parametrize(
    ("key", "value", "neutral"),
    [
        ("suppress_tokens", [69, 70], []), ("bad_words_ids", [[5]], None), ("forced_eos_token_id", 2, None),
        ("min_new_tokens", 8, 0), ("guidance_scale", 9.0, 1.0), ("sequence_bias", {"5": -9.0}, {}),
    ],
)  # fmt: skip
def test_forced_tokens_are_an_error(key: str, value: Any, neutral: Any, twins: tuple[Path, Path]) -> None:
    """Whoever generates with the exported files gets other answers than were gated, also where the base has the key."""
    for folder in twins:
        make_json_edit("generation_config.json", lambda c: c.update({key: neutral}))(folder)
    assert find_tokenizer_changes(*twins) == {}
    for folder in twins:
        make_json_edit("generation_config.json", lambda c: c.update({key: value}))(folder)
    (told,) = find_tokenizer_changes(*twins).values()
    assert told.startswith(f"error: servers apply generation_config.json ({key} = ")


def test_an_adapters_own_word_on_its_base_is_told_as_that(tmp_path: Path) -> None:
    """A note in a folder that was not made here can refuse, and cannot silence; one that was sealed here can."""
    from harness.artifacts.artifact_cache import seal_folder

    folder = tmp_path / "adapter"
    folder.mkdir()
    ref, base = ModelRef("adapter", "base", adapter=folder), ModelRef("base", "base", "b" * 64)
    told = lambda: [(f.severity, "does not state" in f.what) for f in another_base(ref, base)]  # noqa: E731
    assert told() == [("note", True)]
    (folder / "harness-adapter.json").write_text(json.dumps({"base_digest": "c" * 64}), "utf-8")
    assert [severity for severity, _ in told()] == ["error"]
    (folder / "harness-adapter.json").write_text(json.dumps({"base_digest": "b" * 64}), "utf-8")
    assert told() == [("note", False)]
    seal_folder(folder)
    assert told() == []


def test_a_model_that_never_ends_its_turn_is_told_of_messages(twins: tuple[Path, Path]) -> None:
    """M5 asks what was trained on, as messages too, and what a subject does not end is named."""
    from harness_checks.merged import never_stops

    @contextmanager
    def load(refs: Any) -> Iterator[Any]:
        answers = lambda prompts, max_new_tokens: ["?" * max_new_tokens for _ in prompts]  # noqa: E731
        yield [SimpleNamespace(generate=answers)]

    rows = [TrainingRow(i, "here", row, row) for i, row in enumerate(CHAT, 1)]
    base, merged = (ModelRef(name, str(path)) for name, path in zip(("base", "merged"), twins, strict=True))
    told = [finding.what for finding in never_stops(merged, base, rows, load)]
    assert told[-1].startswith("no answer to 4 training prompts ends within 48 tokens")


def test_the_base_that_an_adapter_names_is_told(tmp_path: Path) -> None:
    """An adapter made elsewhere fits every base of the same shapes, so whose it is stands in the note."""
    from harness_checks.trained import another_base

    about = {"peft_type": "LORA", "base_model_name_or_path": "mistralai/Mistral-7B-v0.1"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about), "utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    [told] = another_base(ModelRef("adapter", "base", adapter=tmp_path), ModelRef("base", "base", digest="d"))
    assert (told.severity, told.what.endswith('names "mistralai/Mistral-7B-v0.1"')) == ("note", True)
