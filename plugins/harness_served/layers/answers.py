"""Greedy answers, token by token: another choice counts where the export's own leads beyond what noise may move."""

from __future__ import annotations

from harness_served.layers.logprobs import FLOOR, DrawnTokens, arithmetic_tolerance
from harness_served.parity import DIFFERS, SAME, UNPROVEN, LayerVerdict, Parity

TAIL = 8  # times the noise of a log-probability, which has heavy tails


def compare_answers(parity: Parity) -> LayerVerdict:
    """Say whether each token the runtime chose is one that the export might choose."""
    if parity.layer_verdict("ids") == DIFFERS:
        return LayerVerdict(UNPROVEN, "the prompts differ, so the answers cannot be compared")
    limit = usual = TAIL * float(parity.heard.get("noise", FLOOR))
    worst, where, tokens = 0.0, "", 0
    for number, ((prompt, answer, ids), scored) in enumerate(zip(parity.answers, parity.answers_scored, strict=True)):
        leads, bound = parity.choice_margins(answer, ids, scored), usual
        if max(leads, default=0.0) > usual:  # by its own noise, for a long one has more
            bound = max(usual, TAIL * arithmetic_tolerance(parity, [DrawnTokens(prompt, ids, [])], [scored.own]))
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
