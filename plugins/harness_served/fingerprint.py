"""Compare a server with the fingerprint in an export: 40 of its probes, no weights and no torch.

Half of the probes are of those where the export and its base differ most. The bound is four times the noise of the
export's arithmetic, which was measured when it was exported.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import UsageError
from harness.internals import (
    EVIDENCE,
    FINGERPRINT,
    MALFORMED,
    Fingerprint,
    FolderError,
    VerifiedExport,
    fingerprint,
    read_listed_file,
)
from harness_served.parity import DIFFERS, NOISE_FACTOR, SAME, UNKNOWN, UNPROVEN, LayerVerdict, ask_each
from harness_served.precision import find_arithmetic
from harness_served.runtime import Runtime, read_context_limit

DRAWN_PROBES = 40
FARTHEST_SHARE = 0.1  # of the probes, those where the base is farthest; half of the drawn ones are of them
MIN_PROBES = 10  # probes for anything to be said
CERTAIN_LEAD = 2 * NOISE_FACTOR  # times the noise by which the likeliest token must lead, for another one to count
Drawn = tuple[str, Sequence[float]]  # "chat" or "text", and a probe


def read_export_fingerprint(export: VerifiedExport) -> Fingerprint:
    """Return the fingerprint of a verified export. Raises UsageError if it is missing or malformed."""
    name = f"{EVIDENCE}/{FINGERPRINT}"
    try:
        return fingerprint.read_fingerprint(read_listed_file(export, name))
    except FolderError as error:
        raise UsageError(f"{error}; export it again, or compare without --fingerprint") from None
    except MALFORMED as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UsageError(f"{export.folder}: {name} is malformed: {reason}; export it again") from None


@dataclass(frozen=True)
class ProbeDifference:
    """How far the answer to a probe is from the export's: log-probabilities, and another likeliest token."""

    kind: str
    logprobs: list[float]
    other_token: bool


def compare_fingerprint(
    runtime: Runtime, made: Fingerprint, seed: int, *, arithmetic: str = "", context: int = 0, concurrency: int = 1
) -> LayerVerdict:
    """Compare the answers to drawn probes with the export's fingerprint."""
    told = runtime.identity()
    wanted, there = context or made.context, read_context_limit(told)
    if there and there < wanted:
        fix = "raise it, or name what you need with --context"
        return LayerVerdict(DIFFERS, f"its context is {there} tokens, but the export's is {wanted}; {fix}", "told")
    kind = arithmetic or find_arithmetic(made.stored, str(told.get("model_ftype") or ""), made.stored.isupper())
    noise = float(made.noise[kind])
    asked = draw_probes(made, seed)
    found = [one for one in ask_each(_make_asker(runtime, made, seed, noise), asked, concurrency) if one]
    if runtime.identity() != told:
        return LayerVerdict(DIFFERS, "two models answer behind this address, or it changed; check its replicas", "told")
    chats = sum(one.kind == "chat" for one in found)
    if len(found) < MIN_PROBES or (made.chat and chats < MIN_PROBES // 2):  # what clients use is not shown by texts
        says = f"{runtime.name} reports log-probabilities of {len(found)} of {len(asked)} probes, {chats} chats"
        says += f"; {runtime.hint}"
        return LayerVerdict(UNPROVEN if found else UNKNOWN, says)
    return _judge_differences(found, NOISE_FACTOR * noise, kind)


def draw_probes(made: Fingerprint, seed: int) -> list[Drawn]:
    """Return the drawn probes: of chats and of texts, half of each where the base is farthest."""
    chance, drawn = random.Random(seed), list[Drawn]()  # noqa: S311 -- no secret
    for kind, probes in (("chat", made.chat), ("text", made.text)):
        many = min(DRAWN_PROBES // 2 if made.chat and made.text else DRAWN_PROBES, len(probes))
        first = min(len(probes), max(many - many // 2, math.ceil(len(probes) * FARTHEST_SHARE)))
        far = chance.sample(probes[:first], many - many // 2)
        rest = chance.sample(probes[first:], min(many // 2, len(probes) - first))
        drawn += [(kind, probe) for probe in (*far, *rest)]
    chance.shuffle(drawn)
    return drawn


def _make_asker(
    runtime: Runtime, made: Fingerprint, seed: int, noise: float
) -> Callable[[Drawn], ProbeDifference | None]:
    chats, texts = fingerprint.make_chats(made.seed), fingerprint.make_texts(made.seed)

    def ask(drawn: Drawn) -> ProbeDifference | None:
        kind, (number, *probe) = drawn
        message, text = chats[int(number)] if kind == "chat" else "", ""
        if kind == "text":
            text, probe = fingerprint.first_words(texts[int(number)], int(probe[0])), probe[1:]
        token, *values = probe
        if (said := runtime.predict_next(message, text, fingerprint.TOP_LOGPROBS, seed)) is None:
            return None
        apart = [a - b for a, b in zip(said.logprobs, values, strict=False)]
        sure = values[0] - values[1] > CERTAIN_LEAD * noise
        return ProbeDifference(kind, apart, sure and said.token not in (None, token))

    return ask


def _judge_differences(found: Sequence[ProbeDifference], bound: float, kind: str) -> LayerVerdict:
    numbers: dict[str, float] = {"bound": bound, "probes": float(len(found))}
    errors: dict[str, str] = {}
    for name in ("chat", "text"):
        own = [one for one in found if one.kind == name]
        apart = [value for one in own for value in one.logprobs]
        if not apart:
            continue
        rms = numbers[f"rms of {name}s"] = math.sqrt(sum(v * v for v in apart) / len(apart))
        others = numbers[f"other tokens of {name}s"] = float(sum(one.other_token for one in own))
        if not rms <= bound or others:  # a bound or an answer that is not a number differs
            also = f", {others:.0f} other tokens" if others else ""
            errors[name] = f"RMS {rms:.3f} nats in {len(own)} {name}s, limit {bound:.3f}{also}"
    if not errors:
        worst = max(value for name, value in numbers.items() if name.startswith("rms"))
        says = f"RMS {worst:.3f} nats in {len(found)} probes, limit {bound:.3f} ({kind})"
        return LayerVerdict(SAME, says, "told", numbers)
    chat_alone = [*errors] == ["chat"] and "rms of texts" in numbers
    why = (
        "texts are the same, so check template and gateway" if chat_alone else "other weights, or computed differently"
    )
    return LayerVerdict(DIFFERS, f"{'; '.join(errors.values())}; {why}", "told", numbers)


def find_notes(runtime: Runtime, made: Fingerprint, told: Mapping[str, Any]) -> list[str]:
    """Return differences in the server's reports that decide nothing."""
    template = told.get("template")
    same = not isinstance(template, str) or made.template in (None, hashlib.sha256(template.encode()).hexdigest())
    return [] if same else [f"{runtime.name} reports another chat template than the export's; the probes decide"]
