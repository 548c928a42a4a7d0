"""Greedy answers, token by token: another choice counts where the export's own leads beyond what noise may move."""

from __future__ import annotations

from harness_served.layers.logprobs import ToldTokens, noise
from harness_served.parity import DIFFERS, SAME, UNPROVEN, LayerVerdict, Parity

TAIL = 8  # times the noise of a log-probability, which has heavy tails


def look(parity: Parity) -> LayerVerdict:
    """Say whether each token the runtime chose is one that the export might choose."""
    if parity.came("ids") == DIFFERS:
        return LayerVerdict(UNPROVEN, "the prompts differ, and so would the answers")
    limit = TAIL * noise_of(parity)
    worst, where, tokens = 0.0, "", 0
    for number, ((_, answer, ids), scored) in enumerate(zip(parity.answers, parity.answers_scored, strict=True)):
        leads = (scored.best[:-1] - scored.own).tolist()
        for at, lead in enumerate(leads):
            if lead > 0 and ids is not answer.ids and parity.may_begin(ids[at:], int(scored.first[at])):
                break  # as the text shows no special token, and is cut in more ways than one
            tokens += 1
            if lead > worst:
                text = parity.reference.tokens.tokenizer.decode
                choice, first = (repr(str(text([i]))) for i in (ids[at], int(scored.first[at])))
                worst, where = lead, f"conversation {number}, token {at}: {choice} where the export has {first}"
    if not tokens:
        return LayerVerdict(UNPROVEN, "every answer is empty, or its text hides its tokens")
    numbers = {"lead": worst, "bound": limit, "tokens": float(tokens)}
    if worst > limit:
        return LayerVerdict(DIFFERS, f"{where}, which leads by {worst:.2f} nats, at most {limit:.2f}", "text", numbers)
    return LayerVerdict(SAME, f"{tokens} tokens, each within {worst:.2f} nats of the export's first", "text", numbers)


def noise_of(parity: Parity) -> float:
    """Return the noise of logprobs, else that of the export's own arithmetic on the answers."""
    if "noise" not in parity.heard:
        told = [ToldTokens(prompt, ids, [0.0] * len(ids)) for prompt, _, ids in parity.answers if ids]
        scored = [s.own for (_, _, ids), s in zip(parity.answers, parity.answers_scored, strict=True) if ids]
        parity.heard["noise"] = noise(parity, told, scored) if told else 0.0
    return float(parity.heard["noise"])
