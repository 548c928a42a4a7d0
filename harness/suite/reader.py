"""One TOML file -> a frozen Suite, with every mistake told at once, by file, line and table."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from harness import schema
from harness.artifacts.attestation import LOCK
from harness.artifacts.digests import digest_of
from harness.errors import Mistakes, UsageError, did_you_mean
from harness.records.gates import PARENT, Gate, grouped, member_mistakes
from harness.stats.tests import spent
from harness.suite.lines import lines_of, refuse_deep_keys
from harness.texts import secrets

MERGES = ("original", "dequantized")


@dataclass(frozen=True)
class About:
    """`[suite]`: `seed` of everything random, `alpha` the risk of shipping a model that breaks a claim.

    `attempts` says whether repeated attempts are only counted, or each is tested at its share of alpha.
    """

    name: str
    seed: int = 17
    alpha: float = 0.05
    description: str = ""
    attempts: Literal["count", "spend"] = "count"

    def risk(self, attempt: int, alpha: float | None = None) -> float:
        """Return the risk of an attempt: `alpha`, by default the suite's, or its share where that is spent."""
        alpha = alpha or self.alpha
        return spent(alpha, attempt) if attempt and self.attempts == "spend" else alpha


@dataclass(frozen=True)
class Model:
    """`[model]`: which loader, and the path it understands."""

    path: str
    where: str
    use: str = "hf"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Use:
    """A table that names a plugin and its options; `where` names the table in an error."""

    use: str
    where: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Train:
    """`[train]`: the trainer, its data (one source or several), and how their columns are named.

    `cluster` names a column whose rows are held out together, `validation_data` a source of rows that are only
    validated with, `watch` evals of which some select rows are looked at after each epoch.
    `chat_template_kwargs` are template arguments of all rows that do not set their own.
    """

    use: str
    data: str | list[str]
    where: str
    columns: dict[str, str] = field(default_factory=dict)
    cluster: str | None = None
    validation_data: str | None = None
    watch: list[str] = field(default_factory=list)
    watch_rows: int = 64
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.data,) if isinstance(self.data, str) else tuple(self.data)


@dataclass(frozen=True)
class Sweep:
    """`[sweep]`: an option of [adapter] or [train], the values it is tried with, in this order, and what decides.

    `by` is EVAL.METRIC, on the eval's select split; every step is tested at `alpha`, or the suite's.
    """

    where: str
    table: Literal["adapter", "train"]
    option: str
    values: tuple[Any, ...]
    by: str
    alpha: float | None = None

    @property
    def key(self) -> str:
        return f"{self.table}.{self.option}"

    @property
    def step(self) -> Gate:
        """The claim that a trial must prove, to go on: that it is better than the one before."""
        return Gate("sweep", self.by, self.where, versus="the trial before", better_by=0.0, alpha=self.alpha)


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
class Eval:
    """`[[eval]]`: an evaluator and its data; `cluster` and `slices` name columns, `limit` takes the first rows.

    `data` confirms: it is what gates are judged on. `select` is for choosing, as often as you like. `stop` says
    whether a candidate answers every row, or in a random order only as many as its gates need.
    `chat_template_kwargs` are template arguments of all rows that do not set their own.
    """

    name: str
    use: str
    where: str
    data: str | None = None
    select: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    cluster: str | None = None
    slices: list[str] = field(default_factory=list)
    limit: int | None = None
    stop: Literal["end", "early"] | list[str] = "end"  # a list is the evaluator's own option of this name
    fewshot_data: str | None = None
    against: str = "base"
    private: bool = False  # its rows go into no evidence but as digests
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.stop, list):
            object.__setattr__(self, "options", {**self.options, "stop": self.stop})
            object.__setattr__(self, "stop", "end")


@dataclass(frozen=True)
class Export:
    """`[[export]]`: what is written, from which candidate, and where to.

    What makes other weights makes a candidate, a copy of its parent `from`; `name` is the copy's, and no other's.
    """

    use: str
    to: str
    where: str
    from_: str = "merged"
    name: str = ""  # collection, which knows the exporter, sees to it that all copies have one
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def candidate(self) -> str:
        """Name the candidate that ships."""
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
    about: About
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

    @property
    def name(self) -> str:
        return self.about.name

    @property
    def trains(self) -> bool:
        """Say whether there is something to train: a candidate made elsewhere takes its place."""
        return self.train is not None and self.candidate is None

    def merged(self, variant: str) -> str:
        """Name the candidate made by merging onto this variant of the base."""
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
        where = table.where
        if value != self.sweep.values[0]:
            where += f" ({self.sweep.option} = {schema.show(value)})"
        return replace(self, **{self.sweep.table: replace(table, where=where, options=options)})

    @cached_property
    def compared(self) -> frozenset[str]:
        """Name the evals that compare a copy with its parent."""
        return frozenset(e.name for e in self.evals if e.against == PARENT)

    @cached_property
    def members(self) -> Counter[str]:
        """How many gates stand in each `any_of`, by the id of the group."""
        return Counter(g.group for g in self.gates if g.group)

    def resolve(self, path: str) -> Path:
        """Return a path of the suite's, which is relative to the suite's folder. Raises UsageError for what is none."""
        try:
            return (self.path.parent / Path(path).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f'{self.path}: "{path[:100]}" is no path: {error}; name a file or folder') from None


TABLES = (
    "suite",
    "model",
    "adapter",
    "train",
    "sweep",
    "candidate",
    "subject",
    "eval",
    "gate",
    "merge",
    "export",
    "checks",
)
SWEPT = {"adapter": Use, "train": Train}  # tables of whose options one may be swept
ARRAYS = ("eval", "gate", "export")
LONGEST_NAME = 100  # bytes, which leaves room for what is put around it in the name of a file
TAKEN = ("report.json", "junit.xml", LOCK)  # what else stands in a run folder
ALPHAS = "want more than 0 and at most 0.5"
SEEDS = 2**32  # what numpy takes
RELEASES = {"released": "last", "anchor": "first"}  # the baselines that are there without a table, and their `from`


def is_reserved(name: str) -> bool:
    """Say whether a name means something by itself, so that no subject or copy can have it."""
    return name in ("base", "adapter", PARENT) or name.startswith("merged")


def name_mistake(name: str) -> str:
    """Return what keeps a name from being one of a suite, subject, eval or copy, or nothing: files are called by it."""
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        return f'name is {schema.show(name)}, want letters, digits, "_", "-" and ".", the first of them no "."'
    if len(name.encode()) > LONGEST_NAME:
        return f"name is {schema.show(name)}, which is longer than {LONGEST_NAME} bytes"
    if name.lower() in TAKEN:
        return f'name is "{name}", which is a file of the run folder; choose another'
    return ""


def read_suite(path: Path, overrides: Sequence[str] = (), candidate: str | None = None) -> Suite:
    """Read a suite; `overrides` are `table.key=value`, `candidate` is a folder that takes the place of training.

    Raises UsageError with every mistake of the file.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}; name a suite, for instance suites/smoke.toml"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        refuse_deep_keys(text)
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path}: nests tables or lists more than {schema.DEEPEST} deep") from None
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise UsageError(f"{path}: holds a whole number of thousands of digits; write it as text") from None
    _nest(raw.get("sweep"))
    mistakes = Mistakes()
    for override in overrides:
        try:
            _override(raw, override)
        except UsageError as error:
            mistakes.found += error.messages
    mistakes.raise_if_any()
    if candidate is not None:
        raw["candidate"] = _candidate(candidate)
    secrets.learn(raw)
    return _Reader(path, text, raw, given=candidate is not None).suite()


class _Reader:
    """The tables of one file; complaints carry the line they are about."""

    def __init__(self, path: Path, text: str, raw: dict[str, Any], given: bool) -> None:
        self.path, self.raw = path, raw
        self.given = given  # the candidate came with the command: [train] then only names the few-shot examples
        self.lines = lines_of(text)
        self.mistakes = Mistakes()

    def suite(self) -> Suite:
        self.sound()
        for name in self.raw:
            if name not in TABLES:
                self.complain((name, 0), f"[{name}]", "", f'unknown table "{name}"{did_you_mean(name, TABLES)}')
        about = self.one("suite", About, required=True)
        model = self.one("model", Model, required=True)
        sweep = self.sweep()
        adapter, train = self.one("adapter", Use), self.one("train", Train)
        candidate = self.one("candidate", Candidate)
        subjects = self.subjects()
        evals, gates = self.many("eval", Eval, "name"), self.many("gate", Gate, "id")
        for gate, mistake in member_mistakes(gates):
            self.mistakes.add(gate.where, mistake)
        exports = self.many("export", Export, "to")
        checks = self.one("checks", Ignored) or Ignored("[checks]")
        merges = self.merge(wanted=any(e.from_.startswith("merged") for e in exports))
        self.ranges(about, train)
        self.coherent(adapter, train, candidate, evals)
        self.mistakes.raise_if_any()
        assert about and model  # or raise_if_any raised
        made = Suite(
            self.path,
            about,
            model,
            adapter,
            train,
            candidate,
            subjects,
            evals,
            grouped(gates),
            merges,
            exports,
            self.digest(),
            self.raw.get("merge", {}).get("choose"),
            checks,
            None if candidate else sweep,
        )
        return made.trial(made.sweep.values[0]) if made.sweep else made

    def sound(self) -> None:
        """Refuse values that no key can have, before any of them is looked at."""
        for name, value in self.raw.items():
            tables = value if isinstance(value, list) else [value]
            for i, table in enumerate(tables):
                if not schema.unsound(table):
                    continue
                for key, inner in (table if isinstance(table, dict) else {"": table}).items():
                    if what := schema.unsound({key: inner}):
                        self.complain((name, i), f"[{name}]", key, f"{schema.show(key)} {what}" if key else what)
        self.mistakes.raise_if_any()

    def ranges(self, about: About | None, train: Train | None) -> None:
        """Tell numbers and names of single tables that are out of range."""
        complain = partial(self.complain, ("suite", 0), "[suite]")
        if about and (what := name_mistake(about.name)):
            complain("name", what)
        if about and not 0 < about.alpha <= 0.5:
            complain("alpha", f"alpha is {about.alpha}, {ALPHAS}")
        if about and not 0 <= about.seed < SEEDS:
            complain("seed", f"seed is {about.seed}, want 0 or more and less than 2**32")
        if train and train.watch_rows < 1:
            self.complain(("train", 0), "[train]", "watch_rows", f"watch_rows is {train.watch_rows}, want at least 1")
        if train and not train.sources:
            self.complain(("train", 0), "[train]", "data", '"data" is empty; name a source of rows')

    def digest(self) -> str:
        """Name what the suite says, without what is secret: a digest of a short password tells it."""
        return digest_of(secrets.without(self.raw))

    def complain(self, at: tuple[str, int], title: str, key: str, what: str) -> None:
        line = self.lines.get((*at, key)) or self.lines.get((*at, ""))
        self.mistakes.add(f"{self.path}:{line}" if line else str(self.path), f"{title} {what}".strip())

    def one(self, name: str, cls: type[schema.T], required: bool = False) -> schema.T | None:
        table = self.raw.get(name)
        title = f"[{name}]"
        if table is None:
            if required:
                self.mistakes.add(str(self.path), f"table [{name}] is missing")
            return None
        return self.table(cls, table, (name, 0), title)

    def many(self, name: str, cls: type[schema.T], key: str) -> tuple[schema.T, ...]:
        tables = self.raw.get(name, [])
        if not isinstance(tables, list):
            self.complain((name, 0), f"[{name}]", "", f"is one table; write [[{name}]]")
            return ()
        found: list[schema.T] = []
        seen: set[Any] = set()
        for i, table in enumerate(tables):
            label = table.get(key) if isinstance(table, dict) else None
            title = f"{name} {schema.show(str(label))}" if label else f"[[{name}]] number {i + 1}"
            if label is not None and str(label) in seen:
                self.complain((name, i), title, key, f'the {key} "{label}" is taken by an earlier [[{name}]]')
            seen.add(str(label))
            if (made := self.table(cls, table, (name, i), title)) is not None:
                found.append(made)
        return tuple(found)

    def table(self, cls: type[schema.T], table: Any, at: tuple[str, int], title: str) -> schema.T | None:
        if not isinstance(table, dict):
            self.complain(at, title, "", f"is {schema.show(table)}, want a table")
            return None
        line = self.lines.get((*at, ""))
        where = f"{self.path}:{line}: {title}" if line else f"{self.path}: {title}"
        return schema.read(cls, table, partial(self.complain, at, title), where=where, group="")

    def subjects(self) -> dict[str, Baseline]:
        tables = self.raw.get("subject", {})
        if not isinstance(tables, dict):
            self.complain(("subject", 0), "[subject]", "", "want tables [subject.NAME]")
            return {}
        gates = self.raw.get("gate")
        compared = [g.get("versus") for g in gates if isinstance(g, dict)] if isinstance(gates, list) else []
        tables = {**tables, **{name: {} for name in RELEASES if name in compared and name not in tables}}
        found: dict[str, Baseline] = {}
        for name, table in tables.items():
            at = (f"subject.{name}", 0)
            if what := name_mistake(name):
                self.complain(at, f"[subject.{schema.show(name)}]", "", what)
                continue
            if twin := next((n for n in found if n.lower() == name.lower()), None):
                self.complain(at, f"[subject.{name}]", "", f'differs from "{twin}" in case alone; choose another name')
            if is_reserved(name):
                self.complain(at, f"[subject.{name}]", "", f'the name "{name}" is the harness\'s own; choose another')
                continue
            if name in RELEASES and isinstance(table, dict):
                table = {"from": RELEASES[name], **table}
                if table["from"] != RELEASES[name]:
                    what = f'"from" is {schema.show(table["from"])}; "{name}" is the {RELEASES[name]} release'
                    self.complain(at, f"[subject.{name}]", "from", what)
            if made := self.table(Baseline, table, at, f"[subject.{name}]"):
                self.other_model(made, at, f"[subject.{name}]")
                found[name] = made
        return found

    def other_model(self, made: Baseline, at: tuple[str, int], title: str) -> None:
        """Tell what a baseline lacks that is a model of its own, or has that only such a model may have."""
        if made.released:
            if made.path is None and not self.raw.get("export"):
                self.complain(at, title, "", 'is a release; name its folder with "path", or add an [[export]]')
            if made.use is not None:
                self.complain(at, title, "use", 'is loaded as the suite\'s own model; remove "use"')
        elif (made.use is None) != (made.path is None):
            self.complain(at, title, "", 'want "use" and "path" for another model, or neither')
        if made.shots is not None and made.shots < 0:
            self.complain(at, title, "shots", f"shots is {made.shots}, want 0 or more")
        if made.digest is not None and not (made.released and re.fullmatch("[0-9a-f]{8,64}", made.digest)):
            self.complain(at, title, "digest", '"digest" pins a release: 8 to 64 hex digits of its weights\' digest')
        known = [f.name.rstrip("_") for f in fields(Baseline) if f.name not in ("where", "options")]
        for key in made.options if made.use is None else ():
            self.complain(at, title, key, f'unknown key "{key}"{did_you_mean(key, known)}')

    def merge(self, wanted: bool) -> tuple[str, ...]:
        table = self.raw.get("merge", {"base": "original"} if wanted else {})
        if not isinstance(table, dict):
            self.complain(("merge", 0), "[merge]", "", "want a table")
            return ()
        for key in table.keys() - {"base", "choose"}:
            self.complain(("merge", 0), "[merge]", key, f'unknown key "{key}"{did_you_mean(key, ["base", "choose"])}')
        choose, base = table.get("choose", "EVAL.METRIC"), table.get("base")
        if not isinstance(choose, str) or not all(choose.partition(".")):
            what = f'"choose" is {schema.show(choose)}, want EVAL.METRIC'
            self.complain(("merge", 0), "[merge]", "choose", what)
        elif "choose" in table and not (isinstance(base, list) and len(base) > 1):
            self.complain(("merge", 0), "[merge]", "choose", '"choose" needs several bases to choose from')
        base = table.get("base", "original") if "merge" in self.raw or wanted else []
        found = [base] if isinstance(base, str) else base
        if not isinstance(found, list) or any(b not in MERGES for b in found) or len(set(found)) != len(found):
            want = 'want "original", "dequantized" or both in a list'
            self.complain(("merge", 0), "[merge]", "base", f'"base" is {schema.show(base)}, {want}')
            return ()
        return tuple(found)

    def sweep(self) -> Sweep | None:
        table = self.raw.get("sweep")
        if table is None:
            return None
        complain = partial(self.complain, ("sweep", 0), "[sweep]")
        if not isinstance(table, dict):
            complain("", f"is {schema.show(table)}, want a table")
            return None
        told = len(self.mistakes.found)
        if "train" not in self.raw:
            complain("", "needs a [train] whose trials it compares")
        given = {key: value for key, value in table.items() if not isinstance(value, dict)}
        for key in given.keys() - {"by", "alpha"}:
            complain(key, f'unknown key "{key}"; want "by", "alpha" and an option such as "adapter.r"')
        by, alpha = given.get("by"), given.get("alpha")
        if not isinstance(by, str) or not all(by.partition(".")):
            said = f'"by" is {schema.show(by)}' if "by" in given else '"by" is missing'
            complain("by", f"{said}, want EVAL.METRIC, which decides on the eval's select split")
        if alpha is not None and not (schema.fits(alpha, float) and 0 < alpha <= 0.5):
            complain("alpha", f'"alpha" is {schema.show(alpha)}, {ALPHAS}')
        options = [(t, o, values) for t, o in table.items() if isinstance(o, dict) for o, values in o.items()]
        for name, option, _ in options:
            taken = [f.name for f in fields(SWEPT[name]) if f.name != "options"] if name in SWEPT else [option]
            if option in taken:
                complain(name, f'"{name}.{option}" cannot be swept; want an option of [adapter] or [train]')
        if len(options) != 1:
            names = " and ".join(f'"{name}.{option}"' for name, option, _ in options)
            complain("", f'sweeps {names or "nothing"}; want one option, for instance "adapter.r" = [8, 16, 32]')
            return None
        [(name, option, values)] = options
        if problem := _unordered(values):
            complain(name, f'"{name}.{option}" is {schema.show(values)}, {problem}')
        if len(self.mistakes.found) > told:
            return None
        line = self.lines.get(("sweep", 0, name))
        where = f"{self.path}:{line}: [sweep]" if line else f"{self.path}: [sweep]"
        return Sweep(where, name, option, tuple(values), str(by), alpha)

    def coherent(
        self, adapter: Use | None, train: Train | None, candidate: Candidate | None, evals: tuple[Eval, ...]
    ) -> None:
        if candidate and train and not self.given:
            self.complain(("candidate", 0), "[candidate]", "", "takes the place of [train]; remove one of them")
        if candidate and (candidate.adapter is None) == (candidate.merged is None):
            self.complain(("candidate", 0), "[candidate]", "", 'want "adapter" or "merged", one of them')
        if train and not adapter and "adapter" not in self.raw:
            self.complain(("train", 0), "[train]", "", 'needs an [adapter], for instance use = "lora"')
        if adapter and not train and not candidate and "train" not in self.raw:
            self.complain(("adapter", 0), "[adapter]", "", "needs a [train] or a [candidate]")
        if not self.raw.get("eval"):
            self.mistakes.add(str(self.path), "no [[eval]]; a suite measures something")


def _nest(sweep: Any) -> None:
    """Write the quoted key "adapter.r" of a sweep as TOML reads it without quotes: as a table in a table."""
    for key in [k for k in sweep if "." in k] if isinstance(sweep, dict) else ():
        table, _, option = key.partition(".")
        if isinstance(inner := sweep.setdefault(table, {}), dict):
            inner[option] = sweep.pop(key)


def _unordered(values: Any) -> str:
    """Say why values cannot be tried one after the other, or nothing."""
    if not isinstance(values, list):
        return "want a list of values"
    if len(values) < 2:
        return "want two values or more; one needs no sweep"
    if any(value in values[:i] for i, value in enumerate(values)):
        return "which has a value twice"
    if all(schema.fits(value, float) for value in values) and values not in (
        sorted(values),
        sorted(values, reverse=True),
    ):
        return "which neither rises nor falls; a sweep stops where a step brings nothing, so the order counts"
    return ""


def _override(raw: dict[str, Any], override: str) -> None:
    """Apply one `--set table.key=value`; elements of lists by their index."""
    path, equals, value = override.partition("=")
    where = f"--set {schema.show(override)}"
    if not equals or "." not in path:
        raise UsageError(f"{where}: want table.key=value, for instance train.learning_rate=1e-4")
    *parents, last = path.split(".")
    if len(parents) > schema.DEEPEST:
        raise UsageError(f"{where}: names a table more than {schema.DEEPEST} deep")
    parsed = _parsed(value, where)
    here: Any = raw
    for step in parents:
        here = _step(here, step, where) if isinstance(here, list) else here.setdefault(step, {})
        if not isinstance(here, (dict, list)):
            raise UsageError(f"{where}: {schema.show(step)} is {schema.show(here)}, not a table")
    if isinstance(here, list):
        _step(here, last, where)
        here[int(last)] = parsed
    else:
        here[last] = parsed


def _parsed(value: str, where: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value  # a bare word is a string
    except RecursionError:
        raise UsageError(f"{where}: nests tables or lists more than {schema.DEEPEST} deep") from None
    except ValueError:
        raise UsageError(f"{where}: holds a whole number of thousands of digits") from None


def _step(here: list[Any], step: str, where: str) -> Any:
    if not re.fullmatch(r"[0-9]{1,9}", step) or int(step) >= len(here):
        raise UsageError(f"{where}: {schema.show(step)} is no element of a list of {len(here)}; they count from 0")
    return here[int(step)]


def _candidate(given: str) -> dict[str, str]:
    """Return the table of a candidate that came with the command."""
    try:
        folder = Path(given)
        return {_kind_of_candidate(folder): str(folder.resolve())}
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"--candidate {schema.show(given)}: is no path: {error}; name an adapter or a model") from None


def _kind_of_candidate(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if (folder / "config.json").is_file() or any(folder.glob("*.gguf")):
        return "merged"
    raise UsageError(
        f'--candidate "{folder}": no adapter_config.json, config.json or .gguf file is there; '
        "name an adapter or a model"
    )
