"""Rolling perplexity of the same texts by us and by lm-evaluation-harness's HF backend.

The texts have nothing in common, so there is no prefix to share; every tenth is several passages long. The two sides
differ by more than the order of additions would explain, so the first texts are scored in float64 too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench import texts
from bench.child import call
from bench.page import Bar, Section, format_gigabytes, format_table
from bench.setting import Setting

QUICK = {"passages": 12, "batches": (8,), "exact": 2}
SAME = 1e-4  # between the perplexities, as a share
JOINED = 5  # passages in every tenth text
WARM = "A text that is like no other one here, and of some length so that all is loaded and ready"


def measure(setting: Setting, *, passages: int = 60, batches: Sequence[int] = (1, 8), exact: int = 8) -> dict[str, Any]:
    """Score texts of so many passages in all, the first `exact` in float64 too; lm_eval with each of `batches`."""
    mine = call(score_with_ours, setting, passages=passages)
    tried = [call(score_with_lm_eval, setting, passages=passages, batch=batch) for batch in batches]
    best = min(tried, key=lambda found: found["seconds"])
    wanted = call(score_in_float64, setting, passages=passages, number=exact)["nats"]
    found = {
        "apart": _compute_max_difference(mine["nats"], best["nats"]),
        "errors": [_compute_max_difference(side["nats"][:exact], wanted) for side in (mine, best)],
        "number": exact,
        "exact": setting.dtype == "float32",
    }
    for side in (mine, *tried):
        side["perplexity"] = math.exp(-sum(side.pop("nats")) / mine["tokens"])
    return {**found, "ours": mine, "theirs": best, "tried": tried}


def score_with_ours(setting: Setting, passages: int) -> dict[str, Any]:
    """Score with our subject, in lm_eval's form: behind the BOS that stands before every text, a second one."""
    asked = _join_passages(passages)
    with setting.ours() as [subject]:
        subject.logprobs([("", WARM)], truncate=True)
        found, seconds = setting.timed(lambda: subject.logprobs([("", text) for text in asked], truncate=True))
    nats = [f.total for f in found]
    return {"texts": len(asked), "tokens": sum(f.tokens for f in found), "seconds": seconds, "nats": nats}


def score_with_lm_eval(setting: Setting, passages: int, batch: int) -> dict[str, Any]:
    """Score with lm-evaluation-harness."""
    from lm_eval.api.instance import Instance

    model = setting.lm_eval(batch)

    def score(asked: Sequence[str]) -> list[float]:
        requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(asked)]
        return [float(nats) for nats in model.loglikelihood_rolling(requests, disable_tqdm=True)]

    score([WARM])
    nats, seconds = setting.timed(lambda: score(_join_passages(passages)))
    return {"batch": batch, "seconds": seconds, "nats": nats}


def score_in_float64(setting: Setting, passages: int, number: int) -> dict[str, Any]:
    """Score the first texts by plain forward passes in float64, one by one."""
    import torch

    nats = []
    with setting.ours() as [subject], torch.inference_mode():
        model = subject.model.double()
        for ids in subject.tokens.encode_prompts(_join_passages(passages)[:number]):
            whole = torch.tensor([[subject.tokens.prefix_id, *ids]], device=model.device)
            logprobs = model(input_ids=whole[:, :-1], use_cache=False).logits[0].log_softmax(-1)
            nats.append(float(logprobs.gather(1, whole[0, 1:, None]).sum()))
    return {"nats": nats}


def _join_passages(passages: int) -> list[str]:
    left = texts.read_passages()[:passages]
    found: list[str] = []
    while left:
        size = JOINED if len(found) % 10 == 9 else 1
        found.append(" ".join(left[:size]))
        left = left[size:]
    return found


def _compute_max_difference(a: Sequence[float], b: Sequence[float]) -> float:
    return max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)


def section(found: dict[str, Any]) -> Section:
    """Write the part's table."""
    mine, theirs = found["ours"], found["theirs"]
    sides = {"we": mine} | {f"lm_eval, batch {tried['batch']}": tried for tried in found["tried"]}
    rows = [
        [name, f"{side['perplexity']:.6f}", f"{side['seconds']:.2f} s", format_gigabytes(side["peak"])]
        for name, side in sides.items()
    ]
    text = [
        f"{mine['texts']} texts, {mine['tokens']:,} tokens; a text's log-probabilities are {found['apart']:.1e} nats "
        "apart at most.",
        format_table(["", "perplexity", "scoring", "peak memory"], rows),
    ]
    if found["number"]:
        errors = "us {:.1e} nats, with lm_eval {:.1e}".format(*found["errors"])
        text.append(f"The farthest that any of the first {found['number']} texts is from float64: with {errors}.")
    ratio, apart = theirs["seconds"] / mine["seconds"], abs(mine["perplexity"] / theirs["perplexity"] - 1)
    memory = mine["peak"] / theirs["peak"]
    bars = [
        Bar("perplexity", f"{apart:.1e} of it from lm_eval's", "< 1e-4", apart < SAME, True),
        Bar("perplexity: speed", f"{ratio:.2f}× lm_eval's", "≥ 1.0×", ratio >= 1),
        Bar("perplexity: peak memory", f"{memory:.2f} of lm_eval's", "≤ 1.00", memory <= 1),
    ]
    return Section("Perplexity", text, bars if found["exact"] else bars[1:])
