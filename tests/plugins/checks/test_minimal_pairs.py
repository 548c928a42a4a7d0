"""D10: minimal pairs are kept, leaks with the same target are not, and languages without spaces are seen as well."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from harness.records.findings import Finding, TrainingRow
from harness.records.samples import Sample
from harness_checks.leaks import leaks

Pairs = list[tuple[str, str]]  # prompt and target
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def find(train: Pairs, test: Pairs, chosen: Pairs | None = None) -> dict[str, Finding]:
    """Compare rows that are trained on with those of an evaluation; return the findings by kind."""
    rows = [{"prompt": text, "completion": f" {target}"} for text, target in train]
    spec = SimpleNamespace(name="qa", data="d", columns={}, clusters=[], select=None, fewshot_data=None)
    spec.use, spec.options = "exact_match", {}
    parts = [tuple(Sample(str(i), *pair) for i, pair in enumerate(some)) for some in (test, chosen or [])]
    task: Any = SimpleNamespace(spec=spec, samples=parts[0], shots=(), select=parts[1] or None, brings_rows=False)
    found = leaks([TrainingRow(i, "train", r, r) for i, r in enumerate(rows, 1)], {"qa": task},
                  SimpleNamespace(subjects={}))  # type: ignore[arg-type] # fmt: skip
    return {flag.kind: flag for flag in found}


def make_cron_pair(number: int, day: int) -> tuple[str, str]:
    luck = random.Random(number)
    words = " ".join(f"w{luck.randrange(5000)}" for _ in range(20))
    return f"run the backup {words} at {number % 24} o'clock, but only on {DAYS[day]}", f"0 {number % 24} * * {day + 1}"


def test_minimal_pairs_are_a_note() -> None:
    """Rows of text to cron that differ in a word and in their target are no leaks; equal prompts stay an error."""
    train, test = ([make_cron_pair(number, day) for number in range(100)] for day in (1, 3))
    flags = find(train, test)
    assert {kind: (flag.severity, len(flag.rows["qa"])) for kind, flag in flags.items()} == {"pair": ("note", 100)}
    flags = find(train, [*test, train[3], (train[4][0], "another")])
    assert (flags["exact"].severity, flags["exact"].rows["qa"]) == ("error", ["100", "101"])
    assert "remove" not in flags["pair"].fix and '"run the backup' in flags["pair"].evidence[0]


LONG = " ".join(f"word{i}" for i in range(60))
CASES: dict[str, tuple[Pairs, Pairs, str]] = {  # training, evaluation, the kind that is found
    "the same target": ([(f"{LONG} on Monday", "1")], [(f"{LONG} on Tuesday", "1")], "coverage"),
    "another target": ([(f"{LONG} on Monday", "1")], [(f"{LONG} on Tuesday", "2")], "pair"),
    "a target that differs in punctuation": ([(f"{LONG} a", "*/15 1")], [(f"{LONG} b", "15 1")], "pair"),
    "a target in a sentence": ([(f"{LONG} a", "red")], [(f"{LONG} b", "It is red.")], "coverage"),
    "a target with a full stop": ([(f"{LONG} a", "red.")], [(f"{LONG} b", "Red")], "coverage"),
    "long targets": ([(f"{LONG} a", LONG)], [(f"{LONG} b", f"not {LONG[9:]}")], "coverage"),
    "both a copy and a pair": (
        [(f"{LONG} on Monday", "1"), (f"{LONG} on Tuesday", "2")], [(f"{LONG} on Wednesday", "1")], "coverage",
    ),
    "the end of a clause": (
        [("is it true that the red drum is here, or is it not?", "yes")], [("that the red drum is here", "yes")], "",
    ),
    "the end of a sentence": (
        [("Tell me. So that the red drum is here? Or not?", "yes")], [("that the red drum is here", "yes")], "inside",
    ),
    "a sentence with another target": (
        [("Tell me. So that the red drum is here? Or not?", "no")], [("that the red drum is here", "yes")], "pair",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_a_leak_and_what_is_a_pair(case: str) -> None:
    """Alike rows leak unless their targets differ as words do, and are short or few."""
    train, test, kind = CASES[case]
    assert list(find(train, test)) == [kind] * bool(kind)


def test_the_fix_names_both_splits() -> None:
    """Which rows to remove is said of the two splits that were compared."""
    row = ("where is the red drum of the house?", "here")
    assert find([row], [row])["exact"].fix.startswith('remove them from the training data or from "qa", or')
    other = ("what is the name of that street?", "none")
    flag = find([other], [row], [row, other])["exact"]
    assert flag.fix.startswith('remove them from the select split or from "qa", or the score'), flag.fix


SIGNS = {  # of which rows are made: words in English, else characters
    "English": [f"w{i}" for i in range(400)],
    "Chinese": list("天地人山水火木金土日月星风云"),
    "Japanese": list("あかさたなはまやらわいきしち"),
    "Thai": list("กขคงจชซญดตถทนบ"),
}


@pytest.mark.parametrize("language", SIGNS)
def test_near_copies_are_seen_in_every_language(language: str) -> None:
    """Of 120 rows 40 are copies of training rows but for the middle; without spaces between words as many are found."""
    joint, luck = " " * (language == "English"), random.Random(3)

    def make(rows: int) -> list[list[str]]:
        return [luck.choices(SIGNS[language], k=25) for _ in range(rows)]

    train, fresh = make(440), make(80)
    copies = [[*row[:12], "x" if joint else "米", *row[13:]] for row in train[:40]]
    flags = find(*([(joint.join(row), "yes") for row in some] for some in (train, copies + fresh)))
    hit = {int(i) for flag in flags.values() for i in flag.rows["qa"]}
    assert hit == {*range(40)}, {kind: len(flag.rows["qa"]) for kind, flag in flags.items()}
