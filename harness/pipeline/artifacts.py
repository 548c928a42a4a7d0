"""Where everything lies that is made by exactly one recipe on exactly one base and data, and who may make it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.answers import keys
from harness.artifacts import kept
from harness.collection.plan import Plan
from harness.files import cache_dir
from harness.pipeline.preflight import Ready, recipe_digest
from harness.pipeline.record import Record
from harness.pipeline.session import Session
from harness.records.models import ModelRef, Progress
from harness.release import conversions
from harness.suite.tables import Export


@dataclass(frozen=True)
class Artifacts:
    """The places of a trained adapter, its merged models and the copies of these; none need be there yet."""

    collection: Plan
    opened: Ready

    @cached_property
    def work(self) -> Path:
        """Return the folder of this recipe; its digest holds all that a trained adapter depends on."""
        return cache_dir() / "trained" / recipe_digest(self.collection, self.opened, keys.versions())[:16]

    @property
    def adapter(self) -> Path:
        """Return the folder of the adapter, trained or made elsewhere; of the model where all weights are trained."""
        suite = self.collection.suite
        if suite.candidate and suite.candidate.adapter:
            return suite.resolve(suite.candidate.adapter)
        return self.work / ("merged" if self.collection.whole else "adapter")

    def merged(self, variant: str) -> Path:
        """Return the folder of the merge onto a variant of the base, whatever the candidate is called."""
        return self.work / ("merged" if self.collection.whole else f"merged-{variant}")

    def copy(self, declared: Export, parent: ModelRef) -> Path:
        """Return the folder of what an export makes of a candidate; it depends on the candidate's weights too."""
        exporter = self.collection.plugins.find("exporter", declared.use).function
        return conversions.folder_of(self.work, declared, parent, exporter)


def artifacts_of(session: Session) -> Artifacts:
    """Return where a session's models lie: the one place to ask for all that make, find or foresee them."""
    return Artifacts(session.collection, session.opened)


@contextmanager
def making(session: Session, record: Record, out: Path) -> Iterator[bool]:
    """Hold the work folder against other runs; yield whether a folder in it is there, as it was made."""
    with kept.held(out.parent, lambda line: session.progress(Progress("waiting", 0, 0, remark=line))):
        yield kept.fits(out, record.warn)
