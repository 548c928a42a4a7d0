"""Generate an answer and match it: exact_match, contains, token_f1, regex; or an earlier answer: regression.

Answers and targets are normalised alike. Whitespace is collapsed and Unicode composed (NFC) always. `ignore_case`
folds case, `ignore_punctuation` removes ASCII's punctuation and symbols and Unicode's punctuation without a space in
their place ("U.S." is "us", and "-3.5" is "35": D11-punctuation finds targets that become equal), and
`ignore_articles` removes "a", "an", "the". `exact_match` ignores nothing unless its suite says so, as in lm_eval;
`contains` and `token_f1` ignore case and punctuation, as SQuAD does. Of several targets the best counts. `thought`
names the marks of a thought, which is not matched (`harness.answers.reasoning`).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

from harness import Marking, Sample, Score, Subject, UsageError, evaluator, metric
from harness.internals import fold_case, generate_final_answers, schema
from harness_domain.values import BOM

ARTICLES = re.compile(r"\b(a|an|the)\b", re.IGNORECASE)
LINE = ("\n",)  # an answer is one line unless the suite says otherwise


@dataclass(frozen=True)
class MatchOptions:
    """The options for generating answers and normalising both answers and targets."""

    max_new_tokens: int = 32
    stop: tuple[str, ...] = LINE
    thought: tuple[str, ...] = ()
    ignore_case: bool = True
    ignore_punctuation: bool = True
    ignore_articles: bool = False

    def scores(
        self, name: str, compare: Callable[[str, str], float], subject: Subject, samples: Sequence[Sample]
    ) -> Iterator[Score]:
        """Score each answer by the target that it fits best."""

        def matcher(sample: Sample) -> Callable[[str], float]:
            if not all(targets := [self.normalize(t) for t in require_targets(sample)]):
                raise UsageError(f'row "{sample.id}": a target has only punctuation; set ignore_punctuation = false')
            return lambda answer: max(compare(self.normalize(answer), target) for target in targets)

        matches = [matcher(s) for s in samples]  # rows that cannot be scored are told before anything slow
        return _generate_and_match_answers(
            name, matches, subject, samples, self.max_new_tokens, self.stop, self.thought
        )

    def normalize(self, text: str) -> str:
        """Return a text as it is compared."""
        text = unicodedata.normalize("NFC", text.removeprefix(BOM))
        if self.ignore_case:
            text = fold_case(text)
        if self.ignore_punctuation:
            text = "".join(c for c in text if c not in string.punctuation and unicodedata.category(c)[0] != "P")
        if self.ignore_articles:
            text = ARTICLES.sub(" ", text)
        return " ".join(text.split())


@dataclass(frozen=True)
class ExactMatchOptions(MatchOptions):
    """The options of `exact_match`, which ignores nothing by default."""

    ignore_case: bool = False
    ignore_punctuation: bool = False


def _normalize_vote(answer: str, options: Mapping[str, Any]) -> str:
    """Normalise an answer as for comparison; equal results share a vote."""
    names = {field.name for field in fields(MatchOptions)}
    return ExactMatchOptions(**{name: value for name, value in options.items() if name in names}).normalize(answer)


@evaluator(votes=_normalize_vote)
@metric("exact_match", better="higher", scale="proportion")
@schema.accepts_options(ExactMatchOptions)
def exact_match(subject: Subject, samples: Sequence[Sample], options: ExactMatchOptions) -> Iterator[Score]:
    """Score 1 where the answer is a target. Raises UsageError on a row without a target."""
    return options.scores("exact_match", lambda answer, target: float(answer == target), subject, samples)


@metric("contains", better="higher", scale="proportion")
@schema.accepts_options(MatchOptions)
def contains(
    subject: Subject, samples: Sequence[Sample], options: MatchOptions, *, whole_words: bool = True
) -> Iterator[Score]:
    """Score 1 if the answer contains a target.

    Targets match as whole words: "no" is not in "I do not know". Set `whole_words = false` for languages written
    without spaces. Raises UsageError on a row without a target.
    """

    def within(answer: str, target: str) -> float:
        edges = r"(?<!\w)%s(?!\w)" if whole_words else "%s"
        return float(re.search(edges % re.escape(target), answer) is not None)

    return options.scores("contains", within, subject, samples)


@metric("token_f1", better="higher", scale="proportion")
@schema.accepts_options(MatchOptions)
def token_f1(subject: Subject, samples: Sequence[Sample], options: MatchOptions) -> Iterator[Score]:
    """Score the words an answer shares with its target: F1 of two bags of words (Rajpurkar et al. 2016, SQuAD).

    Raises UsageError on a row without a target.
    """

    def word_f1(answer: str, target: str) -> float:
        ours, theirs = answer.split(), target.split()
        shared = (Counter(ours) & Counter(theirs)).total()
        return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0

    return options.scores("token_f1", word_f1, subject, samples)


@metric("regex", better="higher", scale="proportion")
def regex(
    subject: Subject, samples: Sequence[Sample], *, pattern: str,
    max_new_tokens: int = 32, stop: tuple[str, ...] = LINE, thought: tuple[str, ...] = (),
) -> Iterator[Score]:  # fmt: skip
    """Score 1 if the pattern is found in the stripped answer.

    The answer is not normalised; rows need no target. Raises UsageError if the pattern cannot be compiled.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise UsageError(f'regex: pattern "{pattern}" is not a valid expression: {error}') from None
    matches = [lambda answer: float(wanted.search(answer.strip()) is not None)] * len(samples)
    return _generate_and_match_answers("regex", matches, subject, samples, max_new_tokens, stop, thought)


def _generate_and_match_answers(
    name: str, matches: Sequence[Callable[[str], float]], subject: Subject, samples: Sequence[Sample], *asked: Any
) -> Iterator[Score]:
    for sample, match, (said, details) in zip(samples, matches, generate_all(subject, samples, *asked), strict=True):
        yield Score(sample.id, {name: match(said)}, answer=said, details=details)


def generate_all(
    subject: Subject, samples: Sequence[Sample], max_new_tokens: int, stop: Sequence[str], thought: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Generate answers to all rows, with thoughts removed. The details of a score keep the whole completion."""
    asked = [s.input for s in samples]
    found = generate_final_answers(subject, asked, max_new_tokens=max_new_tokens, stop=stop, thought=thought)
    return ((said, {"generated": whole} if thought else {}) for said, whole in found)


def require_targets(sample: Sample) -> list[str]:
    """Return the targets of a row. Raises UsageError if there are none, or one is empty."""
    if not (targets := sample.targets) or not all(t.strip() for t in targets):
        raise UsageError(f'row "{sample.id}": target is missing or empty; map a column to it')
    return targets


def _require_single_earlier_answers(samples: Sequence[Sample], options: Mapping[str, Any], folder: Path) -> None:
    """Raise UsageError on a row without exactly one target, if compared.

    With `earlier = "against"` the earlier answer is another model's.
    """
    if options.get("earlier") != "against":
        for sample in samples:
            _require_single_target(sample)


@evaluator(
    marks=lambda options: "pairs" if options.get("earlier") == "against" else "answers",
    check_rows=_require_single_earlier_answers,
)
@metric("same", better="higher", scale="proportion")
@metric("similar", better="higher", scale="proportion")
def regression(
    samples: Sequence[Sample], answers: Sequence[str], baseline: Sequence[str] | None, *, marking: Marking,
    earlier: Literal["target", "against"] = "target", ignore_case: bool = False, ignore_punctuation: bool = False,
    max_new_tokens: int = 64, stop: tuple[str, ...] = LINE, thought: tuple[str, ...] = (),
) -> Iterator[Score]:  # fmt: skip
    """Score whether a model answers as one did before.

    The earlier answer is the row's target, or with `earlier = "against"` what the eval's `against` answers in the same
    run: "base", a release ("released", "anchor") or another baseline. `same` is 1 where the two are one text, after
    white space is collapsed and what is to be ignored is taken off; `similar` is the ratio of words that two texts
    share in their order: 2 · matching words / all words of both (difflib's, after Ratcliff and Obershelp). Raises
    UsageError on a row without exactly one target, where targets are compared.
    """
    normal = MatchOptions(ignore_case=ignore_case, ignore_punctuation=ignore_punctuation).normalize
    before = [_require_single_target(s) for s in samples] if earlier == "target" else baseline or ()
    for sample, said, then in zip(samples, answers, before, strict=True):
        ours, theirs = normal(said), normal(then)
        similar = SequenceMatcher(None, ours.split(), theirs.split(), autojunk=False).ratio()
        values = {"same": float(ours == theirs), "similar": similar}
        yield Score(sample.id, values, answer=said, details={"earlier": then})


def _require_single_target(sample: Sample) -> str:
    if len(targets := require_targets(sample)) > 1:
        raise UsageError(f'row "{sample.id}": has {len(targets)} targets; give the one answer that must not change')
    return targets[0]
