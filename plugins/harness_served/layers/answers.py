"""The layer of chat answers as clients get them, streamed or not.

Each token must be one that the export might choose, the text must be that of these tokens, and it must end where the
export ends. Another choice counts where the export's own leads beyond the effect of noise.
"""

from __future__ import annotations

import re

from harness.internals import REPLACEMENT_CHARACTER
from harness_served.layers.logprobs import MIN_TOLERANCE_NATS, DrawnTokens, arithmetic_tolerance
from harness_served.parity import DIFFERS, SAME, UNPROVEN, GreedyAnswer, LayerVerdict, Parity
from harness_served.runtime import RuntimeAnswer

# times the noise of a log-probability, which has heavy tails: of a healthy Q8_0 a lead was 9.5 times it
TAIL_FACTOR = 12
MIN_LEAD_NATS = 2.0  # nats by which the export's stop token must lead, or trail
REASONING_START = re.compile(r"(<[^<>]*thin?k[^<>]*>|\[THINK\])\s*$")  # a prompt that begins a thought
GATEWAY = "check the gateway and the server's filters"
MOVED_ANSWER_ERROR = "its answer is in reasoning_content, and content is empty; check the server's reasoning parser"


def compare_answers(parity: Parity) -> LayerVerdict:
    """Compare the runtime's chat answers with the export's choices."""
    if parity.layer_verdict("ids") == DIFFERS:
        return LayerVerdict(UNPROVEN, "the prompts differ, so the answers cannot be compared")
    for number, (answer, scored) in enumerate(zip(parity.answers, parity.answers_scored, strict=True)):
        where = "conversation 0, streamed" if answer.streamed else f"conversation {number}"
        error = find_text_error(parity, answer) or find_empty_error(parity, answer, int(scored.first[0]))
        error = error or find_end_error(parity, answer, float(scored.ends[-1]))
        error = error or (find_stream_error(parity.answers[0].said, answer.said) if answer.streamed else None)
        if error:
            return LayerVerdict(DIFFERS, f"{where}: {error}", "text")
    return _compare_choices(parity)


def find_text_error(parity: Parity, answer: GreedyAnswer) -> str | None:
    """Describe how the content differs from its tokens' text. None if not all tokens are reported."""
    prompt, said, ids, _ = answer
    if not ids or ids is not said.ids or not parity.are_all(said, ids):
        return None
    tokens = parity.reference.tokens.tokenizer
    shown = ids[:-1] if ids[-1] in parity.reference.stop_ids else ids
    whole = tokens.decode(shown, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text, there = (str(one).partition(REPLACEMENT_CHARACTER)[0].strip() for one in (whole, said.text))
    if there == text or (said.reasoning and _is_thought(prompt.text, said, str(tokens.decode(shown)))):
        return None
    if said.reasoning and not there:
        return MOVED_ANSWER_ERROR
    return f"content is {there!r:.60}, but its tokens are {text!r:.60}; {GATEWAY}"


def find_empty_error(parity: Parity, answer: GreedyAnswer, first: int) -> str | None:
    """Describe how an answer is empty.

    It counts only if the export's first token is text and no thought.
    """
    said, text = answer.said, parity.decode([first])
    if (
        said.text.strip()
        or (said.said or 0) < 2
        or not text.strip()
        or REASONING_START.search(answer.prompt.text + text)
    ):
        return None
    return (
        MOVED_ANSWER_ERROR if said.reasoning else f"content is empty, but {said.said} tokens were generated; {GATEWAY}"
    )


def _is_thought(prompt: str, said: RuntimeAnswer, whole: str) -> bool:
    """Return whether tokens are reasoning, the markers around it, and content."""
    before, found, rest = whole.partition(said.reasoning.strip())
    at = rest.rfind(text) if (text := said.text.strip()) else len(rest)
    marked = re.search(r"[<\[]", before + rest[: max(at, 0)]) or REASONING_START.search(prompt)
    return bool(found and at >= 0 and marked)


def find_end_error(parity: Parity, answer: GreedyAnswer, ends: float) -> str | None:
    """Describe how an answer ends where the export goes on.

    `ends` is the lead of the export's stop token there, in nats. An end by a limit of the server or a content filter
    counts, too.
    """
    said, ids = answer.said, answer.ids
    tokens = len(said.ids or ()) if said.said is None else said.said  # 0: unknown
    if said.ended == "length" and said.asked and 0 < tokens < said.asked:
        return f"ends after {tokens} of {said.asked} tokens by a limit of the server; raise it"
    if said.ended == "content_filter":
        return f"a content filter ended it after {tokens} tokens; {GATEWAY}"
    by_token = bool(ids) and ids[-1] in parity.reference.stop_ids
    if said.ended == "stop" and not by_token and ends <= -MIN_LEAD_NATS and parity.covers_answer(said, ids):
        return f"ends after token {len(ids)}, where the export goes on; {GATEWAY} for stop strings"
    return None


def find_stream_error(plain: RuntimeAnswer, streamed: RuntimeAnswer) -> str | None:
    """Describe a part that a stream lost or added.

    It is compared with the answer that was not streamed. Only one part counts, with as many tokens and the same end.
    """
    same_length = streamed.said in (None, plain.said) and plain.ended == streamed.ended
    if not same_length or plain.text == streamed.text or REPLACEMENT_CHARACTER in plain.text:
        return None  # llama.cpp streams no part of a character
    short, long = sorted((plain.text, streamed.text), key=len)
    same = next((at for at, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if not long.endswith(short[same:]):
        return None  # another answer, as rounding may make one
    part = long[same : same + len(long) - len(short)]
    if long is plain.text:
        return f"the stream lost {part!r:.60}, which the answer has that is not streamed; {GATEWAY}"
    return f"the stream has {part!r:.60} more than the answer that is not streamed; {GATEWAY}"


def _compare_choices(parity: Parity) -> LayerVerdict:
    limit = usual = TAIL_FACTOR * float(parity.heard.get("noise", MIN_TOLERANCE_NATS))
    worst, where, tokens = 0.0, "", 0
    for number, ((prompt, answer, ids, _), scored) in enumerate(
        zip(parity.answers, parity.answers_scored, strict=True)
    ):
        leads, bound = parity.choice_margins(answer, ids, scored), usual
        if max(leads, default=0.0) > usual:  # by its own noise, for a long one has more
            bound = max(usual, TAIL_FACTOR * arithmetic_tolerance(parity, [DrawnTokens(prompt, ids, [])], [scored.own]))
            if parity.arithmetic != "float32":  # and what the export would choose in it is no other answer
                rough = parity.reference.score(prompt.ids, ids, parity.arithmetic)
                leads = [min(pair) for pair in zip(leads, (rough.best[:-1] - rough.own).tolist(), strict=False)]
        for at, lead in enumerate(leads):
            tokens += 1
            if lead * limit > worst * bound:
                text = parity.reference.tokens.tokenizer.decode
                choice, first = (repr(str(text([i]))) for i in (ids[at], int(scored.first[at])))
                worst, limit = lead, bound
                where = f"conversation {number}, token {at}: {choice}, but {first} by the export"
    if not tokens:
        return LayerVerdict(UNPROVEN, "every answer is empty, or its text hides its tokens")
    numbers = {"lead": worst, "bound": limit, "tokens": float(tokens)}
    if worst > limit:
        return LayerVerdict(DIFFERS, f"{where}, which leads by {worst:.2f} nats, limit {limit:.2f}", "text", numbers)
    return LayerVerdict(SAME, f"{tokens} tokens, each within {worst:.2f} nats of the export's first", "text", numbers)
