"""JSON Schemas of the files that a run and an export write, made of the records that are written where there are such.

What is written by hand, row by row, is described by hand; a test holds real files against all of them.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.artifacts import attestation
from harness.records.findings import Finding
from harness.records.models import Progress
from harness.records.run import Report, Run, Trial
from harness.records.said import Ended
from harness.records.samples import Labels
from harness.records.verdicts import Verdict
from harness.release import lockfile
from harness.reports import events, report_json
from harness_release.json_schema import DRAFT, Schema, by_name, many, table

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": ["number", "null"]}  # null for one that is not finite, of which JSON has none
ANY: Schema = {}
DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
RANGE: Schema = {"type": ["array", "null"], "items": NUMBER, "minItems": 2, "maxItems": 2}  # of a row's value
NUMBERS: Schema = by_name(NUMBER)
TEXTS: Schema = by_name(TEXT)
ENDED: Schema = {"enum": list(get_args(Ended))}
PLAIN: Mapping[type, Schema] = {
    str: TEXT, int: {"type": "integer"}, float: NUMBER, bool: {"type": "boolean"}, dict: {"type": "object"},
    list: {"type": "array"},
}  # fmt: skip


def file_schemas() -> dict[str, Schema]:
    """Return a schema for each file by a short name; of a `.jsonl` file it is that of a line."""
    claim = {"payload": TEXT, "payloadType": {"enum": [attestation.PAYLOAD]}}
    claim["signatures"] = many(table({"keyid": TEXT, "sig": TEXT}))
    head: Schema = {"format": {"enum": [attestation.LEDGER_FORMAT]}, "after": many(DIGEST), "time": TEXT, "id": DIGEST}
    keys = dict.fromkeys(("place", "suite", "suite_digest", "candidate", "eval", "role", "weights", "base"), TEXT)
    keys |= dict.fromkeys(("project", "claims", "settings", "measure"), TEXT)
    keys |= {
        "attempt": WHOLE,
        "count": WHOLE,
        "rows": DIGEST,
        "n": WHOLE,
        "scores": TEXT,
    }
    look = table({**head, **keys, "most": {"type": ["integer", "null"]}, "continues": TEXT})
    ledger = [{"title": "a look", **look}, {"title": "the beginning", **table({**head, "ledger": TEXT})}]
    made: dict[str, Schema] = {
        "report": {"title": "report.json", **record(Run, format={"enum": [report_json.FORMAT]}, sha256=DIGEST)},
        "event": _event(),
        "sample": _sample(),
        "lock": _lock(),
        "manifest": _manifest(),
        "gates": {"title": "evidence/gates.json", **many(record(Verdict))},
        "item": _item(),
        "claim": {"title": "a line of evidence/claims.intoto.jsonl", **table(claim)},
        "attempt": {"title": "a line of attempts.jsonl", "oneOf": ledger},
    }
    return {name: {"$schema": DRAFT, **schema} for name, schema in made.items()}


def record(cls: type, **more: Schema) -> Schema:
    """Return the schema of a record as `dataclasses.asdict` writes it, with more keys before its own."""
    hints = get_type_hints(cls)
    keys = {f.name: value(hints[f.name]) for f in dataclasses.fields(cls)}
    return {**table({**more, **keys}), "description": (cls.__doc__ or "").strip().partition("\n")[0]}


def value(want: Any) -> Schema:
    """Return the schema of what a field of a record holds, as JSON has it."""
    origin, args = get_origin(want), get_args(want)
    if isinstance(want, type) and dataclasses.is_dataclass(want):
        return record(want)
    if isinstance(want, type) and issubclass(want, Enum):
        return {"enum": [str(one.value) for one in want]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if one is type(None) else value(one) for one in args]}
    if origin is not None and issubclass(origin, Mapping):
        return by_name(value(args[1]))
    if origin is tuple and args[-1] is not Ellipsis:
        return {"type": "array", "items": [value(one) for one in args], "minItems": len(args), "maxItems": len(args)}
    return many(value(args[0])) if origin is not None else PLAIN.get(want, ANY)


def _event() -> Schema:
    report, run = (record(cls)["properties"] for cls in (Report, Run))
    kinds = {
        "run_start": {k: run[k] for k in events.BEGUN},
        "stage": {"stage": TEXT, "detail": TEXT},
        "progress": record(Progress)["properties"],
        "report": {k: v for k, v in report.items() if k not in ("verdicts", "traceback")},
        "verdict": record(Verdict)["properties"],
        "finding": record(Finding)["properties"],
        "trial": record(Trial)["properties"],
        "run_finish": {k: run[k] for k in ("exit_code", "problem", "conclusions", "folder", "seconds")},
    }
    head = {"format": {"enum": [events.FORMAT]}, "at": TEXT}
    lines = [{"title": kind, **table({**head, "event": {"enum": [kind]}, **keys})} for kind, keys in kinds.items()]
    return {"title": "a line of events.jsonl", "oneOf": lines}


OF_SOME_ROWS = ("lost", "partly_lost", "ended", "tokens", "second_cluster")


def _sample() -> Schema:
    """Return the schema of a line of samples_*.jsonl: the metrics stand beside the keys, each under its own name."""
    keys = {
        "doc_id": WHOLE, "doc": {"type": "object"}, "target": ANY, "arguments": {"type": "object"},
        "messages": {"type": "array"}, "key": TEXT,
        "resps": {"type": "array"}, "filtered_resps": {"type": "array"}, "filter": TEXT,
        "metrics": many(TEXT), "doc_hash": DIGEST, "prompt_hash": DIGEST, "target_hash": DIGEST,
        "id": TEXT, "cluster": {"type": ["string", "null"]}, "weight": {"type": "number"}, "weights": NUMBERS,
        "note": {"type": ["string", "null"]}, "details": {"type": "object"}, "nats": NUMBERS, "rendered": TEXT,
        "lost": many(TEXT), "partly_lost": NUMBERS, "ended": ENDED, "tokens": WHOLE, "second_cluster": TEXT,
    }  # fmt: skip
    optional = ("messages", "key", "details", "nats", "rendered", *OF_SOME_ROWS)
    made = table(keys, *optional)
    return {"title": "a line of SUBJECT/samples_EVAL_TIME.jsonl", **made, "additionalProperties": NUMBER}


def _manifest() -> Schema:
    caveat = table({"text": TEXT, "outcome": {"enum": ["INCONCLUSIVE", "ERROR", None]}, "metrics": {"type": "array"}})
    evaluation = {"weights": TEXT, "rows": TEXT, "caveats": many(caveat), "labels": many(record(Labels))}
    of_file, ids = table({"size": WHOLE, "sha256": DIGEST}), many(TEXT)
    keys = {
        "format": {"enum": [attestation.FORMAT]}, "name": TEXT, "candidate": TEXT, "weights": TEXT,
        "template": {"type": ["string", "null"]}, "started": TEXT, "statistics": ANY,
        "answers": table({"asked": WHOLE, "remembered": WHOLE}), "invocation": {"type": "object"},
        "ignored": many(table(dict.fromkeys(("check", "by", "reason", "until"), TEXT))),
        "adapter": table({"base": ANY, "weights": TEXT, "quantization": ANY}),
        "made_of": table({"candidate": TEXT, "weights": TEXT}), "chosen": {"type": "object"}, "root": DIGEST,
        "evaluations": by_name(table(evaluation, "labels")), "files": by_name(of_file),
        "ledger": table({"ledgers": ids, "heads": ids, "lines": ids, "began": {"type": "boolean"}}),
    }  # fmt: skip
    optional = ("ignored", "adapter", "made_of", "chosen", "ledger", "invocation")
    return {"title": "evidence/manifest.json", **table(keys, *optional)}


def _lock() -> Schema:
    rows = table({"rows": WHOLE, "sha256": DIGEST})
    metric = table({"better": TEXT, "scale": TEXT, "combine": {"type": ["string", "null"]}, "range": RANGE})
    plugin = table({k: {"type": ["string", "null"]} for k in ("name", "distribution", "code")})
    keys = {
        "format": {"enum": [lockfile.FORMAT]}, "recorded": TEXT, "suite": {"type": "object"},
        "gates": many({"type": "object"}), "subjects": TEXTS,
        "metrics": by_name(by_name(metric)), "data": by_name(rows), "looks": by_name(many(WHOLE)),
        "left_out": by_name(table({"rows": WHOLE, "of": WHOLE, "sha256": DIGEST})),
        "harness": TEXT, "plugins": many(plugin), "python": TEXT, "packages": TEXTS,
    }  # fmt: skip
    return {"title": "suite.lock.json", **table(keys, "looks", "left_out")}


def _item() -> Schema:
    keys = {
        "item": TEXT, "id": TEXT, "cluster": {"type": ["string", "null"]}, "doc_hash": DIGEST, "prompt_hash": DIGEST,
        "target_hash": DIGEST, "weight": NUMBER, "weights": NUMBERS, "answer_hash": DIGEST, "values": NUMBERS,
        "number": WHOLE, "slices": TEXTS, "key": TEXT, "place": WHOLE, "leak": TEXT,
        "lost": many(TEXT), "partly_lost": NUMBERS, "ended": ENDED, "tokens": WHOLE, "second_cluster": TEXT,
    }  # fmt: skip
    bare = {"item": TEXT, "number": WHOLE, "row": DIGEST}
    private = {"title": "a row of a private evaluation", **table({"sha256": DIGEST, **bare})}
    unasked = {"title": "a row that was not evaluated, since its evaluation stopped early", **table(bare)}
    row = {"title": "a row", **table(keys, "place", "leak", *OF_SOME_ROWS)}
    return {"title": "a line of evidence/items.jsonl", "oneOf": [row, private, unasked]}
