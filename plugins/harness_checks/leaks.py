"""D10: training rows in the evaluations. Numbers, not strings: twenty thousand rows take a second or two."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from harness import HELD_OUT, Finding, Sample, TrainingRow, checker, quote_text
from harness.internals import (
    ALONE,
    UNSPACED_SHINGLE,
    Suite,
    Task,
    choose_examples,
    count_words,
    is_unspaced,
    normalize_text,
)
from harness_checks.comparable_rows import ComparableRow, texts_of_rows, texts_of_samples
from harness_checks.lint import row_numbers

GRAM_WORDS = 13  # words, as GPT-3 and most after it counted (arXiv:2005.14165, appendix C)
MIN_COVERED_SHARE = 0.5  # of a row's 13-grams
SHINGLE_WORDS, MIN_JACCARD_INDEX = 2, 0.8  # of near-duplicates
UNSPACED_MIN_JACCARD_INDEX = 0.6  # of languages without spaces, where one other word changes more shingles
SHORT_ANSWER, FEW_ANSWERS = 10, 50  # words of an answer, or different ones, by which minimal pairs are known
MAX_SHORT_WORDS, STEM_CHARS = 7, 5  # words of a row that is compared by the beginnings of its words, and characters
MIN_STEM_SHARE, HALF_SHARE = 0.05, 0.5  # of the evaluated rows; of all, whose words are a frame
MIN_SHINGLES = 8  # shingles: of fewer the index means little
MAX_GRAM_SHARE = 0.01  # a gram in more rows than this share, and in more than two, is a template's
MAX_SHARED_GROUPS = 0.5  # of the clusters on both sides: then the split was never by them
MIN_CONTAINED_WORDS, ANCHOR_WORDS = 5, 4  # of a question looked for in longer texts; of what it is found by

Hits = dict[int, tuple[int, float]]  # evaluated row -> training row, degree
IsPair = Callable[[int, int], bool]  # whether a training row and an evaluated row are a minimal pair


@checker(title="train-test-leak", leaks=True)
def leaks(rows: list[TrainingRow], tasks: Mapping[str, Task], suite: Suite) -> Iterator[Finding]:
    """Training rows in the evaluations: the score measures memorisation.

    Exact: the same prompt or text, but for case, punctuation, Markdown, white space and what of Unicode looks the
    same; a turn of a conversation, or a question in a frame of all rows, is compared by itself,
    and so are a question and its answer under another system message. Inside: a question of
    five words or more that stands in a longer text and ends there. Coverage: half of a row's 13-word sequences stand
    in the training data; sequences in more than 1 % of the training rows are the template's and do not count, or every
    row of such data would be a hit (arXiv:2311.04850). Near: at least 0.8 of two prompts' word pairs in common
    (Jaccard, computed exactly); of languages without spaces characters count as words. Groups: training rows with a
    cluster of the evaluation. Looked at are the training data, validation data (what chose a checkpoint cannot confirm
    it), few-shot examples, and "select" data against "confirm" data. Of inputs of up to seven words it is noted if they
    differ in the endings of words alone. Kinds: -exact, -inside, -coverage, -near, -pair, -stem, -group.
    """
    training, held_out = (
        texts_of_rows([r for r in rows if bool(r.row.get(HELD_OUT)) is held]) for held in (False, True)
    )
    for group in tasks_by_data(tasks):
        chosen = () if group[0].select == group[0].samples else group[0].select  # --select evaluates those
        evaluated, selected = (texts_of_samples(some or ()) for some in (group[0].samples, chosen))
        for asked, split in ((evaluated, ""), (selected, "the select split of ")):
            yield from _check_overlap("training data", training, group, asked, split)
            yield from _check_overlap("validation data", held_out, group, asked, split)
        yield from _check_overlap("select split", selected, group, evaluated)
        yield from _check_clusters_in_training(rows, group)
        most = max((s.shots or 0 for s in suite.subjects.values()), default=0)
        if group[0].shots and most and group[0].spec.fewshot_data:
            shots = choose_examples(group[0].shots, most, suite.header.seed)
            yield from _check_overlap("few-shot examples", texts_of_samples(shots), group, evaluated)
    for chosen_by, confirmed in product(tasks_by_data(tasks), repeat=2):
        words = zip(("select", "confirm"), (chosen_by, confirmed), strict=True)
        if all(any(word in f"{t.spec.name} {t.spec.data}" for t in group) for word, group in words):
            ours, theirs = (texts_of_samples(group[0].samples or ()) for group in (chosen_by, confirmed))
            yield from _check_overlap(f'data of "{chosen_by[0].spec.name}"', ours, confirmed, theirs)


def _check_overlap(
    source: str,
    training: Sequence[ComparableRow],
    group: Sequence[Task],
    evaluated: Sequence[ComparableRow],
    split: str = "",
) -> Iterator[Finding]:
    if not training or not evaluated:
        return
    names = ", ".join(f'"{t.spec.name}"' for t in group)
    exact = _match_rows_by_exact_key(training, evaluated)
    rest = [i for i in range(len(evaluated)) if i not in exact]
    others, vocabulary = [evaluated[i] for i in rest], dict[str, int]()
    one, two = _hash_row_words(training, vocabulary), _hash_row_words(others, vocabulary)
    is_pair = _make_minimal_pair_test(training, others)
    by_inside, by_cover, by_near = (
        _match_rows_containing_questions(training, others, one, vocabulary, is_pair),
        _match_rows_by_ngram_coverage(one, two, is_pair),
        _match_rows_by_jaccard(one, two, is_pair),
    )  # fmt: skip
    covered, near = by_cover[0], {i: hit for i, hit in by_near[0].items() if i not in by_cover[0]}
    inside = {i: hit for i, hit in by_inside[0].items() if i not in covered}
    near = {i: hit for i, hit in near.items() if i not in inside}
    pairs = {i: hit for _, some in (by_near, by_inside, by_cover) for i, hit in some.items()}
    pairs = {i: hit for i, hit in pairs.items() if i not in {**covered, **inside, **near}}
    inside, covered, near, pairs = (
        {rest[i]: hit for i, hit in some.items()} for some in (inside, covered, near, pairs)
    )
    others_told = {*exact, *inside, *covered, *near, *pairs}
    stems = {i: hit for i, hit in _match_rows_by_stems(training, evaluated).items() if i not in others_told}
    fix = f"remove them from the {source} or from {split}{names}, or the score measures memorisation"
    told: list[tuple[str, Any, str, Mapping[int, tuple[int, float]]]] = [
        ("exact", "error", "are in the", {i: (j, 1.0) for i, j in exact.items()}),
        ("inside", "error", "are contained in longer rows of the", inside),
        ("coverage", "error", "are mostly in the", covered),
        ("near", "warning", "are near-copies of rows in the", near),
        ("pair", "note", "have another target than a row with nearly the same prompt in the", pairs),
        ("stem", "note", "have the words of a row, except for their endings, in the", stems),
    ]
    for kind, severity, what, hits in told:
        if hits:
            evidence = []
            for i, (j, share) in hits.items():
                degree = f" ({share:.0%})" if kind in ("coverage", "near") else ""
                other = f" ~ {quote_text(training[j].shown, 60)}" if kind in ("near", "pair", "stem") else ""
                row = f"{evaluated[i].name} = {training[j].name}{degree}"
                evidence.append(f"{row}: {quote_text(evaluated[i].shown, 60)}{other}")
            ids, flagged = {evaluated[i].sample for i in hits}, dict[str, list[str]]()
            for task in group:  # one with a limit has fewer rows
                own = (task.select if split else task.samples) or ()
                flagged[task.spec.name + " (select)" * bool(split)] = [s.id for s in own if s.id in ids]
            named = {training[j].keys for j, _ in hits.values()}  # a row that stands there twice leaks twice
            flagged[source] = [text.sample for text in training if text.keys in named]
            line = f"{len(hits)} of {len(evaluated)} rows of {split}{names} {what} {source}"
            yield Finding(severity, line, evidence, fix if severity != "note" else "", kind, flagged)


def _match_rows_by_stems(training: Sequence[ComparableRow], evaluated: Sequence[ComparableRow]) -> Hits:
    """Match short rows that differ from a training row in the endings or the order of words alone.

    Empty for few such rows, since a word may have several endings by chance.
    """
    texts = [frozenset(word[:STEM_CHARS] for word in row.words[: row.asked]) for row in (*training, *evaluated)]
    often = Counter(stem for stems in texts for stem in stems)
    frame = {stem for stem, count in often.items() if count > HALF_SHARE * len(texts)}
    asked, found = dict[frozenset[str], int](), Hits()
    for j, stems in enumerate(texts[: len(training)]):
        asked.setdefault(stems - frame, j)
    for i, stems in enumerate(texts[len(training) :]):
        own = stems - frame
        if own in asked and evaluated[i].asked <= MAX_SHORT_WORDS and max(map(len, own), default=0) == STEM_CHARS:
            found[i] = asked[own], 1.0
    return found if len(found) >= max(2, MIN_STEM_SHARE * len(evaluated)) else {}


def _make_minimal_pair_test(training: Sequence[ComparableRow], evaluated: Sequence[ComparableRow]) -> IsPair:
    """Return a test for minimal pairs of training and evaluated rows.

    Such rows are alike but not equal, and want different answers, both short or from a small set.
    """
    few = len({row.answer for row in evaluated}) <= min(FEW_ANSWERS, len(evaluated) / 2)

    def is_pair(j: int, i: int) -> bool:
        ours, theirs = training[j].answer, evaluated[i].answer
        if not ours or not theirs or not (few or max(len(ours), len(theirs)) <= SHORT_ANSWER):
            return False
        return not (_contains_word_sequence(ours, theirs) or _contains_word_sequence(theirs, ours))

    return is_pair


def _contains_word_sequence(whole: Sequence[str], part: Sequence[str]) -> bool:
    """Return whether words stand in others, one after the other."""
    return any(whole[k : k + len(part)] == part for k in range(len(whole) - len(part) + 1))


def _match_rows_by_exact_key(training: Sequence[ComparableRow], evaluated: Sequence[ComparableRow]) -> dict[int, int]:
    """Match evaluated rows to training rows with an equal key.

    The bare question of either may also equal a key of the other. A question under another system message matches if
    its answer is the same. Returns evaluated row -> training row.
    """
    backwards = list(enumerate(training))[::-1]  # so that of several rows with a key the first is kept
    seen = {key: j for j, text in backwards for key in text.keys}
    bare = {text.bare: j for j, text in backwards if text.bare}
    answered = {(key, text.answer): j for j, text in backwards for key in (*text.keys, text.bare, text.question)}
    often = Counter(text.keys[0] for text in evaluated if text.keys)
    often += Counter(text.question for text in evaluated if text.question not in text.keys[:1])
    found, most = dict[int, int](), max(3, len(evaluated) / 2)
    for i, text in enumerate(evaluated):
        # One prompt of most rows ("Summarise:") says nothing about the rest of them.
        fixed = text.keys and often[text.keys[0]] > most
        keys = text.keys[1:] if fixed else (*text.keys, text.bare)
        if hit := next((key for key in keys if key in seen), None):
            found[i] = seen[hit]
        elif hit := next((key for key in text.keys if key in bare and not fixed), None):
            found[i] = bare[hit]
        elif text.question and often[text.question] <= most and (text.question, text.answer) in answered:
            found[i] = answered[text.question, text.answer]
    return found


@dataclass(frozen=True)
class HashedWords:
    """The words of texts as 64-bit hashes.

    `starts` has the beginning of each text, `prompts` the number of words of its prompt.
    """

    words: Any
    starts: Any
    prompts: Any
    unspaced: Any  # whether most words of a text are single characters of a language without spaces

    def shingles(self) -> tuple[Any, Any]:
        """Return the hashes of the prompts' shingles with their text indexes.

        In the order of the texts.
        """
        import numpy as np

        found = []
        for size, wanted in ((SHINGLE_WORDS, ~self.unspaced), (UNSPACED_SHINGLE, self.unspaced)):
            hashes, text = self.hash_ngrams(size, prompts=True)
            found.append((hashes[wanted[text]], text[wanted[text]]))
        hashes, text = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = text.argsort(kind="stable")
        return hashes[order], text[order]

    def hash_ngrams(self, size: int, *, prompts: bool = False) -> tuple[Any, Any]:
        """Return the hashes of all `size`-word n-grams with their text indexes.

        With `prompts`, only of n-grams within prompts.
        """
        import numpy as np

        if (count := len(self.words) - size + 1) <= 0:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        hashes = np.zeros(count, np.uint64)
        for i in range(size):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + self.words[i : i + count]
        lengths = np.diff(self.starts)
        text = np.repeat(np.arange(len(lengths)), lengths)[:count]
        ends = self.starts[:-1] + (self.prompts if prompts else lengths)
        inside = np.arange(count) + size <= ends[text]
        return hashes[inside], text[inside]


def _match_rows_containing_questions(
    training: Sequence[ComparableRow],
    evaluated: Sequence[ComparableRow],
    ours: HashedWords,
    vocabulary: dict[str, int],
    is_pair: IsPair,
) -> tuple[Hits, Hits]:
    """Match evaluated rows to training rows that contain their question.

    The question must be whole and end where a sentence or a line does. Returns evaluated row -> training row, for leaks
    and for minimal pairs.

    A question is looked for by its rarest words: only training rows with all its sequences of ANCHOR_WORDS words can
    contain it, and of these only those with its rarest sequence are read.
    """
    import numpy as np

    often = Counter(text.bare for text in evaluated)
    most = max(3, len(evaluated) / 2)
    split = [text.bare.split() if often[text.bare] <= most else [] for text in evaluated]
    asked = [i for i, words in enumerate(split) if count_words(words) >= MIN_CONTAINED_WORDS]
    hashes, text = ours.hash_ngrams(ANCHOR_WORDS)
    questions = [ComparableRow("", "", (), split[i]) for i in asked]
    theirs, other = _hash_row_words(questions, vocabulary).hash_ngrams(ANCHOR_WORDS)
    if not len(hashes) or not len(theirs):
        return {}, {}
    hashes, text = _select_grams_sorted_by_hash(hashes, text, np.isin(hashes, theirs))
    low, high = np.searchsorted(hashes, theirs, "left"), np.searchsorted(hashes, theirs, "right")
    starts = np.searchsorted(other, np.arange(len(asked) + 1))
    found, pairs = Hits(), Hits()
    for number, i in enumerate(asked):
        rarest = starts[number] + np.argmin((high - low)[starts[number] : starts[number + 1]])
        for j in dict.fromkeys(text[low[rarest] : high[rarest]].tolist()):
            if i not in found and _compile_word_pattern(tuple(split[i])).search(normalize_text(training[j].whole)):
                (pairs if is_pair(j, i) else found)[i] = (j, 1.0)
    return found, pairs


@lru_cache(maxsize=1)
def _compile_word_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Compile a pattern for consecutive words that end a sentence.

    The end of a quotation or a line will do as well.
    """
    alone = [ALONE.fullmatch(word) is not None for word in words]
    parts = [re.escape(words[0])]
    for i, word in enumerate(words[1:], 1):
        parts += [r"[\W_]*" if alone[i - 1] or alone[i] else r"[\W_]+", re.escape(word)]
    before = "" if alone[0] else r"(?<![^\W_])"
    return re.compile(rf"{before}{''.join(parts)}[*_`~ \t]*(?:[.?!:;)\]}}>\"'»”’…|\n\r。」』]|$)")


def _hash_row_words(texts: Sequence[ComparableRow], vocabulary: dict[str, int]) -> HashedWords:
    import numpy as np

    numbers = [vocabulary.setdefault(word, len(vocabulary)) for text in texts for word in text.words]
    mixed = np.array(numbers, dtype=np.uint64) + np.uint64(1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64: near words, far numbers
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    starts = np.cumsum([0, *(len(text.words) for text in texts)])
    unspaced = np.array([is_unspaced(text.words[: text.asked]) for text in texts], dtype=bool)
    return HashedWords(mixed, starts, np.array([text.asked for text in texts], dtype=np.int64), unspaced)


def _make_common_gram_test(hashes: Any, rows: int) -> Callable[[Any], Any]:
    """Return a test whether grams are a template's: counted in a table by their first bits, where few collide."""
    import numpy as np

    size = min(24, len(hashes).bit_length() + 6)  # 64 places a gram, up to 16 million
    shift = np.uint64(64 - size)
    table = np.bincount((hashes >> shift).astype(np.int64), minlength=1 << size) > max(2, MAX_GRAM_SHARE * rows)
    return lambda some: table[(some >> shift).astype(np.int64)]


def _match_rows_by_ngram_coverage(ours: HashedWords, theirs: HashedWords, is_pair: IsPair) -> tuple[Hits, Hits]:
    """Match evaluated rows to training rows that cover their n-grams.

    Returns evaluated row -> training row with most of its n-grams, for leaks and for minimal pairs.
    """
    import numpy as np

    hashes, text = ours.hash_ngrams(GRAM_WORDS)
    others, other = theirs.hash_ngrams(GRAM_WORDS)
    if not len(others) or not len(hashes):
        return {}, {}
    rare = ~_make_common_gram_test(hashes, len(ours.prompts))(others)
    others, other = others[rare], other[rare]
    hashes, text = _select_grams_sorted_by_hash(hashes, text, np.isin(hashes, others))
    if not len(hashes):
        return {}, {}
    place = np.minimum(np.searchsorted(hashes, others), len(hashes) - 1)
    hit = hashes[place] == others
    total = np.bincount(other, minlength=1)
    share = np.bincount(other[hit], minlength=len(total)) / np.maximum(total, 1)
    found, pairs = Hits(), Hits()
    for i in np.flatnonzero(share >= MIN_COVERED_SHARE).tolist():
        counts = np.bincount(text[place[hit & (other == i)]])
        best = counts.argsort(kind="stable")[::-1][: np.count_nonzero(counts)].tolist()
        own = [j for j in best if not is_pair(j, i) and (j == best[0] or counts[j] >= MIN_COVERED_SHARE * total[i])]
        (found if own else pairs)[i] = ((own or best)[0], float(share[i]))
    return found, pairs


def _match_rows_by_jaccard(ours: HashedWords, theirs: HashedWords, is_pair: IsPair) -> tuple[Hits, Hits]:
    """Match evaluated rows to the most similar training rows.

    Similarity is the Jaccard index of the prompts' shingles. Returns evaluated row -> training row, for leaks and for
    minimal pairs.
    """
    import numpy as np

    hashes, text = ours.shingles()
    others, other = theirs.shingles()
    if not len(hashes) or not len(others):
        return {}, {}
    common = _make_common_gram_test(hashes, len(ours.prompts))
    others, other = _select_distinct_grams_per_text(others, other, ~common(others))
    mine, whose = _select_distinct_grams_per_text(hashes, text, np.isin(hashes, others))
    others, other = _select_grams_sorted_by_hash(others, other)
    low, high = np.searchsorted(others, mine, "left"), np.searchsorted(others, mine, "right")
    repeats = high - low  # a training gram meets every evaluated row that has it
    offsets = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    count = len(theirs.prompts)
    met = np.repeat(whose, repeats) * count + other[np.repeat(low, repeats) + offsets]
    met, shared = np.unique(met, return_counts=True)
    least = np.where(theirs.unspaced, UNSPACED_MIN_JACCARD_INDEX, MIN_JACCARD_INDEX)
    likely = (shared >= MIN_SHINGLES / 2) & (shared >= (least * np.bincount(other, minlength=count))[met % count])
    found, pairs = Hits(), Hits()
    starts = np.searchsorted(text, np.arange(len(ours.prompts) + 1))
    for pair in met[likely].tolist():
        j, i = divmod(pair, count)
        whole, kept = hashes[starts[j] : starts[j + 1]], pairs if is_pair(j, i) else found
        one, two = set(whole[~common(whole)].tolist()), set(others[other == i].tolist())
        degree = len(one & two) / len(one | two)
        if min(len(one), len(two)) >= MIN_SHINGLES and degree >= max(least[i], kept.get(i, (0, 0.0))[1]):
            kept[i] = (j, degree)
    return dict(sorted(found.items())), dict(sorted(pairs.items()))


def _select_grams_sorted_by_hash(hashes: Any, text: Any, wanted: Any = slice(None)) -> tuple[Any, Any]:
    """Return the wanted grams, sorted by their hash."""
    order = hashes[wanted].argsort(kind="stable")
    return hashes[wanted][order], text[wanted][order]


def _select_distinct_grams_per_text(hashes: Any, text: Any, wanted: Any) -> tuple[Any, Any]:
    """Return the wanted grams, each once a text."""
    import numpy as np

    hashes, text = hashes[wanted], text[wanted]
    order = np.lexsort((hashes, text))
    hashes, text = hashes[order], text[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])
    return hashes[first], text[first]


def _check_clusters_in_training(rows: Sequence[TrainingRow], group: Sequence[Task]) -> Iterator[Finding]:
    """Report clusters of an evaluation that occur in training rows.

    The training rows are compared by the same column.
    """
    for column in dict.fromkeys(column for t in group for column in t.spec.clusters):
        there = [(str(row.raw[column]), row) for row in rows if row.raw.get(column) is not None]
        trained = dict(there[::-1])  # of several rows the first
        tasks = [t for t in group if column in t.spec.clusters]
        clusters = {_find_row_cluster(s, tasks[0], column) for s in tasks[0].samples or ()}
        if shared := sorted(c for c in clusters if c in trained):
            mixed = len(shared) > MAX_SHARED_GROUPS * len(clusters)
            names = ", ".join(f'"{t.spec.name}"' for t in tasks)
            what = f"{len(shared)} of {len(clusters)} clusters ({column}) of {names} are in the training data, too"
            evidence = [f'{column} "{c}": training row {trained[c].number}' for c in shared]
            fix = f"split by {column}, so that the evaluation measures unseen clusters"
            ids = {
                t.spec.name: [s.id for s in t.samples or () if _find_row_cluster(s, t, column) in trained]
                for t in tasks
            }
            ids |= row_numbers(row for cluster, row in there if cluster in shared)
            yield Finding("note" if mixed else "warning", what, evidence, fix, "group", ids)


def _find_row_cluster(sample: Sample, task: Task, column: str) -> str | None:
    """Return a row's cluster by one of its evaluation's cluster columns."""
    return sample.cluster if task.spec.clusters[0] == column else sample.second_cluster


def tasks_by_data(tasks: Mapping[str, Task]) -> list[list[Task]]:
    """Group evaluations of the same rows, since they leak together.

    In a group, the one with most rows comes first.
    """
    groups: dict[tuple[Any, ...], list[Task]] = defaultdict(list)
    for task in tasks.values():
        about = task.spec
        if task.samples and (about.data or task.brings_rows):
            whose = about.data or f"{about.use} {sorted(about.options.items())}"
            groups[whose, about.select, about.fewshot_data, repr(about.columns)].append(task)
    return [sorted(group, key=lambda t: -len(t.samples or ())) for group in groups.values()]
