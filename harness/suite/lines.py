"""Line numbers of the tables and keys of a TOML text.

Errors use them to name the line they are about.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from harness import schema

Lines = Mapping[tuple[str, int, str], int]  # (table, number of its element, key) -> line; the key "" is the table
MAX_KEY_PARTS = 4  # parts of a dotted key that have a line of their own
PIECE = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|"(?:\\.|[^"\\])*"'  # a text over several lines, a text
    r"|'''.*?'{3,5}|'[^']*'"
    r"|#[^\n]*|\n|[][{}=,.]|[^][{}=,.#\"'\s]+",
    re.DOTALL,
)


def reject_deep_keys(text: str) -> None:
    """Raise RecursionError at a dotted key that is too deep. The parser would take minutes over it."""
    dots = 0
    for piece in PIECE.findall(text):
        if piece == ".":
            dots += 1
        elif piece in "\n=,[]{}":
            dots = 0
        if dots > schema.MAX_DEPTH:
            raise RecursionError


def read_toml_lines(text: str) -> Lines:
    """Return the line of every table and key of valid TOML."""
    return _Index(text).lines


def read_gate_lines(path: Path) -> dict[str, int]:
    """Return the line of each [[gate]] of a suite, by id. Empty if the suite is unreadable."""
    try:
        text = path.read_text("utf-8")
        reject_deep_keys(text)
        gates, lines = tomllib.loads(text).get("gate", []), read_toml_lines(text)
    except (OSError, ValueError, RecursionError):
        return {}
    numbers = enumerate(gates) if isinstance(gates, list) else ()
    return {str(gate["id"]): lines["gate", i, ""] for i, gate in numbers if isinstance(gate, dict) and "id" in gate}


class _Index:
    """Reads a text piece by piece, and notes lines."""

    def __init__(self, text: str) -> None:
        self.lines: dict[tuple[str, int, str], int] = {}
        self.count: dict[str, int] = {}
        self.at = ("", 0)  # the table that keys belong to, and which of its array
        self.path = ""  # of the value that is read
        self.key: list[str] = []  # parts of the key or header that is read
        self.reads: Literal["key", "header", "value"] = "key"
        self.array = False  # the header is one of an array
        self.open: list[list[Any]] = []  # brackets around the value: which, table and path before it, element
        self.line = 1
        for piece in PIECE.findall(text):
            if piece[0] != "#":
                self.take(piece)
            self.line += piece.count("\n")

    def take(self, piece: str) -> None:
        if piece == "\n":
            if not self.open:
                self.key, self.reads = [], "key"
        elif self.reads == "header":
            self.header(piece)
        elif self.reads == "value":
            self.value(piece)
        elif piece == "[":
            self.reads, self.array = "header", False
        elif piece == "=":
            name, number = self.at
            for part in self.key[:MAX_KEY_PARTS]:
                for key in (part, part.partition(".")[0]):  # "adapter.r" in quotes is an option of [adapter]
                    self.lines.setdefault((name, number, key), self.line)
                name, number = f"{name}.{part}" if name else part, 0
                self.lines.setdefault((name, 0, ""), self.line)
            self.path, self.reads = name, "value"
        elif piece == "}":
            self.close()
        elif piece not in ".,":
            self.key.append(_unquote_key(piece))

    def header(self, piece: str) -> None:
        if piece == "[":
            self.array = True
        elif piece == "]" and self.key:
            name = ".".join(self.key)
            self.count[name] = self.count.get(name, -1) + 1 if self.array else 0
            self.at = (name, self.count[name])
            self.lines[(*self.at, "")] = self.line
            self.lines.setdefault((self.key[0], 0, ""), self.line)
            parent = ".".join(self.key[:-1])
            self.lines.setdefault((parent, self.count.get(parent, 0), self.key[-1]), self.line)
            self.key = []
        elif piece not in ".]":
            self.key.append(_unquote_key(piece))

    def value(self, piece: str) -> None:
        if piece in ("[", "{"):
            number = self.open[-1][3] if self.open and self.open[-1][0] == "[" else 0
            self.open.append([piece, self.at, self.path, 0])
            if piece == "{":
                self.at, self.key, self.reads = (self.path, number), [], "key"
                self.lines.setdefault((*self.at, ""), self.line)
        elif piece in ("]", "}"):
            self.close()
        elif piece == "," and self.open[-1][0] == "{":
            self.key, self.reads = [], "key"
        elif piece == ",":
            self.open[-1][3] += 1

    def close(self) -> None:
        _, self.at, self.path, _ = self.open.pop()
        self.reads = "value"


def _unquote_key(piece: str) -> str:
    return next(iter(tomllib.loads(f"{piece} = 0"))) if piece[0] in "\"'" else piece
