"""A run as JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from contextlib import suppress
from pathlib import Path

from harness.records import verdict_text
from harness.records.run import ItemResult, Run
from harness.records.verdict_figures import verdict_figures
from harness.records.verdicts import Outcome, Verdict
from harness.texts.escaping import printable


def find_overwrite_error(path: Path) -> str | None:
    """Return why JUnit XML must not replace a file, such as scored rows whose option lacks its own file."""
    if not path.is_file():  # or a device, which must not be read
        return None
    with suppress(OSError), path.open("rb") as f:
        if (begin := f.read(1 << 10).lstrip(b"\xef\xbb\xbf \t\r\n")) and not begin.startswith(b"<"):
            return "exists and is not XML"
    return None


def format_junit(run: Run) -> str:
    """Write a run as JUnit XML: one case a verdict, and one for every item without verdicts."""
    suite = ET.Element("testsuite", name=run.suite, timestamp=run.started, time=f"{run.seconds:.3f}")
    notes = [("conclusion", c) for c in run.conclusions] + [("warning", w) for w in run.warnings]
    if notes:
        properties = ET.SubElement(suite, "properties")
        for name, value in notes:
            ET.SubElement(properties, "property", name=name, value=value)
    for report in run.results:
        cases: tuple[Verdict | None, ...] = report.verdicts or (None,)
        if report.outcome == "error" and not any(v.not_passed for v in report.verdicts):
            cases = (None, *report.verdicts)  # an item that could not be evaluated is no warning
        for verdict in cases:
            name = report.id if verdict is None else f"{report.id}::{verdict.gate}"
            seconds = report.seconds / len(cases)
            case = ET.SubElement(suite, "testcase", classname=run.suite, name=name, time=f"{seconds:.3f}")
            if verdict:
                _add_verdict_properties(case, verdict)
            _add_outcome(case, report, verdict)
            if verdict and not verdict.blocking:
                ET.SubElement(case, "system-out").text = f"severity: {_describe_severity(verdict)}"
    if run.problem:
        case = ET.SubElement(suite, "testcase", classname=run.suite, name="run", time="0")
        ET.SubElement(case, "error", message=run.problem)
    cases_ = suite.findall("testcase")
    suite.set("tests", str(len(cases_)))
    for kind, name in {"failure": "failures", "error": "errors", "skipped": "skipped"}.items():
        suite.set(name, str(sum(case.find(kind) is not None for case in cases_)))
    for one in suite.iter():  # text such as XML 1.0 can hold, one line each and without secrets
        one.attrib.update({name: printable(value) for name, value in one.attrib.items()})
        one.text = printable(one.text, lines=True) if one.text else one.text
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def _add_verdict_properties(case: ET.Element, verdict: Verdict) -> None:
    names = ("metric", "claim", "outcome", "estimate", "lower", "upper", "threshold", "alpha", "n")
    told = {name: getattr(verdict, name) for name in names} | {"severity": _describe_severity(verdict)}
    figures = verdict_figures(verdict)
    told |= {"n": figures.n, "slice": figures.where, "estimand": figures.estimand}  # whose the estimate is
    properties = ET.SubElement(case, "properties")
    for name, value in told.items():
        if value not in (None, ""):
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            ET.SubElement(properties, "property", name=name, value=text)


def _describe_severity(verdict: Verdict) -> str:
    return "block" if verdict.blocking else "warn"


def _add_outcome(case: ET.Element, report: ItemResult, verdict: Verdict | None) -> None:
    """Add a failure, error or skip to a test case.

    A case that blocks nothing is skipped, so that CI is not red for a run that ships.
    """
    if verdict is None:
        if report.outcome != "done":
            ET.SubElement(case, report.outcome, message=report.error or "")
        return
    if verdict.outcome is Outcome.PASS:
        return
    outcome, why = verdict.outcome, verdict_text.format_reason(verdict, tests=True)
    if verdict.waiver:
        ET.SubElement(case, "skipped", message=f"{outcome}, {verdict.waiver.summary()} ({why})")
    elif not verdict.blocking:
        ET.SubElement(case, "skipped", message=f"{outcome}, severity {_describe_severity(verdict)} ({why})")
    elif not verdict.decides:
        ET.SubElement(case, "skipped", message=f"{outcome}, not what ships ({why})")
    elif outcome is Outcome.FAIL:
        ET.SubElement(case, "failure", message=why)
    else:
        ET.SubElement(case, "error", message=f"{outcome}: {why}")
