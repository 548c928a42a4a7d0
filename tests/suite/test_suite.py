"""One TOML file, every mistake at once."""

from __future__ import annotations

from contextlib import suppress

import pytest

from harness.testing import SUITE, TRAIN, Project
from tests.helpers.speed import time_call


def test_healthy_suite_ships(suite: Project) -> None:
    """The suite that all tests below break passes as it is."""
    outcome = suite.run()
    assert (outcome.code, outcome.err) == (0, "")
    assert (suite.folder / "exports/fake/model/model.safetensors").is_file()


BROKEN = {
    "malformed TOML": ("[suite]", "[suite", "not valid TOML"),
    "an unknown table": ("[adapter]", "[adaptor]", 'unknown table "adaptor"; did you mean "adapter"?'),
    "an unknown key": ("data =", "dta =", '[train] "data" is missing; is "dta" a misspelling of it?'),
    "an unknown key of a fixed table": (
        "min =",
        "mn =",
        'unknown key "mn"; did you mean "min"?',
    ),
    "an unknown plugin": ('"exact_match"', '"exactmatch"', 'no evaluator "exactmatch"; did you mean "exact_match"?'),
    "an unknown option": ("slices =", "max_tokens = 3\nslices =", 'unknown option "max_tokens"'),
    "an option of the wrong type": (
        "slices =",
        'max_new_tokens = "3"\nslices =',
        '"max_new_tokens" is "3"',
    ),
    "an unknown metric": ("qa.exact_match", "qa.exact", 'no metric "exact"; did you mean "exact_match"?'),
    "an unknown eval": ("qa.exact_match", "qb.exact_match", 'no eval "qb"; known: "qa"'),
    "an unknown baseline": (
        "min = 0.5",
        'versus = "bass"\nbetter_by = 0',
        'versus is "bass", which is not a baseline; did you mean "base"?',
    ),
    "an unknown candidate": (
        "min = 0.5",
        'min = 0.5\non = ["mergd"]',
        'on names "mergd", which is not a candidate; did you mean "merged"?',
    ),
    "an unknown slice": ("min = 0.5", 'min = 0.5\nslice = "sort=a"', 'slice column "sort" is not among the slices'),
    "an empty slice": ("min = 0.5", 'min = 0.5\nslice = "kind=c"', 'slice "kind=c" has no rows'),
    "a slice column that is not there": ('["kind"]', '["sort"]', 'has no column "sort" for slices sort ('),
    "a wrong type": ("min = 0.5", 'min = "half"', '"min" is "half"; it must be a number'),
    "two claims": ("min = 0.5", "min = 0.5\nmax = 0.9", "a gate makes one claim; give one:"),
    "a margin without a baseline": ("min = 0.5", "better_by = 0.1", '"versus" needs "better_by" or "worse_by_at_most"'),
    "a negative margin": (
        "min = 0.5",
        'versus = "base"\nbetter_by = -0.1',
        "a margin must be 0 or more; its direction is that of the metric",
    ),
    "an empty baseline": (
        "min = 0.5",
        'versus = ""\nbetter_by = 0.1',
        'versus is "", which is not a baseline',
    ),
    "missing data": ("test.jsonl", "tst.jsonl", 'data "tst.jsonl" does not exist'),
    "data nobody knows": (
        "test.jsonl",
        "tickets:test",
        ('data "tickets:test" is unknown; name a file'),
    ),
    "a model that is not there": ('path = "base"', 'path = "bass"', 'path "bass": there is no model'),
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
    assert any('[model] "path" is missing; is "paht" a misspelling of it?' in line for line in lines)
    assert any('[[eval]] number 1 "name" is missing; is "nam" a misspelling of it?' in line for line in lines)


@pytest.mark.slow
def test_overrides_reach_tables_and_lists(suite: Project) -> None:
    """--set changes a key of a table, and of an array's element by its index."""
    outcome = suite.run("--set", "export.0.to=elsewhere", "--set", "train.skill=0.99")
    assert outcome.code == 0
    assert (suite.folder / "elsewhere/model").is_dir()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("export.7.to=x", '"7" is not an index of a list of 1 elements'),
        ("nonsense", ": write table.key=value, for instance train.learning_rate=1e-4"),
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
    assert "no number of rows can prove" in outcome.err


HELD = [{"input": f"held {i} say h{i}", "target": f"h{i}", "ticket": i % 3} for i in range(6)]
VALIDATION = {
    "rows that are trained on": (
        'use = "sft"\nvalidation_data = "train.jsonl"',
        'validation_data "train.jsonl" is training data, too; name another source',
    ),
    "a row that is trained on": ('use = "sft"\nvalidation_data = "copy.jsonl"', "1 of 7 rows are in"),
    "rows and a share": ('use = "sft"\nvalidation = 0.1\nvalidation_data = "held.jsonl"', "remove one of them"),
    "a trainer that would train on them": ('use = "fake"\nvalidation_data = "held.jsonl"', "does not validate"),
    "no such file": ('use = "sft"\nvalidation_data = "none.jsonl"', 'data "none.jsonl" does not exist'),
    "no such column": (
        'use = "sft"\ncluster = "ticket"',
        'row 1 has no column "ticket" for cluster (20 such rows)',
    ),
    "no such eval": (
        'use = "sft"\nwatch = ["qu"]',
        'watch names "qu", which is not an eval; known: "qa"',
    ),
    "rows that confirm": (
        'use = "sft"\nwatch = ["qa"]',
        'watch: eval "qa" has no select split, and rows used to choose a checkpoint cannot confirm it; add select',
    ),
    "a trainer that cannot be watched": (
        'use = "fake"\nwatch = ["qa"]',
        'watch: the trainer "fake" cannot evaluate during training; remove watch',
    ),
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
    from harness.pipeline.run import Options, prepare_collection

    table = '[train]\nuse = "sft"\ncluster = "ticket"\nvalidation_data = "held.jsonl"'
    rows = [{**row, "ticket": f"t{i}"} for i, row in enumerate(TRAIN)]
    suite.write({"suite.toml": SUITE.replace('[train]\nuse = "fake"', table), "held.jsonl": HELD, "train.jsonl": rows})  # type: ignore[dict-item]
    collection = prepare_collection(suite.folder / "suite.toml", Options(plugins=("harness.testing",)))
    assert collection.training
    assert [r["group"] for r in collection.training] == [*(f"t{i}" for i in range(20)), *"012012"]
    assert [r.get("held_out", False) for r in collection.training] == [False] * 20 + [True] * 6


IMPOSSIBLE = {
    "alpha nan": ("[suite]", "[suite]\nalpha = nan", '"alpha" is nan; it must be a finite number'),
    "alpha inf": ("[suite]", "[suite]\nalpha = inf", '"alpha" is inf; it must be a finite number'),
    "alpha 0": ("[suite]", "[suite]\nalpha = 0", "alpha is 0; it must be from 1e-09 to 0.5"),
    "alpha that no quantile has": ("[suite]", "[suite]\nalpha = 1e-12", "alpha is 1e-12; it must be from 1e-09 to 0.5"),
    "alpha below 0": ("[suite]", "[suite]\nalpha = -0.1", "it must be from 1e-09 to 0.5"),
    "alpha 0.99": ("[suite]", "[suite]\nalpha = 0.99", "it must be from 1e-09 to 0.5"),
    "alpha 5": ("[suite]", "[suite]\nalpha = 5.0", "it must be from 1e-09 to 0.5"),
    "a seed below 0": ("[suite]", "[suite]\nseed = -1", "seed is -1; it must be from 0 to 2**32 - 1"),
    "a seed of 40 bits": ("[suite]", "[suite]\nseed = 1099511627776", "; it must be from 0 to 2**32 - 1"),
    "a bound of 400 digits": ("min = 0.5", f"min = {'9' * 400}", "; it must be an integer of 64 bits"),
    "a bound of 5,000 digits": (
        "min = 0.5",
        f"min = {'9' * 5000}",
        ": contains an integer of thousands of digits; write it as text",
    ),
    "a bound of 5,000 hex digits": ("min = 0.5", f"min = 0x{'f' * 5000}", "; it must be an integer of 64 bits"),
    "a margin of 400 digits": (
        "min = 0.5",
        f'versus = "base"\nbetter_by = "{"9" * 400}%"',
        "a margin must be 0 or more; its direction is that of the metric",
    ),
    "a bound of nan": ("min = 0.5", "min = nan", '"min" is nan; it must be a finite number'),
    "an option of inf": ("[adapter]", "[adapter]\nloses = inf", '"loses" is inf; it must be a finite number'),
    "5,000 lists": (
        "[adapter]",
        f"[adapter]\nloses = {'[' * 5000}{']' * 5000}",
        ": nests tables or lists more than 100 levels deep; flatten it",
    ),
    "500 lists": (
        "[adapter]",
        f"[adapter]\nloses = {'[' * 500}{']' * 500}",
        ": nests tables or lists more than 100 levels deep; flatten it",
    ),
    "50,000 keys": (
        "[adapter]",
        f"[adapter]\n{'.'.join('a' * 50_000)} = 1",
        ": nests tables or lists more than 100 levels deep; flatten it",
    ),
    "50,000 tables": (
        "[adapter]",
        f"[{'.'.join('a' * 50_000)}]\n[adapter]",
        ": nests tables or lists more than 100 levels deep; flatten it",
    ),
    "gates that are a number": ('[[gate]]\nid = "floor"\nmetric = "qa.exact_match"\nmin = 0.5', "", ""),
    "NUL in a name": ('name = "fake"', 'name = "a\\u0000"', "contains an invalid character (NUL, or a lone surrogate)"),
    "NUL in a target": (
        '"exports/fake"',
        '"exports/\\u0000"',
        "contains an invalid character (NUL, or a lone surrogate)",
    ),
    "no name": ('name = "fake"', 'name = ""', 'name is ""; use only letters, digits, "_", "-" and "."'),
    "no id": ('id = "floor"', 'id = ""', "id is empty"),
    "an id over two lines": (
        'id = "floor"',
        'id = "a\\nb"',
        "id is empty or has unprintable characters; give the gate a name for its reports",
    ),
    "no data": ('data = "train.jsonl"', "data = []", '"data" is empty'),
    "no rows to watch": (
        'data = "train.jsonl"',
        'data = "train.jsonl"\nwatch_rows = 0',
        "watch_rows is 0; it must be 1 or more",
    ),
    "shots below 0": ("[[eval]]", "[subject.few]\nshots = -1\n[[eval]]", "shots is -1; it must be 0 or more"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_values_that_no_key_can_have_are_one_line(suite: Project, case: str) -> None:
    """Numbers out of range, texts that are none and bottomless tables exit 4 at collection, without a traceback."""
    before, after, told = IMPOSSIBLE[case]
    assert before in SUITE
    text = SUITE.replace(before, after, 1)
    outcome = suite.write({"suite.toml": text if told else f"gate = 3\n{text}"}).run("--collect-only")
    assert (outcome.code, (told or "[gate] is a single table") in outcome.err) == (4, True), outcome.err
    assert all(line.startswith("error: ") and len(line) < 1000 for line in outcome.err.splitlines())


@pytest.mark.parametrize("name", ["gate", "eval", "export", "subject", "model", "merge", "sweep", "checks", "suite"])
@pytest.mark.parametrize("value", ["3", "true", "[]", "[[]]", '["a"]', "{}", "1979-05-27"])
def test_tables_that_are_none_are_no_crash(suite: Project, name: str, value: str) -> None:
    """A number, a list or a date in the place of any table is told, or is an empty table."""
    kept = "\n[".join(part for part in f"\n{SUITE}".split("\n[") if not part.strip("[").startswith(name))
    outcome = suite.write({"suite.toml": f"{name} = {value}\n{kept}"}).run("--collect-only")
    assert outcome.code in (0, 4)
    assert "Traceback" not in outcome.err


NAMES = [
    "../x",
    "/abs",
    "a/b",
    "a\\\\b",
    "..",
    ".",
    ".hidden",
    "report.json",
    "JUnit.xml",
    "suite.lock.json",
    "x" * 101,
    "a b",
]


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_names_that_become_paths_are_plain(suite: Project, name: str) -> None:
    """Suites, subjects, evals and copies are called by what any file system takes, else exit 4."""
    texts = {
        "suite": SUITE.replace('"fake"', f'"{name}"', 1),
        "subject": f'{SUITE}\n[subject."{name}"]\nshots = 3\n',
        "eval": SUITE.replace('name = "qa"', f'name = "{name}"').replace("qa.exact_match", f"{name}.exact_match"),
    }
    before = set(suite.folder.parent.iterdir())
    for text in texts.values():
        outcome = suite.write({"suite.toml": text}).run()
        assert (outcome.code, "Traceback" in outcome.err) == (4, False)
        assert 'name is "' in outcome.err
        assert set(suite.folder.parent.iterdir()) == before
        assert not (suite.folder / "reports").exists()


def test_subjects_that_differ_in_case_alone_are_refused(suite: Project) -> None:
    """Their folders are one where case does not count."""
    text = f"{SUITE}\n[subject.few]\nshots = 3\n[subject.Few]\nshots = 4\n"
    assert (
        'differs from "few" only in upper and lower case; choose another name'
        in suite.write({"suite.toml": text}).run().err
    )


@pytest.mark.parametrize(
    "override",
    [
        "gate.².min=3",
        f"gate.{'9' * 5000}.min=3",
        f"train.skill={'[' * 5000}{']' * 5000}",
        f"{'.'.join('a' * 5000)}=1",
        f"train.skill={'9' * 5000}",
        "train.skill=nan",
        "suite.name=\udcff",
        "suite.alpha=0.99",
        "gate=3",
        "gate.0=3",
        ".=1",
        "..=",
    ],
)
def test_overrides_that_cannot_be_read_are_one_line(suite: Project, override: str) -> None:
    """No --set, whatever it holds, is a crash."""
    outcome = suite.run("--collect-only", "--set", override)
    assert (outcome.code, "Traceback" in outcome.err) == (4, False)
    assert all(line.startswith("error: ") and len(line) < 1000 for line in outcome.err.splitlines())


def test_all_wrong_overrides_are_told_at_once(suite: Project) -> None:
    """Two wrong --set are two lines."""
    assert len(suite.run("--set", "nonsense", "--set", "gate.7.min=1").err.splitlines()) == 2


LINES = '''
[suite]  # [not a table]
name = "fake"
description = """
[eval]
nme = 1
"""
[model]
use = "fake"
path = "base"
[adapter]
use = "fake"
[train]
use = "fake"
data = [
  "train.jsonl",  # ]
  "train[1].jsonl",
[ "nested" ][0],
]
[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
slices = [
    "kind",
[],
]
columns . "input" = "input"
[[eval]]
name = "qb"
use = 'exact_match'
data = "test.jsonl"
columns = { target = "targt", "id" = 'id', input = "input" }
limit = "many"
[eval.options]
x = 1
'''.replace("[0]", "")


def test_lines_are_those_of_the_file() -> None:
    """Lists, comments, texts over several lines, inline tables, dotted and quoted keys do not move the lines told."""
    from harness.suite.lines import read_toml_lines

    lines = read_toml_lines(LINES)
    numbered = {line.strip(): n for n, line in enumerate(LINES.split("\n"), 1)}
    assert lines["suite", 0, ""] == 2
    assert lines["suite", 0, "description"] == 4
    assert lines["model", 0, ""] == numbered["[model]"]
    assert lines["train", 0, "data"] == numbered["data = ["]
    assert lines["eval", 0, ""] == numbered["slices = ["] - 4
    assert lines["eval", 0, "slices"] == numbered["slices = ["]
    assert lines["eval", 0, "columns"] == numbered['columns . "input" = "input"']
    assert lines["eval", 1, "name"] == numbered['name = "qb"']
    assert lines["eval", 1, "limit"] == numbered['limit = "many"']
    assert lines["eval", 1, "options"] == numbered["[eval.options]"]
    assert ("eval", 2, "") not in lines
    assert not any(key == "nme" for _, _, key in lines)


def test_lines_of_inline_tables_are_told(suite: Project) -> None:
    """Gates written as a list of inline tables have lines of their own, and so has a mistake in one."""
    gates = 'gate = [\n  { id = "floor", metric = "qa.exact_match", min = 0.5 },\n  { id = "b",\tmn = 1 },\n]\n'
    text = gates + SUITE.partition("[[gate]]")[0]
    err = suite.write({"suite.toml": text}).run().err
    assert 'suite.toml:3: gate "b" unknown key "mn"' in err


def test_lines_survive_what_only_looks_like_a_table(suite: Project) -> None:
    """A list over several lines, one of which begins with a bracket, does not move the line of a later mistake."""
    text = SUITE.replace('slices = ["kind"]', 'slices = [\n["a"],\n]').replace("min = 0.5", "mn = 0.5")
    number = next(n for n, line in enumerate(text.split("\n"), 1) if line == "mn = 0.5")
    err = suite.write({"suite.toml": text}).run().err
    assert f'suite.toml:{number}: gate "floor" unknown key "mn"' in err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "chain", "circle"])
def test_ten_thousand_gates_are_collected_in_linear_time(suite: Project, kind: str) -> None:
    """Four times as many gates take about four times as long, however they wait for each other."""
    from harness.errors import UsageError
    from harness.pipeline.run import Options, prepare_collection

    def took(n: int) -> float:
        gates = [f'[[gate]]\nid = "g{i}"\nmetric = "qa.exact_match"\nmin = 0.{i % 9 + 1}\n' for i in range(n)]
        if kind in ("chain", "circle"):
            gates = [g + f'requires = ["g{i + 1 if i + 1 < n else 0}"]\n' for i, g in enumerate(gates)]
            gates[-1] = gates[-1] if kind == "circle" else gates[-1].partition("requires")[0]
        head = SUITE.replace('[[gate]]\nid = "floor"\nmetric = "qa.exact_match"\nmin = 0.5\n', "")
        suite.write({"suite.toml": head + "".join(gates)})

        def collect() -> None:
            with suppress(UsageError):
                prepare_collection(suite.folder / "suite.toml", Options(plugins=("harness.testing",)))

        return time_call(collect, tries=2)

    took(10)  # imports
    assert took(10_000) < 10 * took(2500)
