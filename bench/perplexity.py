"""Rolling perplexity of the same texts by us and by lm-evaluation-harness's HF backend.

The texts have nothing in common, so there is no prefix to share; some are joined to longer ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench import texts
from bench.child import call
from bench.page import Bar, Section, table
from bench.setting import Setting

QUICK = {"passages": 8, "batches": (8,)}
SAME = 1e-4  # between the perplexities, as a share
JOINED = 5  # passages in every tenth text
WARM = "A text that is like no other one here, and of some length so that all is loaded and ready"


def measure(setting: Setting, *, passages: int = 40, batches: tuple[int, ...] = (1, 8, 16)) -> dict[str, Any]:
    """Score texts made of so many passages; lm_eval's batch size is the fastest of `batches`."""
    mine = call(ours, setting, passages=passages)
    tried = [call(lm_eval, setting, passages=passages, batch=batch) for batch in batches]
    theirs = min(tried, key=lambda found: found["seconds"])
    nats = mine.pop("nats"), theirs["nats"]
    for found in tried:
        found.pop("nats")
    mine["perplexity"], theirs["perplexity"] = (math.exp(-sum(each) / mine["tokens"]) for each in nats)
    apart = max(abs(a - b) for a, b in zip(*nats, strict=True))
    return {"ours": mine, "theirs": theirs, "tried": tried, "apart": apart}


def ours(setting: Setting, passages: int) -> dict[str, Any]:
    """Score with our subject."""
    asked = _texts(passages)
    with setting.ours() as [subject]:
        subject.logprobs([("", WARM)])
        found, seconds = setting.timed(lambda: subject.logprobs([("", text) for text in asked]))
    nats = [f.total for f in found]
    return {"texts": len(asked), "tokens": sum(f.tokens for f in found), "seconds": seconds, "nats": nats}


def lm_eval(setting: Setting, passages: int, batch: int) -> dict[str, Any]:
    """Score with lm-evaluation-harness."""
    from lm_eval.api.instance import Instance

    model = setting.lm_eval(batch)

    def score(asked: Sequence[str]) -> list[float]:
        requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(asked)]
        return [float(nats) for nats in model.loglikelihood_rolling(requests, disable_tqdm=True)]

    score([WARM])
    nats, seconds = setting.timed(lambda: score(_texts(passages)))
    return {"batch": batch, "seconds": seconds, "nats": nats}


def section(found: dict[str, Any]) -> Section:
    """Write the part's table."""
    mine, theirs = found["ours"], found["theirs"]
    rows = [["we", f"{mine['perplexity']:.6f}", f"{mine['seconds']:.2f} s", _memory(mine)]]
    for tried in found["tried"]:
        shown = f"{tried['perplexity']:.6f}" if "perplexity" in tried else ""
        rows.append([f"lm_eval, batch {tried['batch']}", shown, f"{tried['seconds']:.2f} s", _memory(tried)])
    text = [
        f"{mine['texts']} texts, {mine['tokens']:,} tokens; a text's log-probability is {found['apart']:.1e} nats apart "
        "at most.",
        table(["", "perplexity", "scoring", "peak memory"], rows),
    ]
    ratio, apart = theirs["seconds"] / mine["seconds"], abs(mine["perplexity"] / theirs["perplexity"] - 1)
    bars = [
        Bar("perplexity: lm_eval's", f"{apart:.1e} apart", "< 1e-4", apart < SAME, True),
        Bar("perplexity: speed", f"{ratio:.2f}× lm_eval's", "≥ 1.0×", ratio >= 1),
        Bar(
            "perplexity: peak memory",
            f"{mine['peak'] / theirs['peak']:.2f} of lm_eval's",
            "≤ 1.00",
            mine["peak"] <= theirs["peak"],
        ),
    ]
    return Section("Perplexity", text, bars)


def _memory(found: dict[str, Any]) -> str:
    return f"{found['peak'] / 1e9:.2f} GB"


def _texts(passages: int) -> list[str]:
    """Return passages, in every tenth text several in a row."""
    left, found = texts.passages()[:passages], []
    while left:
        size = JOINED if len(found) % 10 == 9 else 1
        found.append(" ".join(left[:size]))
        left = left[size:]
    return found
