"""Every command of the parser: which of its arguments name a file or folder, and how it is run on hostile folders."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

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


class Read(NamedTuple):
    """What a command reads of others, whether through links, how often, and what it checks."""

    input: str
    links: str
    times: str
    checks: str


OF_YOUR_SUITE = (Read("your suite, and what it names", "yes", "as `run`", "as `run`; nothing is exported"),)
OF_RUN_FOLDER = (
    Read(
        "run folder",
        "no",
        "report and lock once; rows once per printed table",
        "names, shape, the digest at the report's end",
    ),
)
OF_ROWS = (
    Read(
        "rows of another tool",
        "yes for files you name; never out of a folder",
        "the beginning to detect the tool, then once",
        "sums, pairs, facts, limits of size",
    ),
    Read("a run folder or an export", "no", "once", "names, sums, number of rows"),
)


@dataclass(frozen=True)
class Command:
    """A command, what each of its paths is, and its lines."""

    paths: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    reads: tuple[Read, ...] = ()  # its rows of the table in SECURITY.md, which `make docs` writes


def _make_lines(kind: str, *words: str, server: bool = False, folder: str = "", reading: str = "") -> tuple[Line, ...]:
    """Make lines that read alike, and like other lines of the same `reading`."""
    return tuple(Line(kind, text, server, folder, reading or words[0]) for text in words)


COMMANDS: dict[str, Command] = {
    "init": Command({"data": YOURS, "model": YOURS, "folder": OUTPUT}),
    "doctor": Command({"python": YOURS}),
    "run": Command(
        {"suite": YOURS, "candidates": YOURS, "out": OUTPUT, "junit_xml": OUTPUT, "events": OUTPUT},
        _make_lines("run", "run {run} --out {out}/reports"),
        reads=(
            Read(
                "your suite, rows, candidate, base",
                "yes",
                "rows once; a candidate is hashed, loaded, and hashed again as it is exported",
                "exported files against the judged ones",
            ),
            Read("`released`", "no", "hashed, then loaded", "files and weights against its evidence"),
        ),
    ),
    "check": Command(
        {"suite": YOURS, "candidate": YOURS, "write_clean": OUTPUT},
        _make_lines("export", "check {export}"),
        reads=OF_YOUR_SUITE,
    ),
    "plan": Command(
        {"suite": YOURS, "other": FOLDER, "out": FOLDER, "candidate": YOURS},
        _make_lines("run", "plan {run}#base {run}#merged --metric qa:exact_match", reading="rows"),
        reads=OF_ROWS,
    ),
    "selftest": Command(
        {"suite": YOURS, "candidate": YOURS}, _make_lines("run", "selftest {run}"), reads=OF_YOUR_SUITE
    ),
    "aa": Command({"suite": YOURS}, _make_lines("run", "aa {run}"), reads=OF_YOUR_SUITE),
    "gate": Command(
        {"rows": FOLDER, "out": OUTPUT, "junit_xml": OUTPUT, "write_suite": OUTPUT},
        _make_lines(
            "run",
            "gate {run}#base {run}#merged --metric qa:exact_match --better-by 0 --allow dtype --out {out}/reports",
            reading="rows",
        )
        + _make_lines("export", "gate {export}#base {export}#merged --better-by 0 --out {out}/reports"),
        reads=OF_ROWS,
    ),
    "show": Command(
        {"run": FOLDER},
        _make_lines("run", "show {run}", "show {run} --rows", "show {run} --flips", "show {runs}", reading="show")
        + _make_lines("run", "show .", folder="{run}", reading="show"),
        reads=OF_RUN_FOLDER,
    ),
    "ask": Command(
        {"suite": FOLDER, "candidate": YOURS, "base": YOURS},
        _make_lines("export", "ask {export} hello")
        + _make_lines("model", "ask {model} hello")
        + _make_lines("adapter", "ask {adapter} hello --base {yours}/real/tiny"),
        reads=(
            Read(
                "export",
                "no",
                "as `parity`; its model with the default loader, a base only if you name it, by its digest",
                "as `verify`; of the evidence only a template of prompts is used",
            ),
        ),
    ),
    "blame": Command(
        {"suite": YOURS, "run": FOLDER},
        _make_lines("run", "blame suite.toml {run} --gate perfect -p harness.testing", folder="{mine}"),
        reads=(
            Read(
                "run folder",
                "no",
                "report and rows; the suite is yours",
                "the suite's digest, before anything of it is imported",
            ),
        ),
    ),
    "explain": Command({"suite": YOURS}),
    "waive": Command(
        {"suite": YOURS},
        _make_lines("run", "waive floor --reason x --until 2999-01-01 --suite {run} --by me"),
        reads=OF_YOUR_SUITE,
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
            "verify {export} --policy strict --key {yours}/release.pub",
        )
        + _make_lines("model", "verify {model}")
        + _make_lines("adapter", "verify {adapter}")
        + _make_lines("published", "verify {published}")
        + _make_lines("bundle", "verify {bundle}"),
        reads=(
            Read(
                "evidence",
                "no",
                "each file of it once, except `items.jsonl`: hashed, and parsed under its digest",
                "format, shape, digests, claims, gates from the tables of the suite's digest, your policy",
            ),
            Read(
                "`model/`",
                "no",
                "hashed once; configuration and headers once more",
                "inodes, sizes and times of change, before the first and after the last reading",
            ),
            Read("your policy, statement, copy of the suite", "yes", "once", "keys, threshold, root"),
            Read("bundle of `harness gate`", "no", "once", "digests, verdicts from the rows, your policy"),
            Read(
                "evidence and `model/`, with `--as` or `--replay`",
                "no",
                "evidence as it was verified; the model is loaded",
                "unchanged since it was verified, after it was loaded",
            ),
        ),
    ),
    "keygen": Command({"name": OUTPUT}),
    "sign": Command(
        {"export": FOLDER, "key": YOURS},
        _make_lines("export", "sign {export} --key {yours}/release.key")
        + _make_lines("model", "sign {model} --key {yours}/release.key"),
        reads=(
            Read(
                "evidence",
                "no",
                "once; once more for secrets",
                "as `verify`; the verified payloads are signed, and their root is printed",
            ),
        ),
    ),
    "promote": Command(
        {"export": FOLDER, "beside": FOLDER, "policy": YOURS},
        _make_lines("export", "promote {export}") + _make_lines("export", "promote {export} --list"),
        reads=(Read("export", "no", "once, and its copy once", "as `verify`, of the copy that becomes the release"),),
    ),
    "publish": Command(
        {"export": FOLDER, "to": OUTPUT},
        _make_lines("export", "publish {export} team/fake --to {out}/upload")
        + _make_lines("model", "publish {model} team/real --to {out}/upload"),
        reads=(
            Read(
                "export",
                "no",
                "as `verify`, then each file once",
                "as `verify`, with the bytes of card and report that it verified; lists what it uploads and asks",
            ),
        ),
    ),
    "plugins": Command({"suite": YOURS}),
    "schema": Command({"suite": YOURS, "of": YOURS}),
    "cache": Command(),
    "compare": Command(
        {"run": FOLDER, "against": FOLDER},
        _make_lines("run", "compare {run} {yours}/run", "compare {yours}/run {run} --json"),
        reads=OF_RUN_FOLDER,
    ),
    "history": Command(
        {"suite": YOURS, "out": FOLDER}, _make_lines("run", "history fake --out {runs}"), reads=OF_RUN_FOLDER
    ),
    "judge calibrate": Command(
        {"labels": YOURS, "suite": YOURS, "run": FOLDER, "out": OUTPUT},
        _make_lines(
            "run",
            "judge calibrate {yours}/labels.jsonl --suite {judged} --run {run} --out {out}/x.json",
            server=True,
        ),
        reads=OF_RUN_FOLDER,
    ),
    "judge disputes": Command({"run": FOLDER}, _make_lines("run", "judge disputes {run} --all"), reads=OF_RUN_FOLDER),
    "parity": Command(
        {"export": FOLDER, "base": YOURS, "suite": YOURS, "write": OUTPUT, "sign": YOURS},
        _make_lines("model", f"parity {{model}} {SERVER} --fingerprint", server=True)
        + _make_lines("model", f"parity {{model}} {SERVER} --layers ids", server=True)
        + _make_lines("adapter", f"parity {{adapter}} {SERVER} --base {{yours}}/real/tiny --layers ids", server=True)
        + _make_lines("export", f"parity {{export}} {SERVER} --fingerprint", server=True),
        reads=(
            Read(
                "export, server",
                "no",
                "as `verify --replay`",
                "as `verify`; a base only if you name it, by its digest; server text is cleaned before signing",
            ),
        ),
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
        reads=OF_RUN_FOLDER,
    ),
    "view": Command(
        {"reports": FOLDER},
        _make_lines("run", "view {runs} --port 0"),
        reads=(
            Read(
                "run folders",
                "no, nor folders that are links",
                "on request",
                "the token, names, shape; an unreadable one is a line",
            ),
        ),
    ),
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
