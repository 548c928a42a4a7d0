"""The JSON Schema of a suite: valid draft 4, and of one mind with the reader about words and types."""

from __future__ import annotations

import json
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from harness.plugins import load_plugins
from harness.suite.json_schema import suite_schema
from harness.testing import SUITE, Project

ROOT = Path(__file__).parents[2]
SUITES = sorted((ROOT / "suites").glob("*.toml"))


@pytest.fixture(scope="module")
def validator() -> Draft4Validator:
    """Return the validator of the suites that ship with the harness."""
    made = suite_schema(load_plugins(ROOT / "suites/smoke.toml"))
    Draft4Validator.check_schema(made)
    return Draft4Validator(made)


@pytest.mark.parametrize("path", SUITES, ids=lambda p: p.name)
def test_shipped_suites_are_valid(validator: Draft4Validator, path: Path) -> None:
    """Every suite that ships is valid."""
    raw = tomllib.loads(path.read_text("utf-8"))
    assert [e.message for e in validator.iter_errors(raw)] == []


def make_broken_suite(**changes: Any) -> dict[str, Any]:
    """Return the smoke suite with a table replaced, or its keys."""
    raw: dict[str, Any] = tomllib.loads((ROOT / "suites/smoke.toml").read_text("utf-8"))
    for table, change in changes.items():
        if isinstance(raw.get(table), list) and isinstance(change, dict):
            raw[table][0] |= change
        elif isinstance(raw.get(table), dict) and isinstance(change, dict):
            raw[table] |= change
        else:
            raw[table] = change
    return deepcopy(raw)


BROKEN = {
    "unknown table": make_broken_suite(evals=[]),
    "no eval": make_broken_suite(eval=[]),
    "unknown key of [suite]": make_broken_suite(suite={"sede": 17}),
    "seed that is a text": make_broken_suite(suite={"seed": "17"}),
    "unknown loader": make_broken_suite(model={"use": "hff"}),
    "option of another type": make_broken_suite(model={"dtype": 32}),
    "option with another word": make_broken_suite(model={"dtype": "float99"}),
    "unknown option of an evaluator": make_broken_suite(eval={"max_new_token": 8}),
    "columns that are no table": make_broken_suite(eval={"columns": "input"}),
    "true for a number": make_broken_suite(eval={"limit": True}),
    "gate without a claim": make_broken_suite(gate=[{"id": "x", "metric": "a.b"}]),
    "gate with two claims": make_broken_suite(gate=[{"id": "x", "metric": "a.b", "min": 0.5, "max": 0.6}]),
    "unknown severity": make_broken_suite(gate={"severity": "warning"}),
    "merge onto something else": make_broken_suite(merge={"base": "nf4"}),
    "export without a place": make_broken_suite(export=[{"use": "safetensors"}]),
    "two candidates in one": make_broken_suite(candidate={"adapter": "a", "merged": "b"}),
    "key of a baseline that is the base": make_broken_suite(subject={"fewshot": {"shotz": 3}}),
    "sweep without by": make_broken_suite(sweep={"adapter.r": [8, 16]}),
    "one table for many": make_broken_suite(export={"use": "safetensors", "to": "x"})
    | {"export": {"use": "safetensors"}},
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_suites_are_told(validator: Draft4Validator, what: str) -> None:
    """What the reader refuses for its words or types the schema refuses too."""
    assert list(validator.iter_errors(BROKEN[what]))


GOOD = {
    "a sweep": make_broken_suite(sweep={"by": "answer.exact_match", "adapter.r": [8, 16]}),
    "a sweep without quotes": make_broken_suite(sweep={"by": "answer.exact_match", "adapter": {"r": [8, 16]}}),
    "a relative margin": make_broken_suite(
        gate=[{"id": "x", "metric": "a.b", "versus": "base", "worse_by_at_most": "2%"}]
    ),
    "an option of TRL's": make_broken_suite(train={"neftune_noise_alpha": 5.0}),
    "a whole number for a fraction": make_broken_suite(suite={"alpha": 0.05, "seed": 3}),
    "several sources": make_broken_suite(train={"data": ["a.jsonl", "b.jsonl"]}),
    "a default loader": {**make_broken_suite(), "model": {"path": "tiny:llama"}},
}


@pytest.mark.parametrize("what", GOOD)
def test_what_is_allowed_is_not_told(validator: Draft4Validator, what: str) -> None:
    """Options that go through to a library, and all ways to write a key, are valid."""
    assert [e.message for e in validator.iter_errors(GOOD[what])] == []


def test_plugins_of_the_harnessfile_are_in_it(project: Project) -> None:
    """`harness schema SUITE` knows the options of what stands beside the suite."""
    code = "from harness import Score, hookimpl, metric\n\n\n@metric('m', better='higher')\n"
    code += "def mine(subject, samples, *, words: list[str], most: int = 3):\n    '''Count words.'''\n\n\n"
    code += "@hookimpl\ndef harness_evaluators():\n    return {'mine': mine}\n"
    project.write({"suite.toml": SUITE, "harnessfile.py": code})
    made = json.loads(project.harness("schema", "suite.toml", "-p", "harness.testing").out)
    branches = made["properties"]["eval"]["items"]["anyOf"]
    (mine,) = [b for b in branches if b["title"] == "mine"]
    assert mine["properties"]["words"] == {"type": "array", "items": {"type": "string"}}
    assert mine["properties"]["most"] == {"type": "integer", "default": 3}
    assert mine["description"] == "Count words." and {"words", "use", "name"} <= {*mine["required"]}
    assert not list(Draft4Validator(made).iter_errors(tomllib.loads(SUITE)))


ODD = """
from __future__ import annotations
import typing
from typing import TYPE_CHECKING, Any, Callable, Literal
from harness import hookimpl, metric

if TYPE_CHECKING:
    from nowhere import Thing


@metric("m", better="higher")
def odd(subject, samples, *, a: Thing = None, b: Literal[b"x"] = b"x", c: typing.Mapping = {}, d=object(), e: int = 3,
        f: typing.Sequence = (), g: Callable = print, h: float = float("nan"), i: "list[" = (), j: Any = "k"):
    pass


@hookimpl
def harness_evaluators():
    return {"odd": odd}
"""


def test_odd_signatures_of_plugins_are_taken_as_far_as_they_go(project: Project) -> None:
    """An annotation that cannot be resolved allows anything, a default that no JSON holds is left out."""
    project.write({"suite.toml": SUITE, "harnessfile.py": ODD.lstrip()})
    outcome = project.harness("schema", "suite.toml", "-p", "harness.testing")
    assert outcome.code == 0, outcome.err
    made = json.loads(outcome.out)
    Draft4Validator.check_schema(made)
    (one,) = [b for b in made["properties"]["eval"]["items"]["anyOf"] if b["title"] == "odd"]
    assert one["properties"]["e"] == {"type": "integer", "default": 3}
    assert one["properties"]["a"] == one["properties"]["b"] == one["properties"]["h"].get("default", {}) == {}
    assert "type" not in one["properties"]["i"]
    assert project.harness("plugins", "odd", "--suite", "suite.toml").code == 0
    assert project.harness("plugins", "odd", "--suite", "suite.toml", "--json").code == 0


def test_init_writes_a_schema_that_its_suite_names(project: Project) -> None:
    """The first line of a new suite names the schema beside it, for which the suite is valid."""
    assert project.harness("init", "mine").code == 0
    text = (project.folder / "mine/suite.toml").read_text("utf-8")
    first = text.split("\n")[0]
    assert first == "#:schema suite.schema.json"
    made = json.loads((project.folder / "mine" / first.split()[1]).read_text("utf-8"))
    assert not list(Draft4Validator(made).iter_errors(tomllib.loads(text)))
    assert "a_colour" in [b["title"] for b in made["properties"]["eval"]["items"]["anyOf"]]


def test_a_broken_harnessfile_is_one_line(project: Project) -> None:
    """A schema of plugins that cannot be loaded is a mistake of the command."""
    project.write({"suite.toml": SUITE, "harnessfile.py": "import nothing_of_this_name\n"})
    outcome = project.harness("schema", "suite.toml")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1)
