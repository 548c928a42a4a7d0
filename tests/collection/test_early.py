"""What is told at collection, before anything is measured."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_type_hints

import pytest

from harness.internals import read_suite, schema
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness_checks.recipe import unusual_recipe
from harness_sft import check_config_fields
from harness_sft import config as fields

VALUES: list[Any] = [True, False, 1, 1.5, "x", ["x"], {"a": 1}, {"a": True}]


@pytest.fixture
def kept_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the installed libraries be those whose fields are kept, so that a new release fails no test."""
    for name in fields.VERSIONS:
        with suppress(PackageNotFoundError):
            monkeypatch.setitem(fields.VERSIONS, name, version(name))


def test_two_tables_of_a_list_are_told_in_our_words(project: Project) -> None:
    """Two [eval] tables are a line that says [[eval]], and two [train] tables one that says to remove one."""
    for name, told in (("eval", "write [[eval]] for each"), ("train", "remove one of them")):
        suite = f'[suite]\nname = "x"\n[{name}]\nuse = "a"\n[{name}]\nuse = "b"\n'
        outcome = project.write({"suite.toml": suite}).run("--collect-only")
        assert (outcome.code, f"suite.toml:5: [{name}] occurs twice; {told}" in outcome.err) == (4, True)


def test_suite_that_decides_nothing_is_told_before_it_runs(project: Project) -> None:
    """A suite without a gate, and one with gates and no candidate, are warned of at collection."""
    project.write({"test.jsonl": ROWS, "train.jsonl": TRAIN})
    start, end = SUITE.index("[[gate]]"), SUITE.index("[[export]]")
    measured = SUITE[:start] + SUITE[end:]
    bare = SUITE[: SUITE.index("[adapter]")] + SUITE[SUITE.index("[[eval]]") : end]
    for suite, told in (
        (measured, "there is no [[gate]]"),
        (bare, "there are gates but no candidate to judge, so the run will end with exit 5"),
        (SUITE, ""),
    ):
        outcome = project.write({"suite.toml": suite}).run("--collect-only")
        assert outcome.code == 0
        assert told in outcome.err and ("exit 5" in outcome.err) == bool(told)


@pytest.mark.usefixtures("kept_versions")
def test_options_of_the_trainer_are_told_without_its_library(project: Project) -> None:
    """Names and types of [train] are checked at collection: of our options and of the library's, in a sweep too."""
    keys = 'learning_rte = 1\nmax_step = 3\nnum_train_epochs = "60"\nweight_decay = "much"\nseed = 1\nhub_token = "x"\n'
    suite = SUITE.replace('use = "fake"\ndata', f'use = "sft"\n{keys}data')
    project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    outcome = project.run("--collect-only")
    assert outcome.code == 4
    for told in (
        'option "learning_rte": is not a field of TRL\'s SFTConfig; did you mean "learning_rate"?',
        'option "max_step": is not a field of TRL\'s SFTConfig; did you mean "max_steps"?',
        '"num_train_epochs" is "60"; it must be a number',
        'option "weight_decay": is "much"; it must be a number',
        'option "seed": cannot be set: set seed in [suite]',
        'option "hub_token": cannot be set: use [[export]]',
    ):
        assert told in outcome.err
    assert outcome.err.count("\n") == 6


@pytest.mark.usefixtures("kept_versions")
def test_values_of_a_sweep_are_told_without_the_library(project: Project) -> None:
    """Every value of a sweep is looked at, not only the one that stands in the table."""
    suite = SUITE.replace('use = "fake"\ndata', 'use = "sft"\ndata').replace(
        'slices = ["kind"]', 'slices = ["kind"]\nselect = "train.jsonl"'
    )
    suite += '\n[sweep]\n"train.weight_decay" = [0.1, "much"]\nby = "qa.exact_match"\n'
    outcome = project.write({"suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run("--collect-only")
    assert outcome.code == 4
    assert 'option "weight_decay": is "much"; it must be a number' in outcome.err


@pytest.mark.parametrize(
    ("path", "rate", "told"), [("tiny:llama", 2.0, True), ("tiny:llama", 0.01, False), ("some/model", 0.01, True)]
)
def test_rate_at_which_anything_diverges_is_warned_of(project: Project, path: str, rate: float, told: bool) -> None:
    """A random model takes a higher learning rate than a real one, and not any rate."""
    suite = f'[suite]\nname = "x"\n[model]\npath = "{path}"\n[adapter]\nuse = "lora"\n[train]\nuse = "sft"\n'
    project.write({"suite.toml": f'{suite}data = "d"\nlearning_rate = {rate}\n[[eval]]\nname = "a"\nuse = "size"\n'})
    found = list(unusual_recipe(read_suite(project.folder / "suite.toml")))
    assert [f.severity for f in found] == ["warning"] * told


@pytest.mark.slow
def test_known_fields_are_those_of_the_library() -> None:
    """The kept list has the names of SFTConfig's fields, and takes of each what the library's own types take."""
    trl = pytest.importorskip("trl")
    if {name: version(name) for name in fields.VERSIONS} != fields.VERSIONS:
        pytest.skip("the fields kept are those of other versions")
    theirs = {name: hint for name, hint in get_type_hints(trl.SFTConfig).items() if not name.startswith("_")}
    theirs = {name: theirs[name] for name in trl.SFTConfig.__dataclass_fields__}
    hub = {name for name in theirs if name.startswith("hub_")}
    assert fields.FIELDS.keys() | fields.RESERVED_FIELDS.keys() | hub == theirs.keys()
    for name, want in fields.FIELDS.items():
        assert [schema.matches_type(v, want) for v in VALUES] == [
            schema.matches_type(v, theirs[name]) for v in VALUES
        ], name


def test_field_of_another_version_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another TRL is installed, a name that is not known here is no mistake yet, but one of ours still is."""
    monkeypatch.setitem(fields.VERSIONS, "trl", "0.0.1")
    check_config_fields(brand_new=1)
    with pytest.raises(Exception, match="cannot be set"):
        check_config_fields(output_dir="x")
