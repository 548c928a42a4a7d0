"""`harness verify`: verdicts are what their numbers and their rows come to, or they are refused."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from harness.artifacts.attestation import EVIDENCE, GATES, ITEMS, LOCK, MANIFEST
from harness.gates.context import GateContext, GateRows, decide_in_context
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Verdict
from harness.release.policy import Policy
from harness.release.recomputation import find_verdict_difference
from harness.release.verify import verify_export
from harness.stats import hypothesis_tests
from harness.testing import SUITE, TRAIN, Project
from harness.texts.json_text import dumps
from tests.helpers import suites
from tests.helpers.exports import reseal
from tests.helpers.suites import make_waive_command, run_commands

pytestmark = pytest.mark.xdist_group("recomputed export")

ROWS = [
    {"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2], "of": f"d{i // 3}"}
    for i in range(180)
]
TEXTS = [{"text": f"line {i} of some text {'and more ' * (i % 4)}"} for i in range(60)]
PLUGIN = """
from harness import Labels, Score, hookimpl, metric


@metric("share", better="higher", scale="other", combine=lambda scores: sum(s.values["share"] for s in scores) / 60)
def shares(subject, samples):
    for s in samples:
        yield Score(s.id, {"share": float(subject.generate([s.input])[0] == s.target)})


@metric("people", better="higher", scale="agreement")
@metric("met", better="higher", scale="proportion")
def marked(samples, answers, baseline_answers, *, marking):
    for s, a in zip(samples, answers):
        yield Score(s.id, {"met": float(a == s.target)}, answer=a)
    truth = [(i % 2, 0.5)[i % 5 == 4] for i in range(90)]
    for name in ("met", "people"):
        said = tuple(float(t if i % 9 else 1 - t) for i, t in enumerate(truth))
        rows = tuple(s.id for s in samples[:90])
        yield Labels(name, tuple(map(float, truth)), said, tuple(i // 2 for i in range(90)), rows)

marked.marks = lambda options: "answers"


@hookimpl
def harness_evaluators():
    return {"shares": shares, "marked": marked}
"""
EVALS = """
[[eval]]
name = "judged"
use = "marked"
data = "test.jsonl"
cluster = "of"

[[eval]]
name = "grouped"
use = "contains"
data = "test.jsonl"
cluster = "of"

[[eval]]
name = "fluency"
use = "perplexity"
data = "texts.jsonl"

[[eval]]
name = "speed"
use = "latency"
data = "texts.jsonl"
limit = 15  # an odd number, and few: fakes answer so fast that medians of many tie at the clock's resolution
columns = {input = "text"}

[[eval]]
name = "weight"
use = "size"

[[eval]]
name = "quick"
use = "exact_match"
data = "test.jsonl"
stop = "early"

[[eval]]
name = "hidden"
use = "exact_match"
data = "test.jsonl"
private = true

[[eval]]
name = "own"
use = "shares"
data = "test.jsonl"
limit = 60
"""
CLAIMS = {
    "better": 'metric = "qa.exact_match"\nversus = "base"\nbetter_by = 0.0\nrequires = ["floor"]',
    "by a tenth": 'metric = "qa.exact_match"\nversus = "base"\nbetter_by = 0.1\nalpha = 0.01',
    "by a share": 'metric = "qa.exact_match"\nversus = "base"\nbetter_by = "10%"',
    "each kind": 'metric = "qa.exact_match"\nmin = 0.5\nslice = "kind=*"',
    "kind a": 'metric = "qa.exact_match"\nmin = 0.5\nslice = "kind=a"',
    "few fail": 'metric = "qa.exact_match"\nmax_failures = 60',
    "none fails": 'metric = "qa.exact_match"\nmax_failures = 0\nseverity = "warn"',
    "hope": 'metric = "qa.exact_match"\nmin = 0.999\nseverity = "warn"',
    "close": 'metric = "qa.exact_match"\nmin = 0.9\nseverity = "warn"',
    "clean": 'metric = "qa.exact_match"\nmin = 0.5\nclean_only = true',
    "clusters": 'metric = "grouped.contains"\nmin = 0.5',
    "clusters no worse": 'metric = "grouped.contains"\nversus = "base"\nworse_by_at_most = 0.2',
    "clusters better": 'metric = "grouped.contains"\nversus = "base"\nbetter_by = 0.1',
    "fluent": 'metric = "fluency.perplexity"\nmax = 1000\nseverity = "warn"',
    "more fluent": 'metric = "fluency.perplexity"\nversus = "base"\nworse_by_at_most = "5%"\nallow_approximate = true',
    "as fast": 'metric = "speed.latency_ratio"\nmax = 1000\nallow_approximate = true',
    "small": 'metric = "weight.bytes"\nmax = 1000',
    "no larger": 'metric = "weight.parameters"\nversus = "base"\nworse_by_at_most = 0',
    "soon": 'metric = "quick.exact_match"\nmin = 0.5',
    "soon better": 'metric = "quick.exact_match"\nversus = "base"\nbetter_by = 0.0',
    "in private": 'metric = "hidden.exact_match"\nmin = 0.5',
    "by its own": 'metric = "own.share"\nmin = 0.5\nallow_approximate = true',
    "by people": 'metric = "judged.met"\nmin = 0.3',
    "people agree": 'metric = "judged.people"\nmin = 0.4',
}


def make_suite_text() -> str:
    """Return a suite with a gate of every kind."""
    head, _, tail = SUITE.partition("[[export]]")
    tables = "".join(f'\n[[gate]]\nid = "{name}"\n{claim}\n' for name, claim in CLAIMS.items())
    return head.replace('name = "fake"', 'name = "fake"\nattempts = "spend"') + EVALS + tables + "\n[[export]]" + tail


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a run with a gate of every kind, made by the command line; two rows of the evaluation leak."""
    folder = tmp_path_factory.mktemp("recompute")
    train = [*TRAIN, *({"input": r["input"], "target": r["target"]} for r in ROWS[:2])]
    files: dict[str, Any] = {"test.jsonl": ROWS, "train.jsonl": train, "texts.jsonl": TEXTS, "harnessfile.py": PLUGIN}
    return (
        run_commands(folder, make_waive_command("D10"), "run suite.toml -q", suite=make_suite_text(), files=files)
        / "exports/fake"
    )


@pytest.fixture
def export(once: Path, tmp_path: Path) -> Path:
    """A copy of the export to break."""
    return shutil.copytree(once, tmp_path / "export")


UNABLE = {
    "in private": 'the rows of "hidden" are private',
    "by its own": (
        "share is computed from all rows at once by harnessfile:<lambda>, whose code or texts are not available here"
    ),
}


@pytest.mark.slow
def test_every_kind_of_gate_is_recomputed(export: Path) -> None:
    """All verdicts come out of their rows again; what cannot be is counted, each with its reason."""
    found = verify_export(export)
    assert (found.ok, found.refused) == (True, "")
    reasons = "; ".join(f'"{gate}" was not, because {why}' for gate, why in UNABLE.items())
    assert (
        found.steps["verdicts"]
        == f"{len(CLAIMS) + 1 - 2} of {len(CLAIMS) + 1} decided again from their rows; {reasons}"
    )
    verdicts = json.loads((export / EVIDENCE / GATES).read_text("utf-8"))
    methods = {v["method"] for v in verdicts}
    assert methods >= {"exact binomial", "McNemar mid-p", "Tango score", "cluster t", "point", "failures counted"}
    assert methods >= {"e-process", "cluster bootstrap", "exact binomial of 90 labels", "kappa of 90 labels"}
    assert {v["outcome"] for v in verdicts} == {"PASS", "FAIL", "INCONCLUSIVE", "ERROR"}


def edit(export: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change a file of the evidence, line by line where it has lines, and make the rest of it agree."""
    path = export / EVIDENCE / name
    if name == ITEMS:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        path.write_text("".join(json.dumps(r) + "\n" for r in change(rows)), "utf-8")
    else:
        path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
    reseal(export)


def make_verdict_edit(gate: str, **changes: Any) -> Callable[[Any], Any]:
    """Return the edit of one verdict."""
    return lambda verdicts: [{**v, **changes} if v["gate"] == gate else v for v in verdicts]


def make_part_edit(gate: str, name: str, part: Any = None, **changes: Any) -> Callable[[Any], Any]:
    """Return the edit of a part of one verdict: other values of it, or no such part."""

    def change(verdict: dict[str, Any]) -> dict[str, Any]:
        others = {key: value for key, value in verdict["parts"].items() if key != name}
        own = {name: part or {**verdict["parts"][name], **changes}} if part or changes else {}
        return {**verdict, "parts": {**others, **own}}

    return lambda verdicts: [change(v) if v["gate"] == gate else v for v in verdicts]


def make_gate_edit(gate: str, **changes: Any) -> Callable[[Any], Any]:
    """Return the edit of one gate in the lock."""
    return lambda lock: {**lock, "gates": [{**g, **changes} if g["id"] == gate else g for g in lock["gates"]]}


LEAKED = {"critical": True, "rows": 3, "of": 180, "codes": {}, "value": None, "baseline": None, "refuted": False}
FORGED: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a part of a newer version": (
        GATES,
        make_part_edit("floor", "secrecy", {"critical": True}),
        'the verdict has a part "secrecy" that this version of the harness does not know',
    ),
    "a part that is not critical and says it is": (
        GATES,
        make_part_edit("floor", "attempt", critical=False),
        'gate "floor" has a part "attempt" that its rows do not give',
    ),
    "a word": (
        GATES,
        make_verdict_edit("close", outcome="PASS"),
        'gate "close" is recorded as PASS, but its rows give INCONCLUSIVE',
    ),
    "a word, its estimate": (
        GATES,
        make_verdict_edit("hope", outcome="PASS", estimate=1.0),
        'gate "hope" has estimate 1.0, but the rows give',
    ),
    "a word, its values": (
        GATES,
        make_verdict_edit("hope", outcome="PASS", estimate=1.0, value=1.0),
        'gate "hope" has value 1.0, but the rows give',
    ),
    "no p-values": (
        GATES,
        make_verdict_edit("hope", outcome="PASS", p_pass=None, p_fail=None),
        'gate "hope" has p_pass None, but the rows give',
    ),
    "a p-value beyond 1": (
        GATES,
        make_verdict_edit("floor", p_fail=1.5),
        'gate "floor" has p_fail 1.5, but the rows give',
    ),
    "a p-value that is a text": (
        GATES,
        make_verdict_edit("floor", p_pass="0"),
        'gate "floor" has p_pass 0, but the rows give',
    ),
    "a p-value that is true": (
        GATES,
        make_verdict_edit("floor", p_pass=True),
        'gate "floor" has p_pass True, but the rows give',
    ),
    "a value that is no number": (GATES, make_verdict_edit("floor", value=1e999), ", which is not a JSON number"),
    "a threshold": (
        GATES,
        make_verdict_edit("floor", threshold=0.1),
        'gate "floor" has threshold 0.1, but the rows give',
    ),
    "a threshold in the lock": (LOCK, make_gate_edit("hope", min=0.5), "the evidence is malformed"),
    "a whole claim in the lock": (
        LOCK,
        make_gate_edit("hope", min=0.5, claim="at least 0.5"),
        'min of gate "hope" is 0.5, but 0.999 in the suite\'s digest',
    ),
    "a risk": (GATES, make_verdict_edit("floor", alpha=0.5), 'gate "floor" was decided at alpha 0.5, not 0.0303964'),
    "a risk that was spent": (
        GATES,
        make_verdict_edit("floor", alpha=0.05),
        'gate "floor" was decided at alpha 0.05, not 0.0303964',
    ),
    "no attempt": (
        GATES,
        make_part_edit("floor", "attempt"),
        'gate "floor" is recorded as attempt 0, but the ledger gives 1',
    ),
    "a later attempt": (
        GATES,
        make_part_edit("floor", "attempt", number=2),
        'gate "floor" is recorded as attempt 2, but the ledger gives 1',
    ),
    "severity": (GATES, make_verdict_edit("hope", blocking=True), "has blocking true, but the lock has false"),
    "severity in the lock": (LOCK, make_gate_edit("floor", severity="warn"), "the evidence is malformed"),
    "another metric": (GATES, make_verdict_edit("floor", metric="qa.other"), 'has metric "qa.other"'),
    "another baseline": (
        GATES,
        make_verdict_edit("better", versus="other"),
        'has versus "other", but the lock has "base"',
    ),
    "rows won that count nothing": (
        GATES,
        make_verdict_edit("better", won_count=-1),
        'gate "better" has won_count -1, but the rows give',
    ),
    "fewer rows": (GATES, make_verdict_edit("floor", n=10), 'gate "floor" has n 10, but the rows give'),
    "more rows": (GATES, make_verdict_edit("kind a", n=181), 'gate "kind a" has n 181, but the rows give'),
    "rows left out": (
        GATES,
        make_part_edit("floor", "leaked", LEAKED),
        'gate "floor" has a part "leaked" that its rows do not give',
    ),
    "fewer rows left out": (
        GATES,
        make_part_edit("clean", "leaked", rows=0),
        'gate "clean" has a part "leaked" that its rows do not give',
    ),
    "leaks untold": (
        GATES,
        make_part_edit("clean", "leaked"),
        'gate "clean" has a part "leaked" that its rows do not give',
    ),
    "failures": (
        GATES,
        make_verdict_edit("none fails", outcome="PASS"),
        'gate "none fails" is recorded as PASS, but its rows give FAIL',
    ),
    "failures uncounted": (
        GATES,
        make_verdict_edit("none fails", outcome="PASS", estimate=0.0),
        'gate "none fails" has estimate 0.0, but the rows give',
    ),
    "half a failure": (
        GATES,
        make_verdict_edit("none fails", outcome="PASS", estimate=-1.0),
        'gate "none fails" has estimate -1.0, but the rows give',
    ),
    "a budget": (
        GATES,
        make_verdict_edit("small", value=2000.0, estimate=2000.0),
        'gate "small" has value 2000.0, but the rows give',
    ),
    "a budget for a risk": (
        GATES,
        make_verdict_edit(
            "close", outcome="PASS", method="point", p_pass=0.0, p_fail=1.0, value=1.0, estimate=1.0, alpha=0.01
        ),
        'gate "close" was decided at alpha 0.01, not 0.0303964',
    ),
    "early stopping": (
        GATES,
        make_verdict_edit("close", outcome="PASS", method="e-process"),
        'gate "close" has method e-process, but the rows give',
    ),
    "no early stopping": (
        GATES,
        make_verdict_edit("soon", method="exact binomial"),
        'gate "soon" has method exact binomial, but the rows give',
    ),
    "a look of its own": (
        GATES,
        make_verdict_edit("soon", n=100),
        'gate "soon" has n 100, but the rows give',
    ),
    "another model": (
        GATES,
        make_verdict_edit("hope", candidate="adapter"),
        'gate "hope" was decided on other weights',
    ),
    "a warning on other weights": (
        GATES,
        make_verdict_edit("hope", digest="0" * 64),
        'gate "hope" was decided on other weights',
    ),
    "a wealth": (GATES, make_verdict_edit("soon", lower=0.3), 'gate "soon" has lower 0.3, but the rows give'),
    "a slice": (
        GATES,
        make_part_edit("each kind", "slices"),
        'gate "each kind" has a part "slices" that its rows do not give',
    ),
    "a gate that is in no lock": (
        GATES,
        lambda v: [*v, {**v[0], "gate": "new"}],
        'gate "new" is not in the lock',
    ),
    "a gate twice in the lock": (
        LOCK,
        lambda lock: {**lock, "gates": [*lock["gates"], lock["gates"][0]]},
        'gate "floor" occurs twice',
    ),
    "what is required": (
        LOCK,
        make_gate_edit("better", requires=["hope"]),
        'requires of gate "better" is ["hope"], but ["floor"] in the suite\'s digest',
    ),
    "a risk of one": (
        LOCK,
        lambda lock: {**lock, "suite": {**lock["suite"], "header": {**lock["suite"]["header"], "alpha": 1.0}}},
        "alpha is 1.0",
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_verdict_that_contradicts_itself_or_the_lock_is_refused(case: str, export: Path) -> None:
    """Evidence whose digests fit is refused where a verdict does not follow from the lock and its rows."""
    name, change, told = FORGED[case]
    edit(export, name, change)
    found = verify_export(export)
    assert not found.ok
    assert told in found.refused


def make_rows_edit(item: str, **changes: Any) -> Callable[[Any], Any]:
    """Return the edit of all rows of an evaluation."""
    return lambda rows: [{**r, **changes} if r["item"] == item else r for r in rows]


ROWS_FORGED: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "a value": (ITEMS, make_rows_edit("merged::qa", values={"exact_match": 1.0}), ", but the rows give 1.0"),
    "a row less": (ITEMS, lambda rows: [r for r in rows if r.get("id") != "q7"], "has 179 rows of"),
    "a row twice": (ITEMS, lambda rows: [*rows, rows[0]], "the evidence is malformed"),
    "no rows": (ITEMS, lambda rows: [r for r in rows if r["item"] != "base::qa"], 'has no rows of "base::qa" in'),
    "a slice": (ITEMS, make_rows_edit("merged::qa", slices={"kind": "a"}), "the evidence is malformed"),
    "clusters": (
        ITEMS,
        lambda rows: [{**r, "cluster": "x"} if "::grouped" in r["item"] else r for r in rows],
        "rows are in one cluster, which proves nothing about other clusters",
    ),
    "leaks": (ITEMS, lambda rows: [{k: v for k, v in r.items() if k != "leak"} for r in rows], "leaves out other rows"),
    "the order": (
        ITEMS,
        lambda rows: [{**r, "place": -1 - r["place"]} if "place" in r else r for r in rows],
        "is not the number of a row",
    ),
    "a weight": (ITEMS, make_rows_edit("merged::fluency", weight=math.pi), "has"),
    "labels": (MANIFEST, lambda told: agree_on_labels(told), ", but the rows give"),
    "no labels": (MANIFEST, lambda told: agree_on_labels(told, 0), ", but the rows give"),
    "a bound": (GATES, make_verdict_edit("clusters", lower=0.4, why=""), "has lower 0.4, but the rows give"),
    "a p-value, a little": (GATES, make_verdict_edit("clusters", p_fail=0.999), "has p_fail 0.999, but the rows give"),
    "clusters told": (
        GATES,
        make_part_edit("clusters", "clusters", count=180),
        'gate "clusters" has a part "clusters" that its rows do not give',
    ),
    "rows that were won": (
        GATES,
        make_verdict_edit("better", won=[]),
        'gate "better" has won that its rows do not give',
    ),
    "how many were won": (
        GATES,
        make_verdict_edit("better", won_count=0),
        'gate "better" has won_count 0, but the rows give',
    ),
    "a slice told": (
        GATES,
        make_part_edit("each kind", "slices", untestable=3),
        'gate "each kind" has a part "slices" that its rows do not give',
    ),
}


def agree_on_labels(manifest: dict[str, Any], kept: int = 2) -> dict[str, Any]:
    """Let people agree with the instrument on all labels, and keep those of so many metrics."""
    about = manifest["evaluations"]["merged::judged"]
    about["labels"] = [{**told, "truth": told["said"]} for told in about["labels"]][:kept]
    return manifest


@pytest.mark.parametrize("case", ROWS_FORGED)
def test_verdicts_that_do_not_come_out_of_their_rows_are_refused(case: str, export: Path) -> None:
    """What agrees with itself and not with its rows is refused in one line."""
    name, change, told = ROWS_FORGED[case]
    edit(export, name, change)
    found = verify_export(export)
    assert found.refused.startswith(("verdicts: ", "rows: "))
    assert told in found.refused, found.refused
    assert "\n" not in found.refused


def test_malformed_rows_are_one_line(export: Path, project: Project) -> None:
    """Whatever stands in items.jsonl, nothing but a line comes of it."""
    for text in (
        "null\n",
        "[]\n",
        "{}\n",
        '{"item": "merged::qa"}\n',
        "NaN\n",
        "[" * 100_000 + "\n",
        "\xff",
        "1e999\n",
    ):
        (export / EVIDENCE / ITEMS).write_text(text, "utf-8")
        reseal(export)
        outcome = project.harness("verify", str(export))
        assert (outcome.code, outcome.err.count("\n")) == (7, 1), outcome.err


@pytest.mark.slow
def test_a_policy_demands_its_share(export: Path) -> None:
    """A policy with `recomputed` recomputes by itself, and refuses where too many blocking gates cannot be."""
    suites = json.loads((export / EVIDENCE / LOCK).read_text("utf-8"))["suite"]["name"]
    policy = Policy([suites], recomputed=0.9, ignored=["D10-exact"])
    assert not verify_export(export, policy).steps.get("verdicts")  # no key signed it
    blocking = [v for v in json.loads((export / EVIDENCE / GATES).read_text("utf-8")) if v["blocking"]]
    share = (len(blocking) - 2) / len(blocking)
    for wanted, ok in ((share, True), (share + 0.01, False), (1.0, False)):
        found = verify_unsigned(export, dataclasses.replace(policy, recomputed=wanted))
        assert found.ok is ok, found.refused
        assert ok or f"of the blocking gates, but the policy requires {wanted:.0%}" in found.refused


def verify_unsigned(export: Path, policy: Policy) -> Any:
    """Verify by a policy that asks for no signature, which no policy file can say."""
    return verify_export(export, dataclasses.replace(policy, threshold=0))


def test_what_was_not_decided_again_is_not_verified(export: Path, project: Project) -> None:
    """Evidence of other statistics has matching files, and no policy takes its producer's word."""
    manifest = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))
    reseal(export, statistics=manifest["statistics"] + 1)
    outcome = project.harness("verify", str(export))
    versions = f"{hypothesis_tests.METHOD_VERSION + 1}, and this harness has {hypothesis_tests.METHOD_VERSION}"
    assert f"it was decided with statistics version {versions}" in outcome.out
    last = outcome.out.splitlines()[-1]
    assert (outcome.code, last.startswith("not verified: merged of suite fake, ")) == (0, True)
    assert "files match, but its producer's word is taken for" in last and '"floor"' in last
    found = verify_unsigned(export, Policy(["fake"], ignored=["D10-exact"]))
    assert found.refused.startswith("verdicts: 0 of ")


@pytest.mark.slow
def test_recompute_is_light(export: Path) -> None:
    """Gates on 0/1 rows are decided again without numpy, and without what models need."""
    code = f"""
import sys
sys.modules |= dict.fromkeys(["numpy", "scipy"])
from harness.cli.main import main
code = main(["verify", {str(export)!r}])
assert not {{"torch", "transformers", "evaluate", "datasets", "lm_eval"}} & set(sys.modules)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_rows_are_those_that_were_judged(project: Project) -> None:
    """A plugin that rewrites the run's folder, lock included, changes nothing of what is exported."""
    spoil = """
from pathlib import Path

from harness import hookimpl


@hookimpl
def harness_item_finish(run, item):
    for path in Path(run.folder).rglob("*.json*"):
        path.write_text("spoilt")
"""
    files: dict[str, Any] = {"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN, "harnessfile.py": spoil}
    assert project.write(files).run().code == 0
    found = verify_export(project.folder / "exports/fake")
    assert (found.refused, found.steps.get("verdicts")) == ("", "1 of 1 decided again from their rows")


@pytest.mark.slow
def test_remembered_answers_are_counted(project: Project) -> None:
    """The evidence says how many answers of the candidate were remembered, and a policy can take none."""
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": TRAIN})
    policy = Policy(["fake"], cached_answers=False)
    for flags, remembered in (((), 0), ((), len(ROWS)), (("--no-cache",), 0)):
        assert project.run(*flags).code == 0
        export = project.folder / "exports/fake"
        answers = json.loads((export / EVIDENCE / MANIFEST).read_text("utf-8"))["answers"]
        assert answers["cache_hits"] == remembered
        found = verify_unsigned(export, policy)
        assert found.ok is (remembered == 0)
        assert found.ok or f"{remembered} answers came from the cache of an earlier run" in found.refused


def waive_hope_gate(project: Project) -> None:
    """Waive the gate "hope", which no model meets."""
    project.harness(
        "waive", "hope", "--reason", "a test", "--until", "2099-12-31", "--by", "kim", "--suite", "suite.toml"
    )


def release_once(project: Project) -> None:
    """Release once, so that there is something to be compared with."""
    assert project.run().code == 0
    better = SUITE.replace('data = "train.jsonl"', 'data = "train.jsonl"\nskill = 0.93')
    project.write({"suite.toml": better + suites.SLIDE + suites.FEWSHOT})


LATE = SUITE + '\n[[gate]]\nid = "hope"\nmetric = "qa.exact_match"\nmin = 0.999\n'
LIMITED = """
[[eval]]
name = "short"
use = "exact_match"
data = "test.jsonl"
limit = 60

[[gate]]
id = "short and clean"
metric = "short.exact_match"
min = 0.5
clean_only = true
"""
OTHERS: dict[str, tuple[dict[str, Any], Callable[[Project], None] | None, str, str]] = {
    "waived": ({"suite.toml": LATE}, waive_hope_gate, "fake", "2 of 2 decided again from their rows"),
    "a first release": (
        {"suite.toml": SUITE},
        release_once,
        "fake",
        "3 of 3 decided again from their rows",
    ),
    "a copy of a parent": (
        {"suite.toml": suites.WHOLE, "harnessfile.py": suites.EXPORTER},
        None,
        "fewer",
        "2 of 2 decided again from their rows",
    ),
    "rows that leak beyond a limit": (
        {
            "suite.toml": suites.CLEAN + LIMITED,
            "train.jsonl": [*TRAIN, *({"input": ROWS[i]["input"], "target": ROWS[i]["target"]} for i in (3, 99))],
        },
        None,
        "fake",
        "2 of 2 decided again from their rows",
    ),
    "early and clean": (
        {
            "suite.toml": suites.CLEAN.replace("slices =", 'stop = "early"\nslices =')
            + '[[gate]]\nid = "early"\nmetric = "qa.exact_match"\nmin = 0.4\n'
        },
        None,
        "fake",
        (
            '1 of 2 decided again from their rows; "floor" was not, because it stopped early, and rows that '
            "were not evaluated may be leaked"
        ),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", OTHERS)
def test_honest_exports_of_any_kind_are_recomputed(case: str, project: Project) -> None:
    """Waived gates, releases and worked examples as baselines, copies and early stopping come out of their rows."""
    files, before, name, told = OTHERS[case]
    project.write({"test.jsonl": ROWS, "train.jsonl": TRAIN, **files})
    if before:
        before(project)
    outcome = project.run()
    found = verify_export(project.folder / "exports" / name)
    assert (found.refused, found.steps.get("verdicts")) == ("", told), outcome.out


@pytest.mark.parametrize("written", [0, 2, "1", None, True])
def test_evidence_of_another_format_is_refused(export: Path, written: Any) -> None:
    """Whatever its number is, and the line says what to do."""
    reseal(export, format=written)
    assert (
        verify_export(export).refused
        == f"digests: manifest.json has format {written!r}, this harness reads 1; export again"
    )


@pytest.mark.parametrize("written", [0, 2, "1", None, True])
def test_a_lock_of_another_format_is_refused(export: Path, written: Any) -> None:
    """Its digests may be made otherwise, so that nothing can be compared with them."""
    path = export / EVIDENCE / LOCK
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"format": written}), "utf-8")
    reseal(export)
    found = verify_export(export)
    assert not found.ok and f"the lock has format {written!r}, this harness reads 1" in found.refused


# -- verdicts of any kind --------------------------------------------------------------------------

SCALES: dict[str, Callable[[random.Random], float]] = {
    "right": lambda rng: float(rng.random() < 0.7),
    "proportion": lambda rng: rng.random() ** 0.5,
    "mean": lambda rng: rng.gauss(5, 2),
    "perplexity": lambda rng: rng.random() * 2,
    "count": lambda rng: float(rng.randrange(9)),
}


@st.composite
def draw_claim(draw: st.DrawFn) -> tuple[Gate, Metric, str]:
    """Draw a gate that a suite could have, its metric, and how its rows are made."""
    kind = draw(st.sampled_from(sorted(SCALES)))
    scale: Any = "proportion" if kind == "right" else kind
    metric = Metric("m", draw(st.sampled_from(["higher", "lower"])), scale)
    number = draw(st.sampled_from([0.0, 0.02, 0.3, 0.5, 0.7, 0.75, 0.99, 1.0, 1.5, 3.0, 5.0, 20.0, 400.0]))
    key = draw(st.sampled_from(["min", "max", "max_failures", "better_by", "worse_by_at_most"]))
    value: Any = int(number) if key == "max_failures" else number
    if key.endswith(("by", "most")) and draw(st.booleans()):
        value = f"{number}%"
    facts: dict[str, Any] = {key: value, "versus": "base" if key.endswith(("by", "most")) else None}
    facts |= {"alpha": draw(st.sampled_from([None, 0.001, 0.01, 0.05, 0.2, 0.5]))}
    facts |= {"slice": draw(st.sampled_from([None, None, "kind=*", "kind=a", ["kind=a", "kind=b"]]))}
    facts |= {"min_n": draw(st.sampled_from([2, 10, 60]))}
    facts |= {"estimand": draw(st.sampled_from(["rows", "rows", "questions"]))}
    gate = Gate("g", "e.m", **facts)
    assume(not gate.find_mistakes() and not gate.find_metric_mistakes(metric))
    return gate, metric, kind


def decide_on_drawn_rows(gate: Gate, metric: Metric, kind: str, seed: int) -> Verdict:
    """Return the gate's verdict on made-up rows."""
    rng = random.Random(seed)
    n, clustered = rng.randrange(2, 130), rng.random() < 0.3
    weights_of = rng.choice([[1.0], [0.0, 2.0], [0.0, 1.0, 7.0]])
    samples = [Sample(str(i), row={"kind": "ab"[i % 2]}, cluster=f"c{i // 3}" if clustered else None) for i in range(n)]
    weights = [rng.choice(weights_of) for _ in samples]
    of = [
        tuple(Score(s.id, {"m": SCALES[kind](rng)}, w) for s, w in zip(samples, weights, strict=True)) for _ in range(2)
    ]
    ours, theirs = (Result(name, "e", scores, {}, name) for name, scores in zip(("merged", "base"), of, strict=True))
    rows = GateRows(metric, ours, theirs if gate.versus else None, samples)
    return decide_in_context(gate, rows, GateContext("merged", gate.alpha or 0.05, attempt=1, slices=("kind",)))


def verdict_to_dict(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as gates.json holds it."""
    found: dict[str, Any] = json.loads(dumps(dataclasses.asdict(verdict)))
    return found


OTHER_VALUES = (None, True, 0, 1, 0.5, 1e9, "x", [], ["q1"], {}, {"a": 1})  # of any type, for any field


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw_claim(), st.integers(0, 10**6), st.sampled_from(OTHER_VALUES))
def test_every_field_of_a_verdict_is_compared(claim: tuple[Gate, Metric, str], seed: int, other: Any) -> None:
    """Whatever the claim and the rows, a verdict is what they give, and no field may say something else."""
    again = verdict_to_dict(decide_on_drawn_rows(*claim, seed))
    assert find_verdict_difference(again, again) == ""
    for key in again:
        changed = {**again, key: other}
        equal = again[key] == other and type(again[key]) is type(other)
        assert equal or is_near(again[key], other) or find_verdict_difference(changed, again), (key, again[key])
    for key in ("terms", "parts"):
        for inner in again[key]:
            if again[key][inner] != other:
                changed = {**again, key: {**again[key], inner: other}}
                assert find_verdict_difference(changed, again), (key, inner)


def is_near(one: Any, other: Any) -> bool:
    """Return whether two numbers are equal but for rounding."""
    numbers = [x for x in (one, other) if isinstance(x, (int, float)) and not isinstance(x, bool)]
    return len(numbers) == 2 and math.isclose(*numbers, rel_tol=1e-6, abs_tol=1e-12)
