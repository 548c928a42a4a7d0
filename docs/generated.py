"""Write the reference pages that are generated from the code: `make docs`, or `python -m docs.generated`.

The pages are committed, so that links work in a clone and on a forge; a test compares them with the code.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import griffe

import harness
from bench import installs
from harness import hookspec, testing, training
from harness.cli.catalogue import catalogue_data
from harness.cli.parser import make_parser
from harness.evaluation.checks import BUILD, STAGES, check_title
from harness.plugins import Plugins, load_plugins
from harness.release.file_schemas import file_schemas
from harness.schema import format_toml
from harness.suite.json_schema import TABLES, Schema, suite_schema, table_keys
from tests.hostile.commands import COMMANDS, Read

DOCS = Path(__file__).parent
MAX_SIGNATURE_CHARS = 100
README = DOCS.parent / "README.md"
INSTALLS_BEGIN = "<!-- installs -->"  # between which `make docs` writes bench/records-installs.jsonl
INSTALLS_END = "<!-- /installs -->"
EXTRAS = {  # what each adds, as README says it
    "base": "gate and verify 0/1 rows",
    "gate": "other scores, clusters, workbooks (scipy, numpy)",
    "report": "pages with charts",
    "view": "`harness view`",
    "sign": "keys and signatures",
    "api": "served models",
    "hf": "training and evaluation",
}
SECURITY = DOCS.parent / "SECURITY.md"
COMMANDS_BEGIN = "<!-- commands: written by `make docs` from tests/hostile/commands.py -->"
COMMANDS_END = "<!-- /commands -->"
GENERATED_MARK = "\n<!-- generated from the code by `make docs`; do not edit -->\n"
LISTS = ("eval", "gate", "export")  # tables that may stand several times
OPTION_KINDS = ("loader", "adapter", "trainer", "evaluator", "exporter")
TYPE_NAMES = {
    "string": "a string", "number": "a number", "integer": "an integer", "boolean": "true or false",
    "array": "a list", "object": "a table", "null": "null", "": "anything",
}  # fmt: skip
EXPLAINED_IN = {  # the section that explains a table's keys
    "adapter": "suite-training.md#adapter", "train": "suite-training.md#train", "sweep": "suite-training.md#sweep",
    "candidate": "suite-training.md#candidate", "eval": "suite-evals.md#eval", "gate": "suite-gates.md#gate",
    "merge": "suite-exports.md#merge", "export": "suite-exports.md#export", "subject": "suite.md#subjectname",
    "suite": "suite.md#suite", "rows": "suite.md#rows", "model": "suite.md#model", "checks": "suite.md#checks",
}  # fmt: skip
CHECK_GROUPS = {"Data": "D", "Training": "T", "Merges": "M", "Preferences": "P", "Evaluations": "E"}
FORMAT_GROUPS = {  # heading -> the page that explains the keys, and the schemas
    "Runs": ("run-folder.md", ("report", "sample", "event")),
    "Evidence": ("evidence.md", ("lock", "manifest", "gates", "item", "claim", "attempt")),
}
TESTING_NAMES = ("Project", "CommandOutcome", "write_fake", "FakeSubject", "FakeSource", "FakeAdapter", "StubJudge")
API_GROUPS = {  # heading of the Python API -> the packages whose names stand there; the longest match wins
    "Run and read": (
        "harness",
        "harness.suite",
        "harness.reports",
        "harness.records.changes",
        "harness.records.run",
        "harness.rows",
    ),
    "Declare a plugin": ("harness.hookspec", "harness.capabilities", "harness.records.metrics", "harness.lazy"),
    "Kinds of plugins": ("harness.protocols", "harness.workers"),
    "Models and rows": ("harness.records.models", "harness.records.samples", "harness.collection"),
    "Verdicts and findings": ("harness.gates", "harness.stats", "harness.records.findings", "harness.errors"),
    "Helpers": ("harness.",),
}


def main() -> int:
    """Write every generated page and schema below docs/ and print which changed."""
    for name, text in {**pages(), **schemas()}.items():
        path = DOCS / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
            print(f"wrote docs/{name}")
    for path, text in {SECURITY: security_page(), **pages_with_installs()}.items():
        if path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"wrote {path.name}")
    return 0


def pages_with_installs() -> dict[Path, str]:
    """Return README and the site's first page with what each extra takes, from the records of bench/installs.py."""
    lines = ["| extra | what it adds | seconds | MB |", "|---|---|---|---|"]
    records = {installs.key(record): record for record in installs.read_records()}
    for extra, meaning in EXTRAS.items():
        name = "none" if extra == "base" else f"`{extra}`"
        for is_default in (False, True):
            if record := records.get((extra, is_default)):
                torch = ", default torch" if is_default else ", CPU-only torch" if record["torch"] else ""
                lines.append(f"| {name}{torch} | {meaning} | {record['seconds']:.0f} | {record['mb']:,} |")
    return {page: _replace_between(page, INSTALLS_BEGIN, lines, INSTALLS_END) for page in (README, DOCS / "index.md")}


def _replace_between(page: Path, begin: str, lines: Sequence[str], end: str) -> str:
    """Return a page with other lines between two comments."""
    before, begin, rest = page.read_text("utf-8").partition(begin)
    _, end, after = rest.partition(end)
    return "".join((before, begin, "\n".join(["", *lines, ""]), end, after))


def security_page() -> str:
    """Return SECURITY.md with the table of what each command reads, from the list of the hostile corpus."""
    commands = dict[tuple[Read, ...], list[str]]()
    for name, command in COMMANDS.items():
        if command.reads:
            commands.setdefault(command.reads, []).append(f"`{name}`")
    lines = ["| command | third-party input | through links | read | checks |", "|---|---|---|---|---|"]
    for reads, names in commands.items():
        for number, read in enumerate(reads):
            lines.append(f"| {' | '.join(('' if number else ', '.join(names), *read))} |".replace("|  |", "| |"))
    return _replace_between(SECURITY, COMMANDS_BEGIN, lines, COMMANDS_END)


@cache
def pages() -> Mapping[str, str]:
    """Return the text of every generated page by its path in docs/."""
    plugins = load_plugins(None)
    made = {
        "keys": keys_page(plugins),
        "options": options_page(plugins),
        "commands": commands_page(make_parser(["help"])),
        "hooks": hooks_page(),
        "check-codes": checks_page(plugins),
        "formats": formats_page(),
        "python": python_page(),
        "testing": testing_page(),
    }
    return {f"reference/{name}.md": text + GENERATED_MARK for name, text in made.items()}


def schemas() -> dict[str, str]:
    """Return the JSON Schemas that the site offers by their paths in docs/."""
    made = {"suite": suite_schema(load_plugins(None)), **file_schemas()}
    return {f"reference/schemas/{name}.json": json.dumps(schema, indent=1) + "\n" for name, schema in made.items()}


# ------------------------------------------------------------------ tables of a suite, options of plugins
def keys_page(plugins: Plugins) -> str:
    """Write every table of a suite with its keys; tables without a class come from the suite's schema."""
    schema: Schema = suite_schema(plugins)["properties"]
    tables = catalogue_data([], plugins, {table: table_keys(cls) for table, cls in TABLES.items()}, whole=False)[
        "tables"
    ]
    lines = ["# Keys of a suite", ""]
    lines += ["This page lists every key with its type and default."]
    lines += ["A table with `use` also takes the [options](options.md) of what it names."]
    lines += ["`harness schema` prints the same as a JSON Schema for editors ([download](schemas/suite.json))."]
    for name in schema:
        lines += ["", f"## `{_heading(name)}`", ""]
        about = (inspect.getdoc(TABLES[name]) or "") if name in TABLES else schema[name]["description"]
        about = re.sub(r"^`\[.*?\]+`: (.)", lambda first: first[1].upper(), about)
        lines += [prose(about), "", *(_keys_table(tables[name]) if name in TABLES else _schema_table(schema[name]))]
        lines += ["", f"Explained in [`{_heading(name)}`]({EXPLAINED_IN[name]})."]
    return "\n".join(lines) + "\n"


def options_page(plugins: Plugins) -> str:
    """Write what plugins of each kind provide, with options and metrics."""
    lines = ["# Options", "", "This page lists what `use =` can name, with the options that its table then takes."]
    lines += ["`harness plugins NAME` prints the same for everything installed, your own plugins included."]
    for kind in OPTION_KINDS:
        provided = sorted((p for p in plugins.provided.values() if p.kind == kind), key=lambda p: p.name)
        lines += ["", f"## {kind.capitalize()}s"]
        for entry in catalogue_data(provided, plugins, {}, whole=False)["plugins"]:
            lines += ["", f"### `{entry['name']}`", "", prose(entry["about"])]
            lines += ["", *_keys_table(entry["options"])] if entry["options"] else []
            lines += ["", "It also takes the options of the library behind it."] if entry["open_ended"] else []
            metrics = [metric for metric in entry["metrics"] if not metric.startswith(" ")]  # named by an option
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
    """Yield the keys of a table that only the schema describes, and its key patterns."""
    yield "| key | type | default |"
    yield "|---|---|---|"
    for name, key in schema["properties"].items():
        default = f"`{format_toml(key['default'])}`" if "default" in key else "none"
        yield f"| `{name}` | {_type_name(key)} | {'required' if name in schema.get('required', ()) else default} |"
    for pattern, key in schema.get("patternProperties", {}).items():
        for table in re.findall(r"\w+", pattern):
            yield f'| `"{table}.OPTION"` | {_type_name(key)} | none |'


def _type_name(schema: Schema) -> str:
    """Return a type of a schema in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(" or ".join(map(_type_name, schema["anyOf"])).split(" or ")))
    if "enum" in schema:
        return " or ".join(f"`{format_toml(value)}`" for value in schema["enum"])
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict) and schema["items"]:
        return f"a list: {_type_name(schema['items'])}"
    if isinstance(schema.get("type"), list):
        return " or ".join(TYPE_NAMES[word] for word in schema["type"])
    return TYPE_NAMES[schema.get("type", "")]


def _default(key: Mapping[str, Any]) -> str:
    if key.get("required"):
        return "required"
    value = key["default"]
    written = json.dumps(value, ensure_ascii=False) if isinstance(value, (list, tuple)) else format_toml(value)
    return "none" if value is None else f"`{cell(written)}`"


# ------------------------------------------------------------------ commands
def commands_page(root: argparse.ArgumentParser) -> str:
    """Write every command with its usage, arguments and examples, in the groups of `harness help`."""
    commands = _commands(root)
    helps = {action.dest: action.help or "" for action in commands._choices_actions}
    groups: Mapping[str, Sequence[str]] = getattr(root, "groups")  # noqa: B009 - the parser's own class has it
    lines = ["# Commands", "", "This page lists every command, as `harness help` does."]
    lines += ["The [exit code](exit-codes.md) says how a command ended."]
    lines += ["With `--json` a command prints one JSON document to stdout and everything else to stderr."]
    for group, names in groups.items():
        lines += ["", f"**{group}**", "", "| command | purpose |", "|---|---|"]
        lines += [f"| [`harness {name}`](#harness-{name}) | {cell(helps[name])} |" for name in names]
    for name in (name for names in groups.values() for name in names):
        lines += _command(f"harness {name}", commands.choices[name], "##")
    return "\n".join(lines) + "\n"


def _commands(root: argparse.ArgumentParser) -> Any:
    return next(a for a in root._actions if isinstance(a, argparse._SubParsersAction))


def _command(name: str, one: argparse.ArgumentParser, level: str) -> Iterator[str]:
    about = one.description or ""
    below = [a for a in one._actions if isinstance(a, argparse._SubParsersAction)]
    shown = [a for a in one._actions if a.help != argparse.SUPPRESS and a.dest != "help" and a not in below]
    positional = [_usage(a, str(a.metavar or a.dest)) for a in shown if not a.option_strings]
    rest = ["COMMAND …"] * bool(below) + ["[OPTIONS]"] * any(a.option_strings for a in shown)
    usage = " ".join([name, *positional, *rest])
    yield from ("", f"{level} `{name}`", "", f"{about.capitalize()[:1]}{about[1:]}.", "", "```text", usage, "```")
    if shown:
        yield from ("", "| argument | meaning |", "|---|---|")
        yield from (f"| {_argument(a)} | {cell(_help(a))} |" for a in shown)
    if one.epilog and one.epilog.startswith("examples:"):
        yield from ("", "```bash", *(line.strip() for line in one.epilog.split("\n")[1:]), "```")
    for action in below:
        for word, part in action.choices.items():
            yield from _command(f"{name} {word}", part, f"{level}#")


def _usage(action: argparse.Action, name: str) -> str:
    """Return the name of an argument with how often it may stand."""
    return {"?": f"[{name}]", "*": f"[{name} …]", "+": f"{name} …"}.get(str(action.nargs), name)


def _argument(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    if action.nargs == 0:
        return f"`{', '.join(action.option_strings)}`"
    metavar = action.metavar or action.dest.upper()
    words = " ".join(metavar) if isinstance(metavar, tuple) else _usage(action, str(metavar))
    return f"`{', '.join(action.option_strings)} {words}`"


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    return f"{text}: {', '.join(map(str, action.choices))}" if action.choices else text


# ------------------------------------------------------------------ files
def formats_page() -> str:
    """Write the files of runs and exports with their keys and JSON Schemas."""
    lines = ["# File formats", "", "This page lists the keys of the files that a run and an export write."]
    lines += ["`harness schema --of NAME` prints the same as a JSON Schema. A number that is not finite is null."]
    known = file_schemas()
    for heading, (explained, names) in FORMAT_GROUPS.items():
        lines += ["", f"## {heading}", "", f"What the keys mean: [{explained.removesuffix('.md')}]({explained})."]
        for name in names:
            lines += _format(name, known[name])
    return "\n".join(lines) + "\n"


def _format(name: str, schema: Schema) -> Iterator[str]:
    kinds = schema.get("oneOf", [schema.get("items", schema)])
    shared = [k for k in kinds[0]["properties"] if len(kinds) > 1 and all(k in one["properties"] for one in kinds)]
    yield from ("", f"### {name}", "", f"This is {schema['title']} ([schema](schemas/{name}.json)).")
    if shared:
        yield f"Each has {', '.join(f'`{key}`' for key in shared)}, and the keys of its kind:"
    for one in kinds:
        yield from ("", f"#### {one['title']}") if shared else ()
        yield from ("", "| key | type |", "|---|---|")
        yield from (f"| `{k}` | {_json_type(v)} |" for k, v in one["properties"].items() if k not in shared)


def _json_type(schema: Schema) -> str:
    return _type_name(schema).replace("a table", "an object")


# ------------------------------------------------------------------ hooks and checks
def hooks_page() -> str:
    """Write every hook with its signature and docstring."""
    lines = ["# Hooks", "", *prose(inspect.getdoc(hookspec) or "").split("\n")]
    lines += ["How a plugin is made and found: [plugins](plugins.md)."]
    for name, function in vars(hookspec).items():
        if name.startswith("harness_"):
            lines += ["", f"## `{name}`", "", "```python", _hook(name, function), "```", ""]
            lines += [prose(inspect.getdoc(function) or "")]
            lines += _stages() if name == "harness_checks" else []
    return "\n".join(lines) + "\n"


def _hook(name: str, function: Callable[..., Any]) -> str:
    return f"def {name}{inspect.signature(function)}".replace("'", "")  # annotations are texts


def _stages() -> Iterator[str]:
    yield from ("", "| stage | parameter | meaning |", "|---|---|---|")
    for stage, parameters in STAGES.items():
        yield from (f"| {stage} | `{name}` | {cell(what)} |" for name, what in parameters.items())


def checks_page(plugins: Plugins) -> str:
    """Write every check with its title and reason, in the groups of its codes."""
    lines = ["# Check codes", "", "This page has one section per check, as `harness explain CODE` prints it."]
    lines += ["[Checks](checks.md) explains when they run and how to ignore one."]
    checks = sorted((p for p in plugins.provided.values() if p.kind == "check"), key=lambda p: int(p.name[1:]))
    for group, letter in CHECK_GROUPS.items():
        lines += ["", f"## {group}"]
        for provided in (p for p in checks if p.name[0] == letter):
            lines += [
                "",
                f"### {provided.name} {check_title(provided)}",
                "",
                prose(inspect.getdoc(provided.function) or ""),
            ]
        lines += ["", "### build", "", prose(BUILD)] if letter == "T" else []
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------ Python
def python_page() -> str:
    """Write the names that a plugin or a script may import from `harness`, grouped by where they are defined."""
    lines = ["# Python API", "", "This page lists what scripts and plugins may import from `harness`."]
    lines += ["These names are stable: a name that goes away is deprecated for one minor version first."]
    homes = _homes()
    for heading in API_GROUPS:
        lines += ["", f"## {heading}"]
        for name, home in homes.items():
            lines += _member(name, home, "###") if _group_of(home) == heading else []
    lines += ["", "## `harness.training`", "", prose(inspect.getdoc(training) or "")]
    for name in training.__all__:
        lines += _member(name, f"harness.training.callback.{name}", "###")
    return "\n".join(lines) + "\n"


def testing_page() -> str:
    """Write what `harness.testing` has for tests of plugins."""
    lines = ["# harness.testing", "", prose(inspect.getdoc(testing) or "")]
    for name in TESTING_NAMES:
        lines += _member(name, f"{getattr(testing, name).__module__}.{name}", "##")
    return "\n".join(lines) + "\n"


def _homes() -> dict[str, str]:
    """Return the path of every public name where it is defined, which `harness` imports it from."""
    tree = ast.parse(Path(harness.__file__).read_text("utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imported for alias in node.names}
    return {name: found.get(name, f"harness.{name}") for name in sorted(harness.__all__)}


def _group_of(home: str) -> str:
    """Return the heading whose package is the closest to a name's home."""
    packages = [
        (len(package), heading) for heading, some in API_GROUPS.items() for package in some if _is_in(home, package)
    ]
    return max(packages)[1]


def _is_in(home: str, package: str) -> bool:
    module = home.rpartition(".")[0]
    return module == package or (package != "harness" and module.startswith(package.rstrip(".") + "."))


def _member(name: str, home: str, level: str) -> Iterator[str]:
    """Yield the section of one public name: its signature and docstring, and those of its methods."""
    found = _source(home)
    yield from ("", f"{level} `{name}`", "", "```python", _signature(found, name), "```")
    if found.docstring:
        yield from ("", prose(inspect.cleandoc(found.docstring.value)))
    methods = [m for m in found.members.values() if not m.is_alias and not m.name.startswith("_") and m.docstring]
    for i, method in enumerate(methods if found.is_class else ()):
        about = method.docstring.value.partition("\n\n")[0] if method.docstring else ""
        yield from [""] * (i == 0)
        yield f"- `{_signature(method, method.name)}`: {cell(about)}"


@cache
def _package(name: str) -> Any:  # of griffe's classes, whose attributes differ by kind
    """Return what is in the sources of a package: names as they are written, without an import."""
    loader = griffe.GriffeLoader(search_paths=[DOCS.parent, DOCS.parent / "plugins"])
    return loader.load(name, try_relative_path=False)


def _source(home: str) -> Any:
    package, _, rest = home.partition(".")
    return _package(package)[rest]


def _signature(found: Any, name: str) -> str:
    """Return how a name is called, or its value, wrapped where it is long."""
    if found.is_function:
        text = found.signature(name=name)
    elif found.is_class:
        bases = ", ".join(map(str, found.bases))
        text = f"class {found.signature(name=name) or f'{name}({bases})'}"
    else:
        value = f" = {found.value}" if found.value is not None and "property" not in found.labels else ""
        text = f"{name}{f': {found.annotation}' if found.annotation else ''}{value}"
    text = text.replace("'", '"')
    return "\n".join(textwrap.wrap(text, MAX_SIGNATURE_CHARS, subsequent_indent="    ", break_long_words=False))


# ------------------------------------------------------------------ text
def prose(text: str) -> str:
    """Return a docstring as Markdown: escape angle brackets outside code, and fences."""
    parts = re.split(r"(`[^`]*`)", text.replace("```", "&#96;&#96;&#96;"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return prose(" ".join(text.split())).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
