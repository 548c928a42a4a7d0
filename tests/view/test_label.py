"""What people say of a judge's rows: blind, in any order, by keys, and what a calibration makes of it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

from harness.testing import SUITE, TRAIN, Project
from harness.testing.judge import StubJudge
from tests.helpers.browser import CHROMIUM, open_browser
from tests.helpers.late import import_late
from tests.helpers.serving import Served, serve_runs

import_late("starlette")
import_late("uvicorn")
import_late("jinja2")
import_late("openai")
COUNT = 60
ROWS = [{"id": f"q{i}", "input": f"question <b>{i} say w{i}", "target": f"w{i}"} for i in range(COUNT)]
JUDGE = 'backend = "openai"\nmodel = "stub-judge"\nmax_new_tokens = 20\ntrust_judge = true\nadversaries = 0\n'
JUDGED = SUITE.replace('use = "exact_match"', 'use = "judge"').replace("qa.exact_match", "qa.win_rate")
JUDGED = JUDGED.replace('slices = ["kind"]', f"{JUDGE}# options")
RUBRIC = 'mode = "rubric"\ncriteria = { right = "It is right.", short = "It is short." }\n'
ITEM = "merged::qa"


@pytest.fixture
def suite(project: Project) -> Project:
    return project.write({"test.jsonl": ROWS, "train.jsonl": TRAIN})


def run_judged_suite(suite: Project, stub: StubJudge, options: str = "", text: str = JUDGED) -> Path:
    """Run the suite before a judge, and return the run's folder."""
    suite.write({"suite.toml": text.replace("# options", f'base_url = "{stub.openai_url}"\n{options}')})
    suite.run("-k", "merged or base")
    return max((suite.folder / "reports").iterdir())


@pytest.fixture
def disputes(suite: Project) -> Iterator[Path]:
    """A run of which every row is disputed."""
    with StubJudge("always-A") as stub:
        yield run_judged_suite(suite, stub)


def ask_next_question(
    server: Served, run: Path, by: str, drawn: str = "at random"
) -> tuple[dict[str, str], list[str], str]:
    """Return what the form of the next question holds, the texts that are shown, and the page."""
    page = server.ask(f"/label/{run.name}?{urlencode({'by': by, 'item': ITEM, 'drawn': drawn})}").body
    hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page)
    texts = re.findall(r'class="seen" dir="auto">(.*?)</p>', page, re.DOTALL)
    return {k: html.unescape(v) for k, v in hidden}, [html.unescape(text) for text in texts], page


def label_all(server: Served, run: Path, by: str, drawn: str = "at random") -> list[str]:
    """Say of each row that the expected answer is better, else it is a tie; return which key was pressed."""
    pressed = []
    while (given := ask_next_question(server, run, by, drawn))[0]:
        form, (_, right, *answers), page = given
        assert "merged" not in page.replace(ITEM, "") and "always" not in page and "baseline" not in page
        pressed.append(str(answers.index(right) + 1) if answers.count(right) == 1 else "0")
        assert server.post(f"/label/{run.name}", {**form, "pressed": pressed[-1]}).status == 303
    return pressed


def read_jsonl(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_labels_are_what_a_calibration_reads(suite: Project) -> None:
    """Sides turned back, with name and time; those of disputes are refused, for a judge errs most on these."""
    with StubJudge() as stub:
        run = run_judged_suite(suite, stub)
        with serve_runs(run.parent) as server:
            pressed = label_all(server, run, "Ada Ä")
            done = ask_next_question(server, run, "Ada Ä")[2]
        path = run / "merged/qa.labels.jsonl"
        told = read_jsonl(path)
        assert len(told) == COUNT and {"1", "2"} <= {*pressed} and {line["by"] for line in told} == {"Ada Ä"}
        assert {line["label"] for line in told} <= {"candidate", "baseline", "tie"}
        assert all(
            (line["label"] == "candidate") == (line["answer_a"] == line["reference"] != line["answer_b"])
            for line in told
        )
        assert [line["id"] for line in told] != [row["id"] for row in ROWS]
        assert "60 of 60 rows labelled" in done and "The judge agrees on 1.000 [" in done and "kappa 1.000" in done
        before = len(stub.log)
        outcome = suite.harness("judge", "calibrate", str(path), "--suite", "suite.toml")
        assert (outcome.code, "labels       60" in outcome.out, len(stub.log)) == (0, True, before)
        path.write_text(path.read_text("utf-8").replace('"at random"', '"disputes"'), "utf-8")
        outcome = suite.harness("judge", "calibrate", str(path), "--suite", "suite.toml")
    assert outcome.code == 4 and "drawn from the disputes" in outcome.err


@pytest.mark.slow
def test_two_people_lose_no_line(disputes: Path) -> None:
    """At once, each in an order of their own; a row that two were shown has a line of each, a key pressed twice one."""
    run = disputes
    with serve_runs(run.parent) as server, ThreadPoolExecutor(4) as pool:
        orders = [ask_next_question(server, run, by)[0]["id"] for by in ("Ada", "Bo", "Cy", "Di")]
        assert len({*orders}) > 1
        same = {**ask_next_question(server, run, "Ada")[0], "pressed": "1"}
        posts = [same, same, {**same, "by": "Bo"}]
        list(pool.map(lambda form: server.post(f"/label/{run.name}", form), posts))
        list(pool.map(lambda by: label_all(server, run, by), ("Ada", "Bo", "Cy", "Di")))
        assert "All rows are labelled" in ask_next_question(server, run, "Ada")[2]
    told = [(line["id"], line["by"]) for line in read_jsonl(run / "merged/qa.labels.jsonl")]
    assert {i for i, _ in told} == {row["id"] for row in ROWS} and len(told) == len({*told})
    assert {(same["id"], "Ada"), (same["id"], "Bo")} <= {*told}


@pytest.mark.slow
def test_what_is_no_label_is_refused(disputes: Path) -> None:
    """What there is not, no form or too much of one, and a file that holds something else."""
    run = disputes
    path = run / "merged/qa.labels.jsonl"
    with serve_runs(run.parent) as server:
        form = {**ask_next_question(server, run, "Ada")[0], "pressed": "1"}
        odd = [
            {"item": "x"},
            {"drawn": "x"},
            {"id": "x"},
            {"criterion": "x"},
            {"pressed": "3"},
            {"pressed": ""},
            {"by": " "},
        ]
        for change in odd:
            refused = server.post(f"/label/{run.name}", form | change)
            assert (refused.status, refused.body.count("\n")) == (400, 0)
        assert server.post(f"/label/{run.name}", {}).status == 400
        assert server.post("/label/other", form).status == 404
        assert server.post(f"/label/{run.name}", form | {"by": "x" * 200_000}).status == 413
        assert server.ask(f"/label/{run.name}", "POST", Origin=f"http://{server.host}").status == 413
        assert not path.exists()
        path.write_text('{"id": "q1"}\n', "utf-8")
        assert server.post(f"/label/{run.name}", form).status == 400
        assert path.read_text("utf-8") == '{"id": "q1"}\n'


@pytest.mark.slow
def test_criteria_are_asked_one_by_one(suite: Project) -> None:
    """Of a checklist each criterion of each answer, met or not; the calibration reads these too."""
    text = JUDGED.replace("qa.win_rate", "qa.right")
    with StubJudge() as stub:
        run = run_judged_suite(suite, stub, RUBRIC, text)
        with serve_runs(run.parent) as server:
            while form := ask_next_question(server, run, "Ada")[0]:
                _, (_, right, answer), _ = ask_next_question(server, run, "Ada")
                met = answer == right or form["criterion"] == "short"
                server.post(f"/label/{run.name}", {**form, "pressed": "1" if met else "2"})
        path = run / "merged/qa.labels.jsonl"
        assert len(read_jsonl(path)) == 2 * COUNT
        outcome = suite.harness("judge", "calibrate", str(path), "--suite", "suite.toml")
    assert outcome.code == 0 and "labels       120" in outcome.out


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_fifty_disputes_by_keyboard(disputes: Path, tmp_path: Path) -> None:
    """Nothing but keys, in a real browser; its policy refuses nothing of ours."""
    run = disputes
    with serve_runs(run.parent) as server, open_browser(tmp_path / "profile") as tab:
        tab.visit(f"http://{server.host}/?token={server.token}")
        tab.visit(
            f"http://{server.host}/label/{run.name}?{urlencode({'by': 'Ada', 'item': ITEM, 'drawn': 'disputes'})}"
        )
        for number in range(50):
            before = tab.value("document.querySelector('[name=id]').value")
            for kind in ("keyDown", "keyUp"):
                tab.call("Input.dispatchKeyEvent", type=kind, key=(key := "120"[number % 3]), text=key)
            tab.until(f"document.querySelector('[name=id]')?.value !== {json.dumps(before)}")
        assert "50 of 60 rows labelled" in tab.value("document.body.innerText")
        assert not tab.console
    told = read_jsonl(run / "merged/qa.disputes.jsonl")
    assert len(told) == len({line["id"] for line in told}) == 50
    assert {line["drawn"] for line in told} == {"disputes"} and {line["first"] for line in told} == {
        "candidate",
        "baseline",
    }
