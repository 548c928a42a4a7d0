"""Training rows: of one shape, whole, split the same way for the same seed, and counted."""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import GROUP, HELD_OUT, UsageError
from harness.internals import chat
from harness_hf import CONTEXT_MARKS, is_context_turn, row_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHAPES = (("prompt", "completion"), ("messages",), ("text",))
SPLITTING_STRATEGIES = ("bfd_split", "wrapped")  # of packing: a long row goes on in another sequence
ROW_NUMBER = re.compile(r"\brow (\d+)")
Row = dict[str, Any]
Select = Callable[[Sequence[Mapping[str, Any]]], list[Row]]


def select_columns(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the columns that each row is trained on.

    Added are its number from 1, as "row", and its marks. Raises UsageError for other rows and wrong marks.
    """
    shapes = [_detect_row_shape(row) for row in rows]
    check_shapes(shapes, "prompt and completion, or messages, or text, none of them empty")
    found = take_columns(rows, shapes[0][1:])
    if odd := {row["row"]: why for row in found if (why := mark_error(row))}:
        raise UsageError(f"[train] data: {name_rows([*odd])}: {next(iter(odd.values()))}")
    return found


def check_shapes(shapes: Sequence[Any], want: str) -> None:
    """Raise UsageError unless all rows have the same shape.

    Also if there is no row, or one has no shape (an empty one). The error gives row numbers.
    """
    if not shapes:
        raise UsageError("[train] data: has no rows")
    if odd := [i for i, shape in enumerate(shapes, 1) if not shape]:
        raise UsageError(f"[train] data: {name_rows(odd)}: rows need {want}; map the columns with columns = {{...}}")
    if odd := [i for i, shape in enumerate(shapes, 1) if shape != shapes[0]]:
        raise UsageError(f"[train] data: {name_rows(odd)}: have another form than row 1; use one form for all rows")


def take_columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[Row]:
    """Return the given columns of each row.

    Added are template arguments if any row has them, the row's number from 1, and its marks.
    """
    blank: dict[str, Any] = {chat.TOOLS: None, chat.ARGUMENTS: {}}
    given = [name for name in blank if any(row.get(name) for row in rows)]
    return [
        {column: row.get(column) for column in columns}
        | {name: row.get(name) or blank[name] for name in given}
        | {"row": i}
        | {mark: row[mark] for mark in (GROUP, HELD_OUT) if mark in row}
        for i, row in enumerate(rows, 1)
    ]


def as_dataset(rows: Sequence[Row]) -> Any:
    """Return rows as a Dataset that keeps messages and tools unchanged.

    A plain table would give each object the keys of all.
    """
    from datasets import Dataset, Features, Json, Value

    types = {str: Value("string"), int: Value("int64"), bool: Value("bool")}
    return Dataset.from_list(rows, features=Features({c: types.get(type(v), Json()) for c, v in rows[0].items()}))


def encode_dataset(dataset: Any, encode: Callable[[Row], Row], processes: int | None) -> Any:
    """Return a Dataset of encoded rows with their numbers.

    All original columns but "row" and "label" are dropped.
    """
    gone = [name for name in dataset.column_names if name not in ("row", "label")]
    try:
        return dataset.map(encode, remove_columns=gone, num_proc=processes)
    except UsageError:
        raise UsageError(*_list_refusals(dataset, encode)) from None


def _list_refusals(rows: Iterable[Row], encode: Callable[[Row], Row]) -> list[str]:
    """Return the errors of all rows that cannot be encoded. Those that differ in the row alone are one line."""
    alike: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        try:
            encode(row)
        except UsageError as error:
            for message in error.messages:
                alike[ROW_NUMBER.sub("row", message)].append(message)
    found = []
    for messages in alike.values():
        numbers = [int(match[1]) for message in messages if (match := ROW_NUMBER.search(message))]
        found.append(f"{messages[0]} ({name_rows(numbers)})" if len(numbers) > 1 else messages[0])
    return found


def split_rows(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Split off marked rows, or a share of the rows.

    A share above zero holds out at least one row. Rows of one group or with one prompt stay together, so that held-out
    rows are new; groups are drawn by seed, and one that would exceed the share is skipped. Raises UsageError if a share
    leaves no rows on one side, or there are marked rows as well.
    """
    held = {i for i, row in enumerate(rows) if row.get(HELD_OUT)}
    if share and held:
        raise UsageError("validation: holds out a share, but there is validation_data as well; remove one of them")
    if share:
        count = max(1, round(share * len(rows)))
        groups = _group_inseparable_rows(rows)
        random.Random(seed).shuffle(groups)  # noqa: S311 -- a reproducible split, not a secret
        for group in groups:
            if len(held) + len(group) <= count:
                held.update(group)
        if not held or len(held) == len(rows):
            raise UsageError(f"validation: {_describe_validation_share_error(share, count, groups)}")
    bare = [{k: v for k, v in row.items() if k not in (GROUP, HELD_OUT)} for row in rows]
    return [row for i, row in enumerate(bare) if i not in held], [row for i, row in enumerate(bare) if i in held]


def _describe_validation_share_error(share: float, count: int, groups: Sequence[Sequence[int]]) -> str:
    """Return why a validation share is impossible, and a possible one."""
    total, smallest = sum(map(len, groups)), min(map(len, groups))
    what = f"{share:g} asks for {count} of {total} rows"
    together = f"{what}, but rows with the same group or prompt stay together"
    if len(groups) == 1:
        return f"{together}, and here they form a single group; use smaller groups, or validation_data"
    if smallest > count:
        least = math.ceil(1000 * smallest / total) / 1000
        return f"{together}, and the smallest group has {smallest}; set at least {least:g}, or validation_data"
    return f"{what}, which leaves none to train on; lower it"


def _group_inseparable_rows(rows: Sequence[Row]) -> list[list[int]]:
    """Return the numbers of rows that belong together: of one group, or with one prompt that is not most rows'."""
    # What is asked is the prompt, all messages but the last, or the whole of a text.
    asked = [repr(r["messages"][:-1] if r.get("messages") else r.get("prompt", r.get("text", r["row"]))) for r in rows]
    often = {prompt for prompt, n in Counter(asked).items() if n > max(3, len(rows) / 2)}
    root = list(range(len(rows)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, (row, prompt) in enumerate(zip(rows, asked, strict=True)):
        keys = [("prompt", prompt if prompt not in often else repr(row | {"row": 0}))]
        keys += [("group", str(row[GROUP]))] if GROUP in row else []
        for key in keys:
            root[find(i)] = find(first.setdefault(key, i))
    found: dict[int, list[int]] = {}
    for i in range(len(rows)):
        found.setdefault(find(i), []).append(i)
    return list(found.values())


def name_rows(numbers: Sequence[int]) -> str:
    """Return the names of rows: "row 3", or "rows 3, 5, 8, 9, 12 and 40 more"."""
    first = ", ".join(map(str, numbers[:5]))
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"


def _detect_row_shape(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a row's form and the columns of its first shape.

    The form is "text" or "chat". Empty if the row has no shape.
    """
    for columns in SHAPES:
        values = [row.get(c) for c in columns]
        if columns != ("messages",) and all(isinstance(v, str) for v in values) and values[-1]:
            return "text", *columns
        talks = (isinstance(v, list) and v and all(isinstance(m, Mapping) and "role" in m for m in v) for v in values)
        if columns != ("text",) and all(talks):
            return "chat", *columns
    return ()


@dataclass(frozen=True)
class TokenCounts:
    """Token counts of a set of rows.

    They are of all tokens and of those with a loss; `truncated` counts rows.
    """

    rows: int
    tokens: int
    supervised: int
    truncated: int


def check_endings(whole: Any, tokenizer: PreTrainedTokenizerBase, cut: int | None) -> None:
    """Raise UsageError for text rows with a wrong beginning or end.

    A row that is not truncated must end in one supervised EOS, and no row may begin with two BOS.
    """
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    wrong = []
    for number, ids, labels in zip(whole["row"], whole["input_ids"], whole["labels"], strict=True):
        ends = labels[-1] == eos and ids[-2:] != [eos, eos]
        if (not ends and not (cut and len(ids) > cut)) or (bos is not None and bos != eos and ids[:2] == [bos, bos]):
            wrong.append(number)
    if wrong:
        want = "must end with exactly one end-of-sequence token and begin with at most one beginning-of-sequence token"
        how = "remove these tokens from the text, since the tokenizer adds them"
        raise UsageError(f"[train] data: {name_rows(wrong)}: {want}; {how}")


def mark_error(row: Mapping[str, Any]) -> str:
    """Return the error in the marks of a row's turns. Empty if there is none."""
    for turn in row_turns(row):
        for mark, want in CONTEXT_MARKS.items():
            if turn.get(mark) not in (None, 0, 1):
                return (
                    f'"{mark}" of a message is {turn[mark]!r:.40}; it must be {want}: a message is '
                    "trained on, or it is context"
                )
    answers = [t for t in row.get("completion", row_turns(row)) if isinstance(t, Mapping) and t["role"] == "assistant"]
    marked = bool(answers) and all(map(is_context_turn, answers))
    return "every answer has weight = 0 or train = false, so nothing is trained; remove such rows" if marked else ""
