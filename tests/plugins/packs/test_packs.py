"""Packs and builtin sources: rows under their digests, rules of instructions, parts as metrics."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import packs
from harness import Logprob, Sample, UsageError
from harness.internals import read_rows
from harness.testing import SUITE, TRAIN, Project
from harness_packs import pack, rules, store
from harness_packs.store import read_builtin, read_pack
from tests.helpers.answers import Says

ROWS = read_pack("general-v1")


def test_rows_of_the_pack() -> None:
    """Ids are unique, every fact has four choices of which one is right, and every rule is known."""
    assert Counter(row["part"] for row in ROWS) == {"facts": 548, "instructions": 158, "arithmetic": 150}
    assert len({row["id"] for row in ROWS}) == len({json.dumps(row["input"]) for row in ROWS}) == len(ROWS)
    facts = [row for row in ROWS if row["part"] == "facts"]
    assert all(len(set(row["choices"])) == 4 and row["target"] in row["choices"] for row in facts)
    places = Counter(row["choices"].index(row["target"]) for row in facts)
    assert all(100 < places[i] < 175 for i in range(4))  # no place is right more often than luck has it
    assert {row["rule"] for row in ROWS if row["part"] == "instructions"} == set(rules.RULES)
    assert all(row["target"] for row in ROWS)


@pytest.mark.slow
def test_files_are_what_the_generator_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs are made from code and one wheel, and the bytes are those that ship."""
    monkeypatch.delitem(packs.FILES, "topics")  # of one version of Python
    packs.main(tmp_path)
    digests = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}
    assert digests == {name: {**store.PACKS, **store.SOURCES}[name] for name in ("capitals", "general-v1")}


def test_worked_examples_keep_their_rules() -> None:
    """What is shown of a kind of instruction is an answer that keeps it."""
    for kind in packs.KINDS:
        if kind.shown:
            assert rules.follows_rule(kind.shown[1], kind.rule, kind.arguments(*kind.shown[0])), kind.name


@pytest.mark.parametrize(
    ("rule", "arguments", "good", "bad"),
    [
        ("lower", {}, "all small, 2 of them.", "One is not"),
        ("upper", {}, "ALL GREAT, 2 OF THEM.", "ALMOST ALl"),
        ("lower", {}, "a", "12"),
        ("bullets", {"count": 2}, "- tea\n- milk", "- tea"),
        ("bullets", {"count": 2}, "Here:\n* tea\n• milk", "tea - milk"),
        ("numbered", {"count": 2}, "1. tea\n2) milk", "1. tea\n3. milk"),
        ("keys", {"names": ["a", "b"]}, '{"b": 1, "a": []}', '{"a": 1}'),
        ("keys", {"names": ["a"]}, '```json\n{"a": 1}\n```', 'Here: {"a": 1}'),
        ("keys", {"names": ["a"]}, '~~~json\n{"a": 1}\n~~~', '~~~json\n{"a": 1}\n```'),
        ("keys", {"names": ["a"]}, '```json {"a": 1}```', '```json {"b": 1}```'),
        ("equals", {"value": {"a": "x"}}, '{"a": "x"}', '{"a": "y"}'),
        ("starts", {"word": "Many"}, '"Many are called', "Manyfold"),
        ("ends", {"text": "Done."}, 'Well. "Done."', "Done. Well."),
        ("words", {"least": 1, "most": 2}, "two words", "these are three"),
        ("includes", {"texts": ["river", "bread"]}, "Bread by the river.", "Breads by the river."),
        ("one_of", {"options": ["yes", "no"]}, "No.", "No, it is not."),
        ("copies", {"text": "We left."}, '"We left."', "we left."),
        ("items", {"count": 3}, "tea, milk, hot water.", "tea, milk, and some very hot water"),
        ("quoted", {}, '"Snow fell."', '"Snow" fell.'),
    ],
)
def test_rules(rule: str, arguments: dict[str, Any], good: str, bad: str) -> None:
    """A rule tells an answer that keeps it from one that does not; an empty answer keeps none."""
    assert rules.follows_rule(good, rule, arguments)
    assert not rules.follows_rule(bad, rule, arguments)
    assert not rules.follows_rule("", rule, arguments)


class Knows(Says):
    """A model that finds the right choice likeliest, does every sum, and shouts."""

    def generate(self, prompts: Any, **_: Any) -> list[str]:
        return [p if isinstance(p, list) else f" {eval(p.splitlines()[-1].rstrip('='))}" for p in self._said(prompts)]

    def _said(self, prompts: Any) -> list[Any]:
        return [p if isinstance(p, str) else "1 + 1 =" for p in prompts]

    def logprobs(self, pairs: Any, **_: Any) -> list[Logprob]:
        right = {row["input"]: row["target"] for row in ROWS if row["part"] == "facts"}
        return [Logprob(-1.0 if right[p] == c.strip() else -2.0, 1, 1, False) for p, c in pairs]


def samples(*parts: str) -> list[Sample]:
    return [Sample(row["id"], row["input"], row["target"], row) for row in ROWS if row["part"] in parts]


def test_parts_are_metrics() -> None:
    """Each part is a metric of its own rows, `acc` is of all, and facts have the probability of the right choice."""
    rows = [*samples("facts")[:5], *samples("instructions")[:5], *samples("arithmetic")[:5]]
    scores = {s.id: s for s in pack(Knows(), rows)}
    assert list(scores) == [s.id for s in rows]
    values = {m.name: m.value(list(scores.values())) for m in pack.metrics_for({})}
    sure = pytest.approx(math.exp(-1) / (math.exp(-1) + 3 * math.exp(-2)))
    parts = {"facts": 1.0, "instructions": 0.0, "arithmetic": 1.0}
    assert values == {"acc": pytest.approx(10 / 15), **parts, "probability": sure}


def test_a_log_probability_that_is_not_finite() -> None:
    """A row that cannot be scored is NaN in its metrics, which no gate takes for right."""
    (score,) = pack(Says(likes=dict.fromkeys(samples("facts")[0].row["choices"], math.nan)), samples("facts")[:1])
    assert math.isnan(score.values["acc"])
    assert math.isnan(score.values["facts"])
    assert math.isnan(score.values["probability"])


def test_equal_choices_are_told() -> None:
    """Where the likeliest choices are equally likely the first is taken, and the note says so."""
    (score,) = pack(Says(), samples("facts")[:1])
    assert score.note == "uniform"


EVAL = """
[suite]
name = "p"

[model]
use = "fake"
path = "base"

[[eval]]
name = "general-v1"
use = "pack"
"""


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ('pack = "general-v2"', 'pack "general-v2": is unknown; did you mean "general-v1"?'),
        (
            'digest = "0123456789abcdef"',
            ("but the suite pins 0123456789abcdef; its rows differ from those evaluated before, so pin the new digest"),
        ),
        ('digest = "0123"', 'digest is "0123"; give 8 to 64 hex digits'),
        ("parts = []", "parts is []; give one or more of facts, instructions, arithmetic, each once"),
        ('parts = ["facts", "facts"]', "each once"),
        ('data = "test.jsonl"', '"pack" brings its own rows; remove "data"'),
    ],
)
def test_mistakes_are_told_at_collection(project: Project, more: str, what: str) -> None:
    """A pack that is not there, or is another than the suite's, is one line before anything is opened."""
    project.write({"suite.toml": EVAL + more})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert what in done.err


def test_a_changed_file_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are not those of the version are refused in one line, of a pack and of a source."""
    for name in ("general-v1", "capitals"):
        (project.folder / f"{name}.jsonl").write_bytes((store.PACK_FOLDER / f"{name}.jsonl").read_bytes() + b"{}\n")
    monkeypatch.setattr(store, "PACK_FOLDER", project.folder)
    project.write({"suite.toml": EVAL})
    done = project.run("--collect-only")
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert 'pack "general-v1": ' in done.err
    assert ", so it was changed; install the package again" in done.err
    with pytest.raises(UsageError, match="it was changed"):
        read_builtin("builtin:capitals")
    with pytest.raises(UsageError, match="cannot be read"):
        read_builtin("builtin:topics")


def test_a_pin_that_holds(project: Project) -> None:
    """Some digits of the digest pin the rows; a part alone has its metric alone, and messages can be text."""
    digest = store.PACKS["general-v1"][:12]
    project.write({"suite.toml": EVAL + f'digest = "{digest}"\nparts = ["instructions"]\nchat = false\nlimit = 4\n'})
    report = project.run().report.results[0]
    assert (set(report.metrics), report.n) == ({"acc", "instructions"}, 4)
    [samples] = (project.folder / "reports").glob("*/base/samples_*.jsonl")
    asked = json.loads(samples.read_text("utf-8").splitlines()[0])["arguments"]
    assert "Question: Write one short sentence about snow." in json.dumps(asked)


def test_builtin_sources() -> None:
    """Capitals and topics are read by name, and any slice of them."""
    sizes = {name: len(read_builtin(f"builtin:{name}") or ()) for name in ("capitals", "facts", "topics")}
    assert sizes == {"capitals": 245, "facts": 303, "topics": 60}
    prompts = [{row["input"] for row in read_builtin(f"builtin:{name}") or ()} for name in ("capitals", "facts")]
    assert not prompts[0] & prompts[1]
    passages = read_rows("builtin:topics", Path(), read_builtin, "here")
    assert read_rows("builtin:topics[:3]", Path(), read_builtin, "here") == passages[:3]
    assert read_rows("builtin:topics[40:]", Path(), read_builtin, "here") == passages[40:]
    assert read_builtin("capitals") is None
    with pytest.raises(UsageError, match=r'data "builtin:capital": is unknown; did you mean "capitals"\?'):
        read_builtin("builtin:capital")
    with pytest.raises(UsageError, match=r'data "builtin:capital": is unknown; did you mean "capitals"\?'):
        read_rows("builtin:capital[:5]", Path(), read_builtin, "here")


GATED = f"""{SUITE.partition("[[eval]]")[0]}
[[eval]]
name = "general-v1"
use = "pack"
slices = ["part"]

[[gate]]
id = "by part"
metric = "general-v1.arithmetic"
versus = "base"
worse_by_at_most = 0.1

[[gate]]
id = "by slice"
metric = "general-v1.acc"
slice = "part=arithmetic"
versus = "base"
worse_by_at_most = 0.1

[[export]]
use = "safetensors"
to = "exports/p"
"""


@pytest.mark.slow
def test_a_plan_counts_the_rows_of_a_part(project: Project) -> None:
    """Before a run and after one a gate on a part is told what one on the slice is: rows of weight 0 are none of it."""
    project.write({"suite.toml": GATED, "train.jsonl": TRAIN})
    for asked in (project.harness, project.run):
        if asked == project.run:
            project.run()
        done = project.harness(
            "plan", str(project.folder / "suite.toml"), "--out", f"{project.folder}/reports", "--json"
        )
        told = {o["gate"]: o for o in json.loads(done.out)["odds"] if o["candidate"] == "merged"}
        assert [told[gate]["rows"] for gate in ("by part", "by slice")] == [150, 150]
        keys = ("power", "proves", "needed", "assumed")
        assert {k: told["by part"][k] for k in keys} == {k: told["by slice"][k] for k in keys}


def test_an_evaluator_that_cannot_tell_what_counts_is_one_line(project: Project) -> None:
    """What `counts` raises is told with the eval and the metric."""
    broken = (
        "from harness import evaluator, hookimpl\n"
        "from harness_packs.pack import _load_rows_of_parts as rows, _make_pack_metrics as metrics, pack as p\n"
    )
    broken += "def pack(subject, samples):\n    yield from p(subject, samples)\n"
    broken += "own = evaluator(metrics_for=metrics, rows_for=rows, counts=lambda m, s: s.row['gone'])(pack)\n"
    broken += "@hookimpl\ndef harness_evaluators():\n    return {'own': own}\n"
    text = GATED.replace('use = "pack"', 'use = "own"')
    project.write({"suite.toml": text, "train.jsonl": TRAIN, "harnessfile.py": broken})
    done = project.run()
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert "\"own\" failed to select the rows of arithmetic: harnessfile.py:5: KeyError: 'gone'" in done.err
