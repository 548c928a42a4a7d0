"""Question keys, facts and total checks shared by all readers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from harness.artifacts.digests import digest_value
from harness.data.identity import add_question_keys
from harness.errors import UsageError, did_you_mean
from harness.records.samples import Sample
from harness.rows.records import RawMetric, RawRow, RawRows, Wanted
from harness.rows.safe_read import SafeFiles, parse_score
from harness.rows.wording import MissingOptionError, write_option
from harness.texts.counts import count_noun
from harness.texts.escaping import printable, shorten_text
from harness.texts.secrets import redact_options
from harness.texts.shortening import shorten

SHARES = {
    "acc", "acc_norm", "accuracy", "contains", "correct", "em", "exact_match", "f1", "includes", "is_correct", "match",
    "pass", "pass@1", "pass_rate", "passed", "precision", "recall", "success", "win_rate",
}  # fmt: skip
HIGHER_METRICS = {*SHARES, "auc", "bertscore", "bleu", "chrf", "mcc", "meteor", "reward", "rouge1", "rouge2", "rougel"}
LOWER_METRICS = {
    "bits_per_byte", "brier_score", "byte_perplexity", "cer", "error", "error_rate", "hallucination", "loss", "mae",
    "mse", "nll", "perplexity", "rmse", "ter", "toxicity", "wer", "word_perplexity",
}  # fmt: skip
HARM_WORDS = (  # in the names of 0/1 scores of which 1 may mean something bad
    "attack", "bad", "bias", "error", "fail", "hallucinat", "harm", "incorrect", "invalid", "jailbr", "leak", "mistake",
    "refus", "reject", "toxic", "truncat", "unsafe", "violat", "wrong",
)  # fmt: skip
TASK = "task"  # a slice: whose rows they are in a run of several tasks
METRICS = HIGHER_METRICS | LOWER_METRICS | {"score"}
MAX_TEXT_CHARS = 1 << 26  # of the texts of a run that are in memory
MAX_CELL_CHARS = 20_000  # of one text of a row
RELATIVE_TOLERANCE = 1e-9  # by which a tool's own number may differ from that of its rows
MISSING_TYPES = ("NAType", "NaTType")  # types of pandas' values that are none
Told = Mapping[str, Any]  # a table of a file


class RowReader:
    """Base of the readers, each for the rows of one tool.

    `words` occur in the first bytes of its files, `files` are patterns of the files in its folders.
    """

    name: ClassVar[str]
    words: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    keeps_budget: ClassVar[bool] = False  # whether it counts the texts of its rows as it reads them

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether this tool wrote a file or folder.

        The content decides; `head` is empty for a folder.
        """
        if path.is_dir():
            return any(next(path.glob(pattern), None) for pattern in self.files)
        return all(word.encode() in head for word in self.words)

    def read(self, path: Path, want: Wanted) -> RawRows:
        """Return the rows of one task. Raises UsageError at what cannot be read, is unsettled, or never written so."""
        files = SafeFiles(path if path.is_dir() else path.parent)
        try:
            found = self.rows(files, path, want)
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            what = f"is not a file of {self.name} ({type(error).__name__}: {shorten_text(str(error), 60)})"
            raise UsageError(f"{path}: {what}; write it again with a supported version") from None
        if not found.rows:
            raise UsageError(f"{path}: has no rows")
        if not self.keeps_budget:
            TextBudget(want.texts).spend(found.rows, len(found.rows))
        contents = tuple(sorted(files.contents.get(name, digest) for name, digest, _ in files.sources))
        return replace(found, sources=files.sources, contents=contents)

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        """Return the rows of one task, without `sources` and `contents`."""
        raise NotImplementedError


class TextBudget:
    """A limit on the texts of rows in memory.

    The texts of the wanted rows are kept, by default of all. Once they exceed MAX_TEXT_CHARS, none are.
    """

    def __init__(self, wanted: frozenset[str] | None = None) -> None:
        self.wanted, self.left = wanted, float(MAX_TEXT_CHARS)

    def spend(self, rows: Sequence[RawRow], new: int) -> None:
        """Cut the texts of the last `new` rows to the budget.

        Each text is cut at MAX_CELL_CHARS, and texts of unwanted rows are dropped. Once the budget is exceeded, the
        texts of all rows are dropped.
        """
        for row in rows[-new:] if new else ():
            if self.wanted is not None and row.content not in self.wanted and row.key not in self.wanted:
                row.input = row.target = row.answer = ""
            for name in ("input", "target", "answer"):
                setattr(row, name, shorten(getattr(row, name), MAX_CELL_CHARS))
            self.left -= len(row.input) + len(row.target) + len(row.answer)
        if self.left < 0:
            for row in rows if self.left > -math.inf else rows[-new:]:
                row.input = row.target = row.answer = ""
            self.left = -math.inf


def question_digest(asked: Any, wanted: Any, **beside: Any) -> str:
    """Return the digest that identifies a question.

    It covers a text or a chat, the wanted answers, and further fields such as lists of choices.
    """
    plain = isinstance(asked, str) or (isinstance(asked, list) and all(isinstance(m, dict) for m in asked))
    targets = [str(t) for t in wanted] if isinstance(wanted, list) else str("" if wanted is None else wanted)
    row = {name: value for name, value in beside.items() if value}
    return add_question_keys([Sample("", asked if plain else json.dumps(asked, sort_keys=True), targets, row)], None)[
        0
    ].key


def prompt_digest(sent: Any) -> str:
    """Return the digest of a sent prompt, empty if unknown."""
    return digest_value(sent) if sent else ""


def format_setting(value: Any) -> str:
    """Return a setting as a text for comparison between runs.

    Empty for None; an empty table is a setting.
    """
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True)


def collect_facts(**told: Any) -> dict[str, str]:
    """Return the known facts of a run as texts, by name.

    Underscores in names become spaces, and secrets are redacted.
    """
    return {
        name.replace("_", " "): text for name, value in redact_options(told).items() if (text := format_setting(value))
    }


def mentions_model(value: Any, model: str) -> bool:
    """Return whether a setting contains a model's name.

    The name must be a whole text in it.
    """
    if isinstance(value, Mapping):
        return any(mentions_model(one, model) for one in value.values())
    if isinstance(value, (list, tuple)):
        return any(mentions_model(one, model) for one in value)
    return bool(model) and value == model


def display_text(value: Any) -> str:
    """Return a prompt, target or answer as readable text.

    Of a chat with one message beside system messages, that message's content.
    """
    if isinstance(value, list) and all(isinstance(m, dict) and "content" in m for m in value):
        said = [m for m in value if m.get("role") != "system"]
        if len(said) == 1:
            return display_text(said[0]["content"])
        return "\n".join(f"{m.get('role')}: {display_text(m['content'])}" for m in value)
    if isinstance(value, list) and all(isinstance(part, dict) and "text" in part for part in value):
        return "\n".join(str(part["text"]) for part in value)  # parts of one message
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " | ".join(value)
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, sort_keys=True, default=str)


def display_name(name: Any) -> str:
    """Return a name of a file as an error shows it."""
    return shorten_text(printable(str(name)), 60)


def row_columns(columns: Told, want: Wanted, where: str) -> dict[str, Any]:
    """Return a row's cluster and slices from the requested columns.

    Raises UsageError if a column is missing.
    """

    def text(name: str) -> str:
        if name not in columns:
            raise UsageError(f'{where}: has no column "{name}"{did_you_mean(name, columns)}')
        return format_setting(columns[name]) or str(columns[name])

    found: dict[str, Any] = {"slices": {name: text(name) for name in want.slices}}
    return found | dict(zip(("cluster", "second_cluster"), map(text, want.cluster), strict=False))


SELECTOR_HINTS = {"provider": "#LABEL", "subject": "#SUBJECT"}  # how one of several is named; others by the metric


def select_one(found: Sequence[str], wanted: str, path: Path, what: str, say: str = "") -> str:
    """Return the one of its name, or the only one. Raises UsageError with all of them."""
    names = list(dict.fromkeys(found))
    if wanted in names or (len(names) == 1 and not wanted):
        return wanted or names[0]
    if wanted:
        raise UsageError(f'{path}: there is no {what} "{display_name(wanted)}"{did_you_mean(wanted, names)}')
    some, say = (
        ", ".join(map(display_name, names[:8])),
        printable(say or SELECTOR_HINTS.get(what) or write_option("metric", "TASK:NAME")),
    )
    message = f"{path}: has {len(names)} {what}s ({some}); name one with {say}"
    if what != "task":
        raise UsageError(message)
    raise MissingOptionError(message, name="metric", value=f"{names[0]}:", reason=f"one of the tasks {some}")


def nested_value(table: Any, *keys: str) -> Any:
    """Return the value under nested keys, None if one is missing."""
    for key in keys:
        table = (table or {}).get(key)
    return table


def parse_scores(told: Told, where: str) -> dict[str, float]:
    """Return the metrics that have a number. Raises UsageError at what is neither one nor nothing."""
    found = {str(name): parse_score(value, f"{where} {display_name(name)}") for name, value in told.items()}
    return {name: value for name, value in found.items() if value is not None}


def flag_positional_keys(rows: list[RawRow], keys: Iterable[Any]) -> list[RawRow]:
    """Mark rows as numbered if all keys are whole numbers.

    Such keys are positions, which identify nothing.
    """
    places = all(isinstance(k, int) or str(k).isdecimal() for k in keys)
    return [replace(row, numbered=True) for row in rows] if places else rows


def make_notes(*told: tuple[int, str, str]) -> tuple[str, ...]:
    """Return notes: how many, of what, and what of them; none where there are none."""
    return tuple(f"{count_noun(n, noun)} {what}" for n, noun, what in told if n)


def mean_of_scores(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def make_metric(
    where: str, name: str, rows: list[RawRow], every: list[float], told: Any, about: RawMetric
) -> RawMetric:
    """Return a metric, with the tool's total if rows give it.

    Raises UsageError unless the total is the mean of `every` value that the tool counts. It is kept only if it is the
    mean of the scored rows too.
    """
    total = check_total(f"{where} {display_name(name)}", mean_of_scores(every), told) if every else None
    scored = [row.values[name] for row in rows if name in row.values]
    return replace(
        about, total=total if total is not None and scored and are_close(mean_of_scores(scored), total) else None
    )


def are_close(ours: float, theirs: float) -> bool:
    return math.isclose(ours, theirs, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)


def check_total(where: str, ours: float, theirs: Any) -> float | None:
    """Return the tool's own number. Raises UsageError where its rows give another."""
    if isinstance(theirs, bool) or not isinstance(theirs, (int, float)):
        return None
    if not are_close(ours, theirs):
        what = "the file is truncated, or of another run"
        raise UsageError(f"{where}: the rows give {ours:.10g}, but the file says {theirs:.10g}; {what}")
    return float(theirs)
