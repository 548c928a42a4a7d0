"""Verification of a merged model against its adapter, in a subprocess.

It reads the files on disk, and shares no memory with the merge that made them. The cost of rounding is known, not
judged: every tensor must be the float64 sum rounded once, bit for bit, and the sum before it is rounded must answer as
the adapter does when PEFT runs it, to float32's own precision. How far the rounded model is from the unrounded one is
measured and reported; the gates decide.

One model at a time is in memory (`harness_lora.divergence`): a merge that could be trained can be verified on the same
card.
"""
# ruff: noqa: TID253 (a process of its own)

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig

from harness import CheckFailedError
from harness.internals import subprocess_call
from harness_hf import keep_decoded, load_model, load_tokenizer, resolve_device, resolve_dtype
from harness_lora.divergence import (
    PROMPTS,
    SMOKE_TOKENS,
    WINDOW_TOKENS,
    ModelOutputs,
    compare_models,
    device_for,
    offload_layers,
    token_windows,
)
from harness_lora.files import Header, read_headers, read_note
from harness_lora.merge import FolderMerger, as_rows, is_finite, loaded_dtype, merge_threads
from harness_lora.plan import MergePlan, check_changed, make_plan

KL, MARGIN = 1e-6, 1e-4  # nats per token, and nats between first and second choice: what float32 arithmetic costs
NOISE, TAIL = 4, 8  # in half precision: times the noise that is measured, and deviations of a log-probability
TRAINED_WINDOWS = 6  # on which the model as it was trained in 4 bits is compared, some 700 tokens
MAX_FLOAT32_PARAMETERS = 4_000_000_000  # parameters up to which all is computed in float32
MERGE_ADVICE = "ship the adapter, or merge with PEFT and name that folder as [candidate] merged"


@dataclass(frozen=True)
class MergeFolders:
    """The folders of a base, an adapter and a merged model.

    `quantization` has the keywords of a BitsAndBytesConfig if the base is in 4 bits.
    """

    base: str
    adapter: str
    merged: str
    quantization: dict[str, Any] | None = None  # of the base that was merged onto
    # Of the one the adapter was trained on, where that is another: it is reported, and nothing is demanded of it.
    trained: dict[str, Any] | None = None

    @cached_property
    def base_headers(self) -> Mapping[str, Header]:
        return read_headers(Path(self.base))

    @cached_property
    def merged_headers(self) -> Mapping[str, Header]:
        return read_headers(Path(self.merged))

    @cached_property
    def plan(self) -> MergePlan:
        return make_plan(Path(self.base), Path(self.adapter), self.base_headers, self.quantization)

    @property
    def parameters(self) -> int:
        return sum(math.prod(header.shape) for header in self.base_headers.values())

    def compare_tensors(self) -> dict[str, Any]:
        """Compare every tensor's bits: with the base's, or with the sum in float64, made again and rounded once."""
        one, two = (
            {n: (h.dtype, h.shape) for n, h in headers.items()} for headers in (self.base_headers, self.merged_headers)
        )
        if odd := sorted(n for n in one.keys() | two.keys() if one.get(n) != two.get(n)):
            what = f'"{odd[0]}" is missing, new, or has another shape or dtype than in the base [merge-tensors]'
            raise CheckFailedError(f"merge: {what}, {len(odd)} of {len(one)} tensors in all, limit 0; merge again")
        changed, off = set[str](), dict[str, tuple[int, int]]()
        for name, old, new, wrong in self._iterate_tensor_differences():
            changed |= {name} if new else set()
            off |= {name: (wrong, old)} if wrong else {}
        check_changed(changed, self.plan)
        told = f"[merge-bits]: {len(off)} of {len(self.base_headers)} tensors are wrong, limit 0"
        again = "merge again; the disk, the copy or the merge was faulty"
        if forgotten := sorted(off.keys() - changed):
            what = f'"{forgotten[0]}" did not change, although the adapter has weights for it'
            raise CheckFailedError(f"merge: {what} {told}; {again}")
        if strange := sorted(changed - self.plan.must_change - self.plan.rounded):
            raise CheckFailedError(
                f'merge: "{strange[0]}" changed, although the adapter does not target it {told}; {again}'
            )
        for name, (wrong, of) in sorted(off.items()):
            what = f'"{name}" differs in {wrong} of {of} weights from the float64 sum rounded once'
            raise CheckFailedError(
                f"merge: the merged model differs from the adapter on its base: {what} {told}; {again}"
            )
        return {"tensors": len(self.base_headers), "changed": len(changed)}

    def _iterate_tensor_differences(self) -> Iterator[tuple[str, int, bool, int]]:
        """Yield (name, size, changed, wrong weights) of each tensor.

        It changed if it differs from the base's. Wrong weights differ from the float64 sum rounded once, or from the
        base's if nothing is added. Raises CheckFailedError if a weight is not finite.
        """
        opened: dict[Path, Any] = {}
        for header in (*self.base_headers.values(), *self.merged_headers.values()):
            opened.setdefault(header.file, safe_open(header.file, "pt"))
        with self._open_folder_merger() as merge:
            for number, name in enumerate(self.base_headers, 1):
                subprocess_call.report_progress("merged against adapter, tensors", number, len(self.base_headers))
                old, new = (
                    opened[found[name].file].get_tensor(name) for found in (self.base_headers, self.merged_headers)
                )
                if not is_finite(new):
                    many = int((~torch.isfinite(new)).sum())
                    what = f'"{name}" is not finite [merge-finite]: {many} of {new.numel()} weights are not'
                    raise CheckFailedError(f"merge: {what}, limit 0; merge again")
                wrong = _count_bitwise_differences(old, new)
                if name in self.plan.must_change or name in self.plan.rounded:
                    wrong = sum(merge.map_blocks(name, old, partial(_count_wrongly_merged_weights, as_rows(new))))
                yield name, new.numel(), not torch.equal(old, new), wrong

    @contextmanager
    def _open_folder_merger(self) -> Iterator[Any]:
        """Yield a merger with the settings of the merge under verification."""
        with merge_threads() as pool:
            yield FolderMerger(self.plan, self.quantization, loaded_dtype(read_note(Path(self.adapter))), pool)

    @property
    def computed(self) -> str:
        return "float32" if self.parameters <= MAX_FLOAT32_PARAMETERS else "auto"

    def load(self, path: str, adapter: str | None = None, quantization: dict[str, Any] | None = None) -> Any:
        """Load a model to be computed in. Its 4-bit weights are those of a load in the dtype it was trained in."""
        folder, device = Path(adapter) if adapter else None, self.device(quantization)
        if quantization is None or folder is None or self.computed != "float32":
            model = load_model(path, dtype=self.computed, device=device, quantization=quantization, adapter=folder)
        else:
            exact = {**quantization, "bnb_4bit_compute_dtype": "float32"}
            dtype = str(read_note(folder).get("dtype", "float32"))
            model = load_model(path, dtype=dtype, device=device, quantization=exact, adapter=folder).float()
        keep_decoded(model)
        return model if quantization else offload_layers(model, device)

    def device(self, quantization: Mapping[str, Any] | None = None) -> str:
        width = 1 if quantization else 4 if self.computed == "float32" else 2  # bytes; in 4 bits less
        return device_for(width * self.parameters)

    def load_unrounded(self, shift: float = 0.0) -> Any:
        """Load the base with the unrounded sums as its weights.

        They are rounded to the compute dtype alone. `shift` first moves each by that share of itself, up and down by
        turns.
        """
        device = self.device()
        model = load_model(self.base, dtype=self.computed, device=device)
        with self._open_folder_merger() as merge:
            for name in self.plan.must_change | self.plan.rounded:
                place = self.plan.places[name]
                weight = as_rows(place.select(model.get_parameter(place.parameter).data))
                with safe_open(self.base_headers[name].file, "pt") as opened:
                    merge.map_blocks(name, opened.get_tensor(name), partial(_write_shifted_rows, weight, shift))
        return offload_layers(model, device)


def verify_merge(question: MergeFolders) -> dict[str, Any]:
    """Compare the merged model with the adapter on its base.

    Returns the facts. Raises CheckFailedError if they are two models.
    """
    facts = question.compare_tensors()
    config = AutoConfig.from_pretrained(question.base, local_files_only=True, trust_remote_code=False)
    longest = getattr(config, "max_position_embeddings", None) or WINDOW_TOKENS
    ids = token_windows(load_tokenizer(question.base), longest=min(WINDOW_TOKENS, longest))
    kl, margin = _compute_kl_and_margin_limits(question, ids)
    few = ids[:TRAINED_WINDOWS] if question.trained else []
    tell = _make_progress_reporter(len(ids) * 3 + len(few))
    merged = ModelOutputs.of(partial(question.load, question.merged), ids, question.merged, tell)
    adapted = partial(question.load, question.base, question.adapter, question.quantization)
    theirs = ModelOutputs.of(adapted, ids, question.base if None in merged.ends else "", tell)
    unrounded = ModelOutputs.of(question.load_unrounded, ids, tell=tell)
    before = compare_models(theirs, unrounded, ids)
    if not (before.kl < kl and before.margin <= margin):
        raise CheckFailedError(
            "merge: the merged model differs from the adapter on its base [merge-forward]: "
            f"before rounding the KL is {before.kl:.2g} nats per token (limit {kl:.2g}), and "
            f"the first choice changes where the adapter's leads by {before.margin:.2g} nats "
            f"(limit {margin:.2g}), on {before.tokens} tokens; {MERGE_ADVICE}"
        )
    after = compare_models(unrounded, merged, ids)
    facts |= {"kl": before.kl, "top1": before.top1, "tokens": before.tokens}
    dtype = "+".join(
        sorted({question.base_headers[name].dtype for name in question.plan.must_change})
    )  # as their file names it
    facts |= {"kl_rounding": after.kl, "top1_rounding": after.top1, "dtype": dtype}
    facts |= {"nll_adapter": before.nll[0], "nll_merged": after.nll[1]}
    if theirs.ends:
        _require_adapter_stop_tokens_kept(merged.stops, theirs.ends, merged.ends)
    if question.trained:
        trained = ModelOutputs.of(
            partial(question.load, question.base, question.adapter, question.trained), few, tell=tell
        )
        apart = compare_models(trained, merged, few)
        facts |= {"kl_as_trained": apart.kl, "top1_as_trained": apart.top1}
    return {**facts, "stops": [end is not None for end in merged.ends]}


def _make_progress_reporter(of: int) -> Callable[[int], None]:
    """Return a function that reports windows as they are computed."""
    done = 0

    def tell(windows: int) -> None:
        nonlocal done
        done += windows
        subprocess_call.report_progress("merged against adapter, texts", done, of)

    return tell


def _write_shifted_rows(weight: torch.Tensor, shift: float, rows: slice, total: torch.Tensor) -> None:
    if shift:  # by which share of itself every weight is moved first, up and down by turns
        turns = (1 - 2 * (torch.arange(total.numel()) % 2)).view(total.shape).to(total.dtype)
        total = total.addcmul(total, turns, value=shift)
    weight[rows] = total


def _count_wrongly_merged_weights(merged: torch.Tensor, rows: slice, total: torch.Tensor) -> int:
    return _count_bitwise_differences(total.to(merged.dtype), merged[rows])


def _count_bitwise_differences(one: torch.Tensor, other: torch.Tensor) -> int:
    """Count the elements that differ in a bit. A zero has a sign."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return int((one.contiguous().flatten().view(bits) != other.contiguous().flatten().view(bits)).sum())


def _compute_kl_and_margin_limits(made: MergeFolders, ids: Sequence[Any]) -> tuple[float, float]:
    """Return the greatest KL and margin that arithmetic alone may cost: known in float32, else measured on the rows."""
    dtype = resolve_dtype(made.computed, resolve_device("auto"))
    if dtype == torch.float32:
        return KL, MARGIN
    # between two models whose weights are the same sum, rounded to two of its neighbours
    shifted = ModelOutputs.of(partial(made.load_unrounded, torch.finfo(dtype).eps / 2), ids)
    noise = compare_models(ModelOutputs.of(made.load_unrounded, ids), shifted, ids)
    kl = max(KL, NOISE * noise.kl)
    return kl, max(MARGIN, TAIL * math.sqrt(2 * kl))


def _require_adapter_stop_tokens_kept(
    stops: set[int | None], adapter: Sequence[int | None], ours: Sequence[int | None]
) -> None:
    """Raise CheckFailedError if the merged model lost a stop token.

    Only tokens at which the adapter's answers end count.
    """
    for prompt, end, our in zip(PROMPTS, adapter, ours, strict=True):
        if our is None and end is not None and end not in stops:  # one that rounding made longer is for the gates
            what = (
                f'the adapter stops after "{prompt}", but the merged model does not; see its stop tokens [merge-stops]'
            )
            why = f"{end} is not one of {sorted(s for s in stops if s is not None)}"
            then = f"and within {SMOKE_TOKENS} tokens there is no other; copy generation_config.json from the base"
            raise CheckFailedError(f"merge: {what}: {why}, {then}")


if __name__ == "__main__":
    subprocess_call.serve_call(lambda **question: verify_merge(MergeFolders(**question)))
