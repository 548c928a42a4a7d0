"""`harness ask`: one prompt to the base and to what a suite made of it, as an evaluation of the suite would ask it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from harness import schema
from harness.artifacts import artifact_cache
from harness.artifacts.attestation import EVIDENCE, MODEL
from harness.artifacts.model_files import ADAPTER
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
from harness.release.evidence import open_named_base, read_evidence, reporting_model_errors
from harness.release.verify import verify_export
from harness.suite.tables import Eval
from harness.workers.loading import load_uncached

DEFAULT_LOADER = "hf"
MAX_EXPORT_TOKENS = 256  # of an answer of an export
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


def ask_export(folder: Path, prompt: str, base: str = "", plugins: Sequence[str] = ()) -> Answers:
    """Put one prompt to an exported model, and to its base if `base` names it.

    The export is verified first. Of its evidence only the template of a prompt is used: the model is loaded by the
    default loader, from the export, with no option of the suite. Raises UsageError if the export is refused, if it is
    an adapter and no base is named, or if the named base has other weights.
    """
    if not (folder / EVIDENCE).is_dir():
        raise UsageError(f"{folder}: is neither a suite nor an export with evidence")
    verified = verify_export(folder)
    if not verified.ok:
        raise UsageError(f"{folder}: is not an intact export, so its model is not loaded: {verified.refused}")
    loaded = load_plugins(None, plugins)
    opening = loaded.find("loader", DEFAULT_LOADER).capabilities.open
    assert opening  # the default loader opens folders
    source, model = open_named_base(verified, base, opening), folder / MODEL
    refs = [ModelRef("base", source.path, source.digest)] if source else []
    if (model / ADAPTER).is_file():
        refs.append(replace(refs[0], name="export", digest="", adapter=model))
    else:
        refs.append(ModelRef("export", str(model)))
    evaluation = _find_templated_eval(read_evidence(verified).lock)
    answers = Answers(make_question(evaluation, prompt, [], Generate(max_new_tokens=MAX_EXPORT_TOKENS)))
    for ref in refs:
        with (
            reporting_model_errors(verified),
            load_uncached(loaded, folder / "suite.toml", DEFAULT_LOADER, [ref], {}) as [subject],
        ):
            answers.replies.append(ask_subject(subject, ref.name, answers.question))
    verified.check_unchanged()
    return answers


def _find_templated_eval(lock: Mapping[str, Any]) -> Eval | None:
    """Return the first evaluation of a lock whose prompts have a template, None if there is none."""
    for table in lock["suite"]["evals"]:
        if isinstance(table.get("template"), str):
            return Eval(str(table["name"]), "", f'eval "{table["name"]}"', template=table["template"])
    return None


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
