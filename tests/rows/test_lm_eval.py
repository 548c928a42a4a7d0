"""lm_eval's folders, as version 0.4.13 wrote them: read right or refused, each trap of the format by itself."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import UsageError
from harness.rows.comparability import UNFAIR_FACTS, compare_facts
from harness.rows.gating import choose_metric
from harness.rows.pairing import pair_rows
from harness.rows.readers import read_run_rows
from harness.rows.readers.fields import collect_facts
from harness.rows.records import RawRows, Wanted
from tests.helpers.others import Said

Gate = Callable[..., Said]
KEPT = Path(__file__).parents[1] / "fixtures" / "rows" / "lm_eval-0.4.13"
BASE, CANDIDATE = KEPT / "base", KEPT / "candidate_bf16"
MC = ("--metric", "cap_mc:acc")


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Return copies of both folders, to be changed."""
    found = tmp_path / "base", tmp_path / "candidate"
    for kept, to in zip((BASE, CANDIDATE), found, strict=True):
        shutil.copytree(kept, to)
    return found


def change(folder: Path, task: str, lines: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the lines of a samples file in place."""
    (path,) = folder.glob(f"samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    lines(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def edit_results(folder: Path, told: Callable[[dict[str, Any]], None]) -> None:
    """Change the results file in place."""
    (path,) = folder.glob("results_*.json")
    found = json.loads(path.read_text("utf-8"))
    told(found)
    path.write_text(json.dumps(found), "utf-8")


def test_renamed_samples_are_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Rows under another name, or compressed, are not missing rows."""
    (path,) = runs[0].glob("samples_cap_mc_*.jsonl")
    renamed, folder = tmp_path / "cap.jsonl", tmp_path / "packed"
    shutil.copy(path, renamed)
    folder.mkdir()
    (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    shutil.copy(next(runs[0].glob("results_*.json")), folder)
    for other in (renamed, folder):
        with pytest.raises(UsageError, match="contains rows of lm_eval under another name; name it samples_TASK_DATE"):
            read_run_rows(str(other), Wanted())


@pytest.mark.parametrize(
    ("task", "filter_", "metric", "scale", "better"),
    [
        ("cap_mc", "", "acc", "proportion", "higher"),
        ("cap_mc", "", "acc_norm", "proportion", "higher"),
        ("cap_rep", "maj", "exact_match", "proportion", "higher"),
        ("cap_rep", "all", "exact_match", "proportion", "higher"),
        ("cap_ppl", "", "word_perplexity", "perplexity", "lower"),
        ("cap_ppl", "", "byte_perplexity", "perplexity", "lower"),
        ("cap_ppl", "", "bits_per_byte", "mean", "lower"),
    ],
)
def test_the_rows_make_lm_evals_own_number(task: str, filter_: str, metric: str, scale: str, better: str) -> None:
    """Each metric but one is reproduced to nine digits, with its direction and scale."""
    want = Wanted(task, metric, filter_)
    run = read_run_rows(str(BASE), want)
    found, _ = choose_metric([run], want)  # raises where the sum is another
    assert run.metrics[metric].total is not None and len(run.rows) == 20
    assert (found.scale, found.better) == (scale, better)


@pytest.mark.parametrize("metric", ["perplexity", "word_perplexity", "bits_per_byte"])
@pytest.mark.parametrize("results", [True, False])
def test_log_likelihoods_are_no_perplexities(runs: tuple[Path, Path], metric: str, results: bool) -> None:
    """Without its results file too a run with likelier rows is the better one."""
    rolling = metric != "perplexity"

    def add(rows: list[dict[str, Any]]) -> None:
        for i, row in enumerate(rows):
            row |= {"metrics": [metric], metric: [-3.0 - i, 2] if rolling else -3.0 - i}

    change(runs[0], "cap_ppl", add)
    mean = sum(3.0 + i for i in range(20)) / 20 / (2 if rolling else 1)
    number = mean / math.log(2) if metric == "bits_per_byte" else math.exp(mean)
    edit_results(runs[0], lambda told: told["results"]["cap_ppl"].update({f"{metric},none": number}))
    if not results:
        next(runs[0].glob("results_*.json")).unlink()
    want = Wanted("cap_ppl", metric)
    run = read_run_rows(str(runs[0]), want)
    found, _ = choose_metric([run], want)
    assert (found.scale, found.better) == ("mean" if metric == "bits_per_byte" else "perplexity", "lower")
    first = {"perplexity": 3.0, "word_perplexity": 1.5, "bits_per_byte": 1.5 / math.log(2)}[metric]
    assert run.rows[0].values[metric] == pytest.approx(first)


def test_a_number_that_is_none_is_a_missing_score(runs: tuple[Path, Path]) -> None:
    """A broken model's NaN, which lm_eval writes as it is, loses its row and no other task or metric."""
    change(runs[0], "cap_mc", lambda rows: rows[3].update(acc_norm=math.nan))
    edit_results(runs[0], lambda told: told["results"]["cap_mc"].update({"acc_norm,none": math.nan}))
    run = read_run_rows(str(runs[0]), Wanted("cap_mc", "acc_norm"))
    assert ["acc_norm" in row.values for row in run.rows].count(False) == 1
    assert run.metrics["acc_norm"].total is None and len([row for row in run.rows if "acc" in row.values]) == 20


def test_a_real_pair_of_runs_is_gated(gate: Gate) -> None:
    """Two folders are a verdict; dtypes are told, and the model is the point."""
    said = gate(BASE, CANDIDATE, *MC)
    assert said.code == 6 and "differs    dtype float32 / bfloat16" in said.out
    assert "metric     cap_mc acc · higher is better (according to the file) · proportion" in said.out
    assert "20 paired by content" in said.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ": has 3 tasks (cap_mc, cap_ppl, cap_rep) without a metric in common; name one with --metric TASK:NAME"),
        (("--metric", "cap_mc:brier_score"), '"brier_score" has printed arrays, not numbers'),
        (("--metric", "cap_mc:"), "has several metrics, acc (0.9), acc_norm (0.85); name one with --metric acc"),
        (("--metric", "cap_mc:ac"), 'cap_mc: there is no metric "ac"; did you mean "acc"?'),
        (("--metric", "cap_m:acc"), 'there is no task "cap_m"; did you mean "cap_mc"?'),
        (("--metric", "cap_gen:exact_match"), 'there is no task "cap_gen"; did you mean "cap_rep"?'),
    ],
)
def test_what_is_not_settled_is_asked(gate: Gate, words: tuple[str, ...], said: str) -> None:
    """Task, metric and what cannot be read are told with what there is to choose from."""
    found = gate(BASE, CANDIDATE, *words)
    assert found.code == 4 and said in found.err


def test_a_filter_of_several_is_named() -> None:
    """A file has a line for each filter, and no first one."""
    with pytest.raises(UsageError, match=r"2 filters \(maj, all\); name one with --metric cap_rep:exact_match,maj"):
        read_run_rows(str(BASE), Wanted("cap_rep", "exact_match"))


def test_repeats_that_lm_eval_averaged_are_shares() -> None:
    """A filter that keeps three answers gives one value, their mean."""
    run = read_run_rows(str(BASE), Wanted("cap_rep", "exact_match", "all"))
    assert sorted({row.values["exact_match"] for row in run.rows}) == [0.0, pytest.approx(1 / 3)]
    assert run.facts["epochs"] == "3"


def test_places_and_columns_are_no_names(runs: tuple[Path, Path], gate: Gate) -> None:
    """Rows in another order, with a new column and other hashes, are the same questions."""

    def shuffle(rows: list[dict[str, Any]]) -> None:
        rows.reverse()
        for i, row in enumerate(rows):
            row["doc_id"], row["doc_hash"] = i, "0" * 64
            row["doc"] = {"new": i, **dict(reversed(row["doc"].items()))}

    change(runs[1], "cap_mc", shuffle)
    said = gate(*runs, *MC)
    assert "20 paired by content" in said.out and said.code == 6
    whole = [read_run_rows(str(folder), Wanted("cap_mc", "acc")) for folder in (BASE, runs[1])]
    assert {r.content for r in whole[0].rows} == {r.content for r in whole[1].rows}


def test_what_a_run_lost_is_found(runs: tuple[Path, Path], gate: Gate) -> None:
    """A cut file, one of another run, and rows in which a metric was changed do not sum to lm_eval's number."""
    change(runs[1], "cap_mc", lambda rows: rows.pop())
    assert "has 19 rows, but its results file has 20; it is truncated, or of two runs" in gate(*runs, *MC).err
    edit_results(runs[1], lambda told: told["n-samples"]["cap_mc"].update(effective=19))
    assert "the rows give 0.894737, but its results file says 0.9; the file is truncated" in gate(*runs, *MC).err


def test_the_newest_run_of_a_folder_is_read(runs: tuple[Path, Path], gate: Gate) -> None:
    """A folder with two dates gives the newest, with its own results, and says so."""
    for path in list(runs[1].glob("*_2026-11-27T*")):
        shutil.copy(path, str(path).replace("2026-11-27T12-46", "2026-11-26T11-11"))
    old = next(runs[1].glob("samples_cap_mc_2026-11-26*"))
    old.write_text(old.read_text("utf-8").replace('"acc": 1.0', '"acc": 0.0'), "utf-8")
    said = gate(*runs, *MC)
    assert said.code == 6 and "0.900 → 0.900" in said.out and "of 2 runs in" in " ".join(said.out.split())


def test_a_limit_is_told_with_the_rows(runs: tuple[Path, Path], gate: Gate) -> None:
    """Other rows by a limit are refused with it."""

    def cut(told: dict[str, Any]) -> None:
        told["config"]["limit"] = 10.0
        told["n-samples"]["cap_mc"]["effective"] = 10
        del told["results"]["cap_mc"]["acc,none"]

    change(runs[1], "cap_mc", lambda rows: rows.__delitem__(slice(10, None)))
    edit_results(runs[1], cut)
    said = gate(*runs, *MC)
    assert "base: 20 rows, candidate: 10 rows (limit 10); only in base 10" in said.err


def test_a_metric_that_overwrote_a_key_is_refused(runs: tuple[Path, Path], gate: Gate) -> None:
    """A metric called "filter" lies where the filter's name was."""
    change(
        runs[1], "cap_mc", lambda rows: [row.update(filter=1.0, metrics=["acc", "filter"]) for row in rows][:0] or None
    )
    assert 'metric "filter" has the name of a field of the row, which lm_eval overwrote' in gate(*runs, *MC).err


@pytest.mark.parametrize(
    ("task", "metric", "values"),
    [("cap_mc", "acc", [10**4000, 1e999, {"a": 1}, "1.0"]), ("cap_ppl", "word_perplexity", [[10**4000, 5], [-5, 0]])],
)
def test_numbers_that_are_none_are_refused(runs: tuple[Path, Path], task: str, metric: str, values: list[Any]) -> None:
    """What is as large as no float, a text, or of no length, is no score, whatever stands in the other rows."""
    edit_results(runs[0], lambda told: told.update(results={}))
    for value in values:
        change(runs[0], task, lambda rows, v=value: rows[0].update({metric: v}))  # type: ignore[misc]
        want = Wanted(task, metric)
        with pytest.raises(UsageError, match=r"printed arrays|is inf on 1 rows, which is not a score"):
            choose_metric([read_run_rows(str(runs[0]), want)], want)


UNFAIR_RUNS: dict[str, Callable[[dict[str, Any]], None]] = {
    "shots": lambda t: t["n-shot"].update(cap_mc=3),
    "shots seed": lambda t: (t["n-shot"].update(cap_mc=3), t["config"].update(fewshot_seed=7))[0],
    "template": lambda t: t.update(chat_template_sha="ab" * 32),
    "system": lambda t: t.update(system_instruction="Be brief."),
    "task version": lambda t: t["versions"].update(cap_mc=2.0),
    "filter": lambda t: t["configs"]["cap_mc"].update(filter_list=[{"name": "none"}]),
    "scorer": lambda t: t["configs"]["cap_mc"]["metric_list"][0].update(ignore_case=True),
    "temperature": lambda t: t["configs"]["cap_mc"].update(generation_kwargs={"temperature": 1}),
    "until": lambda t: t["config"].update(gen_kwargs={"until": ["x"]}),
    "epochs": lambda t: t["configs"]["cap_mc"].update(repeats=3),
}


@pytest.mark.parametrize("kind", UNFAIR_RUNS)
def test_what_is_unfair_is_refused_by_name(runs: tuple[Path, Path], gate: Gate, kind: str) -> None:
    """Each planted difference is refused with the name that allows it, and allowed it stands in the verdict."""
    edit_results(runs[1], UNFAIR_RUNS[kind])
    name = next((n for n in UNFAIR_FACTS if kind.startswith(n)), kind)
    said = gate(*runs, *MC)
    assert said.code == 4 and f"--allow {name.replace(' ', '-')}" in said.err, said
    allowed = gate(*runs, *MC, "--allow", name.replace(" ", "-"))
    assert allowed.code == 6 and f"allowed: {UNFAIR_FACTS.get(name, UNFAIR_FACTS['generation'])}" in " ".join(
        allowed.out.split()
    ), allowed


def test_settings_of_none_are_settings() -> None:
    """A run that was called without settings used defaults, which are others than those of a run that had some."""
    run = read_run_rows(str(BASE), Wanted("cap_mc", "acc"))
    one, other = (replace(run, facts=collect_facts(generation=told)) for told in ({}, {"temperature": 1}))
    with pytest.raises(UsageError, match="generation settings differ"):
        compare_facts(one, other, pair_rows(one, other, only_common=False), ())


def test_a_column_that_is_not_there_is_told(gate: Gate) -> None:
    """A cluster or slice of a misspelt name would be none, and its bound too narrow."""
    for option in ("--cluster", "--slice"):
        assert (
            'has no column "contnent"; did you mean "continent"' in gate(BASE, CANDIDATE, *MC, option, "contnent").err
        )


def test_other_prompts_are_unfair(runs: tuple[Path, Path], gate: Gate) -> None:
    """Another text for the same question is found row by row, and told with what explains it."""
    change(runs[1], "cap_mc", lambda rows: rows[3].update(prompt_hash="0" * 64))
    assert "prompts differ on 1 of 20 rows; rerun one of the runs, or --allow prompt" in gate(*runs, *MC).err
    edit_results(runs[1], UNFAIR_RUNS["shots"])
    assert "prompts differ on 1 of 20 rows, few-shot examples differ: 0 shots and 3 shots" in gate(*runs, *MC).err


FAIR: dict[str, Callable[[dict[str, Any]], None]] = {
    "version": lambda t: t.update(lm_eval_version="0.4.12", transformers_version="5.20.0"),
    "machine": lambda t: t["config"].update(device="cuda", batch_size=64, model_dtype="torch.float16"),
    "path": lambda t: t["configs"]["cap_mc"].update(dataset_kwargs={"data_files": "elsewhere"}),
    "model": lambda t: (t.update(model_name="mine"), t["configs"]["cap_mc"]["metadata"].update(pretrained="mine"))[0],
    "hash": lambda t: t["task_hashes"].update(cap_mc="0" * 64),
    "order": lambda t: t.update(date=0, git_hash="abc", total_evaluation_time_seconds="1"),
    "seed without shots": lambda t: t["config"].update(fewshot_seed=7),
}


@pytest.mark.parametrize("kind", FAIR)
def test_what_is_fair_is_no_alarm(runs: tuple[Path, Path], kind: str) -> None:
    """The machine, versions, paths and the model itself stand in no verdict's way."""
    edit_results(runs[1], FAIR[kind])
    base, candidate = (read_run_rows(str(folder), Wanted("cap_mc", "acc")) for folder in runs)
    assert not compare_facts(base, candidate, pair_rows(base, candidate, only_common=False), ()).allowed


def test_judges_and_epochs_have_words_of_their_own() -> None:
    """A judge that changed is told as one, by its names."""
    run = read_run_rows(str(BASE), Wanted("cap_mc", "acc"))
    judged: list[RawRows] = [replace(run, facts={"judge": f"gpt-{i}"}) for i in range(2)]
    with pytest.raises(
        UsageError, match="judge differs: gpt-0 and gpt-1; another judge changes the scores without a change of model"
    ):
        compare_facts(*judged, pair_rows(*judged, only_common=False), ())
