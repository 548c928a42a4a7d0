"""`--set table.key=value`: what the command line changes of a suite."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from harness import schema
from harness.errors import UsageError


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Apply one `--set table.key=value`; elements of lists by their index."""
    path, equals, value = override.partition("=")
    where = f"--set {schema.show(override)}"
    if not equals or "." not in path:
        raise UsageError(f"{where}: want table.key=value, for instance train.learning_rate=1e-4")
    *parents, last = path.split(".")
    if len(parents) > schema.DEEPEST:
        raise UsageError(f"{where}: names a table more than {schema.DEEPEST} deep")
    parsed = _parsed(value, where)
    here: Any = raw
    for step in parents:
        here = _step(here, step, where) if isinstance(here, list) else here.setdefault(step, {})
        if not isinstance(here, (dict, list)):
            raise UsageError(f"{where}: {schema.show(step)} is {schema.show(here)}, not a table")
    if isinstance(here, list):
        _step(here, last, where)
        here[int(last)] = parsed
    else:
        here[last] = parsed


def _parsed(value: str, where: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value  # a bare word is a string
    except RecursionError:
        raise UsageError(f"{where}: nests tables or lists more than {schema.DEEPEST} deep") from None
    except ValueError:
        raise UsageError(f"{where}: holds a whole number of thousands of digits") from None


def _step(here: list[Any], step: str, where: str) -> Any:
    if not re.fullmatch(r"[0-9]{1,9}", step) or int(step) >= len(here):
        raise UsageError(f"{where}: {schema.show(step)} is no element of a list of {len(here)}; they count from 0")
    return here[int(step)]
