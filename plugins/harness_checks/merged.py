"""M2 to M5: the merged model as it lies on the disk, against its base and the adapter it comes from.

What lies beside its weights, and servers obey, is compared as canonical JSON.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness_hf
import harness_lora
from harness import Finding, ModelRef, Severity, TrainingRow, UsageError, checker, quote_text
from harness.internals import weight_files
from harness_checks.frames import training_prompt
from harness_checks.shapes import find_mismatched_shapes
from harness_checks.tokenizer_files import (
    SAMPLE_TEXTS,
    compare_files,
    compare_options,
    compare_templates,
    format_json,
    json_differences,
    max_length,
    sample_texts,
)
from harness_hf import ModelTokenizer
from harness_lora import find_tensor, read_headers, split_name

WEIGHTS = "adapter_model.safetensors"
# nats per token; docs/reference/checks.md has what was measured
LIMITS = {"float32": 1e-5, "float16": 3e-4, "bfloat16": 2e-2}
HALF_PRECISION_TOLERANCE = 5e-2  # where the arithmetic is in half precision too
DTYPES = {"F32": "float32", "F64": "float32", "F16": "float16"}
MAX_ROUNDINGS = 4  # of the sum, the update and the adapter's two matrices: what a merge in half precision does
MAX_ERROR_FACTOR = 3  # times one rounding's is what all weights of a tensor may be off together
LARGE_MODEL_BYTES = 6_000_000_000  # bytes of weights that are not widened to float32
ROWS, PROMPTS = 12, 4  # training rows that are compared, and answered
# Of config.json: how it was stored and trained, and stop tokens, which are M5's.
STORED_KEYS = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "quantization_config"}
STORED_KEYS |= {"use_cache", "initializer_range", "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id"}
STORED_KEYS |= {"_attn_implementation_autoset", "_experts_implementation"}
WRITTEN_KEYS = {"_from_model_config", "transformers_version", "pad_token_id", "bos_token_id", "eos_token_id"}
NEUTRAL_VALUES: dict[str, Any] = {  # how a server answers where generation_config.json says nothing
    **{"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None, "use_cache": True},
    **{"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_beams": 1, "length_penalty": 1.0},
}
SERVED_KEYS = ("do_sample", "temperature", "repetition_penalty", "no_repeat_ngram_size", "num_beams")
FORCING_KEYS = (  # that force or forbid tokens in every answer, and the values that do nothing
    "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "constraints",
    "forced_bos_token_id", "forced_eos_token_id", "sequence_bias", "min_length", "min_new_tokens",
    "guidance_scale", "watermarking_config", "exponential_decay_length_penalty", "dola_layers",
)  # fmt: skip
NEUTRAL_FORCING = {"guidance_scale": 1, "min_length": 0, "min_new_tokens": 0}


@checker(title="merged-weights-mismatch")
def equals_base(merged: ModelRef, twin: ModelRef | None, base: ModelRef) -> Iterator[Finding]:
    """A merged model that is not base plus adapter.

    It equals its base, or changed where nothing was trained. A merge into the wrong class or onto quantised weights can
    write the base back, byte for byte (verl#7285, peft#2764). The tensors that differ must be exactly those the adapter
    has weights for; on a dequantised base also those that a 4-bit load rounds. Each merged tensor is computed once more
    in float64 and compared: no weight may be further off than a few roundings, nor a whole tensor more than three times
    as far as by one rounding.
    """
    if merged.digest == base.digest:
        yield Finding("error", "the merged model is bit-identical to the base", (), "merge or train again")
        return
    if twin is None or twin.adapter is None or not (twin.adapter / WEIGHTS).is_file():
        return
    import torch
    from safetensors import safe_open

    there, theirs = read_headers(Path(base.path)), read_headers(Path(merged.path))
    changed = set()
    for name in (name for name in there if name in theirs):  # one that is the base's in another dtype is the base's
        with safe_open(there[name].file, "pt") as old, safe_open(theirs[name].file, "pt") as new:
            after = new.get_tensor(name)
            if not torch.equal(old.get_tensor(name).to(after.dtype), after):
                changed.add(name)
    if plan := _plan_merge_or_none(Path(base.path), twin.adapter):
        wanted = plan.must_change
    else:  # what has the names of what the adapter adapts
        adapted = read_headers(twin.adapter, WEIGHTS)
        wanted = set(filter(None, (find_tensor(split_name(key)[0], there) for key in adapted)))
    whole = frozenset(plan.replaced if twin.quantization else plan.must_change) if plan else frozenset()
    sums = _sum_merge_errors_by_tensor(plan, Path(base.path), Path(merged.path), whole)
    if missing := sorted(name for name in wanted - changed if name not in sums or sums[name].moves):
        what = (
            f"{len(missing)} of {len(wanted)} adapted tensors are unchanged from the base in the merged model, limit 0"
        )
        yield Finding("error", what, missing, "the adapter was not merged, or is too small for the base's dtype")
    if (odd := sorted(changed - wanted)) and not twin.quantization:
        what = f"{len(odd)} tensors differ from the base's, although the adapter does not change them, limit 0"
        yield Finding("error", what, odd, "check that the adapter and the base belong together")
    if off := [f"{name}: {found}" for name, found in sums.items() if found.off or found.error > MAX_ERROR_FACTOR]:
        what = f"{len(off)} of {len(sums)} merged tensors are not base + adapter, limit 0"
        yield Finding("error", what, off, "merge again; the disk, the copy or the merge was faulty", "sum")


@checker(title="merged-output-divergence")
def differs_from_adapter(
    merged: ModelRef, twin: ModelRef | None, rows: list[TrainingRow], load: Callable[..., Any]
) -> Iterator[Finding]:
    """A merged model that answers differently from its adapter.

    What was evaluated is the adapter on its base; what ships is the merged model. Rounding to half precision costs up
    to 0.002 nats per token (KL) and some first choices; ten times as much is a merge that went wrong: quantised twice,
    another scale, another base (peft#1388, peft#2586). Whether less is too much, the gates decide. Both read the same
    rows, the adapter on the same base as the merge: full, or as a 4-bit load has it. They compute in float32 where they
    fit, because the arithmetic of half precision alone costs 2e-3; a 4-bit base computes as it was trained.
    """
    if find_mismatched_shapes(Path(merged.path)):
        return  # M4 reports them
    texts = [*SAMPLE_TEXTS, *(row.prompt + row.answer for row in rows[:: max(1, len(rows) // ROWS)][:ROWS])]
    texts = [text[:400] for text in texts]
    exact = not (twin and twin.quantization)  # a 4-bit load rounds otherwise when it is widened
    ours = _compute_token_log_probs(load, merged, texts, exact)
    if ours is None:
        return
    if not all(row.isfinite().all() for row in ours):
        what = "logits of the merged model are not finite"
        yield Finding("error", what, (), "train again with a lower learning_rate", "finite")
        return
    theirs = _compute_token_log_probs(load, twin, texts, exact) if twin else None
    if theirs is None:
        return
    if any(p.shape != q.shape for p, q in zip(theirs, ours, strict=True)):
        yield Finding("error", "the merged model has another vocabulary or tokenizer than the adapter's base")
        return
    tokens, (kl, agree) = sum(map(len, ours)), harness_hf.kl_and_agreement(theirs, ours)
    stored = {DTYPES.get(header.dtype, "bfloat16") for header in read_headers(Path(merged.path)).values()}
    dtype = max(stored, key=lambda name: LIMITS[name])  # the coarsest
    most = LIMITS[dtype] if exact else max(LIMITS[dtype], HALF_PRECISION_TOLERANCE)
    if not kl <= most:
        what = f"merged against adapter on {tokens} tokens: KL {kl:.2g} nats per token, limit {most:g} for {dtype}"
        fix = (
            "the merge differs from the evaluated adapter: check the base, and merge again, or gate it with --ignore M3"
        )
        yield Finding("error", f"{what}; same first choice in {agree:.1%}", (), fix)


@checker(title="non-finite-model-weights")
def not_finite(merged: ModelRef) -> Iterator[Finding]:
    """Weights of the shipping model that are not finite.

    A NaN in one row of the embeddings shows only where a prompt has that token, and no evaluation may have it. Every
    tensor of a merged model, and of a candidate that was made elsewhere, is read once.
    """
    if not weight_files(Path(merged.path)):
        return  # another loader's model, in files of its own
    import torch
    from safetensors import safe_open

    odd = []
    for name, header in read_headers(Path(merged.path)).items():
        with safe_open(header.file, "pt") as opened:
            tensor = opened.get_tensor(name)
        if not tensor.is_floating_point():
            continue
        wide = tensor.float() if tensor.element_size() == 1 else tensor  # torch looks at no float8
        if bad := int((~torch.isfinite(wide)).sum()):
            odd.append(f"{name}: {bad} of {tensor.numel()}")
    if odd:
        what = f"{len(odd)} tensors have weights that are not finite, limit 0"
        yield Finding(
            "error", what, odd, "train or merge again: prompts that use these weights are answered with noise"
        )


@checker(title="tokenizer-config-mismatch")
def tokenizer_changed(merged: ModelRef, base: ModelRef) -> Iterator[Finding]:
    """Tokenizer, chat template, configuration or embeddings that differ from the base's.

    Added tokens get lost when a model is saved without its tokenizer, and a resized vocabulary can break the tie of
    input and output embeddings (transformers#45127, unsloth#9331). tokenizer.json, chat template, config.json and
    generation_config.json must equal the base's, as the libraries read them, and so must the options of the loaded
    tokenizer; tensors must have the shapes in config.json (-shapes); plain texts, one of all special tokens and a chat
    must give the same ids as before, and every token must have an embedding. A note names settings in
    generation_config.json that servers apply and evaluations here do not: sampling, and a penalty on repetition. Keys
    that force or forbid tokens in every answer, such as suppress_tokens, are an error (-forced).
    """
    if odd := find_mismatched_shapes(Path(merged.path)):
        fix = "save weights and config.json together: resize_token_embeddings and save_pretrained write both"
        yield Finding("error", f"{len(odd)} tensors have other shapes than config.json says", odd, fix, "shapes")
    if not (Path(base.path) / "tokenizer_config.json").is_file():
        return
    before, after = harness_hf.load_tokenizer(base.path), harness_hf.load_tokenizer(merged.path)
    lost = sorted(set(before.get_vocab()) - set(after.get_vocab()))
    if lost or len(after) != len(before):
        what = f"{len(before)} tokens before, {len(after)} after; {len(lost)} are missing"
        yield Finding("error", what, [quote_text(token) for token in lost], "copy the base's tokenizer", "vocabulary")
    special = [name for name in ("bos_token", "eos_token") if getattr(before, name) != getattr(after, name)]
    if special or sorted(before.all_special_ids) != sorted(after.all_special_ids):
        what = f"special tokens differ: {before.special_tokens_map} before, {after.special_tokens_map} after"
        yield Finding("error", what, (), "copy the base's tokenizer", "special")
    if odd := [
        quote_text(text) for text in sample_texts(before) if before(text)["input_ids"] != after(text)["input_ids"]
    ]:
        yield Finding("error", "texts are tokenised differently", odd, "copy the base's tokenizer", "ids")
    yield from compare_options(before, after, max_length(before, base.path), max_length(after, merged.path))
    if odd := compare_templates(before.chat_template, after.chat_template):
        what = "the chat template differs from the base's"
        yield Finding(
            "error", what, odd, "copy chat_template.jinja from the base, unless the change is intended", "template"
        )
    folders = Path(base.path), Path(merged.path)
    paths = [folder / "generation_config.json" for folder in folders]  # a value that is not there is the neutral one
    settings = [NEUTRAL_VALUES | dict(json.loads(p.read_text("utf-8")) if p.is_file() else {}) for p in paths]
    for name, found, kind in (
        ("tokenizer.json", compare_files(*folders), "tokenizer"),
        ("config.json", _list_config_differences(*folders), "config"),
        (
            "generation_config.json",
            list(json_differences(*(_drop_keys_recursively(s, WRITTEN_KEYS) for s in settings))),
            "generation",
        ),
    ):
        if found:
            fix = f"copy {name} from the base, unless the change is intended"
            how: Severity = "warning" if kind == "generation" else "error"  # which nothing here obeys
            yield Finding(how, f"{name} differs from the base's", found, fix, kind)
    if lost_parts := _list_dropped_modality_configs(*folders):
        what = f"the base reads more than text, but this model lacks {lost_parts[0]}"
        fix = "ship the harness's own merge, which keeps all of the base, unless only text is intended"
        yield Finding("warning", what, lost_parts[1:], fix, "text-only")
    yield from _check_served_settings(settings[1])
    missing, missed = (
        len(t) - _count_embeddings(folder) for t, folder in zip((after, before), folders[::-1], strict=True)
    )
    if missing > max(0, missed):  # some bases have tokens of pictures that their embeddings lack
        what = f"there are {len(after) - missing} embeddings for {len(after)} tokens"
        yield Finding("error", what, (), "resize the embeddings before training", "embeddings")


def _check_served_settings(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the settings that servers apply and evaluations do not."""
    neutral = dict.fromkeys(FORCING_KEYS) | NEUTRAL_FORCING | NEUTRAL_VALUES
    rules: tuple[tuple[tuple[str, ...], Severity, str], ...] = (
        (FORCING_KEYS, "error", "remove these keys from generation_config.json"),
        (SERVED_KEYS, "note", "serve it with the options used in evaluation"),
    )
    for keys, severity, fix in rules:
        given = {name: settings[name] for name in keys if settings.get(name) not in (None, [], {}, neutral[name])}
        if given:
            listed = ", ".join(f"{name} = {format_json(value):.60}" for name, value in given.items())
            what = f"servers apply generation_config.json ({listed}), but evaluations here do not"
            kind = "served" if severity == "note" else "forced"
            yield Finding(severity, what, (), fix, kind)


@checker(title="missing-stop-token")
def never_stops(
    merged: ModelRef, base: ModelRef, rows: list[TrainingRow], load: Callable[..., Any]
) -> Iterator[Finding]:
    """A generation_config.json without the model's stop token.

    A server stops at the eos_token_id of generation_config.json; if the chat template ends a turn with another
    token, or the file was lost at the merge, every answer runs to its limit (unsloth#5386, vllm#4180). No stop
    token of the base may be lost, after training on chat the end of a turn must be one, and of four training
    prompts one at least must be answered with an end.
    """
    if not (Path(base.path) / "config.json").is_file() or not (Path(base.path) / "tokenizer_config.json").is_file():
        return
    before, after = _read_eos_token_ids(Path(base.path)), _read_eos_token_ids(Path(merged.path))
    tokens = ModelTokenizer.of(merged.path)
    wanted = set(before)
    if any(isinstance(row.row.get("messages", row.row.get("prompt")), list) for row in rows):
        wanted |= tokens.stop_ids
    if missing := sorted(wanted - after):
        names = [quote_text(tokens.tokenizer.convert_ids_to_tokens(i) or str(i)) for i in missing]
        what = f"generation_config.json does not stop at {', '.join(names)}"
        yield Finding("error", what, (), f"set eos_token_id = {sorted(wanted)} there", "config")
    if find_mismatched_shapes(Path(merged.path)):
        return  # M4 reports them
    if asked := [row for row in rows if training_prompt(row)][:: max(1, len(rows) // PROMPTS)][:PROMPTS]:
        longest = max(len(tokens.encode_plain(row.answer)) for row in asked)
        room = min(256, 2 * longest + 32)
        with load([merged]) as [subject]:
            answers = subject.generate([training_prompt(row) for row in asked], max_new_tokens=room)
        # Decoded text may encode into a few tokens less than were generated.
        endless = [len(tokens.encode_plain(answer)) >= 0.9 * room for answer in answers]
        if all(endless):
            evidence = [f"row {row.number}: {quote_text(a)}" for row, a in zip(asked, answers, strict=True)]
            what = f"no answer to {len(asked)} training prompts ends within {room} tokens"
            yield Finding(
                "warning", what, evidence, "check that the rows end with a stop token that is trained on", "endless"
            )


def _count_embeddings(folder: Path) -> int:
    """Return how many tokens a model has embeddings for."""
    with harness_hf.quiet_loading():
        return int(harness_hf.build_skeleton(folder).get_input_embeddings().weight.shape[0])


def _compute_token_log_probs(
    load: Callable[..., Any], ref: ModelRef, texts: Sequence[str], exact: bool
) -> list[Any] | None:
    """Return the log-probabilities at every position of every text.

    None for a subject without the tokens and scorer of a transformers model. With `exact`, they are computed in float32
    if that fits: half-precision arithmetic alone differs by more than a merge may.
    """
    size = sum((Path(ref.path) / name).stat().st_size for name in weight_files(Path(ref.path)))
    wide = exact and size < LARGE_MODEL_BYTES and "dtype" in inspect.signature(load).parameters
    with load([ref], **({"dtype": "float32"} if wide else {})) as [subject]:
        if not hasattr(subject, "tokens") or not hasattr(subject, "scorer"):
            return None
        import torch

        device = next(subject.model.parameters()).device
        with subject._active(), torch.inference_mode():
            prompts = (torch.tensor([ids], device=device) for ids in subject.tokens.encode_prompts(texts))
            return [subject.model(ids).logits[0].float().log_softmax(-1).cpu() for ids in prompts]


@dataclass
class _Sum:
    """A merged tensor against base + adapter in float64: weights that are `off` by more than a few roundings.

    The squares are of its error, of one rounding, and of the update; `moves` says whether the update survives rounding.
    """

    of: int = 0
    off: int = 0
    moves: int = 0
    wrong: float = 0.0
    rounding: float = 0.0
    update: float = 0.0

    @classmethod
    def of_block(cls, base: Any, merged: Any, rows: slice, total: Any) -> _Sum:
        """Compare a block of rows with its sum in float64."""
        import torch

        before, after, wanted = base[rows].double(), merged[rows], total.double()
        once, update, error = wanted.to(after.dtype), wanted - before, after.double() - wanted
        about, most = torch.finfo(after.dtype), update.abs().max()
        room = MAX_ROUNDINGS * about.eps / 2 * (before.abs() + most + about.smallest_normal) + most / 64
        squares = [float(x.square().sum()) for x in (error, once.double() - wanted, update)]
        moves = not torch.equal(once, base[rows].to(after.dtype))
        return cls(wanted.numel(), int((~(error.abs() <= room)).sum()), moves, *squares)

    @property
    def error(self) -> float:
        """Return the error relative to one rounding and the update.

        Its unit combines the error of one rounding and a 256th of the update: bfloat16 holds no more.
        """
        return math.sqrt(self.wrong / max(self.rounding + self.update / 65536, sys.float_info.min))

    def __str__(self) -> str:
        told = f"{self.off} of {self.of} weights off by more than {MAX_ROUNDINGS} roundings, limit 0"
        return f"{told}; error {self.error:.3g} times one rounding's, limit {MAX_ERROR_FACTOR}"


def _plan_merge_or_none(base: Path, adapter: Path) -> Any:
    """Return the plan of an adapter's merge.

    None for an adapter of a kind that is not merged here.
    """
    try:
        return harness_lora.make_plan(base, adapter, read_headers(base), None)
    except UsageError:
        return None


def _sum_merge_errors_by_tensor(plan: Any, base: Path, merged: Path, names: Set[str]) -> dict[str, _Sum]:
    """Add these of the adapted tensors up once more."""
    import torch
    from safetensors import safe_open

    there, made = read_headers(base), read_headers(merged)
    found: dict[str, _Sum] = {}
    with harness_lora.merge_threads() as pool:
        merge = harness_lora.FolderMerger(plan, None, torch.float32, pool)
        for name in sorted(made.keys() & names):
            with safe_open(there[name].file, "pt") as old, safe_open(made[name].file, "pt") as new:
                before, after = harness_lora.as_rows(old.get_tensor(name)), harness_lora.as_rows(new.get_tensor(name))
            if before.shape == after.shape and after.is_floating_point():
                parts = merge.map_blocks(name, before, partial(_Sum.of_block, before, after))
                found[name] = _Sum(*map(sum, zip(*map(astuple, parts), strict=True)))
    return found


def _read_eos_token_ids(folder: Path) -> set[int]:
    """Return the tokens at which a server stops: generation_config.json's, and config.json's only without one."""
    for name in ("generation_config.json", "config.json"):
        try:
            named: Mapping[str, Any] = json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        found = named.get("eos_token_id")
        return set(found) if isinstance(found, list) else set() if found is None else {int(found)}
    return set()


def _list_config_differences(before: Path, after: Path) -> list[str]:
    """Return the differences between two config.json.

    They are compared as transformers reads them; if the second is of a text-only model, only the text's part.
    """
    with harness_hf.quiet_loading():
        configs = [harness_hf.load_config(folder) for folder in (before, after)]
        if _list_dropped_modality_configs(before, after):
            configs = [config.get_text_config() for config in configs]
    return list(json_differences(*(_drop_keys_recursively(config.to_dict(), STORED_KEYS) for config in configs)))


def _list_dropped_modality_configs(before: Path, after: Path) -> list[str]:
    """Return the configurations of modalities that a text-only model dropped.

    Such as "vision_config", if the base has it.
    """
    with harness_hf.quiet_loading():
        one, two = (harness_hf.load_config(folder) for folder in (before, after))
    if one.get_text_config() is one or two.get_text_config() is not two:
        return []
    return [name for name in one.sub_configs if name != "text_config" and getattr(one, name, None) is not None]


def _drop_keys_recursively(value: Any, names: set[str]) -> Any:
    """Leave names out of a dictionary, and of those in it."""
    if not isinstance(value, Mapping):
        return value
    return {str(key): _drop_keys_recursively(part, names) for key, part in value.items() if key not in names}
