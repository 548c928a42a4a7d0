"""Inspect's logs, .eval and .json: each sample says how it ended, and the log's "success" says nothing of that.

Where inspect_ai is installed, its `read_eval_log` reads them, older formats too; else they are read as JSON. Limits on
archives, and strict JSON, hold either way.
"""

from __future__ import annotations

import importlib.util
import io
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.errors import UsageError
from harness.rows.readers import fields as ask
from harness.rows.records import RawMetric, RawRow, RawRows, State, Wanted
from harness.rows.safe_read import BOM, MAX_TEXT_BYTES, NUMBER, SafeFiles, describe_tool_error, parse_json, read_head

LOG_VERSION = 2  # of the format
WORDS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
WORDS_OF = ('"version"', '"status"', '"eval"', '"task_id"')  # in the beginning of a log that is JSON
MEANS = ("accuracy", "mean")  # metrics of Inspect that are the mean of a score
ATTACHMENT_PREFIX = "attachment://"  # a text that stands elsewhere in its sample


@dataclass
class _Found:
    """The samples of a log: rows, the id of each, and by score and id every number that Inspect counts."""

    rows: list[RawRow] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    counted: dict[str, dict[Any, list[float]]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    halves: int = 0

    def count(self, key: Any, scores: ask.Told, reducer: str = "") -> dict[str, float]:
        """Count a sample's scores and return its numbers.

        A score that is a table gives a metric for each of its keys.
        """
        values: dict[str, float] = {}
        for score, value, number in parse_sample_scores(scores):
            name = score + reducer
            if isinstance(number, str):
                self.unreadable.setdefault(name, number)
            elif not math.isnan(number):
                values[name] = number
                self.counted.setdefault(name, {}).setdefault(key, []).append(number)
                self.halves += value == "P"
        return values


class Inspect(ask.RowReader):
    """Logs of Inspect, of a version that is known."""

    name, words = "inspect", WORDS_OF

    def sniff(self, path: Path, head: bytes) -> bool:
        if path.is_dir():
            return bool(_list_logs(SafeFiles(path)))
        if not head.startswith(b"PK"):
            return super().sniff(path, head)
        try:
            with zipfile.ZipFile(path) as log:
                return not {"header.json", "_journal/start.json"}.isdisjoint(log.namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return path.suffix == ".eval"  # cut, which is said when it is read

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        log, older = _find_newest_log(files, path, want) if path.is_dir() else (path, ())
        header, samples, reductions = _open_log(files, log)
        told = header.get("eval")
        if header.get("version") != LOG_VERSION or not isinstance(told, dict):
            what = f"has version {ask.display_name(header.get('version'))} of Inspect's format"
            what = f"{what}, but {LOG_VERSION} is supported"
            raise UsageError(f"{path}: {what}; convert it with inspect log convert")
        if not isinstance(results := header.get("results"), dict):
            why = f'its run ended as "{ask.display_name(header.get("status"))}" before all rows were scored'
            raise UsageError(f"{path}: {why}; run it again, since some rows prove nothing about the others")
        task = ask.select_one([str(told.get("task", ""))], want.task, path, "task")
        found = _parse_sample_rows(samples, want, f"{path}")
        _require_all_samples(told, found, results, path)
        halves = found.halves  # of the samples alone
        reducers = sorted({str(r["reducer"]) for r in reductions if r.get("reducer") not in (None, "mean")})
        rows = _make_reduced_rows(found, reductions, f"{path}") if reducers else found.rows
        totals = _map_scores_to_reported_means(results, found.counted)
        lacks = "has no number on any row" if found.counted else ""  # else all failed, which is missing and no mistake
        metrics = {n: RawMetric(unreadable=found.unreadable.get(n, lacks)) for n in {**totals, **found.unreadable}}
        for name, by_id in found.counted.items():
            every, bad = [ask.mean_of_scores(v) for v in by_id.values()], found.unreadable.get(name, "")
            metric = ask.make_metric(f"{path}", name, rows, every, totals.get(name), RawMetric())
            metrics[name] = RawMetric(unreadable=bad) if bad else metric
        ended, half = sum(row.state == "limit" for row in rows), "partly correct, counted as one half"
        limit = "ended at a limit and scored by Inspect as they were"
        notes = (*older, *ask.make_notes((halves, "answer", half), (ended, "sample", limit)))
        tool = f"inspect_ai {told.get('packages', {}).get('inspect_ai', '?')}"
        facts = _collect_facts(told, header.get("plan") or {}, reducers)
        return RawRows(tool, str(told.get("model", "")), task, metrics, rows, facts, notes=notes)


def _list_logs(files: SafeFiles) -> list[Path]:
    """Return the logs in a folder, packed or as JSON."""
    plain = [path for pattern in ("*.json", "*.json.*") for path in files.list_files(pattern)]
    logs = [path for path in plain if all(word.encode() in read_head(path) for word in WORDS_OF)]
    return [*files.list_files("*.eval"), *logs]


def _find_newest_log(files: SafeFiles, folder: Path, want: Wanted) -> tuple[Path, tuple[str, ...]]:
    """Return the newest log of a task and model.

    The second value is a note on older ones. Raises UsageError if the task or the model is ambiguous.
    """
    told = {log: _read_header(files, log) for log in _list_logs(files)}
    task = ask.select_one([str(about.get("task", "")) for about in told.values()], want.task, folder, "task")
    mine = {log: about for log, about in told.items() if about.get("task", "") == task}
    models = [str(about.get("model", "")) for about in mine.values()]
    model = ask.select_one(models, want.label, folder, "model", f"{folder.name}#MODEL")
    dated = sorted((str(about.get("created", "")), log) for log, about in mine.items() if about.get("model") == model)
    log = dated[-1][1]
    note = f"of {len(dated)} logs of {task} in {folder} the newest, {log.name}, is used"
    return log, (note,) if len(dated) > 1 else ()


def _read_header(files: SafeFiles, log: Path) -> Mapping[str, Any]:
    """Return the `eval` object of a log.

    Empty if it has none.
    """
    if log.suffix == ".eval":
        members = files.read_zip(log)
        member = next((members[name] for name in ("header.json", "_journal/start.json") if name in members), None)
        document = parse_json(member(), f"{log}", constants=True) if member else {}
    else:
        document = parse_json(files.read_bytes(log).removeprefix(BOM), f"{log}", constants=True)
    about = document.get("eval") if isinstance(document, dict) else None
    return about if isinstance(about, dict) else {}


def has_library() -> bool:
    """Return whether inspect_ai is installed."""
    return importlib.util.find_spec("inspect_ai") is not None


_Log = tuple[dict[str, Any], Iterable[Any], list[dict[str, Any]]]  # header, samples and reductions


def _open_log(files: SafeFiles, log: Path) -> _Log:
    """Return header, samples one by one, and reductions. Raises UsageError where the log has not ended."""
    read = partial(parse_json, constants=True)  # NaN is how Inspect writes that a sample was not scored
    with log.open("rb") as f:
        packed = f.read(2) == b"PK"
    if packed:
        members = files.read_zip(log)
        if "header.json" not in members:
            raise UsageError(f"{log}: its run has not ended; wait for it, or run it again")
        if has_library() and _has_valid_small_members(members, log):
            return _read_by_library(files, log, "eval", [*members])
        document = read(members["header.json"](), f"{log} header.json")
        names = [n for n in members if n.startswith("samples/") and n.endswith(".json")]
        samples = (read(members[n](), f"{log} {n}") for n in names) if names else None
        last = members.get("reductions.json")
        reductions = read(last(), f"{log} reductions.json") if last else []
    else:
        document = read(files.read_bytes(log).removeprefix(BOM), f"{log}")
        if has_library() and isinstance(document, dict) and document.get("samples"):
            return _read_by_library(files, log, "json")
        samples = document.get("samples") if isinstance(document.get("samples"), list) else None
        reductions = document.get("reductions") or []
    if samples is None:
        raise UsageError(f"{log}: has no samples; run without --no-log-samples")
    return document, samples, reductions


def _has_valid_small_members(members: Mapping[str, Callable[[], bytes]], log: Path) -> bool:
    """Return whether a log unpacks to at most MAX_TEXT_BYTES.

    Raises UsageError if a member is invalid.
    """
    size = 0
    for name, inflate in members.items():
        data = inflate()
        size += len(data)
        if name.endswith(".json"):
            parse_json(data, f"{log} {name}", constants=True)
        if size > MAX_TEXT_BYTES:
            return False
    return True


def _read_by_library(files: SafeFiles, log: Path, kind: Literal["eval", "json"], members: Sequence[str] = ()) -> _Log:
    """Read a log with inspect_ai, samples in file order.

    The members must be checked already. Raises UsageError if the log cannot be read or has no samples.
    """
    from inspect_ai.log import read_eval_log

    try:
        found = read_eval_log(io.BytesIO(files.read_bytes(log).removeprefix(BOM)), format=kind)
    except Exception as error:
        why = describe_tool_error(str(error).partition("\n")[0])
        raise UsageError(f"{log}: inspect_ai cannot read it: {why}; write it anew with inspect log convert") from None
    if not found.samples:
        raise UsageError(f"{log}: has no samples; run inspect without --no-log-samples")
    document = found.model_dump(exclude_none=True)  # as it writes them
    places = {name: place for place, name in enumerate(members)}
    samples = document.pop("samples")
    samples.sort(key=lambda one: places.get(f"samples/{one['id']}_epoch_{one['epoch']}.json", len(places)))
    return document, samples, document.get("reductions") or []


def _parse_sample_rows(samples: Iterable[Any], want: Wanted, where: str) -> _Found:
    found = _Found()
    for sample in samples:
        key, here = sample.get("id"), f'{where} sample "{ask.display_name(sample.get("id"))}"'
        if not isinstance(key, (str, int)) or not isinstance(sample.get("epoch"), int):
            raise UsageError(f"{here}: has no id or no epoch, so it is not a sample of Inspect")
        state: State = "scored"
        reason = ""
        if error := sample.get("error"):  # which wins over a score
            state, reason = "error", describe_tool_error(error)
        elif sample.get("invalidation"):
            state, reason = "skipped", "invalidated in its log"
        elif limit := sample.get("limit"):
            told = f"{limit.get('type')} limit {limit.get('limit')}" if isinstance(limit, dict) else limit
            state, reason = "limit", describe_tool_error(told)
        asked, values = _resolve_attachments(sample.get("input"), sample), found.count(key, sample.get("scores") or {})
        state = "unscored" if state == "scored" and not values else state
        messages = [] if state == "error" else sample.get("messages") or []
        sent = takewhile(lambda m: isinstance(m, dict) and m.get("role") != "assistant", messages)
        found.ids.append(key)
        found.rows.append(RawRow(
            key=str(key), content=ask.question_digest(asked, sample.get("target"), choices=sample.get("choices")),
            prompt=ask.prompt_digest([[m.get("role"), _resolve_attachments(m.get("content"), sample)] for m in sent]),
            values=values if state == "scored" else {}, state=state, why=reason, repeat=sample["epoch"],
            input=ask.display_text(asked), target=ask.display_text(sample.get("target")),
            answer=ask.display_text(_resolve_attachments(ask.nested_value(sample, "output", "completion"), sample)),
            **ask.row_columns(sample.get("metadata") or {}, want, here),
        ))  # fmt: skip
    found.rows = ask.flag_positional_keys(found.rows, found.ids)
    return found


class ScoreValue(NamedTuple):
    """One value of a sample: its name, as Inspect has it, and as a number, or why it is none."""

    name: str
    value: Any
    number: float | str


def parse_sample_scores(scores: ask.Told) -> Iterator[ScoreValue]:
    """Yield the values of a sample's scores.

    A score that is a table has several, under its keys.
    """
    for score, said in scores.items():
        told = said.get("value") if isinstance(said, dict) else None
        for inner, value in told.items() if isinstance(told, dict) else [("", told)]:
            yield ScoreValue(f"{score}/{inner}" if inner else score, value, _parse_score(value))


def _parse_score(value: Any) -> float | str:
    """Return a score as a number, or the reason it is none.

    Numbers are as Inspect counts them; NaN is a missing score.
    """
    if isinstance(value, str):
        word = WORDS.get(value, WORDS.get(value.lower()) if len(value) > 1 else None)
        value = word if word is not None else float(value) if NUMBER.fullmatch(value) else value
    if isinstance(value, (bool, int, float)):
        return float(value) if abs(value) < 1e300 or value != value else "has numbers that are too large"
    if value is None:
        return math.nan
    return f'has "{ask.display_name(str(value))[:40]}", which is not a number'


def _resolve_attachments(value: Any, sample: ask.Told) -> Any:
    """Replace attachments in a text or messages by their content.

    The keys `id` and `source` are dropped, since they are not part of the question.
    """
    if isinstance(value, str):
        attached = sample.get("attachments") or {}
        return (
            attached.get(value.removeprefix(ATTACHMENT_PREFIX), value) if value.startswith(ATTACHMENT_PREFIX) else value
        )
    if isinstance(value, list):
        return [_resolve_attachments(one, sample) for one in value]
    if isinstance(value, dict):
        return {k: _resolve_attachments(v, sample) for k, v in value.items() if k not in ("id", "source")}
    return value


def _require_all_samples(told: ask.Told, found: _Found, results: ask.Told, path: Path) -> None:
    """Raise UsageError unless a log has every sample exactly once."""
    ids = ask.nested_value(told, "dataset", "sample_ids") or []
    asked = len(ids) * int(ask.nested_value(told, "config", "epochs") or 1) or results.get("total_samples")
    there = {(type(i), i, row.repeat) for i, row in zip(found.ids, found.rows, strict=True)}
    if len(there) < len(found.rows):
        raise UsageError(f"{path}: has a sample twice, with the same id and epoch; it cannot be read")
    if asked != len(there):
        raise UsageError(f"{path}: has {len(there):,} of its run's {asked:,} samples; run it again")


def _map_scores_to_reported_means(results: ask.Told, known: ask.Told) -> dict[str, Any]:
    """Return the means that Inspect reports, by our score names.

    They are over all samples; None if the reported number is no mean.
    """
    found: dict[str, Any] = {}
    for score in results.get("scores") or []:
        short = {str(k).rpartition("/")[2]: m.get("value") for k, m in (score.get("metrics") or {}).items()}
        reducer = "" if score.get("reducer") in (None, "mean") else f"/{score['reducer']}"
        name, alone = f"{score['name']}{reducer}", score["name"] == score.get("scorer")
        name = name if alone or name in known else f"{score.get('scorer')}/{name}"
        found[name] = next((short[m] for m in MEANS if m in short), None)
    return found


def _make_reduced_rows(found: _Found, reductions: Iterable[ask.Told], where: str) -> list[RawRow]:
    """Return a row for each sample: its scores are what its epochs were reduced to, and its state is their worst."""
    rows: dict[Any, RawRow] = {}
    for key, row in zip(found.ids, found.rows, strict=True):
        if rows.setdefault(key, replace(row, repeat=0, values={})).state == "scored" != row.state:
            rows[key] = replace(row, repeat=0, values={})
    found.counted.clear()
    for reduction in reductions:
        reducer = reduction.get("reducer")
        for sample in reduction["samples"]:
            if (key := sample.get("sample_id")) not in rows:
                raise UsageError(
                    f'{where}: reduces a sample "{ask.display_name(key)}" that it does not have; the file is truncated'
                )
            found.count(key, {str(reduction["scorer"]): sample}, "" if reducer in (None, "mean") else f"/{reducer}")
    for key, row in rows.items():
        if row.state == "scored":
            row.values = {n: by_id[key][0] for n, by_id in found.counted.items() if key in by_id}
    return [*rows.values()]


def _find_self_grading_scorers(told: ask.Told) -> str | None:
    """Return the scorers that use the model under test as judge.

    That is Inspect's default for model-graded scorers.
    """
    model, roles, found = told.get("model"), told.get("model_roles") or {}, []
    for scorer in told.get("scorers") or []:
        name, options = str(scorer.get("name")), scorer.get("options") or {}
        named = options.get("model") or ask.nested_value(roles, options.get("model_role") or "grader", "model")
        judges = named if isinstance(named, list) else [named]
        if name.rpartition("/")[2].startswith("model_graded") and (not any(judges) or model in judges):
            found.append(name)
    return ", ".join(found) or None


def _collect_facts(told: ask.Told, plan: ask.Told, reducers: list[str]) -> dict[str, str]:
    config = told.get("config") or {}
    roles, limits = told.get("model_roles"), {k: v for k, v in config.items() if k.endswith("_limit") and v is not None}
    generation = {**(told.get("model_generate_config") or {}), **(plan.get("config") or {}), **limits}
    return ask.collect_facts(
        task_version=str(told.get("task_version", "")),
        template=[[s.get("solver"), s.get("params")] for s in plan.get("steps") or []],
        scorer=[[s.get("name"), s.get("options"), s.get("metrics")] for s in told.get("scorers") or []],
        generation=generation, judge=roles, judged_by_itself=_find_self_grading_scorers(told),
        limit=str(config.get("limit") or "none"),
        epochs=" ".join([str(config.get("epochs") or 1), *reducers]),
        task_args=told.get("task_args"), model=told.get("model"), model_args=told.get("model_args"),
        backend=str(told.get("model", "")).split("/")[0], git=told.get("revision"),
        shuffled=str(ask.nested_value(told, "dataset", "shuffled")),
    )  # fmt: skip
