"""The run folder: rows as they come, in lm-evaluation-harness's layout, then report.json and junit.xml."""

from __future__ import annotations

import json
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_of
from harness.errors import UsageError
from harness.files import write_text
from harness.records.gates import Outcome, Verdict
from harness.records.run import Report, Run, dumps, read_run, to_json
from harness.records.samples import Result, Sample
from harness.texts.shown import shown


class RunFolder:
    """`reports/<suite>-<UTC>/`, and one folder in it for every subject."""

    def __init__(self, out: Path, suite: str, started: datetime) -> None:
        self.stamp = started.strftime("%Y-%m-%dT%H-%M-%S.%f")
        name = f"{suite}-{started.strftime('%Y%m%dT%H%M%SZ')}"
        number = 1
        while True:  # two runs may begin in one second
            self.path = out / (name if number == 1 else f"{name}-{number}")
            try:
                self.path.mkdir(parents=True)
                return
            except FileExistsError:
                if not self.path.is_dir():
                    raise UsageError(f'--out "{out}": cannot hold reports; "{self.path}" is a file') from None
                number += 1
            except OSError as error:
                raise UsageError(f'--out "{out}": cannot be written: {error.strerror}') from None

    def add(self, result: Result, samples: Sequence[Sample], metrics: Sequence[str]) -> None:
        """Write the rows of one item, as soon as it is done."""
        rows = {s.id: s for s in result.scores}
        lines = [row_of(i, s, rows[s.id], metrics) for i, s in enumerate(samples) if s.id in rows]
        path = self.path / result.subject / f"samples_{result.eval}_{self.stamp}.jsonl"
        write_text(path, "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines))

    def finish(self, run: Run) -> None:
        """Write report.json, a results file for every subject, and junit.xml."""
        for subject in dict.fromkeys(r.subject for r in run.reports):
            path = self.path / subject / f"results_{self.stamp}.json"
            write_text(path, dumps(_results(run, subject)))
        write_text(self.path / "junit.xml", junit(run))
        write_text(self.path / "report.json", to_json(run))


def last_run(out: Path, suite: str) -> Run:
    """Return the newest run of a suite under `out`. Raises UsageError when there is none."""
    found = sorted(out.glob(f"{suite}-*T*Z*/report.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UsageError(f'--lf: no report of suite "{suite}" in {out}; run it once without --lf')
    return read_run(found[-1])


def read_rows(folder: Path, subject: str, evaluation: str) -> dict[str, dict[str, Any]]:
    """Return the rows of one item of a run, by sample id."""
    path = next(iter(sorted((folder / subject).glob(f"samples_{evaluation}_????-??-??T*.jsonl"))), None)
    if path is None:
        raise UsageError(f'{folder}: holds no rows of "{evaluation}" on {subject}')
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        return {row["id"]: row for row in rows}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise UsageError(f"{path}: cannot be read as rows; run the suite again") from None


def junit(run: Run) -> str:
    """Write a run as JUnit XML: one case a verdict, and one for every item without verdicts."""
    suite = ET.Element("testsuite", name=run.suite, timestamp=run.started, time=f"{run.seconds:.3f}")
    notes = [("conclusion", c) for c in run.conclusions] + [("warning", w) for w in run.warnings]
    if notes:
        properties = ET.SubElement(suite, "properties")
        for name, value in notes:
            ET.SubElement(properties, "property", name=name, value=value)
    for report in run.reports:
        cases = report.verdicts or (None,)
        for verdict in cases:
            name = report.id if verdict is None else f"{report.id}::{verdict.gate}"
            seconds = report.seconds / len(cases)
            case = ET.SubElement(suite, "testcase", classname=run.suite, name=name, time=f"{seconds:.3f}")
            _junit_outcome(case, report, verdict)
            if verdict and not verdict.blocking:
                ET.SubElement(case, "system-out").text = "severity: warn"
    if run.problem:
        case = ET.SubElement(suite, "testcase", classname=run.suite, name="run", time="0")
        ET.SubElement(case, "error", message=run.problem)
    cases_ = suite.findall("testcase")
    suite.set("tests", str(len(cases_)))
    for kind in ("failure", "error", "skipped"):
        suite.set({"failure": "failures", "error": "errors", "skipped": "skipped"}[kind], str(_having(cases_, kind)))
    _spell(suite)
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _spell(element: ET.Element) -> None:
    """Make text of others such as XML 1.0 can hold, one line each and without secrets."""
    for one in element.iter():
        one.attrib.update({name: shown(value) for name, value in one.attrib.items()})
        one.text = shown(one.text, lines=True) if one.text else one.text


def _junit_outcome(case: ET.Element, report: Report, verdict: Verdict | None) -> None:
    outcome, why = (verdict.outcome, verdict.why) if verdict else (None, "")
    if verdict and verdict.waiver:
        ET.SubElement(case, "skipped", message=f"{outcome}, {verdict.waiver.says()} ({why})")
    elif verdict and verdict.missed and not verdict.decides:
        ET.SubElement(case, "skipped", message=f"{outcome}, not what ships ({why})")
    elif outcome is Outcome.FAIL:
        ET.SubElement(case, "failure", message=why)
    elif outcome in (Outcome.INCONCLUSIVE, Outcome.ERROR):
        ET.SubElement(case, "error", message=f"{outcome}: {why}")
    elif report.outcome == "error":
        ET.SubElement(case, "error", message=report.error or "")
    elif report.outcome == "skipped":
        ET.SubElement(case, "skipped", message=report.error or "")


def _having(cases: Sequence[ET.Element], kind: str) -> int:
    return sum(case.find(kind) is not None for case in cases)


def row_of(number: int, sample: Sample, score: Any, metrics: Sequence[str]) -> dict[str, Any]:
    """Return one row with lm-evaluation-harness's keys, and ours beside them."""
    prompt = sample.input or sample.row.get("text", "")
    return {
        "doc_id": number,
        "doc": dict(sample.row),
        "target": sample.target,
        "arguments": [[prompt]],
        "resps": [[score.answer]],
        "filtered_resps": [score.answer],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": digest_of(sample.row),
        "prompt_hash": digest_of(prompt),
        "target_hash": digest_of(sample.target),
        **score.values,
        "id": sample.id,
        "cluster": sample.cluster,
        "weight": score.weight,
        "weights": dict(score.weights),
        "note": score.note,
        **({"details": dict(score.details)} if score.details else {}),
    }


def _results(run: Run, subject: str) -> dict[str, Any]:
    """Return one subject's results as lm-evaluation-harness writes them, with `gates` and `artifact` beside."""
    reports = [r for r in run.reports if r.subject == subject and r.outcome == "done"]
    results: dict[str, dict[str, Any]] = {}
    for r in reports:
        results[r.eval] = {"alias": r.eval}
        for name, value in r.metrics.items():
            results[r.eval][f"{name},none"] = value
            results[r.eval][f"{name}_stderr,none"] = r.stderr.get(name, "N/A")
    return {
        "results": results,
        "higher_is_better": {r.eval: {m: b == "higher" for m, b in r.better.items()} for r in reports},
        "n-samples": {r.eval: {"original": r.n, "effective": r.n} for r in reports},
        "config": {"model": run.model, "model_args": run.facts.get("model", {}), "random_seed": run.seed},
        "date": run.started,
        "pretty_env_info": " ".join(f"{k}={v}" for k, v in run.versions.items()),
        "gates": [asdict(v) for v in run.verdicts if v.candidate == subject],
        "artifact": {"subject": subject, "digest": run.digests.get(subject, "")},
    }


def writable(path: Path) -> bool:
    """Say whether a file or folder could be made at `path`; leave nothing behind."""
    try:
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False
