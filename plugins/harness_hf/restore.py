"""Details of a GGUF file that transformers does not restore.

These are how text is split, scaled positions and further stop tokens. A file has llama.cpp's name for how a byte-level
BPE splits text before it merges; here are those that tests/plugins/export/test_gguf_export.py shows to be the same as
steps of tokenizers under other names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import UsageError
from harness.internals import ROPE_FACTORS, Gguf

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
WORDS = {**BYTES, "use_regex": True}  # GPT-2's own expression
DIGITS = {"type": "Digits", "individual_digits": True}
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [WORDS],
    "smollm": [DIGITS, WORDS],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}, BYTES],
}
WHOLE_WORDS = {"llama-bpe"}  # where a piece that is a token is taken as it is (`ignore_merges`)
STOPS = ("eos", "eot", "eom")  # end of text, of turn, of message


def check_restorable(file: Path, found: Gguf) -> None:
    """Raise UsageError for a GGUF file that cannot be restored.

    That is one with an unknown pre-tokenizer or scaled positions.
    """
    pre, kind = found.metadata.get("tokenizer.ggml.pre"), found.metadata.get("tokenizer.ggml.model")
    if kind == "gpt2" and pre not in SPLITS:
        known = ", ".join(f'"{name}"' for name in SPLITS)
        raise UsageError(f'model "{file}": its pre-tokenizer "{pre}" is not supported; supported: {known}')
    scaling = {k: v for k, v in found.metadata.items() if ".rope.scaling." in k}
    if any(v != "none" for k, v in scaling.items() if k.endswith(".type")):
        raise UsageError(f'model "{file}": its position scaling {scaling} is not supported by transformers')


def split_name(backend: dict[str, Any]) -> str | None:
    """Return llama.cpp's name for a tokenizer.json's text splitting. None if it is not known here."""
    cut = backend.get("pre_tokenizer") or {}
    steps = [{k: v for k, v in step.items() if k != "trim_offsets"} for step in cut.get("pretokenizers", [cut])]
    whole = bool(backend["model"].get("ignore_merges"))
    return next((n for n, known in SPLITS.items() if known == steps and whole == (n in WHOLE_WORDS)), None)


def set_pretokenizer(backend: Any, name: str) -> None:
    """Make a tokenizers.Tokenizer cut text as a name of `SPLITS` says."""
    from tokenizers import Regex, pre_tokenizers

    steps: list[Any] = []
    for step in SPLITS[name]:
        if step["type"] == "Split":
            steps.append(pre_tokenizers.Split(Regex(step["pattern"]["Regex"]), "isolated"))
        elif step["type"] == "Digits":
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        else:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=step["use_regex"]))
    backend.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)
    backend.model.ignore_merges = name in WHOLE_WORDS


def restore_details(model: Any, tokenizer: Any, file: Path, found: Gguf) -> None:
    """Restore text splitting, stop tokens and rotary frequencies from a file."""
    if found.metadata.get("tokenizer.ggml.model") == "gpt2":
        set_pretokenizer(tokenizer.backend_tokenizer, found.metadata["tokenizer.ggml.pre"])
    ids = [found.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in STOPS]
    if len(stops := [i for i in ids if i is not None]) > 1:
        model.generation_config.eos_token_id = stops
    if ROPE_FACTORS in found.tensors:
        import numpy as np

        place = found.tensors[ROPE_FACTORS]
        factors = np.fromfile(file, "<f4", (place.end - place.begin) // 4, offset=place.begin).tolist()
        # transformers knows a list of such factors under this name; its scaling of attention is 1 here
        model.config.rope_parameters = {
            "rope_type": "longrope",
            "rope_theta": model.config.rope_parameters["rope_theta"],
            "long_factor": factors,
            "short_factor": factors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": model.config.max_position_embeddings,
        }
