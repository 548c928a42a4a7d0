"""How well `harness aa` predicts the verdicts of real reruns of equal models: python -m bench.flip_rates.

Of a suite of drawn answers and of one with a judge that tosses a coin on 30 % of pairs, some runs of the base predict
how often each gate says something else of another pair of runs. Then the base is run anew, with other seeds, and the
gates judge these runs themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.pipeline.run import open_run
from harness.pipeline.session import Options
from harness.planning.equal_runs import PairVerdicts, compare_equal_runs, evaluate_equal_runs
from harness.suite.tables import gate_alpha
from harness.testing import ROWS, write_fake
from harness.testing.judge import StubJudge
from tests.helpers.sampling import HARNESSFILE

SOURCES = ("seed", "company", "judge")
SUITE = """
[suite]
name = "flips"

[model]
use = "sampling"
path = "base"

[candidate]
merged = "base"

[[eval]]
name = "qa"
data = "test.jsonl"
temperature = 0.7
"""
JUDGE = """use = "judge"
backend = "openai"
model = "stub-judge"
trust_judge = true
adversaries = 0
max_new_tokens = 20
base_url = "{}"
"""
DRAWN = [
    *(f'metric = "qa.exact_match"\nmin = {least}' for least in (0.1, 0.15, 0.2, 0.25, 0.3)),
    *(f'metric = "qa.exact_match"\nversus = "base"\nworse_by_at_most = {most}' for most in (0.1, 0.15, 0.2, 0.25)),
]
JUDGED = [f'metric = "qa.win_rate"\nmin = {least}' for least in (0.3, 0.4, 0.42, 0.44)]


@dataclass(frozen=True)
class Comparison:
    """The chance that another rerun gets another verdict, as predicted and as it was."""

    gate: str
    predicted: float
    real: float


def compare_reruns(folder: Path, text: str, gates: Sequence[str], runs: int, reruns: int) -> Iterator[Comparison]:
    """Yield the predictions for a suite's gates, and what reruns of it come to."""
    path = folder / "suite.toml"
    named = (f'[[gate]]\nid = "{gate.splitlines()[-1]}"\n{gate}\n' for gate in gates)
    path.write_text(text + "\n".join(named), "utf-8")
    there = f"model.path={json.dumps(str(folder / 'base'))}"
    found = compare_equal_runs(path, Options(overrides=(there,)), runs)
    predicted = {one.gate: one.flips for one in found.gates}
    run = open_run(path, Options(ahead=True, overrides=(there, "suite.seed=1000")))
    task, pairwise = run.collection.tasks["qa"], run.collection.tasks["qa"].marks == "pairs"
    results = evaluate_equal_runs(run, [task], reruns if pairwise else 2 * reruns, SOURCES)["qa"]
    pairs = [(one, one) for one in results] if pairwise else list(zip(results[::2], results[1::2], strict=True))
    for gate in run.suite.gates:
        verdicts = PairVerdicts(gate, task, gate_alpha(gate, run.suite))
        said = Counter(verdicts.decide(ours, theirs) for ours, theirs in pairs)
        same = sum(n * (n - 1) for n in said.values()) / (reruns * (reruns - 1))
        yield Comparison(gate.id, predicted[gate.id], 1 - same)


def main(words: Sequence[str] | None = None) -> None:
    """Print what was predicted for the gates of both suites, and what reruns came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--reruns", type=int, default=100)
    args = parser.parse_args(words)
    print(f"{len(ROWS)} rows, {args.runs} runs of the base predict, {args.reruns:,} reruns; % that get another verdict")
    with tempfile.TemporaryDirectory() as name, StubJudge("noisy") as stub:
        folder, os.environ["HARNESS_CACHE"] = Path(name), f"{name}/cache"
        write_fake(folder / "base", 0.3)
        (folder / "harnessfile.py").write_text(HARNESSFILE.replace("{seed % 2}", "{seed}"), "utf-8")
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
        suites = {
            "drawn answers": (f'{SUITE}use = "exact_match"\n', DRAWN),
            "noisy judge": (SUITE + JUDGE.format(stub.openai_url), JUDGED),
        }
        for suite, (text, gates) in suites.items():
            found = list(compare_reruns(folder, text, gates, args.runs, args.reruns))
            for one in found:
                row = f"{suite:<16}{one.gate:<28}predicted {100 * one.predicted:5.1f}   real {100 * one.real:5.1f}"
                print(f"{row}   difference {100 * (one.predicted - one.real):+5.1f}", flush=True)


if __name__ == "__main__":
    main()
