"""What transformers leaves behind when it reads a GGUF file: how text is cut, scaled positions, further stop tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import ROPE_FACTORS, Gguf, UsageError
from harness_hf import splits

STOPS = ("eos", "eot", "eom")  # end of text, of turn, of message


def check(file: Path, found: Gguf) -> None:
    """Raise UsageError for a file whose metadata says what would not be restored."""
    pre, kind = found.metadata.get("tokenizer.ggml.pre"), found.metadata.get("tokenizer.ggml.model")
    if kind == "gpt2" and pre not in splits.SPLITS:
        known = ", ".join(f'"{name}"' for name in splits.SPLITS)
        raise UsageError(f'model "{file}": cuts text as "{pre}" does; known here: {known}')
    scaling = {k: v for k, v in found.metadata.items() if ".rope.scaling." in k}
    if any(v != "none" for k, v in scaling.items() if k.endswith(".type")):
        raise UsageError(f'model "{file}": scales positions by {scaling}, which transformers does not read')


def tokenizer(loaded: Any, found: Gguf) -> None:
    """Let a tokenizer cut text as the file says."""
    if found.metadata.get("tokenizer.ggml.model") == "gpt2":
        splits.restore(loaded.backend_tokenizer, found.metadata["tokenizer.ggml.pre"])


def model(loaded: Any, file: Path, found: Gguf) -> None:
    """Give a model the stop tokens and the rotary frequencies of the file."""
    ids = [found.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in STOPS]
    stops = [i for i in ids if i is not None]
    if len(stops) > 1:
        loaded.generation_config.eos_token_id = stops
    if ROPE_FACTORS in found.tensors:
        import numpy as np

        place = found.tensors[ROPE_FACTORS]
        factors = np.fromfile(file, "<f4", (place.end - place.begin) // 4, offset=place.begin).tolist()
        context = loaded.config.max_position_embeddings
        # transformers knows a list of such factors under this name; its scaling of attention is 1 here
        loaded.config.rope_parameters = {
            "rope_type": "longrope",
            "rope_theta": loaded.config.rope_parameters["rope_theta"],
            "long_factor": factors,
            "short_factor": factors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": context,
        }
