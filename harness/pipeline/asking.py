"""`harness ask`: one prompt to the base and to what a suite made of it, as an evaluation of the suite would ask it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from harness import schema
from harness.artifacts import artifact_cache
from harness.artifacts.attestation import EVIDENCE, LOCK, MODEL
from harness.collection.collection import Task
from harness.data import chat
from harness.data.encoding import shared_length
from harness.data.rows import Arguments, to_samples
from harness.data.templates import template_columns
from harness.errors import UsageError
from harness.evaluation.checks import quote_text
from harness.pipeline.artifacts import Artifacts
from harness.pipeline.run import open_run
from harness.pipeline.session import Options, Session
from harness.plugins import load_plugins
from harness.records.models import Generate, ModelRef, Subject
from harness.records.samples import Prompt
from harness.suite.reader import parse_suite
from harness.suite.tables import Eval
from harness.workers.loading import load_uncached

OF_THE_BASE = ("sha256", "revision")  # options of [model] that no other model has
UNTRAINED_ERROR = "this recipe has no trained adapter yet; harness run trains it"


@dataclass(frozen=True)
class EvalPrompt:
    """A prompt formatted for an evaluation, with its generation options."""

    evaluation: str
    prompt: Prompt
    how: Generate


class ModelReply(NamedTuple):
    """A model's completion, with its finish reason and seconds.

    `prompt_tokens` are those the model was sent, None if its loader cannot tell. `finish_reason` and `tokens`, the
    length of the completion, are known only if the loader reports them.
    """

    subject: str
    text: str
    prompt_tokens: Sequence[str] | None
    finish_reason: str
    tokens: int | None
    seconds: float


@dataclass
class Answers:
    """A question, the models' replies in order, and notes."""

    question: EvalPrompt
    replies: list[ModelReply] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def ask_suite(path: Path, prompt: str, options: Options) -> Answers:
    """Put one prompt to the base and this recipe's existing models.

    Those are the adapter and the merged models. Raises UsageError as preflight does, and if the prompt does not have
    the form of the suite's first generating evaluation.
    """
    session = open_run(path, replace(options, ahead=True)).session
    task = _find_generating_task([*session.collection.tasks.values()])
    rows = [s.input for s in task.samples or ()] if task else []
    evaluation = task.spec if task else None
    found = Answers(make_question(evaluation, prompt, rows, _make_greedy_generation(task)))
    found.notes += _iterate_missing_affix_notes(found.question, [row for row in rows if isinstance(row, str)])
    refs = _iterate_existing_candidates(session, found.notes)
    for ref in [session.base, *refs]:
        with session.load([ref]) as (_, [subject]):
            found.replies.append(ask_subject(subject, ref.name, found.question))
    return found


def ask_export(folder: Path, prompt: str, plugins: Sequence[str] = ()) -> Answers:
    """Put one prompt to an exported model and its base.

    The prompt gets the form of the suite that gated the model. The base is left out, with a note, if it is not on this
    machine. Raises UsageError if the folder has no evidence with its suite's text, or its model cannot be loaded.
    """
    try:
        source = json.loads((folder / EVIDENCE / LOCK).read_text("utf-8"))["suite"]["source"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{folder}: is neither a suite nor an export with evidence") from None
    if not source:
        raise UsageError(f"{folder}: its evidence does not have the suite's text; name the suite instead")
    suite = parse_suite(folder / "suite.toml", source)
    loaded = load_plugins(None, plugins)
    use, path = suite.model.use, suite.model.path
    own = {name: value for name, value in suite.model.options.items() if name not in OF_THE_BASE}
    spec = next((e for e in suite.evals if _can_generate(loaded.find("evaluator", e.use).function)), None)
    task = Task(spec, loaded.find("evaluator", spec.use).function, {}, None) if spec else None
    found = Answers(make_question(spec, prompt, [], _make_greedy_generation(task)))
    model, opening = folder / MODEL, loaded.find("loader", use).capabilities.open
    adapter = model if (model / "adapter_config.json").is_file() else None
    if opening is None:
        raise UsageError(f'{folder}: the loader "{use}" opens no folder, so its model cannot be loaded')
    for name, place in (("base", path), ("export", path if adapter else str(model))):
        try:
            ref = ModelRef(name, opening(place, **own).path, adapter=adapter if name == "export" else None, options=own)
            with load_uncached(loaded, folder / "suite.toml", use, [ref], own) as [subject]:
                found.replies.append(ask_subject(subject, name, found.question))
        except UsageError as error:
            if name == "export":
                raise
            found.notes.append(f"the base was not asked: {error}")
    return found


def make_question(evaluation: Eval | None, prompt: str, rows: Sequence[Prompt], how: Generate) -> EvalPrompt:
    """Format a prompt as an evaluation formats its rows.

    Without an evaluation it is sent as it is. A template with one column takes the prompt for it, one with several
    takes a JSON object. A system message that all rows share is kept before messages. Raises UsageError if the prompt
    does not fit the template.
    """
    if evaluation is None:
        return EvalPrompt("", prompt, how)
    arguments: Arguments = evaluation.chat_template_kwargs
    if evaluation.template is not None:
        row = _parse_template_row(evaluation, prompt)
        about: dict[str, Any] = {"columns": {}, "cluster": None, "slices": ()}
        [sample] = to_samples([row], evaluation.where, template=evaluation.template, **about)
        return EvalPrompt(evaluation.name, sample.input, how)
    if not any(isinstance(row, list) for row in rows):
        return EvalPrompt(evaluation.name, prompt, how)
    split = [chat.split_arguments(row) for row in rows if isinstance(row, list)]
    systems = {json.dumps([m for m in turns[:1] if m.get("role") == "system"], sort_keys=True) for turns, _ in split}
    system = json.loads(systems.pop()) if len(systems) == 1 else []
    messages = [*system, {"role": "user", "content": prompt}]
    return EvalPrompt(evaluation.name, chat.join_arguments(messages, arguments), how)


def ask_subject(subject: Subject, name: str, question: EvalPrompt) -> ModelReply:
    """Let a loaded model answer a question."""
    tell = getattr(subject, "prompt_tokens", None)
    sent = tell(question.prompt) if tell else None
    begun = time.monotonic()
    [text] = subject.generate([question.prompt], **question.how.keywords)
    reason, tokens = getattr(text, "finish_reason", ""), getattr(text, "tokens", None)
    return ModelReply(name, str(text), sent, reason, tokens, time.monotonic() - begun)


def _iterate_missing_affix_notes(question: EvalPrompt, rows: Sequence[str]) -> Iterator[str]:
    """Yield notes on a prefix or suffix that the prompt lacks. All rows of the evaluation share it."""
    prompt = question.prompt
    if not isinstance(prompt, str) or len(rows) < 2:
        return
    first, back = rows[0], rows[0][::-1]
    begin = first[: min(shared_length(first, row) for row in rows[1:])]
    end = back[: min(shared_length(back, row[::-1]) for row in rows[1:])][::-1]
    for verb, part, has in (("begin", begin, prompt.startswith(begin)), ("end", end, prompt.endswith(end))):
        if not has:
            yield f"the rows of {question.evaluation} {verb} with {quote_text(part, 60)}, but this prompt does not"


def _parse_template_row(evaluation: Eval, prompt: str) -> dict[str, Any]:
    names = template_columns(evaluation.template or "")
    if len(names) == 1:
        return {names[0]: prompt}
    wanted = json.dumps(dict.fromkeys(names, "…"), ensure_ascii=False)
    try:
        row = json.loads(prompt)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not row.keys() >= {*names}:
        raise UsageError(f"{evaluation.where}: its template has {len(names)} columns; give them as JSON: '{wanted}'")
    return row


def _can_generate(function: Any) -> bool:
    return "max_new_tokens" in schema.list_options(function)[0]


def _find_generating_task(tasks: Sequence[Task]) -> Task | None:
    return next((task for task in tasks if task.generates), None)


def _make_greedy_generation(task: Task | None) -> Generate:
    """Return greedy generation options for an evaluation, even if it samples."""
    if task is None:
        return Generate()
    options = schema.with_defaults(task.function, task.spec.options)
    stop = options.get("stop") or ()
    return Generate(
        max_new_tokens=int(options["max_new_tokens"]),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        thought_budget=task.thought_budget,
    )


def _iterate_existing_candidates(session: Session, notes: list[str]) -> Iterator[ModelRef]:
    """Yield the candidates that are there: brought by the suite, or trained and merged by this recipe."""
    suite, made, base = session.suite, session.opened.adapter, session.base
    if suite.candidate and suite.candidate.merged:
        opened = session.opened.candidate
        if opened:
            yield ModelRef("merged", opened.path, opened.digest, options=base.options)
        return
    places = Artifacts(session)
    if suite.sweep:
        notes.append("a suite with a [sweep] has an adapter for each value; name one with --candidate")
        return
    if not _is_artifact_available(suite.candidate is not None, places.adapter, notes):
        notes.append(UNTRAINED_ERROR)
        return
    if session.collection.trains_all_weights:
        yield ModelRef("merged", str(places.adapter), options=base.options)
        return
    if made:
        yield replace(base, name="adapter", digest="", adapter=places.adapter, quantization=made.quantization)
    for variant in suite.merges:
        if _is_artifact_available(False, places.merged(variant), notes):
            yield ModelRef(suite.merged(variant), str(places.merged(variant)), options=base.options)


def _is_artifact_available(given: bool, folder: Path, notes: list[str]) -> bool:
    return folder.is_dir() if given else artifact_cache.is_intact(folder, notes.append)
