"""How often gates on a judge are wrong: the corrected win rate with few labels or other ones, and the bound of kappa.

`page(rng, runs)` yields Markdown, as the pages of bench/simulate.py do. The judges are the functions the gates call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr

from harness.gates import agreement, labels
from harness_judge.calibration import MIN_PROMPTS

ALPHA = 0.05
ROWS = 300
BETTER = (0.6, 0.65, 0.7)  # shares that people would give, where power is measured
BATCH = 500
RUNS = 4_000  # at most: a jackknife over labels is dear

Floats = np.ndarray


@dataclass(frozen=True)
class Judge:
    """Chances that it says (win, tie) of pairs that people call a loss, a tie, a win; and how many pairs are ties."""

    name: str
    loss: tuple[float, float]
    tie: tuple[float, float]
    win: tuple[float, float]
    ties: float = 0.0


FAVOURS = Judge("0.90 / 0.75", (0.25, 0), (0.5, 0), (0.9, 0))
JUDGES = (
    FAVOURS,
    Judge("0.95 / 0.95", (0.05, 0), (0.5, 0), (0.95, 0)),
    Judge("0.65 / 0.55", (0.45, 0), (0.5, 0), (0.65, 0)),
    Judge("0.85 / 0.70, 20 % ties", (0.2, 0.1), (0.35, 0.45), (0.85, 0.1), 0.2),
    Judge("0.85 / 0.70, 30 % ties, most of them to the candidate", (0.2, 0.1), (0.6, 0.3), (0.85, 0.1), 0.3),
)


def _make_judge(sensitivity: float, specificity: float, ties: float = 0.0) -> Judge:
    """Return a judge that gives one tie in ten where there are ties, and half of those that people see."""
    some = 0.1 if ties else 0.0
    return Judge(
        "", ((1 - specificity) * (1 - some), some), (0.5 - some, 5 * some), (sensitivity * (1 - some), some), ties
    )


SHARP = tuple(
    Judge(f"{sensitivity} / {specificity}", (round(1 - specificity, 2), 0), (0.5, 0), (sensitivity, 0))
    for sensitivity, specificity in ((0.9, 0.75), (0.95, 0.8), (0.8, 0.95), (0.99, 0.9), (0.9, 0.99), (0.98, 0.98))
)


def draw_judgements(
    rng: np.random.Generator, judge: Judge, shape: tuple[int, int], share: float, ties: float
) -> tuple[Floats, Floats]:
    """Return what people say of pairs, and the judge, where `share` of them is won, ties by half."""
    people = rng.random(shape)
    won = share - ties / 2
    kind = np.where(people < won, 2, np.where(people < won + ties, 1, 0))
    win, tie = (np.array([chances[i] for chances in (judge.loss, judge.tie, judge.win)])[kind] for i in (0, 1))
    says = rng.random(shape)
    return kind / 2, np.where(says < win, 1.0, np.where(says < win + tie, 0.5, 0.0))


@dataclass(frozen=True)
class Pairs:
    """What people and the judge say of many data sets of pairs, (runs, pairs) each, and which side the pairs are on."""

    people: Floats
    said: Floats
    sides: Floats


def p_values(rows: Pairs, given: Pairs, threshold: float) -> tuple[Floats, Floats]:
    """Return p_pass and p_fail, as `labels.label_corrected_test` does, of rows and labels that each have a prompt."""
    found = np.ones((2, len(rows.said)))
    met = np.unique(rows.sides)
    for ties in (False, True):
        runs = np.flatnonzero((given.people == labels.TIE_VALUE).any(-1) == ties)
        if len(runs):
            found[:, runs] = labels.share_p_values(
                compute_moments(_select_runs(rows, runs), _select_runs(given, runs), met, ties), threshold
            )
    kinds = [(given.people == kind) for kind in (0, 1)]
    on = given.sides[..., None] == met
    alone = np.min([(kind[..., None] & on).sum(1).min(-1) for kind in kinds], 0) < labels.MIN_PROMPTS
    few = alone | (np.min([kind.sum(-1) for kind in kinds], 0) < MIN_PROMPTS)  # which correct nothing
    return np.where(few, 1.0, found[0]), np.where(few, 1.0, found[1])


def _select_runs(pairs: Pairs, runs: Floats) -> Pairs:
    return Pairs(pairs.people[runs], pairs.said[runs], pairs.sides[runs])


def compute_moments(rows: Pairs, given: Pairs, met: Floats, ties: bool) -> labels.Moments:
    """Return what `labels.label_moments` does, of many data sets."""
    runs, sides = len(rows.said), len(met)
    full = labels.pairs_by_side(_stack_ties(rows.said), rows.sides, met)
    places = np.concatenate([labels.pairs_by_side(np.array(labels.PLACES), np.full(3, side), met) for side in met])
    near, plain, cov = _estimate_moments(full, np.ones_like(rows.said), places)
    kinds, apart, prompts = np.zeros((runs, sides, 3, 2)), np.zeros((runs, sides, 3, 2, sides, 3, 2)), []
    around = np.zeros((runs, sides, 3))
    for z, side in enumerate(met):
        for h, kind in enumerate(labels.KINDS):
            chosen = ((given.people == kind) & (given.sides == side)).astype(float)
            mean, raw, apart[:, z, h, :, z, h] = _estimate_moments(
                _stack_ties(given.said), chosen, np.array(labels.PLACES)
            )
            kinds[:, z, h] = mean if kind == labels.TIE_VALUE else raw
            around[:, z, h] = mean[:, 0]
            prompts.append(chosen.sum(-1))
    told = [(given.people == kind).astype(float) for kind in (0, 1)]
    (low, _, one), (high, _, two) = (
        _estimate_moments(_stack_ties(given.said), kind, np.array(labels.PLACES)) for kind in told
    )
    df = np.maximum(np.minimum(*(kind.sum(-1) for kind in told)) - 1, 1)
    blind = stdtr(df, (low - high)[:, 0] / np.sqrt((one + two)[:, 0, 0]))
    count = np.stack(prompts, -1).reshape(runs, sides, 3)
    return labels.Moments(
        plain, cov, near[:, : 2 * sides : 2], kinds, apart, around, count, blind, rows.said.shape[1], ties
    )


def _stack_ties(said: Floats) -> Floats:
    return np.stack([said, (said == labels.TIE_VALUE).astype(float)], -1)


def _estimate_moments(x: Floats, chosen: Floats, places: Floats) -> tuple[Floats, Floats, Floats]:
    """Return means with the pseudo-labels and without, and the covariance; x (runs, n, L), chosen (runs, n)."""
    count = chosen.sum(-1)
    total, many = count + labels.PSEUDO * len(places), (count + 1) / np.maximum(count, 1)
    counted = chosen[..., None] * x
    plain = counted.sum(1)
    mean = (plain + labels.PSEUDO * places.sum(0)) / total[:, None]
    square = counted.transpose(0, 2, 1) @ x + labels.PSEUDO * places.T @ places
    cov = square / total[:, None, None] - mean[:, :, None] * mean[:, None, :]
    return mean, plain / np.maximum(count, labels.TOLERANCE)[:, None], cov * (many / total)[:, None, None]


def simulate_rates(
    rng: np.random.Generator,
    judge: Judge,
    count: int,
    runs: int,
    *,
    share: float,
    of_labels: float,
    ties: float,
    threshold: float = 0.5,
) -> tuple[Floats, Floats, Floats]:
    """Return p_pass and p_fail of a claim for a true share, and the p-value of an uncorrected t-test.

    `of_labels` is the share that is won among the labelled pairs, `ties` their share of ties.
    """
    found: list[tuple[Floats, Floats, Floats]] = []
    for _ in range(runs // BATCH):
        people, rows = draw_judgements(rng, judge, (BATCH, ROWS), share, min(judge.ties, 2 * (1 - share)))
        truth, said = draw_judgements(rng, judge, (BATCH, count), of_labels, ties)
        alike = Pairs(people, rows, np.zeros_like(rows)), Pairs(truth, said, np.zeros_like(said))
        error = np.maximum(rows.std(-1, ddof=1), 1e-9) / ROWS**0.5
        word = stdtr(ROWS - 1, -(rows.mean(-1) - threshold) / error)
        found.append((*p_values(*alike, threshold), word))
    p_pass, p_fail, word = (np.concatenate(column) for column in zip(*found, strict=True))
    return p_pass, p_fail, word


def draw_agreement_tables(
    rng: np.random.Generator, runs: int, clusters: int, each: int, kappa: float, prevalence: float, kinds: int
) -> Floats:
    """Return tables (runs, clusters, 3, 3) of labels whose kappa is as given.

    The judge says what people say with chance kappa, else draws anew; seven labels of ten in a cluster of several
    repeat one of its own draws.
    """
    chances = np.array([prevalence, *[(1 - prevalence) / (kinds - 1)] * (kinds - 1)])

    def draw(shape: tuple[int, ...]) -> Floats:
        people, anew = (np.searchsorted(chances.cumsum()[:-1], rng.random(shape), side="right") for _ in range(2))
        return 3 * people + np.where(rng.random(shape) < kappa, people, anew)

    cells = draw((runs, clusters, each))
    if each > 1:
        cells = np.where(rng.random(cells.shape) < 0.7, draw((runs, clusters, 1)), cells)
    return np.stack([(cells == cell).sum(-1) for cell in range(9)], -1).reshape(runs, clusters, 3, 3).astype(float)


def simulate_kappa_rates(
    rng: np.random.Generator, runs: int, clusters: int, each: int, kappa: float, prevalence: float, kinds: int
) -> tuple[float, float, float]:
    """Return how often, in %, kappa is said to be above and below what it is, and a kappa of 0.1 more to be above."""

    def said(truth: float, runs: int) -> list[float]:
        tables = (
            draw_agreement_tables(rng, BATCH, clusters, each, truth, prevalence, kinds) for _ in range(runs // BATCH)
        )
        both = zip(*(agreement.kappa_p(some, kappa) for some in tables), strict=True)
        return [100 * float((np.concatenate(p) <= ALPHA).mean()) for p in both]

    passed, failed = said(kappa, runs)
    return passed, failed, said(kappa + 0.1, max(runs // 8, BATCH))[0]


def win_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield f"\n## A win rate corrected by labels: {ROWS} prompts, equal models, `min = 0.5` ({runs:,} runs)\n\n"
    yield "| sensitivity / specificity of the judge | labels | won among them | false pass | false block "
    yield "| false pass of the judge's word | power at 0.60 | at 0.65 | at 0.70 |\n" + "|---" * 9 + "|\n"
    worst = [0.0, 0.0, 0.0]
    for judge in JUDGES:
        for ties in (judge.ties,) if not judge.ties else (judge.ties / 2, judge.ties):
            for count in (50, 100, 200):
                for of_labels in (0.5, 0.3, 0.7):
                    at = {"of_labels": of_labels, "ties": ties}
                    p_pass, p_fail, word = simulate_rates(rng, judge, count, runs, share=0.5, **at)
                    wrong = [100 * float((p <= ALPHA).mean()) for p in (p_pass, p_fail, word)]
                    worst = [max(pair) for pair in zip(worst, wrong, strict=True)]
                    able = [simulate_rates(rng, judge, count, max(runs // 4, BATCH), share=s, **at)[0] for s in BETTER]
                    power = [f"{100 * float((p <= ALPHA).mean()):.0f}" for p in able]
                    among = f"{count}{f', {ties:.0%} ties' if ties else ''} | {of_labels}"
                    rest = " | ".join((f"{wrong[2]:.0f}", *power))
                    yield f"| {judge.name} | {among} | {_format_rate(wrong[0])} | {_format_rate(wrong[1])} | {rest} |\n"
    yield f"\nAt most {worst[0]:.1f} % pass and {worst[1]:.1f} % block; by the judge's word {worst[2]:.0f} % pass.\n"


def threshold_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield f"\n## Other shares and thresholds, {ROWS} prompts, no ties, the truth on the threshold ({runs:,} runs)\n\n"
    rest = "with 50, 100, 200 or 400 labels, of which 30, 50 or 70 % or as many as in truth are met"
    named = ", ".join(judge.name for judge in SHARP)
    yield f"The most of all judges ({named}), {rest}.\n\n| threshold | false pass | false block |\n|---|---|---|\n"
    for at in (0.3, 0.5, 0.8, 0.9, 0.95):
        worst = [0.0, 0.0]
        for judge in SHARP:
            for count in (50, 100, 200, 400):
                for of_labels in sorted({0.3, 0.5, 0.7, at}):
                    how = {"share": at, "threshold": at, "of_labels": of_labels, "ties": 0.0}
                    wrong = [
                        100 * float((p <= ALPHA).mean()) for p in simulate_rates(rng, judge, count, runs, **how)[:2]
                    ]
                    worst = [max(pair) for pair in zip(worst, wrong, strict=True)]
        yield f"| {at} | {_format_rate(worst[0])} | {_format_rate(worst[1])} |\n"


LENGTHS = (  # judges of answers that are longer, and of others
    ("0.90 / 0.75, whichever is longer", (FAVOURS, FAVOURS)),
    ("0.99 / 0.65 of longer ones, 0.70 / 0.95 of others", (_make_judge(0.99, 0.65), _make_judge(0.7, 0.95))),
    ("0.65 / 0.99 of longer ones, 0.95 / 0.70 of others", (_make_judge(0.65, 0.99), _make_judge(0.95, 0.7))),
    ("0.95 / 0.85 of longer ones, 0.85 / 0.95 of others", (_make_judge(0.95, 0.85), _make_judge(0.85, 0.95))),
    ("the longer one wins, nine times of ten", (_make_judge(0.9, 0.1), _make_judge(0.1, 0.9))),
    ("0.89 / 0.60, 30 % ties, and 0.63 / 0.81", (_make_judge(0.89, 0.6, 0.3), _make_judge(0.63, 0.81, 0.3))),
)


def lengths_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Yield how often a judge is wrong that likes the longer answer, where rows and labels differ in length."""
    runs = max(runs // 4, BATCH)
    yield f"\n## A judge that minds the length: {ROWS} prompts, equal models, `min = 0.5` ({runs:,} runs)\n\n"
    yield "| sensitivity / specificity of the judge | labels | longer among rows | among labels | false pass "
    yield "| false block | without a look at lengths | power at 0.60 |\n" + "|---" * 8 + "|\n"
    worst = [0.0, 0.0, 0.0]
    for name, judges in LENGTHS:
        for count in (40, 100, 300):
            for longer, of_labels in ((0.5, 0.5), (0.8, 0.3), (0.95, 0.5), (0.3, 0.8)):
                p = simulate_by_length(rng, judges, count, runs, share=0.5, longer=longer, of_labels=of_labels)
                wrong = [100 * float((x <= ALPHA).mean()) for x in p]
                worst = [max(pair) for pair in zip(worst, wrong, strict=True)]
                able = simulate_by_length(
                    rng, judges, count, max(runs // 4, BATCH), share=0.6, longer=longer, of_labels=of_labels
                )
                rest = f"{_format_rate(wrong[1])} | {wrong[2]:.0f} | {100 * float((able[0] <= ALPHA).mean()):.0f}"
                yield f"| {name} | {count} | {longer} | {of_labels} | {_format_rate(wrong[0])} | {rest} |\n"
    yield f"\nAt most {worst[0]:.1f} % pass and {worst[1]:.1f} % block; "
    yield f"without a look at lengths {worst[2]:.0f} % pass.\n"


def simulate_by_length(
    rng: np.random.Generator,
    judges: tuple[Judge, Judge],
    count: int,
    runs: int,
    *,
    share: float,
    longer: float,
    of_labels: float,
) -> tuple[Floats, Floats, Floats]:
    """Return p_pass and p_fail of a win rate against one half, and p_pass where all pairs are taken to be alike."""
    found = []
    for _ in range(runs // BATCH):
        rows, given = (
            _draw_sided_pairs(rng, judges, n, share if n == ROWS else 0.5, at)
            for n, at in ((ROWS, longer), (count, of_labels))
        )
        alike = (replace(pairs, sides=np.zeros_like(pairs.sides)) for pairs in (rows, given))
        found.append((*p_values(rows, given, 0.5), p_values(*alike, 0.5)[0]))
    p_pass, p_fail, without = (np.concatenate(column) for column in zip(*found, strict=True))
    return p_pass, p_fail, without


def _draw_sided_pairs(
    rng: np.random.Generator, judges: tuple[Judge, Judge], count: int, share: float, longer: float
) -> Pairs:
    """Return pairs of which a share is longer, each side with its judge."""
    sides = (rng.random((BATCH, count)) < longer).astype(float)
    both = [
        draw_judgements(rng, judge, (BATCH, count), share, min(judge.ties, 2 * (1 - share))) for judge in judges[::-1]
    ]
    people, said = (np.where(sides > 0, both[1][i], both[0][i]) for i in (0, 1))
    return Pairs(people, said, sides)


def kappa_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield f"\n## Cohen's kappa, on its threshold ({runs:,} runs)\n\n"
    yield "Prompts with one label or four, the most frequent kind of label 50, 70 or 90 %; the most and the mean.\n\n"
    yield "| kappa | labels a prompt | prompts | false pass, most | mean | false block, most | mean "
    yield "| power for 0.1 more, least | most |\n|---|---|---|---|---|---|---|---|---|\n"
    for kappa in (0.4, 0.6, 0.8, 0.9):
        for each in (1, 4):
            for clusters in (50, 100, 300):
                cells = [
                    simulate_kappa_rates(rng, runs, clusters, each, kappa, prevalence, kinds)
                    for prevalence in (0.5, 0.7, 0.9)
                    for kinds in (2, 3)
                ]
                passed, failed, power = (list(column) for column in zip(*cells, strict=True))
                yield (
                    f"| {kappa} | {each} | {clusters} | {_format_rate(max(passed))} | {np.mean(passed):.1f} "
                    f"| {_format_rate(max(failed))} | {np.mean(failed):.1f} | {min(power):.0f} | {max(power):.0f} |\n"
                )


GAPS = "A judge that errs where two answers are nearly as good"
NOISE = 0.55  # of a judge's view of the gap, in its standard deviations, so that it is right on 80 % of pairs
ANOTHER = -0.68  # the mean gap of a candidate that wins 25 %


def draw_gap_pairs(rng: np.random.Generator, count: int, mean: float) -> Pairs:
    """Draw pairs with a latent gap of quality: people see its sign, nearly, and a judge errs where it is small."""
    gap = rng.normal(mean, 1, (BATCH, count))
    people, said = (gap + rng.normal(0, noise, gap.shape) > 0 for noise in (NOISE, NOISE))
    return Pairs(people.astype(float), said.astype(float), np.zeros(gap.shape))


def simulate_gap_rates(rng: np.random.Generator, count: int, runs: int, *, same: bool) -> tuple[float, float]:
    """Return how often, in %, equal models pass and fail by labels of these pairs, or of another candidate's."""
    found = []
    for _ in range(runs // BATCH):
        rows = draw_gap_pairs(rng, ROWS, 0.0)
        given = Pairs(*(x[:, :count] for x in (rows.people, rows.said, rows.sides))) if same else None
        found.append(p_values(rows, given or draw_gap_pairs(rng, count, ANOTHER), 0.5))
    passed, failed = (np.concatenate(side) for side in zip(*found, strict=True))
    return 100 * float((passed <= ALPHA).mean()), 100 * float((failed <= ALPHA).mean())


def gap_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Yield how often labels mislead where a judge errs by how close a pair is."""
    yield f"\n## {GAPS}: {ROWS} prompts, equal models, `min = 0.5`\n\n"
    yield "| labels | of these pairs: false pass | false block | of a candidate that won 25 %: false pass "
    yield "(not taken: INCONCLUSIVE) |\n|---|---|---|---|\n"
    for count in (50, 100, 200, 300):
        passed, failed = simulate_gap_rates(rng, count, runs, same=True)
        if 120 * ALPHA < passed <= 134 * ALPHA:
            passed, failed = simulate_gap_rates(rng, count, 10 * runs, same=True)
        other = simulate_gap_rates(rng, count, runs, same=False)[0]
        yield f"| {count} | {_format_rate(passed)} | {_format_rate(failed)} | {other:.1f} |\n"


def page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Yield the tables of a judge's gates."""
    yield from win_page(rng, min(runs, RUNS))
    yield from threshold_page(rng, min(runs, RUNS))
    yield from lengths_page(rng, min(runs, RUNS))
    yield from kappa_page(rng, min(runs, RUNS))


def _format_rate(rate: float) -> str:
    """Print a rate, bold where it is over 1.2 alpha."""
    return f"**{rate:.1f}**" if rate > 120 * ALPHA else f"{rate:.1f}"
