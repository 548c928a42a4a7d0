"""A model behind Anthropic's API as a Subject: it answers, and gives no log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Unpack

from harness import Ended, Generate, Generation, Logprob, ModelRef, Prompt, Said, UsageError, digest_of, keys
from harness_judge import service
from harness_judge.anthropic_api import connect, post
from harness_judge.budget import Budget, Prices, Reserved
from harness_judge.desk import Desk, Failed, Trouble
from harness_judge.service import Service
from harness_judge.verdict import Reply

ENDED: dict[str, Ended] = {"end_turn": "eos", "stop_sequence": "stop", "max_tokens": "length"}


@dataclass(frozen=True)
class AnthropicSource:
    """What the API says of a model; there is nothing on this machine."""

    path: str
    digest: str
    context: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Return zeros: the context is unknown, so no length is checked."""
        return [0] * len(pairs)


def open_source(path: str, *, version: str = "", **options: Any) -> AnthropicSource:
    """Raise UsageError unless the API is there, takes the key and knows the model."""
    at = _service(path, options)
    anthropic, timeout = service.installed("anthropic"), float(options.get("timeout", 60.0))
    where = f'model "{path}" at {at.place}'
    try:
        refused = partial(at.refusal, path)
        with closing(connect(at, timeout)) as client, at.asked(anthropic, timeout, refused):
            entry = client.get(f"/v1/models/{path}", cast_to=object)
    except Trouble as trouble:
        raise UsageError(f"{where}: {trouble}") from None
    shown = str(entry.get("display_name") or "") if isinstance(entry, dict) else ""
    facts = {"server": at.url, **({"name": shown} if shown else {}), **at.peer.facts(path)}
    return AnthropicSource(path, _digest(at, path, version), facts=facts)


def identity(path: str, *, version: str = "", **options: Any) -> str | None:
    """Return the identity of what an answer depends on, never the key; None without a version."""
    at = _service(path, options)
    if not version:
        return None
    body = dict(options.get("body") or {})
    return digest_of(["anthropic", _digest(at, path, version), body, keys.of_content([AnthropicSubject])])


class AnthropicSubject:
    """A model that answers over the network, several prompts at a time."""

    def __init__(
        self,
        ref: ModelRef,
        *,
        version: str = "",
        base_url: str = "",
        api_key_env: str = "",
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 5,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        self.at = _service(ref.path, {"base_url": base_url, "api_key_env": api_key_env})
        self.name, self.path, self.timeout, self.body = ref.name, ref.path, timeout, dict(body or {})
        self.digest = ref.digest or _digest(self.at, ref.path, version)
        self.concurrency, self.retries = concurrency, retries
        self._client = connect(self.at, timeout)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is known of it by now, also who its answers say wrote them."""
        return {"server": self.at.url, "path": self.path, **self.at.peer.facts(self.path)}

    def close(self) -> None:
        self._client.close()

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `stream_generate`."""
        return [answer for _, answer in sorted(self.stream_generate(prompts, **options))]

    def stream_generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> Iterator[tuple[int, str]]:
        """Answer each prompt, text as one message of the user's; yield (number, answer) as they come.

        Raises UsageError when one gets no answer, and on what the API does not offer.
        """
        how = Generate(**options)
        if how.sampling is not None:
            raise UsageError(f'model "{self.path}": the API draws tokens as it likes; remove the sampling')
        backend = _Generation(self, how)
        desk = Desk(backend, Budget(Prices()), None, concurrency=self.concurrency, retries=self.retries)
        for number, reply in desk.ask([_Asked(prompt) for prompt in prompts]):
            why = reply.why if isinstance(reply, Failed) else reply.problem
            if why:
                raise UsageError(f"{backend.where}: {why}")
            assert isinstance(reply, Reply)
            yield number, reply.text

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False) -> list[Logprob]:
        """Refuse: the API tells no log-probs."""
        raise UsageError(f'model "{self.path}": the API gives no log-probs; use an evaluator that generates')


@dataclass(frozen=True)
class _Asked:
    """One prompt as the API takes it: a system text, if there is one, and turns."""

    prompt: Prompt

    @property
    def asked(self) -> list[Any]:
        return [self.prompt]

    @property
    def fields(self) -> dict[str, Any]:
        if isinstance(self.prompt, str):
            return {"messages": [{"role": "user", "content": self.prompt}]}
        system = "\n\n".join(m["content"] for m in self.prompt if m["role"] == "system")
        turns = [m for m in self.prompt if m["role"] != "system"]
        return {"messages": turns, **({"system": system} if system else {})}


class _Generation:
    """What a desk asks: one answer of at most so many tokens."""

    def __init__(self, subject: AnthropicSubject, how: Generate) -> None:
        self.subject, self.how = subject, how
        self.where = f'model "{subject.path}" at {subject.at.place}'
        self.identity = [subject.at.url, subject.path]

    def ask(self, question: _Asked) -> Reply:
        """Put a prompt, once. Raises Trouble."""
        subject = self.subject
        asked = {**subject.body, "model": subject.path, "max_tokens": self.how.max_new_tokens, **question.fields}
        # The API takes no stop of white space alone; those are applied to what came.
        if stop := [s for s in self.how.stop if s.strip()]:
            asked["stop_sequences"] = stop
        reply, ended = post(subject._client, subject.at, subject.path, asked, subject.timeout)
        problem = "" if ended in ENDED else f'it gave no answer, and ended by "{ended}"'
        text = _before(reply.text, self.how.stop)
        how: Ended = "stop" if text != reply.text else ENDED.get(ended, "")
        return replace(reply, text=Said(text, how, reply.tokens_out), problem=problem)

    def most(self, question: _Asked) -> Reserved:
        return Reserved(0, 0)

    def close(self) -> None:
        """Do nothing: the client is the subject's, which asks again."""


def _before(text: str, stop: Sequence[str]) -> str:
    found = [at for s in stop if s and (at := text.find(s)) >= 0]
    return text[: min(found)] if found else text


def _service(path: str, options: Mapping[str, Any]) -> Service:
    try:
        return Service("anthropic", str(options.get("base_url") or ""), str(options.get("api_key_env") or ""))
    except UsageError as error:
        raise UsageError(*(f'model "{path}": {m}' for m in error.messages)) from None


def _digest(at: Service, path: str, version: str) -> str:
    return digest_of(["anthropic", at.url, path, version])
