"""Readers of other tools' rows on files that the tools made, and on what became of such files: read, or refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from harness import UsageError
from harness.rows.pairing import pair_rows
from harness.rows.readers import READERS, find_reader, inspect, read_run_rows
from harness.rows.records import RawRow, RawRows, Wanted
from harness.rows.safe_read import SafeFiles
from harness.testing import Project
from tests.helpers.others import Said

FILES = Path(__file__).parents[1] / "fixtures" / "rows"
INSPECT, NEMO, EEE = FILES / "inspect-0.3.285", FILES / "nemo_evaluator-0.3.0", FILES / "every_eval_ever-0.3.0"
PROMPTFOO, DEEPEVAL = FILES / "promptfoo-0.123.1" / "output.json", FILES / "deepeval-4.3.1" / "test_run.json"
KEPT = FILES / "harness-0.1.0"
OURS = [f"{KEPT}/run#merged", f"{KEPT}/run/base", f"{KEPT}/export#base"]
ANY = {
    "inspect": [p for p in sorted(INSPECT.iterdir()) if p.stem != "crashed"],
    "nemo": sorted(NEMO.iterdir()),
    "every_eval_ever": [EEE / "lm_base#cap_mc", EEE / "lm_candidate_bf16", EEE / "in_one_error", EEE / "in_reducers"],
    "promptfoo": [PROMPTFOO],
    "deepeval": [DEEPEVAL],
    "ours": OURS,
}
ASKED = "What is the capital of"


def read_rows(path: object, **want: Any) -> RawRows:
    """Return the rows of a path, where "#TASK" is the task of a log of Every Eval Ever."""
    name, _, task = str(path).partition("#") if EEE.name in str(path) else (str(path), "", "")
    return read_run_rows(name, Wanted(task=want.pop("task", task), **want))


def count_states(rows: Iterable[RawRow]) -> Counter[str]:
    return Counter(row.state for row in rows)


def read_usage_error(path: object, **want: Any) -> str:
    """Return the one line by which a path is refused."""
    with pytest.raises(UsageError) as told:
        read_rows(path, **want)
    assert len(told.value.messages) == 1
    return str(told.value)


# -- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("tool", "path"), [(tool, path) for tool, paths in ANY.items() for path in paths])
def test_each_file_is_known_by_what_it_holds(tool: str, path: Path, tmp_path: Path) -> None:
    """A real file is read by the reader of its tool and no other before it, and says of each metric what it knows."""
    there = Path(str(path).partition("#")[0])
    head = b"" if there.is_dir() else there.read_bytes()[:4096]
    assert next(name for name in READERS if find_reader(name).sniff(there, head)) == tool
    run = read_rows(path)
    assert run.rows and run.metrics and run.sources and all(size > 0 for _, _, size in run.sources)
    assert all(row.content or tool == "ours" for row in run.rows)
    for row in run.rows:
        assert (row.state == "scored") == bool(row.values) or any(m.unreadable for m in run.metrics.values())
        assert set(row.values) <= set(run.metrics)
    pair_rows(run, run, only_common=False)  # nothing stands twice


@pytest.mark.parametrize("tool", ANY)
def test_slices_and_clusters_are_columns_of_a_row(tool: str) -> None:
    """A column that a row has beside its question makes slices and clusters; one that it has not is refused."""
    names = {"inspect": "boom", "nemo": "continent", "every_eval_ever": "filter", "promptfoo": "answer", "ours": "kind"}
    path = {"ours": f"{KEPT}/run/base", "inspect": INSPECT / "one_error.eval"}.get(tool, ANY[tool][0])
    if tool in names:
        run = read_rows(path, slices=[names[tool]], cluster=[names[tool]])
        assert {row.cluster for row in run.rows} == {row.slices[names[tool]] for row in run.rows} != {""}
    assert 'has no column "colour"' in read_usage_error(path, slices=["colour"])


# -- Inspect ---------------------------------------------------------------------------------------


def test_inspect_success_is_not_asked() -> None:
    """A sample in error is one whatever the log's status, and a score of nothing is no score."""
    run = read_rows(INSPECT / "one_error.eval")
    assert count_states(run.rows) == {"scored": 4, "error": 1}
    (lost,) = (row for row in run.rows if row.state == "error")
    assert (lost.key, lost.values, lost.why) == ("cap-germany", {}, "RuntimeError('boom')")
    assert run.metrics["match"].total == 1.0
    both = read_rows(INSPECT / "chat_and_error.eval")
    assert [("length" in row.values, "words" in row.values) for row in both.rows].count((False, True)) == 1  # NaN


def test_inspect_numbers_are_places() -> None:
    """Samples that were numbered after a shuffle pair by what they ask."""
    base, candidate = (read_rows(INSPECT / f"autoid_{how}.eval") for how in ("in_order", "shuffled"))
    assert all(row.numbered for run in (base, candidate) for row in run.rows)
    pairs = pair_rows(base, candidate, only_common=False)
    assert (pairs.how, len(pairs.names), pairs.renamed > 0) == ("content", 5, True)
    assert all(a[0].content == b[0].content for a, b in zip(pairs.base, pairs.candidate, strict=True))


def test_inspect_scores_as_inspect_counts_them() -> None:
    """Letters, words, parts and tables have the numbers of Inspect's own means, epoch by epoch."""
    run = read_rows(INSPECT / "epochs2_base.eval")
    assert {n: m.total for n, m in run.metrics.items()} == {
        "match": 0.9, "partial": 0.95, "dictish/len": 6.7, "dictish/caps": 1.2
    }  # fmt: skip
    assert Counter(row.repeat for row in run.rows) == {1: 5, 2: 5}
    assert "one half" in run.notes[0] and 0.5 in {row.values["partial"] for row in run.rows}
    reduced = read_rows(INSPECT / "reducers.eval")
    assert {(r.values["match"], r.values["match/max"], r.repeat) for r in reduced.rows} == {(1 / 3, 1.0, 0)}
    assert (len(reduced.rows), reduced.facts["epochs"]) == (5, "3 max")


def test_inspect_what_was_asked() -> None:
    """A question is its input, target and choices, whole; prompts differ by what a solver put around it."""
    text, chat, long = (read_rows(INSPECT / f"{n}.eval") for n in ("epochs2_base", "chat_and_error", "long"))
    assert {row.content for row in text.rows} == {row.content for row in chat.rows}
    assert {row.prompt for row in text.rows}.isdisjoint({row.prompt for row in chat.rows})
    assert len({row.content for row in long.rows}) == 5  # their summaries are cut, and one text
    assert len({row.content for row in read_rows(INSPECT / "choices.eval").rows}) == 5
    assert read_rows(INSPECT / "json_two_rows.json").facts["limit"] == "2"


def test_inspect_part_of_a_run_is_no_run(tmp_path: Path) -> None:
    """A log that crashed, that lacks samples, or that was cut, is refused; what ended at a limit is missing."""
    assert 'its run ended as "error" before all rows were scored' in read_usage_error(INSPECT / "crashed.eval")
    log = json.loads((INSPECT / "json_two_rows.json").read_text())
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log | {"samples": log["samples"][:1]}))
    assert ": has 1 of its run's 2 samples; run it again" in read_usage_error(path)
    path.write_text(json.dumps(log | {"samples": [log["samples"][0]] * 2}))
    assert "twice" in read_usage_error(path)
    cut = tmp_path / "cut.eval"
    cut.write_bytes((INSPECT / "one_error.eval").read_bytes()[:9000])
    assert ": is not a complete zip file:" in read_usage_error(cut)
    assert count_states(read_rows(INSPECT / "limit.eval").rows) == {"limit": 5}


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as log:
        for name, data in members.items():
            log.writestr(name, data)
    return path


@pytest.mark.parametrize("path", [p for p in sorted(INSPECT.iterdir()) if p.stem != "crashed"], ids=lambda p: p.name)
def test_inspect_logs_are_the_same_without_its_library(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`read_eval_log`, where inspect_ai is installed, and the reader of JSON find the same rows, totals and facts."""
    if not inspect.has_library():
        pytest.skip("inspect_ai is not installed")
    found = read_rows(path)
    monkeypatch.setattr(inspect, "has_library", lambda: False)
    assert found == read_rows(path)


def test_inspect_logs_of_an_older_format_are_read_by_its_library(tmp_path: Path) -> None:
    """Inspect raises what it wrote before to the present format."""
    if not inspect.has_library():
        pytest.skip("inspect_ai is not installed")
    log = json.loads((INSPECT / "json_two_rows.json").read_text("utf-8"))
    path = tmp_path / "old.json"
    path.write_text(json.dumps(log | {"version": 1}), "utf-8")
    assert read_rows(path).rows == read_rows(INSPECT / "json_two_rows.json").rows
    path.write_text(json.dumps(log | {"version": 9}), "utf-8")
    assert "inspect_ai cannot read it: Unable to read version 9" in read_usage_error(path)


def test_a_large_inspect_log_is_read_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its library has all samples in memory at once, so it reads none that are larger than a file may be."""
    monkeypatch.setattr(inspect, "_read_by_library", None)
    monkeypatch.setattr(inspect, "MAX_TEXT_BYTES", 100)
    assert read_rows(INSPECT / "one_error.eval").rows


@pytest.mark.parametrize("library", [True, False])
def test_inspect_zips_that_lead_astray(library: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb, a name that leads out and a member that is no sample are refused, each in a line."""
    if library and not inspect.has_library():
        pytest.skip("inspect_ai is not installed")
    monkeypatch.setattr(inspect, "has_library", lambda: library)
    header = SafeFiles(INSPECT).read_zip(INSPECT / "one_error.eval")["header.json"]()
    monkeypatch.setattr("harness.rows.safe_read.MAX_MEMBER_BYTES", 1 << 20)
    bomb = write_zip(tmp_path / "bomb.eval", {"header.json": header, "samples/a.json": b" " * (1 << 21)})
    assert ": unpacks to more than" in read_usage_error(bomb)
    assert "leads out" in read_usage_error(
        write_zip(tmp_path / "out.eval", {"header.json": header, "../samples/a.json": b"{}"})
    )
    none = (
        "inspect_ai cannot read it: 4 validation errors for EvalSample"
        if library
        else ": has no id or no epoch, so it is not a sample of Inspect"
    )
    assert none in read_usage_error(write_zip(tmp_path / "odd.eval", {"header.json": header, "samples/a.json": b"{}"}))
    assert "has not ended" in read_usage_error(write_zip(tmp_path / "live.eval", {"_journal/start.json": b"{}"}))
    old = json.dumps(json.loads(header) | {"version": 1}).encode()
    said = "inspect_ai cannot read it" if library else "version 1"
    assert said in read_usage_error(write_zip(tmp_path / "old.eval", {"header.json": old, "samples/a.json": b"{}"}))
    twice = write_zip(tmp_path / "twice.eval", {"header.json": header, "samples/a.json": b'{"id": 1, "id": 2}'})
    assert "samples/a.json: cannot be read" in read_usage_error(twice)


# -- NeMo ------------------------------------------------------------------------------------------


def test_nemo_failures_are_not_zeros() -> None:
    """What NeMo graded 0 since its machinery failed is missing, and what the solver gave up on ended at a limit."""
    run = read_rows(NEMO / "errors")
    assert count_states(run.rows) == {"scored": 2, "error": 3, "limit": 1}
    assert {row.why for row in run.rows if row.state == "error"} == {"no route to model", "boom", "endpoint hung up"}
    assert run.metrics["reward"].total is None and "4 rows failed" in run.notes[1]


def test_nemo_pairs_by_question() -> None:
    """Rows in another order, each asked twice, pair with their repeats; the totals are NeMo's."""
    base, candidate = read_rows(NEMO / "base"), read_rows(NEMO / "candidate")
    pairs = pair_rows(base, candidate, only_common=False)
    assert (pairs.how, len(pairs.names), pairs.repeats) == ("content", 6, (2, 2))
    assert base.metrics["reward"].total == pytest.approx(8 / 12) == base.metrics["fuzzy_match"].total
    assert read_rows(NEMO / "fractional").metrics["reward"].scale is None
    assert read_rows(NEMO / "limit").facts["limit"] == "4"
    assert "5 tasks (base, candidate, errors, fractional, limit)" in read_usage_error(NEMO)
    assert read_rows(NEMO, task="limit").model == "stub-limit"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:-1], "has 11 of 12 rows; the file is truncated, or of another run"),
        (lambda lines: [lines[0].replace('"reward": 1.0', '"reward": 0.0', 1), *lines[1:]], "the file says"),
        (lambda lines: [*lines[:-1], lines[-1][:50]], "line 12: cannot be read; lines are never skipped (Unterminated string starting at"),  # noqa: E501
        (lambda lines: [lines[0].replace('"reward": 1.0', '"reward": NaN', 1), *lines[1:]], "NaN"),
        (lambda lines: [lines[0].replace('"reward": 1.0', '"reward": "good"', 1), *lines[1:]], '"good" is not a number'),  # noqa: E501
        (lambda lines: [lines[0].replace('"repeat": 0', '"repeat": []', 1), *lines[1:]], "is not a file of nemo ("),
        (lambda lines: [lines[0].replace('"problem_idx"', '"reward"', 1), *lines[1:]], "twice"),
        (lambda lines: ["[" * 100_000, *lines], "nested too deeply"),
        (lambda lines: [lines[0].replace("1.0", "1" * 5000, 1), *lines[1:]], "digits"),
        (lambda lines: [], "has no rows"),
    ],
)  # fmt: skip
def test_nemo_files_that_were_changed(change: Callable[[list[str]], list[str]], told: str, tmp_path: Path) -> None:
    """Cut, edited and broken lines are refused with their place."""
    shutil.copytree(NEMO / "base", tmp_path / "run")
    path = tmp_path / "run" / "results.jsonl"
    path.write_text("\n".join(change(path.read_text().splitlines())))
    assert told in read_usage_error(tmp_path / "run")


# -- Every Eval Ever -------------------------------------------------------------------------------


def test_every_eval_ever_zeros_that_are_no_scores() -> None:
    """An error wins over the 0 beside it, and a result without a number is no metric of the rows."""
    failed = read_rows(EEE / "in_one_error")
    assert count_states(failed.rows) == {"scored": 4, "error": 1}
    assert read_rows(EEE / "lm_base", task="cap_ppl").metrics["word_perplexity"].unreadable
    assert count_states(read_rows(EEE / "lm_base", task="cap_ppl").rows) == {"unscored": 20}
    assert "several results" in read_rows(EEE / "in_reducers").metrics["match/accuracy"].unreadable


def test_every_eval_ever_says_what_lm_eval_says() -> None:
    """The converter's rows of a run of lm_eval have the values, totals and directions of that run's own files."""
    converted = read_rows(EEE / "lm_base", task="cap_mc")
    own = read_rows(FILES / "lm_eval-0.4.13" / "base", task="cap_mc")
    for metric in ("acc", "acc_norm"):
        assert [r.values[metric] for r in converted.rows] == [r.values[metric] for r in own.rows]
        assert (converted.metrics[metric].total, converted.metrics[metric].better) == (
            own.metrics[metric].total,
            "higher",
        )
    assert all(row.numbered for row in converted.rows)
    pairs = pair_rows(converted, read_rows(EEE / "lm_candidate_bf16"), only_common=False)
    assert (pairs.how, len(pairs.names)) == ("content", 20)


def test_every_eval_ever_is_whole(tmp_path: Path) -> None:
    """Samples that the log does not name by their sha256, of another log or without one, are refused."""
    shutil.copytree(EEE / "lm_candidate_bf16", tmp_path / "run")
    (samples,) = (tmp_path / "run").glob("*_samples.jsonl")
    log = next(p for p in (tmp_path / "run").glob("*.json"))
    lines = samples.read_text().splitlines(keepends=True)
    samples.write_text("".join(lines[:-1]))
    assert "sha256" in read_usage_error(tmp_path / "run")
    samples.write_text("".join(lines).replace('"evaluation_id": "cap_mc', '"evaluation_id": "other', 1))
    assert "another evaluation" in read_usage_error(tmp_path / "run")
    log.write_text(log.read_text().replace('"schema_version": "0.3.0"', '"schema_version": "1.0"'))
    assert "has schema version 1.0, but 0.3.x is supported" in read_usage_error(tmp_path / "run")
    log.unlink()
    assert "belong together" in read_usage_error(samples)


# -- promptfoo, deepeval ---------------------------------------------------------------------------


def test_promptfoo_tests_are_no_rows() -> None:
    """Repeats are one test's, no assertion is no score, and an assertion that broke is no answer that failed."""
    run = read_rows(f"{PROMPTFOO}#base")
    assert count_states(run.rows) == {"scored": 4, "error": 2, "unscored": 2}
    assert Counter(row.repeat for row in run.rows) == {0: 4, 1: 4} and len({row.content for row in run.rows}) == 4
    assert {row.values["success"] for row in run.rows if row.key == "cap-italy"} == {0.0}
    assert 'no provider "x"' in read_usage_error(f"{PROMPTFOO}#x")


def test_promptfoo_counts_are_its_own(tmp_path: Path) -> None:
    """A file that lacks tests, and one of another format, are refused."""
    whole = json.loads(PROMPTFOO.read_text())
    path = tmp_path / "out.json"
    rows = whole["results"]["results"]
    path.write_text(json.dumps(whole | {"results": {**whole["results"], "results": rows[1:]}}))
    assert "tests that pass: the rows give 3, but the file says 4;" in read_usage_error(path)
    path.write_text(json.dumps(whole | {"results": {**whole["results"], "version": 2}}))
    assert "has version 2 of promptfoo's format, but" in read_usage_error(path)
    two = [*whole["results"]["prompts"], {**whole["results"]["prompts"][0], "provider": "other"}]
    path.write_text(json.dumps(whole | {"results": {**whole["results"], "prompts": two}}))
    assert "2 providers (base, other)" in read_usage_error(path)
    assert len(read_rows(f"{path}#base").rows) == 8


def test_deepeval_errors_are_no_failures(tmp_path: Path) -> None:
    """A metric that failed has no score, a threshold tells which way is better, and numbered names are places."""
    run = read_rows(DEEPEVAL)
    assert count_states(run.rows) == {"scored": 4, "error": 1} and all(row.numbered for row in run.rows)
    assert (run.metrics["Exact"].better, run.metrics["Exact"].total) == ("higher", 0.25)
    told = json.loads(DEEPEVAL.read_text())
    path = tmp_path / "run.json"
    for case in told["testCases"]:
        for metric in case["metricsData"]:
            metric["success"] = not metric["success"]
    path.write_text(json.dumps(told))
    assert read_rows(path).metrics["Exact"].better == "lower"
    told["testCases"][0]["metricsData"] *= 2
    path.write_text(json.dumps(told))
    assert "twice" in read_usage_error(path)


def test_a_metric_that_failed_is_missing(gate: Callable[..., Said], tmp_path: Path) -> None:
    """Where one metric of a row failed and another did not, a gate on the one has a verdict."""
    told = json.loads(DEEPEVAL.read_text())
    for name in ("base", "candidate"):
        for case in told["testCases"]:
            score = {"name": "Exact", "threshold": 0.5, "success": True, "score": 1.0}
            lost = name == "candidate" and case["order"] == 2
            case["metricsData"] = [
                score,
                score | {"name": "Other"} | ({"error": "boom", "score": None} if lost else {}),
            ]
        (tmp_path / f"{name}.json").write_text(json.dumps(told | {"metricsScores": [], "identifier": name}))
    sides = tmp_path / "base.json", tmp_path / "candidate.json"
    claim = ("--worse-by-at-most", "0.6")
    assert gate(*sides, "--metric", "Exact", claim=claim).code == 0
    said = gate(*sides, "--metric", "Other", claim=claim)
    assert said.code == 6 and "test_case_2" in said.out


def test_a_run_that_failed_on_every_row_has_no_verdict(gate: Callable[..., Said], tmp_path: Path) -> None:
    """All samples in error under "success" are missing rows and no mistake of the user's: exit 6, and what happened."""
    log = json.loads((INSPECT / "json_two_rows.json").read_text())
    for sample in log["samples"]:
        sample |= {"scores": {}, "error": {"message": "boom", "traceback": "", "traceback_ansi": ""}}
    for score in log["results"]["scores"]:
        score |= {"scored_samples": 0, "metrics": {k: m | {"value": 0.0} for k, m in score["metrics"].items()}}
    (tmp_path / "log.json").write_text(json.dumps(log | {"reductions": []}))
    said = gate(INSPECT / "json_two_rows.json", tmp_path / "log.json", "--metric", "match")
    assert said.code == 6 and "boom" in said.out and log["status"] == "success"


# -- what nobody writes ----------------------------------------------------------------------------

LEAVES: list[Any] = [None, "x", -1, 1e999, [], {}, True, "1,5", [None], {"a": {}}]


def replace_leaf(value: Any, place: int, leaf: Any) -> tuple[Any, int]:
    """Return a document with another leaf at a place, counted through it, and how many places are left."""
    if place == 0:
        return leaf, -1
    place -= 1
    if isinstance(value, (dict, list)):
        copy: Any = type(value)(value)
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            copy[key], place = replace_leaf(value[key], place, leaf)
            if place < 0:
                return copy, place
        return copy, place
    return value, place


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["promptfoo", "deepeval", "inspect", "every_eval_ever", "nemo"])
def test_broken_documents_are_read_or_refused(tool: str, tmp_path: Path) -> None:
    """Whatever stands in the place of a value, a file is read, or refused in one line."""
    source = {"promptfoo": PROMPTFOO, "deepeval": DEEPEVAL, "inspect": INSPECT / "json_two_rows.json"}.get(tool)
    if source is None:
        source = next(
            p for p in (EEE / "in_one_error" if tool == "every_eval_ever" else NEMO / "errors").glob("*.json")
        )
        shutil.copytree(source.parent, tmp_path, dirs_exist_ok=True)
    whole = json.loads(source.read_text())
    if tool == "inspect":
        for sample in whole["samples"]:
            sample |= {"events": [], "events_data": None}
    path, ended = tmp_path / source.name, Counter[str]()
    for place in range(1, 400):
        document, left = replace_leaf(whole, place, LEAVES[place % len(LEAVES)])
        if left >= 0:
            break
        path.write_text(json.dumps(document).replace("Infinity", "1e999"))
        try:
            run = find_reader(tool).read(path if source.parent != NEMO / "errors" else tmp_path, Wanted())
            assert run.rows
            ended["read"] += 1
        except UsageError:
            ended["refused"] += 1
    assert ended["read"] and ended["refused"]


def test_a_run_folder_is_recognised_through_no_link(passed: Project) -> None:
    """The file by whose beginning a run is recognised is opened as its rows are, even if another one is read."""
    run = next((passed.folder / "reports").iterdir())
    secret = passed.folder / "secret.jsonl"
    secret.write_text('{"cluster": 1, "weights": 1, "doc_hash": 1}\n', "utf-8")
    (run / "adapter/samples_a_2026-11-27T12-35-20.177890.jsonl").symlink_to(secret)
    outcome = passed.harness("gate", f"{run}#base", f"{run}#merged", "--metric", "qa:exact_match", "--better-by", "0")
    assert (outcome.code, "samples_a" in outcome.err) == (4, True), outcome


def test_evidence_is_read_through_no_link(passed: Project) -> None:
    """A folder of an export that is a link leads to rows of another one."""
    export = passed.folder / "exports/fake"
    (export / "evidence").rename(passed.folder / "elsewhere")
    (export / "evidence").symlink_to(passed.folder / "elsewhere")
    outcome = passed.harness("gate", f"{export}#base", f"{export}#merged", "--better-by", "0")
    assert (outcome.code, "evidence" in outcome.err) == (4, True), outcome
