"""How fast and how large: a few real steps and rows in a process of their own, kept for this model and recipe.

`python -m harness_plan.benchmark` is that process: it reads what to measure from stdin and writes what it found to
a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.answers import keys
from harness.artifacts.digests import digest_of
from harness.collection.collected import Collection, Item, Task
from harness.errors import UsageError
from harness.evaluation import grading
from harness.evaluation.evaluate import evaluate
from harness.files import cache_dir, write_text
from harness.internals import schema
from harness.pipeline.session import Session
from harness.records.samples import rows_digest
from harness_plan.workload import training_tokens
from harness_workers import load_now

FULL, EVALUATION = "full", "evaluation"
ROWS = 16  # of each evaluation that are timed
FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """What a few steps of a training took, or rows of the evaluations, and the most memory the process had.

    `seconds` and `processor` are of the `steps` that were timed, which held `tokens`; `setup` is everything before
    them. `whole_steps` and `whole_tokens` are those of the training, `extra` seconds of it that are not steps.
    `rows` has the seconds of a row by (subject::eval). `peak` is in bytes, of `device`.
    """

    what: str
    peak: int = 0
    device: str = "cpu"
    setup: float = 0.0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    whole_steps: int = 0
    whole_tokens: int = 0
    extra: float = 0.0
    trainable: int = 0
    rows: Mapping[str, float] = field(default_factory=dict)
    threads: int = 0
    load: float = 0.0  # processes that wanted to run, a processor, when it was measured
    error: str = ""

    @property
    def rate(self) -> float:
        """Tokens trained on a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def whole(self) -> float | None:
        """Seconds of the whole training."""
        return self.setup + self.whole_tokens / self.rate + self.extra if self.rate else None

    @property
    def idle(self) -> float:
        """Seconds that the steps of the whole training take at least, with all processors to themselves."""
        return self.processor / max(1, self.threads) * self.whole_tokens / max(1, self.tokens)


def methods_of(collection: Collection) -> list[str]:
    """Return the ways to train that can be measured, the suite's own first; none where its trainer cannot measure."""
    suite, find = collection.suite, collection.plugins.find
    if not (suite.train and suite.adapter and suite.trains and find("trainer", suite.train.use).about.measure):
        return []
    if collection.whole:
        return [FULL]
    own = find("adapter", suite.adapter.use)
    return [own.name, *(n for n in own.about.measured_like if ("adapter", n) in collection.plugins.provided), FULL]


def at_rate(session: Session, rate: float) -> dict[str, Measured]:
    """Return what the training takes at so many tokens a second, as somebody has seen elsewhere."""
    collection, table, what = session.collection, session.suite.train, methods_of(session.collection)
    tokens = training_tokens(collection, session.opened.source) if table and what else None
    if not table or not tokens or not rate > 0:
        raise UsageError(f"--rate {rate:g}: must be above 0, and needs a suite that trains on known rows")
    options = schema.with_defaults(collection.plugins.find("trainer", table.use).function, table.options)
    whole = round(tokens * float(options.get("num_train_epochs") or 1))
    return {what[0]: Measured(what[0], tokens=round(rate), seconds=1.0, whole_tokens=whole)}


def known(session: Session, *only: str) -> dict[str, Measured]:
    """Return what was measured before for exactly this model, recipe, rows and machine, or some of it."""
    found = {}
    for what in (w for w in (*methods_of(session.collection), EVALUATION) if w in only or not only):
        with suppress(OSError, ValueError, TypeError):
            found[what] = Measured(**json.loads(_path(session, what).read_text("utf-8")))
    return found


def measure(session: Session) -> dict[str, Measured]:
    """Measure everything anew, each in a process of its own, so that nothing else is in its memory; and keep it."""
    found = {}
    words = [sys.executable, "-P", "-m", "harness_plan.benchmark"]
    options = {name: getattr(session.options, name) for name in ("ahead", "candidate", "limit", "overrides", "plugins")}
    for what in (*methods_of(session.collection), EVALUATION):
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
            write_text(_path(session, what), json.dumps(asdict(found[what])))
    return found


def _path(session: Session, what: str) -> Path:
    """Return where a measurement is kept: under all that decides it, the number of processors too."""
    collection, suite, base = session.collection, session.suite, session.base
    identify = collection.plugins.find("loader", suite.model.use).about.identity
    model = identify(base, **suite.model.options) if identify else None
    machine = [_threads(), os.environ.get("OMP_NUM_THREADS", "")]
    parts: list[Any] = [FORMAT, what, keys.of_model(base), model, keys.versions(), machine, suite.about.seed]
    parts += [collection.plugins.code(), keys.switches()]
    if what == EVALUATION:
        parts += [[e.name, e.use, dict(e.options), e.limit] for e in suite.evals]
        parts += [[name, rows_digest(t.samples or ()), rows_digest(t.shots)] for name, t in collection.tasks.items()]
        parts += [[name, s.shots] for name, s in suite.subjects.items()]
    else:
        parts += [_adapter_options(collection, what), suite.train and [suite.train.use, dict(suite.train.options)]]
        parts.append(collection.training)
    return cache_dir() / "measured" / f"{digest_of(parts)}.json"


def _adapter_options(collection: Collection, method: str) -> dict[str, Any]:
    """Return the suite's adapter options, less those that only the other adapter of the pair has."""
    assert collection.suite.adapter
    own, options = collection.suite.adapter.use, dict(collection.suite.adapter.options)
    if method in (own, FULL):
        return options if method == own else {}
    ours, theirs = (schema.options_of(collection.plugins.find("adapter", n).function)[0] for n in (own, method))
    return {k: v for k, v in options.items() if k in theirs or k not in ours}


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Measure what stdin asks for."""
    from harness.pipeline.record import peak_memory
    from harness.pipeline.run import Options, opened

    asked = json.load(sys.stdin)
    given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in asked["options"].items()}
    session = opened(Path(asked["suite"]), Options(**given)).session
    what, collection, suite = asked["what"], session.collection, session.suite
    try:
        if what == EVALUATION:
            found = _evaluation(session)
        else:
            assert suite.train and suite.adapter and collection.training is not None
            make = None if what == FULL else collection.plugins.find("adapter", what).function
            adapter = make(**_adapter_options(collection, what)) if make else None
            measure = collection.plugins.find("trainer", suite.train.use).about.measure
            assert measure  # `methods_of` names no way to train without
            rows, options = list(collection.training), suite.train.options
            found = Measured(what, **measure(session.base, adapter, rows, seed=suite.about.seed, **options))
        peaks = peak_memory()
        peak, device = (peaks["cuda"], "cuda") if peaks["cuda"] else (peaks[""], "cpu")
        load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
        found = replace(found, peak=peak, device=device, threads=_threads(), load=load)
    except UsageError as error:
        found = Measured(what, error=str(error))
    write_text(Path(asked["out"]), json.dumps(asdict(found)))


def _evaluation(session: Session) -> Measured:
    """Time some rows of every evaluation on the base, and with worked examples where it is asked so."""
    suite, collection, seconds = session.suite, session.collection, dict[str, float]()
    timed: dict[Item, Task] = {}  # the base's own, those with examples, and the candidates'
    for item in collection.items:
        baseline = suite.subjects.get(item.subject)
        if not baseline or not (baseline.use or baseline.released):
            timed.setdefault(item if baseline else replace(item, subject="base"), collection.tasks[item.eval])
    begun = time.monotonic()
    with load_now(collection.plugins, suite.path, suite.model.use, [session.base], suite.model.options) as [subject]:
        setup = time.monotonic() - begun
        for item, task in timed.items():
            asked = session.prompted(item, subject)
            rows: Sequence[Any] = task.samples or ()
            for some in (rows[:1], rows[:ROWS]):  # the first row pays for what is set up once
                begun = time.monotonic()
                short = replace(task, samples=tuple(some))
                if task.marks:  # what marks is another model, in another place
                    grading.answer(short, "base", asked, lambda _: None)
                else:
                    evaluate(short, "base", asked, subject, lambda _: None)
                seconds[f"{item.subject}::{item.eval}"] = (time.monotonic() - begun) / max(1, len(some))
    return Measured(EVALUATION, setup=setup, rows=seconds)


if __name__ == "__main__":
    main()
