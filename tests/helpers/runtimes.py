"""Servers that speak as real ones were heard to, with a small model behind them and a switch for each fault.

Heard: llama.cpp's server (2026-10, out of the wheel xllamacpp), transformers serve 5.24 and vLLM 0.32 (its engine on a
CPU); Ollama as its documentation has it. A token that is part of a character has no entry among llama.cpp's
log-probabilities; its chat shows it in the text of the next one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.answers.reasoning import cut_at_stop
from harness.texts.escaping import REPLACEMENT_CHARACTER
from tests.helpers.local_http import LocalHandler, serve_locally

FIELDS = {"model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs", "stream", "tools"}
FIELDS |= {"chat_template_kwargs", "echo"}
LLAMA = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
Reply = tuple[int, Any]


@dataclass
class Runtime:
    """A model behind one dialect: "llama.cpp", "vllm", "ollama" or "transformers".

    Faults: "template" (what is rendered loses its last newline), "bos" (a text gets two), "stops" (goes on), "sampling"
    (drawn with a filter where nothing is said), "usage" (is hidden), "error" (in a reply with 200), "nan" (for a
    log-probability), "swapped" (another file is told of after some replies), "mute" (no log-probabilities), "short" (a
    context of 64), "moved" (log-probabilities off by half a nat, by turns), "replicas" (every third answer's are),
    "busy" (every other request is refused for now), "limited" and "gone" (after some replies), "twice" (two models of
    one name), "streams", "cold" (half the temperature where none is named), "unlucky" (so with seeds below 1,000 alone,
    and an adapter a little below its scale: what chance may do to a first draw).
    """

    dialect: str
    folder: Path
    faults: frozenset[str] = frozenset()
    adapter: Path | None = None
    scale: float = 1.0
    asked: list[str] = field(default_factory=list)
    read: dict[tuple[int, ...], bool] = field(default_factory=dict)  # llama.cpp goes on as a prompt was first read
    url: str = ""
    given: int = 0  # answers
    context: int = 512
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        import torch

        from harness_hf import ModelTokenizer, load_model

        self.torch, self.tokens = torch, ModelTokenizer.of(str(self.folder))
        self.model = load_model(self.folder, dtype="float32", device="cpu", adapter=self.adapter)
        scales = [s for m in self.model.modules() if isinstance(s := getattr(m, "scaling", None), dict)]
        self.scales = [(scale, dict(scale)) for scale in scales]
        self.scaled(self.scale)

    def scaled(self, scale: float) -> None:
        for now, whole in self.scales:
            now.update({name: value * scale for name, value in whole.items()})

    def render(self, body: dict[str, Any]) -> str:
        given = {"tools": body["tools"]} if body.get("tools") else {}
        messages = [dict(m) for m in body["messages"]]
        messages[0]["chat_template_kwargs"] = {**given, **body.get("chat_template_kwargs", {})}
        text = self.tokens.render(messages)
        return text.removesuffix("\n") if "template" in self.faults else text

    def encode(self, text: str) -> list[int]:
        ids = self.tokens.encode_prompts([text])[0]
        return [ids[0], *ids] if "bos" in self.faults else ids

    def _tokenized(self, text: str, special: bool) -> list[int]:
        return self.encode(text) if special else self.tokens._tokenize_texts([text], special=False)[0]

    def say(self, ids: list[int], most: int, how: dict[str, Any]) -> dict[str, Any]:
        """Return tokens, their log-probabilities before any filter, and how it ended."""
        torch, said, logs, tops = self.torch, [], [], []
        self.given += 1
        if "short" in self.faults and len(ids) > 64:
            raise ValueError(f"request ({len(ids)} tokens) exceeds the available context size (64 tokens)")
        defaults = LLAMA if self.dialect == "llama.cpp" and "sampling" in self.faults else {"temperature": 1.0}
        unlucky = "unlucky" in self.faults and int(how.get("seed") or 0) < 1000
        if unlucky or "cold" in self.faults:
            defaults = {**defaults, "temperature": 0.7 if unlucky else 0.5}
        self.scaled(0.995 if unlucky else self.scale)
        how = {**defaults, **how}
        generator = torch.Generator().manual_seed(int(how.get("seed") or 0))
        drawn = how["temperature"] > 0 and self.dialect != "transformers"
        ended, base = "length", self.read.setdefault(tuple(ids), bool(how.get("lora")))
        for _ in range(most):
            with torch.inference_mode(), self.model.disable_adapter() if base else nullcontext():
                plain = self.model(input_ids=torch.tensor([[*ids, *said]])).logits[0, -1].log_softmax(-1)
            token = int(plain.argmax())
            if drawn:
                cut = plain / how["temperature"]
                if top := int(how.get("top_k", 0)):
                    cut = cut.masked_fill(cut < cut.topk(top).values[-1], -torch.inf) if top > 0 else cut
                token = int(torch.multinomial(cut.softmax(-1), 1, generator=generator))
            moved = (0.5 if len(said) % 2 else -0.5) if "moved" in self.faults else 0.0
            moved -= 0.5 if "replicas" in self.faults and self.given % 3 == 0 else 0.0
            said.append(token)
            tops.append(list(zip(*(values.tolist() for values in plain.topk(5)), strict=True)))
            logs.append(min(0.0, float(plain[token]) + moved))
            if token in self.tokens.stop_ids and "stops" not in self.faults:
                ended = "stop"
                break
            if any(stop in self.tokens.decode(said) for stop in how.get("stop", ())):
                ended = "stop"
                break
        text = cut_at_stop(self.tokens.decode(said), how.get("stop", ()))
        return {"ids": said, "logprobs": logs, "ended": ended, "text": text, "how": how, "tops": tops}

    # -- replies ---------------------------------------------------------------------------------------

    def reply(self, path: str, body: dict[str, Any]) -> Reply:
        with self.lock:
            self.asked.append(path)
            if "busy" in self.faults and len(self.asked) % 2:
                return 429, {"error": {"message": "Rate limit reached"}}
            if "limited" in self.faults and len(self.asked) > 12:
                return 429, {"error": {"message": "Rate limit reached"}}
            if "gone" in self.faults and len(self.asked) > 12:
                return 503, {"error": {"message": "Loading model"}}
            if "error" in self.faults and path.endswith("completion") | path.endswith("completions"):
                return 200, {"error": {"message": "CUDA error"}}
            own = getattr(self, f"_{self.dialect.replace('.', '_')}")(path, body)
            if own is not None:
                return own  # type: ignore[no-any-return]
            if path == "/v1/models":
                entry = {"id": "small", "object": "model", "owned_by": "local"}
                return 200, {"object": "list", "data": [entry] * (2 if "twice" in self.faults else 1)}
            if path == "/v1/chat/completions":
                return self._openai(body, self.tokens._tokenize_texts([self.render(body)], special=False)[0], chat=True)
            if path == "/v1/completions":
                prompt = body["prompt"]
                return self._openai(body, self.encode(prompt) if isinstance(prompt, str) else prompt, chat=False)
            return 404, {"detail": "Not Found"}

    def _openai(self, body: dict[str, Any], ids: list[int], *, chat: bool) -> Reply:
        said = self.say(ids, body.get("max_tokens", 16), body)
        choice: dict[str, Any] = {"index": 0, "finish_reason": said["ended"]}
        choice |= {"message": {"role": "assistant", "content": said["text"]}} if chat else {"text": said["text"]}
        if body.get("logprobs") and self.dialect != "transformers" and "mute" not in self.faults:
            texts = [self.tokens.tokenizer.decode([i]) for i in said["ids"]]
            entries: list[dict[str, Any]] = [
                {"token": t, "logprob": p} for t, p in zip(texts, said["logprobs"], strict=True)
            ]
            if body.get("top_logprobs") or body["logprobs"] > 1:
                for entry, top in zip(entries, said["tops"], strict=True):
                    entry["top_logprobs"] = [{"id": i, "token": str(i), "logprob": min(0.0, p)} for p, i in top]
            if self.dialect == "llama.cpp":
                entries = self._without_parts(entries, said["ids"])
            if self.dialect == "vllm" and not chat:
                choice["logprobs"] = {"tokens": texts, "token_logprobs": said["logprobs"]}
                tops = [{str(i): min(0.0, p) for p, i in top} for top in said["tops"]]
                choice["logprobs"] |= {"top_logprobs": tops if body["logprobs"] > 1 else None}
            else:
                choice["logprobs"] = {"content": entries}
        if body.get("return_token_ids"):
            choice["token_ids"] = said["ids"]
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(said["ids"])}
        told = {"prompt_token_ids": ids} if chat and body.get("return_token_ids") else {}
        told |= {} if "usage" in self.faults else {"usage": usage}
        return 200, {"model": "small", "choices": [choice], **told}

    def _without_parts(self, entries: list[dict[str, Any]], ids: list[int]) -> list[dict[str, Any]]:
        """Return the entries of tokens that end a character, each with the text since the last one."""
        found, start = [], 0
        for at, (entry, token) in enumerate(zip(entries, ids, strict=True)):
            text = self.tokens.tokenizer.decode(ids[start : at + 1])
            if not text.endswith(REPLACEMENT_CHARACTER):
                found.append({**entry, "id": token, "token": text})
                start = at + 1
        return found

    def _llama_cpp(self, path: str, body: dict[str, Any]) -> Reply | None:
        if path == "/props":
            changed = "swapped" in self.faults and len(self.asked) > 12
            settings = {"params": dict(LLAMA), "n_ctx": 64 if "short" in self.faults else self.context}
            told = {"model_path": "other.gguf" if changed else "model.gguf", "model_ftype": "all F32"}
            told |= {"chat_template": self.tokens.tokenizer.chat_template, "build_info": "b9999-abc"}
            told |= {"bos_token": "<s>", "eos_token": "</s>"}
            return 200, {"default_generation_settings": settings, **told}
        if path == "/lora-adapters":
            return 200, [{"id": 0, "path": "adapter.gguf", "scale": self.scale}] if self.adapter else []
        if path == "/apply-template":
            return 200, {"prompt": self.render(body)}
        if path == "/tokenize":
            return 200, {"tokens": self._tokenized(body["content"], body["add_special"])}
        if path != "/completion":
            return None
        ids = body["prompt"] if isinstance(body["prompt"], list) else self.encode(body["prompt"])
        said = self.say(ids, body["n_predict"], body)
        logs = [None if "nan" in self.faults else p for p in said["logprobs"]]
        texts = [self.tokens.tokenizer.decode([i]) for i in said["ids"]]
        rows = zip(said["ids"], logs, texts, strict=True)
        told = [{"id": i, "logprob": p} for i, p, text in rows if REPLACEMENT_CHARACTER not in text]
        found = {"content": said["text"], "tokens": said["ids"], "tokens_evaluated": len(ids)}
        found |= {"stop_type": "limit" if said["ended"] == "length" else "eos", "generation_settings": said["how"]}
        return 200, {**found, "completion_probabilities": [] if "mute" in self.faults else told}

    def _vllm(self, path: str, body: dict[str, Any]) -> Reply | None:
        if path == "/version":
            return 200, {"version": "0.32.0"}
        if path == "/tokenize":
            text = body["prompt"] if "prompt" in body else self.render(body)
            ids = self._tokenized(text, False)
            return 200, {"count": len(ids), "max_model_len": 512, "tokens": ids}
        if path == "/v1/models":
            entry = {"id": "small", "object": "model", "owned_by": "vllm", "root": "/models/small", "parent": None}
            return 200, {"object": "list", "data": [{**entry, "max_model_len": self.context}]}
        if path == "/v1/chat/completions/render":
            disabled = "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them."
            return 403, {"error": {"message": disabled, "type": "PermissionDeniedError", "param": None, "code": 403}}
        if path == "/v1/chat/completions" and body.get("tools"):
            choice = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
            return 400, {"error": {"message": choice, "type": "BadRequestError", "param": None, "code": 400}}
        return None

    def _ollama(self, path: str, body: dict[str, Any]) -> Reply | None:
        if path == "/api/version":
            return 200, {"version": "0.12.11"}
        if path == "/api/tags":
            return 200, {"models": [{"name": "small:latest", "model": "small:latest", "digest": "ab" * 32}]}
        if path == "/api/show":
            return 200, {"template": "{{ .Prompt }}", "parameters": "temperature 0.7"}
        return None

    def _transformers(self, path: str, body: dict[str, Any]) -> Reply | None:
        if unknown := set(body) - FIELDS:
            return 422, {"detail": f"Unexpected fields in the request: {unknown}"}
        return (400, {"detail": "prompt must be a string."}) if isinstance(body.get("prompt"), list) else None


def stream_events(reply: dict[str, Any], body: dict[str, Any]) -> bytes:
    """Return the events of a stream that come to a reply: one for each token, an end, and the usage if it was asked."""
    [choice] = reply["choices"]
    message, logs = choice["message"], (choice.get("logprobs") or {}).get("content", [])
    pieces, head = [*(message["content"] or "")], {"model": reply.get("model"), "object": "chat.completion.chunk"}
    events: list[dict[str, Any]] = [{"delta": {"content": text}} for text in pieces]
    events += [{"delta": {"reasoning_content": text}} for text in message.get("reasoning_content") or ""]
    events.append({"delta": {}, "logprobs": {"content": logs}, "token_ids": choice.get("token_ids")})
    events.append({"delta": {}, "finish_reason": choice["finish_reason"]})
    whole = [{**head, "choices": [event]} for event in events]
    if body.get("stream_options"):
        whole.append({**head, "choices": [], "usage": reply.get("usage")})
    return "".join(f"data: {line}\n\n" for line in [*map(json.dumps, whole), "[DONE]"]).encode()


@contextmanager
def run_runtime(runtime: Runtime) -> Iterator[Runtime]:
    """Serve on a free port of this machine."""

    class Handler(LocalHandler):
        def answer(self, body: bytes) -> None:
            asked = json.loads(body or b"{}")
            try:
                code, reply = runtime.reply(self.path, asked)
            except ValueError as error:
                code, reply = 400, {"error": {"message": str(error)}}
            streams = "streams" in getattr(runtime, "faults", ()) and "completions" in self.path
            data = json.dumps(reply).encode()
            if code == 200 and asked.get("stream") and "choices" in reply:
                streams, data = True, stream_events(reply, asked)
            elif streams:
                data = f"data: {json.dumps(reply)}\n\ndata: [DONE]\n\n".encode()
            self.send(code, data, "text/event-stream" if streams else "application/json")

    with serve_locally(Handler) as address:
        runtime.url = f"{address}/v1"
        yield runtime


def write_taught_llama(folder: Path, steps: int = 180) -> Path:
    """Write a tiny Llama that was taught to end short answers, and nothing else."""
    from harness_hf.tiny import build_tiny_model

    build_tiny_model(folder)
    return teach(folder, steps)


def teach(folder: Path, steps: int, more: str = "") -> Path:
    """Teach the model in a folder to end short answers, or such with `more` behind them."""
    import torch

    from harness_hf import ModelTokenizer, load_model, quiet_loading
    from harness_served.conversations import make_turns

    tokens, model = ModelTokenizer.of(str(folder)), load_model(folder, dtype="float32", device="cpu")
    stop = tokens.special_token_id("<|end|>")
    turns = [turn for seed in range(100, 100 + steps // 12 + 1) for turn in make_turns(seed)]
    rows = [
        (prompt, [*answer, stop])
        for prompt, answer in tokens.encode_pairs([(question, answer + more) for question, answer in turns])
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        prompt, answer = rows[step % len(rows)]
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(answer))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.generation_config.eos_token_id = sorted(tokens.stop_ids)
    with quiet_loading():
        model.save_pretrained(folder)
    return folder
