"""`template = "Customer: {text}\\nIntent:"`: an input that is written out of a row's columns."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.texts.escaping import shorten_repr

BRACES = 'write "{{" and "}}" for braces themselves'


def find_template_error(template: str) -> str:
    """Return why a text is no template, or an empty text.

    Braces hold the name of a column and nothing else: what Python's `str.format` may do beside that is refused.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return f"has an unmatched brace; write a column's name between two, {BRACES}"
    for _, name, form, conversion in parts:
        if name is not None and (conversion or form or not name.strip() or set(name) & set(".[]{}")):
            odd = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            return f'has "{{{odd}}}"; write only a column\'s name between braces, {BRACES}'
    return "" if template_columns(template) else 'has no column; write one between braces, for instance "{text}"'


def template_columns(template: str) -> list[str]:
    """Return the columns that a template names, in order, without duplicates."""
    return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(template) if name is not None))


def fill_template(template: str, rows: Sequence[Mapping[str, Any]], where: str) -> list[str]:
    """Return the template filled in with each row's columns.

    Raises UsageError if a column is missing, or is neither text nor a number.
    """
    for name in template_columns(template):
        if lacking := [n for n, row in enumerate(rows, 1) if name not in row]:
            known = did_you_mean(name, rows[lacking[0] - 1])
            raise UsageError(
                f'{where}: template: row {lacking[0]} has no column "{name}" ({len(lacking)} such rows){known}'
            )
        values = enumerate((row[name] for row in rows), 1)
        if odd := [n for n, v in values if isinstance(v, bool) or not isinstance(v, (str, int, float)) or v != v]:
            value = rows[odd[0] - 1][name]
            found = "null" if value is None else shorten_repr(value)
            what = (
                f'template: row {odd[0]} has {found} in column "{name}" ({len(odd)} such rows); give text or a number'
            )
            raise UsageError(f"{where}: {what}")
    parts = [(text, name) for text, name, _, _ in string.Formatter().parse(template)]
    return ["".join(text + ("" if name is None else str(row[name])) for text, name in parts) for row in rows]
