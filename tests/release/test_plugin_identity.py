"""A plugin is the code that was imported, under whatever name it was registered."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.artifacts.attestation import EVIDENCE, LOCK
from harness.plugins import load_plugins
from harness.release.lock_writer import describe_plugins
from harness.testing import SUITE, Project

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

FOREIGN = """
from harness import Score, hookimpl, metric

@metric("exact_match", better="higher", scale="proportion")
def exact_match(subject, samples):
    "Share of answers that are right, or so it says."
    for s, a in zip(samples, subject.generate([s.input for s in samples]), strict=True):
        yield Score(s.id, {"exact_match": 1.0}, answer=a)

@hookimpl
def harness_evaluators():
    return {"exact_match": exact_match}
"""


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Forget modules that a test put on the path."""
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        if name in ("domain", "harness_strange"):
            del sys.modules[name]


def format_plugin_pins(lock: dict[str, object], names: set[str]) -> str:
    listed = [f'"{p["name"]} sha256:{p["code"]}"' for p in lock["plugins"] if p["name"] in names]  # type: ignore[index, attr-defined]
    return ", ".join(listed)


def test_a_plugin_under_a_name_of_ours_is_not_ours(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-p no:domain -p domain` imports other code, which no label and no policy takes for the harness's own."""
    project.write({"suite.toml": SUITE, "domain.py": FOREIGN})
    from harness.testing import ROWS, TRAIN

    project.write({"test.jsonl": ROWS, "train.jsonl": TRAIN})
    assert project.run().code == 0
    clean = json.loads((project.folder / "exports/fake" / EVIDENCE / LOCK).read_text("utf-8"))
    shutil.rmtree(project.folder / "exports")
    monkeypatch.syspath_prepend(str(project.folder))
    assert project.run("-p", "no:domain", "-p", "domain").code == 0
    export = project.folder / "exports/fake"
    lock = json.loads((export / EVIDENCE / LOCK).read_text("utf-8"))
    domain = next(p for p in lock["plugins"] if p["name"] == "domain")
    assert domain["distribution"] is None
    assert "domain (sha256:" in (export / "README.md").read_text("utf-8")
    project.harness("keygen", "release")
    assert project.harness("sign", str(export), "--key", "release.key").code == 0
    names = {p["name"] for p in clean["plugins"]}
    policy = f'suites = ["fake"]\nplugins = [{format_plugin_pins(clean, names)}]\n'
    (project.folder / "policy.toml").write_text(policy + Path("release.pub").read_text("utf-8"), "utf-8")
    found = project.harness("verify", str(export), "--policy", "policy.toml")
    assert found.code == 7
    assert f'plugin "domain" is sha256:{domain["code"]}, the policy requires domain sha256:' in found.err


def test_a_label_says_that_code_was_not_installed_so(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a plugin's own name that lies before it on the path is not what was installed."""
    point = importlib.metadata.EntryPoint("strange", "harness_strange", "harness")
    dist = importlib.metadata.distribution("pluggy")
    object.__setattr__(point, "dist", dist)
    (project.folder / "harness_strange.py").write_text(FOREIGN, "utf-8")
    monkeypatch.syspath_prepend(str(project.folder))
    plugins = load_plugins(None, ("no:domain", "harness_strange"))
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [point])
    found = {p["name"]: p["distribution"] for p in describe_plugins(plugins)}
    assert found["harness_strange"] == f"pluggy {dist.version} (not as installed)"
    assert str(found["harness"]).startswith("finetune-harness ")


def test_a_plugin_that_is_an_object_is_in_the_lock(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point may be of an object, whose module's code is its identity."""
    (project.folder / "harness_strange.py").write_text("class Plugin:\n    pass\nplugin = Plugin()\n", "utf-8")
    monkeypatch.syspath_prepend(str(project.folder))
    plugins = load_plugins(None)
    plugins.manager.register(importlib.import_module("harness_strange").plugin, "odd")
    assert "odd" in {p["name"] for p in describe_plugins(plugins)}
