"""Multiple choice: the same (context, ending) pairs scored by us and by lm-evaluation-harness's HF backend.

The bound: whoever runs each distinct token once, at the rate of plain forward passes, needs that long at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from bench import texts
from bench.child import call
from bench.page import Bar, Section, format_gigabytes, format_table
from bench.setting import Setting, count_tokens

QUICK = {"documents": 8, "shots": (0, 5), "batches": (8,), "probed": 2, "growth": (4,)}
SAME = 1e-3  # nats, in float32
FASTER = {0: 2, 10: 25}  # than lm_eval, by shots
WARM = ("What comes first, and is like nothing else here, so that everything is loaded", " and ready")
Tokens = Sequence[tuple[list[int], list[int]]]


def measure(
    setting: Setting,
    *,
    documents: int = 40,
    shots: Sequence[int] = (0, 5, 10, 25),
    batches: Sequence[int] = (1, 8, 16),
    probed: int = 4,
    peer: bool = True,
    peer_until: int = 10,
    growth: Sequence[int] = (5, 15),
    words: int = texts.BEGINNING,
) -> dict[str, Any]:
    """Score `documents` at each number of shots.

    lm_eval's batch size is the fastest of `batches` on `probed` documents; beyond `peer_until` shots it scores no
    others. At the numbers of documents in `growth`, our tokens are counted too.
    """
    rows = []
    fastest = batches
    for number in shots:
        sizes = {"shots": number, "words": words}
        row = call(ours, setting, documents=documents, growth=growth, **sizes)
        totals = row.pop("totals")
        if peer:
            whole = number <= peer_until
            tried = [
                call(score_with_lm_eval, setting, documents=probed, batch=b, **sizes)
                for b in (batches if whole else fastest)
            ]
            best = min(tried, key=lambda found: found["seconds"])
            theirs = (
                call(score_with_lm_eval, setting, documents=documents, batch=best["batch"], **sizes) if whole else best
            )
            row |= {"theirs": theirs, "tried": [{**found, "totals": None} for found in tried]}
            row |= compare(totals, theirs["totals"])
            theirs["totals"], fastest = None, [best["batch"]]
        rows.append(row)
    return {"rows": rows, "documents": documents, "probed": probed, "exact": setting.dtype == "float32"}


def ours(setting: Setting, documents: int, shots: int, words: int, growth: Sequence[int]) -> dict[str, Any]:
    """Score with our subject."""
    from harness_hf.scoring import Scorer

    pairs, gold = _make_workload(documents, shots, words)
    with setting.ours() as [subject]:
        encoded = subject.tokens.encode_pairs(pairs)
        subject.logprobs([WARM])  # one pair, for our scorer first tries sharing on the first that are several
        before = measure_forward_rates(setting, subject, encoded)
        sizes = count_tokens(subject.model)
        found, seconds = setting.timed(lambda: subject.logprobs(pairs))
        ran = sum(sizes)
        after = measure_forward_rates(setting, subject, encoded)
        grown = []
        for number in growth:
            part = encoded[: number * texts.CHOICES]
            sizes.clear()
            list(Scorer(subject.model, subject.context).score(part))
            grown.append(
                {
                    "documents": number,
                    "needed": count_needed_tokens(part),
                    "plain": count_plain_tokens(part),
                    "run": sum(sizes),
                }
            )
        budget = subject.scorer.budget
    totals = [f.total for f in found]
    row = {
        "documents": documents,
        "needed": count_needed_tokens(encoded),
        "plain": count_plain_tokens(encoded),
        "run": ran,
    }
    return {
        **row,
        "shots": shots,
        "requests": len(pairs),
        "seconds": seconds,
        "rates": [(a + b) / 2 for a, b in zip(before, after, strict=True)],
        "budget": budget,
        "growth": [*grown, row],
        "totals": totals,
        "accuracy": sum(a == b for a, b in zip(texts.chosen(totals), gold, strict=True)) / documents,
    }


def score_with_lm_eval(setting: Setting, documents: int, shots: int, words: int, batch: int) -> dict[str, Any]:
    """Score with lm-evaluation-harness."""
    from lm_eval.api.instance import Instance

    pairs, _ = _make_workload(documents, shots, words)
    model = setting.lm_eval(batch)

    def score(asked: Sequence[texts.Pair]) -> list[float]:
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(asked)]
        return [total for total, _ in model.loglikelihood(requests, disable_tqdm=True)]

    score([WARM])
    sizes = count_tokens(model.model)
    totals, seconds = setting.timed(lambda: score(pairs))
    return {"batch": batch, "requests": len(pairs), "run": sum(sizes), "seconds": seconds, "totals": totals}


def _make_workload(documents: int, shots: int, words: int) -> tuple[list[texts.Pair], list[int]]:
    asked, examples = texts.make_documents(documents, shots, words=words)
    return texts.make_pairs(asked, examples), [document.gold for document in asked]


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Return how far apart the log-probabilities are, and how many choices differ, where both scored."""
    ours = ours[: len(theirs)]
    return {
        "apart": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "other": sum(a != b for a, b in zip(texts.chosen(ours), texts.chosen(theirs), strict=True)),
    }


def count_needed_tokens(pairs: Tokens) -> int:
    """Count the nodes of the pairs' prefix tree: the tokens that must be run."""
    inputs = sorted((context + ending)[:-1] for context, ending in pairs)
    return sum(map(len, inputs)) - sum(_count_shared_tokens(a, b) for a, b in pairwise(inputs))


def count_plain_tokens(pairs: Tokens) -> int:
    """Count the tokens that are run when each pair is run by itself."""
    return sum(len(context) + len(ending) - 1 for context, ending in pairs)


def _count_shared_tokens(a: Sequence[int], b: Sequence[int]) -> int:
    differ = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


def measure_forward_rates(setting: Setting, subject: Any, pairs: Tokens) -> list[float]:
    """Return the tokens a second of plain forward passes of one row of as many tokens as our scorer's.

    The first as the model comes, projecting every token to the vocabulary; the second projecting the share of the
    tokens that the pairs need.
    """
    import torch

    size = min(subject.scorer.budget, subject.context)
    tokens = [token for context, ending in pairs for token in context + ending][:size]
    ids = torch.tensor([tokens], device=subject.model.device)
    predicting = {
        tuple((context + ending)[: len(context) + i]) for context, ending in pairs for i in range(len(ending))
    }
    asked = max(1, len(tokens) * len(predicting) // count_needed_tokens(pairs))
    some = torch.linspace(0, len(tokens) - 1, asked, device=ids.device).long()
    return [_measure_forward_rate(setting, subject.model, ids, keep) for keep in (0, some)]


def _measure_forward_rate(setting: Setting, model: Any, ids: Any, keep: Any) -> float:
    import torch

    with torch.inference_mode():
        model(input_ids=ids, use_cache=False, logits_to_keep=keep)
        again = [setting.timed(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=keep))[1] for _ in range(3)]
    return float(ids.numel() / median(again))


def compute_bound_shares(row: dict[str, Any]) -> list[float]:
    """Return the bound's seconds over ours, with either rate."""
    return [row["needed"] / rate / row["seconds"] for rate in row["rates"]]


def ratio(row: dict[str, Any]) -> float:
    """Return lm_eval's seconds over ours, per request, for it may have scored fewer."""
    theirs = row["theirs"]
    return float((theirs["seconds"] / theirs["requests"]) / (row["seconds"] / row["requests"]))


def section(found: dict[str, Any]) -> Section:
    """Write the part's tables."""
    rows = found["rows"]
    compared = [row for row in rows if "theirs" in row]
    text = [
        f"{found['documents']} documents × {texts.CHOICES} endings, the same worked examples before all of them; the "
        "seconds are those of scoring, tokenisation included and loading not.\n"
        "“Needed” are the nodes of the requests' prefix tree, “plain” is one run for every request, “run” is what went "
        "through the model with padding, and with us the requests that are scored a second time as a check.\n"
        "“Of the bound” is the time the needed tokens would take at the rate of plain forward passes of "
        f"{rows[0]['budget']} tokens, over our time; in brackets, at the rate of passes that project no more tokens "
        "to the vocabulary than must be.",
        format_table(
            ["shots", "needed", "plain", "we run", "lm_eval runs", "we", "lm_eval", "ratio", "of the bound"],
            [_format_speed_row(row) for row in rows],
        ),
        "Plain forward passes run {:,.0f} ({:,.0f}) tokens a second.".format(
            *(median(row["rates"][i] for row in rows) for i in (0, 1))
        ),
    ]
    if compared:
        text.append(
            format_table(
                ["shots", "most apart, nats", "other choices", "accuracy", "peak memory", "lm_eval's"],
                [_format_result_row(row) for row in compared],
            )
        )
        text += [
            f"lm_eval's batch size is the fastest of these on {found['probed']} documents; where a number of requests "
            "stands behind its seconds it scored only those, and the ratio is per request.",
            format_table(
                ["shots", "batch", "seconds", "peak memory"],
                [line for row in compared for line in _format_tried_rows(row)],
            ),
        ]
    grown = [[row["shots"], *_format_token_counts(each)] for row in rows for each in row["growth"]]
    text += [
        "The cost grows with the needed tokens:",
        format_table(["shots", "documents", "plain", "needed", "run"], grown),
    ]
    return Section("Multiple choice", text, [bar for row in compared for bar in _make_bars(row, found["exact"])])


def _format_speed_row(row: dict[str, Any]) -> list[Any]:
    tokens = [f"{row[key]:,}" for key in ("needed", "plain", "run")]
    share = "{:.0%} ({:.0%})".format(*compute_bound_shares(row))
    if "theirs" not in row:
        return [row["shots"], *tokens, "", f"{row['seconds']:.2f} s", "", "", share]
    theirs = row["theirs"]
    some = "" if theirs["requests"] == row["requests"] else f" ({theirs['requests']} requests)"
    speeds = f"{row['seconds']:.2f} s", f"{theirs['seconds']:.2f} s{some}", f"{ratio(row):.1f}×"
    return [row["shots"], *tokens, f"{theirs['run']:,}{some}", *speeds, share]


def _format_result_row(row: dict[str, Any]) -> list[Any]:
    theirs = row["theirs"]
    memory = format_gigabytes(row["peak"]), f"{format_gigabytes(theirs['peak'])} (batch {theirs['batch']})"
    return [row["shots"], f"{row['apart']:.1e}", row["other"], f"{row['accuracy']:.3f}", *memory]


def _format_tried_rows(row: dict[str, Any]) -> list[list[Any]]:
    return [[row["shots"], f["batch"], f"{f['seconds']:.2f} s", format_gigabytes(f["peak"])] for f in row["tried"]]


def _format_token_counts(each: dict[str, int]) -> list[str]:
    return [f"{each[key]:,}" for key in ("documents", "plain", "needed", "run")]


def _make_bars(row: dict[str, Any], exact: bool) -> list[Bar]:
    """Compare with what was to be reached; results must be equal in float32 only, for others round differently."""
    name, faster, memory = (
        f"choice, {row['shots']} shots",
        FASTER.get(row["shots"]),
        row["peak"] / row["theirs"]["peak"],
    )
    bars = [
        Bar(
            f"{name}: log-probabilities", f"{row['apart']:.1e} nats from lm_eval's", "< 1e-3", row["apart"] < SAME, True
        ),
        Bar(f"{name}: choices", f"{row['other']} other than lm_eval's", "0", not row["other"], True),
    ]
    bars = bars if exact else []
    if faster:
        bars.append(Bar(f"{name}: speed", f"{ratio(row):.1f}× lm_eval's", f"≥ {faster}×", ratio(row) >= faster))
    bars.append(Bar(f"{name}: peak memory", f"{memory:.2f} of lm_eval's", "≤ 1.00", memory <= 1))
    if row["shots"] == 10:
        share = compute_bound_shares(row)[0]
        bars.append(Bar(f"{name}: of the bound", f"{share:.0%}", "≥ 85%", share >= 0.85))
        largest = max(row["tried"], key=lambda tried: tried["batch"])
        memory = row["peak"] / largest["peak"]
        what = f"{memory:.2f} of lm_eval's at batch {largest['batch']}"
        bars.append(Bar(f"{name}: peak memory", what, "≤ 0.33", memory <= 1 / 3))
    return bars
