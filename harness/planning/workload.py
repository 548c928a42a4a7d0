"""Forecast of a run's requests, tokens and cache hits.

No model is loaded for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from harness import schema
from harness.answers.cache import CachedSubject, StageModels
from harness.artifacts.digests import weights_digest
from harness.collection.collection import COMPARATIVE, Collection, Item, Task, sweep_trials
from harness.data import chat
from harness.errors import UsageError
from harness.evaluation import grading
from harness.evaluation.draws import SampledSubject
from harness.evaluation.evaluate import CHUNK_ROWS
from harness.pipeline.artifacts import Artifacts
from harness.pipeline.run_context import RunContext
from harness.pipeline.session import Session, open_answer_cache
from harness.pipeline.variants import vary_collection
from harness.records.models import Logprob, ModelRef, Source, Subject, split_chunks
from harness.records.samples import Prompt
from harness.release import conversions
from harness.release.conversions import seal_candidate
from harness.suite.tables import Model

Pair = tuple[Prompt, str]


@dataclass(frozen=True)
class Workload:
    """The requests of one evaluation of one subject.

    `unique` counts tokens that are computed if prompts are shared, `answers` those that are generated at most. `note`
    is why less is known.
    """

    subject: str
    eval: str
    rows: int
    requests: int = 0
    cache_hits: int = 0
    tokens: int | None = None
    unique: int | None = None
    answers: int = 0
    note: str = ""


@dataclass(frozen=True)
class PlannedArtifact:
    """A run's planned artifact, and whether it exists.

    Artifacts are the trained adapter, merged models and copies.
    """

    name: str
    there: bool
    path: str


class NeedsModelError(Exception):
    """Something was asked that only the model itself can answer."""


class RecordingSubject:
    """A subject that records requests, and answers from the cache.

    Requests that are not cached get a placeholder.
    """

    def __init__(self, ref: ModelRef, cached: CachedSubject | None) -> None:
        self.name, self.digest, self.cached = ref.name, ref.digest, cached
        self.preferred_batch_rows: int | None = None  # the number of requests does not depend on it
        self.calls: list[tuple[list[Pair], bool]] = []  # (prompt, continuation), and whether prompts are computed once
        self.answers = 0

    def generate(self, prompts: Sequence[Prompt], *, max_new_tokens: int = 64, **options: Any) -> list[str]:
        """Record the prompts. Completions that are not cached are empty."""
        self.calls.append(([(p, "") for p in prompts], False))
        self.answers += max_new_tokens * len(prompts)
        return self._find_cached_or_unknown(
            [""] * len(prompts), "generate", prompts, max_new_tokens=max_new_tokens, **options
        )

    def logprobs(self, pairs: Sequence[Pair], **options: Any) -> list[Logprob]:
        """Record the pairs. Those that are not cached get one nat."""
        self.calls.append((list(pairs), True))
        unknown = [Logprob(-1.0, 1, max(1, len(c.encode())), False) for _, c in pairs]
        return self._find_cached_or_unknown(unknown, "logprobs", pairs, **options)

    def token_kl(self, texts: Sequence[str], against: RecordingSubject) -> list[tuple[float, int]]:
        """Record the texts. Those that are not cached have a divergence of 0."""
        self.calls.append(([("", text) for text in texts], False))
        unknown = [(0.0, 1)] * len(texts)
        return self._find_cached_or_unknown(unknown, "token_kl", texts, against.cached) if against.cached else unknown

    def __getattr__(self, name: str) -> Any:
        """Look up facts such as `nbytes`, without loading a model.

        Raises NeedsModelError if only the model knows them.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        if self.cached is None:
            raise NeedsModelError(name)
        return getattr(self.cached, name)

    def _find_cached_or_unknown(self, unknown: list[Any], method: str, *arguments: Any, **options: Any) -> list[Any]:
        try:
            return getattr(self.cached, method)(*arguments, **options) if self.cached else unknown
        except NeedsModelError:
            return unknown


def count_requests(run: RunContext) -> list[Workload]:
    """Count the requests of every evaluation. Raises UsageError if an evaluator refuses its rows."""
    session = replace(run.session, responses=open_answer_cache(run.session.options, run.record.warn))
    try:
        ears = _Ears(session)
        return [ears.asked(item) for item in session.collection.items]
    finally:
        if session.responses:
            session.responses.close()


def list_artifacts(session: Session) -> list[PlannedArtifact]:
    """List the artifacts of exactly this recipe, existing or not."""
    return [*_list_planned_artifacts(session), *(made for made, _ in _iterate_copies(session))]


def _list_planned_artifacts(session: Session) -> list[PlannedArtifact]:
    suite, whole = session.suite, session.collection.trains_all_weights
    if not (session.opened.adapter or whole):
        return []
    if sweep := suite.sweep:  # what is merged depends on which of them is chosen
        folders = [Artifacts(replace(session, collection=t)).adapter for t in sweep_trials(session.collection)]
        what = f"{'model' if whole else 'adapter'} with {sweep.option}"
        names = [f"{what} = {schema.format_toml(value)}" for value in sweep.values]
        return [PlannedArtifact(name, f.is_dir(), str(f)) for name, f in zip(names, folders, strict=True)]
    places = Artifacts(session)
    found = {"merged" if whole else "adapter": places.adapter} if suite.trains else {}
    for variant in () if whole else suite.merges:  # of several, which is the candidate is chosen in the run
        found[f"merged-{variant}" if suite.choose else suite.merged(variant)] = places.merged(variant)
    for name, seed in session.collection.runs.items():
        varied = Artifacts(replace(session, collection=vary_collection(session.collection, seed=seed)))
        own = next((v for v in suite.merges if suite.merged(v) == session.collection.recipe), "")
        found[name] = varied.merged(own) if own or whole else varied.adapter
    return [PlannedArtifact(name, folder.is_dir(), str(folder)) for name, folder in found.items()]


def _iterate_copies(session: Session) -> Iterator[tuple[PlannedArtifact, ModelRef]]:
    """Yield every copy that an export makes.

    Its final path depends on its parent, so it is known only if the parent exists.
    """
    suite, elsewhere, places = session.suite, session.opened.candidate, Artifacts(session)
    parents = {made.name: made.path for made in _list_planned_artifacts(session) if made.there} if suite.copies else {}
    parents |= {"merged": elsewhere.path} if elsewhere else {}
    for name, declared in suite.copies.items():
        folder, options = places.work / name, suite.model.options
        if path := parents.get(declared.from_):
            exporter = session.collection.plugins.find("exporter", declared.use).function
            digest = elsewhere.digest if elsewhere else weights_digest(Path(path))
            parent = ModelRef(declared.from_, path, digest, options=options)
            folder = places.copy(declared, parent)
            options = conversions.copy_loader_options(declared, parent, exporter)
        yield PlannedArtifact(name, folder.is_dir(), str(folder)), ModelRef(name, str(folder), options=options)


def count_training_tokens(collection: Collection, source: Source) -> int | None:
    """Count the tokens of the training rows, once over.

    They are text, or formatted with the model's own chat template.
    """
    if collection.training is None:
        return None
    rows: list[Mapping[str, Any]] = []
    for row in collection.training:
        both = ("chosen", "rejected") if "chosen" in row else ()
        rows += [{**row, "completion": row[name]} for name in both] or [row]
    return sum(source.count_tokens([_make_prompt_answer_pair(row) for row in rows]))


def _make_prompt_answer_pair(row: Mapping[str, Any]) -> Pair:
    messages, given = row.get("messages"), chat.training_template_arguments(row)
    if isinstance(messages, list) and messages:
        return chat.join_arguments(messages[:-1], given), str(messages[-1].get("content") or "")
    if "prompt" in row:
        prompt, completion = row["prompt"], row.get("completion", "")
        text = completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
        return (chat.join_arguments(prompt, given) if isinstance(prompt, list) else prompt), text
    return "", str(row.get("text", ""))


class _Ears:
    """Recorder of a run's evaluations. The tokens of the same requests are counted once."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.counted: dict[Any, tuple[int, int]] = {}
        suite, ready, base = session.suite, session.opened, session.base
        # the models that are there, by subject, with the table that loads each
        self.refs: dict[str, tuple[ModelRef, Model]] = {"base": (base, suite.model)}
        for name, baseline in suite.subjects.items():
            if name in ready.others:
                self.refs[name] = session.baseline(name), baseline.model
            elif name in ready.releases or not baseline.released:
                self.refs[name] = session.baseline(name) if baseline.released else base, suite.model
        if ready.candidate:
            merged = ModelRef("merged", ready.candidate.path, ready.candidate.digest, options=suite.model.options)
            self.refs["merged"] = merged, suite.model
        there = {made.name: Path(made.path) for made in list_artifacts(session) if made.there}
        if ready.adapter and ("adapter" in there or not suite.trains):
            folder, quantization = Artifacts(session).adapter, ready.adapter.quantization
            on = replace(base, name="adapter", adapter=folder, quantization=quantization)
            self.refs["adapter"] = seal_candidate(on, base=base.digest), suite.model
        for name in (*session.collection.candidates, *session.collection.runs):
            if name in there and not name.startswith("adapter"):
                self.refs[name] = (
                    seal_candidate(ModelRef(name, str(there[name]), options=suite.model.options)),
                    suite.model,
                )
        self.refs |= {
            ref.name: (seal_candidate(ref), suite.model) for made, ref in _iterate_copies(session) if made.there
        }

    def asked(self, item: Item) -> Workload:
        collection, ready = self.session.collection, self.session.opened
        task = collection.tasks[item.eval]
        blank = Workload(item.subject, item.eval, len(task.samples or ()))
        if item.subject in ready.lacking:
            return replace(blank, note="nothing has been released yet")
        if task.uncached:
            return replace(blank, note="it measures time, so nothing is cached")
        listener = self.listener(item.subject)
        against = self.listener(collection.baseline_of(item)) if task.comparative else None
        if listener.cached:
            self.session.with_examples(item, listener.cached)  # which says whether old answers are asked again
        subject: Any = self.session.with_examples(item, listener)
        problem = _record_requests(task, subject, against, listener)
        if not (requests := sum(len(pairs) for pairs, _ in listener.calls)):
            return replace(blank, note=problem)
        fewshot = subject is not listener and item.subject
        key = (item.eval, fewshot, item.subject if item.subject in ready.others else "")
        if key not in self.counted:
            source, total, unique = ready.others.get(item.subject, ready.source), 0, 0
            for pairs, shared in listener.calls:
                each = source.count_tokens(pairs)
                total += sum(each)
                unique += _count_tokens_without_repeats(source, pairs, each) if shared else sum(each)
            self.counted[key] = total, unique
        found = listener.cached.found if listener.cached else 0
        counts = requests, found, *self.counted[key], listener.answers
        return Workload(item.subject, item.eval, blank.rows, *counts, problem)

    def listener(self, name: str) -> RecordingSubject:
        """Return a recording subject. It has the cached answers of a model that exists."""
        responses = self.session.responses
        if name not in self.refs:
            return RecordingSubject(ModelRef(name, ""), None)
        ref, model = self.refs[name]
        identify = self.session.collection.plugins.find("loader", model.use).capabilities.identity
        identity = identify(ref, **ref.options) if identify and responses else None
        if identity is None or responses is None:
            return RecordingSubject(ref, None)

        def refuse() -> NoReturn:
            raise NeedsModelError(name)

        return RecordingSubject(ref, CachedSubject(ref, identity, StageModels(refuse), 0, responses))


def _record_requests(task: Task, subject: Subject, against: Any, listener: RecordingSubject) -> str:
    """Run an evaluator on a recording subject, chunk by chunk.

    Returns why some requests are missing, or an empty text. Raises UsageError if the evaluator refuses its rows.
    """
    if task.marks:
        grading.generate_answers(task, listener.name, subject, lambda _: None)
        return "without the calls that grade the answers"
    options: dict[str, Any] = dict(task.spec.options)
    if task.comparative:
        options[COMPARATIVE] = against
    if schema.has_parameter(task.function, "folder"):
        options["folder"] = task.folder
    sampled: Any = SampledSubject(subject, task)
    for rows, draw in product(split_chunks(task.samples or (), CHUNK_ROWS), range(task.repeats)):
        before = len(listener.calls)
        sampled.start_draw(rows, draw)
        try:
            list(task.function(sampled, rows, **options))
        except Exception as error:
            if len(listener.calls) > before:
                continue  # it was given answers that no model gave; what it asked first is known
            if isinstance(error, UsageError):  # it refused the rows before it asked anything
                raise UsageError(*(f"{task.spec.where}: {m}" for m in error.messages)) from None
            return "" if isinstance(error, NeedsModelError) else f"its requests cannot be predicted: {error}"
    return ""


def _count_tokens_without_repeats(source: Source, pairs: Sequence[Pair], counts: Sequence[int]) -> int:
    """Count the tokens left to compute if prompts are shared.

    A prompt counts once for all its continuations, and so do the lines that all text prompts begin with.
    """
    if not (prompts := {repr(p): p for p, _ in pairs if p}):
        return sum(counts)
    alone = dict(zip(prompts, source.count_tokens([(p, "") for p in prompts.values()]), strict=True))
    repeated = sum(alone[repr(p)] for p, _ in pairs if p) - sum(alone.values())
    texts = [p for p in prompts.values() if isinstance(p, str)]
    same = os.path.commonprefix(texts) if len(texts) == len(prompts) > 1 else ""  # noqa: RUF071 - of any texts
    front = same.rpartition("\n")[0]
    lines = source.count_tokens([(front, "")])[0] * (len(texts) - 1) if front else 0
    return sum(counts) - repeated - lines
