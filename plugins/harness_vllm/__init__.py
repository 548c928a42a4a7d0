"""[model] use = "vllm": causal LMs answered by vLLM, in an environment of its own that `python` names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from harness import hookimpl, loader
from harness.internals import schema

if TYPE_CHECKING:
    from harness import ModelRef, Subject
    from harness_hf import LocalSource

DType = Literal["auto", "float32", "bfloat16", "float16"]
# An engine runs empty at the end of each piece, for its prefix cache is emptied there. Pieces of 32 times 64 rows fill
# eight times over the 256 sequences that vLLM answers at once by default, so that three quarters of the time it is
# full. Larger ones would outlast the hour that a worker has for its first, where the engine is one core's.
PIECE = 32


@hookimpl
def harness_loaders() -> dict[str, Any]:
    return {"vllm": load}


def open_source(
    path: str,
    *,
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: float | None = None,
    max_model_len: int | None = None,
    python: str | None = None,
    engine: Mapping[str, Any] | None = None,
    revision: str | None = None,
    sha256: str | None = None,
    **_: Any,
) -> LocalSource:
    """Bring a model onto this machine and tell what it is; raises UsageError where vLLM is not there to load it."""
    from harness_vllm import environment

    environment.check_flags(tensor_parallel_size, gpu_memory_utilization, max_model_len, engine or {})
    environment.check(python)
    return environment.source(path, max_model_len, revision=revision, sha256=sha256)


def identify(ref: ModelRef, **options: Any) -> str | None:
    """Return the identity of all an answer depends on, loading no model; None in an environment without vLLM."""
    from harness_vllm import environment

    return environment.identity(ref, schema.with_defaults(load, options))


@loader(
    open=open_source,
    identity=identify,
    needs=lambda _: ("torch", "transformers"),
    piece=PIECE,
    lacks=("token_kl", "4-bit"),
)
@contextmanager
def load(
    refs: Sequence[ModelRef],
    *,
    dtype: DType = "auto",
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: float | None = None,
    max_model_len: int | None = None,
    python: str | None = None,
    batch_invariant: bool = False,
    engine: Mapping[str, Any] | None = None,
    revision: str | None = None,
    sha256: str | None = None,
) -> Iterator[list[Subject]]:
    """Load one Subject per ref, an adapter folded into its base; `engine` holds more of vLLM's arguments.

    Raises UsageError where vLLM cannot load a model, or scores otherwise when it reads its prefix cache.
    """
    from harness_vllm.environment import Flags
    from harness_vllm.subject import load_subjects, release

    flags = Flags(dtype, tensor_parallel_size, gpu_memory_utilization, max_model_len, batch_invariant, engine or {})
    subjects = load_subjects(refs, flags, {"revision": revision, "sha256": sha256})
    try:
        yield list(subjects)
    finally:
        release(subjects)
