"""The pages for users of other tools: both configurations say the same, and the suite collects."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.pipeline.session import Options, prepare_collection
from harness.suite.reader import read_suite
from harness.texts.option_names import OPTION_NAMES
from tests.docs.blocks import parse_blocks

ROOT = Path(__file__).parents[2]
PAGES = {name: ROOT / f"docs/how-to/coming-from-{name}.md" for name in ("axolotl", "llama-factory", "lm-eval")}
WORDS = {"all": "all-linear", "alpaca": "train.jsonl[:1000]"}  # of LLaMA-Factory
CHATS = [
    {"messages": [{"role": "user", "content": f"Say w{i}."}, {"role": "assistant", "content": f"w{i}"}]}
    for i in range(99)
]


def read_block(page: str, language: str) -> str:
    [text] = [b.text for b in parse_blocks(PAGES[page], ROOT) if b.language == language]
    return text


@pytest.mark.parametrize("page", ["axolotl", "llama-factory"])
def test_both_configurations_say_the_same(page: str) -> None:
    """Each key of the YAML that a suite has stands in the TOML with its value, and each name is one that is known."""
    suite, compared = tomllib.loads(read_block(page, "toml")), 0
    for name, value in yaml.safe_load(read_block(page, "yaml")).items():
        table, _, key = OPTION_NAMES.get(name, f"train.{name}").rpartition(".")
        where: Any = suite.get(table)
        where = where[0] if isinstance(where, list) else where
        if where and key in where and not isinstance(value, list):
            assert where[key] == WORDS.get(value, value), name
            compared += 1
    assert compared >= 12


@pytest.mark.parametrize("page", ["axolotl", "llama-factory"])
def test_names_on_the_page_are_those_that_are_suggested(page: str) -> None:
    """A row of the table names the key that the error about a name names."""
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| .*?`(\w+)[^`]*`.* in `\[+(\w+)\]+`", PAGES[page].read_text("utf-8"), re.M
    )
    wrong = []
    for names, key, table in rows:
        for name in re.findall(r"`(\w+)`", names):
            meant = OPTION_NAMES.get(name, "")
            fits = meant in (f"{table}.{key}", "") or (" " in meant and key in meant)
            wrong += [] if fits else [(name, key, table, meant)]
    assert not wrong and len(rows) >= 15


@pytest.mark.parametrize("page", ["axolotl", "llama-factory"])
def test_the_suite_collects(page: str, project: Any) -> None:
    """The suite is read and its rows are, without a mistake or a warning."""
    pytest.importorskip("trl")
    project.write({"suite.toml": read_block(page, "toml"), "train.jsonl": CHATS[:60], "test.jsonl": CHATS[60:]})
    collection = prepare_collection(project.folder / "suite.toml", Options())
    assert collection.warnings == () and collection.training


def test_the_suite_of_tasks_is_read(project: Any) -> None:
    """The suite for users of lm_eval has no mistake in its tables."""
    project.write({"suite.toml": read_block("lm-eval", "toml")})
    suite = read_suite(project.folder / "suite.toml")
    assert [one.options["task"] for one in suite.evals] == ["arc_easy", "hellaswag"]
