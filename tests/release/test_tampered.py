"""Exports edited at random: refused with and without a key and numpy, unless nothing that is verified follows from it.

TAMPERED sets the number of edits of each form, which is 12 otherwise.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.attestation import CARD, CLAIMS, EVIDENCE, GATES, ITEMS, LOCK, MANIFEST, REPORT
from harness.artifacts.folders import list_files
from harness.release.signing import load_signer, make_envelope
from harness.testing import SUITE
from tests.helpers.exports import reseal
from tests.helpers.suites import run_commands

pytest.importorskip("securesystemslib", reason="the extra `sign` is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tampered")]

EDITS = int(os.environ.get("TAMPERED", "12"))
ROWS = [
    {"id": f"q{i}", "input": f"question {i} say w{i}", "target": f"w{i}", "kind": "ab"[i % 2], "of": f"d{i // 3}"}
    for i in range(120)
]
TABLES = """
[[eval]]
name = "grouped"
use = "contains"
data = "test.jsonl"
cluster = "of"

[[eval]]
name = "quick"
use = "exact_match"
data = "test.jsonl"
stop = "early"

[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.0
requires = ["floor"]

[[gate]]
id = "each kind"
metric = "qa.exact_match"
min = 0.4
slice = "kind=*"

[[gate]]
id = "groups"
metric = "grouped.contains"
min = 0.4
severity = "warn"

[[gate]]
id = "soon"
metric = "quick.exact_match"
min = 0.4

[[gate]]
id = "hope"
metric = "qa.exact_match"
min = 0.999
severity = "warn"

[[gate]]
id = "tall"
metric = "qa.exact_match"
min = 0.998

"""
WAIVE = "waive tall --reason known --until 2099-12-31 --by kim --suite suite.toml"

# What an edit may change, although every digest is made anew and the statements are signed: what nothing follows from
# that `verify` says, or what only its producer can know. A name is a file and the keys in it, "#" is any list's index.
TESTIMONY = {
    # For people: neither is read by `verify`, and both are covered by the manifest's digests.
    rf"{EVIDENCE}/{REPORT}.*": "the report of the run, from which no verdict follows",
    rf"{CARD}.*": "the model card",
    rf"{EVIDENCE}/fingerprint\.json.*": "what the model answers, which `harness parity` compares with a server",
    # The evidence is of the model that these files make: a loader reads them, and `--replay` tests what it answers.
    r"model/(?!.*\.safetensors).*": "files beside the weights, which no evidence but the manifest's digest is about",
    # The producer's word on how the run went.
    rf"{EVIDENCE}/{MANIFEST}\.(name|invocation|answers|template|chosen|recipe|made_of)\b.*": "how the run was called",
    rf"{EVIDENCE}/{MANIFEST}\.started": "the time, where it is before the end of every waiver",
    rf"{EVIDENCE}/{MANIFEST}\.ledger\.(ledgers|heads|lines|began)\b.*": "lines beside the relevant ones",
    rf"{EVIDENCE}/{LOCK}\.(recorded|python|packages|harness|plugins)\b.*": "the software",
    rf"{EVIDENCE}/{LOCK}\.suite\.(name|file|digest|source|model|merge|adapter|train|subjects|exports)\b.*": "training",
    rf"{EVIDENCE}/{LOCK}\.suite\.header\.(name|seed|description)": "what no verdict follows from",
    rf"{EVIDENCE}/{LOCK}\.suite\.evals\.#\.(?!name|private|stop|slices|rows_at_most).*": "how an answer was asked for",
    rf"{EVIDENCE}/{LOCK}\.subjects\.(?!base).*": "the weights of other models",
    rf"{EVIDENCE}/{LOCK}\.data\..*": "rows that are not in the evidence, as those trained on",
    # What a model answered, as far as no gate counts it.
    rf"{EVIDENCE}/{ITEMS}\.\S+\.(answer_hash|finish_reason|tokens)\b.*": "an answer, which --replay asks for again",
    rf"{EVIDENCE}/{ITEMS}\.(adapter::\w+|base::grouped|base::quick)\..*": "scores that no gate is about",
}


class Edit:
    """An edit of one place: a file, and the keys in it."""

    def __init__(self, place: str, apply: Callable[[], object]) -> None:
        self.place, self.apply = place, apply


def draw_edit(export: Path, luck: random.Random) -> Edit:
    """Draw an edit of any leaf of a record, any row, any field of a verdict, or any file."""
    kind = luck.choice(("record", "verdict", "row", "file"))
    if kind == "record":
        return draw_record_edit(export, luck.choice((MANIFEST, LOCK, LOCK, MANIFEST, GATES, REPORT)), luck)
    if kind == "verdict":
        return draw_record_edit(export, GATES, luck)
    if kind == "row":
        return draw_row_edit(export, luck)
    return draw_file_edit(export, luck)


def draw_record_edit(export: Path, name: str, luck: random.Random) -> Edit:
    path = export / EVIDENCE / name
    record = json.loads(path.read_text("utf-8"))
    place = change_somewhere(record, luck)
    return Edit(f"{EVIDENCE}/{name}{place}", lambda: path.write_text(json.dumps(record, indent=1), "utf-8"))


def draw_row_edit(export: Path, luck: random.Random) -> Edit:
    path = export / EVIDENCE / ITEMS
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    number, how = luck.randrange(len(rows)), luck.choice(("leaf", "leaf", "leaf", "drop", "twice", "swap"))
    place, item = "", rows[number]["item"]
    if how == "leaf":
        place = change_somewhere(rows[number], luck)
    elif how == "drop":
        del rows[number]
    elif how == "twice":
        rows.insert(number, rows[number])
    else:
        other = luck.choice([i for i, row in enumerate(rows) if row["item"] == rows[number]["item"] and i != number])
        rows[number]["id"], rows[other]["id"] = rows[other].get("id"), rows[number].get("id")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    return Edit(f"{EVIDENCE}/{ITEMS}.{item}{place}", lambda: path.write_text(text, "utf-8"))


def change_somewhere(record: Any, luck: random.Random, place: str = "") -> str:
    """Change one leaf of a record, or take or add a key, and return its place."""
    keys: list[Any] = list(record) if isinstance(record, dict) else list(range(len(record)))
    key = luck.choice(keys) if keys else None
    within = record[key] if key is not None else None
    name = f"{place}.{'#' if isinstance(record, list) else key}"
    if isinstance(within, dict) and "gate" in within:
        name += f".{within['gate']}"
    if isinstance(within, (dict, list)) and within and luck.random() < 0.85:
        return change_somewhere(within, luck, name)
    if key is None or luck.random() < 0.05:
        if isinstance(record, dict):
            record["extra"] = luck.choice((1, "x", None))
            return f"{place}.extra"
        record.append("x")
        return f"{place}.#"
    if luck.random() < 0.15:
        del record[key]
    else:
        record[key] = luck.choice([value for value in other_values(within) if not is_same(value, within)])
    return name


def other_values(value: Any) -> list[Any]:
    """Return values that somebody might put in the place of another."""
    if isinstance(value, bool):
        return [not value, int(value), None]
    if isinstance(value, (int, float)):
        return [value + 1, value * 1.01 + 0.001, -value - 1, 0, 1, 0.5, str(value), None]
    if isinstance(value, str):
        return [value + "x", value[:-1], "PASS", "0" * 64, "2020-01-01", 1, None]
    if isinstance(value, list):
        return [[], [*value, *value[-1:]], value[:-1], value[::-1], None]
    return [{}, [], 0, 1, 0.5, "x", True]


def is_same(value: Any, other: Any) -> bool:
    """Return whether two values mean the same: numbers below 1e-12 are rounding, as p-values of 0 and 1e-20 are."""
    if type(value) in (int, float) and type(other) in (int, float):
        return abs(value - other) < 1e-12
    return type(value) is type(other) and bool(value == other)


def draw_file_edit(export: Path, luck: random.Random) -> Edit:
    name = luck.choice(sorted(list_files(export)))
    path = export / name
    data = path.read_bytes()
    where = luck.randrange(len(data) or 1)
    flipped = bytes(byte ^ 1 << luck.randrange(8) for byte in data[where : where + 1])
    edits: dict[str, Callable[[], object]] = {
        "flip": lambda: path.write_bytes(data[:where] + flipped + data[where + 1 :]),
        "cut": lambda: path.write_bytes(data[:where]),
        "grow": lambda: path.write_bytes(data + b" x"),
        "drop": path.unlink,
        "move": lambda: path.rename(path.with_name(f"{path.name}x")),
        "add": lambda: path.with_name("extra.json").write_text("{}"),
    }
    how = luck.choice([how for how in edits if data or how != "flip"])
    return Edit(f"{name}" if how != "add" else str(Path(name).with_name("extra.json")), edits[how])


# -- the exports -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the export of a second attempt, with a waived gate and a signature, a key and a policy."""
    head, _, tail = SUITE.partition("[[export]]")
    suite = head.replace('name = "fake"', 'name = "fake"\nattempts = "spend"') + TABLES + "[[export]]" + tail
    folder = run_commands(
        tmp_path_factory.mktemp("tampered"),
        WAIVE,
        "run suite.toml -q --no-export",
        "run suite.toml -q --set train.skill=0.95",
        "keygen release",
        "sign exports/fake --key release.key",
        suite=suite,
        files={"test.jsonl": ROWS},
    )
    policy = 'suites = ["fake"]\n' + (folder / "release.pub").read_text("utf-8")
    (folder / "policy.toml").write_text(policy, "utf-8")
    for form in ("sealed anew", "signed anew"):  # what nobody edited, in the same form
        shutil.copytree(folder / "exports/fake", folder / form)
        reseal(folder / form)
    sign_anew(folder / "signed anew", folder / "release.key")
    return folder


def sign_anew(export: Path, key: Path) -> None:
    """Sign whatever the statements say, as a holder of the key can."""
    path, signer = export / EVIDENCE / CLAIMS, load_signer(key)
    from harness.artifacts.attestation import read_envelopes

    envelopes = read_envelopes(path.read_text("utf-8"))
    path.write_text("".join(f"{make_envelope(e.payload, signer).to_json_line()}\n" for e in envelopes), "utf-8")


def make_tampered(once: Path, folder: Path, form: str, number: int) -> tuple[Path, str] | None:
    """Write a tampered copy, and return it with the place of the edit.

    None where the edit is undone by sealing anew, or where nothing can be sealed.
    """
    luck = random.Random(f"{form} {number}")
    export = shutil.copytree(once / "exports/fake", folder / f"{number}")
    edit = draw_edit(export, luck)
    edit.apply()
    if form == "as it was":
        return export, edit.place
    try:
        reseal(export)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
        return None
    if form == "signed anew":
        sign_anew(export, once / "release.key")
    return None if read_all(export) == read_all(once / form) else (export, find_place(once / form, export, edit.place))


def read_all(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in list_files(folder)}


def find_place(before: Path, after: Path, place: str) -> str:
    """Return the place of an edit of bytes in a record: of the first value that is another."""
    if place not in (f"{EVIDENCE}/{name}" for name in (MANIFEST, LOCK, GATES)):
        return place
    try:
        record, other = (json.loads((folder / place).read_bytes()) for folder in (before, after))
    except ValueError:
        return place
    return place + find_difference(record, other)


def find_difference(record: Any, other: Any) -> str:
    if isinstance(record, dict) and isinstance(other, dict) and record.keys() == other.keys():
        key = next((key for key in record if record[key] != other[key]), None)
        return "" if key is None else f".{key}{find_difference(record[key], other[key])}"
    if isinstance(record, list) and isinstance(other, list) and len(record) == len(other):
        index = next((i for i, value in enumerate(record) if value != other[i]), None)
        return "" if index is None else f".#{find_difference(record[index], other[index])}"
    return ""


VERIFY = """
import json, sys
if "no numpy" in sys.argv:
    sys.modules |= dict.fromkeys(["numpy", "scipy"])
from pathlib import Path
from harness.release.policy import read_policy
from harness.release.verify import verify_export
policy = read_policy(Path(sys.argv[2])) if sys.argv[2] else None
for line in sys.stdin:
    found = verify_export(Path(line.strip()), policy)
    verified = found.ok and not found.recorded  # of which the command's last line says "verified"
    print(json.dumps({"verified": verified, "refused": found.refused, "left": sorted(found.unable)}))
"""


def verify_all(exports: list[Path], policy: Path | None, libraries: str) -> Iterator[dict[str, Any]]:
    """Yield what a process of its own says of each export."""
    command = [sys.executable, "-c", VERIFY, libraries, str(policy or "")]
    done = subprocess.run(command, input="".join(f"{e}\n" for e in exports), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield from map(json.loads, done.stdout.splitlines())


def test_the_export_itself_is_verified(once: Path) -> None:
    """What is edited below is accepted as it is: the second attempt, with a waiver."""
    gates = json.loads((once / "exports/fake" / EVIDENCE / GATES).read_text("utf-8"))
    assert {gate["parts"]["attempt"]["number"] for gate in gates} == {2}
    assert [gate["gate"] for gate in gates if "waived" in gate["parts"]] == ["tall"]
    for libraries, policy, left in (("numpy", once / "policy.toml", []), ("no numpy", None, ["groups"])):
        (found,) = verify_all([once / "exports/fake"], policy, libraries)
        assert (found["refused"], found["left"]) == ("", left)


@pytest.mark.parametrize("libraries", ["numpy", "no numpy"])
@pytest.mark.parametrize("form", ["as it was", "sealed anew", "signed anew"])
def test_what_was_tampered_with_is_refused(form: str, libraries: str, once: Path, tmp_path: Path) -> None:
    """At any leaf of a record, any row, any field of a verdict or any file."""
    made = [one for number in range(EDITS) if (one := make_tampered(once, tmp_path, form, number))]
    policy = once / "policy.toml" if form == "signed anew" else None
    results = verify_all([export for export, _ in made], policy, libraries)
    accepted = [
        (export.name, place)
        for (export, place), found in zip(made, results, strict=True)
        if found["verified"] and not is_expected(form, place, found["left"])
    ]
    assert accepted == []


def is_expected(form: str, place: str, left: list[str]) -> bool:
    """Return whether an edit may pass: nothing that is verified follows from it, or it is listed as not decided."""
    if form == "as it was":
        return False
    testimony = any(re.fullmatch(pattern, place) for pattern in TESTIMONY)
    return testimony or (bool(left) and place.startswith(f"{EVIDENCE}/{GATES}.#.{left[0]}"))


# -- what a key holder may try on purpose ----------------------------------------------------------


def edit_lock(export: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit_record(export, LOCK, change)


def edit_record(export: Path, name: str, change: Callable[[Any], object]) -> None:
    path = export / EVIDENCE / name
    record = json.loads(path.read_text("utf-8"))
    change(record)
    path.write_text(json.dumps(record), "utf-8")


def edit_verdict(export: Path, gate: str, /, **changes: Any) -> None:
    edit_record(export, GATES, lambda gates: next(g for g in gates if g["gate"] == gate).update(changes))


def edit_part(export: Path, gate: str, part: str, /, **changes: Any) -> None:
    """Change a part of a verdict, or remove it where nothing is to be changed."""

    def change(gates: list[dict[str, Any]]) -> None:
        parts = next(g["parts"] for g in gates if g["gate"] == gate)
        parts[part] = {**parts.pop(part, {}), **changes}
        if not changes:
            del parts[part]

    edit_record(export, GATES, change)


def record_attempt(export: Path, number: int, alpha: float) -> None:
    """Let the verdict on "floor" say that it is another attempt."""
    edit_part(export, "floor", "attempt", number=number)
    edit_verdict(export, "floor", alpha=alpha)


def edit_gate(export: Path, gate: str, **changes: Any) -> None:
    edit_lock(export, lambda lock: next(g for g in lock["gates"] if g["id"] == gate).update(changes))


def forget_an_attempt(manifest: dict[str, Any], *, rewrite: bool) -> None:
    """Leave out the earlier look at the rows, and with `rewrite` let the later ones say that they were the first."""
    ledger = manifest["ledger"]
    gone = {line["id"] for line in ledger["looks"] if line["attempt"] == 1}
    ledger["looks"] = [line for line in ledger["looks"] if line["id"] not in gone]
    for entry in ledger["attempts"].values():
        entry["near"] = [line for line in entry["near"] if line not in gone]
    if rewrite:
        for line in ledger["looks"]:
            line["attempt"] = 1


def forget_ledger(export: Path) -> None:
    """Let lock and manifest say that no evaluation counts as an attempt."""
    edit_lock(export, lambda lock: lock.update(attempts={}))
    edit_record(export, MANIFEST, lambda manifest: manifest["ledger"].update(attempts={}, looks=[]))
    for gate in ("floor", "better", "each kind", "groups", "soon", "hope", "tall"):
        edit_part(export, gate, "attempt")
        edit_verdict(export, gate, alpha=0.05)


def waive_until(export: Path, until: str, gate: str = "tall") -> None:
    edit_lock(export, lambda lock: lock["waivers"][0].update(until=until, gate=gate))
    edit_part(export, "tall", "waived", line=json.loads((export / EVIDENCE / LOCK).read_text("utf-8"))["waivers"][0])


FIRST = 0.05 * 6 / 3.141592653589793**2  # of a first attempt, where alpha is spent
FORGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "an alpha": (lambda e: edit_verdict(e, "floor", alpha=0.5), "was decided at alpha 0.5, not 0.00759909"),
    "the suite's alpha": (
        lambda e: edit_lock(e, lambda lock: lock["suite"]["header"].update(alpha=0.5)),
        "alpha of the suite differs from the tables of its digest",
    ),
    "a gate's alpha": (lambda e: edit_gate(e, "floor", alpha=0.5), 'alpha of gate "floor" is 0.5'),
    "a prerequisite": (lambda e: edit_gate(e, "better", requires=[]), 'requires of gate "better" is []'),
    "an attempt": (
        lambda e: record_attempt(e, 1, FIRST),
        'gate "floor" is recorded as attempt 1, but the ledger gives 2',
    ),
    "an attempt and its line": (
        lambda e: (
            edit_record(e, MANIFEST, lambda manifest: forget_an_attempt(manifest, rewrite=False)),
            record_attempt(e, 1, FIRST),
        ),
        'gate "floor" is recorded as attempt 1, but the ledger gives 2',
    ),
    "an attempt in its lines": (
        lambda e: edit_record(e, MANIFEST, lambda manifest: forget_an_attempt(manifest, rewrite=True)),
        "was changed after it was written",
    ),
    "all attempts": (forget_ledger, 'the attempt of "grouped" is not in the ledger'),
    "the looks": (
        lambda e: edit_lock(e, lambda lock: lock["looks"].update(quick=[10, 120])),
        'the looks at the rows of "quick" are not those of 120 rows',
    ),
    "looks of a verdict": (
        lambda e: edit_part(e, "floor", "interim_analysis", critical=True, looks=[60, 120], most=120, alpha=0.05),
        'gate "floor" is recorded after looks at [60, 120] rows, but the ledger gives []',
    ),
    "a waiver": (
        lambda e: edit_lock(e, lambda lock: lock.update(waivers=[])),
        'gate "tall" is waived, but the lock has no such waiver in force',
    ),
    "no waiver": (lambda e: edit_part(e, "tall", "waived"), 'gate "tall" is FAIL'),
    "a waiver of before": (lambda e: waive_until(e, "2020-01-01"), "and its waiver expired on 2020-01-01"),
    "a waiver of another gate": (lambda e: waive_until(e, "2099-12-31", "hope"), "its waiver is for another claim"),
    "labels that a metric needs": (
        lambda e: edit_lock(e, lambda lock: lock["metrics"]["qa"]["exact_match"].update(labelled=True)),
        "cannot be decided on the rows in the evidence: there are no labels",
    ),
    "a part of a newer version": (
        lambda e: edit_part(e, "floor", "insured", critical=True),
        'the verdict has a part "insured" that this version of the harness does not know',
    ),
    "a part that says nothing of itself": (
        lambda e: edit_part(e, "floor", "insured", by="x"),
        'the verdict has a part "insured" that this version of the harness does not know',
    ),
    "a part that the rows do not give": (
        lambda e: edit_part(e, "floor", "weightless", critical=False, rows=3),
        'gate "floor" has a part "weightless" that its rows do not give',
    ),
    "parts that are a text": (lambda e: edit_verdict(e, "floor", parts="none"), "malformed"),
    "a field of a verdict": (
        lambda e: edit_verdict(e, "floor", judged_by="x"),
        "has other fields than a verdict: judged_by",
    ),
    "a verdict twice": (
        lambda e: edit_record(e, GATES, lambda gates: gates.append(gates[0])),
        'gate "floor" has two verdicts',
    ),
    "a verdict less": (lambda e: edit_record(e, GATES, lambda gates: gates.pop(0)), 'gate "floor" has no verdict'),
}


@pytest.mark.parametrize("libraries", ["numpy", "no numpy"])
def test_what_a_key_holder_forges_is_refused(libraries: str, once: Path, tmp_path: Path) -> None:
    """Whoever may sign, neither rows nor ledger nor lock let a verdict follow from anything else."""
    exports = []
    for name, (forge, _) in FORGED.items():
        exports.append(shutil.copytree(once / "exports/fake", tmp_path / name.replace(" ", "-")))
        forge(exports[-1])
        reseal(exports[-1])
        sign_anew(exports[-1], once / "release.key")
    refused = [found["refused"] for found in verify_all(exports, once / "policy.toml", libraries)]
    odd = [(name, why) for (name, (_, told)), why in zip(FORGED.items(), refused, strict=True) if told not in why]
    assert odd == []


@pytest.mark.parametrize("libraries", ["numpy", "no numpy"])
@pytest.mark.parametrize("gate", ["better", "each kind"])
def test_every_field_of_a_verdict_follows_from_its_rows(gate: str, libraries: str, once: Path, tmp_path: Path) -> None:
    """A verdict on 0/1 rows that a key holder changes in any field is refused, with and without numpy."""
    gates = json.loads((once / "exports/fake" / EVIDENCE / GATES).read_text("utf-8"))
    recorded = next(verdict for verdict in gates if verdict["gate"] == gate)
    luck, exports = random.Random(gate), []
    for field, value in recorded.items():
        others = [other for other in other_values(value) if not is_same(other, value)]
        export = shutil.copytree(once / "exports/fake", tmp_path / field)
        edit_verdict(export, gate, **{field: luck.choice(others)})
        try:
            reseal(export)
        except (ValueError, KeyError, TypeError, ArithmeticError):  # no statement can say that
            continue
        sign_anew(export, once / "release.key")
        exports.append(export)
    results = verify_all(exports, once / "policy.toml", libraries)
    assert [export.name for export, found in zip(exports, results, strict=True) if not found["refused"]] == []
    assert len(exports) > len(recorded) // 2


def test_what_needs_numpy_passes_no_policy_that_names_it(once: Path) -> None:
    """Without numpy a gate on clusters is listed by name, and refused where a policy names it."""
    policy = (once / "policy.toml").read_text("utf-8")
    (once / "named.toml").write_text(f'gates = ["groups"]\n{policy}', "utf-8")
    (found,) = verify_all([once / "exports/fake"], once / "named.toml", "no numpy")
    assert '"groups", which the policy names, was not decided again, because it needs' in found["refused"]
    (found,) = verify_all([once / "exports/fake"], once / "named.toml", "numpy")
    assert found["refused"] == ""
