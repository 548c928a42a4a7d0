"""The rules of the house: who may import what, who decides what, and how large a thing may grow."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import fields
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import harness
from harness import capabilities, hookspec, internals

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(p.name for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").is_file())
MOST_ANY, TOP_FLOOR = 0.08, 16
DEFAULTS = {
    *("harness/suite/tables.py", "harness/suite/reader.py"),
    "harness/cli/plan_report.py",  # a method's name in words
    "harness/release/__init__.py",  # a layer
    "harness/errors.py",  # an extra
    "harness/init/table.py",  # what a written suite names
}
WORDS = ("harness/records/verdict_text.py",)  # where sentences of a verdict are written
SCALES = ("harness/records/scales.py",)
READING = {
    *("endswith", "find", "findall", "finditer", "fullmatch", "index", "match", "partition", "removeprefix"),
    *("removesuffix", "replace", "rpartition", "search", "split", "startswith", "sub"),
}
OLD_EVIDENCE = {"harness/release/recomputation.py"}  # it checks what exports that were written before say of themselves


ENCODING = {  # who else writes by a chat template, or encodes by a tokenizer itself: no row, but
    "plugins/harness_checks/frames.py",  # what two templates make of one conversation
    "plugins/harness_checks/lint.py",  # whether a template takes a row
    "plugins/harness_export/llama.py",  # what two tokenizers put in front
    "plugins/harness_export/hot_swap.py",  # prompts of its own, for one model under two names
    "plugins/harness_hf/probe.py",  # whether a template can be rendered
    "plugins/harness_lora/divergence.py",  # texts of its own, for two models
    "plugins/harness_served/layers/stops.py",  # how a server may read a text
    *("plugins/harness_hf/encoding.py", "plugins/harness_hf/tokens.py"),  # here rows are encoded
}


def list_modules(*tops: str) -> list[str]:
    """Return the modules below folders of the repository, by their paths from its root."""
    return sorted(p.relative_to(ROOT).as_posix() for top in tops for p in (ROOT / top).rglob("*.py"))


@cache
def parse_module(module: str) -> ast.Module:
    """Parse a module."""
    return ast.parse((ROOT / module).read_text("utf-8"))


@cache
def list_nodes(module: str) -> tuple[ast.AST, ...]:
    """Return all that a module consists of."""
    return tuple(ast.walk(parse_module(module)))


def iterate_imports(module: str) -> Iterator[tuple[str, str | None]]:
    """Yield (module, name or None) for every import, in functions and for type checkers too."""
    for node in list_nodes(module):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield from ((node.module or "", alias.name) for alias in node.names)


def list_public_names(package: str) -> set[str]:
    """Return what the `__init__` of a plugin names in `__all__`; without one, imports by `x as x`, or defines."""
    found = set[str]()
    for node in parse_module(f"plugins/{package}/__init__.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
        for inner in (node, *getattr(node, "body", ())) if isinstance(node, ast.If) else (node,):
            if isinstance(inner, ast.ImportFrom):
                found |= {alias.name for alias in inner.names if alias.asname == alias.name}
            elif isinstance(inner, (ast.FunctionDef, ast.Assign)):
                names = [inner.name] if isinstance(inner, ast.FunctionDef) else map(ast.unparse, inner.targets)
                found |= {name for name in names if not name.startswith("_")}
    return found


@pytest.mark.slow
def test_plugins_import_the_public_face_only() -> None:
    """A plugin imports `harness` and `harness.testing`, and of another plugin what its `__init__` names."""
    strange = []
    for module in list_modules("plugins", "suites"):
        own = module.split("/")[1]
        for place, name in iterate_imports(module):
            top = place.partition(".")[0]
            known = {"harness": {*harness.__all__, None}, "harness.testing": {name}}
            known["harness.internals"] = {*internals.__all__} if module.startswith("plugins/") else set()
            if top in PLUGINS and top != own:
                known = {top: list_public_names(top) | {None}}
            foreign = top in PLUGINS and top != own
            if (foreign or top == "harness") and name not in known.get(place, ()):
                strange.append(f"{module}: {place}.{name}")
    assert not strange


def test_no_name_hides_a_module_of_a_plugin() -> None:
    """What a plugin's `__init__` imports from `harness` has the name of none of its modules, which it would hide."""
    for package in PLUGINS:
        taken = {name for place, name in iterate_imports(f"plugins/{package}/__init__.py") if place == "harness"}
        assert not taken & {path.stem for path in (ROOT / "plugins" / package).glob("*.py")}, package


@pytest.mark.slow
def test_the_harness_names_no_plugin() -> None:
    """No module of the harness imports a plugin, has its name in a text, or that of an adapter or trainer of ours."""
    hooks = {name for name in vars(hookspec) if name.startswith("harness_")}
    named = []
    for module in list_modules("harness"):
        named += [f"{module}: {place}" for place, _ in iterate_imports(module) if place.partition(".")[0] in PLUGINS]
        for node in list_nodes(module):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            ours = text not in hooks and any(name in text for name in PLUGINS)
            default = text in ("lora", "qlora", "sft") and module not in DEFAULTS
            if (ours and module not in OLD_EVIDENCE) or default:
                named.append(f"{module}: {text}")
    assert not named


def test_capabilities_are_read_from_descriptions() -> None:
    """`getattr(function, "uncached", …)` would read what no one checked; only `capabilities` does so."""
    names = {field.name for kind in capabilities.KINDS.values() for field in fields(kind)}
    unchecked = []
    for module in set(list_modules("harness")) - {"harness/rows/api.py"}:  # columns of data frames
        for node in list_nodes(module):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
                what = node.args[1]
                if isinstance(what, ast.Constant) and what.value in names:
                    unchecked.append(f"{module}:{node.lineno}: {what.value}")
    assert not unchecked


def test_few_modules_stand_beside_the_rooms() -> None:
    """What belongs to a room is in it."""
    assert len(list((ROOT / "harness").glob("*.py"))) <= TOP_FLOOR


def test_no_sentence_is_read_back() -> None:
    """No claim or reason is searched or cut for what it says, but where it is written; a verdict has it as data."""
    found = [place for module in list_modules("harness", "plugins") for place in read_back(module, list_nodes(module))]
    assert not [place for place in found if not place.startswith(WORDS)]


def read_back(module: str, parts: Iterable[ast.AST]) -> Iterator[str]:
    """Yield each method of a string, search of a pattern and `in` that is put to a claim or a reason."""
    for node in parts:
        looked: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READING:
            looked = [node.func.value, *node.args]
        elif isinstance(node, ast.Compare) and any(isinstance(how, (ast.In, ast.NotIn)) for how in node.ops):
            looked = [node.left, *node.comparators]
        if any(called(part) in ("claim", "why") for part in looked):
            yield f"{module}:{node.lineno}: {ast.unparse(node)}"


def called(node: ast.AST) -> str:
    """Return the last word of a name or an attribute, "" of anything else."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@pytest.mark.slow
def test_scales_are_compared_in_one_room() -> None:
    """What a scale is read as, tested by and written like is decided in one room; all others ask it."""
    found = [
        place
        for module in list_modules("harness", "plugins")
        for place in iterate_scale_comparisons(module, list_nodes(module))
    ]
    assert not [place for place in found if not place.startswith(SCALES)]


def iterate_scale_comparisons(module: str, parts: Iterable[ast.AST]) -> Iterator[str]:
    """Yield each comparison of a scale with anything but a number or None, and each `match` of one."""
    for node in parts:
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        sides = [node.subject] if isinstance(node, ast.Match) else sides
        others = [side for side in sides if not isinstance(side, ast.Constant) or isinstance(side.value, str)]
        if len(others) == len(sides) and any(called(side) == "scale" for side in sides):
            yield f"{module}:{node.lineno}: {ast.unparse(node)[:80]}"


def test_a_class_name_stands_in_one_room() -> None:
    """Who reads the name of a class, private or not, knows which one is meant."""
    rooms = defaultdict[str, set[str]](set)
    for module in list_modules("harness", "plugins"):
        for node in list_nodes(module):
            if isinstance(node, ast.ClassDef):
                rooms[node.name.lstrip("_")].add("/".join(module.split("/")[:2]))
    assert not {name: places for name, places in rooms.items() if len(places) > 1}


@pytest.mark.parametrize(
    ("line", "reads", "compares"),
    [
        ("v.why.partition('; ')", 1, 0),
        ("why.split('; ')", 1, 0),
        ("SLICES.search(v.claim)", 1, 0),
        ("x = '%' in v.claim or v.why not in known", 2, 0),
        ("replace(options, why=chosen.why)", 0, 0),
        ("f'{v.metric} {v.claim}'.strip()", 0, 0),
        ("gate.claim() == v.claim", 0, 0),
        ("metric.scale == 'count'", 0, 1),
        ("'count' != scale", 0, 1),
        ("scale in NO_ROWS", 0, 1),
        ("match m.scale:\n    case 'count': pass", 0, 1),
        ("scale > 0 or gauge.scale is None or Scale == 1", 0, 0),
    ],
)
def test_what_decides_by_words_is_found(line: str, reads: int, compares: int) -> None:
    """The rules see sentences and scales in all ways that they are asked, and nothing that only hands them on."""
    assert len(list(read_back("m", ast.walk(ast.parse(line))))) == reads
    assert len(list(iterate_scale_comparisons("m", ast.walk(ast.parse(line))))) == compares


@pytest.mark.slow
def test_parameters_of_plugins_have_types() -> None:
    """Under 8 % of the parameters in plugins are `Any`, `object`, or another name for one of them."""
    found = [blind for module in list_modules("plugins") for blind in iterate_blind_parameters(parse_module(module))]
    assert sum(found) / len(found) < MOST_ANY


def iterate_blind_parameters(module: ast.Module) -> Iterator[bool]:
    """Yield for every parameter of a module, `self` and `cls` left out, whether its type says nothing."""
    blind = {"Any", "object"}
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in blind:
            blind |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(module):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            given = node.args
            rest = [one for one in (given.vararg, given.kwarg) if one]
            for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest):
                if one.arg not in ("self", "cls"):
                    yield isinstance(one.annotation, ast.Name) and one.annotation.id in blind


def test_blind_parameters_are_counted() -> None:
    """The counter sees `Any`, `object` and aliases, keywords and the rest, and no type that says something."""
    text = "Row = Any\ndef f(self, a: Any, b: Row, *c: object, d: int, e: list[Any], **g: Any): ..."
    assert sum(iterate_blind_parameters(ast.parse(text))) == 4
    assert len(list(iterate_blind_parameters(ast.parse(text)))) == 6


def test_plugins_are_where_entry_points_say() -> None:
    """Every plugin has an entry point, those with hooks in the group that is asked for hooks."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert {place.partition(".")[0] for group in points.values() for place in group.values()} == {"harness", *PLUGINS}
    hooked = [one for one in PLUGINS if set(vars(hookspec)) & {*_iterate_function_names(f"plugins/{one}/__init__.py")}]
    assert sorted(points["harness"].values()) == ["harness.rows", *hooked]


def _iterate_function_names(module: str) -> Iterator[str]:
    """Yield the names of a module's functions."""
    yield from (node.name for node in parse_module(module).body if isinstance(node, ast.FunctionDef))


def test_rows_are_encoded_in_one_place() -> None:
    """Nobody renders messages or calls a tokenizer but where rows are encoded, and who needs it for something else."""

    def encodes(node: ast.AST) -> bool:
        called = node.func if isinstance(node, ast.Call) else None
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        return name in ("apply_chat_template", "tokenizer", "processing_class", "batch_encode_plus", "encode_plus")

    assert {
        module for module in list_modules("harness", "plugins") if any(map(encodes, list_nodes(module)))
    } == ENCODING


def test_exceptions_end_in_error() -> None:
    """A class that is raised is called so: `CheckFailedError`, not `CheckFailed`."""
    bases: dict[str, set[str]] = defaultdict(set)
    for module in list_modules("harness", "plugins"):
        for node in list_nodes(module):
            if isinstance(node, ast.ClassDef):
                bases[node.name] |= {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    raised = {"Exception", "BaseException"}
    while more := {
        name for name, of in bases.items() if name not in raised and any(b in raised or b.endswith("Error") for b in of)
    }:
        raised |= more
    assert {name for name in raised if not name.endswith("Error")} == {"Exception", "BaseException"}


DURATIONS, SHORTENING = "harness/texts/numbers.py", "harness/texts/shortening.py"
UNIT = re.compile(r" (s|min|h|m|sec|seconds|minutes|hours)\b")
SHORT_UNIT = re.compile(r"(s|m|h)\b")  # of a number, which has a format
MARKS = ("…", " …", "...", " ...")


def iterate_own_durations(node: ast.AST) -> Iterator[str]:
    """Yield what divides by 60 or 3600, or writes a number before "s", "min" or "h"."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.FloorDiv, ast.Mod, ast.Div)):
        if isinstance(node.right, ast.Constant) and node.right.value in (60, 3600, 60.0, 3600.0):
            yield ast.unparse(node)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "divmod":
        yield from (ast.unparse(node) for given in node.args[1:] if ast.unparse(given) in ("60", "3600"))
    elif isinstance(node, ast.JoinedStr):
        for value, text in pairwise(node.values):
            if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
                continue
            unit = str(text.value)
            if UNIT.match(unit) or (value.format_spec and SHORT_UNIT.match(unit)):
                yield ast.unparse(node)


def iterate_own_shortenings(node: ast.AST) -> Iterator[str]:
    """Yield what cuts a text by a slice and marks the cut, or calls `textwrap.shorten`."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "textwrap.shorten":
        yield ast.unparse(node)
    parts: list[ast.expr] = []
    if isinstance(node, ast.JoinedStr):
        parts = node.values
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [node.left, node.right]
    for cut, mark in pairwise(parts):
        is_marked = isinstance(mark, ast.Constant) and str(mark.value).startswith(MARKS)
        if is_marked and any(isinstance(part, ast.Slice) for part in ast.walk(cut)):
            yield ast.unparse(node)


def test_a_duration_and_a_cut_text_are_written_in_one_place() -> None:
    """A duration has one notation, and a text is shortened in one way, wherever they stand."""
    durations, shortenings = set[str](), set[str]()
    for module in list_modules("harness", "plugins"):
        for node in list_nodes(module):
            if module != DURATIONS:
                durations |= {f"{module}: {text}" for text in iterate_own_durations(node)}
            if module != SHORTENING:
                shortenings |= {f"{module}: {text}" for text in iterate_own_shortenings(node)}
    assert durations == set()
    assert shortenings == set()


@pytest.mark.parametrize(
    "line",
    ["x = s // 60", "x = s % 3600", "x = divmod(s, 60)", "x = f'{s:.1f} s'", "x = f'{m}m{s:02d}s'", "x = f'{n} min'"],
)
def test_another_notation_of_a_duration_is_found(line: str) -> None:
    """However it is written."""
    assert [text for node in ast.walk(ast.parse(line)) for text in iterate_own_durations(node)]


@pytest.mark.parametrize(
    "line",
    ["x = f'{t[:9]}…'", "x = t[:9] + '…'", "x = t[:9] + '...'", "textwrap.shorten(t, 9)", "x = f'{t[:4]} … {t[-4:]}'"],
)
def test_another_way_to_shorten_is_found(line: str) -> None:
    """At its end or in its middle."""
    assert [text for node in ast.walk(ast.parse(line)) for text in iterate_own_shortenings(node)]


def test_facts_of_a_run_are_computed_in_its_view() -> None:
    """No renderer works out by itself what a run came to, or in which order its gates stand."""
    facts = {"run_outcome", "verdict_sentence", "deciding_verdict", "sort_worst_first", "waived_and_ignored"}
    facts |= {"suggest_next_step", "describe_rules"}
    home = {f"harness/reports/{name}.py" for name in ("view", "summary", "next_step", "rules")}
    calls = {
        f"{module}: {called(node)}"
        for module in list_modules("harness", "plugins")
        for node in list_nodes(module)
        if isinstance(node, ast.Call) and called(node) in facts and module not in home
    }
    assert calls == set()
