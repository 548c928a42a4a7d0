"""Loading of a stage's models, in this process or in workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import plugin_errors
from harness.answers.cache import CachedSubject, StageModels
from harness.answers.store import Responses
from harness.artifacts.digests import digest_value
from harness.capabilities import LoaderCapabilities
from harness.errors import resource_error
from harness.plugins import Plugins
from harness.records.copies import detach_copy
from harness.records.models import ModelRef, Progress, Subject
from harness.suite.tables import Model
from harness.texts.counts import count_noun
from harness.workers.chunks import PREFERRED_BATCH_ROWS, ChunkedSubject, Tell
from harness.workers.local import parse_workers
from harness.workers.pool import LoadRequest, Pool
from harness.workers.protocol import ref_to_json

Loaded = AbstractContextManager[list[Subject]]
Loader = Callable[..., Loaded]


@contextmanager
def load_each(loader: Loader, refs: Sequence[ModelRef]) -> Iterator[list[Subject]]:
    """Yield one subject per ref from the loader.

    Refs with the same options are loaded by one call, to share resources. Raises UsageError if the loader yields
    another model than requested, or not one per ref.
    """
    alike: dict[str, list[int]] = {}
    for i, ref in enumerate(refs):
        alike.setdefault(digest_value(dict(ref.options)), []).append(i)
    found: dict[int, Subject] = {}
    with plugin_errors.blame_plugin(loader, __name__), ExitStack() as stack:
        for numbers in alike.values():
            loaded = stack.enter_context(loader([refs[i] for i in numbers], **refs[numbers[0]].options))
            if not isinstance(loaded, Sequence) or len(loaded) != len(numbers):
                number = len(loaded) if isinstance(loaded, Sequence) else "something other than a list of"
                what = f" yielded {number} subjects for {count_noun(len(numbers), 'ref')}; it must yield one each"
                raise plugin_errors.plugin_error(loader, what)
            found.update(zip(numbers, loaded, strict=True))
            for ref, subject in ((refs[i], found[i]) for i in numbers):  # it may have kept another one from before
                given = getattr(subject, "name", None), getattr(subject, "digest", None) if ref.digest else ref.digest
                if given != (ref.name, ref.digest):
                    what = f' was given "{ref.name}" with weights {ref.digest[:12]} and returned "{given[0]}"'
                    instead = "load each ref, or cache models by their digest"
                    raise plugin_errors.plugin_error(loader, f"{what} with {str(given[1])[:12]}; {instead}")
        yield [found[i] for i in range(len(refs))]


class ModelCache:
    """Loaded models that stay for later suites of one call: the last `most` sets that were asked, none by default."""

    def __init__(self, most: int = 0) -> None:
        self._most, self._held = most, dict[str, tuple[ExitStack, list[Subject]]]()
        self.tell: Tell = lambda _: None  # of the suite that runs

    def forward_progress(self, sign: Progress) -> None:
        """Forward progress to the suite that runs now."""
        self.tell(sign)

    @contextmanager
    def borrow(self, key: str, load: Callable[[], Loaded]) -> Iterator[list[Subject]]:
        """Yield the models of a key, loaded unless they are held.

        If memory runs out, all other models are freed and loading is tried again.
        """
        stack, subjects = self._held.pop(key) if key in self._held else self._load_or_retry_after_freeing(load)
        try:
            yield subjects
        finally:
            self._held[key] = stack, subjects
            self._evict_oldest_models(self._most)

    def close(self) -> None:
        """Free all."""
        self._evict_oldest_models(0)

    def _load_or_retry_after_freeing(self, load: Callable[[], Loaded]) -> tuple[ExitStack, list[Subject]]:
        stack = ExitStack()
        try:
            return stack, stack.enter_context(load())
        except Exception as error:
            if not (self._held and resource_error(error)):
                raise
        self.close()
        return stack, stack.enter_context(load())

    def _evict_oldest_models(self, most: int) -> None:
        for key in list(self._held)[: max(0, len(self._held) - most)]:
            stack, subjects = self._held.pop(key)
            del subjects
            stack.close()


@contextmanager
def load_in_process(loader: Loader, refs: Sequence[ModelRef], tell: Tell) -> Iterator[list[Subject]]:
    """Yield a subject per ref that answers in this process. Requests run in the same chunks as in workers."""
    with load_each(loader, refs) as subjects:
        times = LoaderCapabilities.of(loader).piece
        yield [ChunkedSubject(subject, tell, times) for subject in subjects]


@dataclass(frozen=True)
class LoaderSettings:
    """Where the models of a suite are loaded: by which plugins, in which workers, and the models that are kept.

    `patience` is how long a silent worker is waited for, in seconds.
    """

    plugins: Plugins
    suite: Path
    on: str
    patience: float
    shelf: ModelCache | None


@contextmanager
def load_models(
    loaders: LoaderSettings,
    refs: Sequence[ModelRef],
    model: Model,
    responses: Responses | None,
    progress: Callable[[Progress], None],
) -> Iterator[tuple[StageModels, list[Subject]]]:
    """Yield models and a subject for each, loaded lazily.

    No model is loaded before the first request that has no cached answer.
    """
    plugins, shelf = loaders.plugins, loaders.shelf or ModelCache()
    loader = plugins.find("loader", model.use).function
    about, own = LoaderCapabilities.of(loader), detach_copy(list(refs))
    shelf.tell = progress
    crew = None if about.remote else parse_workers(loaders.on, plugins, model.options)
    with ExitStack() as stack:
        opens: Callable[[], Loaded]
        if about.remote:
            opens = partial(load_each, loader, own)  # cut there
        elif crew:
            pool = Pool(
                crew, LoadRequest.of(plugins, loaders.suite, model.use, own), shelf.forward_progress, loaders.patience
            )
            opens = pool.load_models
            if crew.elsewhere:
                stack.callback(pool.close)
        else:
            opens = partial(load_in_process, loader, own, shelf.forward_progress)
        if not (about.remote or (crew and crew.elsewhere)):
            opens = partial(
                shelf.borrow, digest_value([id(loader), loaders.on, [ref_to_json(ref) for ref in own]]), opens
            )
        models = StageModels(opens)
        stack.callback(models.close)
        identify = about.identity if responses else None
        if crew and crew.elsewhere and responses:
            identities: Sequence[str | None] = pool.start()
        else:
            identities = [identify(detach_copy(ref), **ref.options) if identify else None for ref in refs]
            if crew and not crew.elsewhere and identify:
                pool.identities = tuple(identities)
        preferred_batch_rows = None if about.remote else PREFERRED_BATCH_ROWS * about.piece
        subjects: list[Subject] = []
        for i, (ref, identity) in enumerate(zip(refs, identities, strict=True)):
            if identity is None or responses is None:
                subjects.append(models[i])
            else:
                subjects.append(CachedSubject(ref, identity, models, i, responses, preferred_batch_rows))
        yield models, subjects


@contextmanager
def load_uncached(
    plugins: Plugins, suite: Path, use: str, refs: Sequence[ModelRef], options: Mapping[str, Any]
) -> Iterator[list[Subject]]:
    """Yield a subject per ref, without cache or lazy loading.

    The loader runs in this process, or in one worker if the options name another interpreter.
    """
    if crew := parse_workers("", plugins, options):
        own = [replace(ref, options=options) for ref in refs]
        with Pool(crew, LoadRequest.of(plugins, suite, use, own), lambda _: None).load_models() as subjects:
            yield subjects
    else:
        with plugins.find("loader", use).function(refs, **options) as subjects:
            yield subjects
