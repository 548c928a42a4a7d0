"""Load the models of a stage by their loader, in this process or in a worker's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_of
from harness.capabilities import Loader as Capable
from harness.plugins import Plugins
from harness.records.models import ModelRef, Progress, Subject
from harness.workers.on import workers
from harness.workers.pieces import InPieces
from harness.workers.pool import Opening, Pool

Loader = Callable[..., AbstractContextManager[list[Subject]]]


@contextmanager
def load_each(loader: Loader, refs: Sequence[ModelRef]) -> Iterator[list[Subject]]:
    """Yield a subject per ref; those with the same options are loaded by one call, to share what they can."""
    alike: dict[str, list[int]] = {}
    for i, ref in enumerate(refs):
        alike.setdefault(digest_of(dict(ref.options)), []).append(i)
    found: dict[int, Subject] = {}
    with ExitStack() as stack:
        for numbers in alike.values():
            loaded = stack.enter_context(loader([refs[i] for i in numbers], **refs[numbers[0]].options))
            found.update(zip(numbers, loaded, strict=True))
        yield [found[i] for i in range(len(refs))]


@contextmanager
def load_here(loader: Loader, refs: Sequence[ModelRef], tell: Callable[[Progress], None]) -> Iterator[list[Subject]]:
    """Yield a subject per ref that answers in this process, piece by piece as workers would."""
    with load_each(loader, refs) as subjects:
        times = Capable.of(loader).piece
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
