"""A loader is held to its promise: a subject for the ref that it was given, and for no other."""

from __future__ import annotations

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project

KEEPS = """
from contextlib import contextmanager
from harness import hookimpl, testing

KEPT = {}

@contextmanager
def load(refs, *, dtype: str = "auto"):
    with testing.load(refs) as subjects:
        for subject in subjects:
            KEPT.setdefault("model", subject)
        yield [KEPT["model"] for _ in refs]

load.open, load.identity = testing.open_source, testing.identity

@hookimpl
def harness_loaders():
    return {"keeps": load}
"""


FORGETS = """
from contextlib import contextmanager
from harness import hookimpl, testing

@contextmanager
def load(refs, *, dtype: str = "auto"):
    with testing.load(refs) as subjects:
        yield subjects

load.open, load.identity = testing.open_source, lambda ref, **options: "engine 1.0"

@hookimpl
def harness_loaders():
    return {"keeps": load}
"""


def test_an_identity_without_the_weights_remembers_no_other_models_answers(project: Project) -> None:
    """An identity of the engine's version alone gave every candidate the base's answers out of memory."""
    text = SUITE.replace('use = "fake"\npath = "base"', 'use = "keeps"\npath = "base"')
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": FORGETS})
    outcome = project.run("--set", "train.skill=0.05")
    assert {r.subject: r.cache_hits for r in outcome.report.results} == {"base": 0, "adapter": 0, "merged": 0}
    assert outcome.code == 1


@pytest.mark.parametrize("flags", [(), ("--no-cache",)])
def test_a_model_that_is_kept_in_a_global_is_refused(project: Project, flags: tuple[str, ...]) -> None:
    """The commonest way not to load twice gave every candidate the base's answers, under the candidate's name."""
    text = SUITE.replace('use = "fake"\npath = "base"', 'use = "keeps"\npath = "base"')
    project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": KEEPS})
    outcome = project.run(*flags)
    assert outcome.code == 4, outcome.out
    assert ' was given "adapter" with weights ' in outcome.out + outcome.err
    assert not (project.folder / "exports").exists()
