"""Write an export by the shipping rule: the very bytes that were gated, or nothing; and the evidence beside them.

Its items.jsonl says what is said of every row that was judged, and never its texts. The rows come from the results of
the run that were judged, not from a folder that others can write to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.artifacts import attestation
from harness.artifacts.attestation import (
    CARD,
    CLAIMS,
    EVIDENCE,
    FINGERPRINT,
    GATES,
    ITEMS,
    LOCK,
    MANIFEST,
    MODEL,
    REPORT,
)
from harness.artifacts.digests import (
    Hashed,
    digest_value,
    file_digest,
    hash_files,
    root_digest,
    template_digest,
    weights_digest_of_files,
)
from harness.artifacts.fingerprint import Fingerprint, find_noise_error
from harness.artifacts.folders import list_files
from harness.artifacts.formats import LEGAL_FILES
from harness.artifacts.model_files import ADAPTER
from harness.collection.collection import Collection, Task
from harness.errors import CheckFailedError, UsageError, resource_error
from harness.files import replace_folder, write_text
from harness.gates.contamination import Leaks
from harness.gates.prerequisites import find_export_obstacles
from harness.records.copies import detach_copy
from harness.records.models import ModelRef
from harness.records.run import Exported, Run
from harness.records.samples import Result, Sample, Score
from harness.records.verdicts import Verdict
from harness.release import model_card
from harness.release.conversions import copy_files, require_output_folder
from harness.release.releases import keep_first_release
from harness.reports.report_json import relative_paths, to_json
from harness.reports.run_folder import is_writable, make_row
from harness.schema import has_parameter
from harness.stats import hypothesis_tests
from harness.suite.tables import Export
from harness.texts.json_text import dumps, json_safe

PLACES = ("base_model_name_or_path", "revision", "auto_mapping")  # where an adapter's base and its class lay
Results = Mapping[tuple[str, str], Result]  # by subject and evaluation
Written = Mapping[str, Hashed]  # by name in model/


@dataclass(frozen=True)
class DecisionRecord:
    """The verdicts on a candidate and the inputs to them.

    `lock` is the suite's lock as written before the candidate existed, `leaks` are the rows left out by gates with
    `clean_only`, `ledger` is the state of the ledger of attempts at that time. `fingerprint` computes that of the
    candidate.
    """

    verdicts: tuple[Verdict, ...]
    results: Results
    lock: bytes
    leaks: Leaks | None = None
    ledger: Mapping[str, Any] | None = None
    fingerprint: Callable[[ModelRef], Fingerprint] | None = None


def export_candidate(
    collection: Collection, declared: Export, ref: ModelRef | None, run: Run, why: Sequence[str], judged: DecisionRecord
) -> Exported:
    """Export a candidate if every blocking gate on it passed.

    Otherwise the result lists the reasons; `why` holds those beyond the gates. Raises UsageError if the target is taken
    or cannot be written, CheckFailedError if the written files differ from the gated ones.
    """
    reasons = [*why, *([run.problem] if run.problem else []), *_iterate_changed_eval_files(collection, judged.lock)]
    if ref is None:
        reasons += [] if reasons else [f"{declared.candidate} does not exist"]
    else:
        reasons += find_export_obstacles(judged.verdicts, collection.suite.gates, declared.candidate)
        parents = [g for g in collection.suite.gates if g.blocking and g.applies_to(declared.from_)]
        if declared.name and parents:  # a copy may not ship where its parent may not
            reasons += find_export_obstacles(judged.verdicts, collection.suite.gates, declared.from_)
    if reasons or ref is None:
        return Exported(declared.use, declared.candidate, declared.to, False, tuple(reasons))
    to = Path(declared.to).resolve()
    anchored = any(s.from_ == "first" for s in collection.suite.subjects.values())
    exporter = collection.plugins.find("exporter", declared.use).function
    if taken := find_destination_error(to):
        raise UsageError(f'{declared.where} to is "{declared.to}", {taken}; nothing was written')
    try:
        if anchored:
            keep_first_release(to)  # of releases that were made before the suite had an anchor, the one that is there
        with replace_folder(to) as work:
            model = work / MODEL
            model.mkdir()
            if declared.name:  # the copy lies there as it was evaluated; to make it again would be another one
                copy_files(ref, model)
            else:
                options = detach_copy(dict(declared.options))
                if has_parameter(exporter, "facts"):
                    options["facts"] = run.facts.setdefault(f"export to {declared.to}", {})
                made = exporter(detach_copy(ref), model, **options)
                require_output_folder(exporter, made, model)
            written = _hash_and_verify_written_files(declared, ref, model, judged.verdicts)
            _write_evidence(collection, declared, ref, run, work, written, judged)
        if anchored:
            keep_first_release(to)
    except OSError as error:
        what = f"cannot be written: {error.strerror}; no files were"
        raise UsageError(f'{declared.where} to "{declared.to}" {what}') from None
    size = sum(list_files(to / MODEL).values())
    return Exported(declared.use, declared.candidate, str(to), True, digest=ref.digest, bytes=size)


def _iterate_changed_eval_files(collection: Collection, lock: bytes) -> Iterator[str]:
    """Yield an error for each eval option's file that changed.

    Evaluators read these files after the suite is locked.
    """
    for spec in json.loads(lock)["suite"]["evals"]:
        for name, digest in spec.get("files", {}).items():
            try:
                same = file_digest(collection.suite.path.parent / name) == digest
            except OSError:
                same = False
            if not same:
                yield f'"{name}" of eval "{spec["name"]}" changed after the suite was locked; run it again'


def find_destination_error(to: Path) -> str:
    """Return an error if an export cannot be written to a folder. An export already there is replaced."""
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        return "which is not a folder"
    if to.is_dir() and any(to.iterdir()) and not (to / EVIDENCE / MANIFEST).is_file():
        return "which contains files but is not an export; name another folder"
    return "" if is_writable(to.parent) else "which is not writable"


def _hash_and_verify_written_files(
    declared: Export, ref: ModelRef, model: Path, verdicts: Sequence[Verdict]
) -> Written:
    """Hash the written files, and compare them with the candidate's seal.

    The comparison covers every tensor and every file. The candidate's folder may have changed since it was sealed, so
    it is not read again. Raises CheckFailedError on any difference.
    """
    where, seal = f'export "{declared.to}"', ref.seal
    if seal is None:
        raise CheckFailedError(f"{where}: {ref.name} is not in a folder, so which files were gated is unknown")
    try:
        written = hash_files(model, list_files(model))
        weights = weights_digest_of_files(written)
    except ValueError as error:
        raise CheckFailedError(f"{where}: {str(error).removeprefix(f'{model}/')}") from None
    if weights != seal.weights:
        raise CheckFailedError(f"{where}: the written tensors differ from the gated ones")
    if {v.digest for v in verdicts if v.candidate == ref.name and v.digest} != {ref.digest}:
        raise CheckFailedError(f"{where}: the gates were decided on other weights than these")
    for name, hashed in written.items():
        if hashed.sha256 != seal.files.get(name) and not _is_adapter_config_same_but_base(name, ref, model):
            how = "differs from the file that was" if name in seal.files else "is not among the files that were"
            raise CheckFailedError(f'{where}: "{name}" {how} gated')
    # What is for people alone may be left out: no program computes anything else without it.
    if lost := sorted(
        n for n in seal.files.keys() - written.keys() if not (n.endswith(".md") or LEGAL_FILES.fullmatch(n))
    ):
        raise CheckFailedError(f'{where}: "{lost[0]}" was gated but not written')
    if template_digest(model) not in (None, seal.template):
        raise CheckFailedError(f"{where}: its chat template differs from the evaluated one")
    return written


def _is_adapter_config_same_but_base(name: str, ref: ModelRef, model: Path) -> bool:
    """Return whether an adapter config equals the sealed one, except for `PLACES`.

    These keys locate its base and its class.
    """
    if name != ADAPTER or ref.adapter is None or ref.seal is None:
        return False
    sealed = (ref.adapter / name).read_bytes()
    if hashlib.sha256(sealed).hexdigest() != ref.seal.files.get(name):
        return False
    texts = (sealed, (model / name).read_bytes())
    before, after = ({k: v for k, v in json.loads(text).items() if k not in PLACES} for text in texts)
    return digest_value(before) == digest_value(after)


def _write_evidence(
    collection: Collection,
    declared: Export,
    ref: ModelRef,
    run: Run,
    work: Path,
    written: Written,
    judged: DecisionRecord,
) -> None:
    """Write evidence and card, then the manifest, then the claims.

    The manifest covers all files, and the claims cover the manifest.
    """
    evidence, public = work / EVIDENCE, run.sendable()
    # nor training rows, texts that a finding quotes, or this machine's own troubles
    public.results, public.shown_rows = [replace(r, traceback=None) for r in public.results], ()
    public.findings = [replace(f, what=f.title or f.code, evidence=(), rows={}) for f in public.findings]
    verdicts = [run.nameless(v) for v in judged.verdicts if v.candidate == declared.candidate]
    gates = json.loads(dumps([asdict(v) for v in verdicts]))
    rows = evidence_rows(judged.results, collection.tasks, judged.leaks)
    evidence.mkdir()
    (evidence / LOCK).write_bytes(judged.lock)
    write_text(evidence / GATES, dumps(gates))
    write_text(evidence / ITEMS, (json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in rows))
    write_text(evidence / REPORT, to_json(public))
    _write_fingerprint(evidence / FINGERPRINT, ref, judged, run.facts.setdefault(f"export to {declared.to}", {}))
    strange = attestation.third_party_plugins(json.loads(judged.lock))
    write_text(work / CARD, model_card.write_card(collection.suite, declared, ref, run.sendable(), strange))
    beside = hash_files(work, [name for name in list_files(work) if not name.startswith(f"{MODEL}/")])
    whole = {**beside, **{f"{MODEL}/{name}": hashed for name, hashed in written.items()}}
    files = {name: {"size": whole[name].size, "sha256": whole[name].sha256} for name in sorted(whole)}
    root = root_digest({name: hashed.sha256 for name, hashed in written.items()})
    about = _make_candidate_manifest(collection, declared, ref, run) | {
        "root": root,
        "evaluations": evidence_evaluations(judged.results),
    }
    about |= {"ledger": judged.ledger} if judged.ledger else {}
    manifest = dumps({**about, "files": files}).encode()
    (evidence / MANIFEST).write_bytes(manifest)
    lines = [
        attestation.Envelope(s, {}).to_json_line() for s in attestation.make_statements(manifest, judged.lock, gates)
    ]
    write_text(evidence / CLAIMS, "".join(f"{line}\n" for line in lines))


def _write_fingerprint(path: Path, ref: ModelRef, judged: DecisionRecord, facts: dict[str, Any]) -> None:
    """Write the fingerprint of the exported model.

    If the model cannot be loaded here again, the facts give the reason instead.
    """
    if judged.fingerprint is None:
        return
    try:
        model = path.parent.parent / MODEL
        made = judged.fingerprint(replace(ref, adapter=model) if ref.adapter else replace(ref, path=str(model)))
    except (UsageError, MemoryError, RuntimeError, ValueError, OSError) as error:
        facts["fingerprint"] = f"none: {resource_error(error) or ' '.join(str(error).split())}"
        return
    if noise_error := find_noise_error(made.noise):
        facts["fingerprint"] = f"none: {noise_error}"
        return
    write_text(path, json.dumps(made.to_json(), separators=(",", ":")) + "\n")


def _make_candidate_manifest(collection: Collection, declared: Export, ref: ModelRef, run: Run) -> dict[str, Any]:
    """Return the manifest's entries about a candidate and its evaluation."""
    # Verdicts rest on what it was asked, and whatever it is compared with: a claim about both has two sides.
    sides = {(r.eval, r.subject) for r in run.results if r.subject == declared.candidate}
    for verdict in (v for v in run.verdicts if v.candidate == declared.candidate):
        name = verdict.metric.partition(".")[0]
        sides |= {(name, other) for other in run.runs if verdict.run_values}
        sides |= {(name, verdict.versus)} if verdict.versus else set()
        item = next((i for i in collection.items if (i.eval, i.subject) == (name, declared.candidate)), None)
        if item and (collection.tasks[name].compares or collection.tasks[name].marks == "pairs"):
            sides.add((name, collection.baseline_of(item)))
    of = [r for r in run.results if (r.eval, r.subject) in sides]
    about: dict[str, Any] = {
        "format": attestation.FORMAT_VERSION,
        "name": run.suite,
        "candidate": declared.candidate,
        "weights": ref.digest,
        "template": ref.seal.template if ref.seal else None,
        "started": run.started,
        "statistics": hypothesis_tests.METHOD_VERSION,
        "answers": {"requests": sum(r.requests for r in of), "cache_hits": sum(r.cache_hits for r in of)},
        "invocation": relative_paths(run.invocation, run),
        "ignored": [{"check": c, "by": w.by, "reason": w.reason, "until": w.until} for c, w in run.passed_over.items()],
    }
    if ref.adapter and ref.seal:
        about["adapter"] = {"base": ref.seal.base, "weights": ref.seal.weights, "quantization": ref.quantization}
    if declared.name:
        about["made_of"] = {"candidate": declared.from_, "weights": run.digests[declared.from_]}
    if run.runs and declared.candidate == collection.recipe:
        weights = {str(seed): run.digests[name] for name, seed in run.runs.items() if name in run.digests}
        first = collection.suite.training_seed
        about["recipe"] = {"ships": first, "chosen": "the first seed", "seeds": {str(first): ref.digest, **weights}}
    if run.sweep:
        about["chosen"] = {run.sweep.key: run.sweep.chosen}
    return about


def evidence_rows(results: Results, tasks: Mapping[str, Task], leaks: Leaks | None) -> Iterator[dict[str, Any]]:
    """Yield the evidence of each row, evaluation by evaluation.

    A private row, or one skipped by early stopping, is given by digest alone. Evaluations with missing scores are left
    out.
    """
    for (subject, name), result in results.items():
        task, item, scores = tasks[name], f"{subject}::{name}", {s.id: s for s in result.scores}
        told = (leaks or {}).get(name, {})
        metrics, places = list(result.metrics), {i: place for place, i in enumerate(result.order)}
        for number, sample in enumerate(task.samples or ()):
            if result.missing:
                continue
            if sample.id not in scores:  # it stopped before
                yield {"item": item, "number": number, "row": sample.digest}
                continue
            row = evidence_row(number, sample, scores[sample.id], metrics)
            if task.spec.private:
                yield {"item": item, "sha256": digest_value(row), "number": number, "row": sample.digest}
                continue
            slices = {c: str(sample.row[c]) for c in task.spec.slices if c in sample.row}  # as gates compare them
            about: dict[str, Any] = {"number": number, "slices": slices, "key": sample.key}
            about |= {"place": places[sample.id]} if places else {}
            about |= {"leak": told[sample.id]} if sample.id in told else {}
            yield {"item": item, **scores_without_texts(row), **about}


def evidence_evaluations(results: Results) -> dict[str, dict[str, Any]]:
    """Return the evidence common to all rows of each evaluation.

    This is the digests of weights and rows, the caveats and the labels.
    """
    return {
        f"{subject}::{name}": {
            "weights": result.digest,
            "rows": result.rows,
            "caveats": [{"text": c.text, "outcome": c.outcome, "metrics": list(c.metrics)} for c in result.caveats],
            **({"labels": [asdict(found) for found in result.labels]} if result.labels else {}),
        }
        for (subject, name), result in results.items()
    }


def evidence_row(number: int, sample: Sample, score: Score, metrics: Sequence[str]) -> dict[str, Any]:
    """Return a row as a run's folder keeps it, with evidence digests.

    They digest the values, while the run folder has the digests of lm-evaluation-harness. A private row has a single
    digest over all of it.
    """
    kept = json.loads(json.dumps(make_row(number, sample, score, metrics), ensure_ascii=False, default=str))
    kept |= sample.digests
    if "arguments" not in score.values:  # or a metric of this name stands there
        kept["arguments"] = [[sample.question]]
    return {name: value for name, value in kept.items() if name not in ("key", "messages")}


def scores_without_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evidence of a public row: scores and text digests."""
    values = json_safe({name: row[name] for name in row["metrics"] if name in row})
    told = {k: row[k] for k in ("id", "cluster", "doc_hash", "prompt_hash", "target_hash")}
    told |= {"weight": json_safe(row["weight"]), "weights": json_safe(row["weights"])}
    told |= {
        key: row[key] for key in ("second_cluster", "lost", "partly_lost", "finish_reason", "tokens") if key in row
    }
    if "draws" in row:
        told["draws"] = [
            {**{k: v for k, v in draw.items() if k != "note"}, "values": json_safe(draw["values"])}
            for draw in row["draws"]
        ]
    return {**told, "answer_hash": digest_value(row["resps"]), "values": values}
