"""Merge a LoRA into its base, a block of rows at a time: safetensors in, sum in float64, one cast, safetensors out.

In float32 a sum that nearly cancels is off by several units in the last place of a bfloat16.

PEFT's `merge_and_unload` is not used: on a 4-bit model it quantises the sum again, which can round the whole
fine-tune away, and in half precision it rounds the update before it is added.

Imports torch: import this module inside functions.
"""
# ruff: noqa: TID253 (imported only where something is merged)

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from safetensors import safe_open

from harness import (
    TEMPLATE_FILES,
    Finding,
    Progress,
    Safetensors,
    UnsafeFile,
    UsageError,
    check_indexes,
    copy_range,
    read_safetensors,
    shipping_files,
)
from harness_lora.adapter import read_config
from harness_lora.fields import REFUSED, REWRITTEN, unknown
from harness_lora.headers import Header, read_headers, split_name
from harness_lora.layout import Layout, Place, Target, adapt, saved, targets

WEIGHTS = "adapter_model.safetensors"

FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
BLOCK = 1 << 18  # elements that are added and rounded at a time; they stay in the processor's cache
MAGNITUDE = 2**-7  # relative; a DoRA starts with the norms of the weights, which half precision rounds
MOST_THREADS = 8  # that add and write, each a block at a time; more would wait for the disk
CODE = ("quantization_config", "auto_map")  # of a configuration: what the merged weights are not, and what is not run
COPIED = ["*token*", "vocab*", "merges.txt", "*.model", "tekken.json", "chat_template*", "generation_config.json"]
COPIED += ["LICENSE*", "NOTICE*", "*.safetensors.index.json", "config.json", TEMPLATE_FILES]

Tensors = Mapping[str, torch.Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What becomes of a base's tensors, by name; `config` has the ranks and alphas that PEFT gave to parameters."""

    config: Any
    places: Mapping[str, Place]
    added: Mapping[str, tuple[str, Tensors]]  # by which name PEFT knows it, and its parts, lora_A and so on
    replaced: Tensors  # modules_to_save
    rounded: frozenset[str]  # what a 4-bit load quantises
    transposed: frozenset[str]  # Conv1D keeps its weight as (in, out), and so does an embedding

    @property
    def must(self) -> set[str]:
        """Name the tensors that a merge changes; one that is rounded to 4 bits may change too."""
        return {*self.added, *self.replaced}


@dataclass
class Merge:
    """One merge: what it reads, how it adds, and which tensors came out other than they were.

    Blocks are added and written by threads that have one core each. Operations this small, spread over all cores by
    torch, spend more on waiting for each other than on adding, and with a busy core nearly everything.
    """

    plan: Plan
    quantization: Mapping[str, Any] | None
    dtype: torch.dtype  # in which a 4-bit model was loaded
    pool: Executor
    tick: Callable[[], None] = lambda: None
    changed: set[str] = field(default_factory=set)

    def file(self, source: Path, to: Path) -> None:
        """Write one file of the base again, tensor by tensor in the order they lie in; most are copied as they are."""
        about = read_safetensors(source)
        with safe_open(source, "pt") as opened, source.open("rb") as old, to.open("wb", buffering=0) as new:
            new.write(_header(about))
            start = new.tell()
            for name in sorted(about.tensors, key=lambda n: int(about.tensors[n]["data_offsets"][0])):
                begin, end = about.tensors[name]["data_offsets"]
                if name in self.plan.must or name in self.plan.rounded:
                    self.tensor(name, opened.get_tensor(name), new, start + begin)
                else:
                    new.seek(start + begin)
                    copy_range(old, new, about.start + begin, end - begin)
                self.tick()

    def tensor(self, name: str, before: torch.Tensor, to: IO[bytes], start: int) -> None:
        """Write a tensor of the merged model in the dtype it has in the base; raises Finding when it is not finite."""
        before = as_rows(before)
        row = math.prod(before.shape[1:]) * before.element_size()

        def block(rows: slice, total: torch.Tensor) -> None:
            after = total.to(before.dtype)
            if not is_finite(after):
                raise Finding(
                    f'merge: "{name}" is not finite in {dtype_name(before.dtype)} [merge-finite]: its greatest weight '
                    f"would be {float(total.abs().max()):.3g}, the limit is {torch.finfo(before.dtype).max:.3g}; the "
                    "adapter is broken: train again at a lower rate, or choose a base in bfloat16"
                )
            if name not in self.changed and not torch.equal(before[rows], after):
                self.changed.add(name)
            _write(after, to, start + rows.start * row)

        self.blocks(name, before, block)

    def blocks(self, name: str, before: torch.Tensor, use: Callable[[slice, torch.Tensor], T]) -> list[T]:
        """Return what `use` makes of each block of rows of the merged tensor, before it is rounded; in threads.

        The rows of a stack of matrices are those of all of them, one below the other.
        """
        before = as_rows(before)
        make = self.maker(name, before)
        step = max(1, BLOCK // max(1, math.prod(before.shape[1:])))

        def block(at: int) -> T:
            rows = slice(at, at + step)
            return use(rows, make(rows))

        return list(self.pool.map(block, range(0, len(before), step)))

    def maker(self, name: str, weight: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """Return what makes rows of the merged tensor; a row of the product needs no other row."""
        new = self.given(name, weight)
        if name in self.plan.replaced:
            return new.__getitem__
        if name in self.plan.transposed:
            return self.pool.submit(self.sum, name, new, slice(None)).result().T.__getitem__
        return lambda rows: self.sum(name, new, rows)

    def given(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return what is added to, of shape (out, in), as a 4-bit load has it; or what is put in its place."""
        _, parts = self.plan.added.get(name, ("", {}))
        given = as_rows(self.plan.replaced.get(name, parts.get("base_layer", weight)))  # an adapter may bring it along
        if given.shape != weight.shape:
            raise Finding(f'merge: "{name}" has another shape than in the base')
        if name in self.plan.replaced:
            return given
        new = given.to(weight.dtype)
        new = new.T if name in self.plan.transposed else new
        return (
            round_to_4bit(new, self.quantization, self.dtype)
            if name in self.plan.rounded and self.quantization
            else new
        )

    def moves(self, name: str, weight: torch.Tensor) -> bool:
        """Return whether the adapter changes a tensor, other than by rounding; rows of an embedding always count."""
        if name in self.plan.replaced:
            return not torch.equal(self.plan.replaced[name].to(weight.dtype), weight)
        _, parts = self.plan.added[name]
        if "lora_A" not in parts:
            return any(bool(part.any()) for part in parts.values())
        if parts["lora_A"].any() and parts["lora_B"].any():
            return True
        if "lora_magnitude_vector" not in parts:
            return False
        norms = torch.linalg.norm(self.given(name, as_rows(weight)).double(), dim=1)
        scales = parts["lora_magnitude_vector"].double().flatten() / norms
        return bool(((scales - 1).abs() > MAGNITUDE).any())

    def sum(self, name: str, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        if name not in self.plan.added:
            return weight[rows]
        module, parts = self.plan.added[name]
        total = weight[rows].double()
        if "lora_bias" in parts:
            scale = scale_of(module.removesuffix(".bias"), self.plan.config)
            return total.add_(parts["lora_bias"][rows].double(), alpha=scale)
        if "trainable_tokens_delta" in parts:
            return put_tokens(total, module, parts["trainable_tokens_delta"], self.plan.config, rows)
        return add_lora(total, module, parts, self.plan.config, rows)


def check_mergeable(config: Any, *, trained: bool = False) -> None:
    """Raise UsageError for a LoraConfig whose merge is not proven; `trained` when it is read from an adapter."""
    known, plain = {option.name for option in dataclasses.fields(LoraConfig)}, LoraConfig()
    refused = {**dict.fromkeys(unknown(known), "no test proves it here yet"), **REFUSED}
    for name, why in refused.items():
        if getattr(config, name) != getattr(plain, name):
            raise UsageError(f'[merge] an adapter with "{name}" is not merged: {why}; ship the adapter')
    start = config.init_lora_weights
    if trained and isinstance(start, str) and start.startswith(REWRITTEN):
        raise UsageError(
            f'[merge] an adapter initialised with "{start}": it belongs to a rewritten base; '
            "convert it with PEFT's path_initial_model_for_weight_conversion"
        )


def check_base(base: Path, config: Any | None = None) -> tuple[dict[str, Header], Sequence[str]]:
    """Return the tensors of a base, and which other files go along; raises UsageError when nothing is merged onto it.

    With a `config`, also when PEFT would adapt what is made of several tensors in a way that is not merged here.
    """
    there = read_headers(base)
    _refuse_quantised(base, there)
    try:
        check_indexes(base)
        names = shipping_files(base, COPIED)
    except UnsafeFile as error:
        raise UsageError(f'[merge] base "{base}": {error}') from None
    if config:
        layout = Layout(base, there)
        adapted = adapt(layout.model, config)
        chosen = [target.parameter for _, target in targets(adapted)]
        for parameter in chosen:
            if parameter in layout.twins:
                pair = (name.removesuffix(".weight") for name in (parameter, layout.twins[parameter]))
                raise UsageError(f"[merge] {_unmergeable(*pair)}")
        for parameter in (*chosen, *saved(adapted)):
            layout.tensors(parameter)
    return there, names


def merge_folder(
    base: Path,
    adapter: Path,
    out: Path,
    quantization: Mapping[str, Any] | None,
    note: Mapping[str, Any],
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Write the merged model to `out`; with `quantization`, onto the base as a 4-bit load has it.

    Memory: the adapter, and a block of rows a thread (the whole tensor, if it is rounded to 4 bits). Raises
    UsageError when the base or the adapter is of a kind that cannot be merged, Finding when the result is not finite
    or not what was to change.
    """
    there, names = check_base(base)
    plan = make_plan(base, adapter, there, quantization)
    done = iter(range(1, len(there) + 1))

    def tick() -> None:
        number = next(done)
        if progress:
            progress(Progress("merge", number, len(there)))

    with workers() as pool:
        merge = Merge(plan, quantization, dtype_of(note), pool, tick)
        if not any(merge.moves(name, _read(there[name].file, name)) for name in sorted(plan.must)):
            raise Finding("merge: the adapter is zero, so the merged model would be its base; was anything trained?")
        for file in sorted({header.file for header in there.values()}):
            merge.file(file, out / file.name)
    _copy_rest(base, names, out)
    check_changed(merge.changed, plan)  # one tensor may round to what it was, all of them may not


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def dtype_of(note: Mapping[str, Any]) -> torch.dtype:
    """Return the dtype in which a 4-bit base was loaded for the training."""
    found: torch.dtype = getattr(torch, note.get("dtype", "float32"))
    return found


@contextmanager
def workers() -> Iterator[Executor]:
    """Yield as many threads as torch may use, each of which computes alone."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(min(threads, MOST_THREADS), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # a thread's own number is also that of threads to come


def _write(tensor: torch.Tensor, to: IO[bytes], at: int) -> None:
    data = tensor.contiguous().flatten().view(torch.uint8).numpy().data
    while data:
        done = os.pwrite(to.fileno(), data, at)
        data, at = data[done:], at + done


def check_changed(changed: set[str], plan: Plan) -> None:
    """Raise Finding when no tensor changed that was to change."""
    if not changed & plan.must:
        raise Finding(
            f"merge: the merged model equals its base [merge-base]: 0 of {len(plan.must)} adapted tensors changed, "
            "at least 1 must; the adapter is too small for the base's dtype: train longer or at a higher rate, or ship "
            "the adapter"
        )


def make_plan(base: Path, adapter: Path, there: Mapping[str, Header], quantization: Mapping[str, Any] | None) -> Plan:
    """Match the adapter's tensors with the base's; raises UsageError for what cannot be merged."""
    added: dict[str, tuple[str, dict[str, torch.Tensor]]] = {}
    replaced: dict[str, torch.Tensor] = {}
    layout = Layout(base, there)
    twins = {a.removesuffix(".weight"): b.removesuffix(".weight") for a, b in layout.twins.items()}
    linears = _linears(layout.model)
    rounded = {layout.tensor(name) for name in _quantised(layout.model, linears)} if quantization else set()
    if None in rounded:
        raise UsageError(f'[merge] base "{base}": its files name layers otherwise than the model; use "original"')
    transposed = {layout.tensor(name) for name, kind in linears.items() if kind == "Conv1D"}
    adapted = adapt(layout.model, read_config(adapter))
    config, known = adapted.peft_config["default"], dict(targets(adapted))
    parts = {split_name(key): tensor for key, tensor in _loaded(adapter, adapted).items()}
    for (module, part), tensor in parts.items():
        target = known.get(module) or Target(layout.parameter(module), module)
        found, tied = layout.tensors(target.parameter), module in twins
        if tied and not part and (twin := parts.get((twins[module], ""))) is not None:  # trained as one, saved twice
            tied = not torch.equal(tensor, twin)
            if not found and not tied:
                continue
        if not found or (tied and part != "trainable_tokens_delta"):
            raise UsageError(f"[merge] {_unmergeable(module, twins.get(module))}")
        for name in found:
            transposed |= {name} if part.startswith("lora_embedding") else set()
            share, value = target.share(layout.places[name], part.replace("lora_embedding", "lora"), tensor)
            if part:
                added.setdefault(name, (target.key, {}))[1][share] = value
            else:
                replaced[name] = value
    rest = (frozenset(filter(None, names)) for names in (rounded, transposed))
    return Plan(config, layout.places, added, replaced, *rest)


def _loaded(adapter: Path, adapted: Any) -> Tensors:
    """Return an adapter's tensors by the names that PEFT loads them by; those of experts may have been saved singly."""
    with safe_open(adapter / WEIGHTS, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in read_headers(adapter, WEIGHTS)}
    loaded: Tensors = convert_peft_adapter_state_dict_for_transformers(adapted, adapted.peft_config["default"], tensors)
    return loaded


def _unmergeable(module: str, twin: str | None) -> str:
    """Return why the weight of an adapted module is not added to."""
    if twin is None:
        return f'the adapter has weights for "{module}", and the base has none; is this the base it was trained on?'
    return (
        f'"{module}" and "{twin}" are one weight in this base, and an adapter changes each by itself, which one merged '
        "weight cannot hold; ship the adapter, or train with targets that leave them out"
    )


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, "pt") as opened:
        tensor: torch.Tensor = opened.get_tensor(name)
        return tensor


def add_lora(weight: torch.Tensor, module: str, parts: Tensors, config: Any, rows: slice = slice(None)) -> torch.Tensor:
    """Return rows of W + s·B·A, W of shape (out, in), in W's dtype; for DoRA m·(W + s·B·A)/‖W + s·B·A‖, norms per row.

    s is alpha/r, or alpha/√r with rslora (Kalajdzievski 2023, arXiv:2312.03732); DoRA: Liu et al. 2024,
    arXiv:2402.09353, section 4.1. Raises Finding when the rank is not the configuration's.
    """
    a, b = parts["lora_A"], parts["lora_B"]
    if a.dim() == 3:
        return torch.cat(list(_add_to_stack(weight, module, parts, config, rows.start)))
    if config.use_bdlora:  # the blocks of a diagonal are saved one below the other
        blocks = config.use_bdlora.nblocks
        a = _diagonal(a, blocks) if a.shape[1] != weight.shape[1] else a
        b = _diagonal(b, blocks) if b.shape[1] != a.shape[0] else b
    r = rank_of(module, config)
    if a.shape[0] != r:
        raise Finding(f'adapter: "{module}" has rank {a.shape[0]}, its configuration says {r}')
    total: torch.Tensor = torch.addmm(
        weight, b[rows].to(weight.dtype), a.to(weight.dtype), alpha=scale_of(module, config)
    )
    if config.use_dora:
        norm = torch.linalg.norm(total, dim=1, keepdim=True)
        total = parts["lora_magnitude_vector"][rows].to(weight.dtype).view(-1, 1) / norm * total
    return total


def _add_to_stack(weight: torch.Tensor, module: str, parts: Tensors, config: Any, begin: int) -> Iterator[torch.Tensor]:
    """Yield what `add_lora` makes of rows of a stack of matrices (E, out, in), matrix by matrix."""
    a, b = parts["lora_A"], parts["lora_B"]  # (E, r, in), (E, out, r)
    out, done = b.shape[1], 0
    while done < len(weight):
        number, row = divmod(begin + done, out)
        some = weight[done : done + out - row]
        own = {"lora_A": a[number], "lora_B": b[number]}
        yield add_lora(some, module, own, config, slice(row, row + len(some)))
        done += len(some)


def _diagonal(part: torch.Tensor, blocks: int) -> torch.Tensor:
    whole: torch.Tensor = torch.block_diag(*part.chunk(blocks))  # type: ignore[no-untyped-call]
    return whole


def rank_of(module: str, config: Any) -> int:
    """Return the rank that a module's adapter has by its configuration."""
    return int(config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), module), config.r))


def scale_of(module: str, config: Any) -> float:
    """Return what B·A is multiplied with: alpha/r, or alpha/√r with rslora."""
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    r = rank_of(module, config)
    return float(alpha / (math.sqrt(r) if config.use_rslora else r))


def put_tokens(weight: torch.Tensor, module: str, trained: torch.Tensor, config: Any, rows: slice) -> torch.Tensor:
    """Return rows of an embedding in which those of the trained tokens are replaced."""
    chosen = config.trainable_token_indices
    if isinstance(chosen, dict):
        chosen = next(tokens for name, tokens in chosen.items() if module == name or module.endswith(f".{name}"))
    begin = rows.start or 0
    for token, row in zip(chosen, trained, strict=True):
        if begin <= token < begin + len(weight):
            weight[token - begin] = row.to(weight.dtype)
    return weight


def as_rows(weight: torch.Tensor) -> torch.Tensor:
    """Return a stack of matrices (E, out, in) as one matrix (E·out, in); others as they are."""
    return weight.flatten(0, -2) if weight.dim() > 2 else weight


def is_finite(weight: torch.Tensor) -> bool:
    """Say whether no element is NaN or infinite; a sum that is finite says so in a tenth of the time."""
    if not weight.is_floating_point() or torch.isfinite(weight.sum(dtype=torch.float32)):
        return True
    return bool(torch.isfinite(weight).all())


def round_to_4bit(weight: torch.Tensor, quantization: Mapping[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """Return a weight as it comes back from the 4-bit load of a model in `dtype`, in float32 on the CPU."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    held = Params4bit(
        weight.to(dtype).contiguous(),
        requires_grad=False,
        compress_statistics=quantization["bnb_4bit_use_double_quant"],
        quant_type=quantization["bnb_4bit_quant_type"],
    ).to(device)
    back: torch.Tensor = dequantize_4bit(held.data, held.quant_state)
    return back.float().cpu()


def _linears(model: Any) -> dict[str, str]:
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return {name: kind for name, kind in kinds.items() if kind in ("Linear", "Conv1D")}


def _quantised(model: Any, linears: Iterable[str]) -> list[str]:
    """Return the linears that transformers holds in 4 bits: all but the output layer, what is tied, and exceptions."""
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    return [name for name in linears if should_convert_module(name, kept)]


def _refuse_quantised(base: Path, there: Mapping[str, Header]) -> None:
    config = json.loads((base / "config.json").read_text("utf-8"))
    if config.get("quantization_config") and any(header.dtype not in FLOATS for header in there.values()):
        raise UsageError(f'[merge] base "{base}": is stored quantised; merge onto the half-precision original')


def _header(about: Safetensors) -> bytes:
    """Return the head of a safetensors file with the same tensors in the same places."""
    entries = {"__metadata__": {"format": "pt", **about.metadata}, **about.tensors}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _copy_rest(base: Path, names: Sequence[str], out: Path) -> None:
    """Copy tokenizer, chat template, generation config and licence byte for byte; configurations without CODE."""
    for name in names:
        if not (out / name).exists():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base / name, out / name)
    for name in ("config.json", "tokenizer_config.json"):
        if name in names:
            config = json.loads((out / name).read_text("utf-8"))
            if (kept := {key: value for key, value in config.items() if key not in CODE}) != config:
                (out / name).write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
