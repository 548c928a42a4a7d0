"""Tasks beside the mean of a run: one fails only where Holm refutes it, whatever luck made of the others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from harness.cli.main import main
from tests.helpers.others import Said

Gate = Callable[..., Said]
STAMP = "2026-12-01T09-29-47.640814"


def write_run(folder: Path, scores: Mapping[str, list[int]]) -> Path:
    """Write a run of lm_eval: a group of tasks, weighted by size."""
    folder.mkdir()
    total = sum(map(sum, scores.values())) / sum(map(len, scores.values()))
    for task, own in scores.items():
        lines = (
            {"doc_id": i, "doc": {"id": f"{task}-{i}", "question": f"{task} {i}?"}, "target": str(i), "filter": "none",
             "arguments": {"gen_args_0": {"arg_0": f"{task} {i}?", "arg_1": {"until": []}}}, "resps": [[str(i)]],
             "filtered_resps": [str(i) if v else "?"], "metrics": ["acc"], "doc_hash": "x", "acc": float(v)}
            for i, v in enumerate(own)
        )  # fmt: skip
        (folder / f"samples_{task}_{STAMP}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    results = {
        "results": {task: {"acc,none": sum(own) / len(own)} for task, own in scores.items()},
        "groups": {"all": {"acc,none": total}}, "group_subtasks": {"all": [*scores]},
        "configs": {task: {"doc_to_text": "{{question}}"} for task in scores},
        "higher_is_better": {task: {"acc": True} for task in scores}, "config": {}, "model_name": folder.name,
    }  # fmt: skip
    (folder / f"results_{STAMP}.json").write_text(json.dumps(results))
    return folder


def _draw_scores(tasks: int, rows: int, seed: int) -> dict[str, list[int]]:
    draw = random.Random(seed)
    return {f"task{t:02d}": [int(draw.random() < 0.7) for _ in range(rows)] for t in range(tasks)}


def _redraw_scores(scores: Mapping[str, list[int]], seed: int, share: float = 0.1) -> dict[str, list[int]]:
    """Return another model that is as good: so many rows are drawn again."""
    draw = random.Random(seed)
    return {t: [int(draw.random() < 0.7) if draw.random() < share else v for v in own] for t, own in scores.items()}


def test_equal_models_pass_a_run_of_57_tasks(gate: Gate, tmp_path: Path) -> None:
    """No task of equal models blocks, though some look worse; one question, one command."""
    scores = _draw_scores(57, 60, 1)
    base, candidate = write_run(tmp_path / "base", scores), write_run(tmp_path / "candidate", _redraw_scores(scores, 2))
    said = gate(base, candidate)
    assert said.code == 0 and said.out.count("\n  task") == 58, said
    assert "cannot prove" not in said.out  # of no guard
    assert "Holm refutes its claim among 57; else it blocks nothing" in said.out


def test_a_task_that_is_lost_blocks_whatever_the_mean(gate: Gate, tmp_path: Path) -> None:
    """One of 20 tasks falls from 0.7 to 0: the mean passes, the task fails, and so does the command."""
    scores = _draw_scores(20, 100, 3)
    other = _redraw_scores(scores, 4, 0.02) | {"task07": [0] * 100}
    base, candidate = write_run(tmp_path / "base", scores), write_run(tmp_path / "candidate", other)
    said = gate(base, candidate, claim=("--worse-by-at-most", "0.1"))
    table = [line for line in said.out.splitlines() if line.startswith("  task")]
    assert said.code == 1 and "PASS  no-worse" in said.out, said
    assert [line.split()[0] for line in table if line.endswith("FAIL")] == ["task07"] and "task07" in table[1]


def test_a_gain_of_the_mean_is_no_claim_about_a_task(gate: Gate, tmp_path: Path) -> None:
    """With --better-by a task that did not gain is not refuted; one that is worse than the base is."""
    scores = _draw_scores(4, 200, 5)
    better = {t: [1] * 200 if t != "task01" else own for t, own in scores.items()}
    runs = [write_run(tmp_path / "base", scores), write_run(tmp_path / "candidate", better)]
    assert gate(*runs, claim=("--better-by", "0.1")).code == 0
    worse = write_run(tmp_path / "worse", better | {"task01": [0] * 200})
    said = gate(runs[0], worse, claim=("--better-by", "0"))
    assert said.code == 1 and "task01" in said.out


def test_evidence_and_suite_come_to_the_same(gate: Gate, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The suite that a command writes has its one gate, and evidence gives the guards again."""
    scores = _draw_scores(3, 100, 7)
    runs = [write_run(tmp_path / "base", scores), write_run(tmp_path / "candidate", _redraw_scores(scores, 8, 0.02))]
    said = gate(*runs, "--write-suite", tmp_path / "gate.toml", claim=("--worse-by-at-most", "0.1"))
    assert said.code == 0, said
    assert (tmp_path / "gate.toml").read_text("utf-8").count("[[gate]]") == 1
    folder = next(tmp_path.glob("reports/gate-*Z"))
    assert main(["verify", str(folder / "gate"), "--sources", *map(str, runs)]) == 0
    assert "4 of 4 decided again from their rows" in capsys.readouterr().out
    assert main(["run", str(tmp_path / "gate.toml")]) == 0
    assert "among 3; else it blocks nothing" in capsys.readouterr().out


def test_a_single_task_is_no_group(gate: Gate, tmp_path: Path) -> None:
    """A run of one task, and a task that is named, have no guards."""
    scores = _draw_scores(2, 300, 9)
    runs = [
        write_run(tmp_path / name, scores | ({"task00": scores["task00"][::-1]} if name == "b" else {}))
        for name in "ab"
    ]
    said = gate(*runs, "--metric", "task01:acc")
    assert said.code == 0 and "Holm" not in said.out, said


SUITE = """
[suite]
name = "g"
[rows.base]
path = "base"
[rows.candidate]
path = "candidate"
[[eval]]
name = "all"
use = "rows"
"""


def _write_gate(name: str, margin: float, more: str = "") -> str:
    return f'[[gate]]\nid = "{name}"\nmetric = "all.acc"\nversus = "base"\nworse_by_at_most = {margin}\n{more}\n'


def _run_suite(folder: Path, *gates: str) -> tuple[int, dict[str, dict[str, object]]]:
    """Return the exit code of a suite on rows, and its verdicts by gate."""
    (folder / "g.toml").write_text(SUITE + "".join(gates), "utf-8")
    code = main(["run", str(folder / "g.toml"), "--out", str(folder / "reports")])
    newest = max(folder.glob("reports/*Z"), key=lambda path: path.stat().st_mtime_ns)
    return code, {v["gate"]: v for v in json.loads((newest / "gate/verdicts.json").read_text("utf-8"))}


def test_a_gate_on_a_task_is_decided_whatever_it_is_called(tmp_path: Path) -> None:
    """A gate of the suite whose id reads as that of a guard is neither replaced nor dropped."""
    scores = _draw_scores(3, 200, 11)
    write_run(tmp_path / "base", scores)
    write_run(
        tmp_path / "candidate", scores | {"task01": [int(v and i % 6 > 0) for i, v in enumerate(scores["task01"])]}
    )
    part = 'slice = "task=task01"'
    code, verdicts = _run_suite(
        tmp_path,
        _write_gate("mean", 0.3),
        _write_gate("mean on task01", 0.02, part),
        _write_gate("watch on task02", 0.02, 'slice = "task=task02"\nseverity = "warn"'),
    )
    assert code == 1
    assert (verdicts["mean on task01"]["outcome"], verdicts["mean on task01"]["blocking"]) == ("FAIL", True)
    assert verdicts["mean on task01 (guard)"]["outcome"] != "FAIL" and "watch on task02" in verdicts


def test_guards_belong_to_their_own_gate(tmp_path: Path) -> None:
    """Where one gate's id begins as another's does, each has its own tasks and no more."""
    scores = _draw_scores(3, 200, 12)
    write_run(tmp_path / "base", scores)
    write_run(tmp_path / "candidate", _redraw_scores(scores, 13, 0.05))
    _, verdicts = _run_suite(tmp_path, _write_gate("ok", 0.2), _write_gate("ok too", 0.3))
    texts = [v["why"] for name, v in verdicts.items() if " on task" in name]
    assert len(texts) == 6 and all("among 3 tasks" in text for text in texts)


@pytest.mark.parametrize("key", ["among = 5", 'guards = "mean"', 'group = "mean"'])
def test_no_suite_sets_what_follows_from_others(tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """How many gates share a risk, and what a gate guards, are no keys."""
    (tmp_path / "g.toml").write_text(SUITE + _write_gate("mean", 0.3, key), "utf-8")
    assert main(["run", str(tmp_path / "g.toml")]) == 4
    assert f'unknown key "{key.split()[0]}"' in capsys.readouterr().err
