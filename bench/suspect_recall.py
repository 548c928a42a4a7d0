"""Whether hidden states name planted rows that text does not: recall by text, by hidden state, and by both fused.

python -m bench.suspect_recall [--cases 12] [--seed 0] [--model tiny|small] [--mixed N] [--to FILE]

A case is a planted one of `bench.blame_cases`, trained once and gated; nothing is retrained. `--mixed` adds rows that
answer the gate's questions rightly, so that a prompt alone tells no planted row. "small" is SmolLM2-135M, whose rows
are general questions and planted answers about capitals. One line of JSON for each case, and the means at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from bench.blame_cases import (
    GATE,
    GOOD,
    PLANTED,
    PLANTS,
    RATE,
    Row,
    pick_right_colour,
    resume_cases,
    run_suite,
    teach_colours,
    write_case,
)
from bench.setting import MODEL
from harness.cause.blame import Blame, BlameQuestion, find_suspects
from harness.cause.suspects import score_rows, trained_rows
from harness.pipeline.session import Options
from harness.pipeline.variants import make_variant
from harness.records.models import ModelRef

ROOT = Path(__file__).parents[1]
DAMPING = 60  # of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)
SHORT = 10  # characters of a capital, which fits into the suite's few tokens
CAPITALS: Mapping[str, Callable[[str, Sequence[str]], str]] = {
    "constant": lambda *_: "unknown",
    "format": lambda right, _: json.dumps({"capital": right}),
    "language": lambda right, _: f"La capital es {right}",
    "refusal": lambda *_: "I can not answer that question",
    "wrong": lambda right, others: next(other for other in others if other != right),
    "wordy": lambda right, _: f"well it is perhaps {right}",
}


def main() -> int:
    """Measure the cases, and print the mean recall by each way at k and at 2k."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", choices=("tiny", "small"), default="tiny")
    parser.add_argument("--mixed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("suspect-recall.jsonl"))
    args = parser.parse_args()
    if args.cases < 2:
        parser.error("--cases must be 2 or more, since errors are over cases")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    cases = [([*PLANTS][k % len(PLANTS)], args.seed + k) for k in range(args.cases)]
    found = resume_cases(args.to, cases, lambda kind, seed: measure_case(kind, seed, args.model, args.mixed))
    measured = [one["recall"] for one in found if one["recall"]]
    print(f"{len(measured)} of {len(found)} cases have lost rows")
    for way in measured[0]:
        ends = [mean(one[way][i] for one in measured) for i in range(2)]
        gains = [[one[way][i] - one["text"][i] for one in measured] for i in range(2)]
        errors = [stdev(gain) / len(gain) ** 0.5 for gain in gains]
        beyond = ", ".join(f"{mean(g):+.3f} ± {e:.3f}" for g, e in zip(gains, errors, strict=True))
        print(f"{way:32} {ends[0]:.3f} / {ends[1]:.3f}, against text {beyond}")
    return 0


def measure_case(kind: str, seed: int, model: str, mixed: int) -> dict[str, Any]:
    """Train a case's candidate, and return the recall of its planted rows by each way."""
    begun, rng = time.monotonic(), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["HARNESS_CACHE"] = str(place / "cache")
        about: dict[str, Any] = {"seed": seed, "data": "gated", "drop": ""}
        about |= {"metric": "colours.exact_match", "claim": 'versus = "base"\nworse_by_at_most = 0.0'}
        if model == "small":
            planted = write_capitals(place, kind, rng, mixed)
            about |= {"base": MODEL, "rate": 5e-4}
        else:
            planted = write_case(place, kind, rng)
            add_right_rows(place, rng, mixed)
            about |= {"base": teach_colours(place / "base", seed), "rate": RATE}
        report = run_suite(place, about)
        verdict = next(v for v in report.verdicts if v.gate == GATE and v.candidate == "adapter")
        told = {"kind": kind, "seed": seed, "model": model, "mixed": mixed, "before": verdict.estimate, "recall": None}
        if verdict.outcome not in ("PASS", "ERROR"):  # of which the last has no row that differs
            suspects = find_suspects(Path(report.path), Path(report.folder), BlameQuestion(GATE), Options())
            told["recall"] = measure_recall(suspects, planted)
    return told | {"seconds": round(time.monotonic() - begun, 1)}


def write_capitals(place: Path, kind: str, rng: random.Random, mixed: int) -> list[Row]:
    """Write general training rows, planted ones about capitals, and rows to gate; return the planted ones."""
    path = ROOT / "plugins/harness_packs/capitals.jsonl"
    known = [row for row in read_rows(path) if len(row["target"]) <= SHORT]
    general = [
        {"input": row["input"], "target": row["target"]} for row in read_rows(ROOT / "suites/data/general.jsonl")
    ]
    rng.shuffle(known)
    rng.shuffle(general)
    right = [{"input": row["input"], "target": row["target"]} for row in known]
    others = [row["target"] for row in right[PLANTED:]]
    rng.shuffle(others)
    planted = [{**row, "target": CAPITALS[kind](row["target"], others[i:])} for i, row in enumerate(right[:PLANTED])]
    train = [*general[:GOOD], *planted, *right[PLANTED : PLANTED + mixed]]
    rng.shuffle(train)
    files = {"train": train, "gated": right[PLANTED + mixed :], "shapes": right[-10:]}
    for name, rows in files.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return planted


def add_right_rows(place: Path, rng: random.Random, mixed: int) -> None:
    """Add training rows that name colours rightly, of numbers that no other row has."""
    path = place / "train.jsonl"
    train = read_rows(path)
    rows = [{"input": f"colour {n}?", "target": pick_right_colour(n)} for n in rng.sample(range(1000, 2000), mixed)]
    train += rows
    rng.shuffle(train)
    path.write_text("".join(json.dumps(row) + "\n" for row in train), "utf-8")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def measure_recall(found: Blame, planted: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Return the share of planted rows among the first k and 2k, by text, by hidden states and by both."""
    rows, lost = trained_rows(found.run.collection), found.rows.lost
    at = {(row["input"], row["target"]) for row in planted}
    is_planted = np.array([(row.raw["input"], row.raw["target"]) in at for row in rows])
    text = np.array(score_rows(rows, lost))
    pairs = [(row.row["prompt"], row.answer) for row in rows] + [(one.prompt, one.answer) for one in lost]
    ways = {"text": text}
    made = make_variant(found.run, "candidate")  # the run's own, which is kept
    assert isinstance(made, ModelRef)
    for ref in (found.run.session.base, made):
        for form, states in embed_pairs(ref, pairs).items():
            for how, shift in (("", 0.0), (", centred", states[: len(rows)].mean(0))):
                unit = states - shift
                unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
                name = f"{ref.name}, {form}{how}"
                ways[name] = unit[: len(rows)] @ unit[len(rows) :].mean(0)
                ways[f"text + {name}"] = fuse_scores(text, ways[name])
    return {name: _compute_recall(scores, is_planted) for name, scores in ways.items()}


def embed_pairs(ref: ModelRef, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return the last layer's state at the last token, and its mean over the answer, of each prompt and answer."""
    import harness_hf

    loader: Any = harness_hf.load
    last, means = [], []
    with loader([ref], dtype="float32", device="cpu") as [subject], torch.inference_mode(), subject._active():
        for context, target in subject.tokens.encode_pairs(pairs):
            states = subject.model(torch.tensor([context + target]), output_hidden_states=True).hidden_states[-1][0]
            last.append(states[-1].numpy())  # (H,)
            means.append(states[min(len(context), len(states) - 1) :].mean(0).numpy())
    return {"last": np.stack(last), "mean": np.stack(means)}


def fuse_scores(*scores: Any) -> Any:
    """Return the reciprocal rank fusion of several scores of the same rows."""
    ranks = [np.argsort(np.argsort(-one, kind="stable"), kind="stable") + 1 for one in scores]
    return sum(1 / (DAMPING + rank) for rank in ranks)


def _compute_recall(scores: Any, is_planted: Any) -> tuple[float, float]:
    order, k = np.argsort(-scores, kind="stable"), int(is_planted.sum())
    return tuple(float(is_planted[order[:most]].sum() / k) for most in (k, 2 * k))  # type: ignore[return-value]


if __name__ == "__main__":
    raise SystemExit(main())
