"""Rows of other tools before `harness gate`, and what it leaves before `harness verify`."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz.breaking import draw_json_edits, draw_text_edits, dump_json
from tests.fuzz.driving import fuzz, run_harness
from tests.helpers.others import make_asked_rows

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fuzzed rows")]


def _make_database() -> bytes:
    """Return a database with a table of rows."""
    made = sqlite3.connect(":memory:")
    made.execute("create table answers (id text, input text, 'm.s' real, kind text)")
    made.executemany("insert into answers values (?, ?, ?, ?)", [(f"q-{i}", f"{i}?", i % 2, "a") for i in range(6)])
    made.commit()
    return made.serialize()


KEPT = Path(__file__).parents[1] / "fixtures" / "rows" / "lm_eval-0.4.13"
TABLE = "".join(json.dumps(row) + "\n" for row in make_asked_rows([1] * 20 + [0] * 5))
OTHERS = {  # files that tools made, and one of their metrics
    "inspect-0.3.285/json_two_rows.json": "match",
    "inspect-0.3.285/choices.eval": "",
    "nemo_evaluator-0.3.0/base/results.jsonl": "reward",
    "nemo_evaluator-0.3.0/base/eval-20261128T041735Z-capitals.json": "reward",
    "every_eval_ever-0.3.0/lm_candidate_bf16/6240cfe6-769a-4324-845e-57f6de6bccd5.json": "acc",
    "every_eval_ever-0.3.0/lm_candidate_bf16/6240cfe6-769a-4324-845e-57f6de6bccd5_samples.jsonl": "acc",
    "promptfoo-0.123.1/output.json": "success",
    "deepeval-4.3.1/test_run.json": "",
}
GROUP = KEPT.with_name("lm_eval_group-0.4.13")
NESTED: list[Any] = [{"id": f"q-{i}", "input": f"{i}?", "m": {"s": i % 2}, "kind": "ab"[i % 2]} for i in range(6)]
LAYOUTS: dict[str, Any] = {
    "list": NESTED, "split": {"columns": [*NESTED[0]], "data": [[*row.values()] for row in NESTED]},
    "keyed": {"details": {str(i): row for i, row in enumerate(NESTED)}}, "inside": {"note": 1, "samples": NESTED},
    "lines": "".join(json.dumps(row) + "\n" for row in NESTED).encode(), "database": _make_database(),
    "utf-16": ("id;input;m.s;kind\n" + "q-1;1?;90 %;a\nq-2;2?;0,5;b\n").encode("utf-16"),
}  # fmt: skip
CSV = "id,input,score\n" + "".join(f"q-{i},What is {i}?,{i % 2}\n" for i in range(25))
WORDS = st.sampled_from([[], ["--missing", "wrong"], ["--only-common"], ["--scale", "mean"], ["--slice", "continent"]])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with lm_eval's files, a table, and the evidence of a gate; the current directory meanwhile."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(KEPT / "base", folder / "base")
    shutil.copytree(KEPT / "candidate_bf16", folder / "whole")
    (folder / "base.jsonl").write_text(TABLE, "utf-8")
    (folder / "base.csv").write_text(CSV, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        patch.setattr("harness_report.can_render", lambda: False)
        patch.chdir(folder)
        claim = ("--worse-by-at-most", "0.1", "--metric", "cap_mc:acc")
        assert run_harness("gate", "base", "whole", "--out", "kept", *claim)[0] == 6
        yield folder


def gate_edited_folder(folder: Path, name: str, data: bytes, words: list[str]) -> None:
    """Gate lm_eval's folder with one file put in another's place: a verdict, or lines that say why there is none."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "whole", copy)
    next(copy.glob(name)).write_bytes(data)
    metric = ("--metric", "cap_mc:acc", "--worse-by-at-most", "0.1", "--out", "out")
    assert run_harness("gate", "base", "copy", *metric, *words)[0] in (0, 1, 4, 6)


@fuzz(st.sampled_from(["samples_cap_mc*", "results*"]), WORDS, st.data())
def test_structure(name: str, words: list[str], data: Any, runs: Path) -> None:
    """JSON of lm_eval with values replaced, and of a table."""
    text = next((runs / "whole").glob(name)).read_text("utf-8")
    if name == "results*":
        changed = dump_json(data.draw(draw_json_edits(json.loads(text))))
    else:
        found = data.draw(draw_json_edits([json.loads(line) for line in text.splitlines()], 2))
        changed = "".join(dump_json(row) + "\n" for row in found) if isinstance(found, list) else dump_json(found)
    gate_edited_folder(runs, name, changed.encode("utf-8", "surrogatepass"), words)


@fuzz(st.sampled_from(["base.jsonl", "base.csv"]), WORDS, st.data())
def test_tables(name: str, words: list[str], data: Any, runs: Path) -> None:
    """Tables with pieces cut out or put in."""
    (runs / "odd").write_bytes(
        data.draw(draw_text_edits((runs / name).read_text("utf-8"), ["NaN", "1e999", "-1", "null", ","]))
    )
    assert run_harness("gate", name, "odd", "--worse-by-at-most", "0.1", "--out", "out", *words)[0] in (0, 1, 4, 6)


@fuzz(st.sampled_from(["samples_capitals_asia*", "results*"]), st.data())
def test_group(name: str, data: Any, runs: Path) -> None:
    """A run of several tasks with values of one of its files replaced."""
    copy = runs / "group"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(GROUP / "candidate", copy)
    path = next(copy.glob(name))
    text = path.read_text("utf-8")
    lines = text.splitlines() if name.startswith("samples") else [text]
    found = data.draw(draw_json_edits([json.loads(line) for line in lines], 2))
    path.write_bytes("\n".join(dump_json(row) for row in (found if isinstance(found, list) else [found])).encode(
        "utf-8", "surrogatepass"))  # fmt: skip
    words = ("--metric", "acc", "--worse-by-at-most", "0.1", "--out", "out")
    assert run_harness("gate", str(GROUP / "base"), "group", *words)[0] in (0, 1, 4, 6)


@fuzz(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(["structure", "bytes"]), st.data())
def test_layouts(name: str, how: str, data: Any, runs: Path) -> None:
    """Tables of JSON with values replaced, and any table with bytes cut out or put in, compressed or not."""
    whole = LAYOUTS[name]
    if how == "structure" and isinstance(whole, (list, dict)):
        odd = dump_json(data.draw(draw_json_edits(whole))).encode("utf-8", "surrogatepass")
    else:
        plain = whole if isinstance(whole, bytes) else dump_json(whole).encode()
        odd = data.draw(draw_text_edits(plain.decode("latin-1"), ["\0", "{", "]", "\n"]))
    (runs / "odd").write_bytes(gzip.compress(odd) if data.draw(st.booleans()) else odd)
    words = ("--score", "m.s", "--worse-by-at-most", "0.1", "--out", "out")
    assert run_harness("gate", "base.jsonl", "odd", *words)[0] in (0, 1, 4, 6)
    assert run_harness("gate", "odd#kind=a", "odd", *words)[0] in (0, 1, 4, 6)


@fuzz(st.sampled_from(sorted(OTHERS)), st.sampled_from(["structure", "bytes"]), st.data())
def test_files_of_other_tools(file: str, how: str, data: Any, runs: Path) -> None:
    """One file that a tool made, changed: as a log of JSON, as lines of it, and as the bytes of an archive."""
    whole = KEPT.parent / file
    alone = whole.parent.parent == KEPT.parent  # a log is one file
    source = whole if alone else whole.parent
    copy, raw = runs / "other" / source.name, whole.read_bytes()
    shutil.rmtree(copy.parent, ignore_errors=True)
    copy.parent.mkdir()
    (shutil.copy if alone else shutil.copytree)(source, copy)
    if how == "bytes" or whole.suffix == ".eval":
        at, cut = int(data.draw(st.floats(0, 1)) * len(raw)), data.draw(st.integers(0, 40))
        changed = raw[:at] + data.draw(st.binary(max_size=9)) + raw[at + cut :]
    else:
        lines = whole.suffix == ".jsonl"
        found = data.draw(
            draw_json_edits([json.loads(line) for line in raw.splitlines()] if lines else json.loads(raw))
        )
        rows = found if lines and isinstance(found, list) else [found]
        changed = "".join(dump_json(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    (copy if alone else copy / whole.name).write_bytes(changed)
    claim = ["--worse-by-at-most", "0.1", "--out", "out", "--only-common"]
    claim += ["--metric", OTHERS[file]] if OTHERS[file] else []
    assert run_harness("gate", str(source), str(copy), *claim)[0] in (0, 1, 4, 6)


@fuzz(st.sampled_from(["manifest.json", "suite.json", "verdicts.json", "items.jsonl"]), st.data())
def test_evidence(name: str, data: Any, runs: Path) -> None:
    """Evidence that was changed is refused."""
    shutil.rmtree(runs / "gate", ignore_errors=True)
    shutil.copytree(next(runs.glob("kept/*/gate")), runs / "gate")
    path = runs / "gate" / name
    text = path.read_text("utf-8")
    found = [json.loads(line) for line in text.splitlines()] if name == "items.jsonl" else json.loads(text)
    path.write_text(dump_json(data.draw(draw_json_edits(found, 2))), "utf-8", "surrogatepass")
    assert run_harness("verify", "gate")[0] in (0, 7) and (name == "manifest.json" or path.read_text() != text)
