"""The page of a gate on scored rows: what it may say of rows taken on trust, and what agrees with its counts."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import pytest

from harness.testing import Project
from tests.helpers.rows_suite import make_rows_suite

pytest.importorskip("jinja2")


SIDES = {"base": 0, "cand": 9}  # wrong answers


def table(better: int) -> str:
    """Return 200 rows of which 150 are right, and of the last ones `better` more."""
    lines = [f"q{i},{int(i < 150 or i >= 200 - better)}" for i in range(200)]
    return "\n".join(["id,score", *lines]) + "\n"


@pytest.fixture
def page(project: Project) -> str:
    """The page of a gate that passes: no row lost, ten won."""
    project.write({"base.csv": table(0), "cand.csv": table(10)})
    outcome = project.harness("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.02")
    assert outcome.code == 0, outcome.err
    return read_run_page(project)


def read_run_page(project: Project) -> str:
    """Return the page of the one run, without the entities of HTML."""
    (folder,) = project.folder.glob("reports/*")
    made = project.harness("report", str(folder))
    assert made.code == 0, made.err
    return html.unescape(Path(folder, "report.html").read_text("utf-8"))


def test_nothing_ships_from_rows(page: str) -> None:
    """A claim on rows taken on trust holds; it says so in amber under the title, and that nothing is exported."""
    assert "The claim holds on these rows: 1 of 1 gate passed" in page
    assert "may ship" not in page
    assert (
        "Scores are taken on trust from base.csv and cand.csv: no weights were seen, and nothing is exported." in page
    )
    assert "sha256 of the rows of every side" in page
    assert "of the weights" not in page


def test_what_changed_agrees_with_the_counts(page: str) -> None:
    """Where rows were won, no sentence says that none was."""
    assert "0 lost and 10 won; the folder holds no answers to show." in page
    assert "No comparable row" not in page


def test_an_empty_column_of_slices_is_left_out(project: Project) -> None:
    """Changed rows without a slice have no column for it, and their title names the rows that are counted."""
    rows = {side: [f"q{i},{int(i >= lost)},answer {i % (3 + lost)}" for i in range(60)] for side, lost in SIDES.items()}
    project.write({f"{side}.csv": "\n".join(["id,score,answer", *lines]) for side, lines in rows.items()})
    project.harness("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.02")
    changed = read_run_page(project).partition('<section id="sec-changed">')[2].partition("</section>")[0]
    assert "base to candidate: 9 lost, 0 won" in changed
    assert "Prompt, last turn" in changed and "Slice" not in changed


def test_its_commands_run(project: Project, page: str) -> None:
    """The commands at the end verify the bundle and gate the same rows again."""
    (block,) = re.findall(r"run again</h3><pre>(.*?)</pre>", page, re.DOTALL)
    commands = block.split("\n")
    assert [command.split()[1] for command in commands] == ["verify", "gate"]
    for command in commands:
        outcome = project.harness(*shlex.split(command)[1:])
        assert outcome.code == 0, outcome.err


def test_a_refuted_claim_ships_nothing_either(project: Project) -> None:
    """The sentence is about the rows where a gate failed, too."""
    project.write({"base.csv": table(40), "cand.csv": table(0)})
    outcome = project.harness("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.02")
    assert outcome.code == 1
    text = read_run_page(project)
    assert "The claim does not hold on these rows: one gate failed" in text
    assert "Nothing ships" not in text


SLICES = make_rows_suite("slices", "qa", 'slices = ["kind"]')


def make_sliced_csv(lost: int) -> str:
    """Return 300 rows of three kinds, of which the kind b loses some; each answered in words."""
    lines = ["id,input,target,answer,score,kind"]
    for i in range(300):
        right = i % 4 > 0 and not (i % 3 == 1 and i < lost)
        lines.append(f"q{i},what is {i},w{i},{f'w{i}' if right else 'no'},{int(right)},{'abc'[i % 3]}")
    return "\n".join(lines) + "\n"


def read_sliced_page(project: Project, gates: dict[str, str]) -> str:
    """Return the page of a suite with some gates on those rows."""
    claims = "".join(
        f'[[gate]]\nid = "{name}"\nmetric = "qa.score"\nversus = "base"\nmin_n = 20\n{claim}\n'
        for name, claim in gates.items()
    )
    project.write({"base.csv": make_sliced_csv(0), "cand.csv": make_sliced_csv(90), "slices.toml": SLICES + claims})
    project.harness("run", "slices.toml")
    return read_run_page(project)


def test_gates_on_slices_are_a_heat_map(project: Project) -> None:
    """From four on: slices down, the worst first, claims across, and each cell has a glyph beside its number."""
    margins = {f"m{i}": f'slice = "kind=*"\nworse_by_at_most = {i / 10}' for i in range(1, 5)}
    page = read_sliced_page(project, margins)
    (table,) = re.findall(r'<table class="heat">(.*?)</table>', page, re.DOTALL)
    assert "score on qa by kind" in table
    assert re.findall(r'scope="row"[^>]*>(\w+)<', table) == ["b", "a", "c"]
    assert len(re.findall(r'role="img">[✓✗?!]</span> [+−][\d.]+', table)) == 12


def test_fewer_gates_on_slices_are_a_list_alone(project: Project) -> None:
    """Three gates need no table of their own."""
    page = read_sliced_page(project, {f"m{i}": f'slice = "kind=*"\nworse_by_at_most = {i / 10}' for i in range(1, 4)})
    assert '<table class="heat">' not in page


def test_rows_of_a_gate_on_all_rows_are_linked(project: Project) -> None:
    """Also where the gate names its worst slice, which is not what it counts."""
    page = read_sliced_page(project, {"all": "worse_by_at_most = 0.01"})
    (lost,) = set(re.findall(r'href="(#qa:lost[^"]*)">[\d,]+ lost', page))
    assert lost == "#qa:lost"


def test_remarks_on_the_rows_stand_once(project: Project) -> None:
    """Under the reasons, and not at the end of each of them."""
    page = read_sliced_page(project, {f"m{i}": f"worse_by_at_most = 0.0{i}" for i in range(1, 4)})
    head = page[page.index("<h1") : page.index('id="sec-gates"')]
    assert head.count('class="reason"') == 3
    assert head.count("nknown on both sides") == 1


def test_a_share_of_rows_that_lose_compares_no_values(project: Project) -> None:
    """The page has the claim in words, and the share with its bounds beside the limit."""
    gate = 'id = "few lose"\nmetric = "qa.score"\nversus = "base"\nworse_by_more_than = 0.5\non_at_most = 0.1'
    suite = make_rows_suite("few", "qa") + f"[[gate]]\n{gate}\n"
    project.write({"base.csv": table(0), "cand.csv": table(10), "suite.toml": suite})
    assert project.harness("run", "suite.toml").code == 0
    page = read_run_page(project)
    assert "worse than base by more than 0.5 on at most 10% of rows" in page
    assert "share of rows that lose more" in page
    assert "against –" not in page
