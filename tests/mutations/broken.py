"""A plugin whose trainers, adapters and loaders are broken in one way each."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness.hookspec import hookimpl
from harness.internals import schema
from harness_hf import load, open_source
from harness_lora import ADAPTER_NOTE, lora
from harness_preference import dpo
from harness_sft import SFT, TrainingJob, sft, train_model


def hurt(
    ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, flag: Any, how: str = "", **o: Any
) -> Path:
    """Train as `sft` does, with a "nan" in a gradient, a "frozen" module, or a learning rate that "leaps", mid-run."""
    import harness_sft.supervised
    import harness_sft.train

    with ExitStack() as stack:
        if how in ("nan", "frozen"):
            adapt = harness_sft.train._add_adapter
            stack.enter_context(
                patch.object(harness_sft.train, "_add_adapter", lambda *a: _break_training(adapt(*a), how))
            )
        if how == "leap":
            stack.enter_context(
                patch.object(harness_sft.supervised.CheckedTrainer, "create_scheduler", _make_leaping_schedule)
            )
        return sft(ref, adapter, rows, out, progress=progress, seed=seed, flag=flag, **o)


def _break_training(model: Any, how: str) -> Any:
    """Freeze one lora_B, or let its gradient be NaN at the thirtieth step."""
    parameter = next(p for name, p in model.named_parameters() if "lora_B" in name)
    if how == "frozen":
        parameter.requires_grad_(False)
        return model
    calls = itertools.count(1)
    parameter.register_hook(lambda gradient: gradient * float("nan") if next(calls) == 30 else gradient)
    return model


def _make_leaping_schedule(trainer: Any, num_training_steps: int, optimizer: Any = None) -> Any:
    """Schedule a learning rate that is a thousand times as high from step 40 on."""
    from torch.optim.lr_scheduler import LambdaLR

    trainer.lr_scheduler = LambdaLR(optimizer or trainer.optimizer, lambda step: 1000.0 if step >= 40 else 1.0)
    return trainer.lr_scheduler


def padded_by_hf(
    ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, pad: str = "", **o: Any
) -> Path:
    """Train as `sft` does, with Hugging Face's collator, which masks every padding token; `pad` "eos" is the trap."""
    return sft(ref, adapter, rows, out, progress=progress, seed=seed, **o)


def _build_padded(ref: Any, adapter: Any, rows: Any, *, seed: int, pad: str = "", **options: Any) -> Any:
    from transformers import DataCollatorForLanguageModeling

    built = sft.build(ref, adapter, rows, seed=seed, **options)
    if pad == "eos":
        built.tokenizer.pad_token = built.tokenizer.eos_token
    collate = DataCollatorForLanguageModeling(built.tokenizer, mlm=False)
    batches = [collate([{"input_ids": list(e.ids)} for e in built.examples[i : i + 4]]) for i in range(0, 12, 4)]
    return dataclasses.replace(built, batches=lambda n: iter(batches[:n]))


padded_by_hf.build = _build_padded  # type: ignore[attr-defined]


def masking(
    ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, rows_masked: int = 99, **o: Any
) -> Path:
    """Train as `sft` does, with the labels of the first rows masked."""
    return sft(ref, adapter, rows, out, progress=progress, seed=seed, **o)


def _build_masked(ref: Any, adapter: Any, rows: Any, *, seed: int, rows_masked: int = 99, **options: Any) -> Any:
    built = sft.build(ref, adapter, rows, seed=seed, **options)
    masked = [dataclasses.replace(e, labels=[-100] * len(e.ids)) for e in built.examples[:rows_masked]]
    return dataclasses.replace(built, examples=[*masked, *built.examples[rows_masked:]])


masking.build = _build_masked  # type: ignore[attr-defined]


def misreading(
    ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, how: str = "", **o: Any
) -> Path:
    """Train as `sft` does, on labels that are shifted by "one", on rows that lost their "arguments" or got "nulls"."""
    return sft(ref, adapter, rows, out, progress=progress, seed=seed, **o)


def _build_misread(ref: Any, adapter: Any, rows: Any, *, seed: int, how: str = "", **options: Any) -> Any:
    if how == "arguments":
        rows = [{k: v for k, v in row.items() if k not in ("tools", "chat_template_kwargs")} for row in rows]
    if how == "nulls":
        from datasets import Dataset

        rows = Dataset.from_list([dict(row) for row in rows]).to_list()
    built = sft.build(ref, adapter, rows, seed=seed, **options)
    if how != "one":
        return built

    def shifted(count: int) -> Iterator[Any]:
        for batch in built.batches(count):
            yield {**batch, "labels": batch["labels"].roll(-1, dims=1)}

    return dataclasses.replace(built, batches=shifted)


misreading.build = _build_misread  # type: ignore[attr-defined]


def misreferenced(
    ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, flag: Any, how: str = "", **o: Any
) -> Path:
    """Train as `dpo` does, with a reference that is right, "larger" by a twentieth, or the "policy" in every step."""
    import trl.trainer.dpo_trainer

    from harness_hf import load_model
    from harness_preference.methods import METHODS

    def beside(ref: Any, adapter: Any) -> dict[str, Any]:
        model = load_model(ref.path, dtype="float32", device="cpu")
        for parameter in model.parameters():
            parameter.data.mul_(1.05)
        return {"ref_model": model}

    with ExitStack() as stack:
        if how == "larger":
            stack.enter_context(patch.dict(vars(METHODS["dpo"]), {"beside": beside}))
        if how == "policy":  # the adapter stays on where the reference is asked
            stack.enter_context(patch.object(trl.trainer.dpo_trainer, "use_adapter", lambda *a, **k: nullcontext()))
        return dpo(ref, adapter, rows, out, progress=progress, seed=seed, flag=flag, **o)


misreferenced.columns = dpo.columns  # type: ignore[attr-defined]


def another_note(
    ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, wrong: bool = True, **o: Any
) -> Path:
    """Train on the base and write down another one's digest."""
    sft(ref, adapter, rows, out, progress=progress, seed=seed, **o)
    if wrong:
        note = json.loads((out / ADAPTER_NOTE).read_text("utf-8"))
        (out / ADAPTER_NOTE).write_text(json.dumps(note | {"base_digest": "0" * 64}), "utf-8")
    return out


def with_tokenizer(
    ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, how: str = "", **o: Any
) -> Path:
    """Train, and save the tokenizer beside the adapter, with "pad", "tokens", a "template" or a "comment" added."""
    from harness_hf import load_tokenizer

    sft(ref, adapter, rows, out, progress=progress, seed=seed, **o)
    tokenizer = load_tokenizer(ref.path)
    if how == "pad":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    if how == "tokens":
        tokenizer.add_tokens(["<step>", "</step>"])
    if how == "template":
        tokenizer.chat_template = tokenizer.chat_template.replace("<|{{", "[{{").replace("}}|>", "}}]")
    if how == "comment":
        tokenizer.chat_template = "{# as trained #}" + tokenizer.chat_template
    tokenizer.save_pretrained(out)
    return out


def damaged(ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, how: str = "", **o: Any) -> Path:
    """Train, and damage the adapter on the disk.

    "nan" in one weight, one lora_B "zero", of two "slices" of each lora_B one at its start, or each tensor "empty".
    """
    import torch
    from safetensors.torch import load_file, save_file

    sft(ref, adapter, rows, out, progress=progress, seed=seed, **o)
    weights = load_file(out / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    if how == "nan":
        weights[name][0, 0] = torch.nan
    if how == "zero":
        weights[name].zero_()
    if how == "slices":
        for name in (n for n in weights if "lora_B" in n):
            weights[name][len(weights[name]) // 2 :].zero_()
    if how == "empty":
        weights = {name: tensor.new_empty(0) for name, tensor in weights.items()}
    save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
    return out


def sharing(
    ref: Any, adapter: Any, rows: Any, out: Path, *, progress: Any, seed: int, flag: Any, how: str = "", **o: Any
) -> Path:
    """Train as `sft` does, in two processes that share the weights.

    Of two "slices" of each gathered tensor only the own one is there, each is "empty", or no weight is split ("whole").
    """
    recipe = schema.with_defaults(sft, o)
    method = {"slices": SLICES, "empty": EMPTY, "whole": WHOLE}.get(how, SFT)
    given: dict[str, Any] = {"out": out, "progress": progress, "flag": flag}
    return train_model(TrainingJob(ref, adapter, rows, recipe, seed, method, processes=2, shard=True, **given))


def _break_sharing(how: str) -> Any:
    """Break what processes do with weights that they share; called in each of them."""
    from harness_sft import sharding
    from harness_sft.supervised import CheckedTrainer

    gathered, check = sharding.gather_tensor, sharding.check_split

    def broken(tensor: Any) -> Any:
        found = gathered(tensor)
        if not found.dim():  # the norm of the gradient
            return found
        if how == "empty":
            return found.new_empty(0)
        found[len(sharding.local_part(tensor)) :] = 0.0
        return found

    def unsplit(model: Any, ranks: Any, device: str) -> None:
        check(model, ranks)

    if how == "whole":  # as accelerate does on a CPU, without a word
        sharding.shard_model = unsplit
    else:
        sharding.gather_tensor = broken
    return CheckedTrainer


SLICES, EMPTY, WHOLE = (
    dataclasses.replace(SFT, trainer=partial(_break_sharing, how.lower()), where=f"{__name__}:{how}")
    for how in ("SLICES", "EMPTY", "WHOLE")
)


class Merging:
    """A LoRA whose merged model is changed after it was written, and verified by itself only if it is told to."""

    def __init__(self, plain: Any, change: Callable[[Path, Path], None], verified: bool) -> None:
        self.plain, self.change, self.verified = plain, change, verified

    def __getattr__(self, name: str) -> Any:
        if name == "verify" and not self.verified:  # as an adapter of somebody else's may be
            raise AttributeError(name)
        return getattr(self.plain, name)

    def merge(self, base: str, adapter: Path, out: Path, *, variant: str) -> None:
        """Merge, then change what was merged."""
        self.plain.merge(base, adapter, out, variant=variant)
        self.change(Path(base), out)


def merging(*, r: int = 4, lora_dropout: float = 0.0, how: str = "well", verified: bool = False) -> Merging:
    """Adapt as `lora` does, and spoil the merge as `how` says."""
    return Merging(lora(r=r, lora_dropout=lora_dropout, lora_alpha=2 * r), CHANGES[how], verified)


def _copy_base_weights(base: Path, out: Path) -> None:
    shutil.copyfile(base / "model.safetensors", out / "model.safetensors")


def _edit_weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    def write(base: Path, out: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(out / "model.safetensors")
        change(weights)
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    return write


def _requantise(weights: dict[str, Any]) -> None:
    import torch

    from harness_lora.merge import round_to_4bit

    nf4 = {"bnb_4bit_use_double_quant": True, "bnb_4bit_quant_type": "nf4"}
    for name in weights:
        if "_proj" in name:
            weights[name] = round_to_4bit(weights[name], nf4, torch.float32)


def _flip(weights: dict[str, Any]) -> None:
    """Flip a bit of the exponent in a few weights: what a broken disk or copy does."""
    import torch

    weight = weights["model.layers.0.mlp.down_proj.weight"]
    bits = weight.view(torch.int32)
    bits[0, :8] ^= 1 << 29
    assert torch.isfinite(weight).all()


def _scale_norm(weights: dict[str, Any]) -> None:
    weights["model.norm.weight"] *= 1.01


def _restore_base_layer(weights: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    from harness_hf.sources import resolve_folder

    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = load_file(resolve_folder("tiny:llama") / "model.safetensors")[name]


def _write_nan(weights: dict[str, Any]) -> None:
    weights["model.layers.0.mlp.up_proj.weight"][0] = float("nan")


def _write_nan_embedding(weights: dict[str, Any]) -> None:
    weights["model.embed_tokens.weight"][200] = float("nan")  # of a byte that no row has


def _edit_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path, Path], None]:
    def write(base: Path, out: Path) -> None:
        content = json.loads((out / name).read_text("utf-8"))
        change(content)
        (out / name).write_text(json.dumps(content), "utf-8")

    return write


def _lose_end(tokenizer: dict[str, Any]) -> None:
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "<|end|>"]
    del tokenizer["model"]["vocab"]["<|end|>"]


def _lose_template(base: Path, out: Path) -> None:
    (out / "chat_template.jinja").unlink()


def _swap_ids(tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["x"], vocabulary["y"] = vocabulary["y"], vocabulary["x"]


def _edit_chat_template(old: str, new: str) -> Callable[[Path, Path], None]:
    def write(base: Path, out: Path) -> None:
        text = (base / "chat_template.jinja").read_text("utf-8")
        assert old in text
        (out / "chat_template.jinja").write_text(text.replace(old, new), "utf-8")

    return write


UNHEARD = "{{ '' if message['role'] == 'system' else message['content'] }}"
CHANGES: dict[str, Callable[[Path, Path], None]] = {
    "well": lambda base, out: None,
    "base": _copy_base_weights,
    "nf4": _edit_weights(_requantise),
    "flips": _edit_weights(_flip),
    "elsewhere": _edit_weights(_scale_norm),
    "half": _edit_weights(_restore_base_layer),
    "nan": _edit_weights(_write_nan),
    "nan row": _edit_weights(_write_nan_embedding),
    "tokens": _edit_json("tokenizer.json", _lose_end),
    "template": _lose_template,
    "stops": _edit_json("generation_config.json", lambda config: config.pop("eos_token_id")),
    "other stop": _edit_json("generation_config.json", lambda config: config.update(eos_token_id=7)),
    "ids": _edit_json("tokenizer.json", _swap_ids),
    "normaliser": _edit_json("tokenizer.json", lambda tokenizer: tokenizer.update(normalizer={"type": "NFKC"})),
    "split": _edit_json("tokenizer_config.json", lambda config: config.update(split_special_tokens=True)),
    "clean": _edit_json("tokenizer_config.json", lambda config: config.update(clean_up_tokenization_spaces=True)),
    "short": _edit_json("tokenizer_config.json", lambda config: config.update(model_max_length=16)),
    "left": _edit_json("tokenizer_config.json", lambda config: config.update(truncation_side="left")),
    "renamed": _edit_json(
        "tokenizer_config.json", lambda config: config.update(name_or_path="me", padding_side="left")
    ),
    "unheard": _edit_chat_template("{{ message['content'] }}", UNHEARD),
    "line": _edit_chat_template("<|assistant|>\n", "<|assistant|>"),
    "eps": _edit_json("config.json", lambda config: config.update(rms_norm_eps=1e-3)),
    "context": _edit_json("config.json", lambda config: config.update(max_position_embeddings=256)),
    "penalty": _edit_json("generation_config.json", lambda config: config.update(repetition_penalty=1.3)),
    "sampling": _edit_json("generation_config.json", lambda config: config.update(do_sample=True, temperature=0.7)),
}


@contextmanager
def repacking(refs: Sequence[Any], *, repack: bool = True, **options: Any) -> Iterator[list[Any]]:
    """Load as `hf` does, and mark 4-bit weights as bitsandbytes does where it repacks them for AVX512-BF16."""
    with load(refs, **options) as subjects:
        for subject in subjects if repack else ():
            for module in subject.model.modules():
                if state := getattr(getattr(module, "weight", None), "quant_state", None):
                    state.packing_format_for_cpu = True
        yield subjects


def _open(path: str, *, repack: bool = True, **options: Any) -> Any:
    return open_source(path, **options)


repacking.open = _open  # type: ignore[attr-defined]


@hookimpl
def harness_trainers() -> Mapping[str, Any]:
    return {
        "hurt": hurt,
        "padded_by_hf": padded_by_hf,
        "masking": masking,
        "misreading": misreading,
        "another_note": another_note,
        "misreferenced": misreferenced,
        "damaged": damaged,
        "with_tokenizer": with_tokenizer,
        "sharing": sharing,
    }


@hookimpl
def harness_adapters() -> Mapping[str, Any]:
    return {"merging": merging}


@hookimpl
def harness_loaders() -> Mapping[str, Any]:
    return {"repacking": repacking}
