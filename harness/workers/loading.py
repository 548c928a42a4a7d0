"""Load the models of a stage by their loader, in this process or in a worker's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_of
from harness.capabilities import LoaderCapabilities
from harness.errors import UsageError, of_the_machine
from harness.plugins import Plugins
from harness.records.models import ModelRef, Progress, Subject
from harness.workers.local import workers
from harness.workers.pieces import InPieces
from harness.workers.pool import Opening, Pool

Loader = Callable[..., AbstractContextManager[list[Subject]]]


@contextmanager
def load_each(loader: Loader, refs: Sequence[ModelRef]) -> Iterator[list[Subject]]:
    """Yield a subject per ref; those with the same options are loaded by one call, to share what they can.

    Raises UsageError where a loader gives another model than it was asked for.
    """
    alike: dict[str, list[int]] = {}
    for i, ref in enumerate(refs):
        alike.setdefault(digest_of(dict(ref.options)), []).append(i)
    found: dict[int, Subject] = {}
    with ExitStack() as stack:
        for numbers in alike.values():
            loaded = stack.enter_context(loader([refs[i] for i in numbers], **refs[numbers[0]].options))
            found.update(zip(numbers, loaded, strict=True))
            for ref, subject in ((refs[i], found[i]) for i in numbers):  # it may have kept another one from before
                given = getattr(subject, "name", None), getattr(subject, "digest", None) if ref.digest else ref.digest
                if given != (ref.name, ref.digest):
                    what = f'asked for "{ref.name}" with weights {ref.digest[:12]} it gave "{given[0]}"'
                    instead = "load each ref, or keep models by their digest"
                    raise UsageError(f"loader: {what} with {str(given[1])[:12]}; {instead}")
        yield [found[i] for i in range(len(refs))]


class Shelf:
    """Loaded models that stay for later suites of one call: the last `most` sets that were asked, none by default."""

    def __init__(self, most: int = 0, tell: Callable[[Progress], None] = lambda _: None) -> None:
        self._most, self._held = most, dict[str, tuple[ExitStack, list[Subject]]]()
        self.tell = tell  # of the suite that runs

    def told(self, sign: Progress) -> None:
        """Pass a sign of life on to whoever watches now."""
        self.tell(sign)

    @contextmanager
    def borrowed(self, key: str, load: Callable[[], AbstractContextManager[list[Subject]]]) -> Iterator[list[Subject]]:
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

    def _loaded(self, load: Callable[[], AbstractContextManager[list[Subject]]]) -> tuple[ExitStack, list[Subject]]:
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
def load_here(loader: Loader, refs: Sequence[ModelRef], tell: Callable[[Progress], None]) -> Iterator[list[Subject]]:
    """Yield a subject per ref that answers in this process, piece by piece as workers would."""
    with load_each(loader, refs) as subjects:
        times = LoaderCapabilities.of(loader).piece
        yield [InPieces(subject, tell, times) for subject in subjects]


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
