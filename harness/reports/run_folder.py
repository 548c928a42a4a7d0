"""The run folder: rows as they come, in lm-evaluation-harness's layout, then report.json and junit.xml.

And the steps of a training, as its trainer notes them beside the adapter, and as a report holds them.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from harness.artifacts.folders import ForeignFolder
from harness.errors import UsageError
from harness.files import write_text
from harness.records.metrics import Metric
from harness.records.run import Run, TrainingStep, is_plain_name
from harness.records.samples import Draw, Result, Sample
from harness.reports.junit import format_junit
from harness.reports.report_json import from_json, read_run, relative_paths, to_json
from harness.texts.json_text import dumps, read_json
from harness.texts.secrets import redact_text

STEPS = "training.jsonl"  # beside an adapter's folder, a step a line
TRAINING_LOGS = "logs"
"""The folder beside an adapter's in which its trainer logs for people, in whatever form."""
MAX_STEPS = 1000  # steps in a report; of a longer training every so many
_encode_json = json.JSONEncoder(ensure_ascii=False, default=str).encode  # an encoder of its own for each row is slow


class RunFolder:
    """`reports/<suite>-<UTC>/`, and one folder in it for every subject."""

    def __init__(self, out: Path, suite: str, started: datetime) -> None:
        self.stamp = started.strftime("%Y-%m-%dT%H-%M-%S.%f")
        name = f"{suite}-{started.strftime('%Y%m%dT%H%M%SZ')}"
        for number in count(1):  # two runs may begin in one second
            self.path = out / (name if number == 1 else f"{name}-{number}")
            try:
                self.path.mkdir(parents=True)
                return
            except FileExistsError:
                if not self.path.is_dir():
                    raise UsageError(f'--out "{out}": must be a folder; "{self.path}" is a file') from None
            except OSError as error:
                raise UsageError(f'--out "{out}": cannot be written: {error.strerror}') from None

    def add(
        self, result: Result, samples: Sequence[Sample], metrics: Mapping[str, Metric], sent: Mapping[str, str]
    ) -> None:
        """Write the rows of an item as soon as it is done.

        `sent` holds the prompts as the model received them, by row.
        """
        rows, names = {s.id: s for s in result.scores}, list(result.metrics)
        logs = [name for name in names if name in metrics and metrics[name].is_log]

        def line(number: int, sample: Sample) -> str:
            row, text = make_row(number, sample, rows[sample.id], names), sent.get(sample.id, sample.input)
            # A perplexity is held as nats per unit of weight, and these are told as `nats`.
            nats = {name: row[name] for name in logs if name in rows[sample.id].values}
            row |= {**{name: _exp_or_none(value) for name, value in nats.items()}, "nats": nats} if nats else {}
            row |= {} if text == sample.input else {"rendered": text}
            return _encode_json(row) + "\n"

        path = self.path / result.subject / f"samples_{result.eval}_{self.stamp}.jsonl"
        write_text(path, (line(i, s) for i, s in enumerate(samples) if s.id in rows))

    def finish(self, run: Run) -> None:
        """Write report.json, junit.xml and a results file per subject.

        The results files have lm-evaluation-harness's layout.
        """
        for subject in dict.fromkeys(r.subject for r in run.results):
            reports = [r for r in run.results if r.subject == subject and r.outcome == "done"]
            results: dict[str, dict[str, Any]] = {}
            for r in reports:
                results[r.eval] = {"alias": r.eval}
                for name, value in r.metrics.items():
                    results[r.eval][f"{name},none"] = value
                    results[r.eval][f"{name}_stderr,none"] = r.stderr.get(name, "N/A")
            told = {
                "results": results,
                "configs": {},  # these three are what its tools look into, and a task of ours has none
                "versions": {},
                "n-shot": {},
                "higher_is_better": {r.eval: {m: b == "higher" for m, b in r.better.items()} for r in reports},
                "n-samples": {r.eval: {"original": r.n, "effective": r.n} for r in reports},
                "model_name": f"{run.suite}/{subject}",
                "config": {"model": run.model, "model_args": run.facts.get("model", {}), "random_seed": run.seed},
                "date": int(datetime.fromisoformat(run.started).timestamp()),
                "pretty_env_info": " ".join(f"{k}={v}" for k, v in run.versions.items()),
                "gates": [asdict(v) for v in run.verdicts if v.candidate == subject],
                "artifact": {"subject": subject, "digest": run.digests.get(subject, "")},
            }
            write_text(self.path / subject / f"results_{self.stamp}.json", dumps(relative_paths(told, run)))
        write_text(self.path / "junit.xml", format_junit(run))
        write_text(self.path / "report.json", to_json(run))


def read_last_run(out: Path, suite: str) -> Run:
    """Return the newest run of a suite under `out`. Raises UsageError when there is none."""
    found = sorted(out.glob(f"{glob.escape(suite)}-*T*Z*/report.json"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UsageError(f'--lf: there is no report of suite "{suite}" in {out}; run it once without --lf')
    return read_run(found[-1])


def find_newest(out: Path, names: Sequence[str] = ("report.json",)) -> Path:
    """Return the folder under `out` with the newest of these files. Raises UsageError if there is none."""
    there = [path for name in names for path in out.glob(f"*/{name}")]
    if not (found := sorted(there, key=lambda p: (p.stat().st_mtime, p.parent.name))):
        raise UsageError(f"{out}: contains no run; name a run folder, or run a suite first")
    return found[-1].parent


def read_answers(
    folder: Path, subject: str, evaluation: str, keep: Callable[[dict[str, Any]], Any] = lambda row: row
) -> dict[str, Any]:
    """Return an item's rows by sample id, each passed through `keep`."""
    return {row["id"]: keep(row) for row in iterate_rows(folder, subject, evaluation)}


def iterate_rows(folder: Path, subject: str, evaluation: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one item of a run.

    There may be more than fit into memory. Raises UsageError if there are none or their file is invalid.
    """
    pattern = f"samples_{glob.escape(evaluation)}_????-??-??T*.jsonl"
    plain = is_plain_name(subject) and is_plain_name(evaluation)
    path = next(iter(sorted((folder / subject).glob(pattern))), None) if plain else None
    if path is None:
        raise UsageError(f'{folder}: has no rows of "{evaluation}" on {subject}')
    try:
        for line in ForeignFolder(folder).iterate_lines(path.relative_to(folder).as_posix()):
            if line != b"\n":
                row = read_json(line, constants=True)  # NaN is a score of a model that broke
                hash(row["id"])
                yield row
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise UsageError(f"{path}: is not a file of rows; run the suite again") from None


def make_row(number: int, sample: Sample, score: Any, metrics: Sequence[str]) -> dict[str, Any]:
    """Return a row with lm-evaluation-harness's keys and hashes, plus ours.

    As there, a chat is written as a text; `messages` keeps it as it is.
    """
    prompt = sample.question
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    return {
        "doc_id": number,
        "doc": dict(sample.row),
        "target": sample.target,
        "arguments": {"gen_args_0": {"arg_0": text}},
        **({} if text == prompt and "arguments" not in score.values else {"messages": prompt}),
        "resps": [[one.answer for one in score.answers]],
        "filtered_resps": [one.answer for one in score.answers],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": _hash_text(_format_row_as_indented_json(sample.row)),
        "prompt_hash": _hash_text(text),
        "target_hash": _hash_text(str(sample.target)),
        **score.values,
        "id": sample.id,
        **({"key": sample.key} if sample.key else {}),
        "cluster": sample.cluster,
        **({} if sample.second_cluster is None else {"second_cluster": sample.second_cluster}),
        "weight": score.weight,
        "weights": dict(score.weights),
        **({"lost": list(score.lost)} if score.lost else {}),
        **({"partly_lost": dict(score.partly_lost)} if score.partly_lost else {}),
        **({"finish_reason": score.finish_reason} if score.finish_reason else {}),
        **({"tokens": score.tokens} if score.tokens is not None else {}),
        **({"draws": [_draw_to_json(draw) for draw in score.draws]} if score.draws else {}),
        "note": _redact_if_text(score.note),
        **(
            {"details": {name: _redact_if_text(value) for name, value in score.details.items()}}
            if score.details
            else {}
        ),
    }


def _format_row_as_indented_json(row: Mapping[str, Any]) -> str:
    """Format a row as JSON with an indent of 2.

    lm-evaluation-harness hashes this text. Python's indenting encoder is slow, so only nested rows go through it.
    """
    if not row:
        return "{}"
    if any(isinstance(value, (dict, list, tuple)) for value in row.values()):
        return json.dumps(row, default=str, ensure_ascii=False, indent=2)
    return "{\n" + ",\n".join(f"  {_encode_json(str(k))}: {_encode_json(v)}" for k, v in row.items()) + "\n}"


@lru_cache(1024)  # most are of few texts, or of none
def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _draw_to_json(draw: Draw) -> dict[str, Any]:
    """Convert the result of one sampled answer to JSON. Its text is under `resps`."""
    told = {"note": _redact_if_text(draw.note), "finish_reason": draw.finish_reason or None, "tokens": draw.tokens}
    return {"values": dict(draw.values), **{name: value for name, value in told.items() if value is not None}}


def prompt_of(row: Mapping[str, Any]) -> Any:
    """Return the prompt of a samples-file row, text or chat. Older files hold it in lists."""
    if "messages" in row:
        return row["messages"]
    asked = row["arguments"]  # or a metric of this name
    return asked["gen_args_0"]["arg_0"] if isinstance(asked, Mapping) else asked[0][0]


def answer_of(row: Mapping[str, Any]) -> Any:
    """Return the answer in a samples-file row. Several answers become one numbered line each."""
    answers = row["resps"][0]
    return answers[0] if len(answers) == 1 else "\n".join(f"{n}. {text}" for n, text in enumerate(answers, 1))


def _redact_if_text(value: Any) -> Any:
    """Redact secrets in a text; return other values unchanged.

    An evaluator's notes and details may quote its options.
    """
    return redact_text(value) if isinstance(value, str) else value


def metric_value(row: Mapping[str, Any], metric: str) -> float:
    """Return a metric's value in a samples-file row.

    A perplexity is in nats; older files hold these under its own name.
    """
    return float(row.get("nats", {}).get(metric, row[metric]))


def _exp_or_none(nats: float) -> float | None:
    try:
        return math.exp(nats)
    except OverflowError:
        return None


def is_writable(path: Path) -> bool:
    """Return whether a file or folder could be created at `path`. Nothing is left behind."""
    try:
        with tempfile.TemporaryFile(dir=next(p for p in (path, *path.absolute().parents) if p.exists())):
            return True
    except OSError:
        return False


def write_steps(adapter: Path, steps: Iterable[TrainingStep]) -> None:
    """Write a training's steps beside its adapter's folder. They stay as long as the adapter."""
    lines = (json.dumps({k: v for k, v in asdict(step).items() if v is not None}) + "\n" for step in steps)
    write_text(adapter.with_name(STEPS), "".join(lines))


def read_steps(adapter: Path) -> tuple[TrainingStep, ...]:
    """Read a training's steps, thinned out to about MAX_STEPS.

    The first, the last and every one with a validation loss are kept, and one in so many of the others. Empty if the
    file is missing or invalid, since a trainer need not write one.
    """
    try:
        lines = adapter.with_name(STEPS).read_text("utf-8").splitlines()
        found = [from_json(TrainingStep, json.loads(line, parse_constant=lambda _: None), "it") for line in lines]
    except (OSError, ValueError, TypeError, RecursionError):
        return ()
    steps = [step for step in found if isinstance(step, TrainingStep)]
    every, last = max(1, math.ceil(len(steps) / MAX_STEPS)), len(steps) - 1
    return tuple(s for i, s in enumerate(steps) if not i % every or i == last or s.validation is not None)
