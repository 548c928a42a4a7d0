"""A served model as the harness sees it: generate, logprobs, and what preflight may ask."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Unpack

from harness import Completion, Generate, Generation, Logprob, ModelRef, Prompt, Sampling, UsageError
from harness.internals import chat, drop_surrogates, http_client
from harness_api import replies
from harness_api.options import ApiOptions
from harness_api.scoring import Scoring, ServerTokens, message_fields
from harness_api.server import CHAT, COMPLETIONS, Dialect, Endpoint, RequestRefusedError, Server

# stop strings of one request, at most: OpenAI's and vLLM's limit; `cut_at_stop` cuts at the others
MAX_STOP_STRINGS = 4
RANDOM, HOT = "Twenty random words, all different:", 2.0  # a prompt and a temperature that give no text twice
SEPARATE_TOKENS_NOTE = (
    "answers after messages are tokenised separately: the server gives no text that has the same tokens"
)
HALVES = "answers contain a lone surrogate, which is not a valid character; it is replaced by U+FFFD"


@dataclass(frozen=True)
class APISource:
    """A model that is served: its name, and what was found out about it."""

    path: str
    digest: str
    context: int | None  # tokens; None where they cannot be counted, so that nobody checks lengths
    facts: Mapping[str, Any]
    tokens: ServerTokens | None = field(repr=False)
    workers: int = 1

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together. Zeros if the server has no tokenizer."""
        return self.tokens.count(pairs, self.workers) if self.tokens else [0] * len(pairs)


class APISubject:
    """A model under a name on a server."""

    def __init__(self, ref: ModelRef, server: Server, found: Dialect, options: ApiOptions) -> None:
        if ref.adapter or ref.quantization:
            what = 'the loader "api" cannot load an adapter into a served model; serve the adapter, and name it in path'
            raise UsageError(f'model "{ref.name}": {what}')
        self.name, self.model = ref.name, ref.path
        self.digest = ref.digest or options.digest(ref.path)
        self.server, self.dialect, self.options = server, found, options
        self.context = found.context
        self.tokens = ServerTokens(server, ref.path, options.prefix) if found.tokenizes else None
        self.asked = {**(options.body or {}), "model": ref.path}
        kept = 'run again; with version = "…" its answers would have been cached'
        self.advice = "run again, its answers are cached" if options.version else kept
        self.notes: list[str] = []
        self._draws = False  # until that was seen

    @property
    def facts(self) -> Mapping[str, Any]:
        """The known facts, including the models that replies name."""
        return {"path": self.model, **self.dialect.facts, **self.server.peer.facts(self.model)}

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `stream_generate`."""
        return [answer for _, answer in sorted(self.stream_generate(prompts, **options))]

    def stream_generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> Iterator[tuple[int, str]]:
        """Yield (number, answer) for each prompt as answers come.

        Answers are greedy unless sampling is requested, and end before the first stop string. `truncate` cuts text from
        the left if the server's tokens and context are known. Raises UsageError when the server refuses a prompt,
        ignores the temperature of a sample, or gives up answering; earlier answers are yielded before.
        """
        how = Generate(**options)
        if how.max_new_tokens < 1:
            yield from ((i, Completion("", "length", 0)) for i in range(len(prompts)))
            return
        if how.drawn:
            self._require_working_temperature(how.drawn, len(prompts))

        def ask(number: int, ended: threading.Event) -> str:
            return self._answer(prompts[number], how.for_prompts([number]) if how.drawn else how, ended)

        yield from http_client.map_concurrent(ask, len(prompts), self.options.concurrency)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after its prompt; see `stream_logprobs`."""
        return [score for _, score in sorted(self.stream_logprobs(pairs, **options))]

    def stream_logprobs(
        self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False
    ) -> Iterator[tuple[int, Logprob]]:
        """Yield (number, score) for each continuation as scores come.

        A text without a prompt is scored as a whole. Raises UsageError when the server does not offer the log-probs of
        a prompt, or no exact number can be had.
        """
        scoring = Scoring(self.server, self.dialect, self.asked, self.tokens, self.advice)

        def ask(number: int, ended: threading.Event) -> Logprob:
            return scoring.score(*pairs[number], truncate=truncate, stop=ended)

        yield from http_client.map_concurrent(ask, len(pairs), self.options.concurrency)
        if self.tokens and not self.tokens.joins and SEPARATE_TOKENS_NOTE not in self.notes:
            self.notes.append(SEPARATE_TOKENS_NOTE)

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together.

        Raises UsageError if the server has no tokenizer.
        """
        if self.tokens is None:
            raise UsageError(
                f"{self.server.where}: has no /tokenize, so tokens cannot be counted; serve the "
                "model with vLLM, or use another metric"
            )
        return self.tokens.count(pairs, self.options.concurrency)

    def _answer(self, prompt: Prompt, how: Generate, ended: threading.Event) -> str:
        said = prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")) if prompt else ""
        about, stops = f" (the prompt ending {said[-40:]!r})", [s for s in how.stop if s]  # few-shot ones begin alike
        sent: Prompt | list[int] = prompt
        if how.truncate and self.tokens and self.context is not None and self.dialect.text.path == COMPLETIONS:
            room, ids = max(1, self.context - how.max_new_tokens), self.tokens.encode_prompt(prompt, ended)
            sent = prompt if len(ids) <= room else ids[-room:]
        endpoint, asked = self._select_endpoint_and_fields(sent)
        drawn: dict[str, Any] = {"temperature": 0}
        if sampling := how.drawn:
            drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seeds[0]}
            if sampling.top_k:  # OpenAI does not know it; 0 would have to be said in another way to every server
                drawn["top_k"] = sampling.top_k
        asked = {**self.asked, **drawn, **asked, **({"stop": stops[:MAX_STOP_STRINGS]} if stops else {})}
        body, read = endpoint.body(how.max_new_tokens, asked), partial(replies.read_answer, stop=stops)
        text = self.server.ask(endpoint.path, body, read=read, about=about, advice=self.advice, stop=ended)
        if (key := self.server.peer.key) and key in text:
            raise UsageError(f"{self.server.where}: repeats its API key in an answer{about}; do not use it")
        if (mended := drop_surrogates(text)) != text:
            self.notes += [] if HALVES in self.notes else [HALVES]
            return Completion(mended, **vars(text))
        return text

    def _require_working_temperature(self, sampling: Sampling, prompts: int) -> None:
        """Refuse to sample from a server that ignores temperature: every draw would be the same greedy answer."""
        if len(sampling.seeds) != prompts:
            raise UsageError(f"sampling: has {len(sampling.seeds)} seeds for {prompts} prompts")
        endpoint, asked = self._select_endpoint_and_fields(RANDOM)
        if self._draws or "temperature" in endpoint.without:
            return
        how, texts = {**self.asked, **asked, "temperature": HOT}, set[str]()
        for seed in (1, 2):
            try:
                said = self.server.ask(
                    endpoint.path, endpoint.body(16, {**how, "seed": seed}), read=replies.single_choice
                )
            except RequestRefusedError:  # too short a limit for a model that reasons; what it draws then nobody can see
                return
            texts.add(json.dumps(said, sort_keys=True))  # with the reasoning, where there is any
        if len(texts) == 1:
            only = (
                "for instance, transformers serve samples only where the model's generation_config.json sets do_sample"
            )
            what = f"ignores temperature: two seeds gave the same answer at {HOT:g}; {only}"
            raise UsageError(f"{self.server.where}: {what}")
        self._draws = True

    def _select_endpoint_and_fields(self, prompt: Any) -> tuple[Endpoint, dict[str, Any]]:
        """Return where a prompt goes, and the fields that carry it."""
        messages = isinstance(prompt, list) and not (prompt and isinstance(prompt[0], int))
        endpoint = self.dialect.chat if messages else self.dialect.text
        if endpoint is None:
            raise UsageError(f"{self.server.where}: does not accept messages ({CHAT}); give text prompts")
        if endpoint.path == COMPLETIONS:
            return endpoint, {"prompt": prompt}
        if not messages:
            return endpoint, {"messages": [{"role": "user", "content": prompt}]}
        fields = message_fields(prompt)
        if chat.ARGUMENTS in fields and chat.ARGUMENTS in self.asked:
            fields[chat.ARGUMENTS] = {**self.asked[chat.ARGUMENTS], **fields[chat.ARGUMENTS]}
        return endpoint, fields
