"""How a byte-level BPE cuts text before it merges: llama.cpp's names for it, and what tokenizers calls the same.

A GGUF file holds the name alone. Here are those that tests/plugins/test_gguf_export.py shows to be the same.
"""

from __future__ import annotations

from typing import Any

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


def name_of(backend: dict[str, Any]) -> str | None:
    """Return llama.cpp's name for how a tokenizer.json cuts text, or None where it has none that is known here."""
    cut = backend.get("pre_tokenizer") or {}
    steps = cut.get("pretokenizers", [cut])
    steps = [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]
    found = next((name for name, known in SPLITS.items() if known == steps), None)
    whole = bool(backend["model"].get("ignore_merges"))
    return found if found and whole == (found in WHOLE_WORDS) else None


def restore(backend: Any, name: str) -> None:
    """Let a tokenizers.Tokenizer cut text as a name of `SPLITS` says."""
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
