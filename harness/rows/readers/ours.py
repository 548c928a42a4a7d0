"""Rows of our own: a run's folder in reports/, one subject's folder in it, or the evidence of an export."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from harness.artifacts.attestation import LOCK
from harness.artifacts.digests import digest_value
from harness.errors import UsageError
from harness.records.run import Run
from harness.records.scales import OnScale
from harness.reports.report_json import from_json as made_of
from harness.reports.run_folder import prompt_of
from harness.rows.readers import fields as ask
from harness.rows.records import Better, RawMetric, RawRow, RawRows, Wanted
from harness.rows.safe_read import SafeFiles, read_head
from harness.texts.counts import count_noun

REPORT, ITEMS, EVIDENCE = "report.json", "items.jsonl", "evidence"
SAMPLES_FILE = re.compile(r"samples_(.+)_\d{4}-\d\d-\d\dT[\d.-]+\.jsonl")
MAX_NATS = 700.0  # nats whose exponential a float holds


class Ours(ask.RowReader):
    """Reader of rows that the harness wrote.

    `#SUBJECT` after the path of a run or of evidence names the model.
    """

    name = "ours"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the harness wrote this: a line of rows has a key that no other tool writes."""
        if path.is_dir():
            samples = (p for to in ("", "*/") for p in sorted(path.glob(f"{to}samples_*.jsonl")))
            rows, report = _find_items(path) or next(samples, None), _find_report(path)
            return (
                rows is not None
                and report is not None
                and self.sniff(rows, read_head(rows, _choose_root(path, report)))
            )
        line = head.partition(b"\n")[0]
        return all(key in line for key in (b'"cluster"', b'"weights"', b'"doc_hash"')) or line.startswith(b'{"item": ')

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        if (place := _find_report(path)) is None:
            raise UsageError(f"{path}: has no {REPORT}; its run did not end, or the file was removed")
        files.below = _choose_root(path, place) if path.is_dir() else None  # a file that is named may be a link
        run, items = files.read_json(place), _find_items(path)
        whole = made_of(Run, {k: v for k, v in run.items() if k not in ("format", "sha256")}, "it")
        if odd := whole.find_odd_name():
            raise UsageError(f"{place}: {odd} is not the name of a suite, a subject or an eval")
        reports = [r for r in run["results"] if r["outcome"] != "skipped"]
        folder = path if path.is_dir() else path.parent
        label = folder.name if items is None and folder != place.parent else want.label
        subject = ask.select_one([r["subject"] for r in reports], label, path, "subject")
        mine = [r for r in reports if r["subject"] == subject]
        task = ask.select_one([r["eval"] for r in mine], want.task or _parse_task_of_file_name(path), path, "task")
        report = next(r for r in mine if r["eval"] == task)
        if report["outcome"] != "done":
            why = ask.display_name(report["error"])
            raise UsageError(
                f"{path}: {ask.display_name(subject)} could not be evaluated on {ask.display_name(task)}: {why}"
            )
        lines = (
            _iterate_item_lines(files, items, subject, task)
            if items
            else files.read_json_lines(_find_samples(path, place, subject, task))
        )
        rows = [_make_row(one, want, f"{path} line {line:,}") for line, one in lines]
        if len(rows) != report["n"]:
            raise UsageError(
                f"{path}: has {len(rows):,} of {report['n']:,} rows; the file is truncated, or of another run"
            )
        lock, digest = place.with_name(LOCK), run.get("digests", {}).get(subject, "")
        locked = files.read_json(lock) if lock.is_file() else {}
        scales = locked.get("metrics", {}).get(task, {})
        spec: dict[str, Any] = {one["name"]: one for one in ask.nested_value(locked, "suite", "evals") or []}.get(
            task, {}
        )
        return RawRows(
            f"finetune-harness {run['harness']}", subject, task,
            _make_verified_metrics(report, rows, scales, f"{path}"), rows,
            ask.collect_facts(
                scorer=spec.get("use"), template=spec.get("template"), generation=spec.get("options"),
                limit="none" if report["of"] in (0, report["n"]) else str(report["n"]), model=run.get("model"),
                transformers=ask.nested_value(run, "versions", "transformers"),
                torch=ask.nested_value(run, "versions", "torch"),
                seed=str(run.get("seed")), dtype=ask.nested_value(run, "facts", "model", "dtype"),
            ),
            "claimed" if digest else "none", f"sha256:{digest}" if digest else "", tuple(report.get("caveats") or ()),
        )  # fmt: skip


def _find_report(path: Path) -> Path | None:
    folder = path if path.is_dir() else path.parent
    return next((p for p in (folder / REPORT, folder / EVIDENCE / REPORT, folder.parent / REPORT) if p.is_file()), None)


def _choose_root(path: Path, report: Path) -> Path:
    """Return the folder below which nothing is a link: the named one, or the run of a subject's folder."""
    return path if report.is_relative_to(path) else report.parent


def _find_items(path: Path) -> Path | None:
    """Return the rows of an export, which are in one file."""
    return next((p for p in (path, path / ITEMS, path / EVIDENCE / ITEMS) if p.name == ITEMS and p.is_file()), None)


def _parse_task_of_file_name(path: Path) -> str:
    return match[1] if (match := SAMPLES_FILE.fullmatch(path.name)) else ""


def _find_samples(path: Path, report: Path, subject: str, task: str) -> Path:
    found = [path] if path.is_file() else sorted((report.parent / subject).glob("samples_*.jsonl"))
    found = [one for one in found if _parse_task_of_file_name(one) == task]
    if len(found) != 1:
        what = f"{count_noun(len(found), 'file')} of rows of {ask.display_name(task)} on {ask.display_name(subject)}"
        raise UsageError(f"{path}: has {what}; name the folder of a run")
    return found[0]


def _iterate_item_lines(files: SafeFiles, path: Path, subject: str, task: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of an evaluation of a subject. Raises UsageError where they are private."""
    for line, row in files.read_json_lines(path):
        if row["item"] == f"{subject}::{task}":
            if "id" not in row:
                raise UsageError(
                    f"{path}: {ask.display_name(task)} is private, so its rows are digests; name the run's folder"
                )
            yield line, row


def _make_row(line: ask.Told, want: Wanted, where: str) -> RawRow:
    """Convert a line to a row.

    A lost score has no value, and a perplexity is in nats.
    """
    told, nats = line.get("values", line), line.get("nats") or {}
    lost = (*line.get("lost", ()), *line.get("partly_lost", ()))
    names = [n for n in (line["values"] if "values" in line else line["metrics"]) if n not in lost]
    values = ask.parse_scores({n: nats.get(n, told.get(n)) for n in names}, where)
    lengths = {n: float(line["weights"].get(n, line["weight"])) for n in values}
    own: dict[str, Any] = {c: str(line[c]) for c in ("cluster", "second_cluster") if line.get(c)}
    sent = line["prompt_hash"] if "values" in line else digest_value(line.get("rendered") or prompt_of(line))
    return RawRow(
        key=str(line["id"]), content=line.get("key") or "", prompt=sent, values=values,
        state="scored" if values else "unscored", lengths={n: w for n, w in lengths.items() if w != 1},
        input=ask.display_text(prompt_of(line)) if "arguments" in line else "",
        target=ask.display_text(line.get("target")),
        answer=ask.display_text(next(iter(line.get("filtered_resps") or ()), None)),
        **own | ask.row_columns({**(line.get("doc") or {}), **(line.get("slices") or {})}, want, where),
    )  # fmt: skip


def _make_verified_metrics(report: ask.Told, rows: list[RawRow], scales: ask.Told, where: str) -> dict[str, RawMetric]:
    """Return metrics. Raises UsageError where the report's numbers are not those of its rows."""
    found = {}
    for name, better in report["better"].items():
        here = [(r.values[name], r.lengths.get(name, 1.0)) for r in rows if name in r.values]
        scale = scales.get(name, {}).get("scale")
        if not here or (scale and not OnScale(scale).is_of_rows):
            alone = f'has the scale "{scale}", which is not computed from single rows'
            found[name] = RawMetric(unreadable=alone if here else "has no number on any row")
            continue
        weight = math.fsum(w for _, w in here)
        ours, told = math.fsum(v * w for v, w in here) / weight if weight else math.nan, report["metrics"].get(name)
        is_log = (
            told is not None and not ask.are_close(ours, told) and ask.are_close(math.exp(min(ours, MAX_NATS)), told)
        )
        total = told if is_log else ask.check_total(f"{where} {ask.display_name(name)}", ours, told)
        limits = scales.get(name, {}).get("range")
        ends = limits and (_parse_range_end(limits[0], -math.inf), _parse_range_end(limits[1], math.inf))
        found[name] = RawMetric(cast("Better", better), "perplexity" if is_log else scale, total, ends)
    return found


def _parse_range_end(told: float | None, infinite: float) -> float:
    """Return the end of a range, infinite if JSON has null."""
    return infinite if told is None else float(told)
