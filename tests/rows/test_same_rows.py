"""Both values and the estimate of a gate are of the same rows on every output, and agree to the last digit."""

from __future__ import annotations

import html
import re
from decimal import Decimal
from pathlib import Path

import pytest

from harness import read_run
from harness.records.run import Run
from harness.records.verdict_figures import verdict_figures
from harness.reports.junit import format_junit
from harness.reports.markdown import format_run_markdown
from harness.testing import Project
from tests.helpers.rows_suite import make_rows_suite

pytest.importorskip("jinja2")
NUMBER = r"[+−]?[\d,]*\d(?:\.\d+)?"
AGAINST = re.compile(rf"({NUMBER}) against ({NUMBER}), ({NUMBER})(?! ?[%\d])")
ARROW = re.compile(rf"({NUMBER}) → ({NUMBER}) +({NUMBER})( points)?(?! ?%)")
SUITE = make_rows_suite("kinds", "qa", 'slices = ["kind"]', 'cluster = "doc"')
GATES = {
    "each": 'slice = "kind=*"\nworse_by_at_most = 0.3\nmin_n = 20',
    "strict": 'slice = "kind=*"\nworse_by_at_most = 0.01\nmin_n = 20',
    "all": "worse_by_at_most = 0.02",
    "share": 'slice = "kind=*"\nworse_by_at_most = "20%"\nmin_n = 20',
}


def parse_number(text: str) -> Decimal:
    return Decimal(text.replace("−", "-").replace(",", ""))


def make_csv(lost: int, score: str = "int") -> str:
    """Return 240 rows of three kinds and 80 clusters, of which the kind b loses some."""
    lines = ["id,kind,doc,score"]
    for i in range(240):
        kind = "abc"[i % 3]
        right = i % 5 > 0 and not (kind == "b" and i % 11 < lost)
        value = int(right) if score == "int" else round(3 + (i % 7) / 3 - (1.5 * i % 4 if right else 0.1), 3)
        lines.append(f"q{i},{kind},d{i // 3},{value}")
    return "\n".join(lines) + "\n"


@pytest.fixture(params=["share", "mean", "perplexity"])
def outputs(project: Project, request: pytest.FixtureRequest) -> tuple[Run, dict[str, str]]:
    """Every output of a run with gates on slices, on clusters, on a share of the baseline and with a cap."""
    share = request.param == "share"
    gates = GATES if share else {"all": "cap = 1.0\nworse_by_at_most = 0.2\nallow_approximate = true"}
    better = "lower" if request.param == "perplexity" else "higher"
    scale = "" if share else f'scale = "{request.param}"\nbetter = "{better}"\n'
    text = SUITE + scale
    for name, claim in gates.items():
        text += f'[[gate]]\nid = "{name}"\nmetric = "qa.score"\nversus = "base"\n{claim}\n'
    kind = "int" if share else "float"
    project.write({"base.csv": make_csv(0, kind), "cand.csv": make_csv(4, kind), "kinds.toml": text})
    made = project.harness("run", "kinds.toml")
    assert made.code in (0, 1, 2), made.err
    (folder,) = project.folder.glob("reports/*")
    assert project.harness("report", str(folder)).code == 0
    run = read_run(folder)
    page = html.unescape(re.sub(r"<[^>]*>", " ", Path(folder, "report.html").read_text("utf-8")))
    return run, {
        "rows terminal": " ".join(made.out.split()),
        "terminal": " ".join(project.harness("show", str(folder)).out.split()),
        "markdown": format_run_markdown(run, folder).replace("\\", ""),
        "junit": format_junit(run),
        "notebook": html.unescape(re.sub(r"<[^>]*>", " ", run._repr_html_())),
        "page": page,
    }


@pytest.mark.slow
def test_every_output_agrees(outputs: tuple[Run, dict[str, str]]) -> None:
    """Value - baseline = estimate as written, except where the output names what was estimated."""
    run, texts = outputs
    found = 0
    for name, text in texts.items():
        for value, baseline, estimate in AGAINST.findall(text):
            assert parse_number(value) - parse_number(baseline) == parse_number(estimate), (
                name,
                value,
                baseline,
                estimate,
            )
            found += 1
        for baseline, value, estimate, points in ARROW.findall(text):
            change = parse_number(value) - parse_number(baseline)
            assert (100 * change if points else change) == parse_number(estimate), (name, baseline, value, estimate)
            found += 1
    named = {"capped mean difference", "capped relative change"}
    if any(v.terms and v.terms.cap is not None for v in run.verdicts):
        assert all(any(word in text for word in named) for text in texts.values())
    else:
        assert found >= 4


@pytest.mark.slow
@pytest.mark.parametrize("outputs", ["share"], indirect=True)
def test_the_slice_is_named_with_its_own_values(outputs: tuple[Run, dict[str, str]]) -> None:
    """On every output the values of the deciding slice stand beside its difference, and never those of all rows."""
    run, texts = outputs
    (v,) = (v for v in run.verdicts if v.gate == "each")
    assert v.where == "kind=b"
    assert v.n == 240
    figures = verdict_figures(v)
    assert (figures.where, figures.n) == ("kind=b", 80)
    assert f"{v.value:.3f}" not in (figures.value, figures.baseline)
    for name, text in texts.items():
        said = f"{figures.value} against {figures.baseline}"
        if name == "rows terminal":
            said = f"kind=b: {figures.baseline} → {figures.value} {figures.points[0]} points"
        assert "kind=b" in text and said in text, name
    assert "80 of 240 pairs" in texts["rows terminal"]
