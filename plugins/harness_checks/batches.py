"""D1 to D7, D9, D15 and D19: the labels and the collated batches of the trainer that was built, token by token.

And keys of chat rows that change nothing of what the chat template writes: what is left out of them without a word.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import harness_hf
from harness import Built, Example, Finding, ModelRef, Severity, TrainingRow, checker, quote_text
from harness.internals import chat, mark_trained_tokens, prompt_text
from harness_checks.clocks import find_clock, stop_clock, template_text
from harness_checks.encoding import encode_training_row
from harness_checks.frames import Write, compare_frames, render_or_none, row_messages
from harness_checks.lint import PREFERENCE_COLUMNS, count_of_total, name_row, row_numbers
from harness_hf import IGNORED_LABEL, ModelTokenizer, context_length

MAX_BATCHES = 16  # that are collated and looked at
SAMPLE_ROWS = 200  # rows whose prompts are encoded once more
MIN_STOPPED_SHARE = 0.95  # of the rows must end in a token that stops
# tokens at the end of an answer among which its stop must be: a template may write a line break after it
TAIL_TOKENS = 4
FIXTURES = [  # conversations
    [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, turns, strict=False)]
    for turns in (("What is two plus two?",), ("Say hello.", "Hello."), ("One?", "Two.", "Three?", "Four."))
]
RENDERED_ROWS = 24  # rows of each key, and four times as many messages, that are rendered with and without it
MASK_KEYS = {"weight", "train"}  # by `sft`: whether a turn is learnt
OPTIONAL_KEYS = ("id", "name", "tool_call_id")  # which most templates leave out, and nobody misses
TEMPLATE_KEYS = re.compile(r"""(?:\.|\[|get\()\s*['"]?([a-z_]+)""")  # for by a template, of messages among others
EMPTY_VALUES: tuple[object, ...] = (None, "", [], {})
OTHER_TEMPLATE_ADVICE = "remove it, or use a chat template that renders it"
SYSTEM = 'put it first among the messages, with the role "system"'
Key = tuple[str, bool]  # its name, and whether it stands beside the messages


@checker(title="masked-eos-token")
def end_token(built: Built) -> Iterator[Finding]:
    """Answers without a trained stop token at their end.

    The tuned model then never stops. If the padding token is the end-of-sequence token, a collator that masks padding
    masks the end of every answer with it (Hugging Face's own does). The loss looks healthy, but the model rambles on.
    The check reads collated batches: 95 % of the rows that were not truncated must have a stop token among their last
    learnt tokens.
    """
    stops = ModelTokenizer(built.tokenizer).stop_ids
    limit = built.cut or _split_length(built)  # a row as long as this has perhaps lost its end
    whole = not limit or (built.cut and built.keep_end)
    ends = [d for d in _split_batches_into_examples(built) if len(d.ids) > 1 and (whole or len(d.ids) < limit)]
    ends = [d for d in ends if any(label != IGNORED_LABEL for label in d.labels)]
    endless = [d for d in ends if not stops.intersection([x for x in d.labels if x != IGNORED_LABEL][-TAIL_TOKENS:])]
    if stops and len(endless) > (1 - MIN_STOPPED_SHARE) * len(ends):
        evidence = [quote_text(mark_trained_tokens(built.tokenizer, d.ids[-40:], d.labels[-40:])) for d in endless]
        fix = "use a pad token other than the end-of-sequence token, and rows that end with the latter"
        yield Finding(
            "error", f"{len(endless)} of {len(ends)} rows in the batches do not train the stop token", evidence, fix
        )


@checker(title="masked-end-of-turn")
def end_of_turn(built: Built) -> Iterator[Finding]:
    """The end of a turn is outside the loss.

    A chat template with generation markers says which tokens of the messages are learnt. One that closes them before
    the end-of-turn token trains a model that never ends its turn (trl#5988).
    """
    if not built.chat_template or not getattr(built.config, "assistant_only_loss", False):
        return
    from trl.chat_template_utils import has_generation_markers, is_chat_template_stop_token_trained

    template = built.chat_template
    if has_generation_markers(template) and not is_chat_template_stop_token_trained(built.tokenizer, template):
        fix = "put it before {% endgeneration %}, or remove the generation markers"
        yield Finding("error", "the chat template's end-of-turn token is outside the loss", (), fix)


@checker(title="no-supervised-tokens")
def nothing_supervised(built: Built) -> Iterator[Finding]:
    """Rows without a trained token.

    An assistant mask of zeros, or a completion that the tokenizer swallowed: such a row costs time and teaches
    nothing, and if all are so the loss is 0 or NaN (trl#3781, trl#4201).
    """
    if empty := [e for e in built.examples if not _count_learnt_labels(e.labels)]:
        evidence = [
            f"row {e.number}: {quote_text(mark_trained_tokens(built.tokenizer, e.ids, e.labels))}" for e in empty
        ]
        what = f"{count_of_total(len(empty), len(built.examples))}: no token is trained on"
        yield Finding(
            "error", what, evidence, "use rows of prompt and completion, or a template with generation markers"
        )


@checker(title="misaligned-labels")
def labels_out_of_place(built: Built) -> Iterator[Finding]:
    """Labels that are not the tokens at their positions.

    A model shifts the labels itself: at every place stands the token of that place, or -100. Labels that were shifted
    by one beforehand teach to say the token after the next, and the loss falls all the same.
    """
    examples = [(f"row {e.number}", e.ids, e.labels) for e in built.examples]
    batched = [("in a batch", d.ids, d.labels) for d in _split_batches_into_examples(built)]
    for where, found in (("rows", examples), ("rows in the batches", batched)):
        odd = []
        for name, ids, labels in found:
            pairs = [(a, b) for a, b in zip(ids, labels, strict=False) if b not in (IGNORED_LABEL, a)]
            if pairs or len(ids) != len(labels):
                misplaced = " ".join("→".join(built.tokenizer.decode([x]) for x in p) for p in pairs[:8])
                odd.append(f"{name}: {quote_text(misplaced, 60)}")
        if odd:
            what = f"{len(odd)} of {len(found)} {where}: labels are not the tokens at their positions"
            yield Finding("error", what, odd, "do not shift labels in the trainer, since the model does")
            return


@checker(title="fused-head-mismatch")
def slow_head(built: Built) -> Iterator[Finding]:
    """A fused loss that differs from the model's own.

    TRL computes it from the last hidden states and the weight of the output embeddings. A class whose head does more,
    such as ModernBertDecoder, would learn another, which falls while its own does not. One row's log-probabilities are
    compared with those of the model's own logits, here on random weights; where they differ, its own are trained on.
    """
    if built.slow:
        yield Finding("warning", built.slow, (), "nothing to do; use a smaller batch if memory runs out")


@checker(title="dropped-training-rows")
def rows_that_vanish(built: Built) -> Iterator[Finding]:
    """Rows without a trained token after truncation, or dropped by the trainer.

    TRL drops rows without a learnt token when it does not pack, and keeps them when it does, without reporting either
    (trl#6668, trl#6025).
    """
    cut = built.cut
    if lost := [
        e
        for e in built.examples
        if _count_learnt_labels(e.labels) and cut and not _count_learnt_labels(e.labels[built.kept_span])
    ]:
        begins = [(e, next(i for i, label in enumerate(e.labels) if label != IGNORED_LABEL)) for e in lost]
        evidence = [f"row {e.number}: {len(e.ids)} tokens, the answer begins after {at}" for e, at in begins]
        what = f"{count_of_total(len(lost), len(built.examples))}: max_length {cut} cuts off the whole answer"
        yield Finding("error", what, evidence, "raise max_length, or remove the rows")
    elif not built.packing and built.kept < len(built.examples):
        what = f"{count_of_total(len(built.examples) - built.kept, len(built.examples))}: dropped by the trainer"
        yield Finding("error", what, (), "look for rows without an answer")


@checker(title="truncated-rows")
def cut_rows(built: Built) -> Iterator[Finding]:
    """Rows that are longer than max_length.

    What is cut off is the end of the answer and its stop token, or with truncation_mode "keep_end" the beginning of
    the prompt. A few do no harm; many teach to break off, or to answer what was not read. What is left must fit into
    the model's context (-context): beyond it positions are learnt that no evaluation and no server asks for, and a
    model that learns its positions has none there. Packing by "bfd_split" or "wrapped" cuts nothing off: the rest of a
    row is learnt in another sequence, without what comes before.
    """
    yield from _check_rows_fit_context(built)
    cut = built.cut or _split_length(built)
    if long := sorted((e for e in built.examples if 0 < cut < len(e.ids)), key=lambda e: -len(e.ids)):
        share, decode = len(long) / len(built.examples), built.tokenizer.decode
        lost = slice(-cut) if built.cut and built.keep_end else slice(cut, None)
        how, rest = ("truncated", "cut off") if built.cut else ("split", "learnt without what comes before")
        evidence = [f"row {e.number}: {len(e.ids)} tokens; {rest}: {quote_text(decode(e.ids[lost]), 60)}" for e in long]
        what = f"{count_of_total(len(long), len(built.examples))} ({share:.1%}): {how} at max_length {cut}"
        level: Severity = "note" if share <= 0.01 else "warning" if share <= 0.5 or not built.cut else "error"
        yield Finding(level, what, evidence, f"max_length = {len(long[0].ids)} keeps all")


def _split_length(built: Built) -> int:
    """Return the length of the parts that packing splits long rows into. 0 if it splits none."""
    return (getattr(built.config, "max_length", None) or 0) if built.packing and not built.cut else 0


def _check_rows_fit_context(built: Built) -> Iterator[Finding]:
    """Report rows longer than the base's context after truncation."""
    context = context_length(built.model.config.to_dict())
    sizes = {e.number: min(len(e.ids), built.cut or _split_length(built) or len(e.ids)) for e in built.examples}
    if context and (long := {number: size for number, size in sizes.items() if size > context}):
        evidence = [f"row {number}: {size} tokens" for number, size in long.items()]
        what = f"{count_of_total(len(long), len(built.examples))}: longer than the base's context of {context} tokens"
        yield Finding(
            "error", what, evidence, f"set max_length = {context}, or use a base with a longer context", "context"
        )


@checker(title="double-bos-token")
def doubled_start(built: Built) -> Iterator[Finding]:
    """Two beginning-of-sequence tokens.

    A text that was rendered by a chat template has one, and a trainer that encodes it as any text puts another in
    front; `sft` does not. Evaluation and serving put one, so the model is trained on a beginning it never sees again
    (trl#1400).
    """
    bos, eos = built.tokenizer.bos_token_id, built.tokenizer.eos_token_id
    if twice := [e for e in built.examples if bos not in (None, eos) and list(e.ids[:2]) == [bos, bos]]:
        evidence = [f"row {e.number}: {quote_text(built.tokenizer.decode(e.ids[:24]), 60)}" for e in twice]
        what = f"{count_of_total(len(twice), len(built.examples))}: begin with two {built.tokenizer.bos_token}"
        fix = "remove it from the text; the tokenizer adds it"
        if ModelTokenizer(built.tokenizer).leading_ids[:2] == [bos, bos]:
            fix = f'remove one {built.tokenizer.bos_token} from "post_processor" in the tokenizer.json of the base'
        yield Finding("error", what, evidence, fix)


@checker(title="chat-template-mismatch")
def other_template(
    built: Built, base: ModelRef, rows: list[TrainingRow], tasks: Mapping[str, Any]
) -> Iterator[Finding]:
    """Training and evaluation render conversations differently.

    A model that was trained on one chat template and served with another answers worse, and nothing says why
    (LLaMA-Factory#6020, ollama#6823). Three conversations are rendered with the template of the training and with
    that of the base, which is what evaluates and ships, and so are training rows, with their tools and arguments: as
    the template writes them they must be trained on (-rows), and all that they hold it must write: a key of a message
    that changes nothing when it is left out, tools or a system column that nobody reads, an answer that loses a part,
    such as the thought of an earlier turn (ms-swift#4939), are told by name (-keys). Messages must not meet
    evaluations in plain text (-form), nor may a system message, template arguments or a frame around the questions be
    on one side only (-system, -arguments, -frame). A template that writes the time of day, or the date, makes other
    prompts later (-clock).
    """
    theirs = harness_hf.load_tokenizer(base.path)

    def write(messages: Any, opened: bool, given: Mapping[str, Any]) -> str | None:
        return render_or_none(theirs, messages, template, add_generation_prompt=opened, **given)

    def render(messages: Any, template: Any, given: Mapping[str, Any]) -> str | None:
        return render_or_none(theirs, messages, template, **given)

    template, clock = stop_clock(theirs.chat_template), list[Finding]()
    if theirs.chat_template:
        clock = list(find_clock(rows, tasks, theirs.chat_template, render))
    yield from clock
    yield from (
        _check_rows_match_base_template(built, theirs, rows) if "error" not in {one.severity for one in clock} else ()
    )
    if built.chat_template and theirs.chat_template:
        for messages in FIXTURES:
            one = render_or_none(built.tokenizer, messages, stop_clock(built.chat_template))
            two = render_or_none(theirs, messages, template)
            if one is not None and two is not None and one != two:
                evidence = [f"training: {quote_text(one)}", f"the base: {quote_text(two)}"]
                fix = "use one template for both: copy the training's into the base's folder"
                yield Finding("error", "the training's chat template differs from the base's", evidence, fix)
                break
    chat = [row for row in rows if isinstance(row.row.get("messages", row.row.get("prompt")), list)]
    own = {name: t for name, t in tasks.items() if not t.brings_rows}  # others make prompts as they must
    prompts = {name: next((s.input for s in t.samples or () if s.input), None) for name, t in own.items()}
    asked = {name: isinstance(prompt, list) for name, prompt in prompts.items() if prompt is not None}
    plain = [name for name, is_chat in asked.items() if is_chat is not bool(chat)]
    if rows and plain and len(plain) == len(asked):
        how, other = ("chat messages", "plain text") if chat else ("plain text", "chat messages")
        what = f"trained on {how}, evaluated on {other}: {', '.join(plain)}"
        yield Finding("warning", what, (), "give both in the format in which the model will be used", "form")

    yield from compare_frames(rows, tasks, write)
    if theirs.chat_template:
        yield from find_unread([row for row in rows if row_messages(row)], template_text(theirs.chat_template), write)


def _check_rows_match_base_template(built: Built, theirs: Any, rows: Sequence[TrainingRow]) -> Iterator[Finding]:
    """Compare the trained tokens of chat rows with the base template's.

    The template renders each row as it was given.
    """
    examples = {e.number: e for e in reversed(built.examples)}  # of a pair the chosen answer, which comes first
    chats = [row for row in rows if row.number in examples and row_messages(row) and theirs.chat_template]
    sample, odd = chats[:: max(1, len(chats) // SAMPLE_ROWS)], []
    for row in sample:
        if (
            text := render_or_none(
                theirs, row_messages(row), theirs.chat_template, **chat.training_template_arguments(row.row)
            )
        ) is None:
            continue  # D11-template tells
        ids, tokens = list(examples[row.number].ids), ModelTokenizer(theirs)
        if ids not in (tokens.encode_plain(text), encode_training_row(tokens, row.row)):
            trained = theirs.decode(ids)
            at = max(0, next((i for i, (a, b) in enumerate(zip(text, trained, strict=False)) if a != b), 0) - 20)
            odd.append(f"row {row.number}: {quote_text(trained[at:], 60)} instead of {quote_text(text[at:], 60)}")
    if odd:
        what = f"{len(odd)} of {len(sample)} chat rows are not rendered in training as by the base's chat template"
        fix = (
            "check whether the trainer drops tools, chat_template_kwargs or keys of messages, or uses another template"
        )
        yield Finding("error", what, odd, fix, "rows")


def find_unread(rows: Sequence[TrainingRow], template: str, write: Write) -> Iterator[Finding]:
    """Yield findings for keys that the chat template does not render.

    Also for answers that `write` renders only in part.
    """
    holders: dict[Key, list[tuple[TrainingRow, list[int]]]] = defaultdict(list)
    for row in rows:
        for key, places in _find_message_indexes_by_key(row).items():
            holders[key].append((row, places))
    for key, held in holders.items():
        marked = [one for one in held if key[0] == "content" and "</" in prompt_text(row_messages(one[0]))] or held
        sample = marked[:: max(1, len(marked) // RENDERED_ROWS)][:RENDERED_ROWS]
        tried = [(row, at) for row, places in sample for at in places][: 4 * RENDERED_ROWS]
        if not (lost := [(row, at) for row, at in tried if not _is_key_rendered(row, at, key, write)]):
            continue
        learnt = any(_is_learnt_message(row, at) for row, at in lost)
        how: Severity = "warning" if learnt else "note"  # as thoughts are left out of a prompt
        if whole := len(lost) == len(tried) and key[0] != "content":
            what = f'{count_of_total(len(held), len(rows))}: the chat template does not render "{key[0]}"'
            fix = (
                (SYSTEM if key[0] == "system" else OTHER_TEMPLATE_ADVICE)
                if key[1]
                else _suggest_unrendered_key_remedy(*lost[0], key[0], template, write)
            )
            how = "note" if key[0] in OPTIONAL_KEYS else "error" if key[0] == "tool_calls" and learnt else "warning"
        else:
            what = f'the chat template omits "{key[0]}", or a part of it, in {len(lost)} of {len(tried)} messages'
            fix = "train only on the last answer (prompt and completion), or use a template that renders it everywhere"
        evidence = [name_row(row, rows) + f", message {at + 1}" * (at >= 0) for row, at in lost]
        yield Finding(how, what, evidence, fix, "keys", row_numbers(row for row, _ in (held if whole else lost)))


def _find_message_indexes_by_key(row: TrainingRow) -> dict[Key, list[int]]:
    """Return the indexes of the messages with each non-empty key.

    `content` counts only in learnt answers. A key beside the messages has the index -1.
    """
    spared = {"role"} if PREFERENCE_COLUMNS & row.row.keys() else {"role"} | MASK_KEYS
    found: dict[Key, list[int]] = defaultdict(list)
    for at, message in enumerate(row_messages(row)):
        for key in (key for key, value in message.items() if key not in spared and value not in EMPTY_VALUES):
            if key != "content" or (isinstance(message[key], str) and _is_learnt_message(row, at)):
                found[key, False].append(at)
    beside = [
        *chat.training_template_arguments(row.row),
        *(["system"] if isinstance(row.raw.get("system"), str) else []),
    ]
    return found | {(key, True): [-1] for key in beside}


def _is_learnt_message(row: TrainingRow, at: int) -> bool:
    asked = 0 if "messages" in row.row else len(row.row["prompt"])
    return at >= asked and row_messages(row)[at].get("role") == "assistant"


def _is_key_rendered(row: TrainingRow, at: int, key: Key, write: Write) -> bool:
    """Return whether a key changes the rendering of its row.

    For a content, whether all of it is rendered, except for white space.
    """
    messages, given = row_messages(row), chat.training_template_arguments(row.row)
    if key == ("system", True):
        return str(row.raw["system"]).strip() in row.prompt
    if key[1]:
        less = {name: value for name, value in given.items() if name != key[0]}
        parts = ((messages, False), (messages[:-1], True))
        return any(write(part, opened, given) != write(part, opened, less) for part, opened in parts)
    if (text := write(messages, False, given)) is None:
        return True  # D11-template tells
    if key[0] == "content":
        return "".join(prompt_text(messages[at : at + 1]).split()) in "".join(text.split())
    bare = {name: value for name, value in messages[at].items() if name != key[0]}
    return write([*messages[:at], bare, *messages[at + 1 :]], False, given) != text


def _suggest_unrendered_key_remedy(row: TrainingRow, at: int, key: str, template: str, write: Write) -> str:
    """Suggest a remedy for a key that the template does not render.

    It is to rename the key if the template renders the value under another name.
    """
    messages, given = row_messages(row), chat.training_template_arguments(row.row)
    bare, value = {k: v for k, v in messages[at].items() if k != key}, messages[at][key]
    for name in sorted(set(TEMPLATE_KEYS.findall(template)) - bare.keys()) if isinstance(value, str) else ():
        text = write([*messages[:at], bare | {name: value}, *messages[at + 1 :]], False, given)
        if value.strip() in (text or ""):
            return f'rename it "{name}", which the template renders'
    return OTHER_TEMPLATE_ADVICE


@checker(title="cross-document-attention")
def documents_see_each_other(built: Built) -> Iterator[Finding]:
    """Packed rows that attend to their neighbours.

    Rows that are packed into one sequence must not see each other: TRL's "wrapped" packing lets them, its "bfd" does
    not (trl#6843). One token of the first document is changed; nothing of the second may move. A base that cannot keep
    packed sequences apart where it runs, for want of a library, cannot be trained so.
    """
    import torch

    for batch in built.batches(MAX_BATCHES) if built.packing else ():
        sequence = batch["input_ids"][0].tolist()  # whose first document ends where the row does that it is
        rows = (list(e.ids[built.kept_span]) for e in built.examples)
        first = next((r for r in rows if 2 < len(r) < len(sequence) - 2 and sequence[: len(r)] == r), None)
        if first is None:
            continue
        boundary = len(first)
        given = {k: v for k, v in batch.items() if k != "labels"}
        changed = given | {"input_ids": given["input_ids"].clone()}
        last = given["input_ids"][0, boundary - 1]
        changed["input_ids"][0, boundary - 1] = (last + 1) % built.model.config.vocab_size
        try:
            with torch.no_grad():
                one, two = (built.model(**x, use_cache=False).logits[0, boundary:] for x in (given, changed))
        except ValueError as error:
            if "packed sequences" not in str(error):
                raise
            what = f"the base cannot be trained with packing here: {' '.join(str(error).split())}"
            yield Finding("error", what, (), "set packing = false, or install what is missing")
            return
        if (moved := float((one - two).abs().max() / one.abs().max())) > 1e-5:
            parts = {"first": first, "second": sequence[boundary:][:60]}
            evidence = [f"{name}: {quote_text(built.tokenizer.decode(ids), 60)}" for name, ids in parts.items()]
            what = (
                f"documents packed into one sequence attend to each other: logits of the second change by {moved:.1%}"
            )
            yield Finding("error", what, evidence, 'set packing_strategy = "bfd", which resets positions per document')
        return


def _split_batches_into_examples(built: Built) -> list[Example]:
    """Cut collated batches into the rows they were made of: by padding, or where positions begin again."""
    found = []
    for batch in built.batches(MAX_BATCHES):
        ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
        masks = batch["attention_mask"].tolist() if "attention_mask" in batch else [[1] * len(row) for row in ids]
        for i, row in enumerate(ids):
            if "position_ids" in batch:
                starts = [j for j, position in enumerate(batch["position_ids"][i].tolist()) if position == 0]
                found += [Example(0, row[a:b], labels[i][a:b]) for a, b in pairwise([*starts, len(row)])]
            else:
                real = [j for j, seen in enumerate(masks[i]) if seen]
                found.append(Example(0, [row[j] for j in real], [labels[i][j] for j in real]))
    if built.packing and found and getattr(built.config, "packing_strategy", "bfd") == "wrapped":
        return []  # cut anywhere; D9 tells
    return found


def _count_learnt_labels(labels: Sequence[int]) -> int:
    return sum(label != IGNORED_LABEL for label in labels[1:])
