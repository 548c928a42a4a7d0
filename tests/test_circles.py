"""No module imports itself by way of others, in functions and for type checkers too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
Graph = Mapping[str, Set[str]]  # module -> modules that it imports


def read_sources() -> dict[str, str]:
    """Return the text of every module of the harness and of its plugins, by the module's name."""
    found = {}
    for base, top in ((ROOT, "harness"), *((ROOT / "plugins", p.name) for p in (ROOT / "plugins").iterdir())):
        for path in (base / top).rglob("*.py"):
            name = ".".join(path.relative_to(base).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path.read_text("utf-8")
    return found


def walk(text: str, *, types: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a module, with `types` also those that only a type checker sees."""
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        yield node
        if types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            waiting += ast.iter_child_nodes(node)


def iterate_imports(text: str, known: Set[str], *, types: bool = True) -> Iterator[str]:
    """Yield what a module imports of `known`: of `from a import b` a.b if that is a module, else a."""
    for node in walk(text, types=types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (m for m in (n if n in known else node.module for n in names) if m in known)


def iterate_imports_by_text(text: str, known: Set[str]) -> Iterator[str]:
    """Yield what a module imports by a text: in `import_module`, some of it left open."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "import_module":
            whole, said = True, node.args[0]
            if isinstance(said, ast.JoinedStr):
                whole, said = False, said.values[0]
            if isinstance(said, ast.Constant):
                yield from (m for m in known if m == said.value or (not whole and m.startswith(said.value)))


# a Run opens its folder and draws itself, in methods
OWN_METHODS = {("harness.records.run", "harness.reports.notebook")}
# a gate holds its conditions, and a condition reads its gate: records name each other's types
RECORDS = "harness.records."


def make_import_graph(texts: Mapping[str, str], *, by_name: bool = False) -> Graph:
    """Return which modules each module imports, itself left out; `by_name` also what it imports by a text."""
    graph = {
        name: set(iterate_imports(text, texts.keys(), types=not name.startswith(RECORDS))) - {name}
        for name, text in texts.items()
    }
    for module, other in OWN_METHODS:
        graph.get(module, set()).discard(other)
    more = (
        {name: set(iterate_imports_by_text(text, texts.keys())) - {name} for name, text in texts.items()}
        if by_name
        else {}
    )
    return {name: found | more.get(name, set()) for name, found in graph.items()}


def find_reachable(graph: Graph, start: str) -> set[str]:
    """Return the modules that a module imports, directly or by way of others."""
    found, todo = set[str](), list(graph[start])
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += graph[name]
    return found


def find_cycles(graph: Graph) -> set[frozenset[str]]:
    """Return the strongly connected components of more than one module."""
    reach = {name: find_reachable(graph, name) for name in graph}
    return {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}


@pytest.mark.slow
def test_no_module_imports_itself_by_way_of_others() -> None:
    """Every module can be read, tested and moved without the modules that use it."""
    graph = make_import_graph(read_sources())
    assert {"harness", "harness.pipeline.run", "harness_hf", "harness_hf.sources"} <= graph.keys()
    assert "harness_hf.sources" in graph["harness_hf"]
    assert not [sorted(circle) for circle in find_cycles(graph)]


@pytest.mark.slow
def test_no_module_imports_itself_by_a_text() -> None:
    """What `import_module` is told counts as well: a circle that is written as a text is one."""
    graph = make_import_graph(read_sources(), by_name=True)
    assert {"harness_hf.models", "harness_hf.tokens"} <= graph["harness_hf"]
    assert not [sorted(circle) for circle in find_cycles(graph)]


def test_no_name_is_that_of_a_module_beside_it() -> None:
    """What a package imports when asked for has no module's name: once imported, the module would stand in its place.

    `harness_sft.train` was a function until its module was imported, and the module from then on.
    """
    texts = read_sources()
    for package, text in texts.items():
        if "attach_lazily(" not in text or package == "harness.lazy":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                whole = {f"{package}.{alias.asname}": f"{node.module}.{alias.name}" for alias in node.names}
                assert not [name for name, place in whole.items() if name in texts and name != place]


@pytest.mark.parametrize(
    "back",
    [
        "import_module('p.a')",
        "importlib.import_module('p.a').x",
        "import_module(f'p.{kind}')",
    ],
)
def test_circles_by_a_text_are_found(back: str) -> None:
    """However the text is told."""
    texts = {"p.a": "import p.c", "p.c": back, "p.d": "import_module('json')\nimport_module(name)\nlazily('p', {})"}
    assert not find_cycles(make_import_graph(texts))
    (circle,) = find_cycles(make_import_graph(texts, by_name=True))
    assert {"p.a", "p.c"} <= circle


@pytest.mark.parametrize(
    "back",
    [
        "import p.a",
        "from p.a import x",
        "from p import a",
        "def f():\n    from p.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x",
        "from p import x",
    ],
)
def test_circles_are_found(back: str) -> None:
    """A circle through a third module, wherever and however the import is written, and through the package itself."""
    texts = {"p": "from p.a import x", "p.a": "from p.b import y", "p.b": "import p.c", "p.c": back, "p.d": "import p"}
    (circle,) = find_cycles(make_import_graph(texts))
    assert {"p.a", "p.b", "p.c"} <= circle
    assert ("p" in circle) == (back == "from p import x")


def test_modules_that_two_import_are_no_circle() -> None:
    """Imports that only go down are none, nor is a module of another package with the same last name."""
    texts = {"p": "from p import a, b", "p.a": "from p.c import x", "p.b": "import p.c, q.a", "p.c": "", "q.a": ""}
    assert not find_cycles(make_import_graph(texts))
