"""Slips of a team's own plugins: none ships, none is a bug of ours, each names the file and line or the function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project

pytestmark = pytest.mark.slow  # a run each

EVALUATOR = """from harness import Score, evaluator, hookimpl, metric


@metric("mine", better="higher", scale="proportion")
def mine(subject, samples):
    answers = subject.generate([s.input for s in samples])
    for s, a in zip(samples, answers):
        yield Score(s.id, {"mine": float(a == s.target)})


@hookimpl
def harness_evaluators():
    return {"mine": mine}
"""
LOADER = """from contextlib import contextmanager

from harness import hookimpl, loader, testing


class Model:
    def __init__(self, ref, inner):
        self.name, self.digest, self.inner = ref.name, ref.digest, inner

    def generate(self, prompts, **options):
        return self.inner.generate(prompts)


def source(path):
    return testing.open_source(path)


def identity(ref):
    return testing.identity(ref)


@loader(open=source, identity=identity)
@contextmanager
def mine(refs):
    with testing.load(refs) as inner:
        yield [Model(ref, one) for ref, one in zip(refs, inner)]


@hookimpl
def harness_loaders():
    return {"mine": mine}
"""
CHECK = """from harness import Finding, hookimpl


def odd(rows, tasks):
    for row in rows:
        if len(row.answer) > 99:
            yield Finding("error", "an answer is too long")


@hookimpl
def harness_checks():
    return {"X1": odd}
"""
TRAINER = """from harness import hookimpl, testing, trainer


def build(ref, adapter, rows, *, seed):
    return None


def mine(ref, adapter, rows, out, *, progress, seed):
    testing.write_fake(out, 0.9)
    return out


@hookimpl
def harness_trainers():
    return {"mine": mine}
"""
ADAPTER = """from harness import hookimpl, testing


def mine():
    return testing.FakeAdapter()


@hookimpl
def harness_adapters():
    return {"mine": mine}
"""
EXPORTER = """import shutil

from harness import exporter, hookimpl


def mine(ref, to):
    shutil.copytree(ref.path, to, dirs_exist_ok=True)
    return to


@hookimpl
def harness_exporters():
    return {"mine": mine}
"""
SUITES = {
    EVALUATOR: SUITE.replace("exact_match", "mine"),
    LOADER: SUITE.replace('use = "fake"', 'use = "mine"', 1),
    CHECK: SUITE,
    TRAINER: SUITE.replace('[train]\nuse = "fake"', '[train]\nuse = "mine"'),
    ADAPTER: SUITE.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "mine"'),
    EXPORTER: SUITE.replace('use = "safetensors"', 'use = "mine"'),
}
YIELDS = 'yield Score(s.id, {"mine": float(a == s.target)})'
LOOP = f"for s, a in zip(samples, answers):\n        {YIELDS}"
INNER = "return self.inner.generate(prompts)"
OPENS = "return testing.open_source(path)"
LENDS = "yield [Model(ref, one) for ref, one in zip(refs, inner)]"
FINDS = (
    'for row in rows:\n        if len(row.answer) > 99:\n            yield Finding("error", "an answer is too long")'
)
FRAGILE = """Fragile()


class Fragile(testing.FakeAdapter):
    def merge(self, *_, **__):
        raise OSError(5, "x")"""
WRITES = "testing.write_fake(out, 0.9)\n    return out"
READER = "@hookimpl\ndef harness_read_samples(path):\n    {}\n\n\n@hookimpl"
COPIES = "shutil.copytree(ref.path, to, dirs_exist_ok=True)\n    return to"


@dataclass(frozen=True)
class Slip:
    """What stands in a plugin in the place of what should, and what is said of it."""

    plugin: str
    right: str
    wrong: str
    told: str


SLIPS = {
    "an evaluator that forgot to yield": Slip(EVALUATOR, LOOP, "pass", "harnessfile.py:4: mine returned None"),
    "an evaluator that returns a dict": Slip(EVALUATOR, LOOP, 'return {"mine": 1.0}', "harnessfile.py:4: mine"),
    "an evaluator that returns a number": Slip(EVALUATOR, LOOP, "return 1.0", "harnessfile.py:4: mine returned 1.0"),
    "an evaluator that returns after a row": Slip(EVALUATOR, "yield Score", "return Score", "harnessfile.py:4: mine"),
    "an evaluator that yields dicts": Slip(EVALUATOR, YIELDS, 'yield {"mine": 1.0}', "harnessfile.py:8: mine yielded"),
    "an evaluator that yields pairs": Slip(EVALUATOR, YIELDS, "yield s.id, 1.0", "harnessfile.py:8: mine yielded"),
    "an evaluator that skips rows": Slip(EVALUATOR, YIELDS, f"if s.id != 'q7': {YIELDS}", "1 of 60 rows have no score"),
    "an evaluator that doubles rows": Slip(
        EVALUATOR,
        YIELDS,
        f"{YIELDS}\n        {YIELDS}",
        'harnessfile.py:9: mine: row "q0" was not among its samples, or was scored twice',
    ),
    "an evaluator with rows of its own": Slip(
        EVALUATOR, "Score(s.id", 'Score("x" + s.id', 'harnessfile.py:8: mine: row "xq0" was not among its samples'
    ),
    "a score that is None": Slip(
        EVALUATOR, "float(a == s.target)", "None", 'harnessfile.py:8: mine: row "q0": "mine" is None'
    ),
    "a score that is a text": Slip(EVALUATOR, "float(a == s.target)", '"yes"', 'row "q0": "mine" is \'yes\''),
    "a score that is a bare number": Slip(
        EVALUATOR, '{"mine": float(a == s.target)}', "1.0", "harnessfile.py:8: mine: 'float' object"
    ),
    "a weight that is a text": Slip(
        EVALUATOR, "s.target)})", 's.target)}, weight="much")', 'harnessfile.py:8: mine: row "q0": "weight" is'
    ),
    "a score of a row that does not count": Slip(
        EVALUATOR,
        "@metric",
        '@evaluator(counts=lambda metric, sample: sample.id != "q7")\n@metric',
        'harnessfile.py:9: mine: row "q7" does not count in "mine", so its weight there must be 0',
    ),
    "a score of another metric": Slip(EVALUATOR, '{"mine": f', '{"Mine": f', 'rows have no "mine"'),
    "a score above 1 on a proportion": Slip(EVALUATOR, "float(a == s.target)", "100.0", "qa.mine"),
    "a score that is NaN": Slip(EVALUATOR, "float(a == s.target)", 'float("nan")', "qa.mine"),
    "a keyword that a Score has not": Slip(EVALUATOR, "s.id, {", "s.id, value={", "harnessfile.py:8: TypeError"),
    "a column that is not there": Slip(EVALUATOR, "s.target)", 's.row["gold"])', "harnessfile.py:8: KeyError: 'gold'"),
    "a keyword that a model has not": Slip(
        EVALUATOR, "for s in samples])", "for s in samples], max_tokens=9)", "harnessfile.py:6: TypeError"
    ),
    "an evaluator that exits": Slip(EVALUATOR, LOOP, "raise SystemExit(0)", "harnessfile.py:7: SystemExit"),
    "a scale that is none": Slip(EVALUATOR, '"proportion"', '"percent"', 'scale is "percent"'),
    "a direction that is none": Slip(EVALUATOR, '"higher"', '"high"', 'better is "high"'),
    "an evaluator of another signature": Slip(
        EVALUATOR, "(subject, samples)", "(subject, samples, options)", "harnessfile.py:4: mine(subject, samples, opt"
    ),
    "an evaluator without rows": Slip(EVALUATOR, "(subject, samples)", "(subject)", "harnessfile.py:4: mine(subject)"),
    "an evaluator without a metric": Slip(
        EVALUATOR, '@metric("mine", better="higher", scale="proportion")\n', "", "mine"
    ),
    "a combine that returns nothing": Slip(
        EVALUATOR, 'scale="proportion"', 'scale="other", combine=lambda scores: None', "harnessfile.py:4: <lambda>"
    ),
    "remarks that return nothing": Slip(
        EVALUATOR, "@metric", "@evaluator(remarks=lambda scores: None)\n@metric", "harnessfile.py:4: <lambda> returned"
    ),
    "metrics_for that returns nothing": Slip(
        EVALUATOR, "@metric", "@evaluator(metrics_for=lambda options: None)\n@metric", "harnessfile.py:4: <lambda> ret"
    ),
    "a check of options that raises": Slip(
        EVALUATOR, "@metric", "@evaluator(check=lambda *_: 1 / 0)\n@metric", "harnessfile.py:4: ZeroDivisionError"
    ),
    "a check of rows that raises": Slip(
        EVALUATOR, "@metric", "@evaluator(check_rows=lambda *_: 1 / 0)\n@metric", "harnessfile.py:4: ZeroDivisionError"
    ),
    "a check of options without them all": Slip(
        EVALUATOR,
        "@metric",
        "@evaluator(check=lambda o: None)\n@metric",
        "harnessfile.py:4: mine: check(o) must accept (options, folder, path): too many positional arguments",
    ),
    "a check of options that returns its refusal": Slip(
        EVALUATOR,
        "@metric",
        '@evaluator(check=lambda *_: "a bad option")\n@metric',
        "harnessfile.py:4: <lambda> returned 'a bad option'; it must raise UsageError instead",
    ),
    "needs without options": Slip(
        EVALUATOR, "@metric", "@evaluator(needs=lambda: ())\n@metric", "mine: needs() must accept (options): too many"
    ),
    "needs that are a text": Slip(
        EVALUATOR,
        "@metric",
        '@evaluator(needs=lambda options: "numpy")\n@metric',
        "harnessfile.py:4: <lambda> returned 'numpy'; it must return an iterable of names of modules",
    ),
    "remarks that are a text": Slip(
        EVALUATOR,
        "@metric",
        '@evaluator(remarks=lambda scores: "odd")\n@metric',
        "harnessfile.py:4: <lambda> returned 'odd'; it must return an iterable of lines of text",
    ),
    "a feature that no model has": Slip(
        EVALUATOR,
        "@metric",
        '@evaluator(asks=("tokens_kl",))\n@metric',
        'harnessfile.py:4: mine: asks for "tokens_kl", which no model has; did you mean "token_kl"?',
    ),
    "an option named like a key": Slip(
        EVALUATOR,
        "(subject, samples)",
        "(subject, samples, *, limit=3)",
        'harnessfile.py:4: mine: the option "limit" is a key of the table itself',
    ),
    "a metric that is declared twice": Slip(
        EVALUATOR,
        "@metric",
        '@metric("mine", better="lower", scale="proportion")\n@metric',
        'harnessfile.py:4: mine: declares the metric "mine" twice, and differently',
    ),
    "an answer that is a number": Slip(
        EVALUATOR,
        "s.target)}",
        "s.target)}, answer=3",
        'harnessfile.py:8: mine: row "q0": answer is 3; it must be a text',
    ),
    "details that are a list": Slip(
        EVALUATOR, "s.target)}", 's.target)}, details=["x"]', "harnessfile.py:8: mine: row \"q0\": details is ['x']"
    ),
    "details that are no JSON": Slip(
        EVALUATOR, "s.target)}", "s.target)}, details={(1, 2): 3}", 'harnessfile.py:8: mine: row "q0": details cannot'
    ),
    "rows that are a number": Slip(
        EVALUATOR, "@hookimpl", READER.format("return 3"), "harnessfile.py:11: harness_read_samples returned 3"
    ),
    "rows that are no dicts": Slip(
        EVALUATOR, "@hookimpl", READER.format("return [1]"), "harnessfile.py:11: harness_read_samples returned 1"
    ),
    "rows that are a text": Slip(
        EVALUATOR, "@hookimpl", READER.format("return 'abc'"), "harnessfile.py:11: harness_read_samples returned 'abc'"
    ),
    "rows that are generated": Slip(
        EVALUATOR, "@hookimpl", READER.format("yield {}"), "harnessfile.py:11: harness_read_samples returned <generator"
    ),
    "a loader without @contextmanager": Slip(
        LOADER, "@contextmanager\n", "", "harnessfile.py:22: mine: 'builtins.generator' object"
    ),
    "a loader that returns a list": Slip(
        LOADER,
        f"@contextmanager\ndef mine(refs):\n    with testing.load(refs) as inner:\n        {LENDS}",
        "def mine(refs):\n    return []",
        "harnessfile.py:22: mine: 'builtins.list' object",
    ),
    "a loader of one subject": Slip(
        LOADER,
        LENDS,
        "yield Model(refs[0], inner[0])",
        "harnessfile.py:22: mine yielded something other than a list of",
    ),
    "a loader of too few": Slip(LOADER, LENDS, "yield []", "harnessfile.py:22: mine yielded 0 subjects for 1"),
    "a loader of too many": Slip(
        LOADER, LENDS, "yield [Model(refs[0], inner[0])] * 2", "harnessfile.py:22: mine yielded 2 subjects for 1"
    ),
    "a loader that forgot to yield": Slip(LOADER, LENDS, "return [1]", "harnessfile.py:22: mine: 'list' object"),
    "a loader that yields nothing": Slip(
        LOADER, LENDS, "if not inner:\n            yield", "harnessfile.py:22: mine: generator didn't yield"
    ),
    "a loader that yields twice": Slip(
        LOADER, LENDS, f"{LENDS}\n        yield inner", "harnessfile.py:22: mine: generator didn't stop"
    ),
    "a loader that raises": Slip(LOADER, LENDS, "yield 1 / 0", "harnessfile.py:26: ZeroDivisionError"),
    "a loader that kept a model": Slip(
        LOADER,
        LENDS,
        "yield [KEPT.setdefault('it', Model(refs[0], inner[0]))]\n\n\nKEPT = {}",
        "harnessfile.py:22: mine",
    ),
    "a subject without a name": Slip(LOADER, "self.name, ", "self.nam, ", "harnessfile.py:22: mine"),
    "an open= that raises": Slip(LOADER, OPENS, 'return open(path + "/no")', "harnessfile.py:15: FileNotFoundError"),
    "an open= that returns nothing": Slip(LOADER, OPENS, "pass", "harnessfile.py:14: source returned None"),
    "no open=": Slip(LOADER, "open=source, ", "", 'the loader "mine" has no open function'),
    "an open= that was misspelt": Slip(LOADER, "open=source", "opens=source", "harnessfile.py:22"),
    "an identity that raises": Slip(
        LOADER, "identity(ref)\n\n\n@", "identity(x)\n\n\n@", "harnessfile.py:19: NameError"
    ),
    "a model that answers too little": Slip(
        LOADER, INNER, f"{INNER}[1:]", "harnessfile.py:10: Model.generate returned"
    ),
    "a model that answers nothing": Slip(LOADER, INNER, "pass", "harnessfile.py:10: Model.generate returned None"),
    "a model that answers bytes": Slip(
        LOADER, INNER, "return [b''] * len(prompts)", "harnessfile.py:10: Model.generate"
    ),
    "a model that cannot answer": Slip(LOADER, "def generate", "def answer", "generate"),
    "a check with a severity of its own": Slip(
        CHECK, FINDS, 'yield Finding("fatal", "odd")', "harnessfile.py:5: ValueError: severity of a finding is 'fatal'"
    ),
    "a check that finds nothing said": Slip(
        CHECK, FINDS, 'yield Finding("error", None)', "harnessfile.py:5: TypeError: what, fix and kind of a finding"
    ),
    "a check with a text as evidence": Slip(
        CHECK, FINDS, 'yield Finding("warning", "odd", "abc")', "harnessfile.py:5: TypeError: evidence of a finding"
    ),
    "a check with a text as rows": Slip(
        CHECK,
        FINDS,
        'yield Finding("warning", "odd", rows={"qa": "q1"})',
        "harnessfile.py:5: TypeError: evidence of a finding, and the rows",
    ),
    "a check with rows that are not there": Slip(
        CHECK, FINDS, 'yield Finding("warning", "odd", rows={"qa": ["q1", "x1"]})', 'odd names row "x1" of "qa"'
    ),
    "a check with a number as rows": Slip(
        CHECK,
        FINDS,
        'yield Finding("warning", "odd", rows={"qa": 3})',
        "harnessfile.py:5: TypeError: evidence of a finding, and the rows",
    ),
    "a check with None as evidence": Slip(
        CHECK, FINDS, 'yield Finding("warning", "odd", None)', "harnessfile.py:5: TypeError: evidence of a finding"
    ),
    "a check with rows of no evaluation": Slip(
        CHECK,
        FINDS,
        'yield Finding("warning", "odd", rows={"nosuch": ["q1"]})',
        'harnessfile.py:4: odd names rows of "nosuch", which is not an evaluation; known: "qa"',
    ),
    "a check that calls what raises": Slip(
        CHECK,
        FINDS,
        "import harness_packs\n    yield harness_packs.harness_read_samples(3)",
        "error X1-crashed: the check itself crashed: harnessfile.py:4: odd: AttributeError",
    ),
    "a check that forgot to yield": Slip(CHECK, "yield Finding", "Finding", "harnessfile.py:4: odd returned None"),
    "a check that returns one": Slip(CHECK, FINDS, 'return Finding("error", "odd")', "harnessfile.py:4: odd returned"),
    "a check that yields texts": Slip(CHECK, FINDS, 'yield "odd"', "harnessfile.py:5: odd yielded"),
    "a check without a code": Slip(CHECK, '"X1"', '""', "has a code that cannot be ignored by name; use letters"),
    "a check whose code has a space": Slip(CHECK, '"X1"', '"x 1"', 'check "x 1" of plugin'),
    "a check that raises": Slip(CHECK, "row.answer", "row.answers", "harnessfile.py:6: AttributeError"),
    "a check of what no stage has": Slip(CHECK, "(rows, tasks)", "(rowz)", 'did you mean "rows"?'),
    "an adapter that is nothing": Slip(
        ADAPTER, "return testing.FakeAdapter()", "pass", "harnessfile.py:4: mine returned"
    ),
    "an adapter that cannot be made": Slip(ADAPTER, "def mine()", "def mine(ref)", "harnessfile.py:4: mine(ref)"),
    "a merge of another signature": Slip(
        ADAPTER,
        "testing.FakeAdapter()",
        "Other()\n\n\nclass Other(testing.FakeAdapter):\n    def merge(self, base):\n        pass",
        "harnessfile.py:9: Other.merge(base) must accept (base, adapter, out, *, variant",
    ),
    "a merge that raises": Slip(ADAPTER, "testing.FakeAdapter()", FRAGILE, "harnessfile.py:10: OSError"),
    "a trainer that writes nothing": Slip(
        TRAINER, WRITES, "return out", "harnessfile.py:8: mine wrote no *.safetensors"
    ),
    "a trainer that returns nothing": Slip(TRAINER, WRITES, "pass", "and returned None"),
    "a trainer that writes elsewhere": Slip(
        TRAINER,
        WRITES,
        'return testing.write_fake(out.with_name("x"), 0.9)',
        "harnessfile.py:8: mine wrote no *.safetensors",
    ),
    "a trainer without seed": Slip(TRAINER, "progress, seed", "progress", "harnessfile.py:8: mine(ref, adapter, rows"),
    "a trainer without progress": Slip(TRAINER, "progress, seed", "seed", "harnessfile.py:8: mine(ref, adapter, rows"),
    "a trainer without out": Slip(TRAINER, "rows, out", "rows", "harnessfile.py:8: mine(ref, adapter, rows"),
    "a trainer that raises": Slip(TRAINER, "0.9", "0.9 / 0", "harnessfile.py:9: ZeroDivisionError"),
    "a trainer with a misspelt capability": Slip(
        TRAINER, "def mine", "@trainer(checks=build)\ndef mine", "harnessfile.py:8"
    ),
    "a build that returns nothing": Slip(
        TRAINER, "def mine", "@trainer(build=build)\ndef mine", "harnessfile.py:4: build returned None"
    ),
    "an exporter that writes nothing": Slip(
        EXPORTER, COPIES, "return to", "harnessfile.py:6: mine wrote no files into its output folder"
    ),
    "an exporter that returns nothing": Slip(
        EXPORTER,
        "=True)\n    return to",
        "=True)",
        "harnessfile.py:6: mine returned None; it must return its output folder",
    ),
    "an exporter that returns another folder": Slip(
        EXPORTER, "return to", "return to.parent", "harnessfile.py:6: mine returned PosixPath("
    ),
    "a check of an export without options": Slip(
        EXPORTER,
        "def mine",
        "@exporter(check=lambda model: None)\ndef mine",
        "check(model) must accept (model, options)",
    ),
    "an exporter that raises": Slip(EXPORTER, "ref.path,", "ref.paths,", "harnessfile.py:7: AttributeError"),
    "an exporter without to": Slip(EXPORTER, "(ref, to)", "(ref)", "harnessfile.py:6: mine(ref)"),
    "a hook without @hookimpl": Slip(
        EVALUATOR, "@hookimpl\n", "", "harnessfile.py:11: harness_evaluators is never called"
    ),
    "a plugin without hooks": Slip(
        EVALUATOR,
        "@hookimpl\ndef harness_evaluators",
        "def evaluators",
        'harnessfile.py" has no hooks; is @hookimpl missing?',
    ),
    "a hook of a number": Slip(
        EVALUATOR, '{"mine": mine}', "{1: mine}", "harness_evaluators did not return a dict of name -> callable"
    ),
    "a hook that returns nothing": Slip(
        EVALUATOR, 'return {"mine": mine}', "pass", "harness_evaluators did not return a dict of name -> callable"
    ),
    "a hook that raises": Slip(EVALUATOR, '"mine": mine', '"mine": mime', "harnessfile.py:13: NameError"),
    "an import that raises": Slip(
        EVALUATOR, "\n\n\n@metric", "\n\n1 / 0\n@metric", "harnessfile.py:3: ZeroDivisionError"
    ),
}


def make_project_files(kind: str, harnessfile: str) -> dict[str, Any]:
    """Return a project around a plugin of a kind."""
    return {"suite.toml": SUITES[kind], "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": harnessfile}


@pytest.mark.parametrize("plugin", SUITES, ids=["evaluator", "loader", "check", "trainer", "adapter", "exporter"])
def test_what_the_slips_are_made_of_ships(project: Project, plugin: str) -> None:
    """Each plugin without its slips is right: the gate passes, and the model is exported."""
    outcome = project.write(make_project_files(plugin, plugin)).run()
    assert (outcome.code, (project.folder / "exports" / "fake").is_dir()) == (0, True), outcome.out + outcome.err


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_told_in_a_line_and_ships_nothing(project: Project, name: str) -> None:
    """It ends neither well nor as a bug of ours, and the terminal shows whose line it was, and no frame."""
    slip = SLIPS[name]
    assert slip.right in slip.plugin
    project.write(make_project_files(slip.plugin, slip.plugin.replace(slip.right, slip.wrong, 1)))
    outcome = project.run()
    said = outcome.out + outcome.err
    assert slip.told in " ".join(said.split()), said
    assert outcome.code not in (0, 3), said
    assert not (project.folder / "exports" / "fake").exists()
    assert "Traceback" not in said and 'File "' not in said


POINTS = {
    "at a function": ("harness", "mood = mood:harness_evaluators", 'plugin "mood" has no hooks; is @hookimpl missing?'),
    "in another group": ("harness.plugins", "mood = mood", 'the entry point "mood" is in the group "harness.plugins"'),
}


@pytest.mark.parametrize("case", POINTS)
def test_an_entry_point_that_brings_nothing_is_named(
    project: Project, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """A package that is installed and whose names are not there is told, with what is wrong about its entry point."""
    group, point, told = POINTS[case]
    project.write({**make_project_files(EVALUATOR, "from harness import hookimpl\n"), "site/mood.py": EVALUATOR})
    project.write({"site/mood-1.dist-info/entry_points.txt": f"[{group}]\n{point}\n"})
    project.write({"site/mood-1.dist-info/METADATA": "Name: mood\nVersion: 1\n"})
    monkeypatch.syspath_prepend(project.folder / "site")
    outcome = project.run()
    assert outcome.code == 4
    assert told in outcome.err
    assert 'harnessfile.py" has no hooks; is @hookimpl missing?' in outcome.err


def test_frames_are_shown_where_they_are_asked_for(project: Project) -> None:
    """With -v the lines of a plugin that raised are there, and the exit code is the same."""
    wrong = TRAINER.replace("0.9", "0.9 / 0")
    outcome = project.write(make_project_files(TRAINER, wrong)).run("-v")
    assert (outcome.code, 'harnessfile.py", line 9' in outcome.out) == (4, True)


def test_a_method_without_an_option_of_the_suite_is_told(project: Project) -> None:
    """Every method of a loader gets its options, and one that would not take it is named with its line."""
    wrong = LOADER.replace("def mine(refs):", 'def mine(refs, *, dtype="auto"):')
    outcome = project.write(make_project_files(LOADER, wrong)).run("--set", 'model.dtype="float32"')
    told = 'harnessfile.py:14: source lacks a parameter "dtype", an option of the loader "mine"; add it'
    assert (outcome.code, told in outcome.err) == (4, True), outcome.err


def test_a_plugin_without_hooks_is_warned_of(project: Project) -> None:
    """Where nothing of it is asked for, it may be there; a line says that it brings nothing."""
    outcome = project.write(make_project_files(CHECK, "from harness import hookimpl\n")).run()
    assert (outcome.code, 'harnessfile.py" has no hooks' in outcome.out + outcome.err) == (0, True)
