"""Suites and `--set`, broken at every level."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from harness.testing import SUITE
from tests.fuzz.breaking import TOML_VALUES, draw_line_edits, draw_text_edits
from tests.fuzz.driving import fuzz, run_harness

RICH = (
    SUITE.replace('name = "fake"\n', 'name = "fake"\nseed = 3\nalpha = 0.05\n', 1)
    + """
[subject.fewshot]
from = "base"
shots = 2

[subject.other]
use = "fake"
path = "good"

[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.05
requires = ["floor"]

[[gate]]
id = "not worse"
metric = "qa.exact_match"
slice = { kind = "a" }
versus = "other"
worse_by_at_most = "5%"
severity = "warn"
"""
)
KEYS = [
    *(
        "name",
        "seed",
        "alpha",
        "attempts",
        "use",
        "path",
        "data",
        "slices",
        "cluster",
        "columns",
        "id",
        "metric",
        "min",
        "max",
    ),
    *(
        "max_failures",
        "versus",
        "better_by",
        "worse_by_at_most",
        "slice",
        "requires",
        "severity",
        "candidates",
    ),
    *(
        "clean_only",
        "from",
        "shots",
        "fewshot_data",
        "select",
        "evals",
        "to",
        "base",
        "adapter",
        "merged",
        "skill",
        "loses",
    ),
    *(
        "budget",
        "objective",
        "method",
        "validation_data",
        "validation",
        "retention",
        "early",
        "a.b",
        '"²"',
        '""',
        "dtype",
    ),
]
TABLES = [
    *("[suite]", "[model]", "[adapter]", "[train]", "[candidate]", "[merge]", "[sweep]", "[checks]", "[checks.ignore]"),
    *(
        "[[eval]]",
        "[[gate]]",
        "[[export]]",
        "[subject.a]",
        "[gate]",
        "[eval.qa]",
        "[gate.min]",
        "[[suite]]",
        "[subject]",
    ),
]
ENTRIES = st.one_of(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(TOML_VALUES)).map(" = ".join),
    st.sampled_from(TABLES),
    st.text(max_size=20),
)
PATHS = st.lists(
    st.sampled_from(
        [*KEYS, "suite", "model", "eval", "gate", "train", "export", "subject", "0", "1", "-1", "²", "", "qa", "floor"]
    ),
    max_size=4,
).map(".".join)
PLACES = ["gate.floor.min", "eval.qa.data", "suite.alpha", "train.skill"]
SETS = st.one_of(
    st.tuples(PATHS, st.sampled_from(TOML_VALUES)).map("=".join),
    st.tuples(
        st.sampled_from(["gate.floor.min", "eval.qa.data", "suite.alpha", "train.skill"]), st.sampled_from(TOML_VALUES)
    ).map("=".join),
    st.tuples(PATHS, st.text(max_size=12)).map("=".join),
    st.text(max_size=20),
)
FAKES = ("-p", "harness.testing")


def collect(world: Path, text: str | bytes, *more: str) -> None:
    (world / "suite.toml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    run_harness("run", "suite.toml", "--collect-only", *more, *FAKES)


@pytest.mark.slow
@fuzz(draw_text_edits(RICH, TOML_VALUES))
def test_bytes(text: bytes, world: Path) -> None:
    """A suite with pieces cut out and put in collects, or is told in lines."""
    collect(world, text)


@fuzz(draw_line_edits(RICH, ENTRIES))
def test_structure(text: str, world: Path) -> None:
    """A suite with odd keys, values and tables collects, or is told in lines."""
    collect(world, text)


@fuzz(draw_line_edits(SUITE, ENTRIES))
def test_whole_runs(text: str, world: Path) -> None:
    """What collects runs to the end, and no end is a bug of ours."""
    (world / "suite.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    run_harness("run", "suite.toml", "-q", "--no-export", *FAKES)


@fuzz(st.lists(SETS, min_size=1, max_size=3))
def test_set(given: list[str], world: Path) -> None:
    """`--set` with anything changes the suite, or is told in lines."""
    words = [word for value in given for word in ("--set", value.replace("\0", ""))]
    collect(world, RICH, *words)
