"""A model behind Anthropic's API as a Subject: it answers, and gives no log-probs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

import harness
from harness import Completion, FinishReason, Generate, Generation, Logprob, ModelRef, Prompt, Subject, UsageError
from harness.internals import schema
from harness_judge.options import Anthropic

if TYPE_CHECKING:
    from harness_judge.service import Service

FINISH_REASONS: dict[str, FinishReason] = {"end_turn": "eos", "stop_sequence": "stop", "max_tokens": "length"}


@dataclass(frozen=True)
class AnthropicSource:
    """A model's metadata from the API, without local files."""

    path: str
    digest: str
    context: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Return zeros: the context is unknown, so no length is checked."""
        return [0] * len(pairs)


@schema.accepts_options(Anthropic)
def open_source(path: str, options: Anthropic) -> AnthropicSource:
    """Open a model, checking API, key and model id.

    Raises UsageError if the API is unavailable, or rejects key or model.
    """
    from harness.internals import http_client

    at = _make_anthropic_service(path, options)
    try:
        with closing(at.connect()) as client:
            entry = at.send(client, f"/v1/models/{path}", None, path, options.timeout)
    except http_client.RequestError as trouble:
        raise UsageError(f'model "{path}" at {at.place}: {trouble}') from None
    shown = str(entry.get("display_name") or "") if isinstance(entry, dict) else ""
    facts = {"server": at.url, **({"name": shown} if shown else {}), **at.peer.facts(path)}
    return AnthropicSource(path, _digest_service_and_version(at, path, options), facts=facts)


@schema.accepts_options(Anthropic)
def identity(ref: ModelRef, options: Anthropic) -> str | None:
    """Return the identity of everything that answers depend on.

    The key is never part of it. None without a `version`, since the served model may change.
    """
    from harness.internals import keys

    told = [
        "anthropic",
        _digest_service_and_version(_make_anthropic_service(ref.path, options), ref.path, options),
        dict(options.body or {}),
    ]
    return harness.digest_value([*told, keys.digest_content([AnthropicSubject])]) if options.version else None


@harness.loader(
    open=open_source, identity=identity, needs=lambda options: ("anthropic",), lacks=("thought_budget", "sampling")
)
@schema.accepts_options(Anthropic)
@contextmanager
def load(refs: Sequence[ModelRef], options: Anthropic) -> Iterator[list[Subject]]:
    """Answer through Anthropic's API; the path is the model's id.

    Answers are remembered only under a `version`: what is served under a name can change. It gives no log-probs.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(closing(AnthropicSubject(ref, options))) for ref in refs]


class AnthropicSubject:
    """A model behind Anthropic's API, called concurrently."""

    def __init__(self, ref: ModelRef, options: Anthropic) -> None:
        self.at, self.name, self.path, self.options = (
            _make_anthropic_service(ref.path, options),
            ref.name,
            ref.path,
            options,
        )
        self.digest = ref.digest or _digest_service_and_version(self.at, ref.path, options)
        self.client = self.at.connect()

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts known so far, with the models named in replies."""
        return {"server": self.at.url, "path": self.path, **self.at.peer.facts(self.path)}

    def close(self) -> None:
        """Close its connections."""
        self.client.close()

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `stream_generate`."""
        return [answer for _, answer in sorted(self.stream_generate(prompts, **options))]

    def stream_generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> Iterator[tuple[int, str]]:
        """Yield (number, answer) pairs as answers arrive.

        Equal prompts are sent once, a text as a single user message. Raises UsageError if a prompt gets no answer, and
        on options that the API does not offer.
        """
        from harness.internals import http_client

        if (how := Generate(**options)).sampling is not None:
            raise UsageError(f'model "{self.path}": the API does not take sampling options; remove them')
        same: dict[str, list[int]] = {}
        for number, prompt in enumerate(prompts):
            same.setdefault(repr(prompt), []).append(number)
        groups = list(same.values())

        def ask(group: int, stop: threading.Event) -> str:
            prompt = prompts[groups[group][0]]
            try:
                return http_client.retry(lambda: self._answer(prompt, how), self.options.retries + 1, stop)
            except http_client.RequestError as trouble:
                after = f", after {trouble.tries} tries" if trouble.tries > 1 else ""
                raise UsageError(f'model "{self.path}" at {self.at.place}: {trouble}{after}') from None

        for group, answer in http_client.map_concurrent(ask, len(groups), self.options.concurrency):
            yield from ((number, answer) for number in groups[group])

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False) -> list[Logprob]:
        """Refuse: the API tells no log-probs."""
        raise UsageError(f'model "{self.path}": the API provides no log-probs; use an evaluator that generates')

    def _answer(self, prompt: Prompt, how: Generate) -> str:
        """Send a prompt, once. Raises RequestError."""
        from harness.internals import http_client

        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        asked = {**(self.options.body or {}), "max_tokens": how.max_new_tokens}
        asked["messages"] = [m for m in turns if m["role"] != "system"]
        if system := "\n\n".join(m["content"] for m in turns if m["role"] == "system"):
            asked["system"] = system
        # The API takes no stop of white space alone; those are applied to what came.
        if stop := [s for s in how.stop if s.strip()]:
            asked["stop_sequences"] = stop
        reply, ended = self.at.message(self.client, self.path, asked, self.options.timeout)
        if ended not in FINISH_REASONS:
            raise http_client.RequestError(f'it sent no answer, with the stop reason "{ended}"')
        text = http_client.cut_at_stop(reply.text, how.stop)
        return Completion(text, "stop" if text != reply.text else FINISH_REASONS[ended], reply.tokens_out)


def _make_anthropic_service(path: str, options: Anthropic) -> Service:
    from harness_judge.service import Service

    try:
        return Service("anthropic", options.base_url, options.api_key_env)
    except UsageError as error:
        raise UsageError(*(f'model "{path}": {m}' for m in error.messages)) from None


def _digest_service_and_version(at: Service, path: str, options: Anthropic) -> str:
    return harness.digest_value(["anthropic", at.url, path, options.version])
