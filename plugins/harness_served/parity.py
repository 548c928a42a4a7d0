"""One comparison of a runtime with an export: what is asked, what was found, and the order in which it is looked at.

It goes on after a layer that differs, so that one run tells all faults; log-probabilities are asked with ids where that
is possible, so that a template's fault does not hide another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from harness import UsageError
from harness.internals import chat
from harness_served import DRAWN, GREEDILY
from harness_served.conversations import PROSE, make_conversations
from harness_served.runtime import GREEDY, Runtime, RuntimeAnswer

if TYPE_CHECKING:
    from harness.internals import ReplayRows
    from harness_served.reference import Reference, TokenScores

Verdict = Literal["same", "differs", "not proven", "unknown"]
SAME: Verdict = "same"
DIFFERS: Verdict = "differs"
UNPROVEN: Verdict = "not proven"
UNKNOWN: Verdict = "unknown"
ROWS = 8  # conversations of the suite that are looked at, beside the made ones
SECOND = 1000  # added to the seed of a second draw, which an alarm gets that may be by chance
BROKEN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class LayerVerdict:
    """What came of a layer: its verdict, a line that says why, its numbers, and by what it was seen."""

    verdict: Verdict
    reason: str
    seen: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation as the export's template and tokenizer have it."""

    messages: Sequence[Mapping[str, Any]]
    text: str
    ids: list[int]


@dataclass
class Parity:
    """A runtime beside the exported model, and what was found so far."""

    runtime: Runtime
    reference: Reference
    arithmetic: str
    seed: int = 0
    alpha: float = 0.01
    context: int = 0
    again: ReplayRows | None = None  # rows of the suite, where one was named
    found: dict[str, LayerVerdict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    heard: dict[str, Any] = field(default_factory=dict)  # what later layers need of earlier ones

    @cached_property
    def prompts(self) -> list[RenderedConversation]:
        """The conversations that the export's template takes: eight made ones, then more."""
        tokens, longer = self.reference.tokens, ""
        if self.context:
            longer = PROSE * max(1, (self.context - 100) // len(tokens.encode_plain(PROSE)))
        prompts, refused = self._prompted(make_conversations(str(tokens.tokenizer.eos_token or ""), longer))
        if not prompts:
            raise UsageError(f"the export rejects every conversation: {refused or 'its context is too short'}")
        return prompts

    @cached_property
    def rows(self) -> list[RenderedConversation]:
        """A few conversations of the suite's rows, for templates fail on what users have."""
        tasks, drawn = (self.again.collection.tasks, self.again.drawn) if self.again else ({}, {})
        inputs = [(tasks[name].samples or ())[number].input for name in drawn for number in drawn[name]]
        return self._prompted([said for said in inputs if isinstance(said, list)][:ROWS])[0]

    def _prompted(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[RenderedConversation], str]:
        """Return those that the export's template and context take, and why one was not taken."""
        tokens, prompts, refused = self.reference.tokens, list[RenderedConversation](), ""
        for messages in conversations:
            try:
                text = tokens.render([dict(m) for m in messages])
            except UsageError as error:
                refused = str(error)
                continue
            ids = tokens.encode_prompts([[dict(m) for m in messages]])[0]
            if not self.reference.context or len(ids) + DRAWN <= self.reference.context:
                prompts.append(RenderedConversation(messages, text, ids))
        return prompts, refused

    @property
    def max_prompt_tokens(self) -> int:
        """The tokens of the longest conversation that was compared."""
        return max(len(p.ids) for p in self.prompts)

    @property
    def plain_prompts(self) -> list[RenderedConversation]:
        """The conversations without tools, which a server may take only with a parser of calls."""
        return [p for p in self.prompts if chat.TOOLS not in chat.split_arguments(p.messages)[1]]

    @cached_property
    def answers(self) -> list[tuple[RenderedConversation, RuntimeAnswer, list[int]]]:
        """The runtime's greedy answers by way of its chat, and their tokens."""
        said = [(prompt, self.runtime.chat(prompt.messages, GREEDILY, GREEDY)) for prompt in self.plain_prompts]
        return [(prompt, answer, self.ids_of(prompt, answer)) for prompt, answer in said]

    @cached_property
    def answers_scored(self) -> list[TokenScores]:
        """What the reference thinks of those answers, at every place."""
        return [self.reference.score(prompt.ids, ids) for prompt, _, ids in self.answers]

    def ids_of(self, prompt: RenderedConversation, said: RuntimeAnswer) -> list[int]:
        """Return the tokens of an answer to a prompt: as told, else as the export cuts it behind the prompt.

        A text is read up to a broken character, and only where its tokens are as many as is told: llama.cpp leaves out
        parts of a character, a text special tokens.
        """
        if said.ids and self._whole(said, said.ids):
            return said.ids
        text, broken, _ = said.text.partition(BROKEN)
        [(_, ids)] = self.reference.tokens.encode_pairs([([dict(m) for m in prompt.messages], text)])
        own = [self.decode([i]).strip() for i in ids]
        same = said.texts is None or own == [text.strip() for text in said.texts[: len(own)]]
        return ids if same and (broken or self._whole(said, ids)) else []

    def _whole(self, said: RuntimeAnswer, ids: list[int]) -> bool:
        """Return whether tokens are as many as is told, but for one that ended them."""
        ends = said.ended == "stop" and ids[-1:] not in ([i] for i in self.reference.stop_ids)
        return said.said is None or said.said - len(ids) in (0, int(ends))

    def covers_answer(self, said: RuntimeAnswer, ids: list[int]) -> bool:
        """Return whether tokens are all that was said, and not those before a broken character, or none for a text."""
        text = BROKEN not in said.text and bool(ids) == bool(said.text)
        return self._whole(said, ids) and (ids is said.ids or text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text that tokens come to, special ones left out, up to a part of a character."""
        return str(self.reference.tokens.tokenizer.decode(ids, skip_special_tokens=True)).partition(BROKEN)[0]

    def choice_margins(self, said: RuntimeAnswer, ids: list[int], scored: TokenScores) -> list[float]:
        """Return by how much the export's choice leads each token, up to where a text may be of it, cut otherwise."""
        leads, first = (scored.best[:-1] - scored.own).tolist(), scored.first.tolist()
        for at, lead in enumerate(leads if ids is not said.ids else ()):
            other = lead > 0 and first[at] not in self.reference.stop_ids
            if other and self.decode(ids[at:]).startswith(self.decode([first[at]])):
                return leads[:at]
        return leads

    def layer_verdict(self, name: str) -> Verdict | None:
        """Return what came of a layer; None where it was not looked at."""
        return self.found[name].verdict if name in self.found else None


def parity_exit_code(found: Mapping[str, LayerVerdict], wanted: Collection[str]) -> int:
    """Return 1 where a layer differs, 6 where one that is wanted is not proven to be the same, else 0."""
    if any(layer.verdict == DIFFERS for layer in found.values()):
        return 1
    return 0 if all(name in found and found[name].verdict == SAME for name in wanted) else 6
