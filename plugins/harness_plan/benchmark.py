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
from typing import TYPE_CHECKING, Any

from harness.answers import keys
from harness.artifacts.digests import digest_of
from harness.collection.collected import Collection, Item, Task
from harness.errors import UsageError
from harness.files import cache_dir, write_text
from harness.internals import schema
from harness.records.samples import rows_digest
from harness_plan.workload import training_tokens
from harness_workers import load_now

if TYPE_CHECKING:
    from harness.pipeline.session import Session

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
    suite = collection.suite
    if not (suite.train and suite.adapter and suite.trains):
        return []
    if collection.plugins.find("trainer", suite.train.use).about.measure is None:
        return []
    if collection.whole:
        return [FULL]
    own = collection.plugins.find("adapter", suite.adapter.use)
    return [own.name, *(n for n in own.about.measured_like if ("adapter", n) in collection.plugins.provided), FULL]


def memory_of(session: Session) -> dict[str, int]:
    """Return the bytes that each process of the training holds at least, by what they are, where its trainer knows."""
    collection, table = session.collection, session.suite.train
    if not (table and session.suite.trains and (memory := collection.plugins.find("trainer", table.use).about.memory)):
        return {}
    found: dict[str, int] = memory(session.base, session.opened.adapter, **table.given)
    return found


def at_rate(session: Session, rate: float) -> Measured:
    """Return what the training takes at so many tokens a second, as somebody has seen elsewhere."""
    collection, table, what = session.collection, session.suite.train, methods_of(session.collection)
    tokens = training_tokens(collection, session.opened.source) if table and what else None
    if not table or not tokens or not rate > 0:
        raise UsageError(f"--rate {rate:g}: want tokens a second of a training here, whose rows are known")
    options = schema.with_defaults(collection.plugins.find("trainer", table.use).function, table.options)
    whole = round(tokens * float(options.get("num_train_epochs") or 1))
    return Measured(what[0], tokens=round(rate), seconds=1.0, whole_tokens=whole)


def known(session: Session, *only: str) -> dict[str, Measured]:
    """Return what was measured before for exactly this model, recipe, rows and machine, or some of it."""
    found = {}
    for what in (w for w in (*methods_of(session.collection), EVALUATION) if w in only or not only):
        with suppress(OSError, ValueError, TypeError):
            found[what] = Measured(**json.loads(_path(session, what).read_text("utf-8")))
    return found


def measure(session: Session) -> dict[str, Measured]:
    """Measure everything anew, one process after the other, say so on stderr, and keep it."""
    found = {}
    options = {name: getattr(session.options, name) for name in ("ahead", "candidate", "limit", "overrides", "plugins")}
    for what in (*methods_of(session.collection), EVALUATION):
        print(f"measuring {what} …", file=sys.stderr)
        found[what] = one = _in_process({"what": what, "suite": str(session.suite.path), "options": options})
        if not one.error:
            write_text(_path(session, what), json.dumps(asdict(one)))
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


def _in_process(asked: Mapping[str, Any]) -> Measured:
    """Measure one thing in a process of its own, so that nothing else is in its memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "measured.json"
        words, told = [sys.executable, "-P", "-m", "harness_plan.benchmark"], json.dumps({**asked, "out": str(out)})
        done = subprocess.run(words, input=told, capture_output=True, text=True, check=False)
        try:
            return Measured(**json.loads(out.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            why = lines[-1][:300] if lines else f"ended with {done.returncode}"
            if done.returncode == -9:
                why = "was killed, which is what a system does that is out of memory"
            return Measured(str(asked["what"]), error=why)


def main() -> None:
    """Measure what stdin asks for."""
    from harness.pipeline.record import peak_memory
    from harness.pipeline.run import Options, opened

    asked = json.load(sys.stdin)
    given: dict[str, Any] = asked["options"]
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    session = opened(Path(asked["suite"]), Options(**given)).session
    what = asked["what"]
    try:
        found = _evaluation(session) if what == EVALUATION else _training(session, what)
        peaks = peak_memory()
        peak, device = (peaks["cuda"], "cuda") if peaks["cuda"] else (peaks[""], "cpu")
        load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
        found = replace(found, peak=peak, device=device, threads=_threads(), load=load)
    except UsageError as error:
        found = Measured(what, error=str(error))
    write_text(Path(asked["out"]), json.dumps(asdict(found)))


def _training(session: Session, method: str) -> Measured:
    collection, suite = session.collection, session.suite
    assert suite.train and suite.adapter and collection.training is not None
    adapter = None
    if method != FULL:
        adapter = collection.plugins.find("adapter", method).function(**_adapter_options(collection, method))
    measure = collection.plugins.find("trainer", suite.train.use).about.measure
    assert measure  # `methods_of` names no way to train without
    facts = measure(session.base, adapter, list(collection.training), seed=suite.about.seed, **suite.train.options)
    return Measured(method, **facts)


def _evaluation(session: Session) -> Measured:
    """Time some rows of every evaluation on the base, and with worked examples where it is asked so."""
    from harness.evaluation import grading
    from harness.evaluation.evaluate import evaluate

    seconds: dict[str, float] = {}
    begun = time.monotonic()
    suite, plugins = session.suite, session.collection.plugins
    with load_now(plugins, suite.path, suite.model.use, [session.base], suite.model.options) as [subject]:
        setup = time.monotonic() - begun
        for item, task in _timed(session.collection):
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


def _timed(collection: Collection) -> list[tuple[Item, Task]]:
    """Return the evaluations that the base can be timed on: its own, those with examples, and the candidates'."""
    found: dict[Item, Task] = {}
    for item in collection.items:
        baseline = collection.suite.subjects.get(item.subject)
        if not baseline or not (baseline.use or baseline.released):
            found.setdefault(item if baseline else replace(item, subject="base"), collection.tasks[item.eval])
    return list(found.items())


if __name__ == "__main__":
    main()
