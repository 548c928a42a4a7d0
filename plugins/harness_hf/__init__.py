"""[model] use = "hf": causal LMs with transformers, from a folder, the Hub or a package."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import hookimpl, loader
from harness.internals import attach_lazily, schema
from harness_hf.cpu import limit_spinning

if TYPE_CHECKING:  # what is imported when it is asked for
    from harness import Loader, ModelRef, Saboteur, Subject
    from harness.internals import Fingerprint
    from harness_hf.answers import AnswerState as AnswerState
    from harness_hf.answers import StopCondition as StopCondition
    from harness_hf.answers import ThoughtMarkers as ThoughtMarkers
    from harness_hf.arithmetic import compute_as_runtime as compute_as_runtime
    from harness_hf.classes import config_of_class as config_of_class
    from harness_hf.classes import find_class as find_class
    from harness_hf.classes import language_model_name as language_model_name
    from harness_hf.classes import load_config as load_config
    from harness_hf.cpu import cpu_training as cpu_training
    from harness_hf.cpu import kernels_enabled as kernels_enabled
    from harness_hf.cpu import use_cpu_kernels as use_cpu_kernels
    from harness_hf.cpu import uses_cpu_kernels as uses_cpu_kernels
    from harness_hf.cpu.linear import keep_decoded as keep_decoded
    from harness_hf.encoding import CONTEXT_MARKS as CONTEXT_MARKS
    from harness_hf.encoding import IGNORED_LABEL as IGNORED_LABEL
    from harness_hf.encoding import EncodedRow as EncodedRow
    from harness_hf.encoding import RowEncoder as RowEncoder
    from harness_hf.encoding import is_context_turn as is_context_turn
    from harness_hf.encoding import row_turns as row_turns
    from harness_hf.fp8 import is_fp8 as is_fp8
    from harness_hf.fp8 import read_fp8 as read_fp8
    from harness_hf.logprobs import TOKEN_STATISTICS as TOKEN_STATISTICS
    from harness_hf.logprobs import compute_token_statistics as compute_token_statistics
    from harness_hf.memory import free_bytes as free_bytes
    from harness_hf.memory import iterate_row_slices as iterate_row_slices
    from harness_hf.models import BLOCK_VALUES as BLOCK_VALUES
    from harness_hf.models import adapter_errors_in_one_line as adapter_errors_in_one_line
    from harness_hf.models import add_adapter as add_adapter
    from harness_hf.models import assert_not_repacked as assert_not_repacked
    from harness_hf.models import build_skeleton as build_skeleton
    from harness_hf.models import check_loaded_tensors as check_loaded_tensors
    from harness_hf.models import find_misread_layer as find_misread_layer
    from harness_hf.models import format_one_line as format_one_line
    from harness_hf.models import keep_4bit_layout as keep_4bit_layout
    from harness_hf.models import load_model as load_model
    from harness_hf.models import load_tokenizer as load_tokenizer
    from harness_hf.models import quiet_loading as quiet_loading
    from harness_hf.models import resolve_device as resolve_device
    from harness_hf.models import resolve_dtype as resolve_dtype
    from harness_hf.restore import SPLITS as SPLITS
    from harness_hf.restore import split_name as split_name
    from harness_hf.scoring import kl_and_agreement as kl_and_agreement
    from harness_hf.sources import LocalSource as LocalSource
    from harness_hf.sources import context_length as context_length
    from harness_hf.sources import count_parameters as count_parameters
    from harness_hf.sources import read_json_file as read_json_file
    from harness_hf.sources import resolve_folder as resolve_folder
    from harness_hf.subject import HFSubject as HFSubject
    from harness_hf.subject import TokenizedSubject as TokenizedSubject
    from harness_hf.subject import free_memory as free_memory
    from harness_hf.tokens import DEFAULT_CONTEXT as DEFAULT_CONTEXT
    from harness_hf.tokens import ModelTokenizer as ModelTokenizer
    from harness_hf.tokens import select_template as select_template

# By default, transformers would run code that "kernels" downloads, and advise to install it where it is not there.
os.environ["USE_HUB_KERNELS"] = "NO"
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
limit_spinning()
__getattr__, _ = attach_lazily(__name__, __file__)


@hookimpl
def harness_loaders() -> dict[str, Loader]:
    return {"hf": load}


@hookimpl
def harness_saboteurs() -> dict[str, Saboteur]:
    from harness_hf import sabotage

    return {
        "base nudged": sabotage.make_nudged,
        "noise in the weights": sabotage.make_noise,
        "NaN weights": sabotage.make_nan,
    }


def open_source(path: str, *, revision: str | None = None, sha256: str | None = None, **_: Any) -> LocalSource:
    """Fetch a model and describe it without loading its weights."""
    from harness_hf.classes import check_class
    from harness_hf.sources import open_folder, resolve_folder

    source = open_folder(folder := resolve_folder(path, revision=revision, sha256=sha256))
    check_class(folder)
    return source


def identify(ref: ModelRef, **options: Any) -> str:
    """Return a digest of everything a model's answers depend on.

    No model is loaded. Raises UsageError if it is not there.
    """
    from harness_hf.sources import make_identity, resolve_folder

    pins = {} if Path(ref.path).is_dir() else {k: options[k] for k in ("revision", "sha256") if k in options}
    return make_identity(ref, resolve_folder(ref.path, **pins), schema.with_defaults(load, options))


def check(path: str) -> None:
    """Check the small files of a model made elsewhere.

    Raises UsageError if they cannot be built, loaded or rendered.
    """
    from harness_hf import probe

    probe.check_folder(path)


def open_live_model(
    model: Any, ref: ModelRef, *, base: bool = False, processing_class: Any = None
) -> AbstractContextManager[Subject]:
    """Yield a model in training, or its base, as a Subject. The model is restored afterwards."""
    from harness_hf import live

    return live.open_live_model(model, ref, base=base, processing_class=processing_class)


def make_fingerprint(ref: ModelRef, base: Path | None) -> Fingerprint:
    """Compute a model's fingerprint from its predictions at the probes."""
    from harness_hf.fingerprint import make_fingerprint

    return make_fingerprint(ref, base)


@loader(
    open=open_source,
    identity=identify,
    probe=check,
    needs=lambda options: ("torch", "transformers"),
    fingerprint=make_fingerprint,
    live=open_live_model,
)
@contextmanager
def load(
    refs: Sequence[ModelRef],
    *,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    threads: int | None = None,
    revision: str | None = None,
    sha256: str | None = None,
    batch_tokens: int | None = None,
    reference: bool = False,
    cpu_kernels: bool = True,
) -> Iterator[list[Subject]]:
    """Load one Subject per ref, sharing bases and switching adapters.

    Refs of one base share it, and adapters are switched on top of it. `batch_tokens` bounds the tokens of one forward
    pass, `reference` scores in plain padded batches. `cpu_kernels = false` leaves all computation on a CPU to PyTorch,
    PEFT and TRL alone. Raises UsageError if a model is not there or an adapter was made for another base.
    """
    from harness_hf.sources import resolve_folder
    from harness_hf.subject import load_subjects, release_subjects

    # A folder is what `open_source` made of a path, under the pins; they do not name it.
    pins = [{} if Path(ref.path).is_dir() else {"revision": revision, "sha256": sha256} for ref in refs]
    folders = [str(resolve_folder(ref.path, **pin)) for ref, pin in zip(refs, pins, strict=True)]
    placed = {
        "dtype": dtype,
        "device": device,
        "device_map": device_map,
        "threads": threads,
        "cpu_kernels": cpu_kernels,
    }
    subjects = load_subjects(refs, folders, placed, batch_tokens=batch_tokens, reference=reference)
    try:
        yield list(subjects)
    finally:
        release_subjects(subjects)
