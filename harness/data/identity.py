"""Keys that identify a question across ids, templates and spellings.

The question is the columns that a template reads, else the prompt without system messages; the answer is the targets.
Texts are compared by `canonical_text`, and the order and names of these columns do not matter.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from json.encoder import encode_basestring as quoted
from typing import Any

from harness.artifacts.digests import digest_value
from harness.data import chat
from harness.data.templates import template_columns
from harness.records.samples import Sample
from harness.texts.folding import fold_case

HEX_DIGITS = 32  # hex digits kept of a sha256: 128 bits, so that two rows of a million never share them
RARE_DIVISOR = 2  # a value identifies a row where at least one in so many values of its column is distinct


def add_question_keys(samples: Sequence[Sample], template: str | None) -> tuple[Sample, ...]:
    """Return the samples with keys that identify their questions.

    A key covers the question, the targets, and lists and objects of the row such as choices. It is empty for a row with
    neither question nor target.
    """
    names, found = template_columns(template) if template else [], list[Sample]()
    for sample in samples:
        asked, wanted = sorted(_list_question_texts(sample, names)), _list_target_texts(sample)
        lists = {k: v for k, v in sample.row.items() if isinstance(v, (list, dict))}  # choices, tools, a chat
        told = [asked, wanted, _format_canonical(lists) if lists else "{}"]
        found.append(replace(sample, key=digest_value(told)[:HEX_DIGITS] if any(asked) or wanted else ""))
    return tuple(found)


def question_key(text: str, target: str) -> str:
    """Return the question key of one text and one target.

    It equals the key from `add_question_keys`, without building a Sample.
    """
    asked, wanted = canonical_text(text), canonical_text(target)
    # as `digest_value` would write it
    told = f"[[{quoted(asked) if text else ''}], [{quoted(wanted) if wanted else ''}], {quoted('{}')}]"
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:HEX_DIGITS] if asked or wanted else ""


def question_keys(samples: Sequence[Sample], template: str | None) -> list[tuple[str, ...]]:
    """Return the keys of each row, sorted: it asks what another does if they have one in common.

    Each column that is asked is a key by itself with each target, where it tells rows from each other, so that a
    template which reads fewer or more of them asks the same; what is no row of data, such as the model, has none.
    """
    names = template_columns(template) if template else []
    asked = [_list_question_texts(s, names) for s in samples]
    width = max(map(len, asked), default=0)
    telling = [i for i in range(width) if RARE_DIVISOR * len({a[i] for a in asked if i < len(a)}) >= len(asked)]
    found: list[tuple[str, ...]] = []
    for sample, own in zip(samples, asked, strict=True):
        parts = [[own[i]] for i in telling if i < len(own) and own[i]] or ([sorted(own)] if any(own) else [])
        wanted = _list_target_texts(sample) or [""]
        here = [(part, target) for part in parts or [[]] for target in wanted if part or target]
        found.append(tuple(sorted(digest_value([part, target])[:HEX_DIGITS] for part, target in here)))
    return found


def canonical_text(text: Any) -> str:
    """Return a text with case, white space and Unicode normalised.

    It is in lower case and Unicode's compatible form (NFKC), without invisible characters, and with one space for
    several.
    """
    text = str(text)
    if text.isascii():  # which is its own compatible form
        return " ".join(text.lower().split())
    folded = fold_case(unicodedata.normalize("NFKC", text))
    return " ".join("".join(c for c in folded if unicodedata.category(c) != "Cf").split())


def _list_question_texts(sample: Sample, names: Sequence[str]) -> list[str]:
    """Return the canonical texts of a question, by column.

    For a chat, these are all messages except system messages.
    """
    if names:
        return [canonical_text(sample.row.get(name, "")) for name in names]
    if isinstance(sample.input, str):
        text = sample.input or sample.row.get("text")
        if isinstance(text, str):
            return [canonical_text(text)]
        rest = {k: v for k, v in sample.row.items() if k != "id"}
        return [_format_canonical(rest)] if rest else []
    said = [m for m in chat.split_arguments(sample.input)[0] if m.get("role") != "system"]
    if len(said) == 1 and isinstance(said[0].get("content"), str):  # what a text would say
        return [canonical_text(said[0]["content"])]
    return [_format_canonical(said)] if said else []


def _list_target_texts(sample: Sample) -> list[str]:
    return sorted({text for t in sample.targets if (text := canonical_text(t))})


def _format_canonical(value: Any) -> str:
    return json.dumps(_canonicalize_texts(value), sort_keys=True, default=str, ensure_ascii=False)


def _canonicalize_texts(value: Any) -> Any:
    if isinstance(value, str):
        return canonical_text(value)
    if isinstance(value, Mapping):
        return {str(k): _canonicalize_texts(v) for k, v in value.items()}
    return [_canonicalize_texts(v) for v in value] if isinstance(value, (list, tuple)) else value
