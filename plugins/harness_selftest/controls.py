"""Negative controls: what stands in a candidate's place and must not ship, for `harness selftest`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.artifacts.digests import weights_digest
from harness.collection.collected import Collection
from harness.errors import UsageError
from harness.records.models import Logprob, ModelRef, Subject
from harness.records.samples import Prompt

Disguise = Callable[[Subject], Subject]
Made = tuple[ModelRef, Disguise | None]  # a control, and what stands before it
Make = Callable[[ModelRef], Made]  # of the base
ITSELF = "base itself"
FIX = "claim what it lacks, for instance to be better than the base"
FOOLED = "It answers nothing, and the gates of the evaluation let it through."
DISTRUST = "what this evaluation says of answers proves nothing; take another judge, or ask for more than it gave"


class NotMade(Exception):
    """A saboteur has nothing to say to this base."""


@dataclass(frozen=True)
class Control:
    """A negative control: why it must not ship, how it is made, and the collection whose gates it is put through.

    An adversary has an `answer` that deserves nothing, before the gates of one `eval`: its collection is that alone.
    """

    name: str
    why: str
    collection: Collection
    make: Make
    fix: str = FIX
    eval: str = ""
    answer: Callable[[Prompt], str] | None = None


def controls_of(collection: Collection, folder: Path) -> list[Control]:
    """Return the base itself, what plugins make of it, and the base behind answers that are spoilt."""
    name, itself = collection.candidates[0], "The base passed off as the candidate."
    found: dict[str, tuple[str, Make]] = {ITSELF: (itself, lambda base: (replace(base, name=name), None))}
    saboteurs = {p.name: p.function for (kind, _), p in collection.plugins.provided.items() if kind == "saboteur"}
    for label, saboteur in saboteurs.items():
        out = folder / label.replace(" ", "-")
        found[label] = (_first_line(saboteur), partial(_sabotaged, collection, label, saboteur, out))
    for label, disguise in {"shuffled answers": Shuffled, "constant answer": Constant}.items():
        found[label] = (_first_line(disguise), partial(_disguised, name, disguise, "disguised"))
    return [Control(label, why, collection, make) for label, (why, make) in found.items()]


def adversaries_of(collection: Collection) -> Iterator[Control]:
    """Yield the worthless answers that an evaluator names, for every evaluation that gates a candidate."""
    for name, task in collection.tasks.items():
        answers = task.about.adversaries
        alone = _alone(collection, name)
        if answers and any(g.blocking for g in alone.gates(collection.candidates[0])):
            for label, answer in answers(dict(task.spec.options)).items():
                title, worthless = f"{name}: {label}", partial(Worthless, answer=answer)
                make = partial(_disguised, collection.candidates[0], worthless, f"{title}, not")
                yield Control(title, FOOLED, alone, make, DISTRUST, name, answer)


def _alone(collection: Collection, evaluation: str) -> Collection:
    """Leave of a collection one evaluation and the gates that stand on it alone; they require no others."""
    kept = {g.id for g in collection.suite.gates if g.metric and g.eval == evaluation}
    kept |= {g.id for g in collection.suite.gates if g.any_of and kept.issuperset(g.any_of)}
    gates = tuple(
        replace(g, requires=[r for r in g.requires if r in kept], group=g.group if g.group in kept else "")
        for g in collection.suite.gates
        if g.id in kept
    )
    # others have no gate
    evals = tuple(e if e.name == evaluation else replace(e, stop="end") for e in collection.suite.evals)
    items = tuple(i for i in collection.items if i.eval == evaluation)
    return replace(collection, suite=replace(collection.suite, evals=evals, gates=gates), items=items)


def _sabotaged(collection: Collection, label: str, saboteur: Callable[..., Any], out: Path, base: ModelRef) -> Made:
    out.mkdir()
    before = weights_digest(Path(base.path))
    try:
        saboteur(Path(base.path), out, seed=collection.suite.about.seed)
    except UsageError as error:
        raise NotMade(str(error)) from None
    if weights_digest(Path(base.path)) != before:
        raise UsageError(f'saboteur "{label}" changed the base, which all others are compared with')
    name = collection.candidates[0]
    if (out / "adapter_config.json").is_file():
        return replace(base, name=name, adapter=out, digest=f"{base.digest} {weights_digest(out)}"), None
    return replace(base, name=name, path=str(out), digest=weights_digest(out)), None


def _disguised(name: str, disguise: Disguise, told: str, base: ModelRef) -> tuple[ModelRef, Disguise]:
    """Return the base under a name and a digest of its own: what stands before it makes it another model."""
    return replace(base, name=name, digest=f"{told} {base.digest}"), disguise


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


class _Disguised:
    """A subject behind something that spoils its answers; what is not an answer stays the model's own."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def __getattr__(self, name: str) -> Any:
        if name.startswith("stream_"):
            raise AttributeError(name)
        return getattr(self.subject, name)


class Shuffled(_Disguised):
    """Every row gets the answer to another row."""

    last: Prompt = "?"

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer each prompt with what the model says to the one before it."""
        others = [self.last, *prompts][: len(prompts)]
        self.last = prompts[-1] if prompts else self.last
        return self.subject.generate(others, **options)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after the prompt of the row before its own."""
        others: dict[str, Prompt] = {}
        for prompt, _ in pairs:
            if prompt and repr(prompt) not in others:
                others[repr(prompt)] = self.last
                self.last = prompt
        return self.subject.logprobs([(others.get(repr(p), p), c) for p, c in pairs], **options)


class Worthless(_Disguised):
    """Every row gets an answer that deserves nothing."""

    def __init__(self, subject: Subject, answer: Callable[[Prompt], str]) -> None:
        super().__init__(subject)
        self.answer = answer

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer without the model."""
        return [self.answer(p) for p in prompts]


class Constant(_Disguised):
    """Every row gets the answer to the first."""

    first: Prompt | None = None

    def generate(self, prompts: Sequence[Prompt], **options: Any) -> list[str]:
        """Answer with what the model says to the first prompt it ever got."""
        if not prompts:
            return []
        self.first = self.first or prompts[0]
        if sampling := options.pop("sampling", None):
            options["sampling"] = replace(sampling, seeds=sampling.seeds[:1])
        return self.subject.generate([self.first], **options) * len(prompts)

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]], **options: Any) -> list[Logprob]:
        """Score each continuation after the first prompt that there ever was."""
        self.first = self.first or next((p for p, _ in pairs if p), None)
        return self.subject.logprobs([(self.first or p if p else p, c) for p, c in pairs], **options)
