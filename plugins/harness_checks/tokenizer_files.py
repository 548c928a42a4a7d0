"""How two tokenizers differ: the texts they encode, the options they are loaded with, their files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import unified_diff
from pathlib import Path
from typing import Any

import harness_hf
from harness import Finding, UsageError, quote_text
from harness_checks.clocks import stop_clock
from harness_hf import ModelTokenizer, context_length

SHOWN_DIFFERENCES = 5  # differences of a kind that are listed
SAMPLE_TEXTS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "In 1969 the first people walked on the moon; they came home four days later.",
    'def add(a, b):\n    """Return the sum."""\n    return a + b\n',
)
CUTS = ("model_max_length", "truncation_side")
# Of a tokenizer's options: which files they are from and who reads them, padding, which every caller sets anew, and
# what is compared as tokens, texts or a template.
IGNORED_KEYS = {
    "name_or_path",
    "vocab_file",
    "merges_file",
    "tokenizer_file",
    "special_tokens_map_file",
    "tokenizer_class",
}
IGNORED_KEYS |= {
    "backend",
    "is_local",
    "local_files_only",
    "processor_class",
    "auto_map",
    "trust_remote_code",
    "use_fast",
}
IGNORED_KEYS |= {
    "padding",
    "padding_side",
    "pad_token",
    "pad_token_type_id",
    "pad_to_multiple_of",
    "stride",
    "max_length",
}
IGNORED_KEYS |= {
    "added_tokens_decoder",
    "extra_special_tokens",
    "additional_special_tokens",
    "chat_template",
    "truncation",
}
IGNORED_KEYS |= {
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "cls_token",
    "mask_token",
    "model_input_names",
    "legacy",
}
IGNORED_KEYS |= {"truncation_strategy", "mistral_format", "from_slow", "model_specific_special_tokens", "_commit_hash"}
CALLER_KEYS = ("truncation", "padding")  # of tokenizer.json: every caller sets them anew


def sample_texts(tokenizer: Any) -> list[str]:
    """Return texts on which to compare tokenizers.

    These are plain texts, one with every added token, and a chat as the template renders it.
    """
    special = " ".join(f"{token}word" for token in sorted({t.content for t in tokenizer.added_tokens_decoder.values()}))
    chats = []
    with suppress(UsageError):  # without a template, or with one that has rules of its own about turns
        turns = [{"role": "user", "content": SAMPLE_TEXTS[0]}, {"role": "assistant", "content": SAMPLE_TEXTS[1]}]
        template = stop_clock(tokenizer.chat_template)
        chats.append(ModelTokenizer(tokenizer).render(turns, opened=False, template=template))
    return [*SAMPLE_TEXTS, special, *chats]


def compare_options(before: Any, after: Any, *lengths: int) -> Iterator[Finding]:
    """Yield findings for differences in the options of two tokenizers.

    Most options are in tokenizer_config.json. `lengths` are the tokens after which texts are truncated.
    """
    names = sorted((before.init_kwargs.keys() | after.init_kwargs.keys()) - IGNORED_KEYS - {*CUTS})
    options = [{n: t.init_kwargs.get(n, getattr(t, n, None)) or None for n in names} for t in (before, after)]
    sides = [getattr(t, "truncation_side", "right") for t in (before, after)]
    if odd := list(json_differences(options[0], options[1])):
        fix = "copy tokenizer_config.json from the base, unless the change is intended"
        yield Finding("error", "the tokenizer's options differ from the base's", odd, fix, "options")
    cuts = [dict(zip(CUTS, cut, strict=True)) for cut in zip(lengths, sides, strict=True)]
    if odd := list(json_differences(cuts[0], cuts[1])):
        what = (
            "the tokenizer truncates texts differently from the base's, and servers may use its "
            "limit as the context length"
        )
        yield Finding("warning", what, odd, "copy model_max_length and truncation_side from the base", "length")


def max_length(tokenizer: Any, folder: str) -> int:
    """Return after how many tokens a text is cut: by the tokenizer, or where the context ends."""
    with harness_hf.quiet_loading():
        context = context_length(harness_hf.load_config(folder).to_dict())
    return min(int(tokenizer.model_max_length), context or sys.maxsize)


def compare_files(before: Path, after: Path) -> list[str]:
    """Return the differences between two tokenizer.json.

    Empty if one is missing: tokenised texts are compared elsewhere.
    """
    if not all((folder / "tokenizer.json").is_file() for folder in (before, after)):
        return []
    from tokenizers import Tokenizer

    # as the library writes them, so that only what they do is compared
    texts = [Tokenizer.from_file(str(folder / "tokenizer.json")).to_str() for folder in (before, after)]
    one, two = ({k: v for k, v in json.loads(text).items() if k not in CALLER_KEYS} for text in texts)
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
            examples = [
                f"{quote_text(key)} {old.get(key)} → {new.get(key)}" for key in sorted(changed)[:SHOWN_DIFFERENCES]
            ]
            found.append(f"{part}: {len(changed)} differ: {', '.join(examples)}")
    return found + list(json_differences(one, two))


def compare_templates(before: Any, after: Any) -> list[str]:
    """Return lines in which two chat templates differ. A template is a text, or several by name."""
    one, two = (json.dumps(t, indent=0) if isinstance(t, Mapping) else t or "" for t in (before, after))
    lines = list(unified_diff(one.splitlines(True), two.splitlines(True), n=0, lineterm=""))[2:]
    return [quote_text(line) for line in lines if not line.startswith("@@")][:SHOWN_DIFFERENCES]


def json_differences(one: Any, two: Any, where: str = "") -> Iterator[str]:
    """Yield the places where two JSON values differ, with both values."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        for key in sorted(one.keys() | two.keys()):
            yield from json_differences(one.get(key), two.get(key), f"{where}.{key}" if where else key)
    elif format_json(one) != format_json(two):
        yield f"{where}: {quote_text(format_json(one))[1:-1]} before, {quote_text(format_json(two))[1:-1]} after"


def format_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
