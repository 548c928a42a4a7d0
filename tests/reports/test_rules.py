"""What decides and is another than in the run before stands on every output."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness.records.claims.gate import DERIVED_FIELDS, Gate
from harness.reports import rules
from harness.reports.report_json import read_run
from harness.testing import ROWS, SUITE, TRAIN, Project

MARGIN = 'versus = "base"\nworse_by_at_most = 0.05'
TIGHT = SUITE.replace("min = 0.5", MARGIN)
LOOSE = TIGHT.replace("0.05", "0.4")
TOLD = 'gate "floor": worse_by_at_most 0.05 → 0.4 (looser)'


@pytest.fixture
def moved(project: Project) -> Project:
    """Two runs on the same rows; in between the limit was raised eightfold, by which a gate passes."""
    worse = {"train.skill": "0.2"}
    project.write({"test.jsonl": ROWS, "train.jsonl": TRAIN})
    for text in (TIGHT, LOOSE):
        project.write({"suite.toml": text}).run(*(f"--set={key}={value}" for key, value in worse.items()))
    return project


def list_run_folders(project: Project) -> list[Path]:
    """Return the run folders, the earlier first."""
    return sorted((path.parent for path in project.folder.glob("reports/*/report.json")), key=lambda f: f.name)


def test_a_moved_limit_is_on_every_output(moved: Project) -> None:
    """Terminal, show, compare as text, Markdown and JSON, history, the report as page and as Markdown name it."""
    before, now = list_run_folders(moved)
    outputs = [
        moved.harness("show", str(now)).out,
        moved.harness("compare", str(now), str(before)).out,
        moved.harness("compare", str(now), str(before), "--format", "markdown").out.replace("\\", ""),
        json.loads(moved.harness("compare", str(now), str(before), "--json").out)["rules"][0],
        moved.harness("history", "fake").out,
        moved.harness("report", str(now), "--markdown").out.replace("\\", ""),
    ]
    for out in outputs:
        assert TOLD in " ".join(out.split()), out


def test_the_earlier_limit_is_put_to_todays_bounds(moved: Project) -> None:
    """The line says what the verdict would have been at the earlier limit."""
    before, now = list_run_folders(moved)
    outcomes = {v.candidate: v.outcome for v in read_run(before).verdicts}
    (change, *_) = rules.changed_rules(*map(_read_known_rules, (now, before)))
    assert change.would_be == tuple(f"with the earlier limit {c} would be {o}" for c, o in outcomes.items())


def test_the_page_says_it_under_its_title(moved: Project) -> None:
    """Page, comparison and history say which rule moved; the chart's limit is a line for each limit."""
    pytest.importorskip("jinja2")
    before, now = list_run_folders(moved)
    for words in ([], ["--against", str(before)], ["--history", "reports"]):
        made = moved.harness("report", str(now), *words)
        assert made.code == 0, made.err
        text = Path(moved.folder, made.out.strip()).read_text("utf-8").replace("&#34;", '"')
        assert TOLD in text, words
        assert "Nothing differs" not in text, words


def _read_known_rules(folder: Path) -> rules.Rules:
    found = rules.read_rules(folder)
    assert found
    return found


def _replace_value(lock: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(lock))
    here = copy
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return copy


def _list_value_paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where every value of a lock stands."""
    if isinstance(value, dict) and value:
        return [place for key, inner in value.items() for place in _list_value_paths(inner, (*path, key))]
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return [place for i, one in enumerate(value) for place in _list_value_paths(one, (*path, i))]
    return [path]


def test_fields_that_no_suite_writes_are_not_compared() -> None:
    """A recorded gate has the same derived fields as the gate itself; a change of one is no change of the rules."""
    assert {*DERIVED_FIELDS} <= {*rules.DERIVED_KEYS}


def test_every_key_of_the_lock_is_seen(moved: Project) -> None:
    """Whatever value of a lock is another, a change names it; but for what names, dates or repeats another key."""
    now = _read_known_rules(list_run_folders(moved)[1])
    skipped = {*rules.LABELS, "suite.header.alpha"} - {"gates", "suite.header.alpha"}
    for place in _list_value_paths(now.lock):
        dotted = ".".join(map(str, place))
        if any(dotted == name or dotted.startswith(f"{name}.") for name in skipped) or place[-1] in rules.DERIVED_KEYS:
            continue
        other = dataclasses.replace(now, lock=_replace_value(now.lock, place, "another"))  # type: ignore[arg-type]
        assert rules.changed_rules(now, other), dotted


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Gate) if f.name not in (*rules.DERIVED_KEYS, "where")]
)
def test_every_key_of_a_gate_is_told_by_its_name(moved: Project, name: str) -> None:
    """A key of a gate that is added, or another, is told with the gate's id."""
    now = _read_known_rules(list_run_folders(moved)[1])
    other = dataclasses.replace(now, lock=_replace_value(now.lock, ("gates", 0, name), "another"))  # type: ignore[arg-type]
    (change,) = rules.changed_rules(now, other)
    assert (change.gate, change.key, change.decides) == ("floor", name, True)


@pytest.mark.parametrize(
    ("key", "now", "before", "direction"),
    [
        ("min", 0.5, 0.6, "looser"),
        ("max", 0.5, 0.6, "stricter"),
        ("worse_by_at_most", "2%", "1%", "looser"),
        ("worse_by_at_most", "2%", 0.1, ""),
        ("max_failures", 3, 0, "looser"),
        ("alpha", 0.01, 0.05, "stricter"),
        ("severity", "warn", "block", "looser"),
        ("allow_approximate", True, False, "looser"),
        ("requires", [], ["other"], "looser"),
        ("requires", ["a"], ["b"], ""),
        ("metric", "qa.f1", "qa.acc", ""),
    ],
)
def test_a_change_says_whether_it_is_looser(moved: Project, key: str, now: Any, before: Any, direction: str) -> None:
    """Where a change makes a gate easier or harder to pass, that is said; else nothing is."""
    own = _read_known_rules(list_run_folders(moved)[1])
    one, other = (dataclasses.replace(own, lock=_replace_value(own.lock, ("gates", 0, key), v)) for v in (now, before))  # type: ignore[arg-type]
    (change,) = rules.changed_rules(one, other)
    assert change.direction == direction


def test_a_gate_that_is_gone_is_looser(moved: Project) -> None:
    """A gate that was removed, and one that was added, are changes of the rules."""
    own = _read_known_rules(list_run_folders(moved)[1])
    without = dataclasses.replace(own, lock={**own.lock, "gates": []})
    assert [c.direction for c in rules.changed_rules(without, own)] == ["looser"]
    assert [c.direction for c in rules.changed_rules(own, without)] == ["stricter"]
