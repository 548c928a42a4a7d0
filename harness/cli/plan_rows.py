"""`harness plan BASE CANDIDATE`: what two scored runs can prove, in words that tell no direction."""

from __future__ import annotations

import shlex
import textwrap
from argparse import Namespace
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from harness.cli.terminal import Terminal
from harness.document import Document
from harness.errors import UsageError
from harness.planning.pair_forecast import PairForecast, forecast_pair
from harness.texts.counts import agree_verb, count_noun

if TYPE_CHECKING:
    from harness.rows.gating import MeasuredRows

ALPHA, WIDTH, INDENT = 0.05, 80, "  "


def plan_rows(args: Namespace) -> Document[PairForecast]:
    """Forecast the claims that two sets of scored rows could prove.

    Reads both sides as `harness gate` does. Raises UsageError if they cannot be read or compared.
    """
    from harness.records.claims.gate import Gate
    from harness.rows import suites
    from harness.rows.arguments import parse_clusters, parse_rows_options, write_option_words
    from harness.rows.gating import measure_rows

    paths = {"base": str(args.suite), "candidate": str(args.other or args.suite)}
    clusters = parse_clusters(args.cluster)
    options = parse_rows_options(args)
    suite = suites.make_rows_suite(Gate("plan", versus="base"), paths, options, ALPHA, cluster=clusters, slices=[])
    (spec,) = suite.evals
    found = measure_rows(spec.name, suites.read_runs(suite)[spec.name], suites.wanted_rows(spec))
    theirs, ours = ({s.id: s for s in found.results[side].scores} for side in ("base", "candidate"))
    try:
        forecast = forecast_pair(found.metric, found.samples, ours, theirs, ALPHA)
    except ValueError as error:
        raise UsageError(f"plan: {error}") from None
    words, _ = write_option_words(args)
    command = shlex.join(["harness", "gate", *dict.fromkeys(paths.values()), "--worse-by-at-most", "X", *words])
    return Document(forecast, partial(_print_forecast, paths, found, command))


def _print_forecast(paths: Mapping[str, str], measured: MeasuredRows, command: str, forecast: PairForecast) -> None:
    terminal = Terminal()
    terminal.print_rule(f"harness plan: {paths['base']} and {paths['candidate']}")
    about = measured.runs["candidate"]
    lines = _iterate_forecast_lines(forecast, f"{measured.metric.better} is better, {measured.metric_reason}")
    for line in (*lines, *(f"columns: {line}" for line in (*about.columns_told, *about.cluster_notes))):
        for part in textwrap.wrap(line, WIDTH, subsequent_indent=INDENT):
            terminal.print_line(part)
    terminal.print_line("choose a claim before you look at which side is ahead, then:")
    terminal.print_line(f"{INDENT}{command}")


def _iterate_forecast_lines(one: PairForecast, why: str) -> Iterator[str]:
    """Yield the lines of a forecast."""
    where = f" in {count_noun(one.clusters, 'cluster')}" if one.clusters else ""
    yield f"rows: {one.rows:,} pairs{where}, {one.metric} ({why})"
    if one.unscored:
        lacks = f"{count_noun(one.unscored, 'row')} {agree_verb(one.unscored, 'have no score')} on one side or both"
        yield f"left out: {lacks}; harness gate decides nothing before they have one, or --missing says how they count"
    if one.discordant is not None:
        yield f"discordant pairs: {one.discordant:,} ({one.discordant / one.rows:.1%})"
    yield f"standard deviation of a row's difference, about 0: {one.deviation:.3g}"
    if not one.margin and not one.gain:
        yield "no row differs, or there is one cluster: nothing can be said of what these rows prove"
        return
    yield f"at alpha {one.alpha:g}, with a power of 80%, these rows prove"
    if one.margin:
        yield f"{INDENT}of an equal candidate: worse by at most {one.margin}"
    if one.gain:
        yield f"{INDENT}of a candidate that is better by {one.gain}: better than the base"
    if one.needed:
        told = "; ".join(f"{m:g}: {'too many' if n is None else f'{n:,}'}" for m, n in one.needed.items())
        yield f"rows for an equal candidate to be proven worse by at most {told}"
    if one.few:
        yield one.few
    if one.risk == "approximate":
        yield "the risk is approximate: declare --range or --cap in harness gate"
