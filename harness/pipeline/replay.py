"""`harness verify --replay N`: ask the shipped model some rows again, and compare them with the evidence.

What is run is the suite that the deployer names, never what the export says; the lock is only compared with it.
The model is the one in the export's model/, nothing is remembered, and what could not be replayed is no pass.
"""

from __future__ import annotations

import json
import math
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.answers.keys import library_versions
from harness.artifacts.attestation import LOCK, MANIFEST, MODEL
from harness.artifacts.digests import digest_value
from harness.collection.collect import collect
from harness.collection.collection import Collection, Task
from harness.errors import UsageError, missing_modules_message
from harness.evaluation.evaluate import evaluate
from harness.pipeline.preflight import make_adapter, open_folder, open_model
from harness.plugins import Plugins, load_plugins
from harness.records.claims.gate import Gate
from harness.records.metrics import ENDINGS
from harness.records.models import ModelRef, Source
from harness.records.samples import Result, Score, rows_digest
from harness.release.evidence_rows import read_items
from harness.release.export import evidence_row, scores_without_texts
from harness.release.lock_writer import describe_plugins, lock_table
from harness.release.releases import open_shipped_model
from harness.release.verified import VerifiedExport
from harness.suite.reader import read_suite
from harness.suite.tables import Suite
from harness.texts.json_text import read_json
from harness.workers.loading import load_uncached

FLOAT32_TOLERANCE, TOLERANCE = 1e-3, 0.1  # nats by which a log-probability may differ
# of an eval, beside its options: which rows are asked, and how
QUESTION_KEYS = (
    *("use", "data", "columns", "template", "limit", "chat_template_kwargs", "thought_budget"),
    *("temperature", "top_p", "top_k", "repeats", "pass_at", "seeds"),
)
HASHES = {"doc_hash": "the row", "prompt_hash": "the prompt", "target_hash": "the target", "answer_hash": "the answer"}
_Said = Mapping[int, Mapping[str, Any]]  # what the evidence says of the rows of one evaluation, by their number


@dataclass
class Replayed:
    """The outcome of a replay.

    `rows` of `evals` were compared; `differs` describes the first difference, if there is one.
    """

    seed: int
    rows: int = 0
    evals: list[str] = field(default_factory=list)
    differs: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        return f"{self.rows} rows of {', '.join(self.evals)} answered again (seed {self.seed}), as in the evidence"


@dataclass(frozen=True)
class _ReplayEvidence:
    """The evidence of an export on its candidate. `rows` are those of items.jsonl, by evaluation."""

    candidate: str
    weights: str
    lock: Mapping[str, Any]
    rows: Mapping[str, Sequence[Mapping[str, Any]]]


def replay_rows(
    export: VerifiedExport, suite: Path, rows: int, seed: int | None = None, plugins: Sequence[str] = ()
) -> Replayed:
    """Replay random rows of the passed suite on a verified export.

    Without a seed one is drawn. Raises UsageError if nothing can be replayed: no torch, no data, other data or another
    evaluation than in the evidence, or no row that one model alone can answer.
    """
    if rows < 1:
        raise UsageError(f"--replay is {rows}; it must be 1 or more")
    found = Replayed(secrets.randbelow(1 << 32) if seed is None else seed)
    try:
        asked = draw_replay_rows(export, suite, rows, found.seed, plugins)
        collection, told, model = asked.collection, asked.told, asked.collection.suite.model
        found.notes += [*asked.notes, *_iterate_environment_changes(collection, told)]
        ref = _make_shipped_model_ref(collection, Path(export.folder) / MODEL, told)
        if ref.digest != told.weights:
            found.differs = f"{MODEL}/ holds weights {ref.digest[:16]}, but the evidence is about {told.weights[:16]}"
            return found
        with load_uncached(collection.plugins, suite, model.use, [ref], model.options) as [subject]:
            _compare_rows_with_evidence(found, asked, subject)
        export.check_unchanged()
        if not found.rows:
            raise UsageError("; ".join(["--replay: no row could be compared", *found.notes]))
    except ModuleNotFoundError as error:
        raise UsageError(f"--replay: {missing_modules_message(error.name)}") from None
    return found


@dataclass(frozen=True)
class ReplayRows:
    """Rows of the evidence that can be asked again: those that were drawn, by evaluation, in the suite's order."""

    collection: Collection
    told: _ReplayEvidence
    known: Mapping[str, _Said]
    drawn: Mapping[str, Sequence[int]]
    gates: Sequence[Gate]
    notes: Sequence[str]

    @property
    def rows(self) -> int:
        """How many were drawn."""
        return sum(map(len, self.drawn.values()))

    def answer_rows(self, name: str, subject: Any) -> Result:
        """Evaluate a subject on the drawn rows of an evaluation."""
        task = self.collection.tasks[name]
        samples = tuple((task.samples or ())[i] for i in self.drawn[name])
        return evaluate(replace(task, samples=samples), self.told.candidate, subject, None, lambda _: None)


def draw_replay_rows(
    export: VerifiedExport, suite: Path, rows: int, seed: int, plugins: Sequence[str] = ()
) -> ReplayRows:
    """Draw rows of the evidence that one model alone can answer.

    They are taken from the suite. Raises UsageError if there are none, or the suite has other rows or evaluations than
    the evidence.
    """
    folder, manifest, lock = Path(export.folder), read_json(export.raw[MANIFEST]), read_json(export.raw[LOCK])
    kept, notes, candidate = dict[str, list[Mapping[str, Any]]](), list[str](), str(manifest["candidate"])
    for row in read_items(folder, manifest):
        subject, _, name = row["item"].partition("::")
        if subject == candidate and ("id" in row or "sha256" in row):  # it was asked
            kept.setdefault(name, []).append(row)
    told = _ReplayEvidence(candidate, manifest["weights"], lock, kept)
    table, loaded = read_suite(suite, candidate=str(folder / MODEL)), load_plugins(suite, plugins)
    collection = _collect_replayable_evals(notes, told, table, loaded)
    known = dict[str, _Said]()
    for name, task in collection.tasks.items():
        said, samples = told.rows[name], task.samples or ()
        if any("id" in row for row in said):
            numbers = {s.id: i for i, s in enumerate(samples)}
            known[name] = {numbers[row["id"]]: row for row in said if row["id"] in numbers}
        else:  # private rows have no names, but stand in order
            known[name] = dict(enumerate(said)) if len(said) == len(samples) else {}
    if not (pairs := [(name, number) for name, numbered in known.items() for number in numbered]):
        raise UsageError("; ".join(["--replay: no row can be run again", *notes]))
    drawn = random.Random(seed).sample(pairs, min(rows, len(pairs)))  # noqa: S311 -- told, to be drawn again
    asked = {name: sorted(number for e, number in drawn if e == name) for name in known}
    there = {name: numbers for name, numbers in asked.items() if numbers}
    return ReplayRows(collection, told, known, there, table.gates, notes)


def _compare_rows_with_evidence(found: Replayed, asked: ReplayRows, subject: Any) -> None:
    different, blind = [], 0
    tolerance = FLOAT32_TOLERANCE if asked.collection.suite.model.options.get("dtype") == "float32" else TOLERANCE
    for name, numbers in asked.drawn.items():
        result, samples = asked.answer_rows(name, subject), asked.collection.tasks[name].samples or ()
        scores = {s.id: s for s in result.scores}
        for number in numbers:
            said, sample = asked.known[name][number], samples[number]
            row = evidence_row(number, sample, scores.get(sample.id, Score(sample.id, {})), list(result.metrics))
            why = _find_row_difference(said, row, tolerance)
            if why is None:
                blind += 1
                continue
            found.rows += 1
            found.evals += [name] if name not in found.evals else []
            if why:
                which = f"row {number}" if "sha256" in said else f'row "{row["id"]}"'
                different.append(f'{which} of "{name}": {why}')
    if different:
        found.differs = f"{different[0]} ({len(different)} of {asked.rows} rows differ, seed {found.seed})"
    if blind:
        found.notes.append(
            f"replay: {blind} private rows have log-probabilities, which a digest cannot compare approximately"
        )


# -- what is asked ---------------------------------------------------------------------------------


def _collect_replayable_evals(notes: list[str], told: _ReplayEvidence, suite: Suite, loaded: Plugins) -> Collection:
    """Collect the evaluations that the candidate can answer alone.

    It must have rows of them in the evidence. Raises UsageError if the suite differs from the evidence.
    """
    if lost := sorted(told.rows.keys() - {e.name for e in suite.evals}):
        hint = "which the export passed; name the suite that it passed"
        raise UsageError(f'{suite.path}: has no eval "{lost[0]}", {hint}')
    evals = []
    for spec in suite.evals:
        task = Task(spec, loaded.find("evaluator", spec.use).function, {}, None)
        why = "compares with another model" if task.comparative else "measures time" if task.uncached else ""
        if why := "grades its answers only when all are there" if task.marks else why:
            notes.append(f'replay: "{spec.name}" {why}, so it was skipped')
        elif spec.name in told.rows:
            evals.append(replace(spec, select=None, fewshot_data=None, stop="end"))
    bare: dict[str, Any] = {"train": None, "candidate": None, "choose": None, "subjects": {}, "gates": ()}
    bare |= {"merges": (), "exports": (), "evals": tuple(evals)}
    collection = collect(replace(suite, **bare), loaded, remote=True)
    for task in collection.tasks.values():
        _require_same_eval_as_evidence(collection, task, told)
    return replace(collection, tasks={name: _add_finish_metrics(task, told) for name, task in collection.tasks.items()})


def _add_finish_metrics(task: Task, told: _ReplayEvidence) -> Task:
    """Add the metrics of how answers ended that the evidence has. A replay has no gates to name them."""
    named = told.lock["metrics"].get(task.spec.name, {})
    return replace(task, metrics={**{n: m for n, m in ENDINGS.items() if n in named}, **task.metrics})


def _require_same_eval_as_evidence(collection: Collection, task: Task, told: _ReplayEvidence) -> None:
    """Raise UsageError unless an eval and its rows match the evidence."""
    locked = {e["name"]: e for e in told.lock["suite"]["evals"]}.get(task.spec.name, {})
    here = json.loads(json.dumps(lock_table(collection.plugins, "evaluator", task.spec), default=str))
    ours, theirs = ({k: t.get(k) or None for k in QUESTION_KEYS} | t.get("options", {}) for t in (here, locked))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            mine, other = (json.dumps(x.get(key), ensure_ascii=False)[:80] for x in (ours, theirs))
            raise UsageError(
                f"{task.spec.where}: {key} is {mine}, but {other} in the evidence; name the suite "
                "that the export passed"
            )
    samples = task.samples or ()
    if rows_digest(samples) == told.lock["data"].get(task.spec.name, {}).get("sha256"):
        return
    said = {r["id"]: r for r in told.rows[task.spec.name] if "id" in r}
    changed = [s.id for s in samples if s.id in said and digest_value(s.row) != said[s.id]["doc_hash"]]
    why = "differs from the evaluated data" + (f', for instance row "{changed[0]}"' if changed else "")
    raise UsageError(f'{task.spec.where}: data "{task.spec.data}" {why}; nothing was replayed')


def _iterate_environment_changes(collection: Collection, told: _ReplayEvidence) -> Iterator[str]:
    """Yield the differences between this environment and the evidence's. They may explain a different answer."""
    there, model = told.lock["suite"]["model"], lock_table(collection.plugins, "loader", collection.suite.model)
    options = {"use": (model["use"], there["use"])}
    options |= {k: (model["options"].get(k), v) for k, v in there["options"].items() if v != "(secret)"}
    for name, (here, then) in options.items():
        if here != then:
            yield f"replay: [model] {name} is {json.dumps(here)}, but {json.dumps(then)} in the evidence"
    now = library_versions()
    for name, then in told.lock["packages"].items():
        if now.get(name) != then:
            yield f"replay: {name} is {now.get(name) or 'not installed'}, but {then} in the evidence"
    codes = {p["name"]: p["code"] for p in describe_plugins(collection.plugins)}
    for plugin in told.lock["plugins"]:
        if codes.get(plugin["name"]) != plugin["code"]:
            yield f'replay: the code of plugin "{plugin["name"]}" differs from that in the evidence'


def _make_shipped_model_ref(collection: Collection, model: Path, told: _ReplayEvidence) -> ModelRef:
    """Return the model in an export, with an adapter on its base.

    Raises UsageError if the base has other weights than the one it was judged on.
    """

    def base() -> Source:
        opened, judged = open_model(collection, collection.suite.model), told.lock["subjects"]["base"]
        if opened.digest != judged:
            raise UsageError(f"[model] path: holds weights {opened.digest[:16]}, but the base had {judged[:16]}")
        return opened

    adapter, folder = partial(make_adapter, collection), partial(open_folder, collection)
    return open_shipped_model(told.candidate, model, base, adapter, folder, collection.suite.model.options)


# -- what is compared ------------------------------------------------------------------------------


def _find_row_difference(said: Mapping[str, Any], row: Mapping[str, Any], tolerance: float) -> str | None:
    """Describe how a row differs from the evidence. Empty if it does not, None if that cannot be known."""
    ours = scores_without_texts(row)
    rough = row["resps"] == [[None]] and any(v is not None and v != round(v) for v in ours["values"].values())
    if "sha256" in said:
        # as it is kept, also where nobody knows how its answer ended, and as it was before anybody asked
        bare = {key: value for key, value in row.items() if key not in ("finish_reason", "tokens")}
        unknown = {**bare, **{name: math.nan for name in ENDINGS if name in row["metrics"]}}
        metrics = [name for name in row["metrics"] if name not in ENDINGS]
        before = {**{key: value for key, value in bare.items() if key not in ENDINGS}, "metrics": metrics}
        same = said["sha256"] in map(digest_value, (row, unknown, before))
        return "" if same else None if rough else "its digest differs"
    for key, what in HASHES.items():
        if ours[key] != said[key]:
            return f"{what} differs"
    pairs = {n: (ours["values"].get(n), said["values"].get(n)) for n in ours["values"].keys() | said["values"].keys()}
    pairs = {n: both for n, both in pairs.items() if n not in ENDINGS or both[1] is not None}
    pairs |= {"its weight": (ours["weight"], said["weight"])}
    for name, (here, there) in sorted(pairs.items()):
        near = rough and here is not None and there is not None and math.isclose(here, there, abs_tol=tolerance)
        if here != there and not near:
            return f"{name} is {here}, but {there} in the evidence"
    return "" if ours["weights"] == said["weights"] else "its weights differ"
