"""Nothing but the adjudicator's own verdicts decides: plugins that try get copies, and sys.exit() is no PASS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import harness
from harness import Score
from harness.evaluation.evaluate import validate_score
from harness.records.copies import copy_record, detach_copy
from harness.records.findings import Finding
from harness.testing import ROWS, SUITE, Project

BAD = ("--set", "train.skill=0.2")  # below the floor of one half

LISTENERS = {
    "replaces a report": """
@hookimpl
def harness_item_finish(run, item):
    passed = tuple(replace(v, outcome=Outcome.PASS, p_pass=0.0) for v in item.verdicts)
    run.results[-1] = replace(item, verdicts=passed)
""",
    "writes into frozen verdicts": """
@hookimpl
def harness_item_finish(run, item):
    for v in (*item.verdicts, *(v for r in run.results for v in r.verdicts)):
        object.__setattr__(v, "outcome", Outcome.PASS)
        object.__setattr__(v, "blocking", False)
        object.__setattr__(v, "decides", False)
""",
    "brings a waiver": """
@hookimpl
def harness_run_start(run):
    run.waivers.append(Waiver("floor", "qa.exact_match at least 0.5", "because", "2999-01-01", "me", "2020-01-01", ""))
""",
    "empties the record": """
@hookimpl
def harness_stage(run, stage, detail):
    run.results.clear(); run.findings.clear(); run.gates = 0
""",
    "sets the exit code": """
@hookimpl
def harness_run_finish(run):
    run.exit_code = 0
    run.results.clear()
""",
    "ends the process at the end": """
@hookimpl
def harness_run_finish(run):
    sys.exit(0)
""",
    "ends the process at a report": """
@hookimpl
def harness_item_finish(run, item):
    sys.exit(0)
""",
    "raises what is no Exception": """
@hookimpl
def harness_item_finish(run, item):
    class Odd(BaseException): pass
    raise Odd
""",
    "breaks the pipe": """
@hookimpl
def harness_item_finish(run, item):
    raise BrokenPipeError
""",
}
HEAD = """
import sys
from dataclasses import replace
from harness import Score, hookimpl, metric
from harness.records.findings import Finding
from harness.records.verdicts import Outcome
from harness.records.waivers import Waiver
"""


def has_export(suite: Project) -> bool:
    return (suite.folder / "exports/fake").exists()


@pytest.mark.parametrize("how", LISTENERS)
def test_no_listener_opens_a_gate(suite: Project, how: str) -> None:
    """What a listener writes into a record, or raises, ships nothing and ends with no 0."""
    suite.write({"harnessfile.py": HEAD + LISTENERS[how]})
    outcome = suite.run(*BAD)
    assert outcome.code in (1, 4)
    assert not has_export(suite)
    if outcome.code == 1:
        assert outcome.verdict("floor") == "FAIL"
        assert outcome.report.exit_code == 1


def test_a_listener_that_ends_the_process_leaves_a_report(suite: Project) -> None:
    """sys.exit(0) in a hook is the plugin's fault: exit 4, with what was measured in a report that says so."""
    suite.write({"harnessfile.py": HEAD + LISTENERS["ends the process at a report"]})
    outcome = suite.run()
    assert (outcome.code, outcome.report.exit_code) == (4, 4)
    assert "SystemExit" in (outcome.report.problem or "")


CHECK = """
def thief(tasks, rows, suite):
    task = tasks["qa"]
    tasks["qa"] = replace(task, samples=task.samples[:10])
    for sample in task.samples:
        sample.row.clear()
    for row in rows:
        row.row.clear()
    suite.train.options["skill"] = 0.99
    suite.model.options.clear()
    yield Finding("note", "took some", rows={"qa": ["q0"]})

@hookimpl
def harness_checks():
    return {"X1": thief}
"""


def test_no_check_chooses_the_rows(suite: Project) -> None:
    """A check that replaces a task, empties rows or turns an option works on a copy: all rows are judged."""
    suite.write({"harnessfile.py": HEAD + CHECK})
    outcome = suite.run(*BAD)
    assert outcome.code == 1
    assert outcome.report.results[-1].n == len(ROWS)
    assert outcome.verdict("floor") == "FAIL"
    assert "took some" in outcome.out


LOADS = """
def wide(load, base):
    with load([base], dtype="float32") as [subject]:
        yield Finding("note", f"loaded {subject.name} with {sorted(inspect.signature(load).parameters)}")

@hookimpl
def harness_checks():
    return {"X1": wide}
"""


def test_a_check_loads_models_as_their_loader_does(suite: Project) -> None:
    """It sees the loader's options, and may give one of its own: what is compared exactly is loaded in float32."""
    suite.write({"harnessfile.py": f"import inspect\n{HEAD}{LOADS}"})
    assert "loaded base with ['dtype', 'refs']" in suite.run().out


def test_a_check_says_an_error_as_an_error() -> None:
    """A severity that is misspelt would stop nothing, so there is no such flag."""
    with pytest.raises(ValueError, match="it must be one of error, warning, note"):
        Finding("Error", "broken")  # type: ignore[arg-type]


EVALUATORS = {
    "moves rows between slices": """
@metric("m", better="higher", scale="proportion")
def bad(subject, samples):
    for s in samples:
        right = float(subject.generate([s.input])[0] == s.target)
        s.row["kind"] = "easy" if right else "hard"
        yield Score(s.id, {"m": right})
""",
    "writes into scores later": """
KEPT = []
@metric("m", better="higher", scale="proportion")
def bad(subject, samples):
    for s in samples:
        KEPT.append(Score(s.id, {"m": float(subject.generate([s.input])[0] == s.target)}))
        yield KEPT[-1]
    for score in KEPT:
        score.values["m"] = 1.0

@hookimpl
def harness_stage(run, stage, detail):
    for score in KEPT:
        score.values["m"] = 1.0
""",
    "turns its options": """
@metric("m", better="higher", scale="proportion")
def bad(subject, samples, *, words: list[str] = ("a",)):
    for s in samples:
        yield Score(s.id, {"m": float(not words)})
    words.clear()
""",
}


@pytest.mark.parametrize("how", EVALUATORS)
def test_no_evaluator_writes_into_what_is_judged(suite: Project, how: str) -> None:
    """Rows, slices, options and scores that were given or taken are the harness's own."""
    provide = '\n@hookimpl\ndef harness_evaluators():\n    return {"bad": bad}\n'
    text = SUITE.replace('use = "exact_match"', 'use = "bad"').replace("qa.exact_match", "qa.m")
    text = text.replace("min = 0.5", 'min = 0.5\nslice = "kind=easy"\nmin_n = 2')
    if "words" in EVALUATORS[how]:
        text = text.replace('use = "bad"', 'use = "bad"\nwords = ["b"]')
    rows = [{**row, "kind": "easy"} for row in ROWS]
    suite.write({"suite.toml": text, "test.jsonl": rows, "harnessfile.py": HEAD + EVALUATORS[how] + provide})
    outcome = suite.run(*BAD)
    assert outcome.code == 1
    assert outcome.verdict("floor") == "FAIL"
    assert not has_export(suite)


ENDS = {
    "an evaluator": ('@metric("m", better="higher")\ndef bad(subject, samples):\n    sys.exit(0)\n', (4,)),
    "an evaluator of candidates": (
        '@metric("m", better="higher")\ndef bad(subject, samples):\n'
        '    if subject.name != "base":\n        sys.exit()\n'
        '    for s in samples:\n        yield Score(s.id, {"m": 1.0})\n',
        (6,),
    ),
}


@pytest.mark.parametrize("who", ENDS)
def test_sys_exit_in_an_evaluator_is_an_error(suite: Project, who: str) -> None:
    """An evaluation that ends the process has no score: its gates are ERROR, there is a report, and nothing ships."""
    body, codes = ENDS[who]
    provide = '\n@hookimpl\ndef harness_evaluators():\n    return {"bad": bad}\n'
    text = SUITE.replace('use = "exact_match"', 'use = "bad"').replace("qa.exact_match", "qa.m")
    outcome = suite.write({"suite.toml": text, "harnessfile.py": HEAD + body + provide}).run()
    assert outcome.code in codes
    assert outcome.report.exit_code == outcome.code
    assert not has_export(suite)


@pytest.mark.parametrize("body", ["import sys\nsys.exit()", "raise SystemExit(0)"])
def test_sys_exit_at_import_is_a_mistake(suite: Project, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A harnessfile, or a module of -p, that ends the process while it is imported: one line, exit 4."""
    suite.write({"harnessfile.py": body, "ends.py": body})
    outcome = suite.run()
    assert (outcome.code, "SystemExit" in outcome.err) == (4, True)
    (suite.folder / "harnessfile.py").unlink()
    monkeypatch.syspath_prepend(suite.folder)
    outcome = suite.run("-p", "ends")
    assert (outcome.code, "SystemExit" in outcome.err) == (4, True)


@pytest.mark.slow
def test_sys_exit_elsewhere_is_no_success(suite: Project) -> None:
    """A trainer, an exporter, or a saboteur of the self-test that ends the process: no 0."""
    for hook, name, use in (
        ("trainers", "t", 'use = "fake"\ndata = "train'),
        ("exporters", "e", 'use = "safetensors"'),
    ):
        body = (
            f"def ends(*_, **__):\n    sys.exit(0)\n@hookimpl\ndef harness_{hook}():\n    return {{'{name}': ends}}\n"
        )
        text = SUITE.replace(use, use.replace("fake", "t").replace("safetensors", "e"))
        assert text != SUITE
        outcome = suite.write({"suite.toml": text, "harnessfile.py": HEAD + body}).run()
        assert (outcome.code, has_export(suite)) == (4, False), hook
    body = 'def ends(base, out, *, seed):\n    """Ends."""\n    sys.exit(0)\n'
    body += "@hookimpl\ndef harness_saboteurs():\n    return {'ends': ends}\n"
    suite.write({"suite.toml": SUITE, "harnessfile.py": HEAD + body})
    assert suite.harness("selftest", str(suite.folder / "suite.toml"), "-p", "harness.testing").code == 4


def test_sys_exit_does_not_end_the_caller(suite: Project) -> None:
    """A script that calls harness.run() gets an exception, not the exit code of a plugin."""
    body = "@hookimpl\ndef harness_run_start(run):\n    sys.exit(0)\n"
    suite.write({"harnessfile.py": HEAD + body})
    with pytest.raises(RuntimeError, match=r"sys.exit\(0\)"):
        harness.run(suite.folder / "suite.toml", plugins=("harness.testing",))


@pytest.mark.slow
def test_a_saboteur_that_writes_into_the_base_is_told(suite: Project) -> None:
    """The base is what impostors are compared with: one that is changed on the way ends the self-test."""
    body = """
from harness.testing import write_fake

def swaps(base, out, *, seed):
    \"\"\"Makes the base worse instead of a model.\"\"\"
    write_fake(base, 0.0)
    write_fake(out, 0.3)

@hookimpl
def harness_saboteurs():
    return {"swaps": swaps}
"""
    suite.write({"harnessfile.py": HEAD + body})
    outcome = suite.harness("selftest", str(suite.folder / "suite.toml"), "-p", "harness.testing")
    assert outcome.code == 4
    assert 'saboteur "swaps" changed the base' in outcome.err


@pytest.mark.slow
def test_a_base_that_is_replaced_ships_nothing(suite: Project) -> None:
    """A comparison with the base is worth what the base was: one that is made worse on the way ships nothing."""
    body = """
from pathlib import Path
from harness.testing import write_fake

@metric("m", better="higher", scale="proportion")
def bad(subject, samples):
    write_fake(Path("base"), 0.0)
    for s in samples:
        yield Score(s.id, {"m": float(subject.generate([s.input])[0] == s.target)})

@hookimpl
def harness_evaluators():
    return {"bad": bad}
"""
    text = SUITE.replace('use = "exact_match"', 'use = "bad"').replace("qa.exact_match", "qa.m")
    outcome = suite.write({"suite.toml": text, "harnessfile.py": HEAD + body}).run()
    assert (outcome.code, outcome.verdict("floor")) == (4, "PASS")
    assert not has_export(suite)
    assert 'error: "base" changed while it was evaluated; run again' in outcome.out


@pytest.mark.slow
def test_what_ships_is_measured_where_the_adapter_failed(suite: Project) -> None:
    """A gate is about what ships: the merged model is measured, judged and shipped though its adapter failed."""
    suite.write({"harnessfile.py": HEAD + MERGES_BETTER})
    text = SUITE.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "heals"')
    assert text != SUITE
    outcome = suite.write({"suite.toml": text}).run(*BAD)
    assert (outcome.verdict("floor", "adapter"), outcome.verdict("floor")) == ("FAIL", "PASS")
    assert (outcome.code, has_export(suite)) == (0, True)
    assert "floor (not what ships)" in outcome.out
    junit = next(suite.folder.glob("reports/*/junit.xml")).read_text("utf-8")
    assert ('failures="0"' in junit, 'errors="0"' in junit, "FAIL, not what ships" in junit) == (True, True, True)
    assert suite.run(*BAD, "-x").code == 1


def test_a_gate_that_names_the_adapter_means_it(suite: Project) -> None:
    """With on = ["adapter"] the adapter's failure is a failure, whatever ships."""
    suite.write({"harnessfile.py": HEAD + MERGES_BETTER})
    text = SUITE.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "heals"')
    text += '\n[[gate]]\nid = "of the adapter"\nmetric = "qa.exact_match"\nmin = 0.5\non = ["adapter"]\n'
    assert suite.write({"suite.toml": text}).run(*BAD).code == 1


MERGES_BETTER = """
from harness.testing import FakeAdapter

@hookimpl
def harness_adapters():
    def heals():
        return FakeAdapter(-0.75)
    return {"heals": heals}
"""


def test_copies_are_plain_all_the_way_down() -> None:
    """A subclass of a record, a dict or a float may answer otherwise at every look: what is kept is plain."""

    class Fickle(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: object) -> float:
            return 1.0

    @dataclass(frozen=True)
    class Evil(Score):
        def weight_of(self, metric: str) -> float:
            return 1e9

    score = validate_score(Evil("a", Fickle({"m": 0.0}), weights=Fickle({"m": 2.0})))
    assert (type(score), score.values["m"], score.weight_of("m")) == (Score, 0.0, 2.0)
    assert type(copy_record(Score, Evil("a", {}))) is Score
    value = {"a": [({"b": 1},)], "c": {1, 2}}
    copy = detach_copy(value)
    copy["a"][0][0]["b"] = 2  # type: ignore[index]
    assert value == {"a": [({"b": 1},)], "c": {1, 2}}
    nested = [1]
    for _ in range(400):  # two frames a level, of the thousand that there are
        nested = [nested]  # type: ignore[list-item]
    assert detach_copy(nested) == nested


@dataclass(frozen=True, slots=True)
class Slotted:
    held: list[int]
    also: tuple[dict[str, int], ...] = ()


@dataclass
class Counted:
    held: list[int]
    count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.count = len(self.held)


@dataclass
class Raised(ValueError):
    held: list[int]


@pytest.mark.parametrize("kind", [Slotted, Counted, Raised])
def test_a_copy_of_a_record_shares_nothing_that_can_be_written(kind: type[Slotted | Counted | Raised]) -> None:
    """With slots, with a field that it makes itself, or of a base that makes it: its kind, and values of its own."""
    value = kind([1, 2])
    copy = detach_copy([value])[0]
    assert type(copy) is kind and copy is not value
    assert {name: getattr(copy, name) for name in kind.__dataclass_fields__} == {
        name: getattr(value, name) for name in kind.__dataclass_fields__
    }
    copy.held.append(3)
    assert value.held == [1, 2]


def start(suite: Project, *words: str, out: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    code = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup lets it be ignored
    code += "from harness.cli.main import main; sys.exit(main())"
    root = Path(harness.__file__).parent.parent
    path = os.pathsep.join([str(root), str(root / "plugins"), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        cwd=suite.folder,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.slow
def test_the_reader_of_the_output_takes_no_verdict_with_it(suite: Project) -> None:
    """`harness run … | head` of a model that fails ends with 1, and leaves its report."""
    reading, writing = os.pipe()
    os.close(reading)
    process = start(suite, "run", "suite.toml", "-p", "harness.testing", *BAD, out=writing)
    os.close(writing)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1, err
    (report,) = suite.folder.glob("reports/*/report.json")
    assert json.loads(report.read_text("utf-8"))["exit_code"] == 1


SLOW = """
import time
from pathlib import Path

@metric("m", better="higher", scale="proportion")
def bad(subject, samples):
    Path("begun").touch()
    time.sleep(60)

@hookimpl
def harness_evaluators():
    return {"bad": bad}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_a_process_end_a_run_in_order(suite: Project, name: str) -> None:
    """At SIGTERM or SIGHUP a run does as at Ctrl-C: a report, junit.xml, exit 2."""
    text = SUITE.replace('use = "exact_match"', 'use = "bad"').replace("qa.exact_match", "qa.m")
    suite.write({"suite.toml": text, "harnessfile.py": HEAD + SLOW})
    process = start(suite, "run", "suite.toml", "-p", "harness.testing", "--junit-xml", "ci.xml")
    until = time.monotonic() + 60
    while not (suite.folder / "begun").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, (out, err)
    assert "interrupted" in out
    (report,) = suite.folder.glob("reports/*/report.json")
    assert json.loads(report.read_text("utf-8"))["exit_code"] == 2
    assert (suite.folder / "ci.xml").is_file()
