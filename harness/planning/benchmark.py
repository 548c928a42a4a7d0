"""How fast and how large: a few real steps and rows in a process of their own, kept for this model and recipe.

`python -m harness.planning.benchmark` is that process: it reads what to measure from stdin and writes what it found to
a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness import schema
from harness.collection.collection import Item, Task
from harness.errors import UsageError
from harness.evaluation import grading
from harness.evaluation.evaluate import evaluate
from harness.files import write_text
from harness.pipeline.measurements import (
    EVALUATION,
    FULL,
    Measured,
    adapter_options,
    measurable_methods,
    measurement_path,
    thread_count,
)
from harness.pipeline.session import Session
from harness.planning.workload import count_training_tokens
from harness.workers.loading import load_uncached

TIMED_ROWS = 16  # of each evaluation that are timed


def forecast_at_rate(session: Session, rate: float) -> dict[str, Measured]:
    """Return a measurement of the training from a known rate.

    The rate is in tokens a second, as seen elsewhere. Raises UsageError unless it is above 0 and the suite trains on
    known rows.
    """
    collection, table, what = session.collection, session.suite.train, measurable_methods(session.collection)
    tokens = count_training_tokens(collection, session.opened.source) if table and what else None
    if not table or not tokens or not rate > 0:
        raise UsageError(f"--rate {rate:g}: must be above 0, and needs a suite that trains on known rows")
    options = schema.with_defaults(collection.plugins.find("trainer", table.use).function, table.options)
    whole = round(tokens * float(options.get("num_train_epochs") or 1))
    return {what[0]: Measured(what[0], tokens=round(rate), seconds=1.0, whole_tokens=whole)}


def measure_suite(session: Session) -> dict[str, Measured]:
    """Measure training and evaluation anew, and cache the results.

    Each runs in a process of its own, so that nothing else is in its memory.
    """
    found = {}
    words = [sys.executable, "-P", "-m", measure_suite.__module__]
    options = {name: getattr(session.options, name) for name in ("ahead", "candidate", "limit", "overrides", "plugins")}
    for what in (*measurable_methods(session.collection), EVALUATION):
        print(f"measuring {what} …", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "measured.json"
            asked = {"what": what, "suite": str(session.suite.path), "options": options, "out": str(out)}
            done = subprocess.run(words, input=json.dumps(asked), capture_output=True, text=True, check=False)
            try:
                found[what] = Measured(**json.loads(out.read_text("utf-8")))
            except (OSError, ValueError, TypeError):
                lines = [line for line in done.stderr.splitlines() if line.strip()] or [
                    f"ended with exit code {done.returncode}"
                ]
                killed = "was killed, probably because the system ran out of memory"
                found[what] = Measured(what, error=killed if done.returncode == -9 else lines[-1][:300])
        if not found[what].error:
            write_text(measurement_path(session, what), json.dumps(asdict(found[what])))
    return found


def main() -> None:
    """Run the measurement that stdin specifies."""
    from harness.pipeline.record import peak_memory
    from harness.pipeline.run import Options, open_run

    asked = json.load(sys.stdin)
    given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in asked["options"].items()}
    session = open_run(Path(asked["suite"]), Options(**given)).session
    what, collection, suite = asked["what"], session.collection, session.suite
    try:
        if what == EVALUATION:
            found = _time_evaluations(session)
        else:
            assert suite.train and suite.adapter and collection.training is not None
            make = None if what == FULL else collection.plugins.find("adapter", what).function
            adapter = make(**adapter_options(collection, what)) if make else None
            measure = collection.plugins.find("trainer", suite.train.use).capabilities.measure
            assert measure  # `measurable_methods` names no way to train without
            rows, options = list(collection.training), suite.train.options
            found = Measured(what, **measure(session.base, adapter, rows, seed=suite.training_seed, **options))
        peaks = peak_memory()
        peak, device = (peaks["cuda"], "cuda") if peaks["cuda"] else (peaks[""], "cpu")
        load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
        found = replace(found, peak=peak, device=device, threads=thread_count(), load=load)
    except UsageError as error:
        found = Measured(what, error=str(error))
    write_text(Path(asked["out"]), json.dumps(asdict(found)))


def _time_evaluations(session: Session) -> Measured:
    """Time some rows of every evaluation on the base.

    Evaluations with worked examples are timed with them.
    """
    suite, collection, seconds = session.suite, session.collection, dict[str, float]()
    timed: dict[Item, Task] = {}  # the base's own, those with examples, and the candidates'
    for item in collection.items:
        baseline = suite.subjects.get(item.subject)
        if not baseline or not (baseline.use or baseline.released):
            timed.setdefault(item if baseline else replace(item, subject="base"), collection.tasks[item.eval])
    begun = time.monotonic()
    with load_uncached(collection.plugins, suite.path, suite.model.use, [session.base], suite.model.options) as [
        subject
    ]:
        setup = time.monotonic() - begun
        for item, task in timed.items():
            asked = session.with_examples(item, subject)
            rows: Sequence[Any] = task.samples or ()
            for some in (rows[:1], rows[:TIMED_ROWS]):  # the first row pays for what is set up once
                begun = time.monotonic()
                short = replace(task, samples=tuple(some))
                if task.marks:  # what marks is another model, in another place
                    grading.generate_answers(short, "base", asked, lambda _: None)
                else:
                    evaluate(short, "base", asked, subject, lambda _: None)
                seconds[f"{item.subject}::{item.eval}"] = (time.monotonic() - begun) / max(1, len(some))
    return Measured(EVALUATION, setup=setup, rows=seconds)


if __name__ == "__main__":
    main()
