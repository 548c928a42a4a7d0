"""Suites of rows: what `harness gate` writes runs as it was said, and what needs a model is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.main import main
from harness.texts.json_text import read_json
from tests.helpers.others import CLAIM, Said, make_asked_rows

Gate, Table = Callable[..., Said], Callable[..., Path]
BASE, WORSE = [1] * 300 + [0] * 100, [0] * 8 + [1] * 292 + [0] * 99 + [1]
SUITE = """
[suite]
name = "capitals"
attempts = "spend"

[rows.base]
path = "base.jsonl"

[rows.candidate]
path = "candidate.jsonl"

[[eval]]
name = "qa"
use = "rows"

[[gate]]
id = "no-worse"
metric = "qa.score"
versus = "base"
worse_by_at_most = 0.05

[[gate]]
id = "high"
metric = "qa.score"
min = 0.6
requires = ["no-worse"]
"""


@pytest.fixture
def run(gate: Gate, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return `harness run` of a suite on two tables."""
    table("base", make_asked_rows(BASE))
    table("candidate", make_asked_rows(WORSE))

    def called(text: str = SUITE, *words: str, command: str = "run") -> Said:
        (tmp_path / "suite.toml").write_text(text, "utf-8")
        code = main([command, "suite.toml", *words])
        return Said(code, *capsys.readouterr())

    return called


@pytest.mark.slow
def test_what_gate_writes_is_the_same_gate(gate: Gate, table: Table, run: Callable[..., Said], tmp_path: Path) -> None:
    """The suite of --write-suite comes to the same verdict, to the last bit, and counts as the same attempt."""
    rows = [{**row, "lang": "de" if i % 2 else "en"} for i, row in enumerate(make_asked_rows(BASE))]
    worse = [{**row, "score": score} for row, score in zip(rows, WORSE, strict=True)]
    said = gate(table("b", rows), table("c", worse), "--slice", "lang", "--write-suite", "kept/mine.toml", "--json")
    again = run((tmp_path / "kept" / "mine.toml").read_text("utf-8").replace("../", ""), "--json")
    verdicts = [read_json(one.out)["run"]["results"][1]["verdicts"] for one in (said, again)]
    assert said.code == again.code and verdicts[0] == verdicts[1] and verdicts[0][0]["parts"]["attempt"]["number"] == 1


def test_several_gates_stand_with_each_other(run: Callable[..., Said]) -> None:
    """Gates require each other as in any suite, and a second candidate is tested at its share of the risk."""
    said = run(SUITE, "--json")
    verdicts = read_json(said.out)["run"]["results"][1]["verdicts"]
    assert said.code == 0 and [(v["gate"], v["outcome"]) for v in verdicts] == [("no-worse", "PASS"), ("high", "PASS")]
    failing = run(SUITE.replace("min = 0.6", "min = 0.9"))
    assert failing.code == 1 and "FAIL  high" in failing.out


@pytest.mark.slow
def test_an_attempt_is_spent(run: Callable[..., Said], table: Table) -> None:
    """With attempts = "spend" the second candidate is tested at less."""
    first = read_json(run(SUITE, "--json").out)["run"]["results"][1]["verdicts"][0]
    table("candidate", make_asked_rows([0, 1, *WORSE[2:]]))
    second = read_json(run(SUITE, "--json").out)["run"]["results"][1]["verdicts"][0]
    assert (
        tuple(v["parts"]["attempt"]["number"] for v in (first, second)) == (1, 2)
        and second["alpha"] < first["alpha"] <= 0.05
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            '[[export]]\nuse = "hf"\nto = "out"',
            "[rows] cannot be combined with [[export]]: an export needs a model evaluated by this suite",
        ),
        ('[train]\nuse = "sft"\ndata = "x"', "[rows] cannot be combined with [train]: rows were scored elsewhere"),
        ('[model]\npath = "x"', "[rows] cannot be combined with [model]: rows were scored elsewhere"),
        ('[sweep]\nby = "qa.score"', "[rows] cannot be combined with [sweep]: rows were scored elsewhere"),
        ('[merge]\nbase = "original"', "[rows] cannot be combined with [merge]: rows were scored elsewhere"),
        ('[rows.other]\npath = "x"', "is unknown; write [rows.base] or [rows.candidate]"),
        (
            '[[eval]]\nname = "x"\nuse = "exact_match"\ndata = "x"',
            '", which runs a model; with [rows] it must be "rows"',
        ),
        ('[[eval]]\nname = "x"\nuse = "rows"\nmetrc = "score"', 'unknown option "metrc"; did you mean "metric"?'),
        ('[[eval]]\nname = "x"\nuse = "rows"\nallow = 3', "allow"),
        ('[[eval]]\nname = "x"\nuse = "rows"\nmissing = "drop"', "missing"),
        ('[[eval]]\nname = "x"\nuse = "rows"\nstop = "early"', '"stop" is for rows that a model answers'),
        ('[[eval]]\nname = "x"\nuse = "rows"\nlimit = 3', '"limit" is for rows that a model answers'),
        ('[[gate]]\nid = "x"\nmetric = "qa.score"\nmax = 1.0\nclean_only = true', "trains nothing"),
        ('[[gate]]\nid = "x"\nmetric = "qa.acc"\nmin = 0.1', 'eval "qa" has no metric "acc"'),
        ('[[gate]]\nid = "x"\nmetric = "qa.score"\nmin = 2.0', "is a proportion from 0 to 1"),
    ],
)
def test_what_does_not_go_with_rows_is_refused(run: Callable[..., Said], more: str, said: str) -> None:
    """Tables that need a model, and mistakes in evals and gates, are told before anything is decided."""
    found = run(f"{SUITE}\n{more}\n")
    assert found.code == 4 and said in found.err, found


def test_other_commands_say_who_gates_rows(run: Callable[..., Said]) -> None:
    """A suite of rows has no model to look ahead at, and is run whole."""
    assert ": [rows] suites have no model; only harness run works on them" in run(command="check").err
    assert ": [rows] suites take no other options; remove them" in run(SUITE, "--limit", "3").err
    model = '[suite]\nname = "x"\n[model]\npath = "m"\n[[eval]]\nname = "qa"\nuse = "rows"\n'
    assert run(model, "--collect-only").code == 4


def test_weights_that_rows_are_said_to_be_of_are_told(run: Callable[..., Said]) -> None:
    """A digest in the suite is a claim, and no more; what is no digest is refused."""
    claimed = 'path = "candidate.jsonl"\nweights = "sha256:' + "ab" * 32 + '"'
    said = run(SUITE.replace('path = "candidate.jsonl"', claimed))
    assert said.code == 0 and f"claimed to be of sha256:{'ab' * 32}" in " ".join(said.out.split())
    assert 'write "sha256:"' in run(SUITE.replace('path = "candidate.jsonl"', claimed.replace("sha256:", ""))).err


@pytest.fixture
def bundle(gate: Gate, table: Table, tmp_path: Path) -> Path:
    """Return the evidence that a gate left."""
    gate(table("base", make_asked_rows(BASE)), table("candidate", make_asked_rows(WORSE)), "--missing", "wrong")
    (found,) = tmp_path.glob("reports/*/gate")
    return found


def verify(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> Said:
    """Return how `harness verify` ended."""
    capsys.readouterr()
    return Said(main(["verify", str(folder), *words]), *capsys.readouterr())


def test_the_evidence_comes_to_the_same(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verdict comes out of the rows again, and the rows out of the files."""
    said = verify(capsys, bundle, "--sources", "base.jsonl", "candidate.jsonl")
    assert "1 of 1 decided again from their rows" in said.out and "800 rows read again, identical" in said.out
    assert said.code == 7 and said.err.endswith('gate "no-worse" is INCONCLUSIVE\n')  # as it was
    (tmp_path / "candidate.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_asked_rows(BASE)), "utf-8")
    said = verify(capsys, bundle, "--sources", "base.jsonl", "candidate.jsonl")
    assert said.code == 7 and ": the original files have other rows than the bundle" in said.err


def test_evidence_of_rows_vouches_for_no_model(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside files of an export it is no evidence of that, and no other file may lie in its folder."""
    (bundle / "notes.txt").write_text("", "utf-8")
    assert '"notes.txt" is not a file of the evidence' in verify(capsys, bundle).err
    (bundle / "model").mkdir()
    said = verify(capsys, bundle)
    assert said.code == 7 and "as written" not in said.out


def test_evidence_of_a_gate_that_failed_is_refused(
    gate: Gate, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is what was written, and says FAIL: as of an export, only what passed is verified."""
    gate(table("base", make_asked_rows(BASE)), table("candidate", make_asked_rows([0] * len(BASE))))
    (folder,) = tmp_path.glob("reports/*/gate")
    said = verify(capsys, folder)
    assert (
        said.code == 7 and "1 of 1 decided again from their rows" in said.out and 'gate "no-worse" is FAIL' in said.err
    )


def test_changed_evidence_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that was changed is found by its digest, and with another digest by its verdict."""
    import hashlib

    items, manifest = bundle / "items.jsonl", bundle / "manifest.json"
    before = hashlib.sha256(items.read_bytes()).hexdigest()
    lines = items.read_text("utf-8").splitlines(keepends=True)
    lines[-2] = lines[-2].replace('{"score": 0.0}', '{"score": 1.0}')
    items.write_text("".join(lines), "utf-8")
    assert "items.jsonl differs from the written file" in verify(capsys, bundle).err
    told = json.loads(manifest.read_text("utf-8"))
    manifest.write_text(json.dumps({**told, "files": {}}), "utf-8")  # a manifest that names no file vouches for none
    assert "differs from the written file" in verify(capsys, bundle).err
    manifest.write_text(json.dumps(told), "utf-8")
    after = hashlib.sha256(items.read_bytes()).hexdigest()
    manifest.write_text(manifest.read_text("utf-8").replace(before, after), "utf-8")
    said = verify(capsys, bundle)
    assert said.code == 7 and '": its rows give another' in said.err


CLAIMED = """
[[claim]]
metric = "rows.score"
versus = "base"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ('binding = "none"\nmax_attempts = 1\nmax_age_days = 1' + CLAIMED + "worse_by_at_most = 0.05", ""),
        ('binding = "none"\ngates = ["no-worse"]\nrecomputed = 1.0\nwaivers = false', ""),
        ('binding = "none"' + CLAIMED + "worse_by_at_most = 0.01", "no blocking gate implies it"),
        ('binding = "none"\ngates = ["other"]', "(gates)"),
        ('binding = "none"\nharness = "9"', "(harness)"),
        ('binding = "none"\ncached_answers = false', "(cached_answers)"),
        ('binding = "none"\nplugins = []', "(plugins)"),
        ('binding = "none"\nledger = "known"', "(ledger)"),
        ('binding = "none"\nstages = ["merged"]', "(stages)"),
        ('binding = "none"\nall_of = ["gate"]', "(all_of)"),
        ('binding = "none"\ndata = {rows = "' + "a" * 64 + '"}', "(data)"),
        ('binding = "named"', 'base has the binding "none", but the policy requires "named" (binding)'),
        (f'[[key]]\nkeyid = "{"a" * 64}"\npublic = "{"a" * 64}"', "the policy allows none (binding)"),
        (f'binding = "none"\n[[key]]\nkeyid = "{"a" * 64}"\npublic = "{"a" * 64}"', "([[key]])"),
    ],
)
def test_a_policy_takes_rows_where_it_says_so(
    gate: Gate, table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str, refused: str
) -> None:
    """What is bound to no bytes is taken by the key `binding` alone, and each other demand is met or refuses it."""
    base, candidate = table("base", make_asked_rows(BASE)), table("candidate", make_asked_rows(WORSE))
    gate(base, candidate, claim=("--worse-by-at-most", "0.05"))
    (bundle,) = tmp_path.glob("reports/*/gate")
    (tmp_path / "policy.toml").write_text(f'suites = ["*"]\n{policy}\n', "utf-8")
    said = verify(capsys, bundle, "--policy", "policy.toml")
    assert (said.code, refused in said.err) == (7 if refused else 0, True), said
    assert refused or 'policy: binding is at least "none"' in said.out


def test_a_policy_refuses_rows_that_did_not_pass(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A verdict that is not PASS is refused, and a policy without keys or `binding` is none."""
    (tmp_path / "policy.toml").write_text('suites = ["*"]\nbinding = "none"\n', "utf-8")
    said = verify(capsys, bundle, "--policy", "policy.toml")
    assert said.code == 7 and 'gate "no-worse" is INCONCLUSIVE' in said.err, said
    (tmp_path / "policy.toml").write_text('suites = ["*"]\n', "utf-8")
    assert "has no [[key]]" in verify(capsys, bundle, "--policy", "policy.toml").err


@pytest.mark.slow
def test_a_bundle_executes_nothing(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A harnessfile beside a bundle, or where a gate is asked, is not run: nobody named it."""
    (tmp_path / "harnessfile.py").write_text("raise SystemExit('executed')", "utf-8")
    assert "1 of 1 decided again from their rows" in verify(capsys, bundle).out
    assert main(["gate", "base.jsonl", "candidate.jsonl", *CLAIM]) in (1, 6)


def test_a_share_of_rows_that_lose_is_told_as_one(run: Callable[..., Said]) -> None:
    """The terminal says which share loses more, and compares no values."""
    claim = "worse_by_more_than = 0.5\non_at_most = 0.1"
    said = run(SUITE.replace("worse_by_at_most = 0.05", claim))
    assert said.code == 0, said.err
    assert "PASS  no-worse   share of rows 0.020, at most 0.038 (limit 0.100)" in said.out
