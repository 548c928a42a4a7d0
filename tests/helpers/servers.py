"""Real servers of models, as they are started: llama.cpp's own, transformers serve, and vLLM's engine on a CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
ENV |= {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
ENV |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
LLAMA = """
import json, sys, time, xllamacpp
params, file, port, given = xllamacpp.CommonParams(), sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
params.model.path, params.port, params.hostnames = file, port, ["127.0.0.1"]
params.n_ctx, params.n_parallel, params.warmup, params.cpuparams.n_threads = given["n_ctx"], 1, False, 1
for name, value in given.get("sampling", {}).items():
    setattr(params.sampling, name, value)
if "lora" in given:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = given["lora"]
    params.lora_adapters = [adapter]
server = xllamacpp.Server(params)
while True:
    time.sleep(60)
"""
UNFILTERED = {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}  # as the recipe starts llama.cpp's server


def make_llama_cpp_command(file: Path, **given: Any) -> list[str]:
    """Return what serves a GGUF file; `given` are n_ctx, sampling, and lora, which is a file and its scale."""
    return [sys.executable, "-c", LLAMA, str(file), "PORT", json.dumps({"n_ctx": 2048, **given})]


def make_transformers_command(folder: Path | None, dtype: str = "float32") -> list[str]:
    """Return what serves a folder; without one any that a request names."""
    whole = [
        sys.executable,
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        *([str(folder)] * bool(folder)),
    ]
    return [*whole, "--device", "cpu", "--dtype", dtype, "--host", "127.0.0.1", "--port", "PORT"]


def make_vllm_command(python: str, folder: Path, *more: str, dtype: str = "float32", name: str = "small") -> list[str]:
    """Return what serves a folder by the interpreter of vLLM's own environment."""
    whole = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", name]
    return [*whole, "--dtype", dtype, "--enforce-eager", "--host", "127.0.0.1", "--port", "PORT", *more]


@contextmanager
def start_server(command: list[str], log: Path) -> Iterator[str]:
    """Start a server on a free port, which stands for PORT in the command, and yield its URL when it answers."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}/v1"
    with log.open("wb") as out:
        server = subprocess.Popen([port if w == "PORT" else w for w in command], env=ENV, stdout=out, stderr=out)
        try:
            end = time.monotonic() + 240
            while not _does_answer(f"{url}/models"):
                assert server.poll() is None and time.monotonic() < end, log.read_text("utf-8", "replace")
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            server.wait(30)


def _does_answer(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, OSError):
        return False
