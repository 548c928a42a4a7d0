"""Valid documents, broken at the level of bytes, of tokens and of structure."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

RAW = {  # what json.dumps cannot write, or writes only after minutes
    "@huge@": "1" + "0" * 5000,
    "@bound@": "1" + "0" * 400,
    "@deep@": "[" * 3000 + "]" * 3000,
    "@objects@": '{"a":' * 900 + "1" + "}" * 900,
    "@nan@": "NaN",
    "@inf@": "-Infinity",
    "@large@": "1e999",
    "@half@": '"\\ud800"',
    "@nul@": '"a\\u0000b"',
    "@lines@": '"a\\nb\\u001b[31m\\u2028c"',
    "@long@": '"' + "x" * 140_000 + '"',
}
PLAIN: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 10**9, 2**31, 2**63, 2**64]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.sampled_from(["", ".", "..", "/", "~", "/dev/null", "a/b", "*", "[", "{{ x", "%s", "²", "-"]),
    st.sampled_from(sorted(RAW)),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
TOML_VALUES = [
    *("nan", "inf", "-inf", "0", "-1", "true", '""', '"x"', "[]", "{}", "[[]]", "{ a = 1 }", "1979-05-27", "1e400"),
    *("1" + "0" * 400, "1" + "0" * 5000, "[" * 3000 + "]" * 3000, "0x7fffffffffffffffffff", '"a\\u0000b"', '"\\u2028"'),
    *(
        '"' + "x" * 5000 + '"',
        '"~"',
        '"~nobody/x"',
        '"/"',
        '"."',
        '"/dev/zero"',
        '"hub:x"',
        '"5%"',
        '"-5%"',
        '"1e400%"',
        "'''",
    ),
    *(
        "{ kind = 3 }",
        "[1, 'a', []]",
        '["base"]',
        '"base"',
        '"adapter"',
        '"merged"',
        '"floor"',
        "0.5",
        "10000000000000",
    ),
]
Change = tuple[str, float, Any]


def dump_json(value: Any) -> str:
    """Write JSON, with the texts of RAW in place of their names."""
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text


def draw_json_edits(document: Any, most: int = 3) -> st.SearchStrategy[Any]:
    """Draw copies of a JSON document in which values were replaced, removed, doubled, wrapped or renamed."""
    changes = st.tuples(st.sampled_from(["set", "drop", "wrap", "add", "rename", "empty"]), st.floats(0, 1), VALUES)
    return st.lists(changes, min_size=1, max_size=most).map(lambda cs: _apply_json_changes(document, cs))


def draw_text_edits(text: str, tokens: Sequence[str] = ()) -> st.SearchStrategy[bytes]:
    """Draw the bytes of a text in which pieces were cut out, put in, doubled or replaced."""
    whole = text.encode()
    odd = st.one_of(
        st.binary(max_size=8),
        st.sampled_from([t.encode() for t in tokens] or [b"\x00"]),
        st.sampled_from(
            [b"\xff\xfe", b"\xef\xbb\xbf", b"\x00", b"\r", b"\n\n", b'"', b"'''", b"[", b"[[", b"]", b"{", b"\\u"]
        ),
    )
    edits = st.tuples(st.floats(0, 1), st.sampled_from([0, 0, 1, 2, 9, 40]), odd)
    return st.lists(edits, min_size=1, max_size=3).map(lambda es: _apply_byte_edits(whole, es))


def draw_line_edits(text: str, odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw the text with lines removed, doubled, moved, or replaced by odd ones."""
    parts = text.splitlines()
    edits = st.tuples(st.sampled_from(["drop", "double", "move", "set", "add"]), st.floats(0, 1), st.floats(0, 1), odd)
    return st.lists(edits, min_size=1, max_size=3).map(lambda es: "\n".join(_apply_line_edits(parts, es)) + "\n")


def _apply_byte_edits(whole: bytes, edits: Sequence[tuple[float, int, bytes]]) -> bytes:
    for where, length, put in edits:
        at = int(where * len(whole))
        whole = whole[:at] + put + whole[at + length :]
    return whole


def _apply_line_edits(parts: Sequence[str], edits: Sequence[tuple[str, float, float, str]]) -> list[str]:
    found = list(parts)
    for what, where, to, odd in edits:
        at, there = (min(int(x * len(found)), max(0, len(found) - 1)) for x in (where, to))
        if not found or what == "add":
            found.insert(at, odd)
        elif what == "drop":
            del found[at]
        elif what == "double":
            found.insert(there, found[at])
        elif what == "move":
            found.insert(there, found.pop(at))
        else:
            found[at] = odd
    return found


def _apply_json_changes(document: Any, changes: Sequence[Change]) -> Any:
    holder = [copy.deepcopy(document)]
    for what, where, value in changes:
        places = list(_iterate_places(holder))
        box, key = places[min(int(where * len(places)), len(places) - 1)]
        CHANGES[what](box, key, value)
        holder = holder or [None]
    return holder[0]


def _iterate_places(box: Any) -> Any:
    for key in list(box) if isinstance(box, dict) else range(len(box)):
        yield box, key
        if isinstance(box[key], dict | list):
            yield from _iterate_places(box[key])


def _drop(box: Any, key: Any, value: Any) -> None:
    del box[key]


def _set(box: Any, key: Any, value: Any) -> None:
    box[key] = value


def _wrap(box: Any, key: Any, value: Any) -> None:
    box[key] = [box[key]]


def _add(box: Any, key: Any, value: Any) -> None:
    if isinstance(box[key], dict):
        box[key][str(value)[:8]] = value
    elif isinstance(box[key], list):
        box[key].append(value)
    else:
        box[key] = {"a": box[key]}


def _rename(box: Any, key: Any, value: Any) -> None:
    if isinstance(box, dict):
        box[str(value)[:200]] = box.pop(key)


def _empty(box: Any, key: Any, value: Any) -> None:
    box[key] = type(box[key])() if box[key] is not None else {}


CHANGES: dict[str, Callable[[Any, Any, Any], None]] = {
    "drop": _drop,
    "set": _set,
    "wrap": _wrap,
    "add": _add,
    "rename": _rename,
    "empty": _empty,
}
