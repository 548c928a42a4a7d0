"""A run of ours in the layouts of others: read back, its rows have the same values to the last bit."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import Sample, Score, UsageError
from harness.cli.main import main
from harness.release.export import evidence_row, scores_without_texts
from harness.reports.run_folder import make_row, prompt_of
from harness.rows.readers import find_reader, read_run_rows
from harness.rows.records import Wanted
from harness.rows.to_every_eval_ever import write_every_eval_ever
from harness.testing import SUITE, Project
from tests.helpers.others import Said
from tests.helpers.suites import run_commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that passed, which nobody changes."""
    folder = run_commands(tmp_path_factory.mktemp("ran"), "run suite.toml", suite=SUITE)
    return next((folder / "reports").glob("*/"))


def test_a_row_is_as_lm_eval_writes_it() -> None:
    """Arguments stand under its keys, a chat as one text, and hashes are made by its recipe."""
    row = {"id": "q", "input": "né?", "n": [1, 2]}
    one = make_row(3, Sample("q", "né?", ["a", "b"], row, key="k"), Score("q", {"acc": 1.0}), ["acc"])
    assert one["arguments"] == {"gen_args_0": {"arg_0": "né?"}} and prompt_of(one) == "né?" and one["key"] == "k"
    texts = json.dumps(row, indent=2, ensure_ascii=False), "né?", "['a', 'b']"
    assert [one[f"{n}_hash"] for n in ("doc", "prompt", "target")] == [
        hashlib.sha256(text.encode()).hexdigest() for text in texts
    ]
    chat = [{"role": "user", "content": "né?"}]
    other = make_row(3, Sample("q", chat, "a", row), Score("q", {"acc": 1.0}), ["acc"])
    assert json.loads(other["arguments"]["gen_args_0"]["arg_0"]) == chat == prompt_of(other)
    assert prompt_of({"arguments": [[chat]]}) == chat  # as it was written before


@pytest.mark.slow
def test_a_metric_may_be_called_as_a_key_of_a_row_is() -> None:
    """Evidence has the value of a metric "arguments", and of what was asked digests alone; a run's folder has both."""
    sample, score = Sample("q", "né?", "a", {"a": 1}), Score("q", {"arguments": 0.5})
    assert prompt_of(make_row(3, sample, score, ["arguments"])) == "né?"
    told = scores_without_texts(evidence_row(3, sample, score, ["arguments"]))
    assert told["values"] == {"arguments": 0.5} and "né" not in str(told)
    assert {name: told[name] for name in sample.digests} == sample.digests


@pytest.mark.slow
def test_tools_of_lm_eval_read_a_run(run: Path) -> None:
    """Its own functions find the files of a run, make its table of them, and hash a row alike."""
    utils = pytest.importorskip("lm_eval.utils")
    names = [str(path) for path in (run / "merged").iterdir()]
    (results,) = utils.get_results_filenames(names)
    assert [utils.get_file_task_name(name) for name in utils.get_sample_results_filenames(names)] == ["qa"]
    assert "|exact_match|↑  |  0.9|" in utils.make_table(json.loads(Path(results).read_text()))
    row = json.loads(next((run / "merged").glob("samples_*")).read_text().splitlines()[0])
    assert row["doc_hash"] == utils.hash_string(json.dumps(row["doc"], indent=2, ensure_ascii=False))


def test_values_are_the_same_in_every_layout(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read as ours, as lm_eval's and as Every Eval Ever's, rows have one value, question and total."""
    assert main(["report", str(run), "--as", "every-eval-ever", "-o", str(tmp_path / "eee")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and all(Path(line).is_file() for line in printed)
    for subject in ("base", "merged"):
        ours = read_run_rows(f"{run}#{subject}", Wanted())
        as_lm_eval = find_reader("lm_eval").read(run / subject, Wanted())
        converted = read_run_rows(str(tmp_path / "eee" / "data" / "qa" / "fake" / subject), Wanted())
        for other in (as_lm_eval, converted):
            assert [dict(r.values) for r in other.rows] == [dict(r.values) for r in ours.rows]
            assert [r.key for r in other.rows] == [r.key for r in ours.rows]
            assert other.metrics["exact_match"].total == ours.metrics["exact_match"].total
            assert other.metrics["exact_match"].better == "higher"
        assert [r.content for r in converted.rows] == [r.content for r in ours.rows]


@pytest.mark.slow
def test_the_verdict_is_the_same_in_every_layout(run: Path, gate: Callable[..., Said], tmp_path: Path) -> None:
    """A claim on a run has the same numbers to the last bit, whichever layout its rows are read from."""
    write_every_eval_ever(run, tmp_path / "eee")
    there = tmp_path / "eee" / "data" / "qa" / "fake"
    sides = ((f"{run}#base", f"{run}#merged"), (there / "base", there / "merged"), (run / "base", run / "merged"))
    found = []
    for words in (sides[0], sides[1], (*sides[2], "--as", "lm_eval")):
        said = gate(*words, "--json")
        assert said.code == 0, said.err
        found.append(json.loads(said.out))
    told = [one["run"]["results"][-1]["verdicts"][0] for one in found]
    numbers = [[verdict[k] for k in ("estimate", "lower", "upper", "p_pass", "n")] for verdict in told]
    assert numbers[0] == numbers[1] == numbers[2]


def test_private_rows_are_not_given_away(suite: Project) -> None:
    """A run with private evaluations alone has nothing to write, and says so in one line."""
    suite.write({"suite.toml": SUITE.replace('data = "test.jsonl"', 'data = "test.jsonl"\nprivate = true', 1)}).run()
    (folder,) = suite.folder.glob("reports/*")
    outcome = suite.harness("report", str(folder), "--as", "every-eval-ever")
    assert (outcome.code, outcome.err.count("\n")) == (
        4,
        1,
    ) and ": has no rows to publish: it has no evaluation, or only private ones" in outcome.err


def test_secrets_are_struck(run: Path, tmp_path: Path) -> None:
    """What looks like a secret in an answer, a prompt or a suite's model goes into no log."""
    shutil.copytree(run, tmp_path / "run")
    token = "sk-" + "a" * 30
    for path in (*(tmp_path / "run").glob("*/samples_*"), tmp_path / "run" / "report.json"):
        text = (
            path.read_text()
            .replace('"resps": [["', f'"resps": [["{token} ')
            .replace('"arg_0": "', f'"arg_0": "{token} ')
        )
        path.write_text(text.replace('"model": "base"', f'"model": "{token}"'))
    for path in write_every_eval_ever(tmp_path / "run", tmp_path / "eee"):
        said = path.read_text() + path.with_name(path.stem + "_samples.jsonl").read_text()
        assert token not in said and "(secret)" in said
        assert read_run_rows(str(path), Wanted()).metrics["exact_match"].total is not None


def read_all(path: Path) -> Any:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_perplexity_is_no_mean_of_records(run: Path, tmp_path: Path) -> None:
    """Rows that weigh more than others, and nats, are told in the log alone: no reader takes them for scores."""
    shutil.copytree(run, tmp_path / "run")
    (path,) = (tmp_path / "run" / "merged").glob("samples_*")
    rows = read_all(path)
    path.write_text("".join(json.dumps({**row, "weight": 2.0}) + "\n" for row in rows))
    log = next(p for p in write_every_eval_ever(tmp_path / "run", tmp_path / "eee") if p.parent.name == "merged")
    records = read_all(log.with_name(log.stem + "_samples.jsonl"))
    assert {record["evaluation_result_id"] for record in records} == {None}
    assert read_run_rows(str(log), Wanted()).metrics["exact_match"].unreadable


@pytest.mark.parametrize(
    "lock",
    ["[" * 100_000, "[]", '{"metrics": {}, "suite": {"evals": [1]}}', "not JSON"],
    ids=["nested", "list", "number", "text"],
)
def test_a_malformed_lock_is_a_usage_error(lock: str, run: Path, tmp_path: Path) -> None:
    """Whatever the lock holds instead of metrics, the command ends with one line."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/suite.lock.json").write_text(lock, "utf-8")
    with pytest.raises(UsageError, match="has no readable"):
        write_every_eval_ever(tmp_path / "run", tmp_path / "eee")


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {"gen_args_0": "text"}},
        {"arguments": 7},
        {"resps": [[]]},
        {"resps": "text"},
        {"weights": 7},
        {"lost": 7},
        {"target": None, "weights": None},
    ],
    ids=json.dumps,
)
def test_a_malformed_row_is_a_usage_error(change: dict[str, object], run: Path, tmp_path: Path) -> None:
    """Whatever a row holds instead of a prompt, an answer or weights, the command ends with one line."""
    shutil.copytree(run, tmp_path / "run")
    for path in (tmp_path / "run").glob("*/samples_*"):
        path.write_text("".join(json.dumps({**row, **change}) + "\n" for row in read_all(path)), "utf-8")
    with pytest.raises(UsageError, match="is malformed"):
        write_every_eval_ever(tmp_path / "run", tmp_path / "eee")
