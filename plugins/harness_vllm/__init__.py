"""[model] use = "vllm": causal LMs answered by vLLM, in an environment of its own that `python` names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness_hf
from harness import UsageError, did_you_mean, digest_value, hookimpl, loader
from harness.internals import keys, schema
from harness_vllm import environment
from harness_vllm.environment import Flags

if TYPE_CHECKING:
    from harness import Loader, ModelRef, Subject
    from harness_hf import LocalSource

# An engine runs empty at the end of each piece, for its prefix cache is emptied there. Pieces of 32 times 64 rows fill
# eight times over the 256 sequences that vLLM answers at once by default, so that three quarters of the time it is
# full. Larger ones would outlast the hour that a worker has for its first, where the engine is one core's.
PIECE_ROWS = 32
MISSING_CAPABILITIES = ("token_kl", "4-bit")


@hookimpl
def harness_loaders() -> dict[str, Loader]:
    return {"vllm": load}


@schema.accepts_options(Flags)
def open_source(path: str, options: Flags) -> LocalSource:
    """Download a model and describe it, with vLLM's context length.

    Raises UsageError for invalid engine options, without vLLM in the environment, and for a quantised model.
    """
    share, length = options.gpu_memory_utilization, options.max_model_len
    if options.tensor_parallel_size < 1:
        raise UsageError(f"tensor_parallel_size is {options.tensor_parallel_size}; it must be 1 or more")
    if share is not None and not 0 < share <= 1:
        raise UsageError(f"gpu_memory_utilization is {share}; it must be a share from 0 to 1")
    if length is not None and length <= environment.SPARE_TOKENS:
        raise UsageError(f"max_model_len is {length}; it must be more than {environment.SPARE_TOKENS}")
    for name, value in (options.engine or {}).items():
        if (kind := environment.ENGINE_OPTIONS.get(name)) is None:
            raise UsageError(
                f'engine: "{name}" is not an option passed to vLLM{did_you_mean(name, environment.ENGINE_OPTIONS)}'
            )
        if not schema.matches_type(value, kind):
            raise UsageError(f"engine: {name} is {schema.format_toml(value)}; it must be {schema.type_name(kind)}")
    environment.check_environment(options.python)
    opened = harness_hf.open_source(path, revision=options.revision, sha256=options.sha256)
    if told := harness_hf.read_json_file(Path(opened.path), "config.json").get("quantization_config"):
        how = told.get("quant_method", "quantised") if isinstance(told, dict) else told
        raise UsageError(f'model "{path}": is stored in {how}, which is not tested with vLLM; use = "hf"')
    if not (opened.context or length):
        return opened
    return replace(opened, context=environment.max_context(opened.context, length, path))


@schema.accepts_options(Flags)
def identify(ref: ModelRef, options: Flags) -> str | None:
    """Return a digest of everything that determines answers.

    It covers weights, adapter, tokenizer, hardware, libraries, vLLM's version, flags and switches, and this plugin's
    code. Loads no model; None in an environment without vLLM. The path of the interpreter is left out.
    """
    if (version := environment.installed_version()) is None:
        return None  # told by a worker of that environment
    pins: Any = {} if Path(ref.path).is_dir() else {"revision": options.revision, "sha256": options.sha256}
    told = {name: value for name, value in vars(options).items() if name != "python"}
    code = keys.digest_code([environment])
    return digest_value([harness_hf.identify(ref, **pins), version, told, environment.vllm_switches(), code])


@loader(
    open=open_source,
    identity=identify,
    needs=lambda _: ("torch", "transformers"),
    piece=PIECE_ROWS,
    lacks=MISSING_CAPABILITIES,
)
@schema.accepts_options(Flags)
@contextmanager
def load(refs: Sequence[ModelRef], options: Flags) -> Iterator[list[Subject]]:
    """Load one Subject per ref, with adapters folded into the base.

    `engine` holds further arguments of vLLM. Raises UsageError if vLLM cannot load a model, or scores differently when
    it reads its prefix cache.
    """
    from harness_vllm.subject import load_subjects, release_engines

    subjects = load_subjects(refs, options)
    try:
        yield list(subjects)
    finally:
        release_engines(subjects)
