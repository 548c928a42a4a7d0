"""Text of others, shown as data: nothing in it moves a terminal, ends a line, or is markup."""

from __future__ import annotations

import re

from harness.texts.secrets import redact_text

MAX_LINE_CHARS = 10_000  # characters of a line
SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded as
INLINE_MARKUP = re.compile(r"([\\`*\[\]|~])")
BLOCK = re.compile(r"^(\s*)(?:([#+=-])|(\d+)([.)]))")


def escape_controls(text: str, *, lines: bool = False) -> str:
    """Return a text with what a terminal would obey, or no file can hold, spelt out: controls, escapes, directions.

    New lines are too, unless `lines` are wanted. What is left is also what XML 1.0 allows.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else repr(c)[1:-1] for c in text)


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text as it may be printed: spelt out, and without secrets."""
    return escape_controls(redact_text(text), lines=lines)


def shorten_text(text: str, width: int = 400) -> str:
    """Write a text on one line, its middle left out when it is long."""
    line = escape_controls(text)
    return line if len(line) <= width else f"{line[: width // 2]} … {line[-width // 2 :]}"


def shorten_repr(value: object, width: int = 60) -> str:
    """Return how Python writes a value, with "…" at its end where it is longer than `width`."""
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def limit_length(text: str) -> str:
    """Return what is printed of a text: an error of others may have millions of characters, and is told in reports."""
    return (
        text
        if len(text) <= MAX_LINE_CHARS
        else f"{text[:MAX_LINE_CHARS]} … and {len(text) - MAX_LINE_CHARS:,} characters more"
    )


def drop_surrogates(text: str) -> str:
    """Return a text without halves of surrogate pairs: no file, database or tokenizer takes one."""
    return text if text.isascii() else SURROGATE.sub(REPLACEMENT_CHARACTER, text)


def escape_markdown(text: str) -> str:
    """Return one line of Markdown that says a text, and is no HTML, link, table cell or heading of its own."""
    line = " ".join(printable(" ".join(text.split())).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = INLINE_MARKUP.sub(r"\\\1", line).replace("://", ":&#47;/")
    return BLOCK.sub(lambda m: f"{m[1]}\\{m[2]}" if m[2] else f"{m[1]}{m[3]}\\{m[4]}", line)


def markdown_code(text: str) -> str:
    """Return a code span of Markdown that holds a text."""
    line = printable(text)
    marks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    room = " " if line[:1] == "`" or line[-1:] == "`" else ""
    return f"{marks}{room}{line}{room}{marks}"
