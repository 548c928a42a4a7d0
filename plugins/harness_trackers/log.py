"""What is logged of a run, whatever the tracker, and that a tracker which fails costs a warning and no verdict."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from harness import Run, UsageError, read_answers, shown

MOST = 1000  # rows of the table of what changed
LONGEST = 2000  # characters of a text in it
COLUMNS = ("gate", "candidate", "against", "change", "row", "prompt", "target", "before", "after")
STRANGE = re.compile(r"[^\w.\- ]")  # what no name of a metric may hold, in the strictest of the trackers


@dataclass(frozen=True)
class Told:
    """A run as it is logged: numbers by name, outcomes by gate, the rows that changed, files."""

    name: str
    suite: str
    about: Mapping[str, str]
    metrics: Mapping[str, float]
    gates: Sequence[Mapping[str, Any]]
    flips: Sequence[Sequence[str]]  # in the order of COLUMNS
    report: str  # report.json
    page: Path | None  # report.html
    folder: Path


def log(run: Run, names: Sequence[str]) -> None:
    """Log a run to trackers by their names; one that fails is told in one line."""
    for name in names:
        try:
            to: Callable[[Told], None] = import_module(f"harness_trackers.to_{name}").log
            to(told_of(run))
        except (Exception, SystemExit) as error:
            why = " ".join(str(error).split())[:300]
            what = f"warning: {name}: the verdicts were not logged: {type(error).__name__}: {why}"
            print(shown(what), file=sys.stderr)


def told_of(run: Run) -> Told:
    """Return what is logged of a run."""
    folder = Path(run.folder)
    about = {
        "suite": run.suite,
        "suite_digest": run.digest,
        "model": run.model,
        "started": run.started,
        "exit_code": str(int(run.exit_code)),
        "harness": run.harness,
        **{f"weights {name}": digest for name, digest in run.digests.items()},
        **{f"conclusion {i}": text for i, text in enumerate(run.conclusions, 1)},
    }
    gates = [_gate(v) for v in run.verdicts]
    page = folder / "report.html"
    return Told(
        folder.name,
        run.suite,
        {k: shown(v) for k, v in about.items() if v},
        dict(_metrics(run)),
        gates,
        _flips(run, folder),
        _report(run, folder),
        page if page.is_file() else None,
        folder,
    )


def name_of(*parts: str) -> str:
    """Return a name that every tracker takes, parts between slashes."""
    return "/".join(STRANGE.sub("_", part).strip(" .") or "_" for part in parts)


def _metrics(run: Run) -> Iterator[tuple[str, float]]:
    for r in run.reports:
        for metric, value in r.metrics.items():
            if math.isfinite(value):
                yield name_of(r.subject, r.eval, metric), value
    for v in run.verdicts:
        numbers = {"estimate": v.estimate, "lower": v.lower, "upper": v.upper, "threshold": v.threshold}
        numbers |= {"won": v.won_count, "lost": v.lost_count} if v.versus else {}
        for key, number in (numbers | {"passed": float(v.outcome == "PASS")}).items():
            if number is not None and math.isfinite(number):
                yield name_of("gate", v.candidate, v.gate, key), float(number)


def _gate(v: Any) -> dict[str, Any]:
    """Return a verdict as a row of a table."""
    return {
        "candidate": v.candidate,
        "gate": v.gate,
        "outcome": str(v.outcome),
        "blocking": v.blocking,
        "waived": v.waived,
        "claim": f"{v.metric} {v.claim}".strip(),
        "estimate": v.estimate,
        "lower": v.lower,
        "upper": v.upper,
        "n": v.n,
        "why": shown(v.why),
    }


def _flips(run: Run, folder: Path) -> list[list[str]]:
    """Return the rows that changed, with both answers: of gates, then of merging; those of private evals by no name."""
    steps = [(v.gate, v.metric.partition(".")[0], v.candidate, v.versus, v.lost, v.won) for v in run.verdicts]
    steps += [(f"{c.eval}.{c.metric}", c.eval, c.after, c.before, c.lost_ids, c.won_ids) for c in run.changes]
    found: list[list[str]] = []
    for gate, evaluation, candidate, versus, lost, won in steps:
        if not versus or evaluation in run.private or not (lost or won):
            continue
        try:
            ours, theirs = (read_answers(folder, subject, evaluation) for subject in (candidate, versus))
        except UsageError:
            continue
        for change, ids in (("lost", lost), ("won", won)):
            there = [i for i in ids if i in ours and i in theirs]
            found += [[gate, candidate, versus, change, i, *_texts(ours[i], theirs[i])] for i in there]
    return found[:MOST]


def _texts(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return prompt, target and both answers of a row."""
    prompt = ours["arguments"][0][0]
    told = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    target = ours["target"] if isinstance(ours["target"], str) else json.dumps(ours["target"], ensure_ascii=False)
    return [_text(t) for t in (told, target, theirs["resps"][0][0], ours["resps"][0][0])]


def _text(value: Any) -> str:
    text = shown("" if value is None else str(value), lines=True)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def _report(run: Run, folder: Path) -> str:
    """Return report.json without the names of rows of private evals."""
    text = (folder / "report.json").read_text("utf-8")
    if not run.private:
        return text
    data = json.loads(text)
    for verdict in (v for r in data["reports"] for v in r["verdicts"]):
        if verdict["metric"].partition(".")[0] in run.private:
            verdict["won"] = verdict["lost"] = []
    for change in data["changes"]:
        if change["eval"] in run.private:
            change["won_ids"] = change["lost_ids"] = []
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
