"""K-quants, made by llama.cpp's own quantizer: asked in a process of its own, which a failed assertion there ends."""

from __future__ import annotations

import ctypes
from typing import Any

from harness import CheckFailedError
from harness.internals import subprocess_call

K_QUANTS = ("Q6_K", "Q5_K_M", "Q4_K_M")


def quantize_gguf(source: str, to: str, quantization: str) -> dict[str, Any]:
    """Quantise a GGUF file by llama.cpp, one thread per core.

    Raises CheckFailedError if llama.cpp refuses it.
    """
    import llama_cpp
    from gguf import LlamaFileType

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = int(LlamaFileType[f"MOSTLY_{quantization}"])
    if llama_cpp.llama_model_quantize(source.encode(), to.encode(), ctypes.byref(settings)):
        raise CheckFailedError(f'export "gguf": llama.cpp could not make {quantization} of the model')
    return {}


if __name__ == "__main__":
    subprocess_call.serve_call(quantize_gguf)
