"""Folders of lm-evaluation-harness: `results_DATE.json` and, with --log_samples, `samples_TASK_DATE.jsonl`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.artifacts.digests import digest_value
from harness.data.identity import add_question_keys
from harness.errors import UsageError
from harness.records.samples import Sample
from harness.rows.readers import fields as ask
from harness.rows.readers import lm_eval_groups
from harness.rows.records import Better, Binding, RawMetric, RawRow, RawRows, Wanted
from harness.rows.safe_read import HEAD_BYTES, SafeFiles
from harness.rows.wording import write_option

DATE = r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d+)"
BRACES, WORD = re.compile(r"\{[{%].*?[}%]\}", re.S), re.compile(r"[A-Za-z_]\w*")  # of a Jinja template
PERPLEXITY = "perplexity"  # lm_eval's metric whose rows are log-likelihoods
CODE = ("def ", "<function", "functools")  # how lm_eval writes a template that is a function
# of a row
ROW_KEYS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash"}
Line = dict[str, Any]


class LmEval(ask.RowReader):
    """Reader of lm_eval folders and samples files.

    Of a folder the newest run is read.
    """

    name, files = "lm_eval", ("**/samples_*.jsonl", "**/results_*.json")
    words = ('"doc_hash"', '"filtered_resps"', '"metrics"')

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether a file or folder has samples of lm_eval.

        A file needs lm_eval's keys in its first line, a folder files with lm_eval's names.
        """
        return super().sniff(path, head.partition(b"\n")[0])

    def rows(self, files: SafeFiles, path: Path, want: Wanted) -> RawRows:
        found = [path] if path.is_file() else files.list_files("**/samples_*.jsonl")
        dated = [(m[2], m[1], p) for p in found if (m := re.fullmatch(rf"samples_(.+)_{DATE}\.jsonl", p.name))]
        if not dated:
            _require_name_of_samples(files, path)
            raise UsageError(f"{path}: contains no rows of lm_eval; run it with --log_samples")
        tasks = {name for _, name, _ in dated}
        newest = max(dated)[0]
        files_of = {name: max((d, str(p), p) for d, n, p in dated if n == name) for name in tasks}
        results = files_of[max(dated)[1]][2].with_name(f"results_{newest}.json")
        group = lm_eval_groups.find_group(files, results, {n for d, n, _ in dated if d == newest}, want, path)
        if group:
            own = replace(want, slices=[name for name in want.slices if name != ask.TASK])
            parts = {name: _read_task(files, path, files_of[name], name, own) for name in group.tasks}
            return lm_eval_groups.join_tasks(group, parts, path)
        task = ask.select_one(sorted(tasks), want.task, path, "task")
        run = _read_task(files, path, files_of[task], task, want)
        old = sorted({d for d, name, _ in dated if name == task} - {files_of[task][0]})
        note = f"of {len(old) + 1} runs in {path} the newest, {files_of[task][0]}, is used; the one before is "
        return replace(run, notes=(f"{note}{old[-1]}",) if old else ())


def _require_name_of_samples(files: SafeFiles, path: Path) -> None:
    """Raise UsageError for rows of lm_eval in a file that was renamed or compressed."""
    others = [path] if path.is_file() else files.list_files("**/samples_*")
    for other in (p for p in others if p.is_file()):
        with files.open_content(other) as f:
            rows = b'"doc_hash"' in f.read(HEAD_BYTES)
            while f.read(HEAD_BYTES):
                pass
        if rows:
            want = "name it samples_TASK_DATE.jsonl, as lm_eval did, and decompress it"
            raise UsageError(f"{other}: contains rows of lm_eval under another name; {want}")


def _read_task(files: SafeFiles, path: Path, newest: tuple[str, str, Path], task: str, want: Wanted) -> RawRows:
    """Return the rows of one task. Raises UsageError where they are not those of its results file."""
    date, _, samples = newest
    results = samples.with_name(f"results_{date}.json")
    told = files.read_json(results, constants=True) if results.is_file() else {}  # NaN: a model of which one came
    if not isinstance(told, dict):
        raise UsageError(f"{results}: is not a results file of lm_eval")
    lines, name = _select_lines_of_filter(files.read_json_lines(samples, constants=True), task, want)
    tables = {
        k: _get_mapping_or_empty(told.get(k), task) for k in ("configs", "results", "higher_is_better", "n-samples")
    }
    counted = tables["n-samples"].get("effective")
    if isinstance(counted, int) and counted != len(lines):
        what = f"has {len(lines):,} rows, but its results file has {counted:,}"
        raise UsageError(f"{samples}: {what}; it is truncated, or of two runs")
    named = dict.fromkeys(m for line in lines for m in line["metrics"])
    metrics = {m: _make_metric_and_factor(m, name, lines, tables) for m in named}
    rows = _make_rows(samples, lines, metrics, tables["configs"], want)
    config = _get_mapping_or_empty(told, "config")
    model = str(
        told.get("model_name") or _get_mapping_or_empty(config, "model_args").get("pretrained") or files.root.name
    )
    binding: Binding = "named" if config.get("model_sha") else "none"
    return RawRows(
        f"lm_eval {told.get('lm_eval_version', 'of an unknown version')}", model, task,
        {m: metric for m, (metric, _) in metrics.items()}, rows, _collect_facts(told, tables["configs"], task, name),
        binding, str(config.get("model_sha") or ""),
    )  # fmt: skip


def _select_lines_of_filter(lines: Iterator[tuple[int, Line]], task: str, want: Wanted) -> tuple[list[Line], str]:
    """Return the lines of one filter: a file has a line for each."""
    found: dict[str, list[Line]] = {}
    for number, line in lines:
        metrics = line.get("metrics")
        if not isinstance(metrics, list) or not all(isinstance(m, str) for m in metrics) or "doc" not in line:
            raise UsageError(
                f"{task}: line {number:,} is not a row of lm_eval; correct it, since lines are never skipped"
            )
        if odd := ROW_KEYS.intersection(metrics):
            what = f'metric "{min(odd)}" has the name of a field of the row, which lm_eval overwrote'
            raise UsageError(f"{task}: {what}")
        found.setdefault(str(line.get("filter", "none")), []).append(line)
    if not found:
        raise UsageError(f"{task}: has no rows")
    metric = want.metric or next(iter(next(iter(found.values()))[0]["metrics"]), "NAME")
    say = write_option("metric", f"{task}:{metric},{next(iter(found))}")
    name = ask.select_one([*found], want.filter, Path(task), "filter", say)
    return found[name], name


def _make_metric_and_factor(
    name: str, filter_: str, lines: Sequence[Line], tables: Mapping[str, ask.Told]
) -> tuple[RawMetric, float]:
    """Return a metric, and the factor of its row values.

    The factor makes the rows give the tool's own number. A pair of numbers is a log-likelihood and its number of units.
    """
    better = tables["higher_is_better"].get(name)
    direction: Better | None = None if better is None else "higher" if better else "lower"
    told = tables["results"].get(f"{name},{filter_}")
    total = float(told) if isinstance(told, (int, float)) and not isinstance(told, bool) and told == told else None
    values = [v for line in lines if (v := line.get(name)) is not None]
    if values and all(map(_is_loglikelihood_pair, values)):
        nats = -sum(float(v[0]) for v in values) / sum(float(v[1]) for v in values)
        bits = "bits" in name if total is None else math.isclose(nats / math.log(2), total, rel_tol=1e-9)
        return RawMetric(direction, "mean" if bits else "perplexity", total), -1 / math.log(2) if bits else -1.0
    if not all(map(_is_float_sized_number, values)):
        return RawMetric(direction, None, total, unreadable="has printed arrays, not numbers"), 1.0
    finite = [v for v in map(float, values) if not math.isnan(v)]
    mean = sum(finite) / len(finite) if finite else math.nan
    logs = name == PERPLEXITY and bool(finite) and max(finite) <= 0  # rows of it are log-likelihoods
    if logs if total is None else total > 0 and mean < 0 and math.isclose(-mean, math.log(total), rel_tol=1e-9):
        return RawMetric(direction, "perplexity", total), -1.0  # exp of minus the mean, as lm_eval makes it
    return RawMetric(direction, None, total), 1.0


def _is_float_sized_number(value: Any) -> bool:
    """Return whether a value is a number in the range of floats."""
    return isinstance(value, (bool, int, float)) and (not isinstance(value, int) or abs(value) < 10**300)


def _is_loglikelihood_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(_is_float_sized_number, value))
        and 0 < value[1] < math.inf
    )


def _make_rows(
    samples: Path, lines: Sequence[Line], metrics: Mapping[str, tuple[RawMetric, float]], config: ask.Told, want: Wanted
) -> list[RawRow]:
    """Return lines as rows. Their place is no name; what was asked is told by the columns of the task's templates."""
    docs = [d if isinstance(d := line["doc"], dict) else {"doc": d} for line in lines]
    name = want.id or ("id" if all("id" in doc for doc in docs) else "")
    found, asked = [], _make_question_samples(config, docs, [line.get("target", "") for line in lines])
    for number, (line, doc, sample) in enumerate(zip(lines, docs, add_question_keys(asked, None), strict=True), 1):
        values, lengths = dict[str, float](), dict[str, float]()
        for metric, (about, factor) in metrics.items():
            if about.unreadable or (value := line.get(metric)) is None or metric not in line["metrics"]:
                continue
            if _is_loglikelihood_pair(value):
                values[metric], lengths[metric] = factor * value[0] / value[1], float(value[1])
            else:
                values[metric] = factor * float(value)
        values = {m: v for m, v in values.items() if not math.isnan(v)}
        key = str(doc.get(name, "")) if name else str(line.get("doc_id", ""))
        found.append(RawRow(
            key, not name, sample.key, str(line.get("prompt_hash", "")), values, "scored" if values else "unscored",
            lengths=lengths, input=ask.display_text(sample.input), target=_get_target_or_choice_text(line),
            answer=_get_answer_or_likeliest_choice(line),
            **ask.row_columns(doc, want, f"{samples} row {number:,}"),
        ))  # fmt: skip
    return found


def _list_choices(line: Line) -> list[str]:
    """Return the scored continuations of a row.

    Empty if its answer was generated.
    """
    sent = line.get("arguments")
    parts = sent.values() if isinstance(sent, dict) else ()
    found = [part.get("arg_1") for part in parts if isinstance(part, dict)]
    return [text.strip() for text in found if isinstance(text, str)] if len(found) == len(parts) else []


def _get_target_or_choice_text(line: Line) -> str:
    """Return a row's target, or its text if it numbers a choice."""
    target, choices = line.get("target"), _list_choices(line)
    if len(choices) > 1 and str(target).isdecimal() and int(str(target)) < len(choices):
        return choices[int(str(target))]
    return ask.display_text(target)


def _get_answer_or_likeliest_choice(line: Line) -> str:
    """Return the model's answer, or the likeliest choice."""
    answers, choices = line.get("filtered_resps"), _list_choices(line)
    if not isinstance(answers, list) or not answers:
        return ""
    if len(choices) == len(answers) > 1:
        try:
            likely = [float(one[0]) for one in answers]
        except (TypeError, ValueError, LookupError):
            return ""
        return choices[likely.index(max(likely))]
    return ask.display_text(answers[0]) if isinstance(answers[0], str) else ""


def _make_question_samples(config: ask.Told, docs: Sequence[ask.Told], targets: Sequence[Any]) -> list[Sample]:
    """Return the questions of rows as samples.

    As in rows of ours each has one text, and the lists to choose from. They come from the columns that the task's
    templates name, else from all but `id`.
    """
    first, names = docs[0], list[str]()
    for key in ("doc_to_text", "doc_to_choice"):
        if isinstance(text := config.get(key), str) and not text.startswith(CODE):
            names += [text] if text in first else [n for part in BRACES.findall(text) for n in WORD.findall(part)]
    columns = sorted({n for n in names if n in first}) or sorted(c for c in first if c != "id")
    found = []
    for doc, target in zip(docs, targets, strict=True):
        lists = {c: doc[c] for c in columns if isinstance(doc.get(c), (list, dict))}
        text = "\n".join(str(doc.get(c, "")) for c in columns if c not in lists)
        wanted = [str(t) for t in target] if isinstance(target, list) else str(target)
        found.append(Sample("", text, wanted, row=lists))
    return found


def _collect_facts(told: ask.Told, config: ask.Told, task: str, name: str) -> dict[str, str]:
    """Return the facts for the fairness comparison.

    A task's metadata is left out, since it holds the model's path and dtype too.
    """
    run, args = (
        _get_mapping_or_empty(told, "config"),
        _get_mapping_or_empty(_get_mapping_or_empty(told, "config"), "model_args"),
    )
    shots = _get_mapping_or_empty(told, "n-shot").get(task, config.get("num_fewshot"))
    seed = run.get("fewshot_seed") if shots else None
    system = told.get("system_instruction")
    limit = "none" if (most := run.get("limit")) is None else most
    return {} if not told else ask.collect_facts(
        shots=None if shots is None else f"{shots} shots" + (f", seed {seed}" if seed is not None else ""),
        template=str(told.get("chat_template_sha") or "none")[:16],
        system=digest_value(system)[:16] if system else "none",
        task_version=str(_get_mapping_or_empty(told, "versions").get(task, "")),
        filter={"name": name, "filters": config.get("filter_list")},
        scorer=[config.get("metric_list"), config.get("output_type")],
        generation={**_get_mapping_or_empty(config, "generation_kwargs"), **_get_mapping_or_empty(run, "gen_kwargs")},
        epochs=config.get("repeats"), limit=f"{limit:g}" if isinstance(limit, (int, float)) else limit,
        dtype=str(run.get("model_dtype") or args.get("dtype") or "").removeprefix("torch."),
        batch=run.get("batch_size"), device=run.get("device"), backend=run.get("model"),
        max_length=told.get("max_length"), transformers=told.get("transformers_version"), git=told.get("git_hash"),
        model=told.get("model_name"), revision=run.get("model_revision"),
    )  # fmt: skip


def _get_mapping_or_empty(value: Any, key: str) -> ask.Told:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
