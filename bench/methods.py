"""Compare full fine-tuning with a LoRA and a QLoRA: suites/methods.toml several times, on the same rows.

python -m bench.methods [--set KEY=VALUE …]

Each way to train has its own learning rate, and as many rows and steps as the others. Prints what each scores on the
rows of the test, and each adapter against full fine-tuning, row by row, with a 95 % interval over clusters. What was
trained and answered before is not done again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from bench.child import ROOT
from bench.page import format_table
from harness.internals import read_answers
from harness.reports.run_folder import metric_value as row_value

SUITE = ROOT / "suites" / "methods.toml"
WAYS: dict[str, tuple[str, ...]] = {
    "full": (),
    "lora": ('adapter.use="lora"', "adapter.r=16", "adapter.lora_dropout=0.0", "train.learning_rate=5e-4"),
    "qlora": ('adapter.use="qlora"', "adapter.r=16", "adapter.lora_dropout=0.0", "train.learning_rate=5e-4"),
}
WAYS["qlora on its 4 bits"] = (*WAYS["qlora"], 'merge.base="dequantized"')  # onto the weights that it saw
SCORES = {"choice": "acc", "answers": "perplexity", "capitals": "acc"}
Rows = Mapping[str, Mapping[str, Any]]


def run_all(out: Path, more: Sequence[str]) -> dict[str, Any]:
    """Run the suite once for each way to train; return the runs by its name."""
    runs = {}
    for way, own in WAYS.items():
        overrides = (*own, *more, f'export.0.to="{out / way}"')
        runs[way] = harness.run(SUITE, out=out / "reports", overrides=overrides, keyword="merged", export=False)
    return runs


def read_scores(run: Any) -> dict[str, dict[str, float]]:
    """Return the metrics of the trained model by evaluation; raises SystemExit where the run did not end."""
    found = {report.eval: report.metrics for report in run.results if report.subject == "merged"}
    if not SCORES.keys() <= found.keys():
        raise SystemExit(f"{run.folder}: {run.problem or 'was not evaluated whole'}")
    return found


def compute_mean_difference(ours: Rows, theirs: Rows, metric: str) -> tuple[float, float, float]:
    """Return the mean difference of two models on the same rows, and its 95 % interval; of a perplexity in nats.

    Rows are weighted, by their tokens for a perplexity; the interval is the normal one of a ratio, over clusters.
    """
    names = [name for name in ours if name in theirs]
    weights = [float(ours[name]["weight"]) for name in names]
    gaps = [row_value(ours[name], metric) - row_value(theirs[name], metric) for name in names]
    total = sum(weights)
    mean = sum(w * g for w, g in zip(weights, gaps, strict=True)) / total
    apart: dict[str, float] = {}
    for name, weight, gap in zip(names, weights, gaps, strict=True):
        cluster = str(ours[name].get("cluster") or name)
        apart[cluster] = apart.get(cluster, 0.0) + weight * (gap - mean)
    half = 1.96 * math.sqrt(sum(x * x for x in apart.values())) / total
    return mean, mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="more")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "methods")
    asked = parser.parse_args()
    runs = run_all(asked.out, asked.more)
    scored = {way: read_scores(run) for way, run in runs.items()}
    lines = []
    for way, run in runs.items():
        facts, own = run.facts["training"], scored[way]
        told = [f"{own[evaluation][metric]:.3f}" for evaluation, metric in SCORES.items()]
        lines.append([way, f"{facts['trainable_parameters']:,}", str(facts["steps"]), *told])
    print(format_table(["", "trained", "steps", *(f"{e}.{m}" for e, m in SCORES.items())], lines))
    lines = []
    for way in [*WAYS][1:]:
        for evaluation, metric in SCORES.items():
            rows = [read_answers(Path(runs[name].folder), "merged", evaluation) for name in (way, "full")]
            mean, low, high = compute_mean_difference(*rows, metric)
            lines.append([f"{way} less full", f"{evaluation}.{metric}", f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"])
    print(format_table(["", "metric", "difference, row by row"], lines))


if __name__ == "__main__":
    main()
