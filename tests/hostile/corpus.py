"""Hostile folders, generated from a valid one: each case changes one thing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.attestation import CARD, EVIDENCE, MODEL
from harness.texts.json_text import MALFORMED
from tests.helpers.exports import reseal
from tests.hostile.world import CANARY, MODULE, VARIABLE

PLACE = "@@PLACE@@"
SEALED = ("export", "model", "adapter")  # kinds of folders whose evidence lists every file
OF_FAKES = ("report.json", "suite.lock.json", "gates.json", "items.jsonl", "claims.intoto.jsonl")  # as others have
TABLES = {
    "vocab",
    "added_tokens_decoder",
    "weight_map",
    "noise",
    "packages",
    "versions",
    "stages",
    "memory",
    "digests",
    "files",
    "evaluations",
}  # of entries that are alike
TURNS = (  # values of which a leaf has one at a time
    ("a number", "a list", "an object", "null"),
    ("a huge text that begins with an escape", "a path", "a path above", "a URL", "a variable", "a module"),
)
REFUSED_BY_PARSER = {"a huge number", "a number that overflows", "deep", "NaN"}  # wherever in a record they stand
HUGE_BYTES = 8 << 30  # of a sparse file, which no command may read whole
MANY = 100_000
TEMPLATE = "{{ cycler.__init__.__globals__.os.system('true') }}"
CODE = f"import {MODULE}\n"
PICKLE = b"cposix\nsystem\n(S'true'\ntR."
CONFIG = json.dumps({"auto_map": {"AutoModel": f"{MODULE}.Model"}, "base_model_name_or_path": "../../outside"})
ADDED = {  # what Python, pytest, transformers, PEFT and torch look for
    **dict.fromkeys(
        ("harnessfile.py", "conftest.py", "sitecustomize.py", "usercustomize.py", "json.py", "numpy.py", "__init__.py",
         "modeling_x.py", "tokenization_x.py", "custom_generate/generate.py", "harness/__init__.py", "setup.py"),
        CODE.encode(),
    ),
    **dict.fromkeys(("additional_chat_templates/x.jinja", "chat_template.jinja"), TEMPLATE.encode()),
    **dict.fromkeys(
        ("adapter_config.json", "generation_config.json", "config.json", "tokenizer_config.json", "tokenizer.json",
         "processor_config.json", "preprocessor_config.json", "chat_template.json", "model.safetensors.index.json"),
        CONFIG.encode(),
    ),
    **dict.fromkeys(("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "x.pkl"), PICKLE),
    "x.pth": CODE.encode(),
    "x.so": b"\x7fELF",
    "pyproject.toml": b"[tool.harness]\n",
    "harness.toml": b"[suite]\nname = 1\n",
    ".env": f"{VARIABLE}=x\n".encode(),
    "aa.json": b"[1]",
    "events.jsonl": b"{}\n[]\n7\n",
    "name-\xff-\udc80": b"",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A change of a folder that stands in the place of a valid one."""

    name: str
    change: Callable[[Path], object]  # of the folder; beside its parents lies the folder `outside`
    is_foreign: bool = False  # a file or a link is not what the evidence lists, so that no command may accept it
    record: str = ""  # the file of the one value that differs; only lines that open it take the case
    leaf: str = ""  # where in the record it stands
    turn: tuple[int, int] = (0, 1)  # which of how many values that take turns in a leaf


def list_cases(kind: str, valid: Path, outside: Path, server: str) -> list[Case]:
    """Return every case of a kind of folder."""
    cases = [Case("unchanged", lambda folder: None)]
    values, known = list_values(outside, server), set[tuple[str, ...]]()
    for path in sorted(valid.rglob("*")):
        name = path.relative_to(valid).as_posix()
        if path.is_dir():
            cases.append(Case(f"{name}: a folder that is a link", _link_moved(name, outside), is_foreign=True))
            continue
        cases += _list_file_cases(kind, name, outside)
        if kind in ("run", "export", "bundle") or path.name not in OF_FAKES:
            cases += _list_leaf_cases(kind, path, name, values, known)
    large = MODEL if kind in SEALED else ""
    cases.append(Case(f"{large or '.'}: {MANY:,} files are added", _add_many_files(large), is_foreign=True))
    places = ["", *(p.relative_to(valid).as_posix() for p in sorted(valid.rglob("*")) if p.is_dir())]
    for place in places:
        where, sealed = place or ".", kind in SEALED and place in (MODEL, EVIDENCE)
        for name in (name for name in ADDED if not (valid / place / name).exists()):
            add = _add_file(place, name, kind if sealed else "")
            cases.append(Case(f"{where}: {name!a} is added", add, is_foreign=not sealed))
        for name, add in {
            "a folder of templates that is a link": _add_linked_templates(place, outside),
            "a link to /": _add_link(place, Path("/")),
            "a pipe is added": _add_pipe(place),
        }.items():
            cases.append(Case(f"{where}: {name}", add, is_foreign=True))
    return cases


def _list_file_cases(kind: str, name: str, outside: Path) -> list[Case]:
    changes = {
        "a link to itself elsewhere": _link_moved(name, outside),
        "a link to a secret": _replace_by(name, lambda path: path.symlink_to(outside / "secret.txt")),
        "a link to /dev/zero": _replace_by(name, lambda path: path.symlink_to("/dev/zero")),
        "a pipe": _replace_by(name, os.mkfifo),
        "huge": _replace_by(name, _write_sparse),
        "empty": _replace_by(name, lambda path: path.write_bytes(b"")),
        "missing": _replace_by(name, lambda path: None),
        "a folder": _replace_by(name, lambda path: path.mkdir()),
    }
    is_listed = (kind, name) != ("published", CARD)  # its owner edits it on the Hub; the signed one is in the evidence
    return [Case(f"{name}: {label}", change, is_foreign=is_listed) for label, change in changes.items()]


def list_values(outside: Path, server: str) -> dict[str, str]:
    """Return what stands in the place of a leaf, as JSON text: other types, and texts that a reader could act on."""
    escape = "\x1b]0;pwned\x07\n::error::pwned\r<script>alert(1)</script>"
    return {
        "a number": "7",
        "a list": '["a", 1]',
        "an object": '{"a": {"b": 1}}',
        "null": "null",
        "a huge number": "1" + "0" * 400,
        "a number that overflows": "1e400",
        "a huge text that begins with an escape": json.dumps(escape + "x" * 2_000_000),
        "deep": "[" * 50_000 + "]" * 50_000,
        "NaN": "NaN",
        "a path": json.dumps(str(outside / "secret.txt")),
        "a path above": '"../../outside/secret.txt"',
        "a URL": json.dumps(f"{server}/hostile"),
        "a variable": json.dumps(VARIABLE),
        "a module": json.dumps(MODULE),
    }


def _list_leaf_cases(
    kind: str, path: Path, name: str, values: dict[str, str], known: set[tuple[str, ...]]
) -> Iterator[Case]:
    """Yield the cases of a record's leaves. A leaf that a record of the same kind has is not taken twice.

    What a parser refuses stands in the first and in the last leaf of each file.
    Of other types and of texts one each stands in a leaf, by the line and the seed.
    """
    if path.suffix not in (".json", ".jsonl") or not path.stat().st_size:
        return
    record_kind = path.name.partition("_")[0]  # such as samples, of which each subject has a file
    leaves = [*_iterate_leaves(_read_record(path))]
    for keys in leaves:
        where = ".".join(map(str, keys))
        path_pattern = (record_kind, *_fold(keys))
        is_new = path_pattern not in known
        known.add(path_pattern)
        for label, text in values.items():
            if keys in (leaves[0], leaves[-1]) if label in REFUSED_BY_PARSER else is_new:
                title = f"{name}: {where} = {label}"
                change = _replace_leaf(kind, name, keys, text)
                yield Case(title, change, record=name, leaf=where, turn=_find_turn(label))


def _find_turn(label: str) -> tuple[int, int]:
    """Return the place of a value among those that take turns, and how many they are."""
    for labels in TURNS:
        if label in labels:
            return labels.index(label), len(labels)
    return 0, 1


def _read_record(path: Path) -> Any:
    text = path.read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _iterate_leaves(record: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the keys of the first leaf of each path pattern."""
    known: set[tuple[str, ...]] = set()
    for keys in _iterate_all_leaves(record):
        path_pattern = _fold(keys)
        if path_pattern not in known:
            known.add(path_pattern)
            yield keys


def _fold(keys: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the path pattern of a leaf: elements of a list and entries of a table are alike."""
    inner = zip(("", *keys), keys, strict=False)
    return tuple("*" if isinstance(key, int) or outer in TABLES else str(key) for outer, key in inner)


def _iterate_all_leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if keys:
        yield keys  # tables and lists are replaced as a whole, too
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _iterate_all_leaves(inner, (*keys, key))


def _replace_leaf(kind: str, name: str, keys: tuple[Any, ...], text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        record = box = _read_record(path)
        for key in keys[:-1]:
            box = box[key]
        box[keys[-1]] = PLACE
        lines = [json.dumps(line) for line in record] if path.suffix == ".jsonl" else [json.dumps(record, indent=1)]
        path.write_text("\n".join(lines).replace(f'"{PLACE}"', text) + "\n", "utf-8")
        _seal(kind, folder, name)

    return change


def _seal(kind: str, folder: Path, name: str) -> None:
    """Make the digests right again after an edit, as an attacker would; what is odd beyond that stays as it is."""
    with suppress(*MALFORMED, OSError):
        if kind in SEALED and "claims" not in name:
            reseal(folder)
        elif kind == "bundle" and name != "manifest.json":
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
            data = (folder / name).read_bytes()
            manifest["files"][name] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def _replace_by(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def _link_moved(name: str, outside: Path) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(outside / "moved")
        (folder / name).symlink_to(outside / "moved")

    return change


def _write_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE_BYTES)


def _add_file(place: str, name: str, kind: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = Path(os.fsdecode(os.fsencode(folder / place) + b"/" + name.encode("utf-8", "surrogateescape")))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ADDED[name])
        _seal(kind, folder, name)

    return change


def _add_many_files(place: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for number in range(MANY):
            (folder / place / f"{number}.txt").touch()

    return change


def _add_linked_templates(place: str, outside: Path) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (outside / "templates").mkdir()
        (outside / "templates/default.jinja").write_text(f"{TEMPLATE}{CANARY}", "utf-8")
        (folder / place / "additional_chat_templates").symlink_to(outside / "templates")

    return change


def _add_link(place: str, target: Path) -> Callable[[Path], None]:
    return lambda folder: (folder / place / "link").symlink_to(target)


def _add_pipe(place: str) -> Callable[[Path], None]:
    return lambda folder: os.mkfifo(folder / place / "pipe")
