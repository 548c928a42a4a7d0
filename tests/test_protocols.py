"""Plugins as subclasses of base classes: instances whose overridden methods are what the decorators declare."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import (
    BaseEvaluator,
    BaseExporter,
    BaseLoader,
    BaseTrainer,
    ExtendedSubject,
    Sample,
    capabilities,
    protocols,
)  # fmt: skip
from harness.testing import ROWS, SUITE, TRAIN, Project

EVALUATOR = '''
from harness import BaseEvaluator, Metric, Score, UsageError, hookimpl


class Words(BaseEvaluator):
    """Look for a word in answers."""

    metrics = (Metric("has", "higher", "proportion"),)

    def __call__(self, subject, samples, *, word: str = "w1", most: int = 16):
        for s, a in zip(samples, subject.generate([s.input for s in samples], max_new_tokens=most), strict=True):
            yield Score(s.id, {"has": float(word in a)}, answer=a)

    def check_rows(self, samples, options, folder):
        if any("bad" in str(s.input) for s in samples):
            raise UsageError("bad rows")

    def remarks(self, scores):
        return [f"{len(scores)} answers were read"]

METHOD

@hookimpl
def harness_evaluators():
    return {"words": Words()}
'''
LOADER = '''
import json
from contextlib import contextmanager
from pathlib import Path

from harness import BaseLoader, BaseTrainer, BaseExporter, copy_files, hookimpl
from harness.testing import FakeSource, FakeSubject, write_fake
from harness.testing import open_source as open_fake


class Load(BaseLoader):
    """Load fakes."""

    @contextmanager
    def __call__(self, refs, *, dtype: str = "auto"):
        folders = [r.adapter or Path(r.path) for r in refs]
        skills = [json.loads((folder / "skill.json").read_text())["skill"] for folder in folders]
        yield [FakeSubject(r.name, skill, r.digest) for r, skill in zip(refs, skills, strict=True)]

    def open(self, path, *, dtype: str = "auto"):
        return open_fake(path)


class Train(BaseTrainer):
    """Write a fake adapter."""

    def __call__(self, ref, adapter, rows, out, *, progress, seed, skill: float = 0.9):
        return write_fake(out, skill)

    def check(self, *, skill: float = 0.9):
        print(f"skill is {skill}")


class Copy(BaseExporter):
    """Copy a model."""

    def __call__(self, ref, to):
        copy_files(ref, to)
        return to


@hookimpl
def harness_loaders():
    return {"mine": Load()}


@hookimpl
def harness_trainers():
    return {"mine": Train()}


@hookimpl
def harness_exporters():
    return {"mine": Copy()}
'''
EVAL = '[[eval]]\nname = "words"\nuse = "words"\ndata = "test.jsonl"\n'


def write_project(project: Project, plugin: str, suite: str = SUITE) -> Project:
    return project.write({"harnessfile.py": plugin, "suite.toml": suite, "test.jsonl": ROWS, "train.jsonl": TRAIN})


def test_an_evaluator_may_be_a_class(project: Project) -> None:
    """Options come from `__call__`, overridden methods are called, and others are not there."""
    done = write_project(project, EVALUATOR.replace("METHOD", ""), SUITE + EVAL).run()
    assert done.code == 0, done.out + done.err
    assert "60 answers were read" in done.out
    listed = project.harness("plugins", "words").out
    assert "Look for a word in answers." in listed
    assert 'word: a string, default "w1"' in listed and "most: an integer, default 16" in listed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("METHOD", "    def row_for(self, options, folder):\n        return []"), '"row_for" is not a capability'),
        (("def __call__(self, subject, samples, *,", "def __call__(self, subject, *,"), "harnessfile.py:10: Words"),
        (("metrics = (Metric", "uncached = 1\n    metrics = (Metric"), "uncached is 1; it must be true or false"),
    ],
)
def test_a_wrong_class_is_one_line_at_collection(project: Project, change: tuple[str, str], said: str) -> None:
    """A misspelt method, a wrong call or a wrong value exits 4 with its name and place."""
    done = write_project(project, EVALUATOR.replace(*change).replace("METHOD", ""), SUITE + EVAL).run("--collect-only")
    assert (done.code, said in done.err) == (4, True), done.err


def test_an_option_of_a_class_has_its_type(project: Project) -> None:
    """A value of another type than the annotation's is a mistake at its line; so are rows that it refuses."""
    plugin = EVALUATOR.replace("METHOD", "")
    done = write_project(project, plugin, SUITE + EVAL + "most = true\n").run("--collect-only")
    assert (done.code, '"most" is true; it must be an integer' in done.err) == (4, True)
    bad = [{**ROWS[0], "input": "bad w0"}, *ROWS[1:]]
    done = project.write({"suite.toml": SUITE + EVAL, "test.jsonl": bad}).run("--collect-only")
    assert (done.code, "bad rows" in done.err) == (4, True)


def test_a_run_of_classes_ships(project: Project) -> None:
    """Loader, trainer and exporter may be classes; a loader without `identity` has nothing cached."""
    suite = SUITE.replace('[model]\nuse = "fake"', '[model]\nuse = "mine"').replace(
        '[train]\nuse = "fake"', '[train]\nuse = "mine"'
    )
    suite = suite.replace('use = "safetensors"', 'use = "mine"')
    done = write_project(project, LOADER, suite).run()
    assert done.code == 0, done.out + done.err
    assert "skill is 0.9" in done.out and (project.folder / "exports/fake/model").is_dir()
    assert "cached" not in project.run().out.partition("merged")[0]


def test_what_is_not_overridden_is_not_declared() -> None:
    """A subclass that overrides nothing declares what a plain function does; each base has the kind's attributes."""

    class Plain(BaseEvaluator):
        def __call__(self, subject: Any, samples: Sequence[Sample]) -> Iterator[Any]:
            yield from ()

        def needs(self, options: protocols.Options) -> Sequence[str]:
            return ("numpy",)

    found = capabilities.EvaluatorCapabilities.of(Plain())
    assert found.needs is not None and [*found.needs({})] == ["numpy"]
    assert (found.rows_for, found.check, found.counts, found.marks) == (None, None, None, "")
    kinds = {"evaluator": BaseEvaluator, "loader": BaseLoader, "trainer": BaseTrainer, "exporter": BaseExporter}
    for kind, base in kinds.items():
        own = {name for name in vars(base) if not name.startswith("_")} - {"metrics"}
        assert own == {*capabilities.KINDS[kind].__dataclass_fields__}, kind
    with pytest.raises(NotImplementedError):
        BaseLoader().open(str(Path()))


def test_optional_members_of_a_subject_are_spelled_out() -> None:
    """What the harness looks up in a subject is a member of ExtendedSubject, or the harness's own bookkeeping."""
    looked = re.compile(r"getattr\((?:self\.)?_?(?:subject|loaded), ?\"(\w+)\"")
    root = Path(__file__).parent.parent
    texts = [path.read_text("utf-8") for top in ("harness", "plugins") for path in (root / top).rglob("*.py")]
    named = {name for text in texts for name in looked.findall(text)}
    members = {
        name for kind in ExtendedSubject.__mro__ for name in (*vars(kind), *vars(kind).get("__annotations__", {}))
    }
    assert {"notes", "facts", "nbytes", "token_kl", "render"} <= named
    assert named - members <= {"pop_sent_prompts", "model"}  # of the cache, and of the loader "hf" alone


def test_a_misspelt_member_of_a_subject_is_named_at_once(project: Project) -> None:
    """The error names the model and the line of the plugin, and what was meant; no frame of a wrapper shows."""
    plugin = EVALUATOR.replace("METHOD", "").replace("subject.generate(", "subject.genrate(")
    done = write_project(project, plugin, SUITE + EVAL).run()
    assert 'AttributeError: the model "base" has no "genrate"; did you mean "generate"?' in done.out + done.err
    assert re.search(r"harnessfile\.py:\d+: AttributeError", done.out + done.err)
