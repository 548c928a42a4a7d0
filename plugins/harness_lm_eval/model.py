"""A model under test as lm_eval sees one: its LM interface over a Subject. Imports lm_eval: import inside functions."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM  # noqa: TID253 -- a base class; this module is imported when rows are scored
from lm_eval.models.utils import normalize_gen_kwargs  # noqa: TID253

from harness import Logprob, Sampling, Subject, UsageError
from harness.internals import chat

Conversation = list[dict[str, str]]
Drawing = tuple[float, float, int]  # temperature, top-p, top-k
NEW_TOKENS = 256  # where a task does not say, as lm_eval's HF backend has it


class SubjectLM(LM):  # type: ignore[misc] # lm_eval is not typed
    """Answers lm_eval's requests with a Subject: all of a kind in one call, so that their prompts can be shared.

    What is longer than the model loses its beginning, as in lm_eval; `cut` tells by how many tokens, where the
    subject counts them. `arguments` are the chat template's, `seed` and a request's task, document and repeat make the
    seed of its random numbers.
    """

    def __init__(self, subject: Subject, *, seed: int = 0, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.subject, self.seed, self.arguments = subject, seed, arguments or {}
        self.context: int | None = getattr(subject, "context", None)
        self.cut: dict[tuple[str, int], int] = {}  # (task, doc_id) -> tokens

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, is greedy) of each continuation."""
        pairs = [request.args[:2] for request in requests]
        # what has no context follows the model's first token, which it does not predict
        if prefix := str(getattr(self.subject, "prefix", "")):
            pairs = [(c, text) if c else (prefix, text.removeprefix(prefix)) for c, text in pairs]
        self._record_truncated_rows(requests, pairs, 1)  # the last token is predicted, not read
        return [(p.total, p.greedy) for p in self._compute_truncated_logprobs(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text in nats.

        Texts longer than the model's context are read in windows.
        """
        return [p.total for p in self._compute_truncated_logprobs([("", request.args[0]) for request in requests])]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return one completion per request.

        Requests with the same options are batched, and equal greedy prompts are run once.
        """
        groups: dict[tuple[int, tuple[str, ...], Drawing | None], list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(self._parse_generation_options(request), []).append(number)
        answers = [""] * len(requests)
        for (new, stop, drawn), numbers in groups.items():
            some = [requests[i] for i in numbers]
            prompts = [request.args[0] for request in some]
            self._record_truncated_rows(some, [(prompt, "") for prompt in prompts], -new)
            asked: dict[str, Any] = {"max_new_tokens": new, "stop": stop, "truncate": True}
            if drawn:
                repeats, seeds = Counter[tuple[Any, ...]](), []
                for request in some:  # other documents and other repeats draw other numbers, the same ones every time
                    who = (request.task_name, request.doc_id, request.idx)
                    text = repr((self.seed, *who, repeats[who]))
                    seeds.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]))
                    repeats[who] += 1
                sampling = Sampling(*drawn, seeds=tuple(seeds))
                found = self.subject.generate(prompts, sampling=sampling, **asked)
            else:
                once = list(dict.fromkeys(prompts))
                told = dict(zip(once, self.subject.generate(once, **asked), strict=True))
                found = [told[prompt] for prompt in prompts]
            for i, answer in zip(numbers, found, strict=True):
                answers[i] = answer
        return answers

    def apply_chat_template(self, chat_history: Conversation, add_generation_prompt: bool = True) -> str:
        """Format messages with the model's chat template.

        Without `add_generation_prompt` the last message is left open. Raises UsageError if the model has no template.
        """
        left_open = [] if add_generation_prompt else [chat_history[-1]["content"]]
        turns = chat.join_arguments(chat_history[: len(chat_history) - len(left_open)], self.arguments)
        try:
            return "".join([self.subject.render(turns), *left_open])  # type: ignore[attr-defined]
        except AttributeError:
            raise UsageError(f'chat: "{self.subject.name}" has no chat template to apply; remove chat') from None

    @property
    def tokenizer_name(self) -> str:
        """Return the name of the tokenizer; lm_eval keys caches by it."""
        return str(self.subject.digest)

    def _compute_truncated_logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[Logprob]:
        return self.subject.logprobs(pairs, truncate=True) if pairs else []

    def _parse_generation_options(self, request: Any) -> tuple[int, tuple[str, ...], Drawing | None]:
        """Parse a request's new tokens, stop strings and sampling options.

        The last are temperature, top-p and top-k, or None if it is greedy. Raises UsageError for beam search, and for
        more new tokens than the context has room for.
        """
        known = normalize_gen_kwargs(request.args[1], NEW_TOKENS)
        if int(known.get("num_beams") or 1) > 1:
            raise UsageError(
                f'task "{request.task_name}": needs beam search, but the harness decodes greedily or samples'
            )
        new, stop = int(known["max_gen_toks"]), tuple(s for s in known["until"] if s)
        if self.context is not None and new >= self.context:
            what = f"needs {new} new tokens, but the context of {self.subject.name} is {self.context}"
            raise UsageError(f'task "{request.task_name}": {what}; set gen_kwargs = {{ max_gen_toks = … }}')
        if not (known["do_sample"] and known.get("temperature", 1.0)):
            return new, stop, None
        return new, stop, (float(known["temperature"]), float(known.get("top_p") or 1), int(known.get("top_k") or 0))

    def _record_truncated_rows(self, requests: Sequence[Any], pairs: Sequence[tuple[str, str]], room: int) -> None:
        """Record the truncated rows, and by how many tokens.

        A token is at least a byte, so the tokens of short rows are not counted.
        """
        if self.context is None:
            return
        limit = self.context + room
        long = [i for i, pair in enumerate(pairs) if len("".join(pair).encode()) + 2 > limit]
        counts = self.subject.count_tokens([pairs[i] for i in long]) if long else []  # type: ignore[attr-defined]
        for i, count in zip(long, counts, strict=True):
            if count > limit:
                where = (requests[i].task_name, requests[i].doc_id)
                self.cut[where] = max(self.cut.get(where, 0), count - limit)
