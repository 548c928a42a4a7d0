"""What plugin callables declare of themselves, as decorators and as attributes, and what is misspelt."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

import pytest

from harness import Document, UsageError, adapter, capabilities, checker, exporter, trainer
from harness.cli.parser import COMMAND_ENTRY_POINTS
from harness.plugins import load_plugins
from harness.testing import SUITE as PASSES
from harness.testing import Project

SUITE = """[suite]
name = "s"
[model]
use = "fake"
path = "base"
[[eval]]
name = "qa"
use = "polite"
data = "rows.jsonl"
"""
ROWS = [{"input": "say please", "target": "please"}]
PLUGIN = """from harness import Score, evaluator, hookimpl, metric


{decorator}
@metric("polite", better="higher", scale="proportion")
def polite(subject, samples):
    for s in samples:
        yield Score(s.id, {{"polite": 1.0}})


{attribute}


@hookimpl
def harness_evaluators():
    return {{"polite": polite}}
"""


def run(project: Project, decorator: str = "", attribute: str = "") -> Any:
    """Collect a suite whose evaluator declares something."""
    text = PLUGIN.format(decorator=decorator, attribute=attribute)
    project.write({"suite.toml": SUITE, "rows.jsonl": ROWS, "harnessfile.py": text})
    return project.run("--collect-only")


@pytest.mark.parametrize(
    "how", [{"decorator": "@evaluator(uncached=True)"}, {"attribute": "polite.uncached = True"}, {}]
)
def test_declared_either_way(project: Project, how: dict[str, str]) -> None:
    """A capability is declared by the decorator or as an attribute; a plain function declares none."""
    assert run(project, **how).code == 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"decorator": "@evaluator(uncahed=True)"},
            "TypeError: evaluator() got an unexpected keyword argument 'uncahed'",
        ),
        ({"decorator": "@evaluator(uncached=1)"}, "TypeError: uncached is 1; it must be true or false"),
        (
            {"attribute": "polite.uncahed = True"},
            'harnessfile.py:5: polite: "uncahed" is not a capability; did you mean "uncached"?',
        ),
        ({"attribute": "polite.row_for = list"}, '"row_for" is not a capability; did you mean "rows_for"?'),
        (
            {"attribute": "polite.remarks = 'none'"},
            ":5: polite: remarks is 'none'; it must be a function",
        ),
        ({"attribute": "polite.marks = 'answer'"}, 'marks is \'answer\'; it must be "answers", "pairs" or a function'),
    ],
)
def test_misspelt_is_one_line_at_collection(project: Project, how: dict[str, str], said: str) -> None:
    """What no one would read, or could not use, exits 4 with its name and what was meant."""
    outcome = run(project, **how)
    assert outcome.code == 4
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_other_attributes_are_the_plugins_own(project: Project) -> None:
    """An attribute that is like no capability is nobody's mistake."""
    assert run(project, attribute="polite.version = 3\npolite._uncached = True").code == 0


def test_decorators_set_attributes() -> None:
    """What is declared by a decorator is read as an attribute, so that a plugin can wrap another's callable."""

    @exporter(converts=True)
    def export() -> None: ...

    assert capabilities.ExporterCapabilities.of(export) == capabilities.ExporterCapabilities(converts=True)
    assert vars(export) == {"converts": True}


def test_each_kind_has_its_own() -> None:
    """A capability of another kind is a TypeError."""
    with pytest.raises(TypeError, match="unexpected keyword"):
        trainer(converts=True)  # type: ignore[call-arg]
    assert capabilities.AdapterCapabilities.of(adapter(measured_like=("a",))(lambda: None)).measured_like == ("a",)
    with pytest.raises(TypeError, match="measured_like is 'qlora'; it must be names"):
        adapter(measured_like="qlora")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="title is 3; it must be a text"):
        checker(title=3)  # type: ignore[arg-type]


def test_adapters_made_elsewhere_have_a_reader() -> None:
    """The adapter that reads what was made elsewhere is the one that declares it; without one there is a way out."""
    plugins = load_plugins(None)
    assert plugins.foreign_adapter().name == "lora"
    assert capabilities.AdapterCapabilities.of(plugins.find("adapter", "qlora").function).measured_like == ("lora",)
    with pytest.raises(UsageError, match="do not block it with -p no:, or add an"):
        load_plugins(None, ["no:lora"]).foreign_adapter()


class Point:
    """An entry point of the group of commands."""

    def __init__(self, name: str, build: Any) -> None:
        self.name, self.value, self.build = name, "somewhere:build", build

    def load(self) -> Any:
        """Return what it names, or raise what it raises."""
        if isinstance(self.build, Exception):
            raise self.build
        return self.build


def add_greeting_command(parser: Any) -> None:
    """greet someone

    And more that is not the line of help.
    """
    parser.add_argument("name")
    parser.set_defaults(command=lambda args: Document(args.name, lambda name: print(f"hello {name}")))


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[Point]:
    """The entry points of installed plugins' commands."""
    found: list[Point] = []
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: found if group == COMMAND_ENTRY_POINTS else []
    )
    return found


def test_command_of_a_plugin(points: list[Point], capsys: pytest.CaptureFixture[str]) -> None:
    """A command that a plugin brings is listed with its docstring, has its arguments, and returns its exit code."""
    from harness.cli.main import main

    points.append(Point("greet", add_greeting_command))
    assert main(["greet", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.search(r"^  greet +greet someone$", capsys.readouterr().out, re.MULTILINE)
    points.append(Point("broken", ImportError("no module")))
    assert main(["greet", "you"]) == 4
    assert 'command "broken" of somewhere:build: cannot be loaded: ImportError' in capsys.readouterr().err
    points[1:] = [Point("run", add_greeting_command)]
    assert main(["greet", "you"]) == 4
    assert 'command "run" of somewhere:build: this command exists already; rename it' in capsys.readouterr().err


LACKING = """from contextlib import contextmanager

from harness import hookimpl, loader
from harness.testing import FakeAdapter, load, open_source


@hookimpl
def harness_adapters():
    return {"packed": lambda: FakeAdapter(quantization={"load_in_4bit": True})}


@hookimpl
def harness_loaders():
    @loader(open=open_source, lacks=("token_kl", "4-bit"))
    @contextmanager
    def scant(refs):
        with load(refs) as subjects:
            yield subjects

    return {"scant": scant}
"""


@pytest.mark.parametrize("use", ["fake", "scant"])
def test_what_a_loader_lacks_is_refused_where_an_evaluator_asks_for_it(use: str, project: Project) -> None:
    """A suite whose models cannot give what an evaluation asks of them exits 4 at collection."""
    text = SUITE.replace('"fake"', f'"{use}"').replace('"polite"', '"drift"')
    project.write({"suite.toml": text, "rows.jsonl": ROWS, "harnessfile.py": LACKING})
    outcome = project.run("--collect-only")
    said = '"drift" needs token_kl, which the loader "scant" does not provide; use = "hf" in [model]'
    assert (outcome.code, said in outcome.err) == (4, use == "scant"), outcome.err  # without a candidate in any case


def test_an_adapter_on_4_bits_is_refused_where_no_such_base_is_loaded(suite: Project) -> None:
    """It exits 4 in preflight, before anything is trained."""
    text = PASSES.replace('use = "fake"\npath', 'use = "scant"\npath')
    text = text.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "packed"')
    outcome = suite.write({"suite.toml": text, "harnessfile.py": LACKING}).run()
    said = '[adapter] needs a base in 4 bits, which the loader "scant" cannot load; use = "lora", or "hf" in [model]'
    assert (outcome.code, said in outcome.err) == (4, True), outcome.err
