"""What a suite comes to, written down before there is a candidate to please."""

from __future__ import annotations

from harness.artifacts.attestation import LOCK
from harness.evaluation.evaluate import asked_digest
from harness.files import write_text
from harness.pipeline.adjudication import Adjudicator
from harness.pipeline.record import Locked, Record
from harness.pipeline.session import Session
from harness.release.lockfile import lock
from harness.reports.report_json import dumps


def lock_suite(session: Session, record: Record, adjudicator: Adjudicator) -> None:
    """Write the lock into the run's folder, and keep it with the digest of what each evaluation asks."""
    assert session.folder
    tasks = session.collection.tasks.items()
    rows = {name: asked_digest(t.samples) for name, t in tasks if t.samples is not None}
    text = dumps(lock(session.collection, record.shown(), adjudicator.leaks))
    write_text(session.folder.path / LOCK, text)
    record.locked(Locked(text.encode(), rows))


def moved_rows(record: Record, adjudicator: Adjudicator) -> list[str]:
    """Return a reason not to ship for every evaluation that was judged on other rows than were locked."""
    rows = record.locks[-1].rows
    odd = {name for (_, name), result in adjudicator.results.items() if result.rows != rows.get(name)}
    return [f'"{name}" was judged on other rows than were locked before there was a candidate' for name in sorted(odd)]
