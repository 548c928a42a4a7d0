"""What vLLM is told: which flags, for which model, and what of them decides an answer. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness_hf
from harness import UsageError, did_you_mean, digest_of, keys, schema
from harness_hf import DEFAULT_CONTEXT, told_of
from harness_vllm import environment

if TYPE_CHECKING:
    from harness import ModelRef
    from harness_hf import LocalSource

PASSED: dict[str, Any] = {  # of vLLM's arguments: how much memory, how many rows, in which order; what else is ours
    "block_size": int,
    "compilation_config": dict,
    "cpu_offload_gb": float,
    "disable_custom_all_reduce": bool,
    "enforce_eager": bool,
    "kv_cache_memory_bytes": int,
    "max_num_batched_tokens": int,
    "max_num_seqs": int,
    "pipeline_parallel_size": int,
}
SPARE = 2  # tokens: vLLM always answers with one, and what it scores is one longer than a context


@dataclass(frozen=True)
class Flags:
    """How an engine is started."""

    dtype: str = "auto"
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    batch_invariant: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)


def check(parallel: int, utilization: float | None, length: int | None, engine: Mapping[str, Any]) -> None:
    """Raise UsageError at values that no engine could be started with."""
    if parallel < 1:
        raise UsageError(f"tensor_parallel_size is {parallel}, want 1 or more")
    if utilization is not None and not 0 < utilization <= 1:
        raise UsageError(f"gpu_memory_utilization is {utilization}, want a share from 0 to 1")
    if length is not None and length <= SPARE:
        raise UsageError(f"max_model_len is {length}, want more than {SPARE}")
    for name, value in engine.items():
        if name not in PASSED:
            known = did_you_mean(name, PASSED)
            raise UsageError(f'engine: "{name}" is not passed on to vLLM{known}')
        if not schema.fits(value, PASSED[name]):
            raise UsageError(f"engine: {name} is {schema.show(value)}, want {schema.kind(PASSED[name])}")


def source(path: str, length: int | None, *, revision: str | None, sha256: str | None) -> LocalSource:
    """Describe a model as "hf" does, with the context that vLLM has room for; raises UsageError at a quantised one."""
    opened = harness_hf.open_source(path, revision=revision, sha256=sha256)
    if told := told_of(Path(opened.path), "config.json").get("quantization_config"):
        kind = told.get("quant_method", "quantised") if isinstance(told, dict) else told
        raise UsageError(f'model "{path}": is stored in {kind}, which no test proves here with vLLM; use = "hf"')
    return replace(opened, context=context(opened.context, length, path)) if opened.context or length else opened


def context(named: int | None, length: int | None, path: str) -> int:
    """Return the most tokens of a context, of a model that names so many."""
    if length and named and length > named:
        raise UsageError(f'max_model_len is {length}, the context of model "{path}" is {named}; ask for no more')
    return (length or named or DEFAULT_CONTEXT) - SPARE


def identity(ref: ModelRef, options: Mapping[str, Any]) -> str | None:
    """Digest weights, adapter, tokenizer, hardware, libraries, vLLM's version, flags and switches, and our code.

    `options` are all of the loader's; which interpreter runs it is no part of it.
    """
    version = environment.version()
    if version is None:
        return None  # told by a worker of that environment
    pins = {} if Path(ref.path).is_dir() else {k: options[k] for k in ("revision", "sha256") if k in options}
    flags = {k: v for k, v in options.items() if k != "python"}
    code = keys.of_code([identity])
    return digest_of([harness_hf.identify(ref, **pins), version, flags, environment.switches(), code])


def stops(folder: Path) -> set[int]:
    """Return the stop tokens that a model's configurations name."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        eos = told_of(folder, name).get("eos_token_id")
        found |= {eos} if isinstance(eos, int) else set(eos or ())
    return found
