"""Write an export by the shipping rule: the very bytes that were gated, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.collect import Plan
from harness.errors import Finding, UsageError
from harness.evidence import file_digests, weights_digest
from harness.gate import ships
from harness.paths import folder_in_place, write_text
from harness.released import keep_first
from harness.report import Exported, Run, dumps, to_json
from harness.subject import ModelRef
from harness.suite import Export


def export(plan: Plan, declared: Export, ref: ModelRef | None, run: Run, why: Sequence[str]) -> Exported:
    """Export a candidate if every blocking gate on it passed, else say why not.

    `why` holds reasons beyond the gates. Raises UsageError when the disk is full, Finding when what
    was written is not what was gated.
    """
    reasons = [*why, *([run.problem] if run.problem else [])]
    if ref is None:
        reasons.append(f"{declared.from_} was not made")
    else:
        reasons += ships(run.verdicts, plan.suite.gates, declared.from_)
    if reasons or ref is None:
        return Exported(declared.use, declared.from_, declared.to, False, tuple(reasons))
    to = Path(declared.to).resolve()
    anchored = any(s.from_ == "first" for s in plan.suite.subjects.values())
    exporter = plan.plugins.find("exporter", declared.use).function
    try:
        if anchored:
            keep_first(to)  # of releases that were made before the suite had an anchor, the one that is there
        with folder_in_place(to) as work:
            model = work / "model"
            model.mkdir()
            exporter(ref, model, **declared.options)
            written = _verify(declared, ref, model, run)
            _evidence(plan, declared, run, work, written)
        if anchored:
            keep_first(to)
    except OSError as error:
        raise UsageError(
            f'{declared.where} to "{declared.to}" cannot be written: {error.strerror}; nothing was'
        ) from None
    size = sum(f["size"] for f in written.values())
    return Exported(declared.use, declared.from_, str(to), True, digest=ref.digest, bytes=size)


def _verify(declared: Export, ref: ModelRef, model: Path, run: Run) -> dict[str, dict[str, Any]]:
    """Compare what was written with what was gated, tensor by tensor and file by file."""
    gated = ref.adapter or Path(ref.path)
    if weights_digest(model) != weights_digest(gated):
        raise Finding(f'export "{declared.to}": the tensors written are not the ones that were gated')
    judged = {v.digest for v in run.verdicts if v.candidate == ref.name and v.digest}
    if judged != {ref.digest}:
        raise Finding(f'export "{declared.to}": the gates judged other weights than these')
    written = file_digests(model)
    for name, before in file_digests(gated).items():
        if name in written and written[name] != before:
            raise Finding(f'export "{declared.to}": "{name}" differs from the file that was gated')
    return written


def _evidence(plan: Plan, declared: Export, run: Run, work: Path, files: dict[str, dict[str, Any]]) -> None:
    manifest = {"files": {f"model/{name}": entry for name, entry in files.items()}, "suite": plan.suite.digest}
    write_text(work / "evidence" / "manifest.json", dumps(manifest))
    write_text(work / "evidence" / "report.json", to_json(run))
    gates = [asdict(v) for v in run.verdicts if v.candidate == declared.from_]
    write_text(work / "evidence" / "gates.json", dumps(gates))
    write_text(work / "README.md", _card(declared, run))


def _card(declared: Export, run: Run) -> str:
    lines = [f"# {run.suite}", "", f"Base: `{run.model}`. Suite: `{run.path}` ({run.digest[:12]}), {run.started}.", ""]
    lines += ["| gate | claim | verdict | measured |", "|---|---|---|---|"]
    for v in run.verdicts:
        if v.candidate == declared.from_:
            verdict = f"{v.outcome}, {v.waiver.says()}" if v.waiver else str(v.outcome)
            cells = (v.gate, f"{v.metric} {v.claim}".strip(), verdict, v.why)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += [f"\n{c[0].upper()}{c[1:]}." for c in run.conclusions]
    load = 'AutoModelForCausalLM.from_pretrained("model")'
    if declared.from_ == "adapter":
        load = 'AutoPeftModelForCausalLM.from_pretrained("model")'
    return "\n".join([*lines, "", f"Load it with `{load}`.", ""])
