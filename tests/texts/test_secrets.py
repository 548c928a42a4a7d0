"""Secrets in a suite: none is in a file that a run writes, nor in what it prints."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from typing import Any
from urllib.parse import quote

import pytest

from harness.testing import ROWS, SUITE, TRAIN, Project
from harness.texts import secrets
from harness.texts.json_text import dumps

CANARY = "cAnaRy-7f3b-Qq"
TOKENS = ["sk-" + "a1" * 12, "hf_" + "b2" * 17, "ghp_" + "c3" * 18, "AKIA" + "D4" * 8, "AIza" + "e" * 35]
TOKENS += ["hooks.slack.com/services/T0001/B0002/abcdefgh1234", "discord.com/api/webhooks/1234/abcDEF-gh_ij"]
PEM = "-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----"
JWT = "eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSMeKKF2"
SECRET_NAMES = [
    "key", "token", "secret", "passwords", "passwd", "credential", "credentials", "auth", "authorization", "Cookie",
    "bearer", "apikey", "api_keys", "x-api-key", "X-Api-Key", "access_key", "accessKey", "AWS_SECRET_ACCESS_KEY",
    "hfToken", "client-secret", "proxyAuthorization", "pwd", "extra_headers", "oauth", "HF_TOKEN_2",
]  # fmt: skip
OPEN_NAMES = [
    "path",
    "author",
    "keyboard",
    "eos_token",
    "pad_token",
    "tokenizer",
    "compass",
    "passing",
    "secretless"[6:],
]
PLUGIN = """
from contextlib import contextmanager
from harness import Score, UsageError, hookimpl, metric
from harness.testing import load, open_source

@contextmanager
def remote(refs, *, api_keys: list[str] = [], headers: dict = {}, apikey: str = "", authorization: str = "",
           url: str = "", body: dict = {}, password: str = "", dtype: str = "auto"):
    with load(refs) as subjects:
        yield subjects

def opened(path, **options):
    source = open_source(path)
    source.facts["told"] = f"as {options}"
    source.facts["server"] = {"session_token": options["password"]}
    return source

remote.open = opened

@metric("fair", better="higher", scale="proportion")
def fair(subject, samples, *, api_key: str = "", fails: bool = False):
    \"\"\"Call all rows fair.\"\"\"
    if fails:
        raise UsageError(f"the server says {api_key}")
    for s in samples:
        yield Score(s.id, {"fair": 1.0}, note=api_key)

@hookimpl
def harness_loaders():
    return {"remote": remote}

@hookimpl
def harness_evaluators():
    return {"fair": fair}
"""
OPTIONS = f"""use = "remote"
api_keys = ["{CANARY}"]
headers = {{ Authorization = "Bearer {CANARY}", X-Team = "{CANARY}" }}
apikey = "{CANARY}"
authorization = "{CANARY}"
url = "https://me:{CANARY}@host/v1?access_token={CANARY}&n=1"
password = "{CANARY}"
body = {{ deep = [{{ Secret = ["{CANARY}"] }}, "https://{CANARY}@host"] }}
path = "base\""""


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize(
    "value", [CANARY, [CANARY], {"a": CANARY}, {"Authorization": CANARY}, [{"x": [CANARY]}], 12345]
)
def test_what_is_secret_by_its_name_is_struck_whatever_it_is(name: str, value: Any) -> None:
    """A text, a list, a table and a number are struck alike, at the top and below, however the name is written."""
    if isinstance(value, int) and "token" in name.lower():
        return  # a number of tokens
    for options in ({name: value}, {"deep": [{name: value}]}):
        told = json.dumps(secrets.redact_options(options))
        assert CANARY not in told and "12345" not in told
        assert secrets.REDACTED_TEXT in told


@pytest.mark.parametrize("name", OPEN_NAMES)
def test_other_names_are_told(name: str) -> None:
    """What only looks like such a name stays, or a lock would not say what was judged."""
    assert secrets.redact_options({name: "x"}) == {name: "x"}


def test_numbers_variables_and_plain_headers_are_told() -> None:
    """Counts of tokens, the name of a variable that holds a key, and headers that say nothing are no secrets."""
    open_ = {"max_new_tokens": 64, "batch_tokens": None, "api_key_env": "MY_KEY", "headers": {"Accept": "text/json"}}
    assert secrets.redact_options(open_) == open_
    assert secrets.redact_options({"api_key_env": CANARY}) == {"api_key_env": secrets.REDACTED_TEXT}


@pytest.mark.parametrize("text", [*TOKENS, PEM, JWT, f"Bearer {'f5' * 12}"])
@pytest.mark.parametrize("around", ["{}", "the server said {} to us", '{{"error": "{}"}}'])
def test_what_looks_like_a_secret_is_struck_wherever_it_stands(text: str, around: str) -> None:
    """Tokens of the usual makes, web tokens and keys in PEM are struck out of any text and any report."""
    assert text not in secrets.redact_text(around.format(text))
    assert text not in json.loads(dumps({"a": [around.format(text)]}))["a"][0]


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{CANARY}@host/x",
        f"https://{CANARY}@host/x",
        f"GET https://host/x?a=1&api_key={CANARY}&b=2 failed",
        f"https://host/cb#access_token={CANARY}",
        f"Authorization: {CANARY}",
        f"{{'authorization': '{CANARY}'}}",
        f"x-api-key={CANARY}",
        f'{{"password": "{CANARY}"}}',
        f"api_key={CANARY}",
    ],
)
def test_secrets_within_a_text_are_struck(text: str) -> None:
    """Users and passwords of URLs, fields of queries, and headers that a server echoes are struck."""
    assert CANARY not in secrets.redact_text(text)


SENT = ["sk-Not-A-Real-Key-0123456789", "a+b/c=d+e/f=g+h/i=j+k/l=m", "Pässwort-mit-Ümlaut", "s3cret"]


@pytest.mark.parametrize("key", SENT)
def test_no_part_of_what_was_sent_comes_back(key: str) -> None:
    """Whole, its first letters, and as it is in a URL: eight letters in a row of it are struck, of a short one all."""
    quoted, size = quote(key, safe=""), min(8, len(key))
    for text in (key, f"Bearer {key}", key[:20], key[-12:], quoted, quoted.replace("%2B", "%2b"), quoted[:20]):
        left = secrets.redact_parts(f"the key '{text}' is wrong\n", [key])
        assert left.startswith("the key '") and left.endswith("' is wrong\n") and "***" in left
        parts = [form[i : i + size] for form in (key, quoted) for i in range(len(form) - size + 1)]
        assert not [part for part in parts if part in left], left
    assert secrets.redact_parts("nothing of it is here", [key, "", "is"]) == "nothing of it is here"


@pytest.mark.parametrize("key", SENT)
@pytest.mark.parametrize("before", [b"", b"me:", b"user:", b"Bearer ", b"x"])
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_no_part_of_it_comes_back_in_base64(key: str, before: bytes, encode: Any) -> None:
    """Behind whatever stands in front of it; what is left of it is too short for two letters."""
    left = secrets.redact_parts(f"you sent {encode(before + key.encode()).decode()}", [key])
    assert re.fullmatch(rf"you sent .{{0,{len(b64encode(before))}}}\*\*\*.{{0,3}}", left), left


@pytest.mark.slow
def test_no_secret_of_a_suite_is_written_or_printed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary in every option that may hold a secret is in no byte that a run, an export or a signature writes."""
    monkeypatch.setattr(secrets, "_known", set())
    text = SUITE.replace('use = "fake"\npath = "base"', OPTIONS)
    text += f'\n[[eval]]\nname = "fair"\nuse = "fair"\ndata = "test.jsonl"\napi_key = "{CANARY}"\n'
    project.write({"suite.toml": text, "harnessfile.py": PLUGIN, "train.jsonl": TRAIN, "test.jsonl": ROWS})
    said = []
    outcome = project.run("--junit-xml", "junit.xml")
    assert outcome.code == 0, outcome.out + outcome.err
    for words in (
        ["check", "suite.toml"],
        ["plan", "suite.toml"],
        ["plan", "suite.toml", "--json"],
        ["run", "suite.toml", "--out", "reports", "--set", "eval.fair.fails=true"],
        ["run", "suite.toml", "--out", "reports", "--set", f"model.passwrd={CANARY}"],
        ["verify", "exports/fake"],
        ["show", str(next(project.folder.glob("reports/*")))],
    ):
        again = project.harness(*words)
        said.append(again.out + again.err)
    assert CANARY not in outcome.out + outcome.err + "".join(said)
    data = {"suite.toml", "harnessfile.py"}
    for path in project.folder.rglob("*"):
        if path.is_file() and path.name not in data and not path.name.startswith("samples_"):
            assert CANARY.encode() not in path.read_bytes(), path
    lock = json.loads((project.folder / "exports/fake/evidence/suite.lock.json").read_text("utf-8"))
    options = lock["suite"]["model"]["options"]
    assert options["url"] == "https://(secret)@host/v1?access_token=(secret)&n=1"
    assert options["headers"] == {"Authorization": "(secret)", "X-Team": "(secret)"}


def test_digest_of_a_suite_is_without_its_secrets() -> None:
    """Two keys give one digest: a key is no part of what is asked, and a digest of a short one would tell it."""
    one, other = ({"model": {"use": "x", "password": p, "n": 1}} for p in ("a", "b"))
    assert secrets.drop_secret_options(one) == secrets.drop_secret_options(other)
    baselines = {"subject": {"secret": {"use": "a"}}}
    assert secrets.drop_secret_options(baselines) == baselines
    names = {"eval": [{"key": "prob"}]}
    assert secrets.drop_secret_options(names) == names
