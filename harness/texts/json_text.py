"""Records as JSON: without secrets, and with null for a number that is not finite."""

from __future__ import annotations

import json
from typing import Any

from harness.texts.secrets import redact_text


def dumps(value: Any) -> str:
    """Serialize a value as JSON, with secrets redacted. Non-finite numbers become null: JSON has none."""
    return json.dumps(json_safe(value), indent=1, ensure_ascii=False, default=str, allow_nan=False) + "\n"


def json_safe(value: Any) -> Any:
    """Return a value as JSON can hold it: without secrets, and null for a number that is not finite."""
    if isinstance(value, dict):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return redact_text(value) if isinstance(value, str) else value
