"""The code blocks of a page of Markdown, what the comments before them say, and the commands in them.

A block is executed in its page's folder where it is `bash` or `python`; `<!-- file: NAME -->` on the line before it has
it written there instead, and `<!-- not run: REASON -->` says why it is not executed. `<!-- exit: 1 or 6 -->` names the
exit codes of a block of commands that does not end with 0, `<!-- no suite: WHAT -->` says what a `toml` block is
instead, and `<!-- output -->` has a `text` block compared with what the commands before it printed.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

LANGUAGES = ("bash", "python", "toml", "json", "yaml", "csv", "text")
MARK = re.compile(r"<!--\s*(file|not run|exit|no suite|output)(?::\s*(.*?))?\s*-->\s*")
LOADS = ("run", "check", "plan", "selftest")  # commands that open a model
HEAVY = ("import torch", "safetensors.torch", '"tiny:llama"')  # what a file loads by itself
BREAKS = frozenset("();<>|&")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and what the comments before it say, by their words."""

    page: str
    line: int
    language: str
    text: str
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def executed(self) -> bool:
        return self.language in ("bash", "python") and not {"file", "not run"} & self.marks.keys()

    @property
    def exits(self) -> Sequence[int]:
        """Return the exit codes that it may end with."""
        return [int(code) for code in re.findall(r"\d+", self.marks.get("exit", "0"))]


def parse_blocks(path: Path, root: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order; raises ValueError at a comment before one that says nothing.

    A line that is only indented is text of its paragraph here, and no block.
    """
    page = path.relative_to(root).as_posix()
    tokens = MarkdownIt("commonmark").disable("code").parse(path.read_text("utf-8"))
    found = []
    for i, token in enumerate(tokens):
        if token.type == "fence" and token.map:
            language = token.info.strip().partition(" ")[0]
            found.append(
                Block(page, token.map[0] + 1, language, token.content, _parse_marks(page, tokens[:i], token.map[0]))
            )
    return found


def _parse_marks(page: str, before: Sequence[Token], line: int) -> dict[str, str]:
    """Return what the comments directly above a line say."""
    marks: dict[str, str] = {}
    for token in reversed(before):
        if token.type != "html_block" or not token.map or token.map[1] != line:
            break
        line = token.map[0]
        if not (said := MARK.fullmatch(token.content)):
            raise ValueError(f"{page}:{line + 1}: {token.content.strip()} says nothing of the block below it")
        marks[said[1]] = said[2] or ""
    return marks


def needs_torch(blocks: Sequence[Block]) -> bool:
    """Return whether what a page executes loads torch: its files do, or its commands open a model of "hf"."""
    files = [block for block in blocks if "file" in block.marks]
    if any(word in block.text for block in files for word in HEAVY):
        return True
    words = [command for block in blocks if block.executed for command in iterate_harness_commands(block)]
    opened = any(command[0] in LOADS or "--replay" in command for command in words if command)
    return opened and not any(_uses_other_loader(block) for block in files)


def _uses_other_loader(block: Block) -> bool:
    """Return whether a block is a suite whose loader is not the one of `path = "HUB/ID"`."""
    if block.language != "toml":
        return False
    return tomllib.loads(block.text).get("model", {}).get("use", "hf") != "hf"


def iterate_harness_commands(block: Block) -> Iterator[list[str]]:
    """Yield the words behind `harness` of every command in a block; of a `text` block only of lines behind "$ "."""
    for words in iterate_shell_commands(block):
        if "harness" in words:
            yield words[words.index("harness") + 1 :]


def iterate_shell_commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each command, without what it is joined with, redirected to and commented by."""
    for line in block.text.replace("\\\n", " ").splitlines():
        prompt, _, typed = line.partition("$ ")
        if not prompt.strip():
            line = typed
        elif block.language == "text":
            continue
        yield from _split_shell_commands(_split_shell_words(line))


def _split_shell_words(line: str) -> list[str]:
    reader = shlex.shlex(line, posix=True, punctuation_chars="".join(sorted(BREAKS)))
    reader.whitespace_split = True
    return list(reader)


def _split_shell_commands(words: Sequence[str]) -> Iterator[list[str]]:
    """Cut words where the shell does, and leave out files of redirections."""
    command: list[str] = []
    redirected = False
    for word in words:
        if word and BREAKS.issuperset(word):
            redirected = word[0] in "<>"
            if not redirected:
                yield command
                command = []
        elif redirected:
            redirected = False
        else:
            command.append(word)
    yield command
