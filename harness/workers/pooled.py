"""One of the models that workers hold, as a subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Unpack

from harness.records.models import Generation, Logprob, ModelRef
from harness.records.samples import Prompt
from harness.workers.pieces import APPETITE

Ask = Callable[[int, str, Sequence[Any], Mapping[str, Any]], Iterator[tuple[int, Any]]]


class Pooled:
    """One of a pool's models, as a Subject."""

    def __init__(self, ask: Ask, of_workers: list[str], number: int, ref: ModelRef, piece: int) -> None:
        self.appetite = APPETITE * piece
        self.name, self.digest, self.number = ref.name, ref.digest, number
        self._ask, self._of_workers, self._notes, self._heard = ask, of_workers, list[str](), set[str]()
        self.facts: Mapping[str, Any] = {}  # what a worker's model came to know stays there

    @property
    def notes(self) -> list[str]:
        """What the model says of itself, once however many workers say so, and what became of the workers."""
        self._notes += self._of_workers
        self._of_workers.clear()
        return self._notes

    def hear(self, notes: Any) -> None:
        """Take what a worker's model says of itself."""
        new = [note for note in map(str, notes) if note not in self._heard] if isinstance(notes, list) else []
        self._heard.update(new)
        self._notes += new

    def generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> list[str]:
        """Answer each prompt; see `Subject`."""
        return self._all("generate", prompts, options)

    def stream_generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> Iterator[tuple[int, str]]:
        """Yield (number of the prompt, answer) as pieces of answers come."""
        return self._ask(self.number, "generate", prompts, options)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after its prompt; see `Subject`."""
        return self._all("logprobs", pairs, options)

    def stream_logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> Iterator[tuple[int, Logprob]]:
        """Yield (number of the pair, score) as pieces of scores come."""
        return self._ask(self.number, "logprobs", pairs, options)

    def token_kl(self, texts: Sequence[str], against: Pooled) -> list[tuple[float, int]]:
        """Compare next-token distributions with those of another model of the same workers."""
        return self._all("token_kl", texts, {"against": against.number})

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt and continuation together."""
        return self._all("count_tokens", pairs, {})

    def render(self, messages: list[dict[str, str]]) -> str:
        """Write chat messages as the template does, with the answer's turn opened."""
        return str(self._all("render", [messages], {})[0])

    def __getattr__(self, name: str) -> Any:
        """Ask a worker for a fact, such as `nbytes`."""
        if name.startswith(("_", "stream_")):
            raise AttributeError(name)
        with suppress(TypeError):
            return self._all("fact", [name], {})[0]
        raise AttributeError(name)

    def _all(self, method: str, requests: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        found = dict(self._ask(self.number, method, requests, options))
        return [found[i] for i in range(len(requests))]
