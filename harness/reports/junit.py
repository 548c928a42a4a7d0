"""A run as JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from harness.records.gates import Outcome, Verdict
from harness.records.run import Report, Run
from harness.texts.shown import shown


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
    """Replace text by such as XML 1.0 can hold, one line each and without secrets."""
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
