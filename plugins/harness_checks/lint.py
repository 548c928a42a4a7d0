"""D11: rows that no person would want to train on, told by their numbers."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import harness_hf
from harness import Finding, ModelRef, Sample, Severity, TrainingRow, checker, quote_text
from harness.internals import (
    PROMPT_PARTS,
    StatedPreference,
    Task,
    canonical_text,
    chat,
    find_conflicts,
    find_contradictions,
    find_repeats,
    group_by_question,
    is_missing,
    make_pair_key,
    prompt_text,
    schema,
    shorten,
    template_columns,
)
from harness_checks.damage import compare_endings, find_damage
from harness_checks.frames import row_messages
from harness_domain import MatchOptions

MAX_ROW_CHARS = 200_000  # characters of a row: some fifty thousand tokens, more than any recipe here keeps
ROLES = (*chat.SYSTEM_ROLES, "user", "assistant", "tool")
SECRETS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "an AWS access key": r"\bAKIA[0-9A-Z]{16}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
}
SECRET = re.compile("|".join(SECRETS.values()))
# UTF-8 that was read as Latin-1 or CP1252, the replacement character, and halves of a character
MOJIBAKE = re.compile("Ã[\u0080-\u00bf\u2018-\u2122]|â€|Â[\u00a0-\u00bf]|ï»¿|ï¿½|\ufffd|[\ud800-\udfff]")
PREFERENCE_COLUMNS = {"chosen", "label"}  # columns of rows that say which answers are wanted
MATCHERS = ("exact_match", "contains", "token_f1")
# numbers with a sign, a point or a slash, and names that are others without their signs; 1,000 is what it was
NUMBER_PATTERN = re.compile(r"[-\u2212]\$?\d[\d.,]*%?|\$?[\d,]*\.\d+%?|\d+,(?!\d{3}$)\d+%?|\d+/\d+|[A-Za-z](\+\+|#)")
ENDS, SPOILT = ".!?,;:\"' ", 0.05  # what may end a text without another meaning; share of targets that makes an error
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
HALF_SHARE = 0.5
LOOP_WORDS, LOOP_TIMES = 30, 6  # the last words of an answer, and how often each stands there on average
Look = Callable[[TrainingRow], str | None]  # what is wrong with a row


@checker(title="training-data-quality")
def lint(rows: Sequence[TrainingRow], base: ModelRef, tasks: Mapping[str, Task]) -> Iterator[Finding]:
    """Rows that are damaged, duplicated, contradictory or private.

    A model learns what the rows say, the accidents too: an empty answer teaches to say nothing, a looping one to
    loop, the same question with two answers to guess, a secret to recite it. Kinds of this finding:
    -empty no answer or an empty one among several, -roles messages out of order,
    -template messages that the chat template refuses,
    -duplicate the same row again, -conflict one prompt with several answers, -loop answers that repeat themselves,
    -special tokens of the tokenizer written in a text, -secret keys and passwords, -mojibake text in a wrong
    encoding, -long rows of more than 200,000 characters, -blank rows that ask nothing, and rows of an evaluation
    without a target,
    -punctuation targets of an evaluation that other answers equal once their punctuation is left out, such as two cron
    lines, -3.5 and C++; an error where 5 % of the targets equal another row's,
    and what other programs do to text: -entities answers with HTML entities, -nan missing values as pandas writes them,
    -cut answers that a column cut at one length, -endings line breaks of CRLF or CR in training or in evaluation alone,
    -quotes typographic quotes where targets have plain ones, -escapes line breaks that were escaped twice,
    -swapped columns of prompt and answer, -unused a column such as "instruction" or "context" that varies and is in no
    prompt.
    """
    yield from _check_blank_evaluation_fields(tasks)
    yield from _check_targets_equal_normalized(tasks)
    if not rows:
        return
    yield from _check_each_row(
        rows, _find_empty_answer_error, "error", "empty", "no answer to train on", "remove them, or fill in the answer"
    )
    yield from _check_each_row(
        rows, _find_message_role_error, "error", "roles", "messages out of order", "alternate user and assistant"
    )
    yield from _check_rows_render_in_template(rows, base)
    blank = _find_blank_rows(rows)
    yield from _check_each_row(
        rows, lambda row: blank.get(row.number), "warning", "blank", "no input", "remove them, or fill in the input"
    )
    yield from _check_duplicates_and_conflicts([row for row in rows if row.number not in blank])
    yield from _check_each_row(
        rows, _find_repetitive_ending, "warning", "loop", "answers that repeat themselves", "remove them"
    )
    yield from _check_special_tokens_in_rows(rows, base)
    yield from _check_each_row(
        rows, _find_secret_error, "warning", "secret", "text that looks like a secret", "remove or replace it"
    )
    yield from _check_each_row(
        rows, _quote_mojibake, "warning", "mojibake", "text in a wrong encoding", "read the source as UTF-8"
    )
    for kind, bad, what, fix in find_damage(rows, tasks):
        if bad:
            evidence = [f"{name_row(row, rows)}: {why}" for row, why in bad]
            about = row_numbers(row for row, _ in bad) if kind in ("entities", "nan") else {}  # others are of all rows
            yield Finding("warning", f"{count_of_total(len(bad), len(rows))}: {what}", evidence, fix, kind, about)
    yield from compare_endings(rows, tasks)
    yield from _check_unused_question_columns(rows)
    yield from _check_each_row(
        rows,
        _describe_excessive_length,
        "warning",
        "long",
        f"more than {MAX_ROW_CHARS:,} characters",
        "split or remove them",
    )


def name_row(row: TrainingRow, rows: Sequence[TrainingRow]) -> str:
    """Return a row's name, with its source if there are several."""
    several = len({r.source for r in (rows[0], rows[-1], row)}) > 1
    return f"row {row.number} ({row.source})" if several else f"row {row.number}"


def _format_equal_row_names(same: Sequence[TrainingRow], rows: Sequence[TrainingRow]) -> str:
    return " = ".join(name_row(row, rows) for row in same[:3]) + (" = …" if len(same) > 3 else "")


def row_numbers(rows: Iterable[TrainingRow]) -> dict[str, list[str]]:
    """Return the training rows of a finding by their numbers.

    They are listed under "training data", which is the name of no evaluation.
    """
    return {"training data": [str(number) for number in dict.fromkeys(row.number for row in rows)]}


def count_of_total(number: int, total: int) -> str:
    return f"{number:,} of {total:,} row{'s' if total != 1 else ''}"


def _check_each_row(
    rows: Sequence[TrainingRow], look: Look, severity: Severity, kind: str, what: str, fix: str
) -> Iterator[Finding]:
    if found := [(row, why) for row in rows if (why := look(row))]:
        evidence = [f"{name_row(row, rows)}: {why}" for row, why in found]
        about = row_numbers(row for row, _ in found)
        yield Finding(severity, f"{count_of_total(len(found), len(rows))}: {what}", evidence, fix, kind, about)


def _find_empty_answer_error(row: TrainingRow) -> str | None:
    turns = row.row.get("messages")
    turns = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    calls = bool(turns and turns[-1].get("tool_calls"))
    if not calls and (not (answer := row.answer.strip()) or (answer == "None" and None in row.raw.values())):
        return f"no answer after {quote_text(row.prompt)}" if row.prompt else "no text"
    return next((f"message {n} is an empty answer" for n, turn in enumerate(turns, 1) if _is_empty_answer(turn)), None)


def _is_empty_answer(turn: Mapping[str, Any]) -> bool:
    """Return whether a turn is the assistant's, is learnt, and says nothing."""
    said = (turn.get(key) for key in ("content", "tool_calls", *THOUGHT_KEYS))
    empty = not any(text.strip() if isinstance(text, str) else text for text in said)
    return turn.get("role") == "assistant" and empty and not harness_hf.is_context_turn(turn)


def _check_blank_evaluation_fields(tasks: Mapping[str, Task]) -> Iterator[Finding]:
    """Report evaluation rows without a prompt or a target.

    They count as wrong for any answer. Silent if all rows lack it.
    """
    for name, task in tasks.items():
        samples = task.samples or ()
        nothing = [s for s in samples if not s.target or (s.target == "None" and None in s.row.values())]
        for what, found in (("prompt", [s for s in samples if is_blank_sample(task, s)]), ("target", nothing)):
            if found and len(found) < len(samples):
                line = f'{count_of_total(len(found), len(samples))} of "{name}": no {what}, but others have one'
                evidence = [f'row "{s.id}": {quote_text(prompt_text(s.input) or str(s.target), 60)}' for s in found]
                ids = {name: [s.id for s in found]}
                yield Finding("warning", line, evidence, "fill in the value, or remove the rows", "blank", ids)


def is_blank_sample(task: Task, sample: Sample) -> bool:
    """Return whether a row asks nothing: no text, or a template of which all columns are empty."""
    columns = template_columns(task.spec.template) if task.spec.template else []
    inputs = [sample.row[column] for column in columns if column in sample.row]
    asked = "".join("" if value is None else str(value) for value in inputs) if inputs else prompt_text(sample.input)
    return is_missing(asked)


def _find_blank_rows(rows: Sequence[TrainingRow]) -> dict[int, str]:
    """Return the rows that ask nothing, by number, though most rows ask something.

    All columns that stand in the prompts of most rows are empty in them, or all of the user's messages.
    """
    asked = _find_input_columns(rows)
    found = dict[int, str]()
    for row in rows:
        messages = [turn for turn in row_messages(row) if isinstance(turn, Mapping)]
        turns = [turn for turn in messages if turn.get("role") == "user"]
        blank = bool(turns) and all(is_missing(str(turn.get("content") or "")) for turn in turns)
        if asked:
            blank = blank or all(is_missing(str(row.raw.get(name) or "")) for name in asked)
        if blank and row.answer.strip():
            found[row.number] = f"nothing is asked; {quote_text(row.answer, 40)} is learnt"
    return found if len(found) <= HALF_SHARE * len(rows) else {}


def _find_input_columns(rows: Sequence[TrainingRow]) -> list[str]:
    """Return the columns of texts that are in the prompts of most rows, and are not their answers."""
    inside, answers = Counter[str](), Counter[str]()
    for row in rows:
        prompt, answer = row.prompt, row.answer.strip()
        texts = {name: value.strip() for name, value in row.raw.items() if isinstance(value, str) and value.strip()}
        inside.update(name for name, text in texts.items() if text in prompt)
        answers.update(name for name, text in texts.items() if text == answer)
    return [name for name, count in inside.items() if count > HALF_SHARE * len(rows) and answers[name] < count]


def _check_targets_equal_normalized(tasks: Mapping[str, Task]) -> Iterator[Finding]:
    """Report targets that other answers equal once they are normalised: those of other rows, or as 3.5 equals 35."""
    for name, task in tasks.items():
        given = schema.with_defaults(task.function, task.spec.options) if task.spec.use in MATCHERS else {}
        if not given.get("ignore_punctuation"):
            continue
        options = MatchOptions(ignore_case=bool(given["ignore_case"]), ignore_articles=bool(given["ignore_articles"]))
        loose, strict = options.normalize, replace(options, ignore_punctuation=False).normalize
        targets = [(s, t) for s in task.samples or () for t in s.targets]
        spelt: dict[str, set[str]] = defaultdict(set)
        for _, t in targets:
            spelt[loose(t)].add(strict(t).strip(ENDS))
        equal = [(s, t) for s, t in targets if len(spelt[loose(t)]) > 1 or not loose(t)]
        found = [(s, t) for s, t in targets if len(spelt[loose(t)]) > 1 or NUMBER_PATTERN.fullmatch(t.strip())]
        if found:
            same, first = (equal or found)[0], loose((equal or found)[0][1])
            others = [t for _, t in equal if loose(t) == first and strict(t).strip(ENDS) != strict(same[1]).strip(ENDS)]
            other = quote_text(others[0] if others else first, 60)
            line = f'{count_of_total(len(found), len(targets))} of "{name}": {other} equals the target '
            line += f"{quote_text(same[1], 60)} without punctuation"
            evidence = [*dict.fromkeys(f'row "{s.id}": {quote_text(t, 60)}' for s, t in [*equal, *found])]
            fix = f'set ignore_punctuation = false in "{name}"'
            fix += "" if equal else ', or use = "numeric" for numbers'
            severity: Severity = "error" if len(equal) >= SPOILT * len(targets) else "warning"
            ids = dict.fromkeys(s.id for s, _ in found)
            yield Finding(severity, line, evidence, fix, "punctuation", {name: [*ids]})


def _check_unused_question_columns(rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    """Report question columns that no prompt and no answer contains.

    Their name says that they belong to the question, and their texts vary.
    """
    for name in dict.fromkeys(name for row in rows for name in row.raw if name.strip().lower() in PROMPT_PARTS):
        held = [(str(row.raw[name]).strip(), row) for row in rows if isinstance(row.raw.get(name), str)]
        held = [(text, row) for text, row in held if text]
        if len({text for text, _ in held}) < 2 or len(held) < HALF_SHARE * len(rows):
            continue
        lost = [row for text, row in held if text not in f"{row.prompt}\n{row.answer}"]
        if len(lost) > HALF_SHARE * len(held):
            what = f'{count_of_total(len(lost), len(rows))}: the column "{name}" is not in the prompt'
            fix = f'write it into the prompt with template = "{{{name}}}…", or run harness init --data on the file'
            yield Finding("warning", what, (), fix, "unused", row_numbers(lost))


def _find_message_role_error(row: TrainingRow) -> str | None:
    if (messages := row.row.get("messages")) is None and isinstance(row.row.get("prompt"), list):
        messages = row_messages(row)
    if not isinstance(messages, list):
        return None if messages is None else f"messages is {str(messages)[:40]!r}; it must be a list"
    if not all(isinstance(message, dict) for message in messages):
        return "a message is not an object with role and content"
    roles = [message.get("role") for message in messages]
    written = ", ".join(map(str, roles[:8]))
    for message, role in zip(messages, roles, strict=True):
        if role not in ROLES:
            return f'the role "{role}" is unknown; use user and assistant, and system first if needed'
        if not isinstance(message.get("content"), (str, list)) and not message.get("tool_calls"):
            return f'a message with the role {role} has no "content"'
    if any(role in chat.SYSTEM_ROLES for role in roles[1:]):
        return f"the system message is not the first: {written}"
    turns = [role for role in roles if role in ("user", "assistant")]
    if "tool" not in roles and any(a == b for a, b in pairwise(turns)):
        return f"two successive messages have the same role: {written}"
    if turns[:1] == ["assistant"]:
        return f"begins with the assistant: {written}"
    return None if turns[-1:] == ["assistant"] else f"does not end with the assistant: {written}"


def _check_rows_render_in_template(rows: Sequence[TrainingRow], base: ModelRef) -> Iterator[Finding]:
    """Render every chat row as TRL will, reporting refusals by row."""
    chats = [row for row in rows if isinstance(row.row.get("messages", row.row.get("prompt")), list)]
    if not chats or not (Path(base.path) / "tokenizer_config.json").is_file():
        return
    if not (tokenizer := harness_hf.load_tokenizer(base.path)).chat_template:
        what = "the rows are chat messages, but the tokenizer has no chat template"
        yield Finding("error", what, (), "give text prompts, or use the instruct version of the model", "template")
        return

    def refusal(row: TrainingRow) -> str | None:
        try:
            if messages := row_messages(row):  # else D11-empty and D11-roles tell
                tokenizer.apply_chat_template(messages, tokenize=False, **chat.training_template_arguments(row.row))
        except Exception as error:  # whatever a template raises
            return harness_hf.format_one_line(error)[:120]
        return None

    what, fix = "the chat template rejects the messages", "write the messages as the template requires"
    yield from _check_each_row(rows, refusal, "error", "template", what, fix)


def _check_duplicates_and_conflicts(rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    if again := _group_repeats(rows):
        extra = [row for same in again for row in same[1:]]
        evidence = [
            f"{_format_equal_row_names(same, rows)}: {quote_text(same[0].prompt or same[0].answer)}" for same in again
        ]
        what = f"{count_of_total(len(extra), len(rows))}: identical to an earlier one"
        yield Finding("warning", what, evidence, "keep one of each", "duplicate", row_numbers(extra))
    yield from _check_contradictory_preferences([row for row in rows if PREFERENCE_COLUMNS & row.row.keys()], rows)
    yield from _check_conflicting_answers([row for row in rows if not PREFERENCE_COLUMNS & row.row.keys()], rows)


def _group_repeats(rows: Sequence[TrainingRow]) -> list[list[TrainingRow]]:
    """Return the rows that are equal but for their spelling."""
    keys = []
    for row in rows:
        judgment = prompt_text(row.row.get("rejected", "")), str(row.row.get("label", ""))
        keys.append([(*make_pair_key(row.prompt, row.answer), *make_pair_key(*judgment))])
    groups = dict[int, list[TrainingRow]]()
    for i, first in find_repeats(keys).items():
        groups.setdefault(first, [rows[first]]).append(rows[i])
    return [*groups.values()]


def _check_conflicting_answers(plain: Sequence[TrainingRow], rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    """Report prompts with several answers, of rows that do not say which of them is wanted."""
    asking = [row for row in plain if row.prompt.strip()]
    prompts, answers = [row.prompt for row in asking], [canonical_text(row.answer) for row in asking]
    if conflicts := find_conflicts(prompts, answers):
        evidence = []
        for group in conflicts:
            one, two = [asking[i] for i in {answers[i]: i for i in reversed(group)}.values()][::-1][:2]
            pair = " and ".join(quote_text(row.answer.strip(), 40) for row in (one, two))
            shown = f"{quote_text(one.prompt, 60)} → {pair}"
            evidence.append(f"{_format_equal_row_names([one, two], rows)}: {shown}")
        meant = len(conflicts) > len(group_by_question(prompts)) / 2  # several answers to each are a way to sample
        what = f"{len(conflicts):,} prompt{'s' if len(conflicts) > 1 else ''} with several different answers"
        yield Finding("note" if meant else "warning", what, evidence, "keep the right answer", "conflict")


def _check_contradictory_preferences(judged: Sequence[TrainingRow], rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    """Report answers that are preferred in one row and rejected in another."""
    preferences = []
    for row in judged:
        rejected = prompt_text(row.row["rejected"]) if "rejected" in row.row else None
        preferences.append(StatedPreference(row.prompt, row.answer, rejected, bool(row.row.get("label", True))))
    if pairs := [(judged[one], judged[two]) for one, two in find_contradictions(preferences)]:
        evidence = [
            f"{_format_equal_row_names(pair, rows)}: {quote_text(pair[0].prompt, 60)} → {quote_text(pair[0].answer)}"
            for pair in pairs
        ]
        what = f"{count_of_total(len(pairs), len(rows))}: an earlier row prefers the other answer"
        yield Finding("warning", what, evidence, "keep the right preference", "conflict")


def _find_repetitive_ending(row: TrainingRow) -> str | None:
    words = row.answer.split()[-LOOP_WORDS:]
    if len(words) == LOOP_WORDS and len(set(words)) <= LOOP_WORDS // LOOP_TIMES and any(w.isalpha() for w in words):
        return f"ends in {quote_text(' '.join(words), 60)}"
    return None


def _check_special_tokens_in_rows(rows: Sequence[TrainingRow], base: ModelRef) -> Iterator[Finding]:
    try:
        added = json.loads((Path(base.path) / "tokenizer.json").read_text("utf-8"))["added_tokens"]
        tokens = {token["content"] for token in added if token["special"]}
    except (OSError, ValueError, KeyError):
        return
    pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")
    if found := [(row, hit[0]) for row in rows if (hit := pattern.search(f"{row.prompt}\n{row.answer}"))]:
        rendered = len(found) > len(rows) / 2  # by hand, on purpose
        what = f"{count_of_total(len(found), len(rows))}: a text contains special tokens of the tokenizer"
        evidence = [f'{name_row(row, rows)}: "{token}"' for row, token in found]
        fix = "remove them, since the tokenizer adds them; if they are intended, give messages instead"
        about = row_numbers(row for row, _ in found)
        yield Finding("note" if rendered else "warning", what, evidence, fix, "special", about)


def _find_secret_error(row: TrainingRow) -> str | None:
    if not (hit := SECRET.search(row.prompt) or SECRET.search(row.answer)):
        return None
    name = next(name for name, pattern in SECRETS.items() if re.fullmatch(pattern, hit[0]))
    return f"{name}, {quote_text(shorten(hit[0], 7))}"


def _quote_mojibake(row: TrainingRow) -> str | None:
    for text in (row.prompt, row.answer):
        if hit := MOJIBAKE.search(text):
            return quote_text(text[max(0, hit.start() - 20) : hit.end() + 20], 60)
    return None


def _describe_excessive_length(row: TrainingRow) -> str | None:
    length = len(row.prompt) + len(row.answer)
    return f"{length:,} characters" if length > MAX_ROW_CHARS else None
