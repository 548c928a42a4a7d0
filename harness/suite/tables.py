"""The tables of a suite, frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from harness import schema
from harness.artifacts.attestation import LOCK
from harness.errors import UsageError
from harness.records.claims.gate import ADAPTER, GATE_COMMAND, MERGED, PARENT, Gate
from harness.records.run import NAME
from harness.records.suite_header import SuiteTable

MERGES = ("original", "dequantized")


@dataclass(frozen=True)
class Model:
    """`[model]`: which loader, and the path it understands."""

    path: str
    where: str
    use: str = "hf"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """`[adapter]`: which adapter, and its options."""

    use: str
    where: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Train:
    """`[train]`: the trainer, its data (one source or several), and how their columns are named.

    `cluster` names a column whose rows are held out together, `validation_data` a source of rows that are only
    validated with, `watch` evals of which some select rows are looked at after each epoch.
    `template` writes the inputs out of the columns that it names between braces.
    `separator` and `encoding` are those of files of text.
    `chat_template_kwargs` are template arguments of all rows that do not set their own.
    `drop_leaks` takes out the rows of which D10 and D11 tell, before anything else is done with them.
    `drop` is a file of training rows as they were read, as `harness blame` writes it: all that equal one are left out.
    `seeds` train the same recipe several times, in the place of the suite's seed; what the first makes ships, and the
    others are for gates of the recipe.
    `processes` train together, "auto" one a GPU, and with `shard` share the weights. Neither is part of the recipe,
    whose batch is that of all of them: they change the order in which a step's gradients are added up, and so the last
    bits alone, as another processor does. An adapter that is there is taken, whoever trained it; its facts tell.
    """

    use: str
    data: str | list[str]
    where: str
    columns: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    separator: str | None = None
    encoding: str | None = None
    cluster: str | None = None
    validation_data: str | None = None
    watch: list[str] = field(default_factory=list)
    watch_rows: int = 64
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] | None = None
    processes: int | Literal["auto"] = 1
    shard: bool = False
    drop_leaks: bool = False
    drop: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, Any]:
        """Return the options, plus `processes` and `shard` if not default."""
        several = {"processes": self.processes} if self.processes != 1 else {}
        return {**self.options, **several, **({"shard": True} if self.shard else {})}

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.data,) if isinstance(self.data, str) else tuple(self.data)


@dataclass(frozen=True)
class Sweep:
    """`[sweep]`: an option of [adapter] or [train], the values it is tried with, in this order, and what decides.

    `by` is EVAL.METRIC, on the eval's select split. By `rule` "step" a sweep goes on while each value is proven better
    than the one before, at `alpha`, or the suite's; by "best" all are trained, and the best mean is taken.
    """

    where: str
    table: Literal["adapter", "train"]
    option: str
    values: tuple[Any, ...]
    by: str
    alpha: float | None = None
    rule: Literal["step", "best"] = "step"

    @property
    def fewest(self) -> int:
        """How many trials there are at least."""
        return len(self.values) if self.rule == "best" else 2

    @property
    def key(self) -> str:
        return f"{self.table}.{self.option}"

    @property
    def step(self) -> Gate:
        """The claim that a trial must prove, to go on: that it is better than the one before."""
        return Gate(
            "sweep",
            self.by,
            self.where,
            versus="the trial before",
            better_by=0.0,
            alpha=self.alpha,
            allow_approximate=True,
        )


@dataclass(frozen=True)
class Candidate:
    """`[candidate]`: a model that was trained elsewhere; one of the two."""

    where: str
    adapter: str | None = None
    merged: str | None = None


@dataclass(frozen=True)
class Baseline:
    """`[subject.NAME]`: the base prompted with `shots` worked examples, or with `use` and `path` another model, or
    with `from` the "last" or "first" release in the export folder `path`, which `digest` pins.

    `evals` names what it answers; without it, what a gate compares with it, else everything that has targets.
    """

    where: str
    from_: Literal["base", "last", "first"] = "base"
    use: str | None = None
    path: str | None = None
    digest: str | None = None
    shots: int | None = None  # 10 for the base, none for another model
    evals: list[str] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def examples(self) -> int:
        return (0 if self.use or self.released else 10) if self.shots is None else self.shots

    @property
    def released(self) -> bool:
        return self.from_ != "base"

    @property
    def model(self) -> Model:
        assert self.use and self.path  # `Reader.subjects` saw to it
        return Model(self.path, self.where, self.use, self.options)


@dataclass(frozen=True)
class ScoredRows:
    """`[rows.base]` and `[rows.candidate]`: rows that another tool scored; `weights` is what they are said to be of."""

    path: str
    where: str
    weights: str = ""


@dataclass(frozen=True)
class Eval:
    """`[[eval]]`: an evaluator and its data; `cluster` and `slices` name columns, `limit` takes the first rows.

    Two columns of `cluster` are two ways in which rows are not independent, such as their document and their template.

    `data` confirms: it is what gates are judged on. `select` is for choosing, as often as you like. `stop` says
    whether a candidate answers every row, or in a random order only as many as its gates need.
    `template` writes the inputs out of the columns that it names between braces.
    `separator` and `encoding` are those of files of text.
    `chat_template_kwargs` are template arguments of all rows that do not set their own.
    `rows_at_most` are all the rows that there will ever be: looks at more and more of them share one risk.
    `thought_budget` is the most tokens of a thought, which is then closed by force.
    With a `temperature` above 0 answers are sampled, `repeats` of them a row; `pass_at` names numbers of answers of
    which the best counts, and `seeds` says whether all models draw with the same random numbers.
    """

    name: str
    use: str
    where: str
    data: str | None = None
    select: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    separator: str | None = None
    encoding: str | None = None
    cluster: str | list[str] | None = None
    slices: list[str] = field(default_factory=list)
    limit: int | None = None
    stop: Literal["end", "early"] | list[str] = "end"  # a list is the evaluator's own option of this name
    fewshot_data: str | None = None
    against: str = "base"
    rows_at_most: int | None = None
    thought_budget: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repeats: int | None = None  # of `use = "rows"` an option, which says how many answers each row must have
    pass_at: list[int] = field(default_factory=list)
    seeds: Literal["shared", "own"] = "shared"
    private: bool = False  # its rows go into no evidence but as digests
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clusters(self) -> list[str]:
        """The columns that `cluster` names."""
        return [self.cluster] if isinstance(self.cluster, str) else self.cluster or []

    def __post_init__(self) -> None:
        if isinstance(self.stop, list):
            object.__setattr__(self, "options", {**self.options, "stop": self.stop})
            object.__setattr__(self, "stop", "end")
        if self.use == "rows" and self.repeats is not None:
            object.__setattr__(self, "options", {**self.options, "repeats": self.repeats})
            object.__setattr__(self, "repeats", None)


@dataclass(frozen=True)
class Export:
    """`[[export]]`: what is written, from which candidate, and where to.

    What makes other weights makes a candidate, a copy of its parent `from`; `name` is the copy's, and no other's.
    `path` is where one lies that was made elsewhere.
    """

    use: str
    to: str
    where: str
    from_: str = "merged"
    name: str = ""  # collection, which knows the exporter, sees to it that all copies have one
    path: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> dict[str, Any]:
        """Return the keyword arguments for the exporter."""
        return {**self.options, **({"path": self.path} if self.path else {})}

    @property
    def candidate(self) -> str:
        """The name of the candidate that ships."""
        return self.name or self.from_


@dataclass(frozen=True)
class Ignored:
    """`[checks]`: codes of checks whose findings do not count, each with the reason."""

    where: str
    ignore: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """One suite: model, adapter and train (or a candidate made elsewhere), subjects, evals, gates, merge, exports."""

    path: Path
    header: SuiteTable
    model: Model
    adapter: Use | None
    train: Train | None
    candidate: Candidate | None
    subjects: Mapping[str, Baseline]
    evals: tuple[Eval, ...]
    gates: tuple[Gate, ...]
    merges: tuple[str, ...]
    exports: tuple[Export, ...]
    digest: str
    choose: str | None = None  # EVAL.METRIC on whose select split the merged model that is gated is chosen
    checks: Ignored = field(default_factory=lambda: Ignored("[checks]"))
    sweep: Sweep | None = None  # of what is trained; `adapter` or `train` has its first value
    rows: Mapping[str, ScoredRows] = field(default_factory=dict)  # that take the place of models
    source: Mapping[str, Any] | None = None  # the tables that the digest is made of; None where they hold a secret
    ungated_digest: str = ""  # of all tables but the gates

    @property
    def name(self) -> str:
        return self.header.name

    @property
    def trains(self) -> bool:
        """Whether there is something to train: a candidate made elsewhere takes its place."""
        return self.train is not None and self.candidate is None

    @property
    def training_seed(self) -> int:
        """Return the training seed of the model that ships."""
        return self.train.seeds[0] if self.train and self.train.seeds else self.header.seed

    def with_seed(self, seed: int) -> Suite:
        """Return the suite that trains with one seed."""
        assert self.train
        return replace(self, train=replace(self.train, seeds=[seed]))

    def merged(self, variant: str) -> str:
        """Return the name of the candidate merged onto this base variant."""
        return "merged" if len(self.merges) == 1 or self.choose else f"merged-{variant}"

    @cached_property
    def copies(self) -> dict[str, Export]:
        """The candidates that exports make, by name."""
        return {e.name: e for e in self.exports if e.name}

    def trial(self, value: Any) -> Suite:
        """Return the suite of one trial: with one of the values that are swept."""
        assert self.sweep
        table: Any = getattr(self, self.sweep.table)
        options = {**table.options, self.sweep.option: value}
        told = f" ({self.sweep.option} = {schema.format_toml(value)})" if value != self.sweep.values[0] else ""
        return replace(self, **{self.sweep.table: replace(table, where=table.where + told, options=options)})

    @cached_property
    def compared(self) -> frozenset[str]:
        """Return the names of evals that compare a copy with its parent."""
        return frozenset(e.name for e in self.evals if e.against == PARENT)

    @property
    def place(self) -> str:
        """Return its file with its folder, which tells copies of a project apart, or its command."""
        if any(gate.is_of_command for gate in self.gates):
            return GATE_COMMAND
        return f"{self.path.absolute().parent.name}/{self.path.name}"

    def resolve(self, path: str) -> Path:
        """Resolve a path relative to the suite's folder. Raises UsageError if it is not a path."""
        try:
            return (self.path.parent / Path(path).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f'{self.path}: "{path[:100]}" is not a path: {error}; name a file or folder') from None


LONGEST_NAME = 100  # bytes, which leaves room for what is put around it in the name of a file
RESERVED_FILES = ("report.json", "junit.xml", LOCK)  # what else stands in a run folder
RELEASES = {"released": "last", "anchor": "first"}  # the baselines that are there without a table, and their `from`


def is_reserved(name: str) -> bool:
    """Return whether a name is reserved.

    It means something by itself, so that no subject or copy can have it.
    """
    return name in ("base", ADAPTER, PARENT) or name.startswith((MERGED, "adapter-seed-"))


def find_name_error(name: str) -> str:
    """Return the problem with a name, or an empty text.

    Suites, subjects, evals and copies give files their names.
    """
    if not NAME.fullmatch(name):
        return f'name is {schema.format_toml(name)}; use only letters, digits, "_", "-" and ".", not beginning with "."'
    if len(name.encode()) > LONGEST_NAME:
        return f"name is {schema.format_toml(name)}, which is longer than {LONGEST_NAME} bytes; shorten it"
    if name.lower() in RESERVED_FILES:
        return f'name is "{name}", which is the name of a file in the run folder; choose another'
    return ""


def gate_alpha(gate: Gate, suite: Suite) -> float:
    """Return the risk that a gate is tested at."""
    return gate.alpha or suite.header.alpha
