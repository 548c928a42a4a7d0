"""Every command of the parser: which of its arguments name a file or folder, and how it is run on hostile folders."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.cli.parser import make_parser

SERVER = "--runtime {server}/v1 --retries 0 --timeout 2"
FOLDER, YOURS, OUTPUT = "folder of others", "yours", "output"
NOT_PATHS = {  # metavars of arguments that name no file
    None, "ADDRESS", "BYTES", "CHARACTER", "CODE", "COLUMN", "COLUMN,…", "DTYPE", "EVAL", "EXPRESSION", "FORMAT",
    "GATE", "ID", "KIND", "KIND,…", "NAME", "NAMES", "OWNER/NAME", "PROMPT", "SECONDS", "SOURCES", "TABLE.KEY=VALUE",
    "TASK:NAME[,FILTER]", "TEXT", "TOOL", "URL", "WORKERS", "X", "YYYY-MM-DD",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One command line, and the kind of folder that is made hostile for it."""

    kind: str
    words: str  # places in braces are those of `Runner`
    server: bool = False  # it may connect to the test server
    folder: str = ""  # the working directory
    reading: str = ""  # of lines that read alike, of which each leaf of a record is taken by one


@dataclass(frozen=True)
class Command:
    """A command, what each of its paths is, and its lines."""

    paths: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()


def _make_lines(kind: str, *words: str, server: bool = False, folder: str = "", reading: str = "") -> tuple[Line, ...]:
    """Make lines that read alike, and like other lines of the same `reading`."""
    return tuple(Line(kind, text, server, folder, reading or words[0]) for text in words)


COMMANDS: dict[str, Command] = {
    "init": Command({"data": YOURS, "model": YOURS, "folder": OUTPUT}),
    "doctor": Command({"python": YOURS}),
    "run": Command(
        {"suite": YOURS, "candidates": YOURS, "out": OUTPUT, "junit_xml": OUTPUT, "events": OUTPUT},
        _make_lines("run", "run {run} --out {out}/reports"),
    ),
    "check": Command(
        {"suite": YOURS, "candidate": YOURS, "write_clean": OUTPUT}, _make_lines("export", "check {export}")
    ),
    "plan": Command(
        {"suite": YOURS, "other": FOLDER, "out": FOLDER, "candidate": YOURS},
        _make_lines("run", "plan {run}#base {run}#merged --metric qa:exact_match", reading="rows"),
    ),
    "selftest": Command({"suite": YOURS, "candidate": YOURS}, _make_lines("run", "selftest {run}")),
    "aa": Command({"suite": YOURS}, _make_lines("run", "aa {run}")),
    "gate": Command(
        {"rows": FOLDER, "out": OUTPUT, "junit_xml": OUTPUT, "write_suite": OUTPUT},
        _make_lines(
            "run",
            "gate {run}#base {run}#merged --metric qa:exact_match --better-by 0 --allow dtype --out {out}/reports",
            reading="rows",
        )
        + _make_lines("export", "gate {export}#base {export}#merged --better-by 0 --out {out}/reports"),
    ),
    "show": Command(
        {"run": FOLDER},
        _make_lines("run", "show {run}", "show {run} --rows", "show {run} --flips", "show {runs}", reading="show")
        + _make_lines("run", "show .", folder="{run}", reading="show"),
    ),
    "ask": Command(
        {"suite": FOLDER, "candidate": YOURS, "base": YOURS},
        _make_lines("export", "ask {export} hello")
        + _make_lines("model", "ask {model} hello")
        + _make_lines("adapter", "ask {adapter} hello --base {yours}/real/tiny"),
    ),
    "blame": Command(
        {"suite": YOURS, "run": FOLDER},
        _make_lines("run", "blame suite.toml {run} --gate perfect -p harness.testing", folder="{mine}"),
    ),
    "explain": Command({"suite": YOURS}),
    "waive": Command(
        {"suite": YOURS}, _make_lines("run", "waive floor --reason x --until 2999-01-01 --suite {run} --by me")
    ),
    "verify": Command(
        {
            "export": FOLDER,
            "beside": FOLDER,
            "sources": YOURS,
            "policy": YOURS,
            "key": YOURS,
            "suite": YOURS,
            "sign_with": YOURS,
            "served": YOURS,
        },
        _make_lines(
            "export",
            "verify {export}",
            "verify {export} --suite {yours}/suite.toml",
            "verify {export} --as cyclonedx",
            "verify {yours}/exports/fake --with {export}",
            reading="verify",
        )
        + _make_lines("export", "verify .", folder="{export}", reading="verify")
        + _make_lines(
            "export",
            "verify {export} --recompute",
            "verify {export} --recompute --policy strict --key {yours}/release.pub",
        )
        + _make_lines("model", "verify {model}")
        + _make_lines("adapter", "verify {adapter}")
        + _make_lines("published", "verify {published}")
        + _make_lines("bundle", "verify {bundle}")
        + _make_lines("bundle", "verify {bundle} --recompute"),
    ),
    "keygen": Command({"name": OUTPUT}),
    "sign": Command(
        {"export": FOLDER, "key": YOURS},
        _make_lines("export", "sign {export} --key {yours}/release.key")
        + _make_lines("model", "sign {model} --key {yours}/release.key"),
    ),
    "promote": Command(
        {"export": FOLDER, "beside": FOLDER, "policy": YOURS},
        _make_lines("export", "promote {export}") + _make_lines("export", "promote {export} --list"),
    ),
    "publish": Command(
        {"export": FOLDER, "to": OUTPUT},
        _make_lines("export", "publish {export} team/fake --to {out}/upload")
        + _make_lines("model", "publish {model} team/real --to {out}/upload"),
    ),
    "plugins": Command({"suite": YOURS}),
    "schema": Command({"suite": YOURS, "of": YOURS}),
    "cache": Command(),
    "compare": Command(
        {"run": FOLDER, "against": FOLDER},
        _make_lines("run", "compare {run} {yours}/run", "compare {yours}/run {run} --json"),
    ),
    "history": Command({"suite": YOURS, "out": FOLDER}, _make_lines("run", "history fake --out {runs}")),
    "judge calibrate": Command(
        {"labels": YOURS, "suite": YOURS, "run": FOLDER, "out": OUTPUT},
        _make_lines(
            "run",
            "judge calibrate {yours}/labels.jsonl --suite {judged} --run {run} --out {out}/x.json",
            server=True,
        ),
    ),
    "judge disputes": Command({"run": FOLDER}, _make_lines("run", "judge disputes {run} --all")),
    "parity": Command(
        {"export": FOLDER, "base": YOURS, "suite": YOURS, "write": OUTPUT, "sign": YOURS},
        _make_lines("model", f"parity {{model}} {SERVER} --fingerprint", server=True)
        + _make_lines("model", f"parity {{model}} {SERVER} --layers ids", server=True)
        + _make_lines("adapter", f"parity {{adapter}} {SERVER} --base {{yours}}/real/tiny --layers ids", server=True)
        + _make_lines("export", f"parity {{export}} {SERVER} --fingerprint", server=True),
    ),
    "report": Command(
        {"run": FOLDER, "against": FOLDER, "history": FOLDER, "o": OUTPUT},
        _make_lines(
            "run",
            "report {run} -o {out}/page.html",
            "report {run} --markdown",
            "report {run} --as every-eval-ever -o {out}/every",
        )
        + _make_lines(
            "run",
            "report {yours}/run --against {run} -o {out}/compare.html",
            "report {yours}/run --history {runs} -o {out}/history.html",
        ),
    ),
    "view": Command({"reports": FOLDER}, _make_lines("run", "view {runs} --port 0")),
}


def iterate_parsed_commands() -> Iterator[tuple[str, set[str]]]:
    """Yield each command of the parser with the names of its arguments that may name a file."""
    yield from _iterate_subcommands("", make_parser(["help"]))


def _iterate_subcommands(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, set[str]]]:
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in nested:
        for word, subparser in action.choices.items():
            yield from _iterate_subcommands(f"{name} {word}".strip(), subparser)
    if not nested:
        yield name, {action.dest for action in parser._actions if _may_name_a_file(action)}


def _may_name_a_file(action: argparse.Action) -> bool:
    if action.nargs == 0 or action.choices or action.type in (int, float):
        return False
    return getattr(action.type, "__name__", "") == "Path" or action.metavar not in NOT_PATHS


def list_lines() -> list[Line]:
    """Return every command line of the corpus."""
    return [line for command in COMMANDS.values() for line in command.lines]
