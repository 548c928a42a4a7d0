"""D8 and D21: whether rows are trained on, scored and generated on the same tokens, prompt by prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from harness import (
    Built,
    Finding,
    Logprob,
    ModelRef,
    Prompt,
    Sample,
    Severity,
    TrainingRow,
    UsageError,
    checker,
    quote_text,
    target_as_continuation,
)
from harness.internals import Task, chat, encoding, schema
from harness_checks.clocks import stop_clock
from harness_checks.lint import count_of_total, name_row
from harness_hf import ModelTokenizer, RowEncoder, is_context_turn

SAMPLE_ROWS = 200  # training rows whose prompts are encoded once more
CHECKED_TURNS = 4  # answers of a conversation that are looked at, at its start and at its end each
MAX_MISMATCH_SHARE = 0.01  # of the rows may differ
SCORED_ROWS = 32  # rows of an evaluation that are looked at
SHOWN_CHARS = 20  # before the place where two texts part
SHOWN_TOKENS = 4  # before the place where two lists of tokens part
TEMPLATE_KIND = "template"  # it opens an answer otherwise than it writes it
WHITE_SPACE_KIND = "white space"  # the template takes it off an answer
SPANS = "prompt's end"  # a token spans it
ANSWER_END_KIND = "answer's end"  # a token spans it
TRAINER = "trainer"  # it encodes a prompt otherwise
MOVE_SPACE = "move the white space from the prompt's end to the answer's beginning"
FIX_TEMPLATE = (
    "use a chat template whose generation prompt matches how its answers begin; if it opens a "
    "reasoning block, give rows with reasoning, or turn it off with chat_template_kwargs"
)
TRIM = "strip white space from both ends of the answers"
FIX_END = "end answers with a special token in the chat template: now a token spans the end of the answer"
LAST_ALONE = (
    "train only on the last answer: set weight = 0 on the messages of earlier ones, or use prompt and completion"
)


class PromptMismatch(NamedTuple):
    """A prompt that is not a prefix of its trained text.

    With the reason, and an excerpt of both at their first difference.
    """

    why: str
    last: bool  # it is the row's last answer
    evidence: str


@checker(title="prompt-tokenization-mismatch")
def prompt_is_no_prefix(built: Built, rows: list[TrainingRow]) -> Iterator[Finding]:
    """Prompts that are not a prefix of their training row.

    Before each learnt answer, in conversations too, the row must begin with the prompt as generation opens it, in text
    and in tokens. A chat template may open a reasoning block, add a space, or number turns and put texts only where the
    last question is: the model then learns to answer after a prompt that it never gets in use. Or a token spans the end
    of the prompt: the answer is then encoded alone, and other tools train and score it on other tokens.
    """
    tokens = ModelTokenizer(built.tokenizer)
    examples = {e.number: e for e in reversed(built.examples)}  # of a pair the chosen answer, which comes first
    asked = [row for row in rows if "messages" in row.row or row.row.get("prompt")]
    sample = asked[:: max(1, len(asked) // SAMPLE_ROWS)]
    found: dict[str, list[tuple[TrainingRow, list[PromptMismatch]]]] = defaultdict(list)
    for row in sample:
        ids = examples[row.number].ids if row.number in examples else ()
        odd = list(_iterate_prompt_mismatches(tokens, row.row, ids, stop_clock(built.chat_template)))
        for why in dict.fromkeys(one.why for one in odd):
            found[why].append((row, [one for one in odd if one.why == why]))
    causes = {
        TEMPLATE_KIND: "the chat template begins an answer differently from training",
        SPANS: "the tokens of a prompt are not a prefix of those of prompt and answer",
        TRAINER: "the trainer's row does not begin with the prompt's tokens",
    }
    for why, odd_rows in found.items():
        if len(odd_rows) > MAX_MISMATCH_SHARE * len(sample):
            evidence = [f"{name_row(row, rows)}: {odd[0].evidence}" for row, odd in odd_rows]
            fix = _suggest_mismatch_remedy(why, [one for _, odd in odd_rows for one in odd], odd_rows[0][0])
            yield Finding("error", f"{len(odd_rows)} of {len(sample)} rows: {causes[why]}", evidence, fix)


def _suggest_mismatch_remedy(why: str, odd: Sequence[PromptMismatch], row: TrainingRow) -> str:
    if why == TEMPLATE_KIND:
        return FIX_TEMPLATE if any(one.last for one in odd) else LAST_ALONE
    if why == TRAINER:
        return "tokenise the prompt by itself, then the answer"
    is_text = isinstance(row.row.get("prompt"), str)
    return MOVE_SPACE if is_text else "strip white space from the beginning of the answers"


def _iterate_prompt_mismatches(
    tokens: ModelTokenizer, row: Mapping[str, Any], ids: Sequence[int], template: str | None
) -> Iterator[PromptMismatch]:
    """Yield a mismatch for each prompt that does not begin its row."""
    answers = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    if isinstance(row.get("prompt"), str):
        split = tokens.split_pairs([(row["prompt"], text) for text in answers])
        for text, (context, answer) in zip(answers, split, strict=True):
            if answer.alone:
                yield PromptMismatch(SPANS, True, quote_text(row["prompt"][-30:] + "|" + text[:20], 60))
            elif ids and list(ids[: len(context)]) != context:
                yield PromptMismatch(
                    TRAINER,
                    True,
                    _quote_tokens_where_they_differ(tokens, {"generation opens": context, "trained": ids}),
                )
        return
    prompt = row["messages"] if "messages" in row else row["prompt"]
    for answer in answers or [[]]:
        yield from _iterate_turn_mismatches(tokens, [*prompt, *answer], len(prompt) if answer else 1, row, template)


def _iterate_turn_mismatches(
    tokens: ModelTokenizer, turns: Sequence[Any], first: int, row: Mapping[str, Any], template: str | None
) -> Iterator[PromptMismatch]:
    """Yield the mismatches before the learnt answers of a conversation.

    Answers from turn `first` on are compared, at most CHECKED_TURNS at each end.
    """
    arguments = chat.training_template_arguments(row)
    learnt = [i for i in range(max(1, first), len(turns)) if turns[i].get("role") == "assistant"]
    learnt = [i for i in learnt if not is_context_turn(turns[i])]
    try:
        whole = tokens.render(chat.join_arguments(turns, arguments), opened=False, template=template)
    except UsageError:
        return  # D11-template tells
    for at in dict.fromkeys([*learnt[:CHECKED_TURNS], *learnt[-CHECKED_TURNS:]]):
        try:
            opened = tokens.render(chat.join_arguments(turns[:at], arguments), template=template)
        except UsageError:
            continue
        last, begin = at == learnt[-1], len(opened)
        if not whole.startswith(opened):
            texts = {"generation opens": opened, "trained": whole}
            yield PromptMismatch(TEMPLATE_KIND, last, f"message {at + 1}: {_quote_texts_where_they_differ(texts)}")
            continue
        context, natural = tokens.encode_texts([opened, whole], [True, True])
        if natural[: len(context)] != context:
            both = quote_text(opened[-30:] + "|" + whole[begin : begin + 20], 60)
            yield PromptMismatch(SPANS, last, f"message {at + 1}: {both}")


@checker(title="scored-tokens-mismatch")
def scored_otherwise(tasks: Mapping[str, Task], base: ModelRef) -> Iterator[Finding]:
    """Answers that are scored and trained on different tokens.

    For a few rows of every evaluation, three things are compared: the scored tokens, those that the row would be
    trained on, and the prompt that generation opens. If log-probabilities are scored, these must be equal, else the
    score is of a text that the model never learnt, such as an answer behind a reasoning block that the chat template
    opens. If a token spans the end of a prompt (-seam), the answer is encoded alone.
    """
    folder = Path(base.path)
    if not any((folder / f"tokenizer{end}.json").is_file() for end in ("", "_config")):
        return
    own = {
        name: pairs for name, task in tasks.items() if not task.brings_rows and (pairs := _sample_scored_answers(task))
    }
    try:
        tokens = ModelTokenizer.of(str(folder)) if own else None
    except UsageError:
        return  # the loader says so, of a model that it reads with it
    for name, pairs in own.items():
        assert tokens
        found = [
            (sample.id, one) for sample, text in pairs for one in _iterate_scoring_mismatches(tokens, sample, text)
        ]
        for why, what, fix, kind in (
            (TEMPLATE_KIND, "are scored on other tokens than the chat template trains on", FIX_TEMPLATE, ""),
            (WHITE_SPACE_KIND, "the chat template strips white space from answers, which is scored", TRIM, ""),
            (ANSWER_END_KIND, "are scored on other tokens than trained on", FIX_END, ""),
            (SPANS, "a token spans the end of the prompt", MOVE_SPACE, "seam"),
        ):
            if kind == "" and tasks[name].generates:
                continue
            if lines := {i: f'row "{i}": {one.evidence}' for i, one in reversed(found) if one.why == why}:
                rows = count_of_total(len(lines), len({sample.id for sample, _ in pairs}))
                level: Severity = "warning" if kind else "error"
                yield Finding(level, f'"{name}": {rows}: {what}', [*lines.values()][::-1], fix, kind, {name: [*lines]})


def _iterate_scoring_mismatches(tokens: ModelTokenizer, sample: Sample, text: str) -> Iterator[PromptMismatch]:
    """Yield the mismatches between scored and trained tokens of an answer.

    Also if a token spans the beginning of the answer.
    """
    try:
        [(context, answer)], [opened] = (
            tokens.split_pairs([(sample.input, text)]),
            tokens.encode_prompts([sample.input]),
        )
        row = _make_training_row(sample.input, text)
        trained = encode_training_row(tokens, row)
        prompt = sample.input if isinstance(sample.input, str) else tokens.render(sample.input)
        whole = prompt + text
        if not isinstance(sample.input, str):
            whole = tokens.render(
                chat.join_arguments([*row["prompt"], *row["completion"]], chat.training_template_arguments(row)),
                opened=False,
            )
    except UsageError:
        return  # the evaluation itself refuses such a row
    if answer.alone:
        yield PromptMismatch(SPANS, True, quote_text(prompt[-30:] + "|" + text[:20], 60))
    scored = context + answer.ids
    if opened != context or trained[: len(scored)] != scored:
        shown = {"scored": scored, "trained": trained, "generation opens": opened}
        starts = [
            why
            for why, part in ((ANSWER_END_KIND, text), (WHITE_SPACE_KIND, text.strip()))
            if whole.startswith(prompt + part)
        ]
        why = next(iter(starts), TEMPLATE_KIND)
        yield PromptMismatch(why, True, _quote_tokens_where_they_differ(tokens, shown))


def _sample_scored_answers(task: Task) -> list[tuple[Sample, str]]:
    """Return a sample of rows with their scored or expected answers."""
    asked = [s for s in task.samples or () if s.input]
    samples = asked[:: max(1, len(asked) // SCORED_ROWS)][:SCORED_ROWS]
    if task.generates:
        is_text = not task.capabilities.json_targets  # else it may stand for calls of tools, which the template writes
        wanted = [
            (s, target_as_continuation(s.input, s.targets[0])) for s in samples if s.target and s.targets[0].strip()
        ]
        return [pair for pair in wanted if is_text or isinstance(pair[0].input, str)]
    if task.comparative or task.uncached or not samples:
        return []
    recorder, owners = Recorder(), {repr(s.input): s for s in samples}
    given = dict(task.spec.options) | ({"folder": task.folder} if schema.has_parameter(task.function, "folder") else {})
    with suppress(Exception):  # it wants more than numbers, or makes no scores of these; what it asked for is known
        list(task.function(recorder, samples, **given))
    return [(owners[key], text) for prompt, text in recorder.pairs if text and (key := repr(prompt)) in owners]


class Recorder:
    """A subject that records the pairs that an evaluator scores.

    Every score is one nat. Pairs scored by lm_eval's rule are not recorded.
    """

    name = digest = "recorder"

    def __init__(self) -> None:
        self.pairs: list[tuple[Prompt, str]] = []

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False) -> list[Logprob]:
        """Note pairs, but for those that are scored by lm_eval's rule."""
        self.pairs += [] if truncate else pairs
        return [Logprob(-1.0, 1, max(1, len(text.encode())), greedy=False) for _, text in pairs]


def _make_training_row(prompt: Prompt, answer: str) -> dict[str, Any]:
    """Return the row that a training would learn this answer from."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": answer}
    turns, arguments = chat.split_arguments(prompt)
    return {
        "prompt": turns,
        "completion": [{"role": "assistant", "content": answer}],
        **({chat.TOOLS: arguments.pop(chat.TOOLS)} if chat.TOOLS in arguments else {}),
        chat.ARGUMENTS: arguments,
    }


def encode_training_row(tokens: ModelTokenizer, row: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a training row. Of a pair, those of its chosen answer."""
    encoder = RowEncoder(tokens, assistant_only=False)  # which tokens are learnt is not asked
    if "chosen" not in row:
        return encoder.encode(row).ids
    return encoder.encode_answers(
        row["prompt"], [row["chosen"], row["rejected"]], chat.training_template_arguments(row)
    )[0].ids


def _quote_texts_where_they_differ(texts: Mapping[str, str]) -> str:
    one, two = texts.values()
    start = max(0, encoding.shared_length(one, two) - SHOWN_CHARS)
    return ", ".join(f"{name} {quote_text(text[start : start + 3 * SHOWN_CHARS], 60)}" for name, text in texts.items())


def _quote_tokens_where_they_differ(tokens: ModelTokenizer, lists: Mapping[str, Sequence[int]]) -> str:
    """Quote lists of tokens around the first difference of the first two."""
    one, two, *_ = lists.values()
    start = max(0, encoding.shared_length(one, two) - SHOWN_TOKENS)
    spelt = {name: ids[start : start + 3 * SHOWN_TOKENS] for name, ids in lists.items()}
    convert = tokens.tokenizer.convert_ids_to_tokens
    return ", ".join(f"{name} {quote_text(' '.join(convert(list(ids))), 60)}" for name, ids in spelt.items())
