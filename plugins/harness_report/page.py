"""The HTML page of a run folder. It opens without a server and makes no network request."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import harness
from harness import Run, write_text
from harness.internals import (
    BUNDLE,
    count_noun,
    format_finish_reasons,
    printable,
    rules,
    shorten,
    summary,
    view_run,
)
from harness_report import configuration, metrics, pairs, svg
from harness_report.formatting import format_confidence, make_excerpt
from harness_report.gates import (
    blocking_reasons,
    comparison_link,
    gate_section,
    headline_gates,
    rows_link,
    rows_remarks,
    shared_axes,
    strip_interval,
)
from harness_report.heatmap import heat_maps
from harness_report.mistakes import mistake_sections
from harness_report.pairs import LOST, WON
from harness_report.reading import LoadedRun, previous_run, read_folder, row_answer

if TYPE_CHECKING:
    from jinja2 import Environment

FILE, PACKAGE = "report.html", "harness_report"
MOST_GATES = 10  # that are shown where they passed; others unfold
MOST_CHANGES = 8  # comparisons whose rows are shown


def write_page(folder: Path) -> Path:
    """Write the page of a run into its folder. Raises UsageError where there is no run, OSError on a full disk."""
    kept = read_folder(folder)
    write_text(kept.folder / FILE, render_run(kept, previous_run(kept)))
    return kept.folder / FILE


def render_run(kept: LoadedRun, last: LoadedRun | None = None) -> str:
    """Render the page of a run, deterministically.

    Two renderings of one folder are the same bytes. `last` is an earlier run of the suite; settings that differ from it
    are marked. Raises ModuleNotFoundError without jinja2.
    """
    make_environment()
    enabled = gc.isenabled()
    gc.disable()  # while very many rows are held, looking for garbage takes half of the time, and finds none
    try:
        page = make_page(kept, last)
    finally:
        if enabled:
            gc.enable()
    title, name = f"{page.glyph} {printable(kept.run.suite)}: {page.sentence}", folder_name(kept)
    return fill_template("run.html", p=page, title=title, name=name, data=embed_json(page.rows))


def rule_lines(kept: LoadedRun, last: LoadedRun | None) -> list[str]:
    """Describe the deciding rules that differ from an earlier run's."""
    changed = rules.changed_rules(kept.rules, last.rules) if last and kept.lock and last.lock else []
    return [printable(change.describe()) for change in changed if change.decides]


def make_page(kept: LoadedRun, last: LoadedRun | None) -> SimpleNamespace:
    """Return the contents of a run's page."""
    run, view = kept.run, view_run(kept.run, kept.folder)
    rows, note = pairs.browser_data(kept)
    reasons, more_reasons = blocking_reasons(kept, links=bool(rows))
    deciding = view.deciding_verdict
    rows.sort(key=lambda e: deciding is None or e["name"] != deciding.metric.partition(".")[0])  # it opens at the first
    links, stages = bool(rows), configuration.stage_rows(kept)
    wrong = list(mistake_sections(kept, {e["name"] for e in rows if len(e["rows"]) == e["total"]}))
    problems = [*view.problems, *(f"{item.id}: {item.error}" for item in view.failed_items)]
    if run.deselected:
        problems.append(f"{len(run.deselected)} items were deselected: the others prove nothing about the whole suite.")
    return SimpleNamespace(
        sentence=headline_text(run), glyph=view.glyph, outcome=view.outcome.value,
        through=[printable(line) for line in view.exceptions],
        lead=[_format_as_sentence(c) for c in run.warranted],
        rest=[_format_as_sentence(line) for line in view.conclusions if line not in run.warranted],
        reasons=reasons, more_reasons=more_reasons, remarks=rows_remarks(kept),
        problems=[make_excerpt(p, 500) for p in problems],
        facts=configuration.header_facts(kept),
        heads=headline_gates(kept), **_make_gate_sections(kept, links=links), tally=gate_tally(run),
        heat=heat_maps(kept), drawn=svg.can_draw(),
        metrics=metrics.metrics_table(kept), sure=format_confidence(run.alpha), min_n=metrics.slice_min_n(kept),
        finish_reasons=[
            (f"{r.subject}::{r.eval}", format_finish_reasons(r.finish_reasons)) for r in run.results if r.finish_reasons
        ],
        training=configuration.training_section(kept), rows=rows, rows_note=note,
        settings=configuration.settings_rows(kept, last), last=folder_name(last) if last else "",
        rules=rule_lines(kept, last),
        stages=stages, memory=any(s.memory for s in stages), took=view.duration,
        digests=[(printable(name), shorten(digest, 25)) for name, digest in run.digests.items()],
        versions=", ".join(f"{name} {version}" for name, version in run.versions.items()),
        attempts=configuration.attempt_sentences(run), warnings=[make_excerpt(w, 500) for w in run.warnings],
        commands=list(page_commands(kept)), trust=trust_line(run), step=next_step(kept), wrong=wrong,
        unchanged=unchanged_note(run),
        digests_of="rows of every side" if run.is_of_scored_rows else "weights of every subject",
        changes=changed_row_sections(kept, {e["name"] for e in rows}), slices=metrics.slice_charts(kept),
        traded=metrics.tradeoff_of_runs(kept), by_row=metrics.row_charts(kept),
        missing=[make_excerpt(m, 300) for m in dict.fromkeys(kept.missing)],  # last: what is read above is told here
    )  # fmt: skip


def page_commands(kept: LoadedRun) -> Iterator[str]:
    """Yield the commands that verify a run's output and repeat it."""
    run = kept.run
    if run.is_of_scored_rows:
        if (kept.folder / BUNDLE).is_dir():
            yield f"harness verify {printable(str(Path(*kept.folder.resolve().parts[-2:]) / BUNDLE))}"
        if command := run.invocation.get("command"):
            yield printable(str(command))
        return
    yield from (f"harness verify {Path(e.to).parent.name}/{Path(e.to).name}" for e in run.exports if e.written)
    suite = Path(*Path(run.path).parts[-2:]) if Path(run.path).is_absolute() else Path(run.path)
    again = f"harness run {printable(str(suite))}"
    yield f"{again:<38}  # seed {run.seed}; unchanged parts are read from the cache"


def next_step(kept: LoadedRun) -> SimpleNamespace | None:
    """Return the suggested next step with its command."""
    step = view_run(kept.run, kept.folder).next_step
    return SimpleNamespace(what=printable(step.what), command=printable(step.command)) if step else None


def trust_line(run: Run) -> str:
    """Return a note on rows that another tool scored.

    It names their files and the unknown weights. Empty if the harness scored the rows itself.
    """
    if not run.is_of_scored_rows:
        return ""
    files = [str(told["file 1"]).partition(",")[0] for told in run.facts.values() if "file 1" in told]
    source = f" from {summary.join_names([printable(name) for name in dict.fromkeys(files)])}" if files else ""
    return f"Scores are taken on trust{source}: no weights were seen, and nothing is exported."


def unchanged_note(run: Run) -> str:
    """Return why no changed row is shown: none changed, or there is no text of those that did."""
    lost, won = (max((getattr(v, name) or 0 for v in run.verdicts), default=0) for name in ("lost_count", "won_count"))
    if not lost + won:
        return "No comparable row was won or lost."
    return f"{lost:,} lost and {won:,} won; the folder holds no answers to show."


def _format_as_sentence(said: str) -> str:
    text = printable(said)
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def gate_tally(run: Run) -> list[tuple[str, int]]:
    """Count the gates by outcome, for a filter. Empty if there are few gates, or one outcome only."""
    counts = Counter(v.outcome for v in run.verdicts)
    if len(run.verdicts) <= MOST_GATES or len(counts) < 2:
        return []
    return [("All", len(run.verdicts)), *((o.value, counts[o]) for o in summary.RANKS if counts[o])]


def _make_gate_sections(kept: LoadedRun, *, links: bool) -> dict[str, Any]:
    """Return the gates, folded groups of gates, and a note.

    Passed gates beyond the first MOST_GATES are folded, and so are those that decide nothing.
    """
    view, axis = view_run(kept.run, kept.folder), shared_axes([kept])
    worst_first, decide, aside = view.verdicts, view.shipping_verdicts, view.other_verdicts
    open_ = max(MOST_GATES, sum(v.outcome != "PASS" for v in decide))
    found = [("", decide[:open_])]
    if passed := decide[open_:]:
        found.append((f"{count_noun(len(passed), 'more gate')}, which passed", passed))
    if aside:
        names = summary.join_names(list(dict.fromkeys(v.candidate for v in aside)))
        told = ", ".join(f"{n} {o}" for o, n in Counter(v.outcome for v in aside).items())
        found.append((f"{count_noun(len(aside), 'gate')} on {names}, which does not ship: {told}", aside))
    tables = []
    for said, verdicts in found:
        gates = [gate_section(kept, v, axis(kept, v), [strip_interval(v)], links=links) for v in verdicts]
        tables.append(SimpleNamespace(said=printable(said), gates=gates))
    first = "Closest to its limit first." if all(v.outcome == "PASS" for v in worst_first) else "Worst first."
    bounds = f"{format_confidence(kept.run.alpha)} one-sided bounds, one to each side."
    drawn = f"Dot: estimate. Bar: {bounds} Line: the limit; shaded: fails; right is better. Dashed: no difference."
    note = f"{drawn} One scale per metric." if svg.can_draw() else f"In brackets: {bounds}"
    return {"gates": tables[0].gates, "folded": tables[1:], "gates_note": f"{first} {note}"}


def headline_text(run: Run) -> str:
    """Return the sentence; a candidate's name keeps its case."""
    said = printable(view_run(run).sentence)
    return said[:1].upper() + said[1:] if said.startswith(("nothing", "the claim")) else said


def changed_row_sections(kept: LoadedRun, browsed: set[str]) -> list[SimpleNamespace]:
    """Return the rows that changed on the candidate: by gate, then adapter as trained against what was merged."""
    found: dict[tuple[str, str, str], SimpleNamespace] = {}
    for v in view_run(kept.run).verdicts:
        evaluation, _, metric = v.metric.partition(".")
        key = evaluation, metric, v.versus or ""
        if v.candidate != kept.ours or not v.versus or key in found or kept.scale(v.metric).is_count:
            continue
        if has_changed_answers(pair := pairs.pairs_of_evaluation(kept, evaluation, v.versus, metric)):
            links = rows_link(kept, v, evaluation in browsed)
            title = change_title(v.metric, v.versus, kept.ours)
            found[key] = pairs.change_section(kept, title, evaluation, pair, links)
    both = [e for e in kept.evals if kept.parent and kept.report(kept.parent, e) and kept.report(kept.ours, e)]
    for evaluation in both:
        if has_changed_answers(pair := pairs.pairs_of_evaluation(kept, evaluation, kept.parent)):
            links = comparison_link(kept, evaluation, kept.parent, kept.ours) if evaluation in browsed else "-"
            title = change_title(f"{evaluation}.{pair.metric}", kept.parent, kept.ours)
            found[evaluation, "", kept.parent] = pairs.change_section(kept, title, evaluation, pair, links)
    return list(found.values())[:MOST_CHANGES]


def change_title(metric: str, theirs: str, ours: str) -> str:
    """Return the title of a table of changed rows: it is of all rows, where a gate may be of a slice."""
    return printable(f"{metric}, {theirs} to {ours}")


def has_changed_answers(pair: pairs.Pairs) -> bool:
    """Return whether rows were answered in words, and some changed."""
    said = any(row_answer(p.ours) is not None for p in pair.rows[:1])
    return said and bool(pair.count(LOST) + pair.count(WON))


def folder_name(kept: LoadedRun) -> str:
    return printable(kept.folder.resolve().name)


def embed_json(value: object) -> str:
    """Return a value as JSON for an HTML script.

    No HTML parser takes part of it for the end of the script.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def make_environment(package: str = PACKAGE) -> Environment:
    """Return templates, a package's first, which escape all they are given. Raises ModuleNotFoundError without it."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(name) for name in dict.fromkeys([package, PACKAGE])])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def fill_template(template: str, package: str = PACKAGE, code: str = "rows.js", **given: Any) -> str:
    """Render a page from its template.

    Style and script are inline, and the content security policy allows this script only.
    """
    dark = (f'svg [{a}="{x}"]{{{a}:{y}}}' for x, y in svg.DARK.items() for a in ("fill", "stroke"))
    style = _read_template("style.css") + "@media screen and (prefers-color-scheme:dark){" + "".join(dark) + "}"
    script = _read_template(code, package)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own: dict[str, Any] = {"style": style, "script": script, "policy": f"'sha256-{digest}'", "icon": svg.page_icon}
    html: str = make_environment(package).get_template(template).render(**own, version=harness.__version__, **given)
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _read_template(name: str, package: str = PACKAGE) -> str:
    return files(package).joinpath("templates", name).read_text("utf-8")
