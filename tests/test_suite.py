"""One TOML file, every mistake at once."""

from __future__ import annotations

import pytest

from harness.testing import Project

ROWS = [{"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2]} for i in range(60)]
TRAIN = [{"input": f"train {i} say t{i}", "target": f"t{i}"} for i in range(20)]
SUITE = """
[suite]
name = "fake"

[model]
use = "fake"
path = "base"

[adapter]
use = "fake"

[train]
use = "fake"
data = "train.jsonl"

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
slices = ["kind"]

[[gate]]
id = "floor"
metric = "qa.exact_match"
min = 0.5

[[export]]
use = "safetensors"
to = "exports/fake"
"""


@pytest.fixture
def suite(project: Project) -> Project:
    """A project whose suite passes."""
    return project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})


def test_healthy_suite_ships(suite: Project) -> None:
    """The suite that all tests below break passes as it is."""
    outcome = suite.run()
    assert (outcome.code, outcome.err) == (0, "")
    assert (suite.folder / "exports/fake/model/model.safetensors").is_file()


BROKEN = {
    "malformed TOML": ("[suite]", "[suite", "not valid TOML"),
    "an unknown table": ("[adapter]", "[adaptor]", 'unknown table "adaptor"; did you mean "adapter"?'),
    "an unknown key": ("data =", "dta =", '"data" is missing; is "dta" meant to be it?'),
    "an unknown key of a fixed table": ("min =", "mn =", 'unknown key "mn"; did you mean "min"?'),
    "an unknown plugin": ('"exact_match"', '"exactmatch"', 'no evaluator "exactmatch"; did you mean "exact_match"?'),
    "an unknown option": ("slices =", "max_tokens = 3\nslices =", 'unknown option "max_tokens"'),
    "an option of the wrong type": (
        "slices =",
        'max_new_tokens = "3"\nslices =',
        '"max_new_tokens" is "3"',
    ),
    "an unknown metric": ("qa.exact_match", "qa.exact", 'no metric "exact"; did you mean "exact_match"?'),
    "an unknown eval": ("qa.exact_match", "qb.exact_match", 'no eval "qb"; known: "qa"'),
    "an unknown baseline": ("min = 0.5", 'versus = "bass"\nbetter_by = 0', 'no baseline; did you mean "base"?'),
    "an unknown candidate": ("min = 0.5", 'min = 0.5\non = ["mergd"]', 'no candidate; did you mean "merged"?'),
    "an unknown slice": ("min = 0.5", 'min = 0.5\nslice = "sort=a"', 'slice column "sort" is not among the slices'),
    "an empty slice": ("min = 0.5", 'min = 0.5\nslice = "kind=c"', 'slice "kind=c" has no rows'),
    "a slice column that is not there": ('["kind"]', '["sort"]', 'no column "sort" for slices sort'),
    "a wrong type": ("min = 0.5", 'min = "half"', '"min" is "half", want a number'),
    "two claims": ("min = 0.5", "min = 0.5\nmax = 0.9", "want one claim"),
    "a margin without a baseline": ("min = 0.5", "better_by = 0.1", '"versus" goes with'),
    "a negative margin": ("min = 0.5", 'versus = "base"\nbetter_by = -0.1', "a margin is zero or more"),
    "missing data": ("test.jsonl", "tst.jsonl", 'data "tst.jsonl" is not there'),
    "data nobody knows": ("test.jsonl", "tickets:test", 'data "tickets:test" is unknown'),
    "a model that is not there": ('path = "base"', 'path = "bass"', 'path "bass": no model is there'),
    "an export of nobody": ('to = "exports/fake"', 'from = "mergd"\nto = "x"', 'no candidate "mergd"'),
    "a trainer without an adapter": ('[adapter]\nuse = "fake"', "", "needs an [adapter]"),
    "no evals": ("[[eval]]", "[[eva]]", 'unknown table "eva"'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_mistakes_are_one_clear_line(suite: Project, case: str) -> None:
    """Each mistake is told with file and way out, exits 4, and leaves no report and no export."""
    before, after, told = BROKEN[case]
    assert before in SUITE
    suite.write({"suite.toml": SUITE.replace(before, after, 1)})
    outcome = suite.run()
    assert outcome.code == 4
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert all(line.startswith("error: ") for line in outcome.err.splitlines())
    assert "suite.toml" in outcome.err
    assert not list(suite.folder.glob("reports/*"))
    assert not (suite.folder / "exports").exists()


def test_all_mistakes_of_a_file_are_told_at_once_with_their_lines(suite: Project) -> None:
    """Three mistakes in three tables are three lines, each with the number of its line."""
    text = SUITE.replace("min = 0.5", "mn = 0.5").replace('name = "qa"', 'nam = "qa"').replace("path =", "paht =")
    suite.write({"suite.toml": text})
    lines = suite.run().err.splitlines()
    number = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith("mn"))
    assert any(f"suite.toml:{number}:" in line and '"mn"' in line for line in lines)
    assert any('"path" is missing; is "paht" meant to be it?' in line for line in lines)
    assert any('"name" is missing; is "nam" meant to be it?' in line for line in lines)


def test_overrides_reach_tables_and_lists(suite: Project) -> None:
    """--set changes a key of a table, and of an array's element by its index."""
    outcome = suite.run("--set", "export.0.to=elsewhere", "--set", "train.skill=0.99")
    assert outcome.code == 0
    assert (suite.folder / "elsewhere/model").is_dir()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("export.7.to=x", '"7" is no element of a list of 1'),
        ("nonsense", "want table.key=value"),
        ("suite.name.deep=1", '"name" is "fake", not a table'),
        ("train.skil=0.5", 'unknown option "skil"'),
    ],
)
def test_overrides_are_checked_like_the_file(suite: Project, override: str, told: str) -> None:
    """A wrong --set is one line and exit 4."""
    outcome = suite.run("--set", override)
    assert outcome.code == 4
    assert told in outcome.err


def test_unprovable_claims_are_warned_of(suite: Project) -> None:
    """min = 1.0 on a proportion can be proved by no number of rows, and collection says so."""
    suite.write({"suite.toml": SUITE.replace("min = 0.5", "min = 1.0")})
    outcome = suite.run("--collect-only")
    assert outcome.code == 0
    assert "cannot be proved" in outcome.err


HELD = [{"input": f"held {i} say h{i}", "target": f"h{i}", "ticket": i % 3} for i in range(6)]
VALIDATION = {
    "rows that are trained on": (
        'use = "sft"\nvalidation_data = "train.jsonl"',
        'validation_data "train.jsonl" is trained on',
    ),
    "a row that is trained on": ('use = "sft"\nvalidation_data = "copy.jsonl"', "1 of 7 rows are in"),
    "rows and a share": ('use = "sft"\nvalidation = 0.1\nvalidation_data = "held.jsonl"', "remove one of them"),
    "a trainer that would train on them": ('use = "fake"\nvalidation_data = "held.jsonl"', "does not validate"),
    "no such file": ('use = "sft"\nvalidation_data = "none.jsonl"', 'data "none.jsonl" is not there'),
    "no such column": ('use = "sft"\ncluster = "ticket"', 'no column "ticket" for cluster in row 0 (20 rows)'),
    "no such eval": ('use = "sft"\nwatch = ["qu"]', 'watch names "qu", which is no eval; known: "qa"'),
    "rows that confirm": ('use = "sft"\nwatch = ["qa"]', 'watch: eval "qa" has no select split'),
    "a trainer that cannot be watched": ('use = "fake"\nwatch = ["qa"]', 'the trainer "fake" cannot be watched'),
    "a cluster on both sides": (
        'use = "sft"\ncluster = "ticket"\nvalidation_data = "held.jsonl"',
        '6 of 6 rows share their "group" with',
    ),
}


@pytest.mark.parametrize("case", VALIDATION)
def test_validation_rows(suite: Project, case: str) -> None:
    """Rows to validate with are there, are not trained on, and go to a trainer that knows them."""
    table, told = VALIDATION[case]
    clusters = [{**row, "ticket": i} for i, row in enumerate(TRAIN)] if "both sides" in case else TRAIN
    text = SUITE.replace('[train]\nuse = "fake"', f"[train]\n{table}")
    suite.write({"suite.toml": text, "held.jsonl": HELD, "copy.jsonl": [*HELD, TRAIN[3]], "train.jsonl": clusters})  # type: ignore[dict-item]
    outcome = suite.run("--collect-only")
    assert outcome.code == 4
    assert told in outcome.err


def test_validation_rows_are_no_training_rows(suite: Project) -> None:
    """Good rows to validate with are collected with a mark, and their clusters with them."""
    from harness.runner import Options, prepare

    table = '[train]\nuse = "sft"\ncluster = "ticket"\nvalidation_data = "held.jsonl"'
    rows = [{**row, "ticket": f"t{i}"} for i, row in enumerate(TRAIN)]
    suite.write({"suite.toml": SUITE.replace('[train]\nuse = "fake"', table), "held.jsonl": HELD, "train.jsonl": rows})  # type: ignore[dict-item]
    plan = prepare(suite.folder / "suite.toml", Options(plugins=("harness.testing",)))
    assert plan.training
    assert [r["group"] for r in plan.training] == [*(f"t{i}" for i in range(20)), *"012012"]
    assert [r.get("held_out", False) for r in plan.training] == [False] * 20 + [True] * 6
