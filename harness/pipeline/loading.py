"""Load models for a stage, here or in workers: none before something is asked of it that is not remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from harness import capabilities
from harness.answers.cache import CachedSubject, Models
from harness.artifacts.digests import digest_of
from harness.collection.plan import Item
from harness.data import fewshot
from harness.errors import of_the_machine
from harness.pipeline.session import Session
from harness.records.frozen import isolated
from harness.records.models import ModelRef, Subject
from harness.suite.tables import Model
from harness.workers.loading import load_each, load_here
from harness.workers.local import workers
from harness.workers.pieces import APPETITE
from harness.workers.pool import Opening, Pool, WorkersGone
from harness.workers.protocol import told_ref


@dataclass(frozen=True)
class Loaded:
    """The models of a stage, and a subject for each."""

    models: Models
    subjects: Sequence[Subject]


@contextmanager
def load(session: Session, refs: Sequence[ModelRef], model: Model | None = None) -> Iterator[Loaded]:
    """Yield a subject per ref; the models are loaded when something is asked that is not remembered."""
    model = model or session.suite.model
    loader = session.collection.plugins.find("loader", model.use).function
    about = capabilities.Loader.of(loader)
    own = isolated(list(refs))
    plugins, on, shelf = session.collection.plugins, session.options.on, session.options.shelf
    shelf.tell = session.progress
    crew = None if about.remote else workers(on, plugins, model.options)
    with ExitStack() as stack:
        if about.remote:
            opens: Callable[[], AbstractContextManager[list[Subject]]] = partial(load_each, loader, own)  # cut there
        elif crew:
            opening = Opening.of(plugins, session.suite.path, model.use, own)
            pool = Pool(crew, opening, shelf.told, session.options.patience)
            opens = pool.loaded
            if crew.elsewhere:
                stack.callback(pool.close)
        else:
            opens = partial(load_here, loader, own, shelf.told)
        if not (about.remote or (crew and crew.elsewhere)):
            key = digest_of([id(loader), on, [told_ref(ref) for ref in own]])
            opens = partial(shelf.borrowed, key, opens)
        models = Models(opens)
        stack.callback(models.close)
        identify = about.identity if session.responses else None
        if crew and crew.elsewhere and session.responses:
            identities: Sequence[str | None] = pool.open()
        else:
            identities = [identify(isolated(ref), **ref.options) if identify else None for ref in refs]
            if crew and not crew.elsewhere and identify:
                pool.identities = tuple(identities)
        appetite = None if about.remote else APPETITE * about.piece
        subjects: list[Subject] = []
        for i, (ref, identity) in enumerate(zip(refs, identities, strict=True)):
            if identity is None or session.responses is None:
                subjects.append(models[i])
            else:
                subjects.append(CachedSubject(ref, identity, models, i, session.responses, appetite))
        yield Loaded(models, subjects)


def prompted(session: Session, item: Item, subject: Subject) -> Subject:
    """Return the subject itself, or with its worked examples in front of it."""
    if isinstance(subject, CachedSubject):
        subject.wants_endings = session.collection.wants_endings(item.eval)
    baseline = session.suite.subjects.get(item.subject)
    if baseline is None or not baseline.examples:
        return subject
    examples = fewshot.choose(session.collection.tasks[item.eval].shots, baseline.examples, session.suite.about.seed)
    return fewshot.FewShot(item.subject, subject, examples)


def is_fatal(error: BaseException, models: Models | None) -> bool:
    """Return whether an error of one evaluation would be that of every other: no model, no disk or no memory."""
    gone = isinstance(error, WorkersGone) or (models is not None and error is models.broken)
    return gone or bool(of_the_machine(error))
