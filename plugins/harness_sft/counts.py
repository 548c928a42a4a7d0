"""What a set of rows is in tokens, and that each of them has something to learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import UsageError
from harness_sft.rows import name_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Counts:
    """What a set of rows is in tokens: all of them, those with a loss, and how many rows were cut."""

    rows: int
    tokens: int
    supervised: int
    truncated: int


def count_rows(whole: Any, cut: int | None, *, keep_end: bool = False) -> Counts:
    """Count tokens; raises UsageError with the numbers of rows that have nothing left to learn from."""
    left = slice(-cut, None) if cut and keep_end else slice(cut)
    tokens = supervised = truncated = 0
    empty = []
    for number, ids, labels in zip(whole["row"], whole["input_ids"], whole["labels"], strict=True):
        learnt = sum(label != -100 for label in labels[left][1:])  # the first token is never predicted
        tokens, supervised = tokens + len(ids[left]), supervised + learnt
        truncated += bool(cut and len(ids) > cut)
        if not learnt:
            empty.append(number)
    if empty:
        raise UsageError(
            f"[train] data: {name_rows(empty)}: no token of the answer is left to learn from; "
            f"raise max_length (now {cut}) or remove the rows"
        )
    return Counts(len(whole), tokens, supervised, truncated)


def check_endings(whole: Any, tokenizer: PreTrainedTokenizerBase, cut: int | None) -> None:
    """Raise UsageError when an uncut text row does not end in one supervised EOS, or begins with two BOS."""
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    wrong = []
    for number, ids, labels in zip(whole["row"], whole["input_ids"], whole["labels"], strict=True):
        ends = labels[-1] == eos and ids[-2:] != [eos, eos]
        if (not ends and not (cut and len(ids) > cut)) or (bos is not None and bos != eos and ids[:2] == [bos, bos]):
            wrong.append(number)
    if wrong:
        raise UsageError(
            f"[train] data: {name_rows(wrong)}: must end in one end-of-sequence token and begin with at most one "
            "beginning-of-sequence token; remove such tokens from the text, the tokenizer adds them"
        )
