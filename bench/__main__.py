"""Measure ourselves beside the peers and write docs/explanation/performance.md.

Every part keeps its record as a JSON line, so that one can be measured again and the page written anew; those of other
machines stay, and stand beside it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.child import ROOT, ChildError
from bench.machine import count_cores, describe
from bench.page import Machine, Section, format_machine_name, page
from bench.setting import MODEL, Setting

PARTS = (
    "choice",
    "perplexity",
    "generation",
    "startup",
    "tables",
    "training",
    "packing",
    "checkpointing",
    "looks",
    "busy",
)
APART = ("vllm", "kernels")  # run by name only: on pages of their own, the first in an environment of its own
Options = dict[str, dict[str, Any]]  # by part
Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 0 when all parts ran and every result equals the peer's, however fast they were."""
    parser = _make_parser()
    args = parser.parse_args(arguments)
    try:
        parts = _check_parts(args.parts)
        options = _parse_options(args.set, quick=args.quick)
    except ValueError as error:
        parser.error(str(error))
    setting = Setting(args.model, args.dtype, args.device, args.threads or count_cores())
    where = {**describe(setting.device), "model": f"{setting.model}, {setting.dtype}, {setting.threads} threads"}
    machines = _read(args.records, where)
    records, failed = machines[format_machine_name(where)], []
    for name in parts:
        try:
            records[name] = _measure(name, setting, options[name]) | {"where": where}
        except ChildError as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(json.dumps(records[name]), flush=True)
        _write(args.records, machines)
    written = {name: _make_machine(own) for name, own in machines.items() if own}
    args.page.write_text(page([*written.values()]), "utf-8")
    print(f"written: {args.page}", file=sys.stderr)
    return _report_missed_bars(written[format_machine_name(where)].sections if records else [], failed)


def _check_parts(names: Sequence[str]) -> Sequence[str]:
    """Return the parts to run, all without names; raises ValueError on one that there is not."""
    for name in names:
        if name not in PARTS + APART:
            raise ValueError(f'no part "{name}"; known: {", ".join(PARTS + APART)}')
    return names or PARTS


def _import_part(name: str) -> Any:
    return import_module(f"bench.{name}")


def _measure(name: str, setting: Setting, options: dict[str, Any]) -> Record:
    print(f"{name}: {json.dumps(options) if options else 'default sizes'}", file=sys.stderr, flush=True)
    load, begun = os.getloadavg()[0], time.monotonic()
    found = _import_part(name).measure(setting, **options)
    return {"part": name, "options": options, "load": load, "seconds": time.monotonic() - begun, "found": found}


def _read(path: Path, where: dict[str, str]) -> dict[str, dict[str, Record]]:
    """Return the records that are there, by machine and part, but this one's of another system or model."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    records = [json.loads(line) for line in lines]
    found: dict[str, dict[str, Record]] = {format_machine_name(r["where"]): {} for r in [*records, {"where": where}]}
    for record in records:
        name = format_machine_name(record["where"])
        if name != format_machine_name(where) or _leave_out_libraries(record["where"]) == _leave_out_libraries(where):
            found[name][record["part"]] = record
    return found


def _leave_out_libraries(where: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in where.items() if key != "libraries"}


def _write(path: Path, machines: dict[str, dict[str, Record]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    every = [record for records in machines.values() for record in records.values()]
    path.write_text("".join(json.dumps(record) + "\n" for record in every), "utf-8")


def _make_machine(records: dict[str, Record]) -> Machine:
    sections = [_import_part(name).section(records[name]["found"]) for name in PARTS + APART if name in records]
    return Machine(next(iter(records.values()))["where"], _make_notes(records), sections)


def _make_notes(records: dict[str, Record]) -> list[str]:
    """Report how long it took, what else the machine was doing, and which parts were not at their default sizes."""
    minutes = sum(record["seconds"] for record in records.values()) / 60
    load = max((record["load"] for record in records.values()), default=0.0)
    notes = [f"It took {minutes:.0f} minutes; the load average before a part was {load:.1f} at most."]
    libraries = {name: record["where"].get("libraries") for name, record in records.items()}
    first = next(iter(libraries.values()), None)
    notes += [f"Measured with other libraries: {name} with {of}." for name, of in libraries.items() if of != first]
    other = [f"{name} {json.dumps(record['options'])}" for name, record in records.items() if record["options"]]
    return [*notes, f"Not at the default sizes: {'; '.join(other)}."] if other else notes


def _report_missed_bars(sections: Sequence[Section], failed: Sequence[str]) -> int:
    """Print the bars that were missed; return 1 when a result differs from the peer's or a part failed."""
    missed = [bar for section in sections for bar in section.bars if not bar.met]
    for bar in missed:
        print(f"missed: {bar.what}: {bar.found}, want {bar.wanted}", file=sys.stderr)
    return int(bool(failed) or any(bar.result for bar in missed))


def _parse_options(words: Sequence[str], *, quick: bool) -> Options:
    """Return each part's options from `part.name=value` words; raises ValueError on one that there is not."""
    options: Options = {name: dict(_import_part(name).QUICK) if quick else {} for name in PARTS + APART}
    for word in words:
        key, _, value = word.partition("=")
        name, _, option = key.partition(".")
        known = _list_size_options(name) if name in PARTS + APART else []
        if option not in known:
            raise ValueError(f'--set "{word}": no such size; known: {", ".join(known) or ", ".join(PARTS)}')
        options[name][option] = json.loads(value)
    return options


def _list_size_options(name: str) -> list[str]:
    parameters = inspect.signature(_import_part(name).measure).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    # Without `choices`: argparse would hold the empty list against them.
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument(
        "--set", action="append", default=[], metavar="PART.SIZE=JSON", help="e.g. choice.documents=100"
    )
    parser.add_argument("--model", default=MODEL, help="as under [model] path")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", help='"cpu" or "cuda"')
    parser.add_argument("--threads", type=int, default=0, help="default: one a core")
    parser.add_argument("--records", type=Path, default=ROOT / "bench/records.jsonl", help="where the numbers are kept")
    parser.add_argument(
        "--page", type=Path, default=ROOT / "docs/explanation/performance.md", help="where the page is written"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
