"""Digests of files and trees, and safetensors headers that lie."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from harness.artifacts.digests import file_digest, root_digest, template_digest
from harness.artifacts.folders import list_files
from harness.artifacts.safetensors import read_safetensors
from tests.helpers.files import F32, write


def test_header_is_read(tmp_path: Path) -> None:
    """Tensors, free text and where the data starts come from the header alone."""
    header = {"__metadata__": {"format": "pt"}, "a": F32, "b": {**F32, "data_offsets": [8, 16]}}
    found = read_safetensors(write(tmp_path / "m", header))
    assert (found.start, found.metadata) == (8 + len(json.dumps(header)), {"format": "pt"})
    assert list(found.tensors) == ["a", "b"]


WRONG = {
    "an overlap": ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, "overlaps another"),
    "a gap": ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, "comes after a gap"),
    "too little data": ({"a": {**F32, "shape": [8], "data_offsets": [0, 32]}}, ": is truncated"),
    "too much data": ({"a": F32}, "holds 8 bytes that belong to no tensor"),
    "a size that is not the shape's": (
        {"a": {**F32, "data_offsets": [0, 16]}},
        '" has 16 bytes, but its shape needs 8',
    ),
    "an unknown dtype": ({"a": {**F32, "dtype": "PICKLE"}}, "malformed"),
    "a dtype that is a list": ({"a": {**F32, "dtype": ["F32"]}}, "malformed"),
    "a dtype that is an object": ({"a": {**F32, "dtype": {}}}, "malformed"),
    "a negative offset": ({"a": {**F32, "data_offsets": [-8, 0]}}, "malformed"),
    "a true shape": ({"a": {**F32, "shape": [True]}}, "malformed"),
    "another key": ({"a": {**F32, "code": "x"}}, "malformed"),
    "a list": ([F32], "its header is malformed"),
    "free text that is none": ({"__metadata__": {"a": 1}}, "its header is malformed"),
    "two tensors of one name": (b'{"a": 1, "a": 2}', 'the key "a" occurs twice'),
    "no JSON": (b"import os", "its header is not JSON"),
    "deep nesting": (b"[" * 200_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", WRONG)
def test_headers_that_lie(case: str, tmp_path: Path) -> None:
    """A header that leaves room for anything but its tensors is refused in one line."""
    header, told = WRONG[case]
    with pytest.raises(ValueError, match=told):
        read_safetensors(write(tmp_path / "m", header))


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (1 << 62, ": is not a safetensors file, or is truncated"),
        (0, "is not a safetensors file: its header would be 0 bytes long"),
    ],
)
def test_header_lengths_that_lie(length: int, told: str, tmp_path: Path) -> None:
    """The length is checked before anything of it is read."""
    with pytest.raises(ValueError, match=told):
        read_safetensors(write(tmp_path / "m", {"a": F32}, length=length))


def test_root_digest_is_model_signings() -> None:
    """Files are taken in order of the parts of their paths, so "a/b" comes before "a.b"."""
    one, two = (hashlib.sha256(x).hexdigest() for x in (b"1", b"2"))
    expected = hashlib.sha256(bytes.fromhex(one) + bytes.fromhex(two)).hexdigest()
    assert expected == root_digest({"a.b": two, "a/b": one})


def test_links_are_not_hashed_nor_walked(tmp_path: Path) -> None:
    """What is read is what lies there, not what something points to."""
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="link"):
        file_digest(tmp_path / "folder/link")
    with pytest.raises(ValueError, match='"folder/link" is a link'):
        list_files(tmp_path)


def test_odd_files_are_not_walked(tmp_path: Path) -> None:
    """A pipe would be waited on for ever, and an empty folder is nobody's file."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match='"folder" is an empty folder'):
        list_files(tmp_path)
    os.mkfifo(tmp_path / "folder/pipe")
    with pytest.raises(ValueError, match="is not a file"):
        list_files(tmp_path)
    with pytest.raises(OSError, match="is not a file"):
        file_digest(tmp_path / "folder/pipe")


def test_chat_template_is_the_same_wherever_it_stands(tmp_path: Path) -> None:
    """One template has one digest in either file, and two that differ are an error."""
    assert template_digest(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}), "utf-8")
    inside = template_digest(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    assert template_digest(tmp_path) == inside
    (tmp_path / "tokenizer_config.json").write_text("{}", "utf-8")
    assert template_digest(tmp_path) == inside
    named = {"chat_template": [{"name": "default", "template": "another"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named), "utf-8")
    with pytest.raises(ValueError, match='"default" is in two files that differ'):
        template_digest(tmp_path)
