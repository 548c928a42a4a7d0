"""A tokenizer of every kind, small and made on the spot, and Mistral's own where mistral-common is installed."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]
MARKS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
CORPUS = [
    "Why is the sky blue?\nyes, it is green. Which room?\n\nRoom 10.\n\nWhat colour has grass?\ngreen\n",
    "<|user|>\nWhere is the needle?\n<|assistant|>\nIn room 23.\n\nQuestion: who?\nAnswer: nobody, 12 of 144.\n",
    "user assistant system green greenish blue yes no red door window needle shelf 0 1 2 3 4 5 6 7 8 9 ! : ; ? . ,\n",
] * 4
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = ("metaspace", "dummy prefix", "byte BPE", "tekken", "wordpiece")
REAL = {"Mistral 7B": "mistral_instruct_tokenizer_240216.model.v2", "Mistral Nemo": "tekken_240718.json"}


@functools.cache
def make_tokenizer(kind: str, bos: bool) -> Any:
    """Return a tokenizer of a kind or of Mistral's, which puts a BOS before texts or does not."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = _REAL[kind]() if kind in REAL else _train_tokenizer(kind)
    if kind == "wordpiece":
        start, end = ("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))
        both = {"single": "<s> $A </s>", "special_tokens": [start, end]}
        backend.post_processor = processors.TemplateProcessing(**both) if bos else None
    else:
        first = [("<s>", backend.token_to_id("<s>"))]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=first) if bos else None
    more = [mark for mark in SPECIAL if mark not in MARKS.values()]
    made = PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=more, **MARKS)
    made.bos_token = "<s>" if bos else None
    return made


def find_vocabulary(kind: str) -> Path | None:
    """Return Mistral's own vocabulary, which mistral-common brings, or None where it is not installed."""
    found = find_spec("mistral_common")
    folders = (found.submodule_search_locations or ()) if found else ()
    paths = (Path(folder, "data", REAL[kind]) for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def _train_tokenizer(kind: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    size: dict[str, Any] = {"vocab_size": 420, "special_tokens": SPECIAL, "show_progress": False}
    letters = [chr(i) for i in range(32, 127)]
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.NFC(), pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(**size, initial_alphabet=letters)
    elif kind == "dummy prefix":  # SentencePiece, of unigrams
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(**size, unk_token="<unk>", initial_alphabet=["\n", *letters])
    elif kind == "metaspace":  # Llama 2's and Mistral 7B's: a space before every part between special tokens
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?<=[^▁])▁"), "merged_with_next")  # else one word is a text
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(**size, initial_alphabet=["▁", "\n", *letters[1:]])
    else:
        pattern = TEKKEN if kind == "tekken" else r" ?\w+|[^\s\w]+\n*|\n+|\s"  # "?\n" and ".\n\n" are one part
        made = Tokenizer(models.BPE())
        parts = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(**size, initial_alphabet=alphabet)
    made.train_from_iterator(CORPUS, trainer)
    return made


def _read_tekken() -> Any:
    """Read Mistral Nemo's vocabulary, whose merges are the pairs of its tokens in the order of their ranks."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    path = find_vocabulary("Mistral Nemo")
    assert path is not None
    read = json.loads(path.read_text("utf-8"))
    known = int(read["config"]["default_vocab_size"]) - int(read["config"]["default_num_special_tokens"])
    letters = _list_byte_letters()
    tokens = [base64.b64decode(entry["token_bytes"]) for entry in read["vocab"][:known]]
    spelt = ["".join(letters[b] for b in token) for token in tokens]
    merges = [text for token, text in zip(tokens, spelt, strict=True) if len(token) > 1]
    vocabulary = {text: i + len(SPECIAL) for i, text in enumerate(spelt)} | {m: i for i, m in enumerate(SPECIAL)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[*_iterate_merges(merges, vocabulary)], ignore_merges=True))
    pattern = Regex(read["config"]["pattern"])
    parts = [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    made.pre_tokenizer, made.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
    return made


def _read_sentencepiece() -> Any:
    """Read Mistral 7B's vocabulary: a SentencePiece model of pairs, with a dummy prefix and bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    path = find_vocabulary("Mistral 7B")
    assert path is not None
    pieces = list(_iterate_pieces(path.read_bytes()))
    vocabulary = {piece: i for i, (piece, _) in enumerate(pieces)}
    vocabulary |= {mark: len(vocabulary) + i for i, mark in enumerate(m for m in SPECIAL if m not in vocabulary)}
    scored = [piece for piece, score in sorted(pieces, key=lambda one: -one[1]) if len(piece) > 1]
    merges = [*_iterate_merges(scored, vocabulary)]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    return made


def _iterate_merges(texts: list[str], vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the ways to join each text of two known ones, as transformers does, in the order of the texts."""
    for text in texts:
        cuts = [(text[:i], text[i:]) for i in range(1, len(text))]
        known = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
        yield from sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def _iterate_pieces(data: bytes) -> Iterator[tuple[str, float]]:
    """Yield the pieces of a SentencePiece model and their scores: field 1 of the message, of which 1 and 2."""
    import struct

    def number(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            at, shift, last = at + 1, shift + 7, data[at] < 128
            if last:
                return value, at

    at = 0
    while at < len(data):
        key, at = number(at)
        if key & 7 != 2:  # nothing at the top is a number
            return
        size, at = number(at)
        if key >> 3 == 1:
            letters, start = number(at + 1)
            text, score = data[start : start + letters].decode(), 0.0
            if start + letters < at + size and data[start + letters] == 2 << 3 | 5:
                (score,) = struct.unpack("<f", data[start + letters + 1 : start + letters + 5])
            yield text, score
        at += size


def _list_byte_letters() -> list[str]:
    """Return GPT-2's letter of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


_REAL = {"Mistral 7B": _read_sentencepiece, "Mistral Nemo": _read_tekken}
