"""Greedy answers to the same prompts, of mixed lengths and with different stop strings.

Ours are compared with those of lm-evaluation-harness's `generate_until`. What transformers offers by itself is
measured too, to know whether we should use it: `generate` with each kind of cache, and continuous batching.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench import texts
from bench.child import ROOT, ChildError, call
from bench.page import Bar, Section, format_gigabytes, format_table
from bench.setting import Setting

QUICK = {"prompts": 4, "max_new_tokens": 12, "offered": 0}
BATCH = 16


@dataclass(frozen=True)
class Group:
    """Prompts that have their stop strings in common."""

    name: str
    prompts: Sequence[str]
    stop: Sequence[str]

    def cut(self, text: str) -> str:
        """Return the text before the first stop string."""
        for stop in self.stop:
            text = text.partition(stop)[0]
        return text


WARM = Group("", ["A text that is like no other one here, and of some length so that all is loaded"], ("\n",))


def measure(
    setting: Setting,
    *,
    prompts: int = 32,
    shots: int = 10,
    max_new_tokens: int = 48,
    offered: int = 16,
    patience: int = 300,
) -> dict[str, Any]:
    """Answer three times `prompts` prompts.

    What transformers offers answers the first `offered` of each group, each way for at most `patience` seconds.
    """
    sizes = {"shots": shots, "max_new_tokens": max_new_tokens}
    found = {
        "we": call(answer_with_ours, setting, prompts=prompts, **sizes),
        "lm_eval": call(answer_with_lm_eval, setting, prompts=prompts, **sizes),
    }
    others = {"we": call(answer_with_ours, setting, prompts=offered, **sizes)} if offered else {}
    for name, (side, options) in OFFERED.items() if offered else ():
        try:
            others[name] = call(side, setting, timeout=patience, prompts=offered, **sizes, **options)
        except ChildError as error:
            others[name] = {"why": str(error).splitlines()[-1]}
    for sides in (found, others):
        _compare(sides)
    return {
        "sides": found,
        "offered": others,
        "prompts": [prompts, offered],
        "groups": [group.name for group in groups(prompts, shots)],
        "max_new_tokens": max_new_tokens,
        "exact": setting.dtype == "float32",
    }


def _compare(sides: dict[str, dict[str, Any]]) -> None:
    """Replace each side's answers by the number of those that are other than ours."""
    wanted = sides["we"]["answers"] if sides else []
    for side in sides.values():
        if "answers" in side:
            side["other"] = sum(a != b for a, b in zip(wanted, side.pop("answers"), strict=True))


def groups(number: int, shots: int) -> list[Group]:
    """Return groups of so many prompts: passages to go on with, and questions after examples.

    The examples are each prompt's own, a fifth of `shots`, or `shots` that all prompts have in common.
    """
    beginnings = [" ".join(text.split()[: 6 + 2 * i]) for i, text in enumerate(texts.read_passages()[:number])]
    lines = (ROOT / "suites/data/general.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    worked = [f"{row['input']} {row['target']}\n\n" for row in rows]
    asked, own = [row["input"] for row in rows[-number:]], shots // 5
    few = ["".join(worked[own * i : own * (i + 1)]) + prompt for i, prompt in enumerate(asked)]
    many = ["".join(worked[:shots]) + prompt for prompt in asked]
    return [
        Group("passages from 6 words on", beginnings, (".", "\n\n")),
        Group(f"questions after {own} of their own", few, ("\n",)),
        Group(f"questions after the same {shots}", many, ("\n", ". ")),
    ]


def answer_with_ours(setting: Setting, max_new_tokens: int, **sizes: int) -> dict[str, Any]:
    """Answer with our subject."""
    with setting.ours() as [subject]:

        def answer(group: Group) -> list[str]:
            found: list[str] = subject.generate(group.prompts, max_new_tokens=max_new_tokens, stop=group.stop)
            return found

        return _answer(setting, groups(**_rename_sizes(sizes)), answer)


def answer_with_lm_eval(setting: Setting, max_new_tokens: int, **sizes: int) -> dict[str, Any]:
    """Answer with lm-evaluation-harness, 16 at a time."""
    from lm_eval.api.instance import Instance

    model = setting.lm_eval(BATCH)

    def answer(group: Group) -> list[str]:
        options = {"until": list(group.stop), "max_gen_toks": max_new_tokens, "do_sample": False}
        requests = [Instance("generate_until", {}, (prompt, options), i) for i, prompt in enumerate(group.prompts)]
        found: list[str] = model.generate_until(requests, disable_tqdm=True)
        return found

    return _answer(setting, groups(**_rename_sizes(sizes)), answer)


def generate(setting: Setting, max_new_tokens: int, cache: str, compiled: bool = False, **sizes: int) -> dict[str, Any]:
    """Answer with transformers' `generate`, 16 at a time, the longest prompts first.

    With `compiled`, everything is answered twice and the second time counts, for the first compiles.
    """
    if compiled and not setting.on_gpu and not (shutil.which("g++") or shutil.which("clang++")):
        raise RuntimeError("no C++ compiler")
    options = {"max_new_tokens": max_new_tokens, "do_sample": False, "cache_implementation": cache}
    options |= _make_compile_options() if compiled else {"disable_compile": True}
    with setting.ours() as [subject]:
        model, tokenizer = subject.model, subject.tokens.tokenizer
        tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
        model.generation_config.pad_token_id = tokenizer.pad_token_id

        def answer(group: Group) -> list[str]:
            found = {}
            for numbers in _iterate_batches([len(ids) for ids in subject.tokens.encode_prompts(group.prompts)]):
                batch = tokenizer([group.prompts[i] for i in numbers], padding=True, return_tensors="pt")
                batch = batch.to(model.device)
                ids = model.generate(**batch, **options, stop_strings=list(group.stop), tokenizer=tokenizer)
                for i, row in zip(numbers, ids[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                    found[i] = group.cut(subject.tokens.decode(row))
            return [found[i] for i in range(len(group.prompts))]

        asked = groups(**_rename_sizes(sizes))
        if not compiled:
            return _answer(setting, asked, answer)
        first = sum(_answer(setting, asked, answer)["seconds"])
        return {**_answer(setting, asked, answer), "first": first}


def answer_with_batching(setting: Setting, max_new_tokens: int, **sizes: int) -> dict[str, Any]:
    """Answer with transformers' continuous batching, which knows stop tokens but no stop strings."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    with setting.ours() as [subject]:
        known = subject.model.generation_config
        stops = {"eos_token_id": known.eos_token_id, "pad_token_id": known.pad_token_id}
        config = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, **stops)
        room = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=512)  # else it takes 60% of the memory

        def answer(group: Group) -> list[str]:
            encoded = subject.tokens.encode_prompts(group.prompts)
            done = subject.model.generate_batch(encoded, generation_config=config, continuous_batching_config=room)
            return [group.cut(subject.tokens.decode(output.generated_tokens)) for output in done.values()]

        return _answer(setting, groups(**_rename_sizes(sizes)), answer)


OFFERED: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "generate, dynamic cache": (generate, {"cache": "dynamic"}),
    "generate, static cache": (generate, {"cache": "static"}),
    "generate, static cache, compiled": (generate, {"cache": "static", "compiled": True}),
    "continuous batching": (answer_with_batching, {}),
}


def _make_compile_options() -> dict[str, Any]:
    from transformers import CompileConfig

    config = CompileConfig(mode="default")
    config._compile_all_devices = True  # else it compiles on GPUs only
    return {"compile_config": config}


def _rename_sizes(sizes: dict[str, int]) -> dict[str, int]:
    return {"number": sizes["prompts"], "shots": sizes["shots"]}


def _answer(setting: Setting, asked: Sequence[Group], answer: Callable[[Group], list[str]]) -> dict[str, Any]:
    """Return all answers, and the seconds of each group, once something else was answered."""
    answer(WARM)
    answers, seconds = [], []
    for group in asked:
        found, took = setting.timed(lambda group=group: answer(group))  # type: ignore[misc]
        answers += found
        seconds.append(took)
    return {"answers": answers, "seconds": seconds}


def _iterate_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]


def section(found: dict[str, Any]) -> Section:
    """Write the part's tables."""
    sides, offered = found["sides"], found["offered"]
    mine, theirs = sides["we"], sides["lm_eval"]
    text = [
        f"{found['prompts'][0]} prompts a group, at most {found['max_new_tokens']} tokens an answer, greedy; lm_eval "
        f"answers {BATCH} at a time.",
        _format_table(found["groups"], sides),
    ]
    if offered:
        text += [
            f"What transformers offers by itself, on the first {found['prompts'][1]} prompts a group: `generate`, "
            f"{BATCH} at a time, stops each row at its stop strings; continuous batching knows stop tokens only, so "
            "its answers are cut afterwards.",
            _format_table(found["groups"], offered),
        ]
    ratio, memory = sum(theirs["seconds"]) / sum(mine["seconds"]), mine["peak"] / theirs["peak"]
    bars = [
        Bar("generation: answers", f"{theirs['other']} other than lm_eval's", "0", not theirs["other"], True),
        Bar("generation: speed", f"{ratio:.1f}× lm_eval's", "≥ 2×", ratio >= 2),
        Bar("generation: peak memory", f"{memory:.2f} of lm_eval's", "≤ 1.00", memory <= 1),
    ]
    return Section("Generation", text, bars if found["exact"] else bars[1:])


def _format_table(groups: Sequence[str], sides: dict[str, dict[str, Any]]) -> str:
    header = ["", *groups, "all", "other answers", "peak memory"]
    return format_table(header, [_format_line(name, side, len(groups)) for name, side in sides.items()])


def _format_line(name: str, side: dict[str, Any], groups: int) -> list[Any]:
    if "why" in side:
        return [name, *[""] * groups, f"not here: {side['why']}", "", ""]
    first = f"; {side['first']:.1f} s when it compiled" if "first" in side else ""
    seconds = [f"{s:.2f} s" for s in side["seconds"]]
    return [name, *seconds, f"{sum(side['seconds']):.2f} s{first}", side["other"], format_gigabytes(side["peak"])]
