"""One evaluation judged: questions to the judge, scores from its verdicts, and what must be known of it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from harness import Caveat, Labels, Marking, Progress, Sample, Score, UsageError
from harness.internals import count_labels_worth, count_noun
from harness.internals import labels as by_people
from harness_judge import adversaries, calibration, judge_client, prompts, rows
from harness_judge.judge_client import JudgeClient
from harness_judge.options import JudgeOptions
from harness_judge.prompts import has_judge_injection
from harness_judge.rows import MOST_ERRORS, JudgedRow
from harness_judge.sampled import find_pairs_error, pair_digest

WORD = ("win_rate_controlled", "win_rate_raw")  # metrics of pairs that no label corrects
ONE_SIDED = 0.95  # share of rows in which one side is the longer one beyond which length cannot be told from quality
MAX_NAMED_ROWS = 3  # rows that a line names


def grade_with_judge(
    samples: Sequence[Sample], answers: Sequence[str], baseline_answers: Sequence[str] | None, marking: Marking,
    options: JudgeOptions,
) -> Iterator[Score | Caveat | Labels]:  # fmt: skip
    """Grade an evaluation with a judge: scores, labels and caveats. Raises UsageError if the judge is unavailable."""
    options.check_family(marking.judged)
    budget = marking.kept.setdefault("budget", options.budget())  # of all that is judged in this run

    def progress(done: int, total: int) -> None:
        marking.progress(Progress(marking.what, done, total))

    planned = rows.plan_questions(options, samples, answers, baseline_answers)
    cases = _sample_rows_with_real_answers(
        options, samples, answers if baseline_answers is None else baseline_answers, marking.seed
    )
    with closing(judge_client.open_judge_client(options, marking.responses, progress, budget)) as judge:
        judged = ask_questions(judge, planned, options)
        if marking.rehearsal and all(j.error for j in judged):
            raise UsageError(f'judge "{options.model_name}": returned no verdict at all: {judged[0].error}')
        caveats = [] if marking.rehearsal else list(_iterate_adversary_caveats(judge, options, cases))
        pairs = options.mode == "pairwise"
        verdicts = ("win_rate", "position_flip_rate") if pairs else ("rubric", *(options.criteria or {}))
        scores = list(rows.to_scores(judged, verdicts, options.model_prices()))
        yield from scores
        shut = (*WORD, "win_rate") if pairs else verdicts  # the rest is about the judge
        labels, doubts = _collect_labels_and_caveats(options, judge, marking.folder, scores, shut, judged)
        yield from labels
        capped = f"judging stopped at {judge.capped} before all rows were judged; raise it"
        found = [
            *([Caveat(capped, "INCONCLUSIVE")] if judge.capped else []),
            *_iterate_missing_verdict_caveats(judged),
            *caveats,
            *doubts,
        ]
        yield from (Caveat(c.text, c.outcome, c.metrics or (shut if c.outcome == "ERROR" else ())) for c in found)
        yield from map(Caveat, _iterate_spending_and_warnings(judge, options, judged))


def ask_questions(judge: JudgeClient, planned: Sequence[rows.JudgeRow], options: JudgeOptions) -> list[JudgedRow]:
    """Submit the questions of all rows at once, and score them."""
    found = dict(judge.ask([q for row in planned for q in row.questions]))
    outcomes = iter([found[i] for i in range(len(found))])
    read = rows.score_pair if options.mode == "pairwise" else rows.score_criteria
    return [read(row, [next(outcomes) for _ in row.questions]) for row in planned]


def _sample_rows_with_real_answers(
    options: JudgeOptions, samples: Sequence[Sample], real: Sequence[str], seed: int
) -> list[adversaries.AnsweredRequest]:
    """Choose rows with a real answer: the reference where there is one, else what a model said."""
    found = []
    for row in rows.plan_pairs(options, samples, real, real):
        target, shown = "\n".join(row.sample.targets), row.questions[0].data
        found.append((bool(target.strip()), shown, target or shown["answer_A"]))
    best = [f for f in found if f[0]] or [f for f in found if f[2].strip()]
    chosen = random.Random(seed).sample(best, min(options.adversaries, len(best)))  # noqa: S311 -- not for secrets
    most = options.answer_chars
    return [
        adversaries.AnsweredRequest(data["request"], said[:most], data.get("reference", "")) for _, data, said in chosen
    ]


def _iterate_adversary_caveats(
    judge: JudgeClient, options: JudgeOptions, cases: Sequence[adversaries.AnsweredRequest]
) -> Iterator[Caveat]:
    """Test a judge with worthless answers; yield caveats on failures.

    If one wins, or none loses, the caveat is an ERROR, which closes the gates.
    """
    if not cases or judge.capped:
        return
    trials = ask_adversaries(judge, options, cases)
    if won := [f"{t.adversary} ({t.score:.2f})" for t in trials if t.won]:
        what = f"the judge prefers worthless answers to real ones: {', '.join(won)}, on {len(cases)} rows"
        yield Caveat(f"{what}; use another judge", "ERROR")
    elif any(t.unread < t.wanted for t in trials) and not any(t.unread < t.wanted and t.score < 0.5 for t in trials):
        what = f"the judge cannot tell worthless answers from real ones: none of {len(trials)} adversaries lost"
        yield Caveat(f"{what}, on {len(cases)} rows; use another judge", "ERROR")
    if unread := sum(t.unread for t in trials):
        yield Caveat(f"{unread} of {sum(t.wanted for t in trials)} adversaries got no verdict")


def ask_adversaries(
    judge: JudgeClient, options: JudgeOptions, cases: Sequence[adversaries.AnsweredRequest]
) -> list[adversaries.AdversaryTrial]:
    """Try the adversaries on a judge, in its own mode."""
    if options.mode == "pairwise":
        return adversaries.try_pairs(judge.ask, cases, options.guideline)
    return adversaries.try_checks(judge.ask, cases, rows.criteria_parts(options))


def _collect_labels_and_caveats(
    options: JudgeOptions, judge: JudgeClient, folder: Path, scores: Sequence[Score], shut: Sequence[str],
    judged: Sequence[JudgedRow],
) -> tuple[list[Labels], list[Caveat]]:  # fmt: skip
    """Return human labels by metric, and caveats about them. Missing, expired or insufficient labels give a caveat."""
    how, local = "run harness judge calibrate", options.backend_name == "local"
    if not options.calibration and local:
        what = f'the local judge "{options.model_name}" was not compared with human labels'
        return [], [Caveat(f"{what}, so its verdicts prove nothing; {how}", "ERROR")]
    if not options.calibration and options.trust_judge:
        return [], [
            Caveat("trust_judge: the judge's verdicts count, although they were not compared with human labels")
        ]
    if not options.calibration:
        what = "the judge was not compared with human labels, so its verdicts prove nothing about human judgement"
        return [], [Caveat(f"{what}; {how}, or set trust_judge = true", "INCONCLUSIVE", tuple(shut))]
    found = calibration.read_calibration(folder / options.calibration)
    if expired := found.find_change(judge_client.judge_identity(options, judge.models)):
        what = f'calibration "{options.calibration}" has expired: {expired}; {how} again'
        return [], [Caveat(what, "ERROR", ("kappa", *(shut if local or not options.trust_judge else ())))]
    wrong = {name: find_pairs_error(found, judged, name) for name in {name for _, name, _ in found.labelled}}
    apart = [Caveat(why, "INCONCLUSIVE", ("kappa",)) for why in filter(None, wrong.values())][:1]
    labels, doubts = [found.agreement_labels()], apart
    if options.trust_judge:
        return labels, [*doubts, Caveat("trust_judge: the judge's verdicts count, uncorrected by labels")]
    here = {(j.row.sample.id, pair_digest(j.row)) for j in judged}
    for metric in shut:
        criterion = "" if options.mode == "pairwise" else metric
        given = found.labels_of(metric, criterion, here)
        if metric in WORD or metric == "rubric":
            why = f"{metric} is the judge's own verdict, which labels do not correct"
        elif not found.sided:
            why = "the labels A and B do not say whose answer is better; label candidate, baseline or tie"
        else:
            why = wrong.get(criterion) or calibration.find_too_few_labels(given)
        if why:
            doubts.append(Caveat(f"{why}, or set trust_judge = true", "INCONCLUSIVE", (metric,)))
        else:
            labels.append(given)
            doubts.append(Caveat(_describe_worth_of_verdicts(given, metric, scores)))
    return labels, doubts


def _describe_worth_of_verdicts(labels: Labels, metric: str, scores: Sequence[Score]) -> str:
    """Return how many labels alone would tell as much as these with the judge's verdicts on the other rows."""
    rows = [s for s in scores if s.weight_of(metric) and not s.lost]
    worth = count_labels_worth([s.values[metric] for s in rows], by_people.find_labels_of_rows(labels, rows))
    alone = f"{len(labels.rows):,} labels of {count_noun(len(rows), 'row')}"
    if not worth >= len(labels.rows) + 1:
        return f"{alone}: the judge's verdicts add nothing to them about {metric}"
    return f"{alone}, with the judge's verdicts, tell as much about {metric} as {worth:,.0f} labels would alone"


def _iterate_missing_verdict_caveats(judged: Sequence[JudgedRow]) -> Iterator[Caveat]:
    """Yield a caveat on rows without a verdict. If they exceed `MOST_ERRORS`, it is an ERROR."""
    if wrong := [j for j in judged if j.error and j.asked]:
        share, first = len(wrong) / len(judged), f'for instance "{wrong[0].row.sample.id}": {wrong[0].error}'
        what = f"{len(wrong)} of {len(judged)} rows have no verdict, {first}"
        if share > MOST_ERRORS:
            yield Caveat(f"{what} ({share:.1%}, but at most {MOST_ERRORS:.0%} may)", "ERROR")
        else:
            yield Caveat(f"{what}; each counts against the claim")


def _iterate_spending_and_warnings(
    judge: JudgeClient, options: JudgeOptions, judged: Sequence[JudgedRow]
) -> Iterator[str]:
    """Yield lines about spending, and warnings about the numbers."""
    parts = [f"{judge.asked:,} judgments", f"{judge.found:,} of them cached"]
    parts += [f"{judge.again:,} retries"] if judge.again else []
    through = ""
    if isinstance(judge, judge_client.RemoteJudge):
        budget, through = judge.budget, judge.backend.at.peer.through
        parts += [f"{budget.tokens:,} tokens in {budget.calls:,} calls of this run"] if budget.calls else []
        parts += [f"{budget.usd:.4f} dollars at most"] if budget.calls and budget.prices.are_known else []
    yield f"judge {next(reversed(judge.models), options.model_name)}{through}: {', '.join(parts)}"
    if len(judge.models) > 1:
        yield f"the judge model changed during the run: replies came from {', '.join(judge.models)}"
    if shown := [j for j in judged if j.row.notes]:
        yield (
            f"{len(shown)} rows were altered before the judge saw them: {_format_some_row_names(shown)}; the samples "
            "file has the details"
        )
    if suspects := [j for j in judged if has_judge_injection(j.row.answer)]:
        yield f"{len(suspects)} answers address the judge: {_format_some_row_names(suspects)}"
    pairs = [j for j in judged if j.row.baseline is not None and not j.error]
    where = [prompts.prompt_as_text(j.row.sample.input) for j in pairs]
    if len({*where}) > 1:
        share, lower, upper = calibration.estimate_share([rows.first_position_share(j) for j in pairs], where)
        yield (f"{share:.3f} [{lower:.3f}, {upper:.3f}] of verdicts prefer the answer shown first, which is always A")
    differ = [len(j.row.answer) - len(j.row.baseline) for j in judged if j.row.baseline is not None]
    for name, longer in (("longer", sum(d > 0 for d in differ)), ("shorter", sum(d < 0 for d in differ))):
        if differ and longer >= ONE_SIDED * len(differ) and len(differ) > 1:
            what = f"the answers are {name} than the baseline's in {longer} of {len(differ)} rows"
            yield f"{what}: here length and quality cannot be separated"


def _format_some_row_names(judged: Sequence[JudgedRow]) -> str:
    rest = f" and {len(judged) - MAX_NAMED_ROWS} more" if len(judged) > MAX_NAMED_ROWS else ""
    return ", ".join(f'"{j.row.sample.id}"' for j in judged[:MAX_NAMED_ROWS]) + rest
