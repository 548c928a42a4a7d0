"""Every Eval Ever's UUID.json with UUID_samples.jsonl: a record a row and result; 0 where no score was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.rows.readers import fields as ask
from harness.rows.records import Better, RawMetric, RawRow, RawRows, Wanted
from harness.rows.safe_read import SafeFiles, describe_tool_error, parse_score

VERSION = "0.3."  # of the schema
SAMPLES = "_samples.jsonl"


class EveryEvalEver(ask.RowReader):
    """Reader of Every Eval Ever logs with samples, and their folders."""

    name, words, files = "every_eval_ever", ('"schema_version"', '"evaluation_id"'), (f"**/*{SAMPLES}",)

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        log, told, task = _select_log_and_task(files, path, want)
        samples = log.with_name(log.stem + SAMPLES)
        results = [r for r in told["evaluation_results"] if _strip_lm_eval_filter(r["evaluation_name"], told) == task]
        rows = _read_rows(files, samples, told, results, task, want)
        digest = next(sha for name, sha, _ in files.sources if name == str(samples))
        named = told.get("detailed_evaluation_results") or {}
        if named.get("hash_algorithm") == "sha256" and named.get("checksum") not in (None, digest):
            raise UsageError(
                f"{samples}: differs from the file that its log names by sha256; it was changed or truncated"
            )
        metrics = _make_verified_metrics(results, rows, f"{path}")
        for row in rows:  # an error wins over a score, which converters write beside it
            row.state = "error" if row.state == "error" else "scored" if row.values else "unscored"
            readable = {n: v for n, v in row.values.items() if not metrics[n].unreadable}
            row.values = {} if row.state == "error" else readable
        rows = ask.flag_positional_keys(rows, [row.key for row in rows])
        library, model = told["eval_library"], told["model_info"]
        more, engine = model.get("additional_details") or {}, model.get("inference_engine") or {}
        facts = ask.collect_facts(
            model=model["id"], revision=more.get("revision"), dtype=more.get("dtype"),
            model_args=more.get("model_args"), backend=engine.get("name"), backend_version=engine.get("version"),
            generation=[r["generation_config"] for r in results if r.get("generation_config")] or None,
            judge=(judges := [j for r in results if (j := r["metric_config"].get("llm_scoring"))] or None),
            judged_by_itself="its metrics" if ask.mentions_model(judges, str(model["id"])) else None,
        )  # fmt: skip
        tool = f"every_eval_ever of {library['name']} {library.get('version', '?')}"
        return RawRows(tool, str(model["id"]), task, metrics, rows, facts)


def _select_log_and_task(files: SafeFiles, path: Path, want: Wanted) -> tuple[Path, dict[str, Any], str]:
    """Return the selected log, its content and the task.

    Raises UsageError if none matches, or several do.
    """
    found = files.list_files(f"**/*{SAMPLES}") if path.is_dir() else [path]
    logs = [p.with_name(p.name.removesuffix(SAMPLES) + ".json") if p.name.endswith(SAMPLES) else p for p in found]
    for log in logs:
        if not log.is_file() or not log.with_name(log.stem + SAMPLES).is_file():
            raise UsageError(f"{log}: this and {log.stem}{SAMPLES} belong together, but one of them is missing")
    told: dict[str, tuple[Path, dict[str, Any]]] = {}
    for log in logs:
        document = files.read_json(log)
        if not str(document.get("schema_version")).startswith(VERSION):
            version = ask.display_name(document.get("schema_version"))
            what = f"has schema version {version}, but {VERSION}x is supported"
            raise UsageError(f"{log}: {what}; convert it again with every_eval_ever 0.3")
        for result in document["evaluation_results"]:
            name = _strip_lm_eval_filter(result["evaluation_name"], document)
            if told.setdefault(name, (log, document))[0] != log:
                raise UsageError(f'{path}: contains two logs of "{ask.display_name(name)}"; name one of its files')
    task = ask.select_one(list(told), want.task, path, "task")
    return *told[task], task


def _strip_lm_eval_filter(name: str, told: ask.Told) -> str:
    """Return a task's name without lm_eval's filter."""
    return name.partition("/")[0] if told["eval_library"]["name"] == "lm_eval" else name


def _replace_colons(result: Any) -> str:
    """Return the name of a result as one can say it: a colon stands between a task and its metric."""
    return str(result).replace(":", "/")


def _read_rows(
    files: SafeFiles, path: Path, told: ask.Told, results: list[ask.Told], task: str, want: Wanted
) -> list[RawRow]:
    """Read a task's rows with all their scores.

    Scores of rows with an error are included. Repeats have an epoch, or follow each other.
    """
    named = [r["evaluation_result_id"] for r in results]
    taken = Counter(
        map(_replace_colons, named)
    )  # of which one stands for several results, whose records nothing tells apart
    found: dict[tuple[str, ...], RawRow] = {}
    seen = Counter[tuple[str, ...]]()
    for line, one in files.read_json_lines(path):
        where = f"{path} line {line:,}"
        if one["evaluation_id"] != told["evaluation_id"]:
            raise UsageError(f"{where}: belongs to another evaluation than {path.name.removesuffix(SAMPLES)}.json")
        if _strip_lm_eval_filter(one["evaluation_name"], told) != task:
            continue
        asked, result = one["input"], one.get("evaluation_result_id")
        content = ask.question_digest(asked["raw"], asked["reference"], choices=asked.get("choices"))
        more = one.get("metadata") or {}
        same = (str(one["sample_id"]), content, str(more.get("epoch", "")))
        place = (
            seen[*same, str(result), one["evaluation_name"]] // taken[_replace_colons(result)] if result in named else 0
        )
        seen[*same, str(result), one["evaluation_name"]] += 1
        repeat = int(more["epoch"]) if str(more.get("epoch", "")).isdecimal() else place
        if (key := (*same, str(place))) not in found:
            found[key] = RawRow(
                key=same[0], content=content, prompt=ask.prompt_digest(asked.get("formatted") or asked["raw"]),
                repeat=repeat, input=ask.display_text(asked["raw"]), target=ask.display_text(asked["reference"]),
                answer=ask.display_text(ask.nested_value(one, "output", "raw")), **ask.row_columns(more, want, where),
            )  # fmt: skip
        row = found[key]
        if error := one.get("error"):
            row.state, row.why = "error", row.why or describe_tool_error(error)
        score = parse_score(one["evaluation"]["score"], where)
        if result is not None and score is not None:
            row.values = {**row.values, _replace_colons(result): score}
    return [*found.values()]


def _make_verified_metrics(results: Sequence[ask.Told], rows: Sequence[RawRow], where: str) -> dict[str, RawMetric]:
    """Return metrics. Raises UsageError where the log's own score is not that of its samples."""
    taken = Counter(_replace_colons(r["evaluation_result_id"]) for r in results)
    ended = [row for row in rows if row.state != "error"]
    found = {}
    for result in results:
        name, config = _replace_colons(result["evaluation_result_id"]), result["metric_config"]
        unsure = "polarity" in (config.get("additional_details") or {})  # the converter did not know, and wrote higher
        scored, every = ([row.values[name] for row in some if name in row.values] for some in (ended, rows))
        better: Better | None = None if unsure else "lower" if config["lower_is_better"] else "higher"
        about = RawMetric(better, "proportion" if config.get("metric_unit") == "proportion" else None)
        total = result["score_details"].get("score")
        if taken[name] > 1:
            found[name] = replace(about, unreadable="is the name of several results in one log")
        elif ended and not every:
            found[name] = replace(about, unreadable="has no number on any row")
        else:  # the tool counts an error as 0, or leaves it out
            counted = scored if scored and ask.are_close(ask.mean_of_scores(scored), total) else every
            found[name] = ask.make_metric(where, name, ended, counted, total, about)
    return found
