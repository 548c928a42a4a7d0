"""promptfoo's output.json: repeats stand as tests, a test without assertions succeeds, one that broke only fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.rows.readers import fields as ask
from harness.rows.records import RawMetric, RawRow, RawRows, State, Wanted
from harness.rows.safe_read import SafeFiles, describe_tool_error

FORMAT_VERSION = 3  # of the format
ERROR_CODE = 2  # failureReason: no answer came; 1 is an assertion that failed, 0 none
SUCCESS = "success"
FAILURE_PREFIXES = (  # of an assertion that crashed; nothing else distinguishes it from one that failed
    "Custom function threw error", "Invalid regex pattern:", "Scoring function error:", "Python code execution failed",
    "Ruby code execution failed", "Webhook error", "Error executing",
)  # fmt: skip


CODE = ("javascript", "python", "ruby", "webhook")  # assertions whose value is a program


class Promptfoo(ask.RowReader):
    """Reader of promptfoo exports, for one provider and prompt.

    `#LABEL` after the path names the provider.
    """

    name, words = "promptfoo", ('"evalId"', '"results"')

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        document = files.read_json(path)
        if (results := document["results"]).get("version") != FORMAT_VERSION:
            version = ask.display_name(results.get("version"))
            what = f"has version {version} of promptfoo's format, but {FORMAT_VERSION} is supported"
            raise UsageError(f"{path}: {what}; export it again with a newer promptfoo")
        prompts = results["prompts"]
        provider = ask.select_one([p["provider"] for p in prompts], want.label, path, "provider")
        labels = [p["label"] if p["provider"] == provider else None for p in prompts]
        task = ask.select_one([label for label in labels if label is not None], want.task, path, "prompt")
        place = labels.index(task)
        mine = [row for row in results["results"] if row["promptIdx"] == place]
        rows = _make_rows(mine, want, f"{path}")
        metrics = _make_verified_metrics(mine, rows, prompts[place].get("metrics") or {}, f"{path}") if rows else {}
        named = [p for p in ask.nested_value(document, "config", "providers") or [] if isinstance(p, dict)]
        own = [p.get("config") or {} for p in named if provider in (p.get("label"), p.get("id"))]
        facts = ask.collect_facts(
            model=provider, template=prompts[place].get("raw"), generation=own[-1] if own else {},
            judge=(judge := ask.nested_value(document, "config", "defaultTest", "options", "provider")),
            judged_by_itself="its assertions" if ask.mentions_model(judge, provider) else None,
        )  # fmt: skip
        broke, bare = (sum(row.state == state for row in rows) for state in ("error", "unscored"))
        lost = "without an answer or with a failed assertion, counted as 0 by promptfoo"
        unasked = "without an assertion, counted as success by promptfoo"
        notes = ask.make_notes((broke, "test", lost), (bare, "test", unasked))
        tool = f"promptfoo {(document.get('metadata') or {}).get('promptfooVersion', '?')}"
        return RawRows(tool, provider, task, metrics, rows, facts, notes=notes)


def _make_rows(tests: Sequence[ask.Told], want: Wanted, where: str) -> list[RawRow]:
    """Convert tests to rows.

    A test that occurs several times becomes the repeats of one row, since promptfoo does not number them.
    """
    rows, seen = list[RawRow](), Counter[tuple[str, str]]()
    for test in tests:
        case = test["testCase"]
        key, here = str(case.get("description") or ""), f"{where} test {ask.display_name(test.get('testIdx'))}"
        content = ask.question_digest(ask.format_setting(test["vars"]), "", assertions=case.get("assert"))
        state, reason = _find_state(test)
        values = ask.parse_scores({SUCCESS: bool(test["success"]), **(test.get("namedScores") or {})}, here)
        rows.append(RawRow(
            key=key, numbered=not key, content=content, prompt=ask.prompt_digest(test["prompt"]["raw"]),
            values=values if state == "scored" else {}, state=state, why=reason, repeat=seen[content, key],
            input=ask.display_text(test["prompt"]["raw"]), target=ask.display_text(_list_expected(case)),
            answer=ask.display_text(ask.nested_value(test, "response", "output")),
            **ask.row_columns({**test["vars"], **(case.get("metadata") or {})}, want, here),
        ))  # fmt: skip
        seen[content, key] += 1
    return rows


def _list_expected(case: ask.Told) -> list[str]:
    """Return the values that a test's assertions expect.

    Assertions with code have none.
    """
    plain = [one for one in case.get("assert") or [] if str(one.get("type")) not in CODE]
    return [ask.display_text(one["value"]) for one in plain if one.get("value") is not None]


def _find_state(test: ask.Told) -> tuple[State, str]:
    """Return how a test ended: an assertion that failed is a score, one that broke is none."""
    graded = test.get("gradingResult") or {}
    if test.get("failureReason") == ERROR_CODE or not graded:
        return "error", describe_tool_error(test.get("error") or "no answer")
    parts = graded.get("componentResults") or []
    for one in (graded, *parts):
        if ask.nested_value(one, "metadata", "graderError") or str(one.get("reason", "")).startswith(FAILURE_PREFIXES):
            return "error", describe_tool_error(one.get("reason"))
    return ("scored", "") if parts else ("unscored", describe_tool_error(graded.get("reason")))


def _make_verified_metrics(
    tests: Sequence[ask.Told], rows: Sequence[RawRow], told: ask.Told, where: str
) -> dict[str, RawMetric]:
    """Return metrics. Raises UsageError where promptfoo's own counts, of all tests, are not those of the tests."""
    ask.check_total(f"{where} tests that pass", sum(bool(test["success"]) for test in tests), told.get("testPassCount"))
    for name, total in (told.get("namedScores") or {}).items():
        ask.check_total(
            f"{where} {ask.display_name(name)}", sum((t.get("namedScores") or {}).get(name, 0) for t in tests), total
        )
    names = dict.fromkeys([SUCCESS, *(name for row in rows for name in row.values)])
    return {n: RawMetric("higher", "proportion" if n == SUCCESS else None) for n in names}
