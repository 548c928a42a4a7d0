"""The page of a run, two runs compared, and a suite's history, in a world of fakes."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import harness_report
from harness import Outcome, TrainingStep, UsageError
from harness.cli.github import list_annotations
from harness.internals import OnScale, format_duration
from harness.records import verdict_text as verdict_words
from harness.records.changes import Change
from harness.records.findings import Finding
from harness.records.parts.needed import RowsNeeded
from harness.records.parts.reason import Reason
from harness.records.parts.waived import Waived
from harness.records.waivers import Waiver
from harness.release.releases import Promotion
from harness.reports.junit import format_junit
from harness.reports.markdown import format_run_markdown
from harness.reports.report_json import to_json
from harness.testing import SUITE, Project
from harness_report import configuration, formatting, metrics, page, pairs, svg
from harness_report.history import sparkline
from harness_report.page import embed_json, render_run
from harness_report.reading import LoadedRun, read_folder, row_value
from harness_trackers.log import logged_run
from harness_view.runs import Runs
from tests.helpers import suites

pytest.importorskip("jinja2")
HOSTILE = "</script><img src=x onerror=alert(1)>"
ROWS = [
    {
        "id": f"q{i}",
        "input": f"Country: question {i}\n\nCountry: ask {i} say w{i}",
        "target": f"w{i}",
        "kind": "ab"[i % 2],
    }
    for i in range(60)
]
GATES = """
[[gate]]
id = "better"
metric = "qa.exact_match"
versus = "base"
better_by = 0.0

[[gate]]
id = "shape"
metric = "size.parameters"
max = 5
severity = "warn"

[[eval]]
name = "size"
use = "size"
"""


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite that was run and shipped, with a gate that compares rows and one that warns."""
    made, files = tmp_path_factory.mktemp("once"), {"test.jsonl": ROWS}
    return suites.run_commands(made, "run suite.toml", suite=SUITE + GATES, files=files, pages=True)


@pytest.fixture
def ran(once: Path, project: Project, pages: None) -> Path:
    """Return the folder of a run that shipped, in a copy of what was made once."""
    shutil.copytree(once, project.folder, dirs_exist_ok=True)
    return find_newest_run(project)


def find_newest_run(project: Project) -> Path:
    return max(project.folder.glob("reports/*/report.json"), key=lambda p: p.stat().st_mtime_ns).parent


def edit_rows(run: Path, subject: str, evaluation: str, change: Any) -> None:
    """Rewrite the rows of an item of a run: `change` is given each as a dict and changes it."""
    (path,) = run.glob(f"{subject}/samples_{evaluation}_*.jsonl")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for i, row in enumerate(rows):
        change(i, row)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")


def edit_json(run: Path, name: str, change: Any) -> None:
    """Rewrite a JSON file of a run."""
    value = json.loads((run / name).read_text("utf-8"))
    change(value)
    (run / name).write_text(json.dumps(value), "utf-8")


def read_page_data(html: str) -> Any:
    """Return the rows that a page holds."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_writes_its_page(ran: Path) -> None:
    """A run leaves report.html: the sentence and the number that decided, gates before rows before metrics."""
    html = (ran / "report.html").read_text("utf-8")
    body = html[html.index("<main>") :]
    told = ["merged may ship: ", "The closest gate: ", "✓ PASS", "What changed", "qa.exact_match", "How it was made"]
    places = [body.index(text) for text in told]
    assert places == sorted(places)
    title = r'<h1><span class="PASS">✓</span> merged may ship: 2 of 3 gates passed, one [^<]*failed'
    assert re.search(title, body) and "<title>✓ fake: merged may ship" in html
    assert [e["name"] for e in read_page_data(html)] == ["qa"]


def replace_verdicts(kept: LoadedRun, **change: Any) -> LoadedRun:
    """Return a run with the verdicts on what ships changed; more of one with `of` in `change`."""
    names = change.pop("of", None)
    reports = [
        replace(
            r,
            verdicts=tuple(
                replace(v, **change) if v.decides and v.gate in (names or v.gate) else v for v in r.verdicts
            ),
        )
        for r in kept.run.results
    ]
    return replace(kept, run=replace(kept.run, results=reports, exit_code=1, edited=False))


def read_page_head(html: str) -> str:
    """Return what stands above the gates, as text."""
    return re.sub(r"<svg.*?</svg>|<[^>]*>", "", html[html.index("<main>") : html.index('id="sec-gates"')])


def test_reasons_stand_under_the_sentence(ran: Path) -> None:
    """Why something may not ship is told in the head, a line each, whole and with its rows, and only there."""
    why = "so it is " * 100 + "to its end"
    kept = replace_verdicts(
        read_folder(ran), of=["floor"], outcome=Outcome.FAIL, why=why, parts={"reason": Reason(why)}
    )
    exports = [replace(e, written=False, reasons=(why,)) for e in kept.run.exports]
    html = render_run(replace(kept, run=replace(kept.run, exports=exports)))
    assert read_page_head(html).count(f"✗ floor on merged qa.exact_match at least 0.5: {why}") == 1
    assert '<span class="FAIL">✗</span> Nothing ships: one gate failed' in html and "<title>✗ " in html
    assert html.count(why) == 2  # the other is in the gate's row
    wrong = sum(row["exact_match"] == 0 for row in kept.rows("merged", "qa").values())
    assert f'<a href="#qa:wrong">{wrong} wrong</a>' in html


PLANTED = {
    "floor": ({"estimate": 0.4321, "lower": 0.3987, "upper": 0.5654}, "0.432 [0.399, 0.565]"),
    "better": ({"estimate": -0.0321, "lower": -0.0987, "upper": 0.0342}, "−0.032 [−0.099, +0.034]"),
}


@pytest.mark.slow
@pytest.mark.parametrize("gate", PLANTED)
def test_every_surface_tells_what_the_record_says(ran: Path, project: Project, gate: str) -> None:
    """Numbers that are planted in a record are on every surface, with the same digits and signs."""
    figures, told = PLANTED[gate]
    kept = read_folder(ran)
    found = next(v for v in kept.run.verdicts if v.gate == gate and v.decides)
    needed = RowsNeeded(900, (1234, 5678), n=77, likely=Outcome.PASS)
    changed = replace(found, outcome=Outcome.INCONCLUSIVE, n=77, **figures).with_parts(needed)
    why = verdict_words.format_why(changed)
    planted = replace_verdicts(
        kept, of=[gate], outcome=Outcome.INCONCLUSIVE, parts=changed.parts, why=why, n=77, **figures
    )
    (ran / "report.json").write_text(to_json(planted.run), "utf-8")
    before = shutil.copytree(ran, ran.with_name("before"))
    (before / "report.json").write_text(to_json(replace(kept.run, started="2020-01-01T00:00:00+00:00")), "utf-8")
    run = read_folder(ran).run
    html = render_run(read_folder(ran))
    logged = logged_run(run)
    whole = {
        "head of the page": read_page_head(html),
        "junit": format_junit(run),
        "markdown": format_run_markdown(run),
        "annotations": "".join(list_annotations(run, {})),
        "notes of trackers": logged.note,
        "gates of trackers": str(logged.gates),
        "notebook": run._repr_html_(),
        "terminal": project.harness("show", str(ran)).out,
    }
    numbers = {
        "gates of the page": re.sub(r"<[^>]*>", "", html[html.index('<table class="gates"') :]),
        "compare": project.harness("compare", str(ran), str(before)).out,
        "compare as markdown": project.harness("compare", str(ran), str(before), "--format", "markdown").out,
        "list of runs": "".join(line.driver for line in Runs(ran.parent).list_runs()),
    }
    for text, surfaces in ((told, whole | numbers), ("about 1,300 to 5,700 rows would decide it", whole)):
        plain = {name: " ".join(said.replace("\\", "").split()) for name, said in surfaces.items()}
        assert [name for name, said in plain.items() if text not in said] == []
    assert told.partition(" ")[0] in project.harness("history", "fake").out


def test_what_was_let_through_comes_first(ran: Path) -> None:
    """A waiver that let something ship, and a check that was ignored, are the first lines under the sentence."""
    waiver = Waiver("floor", "", "ticket 12", "2999-01-01", "A. Smith", "2026-01-01", "")
    kept = replace_verdicts(read_folder(ran), of=["floor"], outcome=Outcome.FAIL, parts={"waived": Waived(waiver)})
    flag = Finding("error", "what", code="X1", ignored="why", waiver=waiver)
    text = read_page_head(render_run(replace(kept, run=replace(kept.run, exit_code=0, findings=[flag]))))
    first = text.index("floor on merged, waived by A. Smith until 2999-01-01: ticket 12")
    assert text.index("may ship: ") < first < text.index("X1 was ignored, waived by A. Smith") < text.index("Suite")


def test_what_decides_nothing_is_folded(ran: Path) -> None:
    """Gates on what does not ship unfold, and so do those that passed where there are very many."""
    html = render_run(read_folder(ran))
    table = html[html.index('class="gates"') :]
    assert "on adapter" not in table[: table.index('<details class="fold">')]
    assert "3 gates on adapter, which does not ship: 1 FAIL, 2 PASS" in html
    kept = read_folder(ran)
    verdicts = tuple(
        replace(v, gate=f"gate {i}") for v in kept.run.verdicts if v.decides and v.gate == "floor" for i in range(30)
    )
    many = render_run(replace(kept, run=replace(kept.run, results=[replace(kept.run.results[0], verdicts=verdicts)])))
    assert "20 more gates, which passed" in many and many.count("✓ PASS") == 30


def test_head_has_gain_and_what_no_gate_says(ran: Path) -> None:
    """The largest proven gain, the closest gate, and a proven loss that no gate is on: in numbers as the table's."""
    kept = read_folder(ran)
    lost = Change(
        "qa", "exact_match", 0.9, 0.8, 60, 1, 7, (), (), -0.1, -0.19, -0.02, "proportion", "adapter", "merged"
    )
    text = read_page_head(render_run(replace(kept, run=replace(kept.run, changes=(lost,)))))
    gain = next(v for v in kept.run.verdicts if v.gate == "better" and v.candidate == "merged")
    gained = formatting.format_on_scale(gain.estimate, OnScale("proportion"), versus=True)
    assert f"The gate with the largest gain: better{gained}" in text
    assert (
        "Losses no gate covers: adapter to merged−0.100exact match on qa 0.900 to 0.800, −0.100 [−0.190, −0.020]"
    ) in text
    for unproven in (replace(lost, upper=0.01), replace(lost, before="base")):  # base is what a gate compares it with
        assert "Losses no gate covers:" not in read_page_head(
            render_run(replace(kept, run=replace(kept.run, changes=(unproven,))))
        )


def test_slices_that_lost_rows_are_named(ran: Path) -> None:
    """By exact tests over clusters, after Holm; a cluster that lost ten rows is one."""
    edit_rows(ran, "base", "qa", lambda i, row: row.update(exact_match=1.0))
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(exact_match=float(i % 2 or i > 20)))
    edit_json(ran, "suite.lock.json", lambda lock: lock["suite"]["evals"][0].update(slices=["kind"]))
    assert pairs.find_lost_slices(read_folder(ran), "qa", "exact_match", "base") == ["“a” 30 of 30 to 19"]
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(cluster="one"))
    assert pairs.find_lost_slices(read_folder(ran), "qa", "exact_match", "base") == []


def test_slices_are_told_by_how_they_changed(ran: Path) -> None:
    """What fell most comes first, with bounds that clusters make wider; rows that are few are marked."""
    pytest.importorskip("numpy")
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(exact_match=float(i % 4 == 0)))

    def told(report: Any) -> None:
        for r in report["results"]:
            n = {"base": (10, 10), "adapter": (30, 30), "merged": (15, 0)}.get(r["subject"])
            if r["eval"] == "qa" and n:
                r["slices"] = {"kind": {k: {"exact_match": x / 30, "n": 30} for k, x in zip("ab", n, strict=True)}}

    edit_json(ran, "report.json", told)
    base, adapter = metrics.slice_charts(read_folder(ran))
    few = "adapter to merged; every slice has fewer than 60 rows"
    assert (adapter.title, adapter.note) == ("qa.exact_match by kind", few)
    assert adapter.table == [("b", "1.000", "0.000", "30"), ("a", "1.000", "0.500", "30")]
    assert [row["fell"] for row in base.spec["data"]["values"]] == [True, False]
    alone = adapter.spec["data"]["values"][1]
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(cluster=str(i // 8)))
    together = metrics.slice_charts(read_folder(ran))[1].spec["data"]["values"][1]
    assert together["lower"] < alone["lower"] < 0.5 < alone["upper"] < together["upper"]


def test_gain_is_drawn_against_forgetting(ran: Path) -> None:
    """A point for each model that has both metrics, and lines where the margins of the gates are."""
    assert metrics.tradeoff_of_runs(read_folder(ran)) is None  # no gate asks that nothing be forgotten
    kept = read_folder(ran)
    better = next(v for v in kept.run.verdicts if v.gate == "better" and v.candidate == "merged")
    assert better.terms
    gate = replace(better.terms.gate, better_by=None, worse_by_at_most=0.05)
    loss = replace(better, gate="keeps", threshold=-0.05, terms=replace(better.terms, gate=gate))
    reports = [*kept.run.results, replace(kept.run.results[0], verdicts=(loss,))]
    chart = metrics.tradeoff_of_runs(replace(kept, run=replace(kept.run, results=reports)))
    assert chart and [name for name, *_ in chart.table] == ["base", "adapter", "merged"]
    shaded = [layer["data"]["values"][0] for layer in chart.spec["layer"][:2]]
    ends = [
        layer["encoding"][axis]["scale"]["domain"][0] for layer, axis in zip(chart.spec["layer"], "xy", strict=False)
    ]
    assert [box["end"] for box in shaded] == ends  # from the worse end up to each limit
    lines = [layer["data"]["values"][0] for layer in chart.spec["layer"][2:4]]
    assert better.baseline and lines == [{"kept": pytest.approx(better.baseline - 0.05)}, {"gained": better.baseline}]


def test_names_of_models_that_lie_at_one_place_do_not_cover_each_other() -> None:
    """Two are told, of more the first and the last; whoever lies apart has a name of its own."""
    at = {"27 Nov": (0.72, 0.6), "28 Nov": (0.721, 0.6), "base": (0.9, 0.1), "29 Nov": (0.72, 0.601)}
    for count, names in ((3, ["27 Nov, 28 Nov", "base"]), (4, ["27 Nov … 29 Nov", "base"])):
        points = [{"name": n, "kept": k, "gained": g, "ours": False} for n, (k, g) in [*at.items()][:count]]
        spec = metrics.charts.tradeoff_chart(points, ("a", "b"), (None, None), "").spec
        assert [one["name"] for one in spec["layer"][-1]["data"]["values"]] == names


def test_one_row_far_out_leaves_the_others_their_room() -> None:
    """It is counted, not drawn; a mean is drawn with its bounds, and lengths hold nine answers of ten."""
    chart = metrics.charts.scatter_chart(
        "t", "n", [(1.0 + i / 100, 1.0) for i in range(99)] + [(90.0, 1.0)], ("a", "b")
    )
    assert chart.note == "n; 1 beyond the chart" and chart.spec["layer"][0]["data"]["values"][1]["b"] < 4
    drawn = str(metrics.charts.ordered_chart("t", "n", [0.1, 0.2, 0.3], what="rows", mean=(0.2, 0.15, 0.25)).spec)
    assert "mean 0.200" in drawn and "{'v': 0.15, 'w': 0.25}" in drawn
    lengths = metrics.charts.length_chart("t", "n", {"a": [*range(100), 7000]}, "a")
    assert lengths.table == [("a", "5", "25", "50", "75", "95")]


def test_two_renderings_are_the_same_bytes(ran: Path) -> None:
    """Rendering a folder again, from remembered pictures or not, gives the same bytes."""
    first = (ran / "report.html").read_bytes()
    shutil.rmtree(Path("cache", "charts"), ignore_errors=True)
    assert page.write_page(ran).read_bytes() == first
    assert page.write_page(ran).read_bytes() == first


def test_page_asks_the_network_for_nothing(ran: Path) -> None:
    """No address but SVG's name space, no script but the one whose sha256 the policy names."""
    html = (ran / "report.html").read_text("utf-8")
    assert set(re.findall(r"[a-z]+://[^\"' <)]+", html)) <= {"http://www.w3.org/2000/svg"}
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1 and f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html
    assert html.count("<link") == html.count('<link rel="icon" href="data:image/svg+xml,') == 1
    assert not re.search(r"<(iframe|object|embed|img)\b|\son\w+=", html)


@pytest.mark.slow
def test_texts_of_others_are_shown_as_text(ran: Path) -> None:
    """What a model answers is markup nowhere, neither in the tables nor in the script's data."""
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(resps=[[HOSTILE]], exact_match=float(i > 3)))
    edit_rows(ran, "base", "qa", lambda i, row: row.update(exact_match=float(i < 30)))
    html = render_run(read_folder(ran))
    assert HOSTILE not in html and "<img" not in html
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in html
    assert read_page_data(html)[0]["rows"][0][6][-1] == HOSTILE
    assert embed_json("<\u2028\u2029") == '"\\u003c\\u2028\\u2029"'


def test_controls_and_directions_are_spelt_out(ran: Path) -> None:
    """A control character or an override of direction is spelt out; text from right to left stays as it is."""
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(resps=[["\x1b[31m\x00 \u202e שלום"]], exact_match=0.0))
    html = render_run(read_folder(ran))
    assert "\x1b" not in html and "\x00" not in html and "\u202e" not in html
    assert "שלום" in html and 'dir="auto"' in html


def test_ten_megabytes_in_a_row_are_cut(ran: Path) -> None:
    """A row of 10 MB does not make a page of 10 MB, and the page says that it was cut."""
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(resps=[["x" * 10_000_000 if i == 7 else "y"]]))
    html = render_run(read_folder(ran))
    assert len(html) < 1_500_000 and re.search("x{50} … x{50}", html)


def test_private_rows_are_digests(ran: Path) -> None:
    """Of a private evaluation no id, prompt, answer or slice is on the page, but counts and digests."""
    edit_json(ran, "suite.lock.json", lambda lock: lock["suite"]["evals"][0].update(private=True))
    html = render_run(read_folder(ran))
    assert "say w1" not in html and "w17" not in html and '"q17"' not in html
    (evaluation,) = read_page_data(html)
    assert evaluation["private"] and evaluation["rows"][0][3].startswith("sha256 ")
    assert "The rows are private." in html or "no row" in html.lower()


def test_without_a_lock_no_text_is_shown(ran: Path) -> None:
    """Where nothing says which evaluations are private, all are, and the page says what is missing."""
    (ran / "suite.lock.json").unlink()
    html = render_run(read_folder(ran))
    assert (
        "suite.lock.json cannot be read, so the configuration is unknown and no row&#39;s text is shown" in html
        and "say w1" not in html
    )
    assert "merged may ship" in html


def test_missing_samples_are_told(ran: Path) -> None:
    """Without its samples a folder is rendered with what the report says, and what is missing is named."""
    for path in ran.glob("*/samples_*"):
        path.unlink()
    html = render_run(read_folder(ran))
    assert "has no rows of &#34;qa&#34; on merged" in html and "merged may ship" in html and 'id="data"' not in html


def test_samples_cut_off_are_told(ran: Path) -> None:
    """So are samples of which the last line is half there."""
    (path,) = ran.glob("merged/samples_qa_*")
    path.write_text(path.read_text("utf-8")[:-40], "utf-8")
    assert ": is not a file of rows; run the suite again" in render_run(read_folder(ran))


def test_a_row_that_states_a_score_twice_is_refused(ran: Path) -> None:
    """Which of two values of one key counts would be the reader's choice."""
    (path,) = ran.glob("merged/samples_qa_*")
    text = path.read_text("utf-8")
    path.write_text(text.replace('"exact_match": ', '"exact_match": 0.5, "exact_match": ', 1), "utf-8")
    assert ": is not a file of rows; run the suite again" in render_run(read_folder(ran))


def test_of_many_rows_all_flips_and_a_sample_are_held(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit a page holds every row won or lost and a seeded sample of the others, and says so."""
    monkeypatch.setattr(pairs, "MAX_WHOLE_ROWS", 20)
    monkeypatch.setattr(pairs, "DRAWN_ROWS", 20)
    edit_rows(ran, "base", "qa", lambda i, row: row.update(exact_match=float(i < 50)))
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(exact_match=float(i < 45)))
    kept = read_folder(ran)
    (evaluation,), note = pairs.browser_data(kept)
    ids = [row[0] for row in evaluation["rows"]]
    assert {f"q{i}" for i in range(45, 50)} <= set(ids) and len(ids) == 20 and evaluation["total"] == 60
    assert (
        evaluation["counts"][pairs.LOST] == 5
        and "60 rows: all that were won or lost, and a sample of the others," in note
    )
    assert [row[0] for row in pairs.browser_data(read_folder(ran))[0][0]["rows"]] == ids


def test_scores_are_sampled_and_said_to_be(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a metric that is not 0/1 rows won and lost are in the sample like any other."""
    monkeypatch.setattr(pairs, "MAX_WHOLE_ROWS", 20)
    monkeypatch.setattr(pairs, "DRAWN_ROWS", 20)
    for name, by in (("base", 0.3), ("merged", 0.2)):
        edit_rows(ran, name, "qa", lambda i, row, by=by: row.update(exact_match=by + i % 7 / 20))
    assert "60 rows: a sample, 20 in all" in pairs.browser_data(read_folder(ran))[1]


def test_without_vl_convert_there_are_tables(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing draws, the page has the same numbers in tables."""
    monkeypatch.setattr(svg, "can_draw", lambda: False)
    html = render_run(read_folder(ran))
    assert "<svg" not in html and "as numbers</caption>" in html and "Where it stands" not in html


@pytest.mark.parametrize("table", ["model", "adapter", "train", "sweep", "candidate"])
def test_options_that_are_no_table_are_told(ran: Path, table: str) -> None:
    """As any lock that cannot be read."""
    edit_json(ran, "suite.lock.json", lambda lock: lock["suite"].update({table: {"options": 7}}))
    assert "suite.lock.json cannot be read" in render_run(read_folder(ran))


@pytest.mark.parametrize("key", ["on", "requires"])
def test_gates_on_no_list_are_told(ran: Path, key: str) -> None:
    """A lock in which a gate names its subjects or slices by a number cannot be compared."""
    edit_json(ran, "suite.lock.json", lambda lock: lock["gates"][0].update({key: 7}))
    assert "suite.lock.json cannot be read" in render_run(read_folder(ran))


def test_options_of_others_stay_struck(ran: Path) -> None:
    """The configuration is the lock's, in which secrets are struck; another run's keys are marked."""
    edit_json(ran, "suite.lock.json", lambda lock: lock["suite"]["train"]["options"].update(api_key="(struck)"))
    now = read_folder(ran)
    lock = json.loads(json.dumps(now.lock))
    lock["suite"]["train"]["options"]["skill"] = 0.8
    settings = {s.key: s for s in configuration.settings_rows(now, replace(now, lock=lock))}
    assert settings["train.api_key"].value == "(struck)"
    assert (settings["train.skill"].before, settings["train.use"].before) == ("0.8", None)


@pytest.mark.parametrize("key", ["tokens_per_second", "steps", "truncated_rows", "spikes", "tokens", "train_loss"])
@pytest.mark.parametrize("odd", [{}, None, "many", [[]]])
def test_facts_of_a_trainer_may_be_anything(key: str, odd: Any, ran: Path) -> None:
    """A fact that is no number is left out of the page."""
    kept = read_folder(ran)
    facts = {"training": {**kept.run.facts.get("training", {}), key: odd}}
    run = replace(kept.run, facts={**kept.run.facts, **facts}, stages={"adapter": math.nan})
    assert "<html" in render_run(replace(kept, run=run))


# -- a run goes on ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["a\x1b[31mb", "a\u2028b", "a\x00b", "\ufffe", "a\x0bb"])
def test_a_value_that_no_page_can_hold_is_spelt_out(odd: str, suite: Project, pages: None) -> None:
    """A control character in a slice's value ended the process where charts are drawn, without a page or a line."""
    pytest.importorskip("vl_convert")
    rows = [{**row, "kind": odd if row["kind"] == "a" else "b"} for row in ROWS]
    outcome = suite.write({"test.jsonl": rows}).run()
    assert (outcome.code, outcome.err) == (0, "")
    assert (Path(outcome.report.folder) / "report.html").is_file()


@pytest.mark.slow
def test_what_goes_wrong_is_one_warning(suite: Project, pages: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that cannot be written, for want of room or by a bug, changes no outcome: a line, and the same exit."""
    for error in (OSError(28, "No space left on device"), ZeroDivisionError("a bug")):

        def fails(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("harness_report.page.write_text", fails)
        outcome = suite.run()
        assert outcome.code == 0, outcome.err
        assert outcome.err.count("report.html: was not written: ") == 1 and "Traceback" not in outcome.err
        assert not (find_newest_run(suite) / "report.html").exists()


@pytest.mark.parametrize("drawer", ["import os; os.abort()", "", svg.DRAWER.replace("line,", "'no spec',")])
def test_what_draws_may_die(suite: Project, pages: None, monkeypatch: pytest.MonkeyPatch, drawer: str) -> None:
    """V8 ends the process that it is in where it gets no memory: the page has tables, and there is a warning."""
    pytest.importorskip("vl_convert")
    monkeypatch.setattr(svg, "DRAWER", drawer)
    monkeypatch.setattr(svg, "_start_renderer", cache(svg._start_renderer.__wrapped__))
    outcome = suite.run()
    html = (Path(outcome.report.folder) / "report.html").read_text("utf-8")
    assert outcome.code == 0 and "as numbers</caption>" in html and "<svg" not in html
    lines = outcome.err.splitlines()
    assert lines and all(line.startswith("warning: a chart was not drawn: ") for line in lines)
    assert len(lines) == 1 or "no spec" in drawer


def test_without_jinja2_a_run_says_nothing(suite: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra a run writes no page and says nothing of it; the command names the extra."""
    outcome = suite.run()
    assert (outcome.code, outcome.err) == (0, "") and not (find_newest_run(suite) / "report.html").exists()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    harness_report.page.make_environment.cache_clear()  # type: ignore[attr-defined]
    refused = suite.harness("report", str(find_newest_run(suite)))
    assert (refused.code, refused.err.count("\n")) == (4, 1) and "pip install jinja2" in refused.err


@pytest.mark.parametrize("text", ['{"format": 99}', '{"format": 1, "suite"', "", "[]"])
def test_other_folders_are_one_line(suite: Project, text: str) -> None:
    """A folder of another format, one half-written, or none is one line and exit 4, whatever is asked of it."""
    suite.write({"odd/report.json": text})
    for words_ in (
        ["report", "odd"],
        ["report", "odd", "--markdown"],
        ["compare", "odd", "odd"],
        ["report", "nowhere"],
    ):
        outcome = suite.harness(*words_)
        assert (outcome.code, outcome.err.count("\n")) == (4, 1), outcome.err
    assert suite.harness("history", "fake", "--out", "nowhere").code == 4
    assert 'contains no run of suite "fake"' in suite.harness("history", "fake", "--out", ".").err


def test_full_disk_is_one_line(ran: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page for which there is no room is a line of the command."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness_report.commands.write_text", full)
    outcome = project.harness("report", str(ran))
    assert (outcome.code, outcome.err.count("\n")) == (4, 1) and "No space left on device" in outcome.err


@pytest.mark.slow
def test_page_needs_no_torch(ran: Path) -> None:
    """Rendering a run loads neither torch nor numpy."""
    code = "import sys; from harness.cli.main import main; main(['report', sys.argv[1]]);"
    code += "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, str(ran)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# -- two runs, and many ----------------------------------------------------------------------------


@pytest.fixture
def two(ran: Path) -> tuple[Path, Path]:
    """Return a run and one before it, which answered otherwise: 8 rows lost since then and 3 won."""
    before = ran.with_name("fake-20200101T000000Z")
    shutil.copytree(ran, before)
    edit_json(before, "report.json", lambda r: r.update(started="2020-01-01T00:00:00+00:00"))
    edit_json(before, "report.json", lambda r: r["digests"].update(merged="0" * 64))
    edit_json(before, "suite.lock.json", lambda lock: lock["suite"]["train"]["options"].update(skill=0.5))
    edit_rows(before, "merged", "qa", lambda i, row: row.update(exact_match=float(i < 48)))
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(exact_match=float(8 <= i < 51)))
    return ran, before


@pytest.mark.slow
def test_two_runs_are_compared_row_by_row(two: tuple[Path, Path], project: Project) -> None:
    """Metrics of two runs are tested on the rows that both asked, by the test of a gate without a margin."""
    outcome = project.harness("compare", *map(str, two), "--json")
    found = json.loads(outcome.out)
    (metric,) = [m for m in found["metrics"] if m["metric"] == "qa.exact_match"]
    assert (metric["lost_count"], metric["won_count"], metric["method"], metric["n"]) == (
        8,
        3,
        "McNemar unconditional",
        60,
    )
    assert metric["estimate"] == pytest.approx(-5 / 60) and metric["reading"] == "not significantly different"
    assert {"key": "train.skill", "now": "0.9", "before": "0.5"} in found["settings"]
    text, markdown = (project.harness("compare", *map(str, two), "--format", f).out for f in ("text", "markdown"))
    assert "8 lost and 3 won" in text and "not significantly different" in text
    assert "| qa.exact\\_match | not significantly different |" in markdown.replace("exact_match", "exact\\_match")


def test_without_numpy_two_runs_are_one_line(
    two: tuple[Path, Path], project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the tests' library is missing, comparing names the extra that brings it."""

    def lacks(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr("harness_report.compare.decide", lacks)
    outcome = project.harness("compare", *map(str, two))
    assert (outcome.code, outcome.err.count("\n")) == (4, 1) and "pip install numpy scipy" in outcome.err


@pytest.mark.slow
def test_rows_asked_otherwise_are_left_out(two: tuple[Path, Path], project: Project) -> None:
    """A row with another text under the same id is no pair, and that is said; so are two suites."""
    edit_rows(
        two[1],
        "merged",
        "qa",
        lambda i, row: row.update(arguments={"gen_args_0": {"arg_0": "other"}}) if i < 10 else None,
    )
    edit_json(two[1], "report.json", lambda r: r.update(suite="another"))
    found = json.loads(project.harness("compare", *map(str, two), "--json").out)
    assert found["metrics"][0]["n"] == 50 and found["metrics"][0]["left_out"] == 10
    assert any("qa: 10 rows with different prompts in the two runs, left out" in n for n in found["notes"])
    assert any("different suites, fake and another: gates and evals with the same name" in n for n in found["notes"])


@pytest.mark.slow
def test_pages_beside_others(two: tuple[Path, Path], project: Project) -> None:
    """`--against` and `--history` write a page of their own, with charts that no script draws."""
    words_ = ["report", str(two[0]), "--against", str(two[1]), "--history", str(two[0].parent)]
    assert project.harness(*words_).out.strip() == str(two[0] / "compare.html")
    html = (two[0] / "compare.html").read_text("utf-8")
    for text in (
        "Between the runs",
        "8 lost, 3 won",
        "Differences in configuration",
        "train.skill",
        "History of the suite",
    ):
        assert text in html, text
    assert html.count("merged may ship: 2 of 3 gates passed") >= 3  # of both runs as their own pages have it
    assert "<script" not in html
    project.harness("report", str(two[0]), "--history", str(two[0].parent))
    html = (two[0] / "history.html").read_text("utf-8")
    assert f'<a href="../{two[1].name}/report.html">{two[1].name}</a>' in html and 'href="#sec-history"' in html
    assert re.search(f"{two[0].name}</a> <b>this run</b>.*train.skill 0.5 → 0.9", html)
    assert project.harness("report", str(two[0]), "--history", "cache").code == 4


def test_history_is_a_line_a_gate(two: tuple[Path, Path], project: Project) -> None:
    """`harness history` prints every gate over the runs of a suite, by its name or file, and JSON for programs."""
    out = project.harness("history", "fake").out
    assert "fake: 2 runs" in out and re.search(r"floor on merged\s+\S\S\s+✓✓", out)
    lines = [line for line in out.splitlines() if line.startswith("fake-")]
    assert [line.split()[0] for line in lines] == [two[0].name, two[1].name]
    assert "✓ merged may ship" in lines[0] and lines[0].endswith("train.skill 0.5 → 0.9")
    found = json.loads(project.harness("history", "suite.toml", "--json").out)
    assert [r["folder"] for r in found["runs"]] == [two[1].name, two[0].name]
    assert sparkline([0.0, None, 1.0]) == "▁ █" and sparkline([2.0, 2.0]) == "▄▄"


@pytest.mark.slow
def test_the_last_runs_are_meant_where_none_is_named(two: tuple[Path, Path], project: Project) -> None:
    """`compare` holds the last run against the one before of its suite, `history` tells that suite's."""
    os.utime(two[1] / "report.json", (0, 0))
    out = project.harness("compare").out
    assert out == project.harness("compare", *map(str, two)).out
    assert project.harness("history").out == project.harness("history", "fake").out
    shutil.rmtree(two[1])
    assert "is the first run of its suite" in project.harness("compare").err


def test_releases_are_marked(two: tuple[Path, Path], project: Project) -> None:
    """A run whose export was promoted is told as a release."""
    run = read_folder(two[0]).run
    (export,) = run.exports
    record = Path(f"{export.to}.releases/releases.jsonl")
    record.parent.mkdir(parents=True)
    line = Promotion("0" * 64, export.digest, "fake", "merged", [], "me", "2026-11-26T10:00:00+00:00", run.started)
    record.write_text(json.dumps(asdict(line)) + "\n", "utf-8")
    assert "; released on 2026-11-26" in project.harness("history", "fake").out


def test_markdown_for_a_pull_request(ran: Path, project: Project) -> None:
    """`harness report --markdown` has the sentence, the gates and some rows; no answer is markup in it."""
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(resps=[[f"{HOSTILE}|"]]))
    out = project.harness("report", str(ran), "--markdown").out
    assert out.startswith("## merged may ship: ") and "| ✓ PASS | better | merged |" in out
    assert "<img" not in out and "<script" not in out and "<details>" in out


# -- parts -----------------------------------------------------------------------------------------


def test_words_that_differ_are_marked_where_answers_are_alike() -> None:
    """Two answers that share a third of their words show what differs; others are shown whole."""
    one, other = pairs.diff_answers("Diseases of the nervous system", "Diseases of the digestive system")
    assert [t for t, marked in one if marked] == ["nervous"] and [t for t, marked in other if marked] == ["digestive"]
    assert pairs.diff_answers("Paris", "Rome") == ([("Paris", False)], [("Rome", False)])


def test_series_rows_and_memory_are_shown_where_they_were_kept(ran: Path) -> None:
    """Newer reports keep steps, rows as they were seen and memory; with anything else under these keys it is none."""
    steps = [TrainingStep(s, s / 2, s / 4, 1 / s, 1e-4, tokens=100 * s) for s in range(1, 9)]
    charts = list(configuration._iterate_training_charts(steps, {}))
    assert [c.title for c in charts] == ["Loss", "Learning rate", "Tokens per second"]
    assert {v for _, _, v in charts[2].table} == {"200"}
    parts = [{"text": "Say: ", "trained": False}, {"text": "yes", "trained": True}]
    seen = [{"number": 1, "segments": parts}, {"segments": [{"text": "x"}]}, {"number": 3}]
    assert configuration.training_row_parts(read_folder(ran).run) == []
    edit_json(ran, "report.json", lambda report: report.update(shown_rows=seen))
    assert configuration.training_row_parts(read_folder(ran).run) == [[("Say: ", False), ("yes", True)], [("x", False)]]
    memory = {"memory": {"train": "much"}}
    for odd in ({"shown_rows": [3]}, {"training": [1]}, {"training": [{"loss": "much"}]}, memory):
        edit_json(ran, "report.json", lambda report, odd=odd: report.update({"shown_rows": [], "training": []} | odd))
        with pytest.raises(UsageError):
            read_folder(ran)


def test_probabilities_of_choices_are_held_against_what_was_right(ran: Path) -> None:
    """Where rows say how likely the chosen answer was, a chart shows how often it was right; else there is none."""
    assert not [c for c in metrics.row_charts(read_folder(ran)) if c.title.startswith("Reliability")]
    for subject in ("base", "merged"):
        edit_rows(ran, subject, "qa", lambda i, row: row.update(details={"probability": 0.35 if i % 2 else 0.95}))
    kept = read_folder(ran)
    (chart,) = [c for c in metrics.row_charts(kept) if c.title == "Reliability of qa"]
    rows = kept.rows("merged", "qa").values()
    likely = [row["exact_match"] for row in rows if row["details"]["probability"] == 0.95]
    assert ("merged", "0.95", f"{sum(likely) / len(likely):.2f}", str(len(likely))) in chart.table
    edit_rows(ran, "merged", "qa", lambda i, row: row.update(details={"probability": "0.9"}))
    assert not [c for c in metrics.row_charts(read_folder(ran)) if c.title.startswith("Reliability")]


def test_trials_of_a_sweep_are_shown(ran: Path) -> None:
    """A sweep's trials stand under the training, the chosen value marked."""
    trial = {"value": 8, "metric": 0.5, "change": 0.1, "change_lower": 0.02, "change_upper": 0.2, "seconds": 61.0}
    swept = {
        "key": "adapter.r",
        "by": "qa.exact_match",
        "alpha": 0.05,
        "rows": 40,
        "scale": "proportion",
        "values": [8],
    }
    edit_json(ran, "report.json", lambda r: r.update(sweep=swept | {"trials": [trial], "chosen": 8, "why": "it is"}))
    edit_json(ran, "report.json", lambda r: r["facts"].update(training={"steps": 3, "rows": 20}))
    html = render_run(read_folder(ran))
    for text in ("Sweep of adapter.r", "8 ✓ chosen", "+0.100 [+0.020, +0.200]", "1 min 01 s", "3 steps over 20 rows"):
        assert text in html, text


def test_strips_keep_their_labels_apart() -> None:
    """A strip's labels collide neither with the limit's nor with each other, on any scale."""
    for low, high, limit in ((-0.045, 0.02, -0.06), (0.2, 0.23, 0.25), (1e6, 3e8, 3e8), (0.5, 0.5, 0.5)):
        part = svg.Interval((low + high) / 2, low, high, svg.PASS)
        axis = svg.make_axis([part], limit, 1, formatting.format_limit, shares=False, zero=False)
        places = sorted(axis.place(x) for x in (*axis.ticks(), limit))
        assert all(b - a >= svg.LABEL_GAP_PX for a, b in pairwise(places))
        assert axis.place(limit) == svg.WIDTH / 2  # of every strip: they can be compared
        assert all(0 <= axis.place(x) <= svg.WIDTH for x in (low, high, limit))


def test_labels_keep_their_digits() -> None:
    """Places are written with two decimals in a picture, labels as they are."""
    pytest.importorskip("vl_convert")
    chart = configuration.charts.line_chart("Rate", "", {"rate": [(1.0, 0.0), (2.0, 0.0025)]})
    drawn = svg.draw_svg(chart.spec, 'a "label"')
    assert ">0.0025<" in drawn and 'aria-label="a &quot;label&quot;"' in drawn
    assert not re.search(r'="[^"]*\.\d{3}', drawn)


def test_numbers_have_the_digits_that_matter() -> None:
    """Numbers have a real minus sign, sizes their unit, and perplexities are told as shares where compared."""
    assert (formatting.format_value(-0.0123), formatting.format_value(51.37)) == ("−0.012", "51.37")
    assert formatting.format_value(134515000.0, "count") == "134.5\xa0M"
    assert formatting.format_value(288.7e6, "bytes") == "288.7\xa0MB" and formatting.format_value(float("nan")) == "–"
    assert formatting.format_on_scale(-0.69314718, OnScale("perplexity"), versus=True) == "−50.0%"
    assert format_duration(453.0) == "7 min 33 s"
    assert formatting.format_short_day("2026-11-05T09:00:00+00:00") == "5 Nov"


def test_other_runs_are_read_in_order(ran: Path) -> None:
    """The run before is the newest earlier one of the suite beside it, and none where there is none."""
    kept = read_folder(ran)
    assert page.previous_run(kept) is None
    for name in ("fake-20200101T000000Z", "fake-20210101T000000Z"):
        shutil.copytree(ran, ran.with_name(name))
    found = page.previous_run(kept)
    assert isinstance(found, LoadedRun) and found.folder.name == "fake-20210101T000000Z"
    with pytest.raises(UsageError, match=": the report cannot be read:"):
        read_folder(ran / "merged")


def test_a_perplexity_is_read_in_nats() -> None:
    """Rows are tested in nats, where newer files keep them and where older ones had them."""
    assert row_value({"perplexity": 7.389, "nats": {"perplexity": 2.0}}, "perplexity") == 2.0
    assert row_value({"perplexity": 2.0}, "perplexity") == 2.0
    assert row_value({"perplexity": None, "nats": []}, "perplexity") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "value", "code"),
    [
        ("proportion", "-1.0", 6),
        ("proportion", "2.0", 6),
        ("proportion", 'float("inf")', 6),
        ("mean", 'float("nan")', 6),
        ("mean", "-1.0 - len(s.id)", 1),  # a log-likelihood, for instance
    ],
)
def test_scores_off_their_scale_have_a_page(suite: Project, pages: None, scale: str, value: str, code: int) -> None:
    """Gates on numbers that none can be end in an ERROR, and the page that says so is written."""
    own = f"""
        from harness import Score, hookimpl, metric

        @metric("acc", scale="{scale}", better="higher")
        def odd(subject, samples):
            answers = subject.generate([s.input for s in samples], max_new_tokens=8)
            yield from (Score(s.id, {{"acc": {value}}}, answer=a) for s, a in zip(samples, answers, strict=True))

        @hookimpl
        def harness_evaluators():
            return {{"odd": odd}}
        """
    text = SUITE.replace('use = "exact_match"', 'use = "odd"').replace("qa.exact_match", "qa.acc")
    outcome = suite.write({"suite.toml": text, "harnessfile.py": dedent(own)}).run()
    assert (outcome.code, outcome.err) == (code, "")
    assert ("ERROR" if code == 6 else "FAIL") in Path(outcome.report.folder, "report.html").read_text("utf-8")
