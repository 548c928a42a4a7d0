"""Pages of the site that are made from the code when it is built: a hook of MkDocs, named in mkdocs.yml."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import harness
from harness import hookspec, testing
from harness.cli.catalogue import as_data
from harness.cli.parser import parser
from harness.evaluation.checks import BUILD, STAGES, title_of
from harness.plugins import Plugins, load_plugins
from harness.release.file_schemas import file_schemas
from harness.schema import show
from harness.suite.json_schema import TABLES, Schema, json_schema, keys_of

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
BOOSTS = {"reference/suite": 3, "reference/keys": 3, "decisions/": 0.2, "explanation/statistics-": 0.2}  # in a search
LISTS = ("eval", "gate", "export")  # tables that may stand several times
WORDS = {
    "string": "a string", "number": "a number", "integer": "an integer", "boolean": "true or false",
    "array": "a list", "object": "a table", "null": "null", "": "anything",
}  # fmt: skip
MADE = "\n<!-- made from the code by docs/generated.py -->\n"
OPTIONS = {  # a page -> its title and the kinds of plugins that it lists; the rest of a kind stands on the last page
    "reference/options-models.md": ("Options of loaders and exporters", ("loader", "exporter")),
    "reference/options-training.md": ("Options of adapters and trainers", ("adapter", "trainer")),
    "reference/options-answers.md": ("Options of evaluators of answers", ("evaluator",)),
    "reference/options-evaluators.md": ("Options of other evaluators", ("evaluator",)),
}
ANSWERS = "domain"  # the plugin whose evaluators stand on a page of their own
CODES = {  # a page -> its title and the first letters of the checks that it lists
    "reference/check-codes.md": ("Every check of data", "D"),
    "reference/check-codes-models.md": ("Every check of training, merges and results", "PTME"),
}
FORMATS = {  # a page -> its title, where its keys are explained, and the schemas that it shows
    "reference/formats.md": ("Formats of a run", "run-folder.md", ("report", "sample", "event")),
    "reference/formats-evidence.md": (
        "Formats of evidence",
        "evidence.md",
        ("lock", "manifest", "gates", "item", "claim", "attempt"),
    ),
}
MEANT = {  # where a table's keys are explained
    "adapter": "suite-training.md#adapter", "train": "suite-training.md#train", "sweep": "suite-training.md#sweep",
    "candidate": "suite-training.md#candidate", "eval": "suite-evals.md#eval", "gate": "suite-gates.md#gate",
    "merge": "suite-exports.md#merge", "export": "suite-exports.md#export", "subject": "suite.md#subjectname",
    "suite": "suite.md#suite", "rows": "suite.md#rows", "model": "suite.md#model", "checks": "suite.md#checks",
}  # fmt: skip
COMMANDS = {  # a page -> its title and the groups of `harness help` that it lists
    "reference/commands-run.md": ("Commands that start and run", ("start", "run")),
    "reference/commands-look.md": ("Commands that look", ("look",)),
    "reference/commands-ship.md": ("Commands that ship", ("ship",)),
    "reference/commands-extend.md": ("Commands that extend", ("extend",)),
}
TESTING = ("Project", "CommandOutcome", "write_fake", "FakeSubject", "FakeSource", "FakeAdapter", "StubJudge")
HELPERS = "Helpers"
ROOMS = {  # headings of the Python API -> the modules whose names stand there
    "Run and read": ("harness", "harness.suite", "harness.reports", "harness.records.run", "harness.rows"),
    "Declare a plugin": ("harness.hookspec", "harness.capabilities", "harness.records.metrics", "harness.lazy"),
    "Kinds of plugins": ("harness.protocols", "harness.workers"),
    "What is asked and answered": ("harness.records.models", "harness.records.samples", "harness.collection"),
    "What is decided and found": (
        "harness.claims",
        "harness.records.findings",
        "harness.errors",
    ),
    HELPERS: ("harness.",),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give folders in the navigation their pages: those that are named nowhere else, by name."""
    written = [path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md")]
    known = sorted({*written, *pages()})
    named = set(_named(config.nav))
    config.nav = _filled(config.nav, [page for page in known if page not in named])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and schemas that are made from the code."""
    from mkdocs.structure.files import File

    for name, text in {**pages(), **schemas()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> None:
    """Tell the search which pages to show first."""
    for start, boost in BOOSTS.items():
        if page.file.src_uri.startswith(start):
            page.meta["search"] = {"boost": boost}


def _named(nav: Any) -> Iterator[str]:
    """Yield the pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, Mapping) else nav if isinstance(nav, list) else ():
        yield from _named(part)


def _filled(nav: Any, pages: Sequence[str]) -> Any:
    """Return a navigation with the pages of each folder that it names."""
    if isinstance(nav, Mapping):
        return {title: _filled([part] if _is_folder(part) else part, pages) for title, part in nav.items()}
    if not isinstance(nav, list):
        return nav
    found = []
    for part in nav:
        found += [p for p in pages if p.startswith(part)] if _is_folder(part) else [_filled(part, pages)]
    return found


def _is_folder(part: Any) -> bool:
    return isinstance(part, str) and part.endswith("/")


@cache
def pages() -> Mapping[str, str]:
    """Return the text of every page that is made from the code, by its path in docs/."""
    found, commands = load_plugins(None), parser(["help"])
    made = {
        "reference/keys.md": tables_page(found),
        "reference/commands.md": commands_page(commands),
        "reference/hooks.md": hooks_page(),
        "reference/python.md": python_page("Python", [heading for heading in ROOMS if heading != HELPERS]),
        "reference/python-helpers.md": python_page("Python: helpers", [HELPERS]),
        "reference/testing.md": testing_page(),
        "reference/run-folder.md": (ROOT / "reports/README.md").read_text("utf-8"),
    }
    made |= {name: options_page(found, name, *about) for name, about in OPTIONS.items()}
    made |= {name: checks_page(found, *about) for name, about in CODES.items()}
    made |= {name: formats_page(*about) for name, about in FORMATS.items()}
    made |= {name: group_page(commands, *about) for name, about in COMMANDS.items()}
    return {name: text + MADE for name, text in made.items()}


def schemas() -> dict[str, str]:
    """Return the JSON Schemas that the site offers, by their paths in docs/."""
    made = {"suite": json_schema(load_plugins(None)), **file_schemas()}
    return {f"reference/schemas/{name}.json": json.dumps(schema, indent=1) + "\n" for name, schema in made.items()}


# ------------------------------------------------------------------ the suite's tables, and options of plugins
def tables_page(plugins: Plugins) -> str:
    """Write every table of a suite with its keys; those without a class are told by the suite's schema."""
    schema: Schema = json_schema(plugins)["properties"]
    told = as_data([], plugins, {table: keys_of(cls) for table, cls in TABLES.items()}, whole=False)["tables"]
    lines = ["# Every key of a suite", ""]
    lines += ["Each key with its type and default, and under each table where its keys are explained."]
    others = [f"[{title[0].lower()}{title[1:]}]({_name(page)})" for page, (title, _) in OPTIONS.items()]
    lines += [f"A table with `use` has the options of what it names as well: {', '.join(others)}."]
    lines += ["`harness schema` prints all of it as a JSON Schema for editors ([download](schemas/suite.json))."]
    for name in schema:
        lines += ["", f"## `{_heading(name)}`", ""]
        said = (inspect.getdoc(TABLES[name]) or "") if name in TABLES else schema[name]["description"]
        said = re.sub(r"^`\[.*?\]+`: (.)", lambda first: first[1].upper(), said)
        lines += [prose(said), "", *(_keys_table(told[name]) if name in TABLES else _schema_table(schema[name]))]
        lines += ["", f"What they mean: [`{_heading(name)}`]({MEANT[name]})."]
    return "\n".join(lines) + "\n"


def options_page(plugins: Plugins, page: str, title: str, kinds: Sequence[str]) -> str:
    """Write what plugins of some kinds provide, each with its options and metrics."""
    lines = [f"# {title}", "", "What may stand after `use =`, with the options that its table takes then."]
    lines += ["`harness plugins NAME` prints the same of what is installed, yours included."]
    for kind in kinds:
        chosen = sorted((p for p in plugins.provided.values() if p.kind == kind), key=lambda p: p.name)
        if kind == "evaluator":
            chosen = [p for p in chosen if (p.plugin == ANSWERS) == page.endswith("answers.md")]
        lines += ["", f"## {kind.capitalize()}s"] if len(kinds) > 1 else []
        for told in as_data(chosen, plugins, {}, whole=False)["plugins"]:
            lines += ["", f"### `{told['name']}`", "", prose(told["about"])]
            lines += ["", *_keys_table(told["options"])] if told["options"] else []
            lines += ["", "The options of the library behind it may stand there too."] if told["open_ended"] else []
            metrics = [metric for metric in told["metrics"] if not metric.startswith(" ")]  # named by an option
            lines += ["", f"Metrics: {', '.join(metrics)}."] if metrics else []
    return "\n".join(lines) + "\n"


def _heading(table: str) -> str:
    """Return a table's name as it is written in a suite."""
    if table in ("subject", "rows"):
        return f"[{table}.NAME]"
    return f"[[{table}]]" if table in LISTS else f"[{table}]"


def _keys_table(keys: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield "| key | type | default |"
    yield "|---|---|---|"
    for name, key in keys.items():
        yield f"| `{name}` | {cell(key['type'])} | {_default(key)} |"


def _schema_table(schema: Schema) -> Iterator[str]:
    """Yield the keys of a table that is told by its schema alone, with those that any name fits."""
    yield "| key | type | default |"
    yield "|---|---|---|"
    for name, key in schema["properties"].items():
        yield f"| `{name}` | {_kind(key)} | {'required' if name in schema.get('required', ()) else 'none'} |"
    for pattern, key in schema.get("patternProperties", {}).items():
        for table in re.findall(r"\w+", pattern):
            yield f'| `"{table}.OPTION"` | {_kind(key)} | none |'


def _kind(schema: Schema) -> str:
    """Return a type of a schema in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(" or ".join(map(_kind, schema["anyOf"])).split(" or ")))
    if "enum" in schema:
        return " or ".join(f"`{show(value)}`" for value in schema["enum"])
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict) and schema["items"]:
        return f"a list: {_kind(schema['items'])}"
    if isinstance(schema.get("type"), list):
        return " or ".join(WORDS[word] for word in schema["type"])
    return WORDS[schema.get("type", "")]


def _default(key: Mapping[str, Any]) -> str:
    if key.get("required"):
        return "required"
    value = key["default"]
    written = json.dumps(value, ensure_ascii=False) if isinstance(value, (list, tuple)) else show(value)
    return "none" if value is None else f"`{cell(written)}`"


# ------------------------------------------------------------------ commands
def commands_page(whole: argparse.ArgumentParser) -> str:
    """Write which commands there are, in the groups of `harness help`."""
    lines = ["# Commands", "", "What `harness help` lists, made from the parser itself.", ""]
    lines += ["How a command ends is told by its exit code: [exit codes](exit-codes.md)."]
    lines += ["Every command has `--json`, which writes one JSON document to stdout and all else to stderr."]
    helps = {action.dest: action.help or "" for action in _commands(whole)._choices_actions}
    page_of = {group: page for page, (_, groups) in COMMANDS.items() for group in groups}
    for group, names in getattr(whole, "groups").items():  # noqa: B009 - of a class that is the parser's own
        lines += ["", f"## {group}", "", "| command | |", "|---|---|"]
        lines += [f"| [`harness {n}`]({_name(page_of[group])}#harness-{n}) | {cell(helps[n])} |" for n in names]
    return "\n".join(lines) + "\n"


def group_page(whole: argparse.ArgumentParser, title: str, groups: Sequence[str]) -> str:
    """Write the commands of some groups, each with its usage, options and examples."""
    lines = [f"# {title}"]
    for group in groups:
        for name in getattr(whole, "groups")[group]:  # noqa: B009
            lines += _command(f"harness {name}", _commands(whole).choices[name], "##")
    return "\n".join(lines) + "\n"


def _commands(of: argparse.ArgumentParser) -> Any:
    return next(a for a in of._actions if isinstance(a, argparse._SubParsersAction))


def _command(name: str, one: argparse.ArgumentParser, level: str) -> Iterator[str]:
    yield from (
        "",
        f"{level} `{name}`",
        "",
        f"{(one.description or '').capitalize()[:1]}{(one.description or '')[1:]}.",
    )
    formatter = argparse.HelpFormatter(name, width=80, max_help_position=24)
    formatter.add_usage(one.usage, one._actions, one._mutually_exclusive_groups, prefix="")
    yield from ("", "```text", formatter.format_help().strip(), "```")
    below = [a for a in one._actions if isinstance(a, argparse._SubParsersAction)]
    shown = [a for a in one._actions if a.help != argparse.SUPPRESS and a.dest != "help" and a not in below]
    if shown:
        yield from ("", "| | |", "|---|---|")
        yield from (f"| {_argument(a)} | {cell(_help(a))} |" for a in shown)
    if one.epilog and one.epilog.startswith("examples:"):
        yield from ("", "```bash", *(line.strip() for line in one.epilog.split("\n")[1:]), "```")
    for action in below:
        for word, part in action.choices.items():
            yield from _command(f"{name} {word}", part, f"{level}#")


def _argument(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    metavar = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    return f"`{', '.join(action.option_strings)}{f' {metavar}' if metavar and action.nargs != 0 else ''}`"


def _help(action: argparse.Action) -> str:
    said = (action.help or "").replace("%%", "%")
    return f"{said}: {', '.join(map(str, action.choices))}" if action.choices else said


# ------------------------------------------------------------------ what is written
def formats_page(title: str, meant: str, names: Sequence[str]) -> str:
    """Write some of the files of a run and an export with their keys, and a JSON Schema of each."""
    lines = [f"# {title}", "", f"The keys of files that are written, and their types; [what they mean]({meant})."]
    lines += ["`harness schema --of NAME` prints the same as JSON Schemas. A number that is not finite is null."]
    known = file_schemas()
    for name in names:
        schema = known[name]
        kinds = schema.get("oneOf", [schema.get("items", schema)])
        shared = [k for k in kinds[0]["properties"] if len(kinds) > 1 and all(k in one["properties"] for one in kinds)]
        lines += ["", f"## {name}", "", f"This is {schema['title']} ([schema](schemas/{name}.json))."]
        lines += [f"Each has {', '.join(f'`{key}`' for key in shared)}, and by its kind:"] if shared else []
        for one in kinds:
            lines += ["", f"### {one['title']}"] if shared else []
            lines += ["", "| key | type |", "|---|---|"]
            lines += [f"| `{k}` | {_json_kind(v)} |" for k, v in one["properties"].items() if k not in shared]
    return "\n".join(lines) + "\n"


def _json_kind(schema: Schema) -> str:
    return _kind(schema).replace("a table", "an object")


# ------------------------------------------------------------------ hooks and checks
def hooks_page() -> str:
    """Write every hook with its signature and docstring."""
    lines = ["# Hooks", "", *prose(inspect.getdoc(hookspec) or "").split("\n")]
    lines += ["How a plugin is made and found: [plugins](plugins.md)."]
    for name, function in vars(hookspec).items():
        if name.startswith("harness_"):
            lines += ["", f"## `{name}`", "", "```python", _signature(name, function), "```", ""]
            lines += [prose(inspect.getdoc(function) or "")]
            lines += _stages() if name == "harness_checks" else []
    return "\n".join(lines) + "\n"


def _signature(name: str, function: Callable[..., Any]) -> str:
    return f"def {name}{inspect.signature(function)}".replace("'", "")  # annotations are texts


def _stages() -> Iterator[str]:
    yield from ("", "| stage | parameter | what it is |", "|---|---|---|")
    for stage, parameters in STAGES.items():
        yield from (f"| {stage} | `{name}` | {cell(what)} |" for name, what in parameters.items())


def checks_page(plugins: Plugins, title: str, letters: str) -> str:
    """Write the checks whose codes begin with some letters, each with its title and why it is there."""
    lines = [f"# {title}", "", "What `harness explain CODE` prints; [checks](checks.md) tells of them together."]
    checks = [p for p in plugins.provided.values() if p.kind == "check" and p.name[0] in letters]
    for provided in sorted(checks, key=lambda p: (letters.index(p.name[0]), int(p.name[1:]))):
        lines += ["", f"## {provided.name} {title_of(provided)}", "", prose(inspect.getdoc(provided.function) or "")]
    if "T" in letters:
        lines += ["", "## build", "", prose(BUILD)]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ Python
def python_page(title: str, headings: Sequence[str]) -> str:
    """Write the names that a plugin or a script may import from `harness`, each by its home, for mkdocstrings."""
    homes = dict(sorted(_homes().items()))
    lines = [
        f"# {title}",
        "",
        "The names that scripts and plugins import from `harness`; its modules are private.",
        "A name is deprecated for a minor version before it is removed.",
    ]
    lines += ["[Helpers](python-helpers.md) have a page of their own."]
    for heading in headings:
        lines += ["", f"## {heading}"] if len(headings) > 1 else []
        for name, home in homes.items():
            lines += _member(name, home) if _heading_of(home) == heading else []
    return "\n".join(lines) + "\n"


def testing_page() -> str:
    """Write what `harness.testing` has for tests of plugins."""
    lines = ["# harness.testing", "", prose(inspect.getdoc(testing) or "")]
    for name in TESTING:
        lines += _member(name, f"{getattr(testing, name).__module__}.{name}")
    return "\n".join(lines) + "\n"


def _homes() -> dict[str, str]:
    """Return the path of every public name where it is defined, which is what griffe can read."""
    tree = ast.parse(Path(harness.__file__).with_suffix(".pyi").read_text("utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imported for alias in node.names}
    return {name: found.get(name, f"harness.{name}") for name in harness.__all__}


def _heading_of(home: str) -> str:
    """Return the heading whose room is the closest to a name's home."""
    rooms = [(len(room), heading) for heading, parts in ROOMS.items() for room in parts if _lies_in(home, room)]
    return max(rooms)[1]


def _lies_in(home: str, room: str) -> bool:
    module = home.rpartition(".")[0]
    return module == room or (room != "harness" and module.startswith(room.rstrip(".") + "."))


def _member(name: str, home: str) -> list[str]:
    renamed = ["    options:", f"      heading: {name}", f"      toc_label: {name}"]
    return ["", f"::: {home}", *(renamed if home.rpartition(".")[2] != name else [])]


# ------------------------------------------------------------------ text
def prose(text: str) -> str:
    """Return what a docstring says as Markdown: angle brackets outside code are text, and so is what opens a fence."""
    parts = re.split(r"(`[^`]*`)", text.replace("```", "&#96;&#96;&#96;"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return prose(" ".join(text.split())).replace("|", "\\|")


def _name(page: str) -> str:
    return PurePosixPath(page).name
