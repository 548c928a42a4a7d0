"""A byte-level BPE tokenizer as a GGUF file holds it; what it cannot say is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import UsageError
from harness_hf import SPLITS, Tokens, split_name

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's types of tokens
IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
FURTHER_STOPS = ("eot", "eom")


def metadata_of(folder: Path, rows: int) -> Iterator[tuple[str, Any]]:
    """Yield keys and values for the tokenizer in a folder, its vocabulary filled up to the embeddings' `rows`."""
    tokens = Tokens.of(str(folder))
    tokenizer = tokens.tokenizer
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = _split(backend)
    names, types = _vocabulary(backend, rows)
    yield "tokenizer.ggml.model", "gpt2"
    yield "tokenizer.ggml.pre", pre
    yield "tokenizer.ggml.tokens", names
    yield "tokenizer.ggml.token_type", types
    yield "tokenizer.ggml.merges", [m if isinstance(m, str) else " ".join(m) for m in backend["model"]["merges"]]
    for ours, theirs in IDS.items():
        if (number := getattr(tokenizer, f"{ours}_token_id")) is not None:
            yield f"tokenizer.ggml.{theirs}_token_id", int(number)
    further = sorted((tokens.stops | _stops(folder)) - {tokenizer.eos_token_id})
    if len(further) > len(FURTHER_STOPS):
        raise _refused(f"{len(further) + 1} stop tokens, and a GGUF file has room for {len(FURTHER_STOPS) + 1}")
    for name, number in zip(FURTHER_STOPS, further, strict=False):
        yield f"tokenizer.ggml.{name}_token_id", number
    yield from _ends(tokenizer)
    if isinstance(tokenizer.chat_template, dict):
        raise _refused("several chat templates; keep the one that is evaluated")
    if tokenizer.chat_template:
        yield "tokenizer.chat_template", tokenizer.chat_template


def _split(backend: dict[str, Any]) -> str:
    model = backend["model"]
    if model["type"] != "BPE" or (backend.get("decoder") or {}).get("type") != "ByteLevel":
        raise _refused(f"of the type {model['type']}, and only byte-level BPE is known here")
    if backend.get("normalizer"):
        raise _refused("that normalises text, which llama.cpp would not do")
    odd = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if found := [name for name in odd if model.get(name)]:
        raise _refused(f"with {', '.join(found)}, which llama.cpp does not know")
    if not model["merges"]:
        raise _refused("without merges, which llama.cpp does not load")
    name = split_name(backend)
    if name is None:
        known = ", ".join(SPLITS)
        raise _refused(f"that cuts text in a way that is not known here (known: {known})")
    return name


def _vocabulary(backend: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    names = {number: token for token, number in backend["model"]["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    for added in backend["added_tokens"]:
        if odd := [name for name in ("lstrip", "rstrip", "single_word") if added[name]]:
            raise _refused(f'whose token "{added["content"]}" has {odd[0]}, which a GGUF file cannot say')
        names[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if max(names) >= rows:
        raise _refused(f"of {max(names) + 1} tokens, and the model has embeddings for {rows}")
    return [names.get(i, f"[PAD{i}]") for i in range(rows)], [types.get(i, UNUSED) for i in range(rows)]


def _ends(tokenizer: Any) -> Iterator[tuple[str, bool]]:
    """Yield whether a text gets a BOS in front and an EOS behind; raises UsageError for anything else."""
    plain, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    for bos in (False, True):
        for eos in (False, True):
            front = [tokenizer.bos_token_id] if bos else []
            if whole == [*front, *plain, *([tokenizer.eos_token_id] if eos else [])]:
                yield "tokenizer.ggml.add_bos_token", bos
                yield "tokenizer.ggml.add_eos_token", eos
                return
    raise _refused("that puts other tokens than BOS and EOS around a text")


def _stops(folder: Path) -> set[int]:
    path = folder / "generation_config.json"
    named = json.loads(path.read_text("utf-8")).get("eos_token_id") if path.is_file() else None
    return set(named) if isinstance(named, list) else set() if named is None else {int(named)}


def _refused(what: str) -> UsageError:
    return UsageError(f'export "gguf": the model has a tokenizer {what}; see llama.cpp\'s convert_hf_to_gguf.py')
