"""Load the models of a stage by their loader, in this process or in a worker's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

from harness.artifacts.digests import digest_of
from harness.records.models import ModelRef, Progress, Subject
from harness.workers.pieces import InPieces

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
        yield [InPieces(subject, tell) for subject in subjects]
