"""Shapes of the records in folders of others: their keys and types, checked before anyone uses a field.

A shape is a type, a table of keys (`"key?"` may be missing, `str` stands for any name), a list of one shape, or a tuple
of shapes of which one holds; `object` is anything. Keys that a shape does not name are left alone.
"""

from __future__ import annotations

from typing import Any

NAMES = {str: "a text", int: "an integer", bool: "true or false", dict: "a table", list: "a list", type(None): "null"}
TEXT_OR_NULL = (str, type(None))
TABLE_OR_NULL = (dict, type(None))

GATE = {"id": str, "min_n?": int}
EVAL = {"name": str, "slices?": ([str], type(None)), "private?": bool, "options?": TABLE_OR_NULL}
OPTIONS = ({"options?": TABLE_OR_NULL}, type(None))
SUITE = {
    "evals": [EVAL],
    "exports?": [dict],
    "header?": TABLE_OR_NULL,
    **dict.fromkeys(("model?", "adapter?", "train?", "sweep?", "candidate?"), OPTIONS),
}
LOCK = {  # of a run, whose suite may be one of rows
    "suite": SUITE,
    "gates": [GATE],
    "metrics": {str: {str: {"scale": str}}},
}
LOCK_OF_EXPORT = {
    **LOCK,
    "format": int,
    "suite": {**SUITE, "name": str, "file": str, "digest": str, "header": dict, "model": {"path": str}},
    "gates": [{**GATE, "claim": str, "blocking": bool, "candidates": [str]}],
    "metrics": {str: {str: {"better": str, "scale": str, "combine": TEXT_OR_NULL, "range?": ([object], type(None))}}},
    "subjects": {str: str},
    "data": {str: {"rows": int, "sha256": str}},
    "looks?": {str: [int]},
    "left_out?": {str: {"rows": int, "of": int, "sha256": str}},
    "harness": str,
    "plugins": [{"name": str, "distribution": TEXT_OR_NULL, "code": TEXT_OR_NULL}],
}
WAIVER = {"by": str, "reason": str, "until": str}
MANIFEST = {
    "format": int,
    "name": str,
    "candidate": str,
    "weights": str,
    "template": TEXT_OR_NULL,
    "started": str,
    "invocation?": dict,
    "ignored?": [{**WAIVER, "check": str}],
    "adapter?": {"base": str, "weights": str, "quantization": object},
    "made_of?": {"candidate": str, "weights": str},
    "chosen?": dict,
    "root": str,
    "evaluations": {str: {"weights": str, "rows": str}},
    "files": {str: {"size": int, "sha256": str}},
    "ledger?": {"ledgers": [str], "heads": [str], "lines": [str], "began": bool},
}
VERDICTS = [
    {
        "gate": str,
        "candidate": str,
        "outcome": str,
        "digest": str,
        "blocking": bool,
        "waiver?": ({**WAIVER, "gate": str, "claim": str}, type(None)),
        "attempt?": (int, type(None)),
    }
]


def require_shape(record: Any, shape: Any, where: str = "") -> None:
    """Raise ValueError where a record, or a field of it, is missing or of another type."""
    if shape is object:
        return
    if isinstance(shape, tuple):
        _require_one_of(record, shape, where)
    elif isinstance(shape, dict):
        _require_table(record, shape, where)
    elif isinstance(shape, list):
        _require_type(record, list, where)
        for number, element in enumerate(record):
            require_shape(element, shape[0], f"{where}[{number}]")
    else:
        _require_type(record, shape, where)


def _require_table(record: Any, shape: dict[Any, Any], where: str) -> None:
    _require_type(record, dict, where)
    for key, inner in shape.items():
        if key is str:
            for name, value in record.items():
                require_shape(value, inner, f"{where}.{name}".lstrip("."))
            continue
        name = key.removesuffix("?")
        if name in record:
            require_shape(record[name], inner, f"{where}.{name}".lstrip("."))
        elif name == key:
            raise ValueError(f"{f'{where}.{name}'.lstrip('.')} is missing")


def _require_one_of(record: Any, shapes: tuple[Any, ...], where: str) -> None:
    reasons = []
    for shape in shapes:
        try:
            require_shape(record, shape, where)
        except ValueError as error:
            reasons.append(error)
        else:
            return
    raise reasons[0]


def _require_type(record: Any, kind: type, where: str) -> None:
    if type(record) is not kind:
        raise ValueError(f"{where or 'it'} is not {NAMES.get(kind, kind.__name__)}")
