"""Is what was merged the model that was trained? Asked in a process of its own, of what lies on the disk.

    python -m harness_lora.parity < QUESTION

The question is a JSON object (`Question`), the answer a JSON object on the last line of stdout: {"facts": {…}}, or
{"finding": "…"} when the merged model is not what it must be. A process of its own has nothing left in memory of how
the merge was made.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import fresh
from harness.errors import Finding
from harness_lora.headers import read_headers

KL, TOP1 = 1e-3, 0.99  # nats a token, and share of tokens: what rounding to bfloat16 may cost
SMOKE_TOKENS = 48
EXACT = 4_000_000_000  # parameters up to which both are computed in float32, so that only the weights differ
TEXTS = (
    "The committee met on Tuesday to discuss the budget for the coming year, and most members agreed that the roof of "
    "the old library could not wait any longer. Nobody wanted to raise the fees again.",
    "To boil an egg, bring water to a rolling boil, lower the egg in with a spoon, and wait seven minutes. Then put it "
    "into cold water, so that it stops cooking and the shell comes off more easily.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen. The energy comes from light, which is caught "
    "by chlorophyll in the leaves; this is also why most leaves look green.",
    "Q: What is the capital of France?\nA: Paris.\nQ: What is the capital of Italy?\nA: Rome.\n"
    "Q: What is the capital of Spain?\nA: Madrid.\n",
    "In 1905 a clerk at the patent office in Bern published four papers, on light, on the motion of small particles, "
    "on moving bodies, and on mass and energy; each of them would have been enough.",
    "Dear customer, thank you for your message of 3 March. We are sorry that the parcel arrived late, and we have "
    "refunded the postage of 4.90 to your account. Kind regards, the service team",
    "The train left the station at a quarter past nine; by noon the hills had given way to a flat, grey plain, and the "
    "passengers, who had been talking since the border, fell silent one after the other.",
)
PROMPTS = ("What is the capital of France?", "Say hello.")


@dataclass(frozen=True)
class Question:
    """Folders of base, adapter and merged model, and keywords of a BitsAndBytesConfig where the base is in 4 bits.

    `quantization` is of the base that was merged onto; `trained` of the one the adapter was trained on, where that is
    another: the difference is reported, and nothing is demanded of it.
    """

    base: str
    adapter: str
    merged: str
    quantization: dict[str, Any] | None = None
    trained: dict[str, Any] | None = None


def ask(question: Question) -> dict[str, Any]:
    """Verify a merge in a fresh process and return the facts; raises Finding, or UsageError when it cannot run."""
    lost = "merge: what was written could not be verified"
    return fresh.ask("harness_lora.parity", asdict(question), lost)


def verify(question: Question) -> dict[str, Any]:
    """Compare the merged model with the adapter on the same base; raises Finding when they are two models."""
    facts = _tensors(question)
    ours = _answers(question.merged, None, None)
    theirs = _answers(question.base, question.adapter, question.quantization)
    facts |= _compare(ours, theirs)
    if not (facts["kl"] < KL and facts["top1"] >= TOP1):
        raise Finding(
            f"merge: the merged model is not the adapter on its base: KL {facts['kl']:.2g} nats a token, the same "
            f"likeliest token on {facts['top1']:.1%} of {facts['tokens']} tokens; want less than {KL:g}, and {TOP1:.0%}"
        )
    for prompt, merged, adapter in zip(PROMPTS, ours.stopped, theirs.stopped, strict=True):
        if adapter and not merged:
            raise Finding(f'merge: the adapter stops after "{prompt}", the merged model does not; see its stop tokens')
    if question.trained:
        apart = _compare(ours, _answers(question.base, question.adapter, question.trained))
        facts |= {f"{name}_as_trained": apart[name] for name in ("kl", "top1")}
    return {**facts, "stops": ours.stopped}


def _tensors(question: Question) -> dict[str, Any]:
    """Read every tensor back: none may be missing, of another shape, not finite, or changed without being targeted."""
    import torch
    from safetensors import safe_open

    from harness_lora.merge import check_changed, is_finite, make_plan

    base, merged = Path(question.base), Path(question.merged)
    before, after = read_headers(base), read_headers(merged)
    told = [{n: (h.dtype, h.shape) for n, h in headers.items()} for headers in (before, after)]
    if told[0] != told[1]:
        odd = min(n for n in told[0].keys() | told[1].keys() if told[0].get(n) != told[1].get(n))
        raise Finding(f'merge: "{odd}" is missing, new, or of another shape or dtype than in the base')
    plan = make_plan(base, Path(question.adapter), before, question.quantization)
    changed = set()
    opened: dict[Path, Any] = {h.file: safe_open(h.file, "pt") for h in (*before.values(), *after.values())}
    for name in before:
        old, new = (opened[headers[name].file].get_tensor(name) for headers in (before, after))
        if not is_finite(new):
            raise Finding(f'merge: "{name}" is not finite')
        if not torch.equal(old, new):
            changed.add(name)
    check_changed(changed, plan)
    return {"tensors": len(before), "changed": len(changed)}


@dataclass
class _Answers:
    """A model's log-probabilities of every next token of the texts (T, V), the texts' ids, where it stopped."""

    logprobs: list[Any]
    ids: list[Any]
    stopped: list[bool]


def _answers(path: str, adapter: str | None, quantization: dict[str, Any] | None) -> _Answers:
    import torch

    from harness_hf.models import load_tokenizer

    tokenizer, model = load_tokenizer(path), _load(path, adapter, quantization)
    found = _Answers([], [], [])
    with torch.inference_mode():
        for text in TEXTS:
            ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
            logits = model(input_ids=ids).logits[0, :-1].float()
            found.logprobs.append(torch.log_softmax(logits, -1).cpu())
            found.ids.append(ids[0, 1:].cpu())
        for prompt in PROMPTS:
            ids = _prompt(tokenizer, prompt).to(model.device)
            mask = torch.ones_like(ids)
            out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=SMOKE_TOKENS, do_sample=False)
            found.stopped.append(out.shape[1] - ids.shape[1] < SMOKE_TOKENS)
    return found


def _load(path: str, adapter: str | None, quantization: dict[str, Any] | None) -> Any:
    """Load a model to be computed in float32; its 4-bit weights are those of a load in the dtype it was trained in."""
    from harness_hf.models import load_model
    from harness_lora.adapter import read_note

    folder = Path(adapter) if adapter else None
    exact = sum(math.prod(h.shape) for h in read_headers(Path(path)).values()) <= EXACT
    if quantization is None or folder is None or not exact:
        return load_model(path, dtype="float32" if exact else "auto", quantization=quantization, adapter=folder)
    computed = {**quantization, "bnb_4bit_compute_dtype": "float32"}
    dtype = str(read_note(folder).get("dtype", "float32"))
    return load_model(path, dtype=dtype, quantization=computed, adapter=folder).float()


def _prompt(tokenizer: Any, text: str) -> Any:
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        return ids["input_ids"]
    return tokenizer(text, return_tensors="pt").input_ids


def _compare(ours: _Answers, theirs: _Answers) -> dict[str, Any]:
    """Return KL(adapter ‖ merged) in nats a token, agreement on the likeliest token, and nats a token of both."""
    kl, same, tokens, nll = 0.0, 0, 0, [0.0, 0.0]
    for p, q, ids in zip(theirs.logprobs, ours.logprobs, theirs.ids, strict=True):
        kl += float((p.exp() * (p - q)).sum())
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        tokens += len(ids)
        for i, logprobs in enumerate((p, q)):
            nll[i] -= float(logprobs.gather(-1, ids[:, None]).sum())
    if not math.isfinite(kl):
        raise Finding("merge: the merged model's probabilities are not finite")
    facts = {"kl": kl / tokens, "top1": same / tokens, "tokens": tokens}
    return {**facts, "nll_adapter": nll[0] / tokens, "nll_merged": nll[1] / tokens}


if __name__ == "__main__":
    fresh.answer(lambda **question: verify(Question(**question)))
