"""What a merged model and its adapter are compared on: prose, chats, code, numbers and other scripts.

With SmolLM2's tokenizer they are some 2,200 tokens; with one of bytes 8,000, of which as many windows are taken as are
needed, one of each text before the next of any.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS = 2000  # that are predicted in all
WINDOW = 192  # tokens at most that are read at once
LINES = [json.loads(line) for line in Path(__file__).with_suffix(".jsonl").open("rb")]
CHATS: list[list[dict[str, str]]] = [line for line in LINES if isinstance(line, list)]
TEXTS: list[str] = [line for line in LINES if isinstance(line, str)]


def windows(tokenizer: PreTrainedTokenizerBase, tokens: int = TOKENS, longest: int = WINDOW) -> list[Any]:
    """Return tensors of ids, each (1, T) with 2 ≤ T ≤ `longest`, that predict `tokens` in all, or fewer if fewer are.

    The first window of each text comes before the second of any, so that every kind of text is among them.
    """
    import torch

    told = []  # as the tokenizer's template frames a conversation; as plain text what it refuses, or without one
    for messages in CHATS:
        try:
            told.append(str(tokenizer.apply_chat_template(messages, tokenize=False)))
        except Exception:  # no template, or one with rules of its own about turns
            told.append("\n".join(f"{message['role']}: {message['content']}" for message in messages))
    whole = [tokenizer(text, verbose=False).input_ids for text in (*told, *TEXTS)]
    found: list[Any] = []
    for start in range(0, max(map(len, whole)), longest):
        for ids in whole:
            part = ids[start : start + longest][: tokens + 1]
            if len(part) > 1:
                found.append(torch.tensor([part]))
                tokens -= len(part) - 1
            if tokens <= 0:
                return found
    return found
