"""Load the models of a stage by their loader, in this process or in a worker's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import blame
from harness.answers.cache import CachedSubject, Models
from harness.artifacts.digests import digest_of
from harness.capabilities import LoaderCapabilities
from harness.errors import of_the_machine
from harness.plugins import Plugins
from harness.records.frozen import isolated
from harness.records.models import ModelRef, Progress, Subject
from harness.texts.counts import counted
from harness_workers.local import workers
from harness_workers.pieces import APPETITE, InPieces, Tell
from harness_workers.pool import Opening, Pool
from harness_workers.protocol import told_ref

if TYPE_CHECKING:
    from harness.pipeline.session import Session
    from harness.suite.tables import Model

Loaded = AbstractContextManager[list[Subject]]
Loader = Callable[..., Loaded]


@contextmanager
def load_each(loader: Loader, refs: Sequence[ModelRef]) -> Iterator[list[Subject]]:
    """Yield a subject per ref; those with the same options are loaded by one call, to share what they can.

    Raises UsageError where a loader gives another model than it was asked for.
    """
    alike: dict[str, list[int]] = {}
    for i, ref in enumerate(refs):
        alike.setdefault(digest_of(dict(ref.options)), []).append(i)
    found: dict[int, Subject] = {}
    with blame.guard(loader, __name__), ExitStack() as stack:
        for numbers in alike.values():
            loaded = stack.enter_context(loader([refs[i] for i in numbers], **refs[numbers[0]].options))
            if not isinstance(loaded, Sequence) or len(loaded) != len(numbers):
                number = len(loaded) if isinstance(loaded, Sequence) else "something other than a list of"
                what = f" yielded {number} subjects for {counted(len(numbers), 'ref')}; it must yield one each"
                raise blame.slip(loader, what)
            found.update(zip(numbers, loaded, strict=True))
            for ref, subject in ((refs[i], found[i]) for i in numbers):  # it may have kept another one from before
                given = getattr(subject, "name", None), getattr(subject, "digest", None) if ref.digest else ref.digest
                if given != (ref.name, ref.digest):
                    what = f' was given "{ref.name}" with weights {ref.digest[:12]} and returned "{given[0]}"'
                    instead = "load each ref, or cache models by their digest"
                    raise blame.slip(loader, f"{what} with {str(given[1])[:12]}; {instead}")
        yield [found[i] for i in range(len(refs))]


class Shelf:
    """Loaded models that stay for later suites of one call: the last `most` sets that were asked, none by default."""

    def __init__(self, most: int = 0) -> None:
        self._most, self._held = most, dict[str, tuple[ExitStack, list[Subject]]]()
        self.tell: Tell = lambda _: None  # of the suite that runs

    def told(self, sign: Progress) -> None:
        """Pass a sign of life on to whoever watches now."""
        self.tell(sign)

    @contextmanager
    def borrowed(self, key: str, load: Callable[[], Loaded]) -> Iterator[list[Subject]]:
        """Yield the models of a key, loaded unless they are here; where memory runs out others make room for them."""
        stack, subjects = self._held.pop(key) if key in self._held else self._loaded(load)
        try:
            yield subjects
        finally:
            self._held[key] = stack, subjects
            self._keep(self._most)

    def close(self) -> None:
        """Free all."""
        self._keep(0)

    def _loaded(self, load: Callable[[], Loaded]) -> tuple[ExitStack, list[Subject]]:
        stack = ExitStack()
        try:
            return stack, stack.enter_context(load())
        except Exception as error:
            if not (self._held and of_the_machine(error)):
                raise
        self.close()
        return stack, stack.enter_context(load())

    def _keep(self, most: int) -> None:
        for key in list(self._held)[: max(0, len(self._held) - most)]:
            stack, subjects = self._held.pop(key)
            del subjects
            stack.close()


@contextmanager
def load_here(loader: Loader, refs: Sequence[ModelRef], tell: Tell) -> Iterator[list[Subject]]:
    """Yield a subject per ref that answers in this process, piece by piece as workers would."""
    with load_each(loader, refs) as subjects:
        times = LoaderCapabilities.of(loader).piece
        yield [InPieces(subject, tell, times) for subject in subjects]


@contextmanager
def load(session: Session, refs: Sequence[ModelRef], model: Model | None) -> Iterator[tuple[Models, list[Subject]]]:
    """Yield models and a subject for each; none is loaded before something is asked that is not remembered."""
    plugins, suite, options, responses = session.collection.plugins, session.suite, session.options, session.responses
    model, shelf = model or suite.model, options.shelf or Shelf()
    loader = plugins.find("loader", model.use).function
    about, own = LoaderCapabilities.of(loader), isolated(list(refs))
    shelf.tell = session.progress
    crew = None if about.remote else workers(options.on, plugins, model.options)
    with ExitStack() as stack:
        opens: Callable[[], Loaded]
        if about.remote:
            opens = partial(load_each, loader, own)  # cut there
        elif crew:
            pool = Pool(crew, Opening.of(plugins, suite.path, model.use, own), shelf.told, options.patience)
            opens = pool.loaded
            if crew.elsewhere:
                stack.callback(pool.close)
        else:
            opens = partial(load_here, loader, own, shelf.told)
        if not (about.remote or (crew and crew.elsewhere)):
            opens = partial(shelf.borrowed, digest_of([id(loader), options.on, [told_ref(ref) for ref in own]]), opens)
        models = Models(opens)
        stack.callback(models.close)
        identify = about.identity if responses else None
        if crew and crew.elsewhere and responses:
            identities: Sequence[str | None] = pool.open()
        else:
            identities = [identify(isolated(ref), **ref.options) if identify else None for ref in refs]
            if crew and not crew.elsewhere and identify:
                pool.identities = tuple(identities)
        appetite = None if about.remote else APPETITE * about.piece
        subjects: list[Subject] = []
        for i, (ref, identity) in enumerate(zip(refs, identities, strict=True)):
            if identity is None or responses is None:
                subjects.append(models[i])
            else:
                subjects.append(CachedSubject(ref, identity, models, i, responses, appetite))
        yield models, subjects


@contextmanager
def load_now(
    plugins: Plugins, suite: Path, use: str, refs: Sequence[ModelRef], options: Mapping[str, Any]
) -> Iterator[list[Subject]]:
    """Yield a subject per ref from a loader itself, or from one worker where its options name another interpreter."""
    if crew := workers("", plugins, options):
        own = [replace(ref, options=options) for ref in refs]
        with Pool(crew, Opening.of(plugins, suite, use, own), lambda _: None).loaded() as subjects:
            yield subjects
    else:
        with plugins.find("loader", use).function(refs, **options) as subjects:
            yield subjects
