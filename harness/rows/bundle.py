"""The evidence of a gate on another tool's rows.

It holds the rows as they were read, so that the verdicts can be recomputed.

manifest.json   what was read (sha256 and size of each file), the binding, and the digests of the other files
suite.json      the suite, its gates and how its rows are read
items.jsonl     a line a row: evaluation, side and all that the reader found
verdicts.json   what was decided
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from harness.data.pypi import hash_download
from harness.files import write_text
from harness.rows.records import RawRow
from harness.rows.suites import JudgedRows
from harness.texts.json_text import dumps
from harness.version import __version__

FORMAT, FOLDER = "rows 2", "gate"
SUITE, ITEMS, VERDICTS, MANIFEST = "suite.json", "items.jsonl", "verdicts.json", "manifest.json"


def write_bundle(found: JudgedRows, folder: Path) -> None:
    """Write the evidence of judged rows. Raises OSError."""
    suite = found.suite
    told: dict[str, Any] = {"header": asdict(suite.header), "rows": {n: asdict(r) for n, r in suite.rows.items()}}
    told |= {"evals": [asdict(e) for e in suite.evals], "gates": [asdict(g) for g in suite.gates]}
    told |= {"source": suite.source} if suite.source is not None else {}
    write_text(folder / SUITE, dumps(told))
    sides = {(e, s): run for e, one in found.measured.items() for s, run in one.runs.items()}
    rows = ((e, s, row) for (e, s), run in sides.items() for row in run.rows)
    encode = json.JSONEncoder().encode  # one for all rows: another for each takes as long as the judging
    names = [field.name for field in fields(RawRow)]
    values = attrgetter(*names)
    lines = (encode([e, s, dict(zip(names, values(row), strict=True))]) + "\n" for e, s, row in rows)
    write_text(folder / ITEMS, lines)
    write_text(folder / VERDICTS, dumps([asdict(v) for v in found.verdicts]))
    runs = [{"eval": e, "side": s, **asdict(replace(run, rows=()))} for (e, s), run in sides.items()]
    manifest = {
        "format": FORMAT, "path": str(suite.path), "digest": suite.digest,
        "started": found.started.isoformat(timespec="seconds"), "harness": __version__,
        "attempts": {e: [standing.number, *standing.stages] for (_, e), standing in found.standings.items()},
        "runs": [{k: v for k, v in run.items() if k != "rows"} for run in runs],  # these have a file of their own
        "files": {name: hash_download(folder / name) for name in (SUITE, ITEMS, VERDICTS)},
    }  # fmt: skip
    write_text(folder / MANIFEST, dumps(manifest))
