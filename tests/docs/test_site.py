"""The site: it builds without a warning, everything there is to look up is found in it, and it asks nobody else."""

from __future__ import annotations

import html
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import harness
from docs import generated
from harness import hookspec
from harness.cli.catalogue import OTHER_TABLES
from harness.cli.parser import make_parser
from harness.errors import ExitCode
from harness.evaluation.checks import check_stage
from harness.plugins import HOOKS, load_plugins
from harness.suite.json_schema import TABLES, table_keys

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MOST_LINES = 250
GENERATED = generated.pages()
FILES = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in sorted(DOCS.rglob("*.md"))}
PAGES = {name: text for name, text in FILES.items() if not name.startswith("examples/release-repository/")}
WRITTEN = [name for name in PAGES if name not in GENERATED]
LOADED = re.compile(r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href|srcset)="?((?:https?:)?//[^" >]+)')


def test_no_page_is_too_long() -> None:
    """A page that is written by hand has at most 250 lines."""
    assert {name: n for name in WRITTEN if (n := len(PAGES[name].splitlines())) > MOST_LINES} == {}


@pytest.mark.parametrize("name", [*GENERATED, *generated.schemas()])
def test_generated_files_are_current(name: str) -> None:
    """A committed page or schema is what `make docs` would write."""
    current = {**GENERATED, **generated.schemas()}[name]
    assert (DOCS / name).read_text("utf-8") == current, "run `make docs` and commit what it changes"


def test_the_table_of_installs_is_made_from_the_records() -> None:
    """README and the first page of the site say what bench/installs.py measured; else run `make docs`."""
    for page, text in generated.pages_with_installs().items():
        assert page.read_text("utf-8") == text
        assert text.count("| `hf`, ") == 2


def test_every_generated_file_is_known() -> None:
    """No page or schema that the code no longer generates is left behind."""
    marked = {name for name, text in PAGES.items() if text.endswith(generated.GENERATED_MARK)}
    schemas = {f"reference/schemas/{path.name}" for path in (DOCS / "reference/schemas").iterdir()}
    assert (marked, schemas) == (set(GENERATED), set(generated.schemas()))


def test_links_lead_to_files() -> None:
    """Every relative link of a page is there in a clone, as a forge would look for it."""
    lost = []
    for name, text in PAGES.items():
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose)
        near = [target for target in targets if not re.match(r"https?:|mailto:", target)]
        lost += [f"{name}: {target}" for target in near if not ((DOCS / name).parent / target).exists()]
    assert lost == []


def test_the_first_page_begins_as_readme() -> None:
    """The site opens with README's title, run and installation."""
    readme = (ROOT / "README.md").read_text("utf-8").partition("## Quickstart")[0]
    assert PAGES["index.md"].startswith(readme.replace("](docs/", "]("))


def test_every_exit_code_is_told() -> None:
    """The page of exit codes has each code with its name."""
    text = (DOCS / "reference/exit-codes.md").read_text("utf-8")
    assert re.findall(r"^\| (\d) \| `(\w+)` \|", text, re.M) == [(str(int(code)), code.name) for code in ExitCode]


def test_every_page_tells_as_many_checks_as_there_are() -> None:
    """Where README or a page says "N checks", N are the codes that are registered and `build`, the trainer's own."""
    known = {name for (kind, name) in load_plugins(None).provided if kind == "check"} | {"build"}
    texts = {**PAGES, "README.md": (ROOT / "README.md").read_text("utf-8")}
    told = {name: found for name, text in texts.items() if (found := re.findall(r"\b(\d+) checks\b", text))}
    assert {name: [str(len(known))] * len(found) for name, found in told.items()} == told
    assert {"README.md", "explanation/comparison.md"} <= told.keys()


def test_pages_name_the_checks_that_need_a_build() -> None:
    """They are those of the trainer's stage, and no others."""
    checks = [one for (kind, _), one in load_plugins(None).provided.items() if kind == "check"]
    needed = {one.name for one in checks if check_stage(one) == "trainer"}
    for page in ("reference/checks.md", "how-to/write-a-trainer.md"):
        [told] = re.findall(r"the checks ((?:D\d+(?:, | and | to )?)+)", (ROOT / "docs" / page).read_text("utf-8"))
        ranges = (re.findall(r"\d+", part) for part in re.split(", | and ", told))
        assert {f"D{n}" for first, *last in ranges for n in range(int(first), int((last or [first])[0]) + 1)} == needed


def test_every_option_of_every_command_is_on_its_page() -> None:
    """The page of commands has each option and argument that the parser knows, and its help."""
    text = GENERATED["reference/commands.md"]
    for name, one in generated._commands(make_parser(["help"])).choices.items():
        section = re.split(r"^## ", text.partition(f"\n## `harness {name}`\n")[2], flags=re.M)[0]
        assert section, name
        for action in (a for a in one._actions if a.dest != "help" and isinstance(a.help, str)):
            assert all(word in section for word in action.option_strings), (name, action.option_strings)
            assert generated.cell(action.help.replace("%%", "%")) in section, (name, action.help)


def test_every_option_of_a_plugin_is_on_a_page() -> None:
    """Each loader, adapter, trainer, evaluator and exporter has its options with their types and defaults."""
    text = GENERATED["reference/options.md"]
    for (kind, name), provided in load_plugins(None).provided.items():
        if kind in ("loader", "adapter", "trainer", "evaluator", "exporter"):
            section = text.partition(f"\n### `{name}`\n")[2].partition("\n### ")[0]
            assert section, name
            known, _ = harness.schema.list_options(provided.function)
            missing = [key for key in known if f"\n| `{key}` |" not in text]
            assert missing == [], name
    assert "| `max_new_tokens` | an integer | `32` |" in text


def test_text_of_docstrings_is_no_markup() -> None:
    """Angle brackets are text but in code, where they are anyway; a bar does not end a cell."""
    assert generated.cell("a <b> of `<c>` | d\n  e") == "a &lt;b> of `<c>` \\| d e"
    assert generated.prose("a fence (```), `one` and `two`") == "a fence (&#96;&#96;&#96;), `one` and `two`"


# ------------------------------------------------------------------ the built site
@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the site, built as `make docs` does; it tells where it builds, and of no warning."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    built = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    said = [line for line in (built.stdout + built.stderr).splitlines() if not line.startswith("INFO ")]
    assert (built.returncode, said) == (0, [])
    return folder


@pytest.fixture(scope="module")
def index(site: Path) -> list[dict[str, Any]]:
    """Return what the search of the site knows: sections with a location, a title and a text."""
    found: list[dict[str, Any]] = json.loads((site / "search/search_index.json").read_text("utf-8"))["docs"]
    return [{key: html.unescape(str(value)) for key, value in section.items()} for section in found]


def iterate_index_terms() -> Iterator[str]:
    """Yield everything that a person may look up by its name."""
    yield from (name for name in vars(hookspec) if name.startswith("harness_"))
    yield from (key for cls in TABLES.values() for key in table_keys(cls))
    yield from (name for (kind, name) in load_plugins(None).provided if kind in HOOKS and kind != "saboteur")
    yield from (f"harness {name}" for name in generated._commands(make_parser(["help"])).choices)
    yield from (f"exit {int(code)}" if code == ExitCode.INCONCLUSIVE else code.name for code in ExitCode)
    yield from (f"[{table}]" for table in OTHER_TABLES)


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_the_search_finds_everything_by_its_name(index: list[dict[str, Any]]) -> None:
    """Every hook, key, check, plugin, command and exit code stands in the text or a title that the search reads."""
    words = "\n".join(re.sub(r"<[^>]+>", "", f"{section['title']}\n{section['text']}") for section in index).lower()
    missing = [
        word for word in iterate_index_terms() if not re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", words)
    ]
    assert missing == []


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_hooks_checks_and_commands_have_a_section_of_their_own(index: list[dict[str, Any]]) -> None:
    """What is looked up most is a title, so that it is the first that is found."""
    titles = {re.sub(r"<[^>]+>", "", section["title"]) for section in index}
    hooks = {name for name in vars(hookspec) if name.startswith("harness_")}
    checks = {name for (kind, name) in load_plugins(None).provided if kind == "check"}
    commands = {f"harness {name}" for name in generated._commands(make_parser(["help"])).choices}
    assert (hooks | commands) - titles == set()
    assert checks - {title.split()[0] for title in titles if title} == set()


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_every_public_name_is_shown_with_what_it_says(index: list[dict[str, Any]]) -> None:
    """Each name of `harness` has a section on a page of the Python API, with the beginning of its docstring."""
    found = [s for s in index if s["location"].startswith("reference/python/#")]
    sections = {re.sub(r"<[^>]+>", "", s["title"]): s["text"] for s in found}
    assert set(harness.__all__) - sections.keys() == set()
    for name in harness.__all__:
        thing = getattr(harness, name)
        if getattr(thing, "__name__", "") == name:  # what is no other name, and no constant
            first = re.sub(r"\W+", " ", (inspect.getdoc(thing) or "").partition("\n")[0])[:30]
            assert first in re.sub(r"\W+", " ", re.sub(r"<[^>]+>", " ", sections[name])), name
        assert "<p>" in sections[name], name


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_every_page_is_in_the_navigation(site: Path) -> None:
    """The first page leads to all pages but decisions, which their index lists."""
    nav = (site / "index.html").read_text("utf-8")
    links = set(re.findall(r'href="([^"#]+)"[^>]*class="md-nav__link', nav))
    named = [name for name in PAGES if name != "index.md" and not re.match(r"decisions/\d", name)]
    wanted = {name.removesuffix("index.md") for name in named}
    wanted = {name if name.endswith("/") else name.removesuffix(".md") + "/" for name in wanted}
    assert wanted - links == set()


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """No page, style or script of the site asks another host for anything, and there is no analytics."""
    asked = {}
    for path in site.rglob("*.html"):
        text = path.read_text("utf-8")
        asked |= {str(path): found for found in [LOADED.findall(text)] if found}
        assert "analytics" not in text.lower(), path
    for path in site.rglob("*.css"):
        asked |= {
            str(path): found for found in [re.findall(r"url\(['\"]?(?:https?:)?//[^)]+", path.read_text())] if found
        }
    assert asked == {}


@pytest.mark.slow
@pytest.mark.xdist_group("site")
def test_schemas_are_offered_as_files(site: Path) -> None:
    """A JSON Schema of a suite and of each file that is written lies beside the page that links to it."""
    offered = {path.stem for path in (site / "reference/schemas").glob("*.json")}
    assert offered == {"suite", *generated.file_schemas()}
