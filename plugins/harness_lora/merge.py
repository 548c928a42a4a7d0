"""Merging of a LoRA into its base, a block at a time.

Blocks of rows are read from safetensors, summed in float64, cast once, and written to safetensors. In float32 a sum
that nearly cancels is off by several units in the last place of a bfloat16.

PEFT's `merge_and_unload` is not used: on a 4-bit model it quantises the sum again, which can round the whole fine-tune
away, and in half precision it rounds the update before it is added.

`fold_scales` writes a LoRA's scaling into its matrices, so that alpha/r is 1 and no server can get it wrong.
"""
# ruff: noqa: TID253 (imported inside functions, only where something is merged)

from __future__ import annotations

import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from harness import CheckFailedError, Progress, UsageError, write_text
from harness.internals import copy_range, read_safetensors
from harness_lora.files import ADAPTER_NOTE, CONFIG, WEIGHTS, read_config, read_note, split_name
from harness_lora.plan import MergePlan, Tensors, check_base, check_changed, make_plan

MAGNITUDE = 2**-7  # relative; a DoRA starts with the norms of the weights, which half precision rounds
BLOCK_VALUES = 1 << 18  # elements that are added and rounded at a time; they stay in the processor's cache
MOST_THREADS = 8  # that add and write, each a block at a time; more would wait for the disk
CODE = ("quantization_config", "auto_map")  # of a configuration: what the merged weights are not, and what is not run
DTYPES = ("float32", "bfloat16", "float16")
SCALES = ("use_rslora", "rank_pattern", "alpha_pattern")  # what servers have got wrong
PAIRS = {"lora_A": "lora_B", "lora_embedding_A": "lora_embedding_B"}

T = TypeVar("T")


@dataclass
class FolderMerger:
    """One merge: what it reads, how it adds, and which tensors came out other than they were.

    Blocks are added and written by threads that have one core each. Operations this small, spread over all cores by
    torch, spend more on waiting for each other than on adding, and with a busy core nearly everything.
    """

    plan: MergePlan
    quantization: Mapping[str, Any] | None
    dtype: torch.dtype  # in which a 4-bit model was loaded
    pool: Executor
    tick: Callable[[], None] = lambda: None
    changed: set[str] = field(default_factory=set)

    def write_file(self, source: Path, to: Path) -> None:
        """Write a file of the base with its merged tensors.

        Tensors keep their order, and most are copied as they are.
        """
        about = read_safetensors(source)
        with safe_open(source, "pt") as opened, source.open("rb") as old, to.open("wb", buffering=0) as new:
            # the head of a file with the same tensors in the same places
            entries = {"__metadata__": {"format": "pt", **about.metadata}, **about.tensors}
            head = json.dumps(entries, separators=(",", ":")).encode()
            head += b" " * (-len(head) % 8)
            new.write(len(head).to_bytes(8, "little") + head)
            start = new.tell()
            for name in sorted(about.tensors, key=lambda n: int(about.tensors[n]["data_offsets"][0])):
                begin, end = about.tensors[name]["data_offsets"]
                if name in self.plan.must_change or name in self.plan.rounded:
                    self.write_tensor(name, opened.get_tensor(name), new, start + begin)
                else:
                    new.seek(start + begin)
                    copy_range(old, new, about.start + begin, end - begin)
                self.tick()

    def write_tensor(self, name: str, before: torch.Tensor, to: IO[bytes], start: int) -> None:
        """Write a merged tensor in the base's dtype. Raises CheckFailedError if it is not finite."""
        before = as_rows(before)
        row = math.prod(before.shape[1:]) * before.element_size()

        def block(rows: slice, total: torch.Tensor) -> None:
            after = total.to(before.dtype)
            if not is_finite(after):
                dtype, most = str(before.dtype).removeprefix("torch."), torch.finfo(before.dtype).max
                what = f"its largest weight would be {float(total.abs().max()):.3g}, the limit is {most:.3g}"
                how = "the adapter is damaged: train again at a lower learning_rate, or choose a base in bfloat16"
                raise CheckFailedError(f'merge: "{name}" is not finite in {dtype} [merge-finite]: {what}; {how}')
            if name not in self.changed and not torch.equal(before[rows], after):
                self.changed.add(name)
            data, at = after.contiguous().flatten().view(torch.uint8).numpy().data, start + rows.start * row
            while data:
                done = os.pwrite(to.fileno(), data, at)
                data, at = data[done:], at + done

        self.map_blocks(name, before, block)

    def map_blocks(self, name: str, before: torch.Tensor, use: Callable[[slice, torch.Tensor], T]) -> list[T]:
        """Apply `use` to each block of a merged tensor's rows.

        Blocks are not yet rounded, and computed in threads.
        """
        before = as_rows(before)  # those of a stack of matrices lie one below the other
        new, step = self.added_weight(name, before), max(1, BLOCK_VALUES // max(1, math.prod(before.shape[1:])))
        whole = new if name in self.plan.replaced else None
        if whole is None and name in self.plan.transposed:
            whole = self.pool.submit(self.merged_rows, name, new, slice(None)).result().T

        def block(at: int) -> T:
            rows = slice(at, at + step)  # a row of the product needs no other row
            return use(rows, self.merged_rows(name, new, rows) if whole is None else whole[rows])

        return list(self.pool.map(block, range(0, len(before), step)))

    def added_weight(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight that is added to, or its replacement.

        It has shape (out, in), and is as a 4-bit load has it if the merge is onto one. Raises CheckFailedError if it
        has another shape than in the base.
        """
        _, parts = self.plan.added.get(name, ("", {}))
        given = as_rows(self.plan.replaced.get(name, parts.get("base_layer", weight)))  # an adapter may bring it along
        if given.shape != weight.shape:
            raise CheckFailedError(f'merge: "{name}" has another shape than in the base')
        if name in self.plan.replaced:
            return given
        new = given.to(weight.dtype)
        new = new.T if name in self.plan.transposed else new
        if self.quantization and name in self.plan.rounded:
            return round_to_4bit(new, self.quantization, self.dtype)
        return new

    def changes(self, name: str, weight: torch.Tensor) -> bool:
        """Return whether the adapter changes a tensor other than by rounding.

        Replaced rows of an embedding always count.
        """
        if name in self.plan.replaced:
            return not torch.equal(self.plan.replaced[name].to(weight.dtype), weight)
        _, parts = self.plan.added[name]
        if "lora_A" not in parts:
            return any(bool(part.any()) for part in parts.values())
        if parts["lora_A"].any() and parts["lora_B"].any():
            return True
        if "lora_magnitude_vector" not in parts:
            return False
        norms = torch.linalg.norm(self.added_weight(name, as_rows(weight)).double(), dim=1)
        scales = parts["lora_magnitude_vector"].double().flatten() / norms
        return bool(((scales - 1).abs() > MAGNITUDE).any())

    def merged_rows(self, name: str, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        if name not in self.plan.added:
            return weight[rows]
        (module, parts), config = self.plan.added[name], self.plan.config
        total = weight[rows].double()
        if "lora_bias" in parts:
            scale = module_scale(module.removesuffix(".bias"), config)
            return total.add_(parts["lora_bias"][rows].double(), alpha=scale)
        if "trainable_tokens_delta" not in parts:
            return add_lora(total, module, parts, config, rows)
        chosen, begin = config.trainable_token_indices, rows.start or 0  # whose rows are replaced
        if isinstance(chosen, dict):
            chosen = next(tokens for end, tokens in chosen.items() if module == end or module.endswith(f".{end}"))
        for token, row in zip(chosen, parts["trainable_tokens_delta"], strict=True):
            if begin <= token < begin + len(total):
                total[token - begin] = row.to(total.dtype)
        return total


def merge_folder(
    base: Path,
    adapter: Path,
    out: Path,
    quantization: Mapping[str, Any] | None,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Write the merged model to `out`.

    With `quantization` it is merged onto the base as a 4-bit load has it. Memory: the adapter, and a block of rows a
    thread (the whole tensor, if it is rounded to 4 bits). Raises UsageError if the base or the adapter is of a kind
    that cannot be merged, CheckFailedError if the result is not finite or did not change as it must.
    """
    there, names = check_base(base)
    plan = make_plan(base, adapter, there, quantization)
    done = iter(range(1, len(there) + 1))

    def tick() -> None:
        if progress:
            progress(Progress("merge", next(done), len(there)))

    with merge_threads() as pool:
        merge = FolderMerger(plan, quantization, loaded_dtype(read_note(adapter)), pool, tick)
        for name in sorted(plan.must_change):
            with safe_open(there[name].file, "pt") as opened:
                if merge.changes(name, opened.get_tensor(name)):
                    break
        else:
            what = "the adapter is zero, so the merged model would equal its base; check the training"
            raise CheckFailedError(f"merge: {what}")
        for file in sorted({header.file for header in there.values()}):
            merge.write_file(file, out / file.name)
    copy_rest(base, names, out)
    check_changed(merge.changed, plan)  # one tensor may round to what it was, all of them may not


def loaded_dtype(note: Mapping[str, Any]) -> torch.dtype:
    """Return the dtype in which training loaded a 4-bit base.

    Raises UsageError if the trainer's note has an unknown one.
    """
    if (said := note.get("dtype", "float32")) not in DTYPES:
        raise UsageError(
            f"{ADAPTER_NOTE}: dtype is {json.dumps(said)}; it must be one of {', '.join(DTYPES)}; train again"
        )
    found: torch.dtype = getattr(torch, said)
    return found


@contextmanager
def merge_threads() -> Iterator[Executor]:
    """Yield a thread pool with one torch thread per worker.

    It has as many workers as torch has threads, but at most `MOST_THREADS`.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(min(threads, MOST_THREADS), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # a thread's own number is also that of threads to come


def add_lora(weight: torch.Tensor, module: str, parts: Tensors, config: LoraConfig, rows: slice) -> torch.Tensor:
    """Return rows of W + s·B·A in W's dtype.

    W has shape (out, in). For DoRA it is m·(W + s·B·A)/‖W + s·B·A‖, norms per row. s is alpha/r, or alpha/√r with
    rslora (Kalajdzievski 2023, arXiv:2312.03732); DoRA: Liu et al. 2024, arXiv:2402.09353, section 4.1. Raises
    CheckFailedError when the rank is not the configuration's.
    """
    a, b = parts["lora_A"], parts["lora_B"]
    if a.dim() == 3:  # rows of a stack of matrices (E, out, in), matrix by matrix: A (E, r, in), B (E, out, r)
        sums, done, out = list[torch.Tensor](), 0, b.shape[1]
        while done < len(weight):
            number, row = divmod(rows.start + done, out)
            some, own = weight[done : done + out - row], {"lora_A": a[number], "lora_B": b[number]}
            sums.append(add_lora(some, module, own, config, slice(row, row + len(some))))
            done += len(some)
        return torch.cat(sums)
    if config.use_bdlora:  # the blocks of a diagonal are saved one below the other
        blocks = config.use_bdlora.nblocks
        a = _make_block_diagonal(a, blocks) if a.shape[1] != weight.shape[1] else a
        b = _make_block_diagonal(b, blocks) if b.shape[1] != a.shape[0] else b
    r = module_rank(module, config)
    if a.shape[0] != r:
        raise CheckFailedError(f'adapter: "{module}" has rank {a.shape[0]}, but its configuration has {r}')
    scale = module_scale(module, config)
    total: torch.Tensor = torch.addmm(weight, b[rows].to(weight.dtype), a.to(weight.dtype), alpha=scale)
    if config.use_dora:
        norm = torch.linalg.norm(total, dim=1, keepdim=True)
        total = parts["lora_magnitude_vector"][rows].to(weight.dtype).view(-1, 1) / norm * total
    return total


def _make_block_diagonal(part: torch.Tensor, blocks: int) -> torch.Tensor:
    whole: torch.Tensor = torch.block_diag(*part.chunk(blocks))  # type: ignore[no-untyped-call]
    return whole


def module_rank(module: str, config: LoraConfig) -> int:
    return int(config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), module), config.r))


def module_scale(module: str, config: LoraConfig) -> float:
    """Return the scale of B·A. It is alpha/r, or alpha/√r with rslora."""
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), module), config.lora_alpha)
    r = module_rank(module, config)
    return float(alpha / (math.sqrt(r) if config.use_rslora else r))


def as_rows(weight: torch.Tensor) -> torch.Tensor:
    """Flatten a stack of matrices (E, out, in) to (E·out, in). Other weights are returned unchanged."""
    return weight.flatten(0, -2) if weight.dim() > 2 else weight


def is_finite(weight: torch.Tensor) -> bool:
    """Return whether no element is NaN or infinite. A finite sum shows it in a tenth of the time."""
    if not weight.is_floating_point() or torch.isfinite(weight.sum(dtype=torch.float32)):
        return True
    return bool(torch.isfinite(weight).all())


def round_to_4bit(weight: torch.Tensor, quantization: Mapping[str, Any], dtype: torch.dtype) -> torch.Tensor:
    """Round a weight as a 4-bit load of a `dtype` model does. The result is in float32 on the CPU."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Params4bit

    nested, kind = quantization["bnb_4bit_use_double_quant"], quantization["bnb_4bit_quant_type"]
    held = Params4bit(weight.to(dtype).contiguous(), requires_grad=False, compress_statistics=nested, quant_type=kind)
    held = held.to("cuda" if torch.cuda.is_available() else "cpu")
    back: torch.Tensor = dequantize_4bit(held.data, held.quant_state)
    return back.float().cpu()


def copy_rest(base: Path, names: Sequence[str], out: Path) -> None:
    """Copy the files beside the weights, such as the tokenizer.

    They are copied byte for byte, but configurations lose the keys in `CODE`.
    """
    for name in names:
        if not (out / name).exists():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base / name, out / name)
    for name in ("config.json", "tokenizer_config.json"):
        if name in names:
            config = json.loads((out / name).read_text("utf-8"))
            if (kept := {key: value for key, value in config.items() if key not in CODE}) != config:
                (out / name).write_text(json.dumps(kept, indent=2) + "\n", "utf-8")


def fold_scales(adapter: Path) -> bool:
    """Turn an adapter with rslora or patterns into a plain LoRA.

    Returns whether it did. B (out, r) and its bias become s times as large, rounded once to their dtype, and ranks are
    filled up with zeros to the largest; s·B·A stays the same. DoRA stays DoRA: its norm is no scaling. An adapter with
    other parts, or with blocks that a longer rank would move, is left as it is.
    """
    config = read_config(adapter)
    if not any(getattr(config, name) for name in SCALES) or config.target_parameters or config.use_bdlora:
        return False
    tensors = load_file(adapter / WEIGHTS)
    modules: dict[str, dict[str, str]] = defaultdict(dict)
    for key in tensors:
        module, part = split_name(key)
        modules[module][part] = key
    pairs = [(m, parts[a], parts[b]) for m, parts in modules.items() for a, b in PAIRS.items() if a in parts]
    if any(tensors[key].dim() != 2 for _, *keys in pairs for key in keys):
        return False
    rank = max(len(tensors[a]) for _, a, _ in pairs)
    for module, a, b in pairs:
        scale, missing = module_scale(module, config), rank - len(tensors[a])
        for key in filter(None, (b, modules.get(f"{module}.bias", {}).get("lora_bias"))):
            tensors[key] = (tensors[key].double() * scale).to(tensors[key].dtype)
        for key, shape, dim in ((a, (missing, tensors[a].shape[1]), 0), (b, (len(tensors[b]), missing), 1)):
            tensors[key] = torch.cat([tensors[key], tensors[key].new_zeros(shape)], dim).contiguous()
    told = json.loads((adapter / CONFIG).read_text("utf-8"))
    told |= {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    save_file(tensors, adapter / WEIGHTS, {"format": "pt"})
    write_text(adapter / CONFIG, json.dumps(told, indent=2, sort_keys=True) + "\n")
    return True
