"""Labels by people on a judge's rows, kept beside the rows.

Questions are blind, and each person has their own order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from harness import Labels, UsageError, read_run
from harness.internals import (
    FolderError,
    ForeignFolder,
    agreement,
    append_line,
    count_noun,
    hold_exclusively,
    number_clusters,
    prompt_of,
    split_json_lines,
)
from harness_judge import calibrate, calibration, disputes, prompts

RANDOM, DISPUTES, SAYS = "at random", calibrate.DISPUTES, calibrate.LABEL_VALUES
DRAW_KINDS = (RANDOM, DISPUTES)
OPEN_QUESTIONS = 8  # questions that people are asked from at a time
PAIR = {"1": ("candidate", "baseline"), "2": ("baseline", "candidate"), "0": ("tie", "tie")}  # as shown, and turned
LACKING = "More labels are needed: of more than one kind, and for several prompts"
CRITERION_LABELS = {"1": "yes", "2": "no"}
TRUTH = {"candidate": SAYS["A"], "baseline": SAYS["B"], "tie": SAYS["tie"], "yes": SAYS["met"], "no": SAYS["not met"]}


class LabelId(NamedTuple):
    """The row, and the criterion."""

    row: str
    criterion: str


@dataclass(frozen=True)
class LabelQuestion:
    """One thing to say: which of two answers is better, or whether an answer meets a criterion."""

    row: Mapping[str, Any]
    criterion: str = ""

    @property
    def id(self) -> LabelId:
        return LabelId(str(self.row["id"]), self.criterion)

    @property
    def prompt(self) -> str:
        return prompts.prompt_as_text(prompt_of(self.row))

    @property
    def reference(self) -> str:
        target = self.row.get("target", "")
        return target if isinstance(target, str) else "\n".join(target)

    @property
    def answers(self) -> tuple[str, ...]:
        """The candidate's answer, and of a pair the baseline's."""
        ours = str(self.row["resps"][0][0])
        return (ours,) if self.criterion else (ours, str(self.row["details"]["baseline_answer"]))

    @property
    def judge(self) -> float | None:
        """The judge's value, from 0 to 1. None if a judgment is missing."""
        value = self.row.get(self.criterion or "win_rate")
        lacking = any("error" in one for one in self.row["details"]["judgments"])
        return float(value) if isinstance(value, (int, float)) and not lacking else None

    def person_digest(self, by: str) -> bytes:
        """Return a digest of a person and this question.

        Its last byte decides which answer that person sees first.
        """
        return sha256(json.dumps([by, *self.id]).encode()).digest()

    def is_baseline_first(self, by: str) -> bool:
        """Return whether a person sees the baseline's answer first."""
        return not self.criterion and self.person_digest(by)[-1] % 2 == 1


@dataclass(frozen=True)
class LabelQueue:
    """The label questions on one judged item, and its label file."""

    folder: Path  # of the run, below which nothing is a link
    path: Path
    drawn: str
    seed: int  # of the random order in which rows are asked, so that those that were answered are a random sample
    questions: Mapping[LabelId, LabelQuestion]

    def read_labels(self) -> list[dict[str, Any]]:
        """Return the labels there are. Raises UsageError where the file holds anything else."""
        try:
            content = ForeignFolder(self.folder).read(self.path.relative_to(self.folder).as_posix())
        except FolderError as error:
            if error.missing:
                return []
            raise UsageError(f"{error}; move it away") from None
        lines = [(n, line) for n, line in enumerate(split_json_lines(content), 1) if line]
        return [read_label(line, f"{self.path} line {number}") for number, line in lines]

    def next(self, by: str) -> LabelQuestion | None:
        """Return a person's next question, one that nobody has answered.

        Of the first open rows in random order, each person takes their own, so that people meet seldom.
        """
        done = {_make_label_id(line) for line in self.read_labels()}
        left = (q for key, q in self.questions.items() if key not in done)
        drawn = sorted(left, key=lambda q: (calibration.label_order_key(self.seed, q.id[0]), q.criterion))
        return min(drawn[:OPEN_QUESTIONS], key=lambda q: q.person_digest(by), default=None)

    def add(self, question: LabelQuestion, pressed: str, by: str) -> None:
        """Append a person's label, with the sides turned back.

        A repeated label is not written. Raises OSError if it cannot be written.
        """
        turned = question.is_baseline_first(by)
        label = CRITERION_LABELS[pressed] if question.criterion else PAIR[pressed][turned]
        answers = question.answers
        seen = {"criterion": question.criterion, "answer": answers[0]} if question.criterion else {}
        seen = seen or {"answer_a": answers[0], "answer_b": answers[1], "first": "baseline" if turned else "candidate"}
        about: dict[str, Any] = {"by": by, "at": datetime.now(UTC).isoformat(timespec="seconds"), "drawn": self.drawn}
        about["seed"] = self.seed
        shown = {"input": prompt_of(question.row), "reference": question.reference, **seen}
        with hold_exclusively(self.path, below=self.folder):  # not twice, as a key may be pressed
            if not any(_make_label_id(line) == question.id and line.get("by") == by for line in self.read_labels()):
                append_line(self.path, {"id": question.row["id"], "label": label, **shown, **about}, below=self.folder)

    def progress_lines(self) -> list[str]:
        """Describe the labels so far, the judge's agreement, and missing labels."""
        said: dict[LabelId, set[str]] = {}
        for line in self.read_labels():
            said.setdefault(_make_label_id(line), set()).add(line["label"])
        known = [(self.questions[k], TRUTH[min(labels)]) for k, labels in said.items() if k in self.questions]
        found = [
            f"{len(known):,} of {count_noun(len(self.questions), 'row')} labelled",
            *_describe_agreement_with_judge(known),
        ]
        if odd := [f'"{" ".join(key).strip()}"' for key, labels in said.items() if len(labels) > 1]:
            found.append(f"People disagree on {', '.join(odd)}; correct that in the file")
        if self.drawn == DISPUTES:
            return [*found, "These rows were drawn from the disputes, so they cannot calibrate"]
        few = len({truth for _, truth in known}) < 2 or len({q.prompt for q, _ in known}) < calibration.MIN_LABELS
        return [*found, LACKING if few else "Enough labels for a calibration; more prove more"]


def read_label(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the label in a line of JSON. Raises UsageError, with what is wrong, where it is not one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{where}: is not valid JSON; correct the line") from None
    if not isinstance(found, dict) or not {"id", "label"} <= found.keys():
        raise UsageError(f'{where}: must be an object with "id" and "label"; correct the line')
    if not isinstance(found["label"], str) or found["label"] not in TRUTH:
        raise UsageError(f"{where}: label is {json.dumps(found['label'])}; write one of {', '.join(TRUTH)}")
    return found


def _make_label_id(line: Mapping[str, Any]) -> LabelId:
    return LabelId(str(line["id"]), str(line.get("criterion", "")))


def _describe_agreement_with_judge(known: Sequence[tuple[LabelQuestion, float]]) -> list[str]:
    """Describe the agreement of people and judge, with bounds. Empty for fewer than two prompts."""
    both = [(q, truth, q.judge) for q, truth in known if q.judge is not None]
    groups = tuple(int(n) for n in number_clusters(q.prompt for q, *_ in both))
    if len(set(groups)) < 2:
        return []
    truth = tuple(truth for _, truth, _ in both)
    said = tuple(0.5 if x == 0.5 and not q.criterion else float((x or 0.0) > 0.5) for q, _, x in both)
    share = calibration.estimate_share([float(a == b) for a, b in zip(truth, said, strict=True)], groups)
    found = "The judge agrees on {:.3f} [{:.3f}, {:.3f}]".format(*share)
    try:
        kappa = agreement.kappa_test(Labels("kappa", truth, said, groups), 0.0, calibration.ALPHA)
    except ValueError:  # one kind only
        return [found]
    sure = f"{1 - calibration.ALPHA:.0%}"
    return [f"{found}, kappa {kappa.estimate:.3f} [{kappa.lower:.3f}, {kappa.upper:.3f}]; one-sided {sure} bounds"]


def label_queues(folder: Path) -> dict[str, dict[str, LabelQueue]]:
    """Return the queues of each judged item, by kind of draw.

    Raises UsageError if the run has no report.
    """
    try:
        return _make_label_queues_by_item(folder, (folder / "report.json").stat().st_mtime_ns)
    except FileNotFoundError:
        raise UsageError(f"{folder}: has no report; only rows of a completed run can be labelled") from None


@lru_cache(2)
def _make_label_queues_by_item(folder: Path, _: int) -> dict[str, dict[str, LabelQueue]]:
    items: dict[str, list[Mapping[str, Any]]] = {}
    for item, row in disputes.iterate_judged_rows(folder):
        items.setdefault(item, []).append(row)
    found: dict[str, dict[str, LabelQueue]] = {}
    for item, rows in items.items():
        subject, evaluation = item.partition("::")[::2]
        each: list[LabelQuestion] = []
        for row in rows:
            details = row["details"]
            names = (one.get("criterion") or one.get("criteria", "") for one in details["judgments"])
            pair = "baseline_answer" in details
            criteria = [""] if pair else dict.fromkeys(name for several in names for name in several.split(","))
            each += [LabelQuestion(row, criterion) for criterion in criteria]
        found[item] = {}
        for drawn, name in ((RANDOM, "labels"), (DISPUTES, DISPUTES)):
            asked = {q.id: q for q in each if drawn == RANDOM or disputes.is_disputed(q.row)}
            path = folder / subject / f"{evaluation}.{name}.jsonl"
            found[item][drawn] = LabelQueue(folder, path, drawn, read_run(folder).seed, asked)
    return found
