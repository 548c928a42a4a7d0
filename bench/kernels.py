"""Scoring, generation and training on a CPU with the kernels of `harness_hf.cpu`, without each, and without any."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from statistics import median
from typing import Any
from unittest.mock import patch

from bench import texts
from bench.child import call
from bench.page import Section, format_table
from bench.setting import Setting
from bench.training import DATA, make_training_rows, train

QUICK = {"rounds": 1, "documents": 2, "answers": 2, "steps": 1}
WORKS = ("scoring", "generation", "training")
KERNELS: dict[str, tuple[str, Any]] = {  # what a kernel is called: what is replaced to do without it, and by what
    "linear layers (`linear.py`)": ("harness_hf.cpu.linear.use_onednn", lambda model: None),
    "attention by tiles (`attention.use_tiled_attention`)": ("harness_hf.scoring.can_tile", lambda model: False),
    "prefix kept once (`cascade.py`)": ("harness_hf.cpu.cascade.can_cascade", lambda model: False),
    "attention by document (`attention.use_document_attention`)": (
        "harness_hf.cpu.attention.use_document_attention",
        nullcontext,
    ),
    "output layer (`head.py`)": ("harness_hf.cpu.head.project_labelled_once", nullcontext),
}


def measure(
    setting: Setting,
    *,
    rounds: int = 3,
    documents: int = 24,
    shots: int = 5,
    answers: int = 24,
    steps: int = 6,
    data: str = DATA,
) -> dict[str, Any]:
    """Take the seconds of each work with all kernels, with all but one, and with none, in turn."""
    found: dict[str, list[dict[str, Any]]] = {}
    sizes: dict[str, Any] = {"documents": documents, "shots": shots, "answers": answers, "steps": steps, "data": data}
    for _ in range(rounds):
        for name in ("all", *KERNELS, "none"):
            environment = {"HARNESS_CPU_KERNELS": "0" if name == "none" else "1"}
            found.setdefault(name, []).append(call(measure_works, setting, environment, without=name, **sizes))
    return {"rounds": rounds, **sizes, "found": found}


def measure_works(
    setting: Setting, without: str, documents: int, shots: int, answers: int, steps: int, data: str
) -> dict[str, Any]:
    """Score and generate behind examples, and train on packed rows, each after a warm-up of its own."""
    pairs = [(d.beginning, ending) for d in texts.make_documents(documents + 1, shots)[0] for ending in d.endings]
    with ExitStack() as stack:
        if without in KERNELS:
            stack.enter_context(patch(*KERNELS[without]))
        with setting.ours() as [subject]:
            subject.logprobs(pairs[: texts.CHOICES])
            _, scoring = setting.timed(lambda: subject.logprobs(pairs[texts.CHOICES :]))
            prompts = [prompt for prompt, _ in pairs[:: texts.CHOICES]][:answers]
            subject.generate(prompts[:1], max_new_tokens=4, stop=[])
            _, generation = setting.timed(lambda: subject.generate(prompts, max_new_tokens=24, stop=[]))
        recipe = {"max_steps": steps, "max_length": 256, "packing": True, "per_device_train_batch_size": 1}
        facts = train(setting, make_training_rows(steps * 16, data), gradient_accumulation_steps=1, **recipe)
    return {"scoring": scoring, "generation": generation, "training": 1000 / facts["tokens_per_second"]}


def section(found: dict[str, Any]) -> Section:
    """Write the part's table: how many times as long each work takes without a kernel."""
    seconds = {name: {w: median(each[w] for each in runs) for w in WORKS} for name, runs in found["found"].items()}
    fastest = seconds.pop("all")
    lines = [[name, *(f"{own[w] / fastest[w]:.2f}×" for w in WORKS)] for name, own in seconds.items()]
    text = [
        f"How many times as long it takes without one kernel, and without any (`cpu_kernels = false`): scoring "
        f"{found['documents']} questions of four endings behind {found['shots']} examples "
        f"({fastest['scoring']:.1f} s with all), answering {found['answers']} prompts "
        f"({fastest['generation']:.1f} s), training a QLoRA on packed rows "
        f"({fastest['training']:.1f} s a thousand tokens); the median of {found['rounds']} rounds.",
        format_table(["without", *WORKS], lines),
    ]
    return Section("Kernels for CPUs", text, [])
