"""The rows of items.jsonl: what the evidence says of every row that was judged, and never its texts.

They come from the results of the run that were judged, not from a folder that others can write to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.artifacts.digests import digest_of
from harness.claims.contamination import Leaks
from harness.collection.plan import Task
from harness.records.samples import Result, Sample, Score
from harness.reports.run_folder import row_of

Results = Mapping[tuple[str, str], Result]  # by subject and evaluation


def rows_of(results: Results, tasks: Mapping[str, Task], leaks: Leaks | None) -> Iterator[dict[str, Any]]:
    """Yield every scored row of a run, evaluation by evaluation; of a private one a digest a row."""
    for (subject, name), result in results.items():
        task, item, scores = tasks[name], f"{subject}::{name}", {s.id: s for s in result.scores}
        told = (leaks or {}).get(name, {})
        names = [*result.metrics, *dict.fromkeys(found.side for found in result.labels if found.side)]
        places = {i: place for place, i in enumerate(result.order)}
        for number, sample in enumerate(task.samples or ()):
            if result.missing or sample.id not in scores:
                continue
            row = as_kept(number, sample, scores[sample.id], names)
            if task.spec.private:
                yield {"item": item, "sha256": digest_of(row)}
                continue
            about: dict[str, Any] = {"number": number, "slices": _slices(sample, task.spec.slices), "key": sample.key}
            about |= {"place": places[sample.id]} if places else {}
            about |= {"leak": told[sample.id]} if sample.id in told else {}
            yield {"item": item, **scores_of(row), **about}


def evaluations_of(results: Results) -> dict[str, dict[str, Any]]:
    """Return what holds for all rows of an evaluation: which weights answered which rows, caveats and labels."""
    return {
        f"{subject}::{name}": {
            "weights": result.digest,
            "rows": result.rows,
            "caveats": [{"text": c.text, "outcome": c.outcome, "metrics": list(c.metrics)} for c in result.caveats],
            **({"labels": [asdict(found) for found in result.labels]} if result.labels else {}),
        }
        for (subject, name), result in results.items()
    }


def as_kept(number: int, sample: Sample, score: Score, metrics: Sequence[str]) -> dict[str, Any]:
    """Return a row as a run's folder keeps it, and as it is read from there."""
    kept: dict[str, Any] = json.loads(
        json.dumps(row_of(number, sample, score, metrics), ensure_ascii=False, default=str)
    )
    return kept


def scores_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the evidence says of a row that is not private: scores, and digests of its texts."""
    values = {name: _number(row[name]) for name in row["metrics"] if name in row}
    told = {k: row[k] for k in ("id", "cluster", "doc_hash", "prompt_hash", "target_hash")}
    weights = {name: _number(weight) for name, weight in row["weights"].items()}
    told |= {"weight": _number(row["weight"]), "weights": weights, **({"lost": row["lost"]} if "lost" in row else {})}
    told |= {key: row[key] for key in ("ended", "tokens") if key in row}
    return {**told, "answer_hash": digest_of(row["resps"]), "values": values}


def _number(value: Any) -> Any:
    """Return a number, or None where it is not finite, for which JSON has no words."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _slices(sample: Sample, columns: Sequence[str]) -> dict[str, str]:
    """Return a row's slices as gates compare them, as texts; a column that it lacks is not there."""
    return {column: str(sample.row[column]) for column in columns if column in sample.row}
