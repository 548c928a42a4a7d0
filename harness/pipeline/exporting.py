"""Export what may ship, or say why not; what is declared as one export is one decision."""

from __future__ import annotations

from pathlib import Path

from harness.pipeline import preflight
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.locking import moved_rows
from harness.pipeline.record import Record
from harness.pipeline.session import Session
from harness.records.frozen import isolated
from harness.release.export import Judged, export
from harness.suite.tables import Export


def export_all(session: Session, record: Record, adjudicator: Adjudicator) -> None:
    """Export every candidate that may ship, by the adjudicator's verdicts alone."""
    suite = session.suite
    changed = _changed(session) if suite.exports else []
    for declared in suite.exports:
        _export(session, record, adjudicator, declared, changed)


def refuse_exports(session: Session, record: Record, adjudicator: Adjudicator, why: str) -> None:
    """Note of every export why it was not written."""
    for declared in session.suite.exports:
        _export(session, record, adjudicator, declared, [why])


def _export(session: Session, record: Record, adjudicator: Adjudicator, declared: Export, why: list[str]) -> None:
    """Export a candidate unless there is a reason not to, of those in `why`, of the run or of the verdicts."""
    why = [*why, *_of_options(session)]
    why += [f"{one.name}: {one.what}" for one in record.findings if one.counts]
    why += [record.about.part] if record.about.part else []
    why += [record.unmade[declared.name]] if declared.name in record.unmade else []
    why += moved_rows(record, adjudicator)
    ref = record.candidates.get(declared.candidate)
    ledger = adjudicator.ledger.state().told() if adjudicator.ledger else None
    judged = Judged(adjudicator.verdicts, adjudicator.results, record.locks[-1].text, adjudicator.leaks, ledger)
    run, place = record.shown(), f"export to {declared.to}"
    try:
        record.exported(export(session.collection, declared, ref, run, why, judged))
    finally:
        if place in run.facts:  # what the exporter told of it
            record.fact(place, isolated(run.facts[place]))


def _of_options(session: Session) -> list[str]:
    why = [] if session.options.export else ["--no-export"]
    if session.options.select:
        why.append("--select: the rows that chose a candidate cannot confirm it")
    return why


def _changed(session: Session) -> list[str]:
    """Return a reason for every baseline in a folder that holds other weights than when the run opened it."""
    suite, opened = session.suite, session.opened
    models = {"base": (suite.model, opened.source)}
    models |= {name: (suite.subjects[name].model, source) for name, source in opened.others.items()}
    there = {n: (m, s) for n, (m, s) in models.items() if Path(s.path).is_dir()}
    odd = [n for n, (m, s) in there.items() if preflight.open_model(session.collection, m).digest != s.digest]
    return [f'"{name}" was replaced while it was measured' for name in odd]
