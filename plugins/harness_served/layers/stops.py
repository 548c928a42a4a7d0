"""Whether a runtime ends where the export does: after whole answers that leave the export nothing more to say."""

from __future__ import annotations

from collections.abc import Iterator

from harness_served.conversations import ENDED, user
from harness_served.parity import DIFFERS, SAME, UNPROVEN, LayerVerdict, Parity
from harness_served.runtime import GREEDY

SURE = 2.0  # nats by which the export's stop token must lead
FEW, LONG = 4, 96  # tokens that a runtime is asked for; that the export may say for an end of its own
OWN = 4  # conversations whose answers the export gives itself, where no made one ends


def look(parity: Parity) -> LayerVerdict:
    """Put whole answers into the runtime's mouth, where it takes them, else look at where its own answers end."""
    reference, runtime = parity.reference, parity.runtime
    if not reference.stops:
        return LayerVerdict(UNPROVEN, "the export has no stop token")
    ends = list(_endings(parity))
    went = []
    for prompt, answer in ends:
        text = reference.tokens.tokenizer.decode([*prompt, *answer])
        said = runtime.complete([*prompt, *answer], text, FEW, GREEDY)
        if said is None:
            return _by_answers(parity)
        if said.text.strip() or said.ended == "length":
            went.append(said.text)
    names = reference.tokens.tokenizer.convert_ids_to_tokens(reference.stops)
    if not ends:
        return LayerVerdict(UNPROVEN, f"the export itself ends nowhere at {', '.join(names)}; was it trained to?")
    if went:
        many = f"{len(went)} of {len(ends)} turns go on, as {went[0]!r:.40}"
        return LayerVerdict(
            DIFFERS, f"{many}, where the export ends; its stop tokens are {', '.join(names)}", "behaviour"
        )
    return LayerVerdict(
        SAME, f"{len(ends)} of {len(ends)} turns that end, end", "behaviour", {"turns": float(len(ends))}
    )


def _endings(parity: Parity) -> Iterator[tuple[list[int], list[int]]]:
    """Yield prompts and answers after which the export's first choice is a stop token, by far."""
    reference, found = parity.reference, 0
    for question, answer in ENDED:
        prompt, said = reference.tokens.prompts([[user(question)]])[0], reference.tokens.plain(answer)
        scored = reference.score(prompt, said)
        if float(scored.stop[-1] - scored.going_on[-1]) >= SURE:
            found += 1
            yield prompt, said
    for prompted in parity.prompts[: OWN if not found else 0]:
        said = reference.answer(prompted.ids, LONG)
        if said and said[-1] in reference.stops:
            scored = reference.score(prompted.ids, said[:-1])
            if float(scored.stop[-1] - scored.going_on[-1]) >= SURE:
                yield prompted.ids, said[:-1]


def _by_answers(parity: Parity) -> LayerVerdict:
    """Look at the runtime's own answers: one that goes on where the export ends, or ends where it goes on."""
    ended = 0
    for number, ((_, said, ids), scored) in enumerate(zip(parity.answers, parity.answers_scored, strict=True)):
        lead = (scored.stop - scored.going_on).tolist()
        on = next(
            (at for at, one in enumerate(lead[:-1]) if one >= SURE and ids[at] not in parity.reference.stops), None
        )
        if on is not None:
            return LayerVerdict(
                DIFFERS, f"conversation {number} goes on after token {on}, where the export ends", "text"
            )
        if said.ended == "stop" and lead[-1] <= -SURE:
            return LayerVerdict(
                DIFFERS, f"conversation {number} ends after token {len(ids)}, where the export goes on", "text"
            )
        ended += said.ended == "stop"
    if not ended:
        return LayerVerdict(UNPROVEN, f"none of {len(parity.answers)} answers ends within its limit")
    return LayerVerdict(SAME, f"{ended} of {len(parity.answers)} answers end, each where the export may", "text")
