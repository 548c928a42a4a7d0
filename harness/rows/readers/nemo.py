"""NeMo Evaluator's results.jsonl, with eval-*.json beside it: what failed has a reward of 0 there, and is no answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.errors import UsageError
from harness.rows.readers import fields as ask
from harness.rows.records import RawMetric, RawRow, RawRows, State, Wanted
from harness.rows.safe_read import SafeFiles, describe_tool_error, parse_score

ROWS, BUNDLE = "results.jsonl", "eval-*.json"
STATES: Mapping[str, State] = {"infra_error": "error", "system": "error", "tool_infra": "error", "graceful": "limit"}
SCORER = "scorer:"
UNKNOWN_SETTINGS = "system prompt and generation settings are not in NeMo's files, so they were not compared"


class Nemo(ask.RowReader):
    """Reader of NeMo Evaluator runs.

    It reads the folder of one benchmark, or one that holds several.
    """

    name, words = "nemo", ('"problem_idx"', '"reward"', '"expected_answer"', '"scoring_details"')

    def sniff(self, path: Path, head: bytes) -> bool:
        return bool(_list_nemo_folders(path)) if path.is_dir() else super().sniff(path, head)

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        folders = _list_nemo_folders(path) if path.is_dir() else [path.parent]
        names = [folder.name for folder in folders]  # of benchmarks, as far as a file system takes them
        folder = (
            folders[names.index(ask.select_one(names, want.task, path, "task"))] if len(folders) > 1 else folders[0]
        )
        if not (bundles := sorted(folder.glob(BUNDLE))):
            raise UsageError(f"{path}: has no {BUNDLE} beside {ROWS}, which holds model and totals; copy it there")
        told = files.read_json(bundles[-1])  # named by their times; a run anew writes rows over, and a file more
        rows, rewards = _read_rows_and_rewards(files, folder / ROWS, want)
        bench, config = told["benchmark"], told["config"]
        name = ask.select_one([str(bench["name"])], "" if len(folders) > 1 else want.task, path, "task")
        if rows and told["n_results"] != len(rows):
            what = f"has {len(rows):,} of {told['n_results']:,} rows; the file is truncated, or of another run"
            raise UsageError(f"{path}: {what}")
        totals = {"reward": ask.nested_value(bench, "scores", "summary", "mean")}
        scorers = {k.removeprefix(SCORER): v for k, v in bench["scores"].items() if k.startswith(SCORER)}
        totals |= {name: v["correct"] / v["total"] for name, v in scorers.items()}
        metrics = {}
        for metric, values in rewards.items():
            about = RawMetric("higher", "proportion" if metric != "reward" or "pass@1" in bench["scores"] else None)
            metrics[metric] = ask.make_metric(f"{path}", metric, rows, values, totals.get(metric), about)
        facts = ask.collect_facts(
            model=config.get("model"), epochs=str(bench.get("repeats") or 1), scorer=config.get("scorers"),
            limit=str(config.get("max_problems") or "none"), url=config.get("base_url"),
        )  # fmt: skip
        failed = sum(row.state != "scored" for row in rows)
        notes = (UNKNOWN_SETTINGS, *ask.make_notes((failed, "row", "failed, counted as 0 by NeMo")))
        notes += (f"{len(bundles) - 1:,} older {BUNDLE} were not read",) if len(bundles) > 1 else ()
        tool = f"nemo_evaluator {told.get('sdk_version', '?')}"
        return RawRows(tool, str(config.get("model", "")), name, metrics, rows, facts, notes=notes)


def _list_nemo_folders(path: Path) -> list[Path]:
    """Return the folders with rows of NeMo Evaluator: a folder itself, or those in it."""
    found = [one.parent for one in (path / ROWS, *sorted(path.glob(f"*/{ROWS}"))) if one.is_file()]
    return [folder for folder in found if next(folder.glob(BUNDLE), None)]


def _read_rows_and_rewards(files: SafeFiles, path: Path, want: Wanted) -> tuple[list[RawRow], dict[str, list[float]]]:
    """Read rows, and all rewards by metric.

    NeMo Evaluator counts every reward, those of failures too. Raises UsageError if one is missing.
    """
    rows, every = list[RawRow](), dict[str, list[float]]()
    for line, row in files.read_json_lines(path):
        where, values = f"{path} line {line:,}", dict[str, float]()
        details, reason = row["scoring_details"], ""
        state: State = "scored"
        if category := details.get("error_category"):  # an "error" alone may be that of code which an answer wrote
            state, reason = STATES.get(str(category), "error"), describe_tool_error(details.get("error") or category)
        elif isinstance(judge := details.get("judge"), dict) and judge.get("error"):
            state, reason = (
                "error",
                describe_tool_error(judge["error"]),
            )  # one that did not judge is a failure whatever its reward
        for scorer, value in {"reward": row["reward"], **(row.get("scorer_rewards") or {})}.items():
            name = scorer.removeprefix(SCORER)  # as one can say it: a colon stands between a task and its metric
            if (found := parse_score(value, f"{where} {ask.display_name(name)}")) is None:
                raise UsageError(f"{where}: {ask.display_name(name)} has no number, which NeMo gives to every row")
            every.setdefault(name, []).append(found)
            scored = details.get(scorer) if scorer != "reward" else None
            if not (isinstance(scored, dict) and "error" in scored):  # a scorer that failed gives 0
                values[name] = found
        rows.append(RawRow(
            key=str(row["problem_idx"]), numbered=True, repeat=int(row["repeat"]), state=state, why=reason,
            content=ask.question_digest(row["prompt"], row["expected_answer"]), prompt=ask.prompt_digest(row["prompt"]),
            input=ask.display_text(row["prompt"]), target=ask.display_text(row["expected_answer"]),
            answer=ask.display_text(row.get("model_response")), values=values if state == "scored" else {},
            **ask.row_columns(row.get("metadata") or {}, want, where),
        ))  # fmt: skip
    return rows, every
