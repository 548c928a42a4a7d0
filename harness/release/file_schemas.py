"""JSON Schemas of the files that runs and exports write.

They are derived from the records, if the file is written from one; files written row by row have schemas by hand. A
test validates real files against all of them.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from harness.artifacts import attestation
from harness.records.completion import FinishReason
from harness.records.findings import Finding
from harness.records.models import Progress
from harness.records.parts.part import Part
from harness.records.run import ItemResult, Run, Trial
from harness.records.samples import Labels
from harness.records.verdicts import Verdict
from harness.records.waivers import Waiver
from harness.release import lock_reader
from harness.reports import events, report_json
from harness.suite.json_schema import DRAFT, Schema, list_schema, named_schema, object_schema

TEXT: Schema = {"type": "string"}
COUNT_SCHEMA: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": ["number", "null"]}  # null for one that is not finite, of which JSON has none
ANY: Schema = {}
DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
RANGE: Schema = {"type": ["array", "null"], "items": NUMBER, "minItems": 2, "maxItems": 2}  # of a row's value
NUMBERS: Schema = named_schema(NUMBER)
TEXTS: Schema = named_schema(TEXT)
FINISH_REASON_SCHEMA: Schema = {"enum": list(get_args(FinishReason))}
DRAWS_SCHEMA = list_schema(
    object_schema(
        {"values": NUMBERS, "note": TEXT, "finish_reason": FINISH_REASON_SCHEMA, "tokens": COUNT_SCHEMA},
        "note",
        "finish_reason",
        "tokens",
    )
)
TYPE_SCHEMAS: Mapping[type, Schema] = {
    str: TEXT, int: {"type": "integer"}, float: NUMBER, bool: {"type": "boolean"}, dict: {"type": "object"},
    list: {"type": "array"},
}  # fmt: skip


LINE_HEAD: Schema = {
    "format": {"enum": [attestation.LEDGER_FORMAT]},
    "after": list_schema(DIGEST),
    "time": TEXT,
    "id": DIGEST,
}  # of every line of the ledger of attempts


def file_schemas() -> dict[str, Schema]:
    """Return the file schemas by short name. A `.jsonl` schema describes one line."""
    claim = {"payload": TEXT, "payloadType": {"enum": [attestation.PAYLOAD]}}
    claim["signatures"] = list_schema(object_schema({"keyid": TEXT, "sig": TEXT}))
    ledger = [
        {"title": "a look", **make_look_schema()},
        {"title": "the beginning", **object_schema({**LINE_HEAD, "ledger": TEXT})},
    ]
    made: dict[str, Schema] = {
        "report": {
            "title": "report.json",
            **record_schema(Run, format={"enum": [report_json.FORMAT_VERSION]}, sha256=DIGEST),
        },
        "event": _make_event_schema(),
        "sample": _make_sample_schema(),
        "lock": _make_lock_schema(),
        "manifest": _make_manifest_schema(),
        "gates": {"title": "evidence/gates.json", **list_schema(record_schema(Verdict))},
        "item": _make_item_schema(),
        "claim": {"title": "a line of evidence/claims.intoto.jsonl", **object_schema(claim)},
        "attempt": {"title": "a line of attempts.jsonl", "oneOf": ledger},
    }
    parts = {"$defs": {"parts": _make_parts_schema()}}
    of_verdicts = ("report", "event", "gates")
    return {
        name: {"$schema": DRAFT, **(parts if name in of_verdicts else {}), **schema} for name, schema in made.items()
    }


def make_look_schema() -> Schema:
    """Return the schema of a look, a line of the ledger of attempts."""
    names = ("place", "suite", "suite_digest", "candidate", "eval", "role", "weights", "base", "project")
    texts = (*names, "claims", "settings", "measure", "scores", "continues")
    counts = dict.fromkeys(("attempt", "count", "n"), COUNT_SCHEMA)
    most = {"most": {"type": ["integer", "null"]}}
    return object_schema({**LINE_HEAD, **dict.fromkeys(texts, TEXT), **counts, "rows": DIGEST, **most})


def record_schema(cls: type, **more: Schema) -> Schema:
    """Return the schema of a record as `dataclasses.asdict` writes it. The keys of `more` come before its own."""
    hints = get_type_hints(cls)
    keys = {f.name: value_schema(hints[f.name]) if f.init else {"enum": [f.default]} for f in dataclasses.fields(cls)}
    return {**object_schema({**more, **keys}), "description": (cls.__doc__ or "").strip().partition("\n")[0]}


def value_schema(want: Any) -> Schema:
    """Return the JSON schema of a record's field type."""
    origin, args = get_origin(want), get_args(want)
    if isinstance(want, type) and dataclasses.is_dataclass(want):
        return record_schema(want)
    if isinstance(want, type) and issubclass(want, Enum):
        return {"enum": [str(one.value) for one in want]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [{"type": "null"} if one is type(None) else value_schema(one) for one in args]}
    if origin is not None and issubclass(origin, Mapping):
        return {"$ref": "#/$defs/parts"} if args[1] is Part else named_schema(value_schema(args[1]))
    if origin is tuple and args[-1] is not Ellipsis:
        return {
            "type": "array",
            "items": [value_schema(one) for one in args],
            "minItems": len(args),
            "maxItems": len(args),
        }
    return list_schema(value_schema(args[0])) if origin is not None else TYPE_SCHEMAS.get(want, ANY)


def _make_parts_schema() -> Schema:
    """Return the schema of a verdict's parts by name. Others may be there, if they are not critical."""
    parts = object_schema({name: record_schema(part) for name, part in Part.registry.items()}, *Part.registry)
    other = {"type": "object", "properties": {"critical": {"enum": [False]}}, "required": ["critical"]}
    return {**parts, "additionalProperties": other}


def _make_event_schema() -> Schema:
    report, run = (record_schema(cls)["properties"] for cls in (ItemResult, Run))
    kinds = {
        "run_start": {k: run[k] for k in events.START_KEYS},
        "stage": {"stage": TEXT, "detail": TEXT},
        "progress": record_schema(Progress)["properties"],
        "report": {k: v for k, v in report.items() if k not in ("verdicts", "traceback")},
        "verdict": record_schema(Verdict)["properties"],
        "finding": record_schema(Finding)["properties"],
        "trial": record_schema(Trial)["properties"],
        "run_finish": {k: run[k] for k in ("exit_code", "problem", "conclusions", "folder", "seconds")},
    }
    head = {"format": {"enum": [events.FORMAT_VERSION]}, "at": TEXT}
    lines = [
        {"title": kind, **object_schema({**head, "event": {"enum": [kind]}, **keys})} for kind, keys in kinds.items()
    ]
    return {"title": "a line of events.jsonl", "oneOf": lines}


OF_SOME_ROWS = ("lost", "partly_lost", "finish_reason", "tokens", "second_cluster", "draws")


def _make_sample_schema() -> Schema:
    """Return the schema of a line of samples_*.jsonl: the metrics stand beside the keys, each under its own name."""
    keys = {
        "doc_id": COUNT_SCHEMA, "doc": {"type": "object"}, "target": ANY, "arguments": {"type": "object"},
        "messages": {"type": "array"}, "key": TEXT,
        "resps": {"type": "array"}, "filtered_resps": {"type": "array"}, "filter": TEXT,
        "metrics": list_schema(TEXT), "doc_hash": DIGEST, "prompt_hash": DIGEST, "target_hash": DIGEST,
        "id": TEXT, "cluster": {"type": ["string", "null"]}, "weight": {"type": "number"}, "weights": NUMBERS,
        "note": {"type": ["string", "null"]}, "details": {"type": "object"}, "nats": NUMBERS, "rendered": TEXT,
        "lost": list_schema(TEXT), "partly_lost": NUMBERS, "finish_reason": FINISH_REASON_SCHEMA,
        "tokens": COUNT_SCHEMA,
        "second_cluster": TEXT, "draws": DRAWS_SCHEMA,
    }  # fmt: skip
    optional = ("messages", "key", "details", "nats", "rendered", *OF_SOME_ROWS)
    made = object_schema(keys, *optional)
    return {"title": "a line of SUBJECT/samples_EVAL_TIME.jsonl", **made, "additionalProperties": NUMBER}


def _make_manifest_schema() -> Schema:
    caveat = object_schema(
        {"text": TEXT, "outcome": {"enum": ["INCONCLUSIVE", "ERROR", None]}, "metrics": {"type": "array"}}
    )
    evaluation = {
        "weights": TEXT,
        "rows": TEXT,
        "caveats": list_schema(caveat),
        "labels": list_schema(record_schema(Labels)),
    }
    of_file, ids = object_schema({"size": COUNT_SCHEMA, "sha256": DIGEST}), list_schema(TEXT)
    keys = {
        "format": {"enum": [attestation.FORMAT_VERSION]}, "name": TEXT, "candidate": TEXT, "weights": TEXT,
        "template": {"type": ["string", "null"]}, "started": TEXT, "statistics": ANY,
        "answers": object_schema({"requests": COUNT_SCHEMA, "cache_hits": COUNT_SCHEMA}),
        "invocation": {"type": "object"},
        "ignored": list_schema(object_schema(dict.fromkeys(("check", "by", "reason", "until"), TEXT))),
        "adapter": object_schema({"base": ANY, "weights": TEXT, "quantization": ANY}),
        "made_of": object_schema({"candidate": TEXT, "weights": TEXT}), "chosen": {"type": "object"}, "root": DIGEST,
        "recipe": object_schema({"ships": COUNT_SCHEMA, "chosen": TEXT, "seeds": named_schema(TEXT)}),
        "evaluations": named_schema(object_schema(evaluation, "labels")), "files": named_schema(of_file),
        "ledger": object_schema(
            {
                "ledgers": ids,
                "heads": ids,
                "lines": ids,
                "began": {"type": "boolean"},
                "attempts": named_schema(object_schema({"line": DIGEST, "near": list_schema(DIGEST)})),
                "looks": list_schema(make_look_schema()),
            }
        ),
    }  # fmt: skip
    optional = ("ignored", "adapter", "made_of", "chosen", "recipe", "invocation")
    return {"title": "evidence/manifest.json", **object_schema(keys, *optional)}


def _make_lock_schema() -> Schema:
    rows = object_schema({"rows": COUNT_SCHEMA, "sha256": DIGEST})
    metric = object_schema(
        {
            "better": TEXT,
            "scale": TEXT,
            "combine": {"type": ["string", "null"]},
            "range": RANGE,
            "labelled": {"type": "boolean"},
        }
    )
    plugin = object_schema({k: {"type": ["string", "null"]} for k in ("name", "distribution", "code")})
    keys = {
        "format": {"enum": [lock_reader.FORMAT_VERSION]}, "recorded": TEXT, "suite": {"type": "object"},
        "gates": list_schema({"type": "object"}), "subjects": TEXTS,
        "metrics": named_schema(named_schema(metric)), "data": named_schema(rows),
        "waivers": list_schema(record_schema(Waiver)),
        "attempts": named_schema(named_schema(object_schema({"rows": DIGEST, "claims": DIGEST}))),
        "looks": named_schema(list_schema(COUNT_SCHEMA)),
        "left_out": named_schema(object_schema({"rows": COUNT_SCHEMA, "of": COUNT_SCHEMA, "sha256": DIGEST})),
        "harness": TEXT, "plugins": list_schema(plugin), "python": TEXT, "packages": TEXTS,
    }  # fmt: skip
    return {"title": "suite.lock.json", **object_schema(keys, "looks", "left_out")}


def _make_item_schema() -> Schema:
    keys = {
        "item": TEXT, "id": TEXT, "cluster": {"type": ["string", "null"]}, "doc_hash": DIGEST, "prompt_hash": DIGEST,
        "target_hash": DIGEST, "weight": NUMBER, "weights": NUMBERS, "answer_hash": DIGEST, "values": NUMBERS,
        "number": COUNT_SCHEMA, "slices": TEXTS, "key": TEXT, "place": COUNT_SCHEMA, "leak": TEXT,
        "lost": list_schema(TEXT), "partly_lost": NUMBERS, "finish_reason": FINISH_REASON_SCHEMA,
        "tokens": COUNT_SCHEMA,
        "second_cluster": TEXT, "draws": DRAWS_SCHEMA,
    }  # fmt: skip
    bare = {"item": TEXT, "number": COUNT_SCHEMA, "row": DIGEST}
    private = {"title": "a row of a private evaluation", **object_schema({"sha256": DIGEST, **bare})}
    unasked = {"title": "a row that was not evaluated, since its evaluation stopped early", **object_schema(bare)}
    row = {"title": "a row", **object_schema(keys, "place", "leak", *OF_SOME_ROWS)}
    return {"title": "a line of evidence/items.jsonl", "oneOf": [row, private, unasked]}
