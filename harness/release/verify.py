"""`harness verify`: are these the bytes that passed, and who says so? Reads files, runs nothing of them.

It stops at the first step that fails. Without a policy it proves that the bytes are the ones the evidence speaks of,
and that its verdicts follow from its rows, not who wrote the evidence. Needs the standard library alone, and
securesystemslib for signatures, numpy and scipy for claims that are not about 0/1 rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.artifacts import attestation, formats, shapes
from harness.artifacts.attestation import (
    CLAIMS,
    COMPANIONS,
    EVIDENCE,
    GATES,
    LOCK,
    MANIFEST,
    MODEL,
    UNLISTED,
    Envelope,
    recorded_attempt,
    recorded_waiver,
)
from harness.artifacts.digests import (
    Hashed,
    digest_value,
    hash_files,
    root_digest,
    template_digest,
    weights_digest_of_files,
)
from harness.artifacts.folders import FolderError, ForeignFolder, parse_record
from harness.artifacts.shapes import require_shape
from harness.artifacts.stamps import read_stamps
from harness.errors import UsageError
from harness.gates.attempts import AttemptNumber
from harness.records.waivers import IGNORED
from harness.release import policy_checks
from harness.release.evidence_rows import EvidenceRows, read_rows
from harness.release.ledger_evidence import read_attempts
from harness.release.lock_reader import LockedSuite, read_lock, require_lock_format
from harness.release.policy import ExportRefusedError, Policy, list_unchecked, require_signers, verified_signers
from harness.release.recomputation import recompute_verdicts
from harness.release.served import require_served_statement
from harness.release.source import find_source_error
from harness.release.verified import SuiteComparison, VerifiedExport, read_evidence_file
from harness.texts.counts import count_noun
from harness.texts.json_text import MALFORMED

CompareSuite = Callable[[Path, Mapping[str, Any]], SuiteComparison]  # of an export's folder and its lock
UNSIGNED_TEXT = "no policy: bytes match the evidence, but the evidence is not authenticated"


def _require_shape_of(name: str, record: Any, shape: Any) -> None:
    """Raise ExportRefusedError at a record of another shape."""
    try:
        require_shape(record, shape)
    except ValueError as error:
        raise ExportRefusedError(f'"{EVIDENCE}/{name}" is malformed: {error}') from None


def _require_plain_names(names: Collection[str]) -> None:
    """Raise ExportRefusedError at a name that another system could read as another file's, or that exports lack."""
    by_folded: dict[str, str] = {}
    for name in names:
        if not _is_plain_name(name):
            raise ExportRefusedError(f"{json.dumps(name)} in the manifest is not a plain relative name")
        if (other := by_folded.setdefault(name.casefold(), name)) != name:
            raise ExportRefusedError(f'"{name}" and "{other}" differ only in upper and lower case')
    if stray := sorted(name for name in names if not name.startswith(f"{MODEL}/") and name not in COMPANIONS):
        raise ExportRefusedError(f'"{stray[0]}" is not a file of an export')


def _is_plain_name(name: str) -> bool:
    """Return whether a name means the same file below a folder on every system."""
    if not name.isascii() or any(c in '\\:*?"<>|' or ord(c) < 32 or ord(c) == 127 for c in name):
        return False
    parts = name.split("/")
    return not any(p in ("", ".", "..") or p.endswith((".", " ")) or formats.DEVICES.fullmatch(p) for p in parts)


def _files_of_model(hashes: Mapping[str, Hashed]) -> dict[str, Hashed]:
    """Return the hashes of the model's files, by their name in its folder."""
    prefix = f"{MODEL}/"
    return {name.removeprefix(prefix): hashed for name, hashed in hashes.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class _EvidenceFiles:
    manifest: Mapping[str, Any]
    lock: Mapping[str, Any]
    gates: Sequence[Mapping[str, Any]]
    raw: Mapping[str, bytes]


def verify_export(
    folder: Path,
    policy: Policy | None = None,
    now: datetime | None = None,
    *,
    last: Path | None = None,
    beside: Sequence[Path] = (),
    compare_suite: CompareSuite | None = None,
    served: Path | None = None,
) -> VerifiedExport:
    """Verify an export.

    Exports `beside` it are evidence of other suites about the same model. Each is verified, and one of them must meet
    each gate, data set and claim of the policy. `compare_suite` compares the lock with a copy of the suite; `served` is
    a file of `harness parity` statements to check. Raises UsageError if a folder does not exist, or a needed package is
    missing; all other failures are part of the result.
    """
    for one in (folder, *beside):
        if not one.is_dir():
            raise UsageError(f"{one}: is not a folder; name an export of harness run")
    how = (policy, now or datetime.now(UTC), bool(beside), served)
    check = _Verification(folder, *how, last, [_Verification(one, *how) for one in beside], compare_suite)
    check.verified.unchecked = list_unchecked(policy, {"suites", "[[claim]]", "data"} if compare_suite else ())
    return check.go()


@dataclass
class _Verification:
    """One verification, which reads the evidence only once.

    Thus the bytes that were compared are those that are judged. If `joined`, other exports may meet the demands that
    this one lacks.
    """

    folder: Path
    policy: Policy | None
    now: datetime
    joined: bool
    served: Path | None
    last: Path | None = None
    others: Sequence[_Verification] = ()
    suite_comparison: CompareSuite | None = None

    def __post_init__(self) -> None:
        self.verified, self.met = VerifiedExport(str(self.folder)), policy_checks.PolicyMatch({}, frozenset())
        self.rows = EvidenceRows((), {}, {}, {})  # once they were read
        self.numbers: Mapping[str, AttemptNumber] = {}  # by evaluation, once the ledger was read

    def go(self) -> VerifiedExport:
        alone = self.policy and self.policy.all_of and not self.joined  # it stands for all suites that a policy wants
        steps: dict[str, Callable[[], str]] = {
            "signatures": self.signatures,
            "digests": self.digests,
            "gates": self.gates,
            "formats": lambda: formats.check_files(self.folder / MODEL),
            "configuration": lambda: formats.check_configuration(self.folder / MODEL),
            "chat template": self.template,
            "rows": self.read_rows,
            "attempts": self.attempts,
            "verdicts": self.decide_again,
            **({"all_of": self.together} if self.others or alone else {}),
            **({"suite": self.compare_suite} if self.suite_comparison else {}),
            **({"served": self.answers} if self.served or (self.policy and self.policy.served) else {}),
        }
        for name, step in (("digests", self.stamp), *steps.items(), ("digests", self.unchanged)):
            try:
                if said := step():
                    self.verified.steps[name] = said
                continue
            except ExportRefusedError as error:
                why = str(error)
            except formats.UnsafeFileError as error:
                why = f"{MODEL}/{error}"
            except FolderError as error:
                why = error.problem
            except OSError as error:
                why = f"{error.filename or self.folder} cannot be read: {error.strerror or error}"
            except MALFORMED as error:
                why = f"the evidence is malformed: {type(error).__name__}: {' '.join(str(error).split())}"
            self.verified.refused = f"{name}: {why}"
            return self.verified
        self.verified.ok = True
        return self.verified

    def stamp(self) -> str:
        self.verified.stamps = read_stamps(self.folder)
        return ""

    def unchanged(self) -> str:
        """Raise ExportRefusedError if a file changed during verification."""
        if changed := self.verified.find_change():
            raise ExportRefusedError(f"{changed} changed while it was verified")
        return ""

    def read(self, name: str) -> bytes:
        data = self.verified.raw[name] = read_evidence_file(self.folder, name)
        self.verified.read[name] = hashlib.sha256(data).hexdigest()
        return data

    @cached_property
    def evidence(self) -> _EvidenceFiles:
        raw = {name: self.read(name) for name in (MANIFEST, LOCK, GATES)}
        data = {name: parse_record(text) for name, text in raw.items()}
        return _EvidenceFiles(data[MANIFEST], data[LOCK], data[GATES], raw)

    @cached_property
    def envelopes(self) -> list[Envelope]:
        try:
            return attestation.read_envelopes(self.read(CLAIMS).decode("utf-8"))
        except ValueError as error:
            raise ExportRefusedError(f"{CLAIMS}: {error}") from None

    # -- 1: signatures -----------------------------------------------------------------------------

    def signatures(self) -> str:
        """Return a summary of the signers. Raises ExportRefusedError if one is invalid, or too few signed."""
        if self.policy is None:
            self.verified.notes.append(UNSIGNED_TEXT)
            return "not checked: no policy"
        signed: dict[bytes, set[str]] = {}
        for envelope in self.envelopes:
            signed.setdefault(envelope.payload, set()).update(verified_signers(envelope, self.policy))
        signers = [
            set(require_signers(by, self.policy, f"claim {json.loads(payload).get('predicateType')}"))
            for payload, by in signed.items()
        ]
        self.verified.signed_by = sorted(set.intersection(*signers))
        return f"signed by {', '.join(self.verified.signed_by)}"

    # -- 2: digests --------------------------------------------------------------------------------

    def digests(self) -> str:
        """Return a summary of the hashed files.

        Raises ExportRefusedError unless the files match the manifest, and the claims are about it.
        """
        self._require_known_formats()
        manifest = self.evidence.manifest
        listed: Mapping[str, Mapping[str, Any]] = manifest["files"]
        _require_plain_names(listed)
        hashes = self._hash_listed_files(listed)
        self._require_judged_weights(hashes)
        self._require_judged_subjects_and_rows()
        for name in (LOCK, GATES):
            if hashlib.sha256(self.evidence.raw[name]).hexdigest() != listed[f"{EVIDENCE}/{name}"]["sha256"]:
                raise ExportRefusedError(f'"{EVIDENCE}/{name}" changed while it was read')
        digests = {name: hashed.sha256 for name, hashed in _files_of_model(hashes).items()}
        if not digests or root_digest(digests) != manifest["root"]:
            raise ExportRefusedError(f"the root digest of {MODEL}/ differs from the manifest's")
        self._require_statements()
        self.verified.root, self.verified.candidate = manifest["root"], str(manifest["candidate"])
        self.verified.suite = str(self.evidence.lock["suite"]["name"])
        return f"{len(listed)} files, root {self.verified.root[:16]}"

    def _require_known_formats(self) -> None:
        """Raise ExportRefusedError at evidence of another version, or with other keys or types."""
        manifest = self.evidence.manifest
        if type(manifest["format"]) is not int or manifest["format"] != attestation.FORMAT_VERSION:
            reads = f"this harness reads {attestation.FORMAT_VERSION}; export again"
            raise ExportRefusedError(f"{MANIFEST} has format {manifest['format']!r}, {reads}")
        _require_shape_of(MANIFEST, manifest, shapes.MANIFEST)
        _require_shape_of(GATES, self.evidence.gates, shapes.VERDICTS)
        require_lock_format(self.evidence.lock)
        _require_shape_of(LOCK, self.evidence.lock, shapes.LOCK_OF_EXPORT)

    def _hash_listed_files(self, listed: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Hashed]:
        """Return the hashes of all files. Raises ExportRefusedError unless they match the manifest."""
        sizes = ForeignFolder(self.folder).list_files()
        for name in UNLISTED:
            if sizes.pop(name, None) is None:
                raise ExportRefusedError(f'"{name}" is missing')
        for name in sorted(listed.keys() | sizes.keys()):  # names and sizes first, because that is cheap
            if name not in sizes:
                raise ExportRefusedError(f'"{name}" is missing')
            if name not in listed:
                raise ExportRefusedError(f'"{name}" is not in the manifest')
            if sizes[name] != listed[name]["size"]:
                expected = f"{listed[name]['size']} in the manifest"
                raise ExportRefusedError(f'"{name}" has {sizes[name]} bytes, but {expected}')
        try:
            hashes = hash_files(self.folder, listed)
        except ValueError as error:
            raise ExportRefusedError(str(error).removeprefix(f"{self.folder}/")) from None
        for name, entry in listed.items():
            if hashes[name].sha256 != entry["sha256"]:
                raise ExportRefusedError(f'"{name}" differs from the file of the manifest: another sha256')
        return hashes

    def _require_judged_weights(self, hashes: Mapping[str, Hashed]) -> None:
        """Raise ExportRefusedError unless the gates judged these weights, and an adapter's base is the lock's."""
        manifest = self.evidence.manifest
        try:
            digest = weights_digest_of_files(_files_of_model(hashes))
        except ValueError as error:
            raise ExportRefusedError(f"{MODEL}/ {error}") from None
        if adapter := manifest.get("adapter"):
            if adapter["base"] != self.evidence.lock["subjects"]["base"]:
                raise ExportRefusedError(
                    f"the adapter in {MODEL}/ was evaluated on a base that differs from the suite's"
                )
            digest = digest_value([adapter["base"], digest, adapter["quantization"]])
        if digest != manifest["weights"]:
            raise ExportRefusedError(f"the weights in {MODEL}/ differ from the evaluated ones")

    def _require_judged_subjects_and_rows(self) -> None:
        """Raise ExportRefusedError unless the evaluations are of the lock's models and rows."""
        weights, digests = self.evidence.lock["subjects"], self.locked.digests
        for item, evaluation in self.evidence.manifest["evaluations"].items():
            subject, _, name = item.partition("::")
            if evaluation["weights"] != weights.get(subject, evaluation["weights"]):
                raise ExportRefusedError(f"{item} was evaluated on weights that differ from those in {LOCK}")
            if evaluation["rows"] != digests.get(name, evaluation["rows"]):
                raise ExportRefusedError(f"{item} was evaluated on rows that differ from those in {LOCK}")

    def _require_statements(self) -> None:
        """Raise ExportRefusedError unless the statements are all that are made of this evidence, and no others."""
        raw = self.evidence.raw
        expected = attestation.make_statements(raw[MANIFEST], raw[LOCK], self.evidence.gates)
        payloads = [envelope.payload for envelope in self.envelopes]
        if any(payload not in expected for payload in payloads):
            raise ExportRefusedError(f"{CLAIMS} is about another export, or about the evidence of another run")
        if any(payload not in payloads for payload in expected):
            raise ExportRefusedError(f"{CLAIMS} lacks a claim about this export")

    # -- 3: gates ----------------------------------------------------------------------------------

    def gates(self) -> str:
        """Return how many gates hold.

        Raises ExportRefusedError where one that blocks neither passed here nor is waived.
        """
        candidate, lock = self.evidence.manifest["candidate"], self.evidence.lock
        verdicts = self._verdicts_by_gate()
        on_candidate = [gate for gate in lock["gates"] if candidate in gate["candidates"]]
        required = {gate["id"] for gate in on_candidate if gate["blocking"]}
        if not required:
            raise ExportRefusedError(f"no blocking gate is on {candidate}")
        if self.policy:
            self._require_policy_met(self.policy, verdicts)
            required |= set(self.policy.gates) & verdicts.keys()
        for name in sorted({*required, *(gate["id"] for gate in on_candidate)}):
            if name not in verdicts:
                raise ExportRefusedError(f'gate "{name}" has no verdict on {candidate}')
        for verdict in self.evidence.gates:
            self._require_same_weights(verdict)
        for name in sorted(required):
            self._require_passed_or_waived(verdicts[name])
        for ignored in self.evidence.manifest["ignored"]:
            self._require_waived_check(ignored)
        if error := find_source_error(lock["suite"], lock["gates"]):
            raise ExportRefusedError(f"{LOCK}: {error}")
        waived = sum(verdicts[gate]["outcome"] != "PASS" for gate in required)
        return count_noun(len(required), "gate") + (f", {waived} of them waived" if waived else " passed")

    def _verdicts_by_gate(self) -> dict[str, Mapping[str, Any]]:
        """Return the verdicts. Raises ExportRefusedError where a gate has two."""
        verdicts: dict[str, Mapping[str, Any]] = {}
        for verdict in self.evidence.gates:
            if verdict["gate"] in verdicts:
                raise ExportRefusedError(f'{EVIDENCE}/{GATES}: gate "{verdict["gate"]}" has two verdicts')
            verdicts[verdict["gate"]] = verdict
        return verdicts

    def _require_policy_met(self, policy: Policy, verdicts: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise ExportRefusedError at the first demand of the policy that is not met, here or by another export."""
        manifest, lock = self.evidence.manifest, self.evidence.lock
        for refusal in policy_checks.find_refusals(policy, manifest, lock, self.now):
            raise ExportRefusedError(refusal)
        self.met = policy_checks.match_policy(policy, lock, self.locked, verdicts, manifest["candidate"])
        if self.met.lacking and not self.joined:
            raise ExportRefusedError(next(iter(self.met.lacking.values())))

    def _require_waived_check(self, ignored: Mapping[str, Any]) -> None:
        """Raise ExportRefusedError unless a waiver of the lock covers a check's errors, which becomes a note."""
        problem = f'check "{ignored["check"]}" failed and was ignored'
        facts = {key: ignored[key] for key in ("by", "reason", "until")}
        waivers = [waiver for waiver in self.evidence.lock["waivers"] if waiver["claim"] == IGNORED]
        if not any(facts.items() <= waiver.items() for waiver in waivers):
            raise ExportRefusedError(f"{problem}, but the lock has no such waiver")
        self._note_waiver(problem, f"{problem}, waived by {ignored['by']}", ignored)

    def attempts(self) -> str:
        """Return a summary of the ledger.

        Raises ExportRefusedError if earlier attempts may be missing, and the policy forbids that.
        """
        ledger, wanted = self.evidence.manifest["ledger"], self.policy.ledger if self.policy else "any"
        try:
            self.numbers = read_attempts(self.evidence.manifest, self.locked, self.rows)
        except ValueError as error:
            raise ExportRefusedError(str(error)) from None
        doubt, before = "", None
        if self.last and self.last.resolve() != self.folder.resolve():
            there = ForeignFolder(self.last).has(f"{EVIDENCE}/{MANIFEST}")
            before = parse_record(read_evidence_file(self.last, MANIFEST)).get("ledger") if there else None
            doubt = "" if there else f"the evidence of the last release, {self.last.name}, is missing"
        if before is not None and (lost := set(before["heads"]) - set(ledger["lines"])):
            doubt = f"attempts may be missing: the last release's ledger has a line that is missing here ({min(lost)})"
        elif ledger["began"] and not (wanted == "first" and before is None):
            doubt = "attempts before this run are unknown: the ledger began with it"
        if doubt and wanted != "any":
            raise ExportRefusedError(f'{doubt}; the policy requires ledger = "{wanted}"')
        self.verified.notes += [doubt] if doubt else []
        return f"{len(ledger['lines'])} lines in the ledger"

    def _require_passed_or_waived(self, verdict: Mapping[str, Any]) -> None:
        """Raise ExportRefusedError if a verdict blocks the export. A valid waiver becomes a note."""
        if verdict["outcome"] == "PASS":
            self._require_exact_risk(verdict)
        else:
            self._require_waived(verdict)
        allowed, attempt = self.policy.max_attempts if self.policy else None, recorded_attempt(verdict) or 1
        if allowed is not None and attempt > allowed:
            counts = f"was attempted {attempt} times, but the policy allows {allowed}"
            raise ExportRefusedError(f'gate "{verdict["gate"]}" {counts} (max_attempts)')

    def _require_exact_risk(self, verdict: Mapping[str, Any]) -> None:
        """Raise ExportRefusedError if the policy takes no approximate risk, and this is one."""
        if self.policy and not self.policy.approximate and verdict.get("risk") != "exact":
            raise ExportRefusedError(
                f'gate "{verdict["gate"]}" passed at an approximate risk, but the policy allows none (approximate)'
            )

    def _require_waived(self, verdict: Mapping[str, Any]) -> None:
        """Raise ExportRefusedError unless a gate that did not pass has a waiver that counts here."""
        gate, waiver = verdict["gate"], recorded_waiver(verdict)
        problem = f'gate "{gate}" is {verdict["outcome"]}'
        if self.policy and gate in self.policy.gates:
            raise ExportRefusedError(f"{problem}, but the policy requires it to pass")
        if not waiver:
            raise ExportRefusedError(problem)
        if self.policy and not self.policy.waivers:
            raise ExportRefusedError(f"{problem} and waived, but the policy allows no waivers")
        if (waiver["gate"], waiver["claim"]) != (gate, self.locked.claims[gate].text):
            raise ExportRefusedError(f"{problem}, and its waiver is for another claim")
        self._note_waiver(problem, f'gate "{gate}" is waived', waiver)

    def _note_waiver(self, problem: str, note: str, waiver: Mapping[str, Any]) -> None:
        """Note a waiver; raises ExportRefusedError once it has ended."""
        if date.fromisoformat(waiver["until"]) < self.now.astimezone(UTC).date():
            raise ExportRefusedError(f"{problem}, and its waiver expired on {waiver['until']}")
        self.verified.notes.append(f"{note} until {waiver['until']}: {waiver['reason']}")

    def _require_same_weights(self, verdict: Mapping[str, Any]) -> None:
        """Raise ExportRefusedError if a verdict is about other weights. A verdict that is no PASS may lack a digest."""
        manifest, passed = self.evidence.manifest, verdict["outcome"] == "PASS"
        judged = verdict["digest"] == manifest["weights"] or (not passed and not verdict["digest"])
        if verdict["candidate"] != manifest["candidate"] or not judged:
            raise ExportRefusedError(f'gate "{verdict["gate"]}" was decided on other weights')

    @cached_property
    def locked(self) -> LockedSuite:
        return read_lock(self.evidence.lock, self.evidence.manifest["candidate"])

    def read_rows(self) -> str:
        """Read the rows, which most of the next steps need. Raises ValueError and others at malformed ones."""
        self.rows = read_rows(self.folder, self.evidence.manifest)
        return ""

    # -- 6: the chat template ----------------------------------------------------------------------

    def template(self) -> str:
        if (there := template_digest(self.folder / MODEL)) not in (None, self.evidence.manifest["template"]):
            raise ExportRefusedError(f"its digest is {there[:16]}, which differs from the evaluated one")
        return f"{there[:16]}, as evaluated" if there else "none in the export; the base's is used"

    # -- 7: the verdicts from their rows -----------------------------------------------------------

    def decide_again(self) -> str:
        """Return how many verdicts follow from their rows. Raises ExportRefusedError when one does not, or few do."""
        verdicts = {g["gate"]: g for g in self.evidence.gates}
        named = {*self.met.gates, *(set(self.policy.gates) & verdicts.keys() if self.policy else ())}
        manifest, locked = self.evidence.manifest, self.locked
        again = recompute_verdicts(manifest, locked, verdicts, self.rows, self.numbers, named)
        if again.differs:
            raise ExportRefusedError(again.differs)
        self.verified.unable = {g: why for g, why in again.unable.items() if verdicts[g]["outcome"] != "ERROR"}
        self.verified.missing = again.missing
        self.verified.recorded = sorted(again.unable.keys() & set(again.wanted))
        if self.policy and (why := again.find_shortfall(self.policy.recomputed, named)):
            raise ExportRefusedError(why)
        return again.summary

    # -- 8: other evidence about the same model, and the deployer's copy of the suite --------------

    def together(self) -> str:
        """Return which suites it passed.

        Raises ExportRefusedError where one is missing, refused, or of another model.
        """
        for other in self.others:
            if not other.go().ok:
                raise ExportRefusedError(f"{other.folder}: {other.verified.refused}")
            if other.model != self.model:
                raise ExportRefusedError(f"{other.folder} holds another model, root {other.verified.root[:16]}")
            self.verified.notes += [f"{other.folder}: {note}" for note in other.verified.notes if note != UNSIGNED_TEXT]
        every = [self, *self.others]
        for wanted in self.policy.all_of if self.policy else ():
            if not any(policy_checks.is_listed_suite(check.evidence.lock["suite"], [wanted]) for check in every):
                raise ExportRefusedError(f'there is no evidence of suite "{wanted}"; add its export, --with DIR')
        for demand, why in self.met.lacking.items():
            if all(demand in check.met.lacking for check in every):
                raise ExportRefusedError(why)
        return f"one model passed {', '.join(check.verified.suite for check in every)}"

    @property
    def model(self) -> tuple[str, str]:
        """The root digest and the weights digest, which covers an adapter's base."""
        return self.verified.root, str(self.evidence.manifest["weights"])

    def answers(self) -> str:
        return require_served_statement(self.served, self.verified.root, self.policy, self.now)

    def compare_suite(self) -> str:
        """Return a summary of the comparison with the deployer's suite. Raises ExportRefusedError on any difference."""
        assert self.suite_comparison
        found = self.suite_comparison(self.folder, self.evidence.lock)
        self.verified.notes += [f"suite: {note}" for note in found.notes]
        if found.differences:
            first, *rest = found.differences
            self.verified.notes += [f"suite: {one}" for one in rest]
            raise ExportRefusedError(f"{first}{f' ({len(rest)} more)' if rest else ''}")
        return f"as in the copy, with the rows of {', '.join(found.same) or 'no eval'}"
