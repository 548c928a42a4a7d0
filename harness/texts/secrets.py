"""Redaction of secrets in everything that the harness writes.

An option is redacted by its name, of any type, and a text by its shape. Values that were redacted by name, or that a
plugin read from the environment, are redacted everywhere else, too.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

REDACTED_TEXT = "(secret)"
TOKENS = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a GitHub token": r"\b(?:gh[opsur]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a Google key": r"\bAIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a webhook": r"\b(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)/[\w/-]{8,}",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{6,}\.eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}",
    "a bearer token": r"\b(?:[Bb]earer|BEARER|[Bb]asic|BASIC) [A-Za-z0-9._~+/=-]{20,}",
}
PEM = r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
SECRET_SHAPES = re.compile("|".join([f"(?s:{PEM})", *TOKENS.values()]))
HINTS = (
    "hf_", "sk-", "gh", "glpat-", "AKIA", "ASIA", "AIza", "xox", "hook", "eyJ", "-----BEGIN", "earer ", "asic ",
    "EARER", "ASIC",
)  # fmt: skip
USER = re.compile(r"(?<=://)[^/?#\s\"'<>]*@")  # of a URL: a name, a password, or a token in the place of both
FIELD = re.compile(r"([?&;#])([\w.%~\[\]-]+)=([^&;#\s\"'<>]+)")  # of a URL's query or fragment
ASSIGNED_SECRET = re.compile(  # in a text that is no URL: api_key=…, "password": "…"
    r"(?i)((?:api[-_]?key|passw(?:or)?d|secret|access[-_]?token)(?:\s*=\s*|\\?[\"']\s*:\s*\\?[\"']))([^\s\"',;&}\\]{4,})"
)
HEADER = re.compile(r"(?i)\b(authorization|x-api-key|api-key|x-auth-token|cookie)(\\?[\"']?\s*[:=]\s*)([^\r\n,}]+)")
SECRET_NAMES = re.compile(
    "passw(or)?d|passphrase|secret|credential|authori[sz]ation|apikey|accesskey|privatekey|signingkey|authkey"
    "|accesstoken|authtoken|refreshtoken|bearer|cookie|connectionstring"
)
WORDS = {"pass", "auth", "pwd", "oauth", "pat", "jwt", "cred", "dsn"}
SECRET_END = re.compile("(key|token)$")
AMBIGUOUS_NAMES = {"key", "token", "pass"}  # names that also mean something else
MARKS = {"bos", "eos", "pad", "unk", "sep", "cls", "mask", "stop", "start", "end", "image", "special", "invocation"}
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")  # the name of an environment variable
# headers that hold no secret
PUBLIC_HEADERS = {"accept", "acceptlanguage", "acceptencoding", "contenttype", "useragent"}
MIN_SECRET_CHARS = 6  # characters of a value that is looked for wherever it turns up
MIN_PART_CHARS = 8  # characters in a row of what a server was sent in secret that it may not say again
_known: set[str] = set()


def is_secret(name: str) -> bool:
    """Return whether an option's name, however spelled, means a secret."""
    words = _split_name(name)
    squashed = "".join(words)
    said = (
        SECRET_NAMES.search(squashed)
        or WORDS.intersection(words)
        or SECRET_END.search(squashed)
        or words[-1] == "header"
    )
    return bool(said) and not (words[-1] == "token" and MARKS.intersection(words))


def redact_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as they may be shown: what is secret by its name, at any depth, or looks like it struck out."""
    return {redact_text(str(name)): _redact_value(str(name), value) for name, value in options.items()}


def redact_text(text: str) -> str:
    """Redact known and likely secrets in a text."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, REDACTED_TEXT)
    text = USER.sub(f"{REDACTED_TEXT}@", text) if "://" in text else text
    text = (
        FIELD.sub(lambda m: f"{m[1]}{m[2]}={REDACTED_TEXT}" if is_secret(m[2]) else m[0], text) if "=" in text else text
    )
    if "=" in text or ":" in text:
        text = ASSIGNED_SECRET.sub(rf"\1{REDACTED_TEXT}", HEADER.sub(rf"\1\2{REDACTED_TEXT}", text))
    return SECRET_SHAPES.sub(REDACTED_TEXT, text) if any(hint in text for hint in HINTS) else text


def redact_parts(text: str, values: Iterable[str]) -> str:
    """Redact parts of sent secrets in a server's reply.

    They may be verbatim, URL-quoted or in base64.
    """
    for value in (v for v in values if len(v) >= MIN_SECRET_CHARS):
        size, parts = min(MIN_PART_CHARS, len(value)), _list_encoded_substrings(value)
        if said := {j for i in range(len(text)) if text[i : i + size] in parts for j in range(i, i + size)}:
            text = re.sub("\0+", "***", "".join("\0" if i in said else c for i, c in enumerate(text)))
    return text


@lru_cache
def _list_encoded_substrings(value: str) -> frozenset[str]:
    quoted = [quote(value, safe=safe) for safe in ("", "/")]
    spelt = [value, *quoted, *(re.sub("%..", lambda m: m[0].lower(), q) for q in quoted)]
    data, size = value.encode("utf-8", "replace"), min(MIN_PART_CHARS, len(value))
    for before in range(3):  # bytes in front of it, on which its base64 depends
        code = b64encode(bytes(before) + data).decode()[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        spelt += [code, code.replace("+", "-").replace("/", "_")]
    return frozenset(s[i : i + size] for s in spelt for i in range(len(s) - size + 1))


def register_secrets(data: Any) -> None:
    """Remember the secrets in a suite's tables.

    They are secret by their names, and redacted everywhere from now on. Values that also occur elsewhere in the suite
    are not remembered.
    """
    texts = list(_iterate_texts_and_secrecy(data))
    open_ = "\n".join(redact_text(text) for text, secret in texts if not secret)
    _known.update(text for text, secret in texts if secret and text not in open_ and len(text) >= MIN_SECRET_CHARS)


def drop_secret_options(data: Any, name: str = "") -> Any:
    """Redact a suite's options with unambiguous secret names."""
    if isinstance(data, Mapping):
        return {
            k: REDACTED_TEXT if _is_unambiguous_secret(name, str(k), v) else drop_secret_options(v, str(k))
            for k, v in data.items()
        }
    return [drop_secret_options(v, name) for v in data] if isinstance(data, (list, tuple)) else data


def _is_unambiguous_secret(table: str, name: str, value: Any) -> bool:
    """Return whether a suite's option certainly is a secret.

    A whole table, a baseline, and a name with other meanings are none.
    """
    bare = "".join(_split_name(name)) in AMBIGUOUS_NAMES
    return table not in ("", "subject") and not bare and bool(value) and _is_secret_value(name, value)


def _redact_value(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool) or value in ("", [], {}):
        return value
    if _is_secret_value(name, value):
        if isinstance(value, Mapping) and _split_name(name)[-1:] == ["header"]:
            return {
                redact_text(str(k)): v if "".join(_split_name(str(k))) in PUBLIC_HEADERS else REDACTED_TEXT
                for k, v in value.items()
            }
        return REDACTED_TEXT
    if isinstance(value, Mapping):
        pair = is_secret(str(value.get("name", ""))) and "value" in value  # as in a list of headers or variables
        return redact_options(value) | ({"value": REDACTED_TEXT} if pair else {})
    if isinstance(value, (list, tuple)):
        return [_redact_value(name, v) for v in value]
    return redact_text(value) if isinstance(value, str) else value


def _is_secret_value(name: str, value: Any) -> bool:
    """Return whether a value under a name is struck whole."""
    words = _split_name(name)
    if words[-1:] == ["env"]:  # it names a variable, unless a key was written there by mistake
        return is_secret("_".join(words[:-1])) and not (isinstance(value, str) and VARIABLE.fullmatch(value))
    if not is_secret(name):
        return False
    if words[-1] == "token" and not SECRET_NAMES.search("".join(words)) and _is_number_or_numbers(value):
        return False
    return not (isinstance(value, str) and words == ["token"] and len(value.split()) > 2)  # which is prose


def _is_number_or_numbers(value: Any) -> bool:
    return (
        all(map(_is_number_or_numbers, value)) if isinstance(value, (list, tuple)) else isinstance(value, (int, float))
    )


def _split_name(name: str) -> list[str]:
    """Split a name at dashes, underscores and capitals: lower case, without plurals and numbers behind it."""
    words = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    return [w[:-1] if w.endswith("s") and not w.endswith("ss") and len(w) > 3 else w for w in words] or [""]


def _iterate_texts_and_secrecy(data: Any, name: str = "", under: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield every text, and whether it certainly is a secret.

    Only the name of its option, or of one around it, counts. Keys are texts that are none.
    """
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _iterate_texts_and_secrecy(
                value, str(key), under or _is_unambiguous_secret(name, str(key), value)
            )
            yield str(key), False
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _iterate_texts_and_secrecy(value, name, under)
    elif isinstance(data, str):
        yield data, under
