"""The public API: every name that a plugin or a script needs is in `harness`, with types."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import harness
from harness import internals

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs/how-to").glob("write-*.md"))
USER = """
from harness import Sample, Score, gate, run

reveal_type(Score("a", {"m": 1.0}).values)
reveal_type(Sample("a").targets)
reveal_type(run("suite.toml").exit_code)
reveal_type(gate({"a": 1}, min=0.5).outcome)
Score(1, {})
run("suite.toml", limt=3)
gate({"a": 1}, {"a": 1}, worse_by_at_most=0.02, missing="ignore")
"""


def map_public_names() -> dict[str, tuple[str, str]]:
    """Return the module and the name there of every public name that `harness` imports."""
    imports = [node for node in ast.walk(parse_module("harness")) if isinstance(node, ast.ImportFrom)]
    named = [(alias, node.module or "") for node in imports for alias in node.names]
    return {alias.asname: (module, alias.name) for alias, module in named if alias.asname in harness.__all__}


@cache
def parse_module(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec and spec.origin
    return ast.parse(Path(spec.origin).read_text("utf-8"))


def find_origin(module: str, name: str) -> tuple[str, str]:
    """Return where a name in a module is defined: the module itself, or the one that it is imported from."""
    for node in ast.walk(parse_module(module)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return node.module or "", alias.name
        elif isinstance(node, ast.Import) and any((a.asname or a.name) == name for a in node.names):
            return name, ""
    return module, name


KEYS = {"GateKeys", "ConditionKeys"}  # bases that only hold keys of [[gate]]


def annotations(node: ast.AST) -> Iterator[ast.expr]:
    """Yield the annotations of the public parts of a function, a class or an alias, and the bases of a class."""
    if isinstance(node, ast.FunctionDef):
        given = node.args
        every = (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg)
        yield from (one.annotation for one in every if one and one.annotation)
        yield from [node.returns] if node.returns else []
    elif isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
        yield node.annotation
    elif isinstance(node, ast.ClassDef):
        yield from (base for base in node.bases if ast.unparse(base) not in KEYS)
        for inner in node.body:
            hidden = isinstance(inner, ast.FunctionDef) and inner.name.startswith("_") and inner.name[1] != "_"
            yield from () if hidden else annotations(inner)
    elif isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp)):
        yield node.value  # an alias


def iterate_names(annotation: ast.expr) -> Iterator[str]:
    literal = isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal"
    if isinstance(annotation, ast.Name):
        yield annotation.id
    elif isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        yield from iterate_names(ast.parse(annotation.value, mode="eval").body)
    elif not literal:
        for child in ast.iter_child_nodes(annotation):
            yield from iterate_names(child) if isinstance(child, ast.expr) else ()


def iterate_missing_names(module: str, name: str, public: set[tuple[str, str]]) -> Iterator[str]:
    """Yield the types of a public name's annotations that are the harness's own and not public."""
    for node in parse_module(module).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if name != getattr(node, "name", getattr(target, "id", None)):
            continue
        variables = {n.targets[0].id for n in parse_module(module).body if _is_type_variable(n)}  # type: ignore[attr-defined]
        for word in {word for annotation in annotations(node) for word in iterate_names(annotation)} - variables:
            place, own = find_origin(module, word)
            ours = place.partition(".")[0].startswith("harness")
            known = (place, own) in public or (place == "harness" and own in map_public_names())
            if ours and not hasattr(builtins, word) and not known:
                yield f"{module}.{name}: {own} of {place}"


def _is_type_variable(node: ast.AST) -> bool:
    called = node.value if isinstance(node, ast.Assign) else None
    return isinstance(called, ast.Call) and ast.unparse(called.func) in ("TypeVar", "ParamSpec")


def test_every_type_of_a_public_annotation_is_public() -> None:
    """What a public function, class or hook takes, returns or holds can be imported from `harness`."""
    found, public = map_public_names(), {*map_public_names().values(), ("harness.capabilities", "Capabilities")}
    places = [(m, n) for m, n in found.values()] + [("harness.capabilities", c) for c in CAPABILITIES]
    places += [
        ("harness.hookspec", n.name) for n in parse_module("harness.hookspec").body if isinstance(n, ast.FunctionDef)
    ]
    assert [line for place in places for line in iterate_missing_names(*place, public)] == []
    own = {node.name: node for node in parse_module("harness").body if isinstance(node, ast.FunctionDef)}
    words = {word for node in own.values() for annotation in annotations(node) for word in iterate_names(annotation)}
    standard = {*dir(builtins), "Any", "Literal", "Path", "Sequence"}
    assert words - standard <= found.keys()


CAPABILITIES = [f"{kind}Capabilities" for kind in ("Loader", "Adapter", "Trainer", "Evaluator", "Exporter", "Check")]


def test_a_type_that_is_not_public_is_found() -> None:
    """The walk sees fields, methods, aliases and texts, and leaves out what is private, a Literal or of others."""
    assert [*iterate_missing_names("harness.records.models", "ModelRef", set())] == [
        "harness.records.models.ModelRef: Seal of harness.records.models"
    ]
    assert [*iterate_missing_names("harness.records.run", "ItemResult", set())] == [
        "harness.records.run.ItemResult: Verdict of harness.records.verdicts"
    ]
    assert [*iterate_missing_names("harness.records.findings", "Severity", set())] == []


def test_every_public_name_is_there() -> None:
    """Each can be imported, is listed, and is in no other face."""
    assert not set(harness.__all__) & set(internals.__all__)
    assert sorted({*map_public_names(), "gate", "run"}) == sorted(harness.__all__)
    for face in (harness, internals):
        for name in face.__all__:
            assert getattr(face, name) is not None
        assert set(dir(face)) >= set(face.__all__)
        assert not hasattr(face, "nothing")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_on_plugins_needs_public_names_only(page: Path) -> None:
    """No page for authors of plugins sends them to a module of the harness beside the public ones."""
    text = page.read_text("utf-8")
    assert "internals" not in text
    named = {
        name for line in re.findall(r"^ *from harness import (.+)$", text, re.M) for name in re.findall(r"\w+", line)
    }
    assert named <= {*harness.__all__}
    modules = set(re.findall(r"\bharness(?:\.[a-z_]+)*(?= import)", text)) - {"harness", "harness.testing"}
    assert modules == set()
    assert set(re.findall(r"\bharness\.([A-Za-z_]+)", text)) <= {*harness.__all__, "testing", "commands", "notebook"}


def test_every_internal_name_is_used_by_a_plugin() -> None:
    """What nobody imports does not stand there."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "plugins").rglob("*.py"))
    assert [name for name in internals.__all__ if name not in text] == []


def test_importing_the_package_imports_nothing_else() -> None:
    """Names cost nothing before they are asked for."""
    code = "import harness, sys; print(*(m for m in sys.modules if m.startswith('harness.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["harness.lazy", "harness.version"]


@pytest.mark.slow
def test_a_user_under_strict_gets_types(tmp_path: Path) -> None:
    """mypy sees types and not Any, and wrong calls, from the package alone."""
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER, "utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "user.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    said = done.stdout.replace("builtins.", "")
    assert 'Revealed type is "typing.Mapping[str, float]"' in said and 'Revealed type is "list[str]"' in said, said
    assert 'Revealed type is "int"' in said and 'Revealed type is "harness.records.outcomes.Outcome"' in said, said
    assert 'Argument 1 to "Score" has incompatible type "int"' in said and "py.typed" not in said, said
    assert 'Unexpected keyword argument "limt" for "run"' in said, said
    assert 'Argument "missing" to "gate" has incompatible type' in said, said
