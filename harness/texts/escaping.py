"""Escaping of foreign text, to show it as data.

Nothing in it moves a terminal, ends a line, or is markup.
"""

from __future__ import annotations

import re

from harness.texts.secrets import redact_text
from harness.texts.shortening import shorten

MAX_LINE_CHARS = 10_000  # characters of a line
SURROGATE = re.compile("[\ud800-\udfff]")
REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what a part of a character is decoded as
INLINE_MARKUP = re.compile(r"([\\`*\[\]|~])")
BLOCK = re.compile(r"^(\s*)(?:([#+=-])|(\d+)([.)]))")


def escape_controls(text: str, *, lines: bool = False) -> str:
    """Escape the characters that a terminal obeys or files cannot hold.

    These are controls, escapes and text directions, and new lines unless `lines` is true. The characters left are also
    those that XML 1.0 allows.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and c == "\n") else repr(c)[1:-1] for c in text)


def printable(text: str, *, lines: bool = False) -> str:
    """Return a text as it may be printed: spelt out, and without secrets."""
    return escape_controls(redact_text(text), lines=lines)


def shorten_text(text: str, width: int = 400) -> str:
    """Put a text on one line, without its middle if long."""
    return shorten(escape_controls(text), width, middle=True)


def shorten_repr(value: object, width: int = 60) -> str:
    """Return the repr of a value, shortened to `width`. It then ends in "…"."""
    return shorten(repr(value), width)


def limit_length(text: str) -> str:
    """Cut a text to the length that is printed.

    A foreign error may have millions of characters, and is repeated in reports.
    """
    return shorten(text, MAX_LINE_CHARS)


def drop_surrogates(text: str) -> str:
    """Return a text without halves of surrogate pairs: no file, database or tokenizer takes one."""
    return text if text.isascii() else SURROGATE.sub(REPLACEMENT_CHARACTER, text)


def escape_markdown(text: str) -> str:
    """Format a text as one line of Markdown without markup.

    It contains no HTML, link, table cell or heading of its own.
    """
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
