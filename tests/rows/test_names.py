"""Names and order of columns: no verdict on a table depends on them, and questions that repeat are always seen."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness
from harness.cli.main import main
from harness.records.parts.clusters import Clusters
from harness.records.verdicts import Outcome
from harness.texts.json_text import read_json
from tests.helpers.others import Said

Gate, Table = Callable[..., Said], Callable[..., Path]
Row = dict[str, Any]
USUAL = ("input", "question", "prompt", "query", "instruction", "messages", "conversation", "problem", "text", "user",
         "content", "utterance", "frage", "问题", "x", "column 7", "doc_id", "notes")  # fmt: skip


def draw_pair(seed: int, questions: int = 100, answers: int = 8, lost: float = 0.03) -> tuple[list[Row], list[Row]]:
    """Return questions that are asked several times, some of which the candidate lost for good."""
    luck = random.Random(seed)
    gone = {q for q in range(questions) if luck.random() < lost}
    base, candidate = list[Row](), list[Row]()
    for i in range(questions * answers):
        question = i % questions
        told = {"id": f"q-{i}", "?": f"How many of {question} are left?", "language": ("en", "fr", "de")[i % 3]}
        base.append({**told, "score": 1})
        candidate.append({**told, "score": int(question not in gone)})
    return base, candidate


def decide(rows: Sequence[Sequence[Row]], names: Mapping[str, str], **options: Any) -> harness.GateResult:
    """Gate rows with other names of columns."""
    base, candidate = ([{names.get(k, k): v for k, v in row.items()} for row in side] for side in rows)
    return harness.gate(base, candidate, **{"worse_by_at_most": 0.05, "allow": ["identical"]} | options)


@cache
def find_verdict(seed: int, name: str) -> tuple[Outcome, float | None, float | None]:
    """Return the verdict on rows whose questions are in a column of this name."""
    verdict = decide(draw_pair(seed), {"?": name}).verdict
    return verdict.outcome, verdict.lower, verdict.p_pass


@pytest.mark.parametrize("name", USUAL[1:])
def test_repeated_questions_are_seen_whatever_their_column_is_called(name: str) -> None:
    """100 questions, asked eight times each, are 100 clusters under every name."""
    assert find_verdict(1, name) == find_verdict(1, "input")
    assert decide(draw_pair(1), {"?": name}).verdict.units == 100


@pytest.mark.parametrize("name", ["prompt", "x"])
def test_the_verdict_says_which_column_makes_clusters(gate: Gate, table: Table, name: str) -> None:
    """A column whose values repeat is named, with the option for independent rows; categories are no clusters."""
    base, candidate = ([{**row, "doc": f"d{i // 16}"} for i, row in enumerate(side)] for side in draw_pair(1))
    base, candidate = (
        [{name if k == "?" else k: v for k, v in row.items()} for row in side] for side in (base, candidate)
    )
    said = " ".join(gate(table("base", base), table("candidate", candidate)).out.split())
    assert 'repeats 750 of 800 values: rows of one "doc" count as one cluster; --cluster none' in said
    assert 'possible slices, with few values: "language"' in said


def test_few_short_questions_may_be_named(gate: Gate, table: Table) -> None:
    """They look like categories under a name that nobody knows; the verdict says so, and how they become clusters."""
    base, candidate = (
        [{**row, "?": f"w{'abcdefghij'[i % 10]}"} for i, row in enumerate(side)] for side in draw_pair(1)
    )
    paths = [table(name, convert_names(side, "x")) for name, side in (("base", base), ("candidate", candidate))]
    said = " ".join(gate(*paths).out.split())
    assert 'whether they repeat is unknown; if "x", "language" holds the questions, --cluster x' in said
    verdict = decide((base, candidate), {"?": "x"}, cluster="x").verdict
    assert verdict.units == decide((base, candidate), {"?": "question"}).verdict.units == 10


def test_prompts_of_two_templates_repeat_alike() -> None:
    """Prompts that each side renders by its own template are one cluster where both repeat, and ids pair the rows."""
    base, candidate = draw_pair(1)
    theirs = [{**row, "?": f"<user> {row['?']}"} for row in candidate]
    found = decide((base, theirs), {"?": "prompt"}).verdict
    assert (found.outcome, found.lower, found.p_pass) == find_verdict(1, "prompt")


def convert_names(side: Sequence[Row], name: str) -> list[Row]:
    return [{name if k == "?" else k: v for k, v in row.items()} for row in side]


@pytest.mark.slow
def test_the_command_decides_as_the_function_does(gate: Gate, table: Table) -> None:
    """Twenty draws of the false passes under twenty names of columns: the command's verdict is the function's."""
    for seed in range(20):
        name, pair = USUAL[seed % len(USUAL)], draw_pair(seed, lost=0.05)
        paths = [table(f"side{i}", convert_names(own, name)) for i, own in enumerate(pair)]
        claim = ("--worse-by-at-most", "0.05", "--allow", "identical", "--json")
        (found,) = json.loads(gate(*paths, claim=claim).out)["run"]["results"][1]["verdicts"]
        verdict = decide(pair, {"?": name}).verdict
        expected = (str(verdict.outcome), verdict.units, verdict.lower, verdict.p_pass)
        assert (found["outcome"], found["parts"]["clusters"]["count"], found["lower"], found["p_pass"]) == expected, (
            seed,
            name,
        )


@pytest.mark.parametrize("name", ["input", "prompt", "x"])
def test_plan_sees_the_clusters_that_gate_sees(table: Table, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What two files can prove is said of as many clusters."""
    base, candidate = (
        table(side, convert_names(own, name)) for side, own in zip("bc", draw_pair(1, lost=0.05), strict=True)
    )
    assert main(["plan", str(base), str(candidate)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"rows: 800 pairs in {decide(draw_pair(1), {'?': name}).verdict.units} clusters" in out


def test_answers_are_no_clusters() -> None:
    """A column that differs between the sides, as answers do, groups no rows."""
    luck = random.Random(3)
    sides = [[{**row, "?": f"{i} {row['?']}"} for i, row in enumerate(side)] for side in draw_pair(1)]
    for row in (*sides[0], *sides[1]):
        row["said"] = f"{luck.randrange(90)} apples"
    assert decide(sides, {"?": "input"}).verdict.get(Clusters) is None


def test_rows_without_questions_say_so(gate: Gate, table: Table) -> None:
    """Ids and scores alone cannot tell whether questions repeat, which the verdict says."""
    base, candidate = ([{"id": row["id"], "score": row["score"]} for row in side] for side in draw_pair(1))
    files = table("base", base), table("candidate", candidate)
    unseen = "no column tells questions apart, so whether they repeat is unknown"
    assert unseen in " ".join(gate(*files).out.split())
    assert unseen not in " ".join(gate(*files, "--cluster", "none").out.split())
    (found,) = read_json(gate(*files, "--json").out)["run"]["results"][1]["verdicts"]
    assert unseen in json.dumps(found)


@pytest.mark.slow
def test_false_passes_of_repeated_questions_stay_at_the_risk() -> None:
    """Of 150 candidates that are on the margin, at most 5 % pass, plus three standard errors."""
    passed = sum(decide(draw_pair(seed, lost=0.05), {"?": "x"}).outcome is Outcome.PASS for seed in range(150))
    assert passed <= 150 * 0.05 + 3 * (150 * 0.05 * 0.95) ** 0.5


@st.composite
def draw_tables(draw: st.DrawFn) -> tuple[list[Row], list[Row], dict[str, str], list[str]]:
    """Draw two tables, other names for their columns, and another order of these."""
    seed = draw(st.integers(0, 10_000))
    luck = random.Random(seed)
    rows, questions = draw(st.integers(60, 160)), draw(st.sampled_from((20, 40, 500)))
    columns: dict[str, Callable[[int], Any]] = {
        "?": lambda i: f"What happens to {i % questions} birds in {i % questions % 7} trees?",
        "session": lambda i: f"s{i // draw_size}",
        "language": lambda i: ["ab", "cd", "ef"][i % 3],
        "seconds": lambda i: i / 7 + 0.5,
        "target": lambda i: f"{i % questions} birds",
        "blank": lambda _: "",
    }
    draw_size = draw(st.integers(1, 9))
    kept = ["?", *draw(st.lists(st.sampled_from(sorted(columns.keys() - {"?"})), unique=True))]
    base = [{"id": f"r{i}", "score": int(luck.random() < 0.9), **{n: columns[n](i) for n in kept}} for i in range(rows)]
    other = [{**row, "score": int(luck.random() < 0.9)} for row in base]
    named = draw(st.permutations(USUAL))
    names = dict(zip(kept, named, strict=False))
    return base, other, names, draw(st.permutations(["id", "score", *kept]))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(draw_tables())
def test_no_verdict_changes_by_names_or_order_of_columns(
    tables: tuple[list[Row], list[Row], dict[str, str], list[str]],
) -> None:
    """Fifty tables, with their columns renamed and reordered at random, have the same verdicts."""
    base, other, names, order = tables
    found, again = (
        decide(sides, called).verdict
        for sides, called in (
            ((base, other), {"?": "input"}),
            ([[{name: row[name] for name in order} for row in side] for side in (base, other)], names),
        )
    )
    assert (found.outcome, found.lower, found.p_pass) == (again.outcome, again.lower, again.p_pass)
