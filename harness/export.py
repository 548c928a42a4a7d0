"""Write an export by the shipping rule: the very bytes that were gated, or nothing; and the evidence beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import card, claims, stats
from harness.claims import CARD, CLAIMS, EVIDENCE, GATES, ITEMS, LOCK, MANIFEST, MODEL, REPORT
from harness.clean import Leaks
from harness.collect import Plan
from harness.copies import copy_files, parent_reasons
from harness.errors import Finding, UsageError
from harness.evidence import file_digest, file_digests, root_digest, template_digest, walk, weights_digest
from harness.gate import Verdict, ships
from harness.items import Results, evaluations_of, rows_of
from harness.paths import folder_in_place, write_text
from harness.released import keep_first
from harness.report import Exported, Run, dumps, to_json
from harness.schema import wants
from harness.store import writable
from harness.subject import ModelRef
from harness.suite import Export

ADAPTER = "adapter_config.json"
PLACES = ("base_model_name_or_path", "revision")  # where an adapter's base lay on the machine that trained it


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a run's verdicts came from, as the run held it: results, the lock as it was written, rows that leak."""

    results: Results
    lock: bytes
    leaks: Leaks | None = None


def export(
    plan: Plan, declared: Export, ref: ModelRef | None, run: Run, why: Sequence[str], judged: Judged
) -> Exported:
    """Export a candidate if every blocking gate on it passed, else say why not.

    `why` holds reasons beyond the gates. Raises UsageError when the target is taken or the disk is full, Finding
    when what was written is not what was gated.
    """
    reasons = [*why, *([run.problem] if run.problem else [])]
    if ref is None:
        reasons += [] if reasons else [f"{declared.candidate} was not made"]
    else:
        reasons += ships(run.verdicts, plan.suite.gates, declared.candidate)
        reasons += parent_reasons(plan.suite, declared, run.verdicts)
    if reasons or ref is None:
        return Exported(declared.use, declared.candidate, declared.to, False, tuple(reasons))
    to = Path(declared.to).resolve()
    anchored = any(s.from_ == "first" for s in plan.suite.subjects.values())
    exporter = plan.plugins.find("exporter", declared.use).function
    if taken := problem_with(to):
        raise UsageError(f'{declared.where} to is "{declared.to}", {taken}; nothing was written')
    try:
        if anchored:
            keep_first(to)  # of releases that were made before the suite had an anchor, the one that is there
        with folder_in_place(to) as work:
            model = work / MODEL
            model.mkdir()
            if declared.name:  # the copy lies there as it was evaluated; to make it again would be another one
                copy_files(Path(ref.path), model)
            else:
                facts = run.facts.setdefault(f"export to {declared.to}", {}) if wants(exporter, "facts") else None
                exporter(ref, model, **declared.options, **({} if facts is None else {"facts": facts}))
            _compare(declared, ref, model, run)
            _write_evidence(plan, declared, ref, run, work, judged)
        if anchored:
            keep_first(to)
    except OSError as error:
        raise UsageError(
            f'{declared.where} to "{declared.to}" cannot be written: {error.strerror}; nothing was'
        ) from None
    size = sum(size for _, size in walk(to / MODEL))
    return Exported(declared.use, declared.candidate, str(to), True, digest=ref.digest, bytes=size)


def problem_with(to: Path) -> str:
    """Say why no export can be written to a folder, or nothing; an export of ours that is there is replaced."""
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        return "which is no folder"
    if to.is_dir() and any(to.iterdir()) and not (to / EVIDENCE / MANIFEST).is_file():
        return "which holds something that is no export; name another folder"
    return "" if writable(to.parent) else "where no folder can be written"


def _compare(declared: Export, ref: ModelRef, model: Path, run: Run) -> None:
    """Compare what was written with what was gated, tensor by tensor and file by file."""
    gated = ref.adapter or Path(ref.path)
    if weights_digest(model) != weights_digest(gated):
        raise Finding(f'export "{declared.to}": the tensors written are not the ones that were gated')
    judged = {v.digest for v in run.verdicts if v.candidate == ref.name and v.digest}
    if judged != {ref.digest}:
        raise Finding(f'export "{declared.to}": the gates judged other weights than these')
    before, written = file_digests(gated), file_digests(model)
    for name, entry in written.items():
        if name in before and before[name] != entry and not _same_but_place(name, gated, model):
            raise Finding(f'export "{declared.to}": "{name}" differs from the file that was gated')
    if template_digest(model) not in (None, template_digest(Path(ref.path))):
        raise Finding(f'export "{declared.to}": its chat template is not the one that was evaluated')


def _same_but_place(name: str, gated: Path, model: Path) -> bool:
    """Say whether an adapter's configuration differs only in where its base lay."""
    if name != ADAPTER:
        return False
    before, after = (json.loads((folder / name).read_text("utf-8")) for folder in (gated, model))
    return {k: v for k, v in before.items() if k not in PLACES} == {k: v for k, v in after.items() if k not in PLACES}


def _write_evidence(plan: Plan, declared: Export, ref: ModelRef, run: Run, work: Path, judged: Judged) -> None:
    """Write evidence and card, then the manifest over all of it, then the claims over the manifest."""
    evidence, private = work / EVIDENCE, {e.name for e in plan.suite.evals if e.private}
    verdicts = [_without_rows(v, private) for v in run.verdicts if v.candidate == declared.candidate]
    gates = json.loads(dumps([dataclasses.asdict(v) for v in verdicts]))
    rows = rows_of(judged.results, plan.tasks, judged.leaks)
    evidence.mkdir()
    (evidence / LOCK).write_bytes(judged.lock)
    write_text(evidence / GATES, dumps(gates))
    write_text(evidence / ITEMS, "".join(json.dumps(r, ensure_ascii=False, allow_nan=False) + "\n" for r in rows))
    write_text(evidence / REPORT, to_json(_public(run, private)))
    write_text(work / CARD, card.write(plan.suite, declared, ref, run))
    files = {name: {"size": size, "sha256": file_digest(work / name)} for name, size in walk(work)}
    model = {n.removeprefix(f"{MODEL}/"): f["sha256"] for n, f in files.items() if n.startswith(f"{MODEL}/")}
    root = root_digest({n: str(d) for n, d in model.items()})
    about = _about(declared, ref, run) | {"root": root, "evaluations": evaluations_of(judged.results)}
    manifest = dumps({**about, "files": files}).encode()
    (evidence / MANIFEST).write_bytes(manifest)
    lines = [claims.Envelope(s, {}).line() for s in claims.statements(manifest, judged.lock, gates)]
    write_text(evidence / CLAIMS, "".join(f"{line}\n" for line in lines))


def _about(declared: Export, ref: ModelRef, run: Run) -> dict[str, Any]:
    """Return what a manifest says of the candidate and of how it was judged."""
    about: dict[str, Any] = {
        "format": claims.FORMAT,
        "name": run.suite,
        "candidate": declared.candidate,
        "weights": ref.digest,
        "template": template_digest(Path(ref.path)),
        "started": run.started,
        "statistics": stats.VERSION,
        "answers": _answers(run, declared.candidate),
    }
    if declared.name:
        about["made_of"] = {"candidate": declared.from_, "weights": run.digests[declared.from_]}
    if run.sweep:
        about["chosen"] = {run.sweep.key: run.sweep.chosen}
    return about


def _answers(run: Run, candidate: str) -> dict[str, int]:
    """Return how many requests were put to a candidate, and how many of them were remembered of an earlier run."""
    of = [r for r in run.reports if r.subject == candidate]
    return {"asked": sum(r.asked for r in of), "remembered": sum(r.remembered for r in of)}


def _public(run: Run, private: set[str]) -> Run:
    """Return a run without what names the rows of private evaluations, or this machine's own troubles."""
    reports = [
        dataclasses.replace(r, traceback=None, verdicts=tuple(_without_rows(v, private) for v in r.verdicts))
        for r in run.reports
    ]
    return dataclasses.replace(run, reports=reports)


def _without_rows(verdict: Verdict, private: set[str]) -> Verdict:
    if verdict.metric.partition(".")[0] not in private:
        return verdict
    return dataclasses.replace(verdict, won=(), lost=())
