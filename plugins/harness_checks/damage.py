"""Text that other programs changed on its way into rows: kinds of D11."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from harness import HELD_OUT, Finding, TrainingRow, quote_text
from harness.internals import Task, prompt_text, schema

MOST_ROWS, FIFTH_OF_ROWS, MANY_ROWS, SOME_ROWS = 0.8, 0.2, 0.05, 0.01  # shares
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,5});")
MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|html|xml|entit", re.IGNORECASE)
PANDAS_MISSING_VALUES = {"nan", "NaN", "<NA>", "NaT"}  # as pandas writes what is not there
CURLY_QUOTE, STRAIGHT_QUOTE = re.compile("[\u2018\u2019\u201c\u201d]"), re.compile("['\"]")
# of answers cut at one length: its characters, their share, their different word counts, and their number relative to
# that of the lengths below
MIN_CUT_CHARS, MIN_CUT_SHARE, MIN_WORD_COUNTS, MIN_EDGE_RATIO = 16, 0.1, 3, 3
SENTENCE_END = re.compile(r"[.!?:;)\]}\"'\u201d`>]\s*$")
ESCAPED_NEWLINE = re.compile(r"""\\n(?![a-z"'`\\])""")
BREAK = re.compile(r"[\r\n]")
Bad = Sequence[tuple[TrainingRow, str]]


def find_damage(rows: Sequence[TrainingRow], tasks: Mapping[str, Task]) -> Iterator[tuple[str, Bad, str, str]]:
    """Yield each kind of damage with its rows, description and remedy.

    Each row comes with its evidence. There may be no rows of a kind.
    """
    yield (
        "entities",
        _find_rows_with_html_entities(rows),
        "HTML entities in answers",
        "unescape them, for instance with html.unescape",
    )
    yield (
        "nan",
        _find_missing_value_answers(rows),
        "the answer is a missing value as written by pandas",
        "remove these rows, or fill in the answer",
    )
    yield (
        "cut",
        _find_length_truncated_answers(rows),
        "answers end at the same length, most of them within a sentence",
        "read the answers in full",
    )
    what = "line breaks are CRLF or CR, which evaluations do not use"
    yield (
        "endings",
        _find_rows_with_carriage_returns(rows, tasks),
        what,
        r"write \n for line breaks, as in the evaluations",
    )
    what = r"\n stands for a line break as two characters, which evaluations do not have"
    yield "escapes", _find_rows_with_escaped_newlines(rows, tasks), what, "unescape the text once more"
    what = "the answer ends with a question mark and the prompt does not, unlike in the evaluations"
    yield "swapped", _find_swapped_prompts_and_answers(rows, tasks), what, "swap the columns of prompt and answer"
    what = "typographic quotes, but targets of an evaluation that compares punctuation have plain ones"
    yield "quotes", _find_typographic_quote_answers(rows, tasks), what, "use the same quotes in both"


def compare_endings(rows: Sequence[TrainingRow], tasks: Mapping[str, Task]) -> Iterator[Finding]:
    """Yield findings for evaluations with CRLF or CR line breaks.

    Only if the line breaks of training rows are others.
    """
    texts = [f"{row.prompt}{row.answer}" for row in rows]
    broken = [text for text in texts if BREAK.search(text)]
    if not broken or sum("\r" in text for text in broken) > MANY_ROWS * len(broken):
        return
    for name, task in tasks.items():
        samples = [] if task.brings_rows else [s for s in task.samples or () if s.input]
        if found := {
            s.id: shown
            for s in samples
            if (shown := _quote_around_carriage_return(prompt_text(s.input), str(s.target or "")))
        }:
            what = f'{len(found)} of {len(samples)} rows of "{name}": line breaks are CRLF or CR, unlike in training'
            lines = [f'row "{i}": {shown}' for i, shown in found.items()]
            if len(found) > MANY_ROWS * len(samples):
                fix = r"write \n for line breaks, as in training"
                yield Finding("warning", what, lines, fix, "endings", {name: [*found]})


def _find_rows_with_html_entities(rows: Sequence[TrainingRow]) -> Bad:
    found = [(r, quote_text(hit[0])) for r in rows if (hit := ENTITY.search(r.answer)) and not _has_markup(r)]
    return found if len(found) >= max(2, SOME_ROWS * len(rows)) else []


def _has_markup(row: TrainingRow) -> bool:
    return bool(MARKUP.search(row.prompt) or MARKUP.search(row.answer))


def _find_missing_value_answers(rows: Sequence[TrainingRow]) -> Bad:
    found = [(row, quote_text(row.answer.strip())) for row in rows if row.answer.strip() in PANDAS_MISSING_VALUES]
    return found if len(found) >= max(2, SOME_ROWS * len(rows)) else []


def _find_length_truncated_answers(rows: Sequence[TrainingRow]) -> Bad:
    """Return rows with answers that were truncated at one length.

    That is the greatest length, if many answers have it and few of these end a sentence. Labels, hashes and sentences
    of one form are as long as each other too, but have equal numbers of words, or an end.
    """
    answers = [row.answer for row in rows]
    sizes = Counter(map(len, answers))
    longest = max(sizes, default=0)
    at = [row for row in rows if len(row.answer) == longest]
    words = {len(row.answer.split()) for row in at}
    is_edge = sizes[longest] > MIN_EDGE_RATIO * max(sizes[longest - i] for i in range(1, 4))
    unended = [row for row in at if not SENTENCE_END.search(row.answer)]
    if longest < MIN_CUT_CHARS or len({row.answer for row in at}) < max(5, MIN_CUT_SHARE * len(rows)):
        return []
    if len(words) < MIN_WORD_COUNTS or not is_edge or len(unended) < 0.8 * len(at):
        return []
    return [(row, f"{longest} characters: {quote_text('…' + row.answer[-30:])}") for row in at]


def _find_rows_with_carriage_returns(rows: Sequence[TrainingRow], tasks: Mapping[str, Task]) -> Bad:
    own = [s for t in tasks.values() if not t.brings_rows for s in t.samples or () if s.input]
    returns = sum("\r" in f"{prompt_text(s.input)}{s.target}" for s in own)
    if not own or returns > MANY_ROWS * len(own):
        return []
    found = [(row, shown) for row in rows if (shown := _quote_around_carriage_return(row.prompt, row.answer))]
    return found if len(found) > MANY_ROWS * len(rows) else []


def _find_rows_with_escaped_newlines(rows: Sequence[TrainingRow], tasks: Mapping[str, Task]) -> Bad:
    """Return rows with twice-escaped line breaks and no real ones.

    Empty unless there are many. Before a letter, the escape may be LaTeX or a path, before a quotation mark a program.
    """
    own = [s for t in tasks.values() if not t.brings_rows for s in t.samples or () if s.input]
    if not own or any(ESCAPED_NEWLINE.search(f"{prompt_text(s.input)}\n{s.target}") for s in own):
        return []
    found = []
    for row in rows:
        texts = [text for text in (row.prompt.strip(), row.answer.strip()) if not BREAK.search(text)]
        if hit := next(filter(None, map(ESCAPED_NEWLINE.search, texts)), None):
            found.append((row, repr(hit.string[max(0, hit.start() - 20) : hit.end() + 10])))
    return found if len(found) > FIFTH_OF_ROWS * len(rows) else []


def _find_swapped_prompts_and_answers(rows: Sequence[TrainingRow], tasks: Mapping[str, Task]) -> Bad:
    """Return all rows if prompts and answers seem to be swapped.

    That is if the answers and not the prompts end with a question mark, and in evaluations it is the reverse.
    """
    own = [s for t in tasks.values() if not t.brings_rows for s in t.samples or () if s.input and s.targets]
    pairs = [(prompt_text(s.input), s.targets[0]) for s in own]
    ours = [(row.prompt, row.answer) for row in rows if row.prompt and row.answer]
    if min(_compute_question_mark_shares(pairs)[0], _compute_question_mark_shares(ours)[1]) < MOST_ROWS:
        return []
    if max(_compute_question_mark_shares(pairs)[1], _compute_question_mark_shares(ours)[0]) > MANY_ROWS:
        return []
    return [(row, f"{quote_text(row.prompt, 30)} → {quote_text(row.answer, 30)}") for row in rows]


def _compute_question_mark_shares(pairs: Sequence[tuple[str, str]]) -> tuple[float, float]:
    """Return the shares of prompts and answers with a final question mark."""
    prompts, answers = (
        sum(pair[i].rstrip().endswith(("?", "？", "؟")) for pair in pairs) / max(1, len(pairs)) for i in (0, 1)
    )
    return prompts, answers


def _quote_around_carriage_return(*texts: str) -> str:
    """Quote the text around the first carriage return. Empty if there is none."""
    hit = next(((text, at) for text in texts if (at := text.find("\r")) >= 0), None)
    return repr(hit[0][max(0, hit[1] - 20) : hit[1] + 12]) if hit else ""


def _find_typographic_quote_answers(rows: Sequence[TrainingRow], tasks: Mapping[str, Task]) -> Bad:
    targets = list[str]()
    for task in tasks.values():
        given = schema.with_defaults(task.function, task.spec.options)
        if task.generates and not task.brings_rows and not given.get("ignore_punctuation"):
            targets += [t for s in task.samples or () for t in s.targets]
    straight = sum(bool(STRAIGHT_QUOTE.search(text)) for text in targets)
    if straight <= MANY_ROWS * len(targets) or any(map(CURLY_QUOTE.search, targets)):
        return []
    learnt = [row for row in rows if not row.row.get(HELD_OUT)]
    found = [(row, quote_text(row.answer)) for row in learnt if CURLY_QUOTE.search(row.answer)]
    return found if len(found) > MANY_ROWS * len(learnt) else []
