"""[model] use = "hf": causal LMs with transformers, from a folder, the Hub or a package."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import hookimpl, loader
from harness.internals import lazily, schema

if TYPE_CHECKING:
    from harness import ModelRef, Subject
    from harness_hf.answers import Answer, Ending, Marks
    from harness_hf.linear import fast_linear, use_onednn
    from harness_hf.models import (
        BLOCK,
        add_adapter,
        assert_not_repacked,
        check_found,
        fitting,
        keep_4bit_layout,
        load_model,
        load_tokenizer,
        one_line,
        quiet,
        resolve_device,
        resolve_dtype,
        skeleton,
        wrong_on_cpu,
    )
    from harness_hf.restore import SPLITS
    from harness_hf.restore import name_of as split_name
    from harness_hf.sources import LocalSource, parameters_of, resolve, told_of
    from harness_hf.subject import Described, HFSubject, free_memory
    from harness_hf.tokens import DEFAULT_CONTEXT, Tokens

# When it is imported, by whomever, it would run code that "kernels" downloads, and without that advises to install it.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

__all__ = [
    "BLOCK",
    "DEFAULT_CONTEXT",
    "SPLITS",
    "Answer",
    "Described",
    "Ending",
    "HFSubject",
    "LocalSource",
    "Marks",
    "Tokens",
    "add_adapter",
    "assert_not_repacked",
    "check_found",
    "fast_linear",
    "fitting",
    "free_memory",
    "identify",
    "is_fp8",
    "keep_4bit_layout",
    "load",
    "load_model",
    "load_tokenizer",
    "one_line",
    "open_source",
    "parameters_of",
    "quiet",
    "read_fp8",
    "resolve",
    "resolve_device",
    "resolve_dtype",
    "skeleton",
    "split_name",
    "told_of",
    "use_onednn",
    "wrong_on_cpu",
]
LATER = dict.fromkeys(__all__, "harness_hf.models")  # what is imported when it is asked for
LATER |= dict.fromkeys(("Answer", "Ending", "Marks"), "harness_hf.answers")
LATER |= dict.fromkeys(("fast_linear", "use_onednn"), "harness_hf.linear")
LATER |= dict.fromkeys(("LocalSource", "parameters_of", "resolve", "told_of"), "harness_hf.sources")
LATER |= dict.fromkeys(("Described", "HFSubject", "free_memory"), "harness_hf.subject")
LATER |= dict.fromkeys(("DEFAULT_CONTEXT", "Tokens"), "harness_hf.tokens")
LATER |= dict.fromkeys(("is_fp8", "read_fp8"), "harness_hf.fp8")
LATER |= {"SPLITS": "harness_hf.restore", "split_name": "harness_hf.restore:name_of"}
__getattr__ = lazily(__name__, LATER)
DType = Literal["auto", "float32", "bfloat16", "float16"]


@hookimpl
def harness_loaders() -> dict[str, Any]:
    return {"hf": load}


@hookimpl
def harness_saboteurs() -> dict[str, Any]:
    from harness_hf import sabotage

    return {"base nudged": sabotage.nudged, "noise in the weights": sabotage.noise, "NaN weights": sabotage.nan}


def open_source(path: str, *, revision: str | None = None, sha256: str | None = None, **_: Any) -> LocalSource:
    """Bring a model onto this machine and tell what it is, without loading its weights."""
    from harness_hf.sources import open_folder, resolve

    return open_folder(resolve(path, revision=revision, sha256=sha256))


def identify(ref: ModelRef, **options: Any) -> str:
    """Return the identity of all an answer depends on, loading no model; raises UsageError when it is not there."""
    from harness_hf.sources import identity_of, resolve

    pins = {} if Path(ref.path).is_dir() else {k: options[k] for k in ("revision", "sha256") if k in options}
    return identity_of(ref, resolve(ref.path, **pins), schema.with_defaults(load, options))


def check(path: str) -> None:
    """Raise UsageError at a model made elsewhere whose small files cannot be built, loaded or rendered."""
    from harness_hf import probe

    probe.check(path)


@loader(open=open_source, identity=identify, probe=check, needs=lambda options: ("torch", "transformers"))
@contextmanager
def load(
    refs: Sequence[ModelRef],
    *,
    dtype: DType = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    threads: int | None = None,
    revision: str | None = None,
    sha256: str | None = None,
    batch_tokens: int | None = None,
    reference: bool = False,
) -> Iterator[list[Subject]]:
    """Load one Subject per ref; refs of one base share it, and adapters are switched on top of it.

    `batch_tokens` bounds the tokens of one forward pass, `reference` scores in plain padded batches.
    Raises UsageError when a model is not there or an adapter was made for another base.
    """
    from harness_hf.sources import resolve
    from harness_hf.subject import load_subjects, release

    # A folder is what `open_source` made of a path, under the pins; they do not name it.
    pins = [{} if Path(ref.path).is_dir() else {"revision": revision, "sha256": sha256} for ref in refs]
    folders = [str(resolve(ref.path, **pin)) for ref, pin in zip(refs, pins, strict=True)]
    placed = {"dtype": dtype, "device": device, "device_map": device_map, "threads": threads}
    subjects = load_subjects(refs, folders, placed, batch_tokens=batch_tokens, reference=reference)
    try:
        yield list(subjects)
    finally:
        release(subjects)
