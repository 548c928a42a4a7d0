"""Policy demands on evidence, beyond keys and gates. Each refusal ends with the key that demands it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from harness.errors import did_you_mean
from harness.records.claims.gate import PARENT, Gate
from harness.records.suite_header import SuiteTable
from harness.records.verdicts import Outcome
from harness.release.lock_reader import LockedSuite
from harness.release.policy import ANY_SUITE, Policy

Verdicts = Mapping[str, Mapping[str, Any]]  # by the id of their gate
SKEW = timedelta(hours=1)  # by which clocks may differ


def find_refusals(policy: Policy, manifest: Mapping[str, Any], lock: Mapping[str, Any], now: datetime) -> Iterator[str]:
    """Yield the reasons to refuse an export, apart from its gates."""
    suite = lock["suite"]
    if not is_listed_suite(suite, [*policy.suites, *policy.all_of]):
        yield f'suite "{suite["name"]}" ({suite["digest"][:16]}) is not in the policy (suites)'
    pinned = {*policy.suites, *policy.all_of}
    if suite["digest"] in pinned and not {ANY_SUITE, suite["name"]} & pinned and "source" not in suite:
        what = f'suite "{suite["name"]}" stores no tables to compute its digest from, and pins no gates'
        yield f"{what}; add [[claim]] with what must be proven, and name the suite (suites)"
    if policy.stages and manifest["candidate"] not in policy.stages:
        yield f"is {manifest['candidate']}, but the policy requires {', '.join(policy.stages)} (stages)"
    age = now - datetime.fromisoformat(manifest["started"])
    if age < -SKEW:
        yield f"was created on {manifest['started']}, which is in the future"
    if policy.max_age_days is not None and age > timedelta(days=policy.max_age_days):
        yield (f"was created {age.days} days ago, but the policy allows {policy.max_age_days:g} days (max_age_days)")
    if not policy.cached_answers and (hits := manifest["answers"]["cache_hits"]) != 0:
        what = f"{hits} answers came from the cache of an earlier run"
        yield f"{what}, but the policy allows none (cached_answers)"
    if policy.versions is not None and lock["harness"] not in policy.versions:
        versions = " or ".join(policy.versions)
        yield f"was evaluated by harness {lock['harness']}, but the policy requires {versions} (harness)"
    for check in (str(one["check"]) for one in manifest["ignored"]):
        if check not in (policy.ignored or ()):
            yield f'the finding "{check}" was ignored, but the policy does not allow that (ignored)'
    for key, what, wanted, locked in _iterate_pinned_digests(policy, lock):
        for name, digest in wanted.items():
            if (there := locked.get(name, digest)) != digest:
                yield f'the {what} of "{name}" have digest {there[:16]}, but the policy requires {digest[:16]} ({key})'
    if policy.plugins is not None:
        yield from _iterate_unlisted_plugin_errors(policy.plugins, lock["plugins"])


def _iterate_pinned_digests(
    policy: Policy, lock: Mapping[str, Any]
) -> Iterator[tuple[str, str, Mapping[str, str], Mapping[str, str]]]:
    """Yield a policy key, a noun for its digests, the required digests by name, and those of the lock."""
    yield "data", "rows", policy.data, {name: entry.get("sha256", "") for name, entry in lock["data"].items()}
    yield "subjects", "weights", policy.subjects, lock.get("subjects", {})


def is_listed_suite(suite: Mapping[str, Any], wanted: Collection[str]) -> bool:
    """Return whether a list includes a suite, by name or digest. An entry "*" includes any suite."""
    return ANY_SUITE in wanted or suite["name"] in wanted or suite["digest"] in wanted


def _iterate_unlisted_plugin_errors(wanted: Sequence[str], plugins: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield an error for each plugin with unlisted code. Only the code digest counts, since a name is a label."""
    codes = {one.rpartition("sha256:")[2] for one in wanted}
    for plugin in plugins:
        if plugin["code"] not in codes:
            others = [one for one in wanted if one.partition(" ")[0] == plugin["name"]]
            which = f"the policy requires {' or '.join(others)}" if others else "which the policy does not list"
            label = f" of {plugin['distribution']}" if plugin["distribution"] else ""
            yield f'plugin "{plugin["name"]}"{label} is sha256:{plugin["code"]}, {which} (plugins)'


@dataclass(frozen=True)
class PolicyMatch:
    """The match of an export's evidence with a policy's demands. Another export may still meet the lacking ones."""

    lacking: Mapping[str, str]  # by what is demanded: why it is not met here
    gates: frozenset[str]  # that meet a claim


def match_policy(
    policy: Policy, lock: Mapping[str, Any], locked: LockedSuite, verdicts: Verdicts, candidate: str
) -> PolicyMatch:
    """Match an export against the gates, rows and claims of a policy."""
    lacking, gates = dict[str, str](), set[str]()
    for gate in (gate for gate in policy.gates if gate not in verdicts):
        lacking[f"gate {gate}"] = f'gate "{gate}" has no verdict on {candidate} (gates)'
    for key, what, wanted, locked_digests in _iterate_pinned_digests(policy, lock):
        for name in (name for name in wanted if name not in locked_digests):
            guess = did_you_mean(name, locked_digests)
            lacking[f"{key} {name}"] = f'the lock has no {what} of "{name}"{guess} ({key})'
    for number, claim in enumerate(policy.claims):
        gate, why = _find_covering_gate(claim, locked, verdicts, candidate)
        if gate:
            gates.add(gate)
        else:
            lacking[f"claim {number}"] = f"{claim.metric} {claim.claim()}: {why} (claim)"
    return PolicyMatch(lacking, frozenset(gates))


def _find_covering_gate(claim: Gate, locked: LockedSuite, verdicts: Verdicts, candidate: str) -> tuple[str, str]:
    """Return the gate that meets a claim, or "" and the reason.

    The gate must block the candidate, unless the claim is only a warning.
    """
    if (metric := locked.metric(claim)) is None:
        known = [f"{name}.{one}" for name, metrics in locked.metrics.items() for one in metrics]
        return "", f'the suite has no metric "{claim.metric}"{did_you_mean(claim.metric, known)}'
    if mistakes := claim.find_metric_mistakes(metric):
        return "", mistakes[0]
    about = [g for g in locked.gates.values() if g.metric == claim.metric and g.applies_to(candidate)]
    gates = [g for g in about if g.blocking or not claim.blocking]
    named = replace(claim, versus=locked.parent) if claim.versus == PARENT and locked.parent else claim
    covers = [g for g in gates if g.implies(named, metric)]
    most = claim.alpha or SuiteTable.alpha
    whys = [
        _find_verdict_error(g, locked, verdicts, None if metric.is_count or g.kind.counts else most) for g in covers
    ]
    if "" in whys:
        return covers[whys.index("")].id, ""
    if whys:
        return "", whys[0]
    told = ", ".join(f'"{g.id}" says {g.claim()}' for g in gates)
    return "", f"no blocking gate implies it; {told}" if told else "no blocking gate is on this metric"


def _find_verdict_error(gate: Gate, locked: LockedSuite, verdicts: Verdicts, most: float | None) -> str:
    """Return why the verdict on a covering gate is insufficient. `most` is the largest alpha that the claim accepts."""
    outcome, risk = verdicts.get(gate.id, {}).get("outcome"), gate.alpha or locked.about.alpha
    if outcome != Outcome.PASS:
        return f'gate "{gate.id}" is {outcome}' if outcome else f'gate "{gate.id}" has no verdict'
    if most is not None and risk > most:
        return f'gate "{gate.id}" has alpha {risk:g}, but the claim requires at most {most:g}'
    return ""
