"""The layer of token ids, against the export's template and tokenizer.

It compares the tokens of messages and of a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness_api import RequestRefusedError
from harness_served.parity import DIFFERS, SAME, UNKNOWN, UNPROVEN, LayerVerdict, Parity
from harness_served.runtime import GREEDY, read_context_limit

TEXT_PROMPT = "The capital of France is"  # a text prompt, which gets a BOS or none
FIX = "if no gateway changes prompts, serve it with the export's template and tokenizer (--chat-template, --tokenizer)"
WORD = re.compile(r" ?[A-Za-z]+")  # which every tokenizer cuts alike
MOST_WORDS = 50_000


def compare_ids(parity: Parity) -> LayerVerdict:
    """Compare the tokens of prompts, or else their counts.

    Each known fault of a template changes the count.
    """
    runtime, seen, unread, prompts = parity.runtime, "count", 0, [*parity.prompts, *parity.rows]
    for number, prompt in enumerate(prompts):
        where, ours = f"conversation {number}", len(prompt.ids)
        if (theirs := runtime.ids(prompt.messages) if prompt.messages else None) is not None:
            seen = runtime.ids_by
            if theirs != prompt.ids:
                return LayerVerdict(
                    DIFFERS, f"{where}, {_describe_first_difference(parity, prompt.ids, theirs)}; {FIX}", seen
                )
        try:
            count = runtime.count(prompt.messages, prompt.text)
        except RequestRefusedError as error:
            if (most := read_context_limit(runtime.identity())) is not None and most <= ours:
                return LayerVerdict(DIFFERS, f"{where} of {ours} tokens was rejected: {error}", seen)
            unread += 1
            parity.notes.append(f"ids: {where} was rejected: {error}")
            continue
        if count is None and theirs is None and prompt.messages:
            return LayerVerdict(
                UNKNOWN, f"{runtime.name} reports neither tokens nor usage.prompt_tokens; {runtime.hint}"
            )
        if count is not None and count != ours:
            says = f"{where}: {count} tokens, but {ours} by the export ({count - ours:+d}); {FIX}"
            return LayerVerdict(DIFFERS, says, "count")
    said = runtime.complete([], TEXT_PROMPT, 1, GREEDY)  # a text, which has more where a BOS is put in front of another
    count, ours = said.prompt if said else None, len(parity.reference.tokens.encode_prompts([TEXT_PROMPT])[0])
    if count is not None and count != ours:
        says = (
            f"a text prompt has {count} tokens, but {ours} by the export ({count - ours:+d}); check "
            "add_bos_token of both"
        )
        return LayerVerdict(DIFFERS, says, "count")
    if other := find_vocabulary_error(parity):
        return LayerVerdict(DIFFERS, other, seen)
    if unread == len(prompts):
        return LayerVerdict(UNPROVEN, "no conversation was answered")
    what = "the same tokens" if seen != "count" else "same token counts, which could hide two faults"
    many, longest = len(prompts) - unread, max(len(p.ids) for p in prompts)
    return LayerVerdict(SAME, f"{what} in {many} conversations, the longest {longest}", seen)


def find_vocabulary_error(parity: Parity) -> str | None:
    """Describe the first vocabulary word with other tokens on the server.

    None if all are the same, or the server does not tokenize texts.
    """
    tokenizer = parity.reference.tokens.tokenizer
    words = (text for i in range(len(tokenizer)) if WORD.fullmatch(text := str(tokenizer.decode([i]))))
    text = "\n".join(list(words)[:MOST_WORDS])
    theirs, ours = parity.runtime.tokenize(text), parity.reference.tokens.encode_plain(text)
    if theirs is None or theirs == ours:
        return None
    difference = _describe_first_difference(parity, ours, theirs)
    return f"the words of the vocabulary, {difference}; serve it with the export's tokenizer"


def _describe_first_difference(parity: Parity, ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Describe the first difference between two token lists. The export's tokenizer decodes both."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    a, b = (str(parity.reference.tokens.tokenizer.decode(ids[at : at + 1])) for ids in (ours, theirs))
    return f"token {at}: {b!r} instead of the export's {a!r}"
