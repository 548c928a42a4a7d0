"""deepeval's test runs, a JSON file each: a metric that failed has an error, no score, and a success that is false."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UsageError
from harness.rows.readers import fields as ask
from harness.rows.records import Better, RawMetric, RawRow, RawRows, Wanted
from harness.rows.safe_read import SafeFiles, describe_tool_error, parse_score

CASE_KEYS = b'"metricsData"', b'"testPassed"', b'"evalMode"'  # of which one stands beside "testCases"
AUTO = "test_case_"  # how deepeval names a case without a name, by its place


class Deepeval(ask.RowReader):
    """A test run of deepeval."""

    name, words = "deepeval", ('"testCases"',)

    def sniff(self, path: Path, head: bytes) -> bool:
        return super().sniff(path, head) and any(key in head for key in CASE_KEYS)

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        run = files.read_json(path)
        if run.get("conversationalTestCases"):
            raise UsageError(f"{path}: contains conversations, which are not supported; give single-turn test cases")
        said: dict[str, list[ask.Told]] = {}
        rows = [
            _make_row(case, said, want, f'{path} case "{ask.display_name(case.get("name"))}"')
            for case in run["testCases"]
        ]
        metrics, totals = {}, {m["metric"]: m.get("scores") for m in run.get("metricsScores") or []}
        for name, told in said.items():
            values = [row.values[name] for row in rows if name in row.values]
            total = ask.mean_of_scores(totals[name]) if totals.get(name) else None
            known = set[Better]()  # which way is better, where all that is told agrees
            for one in told:
                score, threshold = one.get("score"), one.get("threshold")
                if not one.get("error") and score is not None and threshold is not None and score != threshold:
                    known.add("higher" if (score > threshold) == bool(one.get("success")) else "lower")
            about = RawMetric(known.pop() if len(known) == 1 else None)
            metrics[name] = ask.make_metric(f"{path}", name, rows, values, total, about)
        judges = {n: sorted({m.get("evaluationModel") or "" for m in told} - {""}) for n, told in said.items()}
        scorer = {n: [told[0].get("threshold"), told[0].get("strictMode")] for n, told in said.items()}
        hyper = run.get("hyperparameters") or {}
        model = str(hyper.get("model") or "")
        own = ", ".join(n for n, j in judges.items() if ask.mentions_model(j, model)) or None
        facts = ask.collect_facts(
            judge={n: j for n, j in judges.items() if j}, judged_by_itself=own, scorer=scorer, hyperparameters=hyper
        )
        task = str(run.get("identifier") or "test run")
        return RawRows("deepeval", model, task, metrics, rows, facts)


def _make_row(case: ask.Told, said: dict[str, list[ask.Told]], want: Wanted, where: str) -> RawRow:
    """Convert a test case to a row.

    An error of one metric leaves the other scores valid. Raises UsageError if a metric occurs twice.
    """
    values, errors, seen = dict[str, float](), list[str](), set[str]()
    for metric in case.get("metricsData") or []:
        if (name := str(metric["name"])) in seen:
            raise UsageError(f'{where}: has "{ask.display_name(name)}" twice; give each metric its own name')
        seen.add(name)
        said.setdefault(name, []).append(metric)
        score = parse_score(metric.get("score"), f"{where} {ask.display_name(name)}")
        if metric.get("error"):
            errors.append(describe_tool_error(metric["error"]))
        elif score is not None:
            values[name] = score
    key = str(case["name"])
    return RawRow(
        key=key, numbered=key.startswith(AUTO) and key.removeprefix(AUTO).isdecimal(),
        content=ask.question_digest(case["input"], case.get("expectedOutput"), context=case.get("context")),
        values=values, state="scored" if values else "error" if errors else "unscored", why="; ".join(errors)[:200],
        input=ask.display_text(case["input"]), target=ask.display_text(case.get("expectedOutput")),
        answer=ask.display_text(case.get("actualOutput")),
        **ask.row_columns(case.get("additionalMetadata") or case.get("metadata") or {}, want, where),
    )  # fmt: skip
