"""A job of GitHub Actions, by itself or with `--github`: annotations, a summary, no command in what models say."""

from __future__ import annotations

import os
import re
import stat
import sys
import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.files import open_for_writing
from harness.hookspec import hookimpl
from harness.records.run import Run
from harness.records.verdict_text import format_claim
from harness.records.verdicts import Outcome
from harness.reports.markdown import format_run_markdown
from harness.reports.view import view_run
from harness.suite.lines import read_gate_lines
from harness.texts.escaping import escape_markdown, printable
from harness.texts.secrets import redact_text
from harness.texts.shortening import shorten

MAX_ANNOTATIONS = 10  # annotations of a kind that GitHub shows of a step; it drops the others without a word
MAX_MESSAGE_CHARS = 1000  # characters of a message
# commands that print texts of models
ANNOTATED_COMMANDS = ("run", "gate", "check", "plan", "selftest", "show", "judge", "verify")
PLACE = re.compile(r"([^:\n]+\.toml)(?::(\d+))?: (.*)")  # file, line, what


class GithubJob:
    """A command in a job: while it is open the runner obeys nothing of what is printed, which holds texts of models.

    It listens to the runs of the command, and annotates them and its mistakes when it closes, if it was concluded.
    """

    def __init__(self, args: Namespace) -> None:
        command = str(getattr(args, "documented", "")).partition(" ")[0]
        stops, self.gates = command in ANNOTATED_COMMANDS, command in ("run", "gate")
        with suppress(OSError, ValueError):  # a file no runner reads: our commands would stand in it
            stops = stops and not stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
        self.token = uuid.uuid4().hex if stops else ""
        self.of_runs, self.annotations = list[str](), list[str]()

    def __enter__(self) -> GithubJob:
        if self.token:
            print(f"::stop-commands::{self.token}", flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.token:
            print(f"::{self.token}::")
        for command in self.annotations:  # the runner reads both streams
            print(command, file=sys.stdout if self.token else sys.stderr)

    @hookimpl
    def harness_run_finish(self, run: Run) -> None:
        self.of_runs += list_annotations(run, read_gate_lines(Path(run.path)))
        self._append_to_runner_file(
            "GITHUB_STEP_SUMMARY", redact_text(format_run_markdown(run, Path(run.folder) if run.folder else None))
        )
        if run.folder:  # for the steps that follow, which need not look for it
            self._append_to_runner_file("GITHUB_OUTPUT", f"folder={printable(run.folder)}\n")

    def _append_to_runner_file(self, variable: str, text: str) -> None:
        """Append a text to a file of the GitHub runner.

        A write error becomes a warning and changes no verdict.
        """
        try:
            if path := os.environ.get(variable):
                with os.fdopen(open_for_writing(Path(path), os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            name = "summary" if variable == "GITHUB_STEP_SUMMARY" else variable
            self.of_runs.append(format_annotation("warning", f"the {name} cannot be written: {error.strerror}"))

    def write_annotations(self, mistakes: Sequence[str]) -> None:
        """Annotate the mistakes of the command, and its runs.

        A mistake is annotated at the line of the suite that it names. The annotations are printed when the job closes.
        """
        found = []
        for message in mistakes:
            place = PLACE.match(message)
            file, line, what = place.groups() if place else ("", None, message)
            found.append(format_annotation("error", what, file, int(line) if line else None))
        if self.gates and mistakes:
            self._append_to_runner_file("GITHUB_STEP_SUMMARY", format_refusal(mistakes))
        self.annotations = [*limit_annotations(found), *self.of_runs]


def format_refusal(mistakes: Sequence[str]) -> str:
    """Return as Markdown that a run was refused, and why."""
    lines = [f"- {escape_markdown(message)[:MAX_MESSAGE_CHARS]}" for message in mistakes[:MAX_ANNOTATIONS]]
    lines += [f"- and {len(mistakes) - MAX_ANNOTATIONS} more, in the log"] if len(mistakes) > MAX_ANNOTATIONS else []
    return "\n".join(["## Refused: there is no verdict, and nothing may ship", "", *lines, ""])


def list_annotations(run: Run, lines: Mapping[str, int]) -> list[str]:
    """Return workflow commands that annotate a suite with a run's problems.

    The worst come first, at most MAX_ANNOTATIONS of a kind. `lines` maps the ids of gates to lines of the suite.
    """
    view = view_run(run)
    problems = [(line, "the run ended early") for line in view.problems]
    problems += [(f"{f.what}; {f.fix}".rstrip("; "), f.name) for f in view.stopping_findings]
    problems += [(item.error or "", f"ERROR {item.id}") for item in view.failed_items if not item.verdicts]
    found = [format_annotation("error", what, run.path, None, title) for what, title in problems]
    for v in view.verdicts:
        if v.outcome is not Outcome.PASS:
            message = f"{v.candidate}: {format_claim(v)}: {v.why}"
            message += f"; {v.waiver.summary()}" if v.waiver else ""
            kind = "error" if v.blocks_release else "notice" if v.blocking and not v.waived else "warning"
            found.append(format_annotation(kind, message, run.path, lines.get(v.gate), f"{v.outcome} {v.gate}"))
    return limit_annotations(found)


def limit_annotations(found: Sequence[str]) -> list[str]:
    """Return the first MAX_ANNOTATIONS commands of each kind.

    If there are more, the last of them says how many.
    """
    kept: list[str] = []
    for kind in ("error", "warning", "notice"):
        mine = [one for one in found if one.startswith((f"::{kind} ", f"::{kind}::"))]
        if len(mine) > MAX_ANNOTATIONS:
            rest = len(mine) - MAX_ANNOTATIONS + 1
            mine = [
                *mine[: MAX_ANNOTATIONS - 1],
                format_annotation(kind, f"and {rest} more, in the log and the summary"),
            ]
        kept += mine
    return kept


def format_annotation(kind: str, message: str, file: str = "", line: int | None = None, title: str = "") -> str:
    """Format a workflow command as one line.

    All texts are escaped, and the message is cut at MAX_MESSAGE_CHARS.
    """
    text = shorten(printable(message), MAX_MESSAGE_CHARS)
    if file:  # from the root of the repository, where it lies in it
        root, path = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve(), Path(file).resolve()
        file = path.relative_to(root).as_posix() if path.is_relative_to(root) else file
    told = [("file", file), ("line", str(line or "")), ("title", title)]
    pairs = (
        (name, _escape_command_message(printable(value)).replace(":", "%3A").replace(",", "%2C"))
        for name, value in told
        if value
    )
    given = ",".join(f"{name}={value}" for name, value in pairs)
    return (
        f"::{kind} {given}::{_escape_command_message(text)}" if given else f"::{kind}::{_escape_command_message(text)}"
    )


def _escape_command_message(text: str) -> str:
    """Escape the message of a workflow command for the runner.

    In a property colons and commas must be escaped as well.
    """
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
