"""What a deployer can demand: each policy is met by a real export, and refused where one thing of it is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.attestation import EVIDENCE, GATES, ITEMS, LOCK
from harness.artifacts.digests import digest_value
from harness.cli.main import main
from harness.errors import ExitCode
from harness.release.policy import POLICY_DEMANDS, STRICT_POLICY, Policy, list_unchecked, read_policy
from harness.release.releases import current_release
from harness.release.verify import VerifiedExport, verify_export
from harness.testing import ROWS, SUITE, Project, write_fake
from tests.helpers.exports import decide_gates_again, reseal
from tests.helpers.suites import run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

pytestmark = pytest.mark.xdist_group("policies")

HEAD = """
[suite]
name = "{0}"

[model]
use = "fake"
path = "base"

[candidate]
merged = "made"

[[export]]
use = "safetensors"
to = "exports/{0}"

[[eval]]
name = "qa"
use = "exact_match"
data = "test.jsonl"
slices = ["kind"]
"""
HIDDEN = """
[[eval]]
name = "hidden"
use = "exact_match"
data = "test.jsonl"
private = true
"""
EVALS = """
[[eval]]
name = "quick"
use = "exact_match"
data = "more.jsonl"
stop = "early"

[[eval]]
name = "weight"
use = "size"
"""
DOMAIN = {
    "floor": 'metric = "qa.exact_match"\nmin = 0.5',
    "better": 'metric = "qa.exact_match"\nversus = "base"\nbetter_by = 0.05\nalpha = 0.1',
    "share": 'metric = "qa.exact_match"\nversus = "base"\nworse_by_at_most = "5%"',
    "few fail": 'metric = "qa.exact_match"\nmax_failures = 20',
    "each kind": 'metric = "qa.exact_match"\nmin = 0.4\nslice = "kind=*"\nmin_n = 20',
    "small": 'metric = "weight.bytes"\nmax = 2000',
    "soon": 'metric = "quick.exact_match"\nmin = 0.3',
    "unseen": 'metric = "hidden.exact_match"\nmin = 0.5\nseverity = "warn"',
    "hope": 'metric = "qa.exact_match"\nmin = 0.9999\nseverity = "warn"',
}
SAFETY = {
    "polite": 'metric = "qa.exact_match"\nmin = 0.3',
    "perfect": 'metric = "qa.exact_match"\nmax_failures = 0',
    "secret": 'metric = "hidden.exact_match"\nmin = 0.5',
}


MORE = [{"id": f"m{i}", "input": f"more {i} say w{i}", "target": f"w{i}"} for i in range(180)]


def make_suite(name: str, gates: dict[str, str], evals: str = "") -> str:
    """Return a suite about the model `made`."""
    return (
        HEAD.format(name) + HIDDEN + evals + "".join(f'\n[[gate]]\nid = "{i}"\n{claim}\n' for i, claim in gates.items())
    )


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed exports of two suites about one model; of the first at its second attempt, of the other with a waiver."""
    folder = tmp_path_factory.mktemp("policies")
    for name, skill in (("made", 0.95), ("fair", 0.93)):
        write_fake(folder / name, skill)
    run_commands(
        folder,
        "run suite.toml -q --candidate fair",
        "run suite.toml -q",
        f"waive perfect --reason known --until {date.today() + timedelta(days=30)} --suite safety.toml",
        "run safety.toml -q --no-cache",
        "keygen release",
        "keygen second",
        "keygen third",
        "sign exports/domain --key release.key --unrecomputed",
        "sign exports/safety --key release.key --unrecomputed",
        suite=make_suite("domain", DOMAIN, EVALS),
        files={"safety.toml": make_suite("safety", SAFETY), "more.jsonl": MORE},
    )
    return folder


@pytest.fixture
def exports(once: Path, tmp_path: Path) -> Path:
    """A folder with copies of both exports, to break."""
    return shutil.copytree(once / "exports", tmp_path / "exports")


def read_lock_file(export: Path) -> dict[str, Any]:
    """Return the lock of an export."""
    lock: dict[str, Any] = json.loads((export / EVIDENCE / LOCK).read_text("utf-8"))
    return lock


def make_policy_text(folder: Path, lines: str, keys: tuple[str, ...] = ("release",)) -> str:
    """Return a policy of the suite "domain", unless lines say another; `<…>` stands for what the lock has."""
    lock = read_lock_file(folder / "exports/domain")
    known = {f"<{name}>": data["sha256"] for name, data in lock["data"].items()} | {"<suite>": lock["suite"]["digest"]}
    known["<base>"] = lock["subjects"]["base"]
    known |= {"<code>": next(p["code"] for p in lock["plugins"] if p["name"] == "harness.testing")}
    pins = [f'"{p["name"]} sha256:{p["code"]}"' for p in lock["plugins"] if p["name"] != "harness.testing"]
    known |= {'"<ours>"': ", ".join(pins), "<none>": "0" * 64}
    for name, value in known.items():
        lines = lines.replace(name, value)
    head = "" if lines.startswith("suites") else 'suites = ["domain"]\n'
    plain, claims = (lines.partition("[[claim]]")[0], "".join(lines.partition("[[claim]]")[1:]))
    tables = "\n".join((folder / f"{name}.pub").read_text("utf-8") for name in keys)
    return f"{head}{plain}\n{tables}\n{claims}\n"


def verify_under_policy(folder: Path, exports: Path, lines: str, name: str = "domain", **how: Any) -> VerifiedExport:
    """Verify an export under a policy of these lines, by the key that signed it unless `keys` are given."""
    path = exports.parent / "policy.toml"
    path.write_text(make_policy_text(folder, lines, how.pop("keys", ("release",))), "utf-8")
    return verify_export(exports / name, read_policy(path), **how)


TESTED = 'plugins = ["<ours>", "harness.testing sha256:<code>"]'
QA = '[[claim]]\nmetric = "qa.exact_match"\n'
# what is demanded and met, what is demanded and not met, and what is said of it: the last word is the key
POLICIES: dict[str, tuple[str, str, str]] = {
    "a suite by name": ('suites = ["domain"]', 'suites = ["other"]', "is not in the policy (suites)"),
    "a suite by digest": ('suites = ["<suite>"]', 'suites = ["<none>"]', "is not in the policy (suites)"),
    "a gate that is there": ('gates = ["floor"]', 'gates = ["safe"]', 'gate "safe" has no verdict on merged (gates)'),
    "a gate that passed": (
        'recomputed = 0\ngates = ["unseen"]',
        'recomputed = 0\ngates = ["hope"]',
        'gates: gate "hope" is FAIL',
    ),
    "a stage": ('stages = ["merged"]', 'stages = ["adapter"]', ", but the policy requires adapter (stages)"),
    "an age": ("max_age_days = 1", "max_age_days = 1e-9", "days ago, but the policy allows 1e-09 days (max_age_days)"),
    "attempts": (
        "max_attempts = 2",
        "max_attempts = 1",
        '" was attempted 2 times, but the policy allows 1 (max_attempts)',
    ),
    "a share": (
        "recomputed = 1.0",
        'recomputed = 1.0\ngates = ["unseen"]',
        'rows of "hidden" are private (recomputed)',
    ),
    "no memory": (
        "cached_answers = true",
        "cached_answers = false",
        "answers came from the cache of an earlier run, but the policy allows none (cached_answers)",
    ),
    "rows": ('data = {qa = "<qa>"}', 'data = {qa = "<none>"}', ", but the policy requires 0000000000000000 (data)"),
    "private rows": ('data = {hidden = "<hidden>"}', 'data = {hidden = "<none>"}', 'the rows of "hidden" have digest'),
    "rows of a known eval": (
        'data = {qa = "<qa>"}',
        'data = {qua = "<qa>"}',
        'no rows of "qua"; did you mean "qa"? (data)',
    ),
    "a baseline": (
        'subjects = {base = "<base>"}',
        'subjects = {base = "<none>"}',
        'the weights of "base" have digest',
    ),
    "a known baseline": (
        'subjects = {base = "<base>"}',
        'subjects = {bse = "<base>"}',
        'no weights of "bse"; did you mean "base"? (subjects)',
    ),
    "listed plugins": (TESTED, 'plugins = ["<ours>"]', "which the policy does not list (plugins)"),
    "plugins by their code": (TESTED, TESTED.replace("<code>", "<none>"), f"sha256:{'0' * 64} (plugins)"),
    "a harness": (
        'harness = "0.1.0"',
        'harness = "9"',
        "was evaluated by harness 0.1.0, but the policy requires 9 (harness)",
    ),
    "one harness of several": (
        'harness = ["9", "0.1.0"]',
        'harness = ["8", "9"]',
        ", but the policy requires 8 or 9 (harness)",
    ),
    "a bound from below": (
        f"{QA}min = 0.5",
        f"{QA}min = 0.51",
        'at least 0.51: no blocking gate implies it; "floor"',
    ),
    "a bound from above": (
        '[[claim]]\nmetric = "weight.bytes"\nmax = 2000',
        '[[claim]]\nmetric = "weight.bytes"\nmax = 1999',
        'weight.bytes at most 1,999: no blocking gate implies it; "small" says at most 2,000 (claim)',
    ),
    "another baseline": (
        f'{QA}versus = "base"\nbetter_by = 0.04\nalpha = 0.1',
        f'{QA}versus = "released"\nbetter_by = 0.04\nalpha = 0.1',
        'qa.exact_match better than released by 0.04: no blocking gate implies it; "floor" says',
    ),
    "a larger margin": (
        f'{QA}versus = "base"\nworse_by_at_most = 0.02\nalpha = 0.1',
        f'{QA}versus = "base"\nbetter_by = 0.06\nalpha = 0.1',
        "no blocking gate implies it;",
    ),
    "a margin in another unit": (
        f'{QA}versus = "base"\nworse_by_at_most = "6%"',
        f'{QA}versus = "base"\nbetter_by = "1%"',
        'qa.exact_match better than base by 1%: no blocking gate implies it; "floor" says',
    ),
    "a smaller risk": (
        f'{QA}versus = "base"\nbetter_by = 0.05\nalpha = 0.1',
        f'{QA}versus = "base"\nbetter_by = 0.05',
        'gate "better" has alpha 0.1, but the claim requires at most 0.05 (claim)',
    ),
    "fewer failures": (f"{QA}max_failures = 20", f"{QA}max_failures = 19", "no blocking gate implies it;"),
    "a slice": (f'{QA}min = 0.4\nslice = "kind=*"', f'{QA}min = 0.4\nslice = "kind=a"', "no blocking gate implies it;"),
    "smaller slices": (
        f'{QA}min = 0.4\nslice = "kind=*"\nmin_n = 20',
        f'{QA}min = 0.4\nslice = "kind=*"\nmin_n = 19',
        "no blocking gate implies it;",
    ),
    "a gate that blocks": (
        'recomputed = 0\n[[claim]]\nmetric = "hidden.exact_match"\nmin = 0.5\nseverity = "warn"',
        'recomputed = 0\n[[claim]]\nmetric = "hidden.exact_match"\nmin = 0.5',
        "no blocking gate is on this metric (claim)",
    ),
    "a gate that warned": (
        f'{QA}min = 0.5\nseverity = "warn"',
        f'{QA}min = 0.99\nseverity = "warn"',
        'gate "hope" is FAIL (claim)',
    ),
    "clean rows": (f"{QA}min = 0.5", f"{QA}min = 0.5\nclean_only = true", "no blocking gate implies it;"),
    "cut answers": (f"{QA}min = 0.5", f"{QA}min = 0.5\ncut_at_most = 0.1", "no blocking gate implies it;"),
    "questions": (f"{QA}min = 0.5", f'{QA}min = 0.5\nestimand = "questions"', "no blocking gate implies it;"),
    "an unknown metric": (
        '[[claim]]\nmetric = "quick.exact_match"\nmin = 0.3',
        '[[claim]]\nmetric = "quick.exactmatch"\nmin = 0.3',
        'no metric "quick.exactmatch"; did you mean "quick.exact_match"? (claim)',
    ),
    "a possible claim": (f"{QA}min = 0.5", f"{QA}min = 50", "did you mean 0.5? (claim)"),
    "all suites": ('all_of = ["domain"]', 'all_of = ["domain", "safety"]', 'no evidence of suite "safety"; add its'),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", POLICIES)
def test_a_policy_that_is_not_met_is_refused(case: str, once: Path, exports: Path) -> None:
    """One export, two policies that differ in one thing: the first takes it, the second names what it lacks."""
    met, unmet, told = POLICIES[case]
    found = verify_under_policy(once, exports, met)
    assert (found.ok, found.refused) == (True, "")
    found = verify_under_policy(once, exports, unmet)
    assert not found.ok
    assert told in found.refused
    assert "\n" not in found.refused


def test_keys_of_a_policy(once: Path, exports: Path) -> None:
    """Who signed, and how many, is named with its key."""
    found = verify_under_policy(once, exports, "threshold = 2", keys=("release", "second"))
    assert "is signed by release; the policy requires 2 (threshold) and awaits second" in found.refused
    assert "is signed by no key of the policy" in verify_under_policy(once, exports, "", keys=("second",)).refused
    nobody = verify_under_policy(once, exports, "threshold = 1", keys=("second", "third"))
    assert "is signed by no key of the policy; the policy requires 1 (threshold) and awaits 1 of second, third" in (
        nobody.refused
    )
    assert verify_under_policy(once, exports, "threshold = 1", keys=("release", "second")).ok


def test_waivers(once: Path, exports: Path) -> None:
    """A waived gate stands for one that passed unless the policy says otherwise, and never for a claim."""
    suites = 'suites = ["safety"]\nrecomputed = 0.5\n'
    assert verify_under_policy(once, exports, f"{suites}waivers = true", "safety").ok
    found = verify_under_policy(once, exports, f"{suites}waivers = false", "safety")
    assert 'gate "perfect" is FAIL and waived, but the policy allows no waivers' in found.refused
    found = verify_under_policy(once, exports, f"{suites}{QA}max_failures = 3", "safety")
    assert 'fails on at most 3 rows: gate "perfect" is FAIL (claim)' in found.refused


def test_ignored_findings(once: Path, exports: Path) -> None:
    """What was ignored is told in the manifest; a policy takes none that it does not name."""
    ignored = [{"check": "D10-exact", "by": "kim", "reason": "known", "until": "2099-12-31"}]
    path = exports / "policy.toml"
    path.write_text(make_policy_text(once, ""), "utf-8")
    unsigned = replace(read_policy(path), threshold=0)
    reseal(exports / "domain", ignored=ignored)
    refused = 'gates: the finding "D10-exact" was ignored, but the policy does not allow that (ignored)'
    assert verify_export(exports / "domain", unsigned).refused == refused
    assert verify_export(exports / "domain", replace(unsigned, ignored=["D11"])).refused == refused
    assert verify_export(exports / "domain", replace(unsigned, ignored=["D10-exact"])).ok
    reseal(exports / "domain", ignored=[])
    assert verify_export(exports / "domain", replace(unsigned, ignored=[])).ok


def test_a_leak_that_was_waived_is_named_or_refused(project: Project) -> None:
    """H2: a release on rows that it was trained on ships with a waiver, and no policy takes it that does not say so."""
    train = [{"input": row["input"], "target": row["target"]} for row in ROWS]
    project.write({"suite.toml": SUITE, "test.jsonl": ROWS, "train.jsonl": train})
    until = (date.today() + timedelta(days=30)).isoformat()
    assert (
        project.harness("waive", "D10-exact", "--reason", "known", "--until", until, "--suite", "suite.toml").code == 0
    )
    assert project.run("--ignore", "D10-exact").code == 0
    policy, export = Policy(["fake"], threshold=0), project.folder / "exports/fake"
    assert verify_export(export, policy).refused.endswith(
        '"D10-exact" was ignored, but the policy does not allow that (ignored)'
    )
    assert verify_export(export, replace(policy, ignored=["D10-exact"])).ok


def make_evidence_edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Return the edit of all rows in the evidence, or of all of the lock."""

    def edit(export: Path) -> None:
        path = export / EVIDENCE / name
        if name == ITEMS:
            rows = [change(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
            path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
        else:
            path.write_text(json.dumps(change(json.loads(path.read_text("utf-8")))), "utf-8")
        reseal(export)

    return edit


def replace_row_digests(lock: dict[str, Any]) -> dict[str, Any]:
    """Return a lock with another digest of rows."""
    return {**lock, "data": {name: {**data, "sha256": "0" * 64} for name, data in lock["data"].items()}}


def rows(when: Callable[[Any], bool], **changes: Any) -> Callable[[Path], None]:
    """Return the edit of some rows in the evidence."""
    return make_evidence_edit(ITEMS, lambda row: {**row, **changes} if when(row) else row)


UNTIED: dict[str, tuple[Callable[[Path], None], str]] = {
    "hashes of rows": (
        rows(lambda r: "::qa" in r["item"], doc_hash="0" * 64),
        'the rows of "qa" in items.jsonl differ from those of the lock',
    ),
    "hashes of one side": (
        rows(lambda r: r["item"] == "base::qa", doc_hash="0" * 64),
        'row 0 of "qa" differs between subjects',
    ),
    "private rows": (
        rows(lambda r: "::hidden" in r["item"], row="0" * 64),
        'the rows of "hidden" in items.jsonl differ from those of the lock',
    ),
    "rows that were not asked": (
        rows(lambda r: "id" not in r and "::quick" in r["item"], row="0" * 64),
        'of "quick"',
    ),
    "a digest beside a row": (
        rows(lambda r: "::qa" in r["item"], doc_hash="0" * 64, row="1" * 64),
        'the rows of "qa" in items.jsonl differ from those of the lock',
    ),
    "the lock": (
        make_evidence_edit(LOCK, replace_row_digests),
        "was evaluated on rows that differ from those in suite.lock.json",
    ),
}


@pytest.mark.parametrize("case", UNTIED)
def test_rows_are_tied_to_the_lock(case: str, exports: Path) -> None:
    """H5: digests of rows in items.jsonl, and of all of them in the lock, cannot be changed one without the other."""
    edit, told = UNTIED[case]
    assert verify_export(exports / "domain").ok
    edit(exports / "domain")
    found = verify_export(exports / "domain")
    assert not found.ok
    assert told in found.refused


def test_the_gates_that_a_policy_names_are_recomputed(once: Path, exports: Path) -> None:
    """M8: numbers of a gate that only warns, on private rows, were made up, and the policy stood on them."""
    secret = {"outcome": "PASS"}
    path = exports / "domain" / EVIDENCE / GATES
    gates = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps([{**g, **secret} if g["gate"] == "unseen" else g for g in gates]), "utf-8")
    reseal(exports / "domain")
    text = exports / "policy.toml"
    text.write_text(
        make_policy_text(
            once, 'recomputed = 1.0\n[[claim]]\nmetric = "hidden.exact_match"\nmin = 0.5\nseverity = "warn"'
        )
    )
    found = verify_export(exports / "domain", replace(read_policy(text), threshold=0))
    assert found.refused.startswith('verdicts: "unseen", which the policy names, was not decided again')
    assert found.refused.endswith("(recomputed)")


BOTH = 'suites = ["domain", "safety"]\nall_of = ["domain", "safety"]\nrecomputed = 0.5\n'


def test_several_suites_are_demanded_together(once: Path, exports: Path) -> None:
    """M6: each is verified under the same policy, about one model; gates, rows and claims may be of any of them."""
    others = [exports / "safety"]
    found = verify_under_policy(once, exports, BOTH, beside=others)
    assert found.refused == ""
    assert found.steps["all_of"] == "one model passed domain, safety"
    assert verify_under_policy(once, exports, 'all_of = ["<suite>", "safety"]\nrecomputed = 0.5', beside=others).ok
    named = f'{BOTH}gates = ["floor", "polite"]\ndata = {{quick = "<quick>"}}\n{QA}max_failures = 20'
    assert verify_under_policy(once, exports, named, beside=others).ok
    found = verify_under_policy(once, exports, f'{BOTH}gates = ["floor", "kind"]', beside=others)
    assert found.refused == 'all_of: gate "kind" has no verdict on merged (gates)'
    found = verify_under_policy(once, exports, BOTH + "waivers = false", beside=others)
    assert found.refused.startswith(f"all_of: {others[0]}: gates: ")
    found = verify_under_policy(once, exports, BOTH.replace("safety", "law"), beside=others)
    assert found.refused.startswith(f'all_of: {others[0]}: gates: suite "safety"')


def test_what_all_suites_gated_is_promoted_with_their_evidence(once: Path, exports: Path) -> None:
    """`promote --with` demands what `verify --with` does, of the copy that is kept, too."""
    policy, both = exports.parent / "policy.toml", [str(exports / "domain"), "--with", str(exports / "safety")]
    policy.write_text(make_policy_text(once, BOTH, ("release",)), "utf-8")
    for words, code in ((both[:1], ExitCode.REFUSED), (both, ExitCode.OK)):
        assert main(["promote", *words, "--policy", str(policy)]) == code
    kept = current_release(exports / "domain")
    assert kept is not None and verify_export(kept, read_policy(policy), beside=[exports / "safety"]).ok


def test_another_model_is_no_evidence_about_this_one(once: Path, exports: Path) -> None:
    """What joins them is the root of the model."""
    (exports / "safety/model/config.json").write_text('{"a": 1}', "utf-8")
    reseal(exports / "safety")
    assert (
        f"{exports / 'safety'} holds another model, root"
        in verify_export(exports / "domain", beside=[exports / "safety"]).refused
    )
    assert verify_export(exports / "domain").ok


def test_the_copy_of_a_suite(once: Path, exports: Path, tmp_path: Path) -> None:
    """`--suite` compares lock and rows with the deployer's, and says which row, gate or key differs."""
    for name in ("suite.toml", "test.jsonl", "more.jsonl"):
        shutil.copy(once / name, tmp_path / name)
    shutil.copytree(once / "made", tmp_path / "made")
    found = verify_export(exports / "domain", suite=tmp_path / "suite.toml")
    assert (found.ok, found.steps["suite"]) == (True, "as in the copy, with the rows of qa, hidden, quick")
    rows = [{**r, "input": "question say w3"} if r["id"] == "q3" else r for r in ROWS]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    found = verify_export(exports / "domain", suite=tmp_path / "suite.toml")
    which = 'differ from those of test.jsonl: the first is row "q3"'
    assert found.refused == f'suite: rows of "qa" {which} (1 more)'
    assert f'suite: rows of "hidden" {which}' in found.notes
    shutil.copy(once / "test.jsonl", tmp_path / "test.jsonl")
    suite = (once / "suite.toml").read_text("utf-8").replace("min = 0.5\n", "min = 0.6\n", 1)
    (tmp_path / "suite.toml").write_text(suite.replace('data = "test.jsonl"', 'data = "hub:a/b:test"', 1), "utf-8")
    found = verify_export(exports / "domain", suite=tmp_path / "suite.toml")
    assert "its digest is" in found.refused
    assert f'suite: min of gate "floor" is 0.5, but 0.6 in {tmp_path / "suite.toml"}' in found.notes
    assert not any("suite: stop of" in note for note in found.notes)
    assert any('rows of "qa" not compared: "hub:a/b:test" can only' in note for note in found.notes)


def test_easy_rows_are_no_rows_of_the_copy(once: Path, exports: Path, tmp_path: Path, project: Project) -> None:
    """H5: rows of the producer's choice are found by the command, in a process without torch or plugins."""
    shutil.copy(once / "suite.toml", tmp_path / "suite.toml")
    shutil.copy(once / "more.jsonl", tmp_path / "more.jsonl")
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS[:50]), "utf-8")
    outcome = project.harness("verify", str(exports / "domain"), "--suite", str(tmp_path / "suite.toml"))
    assert outcome.code == 7
    assert "refused: " in outcome.err
    assert 'suite: rows of "qa" differ from those of test.jsonl: 60 rows, but 50 in the copy' in outcome.err


@pytest.mark.slow
def test_the_copy_is_compared_without_plugins(once: Path) -> None:
    """No plugin is imported for it, nor torch: all beside the copy is data."""
    code = """
import sys
from harness.cli.main import main
assert main(["verify", "exports/domain", "--suite", "suite.toml"]) == 0
assert "torch" not in sys.modules
assert not [name for name in sys.modules if name.startswith("harness_")]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=once, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_not_looked_at_is_said_first(once: Path, exports: Path, project: Project) -> None:
    """Without a policy at most six lines name what nobody demanded; a policy leaves those that it does not demand."""
    bare = project.harness("verify", str(exports / "domain")).out.splitlines()
    first = [line for line in bare if line.startswith("not checked: ")]
    assert bare[: len(first)] == first
    assert len(first) == 6
    keys = (
        "[[key]]",
        "suites",
        "[[claim]]",
        "data",
        "plugins",
        "harness",
        "max_attempts",
        "ledger",
        "waivers",
        "approximate",
        "ignored",
        "max_age_days",
        "[served]",
    )
    assert [key for key in (*keys, "cached_answers") if f"({key})" not in " ".join(first)] == []
    text = (
        "suites = ['<suite>']\ncached_answers = false\nrecomputed = 1.0\n"
        f"data = {{qa = '<qa>'}}\nsubjects = {{base = '<base>'}}\n{TESTED}\nwaivers = false"
        "\napproximate = false"
    )
    (project.folder / "policy.toml").write_text(make_policy_text(once, text), "utf-8")
    assert list_unchecked(read_policy(project.folder / "policy.toml")) == [
        "harness version (harness)",
        "number of attempts (max_attempts), missing attempts (ledger)",
        "age (max_age_days), served model ([served])",
    ]


def test_every_key_of_a_policy_is_named_where_it_is_not_demanded() -> None:
    """What a policy can demand is told as not looked at, but for keys that only narrow another."""
    narrower = {
        "threshold": "[[key]]",
        "gates": "[[claim]]",
        "stages": "suites",
        "all_of": "suites",
        "binding": "",
        "recomputed": "",
    }
    keys = {"[[key]]": "keys", "[[claim]]": "claims", "[served]": "served"}
    told = {keys.get(key, key) for _, _, key, _ in POLICY_DEMANDS}
    assert {f.name for f in fields(Policy)} - {"digest"} == told | narrower.keys() | {
        "recomputed"
    }  # which is demanded where nothing is said


def test_strict(once: Path, exports: Path, project: Project) -> None:
    """The strict policy is a list that is printed and documented; an export that meets it is verified."""
    from harness.release.signing import sign_export

    assert STRICT_POLICY in (Path(__file__).parents[2] / "docs/how-to/verify-with-a-policy.md").read_text("utf-8")
    strict = ("--policy", "strict", "--key", str(once / "release.pub"))
    outcome = project.harness("verify", str(exports / "domain"), *strict)
    assert [f"demands: {line}" for line in STRICT_POLICY.splitlines()] == outcome.out.splitlines()[
        : STRICT_POLICY.count("\n")
    ]
    assert (outcome.code, "(cached_answers)" in outcome.err) == (7, True)
    assert project.harness("verify", str(exports / "safety"), *strict).code == 7
    reseal(exports / "domain", ignored=[], answers={"requests": 120, "cache_hits": 0})
    sign_export(exports / "domain", once / "release.key", unrecomputed=True)
    outcome = project.harness("verify", str(exports / "domain"), *strict)
    assert (outcome.code, outcome.err) == (0, "")
    assert project.harness("verify", str(exports / "domain"), *strict[:2]).code == 4
    assert project.harness("verify", str(exports / "domain"), *strict[2:]).code == 4
    outcome = project.harness("verify", str(exports / "domain"), *strict[:3], str(once / "second.pub"))
    assert (outcome.code, "no key of the policy" in outcome.err) == (7, True)


KEY = f'[[key]]\nkeyid = "a"\npublic = "{"0" * 64}"\n'
WRONG: dict[str, tuple[str, str]] = {
    "a key pasted above": (
        f'{KEY}suites = ["a"]',
        '"suites" is below [[key]], so it is read as a key of that table',
    ),
    "a claim pasted above": (
        f'[[claim]]\nmetric = "a.b"\nmin = 1\nsuites = ["a"]\n{KEY}',
        '"suites" is below [[claim]], so it is read as a key of that table; move it above',
    ),
    "an unknown key of a claim": (
        f'suites = ["a"]\n[[claim]]\nmetric = "a.b"\nmix = 1\n{KEY}',
        '[[claim]] number 1: unknown key "mix"; did you mean "min"?',
    ),
    "a claim of nothing": (
        f'suites = ["a"]\n[[claim]]\nmetric = "a.b"\n{KEY}',
        "[[claim]] number 1: a gate makes one claim; give one: ",
    ),
    "a claim of no metric": (
        f'suites = ["a"]\n[[claim]]\nmin = 1\n{KEY}',
        '[[claim]] number 1: metric is ""; write EVAL.METRIC',
    ),
    "a claim of gates": (
        f'suites = ["a"]\n[[claim]]\nmetric = "a.b"\nmin = 1\nrequires = ["x"]\n{KEY}',
        '"requires" is a key of a suite\'s gates; remove it',
    ),
    "a digest that is none": (
        f'suites = ["a"]\ndata = {{qa = "abc"}}\n{KEY}',
        '"data" of "qa" is "abc"; give the 64 hex digits from suite.lock.json',
    ),
    "a plugin without version": (
        f'suites = ["a"]\nplugins = ["abc"]\n{KEY}',
        ': "plugins" has "abc": pin the code as "NAME sha256:CODE" from suite.lock.json',
    ),
    "a plugin by its version": (
        f'suites = ["a"]\nplugins = ["finetune-harness 0.1.0"]\n{KEY}',
        (': a version is a label that anybody could write; pin the code as "NAME sha256:CODE" from suite.lock.json'),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_policy_is_one_line(case: str, project: Project) -> None:
    """A policy that cannot be meant names what is wrong, and nothing that follows from it."""
    text, told = WRONG[case]
    project.write({"policy.toml": text})
    (project.folder / "x").mkdir()
    outcome = project.harness("verify", "x", "--policy", "policy.toml")
    assert (outcome.code, outcome.err.count("\n")) == (4, 1), outcome.err
    assert told in outcome.err


def test_a_wrong_signature_beside_a_right_one_names_its_key(once: Path, exports: Path) -> None:
    """Two signatures, of which one fails."""
    path = exports / "domain" / EVIDENCE / "claims.intoto.jsonl"
    lines = path.read_text("utf-8").splitlines()
    signed = json.loads(lines[-1])
    twisted = {**signed["signatures"][0], "sig": "A" * 86 + "=="}
    path.write_text("\n".join([*lines, json.dumps({**signed, "signatures": [twisted]})]) + "\n", "utf-8")
    found = verify_under_policy(once, exports, "")
    assert found.refused.startswith('signatures: the signature with key "release" is invalid')


def replace_floor_gate(suite: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return a suite of a lock whose tables have another gate "floor", and the digest of these."""
    source = suite["source"]
    gates = [change(dict(g)) if g["id"] == "floor" else g for g in source["gate"]]
    source = {**source, "gate": gates}
    return {**suite, "source": source, "digest": digest_value(source)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda lock: {**lock, "suite": {**lock["suite"], "header": {**lock["suite"]["header"], "alpha": 0.5}}},
            "alpha of",
        ),
        (lambda lock: {**lock, "suite": {**lock["suite"], "digest": "0" * 64}}, "is not that of its tables"),
        (
            lambda lock: {**lock, "suite": replace_floor_gate(lock["suite"], lambda g: g | {"severity": "warn"})},
            'severity of gate "floor"',
        ),
    ],
)
def test_a_lock_is_that_of_its_suites_digest(exports: Path, change: Any, says: str) -> None:
    """A risk, a gate or a digest that the suite's tables do not have is refused, whatever a policy says."""
    make_evidence_edit(LOCK, change)(exports / "domain")
    reseal(exports / "domain")
    found = verify_export(exports / "domain")
    assert not found.ok and (says in found.refused or "gates: " in found.refused), found.refused


def test_a_digest_that_nothing_makes_pins_nothing(once: Path, exports: Path) -> None:
    """A lock without the tables of its digest, as of a suite with a secret, is refused where a policy pins that."""
    digest = read_lock_file(exports / "domain")["suite"]["digest"]
    make_evidence_edit(LOCK, lambda lock: {**lock, "suite": {k: v for k, v in lock["suite"].items() if k != "source"}})(
        exports / "domain"
    )
    reseal(exports / "domain")
    text = exports / "policy.toml"
    text.write_text(make_policy_text(once, f'suites = ["{digest}"]'), "utf-8")
    policy = replace(read_policy(text), threshold=0)
    assert (
        'gates: suite "domain" stores no tables to compute its digest from, and pins no gates'
        in verify_export(exports / "domain", policy).refused
    )
    assert verify_export(exports / "domain", replace(policy, suites=["domain"])).ok


def test_a_lower_gate_is_not_the_claim(once: Path, exports: Path) -> None:
    """H5: the id of a gate says nothing of its threshold; a claim does."""
    said = "at least 0.01"

    def lower(lock: dict[str, Any]) -> dict[str, Any]:
        return {
            **lock,
            "gates": [{**g, "min": 0.01, "claim": said} if g["id"] == "floor" else g for g in lock["gates"]],
        }

    make_evidence_edit(LOCK, lower)(exports / "domain")
    decide_gates_again(exports / "domain")
    text = exports / "policy.toml"
    text.write_text(make_policy_text(once, 'gates = ["floor"]'), "utf-8")
    found = verify_export(exports / "domain", replace(read_policy(text), threshold=0))
    assert 'min of gate "floor" is 0.01, but 0.5 in the suite\'s digest' in found.refused
    # who may sign could have made the tables and their digest anew, under the suite's name
    make_evidence_edit(
        LOCK, lambda lock: {**lock, "suite": replace_floor_gate(lock["suite"], lambda gate: gate | {"min": 0.01})}
    )(exports / "domain")
    decide_gates_again(exports / "domain")
    assert verify_export(exports / "domain", replace(read_policy(text), threshold=0)).ok
    digest = read_lock_file(once / "exports/domain")["suite"]["digest"]
    pinned = replace(read_policy(text), threshold=0, suites=[digest])
    assert "is not in the policy (suites)" in verify_export(exports / "domain", pinned).refused
    text.write_text(make_policy_text(once, f'gates = ["floor"]\n{QA}min = 0.5'), "utf-8")
    refused = verify_export(exports / "domain", replace(read_policy(text), threshold=0)).refused
    assert '"floor" says at least 0.01' in refused
