"""Make pictures of the pages of every kind of run: light, dark, on a phone of 360 px, and on paper.

    python -m bench.gallery --to FOLDER [--only KIND]

The runs are of fake models and drawn rows, made in FOLDER/runs; beside its pictures each kind has its page.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import read_run
from harness.cli.main import main as run_harness
from harness.internals import read_events
from harness.testing import ROWS, SUITE, TRAIN, write_fake
from harness_report.page import fill_template
from harness_view.live import live_parts
from tests.helpers.browser import Browser, open_browser
from tests.helpers.rows_suite import make_rows_suite

LOOKS = {"light": (1300, False), "dark": (1300, True), "phone": (360, False)}  # width in px, and whether dark
TALLEST = 9000  # px of a picture
LETTERS = "abcdefghijkl"
HISTORY = 3  # runs of the suite whose history is drawn
GATE = '[[gate]]\nid = "{id}"\nmetric = "support.score"\nversus = "base"\nworse_by_at_most = {limit}\n{more}\n'


def main() -> None:
    """Make the runs and their pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--only", choices=list(KINDS), help="one kind of run")
    args = parser.parse_args()
    to = args.to.resolve()
    to.mkdir(parents=True, exist_ok=True)
    for name, make in KINDS.items():
        if args.only in (None, name):
            place = to / "runs" / name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            with work_in_folder(place):
                (to / f"{name}.html").write_bytes(make(place).read_bytes())
    with tempfile.TemporaryDirectory() as profile, open_browser(Path(profile)) as tab:
        for name in KINDS:
            if args.only in (None, name):
                photograph(tab, to / f"{name}.html")


def photograph(tab: Browser, page: Path) -> None:
    """Write the pictures of a page beside it."""
    for look, (width, dark) in LOOKS.items():
        tab.open(page, width, dark=dark)
        tall = min(tab.value("document.documentElement.scrollHeight"), TALLEST)
        tab.picture(page.with_name(f"{page.stem}-{look}.png"), width, tall)
    tab.open(page, 800)
    tab.call("Emulation.setEmulatedMedia", media="print")
    tall = min(tab.value("document.documentElement.scrollHeight"), TALLEST)
    tab.picture(page.with_name(f"{page.stem}-print.png"), 800, tall)
    tab.call("Emulation.setEmulatedMedia", media="screen")


@contextmanager
def work_in_folder(folder: Path) -> Iterator[None]:
    """Work in a folder with a cache and a ledger of its own."""
    before, known = Path.cwd(), os.environ.get("HARNESS_CACHE")
    os.environ["HARNESS_CACHE"] = str(folder / "cache")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.pop("HARNESS_CACHE")
        os.environ.update({"HARNESS_CACHE": known} if known else {})


# -- kinds of runs -------------------------------------------------------------------------------------


def train(place: Path) -> Path:
    """A suite that trains, merges and exports."""
    write_project(place)
    run_command_line("run", "suite.toml", "-p", "harness.testing")
    return make_report(place)


def candidate(place: Path) -> Path:
    """A suite on an adapter that was trained elsewhere."""
    write_project(place)
    write_fake(place / "tuned", 0.9)
    run_command_line("run", "suite.toml", "-p", "harness.testing", "--candidate", "tuned")
    return make_report(place)


def rows(place: Path) -> Path:
    """Rows that another tool scored, on which the claim is refuted."""
    write_rows(place, 900, worse=0.5)
    run_command_line("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.02", "--slice", "topic")
    return make_report(place)


def error(place: Path) -> Path:
    """Rows of which five have no score."""
    write_rows(place, 300, missing=5)
    run_command_line("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.05")
    return make_report(place)


def inconclusive(place: Path) -> Path:
    """Too few rows for the margin."""
    write_rows(place, 300)
    run_command_line("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.01")
    return make_report(place)


def one(place: Path) -> Path:
    """One gate that passes."""
    write_rows(place, 600)
    run_command_line("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.1")
    return make_report(place)


def sixty(place: Path) -> Path:
    """Sixty gates: five margins on each of twelve slices."""
    write_rows(place, 3600, worse=0.03)
    gates = {
        f"{letter} {limit}": (limit, f'slice = "topic={letter}"')
        for letter in LETTERS
        for limit in (0.02, 0.04, 0.08, 0.12, 0.2)
    }
    write_suite(place, "sixty", gates)
    run_command_line("run", "sixty.toml")
    return make_report(place)


def twelve(place: Path) -> Path:
    """A gate on each of twelve slices, and one on all rows."""
    write_rows(place, 3600, worse=0.02)
    write_suite(place, "twelve", {"all": (0.05, ""), "no slice worse": (0.1, 'slice = "topic=*"')})
    run_command_line("run", "twelve.toml")
    return make_report(place)


def many(place: Path) -> Path:
    """A hundred thousand rows."""
    write_rows(place, 100_000)
    run_command_line("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.01")
    return make_report(place)


def live(place: Path) -> Path:
    """A run that goes on: its events up to the first verdict."""
    train(place)
    (folder,) = place.glob("reports/*")
    (folder / "report.json").unlink()
    lines = (folder / "events.jsonl").read_text("utf-8").splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if json.loads(line)["event"] == "verdict")
    (folder / "events.jsonl").write_text("".join(lines[: first + 1]), "utf-8")
    found = read_events(folder)
    about = {"title": found.run.suite, "name": folder.name, "watched": False}
    page = place / "live.html"
    page.write_text(fill_template("watch.html", "harness_view", "view.js", **about, **live_parts(found)), "utf-8")
    return page


def compare(place: Path) -> Path:
    """Two runs beside each other, whose limit was raised in between."""
    write_rows(place, 900, worse=0.03)
    run_command_line("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.02")
    run_command_line("gate", "base.csv", "cand.csv", "--worse-by-at-most", "0.2")
    before, now = sorted(place.glob("reports/*"))
    run_command_line("report", str(now), "--against", str(before), "-o", "compare.html")
    return place / "compare.html"


def history(place: Path) -> Path:
    """Several runs of a suite, each with another limit."""
    for i in range(HISTORY):
        write_rows(place, 900, worse=0.01 * i)
        write_suite(place, "twelve", {"all": (0.02 + 0.03 * i, ""), "each": (0.2, 'slice = "topic=*"')})
        run_command_line("run", "twelve.toml")
    last = max(place.glob("reports/*"))
    run_command_line("report", str(last), "--history", "reports", "-o", "history.html")
    return place / "history.html"


def notebook(place: Path) -> Path:
    """What a cell of a notebook shows of a run."""
    train(place)
    (folder,) = place.glob("reports/*")
    page = place / "notebook.html"
    style = "body{font:14px sans-serif;margin:24px}td,th{padding:4px 10px;text-align:left}"
    html = read_run(folder)._repr_html_()
    page.write_text(f'<!doctype html><html lang="en"><title>A cell</title><style>{style}</style><main>{html}', "utf-8")
    return page


KINDS: Mapping[str, Callable[[Path], Path]] = {
    f.__name__: f
    for f in (train, candidate, rows, error, inconclusive, one, sixty, twelve, many, live, compare, history, notebook)
}


# -- what they are made of -----------------------------------------------------------------------------


def run_command_line(*words: str) -> None:
    """Run a command line, whatever its exit code is."""
    with suppress(SystemExit):
        run_harness([*words])


def make_report(place: Path) -> Path:
    """Return the page of the one run."""
    (folder,) = place.glob("reports/*")
    run_command_line("report", str(folder))
    return folder / "report.html"


def write_project(place: Path) -> None:
    """Write a suite of fake models with two gates, and its rows."""
    gate = '\n[[gate]]\nid = "better"\nmetric = "qa.exact_match"\nversus = "base"\nbetter_by = 0.1\n'
    (place / "suite.toml").write_text(SUITE + gate, "utf-8")
    for name, lines in (("test.jsonl", ROWS), ("train.jsonl", TRAIN)):
        (place / name).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    write_fake(place / "base", 0.3)


def write_rows(place: Path, count: int, worse: float = 0.0, missing: int = 0) -> None:
    """Write the rows of a base and of a candidate that is right less often, on twelve topics."""
    for name, share in (("base", 0.8), ("cand", 0.8 - worse)):
        luck, same = random.Random(name), random.Random("both")
        lines = ["id,input,target,answer,score,topic"]
        for i in range(count):
            right = luck.random() < share if same.random() < 0.2 else same.random() < 0.8
            topic, label = LETTERS[i % 12], f"label {i % 7}"
            said = label if right else f"label {luck.randrange(7)}"
            score = "" if name == "cand" and i < missing else int(said == label)
            lines.append(f"q{i},Which label has question {i} about {topic}?,{label},{said},{score},{topic}")
        (place / f"{name}.csv").write_text("\n".join(lines) + "\n", "utf-8")


def write_suite(place: Path, name: str, gates: Mapping[str, tuple[float, str]]) -> None:
    """Write a suite of rows with gates: each its limit, and other keys."""
    text = make_rows_suite(name, "support", 'slices = ["topic"]')
    text += "".join(GATE.format(id=id, limit=limit, more=more) for id, (limit, more) in gates.items())
    (place / f"{name}.toml").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
