"""llama.cpp's own server: tells template, tokens, how it draws, and adapters with their scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from harness.internals import whole_text, wire
from harness_api import fields_of, table
from harness_served.runtime import NEUTRAL, Messages, Runtime, RuntimeAnswer, count_in, numbers, tokens_in

TOLD = ("model_alias", "model_path", "model_ftype", "build_info", "bos_token", "eos_token", "total_slots")
NO_FILTER = {
    **{"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0},
    **{"frequency_penalty": 0.0, "dry_multiplier": 0.0, "xtc_probability": 0.0, "mirostat": 0},
}


class LlamaCpp(Runtime):
    """llama.cpp's server. It takes a doubled BOS off in chat, not in text; ids as a prompt skip template and BOS."""

    kind: ClassVar[str] = "llama.cpp"
    name: ClassVar[str] = "llama.cpp's server"
    hint: ClassVar[str] = "start it without --no-slots and post_sampling_probs"
    ids_by: ClassVar[str] = "text rendered by /apply-template, then /tokenize"
    takes_ids: ClassVar[bool] = True
    draws: ClassVar[Mapping[str, Any]] = {**NEUTRAL, **NO_FILTER}
    probe: ClassVar[str] = "/props"

    @classmethod
    def knows(cls, told: Any) -> bool:
        return isinstance(told, dict) and "default_generation_settings" in told

    def identity(self) -> dict[str, Any]:
        props = self.ask(f"{self.root}/props", None, table)
        settings = table(props.get("default_generation_settings"))
        found = {name: props[name] for name in TOLD if name in props} | {"n_ctx": settings.get("n_ctx")}
        return found | {"template": props.get("chat_template"), "adapters": self.adapters()}

    def adapters(self) -> list[dict[str, Any]]:
        listed = self.ask(f"{self.root}/lora-adapters", None)
        listed = listed if isinstance(listed, list) else []
        return [{"id": a.get("id"), "name": str(a.get("path")), "scale": a.get("scale")} for a in map(table, listed)]

    def defaults(self) -> Mapping[str, Any] | None:
        body = {"prompt": [1], "n_predict": 1}
        settings = self.ask(f"{self.root}/completion", body, table).get("generation_settings")
        self.tokens += 1
        return _drawing(settings) if isinstance(settings, dict) else None

    def ids(self, messages: Messages) -> list[int] | None:
        text = self.ask(f"{self.root}/apply-template", fields_of([dict(m) for m in messages]), table).get("prompt")
        if not isinstance(text, str):
            return None
        asked = {"content": text, "add_special": True, "parse_special": True}
        ids = tokens_in(self.ask(f"{self.root}/tokenize", asked, table).get("tokens"))
        doubled = ids and ids[:1] == ids[1:2] and text.startswith(str(self.told.get("bos_token")))
        return ids[1:] if ids and doubled else ids or None  # as chat does

    def complete(self, ids: Sequence[int], text: str, most: int, how: Mapping[str, Any]) -> RuntimeAnswer | None:
        return self._completed(list(ids) or text, most, how)

    def as_base(self, ids: Sequence[int], text: str, most: int) -> RuntimeAnswer | None:
        off = [{"id": a["id"], "scale": 0.0} for a in self.adapters()]
        return self._completed(list(ids), most, {**self.draws, "lora": off, "seed": 1}) if off else None

    def _completed(self, prompt: list[int] | str, most: int, how: Mapping[str, Any]) -> RuntimeAnswer:
        body = {"prompt": prompt, "n_predict": most, "n_probs": 1, "return_tokens": True, "cache_prompt": True, **how}
        return self._said(self.ask(f"{self.root}/completion", body, read_completion))


def read_completion(reply: Any) -> RuntimeAnswer:
    """Read what /completion says."""
    if not isinstance(reply, dict) or not isinstance(reply.get("content"), str):
        raise wire.Trouble(f"answered /completion with no content: {str(reply)[:100]}")
    told = reply.get("completion_probabilities")
    entries = [table(entry) for entry in told] if isinstance(told, list) else []
    if any("prob" in entry and "logprob" not in entry for entry in entries):
        raise wire.Trouble("says the probabilities after its filters", hint="start it without post_sampling_probs")
    all_ids = [i for i in reply.get("tokens") or () if type(i) is int]
    ids = [i for entry in entries if type(i := entry.get("id")) is int] or all_ids
    # a token that is part of a character has no entry of its own, and what follows could be taken for its neighbour
    whole = next((at for at, (a, b) in enumerate(zip(ids, all_ids or ids, strict=False)) if a != b), len(ids))
    ids, entries = ids[:whole], entries[:whole]
    ended = "length" if reply.get("stop_type") == "limit" else "stop"
    evaluated = count_in(reply, "tokens_evaluated")
    logprobs = numbers([entry.get("logprob") for entry in entries]) if entries else None
    return RuntimeAnswer(whole_text(reply["content"]), ids, logprobs, ended, evaluated)


def _drawing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return how is drawn, by the names that generation_config.json has; what changes nothing is left out."""
    names = ["temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "presence_penalty"]
    names += ["frequency_penalty", "dry_multiplier", "xtc_probability"]
    told = {name: settings.get("repeat_penalty" if name == "repetition_penalty" else name) for name in names}
    return {name: round(float(v), 4) for name, v in told.items() if isinstance(v, (int, float)) and abs(v) < 1e9}
