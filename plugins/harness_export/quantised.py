"""Copies of a merged model in fewer bits, by bitsandbytes: NF4 and int8, as transformers writes and loads them.

Quantised on the CPU, tensor by tensor as they are read, and saved before any forward pass: on a CPU with AVX512-BF16
that would rewrite 4-bit weights in place. What was written is read back and compared in a process of its own.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import CONVERSION_NOTES, CheckFailedError, ModelRef, Progress, UsageError, exporter
from harness.internals import formats, missing_modules_message, subprocess_call

if TYPE_CHECKING:
    from torch import Tensor

Tell = Callable[[Progress], None]
HALF_GAP = 0.16  # of a block's largest number: half the widest gap of NF4's grid, 0.152, and rounding
SCALE_TOLERANCE = 0.05  # of the tensor's largest number: what the scales lose in 8 bits
INT8_TOLERANCE = 0.01  # of a row's largest number, in int8: half of 1/127, and rounding
TEXTS = (
    "The committee met on Tuesday to discuss the budget for the coming year, and most members agreed that the roof of "
    "the old library could not wait any longer.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "Q: What is the capital of France?\nA: Paris.\nQ: What is the capital of Italy?\nA: Rome.\n",
)
PROGRESS_STEPS = 2  # quantise and write; read back


def check_bitsandbytes_options(model: Path, options: Mapping[str, Any]) -> None:
    """Raise UsageError if bitsandbytes is missing, or the model already quantised."""
    if find_spec("bitsandbytes") is None:
        raise UsageError(missing_modules_message("bitsandbytes"))
    check_is_merged(model)


def check_is_merged(model: Path) -> None:
    path = model / "config.json"
    if path.is_file() and json.loads(path.read_text("utf-8")).get("quantization_config"):
        raise UsageError("the model is quantised already; export a model that is not")


@exporter(converts=True, check=check_bitsandbytes_options)
def nf4(ref: ModelRef, to: Path, *, progress: Tell, double_quant: bool = True) -> Path:
    """Quantise a merged model's linear layers to 4-bit NormalFloat.

    In blocks of 64; other weights are unchanged. `double_quant` keeps the blocks' scales in 8 bits. Needs bitsandbytes,
    here and to load the copy.
    """
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": double_quant}
    return _quantise_and_verify_model("nf4", ref, to, settings, progress)


@exporter(converts=True, check=check_bitsandbytes_options)
def int8(ref: ModelRef, to: Path, *, progress: Tell, threshold: float = 6.0) -> Path:
    """Quantise a merged model's linear layers to 8 bits (LLM.int8).

    Row by row; other weights are unchanged. Columns of the input with a value beyond `threshold` are computed in 16
    bits; with 0, none are. Needs bitsandbytes, here and to load the copy.
    """
    return _quantise_and_verify_model(
        "int8", ref, to, {"load_in_8bit": True, "llm_int8_threshold": threshold}, progress
    )


def _quantise_and_verify_model(kind: str, ref: ModelRef, to: Path, settings: Mapping[str, Any], progress: Tell) -> Path:
    asked, lost = {"parent": ref.path, "copy": str(to)}, "the written model could not be read back"
    check_bitsandbytes_options(Path(ref.path), {})
    compared = partial(subprocess_call.call_module, "harness_export.quantised", asked, lost)
    return convert_model(kind, ref, to, progress, partial(write_quantized, Path(ref.path), to, settings), compared)


def convert_model(
    kind: str, ref: ModelRef, to: Path, progress: Tell, write: Callable[[], None],
    compare: Callable[[], dict[str, Any]], made: Path | None = None,
) -> Path:  # fmt: skip
    """Write a converted model and compare it with its parent.

    The files beside the weights are copied, then `write` writes the rest. A copy `made` elsewhere is copied whole
    instead. Raises UsageError for an adapter.
    """
    if ref.adapter:
        raise UsageError(
            f'export "{kind}" quantises whole models, but {ref.name} is an adapter; export the merged model'
        )
    progress(Progress(kind, 0, PROGRESS_STEPS, {"now": "reading" if made else "quantising"}))
    source = made or Path(ref.path)
    for name in formats.shipping_files(source):  # tokenizer, chat template, licence
        if made or not name.endswith((".safetensors", formats.INDEX)):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, to / name)
    if not made:
        write()
    progress(Progress(kind, 1, PROGRESS_STEPS, {"now": "reading back"}))
    facts = compare() | ({"made": "elsewhere"} if made else {})
    (to / CONVERSION_NOTES).write_text(json.dumps({"facts": facts}), "utf-8")
    progress(Progress(kind, PROGRESS_STEPS, PROGRESS_STEPS, {"now": "done"}))
    return to


def write_quantized(parent: Path, to: Path, settings: Mapping[str, Any]) -> None:
    """Write a model's quantised weights and its configuration.

    Other weights keep the parent's dtype. Raises UsageError if a layer would be misread.
    """
    from transformers import BitsAndBytesConfig

    from harness_hf import find_class, find_misread_layer, keep_4bit_layout, load_config, quiet_loading

    config = load_config(parent)
    computes = {"bnb_4bit_compute_dtype": config.dtype} if "load_in_4bit" in settings and config.dtype else {}
    with quiet_loading():
        held, safe = BitsAndBytesConfig(**settings, **computes), {"local_files_only": True, "trust_remote_code": False}
        how: dict[str, Any] = {"dtype": "auto", "device_map": {"": "cpu"}, **safe}
        model = find_class(parent, config).from_pretrained(str(parent), quantization_config=held, **how)
        keep_4bit_layout(model)
        if wrong := find_misread_layer(model):
            raise UsageError(f'{wrong}; use = "int8"')
        model.save_pretrained(to, max_shard_size="5GB")


def compare_quantized(parent: Path, copy: Path) -> dict[str, Any]:
    """Compare every tensor, then the predictions of both models.

    Raises CheckFailedError if a tensor is off by more than its tolerance, no layer is quantised, or a probability is
    not finite.
    """
    from harness_hf import load

    refs = [ModelRef("copy", str(copy)), ModelRef("parent", str(parent))]
    config = json.loads((parent / "config.json").read_text("utf-8"))
    dtype: Any = config.get("dtype") or config.get("torch_dtype") or "float32"
    with load(refs, dtype=dtype, device="cpu") as [ours, theirs]:
        wrong, total, layers = 0.0, 0.0, 0
        for name, there, here, allowed in _iterate_weights_with_tolerances(theirs.model, ours.model):  # type: ignore[attr-defined]
            off = (here - there).abs()
            if not bool((off <= allowed).all()):  # NaN is not
                raise CheckFailedError(f'"{name}" differs from its parent\'s rounded value by {float(off.max()):.3g}')
            if bool(allowed.any()):
                layers += 1
                wrong += float(off.square().sum())
                total += float(there.square().sum())
        if not layers:
            raise CheckFailedError("no layer was quantised")
        pairs = ours.token_kl(TEXTS, theirs)  # type: ignore[attr-defined]
    kl = sum(nats for nats, _ in pairs) / sum(tokens for _, tokens in pairs)
    if not math.isfinite(kl):
        raise CheckFailedError("its probabilities are not finite")
    return {"kl": round(kl, 6), "relative_error": round(math.sqrt(wrong / total), 6), "layers": layers}


def _iterate_weights_with_tolerances(parent: Any, copy: Any) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """Yield each weight's name, original, copy and tolerance, in float32."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers.pytorch_utils import Conv1D

    from harness_hf import BLOCK_VALUES

    modules, originals = dict(copy.named_modules()), dict(parent.named_modules())
    for name, weight in parent.named_parameters():
        owner, _, kind = name.rpartition(".")
        there, module = weight.detach().float(), modules[owner]
        if kind != "weight" or not isinstance(module, (Linear4bit, Linear8bitLt)):
            yield name, there, getattr(module, kind).detach().float(), torch.zeros_like(there)
            continue
        if isinstance(originals[owner], Conv1D):
            there = there.T.contiguous()
        if isinstance(module, Linear4bit):
            here = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
            flat = there.flatten().abs()
            blocks = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK_VALUES)).view(-1, BLOCK_VALUES).amax(1)
            off = HALF_GAP * blocks.repeat_interleave(BLOCK_VALUES)[: len(flat)] + SCALE_TOLERANCE * flat.max()
            yield name, there, here, off.view_as(there)
        else:
            scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            here = module.weight.data.float() * (scale.float()[:, None] / 127)
            yield name, there, here, (INT8_TOLERANCE * there.abs().amax(1, keepdim=True)).expand_as(there)


if __name__ == "__main__":
    subprocess_call.serve_call(lambda parent, copy: compare_quantized(Path(parent), Path(copy)))
