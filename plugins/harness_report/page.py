"""A run folder -> one HTML page that opens without a server and asks the network for nothing."""

from __future__ import annotations

import base64
import gc
import hashlib
import json
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import harness
from harness import Run, write_text
from harness.internals import counted, endings, sentence, shown
from harness_report import drawing, made, metrics, pairs
from harness_report.gates import axes, comparison, heads, interval_of, link_of, reasons_of, show_gate
from harness_report.pairs import LOST, WON
from harness_report.reading import Kept, answer_of, before, read_folder
from harness_report.words import GLYPHS, cut, percent, seconds

if TYPE_CHECKING:
    from jinja2 import Environment

FILE, PACKAGE = "report.html", "harness_report"
MOST_GATES = 10  # that are shown where they passed; others unfold
MOST_CHANGES = 8  # comparisons whose rows are shown


def write_page(folder: Path) -> Path:
    """Write the page of a run into its folder. Raises UsageError where there is no run, OSError on a full disk."""
    kept = read_folder(folder)
    write_text(kept.folder / FILE, render(kept, before(kept)))
    return kept.folder / FILE


def render(kept: Kept, last: Kept | None = None) -> str:
    """Return the page of a run; two renderings of one folder are the same bytes.

    `last` is an earlier run of the suite, whose other settings are marked. Raises ModuleNotFoundError without jinja2.
    """
    environment()
    enabled = gc.isenabled()
    gc.disable()  # while very many rows are held, looking for garbage takes half of the time, and finds none
    try:
        page = page_of(kept, last)
    finally:
        if enabled:
            gc.enable()
    title, name = f"{page.glyph} {shown(kept.run.suite)}: {page.sentence}", folder_name(kept)
    return fill("run.html", p=page, title=title, name=name, data=embedded(page.rows))


def page_of(kept: Kept, last: Kept | None) -> SimpleNamespace:
    """Return what the page of a run shows."""
    run = kept.run
    through, outcome = sentence.let_through(run), sentence.outcome(run)
    rows, note = pairs.browser(kept)
    links, stages = bool(rows), made.stages_of(kept)
    problems = run.problem.split("\n") if run.problem else []
    problems += [f"{r.id}: {r.error}" for r in run.reports if r.outcome == "error"]
    if run.deselected:
        problems.append(f"{len(run.deselected)} items were deselected: the others prove nothing about the whole suite.")
    commands = [f"harness verify {Path(e.to).parent.name}/{Path(e.to).name}" for e in run.exports if e.written]
    suite = Path(*Path(run.path).parts[-2:]) if Path(run.path).is_absolute() else Path(run.path)
    again = f"harness run {shown(str(suite))}"
    commands.append(f"{again:<38}  # seed {run.seed}; unchanged parts are read from the cache")
    return SimpleNamespace(
        sentence=headline(run), glyph=GLYPHS[outcome], outcome=outcome.value, through=[shown(c) for c in through],
        lead=[_whole(c) for c in run.warranted],
        rest=[_whole(c) for c in run.conclusions if c not in (*run.warranted, *through)],
        reasons=reasons_of(kept, links=links), problems=[cut(p, 500) for p in problems], facts=made.facts_of(kept),
        heads=heads(kept), **_gates(kept, links=links), drawn=drawing.can_draw(),
        metrics=metrics.table_of(kept), sure=percent(run.alpha), min_n=metrics.min_n_of(kept),
        endings=[(f"{r.subject}::{r.eval}", endings(r.endings)) for r in run.reports if r.endings],
        training=made.training_of(kept), rows=rows, rows_note=note,
        settings=made.settings_of(kept, last), last=folder_name(last) if last else "",
        stages=stages, memory=any(s.memory for s in stages), took=seconds(run.seconds),
        digests=[(shown(name), digest[:24] + "…") for name, digest in run.digests.items()],
        versions=", ".join(f"{name} {version}" for name, version in run.versions.items()),
        attempts=made.attempts_of(run), warnings=[cut(w, 500) for w in run.warnings], commands=commands,
        changes=changes_of(kept, {e["name"] for e in rows}), slices=metrics.slices_of(kept),
        traded=metrics.traded(kept), by_row=metrics.by_row(kept),
        missing=[cut(m, 300) for m in dict.fromkeys(kept.missing)],  # last: what is read above is told here
    )  # fmt: skip


def _whole(said: str) -> str:
    text = shown(said)
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def _gates(kept: Kept, *, links: bool) -> dict[str, Any]:
    """Return gates, a note, and what unfolds: those of very many that passed, and those that decide nothing."""
    worst_first, axis = sentence.worst_first(kept.run), axes([kept])
    decide, aside = [v for v in worst_first if v.decides], [v for v in worst_first if not v.decides]
    open_ = max(MOST_GATES, sum(v.outcome != "PASS" for v in decide))
    found = [("", decide[:open_])]
    if passed := decide[open_:]:
        found.append((f"{counted(len(passed), 'more gate')}, which passed", passed))
    if aside:
        names = sentence.listed(list(dict.fromkeys(v.candidate for v in aside)))
        told = ", ".join(f"{n} {o}" for o, n in Counter(v.outcome for v in aside).items())
        found.append((f"{counted(len(aside), 'gate')} on {names}, which does not ship: {told}", aside))
    tables = []
    for said, verdicts in found:
        gates = [show_gate(kept, v, axis(kept, v), [interval_of(v)], links=links) for v in verdicts]
        tables.append(SimpleNamespace(said=shown(said), gates=gates))
    first = "Closest to its limit first." if all(v.outcome == "PASS" for v in worst_first) else "Worst first."
    bounds = f"{percent(kept.run.alpha)} one-sided bounds, one to each side."
    drawn = f"Dot: estimate. Bar: {bounds} Line: the limit; shaded: fails. Dashed: no difference."
    note = f"{drawn} One scale per metric." if drawing.can_draw() else f"In brackets: {bounds}"
    return {"gates": tables[0].gates, "folded": tables[1:], "gates_note": f"{first} {note}"}


def headline(run: Run) -> str:
    """Return the sentence; a candidate's name keeps its case."""
    said = shown(sentence.verdict_sentence(run))
    return said[:1].upper() + said[1:] if said.startswith("nothing") else said


def changes_of(kept: Kept, browsed: set[str]) -> list[SimpleNamespace]:
    """Return the rows that changed on the candidate: by gate, then adapter as trained against what was merged."""
    found: dict[tuple[str, str, str], SimpleNamespace] = {}
    for v in sentence.worst_first(kept.run):
        evaluation, _, metric = v.metric.partition(".")
        key = evaluation, metric, v.versus or ""
        if v.candidate != kept.ours or not v.versus or key in found or kept.scale(v.metric).is_count:
            continue
        if says(pair := pairs.pairs_of(kept, evaluation, v.versus, metric)):
            links = link_of(kept, v, evaluation in browsed)
            found[key] = pairs.change(kept, shown(v.gate), evaluation, pair, links)
    both = [e for e in kept.evals if kept.parent and kept.report(kept.parent, e) and kept.report(kept.ours, e)]
    for evaluation in both:
        if says(pair := pairs.pairs_of(kept, evaluation, kept.parent)):
            links = comparison(kept, evaluation, kept.parent, kept.ours) if evaluation in browsed else "-"
            title = shown(f"{evaluation}.{pair.metric}, {kept.parent} against {kept.ours}")
            found[evaluation, "", kept.parent] = pairs.change(kept, title, evaluation, pair, links)
    return list(found.values())[:MOST_CHANGES]


def says(pair: pairs.Pairs) -> bool:
    """Return whether rows were answered in words, and some changed."""
    said = any(answer_of(p.ours) is not None for p in pair.rows[:1])
    return said and bool(pair.count(LOST) + pair.count(WON))


def folder_name(kept: Kept) -> str:
    return shown(kept.folder.resolve().name)


def embedded(value: object) -> str:
    """Return a value as JSON that no HTML parser takes for the end of a script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@cache
def environment(package: str = PACKAGE) -> Environment:
    """Return templates, a package's first, which escape all they are given. Raises ModuleNotFoundError without it."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(name) for name in dict.fromkeys([package, PACKAGE])])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def fill(template: str, package: str = PACKAGE, code: str = "rows.js", **given: Any) -> str:
    """Return a page from its template, with style, script, and the policy that lets this script alone run."""
    dark = (f'svg [{a}="{x}"]{{{a}:{y}}}' for x, y in drawing.DARK.items() for a in ("fill", "stroke"))
    style = _source("style.css") + "@media screen and (prefers-color-scheme:dark){" + "".join(dark) + "}"
    script = _source(code, package)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own: dict[str, Any] = {"style": style, "script": script, "policy": f"'sha256-{digest}'", "icon": drawing.icon}
    html: str = environment(package).get_template(template).render(**own, version=harness.__version__, **given)
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _source(name: str, package: str = PACKAGE) -> str:
    return files(package).joinpath("templates", name).read_text("utf-8")
