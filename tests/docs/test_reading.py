"""How pages are read: which blocks there are, what comments say of them, and which commands they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import Block, iterate_harness_commands, needs_torch, parse_blocks

PAGE = """\
Text.

<!-- file: a/b.toml -->
```toml
[model]
use = "fake"
```

- In a list:

  <!-- not run: an hour -->
  <!-- exit: 1 or 6 -->
  ```bash
  harness run a/b.toml
  ```

<!-- a remark that is no block's -->

```python
print(1)
```
"""


def read(tmp_path: Path, text: str) -> list[Block]:
    (tmp_path / "page.md").write_text(text, "utf-8")
    return parse_blocks(tmp_path / "page.md", tmp_path)


def test_comments_belong_to_the_block_below_them(tmp_path: Path) -> None:
    """A file is written, what is not run is not, and a block after an empty line has no comment."""
    written, skipped, run = read(tmp_path, PAGE)
    assert (written.marks, written.executed) == ({"file": "a/b.toml"}, False)
    assert written.text == '[model]\nuse = "fake"\n'
    assert (skipped.marks["not run"], skipped.exits, skipped.executed) == ("an hour", [1, 6], False)
    assert (run.marks, run.exits, run.executed, run.place) == ({}, [0], True, "page.md:19")


def test_a_comment_that_says_nothing_is_told(tmp_path: Path) -> None:
    """A misspelt word would have a block executed, or compared with nothing."""
    with pytest.raises(ValueError, match=r"page.md:1: <!-- not-run: x --> says nothing"):
        read(tmp_path, "<!-- not-run: x -->\n```bash\nfalse\n```\n")


COMMANDS = {
    "harness run a.toml": [["run", "a.toml"]],
    "$ harness init mine && (cd mine && harness run 'a b.toml') > out": [["init", "mine"], ["run", "a b.toml"]],
    "harness run a.toml \\\n  --limit 3   # the first rows": [["run", "a.toml", "--limit", "3"]],
    "A=1 srun harness check a.toml | tail": [["check", "a.toml"]],
    "pip install finetune-harness": [],
}


@pytest.mark.parametrize("text", COMMANDS)
def test_commands_are_found(text: str) -> None:
    """Chains, prompts, continuations, pipes and comments are read as a shell reads them."""
    assert COMMANDS[text] == list(iterate_harness_commands(Block("page.md", 1, "bash", text)))


def test_only_typed_lines_of_output_are_commands() -> None:
    """What a command printed is none, though it names one."""
    text = "$ harness show\nnext: harness run it's.toml\n"
    assert list(iterate_harness_commands(Block("page.md", 1, "text", text))) == [["show"]]


def test_pages_that_load_are_known() -> None:
    """A run of a suite for "hf" loads torch, one of a fake does not, and neither does reading a report."""
    run = Block("page.md", 1, "bash", "harness run suite.toml")
    fake = Block("page.md", 1, "toml", '[model]\nuse = "fake"\n', {"file": "suite.toml"})
    tiny = Block("page.md", 1, "python", 'path = "tiny:llama"', {"file": "test_it.py"})
    shown = Block("page.md", 1, "bash", "harness show")
    assert [needs_torch(b) for b in ([run], [run, fake], [tiny], [shown])] == [True, False, True, False]
