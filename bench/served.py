"""What `harness parity` finds of real servers: healthy twins, which must raise no alarm, and planted faults.

`python -m bench.served twins --runtime llama.cpp --precision Q8_0 --count 30 --first 0`, with `--adapter` as a LoRA on
a base, with `--smollm2` by SmolLM2-135M; `python -m bench.served faults --runtime vllm`; `start_gateway` puts the
faults of a gateway in front of a healthy server, `fingerprint` serves other models. Each run is a line of JSON.
llama.cpp's server is that of the package xllamacpp, vLLM is run by VLLM_PYTHON (`make vllm`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import torch
from transformers import GenerationConfig

from bench.setting import Setting
from harness import ModelRef
from harness.cli.parser import parse_arguments
from harness_hf import ModelTokenizer, load_model, quiet_loading
from harness_hf.fingerprint import make_fingerprint
from harness_served.commands import measure_parity
from harness_served.conversations import user_message
from harness_served.dialects import find_runtime
from harness_served.fingerprint import compare_fingerprint
from tests.helpers import llamas
from tests.helpers.adapters import make_adapter
from tests.helpers.gateway import FAULTS as BETWEEN
from tests.helpers.gateway import LONG, start_gateway
from tests.helpers.runtimes import teach
from tests.helpers.servers import (
    UNFILTERED,
    make_llama_cpp_command,
    make_transformers_command,
    make_vllm_command,
    start_server,
)

DTYPES = {"F32": "float32", "BF16": "bfloat16"}
TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
CHATML = f"{{% for m in messages %}}{TURN}{{% endfor %}}<|im_start|>assistant\n"
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}  # of 32 numbers, the fewest that vLLM takes on a CPU
Edit = Callable[[Path], None]


def main() -> None:
    """Measure, and keep a line of JSON for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=tuple(KINDS))
    parser.add_argument("--runtime", choices=("llama.cpp", "transformers", "vllm"), default="llama.cpp")
    parser.add_argument("--precision", choices=(*DTYPES, "Q8_0"), default="F32")
    parser.add_argument("--adapter", action="store_true")
    parser.add_argument("--smollm2", action="store_true")
    parser.add_argument("--only", default="", help="faults, by commas")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--records", type=Path, default=Path("reports/bench-served.jsonl"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work, args.records.open("a", encoding="utf-8") as out:
        for record in KINDS[args.what](args, Path(work)):
            kind = {name: getattr(args, name) for name in ("what", "runtime", "precision", "adapter", "smollm2")}
            print(json.dumps({**kind, **record}), file=out, flush=True)
            told = {name: layer["verdict"] for name, layer in record["layers"].items()}
            print(record["name"], told, *record["alarms"].values(), f"{record['seconds']:.1f} s", flush=True)


def whole(folder: Path, seed: int, *, smollm2: bool = False, ends: bool | None = None) -> Path:
    """Write a model of its own weights: tiny and random, every other one taught to end its answers, or SmolLM2."""
    if not smollm2:
        llamas.build(folder, seed=seed, max_position_embeddings=2048, **HEADS)
        settings = GenerationConfig.from_pretrained(folder)
        settings.eos_token_id = sorted(
            ModelTokenizer.of(str(folder)).stop_ids
        )  # a server asks this file where an answer ends
        settings.save_pretrained(folder)
        return teach(folder, 150) if (seed % 2 if ends is None else ends) else folder
    shutil.copytree(Setting().folder(), folder)
    model = load_model(folder, dtype="float32", device="cpu")
    with torch.no_grad(), quiet_loading():
        torch.manual_seed(seed)
        for weight in model.parameters():
            weight.mul_(1 + 0.01 * torch.randn_like(weight))
        model.save_pretrained(folder)
    return folder


def write_adapter(base: Path, folder: Path, seed: int, scale: float = 1.0) -> Path:
    """Write an adapter of a model, at a share of its scale."""
    from harness_lora import lora

    with quiet_loading():
        make_adapter(base, lora(), folder, 0.02, seed)
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    config["lora_alpha"] = config["lora_alpha"] * scale
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def write_merged_model(base: Path, adapter: Path, folder: Path) -> Path:
    """Write the model that an adapter makes of its base."""
    shutil.copytree(base, folder)
    with quiet_loading():
        load_model(base, dtype="float32", device="cpu", adapter=adapter).merge_and_unload().save_pretrained(folder)
    return folder


def write_gguf_file(model: Path, to: Path, precision: str) -> Path:
    """Write a model as a GGUF file."""
    from harness_export.writing import write_gguf

    to.mkdir(parents=True)
    return write_gguf(model, to, precision) / "model.gguf"


def write_gguf_adapter(base: Path, adapter: Path, file: Path) -> Path:
    """Write an adapter as llama.cpp has it."""
    from gguf import GGUFWriter
    from safetensors.torch import load_file

    from harness_export.llama import gguf_tensor_name, read_llama_config, reorder_heads

    llama, writer = read_llama_config(base), GGUFWriter(file, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"])
    for tensor, values in load_file(adapter / "adapter_model.safetensors").items():
        module, _, side = tensor.removesuffix(".weight").removeprefix("base_model.model.").rpartition(".lora_")
        name = gguf_tensor_name(f"{module}.weight", llama)
        assert name, tensor
        rows = values.numpy() if side == "A" else reorder_heads(name, values.numpy(), llama)
        writer.add_tensor(f"{name}.lora_{side.lower()}", rows.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def look(
    args: argparse.Namespace,
    export: Path,
    url: str,
    *,
    name: str = "",
    base: Path | None = None,
    seed: int = 0,
    more: Sequence[str] = (),
) -> Any:
    """Compare a server with an export, at the noise of float32 where it is served in that, of q8 on a Q8_0 base."""
    words = ["parity", str(export), "--runtime", url, "--model", name, "--base", str(base or ""), "--seed", str(seed)]
    kind = {"F32": "float32", "Q8_0": "q8" if base else ""}.get(args.precision, "")
    given = parse_arguments([*words, *(["--arithmetic", kind] if kind else []), *more])
    began, busy = time.perf_counter(), time.process_time()
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        compared = measure_parity(given, ())
    found = {key: compared.value[key] for key in ("layers", "tokens", "requests", "notes", "longest")}
    alarms = {n: f"{n}: {layer['reason']}" for n, layer in found["layers"].items() if layer["verdict"] == "differs"}
    took = {"seconds": time.perf_counter() - began, "processor": time.process_time() - busy}
    return {"code": int(compared.exit_code), "alarms": alarms, **took, **found}


def start(
    args: argparse.Namespace, model: Path | None, adapter: Path | None = None, context: int = 2048, **drawing: Any
) -> list[str]:
    """Return what serves a model, an adapter on it; without a model transformers takes any that a request names."""
    if args.runtime == "transformers":
        whole = write_merged_model(model, adapter, adapter.parent / "merged") if model and adapter else model
        return make_transformers_command(whole, DTYPES[args.precision])
    assert model
    if args.runtime == "vllm":
        more = ["--max-model-len", str(context), *(["--enable-lora", "--max-lora-rank", "16"] if args.adapter else [])]
        more += ["--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"tuned={adapter}"] if adapter else []
        return make_vllm_command(os.environ["VLLM_PYTHON"], model, *more, dtype=DTYPES[args.precision])
    given: dict[str, Any] = {"n_ctx": context, "sampling": {**UNFILTERED, **drawing}}
    if adapter:
        given["lora"] = [str(write_gguf_adapter(model, adapter, adapter.parent / "lora.gguf")), 1.0]
    return make_llama_cpp_command(
        write_gguf_file(model, (adapter or model).parent / "gguf/model", args.precision), **given
    )


def iterate_twins(args: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Yield what is found of servers that serve what was exported, each other weights; one server has all it can."""
    base, log, ends = work / "base/model", work / "log", True if args.runtime == "vllm" else None
    if args.adapter or args.runtime == "vllm":
        whole(base, 1, smollm2=args.smollm2)
    with ExitStack() as stack:
        one = args.runtime != "llama.cpp"
        url = stack.enter_context(start_server(start(args, base if base.is_dir() else None), log)) if one else ""
        for seed in range(args.first, args.first + args.count):
            folder = work / str(seed)
            model = folder / "model"
            write_adapter(base, model, seed) if args.adapter else whole(model, seed, smollm2=args.smollm2, ends=ends)
            on = base if args.adapter else None
            if one:
                found = look(args, folder, url, name=put(args, url, folder), base=on, seed=seed)
            else:
                with start_server(start(args, on or model, model if on else None), log) as own:
                    found = look(args, folder if on else folder / "gguf", own, base=on, seed=seed)
            yield {"name": f"twin {seed}", **found}
            shutil.rmtree(folder)


def put(args: argparse.Namespace, url: str, folder: Path) -> str:
    """Let a server answer by the model in a folder, and return the name under which it does."""
    path, root = str(folder / "model"), url.removesuffix("/v1")
    if args.runtime == "transformers":
        post(url, "/chat/completions", {"model": path, "messages": [user_message("?")], "max_tokens": 1})
        return path
    if args.adapter:
        post(url, "/load_lora_adapter", {"lora_name": f"lora{folder.name}", "lora_path": path})
        return f"lora{folder.name}"
    post(root, "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
    post(root, "/reset_prefix_cache", {})
    return "small"


def post(url: str, path: str, body: dict[str, Any]) -> None:
    """Ask a server for something beside its answers."""
    asked = Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(asked, timeout=300) as reply:
        reply.read()


def make_template_edit(change: Callable[[str], str]) -> Edit:
    """Return what edits a model's chat template."""

    def edit(folder: Path) -> None:
        path = folder / "chat_template.jinja"
        new = change(old := path.read_text("utf-8"))
        assert new != old
        path.write_text(new, "utf-8")

    return edit


def config(file: str, **values: Any) -> Edit:
    """Return what sets keys of a configuration."""

    def edit(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**found, **values}), "utf-8")

    return edit


def edit_rope_theta(folder: Path) -> None:
    """Make the base of rotary positions a tenth."""
    told = json.loads((folder / "config.json").read_text("utf-8"))["rope_parameters"]
    config("config.json", rope_parameters={**told, "rope_theta": told["rope_theta"] / 10})(folder)


def remove_stop_tokens(folder: Path) -> None:
    """Make the padding the only stop token of a model."""
    tokenizer = ModelTokenizer.of(str(folder)).tokenizer
    number = tokenizer.convert_tokens_to_ids(tokenizer.pad_token)
    for file in ("generation_config.json", "config.json"):
        config(file, eos_token_id=number)(folder)
    config("tokenizer_config.json", eos_token=tokenizer.pad_token)(folder)


def make_prefix_edit(*tokens: str) -> Edit:
    """Return what puts tokens in front of a text."""

    def edit(folder: Path) -> None:
        path = folder / "tokenizer.json"
        found = json.loads(path.read_text("utf-8"))
        ids = {t["content"]: t["id"] for t in found["added_tokens"]}
        single = [*({"SpecialToken": {"id": t, "type_id": 0}} for t in tokens), {"Sequence": {"id": "A", "type_id": 0}}]
        special = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in tokens}
        pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
        kind = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
        found["post_processor"] = kind if tokens else None
        path.write_text(json.dumps(found), "utf-8")

    return edit


FAULTS: dict[str, Edit | None] = {
    "newline lost after assistant": make_template_edit(
        lambda t: t.replace("<|assistant|>\n", "<|assistant|>").replace("assistant\\n' }}", "assistant' }}")
    ),
    "other template (chatml)": make_template_edit(lambda _: CHATML),
    "BOS doubled in texts": None,
    "LoRA at 0.5": None,
    "base in place of the LoRA": None,
    "rope base a tenth": edit_rope_theta,
    "context cut": None,
    "hidden defaults of drawing": config("generation_config.json", do_sample=True, temperature=0.7, top_k=20),
    "stop token lost": remove_stop_tokens,
    "system turn dropped": make_template_edit(
        lambda t: t.replace("in messages %}", "in messages %}{% if message['role'] != 'system' %}", 1).replace(
            "{% endfor %}", "{% endif %}{% endfor %}", 1
        )
    ),
}
DRAWING = {  # of llama.cpp's server, which has no generation_config.json, and stops by a token's name
    "hidden defaults of drawing": {"temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "stop token lost": {"ignore_eos": True},
}


def iterate_faults(args: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Yield what is found of each planted fault."""
    model = whole(work / "whole/model", 1, smollm2=args.smollm2, ends=True)
    adapter, half = (
        write_adapter(model, work / name / "model", 1, scale) for name, scale in (("lora", 1.0), ("half", 0.5))
    )
    llama = args.runtime == "llama.cpp"
    for number, (name, edit) in enumerate(FAULTS.items()):
        if not any(part in name for part in args.only.split(",")):
            continue
        if args.runtime == "transformers" and name == "context cut":
            continue  # it takes prompts longer than the model's context, and has no such limit
        export, served, base = work / f"{number}/model", work / f"{number}s/model", None
        shutil.copytree(model, export)
        if name.startswith("BOS"):
            bos = ModelTokenizer.of(str(export)).tokenizer.bos_token
            once = not llama and not args.smollm2  # of a file with none, llama.cpp's puts one
            make_prefix_edit(*[bos] * once)(export)
            edit = make_prefix_edit(*[bos] * (once + 1))
        shutil.copytree(export, served)
        drawing = DRAWING.get(name, {}) if llama else {}
        if edit and not drawing:
            edit(served)
        if "LoRA" in name:
            export, base = adapter, model
            if args.runtime == "transformers":
                export, base = write_merged_model(model, adapter, work / f"{number}m/model"), None
        elif llama:
            export = write_gguf_file(export, work / f"{number}g/model", args.precision).parent
        context = 128 if name == "context cut" else 2048
        command = start(args, served, half if "0.5" in name else None, context, **drawing)
        with start_server(command, work / "log") as url:
            told = "tuned" if "0.5" in name and args.runtime == "vllm" else ""
            yield {"name": name, **look(args, export.parent, url, name=told, base=base, seed=1)}


def iterate_gateway_faults(args: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Yield what is found of each fault of a gateway in front of a healthy server, and of the server alone."""
    model = write_taught_llama(work / "whole/model", 80)
    if args.runtime == "transformers":  # which samples where this file says so alone
        config("generation_config.json", do_sample=True, temperature=1.0, top_k=0, top_p=1.0)(model)
    folder = (
        write_gguf_file(model, work / "gguf/model", args.precision).parent if args.runtime == "llama.cpp" else model
    )
    with start_server(start(args, model, context=4096), work / "log") as url:
        name_there = find_served_name(args, model) or find_runtime(url).model
        yield {"name": "healthy", **look(args, folder.parent, url, name=name_there, seed=1)}
        for name, fault in {**{name: make() for name, make in BETWEEN.items()}, **LONG}.items():
            if any(part in name for part in args.only.split(",")):
                more = ("--concurrency", str(fault.concurrency))
                with start_gateway(url, fault=fault) as faulty:
                    found = look(args, folder.parent, faulty.url, name=name_there, seed=2, more=more)
                    yield {"name": name, **found}


def find_served_name(args: argparse.Namespace, model: Path) -> str:
    """Return the name under which a server serves a model."""
    return {"transformers": str(model), "vllm": "small"}.get(args.runtime, "")


def write_taught_llama(folder: Path, steps: int) -> Path:
    """Write a model that was taught to end long answers, with a context that holds a long prompt."""
    llamas.build(folder, seed=1, max_position_embeddings=4096, **HEADS)
    return teach(folder, steps, " That is all there is to say.")


def iterate_fingerprints(args: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """Yield what the fingerprint of a merged LoRA says of it, and of what might be served in its place."""
    base, export, earlier = (write_taught_llama(work / f"{steps}/model", steps) for steps in (10, 90, 60))
    half, other = write_half_trained(base, export, work / "half/model"), work / "other/model"
    shutil.copytree(export, other)
    make_template_edit(lambda text: text.replace("<|assistant|>\n", "<|assistant|>"))(other)
    digest = hashlib.sha256((export / "model.safetensors").read_bytes()).hexdigest()
    folder = (
        write_gguf_file(export, work / "gguf/model", args.precision).parent if args.runtime == "llama.cpp" else export
    )
    began = time.perf_counter()
    made = make_fingerprint(ModelRef("tuned", str(folder), digest), base)
    size = len(json.dumps(made.to_json(), separators=(",", ":")))
    yield {"name": f"{size} bytes", "seconds": time.perf_counter() - began, "alarms": {}, "layers": {}}
    served = {"export": export, "base": base, "half": half, "earlier": earlier, "template": other}
    served["context"] = Path(shutil.copytree(export, work / "context/model"))
    for name, model in served.items():
        with start_server(start(args, model, context=2048 if name == "context" else 4096), work / "log") as url:
            for seed in range(args.count if name == "export" else 3):
                began = time.perf_counter()
                runtime = find_runtime(url, find_served_name(args, model))
                arithmetic = {"F32": "float32", "BF16": "bf16"}.get(args.precision, "q8")
                found = compare_fingerprint(runtime, made, seed, arithmetic=arithmetic)
                took = {"seconds": time.perf_counter() - began, "requests": runtime.requests}
                alarms = {"fingerprint": found.reason} if found.verdict == "differs" else {}
                yield {"name": name, "alarms": alarms, "layers": {"fingerprint": asdict(found)}, **took}


def write_half_trained(base: Path, tuned: Path, folder: Path) -> Path:
    """Write the model half of whose change was made."""
    shutil.copytree(tuned, folder)
    model, other = (load_model(one, dtype="float32", device="cpu") for one in (folder, base))
    with torch.no_grad(), quiet_loading():
        for weight, old in zip(model.parameters(), other.parameters(), strict=True):
            weight.lerp_(old, 0.5)
        model.save_pretrained(folder)
    return folder


KINDS = {
    "twins": iterate_twins,
    "faults": iterate_faults,
    "gateway": iterate_gateway_faults,
    "fingerprint": iterate_fingerprints,
}


if __name__ == "__main__":
    main()
