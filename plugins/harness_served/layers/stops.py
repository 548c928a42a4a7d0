"""Whether a runtime ends where the export does: after whole answers that leave the export nothing more to say."""

from __future__ import annotations

from harness_served.conversations import make_turns
from harness_served.layers.answers import MIN_LEAD_NATS, find_end_error
from harness_served.parity import DIFFERS, SAME, UNPROVEN, LayerVerdict, Parity
from harness_served.runtime import GREEDY

ASKED_TOKENS = 4  # of a runtime
MAX_OWN_TOKENS = 96  # that the export may generate until it ends by itself
OWN_CONVERSATIONS = 4  # conversations whose answers the export gives itself, where no made one ends


def compare_stops(parity: Parity) -> LayerVerdict:
    """Compare the ends of answers.

    The runtime continues whole answers, if it takes them; else the ends of its own answers are compared.
    """
    reference, runtime = parity.reference, parity.runtime
    if not reference.stop_ids:
        return LayerVerdict(UNPROVEN, "the export has no stop token")
    tokens, went = reference.tokens, list[str]()
    made = tokens.encode_pairs(make_turns(parity.seed))
    sure = [pair for pair in made if reference.score(*pair).ends[-1] >= MIN_LEAD_NATS]
    if not sure:  # after a made answer, so answers of its own
        own = [
            (prompted.ids, reference.answer(prompted.ids, MAX_OWN_TOKENS))
            for prompted in parity.prompts[:OWN_CONVERSATIONS]
        ]
        ended = [(prompt, said[:-1]) for prompt, said in own if said and said[-1] in reference.stop_ids]
        sure = [pair for pair in ended if reference.score(*pair).ends[-1] >= MIN_LEAD_NATS]
    ends = [[*prompt, *answer] for prompt, answer in sure]
    texts = [tokens.tokenizer.decode(ids) for ids in ends]
    if texts and not runtime.takes_ids:  # it reads the text anew, with a second BOS or without
        anew = zip(tokens.encode_prompts(texts), tokens.tokenizer(texts)["input_ids"], strict=True)
        still = [all(reference.score(ids[:-1], ids[-1:]).ends[-1] >= MIN_LEAD_NATS for ids in both) for both in anew]
        ends, texts = ([one for one, kept in zip(many, still, strict=True) if kept] for many in (ends, texts))
        if not texts:
            return _compare_ends(parity)
    for ids, text in zip(ends, texts, strict=True):
        if (said := runtime.complete(ids, text, ASKED_TOKENS, GREEDY)) is None:
            return _compare_ends(parity)
        if said.text.strip() or said.ended == "length":
            went.append(said.text)
    names, many = ", ".join(tokens.tokenizer.convert_ids_to_tokens(reference.stop_ids)), len(ends)
    if not ends:
        return LayerVerdict(UNPROVEN, f"the export itself never ends with {names}; check whether it was trained to")
    if went:
        says = f"{len(went)} of {many} turns go on, for instance with {went[0]!r:.40}, where the export ends"
        return LayerVerdict(DIFFERS, f"{says}; its stop tokens are {names}", "behaviour")
    return LayerVerdict(SAME, f"{many} of {many} turns that should end do", "behaviour", {"turns": float(many)})


def _compare_ends(parity: Parity) -> LayerVerdict:
    """Look at the runtime's own answers: one that goes on where the export ends, or ends where it goes on."""
    ended, stops = 0, parity.reference.stop_ids
    for number, (answer, scored) in enumerate(zip(parity.answers, parity.answers_scored, strict=True)):
        where, ends, said, ids = f"conversation {number}", scored.ends.tolist(), answer.said, answer.ids
        on = next((at for at, lead in enumerate(ends[:-1]) if lead >= MIN_LEAD_NATS and ids[at] not in stops), None)
        if on is not None:
            return LayerVerdict(DIFFERS, f"{where} goes on after token {on}, where the export ends", "text")
        if error := find_end_error(parity, answer, ends[-1]):
            return LayerVerdict(DIFFERS, f"{where}: {error}", "text")
        ended += said.ended == "stop" and parity.covers_answer(said, ids)
    if not ended:
        return LayerVerdict(UNPROVEN, f"none of {len(parity.answers)} answers ended within its limit")
    return LayerVerdict(SAME, f"{ended} of {len(parity.answers)} answers end, each where the export may", "text")
