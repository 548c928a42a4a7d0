"""Data files and waivers."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from harness.testing import SUITE
from tests.fuzz.breaking import VALUES, draw_json_edits, draw_text_edits, dump_json
from tests.fuzz.driving import fuzz, run_harness

FAKES = ("-p", "harness.testing")
ROWS: list[dict[str, Any]] = [
    {"id": "a", "input": "say one", "target": "one", "kind": "a"},
    {"id": "b", "input": [{"role": "user", "content": "say two"}], "target": ["two", "2"], "kind": "b"},
    {"id": "c", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "kind": "b"},
]
WAIVER = {
    "gate": "floor",
    "claim": "at least 0.5",
    "reason": "r",
    "until": "2999-01-01",
    "by": "me",
    "at": "2026-01-01",
}


def put(world: Path, name: str, data: str | bytes) -> None:
    (world / name).write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))


def read(world: Path, name: str, data: str | bytes, train: bool) -> None:
    put(world, name, data)
    place, other = ("train.jsonl", "test.jsonl") if train else ("test.jsonl", "train.jsonl")
    put(world, "suite.toml", SUITE.replace(place, name))
    assert (world / other).is_file()
    run_harness("run", "suite.toml", "-q", "--no-export", *FAKES)


def format_jsonl(rows: Any) -> str:
    return "".join(f"{dump_json(row)}\n" for row in rows) if isinstance(rows, list) else dump_json(rows)


def format_csv(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().replace("@long@", "x" * 140_000)


CELLS = st.one_of(
    st.text(max_size=6), st.sampled_from(["", '"', "\0", "\r", "@long@", "id", "input", "target", "kind"])
)
TABLES = st.lists(st.lists(CELLS, max_size=6), max_size=4).map(
    lambda rows: format_csv([["id", "input", "target", "kind"], *rows])
)


@pytest.mark.slow
@fuzz(draw_json_edits(ROWS).map(format_jsonl) | draw_text_edits(format_jsonl(ROWS)), st.booleans())
def test_jsonl(data: str | bytes, train: bool, world: Path) -> None:
    """Rows of anything are asked, or told by their line."""
    read(world, "rows.jsonl", data, train)


@pytest.mark.slow
@fuzz(draw_json_edits(ROWS).map(dump_json) | draw_text_edits(dump_json(ROWS)) | VALUES.map(dump_json), st.booleans())
def test_json(data: str | bytes, train: bool, world: Path) -> None:
    """A JSON file of anything is asked, or told in a line."""
    read(world, "rows.json", data, train)


@pytest.mark.slow
@fuzz(TABLES | draw_text_edits("id,input,target,kind\r\na,say one,one,a\r\n", [",", '"']), st.booleans())
def test_csv(data: str | bytes, train: bool, world: Path) -> None:
    """A table with cells lacking, too many, too long or unquoted is asked, or told in a line."""
    read(world, "rows.csv", data, train)


@pytest.mark.slow
@fuzz(draw_json_edits([WAIVER, WAIVER]).map(format_jsonl) | draw_text_edits(format_jsonl([WAIVER])))
def test_waivers(data: str | bytes, world: Path) -> None:
    """Lines that are no waivers are told by their number, and what is none waives nothing."""
    from harness.suite.waivers import waivers_file

    put(world, "suite.toml", SUITE)
    path = waivers_file(world / "suite.toml")
    put(world, path.name, data)
    run_harness("run", "suite.toml", "-q", "--no-export", *FAKES)
    path.unlink()
