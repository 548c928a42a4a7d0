"""What is not said is not equal: a fact of one side alone, a file's name, a judge that is the model itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.digests import digest_value
from harness.cli.main import main
from harness.errors import UsageError
from harness.rows.comparability import ANSWERS, NAMES, compare_facts
from harness.rows.pairing import pair_rows
from harness.rows.readers import read_run_rows
from harness.rows.readers.fields import collect_facts
from harness.rows.records import RawRows, Wanted
from tests.helpers.others import Said

Gate = Callable[..., Said]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "rows"
BASE, CANDIDATE = FIXTURES / "lm_eval-0.4.13/base", FIXTURES / "lm_eval-0.4.13/candidate_bf16"
MC = ("--metric", "cap_mc:acc")
WANTED = Wanted(task="cap_mc", metric="acc")


# -- B7: a results file that is left out -----------------------------------------------------------


def read_bare_run(folder: Path) -> RawRows:
    """Return a run without its results file, as people copy samples alone, of a task whose rows tell what they ask."""
    return replace(read_run_rows(str(folder), WANTED), facts={})


@pytest.mark.parametrize("bare", ["base", "candidate"])
def test_facts_of_one_side_alone_are_unfair(bare: str) -> None:
    """Without its results file a side tells neither shots nor temperature, and no verdict takes that for equal."""
    runs = {"base": read_run_rows(str(BASE), WANTED), "candidate": read_run_rows(str(CANDIDATE), WANTED)}
    known = {name for name in ANSWERS if name in runs["base"].facts}
    assert known >= {"shots", "template", "system", "generation", "dtype", "scorer"}
    runs[bare] = read_bare_run(BASE if bare == "base" else CANDIDATE)
    pairs = pair_rows(runs["base"], runs["candidate"], only_common=False)
    with pytest.raises(UsageError) as refused:
        compare_facts(runs["base"], runs["candidate"], pairs, ())
    assert {m.partition(" is known only for")[0] for m in refused.value.messages} == known
    some = sorted(known)
    with pytest.raises(UsageError, match=some[-1]):
        compare_facts(runs["base"], runs["candidate"], pairs, some[:-1])  # allowed one by one
    found = compare_facts(runs["base"], runs["candidate"], pairs, some)
    assert len(found.allowed) == len(known) and any("batch" in line for line in found.told)


def test_what_neither_side_tells_is_in_the_first_line(gate: Gate, tmp_path: Path) -> None:
    """Samples alone, as people copy them, are judged, and the verdict begins with what is not known."""
    for side, source in (("base", BASE), ("candidate", CANDIDATE)):
        (tmp_path / side).mkdir()
        for path in source.glob("samples_*"):
            shutil.copyfile(path, tmp_path / side / path.name)
    said = gate(tmp_path / "base", tmp_path / "candidate", *MC)
    verdict = " ".join(said.out.partition("no-worse")[2].split())
    assert "unknown on both sides: shots, template, system, generation, dtype, scorer, task version" in verdict
    assert verdict.index("unknown on both sides:") < verdict.index("pairs")


def test_facts_that_change_answers_can_be_allowed() -> None:
    """Each fact of the closed list has a name for --allow."""
    assert {*ANSWERS} <= {*NAMES}


# -- B6: a file's name is no identity --------------------------------------------------------------


def test_six_candidates_in_six_files_are_six_attempts(gate: Gate, table: Callable[..., Path]) -> None:
    """Rows known by ids alone are the same rows, whatever the file of a candidate is called."""
    base = table("base", [{"id": f"q-{i}", "score": i % 2} for i in range(60)])
    for number in range(1, 7):
        rows = [{"id": f"q-{i}", "score": (i + (i < number)) % 2} for i in range(60)]
        said = gate(base, table(f"another-name-{number}", rows))
        assert f"· {number} attempt" in said.out, said.out


# -- B8: a model that grades itself ----------------------------------------------------------------


def write_inspect_log(folder: Path, name: str, **changes: Any) -> Path:
    """Write a log of Inspect whose eval is changed."""
    log = json.loads((FIXTURES / "inspect-0.3.285/json_two_rows.json").read_text("utf-8"))
    log["eval"] |= {"model": f"lab/{name}", **changes}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(log), "utf-8")
    return path


@pytest.mark.parametrize(
    ("options", "roles", "own"),
    [
        ({}, None, True),
        ({"model": None}, {}, True),
        ({"model": "lab/candidate"}, None, True),
        ({"model": ["lab/other", "lab/candidate"]}, None, True),
        ({}, {"grader": {"model": "lab/candidate"}}, True),
        ({"model": "lab/judge"}, None, False),
        ({}, {"grader": {"model": "lab/judge"}}, False),
    ],
)
@pytest.mark.parametrize("scorer", ["model_graded_qa", "inspect_ai/model_graded_fact"])
def test_a_model_that_grades_itself_is_refused(
    gate: Gate, tmp_path: Path, scorer: str, options: dict[str, Any], roles: Any, own: bool
) -> None:
    """Inspect's default judge is the model under test: a lenient one wins on the same answers."""
    log = json.loads((FIXTURES / "inspect-0.3.285/json_two_rows.json").read_text("utf-8"))
    kept = log["eval"]["scorers"][0]
    given = {"scorers": [{**kept, "name": scorer, "options": options}], "model_roles": roles}
    candidate = write_inspect_log(tmp_path, "candidate", **given)
    match = ("--metric", "match")
    alone = gate(candidate, *match, claim=("--min", "0.001"))
    assert (alone.code == 4, "judged by the model itself" in alone.err) == (own, own), alone.err
    both = gate(write_inspect_log(tmp_path, "base", **given), candidate, *match)
    assert (both.code == 4, "judged by the model itself" in both.err) == (own, own), both.err
    if own:
        assert gate(candidate, *match, "--allow", "judge", claim=("--min", "0.001")).code in (0, 1, 6)


# -- B13, B15: bundles, weights, Parquet -----------------------------------------------------------


@pytest.fixture
def bundle(gate: Gate, table: Callable[..., Path], tmp_path: Path) -> Path:
    """The evidence of a gate that passed."""
    rows = [{"id": f"q-{i}", "input": f"question {i}", "score": 1} for i in range(400)]
    base = table("base", [{**row, "score": int(i > 0)} for i, row in enumerate(rows)])
    assert gate(base, table("candidate", rows)).code == 0
    return next((tmp_path / "reports").glob("*/gate"))


@pytest.mark.parametrize(
    ("demand", "key"),
    [
        ('[served]\nlayers = ["ids"]', "([served])"), ("plugins = []", "(plugins)"), ('all_of = ["a"]', "(all_of)"),
        ('ledger = "first"', "(ledger)"),
    ],
)  # fmt: skip
def test_what_a_bundle_does_not_tell_refuses_it(
    bundle: Path, tmp_path: Path, demand: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A demand that a bundle says nothing of is not passed over."""
    head = 'suites = ["*"]\nbinding = "none"\n'
    (tmp_path / "policy.toml").write_text(head, "utf-8")
    assert main(["verify", str(bundle), "--policy", str(tmp_path / "policy.toml")]) == 0
    (tmp_path / "policy.toml").write_text(f"{head}{demand}\n", "utf-8")
    capsys.readouterr()
    assert main(["verify", str(bundle), "--policy", str(tmp_path / "policy.toml")]) == 7
    assert key in capsys.readouterr().err


def test_a_bundle_is_read_once_and_through_no_link(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file in the place of which a link stands is no evidence."""
    (bundle / "items.jsonl").rename(tmp_path / "items.jsonl")
    (bundle / "items.jsonl").symlink_to(tmp_path / "items.jsonl")
    assert main(["verify", str(bundle)]) == 7
    assert '"items.jsonl" is a link' in capsys.readouterr().err


@pytest.mark.parametrize("weight", ["1e308", "1e101", "-1", "inf"])
def test_weights_are_bounded(gate: Gate, table: Callable[..., Path], weight: str) -> None:
    """A weight whose sums are no numbers is a mistake in a line, and no bug."""
    rows = [{"id": f"q{i}", "input": f"{i}", "score": i % 2, "w": weight} for i in range(40)]
    other = [*rows[:-1], {**rows[-1], "score": 1.0, "w": "2"}]
    said = gate(table("base", rows), table("candidate", other), "--weight", "w")
    assert (said.code, said.err.count("\n"), "weight" in said.err) == (4, 1, True), said.err


def test_a_parquet_that_unpacks_without_end_is_refused(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small file of one text a million times is not held in memory."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    from harness.rows.readers import layouts

    monkeypatch.setattr(layouts, "MAX_TEXT_BYTES", 1 << 24)
    text = pa.array(["x" * 100_000] * 1000)
    frame = pa.table({"id": pa.array([f"q{i}" for i in range(1000)]), "input": text, "score": pa.array([1.0] * 1000)})
    for name in ("base", "candidate"):
        pyarrow.parquet.write_table(frame, tmp_path / f"{name}.parquet")
    assert (tmp_path / "base.parquet").stat().st_size < 1 << 20
    said = gate(tmp_path / "base.parquet", tmp_path / "candidate.parquet")
    assert said.code == 4 and "unpacks to more than" in said.err


def test_a_ledger_without_a_suffix_has_a_folder_of_its_own(
    gate: Gate, table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HARNESS_LEDGER=attempts` is a file, and what rows ask lies beside it."""
    monkeypatch.setenv("HARNESS_LEDGER", str(tmp_path / "attempts"))
    rows = [{"id": f"q{i}", "input": f"question {i}", "score": i % 2} for i in range(40)]
    said = gate(table("base", rows), table("candidate", [{**row, "score": 1} for row in rows]))
    assert said.code in (0, 6) and (tmp_path / "attempts").is_file(), said.err
    assert [*(tmp_path / "attempts.rows").iterdir()] and digest_value([]) not in said.out


def _read_with_settings(**told: Any) -> RawRows:
    return replace(read_run_rows(str(BASE), WANTED), facts=collect_facts(generation=told))


def test_one_setting_is_allowed_at_a_time() -> None:
    """`--allow temperature` leaves top_p refused; settings of who asks, such as a timeout, are only printed."""
    base = _read_with_settings(temperature=0, top_p=1, timeout=10, max_connections=4)
    other = _read_with_settings(temperature=1, top_p=0.9, timeout=20, max_retries=3, max_connections=4)
    pairs = pair_rows(base, other, only_common=False)
    with pytest.raises(UsageError) as refused:
        compare_facts(base, other, pairs, ())
    assert [m.rpartition("--allow ")[2] for m in refused.value.messages] == ["temperature", "top-p"]
    with pytest.raises(UsageError, match=r"top p is 1 and 0\.9; rerun one of the runs, or --allow top-p"):
        compare_facts(base, other, pairs, ["temperature"])
    for allowed in (["temperature", "top-p"], ["temperature", "top_p"], ["generation"]):
        found = compare_facts(base, other, pairs, allowed)
        assert len(found.allowed) == 2
        assert [line.split(": ")[1].split(" is")[0] for line in found.told] == ["max retries", "timeout"]
    with pytest.raises(UsageError, match='allow: "temprature" is unknown; did you mean "temperature"'):
        compare_facts(base, other, pairs, ["temprature"])
