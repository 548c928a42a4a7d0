"""What one card does, part by part: `make gpu PARTS="doctor qlora"`; each in under ten minutes, on models made here.

A part that was measured on this machine at this size is not measured again unless it is named. Every part keeps a JSON
line; the page is written anew from them, and on a CPU, where this only proves that it runs, not into the docs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import choice, generation, training, vllm
from bench.child import ROOT, ChildError, call, run
from bench.machine import count_cores, describe
from bench.page import Section, format_gigabytes, format_table
from bench.setting import Setting

WORK, LIMIT, SEED = ROOT / "reports/gpu", 600.0, 17
MEASURED = "measured.json"  # all parts, for those who look at another's card
ROOM = 22 << 30  # bytes that the model of 8 B wants, with its merge
LLAMAS: dict[str, dict[str, int]] = {  # of random weights
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 320},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 128_256},
    "8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "vocab_size": 128_256},
}
HEADS = {"tiny": (2, 1), "1b": (32, 8), "8b": (32, 8)}  # each of 32 numbers at least: on a CPU vLLM wants as many
CONTEXT, ANSWERS = 8192, 16
Found = dict[str, Any]


def run_doctor(setting: Setting, small: bool) -> Found:
    """Ask what of this machine a run would use."""
    told = json.loads(run([sys.executable, "-m", "harness", "doctor", "--device", setting.device, "--json"], {}))
    return {"rows": [[line["name"], line["state"], line["text"]] for line in told["lines"]]}


def run_gpu_tests(setting: Setting, small: bool) -> Found:
    """Run the tests that need a card."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/gpu"]
    return {"rows": [["tests marked gpu", run(words, {"OMP_NUM_THREADS": "1"}, LIMIT).splitlines()[-1]]]}


def compare_qlora(setting: Setting, small: bool) -> Found:
    """Train the same QLoRA by us and by plain TRL."""
    sizes = {"steps": 2 if small else 20, "data": training.MADE}
    sides = {"we": training.train_with_harness, "plain TRL": training.train_with_trl}
    lines = []
    for name, side in sides.items():
        found = call(side, setting, timeout=LIMIT, **sizes)
        lines.append(
            [name, f"{found['rate']:,.0f} tokens/s", f"loss {found['loss']:.3f}", format_gigabytes(found["peak"])]
        )
    return {"rows": lines}


def run_whole_suite(setting: Setting, small: bool) -> Found:
    """Train, merge, verify and export in a run of the smoke suite on this model; its gates may fail."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        given = {"model.path": setting.folder(), "model.device": setting.device, "model.dtype": setting.dtype}
        given |= {"train.max_steps": 20, "export.0.to": f"{folder}/export"}
        words = [sys.executable, "-m", "harness", "run", "suites/smoke.toml", "--out", f"{folder}/reports", "--json"]
        for key, value in given.items():
            words += ["--set", f"{key}={json.dumps(value)}"]
        code = "import subprocess, sys; d = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
        code += "sys.stderr.write(d.stderr); print(d.stdout.strip()); sys.exit(d.returncode not in (0, 1, 6))"
        told = json.loads(run([sys.executable, "-c", code, *words], {"HARNESS_CACHE": f"{folder}/cache"}, LIMIT))
    peaks, report = told["run"]["memory"], told["run"]
    on = " (cuda)" if setting.on_gpu else ""
    lines = [[n, f"{s:.1f} s", format_gigabytes(peaks.get(f"{n}{on}", 0))] for n, s in report["stages"].items()]
    return {"rows": [*lines, ["exit code", told["exit_code"], ""]]}


def compare_adapters(setting: Setting, small: bool) -> Found:
    """Answer through an adapter beside its base, and by the two merged."""
    found = call(time_answers, setting, timeout=LIMIT, tokens=8 if small else 64)
    return {"rows": [[name, f"{seconds:.2f} s"] for name, seconds in found["seconds"].items()]}


def time_answers(setting: Setting, tokens: int) -> Found:
    """Time answers of the base, through an adapter, and of the merged model."""
    import harness_hf
    from bench.merge import make_adapter
    from harness.records.models import ModelRef
    from harness_lora import lora

    base, seconds = Path(setting.folder()), {}
    prompts = [f"{i} and what comes after it" for i in range(ANSWERS)]
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        adapter, merged = make_adapter(base, Path(folder) / "adapter"), Path(folder) / "merged"
        merged.mkdir()
        lora().merge(str(base), adapter, merged, variant="original")
        refs = {"base": ModelRef("base", str(base)), "adapter": ModelRef("adapter", str(base), adapter=adapter)}
        refs["merged"] = ModelRef("merged", str(merged))
        for name, ref in refs.items():
            loader: Any = harness_hf.load
            with loader([ref], dtype=setting.dtype, device=setting.device) as [subject]:
                subject.generate(prompts[:2], max_new_tokens=2)
                _, seconds[name] = setting.timed(lambda s=subject: s.generate(prompts, max_new_tokens=tokens))
    return {"seconds": seconds}


def train_in_processes(setting: Setting, small: bool) -> Found:
    """Train in two processes, each with the whole model, then with a half of it."""
    import torch

    if setting.on_gpu and torch.cuda.device_count() < 2:
        raise ChildError("two cards are needed, and there is one")
    lines = []
    for name, shard in (("whole in each", False), ("shared", True)):
        found = call(train_two_processes, setting, timeout=LIMIT, steps=2 if small else 10, shard=shard)
        lines.append([name, f"{found['tokens_per_second']:,.0f} tokens/s", f"loss {found['train_loss']:.3f}"])
    return {"rows": lines}


def train_two_processes(setting: Setting, steps: int, shard: bool) -> Found:
    """Train a LoRA in two processes and return the facts of it."""
    from harness.records.models import ModelRef
    from harness_lora import lora
    from harness_sft import sft

    ref = ModelRef("base", setting.folder(), options={"dtype": setting.dtype, "device": setting.device})
    recipe: Any = {"max_steps": steps, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    recipe |= {"max_length": training.LENGTH, "processes": 2, "shard": shard}
    adapter: Any = lora(r=training.RANK, lora_dropout=0.0)
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        rows = training.make_training_rows(8 * steps, training.MADE)
        out = sft(ref, adapter, rows, Path(folder) / "adapter", progress=lambda _: None, seed=SEED, **recipe)
        facts: Found = json.loads((out / "harness-adapter.json").read_text("utf-8"))["facts"]
    return facts


def make_bench_part(part: Any) -> Callable[[Setting, bool], Found]:
    """Return a part of `make bench` on this model."""

    def measured(setting: Setting, small: bool) -> Found:
        found: Found = part.measure(setting, **(part.QUICK | SMALL.get(part, {}) if small else SIZES[part]))
        return found

    return measured


SIZES: dict[Any, dict[str, Any]] = {
    choice: {"documents": 20, "shots": (0, 5), "batches": (8,)},
    generation: {"prompts": 16, "offered": 0},
    vllm: {"prompts": 32, "documents": 20, "rounds": 1},
}
SMALL: dict[Any, dict[str, Any]] = {choice: {"words": 12}}  # its tokens are bytes
BESIDE = {"choice": choice, "generation": generation, "vllm": vllm}
PARTS: dict[str, Callable[[Setting, bool], Found]] = {
    "doctor": run_doctor,
    "tests": run_gpu_tests,
    "qlora": compare_qlora,
    "whole": run_whole_suite,
}
PARTS |= {name: make_bench_part(part) for name, part in BESIDE.items()} | {
    "adapters": compare_adapters,
    "several": train_in_processes,
}


def write_llama(size: str, device: str) -> Path:
    """Write a random Llama in bfloat16 with a tokenizer of bytes, unless it is there; return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness_hf.tiny import _build_byte_tokenizer

    folder, tokenizer = WORK / f"llama-{size}", _build_byte_tokenizer()
    if not (folder / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        heads, keys = HEADS[size]
        config = LlamaConfig(
            **LLAMAS[size],
            num_attention_heads=heads,
            num_key_value_heads=keys,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(SEED)
        with torch.device(device):
            model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(WORK / "making", max_shard_size="4GB")
        tokenizer.model_max_length = CONTEXT
        tokenizer.save_pretrained(WORK / "making")
        (WORK / "making").rename(folder)  # what is there is whole
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts that are named, or all that were not measured; return 1 where one failed."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    card = torch.cuda.is_available()
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--size", choices=LLAMAS, default=_choose_fitting_size() if card else "tiny")
    parser.add_argument("--device", default="cuda" if card else "cpu")
    args = parser.parse_args(arguments)
    if strange := [name for name in args.parts if name not in PARTS]:
        parser.error(f'no part "{strange[0]}"; known: {", ".join(PARTS)}')
    WORK.mkdir(parents=True, exist_ok=True)
    small = args.size == "tiny"
    setting = Setting("", "float32" if small else choose_half_precision(args.device), args.device, count_cores())
    where, kept = describe(args.device) | {"model": f"random Llama, {args.size}, {setting.dtype}"}, WORK / "parts.jsonl"
    there = map(json.loads, kept.read_text("utf-8").splitlines() if kept.is_file() else [])
    records: dict[str, Found] = {r["part"]: r for r in there if r["where"] == where}
    setting = Setting(str(write_llama(args.size, args.device)), setting.dtype, args.device, setting.threads)
    for name in args.parts or [n for n in PARTS if "found" not in records.get(n, {})]:
        begun = time.monotonic()
        try:
            told = {"found": PARTS[name](setting, small)}
        except ChildError as error:
            told = {"why": str(error)}
        seconds = time.monotonic() - begun
        records[name] = {"part": name, "where": where, "seconds": seconds, "load": os.getloadavg()[0], **told}
        print(json.dumps(records[name]), flush=True)
        kept.write_text("".join(json.dumps(record) + "\n" for record in records.values()), "utf-8")
    page = (ROOT / "docs/explanation" if setting.on_gpu else WORK) / "performance-gpu.md"
    page.write_text(format_page(where, records), "utf-8")
    measured = WORK / MEASURED
    measured.write_text(json.dumps({"where": where, "parts": [*records.values()]}), "utf-8")
    print(f"written: {page}\nto paste into an issue: {measured}", file=sys.stderr)
    return int(any("found" not in records[name] for name in args.parts or ()))


def _choose_fitting_size() -> str:
    """Return the largest model that the card holds in half precision beside what a training and a merge take."""
    import torch

    return "8b" if torch.cuda.get_device_properties(0).total_memory > ROOM else "1b"


def choose_half_precision(device: str) -> str:
    """Return the half precision that a device computes in: a T4 or V100 has no bfloat16."""
    import torch

    native = not device.startswith("cuda") or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float16"


def format_page(where: Mapping[str, str], records: Mapping[str, Found]) -> str:
    """Write the page: where it was measured, every part, and what was not run and why."""
    parts = ["# Performance on a GPU", "Written by `make gpu`; to change a number, run its part again."]
    parts.append("\n".join(f"- {name}: {value}" for name, value in where.items()))
    for name, record in records.items():
        if "found" not in record:
            continue
        own = BESIDE[name].section(record["found"]) if name in BESIDE else _make_section(name, record["found"])
        parts += [f"## {own.title}", *own.text, f"{record['seconds']:.0f} s, load {record['load']:.1f}."]
    left = {name: records.get(name, {}) for name in PARTS}
    missing = [f"- {n}: {one.get('why', 'not asked for')}" for n, one in left.items() if "found" not in one]
    return "\n\n".join([*parts, "## Not run", "\n".join(missing) or "Nothing."]) + "\n"


def _make_section(name: str, found: Found) -> Section:
    rows = found["rows"]
    return Section(name, [str(PARTS[name].__doc__), format_table([""] * len(rows[0]), rows)], [])


if __name__ == "__main__":
    from bench import gpu  # by its name, under which children find what they call

    sys.exit(gpu.main())
