"""[model] use = "vllm": causal LMs answered by vLLM, in an environment of its own that `python` names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness import hookimpl, loader
from harness.internals import schema
from harness_vllm import environment
from harness_vllm.environment import Flags

if TYPE_CHECKING:
    from harness import ModelRef, Subject
    from harness_hf import LocalSource

# An engine runs empty at the end of each piece, for its prefix cache is emptied there. Pieces of 32 times 64 rows fill
# eight times over the 256 sequences that vLLM answers at once by default, so that three quarters of the time it is
# full. Larger ones would outlast the hour that a worker has for its first, where the engine is one core's.
PIECE = 32
LACKS = ("token_kl", "4-bit")


@hookimpl
def harness_loaders() -> dict[str, Any]:
    return {"vllm": load}


@schema.takes(Flags)
def open_source(path: str, options: Flags) -> LocalSource:
    """Bring a model onto this machine and tell what it is; raises UsageError where vLLM is not there to load it."""
    environment.check_flags(options)
    environment.check(options.python)
    return environment.source(path, options)


@schema.takes(Flags)
def identify(ref: ModelRef, options: Flags) -> str | None:
    """Return the identity of all an answer depends on, loading no model; None in an environment without vLLM."""
    return environment.identity(ref, options)


@loader(open=open_source, identity=identify, needs=lambda _: ("torch", "transformers"), piece=PIECE, lacks=LACKS)
@schema.takes(Flags)
@contextmanager
def load(refs: Sequence[ModelRef], options: Flags) -> Iterator[list[Subject]]:
    """Load one Subject per ref, an adapter folded into its base; `engine` holds more of vLLM's arguments.

    Raises UsageError where vLLM cannot load a model, or scores otherwise when it reads its prefix cache.
    """
    from harness_vllm.subject import load_subjects, release

    subjects = load_subjects(refs, options)
    try:
        yield list(subjects)
    finally:
        release(subjects)
