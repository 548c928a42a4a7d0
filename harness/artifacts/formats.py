"""File formats allowed in a model's folder.

Formats cannot run code, and configurations cannot make a loader download or import any.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from harness.artifacts.digests import template_digest
from harness.artifacts.folders import list_files
from harness.artifacts.gguf import read_gguf
from harness.artifacts.model_files import ADAPTER, NOTE_PREFIX, TOKENIZER, ambiguity_error, extra_files
from harness.artifacts.safetensors import read_safetensors
from harness.files import open_file
from harness.texts.json_text import read_json

SUFFIXES = {".safetensors", ".gguf", ".json", ".jinja", ".txt", ".model", ".md"}
TEMPLATES = "additional_chat_templates"  # the one folder in a model's folder, of *.jinja alone
LEGAL_FILES = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)([_-][A-Za-z0-9_-]+)?(\.md|\.txt)?")
LIKE_LEGAL = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)([._-].*)?", re.IGNORECASE)
SAFE_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.,+=() -]*[A-Za-z0-9_+=()-])?")
DEVICES = re.compile(r"(CON|PRN|AUX|NUL|CONIN|CONOUT|CLOCK|COM\d|LPT\d) *(\..*)?", re.IGNORECASE)  # on Windows
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f]")  # that no text has; all other formats but text have one
MAGIC = ("#!", "MZ", "%PDF", "%!PS", "!<arch>", "{\\rtf")  # of programs and archives that could be all text
MARKUP = re.compile(r"<(!doctype|html|head|body|script|svg|iframe|\?xml|\?php)\b", re.IGNORECASE)
NAMING, CALLING = {"GLOBAL", "INST"}, {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}  # operations of pickles
MOST_OPERATIONS = 100_000  # of a pickle in a row; no text has as many
LARGEST_JSON = 256 << 20  # bytes; the largest tokenizers have some 40 MB
INDEX = ".safetensors.index.json"
# Keys of configurations that make a library import or fetch code: transformers' auto_map and custom pipelines, its
# attention switch (CVE-2026-4372), what PEFT passes on to a tokenizer, the class PEFT imports for a base.
FORBIDDEN_KEYS = {"auto_map", "trust_remote_code", "custom_pipelines", "custom_generate", "tokenizer_kwargs"}
FORBIDDEN_KEYS |= {"_attn_implementation_internal", "_experts_implementation_internal"}
FORBIDDEN_KEYS |= {"megatron_config", "use_kernels", "kernel_config", "allow_all_kernels"}
OWN_MODULE = re.compile(r"transformers\.models\.[a-z0-9_]+\.modeling_[a-z0-9_]+", re.ASCII)  # that a class may lie in
T = TypeVar("T")
IMPLEMENTATION = re.compile(r"[A-Za-z][\w|-]*", re.ASCII)  # the name of one, "paged|sdpa" too; never of a repository


class UnsafeFileError(ValueError):
    """A file that may not be deployed: its name in the model's folder, and why."""


def is_allowed(path: Path) -> bool:
    """Return whether a file's name is of a deployable type."""
    return path.suffix in SUFFIXES or LEGAL_FILES.fullmatch(path.name) is not None


def is_text_file(name: str) -> bool:
    """Return whether a file is, by its name, for people: a licence, a card, or other text that no loader obeys."""
    return name.endswith((".md", ".txt")) or LEGAL_FILES.fullmatch(name) is not None


def shipping_files(model: Path, only: Iterable[str] = ("*",)) -> list[str]:
    """Return the names of a model's files that may ship.

    These are the weights, configurations, chat templates and texts. `only` are patterns of names; files that match none
    are not checked. Files that another reader would take for the model stay behind, see `model_files.extra_files`, and
    so does any other type, such as a pickle.

    Raises UnsafeFileError at a link that leads out of the folder and of its Hub cache, at a pipe, socket or device, and
    at a name that another system reads as something else.
    """
    model, patterns, found = model.resolve(), tuple(only), list[str]()
    for path in sorted(model.iterdir()):
        if not any(fnmatchcase(path.name, pattern) for pattern in patterns):
            continue
        if path.name == TEMPLATES:
            _require_path_in_model(model, path, stat.S_ISDIR)
            found += [p.relative_to(model).as_posix() for p in sorted(path.iterdir()) if p.suffix == ".jinja"]
        elif stat.S_ISDIR(path.lstat().st_mode):
            continue
        elif path.name.startswith(NOTE_PREFIX) or not (is_allowed(path) or LIKE_LEGAL.fullmatch(path.name)):
            if path.name.startswith(NOTE_PREFIX) or not path.is_symlink():
                _require_path_in_model(model, path, stat.S_ISREG)
        else:
            found.append(path.name)
    for name in found:
        _require_safe_file_name(name)
        _require_path_in_model(model, model / name, stat.S_ISREG)
    _require_case_distinct_names(found)
    others = {*extra_files(model)}
    return [name for name in found if name not in others]


def check_files(model: Path) -> str:
    """Check names, types and content of a model's files.

    Returns their number in words. Raises UnsafeFileError if a format is not allowed, or the content is not of the
    format of the name.
    """
    names = [*list_files(model)]
    _require_case_distinct_names(names)
    tensors, places = dict[str, set[str]](), dict[tuple[Path, str], str]()  # by file, and file by folder and tensor
    for name in names:
        _require_safe_file_name(name)
        path = model / name
        if path.suffix == ".safetensors":
            tensors[name] = set(_read_weight_header(name, path, read_safetensors).tensors)
        elif path.suffix == ".gguf":
            _read_weight_header(name, path, read_gguf)
        else:
            _require_plain_text_file(name, path)
    for file, own in tensors.items():
        for tensor in own:
            if (other := places.setdefault((Path(file).parent, tensor), file)) != file:
                raise UnsafeFileError(f'{file}: tensor "{tensor}" is also in {other}')
    check_indexes(model, tensors)
    if others := extra_files(model, names):
        raise UnsafeFileError(
            f"{others[0]}: holds weights that the harness does not read and another reader would; remove it"
        )
    _require_unambiguous_model(model)
    return f"{len(names)} files"


def _require_unambiguous_model(model: Path) -> None:
    """Raise UnsafeFileError if readers would load different models from a folder."""
    try:
        why = ambiguity_error(model)
    except ValueError as error:
        raise UnsafeFileError(str(error)) from None
    if why:
        raise UnsafeFileError(why)


def _require_safe_file_name(name: str) -> None:
    """Raise UnsafeFileError unless a file name is portable and allowed.

    Every system must read it as the same plain file, of a type that may be deployed.
    """
    folder, _, last = name.rpartition("/")
    if not SAFE_NAME.fullmatch(last) or DEVICES.fullmatch(last):
        raise UnsafeFileError(
            f"{json.dumps(name)}: is not a portable file name; use ASCII letters, digits and _ . , + = ( ) -"
        )
    if folder and (folder != TEMPLATES or not last.endswith(".jinja")):
        raise UnsafeFileError(f"{name}: is in a subfolder; the only one allowed is {TEMPLATES}, with *.jinja files")
    if not is_allowed(Path(last)):
        raise UnsafeFileError(f"{name}: files of this type are not allowed; allowed are {', '.join(sorted(SUFFIXES))}")


def _require_case_distinct_names(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise UnsafeFileError(f'{name}: differs from "{other}" only in upper and lower case; rename one')


def _require_path_in_model(model: Path, path: Path, kind: Callable[[int], bool]) -> None:
    """Raise UnsafeFileError if a path leads out of the model.

    Allowed are the folder itself and the blobs of its Hub cache, where files are links: `snapshots/REVISION/NAME ->
    ../../blobs/SHA256`. Raises it at another type of file than `kind`, too.
    """
    name, about = path.relative_to(model).as_posix(), path.stat()
    real = path.resolve(strict=True)
    homes = [model, model.parents[1] / "blobs"] if model.parent.name == "snapshots" else [model]
    if not any(real.is_relative_to(home) for home in homes):
        raise UnsafeFileError(f"{json.dumps(name)}: is a link that leads out of the folder; copy the file itself there")
    if not kind(about.st_mode):
        raise UnsafeFileError(f"{json.dumps(name)}: is not a {'folder' if kind is stat.S_ISDIR else 'file'}")


def _require_plain_text_file(name: str, path: Path) -> None:
    """Raise UnsafeFileError if a file is not plain text.

    Plain text is UTF-8 without control characters, and no pickle, program or web page. A SentencePiece model passes.
    """
    with open_file(path, follow=True) as f:
        data = f.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise UnsafeFileError(f"{name}: is larger than {LARGEST_JSON} bytes")
    if path.suffix == ".model" and is_sentencepiece(data):
        return
    odd = f"{name}: is an archive, a pickle or a program, despite its name"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UnsafeFileError(f"{odd}; not valid UTF-8") from None
    if CONTROLS.search(text) or text.startswith(MAGIC) or _is_executable_pickle(data):
        raise UnsafeFileError(odd)
    at = re.compile(r"[\s\ufeff]*").match(text).end()  # type: ignore[union-attr]  # it matches nothing, too
    while text.startswith("<!--", at) and (end := text.find("-->", at)) > 0:  # a comment of HTML
        at = re.compile(r"\s*").match(text, end + 3).end()  # type: ignore[union-attr]
    if MARKUP.match(text[at : at + 20]):
        raise UnsafeFileError(f"{name}: is a web page that a browser would run, despite its name")


def is_sentencepiece(data: bytes) -> bool:
    """Return whether bytes are a SentencePiece ModelProto: messages with the numbers of its fields, and nothing else.

    Fields: 1 pieces, 2 trainer_spec, 3 normalizer_spec, 4 self_test_data, 5 denormalizer_spec.
    """
    at, pieces = 0, 0
    while at < len(data):
        tag, at = data[at], at + 1
        if tag not in (0x0A, 0x12, 0x1A, 0x22, 0x2A):  # number << 3 | 2, of a field with a length
            return False
        length = shift = 0
        while True:
            if at >= len(data) or shift > 28:
                return False
            byte, at = data[at], at + 1
            length, shift = length | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                break
        at, pieces = at + length, pieces + (tag == 0x0A)
    return at == len(data) and pieces > 0


def _is_executable_pickle(data: bytes) -> bool:
    """Return whether bytes begin with a pickle that calls something.

    A truncated one counts. Pickles of protocol 0 are plain text, so the character check does not find them.
    """
    import pickletools

    depth, marks, named = 0, list[int](), False
    try:
        for number, (operation, told, _) in enumerate(pickletools.genops(data)):
            named |= operation.name in NAMING and re.fullmatch(r"[\w.]+ [\w.]+", str(told)) is not None
            before, after = len(operation.stack_before), len(operation.stack_after)
            if pickletools.markobject in operation.stack_before:
                depth, before = marks.pop(), operation.stack_before.index(pickletools.markobject)
            if before > depth:
                return False
            if number > MOST_OPERATIONS or (named and operation.name in CALLING):
                return True
            marks += [depth] if operation.name == "MARK" else []
            depth += after - before
    except Exception:  # whatever it stumbles on: a reader would, too
        return False
    return False


def check_indexes(model: Path, tensors: Mapping[str, Collection[str]] | None = None) -> None:
    """Raise UnsafeFileError if an index of shards is wrong.

    It must name files in its own folder, and exactly the tensors that they hold.
    """
    for path in sorted(model.glob(f"*{INDEX}")):
        if tensors is None:
            tensors = {
                p.name: {*_read_weight_header(p.name, p, read_safetensors).tensors} for p in model.glob("*.safetensors")
            }
        index = _read_json_file(path.name, path)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise UnsafeFileError(f"{path.name}: has no weight_map")
        for tensor, file in weight_map.items():
            if not isinstance(file, str) or "/" in file or "\\" in file or file not in tensors:
                raise UnsafeFileError(f"{path.name}: {json.dumps(file)} is not a file in the same folder")
            if tensor not in tensors[file]:
                raise UnsafeFileError(f'{path.name}: "{tensor}" is not in {file}')
        for file in sorted(set(weight_map.values())):
            if lost := set(tensors[file]) - weight_map.keys():
                raise UnsafeFileError(f'{path.name}: lacks the tensor "{min(lost)}", which {file} holds')


def check_configuration(model: Path) -> str:
    """Check all configurations in a model's folder.

    Returns their number in words. Raises UnsafeFileError if one would make a loader fetch code or weights.
    """
    sizes = {name: size for name, size in list_files(model).items() if name.endswith(".json")}
    for name, size in sizes.items():
        data = _read_safe_configuration(name, model / name, size)
        if name.rpartition("/")[2] == ADAPTER and data.get("base_model_name_or_path"):
            raise UnsafeFileError(
                f"{name}: names a base model to download; remove the name, since whoever "
                "deploys an adapter chooses its base"
            )
    return f"{len(sizes)} configurations"


def check_candidate(model: Path) -> None:
    """Raise UnsafeFileError if `verify` would refuse a file in a candidate's export.

    Only files that may ship are checked. An adapter may name its base, and files may be links, as in a download cache.
    """
    names = shipping_files(model)
    for name in names:
        if name.endswith(".json"):
            _read_safe_configuration(name, model / name, (model / name).stat().st_size)
    for name in names:
        if not name.endswith((".safetensors", ".gguf")):  # whose loader says what is wrong with them
            _require_plain_text_file(name, model / name)
    check_indexes(model)
    _require_unambiguous_model(model)
    try:
        template_digest(model)
    except ValueError as error:
        raise UnsafeFileError(str(error)) from None


def _read_safe_configuration(name: str, path: Path, size: int) -> dict[str, Any]:
    if size > LARGEST_JSON:
        raise UnsafeFileError(f"{name}: has {size} bytes, too many for a configuration")
    if not isinstance(data := _read_json_file(name, path), dict):
        raise UnsafeFileError(f"{name}: is not a JSON object")
    for key, value in _iterate_nested_items(_drop_vocab_and_weight_map(name.rpartition("/")[2], data)):
        if key == "auto_mapping" and value and not _is_transformers_auto_mapping(value):
            raise UnsafeFileError(
                f'{name}: "{key}" makes a loader run code, and PEFT does not need it here; set it to null'
            )
        if key in FORBIDDEN_KEYS and value not in (None, False):
            raise UnsafeFileError(f'{name}: "{key}" makes a loader run code; remove it')
        for _, leaf in _iterate_nested_items([value]) if key.endswith("_implementation") else ():
            plain = leaf in (None, False) or (isinstance(leaf, str) and IMPLEMENTATION.fullmatch(leaf))
            if not (plain or isinstance(leaf, (dict, list))):
                raise UnsafeFileError(f'{name}: "{key}" makes a loader download a kernel; remove it')
        if key == "megatron_core" and value not in (None, "megatron.core"):
            raise UnsafeFileError(f'{name}: "{key}" makes a loader run code; remove it')
        if key == "fast_tokenizer_files" and value not in (None, [], [TOKENIZER]):
            raise UnsafeFileError(f'{name}: "{key}" makes a loader read another tokenizer than {TOKENIZER}; remove it')
        if key == "use_pretrained_backbone" and value not in (None, False):
            raise UnsafeFileError(f'{name}: "{key}" makes a loader download weights; remove it')
    return data


def _drop_vocab_and_weight_map(name: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration without its vocabulary or weight map.

    Their keys are words and tensor names, which are no settings.
    """
    if name == "vocab.json" and _has_only_values_of_type(data, int):
        return {}
    if name.endswith(INDEX) and _has_only_values_of_type(data.get("weight_map"), str):
        return {**data, "weight_map": None}
    model = data.get("model")
    if name == "tokenizer.json" and isinstance(model, dict) and _has_only_values_of_type(model.get("vocab"), int):
        return {**data, "model": {**model, "vocab": None}}
    return data


def _has_only_values_of_type(table: Any, kind: type) -> bool:
    return isinstance(table, dict) and all(type(value) is kind for value in table.values())


def _is_transformers_auto_mapping(mapping: Any) -> bool:
    """Return whether PEFT's auto_mapping names a class of transformers itself.

    PEFT writes such a mapping if it was given no task type.
    """
    if not isinstance(mapping, dict):
        return False
    rest = {k: v for k, v in mapping.items() if k not in ("base_model_class", "parent_library")}
    named = OWN_MODULE.fullmatch(str(mapping.get("parent_library")))
    class_ = re.fullmatch(r"[A-Za-z]\w*", str(mapping.get("base_model_class")), re.ASCII)
    return bool(named and class_) and all(value is None or isinstance(value, bool) for value in rest.values())


def _iterate_nested_items(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value at any depth. Items of lists have an empty key."""
    todo = [data]
    while todo:
        here = todo.pop()
        inner = list(here.items()) if isinstance(here, dict) else [("", value) for value in here]
        yield from inner
        todo += [value for _, value in inner if isinstance(value, (dict, list))]


def _read_weight_header(name: str, path: Path, read: Callable[[Path], T]) -> T:
    """Read the header of a weight file. Raises UnsafeFileError if it is malformed or truncated."""
    try:
        return read(path)
    except ValueError as error:
        raise UnsafeFileError(f"{name}: {str(error).removeprefix(f'{path}: ')}") from None


def _read_json_file(name: str, path: Path) -> Any:
    try:
        with open_file(path, follow=True) as f:
            return read_json(f.read().decode("utf-8"))
    except RecursionError:
        raise UnsafeFileError(f"{name}: is nested too deeply") from None
    except ValueError as error:
        raise UnsafeFileError(f"{name}: is not JSON: {' '.join(str(error).split())}") from None
