"""What a reader of a verdict sees of its rows: question, expected and answer, from every tool."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import main
from harness.rows import gating, row_texts
from harness.rows.readers import fields, read_run_rows
from harness.rows.records import Wanted
from tests.helpers.others import Said

Gate = Callable[..., Said]
ASKED = "Question: What is the capital of France?\nAnswer:"
FIXTURES = Path(__file__).parent.parent / "fixtures" / "rows"
TOOLS: dict[str, tuple[str, Wanted, tuple[str, str, str]]] = {
    "lm_eval": (
        "lm_eval-0.4.13/base", Wanted("cap_mc"),
        ("What is the capital of France?", "Paris", "Paris"),
    ),
    "inspect": ("inspect-0.3.285/reducers.eval", Wanted(), ("What is the capital of France?", "Paris", "Paris")),
    "promptfoo": (
        "promptfoo-0.123.1/output.json", Wanted(),
        (ASKED, "France", ASKED),
    ),
    "deepeval": ("deepeval-4.3.1/test_run.json", Wanted(), ("What is the capital of France?", "Paris", "dunno")),
    "nemo": (
        "nemo_evaluator-0.3.0/base", Wanted(),
        (ASKED, "Paris", "Paris"),
    ),
}  # fmt: skip


def _make_rows(n: int = 400) -> list[dict[str, Any]]:
    return [
        {"id": f"q-{i}", "input": f"What is {i}?", "target": str(i), "answer": f"it is {i}", "score": int(i % 5 > 0)}
        for i in range(n)
    ]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def _write_pair(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    other = [{**r, "answer": "no idea", "score": 0} if i in (6, 7) else r for i, r in enumerate(rows)]
    other[5] = {**other[5], "answer": "now 5", "score": 1}
    return [_write(folder / "base.jsonl", rows), _write(folder / "candidate.jsonl", other)]


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_tells_question_expected_and_answer(tool: str) -> None:
    """A row of each tool has what was asked, what is wanted, and what the model said."""
    path, want, texts = TOOLS[tool]
    first = read_run_rows(str(FIXTURES / path), want).rows[0]
    assert (first.input, first.target, first.answer) == texts


def test_lost_rows_are_shown_with_their_texts(
    gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The written samples, `show`, the comment and the page have the question, what is expected, and both answers."""
    said = gate(*_write_pair(tmp_path, _make_rows()))
    assert said.code == 0, said
    folder = next(tmp_path.glob("reports/gate-*Z"))
    lines = [json.loads(line) for line in next(folder.glob("candidate/samples_*")).read_text("utf-8").splitlines()]
    lost = next(line for line in lines if line["id"] == "q-6")
    assert lost["arguments"]["gen_args_0"]["arg_0"] == "What is 6?" and lost["target"] == "6"
    assert lost["resps"] == [["no idea"]] and lost["score"] == 0
    assert main(["show", str(folder), "--rows"]) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("What is 6?", "it is 6", "no idea")), shown
    assert main(["report", str(folder)]) == 0
    assert "no idea" in (folder / "report.html").read_text("utf-8")
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    gate(*_write_pair(tmp_path, _make_rows()), "--github")
    assert all(text in summary.read_text("utf-8") for text in ("What is 6?", "it is 6", "no idea"))
    invocation = json.loads((folder / "report.json").read_text("utf-8"))["invocation"]
    assert invocation["command"] == "harness gate base.jsonl candidate.jsonl --worse-by-at-most 0.02"


def test_of_many_rows_the_changed_ones_and_a_sample_are_written(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above a limit all rows that were lost or won and a drawn sample are written, with texts that are read again."""
    monkeypatch.setattr(gating, "MAX_ROWS", 300)
    monkeypatch.setattr(row_texts, "MAX_ROWS", 300)
    monkeypatch.setattr(row_texts, "MAX_UNCHANGED_ROWS", 20)
    monkeypatch.setattr(fields, "MAX_TEXT_CHARS", 1000)
    paths = _write_pair(tmp_path, _make_rows())
    assert not any(row.input or row.answer for row in read_run_rows(str(paths[0]), Wanted()).rows)
    said = gate(*paths)
    assert said.code == 0 and "of 400 rows 23 are written: those lost or won" in " ".join(said.out.split()), said
    folder = next(tmp_path.glob("reports/gate-*Z"))
    rows = {}
    for side in ("base", "candidate"):
        text = next(folder.glob(f"{side}/samples_*")).read_text("utf-8")
        rows[side] = {line["id"]: line for line in map(json.loads, text.splitlines())}
    assert len(rows["base"]) == 23 and {"q-5", "q-6", "q-7"} <= rows["base"].keys() == rows["candidate"].keys()
    assert rows["base"]["q-6"]["resps"] == [["it is 6"]] and rows["candidate"]["q-6"]["resps"] == [["no idea"]]
    assert all(line["target"] and line["arguments"]["gen_args_0"]["arg_0"] for line in rows["candidate"].values())


def test_repeats_show_all_their_answers(gate: Gate, tmp_path: Path) -> None:
    """Of several answers to a row all are written."""
    rows = [{**r, "t": t, "answer": f"{t}: {i}"} for i, r in enumerate(_make_rows(100)) for t in (1, 2)]
    other = [{**row, "score": 0} if row["id"] == "q-6" and row["t"] == 2 else row for row in rows]
    said = gate(_write(tmp_path / "a", rows), _write(tmp_path / "b", other), "--repeat", "t")
    assert said.code in (0, 6), said
    text = next(tmp_path.glob("reports/gate-*Z/candidate/samples_*")).read_text("utf-8")
    line = next(row for row in map(json.loads, text.splitlines()) if row["id"] == "q-6")
    assert line["resps"] == [['["1: 6", "2: 6"]']]


def test_slices_have_their_values(gate: Gate, tmp_path: Path) -> None:
    """A report has every metric of every slice that was named."""
    rows = [{**row, "kind": "ab"[i % 2]} for i, row in enumerate(_make_rows())]
    assert gate(*_write_pair(tmp_path, rows), "--slice", "kind").code == 0
    report = json.loads(next(tmp_path.glob("reports/gate-*Z/report.json")).read_text("utf-8"))
    found = {item["subject"]: item["slices"]["kind"] for item in report["results"]}
    assert found["base"]["a"] == {"n": 200.0, "score": 0.8} and found["candidate"]["a"]["score"] == 0.795


def test_a_base_that_is_never_right_cannot_get_worse(gate: Gate, tmp_path: Path) -> None:
    """0.000 -> 0.000 says that no loss could be seen."""
    rows = [{**row, "score": 0} for row in _make_rows()]
    other = [{**row, "answer": "x"} for row in rows]
    said = gate(_write(tmp_path / "a", rows), _write(tmp_path / "b", other))
    assert "base has the worst value on every row, so no loss can be seen in score" in " ".join(said.out.split()), said
