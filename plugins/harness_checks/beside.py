"""What lies beside the weights of a merged model and servers obey, against the same of its base, as canonical JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from pathlib import Path
from typing import Any

from harness import quote

TOLD = 5  # differences of a kind that are told
# Of config.json: how it was stored and trained, and stop tokens, which are M5's.
STORED = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "quantization_config"}
STORED |= {"use_cache", "initializer_range", "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id"}
STORED |= {"_attn_implementation_autoset", "_experts_implementation"}
WRITTEN = {"_from_model_config", "transformers_version", "pad_token_id", "bos_token_id", "eos_token_id"}
CALLED = ("truncation", "padding")  # of tokenizer.json: every caller sets them anew
NEUTRAL: dict[str, Any] = {  # how a server answers where generation_config.json says nothing
    **{"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "use_cache": True},
    **{"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "length_penalty": 1.0},
}
SERVED = ("do_sample", "temperature", "repetition_penalty", "no_repeat_ngram_size", "num_beams")


def tokenizer(before: Path, after: Path) -> list[str]:
    """Return how two tokenizer.json differ; where one is missing, how they tokenise is compared elsewhere."""
    if not all((folder / "tokenizer.json").is_file() for folder in (before, after)):
        return []
    from tokenizers import Tokenizer

    # as the library writes them, so that only what they do is compared
    texts = [Tokenizer.from_file(str(folder / "tokenizer.json")).to_str() for folder in (before, after)]
    one, two = ({k: v for k, v in json.loads(text).items() if k not in CALLED} for text in texts)
    found = []
    for part in ("vocab", "merges"):
        old: dict[str, Any] = {}
        new: dict[str, Any] = {}  # entries by their text, with the id, score or place of each
        for side, members in ((one, old), (two, new)):
            entries = side["model"].pop(part, None) or ()
            if not isinstance(entries, Mapping):
                texts = [" ".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in entries]
                entries = {entry: place for place, entry in enumerate(texts)}
            members.update(entries)
        if changed := [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]:
            examples = [f"{quote(key)} {old.get(key)} → {new.get(key)}" for key in sorted(changed)[:TOLD]]
            found.append(f"{part}: {len(changed)} differ: {', '.join(examples)}")
    return found + list(_apart(one, two))


def template(before: Any, after: Any) -> list[str]:
    """Return the lines in which two chat templates differ; a template is a text, or several by name."""
    one, two = (json.dumps(t, indent=0) if isinstance(t, Mapping) else t or "" for t in (before, after))
    lines = list(unified_diff(one.splitlines(True), two.splitlines(True), n=0, lineterm=""))[2:]
    return [quote(line) for line in lines if not line.startswith("@@")][:TOLD]


def config(before: Path, after: Path) -> list[str]:
    """Return how two config.json differ as transformers reads them."""
    from transformers import AutoConfig

    from harness_hf import quiet

    with quiet():
        one, two = (AutoConfig.from_pretrained(folder, local_files_only=True).to_dict() for folder in (before, after))
    return list(_apart(*(_without(side, STORED) for side in (one, two))))


def generation(before: Path, after: Path) -> list[str]:
    """Return how two generation_config.json differ; a value that is not there is the neutral one."""
    one, two = (NEUTRAL | _without(_generation(folder), WRITTEN) for folder in (before, after))
    return list(_apart(one, two))


def served(folder: Path) -> list[str]:
    """Return the settings of generation_config.json that servers obey, and an evaluation here does not."""
    said = NEUTRAL | _generation(folder)
    return [f"{name} = {_json(said[name])}" for name in SERVED if said[name] not in (None, NEUTRAL[name])]


def _generation(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _without(value: Any, names: set[str]) -> Any:
    """Leave names out of a dictionary, and of those in it."""
    if not isinstance(value, Mapping):
        return value
    return {str(key): _without(part, names) for key, part in value.items() if key not in names}


def _apart(one: Any, two: Any, where: str = "") -> Iterator[str]:
    """Yield where two JSON values differ, and what is there."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in sorted(one.keys() | two.keys()):
            yield from _apart(one.get(key), two.get(key), f"{where}.{key}" if where else key)
    elif _json(one) != _json(two):
        yield f"{where}: {quote(_json(one))[1:-1]} before, {quote(_json(two))[1:-1]} after"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
