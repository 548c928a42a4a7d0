"""What may lie in a model's folder, by its name and by what it holds; the rest of it is refused twice."""

from __future__ import annotations

import bz2
import contextlib
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.formats import (
    UnsafeFileError,
    check_candidate,
    check_configuration,
    check_files,
    is_sentencepiece,
    shipping_files,
)
from harness.testing import write_fake
from tests.helpers.speed import count_loop_rounds


class Evil:
    """An object whose pickle calls a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def make_archive(kind: str) -> bytes:
    """Return a small archive."""
    out = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("evil.py"), io.BytesIO(b""))
    else:
        with zipfile.ZipFile(out, "w") as whole:
            whole.writestr("evil.py", "import os")
    return out.getvalue()


FILES: dict[str, bytes | str] = {
    "LICENSE.py": "import os",
    "NOTICE.pkl": pickle.dumps(Evil(), 0),
    "license.PY": "import os",
    "README.md": bz2.compress(b"x"),
    "merges.txt": make_archive("tar"),
    "a.txt": make_archive("zip"),
    "b.txt": lzma.compress(b"x"),
    "c.txt": lzma.compress(b"x", lzma.FORMAT_ALONE),
    "d.txt": b"\x28\xb5\x2f\xfd\x04\x00",
    "e.txt": b"7z\xbc\xaf\x27\x1c",
    "f.txt": b"\x7fELF\x02\x01",
    "g.txt": b"\xcf\xfa\xed\xfe\x07\x00",
    "h.txt": b"\x00asm\x01\x00\x00\x00",
    "i.txt": "%PDF-1.7\n",
    "j.txt": "#!/bin/sh\nrm x\n",
    "k.txt": "!<arch>\nx\n",
    "l.md": "<!-- hello -->\n<!DOCTYPE html><script>alert(1)</script>",
    "m.txt": "<script>alert(1)</script>",
    "n.txt": pickle.dumps(Evil(), 0),
    "o.txt": pickle.dumps(Evil(), 0)[:-1],
    "p.txt": pickle.dumps(Evil(), 1),
    "q.txt": b"(S'x'\nios\nsystem\n.",
    "r.txt": "ünicode".encode("latin-1"),
    "s.txt": "a\x00b",
    "t.txt": "\x1b[2J",
    "chat_template.jinja": bytes(range(256)),
    "additional_chat_templates/x.jinja": b"\x80\x04.",
    "tokenizer.model": pickle.dumps(Evil(), 0),
    "spiece.model": make_archive("zip"),
    "LICENSE": pickle.dumps(Evil(), 0),
    "CON.txt": "x",
    "nul.json": "{}",
    "aux.tar.txt": "x",
    "COM1.md": "x",
    "lpt9 .txt": "x",
    "caf\u00e9.txt": "x",
    "cafe\u0301.txt": "x",
    "x\u202etxt.json": "{}",
    "x\u200b.json": "{}",
    "x\u00ad.json": "{}",
    "\uff43onfig.json": "{}",
    "x\ny.txt": "x",
    "x\x7f.txt": "x",
    "-rf.txt": "x",
    "a.": "x",
    "list.json": "[]",
    "text.json": '"x"',
    "one.json": "1",
    "evil_vocab.json": '{"auto_map": {"AutoModel": "m.M"}}',
    "my_tokenizer.json": '{"auto_map": {"AutoModel": "m.M"}}',
    "vocab.json": '{"auto_map": {"AutoModel": "m.M"}}',
    "tokenizer.json": '{"model": {"vocab": {"auto_map": {"AutoModel": "m.M"}}}}',
    "extra.safetensors.index.json": '{"weight_map": {"auto_map": {"AutoModel": "m.M"}}}',
}
ONE_LINE = r"^[^\n]+\Z"
NEVER_SHIPS = {"a."}  # a candidate may hold what is of no kind that ships


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_what_they_say(name: str, tmp_path: Path) -> None:
    """Names and contents are those of a list: `verify` and `--candidate` refuse what else there is, in one line."""
    data = FILES[name]
    write_fake(tmp_path, 0.5)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UnsafeFileError, match=ONE_LINE):
        check_folder(tmp_path)
    if name not in NEVER_SHIPS:
        with pytest.raises(UnsafeFileError, match=ONE_LINE):
            check_candidate(tmp_path)


def check_folder(folder: Path) -> None:
    """Look at a folder as `verify` does."""
    check_files(folder)
    check_configuration(folder)


CONFIGURATIONS: dict[str, Any] = {
    "a kernel for the whole": {"attn_implementation": {"": "evil/kernel"}},
    "a kernel for a part": {"attn_implementation": {"text_config": "evil/kernel"}},
    "a kernel deep inside": {"text_config": [{"x": {"experts_implementation": [["a", {"b": "evil/kernel:f"}]]}}]},
    "a version of a kernel": {"_attn_implementation": "kernel@v1"},
    "a wrapped kernel": {"attn_implementation": "paged|evil/kernel"},
    "a number": {"attn_implementation": 3},
    "an empty name": {"cache_implementation": ""},
    "a module to import": {"megatron_core": "evil.module"},
    "a configuration that has one imported": {"megatron_config": {"a": 1}},
    "auto_map in a part": {"text_config": {"auto_map": {"AutoModel": "m.M"}}},
    "auto_mapping in a list": {"a": [[{"auto_mapping": {"parent_library": "m"}}]]},
    "a backbone": {"use_pretrained_backbone": True},
    "another tokenizer": {"fast_tokenizer_files": ["../secret/tokenizer.4.0.0.json"]},
}


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "adapter_config.json", "other.json"])
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configurations_that_fetch(case: str, name: str, tmp_path: Path) -> None:
    """At any depth and in any file, nothing names code, kernels or weights to fetch."""
    write_fake(tmp_path, 0.5)
    (tmp_path / name).write_text(json.dumps(CONFIGURATIONS[case]), "utf-8")
    for check in (check_configuration, check_candidate):
        with pytest.raises(UnsafeFileError, match="makes a loader"):
            check(tmp_path)


@pytest.mark.parametrize("name", ["modules/config.json", "additional_chat_templates/x.txt", "a/b/x.jinja"])
def test_folders_do_not_ship(name: str, tmp_path: Path) -> None:
    """There is one folder in a model, of templates; `verify` refuses others, and of a candidate they stay behind."""
    write_fake(tmp_path, 0.5)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("{}", "utf-8")
    with pytest.raises(UnsafeFileError, match=": is in a subfolder; the only one allowed is"):
        check_files(tmp_path)
    assert name not in shipping_files(tmp_path)


PIECES = b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02" + b"\x12\x02\x08\x01" + b"\x1a\x00"
REAL: dict[str, bytes | str] = {
    "tokenizer.model": PIECES,
    "tekken.model": "IQ== 0\nIg== 1\n",
    "vocab.txt": "[PAD]\ncat\ndog\nRed\n(\n)\nпривет\n你好\n",
    "merges.txt": "#version: 0.2\nĠ t\n",
    "LICENSE": "Copyright (c) 2026\n\fPermission is hereby granted\n",
    "LICENSE-MIT.txt": "(i) the\nfirst\n",
    "NOTICE": "\ufeffnotice\r\n",
    "USE_POLICY.md": "# Use\n",
    "README.md": '---\nlicense: mit\n---\n<!-- a -->\n<p align="center">x</p>\n',
    "config.json": '{"attn_implementation": {"": "sdpa", "text_config": null}, "_attn_implementation": "paged|eager"}',
    "generation_config.json": '{"cache_implementation": "static"}',
    "adapter_config.json": '{"megatron_core": "megatron.core", "megatron_config": null, "auto_mapping": null}',
    "vocab.json": '{"auto_map": 1, "x_implementation": 2}',
    "tokenizer.json": '{"model": {"vocab": {"auto_map": 1}, "merges": ["a b"]}}',
    "tokenizer (1).json": "{}",
    "chat_template.jinja": "{%- for m in messages %}{{ m }}{% endfor %}",
    "additional_chat_templates/tool_use.jinja": "{{ tools }}",
}


def test_files_that_real_models_hold(tmp_path: Path) -> None:
    """What models come with passes, also where words of a vocabulary are the names of keys."""
    write_fake(tmp_path, 0.5)
    for name, data in REAL.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    assert check_files(tmp_path) == f"{len(REAL) + 2} files"
    check_configuration(tmp_path)
    check_candidate(tmp_path)
    assert set(shipping_files(tmp_path)) == {*REAL, "skill.json", "model.safetensors"}


def test_names_that_are_one_elsewhere(tmp_path: Path) -> None:
    """Two names that differ in case alone are one file on another system."""
    write_fake(tmp_path, 0.5)
    (tmp_path / "Config.json").write_text("{}", "utf-8")
    for check in (check_files, check_candidate):
        with pytest.raises(UnsafeFileError, match='" only in upper and lower case; rename one'):
            check(tmp_path)


@pytest.mark.parametrize("cut", range(1, len(PIECES)))
def test_sentencepiece_cut_short(cut: int) -> None:
    """A ModelProto that ends within a field is none."""
    assert is_sentencepiece(PIECES)
    ends = (16, 20, 22)  # where a field ends
    assert is_sentencepiece(PIECES[:cut]) == (cut in ends)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [b"(t" * 500_000, b"<!-- --" * 200_000, b"<!---->" * 200_000, b"(" * 1_000_000],
    ids=["opened tuples", "comments", "empty comments", "brackets"],  # a megabyte is no name
)
def test_hostile_text_takes_no_time(data: bytes, tmp_path: Path) -> None:
    """What is made to be slow to look at is told in the time of some millions of additions."""
    write_fake(tmp_path, 0.5)
    (tmp_path / "a.txt").write_bytes(data)

    def look() -> None:
        with contextlib.suppress(UnsafeFileError):
            check_files(tmp_path)

    assert count_loop_rounds(look) < 60
