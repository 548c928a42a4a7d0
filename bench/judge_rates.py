"""How often gates on a judge are wrong: the corrected win rate with few labels or other ones, and the bound of kappa.

`page(rng, runs)` yields Markdown, as the pages of bench/simulate.py do. The judges are the functions the gates call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr

from harness.gates import labels
from harness_judge.calibration import FEWEST

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
SHARP = tuple(
    Judge(f"{sensitivity} / {specificity}", (round(1 - specificity, 2), 0), (0.5, 0), (sensitivity, 0))
    for sensitivity, specificity in ((0.9, 0.75), (0.95, 0.8), (0.8, 0.95), (0.99, 0.9), (0.9, 0.99), (0.98, 0.98))
)


def drawn(
    rng: np.random.Generator, judge: Judge, shape: tuple[int, int], share: float, ties: float
) -> tuple[Floats, Floats]:
    """Return what people say of pairs, and the judge, where `share` of them is won, ties by half."""
    people = rng.random(shape)
    won = share - ties / 2
    kind = np.where(people < won, 2, np.where(people < won + ties, 1, 0))
    win, tie = (np.array([chances[i] for chances in (judge.loss, judge.tie, judge.win)])[kind] for i in (0, 1))
    says = rng.random(shape)
    return kind / 2, np.where(says < win, 1.0, np.where(says < win + tie, 0.5, 0.0))


def moments(rows: Floats, truth: Floats, said: Floats) -> labels.Moments:
    """Return what `labels.moments` does, of many data sets (runs, rows) and (runs, labels), every prompt once."""
    near, cov = _moments(rows, np.ones_like(rows))
    mean = np.stack([rows.mean(-1), (rows == 0.5).mean(-1)], -1)
    each = [_moments(said, (truth == kind).astype(float)) for kind in labels.KINDS]
    apart = np.zeros((len(rows), 3, 2, 3, 2))
    for h, (_, one) in enumerate(each):
        apart[:, h, :, h] = one
    sizes = [(truth == kind).sum(-1) for kind in labels.KINDS]
    df = np.minimum(np.minimum(sizes[0], sizes[2]), rows.shape[1]) - 1
    return labels.Moments(
        mean, cov, near[:, 0] * (1 - near[:, 0]), np.stack([m for m, _ in each], 1), apart, df, sizes[1] > 0
    )


def _moments(values: Floats, chosen: Floats) -> tuple[Floats, Floats]:
    """Return mean and covariance of value and tie over the chosen, with the pseudo-labels of each value."""
    counts = np.stack([(chosen * (values == v)).sum(-1) + labels.PSEUDO for v in labels.KINDS], -1)
    total = counts.sum(-1)
    places = np.array([[0.0, 0.0], [0.5, 1.0], [1.0, 0.0]])
    share = counts / total[:, None]
    mean = share @ places
    square = np.einsum("rk,ki,kj->rij", share, places, places) - mean[:, :, None] * mean[:, None, :]
    count = chosen.sum(-1)
    many = (count + 1) / np.maximum(count, 1)
    return mean, square / total[:, None, None] * many[:, None, None]


def rates(
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
        _, rows = drawn(rng, judge, (BATCH, ROWS), share, min(judge.ties, 2 * (1 - share)))
        truth, said = drawn(rng, judge, (BATCH, count), of_labels, ties)
        few = np.minimum((truth == 0).sum(-1), (truth == 1).sum(-1)) < FEWEST  # which correct nothing
        p_pass, p_fail = labels.share_p(moments(rows, truth, said), threshold)
        error = np.maximum(rows.std(-1, ddof=1), 1e-9) / ROWS**0.5
        word = stdtr(ROWS - 1, -(rows.mean(-1) - threshold) / error)
        found.append((np.where(few, 1.0, p_pass), np.where(few, 1.0, p_fail), word))
    p_pass, p_fail, word = (np.concatenate(column) for column in zip(*found, strict=True))
    return p_pass, p_fail, word


def agreeing(
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


def kappa_rates(
    rng: np.random.Generator, runs: int, clusters: int, each: int, kappa: float, prevalence: float, kinds: int
) -> tuple[float, float, float]:
    """Return how often, in %, kappa is said to be above and below what it is, and a kappa of 0.1 more to be above."""

    def said(truth: float, runs: int) -> list[float]:
        tables = (agreeing(rng, BATCH, clusters, each, truth, prevalence, kinds) for _ in range(runs // BATCH))
        both = zip(*(labels.kappa_p(some, kappa) for some in tables), strict=True)
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
                    p_pass, p_fail, word = rates(rng, judge, count, runs, share=0.5, **at)
                    wrong = [100 * float((p <= ALPHA).mean()) for p in (p_pass, p_fail, word)]
                    worst = [max(pair) for pair in zip(worst, wrong, strict=True)]
                    able = [rates(rng, judge, count, max(runs // 4, BATCH), share=s, **at)[0] for s in BETTER]
                    power = [f"{100 * float((p <= ALPHA).mean()):.0f}" for p in able]
                    among = f"{count}{f', {ties:.0%} ties' if ties else ''} | {of_labels}"
                    rest = " | ".join((f"{wrong[2]:.0f}", *power))
                    yield f"| {judge.name} | {among} | {_bold(wrong[0])} | {_bold(wrong[1])} | {rest} |\n"
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
                    wrong = [100 * float((p <= ALPHA).mean()) for p in rates(rng, judge, count, runs, **how)[:2]]
                    worst = [max(pair) for pair in zip(worst, wrong, strict=True)]
        yield f"| {at} | {_bold(worst[0])} | {_bold(worst[1])} |\n"


def kappa_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    yield f"\n## Cohen's kappa, on its threshold ({runs:,} runs)\n\n"
    yield "Prompts with one label or four, the most frequent kind of label 50, 70 or 90 %; the most and the mean.\n\n"
    yield "| kappa | labels a prompt | prompts | false pass, most | mean | false block, most | mean "
    yield "| power for 0.1 more, least | most |\n|---|---|---|---|---|---|---|---|---|\n"
    for kappa in (0.4, 0.6, 0.8, 0.9):
        for each in (1, 4):
            for clusters in (50, 100, 300):
                cells = [
                    kappa_rates(rng, runs, clusters, each, kappa, prevalence, kinds)
                    for prevalence in (0.5, 0.7, 0.9)
                    for kinds in (2, 3)
                ]
                passed, failed, power = (list(column) for column in zip(*cells, strict=True))
                yield (
                    f"| {kappa} | {each} | {clusters} | {_bold(max(passed))} | {np.mean(passed):.1f} "
                    f"| {_bold(max(failed))} | {np.mean(failed):.1f} | {min(power):.0f} | {max(power):.0f} |\n"
                )


def page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Yield the tables of a judge's gates."""
    yield from win_page(rng, min(runs, RUNS))
    yield from threshold_page(rng, min(runs, RUNS))
    yield from kappa_page(rng, min(runs, RUNS))


def _bold(rate: float) -> str:
    """Print a rate, bold where it is over 1.2 alpha."""
    return f"**{rate:.1f}**" if rate > 120 * ALPHA else f"{rate:.1f}"
