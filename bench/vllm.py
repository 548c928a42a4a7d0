"""The same answers and scores by us and by vLLM, which lives in an environment of its own (`make vllm`)."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import choice, generation
from bench.child import ROOT, ChildError, call, run
from bench.page import Bar, Section, format_gigabytes, format_table
from bench.setting import Setting

QUICK = {"prompts": 4, "max_new_tokens": 12, "documents": 4, "shots": 2, "rounds": 1}
PYTHON = Path(os.environ.get("VLLM_PYTHON", ROOT / ".vllm/bin/python"))
CONTEXT, CACHE = 2048, 2  # tokens; GB of keys and values
SAME, NEAR = 1e-2, 1e-3  # nats


def measure(
    setting: Setting,
    *,
    prompts: int = 64,
    max_new_tokens: int = 48,
    documents: int = 40,
    shots: int = 10,
    rounds: int = 2,
) -> dict[str, Any]:
    """Answer `prompts` prompts a group, the best of `rounds` in turn, and score `documents` after `shots` examples."""
    if not PYTHON.exists():
        raise ChildError(f"no vLLM at {PYTHON}; run make vllm")
    found: dict[str, list[dict[str, Any]]] = {"we": [], "vLLM": []}
    sizes = {"prompts": prompts, "shots": shots, "max_new_tokens": max_new_tokens}
    asked = generation.groups(prompts, shots)
    job = {"part": "generation", "max_new_tokens": max_new_tokens, "warm": vars(generation.WARM)}
    job["groups"] = [{"prompts": list(g.prompts), "stop": list(g.stop)} for g in asked]
    for _ in range(rounds):
        found["we"].append(call(generation.answer_with_ours, setting, **sizes))
        found["vLLM"].append(_run_vllm(setting, job))
    answers = {side: found[side][0].pop("answers") for side in found}
    other = _count_differences(answers["we"], answers["vLLM"])
    plugin = call(run_through_plugin, setting, documents=documents, **sizes)
    plugin["other"] = _count_differences(answers["we"], plugin.pop("answers"))
    scored = call(score_with_ours, setting, documents=documents, shots=shots)
    theirs = _run_vllm(setting, {"part": "choice", "pairs": scored.pop("pairs"), "warm": scored.pop("warm")})
    totals = scored.pop("totals")
    apart = _compute_max_difference(totals, theirs.pop("totals"))
    plugin["apart"] = _compute_max_difference(totals, plugin.pop("totals"))
    return {
        "answered": {side: [{k: r[k] for k in ("seconds", "peak")} for r in rs] for side, rs in found.items()},
        "groups": [group.name for group in asked],
        "sizes": sizes | {"documents": documents},
        "other": other,
        "scored": {"we": scored, "vLLM": theirs},
        "apart": apart,
        "plugin": plugin,
    }


def run_through_plugin(
    setting: Setting, prompts: int, shots: int, max_new_tokens: int, documents: int
) -> dict[str, Any]:
    """Answer and score the same through the plugin, in a worker of vLLM's environment."""
    from harness.plugins import load_plugins
    from harness.records.models import ModelRef
    from harness.workers.loading import load_uncached

    options = {"python": str(PYTHON), "dtype": setting.dtype, "max_model_len": CONTEXT}
    pairs, _ = choice._make_workload(documents, shots, choice.texts.BEGINNING)
    suite, ref = ROOT / "suites/smoke.toml", ModelRef("base", setting.folder(), options=options)
    begun = time.perf_counter()
    with load_uncached(load_plugins(suite), suite, "vllm", [ref], options) as [subject]:
        subject.logprobs([choice.WARM])
        found: dict[str, Any] = {"loading": time.perf_counter() - begun, "answers": [], "seconds": []}
        for group in generation.groups(prompts, shots):
            how = {"max_new_tokens": max_new_tokens, "stop": list(group.stop)}
            answers, took = setting.timed(lambda g=group, h=how: subject.generate(list(g.prompts), **h))
            found["answers"] += answers
            found["seconds"].append(took)
        scores, found["choice"] = setting.timed(lambda: subject.logprobs(pairs))
    return found | {"totals": [score.total for score in scores]}


def _count_differences(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def _compute_max_difference(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def score_with_ours(setting: Setting, documents: int, shots: int) -> dict[str, Any]:
    """Score with our subject; return the token ids as well, so that vLLM scores the same."""
    pairs, _ = choice._make_workload(documents, shots, choice.texts.BEGINNING)
    with setting.ours() as [subject]:
        subject.logprobs([choice.WARM])
        found, seconds = setting.timed(lambda: subject.logprobs(pairs))
        encoded, [warm] = subject.tokens.encode_pairs(pairs), subject.tokens.encode_pairs([choice.WARM])
    return {"totals": [f.total for f in found], "seconds": [seconds], "pairs": encoded, "warm": warm}


def _run_vllm(setting: Setting, job: dict[str, Any]) -> dict[str, Any]:
    facts = {"folder": setting.folder(), "dtype": setting.dtype, "context": CONTEXT, "cache": CACHE}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job | facts), "utf-8")
        threads = {"OMP_NUM_THREADS": str(setting.threads), "MKL_NUM_THREADS": str(setting.threads)}
        command = [str(PYTHON), "-P", str(ROOT / "bench/vllm_engine.py"), str(path)]
        found: dict[str, Any] = json.loads(run(command, threads).splitlines()[-1])
    return found


def section(found: dict[str, Any]) -> Section:
    """Write the part's tables."""
    best = {side: _find_best_seconds([r["seconds"] for r in rounds]) for side, rounds in found["answered"].items()}
    peaks = {side: format_gigabytes(max(r["peak"] for r in rounds)) for side, rounds in found["answered"].items()}
    sizes, scored = found["sizes"], found["scored"]
    lines = [[side, *(f"{s:.2f} s" for s in best[side]), f"{sum(best[side]):.2f} s", peaks[side]] for side in best]
    reading, default = scored["vLLM"]["seconds"]
    [mine] = scored["we"]["seconds"]
    text = [
        f"{sizes['prompts']} prompts a group, at most {sizes['max_new_tokens']} tokens an answer, greedy; of "
        f"{len(found['answered']['we'])} rounds in turn the best of each group. vLLM {scored['vLLM']['version']}, its "
        "prefix cache emptied before each group.",
        format_table(["", *found["groups"], "all", "peak memory"], lines),
        f"{sizes['documents']} documents × 4 endings after {sizes['shots']} examples: we {mine:.2f} s, vLLM "
        f"{reading:.2f} s where it is told to read its prefix cache ({scored['vLLM']['again']} requests asked again), "
        f"{default:.2f} s as it does by default; log-probabilities {found['apart']:.1e} nats apart at most.",
    ]
    plugin = found["plugin"]
    took = [*plugin["seconds"], sum(plugin["seconds"])]
    lines.append(['use = "vllm"', *(f"{s:.2f} s" for s in took), ""])
    text[1] = format_table(["", *found["groups"], "all", "peak memory"], lines)
    text.append(
        f'`use = "vllm"`, once: a worker that loads in {plugin["loading"]:.0f} s, forgets its prefix cache between '
        f"pieces of about 64 rows and holds every answer to be finite; choice {plugin['choice']:.2f} s, "
        f"log-probabilities {plugin['apart']:.1e} nats from ours at most."
    )
    own = sum(best["vLLM"][:2]) / sum(best["we"][:2])
    bars = [
        Bar("vLLM: answers", f"{found['other']} other than ours", "0", not found["other"], True),
        Bar("vLLM: prompts of their own", f"{own:.2f}× its speed", "≥ 1.3×", own >= 1.3),
        Bar("vLLM: choice", f"{found['apart']:.1e} nats from ours", f"< {SAME}", found["apart"] < SAME, True),
        Bar('use = "vllm": answers', f"{plugin['other']} other than ours", "0", not plugin["other"], True),
        Bar('use = "vllm": choice', f"{plugin['apart']:.1e} nats from ours", f"< {NEAR}", plugin["apart"] < NEAR, True),
    ]
    return Section("vLLM", text, bars)


def _find_best_seconds(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [min(seconds) for seconds in zip(*rounds, strict=True)]
