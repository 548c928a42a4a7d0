"""A deployer's policy for exports: a TOML file with trusted keys."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from harness import schema
from harness.artifacts.attestation import CLAIMS, PAYLOAD, Envelope
from harness.errors import Mistakes, UsageError, did_you_mean, missing_modules_message
from harness.records.claims.gate import DERIVED_FIELDS, Gate
from harness.release import LAYERS

MAX_INTEGER = 10**15  # a whole number from here on is refused before anything is done with it
ANY_SUITE = "*"  # whatever the suite is
STRICT_POLICY = """\
suites = ["*"]                # any suite
threshold = 1                 # signed by a key of --key
waivers = false               # each blocking gate passed
approximate = false           # none of them at a risk that is only approximate
ignored = []                  # no error that a check found was ignored
cached_answers = false        # no verdict uses an answer from an earlier run
recomputed = 1.0              # each blocking gate that passed was decided again from its rows
ledger = "first"              # of attempts: goes on from that of the last release, where there was one
"""
RANGES = (  # of numbers: their key, the most they may be, and what is wanted
    ("max_age_days", 36525, "more than 0 and at most 36525 days"),
    ("max_attempts", 10**6, "1 to 1000000"),
    ("recomputed", 1, "a share from 0 to 1"),
)
OF_SUITES = ("requires", "on")  # keys of a gate that say nothing by themselves
DIGEST = "[0-9a-f]{64}"
PLUGIN = rf"\S+ sha256:{DIGEST}"


class ExportRefusedError(Exception):
    """An export that must not be deployed, with a one-line reason."""


@dataclass(frozen=True)
class Key:
    """A public Ed25519 key, as 64 hex digits. `keyid` is its id in signatures."""

    keyid: str
    public: str
    name: str = ""
    scheme: str = "ed25519"


@dataclass(frozen=True)
class ServedDemands:
    """The demands of a policy on a `harness parity` statement.

    With `by_count`, token ids may be compared by count alone. `longest` is the minimum number of tokens of the longest
    conversation.
    """

    layers: list[str]
    runtimes: list[str] = field(default_factory=list)
    by_count: bool = False
    max_age_days: float | None = None
    endpoint: str | list[str] | None = None
    model: str | list[str] | None = None
    arithmetic: str | list[str] | None = None
    longest: int | None = None


@dataclass(frozen=True)
class Policy:
    """The demands of one policy file.

    None and an empty `all_of`, `data`, `subjects` or `gates` demand nothing; without `ignored` evidence may be silent
    about it. Evidence of rows that another tool scored passes only with `binding`, which also permits a policy without
    keys, since such evidence is unsigned.
    """

    suites: list[str]
    threshold: int = 1
    gates: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    max_age_days: float | None = None
    max_attempts: int | None = None
    ledger: Literal["any", "first", "known"] = "any"
    recomputed: float = 1.0
    cached_answers: bool = True
    waivers: bool = True
    approximate: bool = True
    ignored: list[str] | None = None
    data: dict[str, str] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)
    plugins: list[str] | None = None
    harness: str | list[str] | None = None
    binding: Literal["none", "named", "claimed"] | None = None
    all_of: list[str] = field(default_factory=list)
    claims: tuple[Gate, ...] = ()
    keys: tuple[Key, ...] = ()
    served: ServedDemands | None = None
    digest: str = ""  # sha256 of the text that it was read from

    @property
    def versions(self) -> list[str] | None:
        """The versions of the harness that may have judged."""
        return [self.harness] if isinstance(self.harness, str) else self.harness


# the line of the note that lists it, what is demanded, its key, and whether a policy demands it
POLICY_DEMANDS: tuple[tuple[int, str, str, Callable[[Policy], object]], ...] = (
    (1, "signer", "[[key]]", lambda p: p.keys),
    (2, "suite", "suites", lambda p: p.suites != [ANY_SUITE]),
    (2, "claims of its gates", "[[claim]]", lambda p: p.claims or all(re.fullmatch(DIGEST, s) for s in p.suites)),
    (3, "rows", "data", lambda p: p.data),
    (3, "baselines' weights", "subjects", lambda p: p.subjects),
    (4, "plugins' code", "plugins", lambda p: p.plugins is not None),
    (4, "harness version", "harness", lambda p: p.harness is not None),
    (5, "number of attempts", "max_attempts", lambda p: p.max_attempts is not None),
    (5, "missing attempts", "ledger", lambda p: p.ledger != "any"),
    (5, "waived gates", "waivers", lambda p: not p.waivers),
    (5, "approximate risks", "approximate", lambda p: not p.approximate),
    (5, "ignored findings", "ignored", lambda p: True),
    (6, "cached answers", "cached_answers", lambda p: not p.cached_answers),
    (6, "age", "max_age_days", lambda p: p.max_age_days is not None),
    (6, "served model", "[served]", lambda p: p.served),
)


def list_unchecked(policy: Policy | None, looked: Collection[str] = ()) -> list[str]:
    """Return the demands that a policy leaves unchecked, with their keys.

    Keys in `looked` count as checked. Each item is one line, with several demands.
    """
    lines: dict[int, list[str]] = {}
    for line, what, key, is_demanded in POLICY_DEMANDS:
        if key not in looked and (policy is None or not is_demanded(policy)):
            lines.setdefault(line, []).append(f"{what} ({key})")
    return [", ".join(left) for left in lines.values()]


def read_policy(path: Path, *, strict: bool = False) -> Policy:
    """Read a policy file, with STRICT_POLICY for a .pub file if `strict`. Raises UsageError that lists all mistakes."""
    try:
        text = (STRICT_POLICY if strict else "") + path.read_text("utf-8")
        raw = tomllib.loads(text)
    except OSError as error:
        way = "name the .pub file that harness keygen wrote" if strict else "name a policy file"
        raise UsageError(f"{path}: cannot be read: {error.strerror}; {way}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    mistakes = Mistakes()

    def complain(_: str, what: str) -> None:
        mistakes.add(str(path), what)

    for key in (key for key, value in raw.items() if _has_huge_number(value)):
        complain(key, f'"{key}" is too large a number')
    mistakes.raise_errors()
    of_keys, of_claims = _pop_tables(raw, "key", Key, complain), _pop_tables(raw, "claim", Gate, complain)
    found = [schema.read_table(Key, table, complain) for table in of_keys]
    keys, claims = tuple(k for k in found if k), tuple(_iterate_claim_gates(of_claims, complain))
    raw = {"suites": [], **raw} if raw.get("all_of") else raw
    served = _pop_served_demands(raw, complain)
    digest = hashlib.sha256(text.encode()).hexdigest()
    policy: Any = schema.read_table(Policy, raw, complain, keys=keys, claims=claims, served=served, digest=digest)
    wrong = _iterate_key_errors(keys, raw.get("threshold", 1), "binding" in raw) if len(keys) == len(found) else ()
    for mistake in (*wrong, *(_iterate_impossible_values(policy, raw) if policy else ())):
        complain("", mistake)
    mistakes.raise_errors()
    assert isinstance(policy, Policy)
    return policy


def _pop_tables(
    raw: dict[str, Any], name: str, cls: type[Key | Gate], complain: schema.Complain
) -> list[dict[str, Any]]:
    """Remove `[[name]]` from a policy, and return its tables.

    A key of the policy itself that was pasted below the table is reported, and moved back.
    """
    tables = raw.pop(name, [])
    tables = [t if isinstance(t, dict) else {} for t in (tables if isinstance(tables, list) else [tables])]
    ours = {f.name for f in fields(Policy)} - {f.name for f in fields(cls)} - {"keys", "claims", "digest"}
    for table in tables:
        for key in [key for key in table if key in ours]:
            complain(
                key, f'"{key}" is below [[{name}]], so it is read as a key of that table; move it above [[{name}]]'
            )
            raw.setdefault(key, table.pop(key))
    return tables


def _iterate_claim_gates(tables: list[dict[str, Any]], complain: schema.Complain) -> Iterator[Gate]:
    """Read `[[claim]]` tables as gates, without keys of a suite.

    Keys that relate gates to each other belong to a suite, and are reported.
    """
    for number, table in enumerate(tables, 1):

        def said(_: str, what: str, title: str = f"[[claim]] number {number}") -> None:
            complain("", f"{title}: {what}")

        claim = schema.read_table(Gate, {"id": f"claim {number}", **table}, said, **DERIVED_FIELDS)
        if claim:
            foreign = [f'"{key}" is a key of a suite\'s gates; remove it' for key in OF_SUITES if key in table]
            for mistake in foreign or claim.find_mistakes():
                said("", mistake)
            yield claim


def _pop_served_demands(raw: dict[str, Any], complain: schema.Complain) -> ServedDemands | None:
    """Take [served] out of a policy, and read it."""
    if (table := raw.pop("served", None)) is None:
        return None
    read = schema.read_table(
        ServedDemands, table if isinstance(table, dict) else {}, lambda _, what: complain("", f"[served]: {what}")
    )
    if read and not read.layers:
        complain("", "[served]: layers is empty, so nothing is required; name some, such as ids")
    for name in read.layers if read else ():
        if name not in LAYERS:
            complain("", f'[served]: layers has "{name}"{did_you_mean(name, LAYERS)}')
    if read and read.longest is not None and not 0 < read.longest < MAX_INTEGER:
        complain("", f'[served]: "longest" is {schema.format_toml(read.longest)}; it must be 1 token or more')
    age = read.max_age_days if read else None
    if age is not None and not 0 < age <= RANGES[0][1]:
        complain("", f'[served]: "max_age_days" is {schema.format_toml(age)}; it must be {RANGES[0][2]}')
    return read


def _iterate_impossible_values(policy: Policy, raw: Mapping[str, Any]) -> Iterator[str]:
    """Yield which values no export can have."""
    for key, most, want in RANGES:
        value = raw.get(key)  # nan is in no range
        if value is not None and not ((value >= 0 if key == "recomputed" else value > 0) and value <= most):
            yield f'"{key}" is {schema.format_toml(value)}; it must be {want}'
    for key, digests in (("data", policy.data), ("subjects", policy.subjects)):
        for name, digest in digests.items():
            if not re.fullmatch(DIGEST, digest):
                given = schema.format_toml(digest)
                yield f'"{key}" of "{name}" is {given}; give the 64 hex digits from suite.lock.json'
    for plugin in policy.plugins or ():
        if not re.fullmatch(PLUGIN, plugin):
            what = "a version is a label that anybody could write; " if re.fullmatch(r"\S+ \S+", plugin) else ""
            pin = 'pin the code as "NAME sha256:CODE" from suite.lock.json'
            yield f'"plugins" has {schema.format_toml(plugin)}: {what}{pin}'


def _iterate_key_errors(keys: tuple[Key, ...], threshold: Any, of_rows: bool) -> Iterator[str]:
    """Yield the errors of keys and threshold.

    Duplicates are errors because one key under two names would count twice.
    """
    for key in keys:
        if not re.fullmatch("[0-9a-fA-F]{64}", key.public):
            yield f'key "{key.name or key.keyid}": public must be 64 hex digits'
        if key.scheme != "ed25519":
            yield f'key "{key.name or key.keyid}": scheme is "{key.scheme}"; it must be "ed25519"'
    for name, of in (("public", [k.public.lower() for k in keys]), ("keyid", [k.keyid for k in keys])):
        if twice := [value for value, n in Counter(of).items() if n > 1]:
            yield f'two [[key]] tables have {name} "{twice[0]}"; remove one'
    if not keys and not of_rows:
        yield "has no [[key]]; add the .pub file that harness keygen wrote"
    if isinstance(threshold, int) and not 1 <= threshold <= max(1, len(keys)):
        yield f"threshold is {threshold}; it must be 1 to {len(keys)}, the number of keys"


def _has_huge_number(value: Any) -> bool:
    """Return whether a value contains an integer of `MAX_INTEGER` or more.

    No policy means such a number, and error messages could not print it.
    """
    if isinstance(value, (list, dict)):
        return any(_has_huge_number(v) for v in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and abs(value) >= MAX_INTEGER


def check_signers(envelopes: Sequence[Envelope], policy: Policy, what: str) -> list[str]:
    """Return the names of the keys with valid signatures on a document.

    Raises ExportRefusedError if they are fewer than the threshold.
    """
    return require_signers({keyid for e in envelopes for keyid in verified_signers(e, policy)}, policy, what)


def require_signers(signed: Collection[str], policy: Policy, what: str) -> list[str]:
    """Return the names of the signing keys, given their ids.

    Raises ExportRefusedError if they are fewer than the threshold.
    """
    by: tuple[list[str], list[str]] = ([], [])
    for key in policy.keys:
        by[key.keyid in signed].append(key.name or key.keyid[:16])
    missing, names = map(sorted, by)
    if (lacking := policy.threshold - len(names)) > 0:
        who, of = ", ".join(names) or "no key of the policy", f"{lacking} of " if lacking < len(missing) else ""
        wants = f"the policy requires {policy.threshold} (threshold) and awaits {of}{', '.join(missing)}"
        raise ExportRefusedError(f"{what} is signed by {who}; {wants}")
    return names


def verified_signers(envelope: Envelope, policy: Policy) -> set[str]:
    """Return the ids of the policy's keys that signed an envelope.

    Raises ExportRefusedError where a signature is wrong.
    """
    try:
        from securesystemslib.dsse import Envelope as Signed
        from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
        from securesystemslib.signer import Signature, SSlibKey
    except ModuleNotFoundError as error:
        raise UsageError(f"--policy: {missing_modules_message(error.name)}") from None
    keys = {k.keyid: SSlibKey(k.keyid, "ed25519", k.scheme, {"public": k.public.lower()}) for k in policy.keys}
    whole = Signed(envelope.payload, PAYLOAD, {})
    by = set()
    for keyid, signature in envelope.signatures.items():
        if keyid in keys:
            try:
                keys[keyid].verify_signature(Signature(keyid, signature.hex()), whole.pae())
            except (UnverifiedSignatureError, VerificationError):
                name = next(k.name for k in policy.keys if k.keyid == keyid) or keyid[:16]
                what = f'the signature with key "{name}" is invalid'
                raise ExportRefusedError(f"{what}; remove that line from {CLAIMS}, or sign again") from None
            by.add(keyid)
    return by
