"""Rows of a samples file: the prompt as it went to the model, and scores under their right names."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.reports.run_folder import RunFolder, metric_value, read_answers
from harness.testing import ROWS, SUITE, FakeSubject, Project
from tests.helpers.suites import FEWSHOT

CHAT = [{**row, "input": [{"role": "user", "content": row["input"]}]} for row in ROWS]
TEXTS = '\n[[eval]]\nname = "fit"\nuse = "perplexity"\ndata = "texts.jsonl"\n'


def read_newest_rows(suite: Project, subject: str, evaluation: str = "qa") -> list[dict[str, Any]]:
    folder = max(suite.folder.glob("reports/*"), key=lambda p: p.stat().st_mtime_ns)
    return list(read_answers(folder, subject, evaluation).values())


@pytest.fixture
def renders(suite: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose rows are chat, and whose models have a template."""

    def render(self: FakeSubject, messages: list[dict[str, str]]) -> str:
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"

    monkeypatch.setattr(FakeSubject, "render", render, raising=False)
    return suite.write({"suite.toml": SUITE + FEWSHOT, "test.jsonl": CHAT})


@pytest.mark.slow
def test_chat_is_kept_as_it_went_to_the_model(renders: Project) -> None:
    """By its template, after the worked examples where there are some; the same when nothing is asked again."""
    once = renders.run().report
    text = CHAT[0]["input"][0]["content"]
    for _ in range(2):
        assert read_newest_rows(renders, "merged")[0]["rendered"] == f"<user>{text}<assistant>"
        shot = read_newest_rows(renders, "fewshot")[0]["rendered"]
        assert shot.endswith(f"<user>{text}<assistant>") and shot.count("<user>") == 4
        again = renders.run().report
    assert [(r.requests, r.cache_hits) for r in once.results] == [(60, 0)] * 4
    assert [(r.requests, r.cache_hits) for r in again.results] == [(60, 60)] * 4


@pytest.mark.slow
def test_no_model_is_loaded_to_tell(renders: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are remembered without the text they were made from stay without it."""
    with monkeypatch.context() as silent:
        silent.delattr(FakeSubject, "render")
        renders.run()
        assert "rendered" not in read_newest_rows(renders, "merged")[0]
    renders.run()
    assert "rendered" not in read_newest_rows(renders, "merged")[0]


@pytest.mark.slow
def test_a_template_that_fails_costs_no_run(renders: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: FakeSubject, messages: object) -> str:
        raise ValueError("no such template")

    monkeypatch.setattr(FakeSubject, "render", fails)
    assert renders.run().code in (0, 2)
    assert "rendered" not in read_newest_rows(renders, "merged")[0]


@pytest.mark.slow
def test_text_that_is_sent_as_it_stands_is_kept_once(suite: Project) -> None:
    """And what an evaluator never asked of the model is not claimed."""
    suite.write({"suite.toml": SUITE + FEWSHOT}).run()
    assert not any("rendered" in r for r in read_newest_rows(suite, "merged"))
    shot = read_newest_rows(suite, "fewshot")[0]["rendered"]
    assert shot.endswith(f"\n\n{ROWS[0]['input']}") and shot.count("question") == 1
    asks = (
        "from harness import Score, hookimpl, metric\n@metric('m', better='higher')\ndef asks(subject, samples):\n"
        "    subject.generate([s.input + '!' for s in samples])\n"
        "    yield from (Score(s.id, {'m': 1.0}) for s in samples)\n"
        "@hookimpl\ndef harness_evaluators(): return {'asks': asks}\n"
    )
    other = SUITE + FEWSHOT.partition("[[gate]]")[0] + '\n[[eval]]\nname = "other"\nuse = "asks"\ndata = "test.jsonl"\n'
    suite.write({"suite.toml": other, "harnessfile.py": asks}).run()
    assert not any("rendered" in r for r in read_newest_rows(suite, "fewshot", "other"))


def test_perplexity_is_one(suite: Project) -> None:
    """A row's perplexity stands under its name, its nats per token beside it; older files are read too."""
    texts = [{"id": f"t{i}", "text": f"line {i} of text"} for i in range(5)]
    suite.write({"suite.toml": SUITE + TEXTS, "texts.jsonl": texts}).run()
    for row in read_newest_rows(suite, "merged", "fit"):
        assert row["perplexity"] == pytest.approx(math.exp(row["nats"]["perplexity"]))
        assert metric_value(row, "perplexity") == row["nats"]["perplexity"]
    [run] = suite.folder.glob("reports/*")
    weighed = [(metric_value(r, "perplexity"), r["weight"]) for r in read_newest_rows(suite, "merged", "fit")]
    whole = math.exp(sum(v * w for v, w in weighed) / sum(w for _, w in weighed))
    metrics = json.loads((run / "report.json").read_text("utf-8"))["results"]
    assert {m["eval"]: m for m in metrics if m["subject"] == "merged"}["fit"]["metrics"]["perplexity"] == pytest.approx(
        whole
    )
    assert metric_value({"perplexity": 0.7}, "perplexity") == 0.7


def test_score_without_bound_is_no_number(tmp_path: Path) -> None:
    """A perplexity too large for a float is null, its nats are whole."""
    folder = RunFolder(tmp_path, "x", datetime.now(UTC))
    result = Result("base", "fit", (Score("a", {"ppl": 1000.0}),), {"ppl": math.inf}, "d")
    folder.add(result, [Sample("a", row={"text": "t"})], {"ppl": Metric("ppl", "lower", "perplexity")}, {})
    [row] = read_answers(folder.path, "base", "fit").values()
    assert (row["ppl"], row["nats"]) == (None, {"ppl": 1000.0})


@pytest.mark.slow
def test_a_metric_without_right_and_wrong_says_so(suite: Project) -> None:
    """Of a perplexity no row is wrong, which is said instead of "0 of 3 rows wrong by perplexity"."""
    texts = [{"text": f"a text {i}"} for i in range(3)]
    suite.write({"suite.toml": SUITE + TEXTS, "texts.jsonl": texts, "test.jsonl": ROWS}).run()  # type: ignore[dict-item]
    shown = suite.harness("show", "--rows", "fit", "--wrong")
    assert "perplexity does not say which rows are wrong; leave out --wrong to see them" in shown.out, shown.out
    assert "3 of 3 rows" in suite.harness("show", "--rows", "fit").out
