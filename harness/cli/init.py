"""`harness init`; imported for the help, so it is light."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from harness.cli.options import set_command
from harness.document import Document
from harness.errors import UsageError, missing_modules_message

EXAMPLES = Path(__file__).parents[1] / "init/examples"  # a folder a task, of files that are written as they lie there
ROWS, SCHEMA = ("data/train.jsonl", "data/test.jsonl"), "suite.schema.json"
TASKS = {  # each runs and passes as it is, on a model that it builds; what a folder lacks is that of qa
    "classify": ("suite.toml", "data/train.csv", "data/test.csv"),
    "qa": ("suite.toml", "harnessfile.py", *ROWS),
    "chat": ("suite.toml", *ROWS),
    "tools": ("suite.toml", *ROWS),
    "multilabel": ("suite.toml", *ROWS),
    "preference": ("suite.toml", *ROWS),
    "kto": ("suite.toml", *ROWS),
    "candidate": ("suite.toml", "train.toml", *ROWS),
}


def _run_init(args: argparse.Namespace) -> Document[dict[str, Any]]:
    """Write a suite for a task or a table.

    A task's suite runs and passes as it is. The JSON Schema of suites is written beside it, for editors. Raises
    UsageError if options conflict or a file exists.
    """
    import shlex

    if args.plugin is not None:
        return _write_plugin_package(args)
    from harness.collection.collect import collect
    from harness.collection.requirements import find_missing_modules
    from harness.files import write_text
    from harness.init import table
    from harness.plugins import load_plugins
    from harness.suite.json_schema import suite_schema
    from harness.suite.reader import read_suite

    task, of_data = args.task or "qa", [f"--{name}" for name in table.OPTIONS if getattr(args, name) is not None]
    if args.data and args.task:
        raise UsageError("--task writes example data and --data uses your file; remove one of them")
    if of_data and not args.data:
        raise UsageError(f"{of_data[0]} needs a table; add --data FILE")
    suite, folder = args.folder / "suite.toml", shlex.quote(str(args.folder))
    for name in (*(table.FILES if args.data else TASKS[task]), SCHEMA):
        if (args.folder / name).exists():
            raise UsageError(f"{args.folder / name}: exists already; choose an empty folder")
    if args.data:
        files, told = table.make_suite_files(args)
        commands = [f"harness {word} {shlex.quote(str(suite))}" for word in ("check", "plan", "run")]
        first = suite
    else:
        owns = {name: EXAMPLES / task / name for name in TASKS[task]}
        files = {n: (own if own.exists() else EXAMPLES / "qa" / n).read_text("utf-8") for n, own in owns.items()}
        told, commands = {}, [f"harness run {shlex.quote(str(suite))}"]
        suites = list_example_suites(task)
        first = args.folder / suites[0]
        if len(suites) > 1:  # which find each other in their folder
            commands = [f"cd {folder}"] * (args.folder != Path()) + [f"harness run {name}" for name in suites]
    for name, text in files.items():
        write_text(args.folder / name, text)
    plugins = load_plugins(suite)  # with those of a harnessfile that is among the files
    made = suite_schema(plugins)
    files[SCHEMA] = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    write_text(args.folder / SCHEMA, files[SCHEMA])
    hints = [f"next: {' && '.join(commands)}"]
    with suppress(UsageError):  # of which `check` tells
        if lacking := find_missing_modules(collect(read_suite(first), plugins)):
            hints.insert(0, f"before: a run {missing_modules_message(*lacking)}")
    written = [str(args.folder / name) for name in files]
    return Document({"written": written, **told}, partial(_print_written_files, hints))


def _print_written_files(hints: Sequence[str], report: Mapping[str, Any]) -> None:
    print(*report["written"], sep="\n")
    for hint in hints:
        print(hint, file=sys.stderr)


def _write_plugin_package(args: argparse.Namespace) -> Document[dict[str, Any]]:
    """Write a package with a plugin, its test and entry point.

    Its folder has the plugin's name. Raises UsageError if options conflict or the folder is not empty.
    """
    import shlex

    from harness.files import write_text
    from harness.init import table
    from harness.init.plugin import package_files

    others = [name for name in ("task", "data", *table.OPTIONS) if getattr(args, name) is not None]
    if others:
        raise UsageError(f"--plugin writes a package, and --{others[0]} is for a suite; give one of them")
    folder, files = args.folder / args.plugin, package_files(args.plugin)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: exists and is not empty; choose another name or folder")
    for name, text in files.items():
        write_text(folder / name, text)
    command = f"cd {shlex.quote(str(folder))} && pip install --editable . --group dev && mypy && pytest"
    written = {"written": [str(folder / name) for name in files]}
    return Document(written, partial(_print_written_files, [f"next: {command}"]))


def list_example_suites(task: str) -> list[str]:
    """Return the suites of a task in run order."""
    return [name for name in ("train.toml", "suite.toml") if name in TASKS[task]]


def init(parser: argparse.ArgumentParser) -> None:
    """write a suite for your table or with example data, or a plugin"""
    set_command(
        parser,
        _run_init,
        "harness init mine && harness run mine/suite.toml",
        "harness init --task chat mine",
        "harness init mine --data mood.csv --input message --label mood",
        "harness init --plugin my-plugin",
    )
    parser.add_argument("--task", choices=TASKS, help="kind of task, with example data (default: qa)")
    what = "write a package with a plugin, into a folder of this name"
    parser.add_argument("--plugin", metavar="NAME", help=what)
    parser.add_argument(
        "--data", metavar="FILE", help="your rows, to be split in three: a table, Alpaca, ShareGPT, messages or pairs"
    )
    parser.add_argument("--input", metavar="COLUMN,…", help="input columns of --data (default: detected)")
    parser.add_argument("--label", metavar="COLUMN", help="label or answer column of --data (default: detected)")
    parser.add_argument(
        "--group", metavar="COLUMN", help="column to keep together when splitting, e.g. user_id (default: detected)"
    )
    parser.add_argument("--separator", metavar="CHARACTER", help="column separator of --data (default: detected)")
    parser.add_argument(
        "--encoding", metavar="NAME", help="encoding of --data, e.g. utf-16 or cp1252 (default: detected)"
    )
    parser.add_argument("--model", metavar="PATH", help="base model for --data, as in [model] (default: SmolLM2-135M)")
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help="new folder (default: .)"
    )
