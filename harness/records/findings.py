"""Inputs and results of checks: rows, the built trainer, and findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from harness.records.waivers import Waiver

Severity = Literal["error", "warning", "note"]
"""How bad a finding is: an error stops the run."""


class FindingNames(NamedTuple):
    """The names by which a finding can be ignored."""

    code: str
    check: str
    title: str


@dataclass(frozen=True)
class Finding:
    """A result of one check: severity, description, evidence and fix.

    `kind` tells apart the problems that one check looks for ("duplicate"); the code is then "D11-duplicate". `rows`
    names the samples it is about, by evaluation; those of its select split under "NAME (select)". `ignored` is the
    reason why it does not count; for an ignored error `waiver` names the person responsible. `code` and `title` are the
    check's, and set by the harness. Raises ValueError for an unknown severity, TypeError for texts in place of lists or
    lists in place of texts.
    """

    severity: Severity
    what: str
    evidence: Sequence[str] = ()
    fix: str = ""
    kind: str = ""
    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    code: str = ""
    ignored: str | None = None
    title: str = ""
    waiver: Waiver | None = None

    def __post_init__(self) -> None:
        if self.severity not in get_args(Severity):  # one that is misspelt would stop nothing
            raise ValueError(
                f"severity of a finding is {self.severity!r}; it must be one of {', '.join(get_args(Severity))}"
            )
        lists = [self.evidence, *(self.rows.values() if isinstance(self.rows, Mapping) else [None])]
        if not all(isinstance(texts, list | tuple) and all(isinstance(t, str) for t in texts) for texts in lists):
            raise TypeError("evidence of a finding, and the rows of each evaluation, must be lists of texts")
        if not all(isinstance(text, str) for text in (self.what, self.fix, self.kind)):
            raise TypeError("what, fix and kind of a finding must be texts")

    @property
    def name(self) -> str:
        """Return the code, and the check's title where it has one: "D10-exact train-test-leak"."""
        return f"{self.code} {self.title}".rstrip()

    @property
    def stops_run(self) -> bool:
        """Return whether it stops the run."""
        return self.severity == "error" and self.ignored is None

    @property
    def names(self) -> FindingNames:
        """The names by which it can be ignored. They are its code, its check's code, and the check's title."""
        check = self.code.partition("-")[0]
        return FindingNames(self.code, check, self.title or check)


@dataclass(frozen=True)
class TrainingRow:
    """A training row: its number over all sources (from 1), where it is from, what is trained on, all it was."""

    number: int
    source: str
    row: Mapping[str, Any]
    raw: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """The prompt as text. For a chat it is all messages but the last; empty for a row that is only a text."""
        messages = self.row.get("messages")
        return prompt_text(messages[:-1] if isinstance(messages, list) else self.row.get("prompt", ""))

    @property
    def answer(self) -> str:
        """The text to learn. It is the last message, the completion, the chosen answer of a pair, or the text."""
        if isinstance(messages := self.row.get("messages"), list):
            return prompt_text(messages[-1:])
        return prompt_text(next((self.row[name] for name in ("completion", "chosen", "text") if name in self.row), ""))


@dataclass(frozen=True)
class Example:
    """A row as tokens, whole: the label of a token that is not learnt is -100."""

    number: int
    ids: Sequence[int]
    labels: Sequence[int]


@dataclass(frozen=True)
class Built:
    """A trainer's own preparation of the rows, before its first step.

    `examples` are the rows before any is cut, dropped or packed; `kept` counts the sequences that remain then,
    `cut` is the length that truncation leaves of a row. `batches(n)` yields the first n batches as the model gets them
    (tensors input_ids, labels and perhaps attention_mask and position_ids). What is cut off is the end, with `keep_end`
    the beginning. `model` is of the base's architecture, with random weights and perhaps fewer layers; `config` is the
    trainer's configuration. `slow` says why its fast way to the loss is not taken, where that is not the model's own.
    """

    tokenizer: Any
    examples: Sequence[Example]
    kept: int
    cut: int | None
    packing: bool
    batches: Callable[[int], Iterator[Mapping[str, Any]]]
    model: Any
    config: Any
    chat_template: str | None = None  # where training uses another than the tokenizer's
    keep_end: bool = False
    slow: str = ""

    @property
    def kept_span(self) -> slice:
        """The slice of a row's tokens that truncation keeps."""
        return slice(-self.cut, None) if self.cut and self.keep_end else slice(self.cut)

    def show(self, example: Example) -> str:
        """Format a row as the model sees it. Its trained parts are between ⟦ and ⟧."""
        return mark_trained_tokens(self.tokenizer, example.ids[self.kept_span], example.labels[self.kept_span])

    def parts(self, example: Example) -> list[tuple[bool, str]]:
        """Split a row into trained and untrained parts.

        The row is truncated as the model sees it; each part comes with whether it is trained.
        """
        return split_trained_tokens(self.tokenizer, example.ids[self.kept_span], example.labels[self.kept_span])


def mark_trained_tokens(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> str:
    """Decode tokens, with trained parts between ⟦ and ⟧."""
    return "".join(f"⟦{text}⟧" if learnt else text for learnt, text in split_trained_tokens(tokenizer, ids, labels))


def split_trained_tokens(tokenizer: Any, ids: Sequence[int], labels: Sequence[int]) -> list[tuple[bool, str]]:
    """Decode tokens, those that are learnt apart from the others."""
    found: list[tuple[bool, list[int]]] = []
    for token, label in zip(ids, labels, strict=True):
        learnt = label != -100
        if not found or found[-1][0] is not learnt:
            found.append((learnt, []))
        found[-1][1].append(token)
    return [(learnt, tokenizer.decode(run, clean_up_tokenization_spaces=False)) for learnt, run in found]


def prompt_text(prompt: Any) -> str:
    """Return a prompt or messages as one text."""
    if not isinstance(prompt, list):
        return prompt if isinstance(prompt, str) else ""
    found = []
    for message in prompt:
        with suppress(TypeError, KeyError, AttributeError):
            found.append(str(message["content"]))
    return "\n".join(found)
