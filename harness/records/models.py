"""The one seam to the heavy world: where a model is, and what a loaded one can do."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack, cast

from harness import plugin_errors
from harness.records.samples import Prompt


@dataclass(frozen=True)
class Seal:
    """The digests of a candidate's folder at the time of opening.

    `weights` is the digest of its weights, `files` has the sha256 of its files by name. `template` is the digest of the
    chat templates of its prompts, `base` that of the weights under an adapter. `beside` names the files that its loader
    does not read, which are not exported.
    """

    weights: str
    files: Mapping[str, str]
    template: str | None
    base: str = ""
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelRef:
    """The location of a model, with its adapter and quantization.

    `path` is understood by the loader (a folder once the source was opened), `adapter` is a PEFT folder on top of it,
    `quantization` holds the keywords of a BitsAndBytesConfig, `digest` identifies the weights. A candidate that may be
    exported has a `seal`.
    """

    name: str
    path: str
    digest: str = ""
    adapter: Path | None = None
    quantization: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seal: Seal | None = None


@dataclass(frozen=True)
class Logprob:
    """The log-probability of one continuation: nats in total, tokens and UTF-8 bytes of it, and
    whether greedy decoding would have produced it."""

    total: float
    tokens: int
    bytes: int
    greedy: bool


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, with one seed per prompt.

    `seeds` make each row independent of the others. Of the distribution at `temperature` the `top_k` likeliest tokens
    are kept (0: all), then the fewest with probabilities that reach `top_p`.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class ThoughtBudget:
    """How long a model may think, between its two marks: after `tokens` the thought is closed by force.

    The answer has `max_new_tokens` of its own from the thought's end on.
    """

    begin: str
    end: str
    tokens: int


class Generation(TypedDict, total=False):
    """The keywords of `subject.generate`, which are the fields of Generate."""

    max_new_tokens: int
    stop: Sequence[str]
    sampling: Sampling | None
    truncate: bool
    thought_budget: ThoughtBudget | None


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How prompts are answered: at most `max_new_tokens` each, to the first string of `stop`, greedily unless `drawn`.

    A subject makes one of the keywords that it is called with, so that a misspelt one is a TypeError.
    """

    max_new_tokens: int = 64
    stop: Sequence[str] = ()
    sampling: Sampling | None = None
    truncate: bool = False
    thought_budget: ThoughtBudget | None = None

    @property
    def drawn(self) -> Sampling | None:
        """The sampling settings; None for greedy decoding, as at temperature 0."""
        return self.sampling if self.sampling and self.sampling.temperature > 0 else None

    @property
    def keywords(self) -> Generation:
        """The keywords to pass on to another subject.

        Options without effect are left out, since that subject may not know them.
        """
        said = {name: value for name, value in vars(self).items() if value or name in ("max_new_tokens", "stop")}
        return cast(Generation, said)

    def for_prompts(self, numbers: Sequence[int]) -> Generate:
        """Return how some of the prompts are answered, by their numbers: with their seeds."""
        if self.sampling is None:
            return self
        return replace(self, sampling=replace(self.sampling, seeds=tuple(self.sampling.seeds[i] for i in numbers)))


class Subject(Protocol):
    """A loaded model under test.

    A prompt that is too long for the model raises UsageError, or with `truncate` loses its beginning, as in lm_eval.
    A score counts the tokens behind those of the prompt as `generate` opens it (`harness.data.encoding`).
    Scores with `truncate` are lm_eval's in all: it gives the white space that ends a text prompt to the continuation,
    cuts a token that straddles both where the prompt's tokens end, and puts a second BOS before a whole text that its
    tokenizer gave one.
    `ExtendedSubject` has the members that a subject may have beside these.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 64,
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        truncate: bool = False,
        thought_budget: ThoughtBudget | None = None,
    ) -> list[str]:
        """Return a completion of each prompt.

        Decoding is greedy unless `sampling` is given, and ends at the first stop string or token.
        """

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False) -> list[Logprob]:
        """Score each continuation after its prompt.

        With an empty prompt the continuation is a whole text, scored in windows if it is long.
        """


class Distributions(Protocol):
    """The additional method of a Subject that `drift` needs."""

    def token_kl(self, texts: Sequence[str], against: Any) -> list[tuple[float, int]]:
        """Return each text's summed KL(against ‖ self) and token count.

        The sum is over the text's tokens, in nats.
        """


class ExtendedSubject(Subject, Distributions, Protocol):
    """A Subject with every optional member.

    A loader's subjects may lack any of them, so use `getattr` with a default. `context` is in tokens, `nbytes` is the
    size of the weights in bytes. `prefix` is the text of the token before a text without a prompt, `notes` are remarks
    for readers on how answers were computed, `facts` are the subject's findings about itself, for the report.
    `preferred_batch_rows` is the number of rows that an evaluator should pass at once (64 if None).
    """

    @property
    def context(self) -> int | None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def prefix(self) -> str: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def preferred_batch_rows(self) -> int | None: ...

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Return the number of tokens of each prompt and continuation together."""

    def prompt_tokens(self, prompt: Prompt) -> list[str]:
        """Return the text of each token of a prompt. The tokens are those that the model gets."""

    def render(self, messages: list[dict[str, str]]) -> str:
        """Apply the chat template to messages, with the answer's turn opened."""

    def stream_generate(self, prompts: Sequence[Prompt], **options: Unpack[Generation]) -> Iterator[tuple[int, str]]:
        """Yield (number, completion) pairs as they finish, in any order.

        An interrupted run keeps those that it received.
        """

    def stream_logprobs(
        self, pairs: Sequence[tuple[Prompt, str]], *, truncate: bool = False
    ) -> Iterator[tuple[int, Logprob]]:
        """Yield number and score as scores come, in any order."""

    def forget(self) -> None:
        """Drop the caches of earlier requests. An answer then depends on its own request alone."""


class Source(Protocol):
    """A model that is on this machine but not in memory: what preflight may ask of it.

    `context` is in tokens, None where it is unknown; `facts` (parameters, dtype, bytes) are for the report.
    """

    @property
    def path(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def context(self) -> int | None: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...

    def count_tokens(self, pairs: Sequence[tuple[Prompt, str]]) -> list[int]:
        """Count the tokens of each prompt with its continuation.

        They are counted as the subject would see them.
        """


class Adapter(Protocol):
    """`[adapter] use = …`: what PEFT and the loader are told, and how the adapter is merged.

    It may have `verify(base, adapter, merged, *, variant) -> dict`: read the merged model back, raise CheckFailedError
    when it is not the adapter on that base, return facts for the report. `merge` may take `progress` as well.
    """

    @property
    def quantization(self) -> Mapping[str, Any] | None: ...

    def check(self) -> None:
        """Build the real configuration objects. Raises UsageError if they refuse an option."""

    def check_targets(self, base: str) -> None:
        """Raise UsageError if the base lacks a module to adapt. `base` is the base's folder."""

    def check_merge(self, variant: str, base: str, adapter: Path | None = None) -> None:
        """Raise UsageError if an adapter cannot be merged onto this base.

        Without `adapter` it is about any adapter of this configuration, with it about the one in that folder. `variant`
        is the variant of the base, `base` its folder. An implementation may leave out `base` and `adapter`.
        """

    def peft_config(self) -> Any: ...

    def check_fits(self, base: str, base_digest: str, adapter: Path) -> None:
        """Raise UsageError if a foreign adapter does not fit the base.

        It is not an adapter, or was trained on another base.
        """

    def merge(self, base: str, adapter: Path, out: Path, *, variant: str) -> None:
        """Write the merged model to the empty folder `out`.

        `variant` is "original" or "dequantized". Raises CheckFailedError if the written weights are not finite or not
        as expected.
        """


@dataclass(frozen=True)
class Progress:
    """A sign of life from something slow: `done` of `total` steps, and facts such as loss or tokens per second.

    `remark` is a line that is to stay, such as the validation loss of an epoch.
    """

    what: str
    done: int
    total: int
    facts: Mapping[str, str | float] = field(default_factory=dict)
    remark: str = ""


def stream_answers(
    subject: Any, method: str, requests: Sequence[Any], options: Mapping[str, Any]
) -> Generator[tuple[int, Any], None, None]:
    """Yield (number, answer) pairs as they finish.

    A subject that cannot stream is called once with all requests. Raises UsageError if it does not return one answer
    per request.
    """
    if stream := getattr(subject, f"stream_{method}", None):
        yield from stream(requests, **options)
    else:
        ask, kind = getattr(subject, method), {"generate": str, "logprobs": Logprob}.get(method, object)
        answers = list(plugin_errors.checked_items(ask, ask(requests, **options), kind, "answers, one per request"))
        if len(answers) != len(requests):
            raise plugin_errors.plugin_error(ask, f" returned {len(answers)} answers to {len(requests)} requests")
        yield from enumerate(answers)


def split_chunks(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Cut rows into pieces of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
