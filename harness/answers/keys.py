"""Cache keys for code, model folders, libraries and environment switches.

Everything that is cached (answers, findings of checks, preflight, adapters, merges, copies) is kept under a digest of
its inputs. These functions define the identity of each input, by content; there are no others.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import sys
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.artifacts.digests import digest_value, file_digest, weights_digest
from harness.errors import UsageError
from harness.records.models import ModelRef

GROUP = "harness"  # of entry points
DISTRIBUTION = "finetune-harness"
CORE = "harness"
WEIGHTS = (".safetensors", ".gguf")
NO_CODE = ("__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv")
NO_MODEL = (".git", ".cache")  # folders that clones and downloads leave in a model's, at its top
IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+(\w+)[\w.]*[ \t]+import\b|import[ \t]+([^\n#;]+))", re.MULTILINE)
NAMED_IMPORT = re.compile(r"(?:import_module|__import__)\(\s*[\"'](\w+)")  # an import whose module is a text
SWITCHES = (  # how the names of environment variables begin by which libraries compute otherwise
    "ACCELERATE_", "BNB_", "CUBLAS_", "HARNESS_CPU_KERNELS", "MKL_CBWR", "NVIDIA_TF32", "ONEDNN_", "PEFT_", "PYTORCH_",
    "TORCH", "TRL_",
)  # fmt: skip
PLACES = ("_DIR", "_HOME", "_LOG", "_LOGS", "_PATH")  # how the names of those end that say where: no result changes
AT_START = {  # libraries set some themselves
    name: value for name, value in os.environ.items() if name.startswith(SWITCHES) and not name.endswith(PLACES)
}
LIBRARIES = (
    "torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "tokenizers", "accelerate", "safetensors",
    "numpy", "scipy", "gguf", "llama-cpp-python",
)  # fmt: skip
_INSTALLED = set[str]()  # modules that were found among what is installed, which stays while a process runs
_UNKNOWN = uuid.uuid4().hex  # stands for code that cannot be read: what it makes is remembered by no other process


def library_versions() -> dict[str, str]:
    """Return the versions of the harness and the libraries it uses."""
    return {CORE: sys.modules[CORE].__version__} | {
        n: version for n in LIBRARIES if (version := _find_distribution_version(n))
    }


def environment_switches() -> dict[str, str]:
    """Return the environment variables that change results.

    Their values are from before any library set its own.
    """
    return dict(AT_START)


# -- models ------------------------------------------------------------------------------------------


def digest_folder(folder: Path, weights: str | None = None) -> str:
    """Return one sha256 for every file of a model's folder: weights by their digest, if it is known, others by content.

    Its time and place are no part of it. Raises UsageError where a file cannot be read.
    """
    try:
        files: dict[str, Path] = {}
        for place, folders, names in os.walk(folder, onerror=_raise_error, followlinks=True):
            left_out = NO_MODEL if Path(place) == folder else ()
            folders[:] = sorted(name for name in folders if name not in left_out)
            paths = (Path(place, name) for name in sorted(names))
            files |= {p.relative_to(folder).as_posix(): p for p in paths if p.is_file()}
        top = [name for name, path in files.items() if path.suffix in WEIGHTS and "/" not in name]
        weights = weights or (weights_digest(folder) if top else None)
        beside = {name: file_digest(path.resolve()) for name, path in files.items() if name not in top}
    except ValueError as error:
        raise UsageError(f'model "{folder}": {error}') from None
    except OSError as error:
        raise UsageError(f'model "{error.filename or folder}": cannot be read: {error.strerror or error}') from None
    return digest_value([weights, beside])


def describe_model(ref: ModelRef) -> list[Any]:
    """Return a model reference's fields and the digests of its folders."""
    base, adapter = (ref.seal.base or None, ref.seal.weights) if ref.seal else (None, None)
    folders = [(Path(ref.path), base if ref.adapter else ref.digest), (ref.adapter, adapter)]
    return [asdict(ref), *(digest_folder(folder, digest) for folder, digest in folders if folder and folder.is_dir())]


def _raise_error(error: OSError) -> None:
    raise error


# -- code --------------------------------------------------------------------------------------------


def digest_code(objects: Iterable[Any], *, core: bool = True) -> str:
    """Return one sha256 of the code that defines some objects.

    Objects are modules, functions, classes and instances. The digest covers each module, or all files of its package;
    their imports, by content if local or a plugin, else by the version of the distribution; and Python. For a module
    that is one file it also covers the modules beside it that its text names. `core` adds the harness itself and its
    imports.
    """
    found = _Code(objects, core)
    return digest_value([platform.python_implementation(), sys.version_info[:2], found.content, found.versions])


def digest_content(objects: Iterable[Any]) -> str:
    """Return one sha256 of objects' code, independent of installed libraries.

    The code is found as by `digest_code`.
    """
    return digest_value(_Code(objects, core=False).content)


class _Code:
    """The code of some objects: by name, the sha256 of what is local, and the versions of the rest."""

    def __init__(self, objects: Iterable[Any], core: bool) -> None:
        self.content: dict[str, Any] = {}
        self.versions: dict[str, str | None] = {}
        self.seen = {CORE}
        for one in [*([sys.modules[CORE]] if core else []), *objects]:
            module = _find_defining_module(one)  # or the name of one that there is none of
            top = module if isinstance(module, str) else _find_outermost_package(module).__name__
            file = None if isinstance(module, str) else getattr(_find_outermost_package(module), "__file__", None)
            self.seen.add(top)
            if top in sys.stdlib_module_names and top != "__main__":
                continue
            if file is None or not Path(file).is_file():
                self.content[top] = _UNKNOWN
            else:
                self._add_module_digest(top, Path(file))

    def _add_module_digest(self, name: str, file: Path) -> None:
        package = file.name.startswith("__init__.")
        digest, imports, words = (
            _package_once if name in _map_modules_to_distributions() else _digest_code_and_find_imports
        )(file.parent if package else file)
        label = name if package else file.name
        self.content[label] = sorted({*self.content.get(label, ()), digest})  # two may have one name
        if name in _map_modules_to_distributions():
            self.versions[f"distribution of {name}"] = _map_modules_to_distributions()[name]
        # what lies beside a module and is named in it counts too, however it is loaded
        for path in () if package or _is_installed(file) else sorted(file.parent.iterdir()):
            if path.name in NO_CODE or path == file or str(path) in self.seen or path.stem not in words:
                continue
            folder = path.is_dir() and any(path.glob("*.py"))
            if folder or (path.suffix == ".py" and path.is_file()):
                self.seen.add(str(path))
                self._add_module_digest(path.name, path / "__init__.py" if folder else path)
        for other in imports:
            self._add_imported_module(other)

    def _add_imported_module(self, name: str) -> None:
        if name in self.seen or name in sys.stdlib_module_names:
            return
        self.seen.add(name)
        if name in _INSTALLED:
            self.versions[name] = _find_distribution_version(name)
            return
        spec = _find_spec_or_none(name)
        places = list(spec.submodule_search_locations or ()) if spec else []
        file = Path(spec.origin) if spec and spec.origin else None
        if spec is None:
            self.versions[name] = None
        elif (name in _map_modules_to_distributions() and file) or (file and not _is_installed(file)):
            self._add_module_digest(name, file)
        elif file is None and places and not _is_installed(Path(places[0])):
            self.content[name] = [_digest_code_and_find_imports(Path(place))[0] for place in places]
        else:
            _INSTALLED.add(name)
            self.versions[name] = _find_distribution_version(name)


def _digest_code_and_find_imports(path: Path) -> tuple[str, frozenset[str], frozenset[str]]:
    """Return the sha256, imports and words of a file or folder.

    The sha256 covers all files of a folder. The words are those of a Python file, and empty for a folder.
    """
    files = [] if path.is_dir() else [path]
    for place, folders, names in os.walk(path, onerror=_raise_error) if path.is_dir() else ():
        folders[:] = sorted(name for name in folders if name not in NO_CODE)
        files += [Path(place, name) for name in sorted(names) if not name.endswith((".pyc", ".pyo"))]
    listed, imports = [], set[str]()
    words: frozenset[str] = frozenset()
    for file in files:
        content = file.read_bytes()
        listed.append([file.relative_to(path.parent).as_posix(), hashlib.sha256(content).hexdigest()])
        if file.suffix == ".py":
            text = content.decode("utf-8", "replace")
            imports.update(NAMED_IMPORT.findall(text))
            for one, several in IMPORT.findall(text):
                parts = (part.split() for part in several.split(","))
                imports |= {one} if one else {part[0].partition(".")[0] for part in parts if part}
            words = frozenset(re.findall(r"\w+", text)) if file == path else words
    return digest_value(listed), frozenset(name for name in imports if name.isidentifier()), words


# What is imported once in a process and does not change while it runs: the harness, installed plugins.
_package_once = functools.cache(_digest_code_and_find_imports)


def _find_defining_module(value: Any) -> ModuleType | str:
    """Return an object's defining module, or its name if not imported."""
    while isinstance(value, functools.partial) or inspect.ismethod(value):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    if isinstance(value, ModuleType):
        return value
    if not (inspect.isroutine(value) or isinstance(value, type)):
        value = type(value)
    name = str(getattr(inspect.unwrap(value) if callable(value) else value, "__module__", None))
    return sys.modules.get(name, name)


def _find_outermost_package(module: ModuleType) -> ModuleType:
    """Return the outermost package of a module.

    It must have a file of its own; without such a package it is the module itself.
    """
    parts = module.__name__.split(".")
    packages = (sys.modules.get(".".join(parts[:n])) for n in range(1, len(parts)))
    return next((p for p in packages if p is not None and getattr(p, "__file__", None)), module)


def _find_spec_or_none(name: str) -> importlib.machinery.ModuleSpec | None:
    with suppress(ImportError, ValueError, AttributeError):
        return importlib.util.find_spec(name)
    return None


@functools.cache
def _map_modules_to_distributions() -> dict[str, str | None]:
    """Map top-level modules of the harness and plugins to distributions.

    A distribution is its name and version.
    """
    points = list(importlib.metadata.entry_points(group=GROUP))
    told = {id(dist): f"{dist.name} {dist.version}" for dist in {id(p.dist): p.dist for p in points if p.dist}.values()}
    return {CORE: None, **{p.module.partition(".")[0]: told.get(id(p.dist)) for p in points}}


def _is_installed(file: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & set(file.parts)) or file.is_relative_to(Path(os.__file__).parent)


@functools.cache
def _find_distribution_version(name: str) -> str | None:
    """Return the version of a distribution or a top-level module.

    For a module these are the dist-info names of the distributions that installed it.
    """
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    spec = _find_spec_or_none(name)
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin).parent.parent if spec.submodule_search_locations else Path(spec.origin).parent
    brought = f"\n{name}{'/' if spec.submodule_search_locations else '.'}".encode()
    records = [r for r in place.glob("*.dist-info/RECORD") if brought in b"\n" + r.read_bytes()]
    return ", ".join(sorted(r.parent.name for r in records)) or None
