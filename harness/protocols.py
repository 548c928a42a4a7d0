"""The kinds of callables that plugins provide: a Protocol for each, and base classes with their optional methods.

A function is enough for the simple case. A plugin that needs the optional methods declares them with the decorator of
its kind (`@evaluator(check=…)`), or subclasses a base class and provides an instance. The keyword-only parameters of
the callable are the options of its table in a suite; the Protocols leave them open.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from harness.records.findings import Built, Finding
from harness.records.metrics import Metric
from harness.records.models import Adapter, ModelRef, Progress, Source, Subject
from harness.records.samples import Caveat, Labels, Prompt, Sample, Score

if TYPE_CHECKING:
    from concurrent.futures import Future

Options = dict[str, Any]
"""The options of a plugin's table, as the suite has them: only those that it names."""
OnFinding = Callable[[str, Finding], None]
"""A trainer's parameter `flag`: reports a finding under the code of a check; an error that counts ends the training."""
OnProgress = Callable[[Progress], None]
"""A parameter `progress`: shows how far something slow is."""
Watch = Callable[[Subject], Mapping[str, float]]
"""A trainer's parameter `watch`: measures the model on select rows, and returns metrics by name."""
F = TypeVar("F", bound=Callable[..., Any])


# ------------------------------------------------------------------ callables
class Evaluator(Protocol):
    """Measures a model: yields one Score per Sample. Called on chunks of rows, so it keeps no state."""

    def __call__(self, subject: Subject, samples: Sequence[Sample], /, *args: Any, **options: Any) -> Iterable[Score]:
        """Return a Score for each sample; `@metric` declares the metrics."""


class Marker(Protocol):
    """An evaluator that marks answers after the model is unloaded.

    It is declared with `@evaluator(marks=…)`.
    """

    def __call__(
        self, samples: Sequence[Sample], answers: Sequence[str], baseline_answers: Any, /, *args: Any, **options: Any
    ) -> Iterable[Score | Caveat | Labels]:
        """Return a Score for each sample. The keyword `marking` is a Marking."""


class Loader(Protocol):
    """Loads models: a context manager that yields one Subject per ModelRef, in their order."""

    def __call__(
        self, refs: Sequence[ModelRef], /, *args: Any, **options: Any
    ) -> AbstractContextManager[Sequence[Subject]]:
        """Load the models; raises UsageError where one cannot be loaded."""


class AdapterFactory(Protocol):
    """A factory of a suite's Adapter from the options of `[adapter]`.

    It returns None if all weights are trained.
    """

    def __call__(self, *args: Any, **options: Any) -> Adapter | None:
        """Return the adapter; raises UsageError on options that it refuses."""


class Trainer(Protocol):
    """A trainer that writes an adapter or a whole model.

    It trains on rows and writes to the folder `out`, the whole model if `adapter` is None.
    """

    def __call__(
        self, ref: ModelRef, adapter: Any, rows: Sequence[Mapping[str, Any]], out: Path, /, *args: Any, **options: Any
    ) -> Path:
        """Train and return `out`. The keywords `progress` and `seed` are always given."""


class Exporter(Protocol):
    """An exporter that writes a model into the empty folder `to`.

    It returns that folder.
    """

    def __call__(self, ref: ModelRef, to: Path, /, *args: Any, **options: Any) -> Path:
        """Write the export. Raises UsageError if the model cannot be written in this format."""


class Saboteur(Protocol):
    """A writer of models that must not ship, for `harness selftest`.

    It writes into the empty folder `out`.
    """

    def __call__(self, base: Path, out: Path, /, *, seed: int) -> object:
        """Write a whole model or a PEFT adapter.

        The first line of the implementation's docstring says why it must not ship.
        """


class Check(Protocol):
    """A check that yields a Finding for each apparent mistake.

    The names of its parameters select the objects that it examines.
    """

    def __call__(self, *args: Any, **objects: Any) -> Iterable[Finding]:
        """Return the findings."""


class Worker(Protocol):
    """One worker process: it answers messages in their order.

    `name` is for people; `beats` says that it sends a heartbeat while it is busy.
    """

    name: str
    beats: bool

    def send(self, message: str, hear: Callable[[str], None]) -> Future[str]:
        """Send a message; its future has the reply or raises WorkerLostError. `hear` gets heartbeats, in any thread."""

    def close(self, why: str = "") -> None:
        """End the worker and all processes that it started.

        Pending replies raise WorkerLostError with the reason `why`.
        """


class Workers(Protocol):
    """The workers of one `--on`. `elsewhere` says that they run in another environment, which identifies itself."""

    elsewhere: bool
    said: str  # the argument of `--on`

    def start(self) -> list[Worker]:
        """Start them; raises UsageError where they cannot be started."""

    def restart(self) -> Worker | None:
        """Start a replacement for a lost worker.

        None means to go on with fewer.
        """


class WorkerBackend(Protocol):
    """A factory of Workers for `--on NAME:PLACE`.

    `place` is the text after the colon; raises UsageError if it is invalid. `python` is another interpreter, if the
    suite's `[model]` names one.
    """

    def __call__(self, place: str, /, *, python: str | None = None) -> Workers:
        """Return the workers; nothing is started yet."""


# ------------------------------------------------------------------ what checks see
class PluginTable(Protocol):
    """A table of a suite with `use`: the name of a plugin's callable, and the options that the suite gives it."""

    @property
    def use(self) -> str: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


class EvalTable(PluginTable, Protocol):
    """An `[[eval]]` of a suite."""

    @property
    def name(self) -> str: ...


class CheckedSuite(Protocol):
    """A check's parameter `suite`: the tables of the suite."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def model(self) -> PluginTable: ...
    @property
    def adapter(self) -> PluginTable | None: ...
    @property
    def train(self) -> PluginTable | None: ...
    @property
    def evals(self) -> Sequence[EvalTable]: ...


class CheckedTask(Protocol):
    """A check's parameter `task`, and a value of `tasks`: an evaluation with its metrics and rows.

    `samples` is None until remote data was read; `select` are the rows of the select split, None without one.
    """

    @property
    def spec(self) -> EvalTable: ...
    @property
    def metrics(self) -> Mapping[str, Metric]: ...
    @property
    def samples(self) -> Sequence[Sample] | None: ...
    @property
    def select(self) -> Sequence[Sample] | None: ...


LoadModels = Callable[..., AbstractContextManager[Sequence[Subject]]]
"""A check's parameter `load`: loads ModelRefs with the suite's loader, with further options of it as keywords."""


# ------------------------------------------------------------------ base classes
def optional(method: F) -> F:
    """Mark a method of a base class: a subclass that does not override it does not have it."""
    vars(method)["is_optional"] = True
    return method


class BaseEvaluator:
    """Base of an evaluator or marker, with optional methods.

    A subclass defines `__call__` and `metrics`. `options` are those of its table, `folder` is the suite's.
    """

    metrics: Sequence[Metric] = ()
    marks: Literal["", "answers", "pairs"] = ""
    asks: ClassVar[Sequence[str]] = ()
    uncached: ClassVar[bool] = False
    json_targets: ClassVar[bool] = False

    @optional
    def metrics_for(self, options: Options) -> Iterable[Metric]:
        """Return the metrics, where they depend on the options."""
        raise NotImplementedError

    @optional
    def rows_for(self, options: Options, folder: Path) -> list[dict[str, Any]]:
        """Return rows of its own, which take the place of `data`."""
        raise NotImplementedError

    @optional
    def check_rows(self, samples: Sequence[Sample], options: Options, folder: Path) -> None:
        """Raise UsageError on rows that it cannot measure; called at collection."""
        raise NotImplementedError

    @optional
    def check(self, options: Options, folder: Path, path: str) -> None:
        """Raise UsageError on mistakes visible before a model is loaded.

        `path` is that of `[model]`.
        """
        raise NotImplementedError

    @optional
    def needs(self, options: Options) -> Iterable[str]:
        """Return the names of modules that it imports late."""
        raise NotImplementedError

    @optional
    def counts(self, metric: str, sample: Sample) -> bool:
        """Return whether a row counts in a metric.

        Otherwise its Score has weight 0 in that metric.
        """
        raise NotImplementedError

    @optional
    def votes(self, answer: str, options: Options) -> Hashable:
        """Return the vote of an answer.

        Of several answers to a row, the one with the most frequent vote is `maj@k`.
        """
        raise NotImplementedError

    @optional
    def remarks(self, scores: Sequence[Score]) -> Iterable[str]:
        """Return remarks on a result for its reader."""
        raise NotImplementedError

    @optional
    def adversaries(self, options: Options) -> Mapping[str, Callable[[Prompt], str]]:
        """Return functions that answer prompts with worthless text, by name.

        No gate may pass them.
        """
        raise NotImplementedError

    @optional
    def estimate(
        self, options: Options, samples: Sequence[Sample], models: int, answers: Sequence[Callable[[Prompt], str]]
    ) -> str:
        """Return one line on the cost of judging.

        It covers `models` models and the `answers` of adversaries.
        """
        raise NotImplementedError


class BaseLoader:
    """Base of a loader, with optional methods.

    A subclass defines `__call__` and `open`. These and `identity` take the loader's options as keywords; `needs` takes
    them as a mapping.
    """

    remote: ClassVar[bool] = False
    piece: ClassVar[int] = 1
    lacks: ClassVar[Sequence[str]] = ()

    def open(self, path: str, /, *args: Any, **options: Any) -> Source:
        """Return a model's Source without loading its weights.

        Raises UsageError if there is no model.
        """
        raise NotImplementedError

    @optional
    def identity(self, ref: ModelRef, /, *args: Any, **options: Any) -> str | None:
        """Return a text that names everything an answer depends on; None: answers are not remembered."""
        raise NotImplementedError

    @optional
    def probe(self, path: str) -> None:
        """Raise UsageError at a candidate's folder that cannot be loaded."""
        raise NotImplementedError

    @optional
    def reads(self, path: Path) -> Iterable[str]:
        """Return the names of the files that loading a folder's model reads."""
        raise NotImplementedError

    @optional
    def needs(self, options: Options) -> Iterable[str]:
        """Return the names of modules that it imports late."""
        raise NotImplementedError

    @optional
    def fingerprint(self, ref: ModelRef, base: Path | None) -> Any:
        """Return a `Fingerprint`, for comparison with a server.

        `base` is the folder of the base model.
        """
        raise NotImplementedError

    @optional
    def live(
        self, model: Any, ref: ModelRef, *, base: bool = False, processing_class: Any = None
    ) -> AbstractContextManager[Subject]:
        """Yield a Subject of a model in memory during its training.

        With `base` it is the Subject of the base model. The model is restored afterwards.
        """
        raise NotImplementedError


class BaseTrainer:
    """Base of a trainer with optional methods; a subclass defines `__call__`.

    Every method takes the trainer's options as keywords, `needs` as a mapping.
    """

    columns: ClassVar[Sequence[str]] = ()

    @optional
    def needs(self, options: Options) -> Iterable[str]:
        """Return the names of modules that it imports late."""
        raise NotImplementedError

    @optional
    def look(self, *args: Any, **options: Any) -> None:
        """Raise UsageError on invalid options at collection.

        No library may be imported here.
        """
        raise NotImplementedError

    @optional
    def check(self, *args: Any, **options: Any) -> None:
        """Raise UsageError on invalid options in preflight.

        It may have parameters named `adapter` and `ref`.
        """
        raise NotImplementedError

    @optional
    def build(
        self, ref: ModelRef, adapter: Any, rows: Sequence[Mapping[str, Any]], /, *args: Any, **options: Any
    ) -> Built:
        """Prepare the rows for the checks, without training.

        The keyword `seed` is always given.
        """
        raise NotImplementedError

    @optional
    def measure(
        self, ref: ModelRef, adapter: Any, rows: Sequence[Mapping[str, Any]], /, *args: Any, **options: Any
    ) -> Mapping[str, Any]:
        """Train a few steps and return their measurements.

        It is for `harness plan --measure`; the keys are fields of `Measured`.
        """
        raise NotImplementedError

    @optional
    def memory(self, ref: ModelRef, adapter: Any, /, *args: Any, **options: Any) -> Mapping[str, int]:
        """Return the least memory of each process, in bytes by purpose."""
        raise NotImplementedError


class BaseExporter:
    """Base of an exporter with optional methods; a subclass defines `__call__`."""

    converts: ClassVar[bool] = False

    @optional
    def check(self, model: Path, options: Options) -> None:
        """Raise UsageError on mistakes visible before anything is trained.

        `model` is the folder of the base.
        """
        raise NotImplementedError

    @optional
    def open_options(self, options: Options) -> Mapping[str, Any]:
        """Return the loader options that a copy needs beside its parent's."""
        raise NotImplementedError
