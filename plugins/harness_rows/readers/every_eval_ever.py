"""Every Eval Ever's UUID.json with UUID_samples.jsonl: a record a row and result; 0 where no score was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import UsageError
from harness_rows.guard import Files, number
from harness_rows.readers import asking as ask
from harness_rows.records import Better, RawMetric, RawRow, RawRows, Wanted

VERSION = "0.3."  # of the schema
SAMPLES = "_samples.jsonl"
LM_EVAL = "lm_eval"  # which has a filter behind the name of its task


@dataclass
class _Sampled:
    """One row: what its records say of it, the scores that count, and all that stand there, those of errors too."""

    row: RawRow
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""


class EveryEvalEver:
    """A log of Every Eval Ever with its samples, or a folder with some."""

    name = "every_eval_ever"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether this is such a log, its samples, or a folder with them."""
        if path.is_dir():
            return any(path.glob(f"**/*{SAMPLES}"))
        return b'"schema_version"' in head and b'"evaluation_id"' in head

    @ask.refusing
    def read(self, path: Path, want: Wanted) -> RawRows:
        """Return the samples of one evaluation."""
        files = Files(path)
        log, told, task = _log(files, path, want)
        samples = log.with_name(log.stem + SAMPLES)
        results = [r for r in told["evaluation_results"] if _task(r["evaluation_name"], told) == task]
        records = _records(files, samples, told, task, want)
        if not records:
            raise UsageError(f'{path}: holds no samples of "{ask.called(task)}"')
        _check_file(told.get("detailed_evaluation_results") or {}, files, samples)
        if ask.numbered(record.row.key for record in records):
            records = [replace(r, row=replace(r.row, numbered=True)) for r in records]
        metrics = _metrics(results, records, f"{path}")
        rows = [_ended(record, metrics) for record in records]
        library, model = told["eval_library"], told["model_info"]
        more, engine = model.get("additional_details") or {}, model.get("inference_engine") or {}
        facts = ask.facts_of(
            model=model["id"], revision=more.get("revision"), dtype=more.get("dtype"),
            model_args=more.get("model_args"), backend=engine.get("name"), backend_version=engine.get("version"),
            generation=[r["generation_config"] for r in results if r.get("generation_config")] or None,
            judge=[j for r in results if (j := r["metric_config"].get("llm_scoring"))] or None,
        )  # fmt: skip
        tool = f"every_eval_ever of {library['name']} {library.get('version', '?')}"
        return RawRows(tool, str(model["id"]), task, metrics, rows, facts, sources=files.sources)


def _log(files: Files, path: Path, want: Wanted) -> tuple[Path, dict[str, Any], str]:
    """Return the log that is meant, what it says, and the task. Raises UsageError where none or several are."""
    found = files.listed(f"**/*{SAMPLES}") if path.is_dir() else [path]
    logs = [p.with_name(p.name.removesuffix(SAMPLES) + ".json") if p.name.endswith(SAMPLES) else p for p in found]
    for log in logs:
        if not log.is_file() or not log.with_name(log.stem + SAMPLES).is_file():
            raise UsageError(f"{log}: this and {log.stem}{SAMPLES} belong together, and one of them is not there")
    told: dict[str, tuple[Path, dict[str, Any]]] = {}
    for log in logs:
        document = files.document(log)
        if not str(document.get("schema_version")).startswith(VERSION):
            what = f"is of version {ask.called(document.get('schema_version'))} of the schema, and {VERSION}x is read"
            raise UsageError(f"{log}: {what}; convert it anew with every_eval_ever 0.3")
        for result in document["evaluation_results"]:
            name = _task(result["evaluation_name"], document)
            if told.setdefault(name, (log, document))[0] != log:
                raise UsageError(f'{path}: holds two logs of "{ask.called(name)}"; name one of its files')
    task = ask.one_of(list(told), want.task, path, "task")
    return *told[task], task


def _task(name: str, told: Mapping[str, Any]) -> str:
    return name.partition("/")[0] if told["eval_library"]["name"] == LM_EVAL else name


def _name(result: Any) -> str:
    """Return the name of a result as one can say it: a colon stands between a task and its metric."""
    return str(result).replace(":", "/")


def _records(files: Files, path: Path, told: Mapping[str, Any], task: str, want: Wanted) -> list[_Sampled]:
    """Return what the lines of a task say of each row, whose repeats have an epoch or come one after the other."""
    named = [r["evaluation_result_id"] for r in told["evaluation_results"] if _task(r["evaluation_name"], told) == task]
    taken = Counter(map(_name, named))  # of which one stands for several results, whose records nothing tells apart
    found: dict[tuple[str, ...], _Sampled] = {}
    seen = Counter[tuple[str, ...]]()
    for line, one in files.lines(path):
        where = f"{path} line {line:,}"
        if one["evaluation_id"] != told["evaluation_id"]:
            raise UsageError(f"{where}: is of another evaluation than {path.name.removesuffix(SAMPLES)}.json")
        if _task(one["evaluation_name"], told) != task:
            continue
        asked, result = one["input"], one.get("evaluation_result_id")
        content = ask.content_of(asked["raw"], asked["reference"], choices=asked.get("choices"))
        more = one.get("metadata") or {}
        same = (str(one["sample_id"]), content, str(more.get("epoch", "")))
        place = seen[*same, str(result), one["evaluation_name"]] // taken[_name(result)] if result in named else 0
        seen[*same, str(result), one["evaluation_name"]] += 1
        repeat = int(more["epoch"]) if str(more.get("epoch", "")).isdecimal() else place
        if (key := (*same, str(place))) not in found:
            row = RawRow(
                key=same[0], content=content, prompt=ask.prompt_of(asked.get("formatted") or asked["raw"]),
                repeat=repeat, **ask.about(more, want, where),
            )  # fmt: skip
            found[key] = _Sampled(row)
        found[key].error = found[key].error or ask.why(one.get("error") or "")
        score = number(one["evaluation"]["score"], where)
        if result is not None and score is not None:
            found[key].values[_name(result)] = score
    return list(found.values())


def _metrics(results: Sequence[Mapping[str, Any]], records: Sequence[_Sampled], where: str) -> dict[str, RawMetric]:
    """Return metrics. Raises UsageError where the log's own score is not that of its samples."""
    taken = Counter(_name(r["evaluation_result_id"]) for r in results)
    found = {}
    for result in results:
        name, config = _name(result["evaluation_result_id"]), result["metric_config"]
        unsure = "polarity" in (config.get("additional_details") or {})  # the converter did not know, and wrote higher
        scored = [r.values[name] for r in records if name in r.values and not r.error]
        every = [r.values[name] for r in records if name in r.values]
        better: Better | None = None if unsure else "lower" if config["lower_is_better"] else "higher"
        scale = "proportion" if config.get("metric_unit") == "proportion" else None
        total, bad = result["score_details"].get("score"), ""
        if taken[name] > 1:
            bad = "stands for several results in one log"
        elif not every:
            total, bad = None, "" if all(r.error for r in records) else "has no number on any row"
        elif not (scored and ask.is_equal(ask.mean(scored), total)):
            ask.agreed(f"{where} {ask.called(name)}", ask.mean(every), total)
            total = None
        found[name] = RawMetric(better, scale, None if bad else total, bad)
    return found


def _ended(record: _Sampled, metrics: Mapping[str, RawMetric]) -> RawRow:
    """Return a row as it ended: an error wins over a score, which converters write beside it."""
    if record.error:
        return replace(record.row, state="error", why=record.error)
    values = {n: v for n, v in record.values.items() if not metrics[n].unreadable}
    return replace(record.row, state="scored" if record.values else "unscored", values=values)


def _check_file(told: Mapping[str, Any], files: Files, path: Path) -> None:
    """Raise UsageError where samples are not those that the log names."""
    digest = next(sha for name, sha, _ in files.sources if name == str(path))
    if told.get("hash_algorithm") == "sha256" and told.get("checksum") not in (None, digest):
        raise UsageError(f"{path}: is not the file that its log names by sha256; it was changed or cut")
