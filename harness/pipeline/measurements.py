"""Speed and memory of training and evaluations, kept by `harness plan --measure`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import schema
from harness.answers import keys
from harness.artifacts.digests import digest_value
from harness.collection.collection import Collection
from harness.files import cache_dir
from harness.pipeline.session import Session
from harness.records.samples import rows_digest

FULL, EVALUATION = "full", "evaluation"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Measured:
    """Time and peak memory of a few training steps, or of rows.

    `seconds` and `processor` are of the `steps` that were timed, which held `tokens`; `setup` is everything before
    them. `whole_steps` and `whole_tokens` are those of the whole training, `extra` its seconds outside steps. `rows`
    has the seconds of a row by (subject::eval). `peak` is in bytes, of `device`.
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
    def total_seconds(self) -> float | None:
        """Seconds of the whole training."""
        return self.setup + self.whole_tokens / self.rate + self.extra if self.rate else None

    @property
    def idle(self) -> float:
        """Least seconds of all training steps, with all processors to themselves."""
        return self.processor / max(1, self.threads) * self.whole_tokens / max(1, self.tokens)


def measurable_methods(collection: Collection) -> list[str]:
    """Return the training methods that can be measured, the suite's first.

    Empty if the suite's trainer cannot measure.
    """
    suite, find = collection.suite, collection.plugins.find
    if not (suite.train and suite.adapter and suite.trains and find("trainer", suite.train.use).capabilities.measure):
        return []
    if collection.trains_all_weights:
        return [FULL]
    own = find("adapter", suite.adapter.use)
    return [
        own.name,
        *(n for n in own.capabilities.measured_like if ("adapter", n) in collection.plugins.provided),
        FULL,
    ]


def read_measurements(session: Session, *only: str) -> dict[str, Measured]:
    """Read earlier measurements of exactly this model, recipe, rows and machine.

    `only` restricts them to some methods.
    """
    found = {}
    for what in (w for w in (*measurable_methods(session.collection), EVALUATION) if w in only or not only):
        with suppress(OSError, ValueError, TypeError):
            found[what] = Measured(**json.loads(measurement_path(session, what).read_text("utf-8")))
    return found


def measurement_path(session: Session, what: str) -> Path:
    """Return where a measurement is kept: under all that decides it, the number of processors too."""
    collection, suite, base = session.collection, session.suite, session.base
    identify = collection.plugins.find("loader", suite.model.use).capabilities.identity
    model = identify(base, **suite.model.options) if identify else None
    machine = [thread_count(), os.environ.get("OMP_NUM_THREADS", "")]
    parts: list[Any] = [
        FORMAT_VERSION,
        what,
        keys.describe_model(base),
        model,
        keys.library_versions(),
        machine,
        suite.training_seed,
    ]
    parts += [collection.plugins.code_digest(), keys.environment_switches()]
    if what == EVALUATION:
        parts += [[e.name, e.use, dict(e.options), e.limit] for e in suite.evals]
        parts += [[name, rows_digest(t.samples or ()), rows_digest(t.shots)] for name, t in collection.tasks.items()]
        parts += [[name, s.shots] for name, s in suite.subjects.items()]
    else:
        parts += [adapter_options(collection, what), suite.train and [suite.train.use, dict(suite.train.options)]]
        parts.append(collection.training)
    return cache_dir() / "measured" / f"{digest_value(parts)}.json"


def adapter_options(collection: Collection, method: str) -> dict[str, Any]:
    """Return the suite's adapter options that fit a training method.

    Those that only the suite's own adapter has are left out for another one, and all are for `FULL`.
    """
    assert collection.suite.adapter
    own, options = collection.suite.adapter.use, dict(collection.suite.adapter.options)
    if method in (own, FULL):
        return options if method == own else {}
    ours, theirs = (schema.list_options(collection.plugins.find("adapter", n).function)[0] for n in (own, method))
    return {k: v for k, v in options.items() if k in theirs or k not in ours}


def thread_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
