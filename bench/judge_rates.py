"""How often gates on a judge are wrong: a share by labels and the judge's verdicts, and the bound of kappa.

`page(rng, runs)` yields Markdown, as the pages of bench/simulate.py do. The tests are the functions the gates call.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from harness.gates import agreement
from harness.stats.binomials import student_tail
from harness.stats.two_phase import two_phase_p_values

ALPHA = 0.05
ROWS = 300
BATCH = 500
RUNS = 4_000  # at most

Floats = np.ndarray


class Judge(NamedTuple):
    """Chances that it says (win, tie) of pairs that people call a loss, a tie, a win; and how many pairs are ties."""

    name: str
    loss: tuple[float, float]
    tie: tuple[float, float]
    win: tuple[float, float]
    ties: float = 0.0


JUDGES = (
    Judge("0.90 / 0.75", (0.25, 0), (0.5, 0), (0.9, 0)),
    Judge("0.95 / 0.95", (0.05, 0), (0.5, 0), (0.95, 0)),
    Judge("0.65 / 0.55", (0.45, 0), (0.5, 0), (0.65, 0)),
    Judge("0.85 / 0.70, 20 % ties", (0.2, 0.1), (0.35, 0.45), (0.85, 0.1), 0.2),
    Judge("0.85 / 0.70, 30 % ties, most of them to the candidate", (0.2, 0.1), (0.6, 0.3), (0.85, 0.1), 0.3),
    Judge("always right", (0, 0), (0, 1), (1, 0)),
    Judge("always wrong", (1, 0), (0, 1), (0, 0)),
    Judge("always the candidate", (1, 0), (1, 0), (1, 0)),
)


class Sampled(NamedTuple):
    """A claim that a share is above a threshold, by a judge of all pairs and people's labels of a sample of them."""

    judge: Judge
    labelled: int
    share: float = 0.5  # that people give
    threshold: float = 0.5


SAMPLED = [Sampled(judge, labelled) for judge in JUDGES for labelled in (20, 100)]
SAMPLED += [Sampled(JUDGES[0], n, share, share) for n in (50, 200) for share in (0.1, 0.3, 0.8, 0.95)]
Pairs = tuple[list[float], list[float | None]]  # what the judge says of each, and people of some


def draw_pairs(luck: random.Random, case: Sampled) -> Pairs:
    """Draw pairs; ties count one half of the share that people give."""
    judge = case.judge
    ties = min(judge.ties, 2 * case.share, 2 * (1 - case.share))
    people = luck.choices((0.0, 0.5, 1.0), (1 - case.share - ties / 2, ties, case.share - ties / 2), k=ROWS)
    said = []
    for label in people:
        win, tie = (judge.loss, judge.tie, judge.win)[int(2 * label)]
        chance = luck.random()
        said.append(1.0 if chance < win else 0.5 if chance < win + tie else 0.0)
    return said, [*people[: case.labelled], *[None] * (ROWS - case.labelled)]


def simulate_rates(luck: random.Random, case: Sampled, runs: int) -> tuple[float, float]:
    """Return how often, in %, the share is said to be above the threshold, and below."""
    return count_significant([two_phase_p_values(*draw_pairs(luck, case), case.threshold) for _ in range(runs)])


def simulate_power(luck: random.Random, case: Sampled, runs: int) -> tuple[float, float, float]:
    """Return how often, in %, the share is said to be above the threshold: by the gate, its labels, the judge alone."""
    found = [0, 0, 0]
    for _ in range(runs):
        said, labels = draw_pairs(luck, case)
        alone = [label for label in labels if label is not None]
        spread = statistics.pstdev(said) / math.sqrt(len(said) - 1)
        distance = (statistics.fmean(said) - case.threshold) / max(spread, 1e-9)
        p_values = (
            two_phase_p_values(said, labels, case.threshold)[0],
            two_phase_p_values(alone, alone, case.threshold)[0],
            student_tail(distance, len(said) - 1),
        )
        found = [count + (p <= ALPHA) for count, p in zip(found, p_values, strict=True)]
    gate, labels_alone, judge_alone = (100 * count / runs for count in found)
    return gate, labels_alone, judge_alone


def count_significant(p_values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the share, in %, of p_pass and of p_fail that are at most ALPHA."""
    passed, failed = (100 * sum(p <= ALPHA for p in side) / len(p_values) for side in zip(*p_values, strict=True))
    return passed, failed


def labels_page(luck: random.Random, runs: int) -> Iterator[str]:
    yield f"\n## A win rate by labels and a judge: {ROWS} prompts, `min = 0.5` ({runs:,} runs, power {runs // 4:,})\n\n"
    yield "| sensitivity / specificity of the judge | labels | false pass | false block "
    yield "| false pass of the judge alone | power at 0.60 | of the labels alone | at 0.65 | of the labels alone |\n"
    yield "|---" * 9 + "|\n"
    worst = [0.0, 0.0]
    for judge in JUDGES:
        for labelled in (20, 50, 100, 200, ROWS):
            case = Sampled(judge, labelled)
            wrong = simulate_rates(luck, case, runs)
            worst = [max(pair) for pair in zip(worst, wrong, strict=True)]
            alone = simulate_power(luck, case, runs // 4)[2]
            able = [simulate_power(luck, case._replace(share=share), runs // 4)[:2] for share in (0.6, 0.65)]
            rates = [*map(_format_rate, wrong), f"{alone:.0f}", *(f"{rate:.0f}" for pair in able for rate in pair)]
            yield f"| {judge.name} | {labelled} | {' | '.join(rates)} |\n"
    yield f"\nAt most {worst[0]:.1f} % pass and {worst[1]:.1f} % block falsely.\n"


def threshold_page(luck: random.Random, runs: int) -> Iterator[str]:
    yield f"\n## Other shares and thresholds, {ROWS} prompts, the truth on the threshold ({runs:,} runs)\n\n"
    yield "The most of all judges of the table above, with 20, 50, 100 or 200 labels.\n\n"
    yield "| threshold | false pass | false block |\n|---|---|---|\n"
    for share in (0.05, 0.1, 0.3, 0.7, 0.9, 0.95):
        cells = [
            simulate_rates(luck, Sampled(judge, labelled, share, share), runs)
            for judge in JUDGES
            for labelled in (20, 50, 100, 200)
        ]
        yield f"| {share} | {' | '.join(_format_rate(max(side)) for side in zip(*cells, strict=True))} |\n"


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


NOISE = 0.55  # of a judge's view of the gap, in its standard deviations, so that it is right on 80 % of pairs


def draw_gap_pairs(luck: random.Random, labelled: int) -> Pairs:
    """Draw pairs with a latent gap of quality: people see its sign, nearly, and a judge errs where it is small."""
    gaps = [luck.gauss(0, 1) for _ in range(ROWS)]
    people, said = ([float(gap + luck.gauss(0, NOISE) > 0) for gap in gaps] for _ in range(2))
    return said, [*people[:labelled], *[None] * (ROWS - labelled)]


def gap_page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Yield how often gates are wrong where a judge errs by how close a pair is."""
    luck, runs = random.Random(17), min(runs, RUNS)
    yield f"\n## A judge that errs where two answers are nearly as good: {ROWS} prompts, equal models, `min = 0.5`\n\n"
    yield "| labels | false pass | false block |\n|---|---|---|\n"
    for labelled in (50, 100, 200, 300):
        wrong = count_significant([two_phase_p_values(*draw_gap_pairs(luck, labelled), 0.5) for _ in range(runs)])
        yield f"| {labelled} | {' | '.join(map(_format_rate, wrong))} |\n"


def page(rng: np.random.Generator, runs: int) -> Iterator[str]:
    """Yield the tables of a judge's gates."""
    yield from labels_page(random.Random(17), min(runs, RUNS))
    yield from threshold_page(random.Random(18), min(runs, RUNS))
    yield from kappa_page(rng, min(runs, RUNS))


def _format_rate(rate: float) -> str:
    """Print a rate, bold where it is over 1.2 alpha."""
    return f"**{rate:.1f}**" if rate > 120 * ALPHA else f"{rate:.1f}"
