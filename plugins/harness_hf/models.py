"""Load tokenizers and causal LMs with transformers: dtype, device, 4-bit and adapters, and what must hold of them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from harness import CheckFailedError, UsageError
from harness.internals import ambiguity_error, missing_modules_message, probe_gpus, read_gpu, read_safetensors
from harness_hf.classes import config_of_class, find_class, load_config
from harness_hf.cpu import use_cpu_kernels

BUFFERS = re.compile(r"rotary_emb\.inv_freq$|masked_bias$|(attn|attention)\.bias$|position_ids$")  # that old files hold
BLOCK_VALUES = 64  # numbers that share a scale in NF4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_tokenizer(path: str | Path) -> Any:
    """Load the tokenizer of a model's folder. Raises UsageError if there is none."""
    try:
        # where mistral-common is installed, its own file would come before the one that all others read
        told = {"mistral_format": False} if (Path(path) / "tokenizer.json").is_file() else {}
        told |= {"local_files_only": True, "trust_remote_code": False}
        with quiet_loading():
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), **told)
    except MemoryError:
        raise
    except Exception as error:  # the Rust library raises plain ones, and others what a field of another type does
        raise UsageError(f'model "{path}": its tokenizer cannot be loaded: {format_one_line(error)}') from None
    files = {*tokenizer.vocab_files_names.values()}  # none of a tokenizer of bytes
    if files and Path(path).is_dir() and not any((Path(path) / name).is_file() for name in (*files, "tekken.json")):
        what = f"has no tokenizer, none of {', '.join(sorted(files))}; a processor alone has no vocabulary"
        raise UsageError(f'model "{path}": {what}; copy the files from the model it was trained from')
    return tokenizer


def load_model(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | dict[str, Any] | None = None,
    threads: int | None = None,
    quantization: Mapping[str, Any] | None = None,
    adapter: Path | None = None,
    attention: str | None = None,
    cpu_kernels: bool = True,
) -> Any:
    """Load a causal LM from a folder in eval mode.

    With an adapter it is a PeftModel. `quantization` holds the keywords of a BitsAndBytesConfig; its compute dtype is
    the model's unless it says otherwise; `attention` is transformers' attn_implementation. Raises UsageError if the
    folder holds no causal LM or the adapter does not fit it.
    """
    if threads:
        torch.set_num_threads(threads)
    place = _require_device_with_free_memory(device)
    wanted = resolve_dtype(dtype, place)
    options: dict[str, Any] = {"dtype": wanted, "local_files_only": True, "trust_remote_code": False}
    options |= {"attn_implementation": attention} if attention else {}
    if quantization:
        if importlib.util.find_spec("bitsandbytes") is None:
            raise UsageError(f"quantization: {missing_modules_message('bitsandbytes')}")
        try:
            bits = transformers.BitsAndBytesConfig(**{"bnb_4bit_compute_dtype": wanted, **quantization})
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"quantization: {format_one_line(error)}") from None
        options["quantization_config"] = bits
    stored = _has_quantization_config(path)
    if device_map or quantization or stored:
        options["device_map"] = device_map or {"": place}
    model = _load_pretrained(path, options)
    if not (device_map or quantization or stored):
        model.to(place)
    keep_4bit_layout(model)
    if wrong := find_misread_layer(model):
        raise UsageError(f'model "{path}": {wrong}; use = "lora", or a GPU')
    for module in _find_linear4bit(model).values() if stored else ():
        module.compute_dtype = wanted  # as where it is quantised while it is loaded; the file names another machine's
    if adapter:
        model = add_adapter(model, adapter)
    use_cpu_kernels(model, cpu_kernels)
    return model.eval()


def build_skeleton(path: str | Path, dtype: str = "", attention: str | None = None) -> Any:
    """Build a folder's model without weights, in eval mode. Raises UsageError if it cannot generate text."""
    config = load_config(path)
    options: dict[str, Any] = {"dtype": DTYPES[dtype]} if dtype else {}
    options |= {"attn_implementation": attention} if attention else {}
    made = find_class(path, config)
    with quiet_loading(), torch.device("meta"):
        return made._from_config(config_of_class(made, config), **options).eval()


def _load_pretrained(path: str | Path, options: Mapping[str, Any]) -> Any:
    made = find_class(path, load_config(path))
    try:
        how = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
        with quiet_loading():
            model, found = made.from_pretrained(str(path), **how)
    except torch.OutOfMemoryError as error:
        what = f"does not fit into memory: {format_one_line(error)}; choose a smaller dtype or a device_map"
        raise UsageError(f'model "{path}": {what}') from None
    except MemoryError:
        raise
    except Exception as error:  # whatever a class of transformers or a quantiser's library raises at odd settings
        raise UsageError(f'model "{path}": cannot be loaded as a causal LM: {format_one_line(error)}') from None
    for name, there, wanted in sorted(found["mismatched_keys"]):
        raise UsageError(f'model "{path}": "{name}" has shape {list(there)}, but its config.json needs {list(wanted)}')
    if missing := found["missing_keys"]:  # transformers fills them with random numbers, and only warns
        ends = ((key, key.split(".", i)[-1]) for key in found["unexpected_keys"] for i in range(1, key.count(".")))
        if before := next((key.removesuffix(end) for key, end in ends if end in missing), ""):
            raise UsageError(
                f'model "{path}": its tensors\' names begin with "{before}"; save the model without its wrapper'
            )
        raise UsageError(f'model "{path}": "{min(missing)}" is not in its files; save the whole model')
    # What a model does not use another reader might; known buffers apart. One with more parts than text is loaded
    # without them, and its files name it by another class.
    left = sorted(name for name in found["unexpected_keys"] if not BUFFERS.search(name))
    if left and type(model).__name__ in (model.config.architectures or ()) and not _has_quantization_config(path):
        what = f'"{left[0]}" is in its files, but the model does not use it'
        raise UsageError(f'model "{path}": {what}, so other programs may load another model; remove it from the files')
    text = model.config.get_text_config()
    if why := ambiguity_error(Path(path), tied=bool(getattr(text, "tie_word_embeddings", False))):
        raise UsageError(f'model "{path}": {why}')
    return model


def _has_quantization_config(path: str | Path) -> bool:
    try:
        config = json.loads((Path(path) / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False  # told by transformers
    return bool(config.get("quantization_config"))


def add_adapter(model: transformers.PreTrainedModel, adapter: Path, name: str = "default") -> Any:
    """Add a PEFT adapter for inference, and return the PeftModel.

    A PeftModel gets one more. Raises UsageError if it was made for another base, or if PEFT does not find all of it.
    """
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    with adapter_errors_in_one_line(adapter), quiet_loading(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)  # told below
        warnings.filterwarnings("ignore", "Unexpected keyword arguments", UserWarning)  # notes of other tools
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)  # of parameters
        if isinstance(model, PeftModel):
            found = model.load_adapter(str(adapter), adapter_name=name)
        else:  # that tells nobody what it did not find, so the weights are set once more
            model = PeftModel.from_pretrained(model, str(adapter), adapter_name=name)
            found = set_peft_model_state_dict(model, load_peft_weights(str(adapter), device="cpu"), name)
        check_loaded_tensors(found, adapter, name)
    use_cpu_kernels(model)
    return model


@contextmanager
def adapter_errors_in_one_line(adapter: Path) -> Iterator[None]:
    """Turn PEFT's loading errors into a one-line UsageError. It names the adapter."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
        told = (
            f'adapter "{adapter}": does not fit the base: {format_one_line(error)}; check which base it was trained on'
        )
        raise UsageError(told) from None


def check_loaded_tensors(found: Any, adapter: Path, name: str) -> None:
    """Raise ValueError if adapter tensors are left over or missing. `found` is PEFT's result of loading it."""
    if keys := found.unexpected_keys:
        raise ValueError(f'PEFT cannot place {len(keys)} of its tensors, for instance "{min(keys)}"')
    if keys := [key for key in found.missing_keys if "lora_" in key and name in key.split(".")]:
        what = f"it lacks {len(keys)} of the tensors that its adapter_config.json requires"
        raise ValueError(f'{what}, for instance "{min(keys)}"')


def rewrites_base(adapter: Path) -> bool:
    """Return whether loading an adapter changes its base's weights.

    Such a base cannot be shared. True for anything but a plain LoRA: a bias, modules saved whole, weights of the base
    that were saved along, or an initialisation such as PiSSA or OLoRA that moves part of the base into the adapter.
    Raises UsageError if the adapter is unreadable.
    """
    try:
        config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
        tensors = read_safetensors(adapter / "adapter_model.safetensors").tensors
    except (OSError, ValueError):
        what = "has no readable adapter_config.json and weights; name a PEFT folder"
        raise UsageError(f'adapter "{adapter}": {what}') from None
    return (
        config.get("init_lora_weights", True) not in (True, False, "gaussian", "orthogonal", "eva")
        or config.get("peft_type") != "LORA"
        or config.get("bias", "none") != "none"
        or any(config.get(name) for name in ("modules_to_save", "lora_bias", "trainable_token_indices"))
        or not all(".lora_" in name for name in tensors)
    )


def keep_4bit_layout(model: transformers.PreTrainedModel) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in place.

    On a CPU with AVX512-BF16, Linear4bit's first eval forward rewrites the weight for a faster kernel and leaves
    nothing to tell it apart: gradients, dequantisation and merging are wrong from then on, and nothing is raised.
    """
    for module in _find_linear4bit(model).values():
        module.support_avx512bf16_for_cpu = False


def find_misread_layer(model: transformers.PreTrainedModel) -> str:
    """Describe a 4-bit CPU layer that bitsandbytes misreads. Empty if there is none.

    0.50.2 decodes rows of an even width that is no multiple of the block with the scales of other rows, without a word;
    a GPU reads them right.
    """
    for name, module in _find_linear4bit(model).items():
        width = module.in_features
        if module.weight.device.type == "cpu" and width % BLOCK_VALUES and width % 2 == 0:
            what = f'"{name}" has {width} inputs, not a multiple of {BLOCK_VALUES}'
            return f"{what}, so bitsandbytes computes it wrongly on a CPU"
    return ""


def assert_not_repacked(model: transformers.PreTrainedModel) -> None:
    """Raise RuntimeError when a 4-bit weight was repacked (see keep_4bit_layout).

    Call it before training, merging or dequantising.
    """
    for module in _find_linear4bit(model).values():
        states = (getattr(module.weight, "quant_state", None), getattr(module, "quant_state", None))
        if any(getattr(state, "packing_format_for_cpu", False) for state in states):
            raise CheckFailedError(
                "a 4-bit weight was repacked for CPU inference by bitsandbytes; load the model again"
            )


def _find_linear4bit(model: transformers.PreTrainedModel) -> dict[str, Any]:
    loaded = sys.modules.get("bitsandbytes.nn")  # no 4-bit weight without it, and importing it is slow
    return {n: module for n, module in model.named_modules() if isinstance(module, loaded.Linear4bit)} if loaded else {}


def resolve_device(device: str) -> torch.device:
    """Return the device by name; "auto" is CUDA, else MPS, else CPU.

    Raises UsageError if it is not there, and if "auto" finds a GPU that PyTorch was built for and cannot use.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = device.partition(":")[0]
    if not there["cuda"] and (why := probe_gpus().find_device_error(device)):
        raise UsageError(why)
    if device == "auto":
        device = name = next(name for name, ok in there.items() if ok)
    if not there.get(name, False):
        known = ", ".join(f'"{name}"' for name, ok in there.items() if ok)
        raise UsageError(f'[model] device "{device}": is not on this machine; available: {known}')
    return torch.device(device)


def _require_device_with_free_memory(device: str) -> torch.device:
    """Return the device by name, a GPU with its number.

    A library that loads in threads of its own takes a GPU without a number for GPU 0, even if this process has chosen
    another. Raises UsageError if the device is not there, or if it is a full GPU.
    """
    if (place := resolve_device(device)).type != "cuda":
        return place
    place = torch.device("cuda", torch.cuda.current_device() if place.index is None else place.index)
    if full := read_gpu(place.index).find_full_error(place.index):
        raise UsageError(f"[model] device: {full}")
    return place


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype by name; "auto" depends on the hardware.

    It is bfloat16 where the hardware computes in it, else float16 on CUDA and float32 elsewhere. A CPU that only
    emulates bfloat16 is several times slower in it than in float32. Raises UsageError if the name is unknown.
    """
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != "auto":
        raise UsageError(f'[model] dtype "{dtype}": unknown; known: "auto", "float32", "bfloat16", "float16"')
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = device.type == "cpu" and any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return torch.bfloat16 if native else torch.float32


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence libraries' progress bars, advice and deprecations while loading."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def format_one_line(error: BaseException) -> str:
    """Format an error as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
