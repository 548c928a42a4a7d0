"""Scoring, generation and training beside processes that use the cores too, with threads that wait in several ways.

Two threads that share their work wait for each other at every layer. While they spin, whoever else wants a core waits
for them, and they for him.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from bench import texts
from bench.child import call
from bench.page import Bar, Section, format_table
from bench.setting import Setting
from bench.training import DATA, make_training_rows, train

QUICK = {"rounds": 1, "hogs": [0], "documents": 2, "answers": 2, "steps": 1}
SPIN, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
LIBGOMP, OURS = "300000", "3000"  # turns, by themselves, and what `harness` sets
WAYS: dict[str, dict[str, str]] = {
    **{f"{int(turns):,} turns": {SPIN: turns} for turns in (LIBGOMP, "30000", OURS, "300")},
    "asleep": {POLICY: "PASSIVE"},
}


def measure(
    setting: Setting,
    *,
    rounds: int = 3,
    hogs: list[int] | None = None,
    documents: int = 40,
    answers: int = 24,
    steps: int = 4,
    data: str = DATA,
) -> dict[str, Any]:
    """Take the seconds of each work in each way, in turn, beside none, one and two busy processes."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    sizes: dict[str, Any] = {"documents": documents, "answers": answers, "steps": steps, "data": data}
    for number in hogs or [0, 1, 2]:
        with keep_busy(number):
            for _ in range(rounds):
                for name, environment in WAYS.items():
                    done = call(measure_works, setting, environment, **sizes)
                    found.setdefault(str(number), {}).setdefault(name, []).append(done)
    return {"rounds": rounds, **sizes, "found": found}


@contextmanager
def keep_busy(number: int) -> Iterator[None]:
    """Keep so many processes busy meanwhile."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def measure_works(setting: Setting, documents: int, answers: int, steps: int, data: str) -> dict[str, Any]:
    """Score, generate and train once, each after a warm-up of its own."""
    pairs = [(d.beginning, ending) for d in texts.make_documents(documents + 1, 0)[0] for ending in d.endings]
    with setting.ours() as [subject]:
        subject.logprobs(pairs[: texts.CHOICES])
        _, scoring = setting.timed(lambda: subject.logprobs(pairs[texts.CHOICES :]))
        prompts = [prompt for prompt, _ in pairs[:: texts.CHOICES]][:answers]
        subject.generate(prompts[:1], max_new_tokens=4, stop=[])
        _, generation = setting.timed(lambda: subject.generate(prompts, max_new_tokens=24, stop=[]))
    facts = train(setting, make_training_rows(16, data), max_steps=steps, max_length=128)
    return {"scoring": scoring, "generation": generation, "training": facts["tokens"] / facts["tokens_per_second"]}


def section(found: dict[str, Any]) -> Section:
    """Write the part's table: medians of seconds."""
    works = ("scoring", "generation", "training")
    seconds = {
        number: {name: {w: median(each[w] for each in rounds) for w in works} for name, rounds in ways.items()}
        for number, ways in found["found"].items()
    }
    lines = [
        [number, name, *(f"{ways[name][w]:.1f}" for w in works)] for number, ways in seconds.items() for name in ways
    ]
    by_itself, ours = (f"{int(turns):,} turns" for turns in (LIBGOMP, OURS))
    text = [
        f"Seconds of scoring {found['documents']} questions of four endings, of answering {found['answers']} prompts "
        f"and of {found['steps']} training steps, the median of {found['rounds']} rounds; how long threads spin "
        f"is set by `{SPIN}` or `{POLICY}`: libgomp by itself {by_itself}, the harness {ours} where neither is set.",
        format_table(["busy processes", "threads wait", *works], lines),
    ]
    bars = []
    if {"0", "2"} <= seconds.keys():
        quiet, with_two = seconds["0"], seconds["2"]
        worst = max(with_two[ours][w] / quiet[ours][w] for w in works)
        cost = max(quiet[ours][w] / quiet[by_itself][w] for w in works)
        bars = [
            Bar("two busy processes", f"{worst:.1f}× the time when quiet", "≤ 4×", worst <= 4),
            Bar("a quiet machine", f"{100 * (cost - 1):+.0f} % at worst", "≤ +5 %", cost <= 1.05),
        ]
    return Section("Beside others", text, bars)
