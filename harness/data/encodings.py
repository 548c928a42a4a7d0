"""Encodings of texts of others: told by their first bytes, else by what the bytes decode to."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from harness.data.column_names import GROUPS, IDS, INPUTS, LABELS, LONG_LABELS, SCORES
from harness.errors import UsageError

if TYPE_CHECKING:
    from charset_normalizer import CharsetMatch

UNICODE = {b"\xff\xfe\0\0": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # by how a file begins
SINGLE_BYTE = ("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp874")
CANDIDATES = ("gb18030", "big5", "cp932", "cp949", *SINGLE_BYTE)  # what Excel writes
USUAL = "cp1252"  # of several that read a text alike
SNIFFED_BYTES = 100_000  # of a text, by which its encoding is guessed
MAX_CHAOS = 0.2  # of what a guess decodes to
MIN_GAP, MIN_GAP_UNKNOWN = 0.1, 0.3  # between the scores of guesses; where no language is recognized
MIN_BYTES, HALF = 8, 0.5  # different bytes beyond ASCII by which an encoding is known; share of words
LETTERS = {  # beyond ASCII, of languages in Latin script
    "Croatian": "čćđšž", "Czech": "áčďéěíňóřšťúůýž", "Danish, Norwegian": "æøåé", "Dutch": "áéèëïóöü",
    "French": "àâæçéèêëîïôœùûüÿ", "German": "äöüß", "Hungarian": "áéíóöőúüű", "Icelandic": "áéíóúýðþæö",
    "Italian": "àèéìòù", "Polish": "ąćęłńóśźż", "Portuguese": "áâãàçéêíóôõúü", "Romanian": "ăâîșțşţ",
    "Slovak": "áäčďéíĺľňóôŕšťúýž", "Spanish": "áéíóúüñ", "Swedish, Finnish": "äöåé", "Turkish": "çğıöşüâîû",
}  # fmt: skip
NAMES = {*INPUTS, *LABELS, *LONG_LABELS, *GROUPS, *IDS, *SCORES}  # of columns
WORD = re.compile(r"\w+")
MAX_RIVALS = 3  # encodings that an error names


def detect_encoding(data: bytes, where: str, advice: str) -> str:
    """Return the encoding of a text. `advice` says how a user names it.

    Raises UsageError where several encodings are as likely, or where lines have different ones.
    """
    if known := detect_unicode(data):
        return known
    _require_single_encoding(data, where)
    first, *others = guesses = guess_encodings(data)
    if {*guesses} <= {*SINGLE_BYTE} and (line := _find_line(data, utf8=True)):
        raise UsageError(f"{where}: line {line:,} is UTF-8, but others are not; save all of it as UTF-8")
    if others:
        words = " or ".join(f'"{guess}" ("{word}")' for guess, word in _list_differing_words(data, guesses))
        raise UsageError(f"{where}: its encoding may be {words}; {advice}")
    return first


def detect_unicode(data: bytes) -> str:
    """Return the encoding of a text in Unicode: UTF-8, or UTF-16 or 32 with or without a mark. Empty for others."""
    zeros = [data[i:2000:2].count(0) for i in (0, 1)]  # every other byte of UTF-16 in which letters are Latin
    if marked := next((name for mark, name in UNICODE.items() if data.startswith(mark)), ""):
        return marked
    if max(zeros) > len(data[:2000]) / 5 and min(zeros) * 10 < max(zeros):
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    with suppress(UnicodeError):
        data.decode("utf-8")
        return "utf-8"
    return ""


def guess_encodings(data: bytes) -> list[str]:
    """Return the likeliest encoding of a text that is not Unicode, and others that are as likely and read otherwise.

    A few letters beyond ASCII decide nothing, unless they stand in words with letters from A to Z.
    """
    from charset_normalizer import from_bytes

    sample = _cut_at_line(data)
    found = from_bytes(sample, cp_isolation=[*CANDIDATES], threshold=MAX_CHAOS, enable_fallback=False)
    matches = {_find_usual_name(match): match for match in found}
    matches = {encoding: match for encoding, match in matches.items() if _can_decode(data, encoding)}
    if not matches:
        return [encoding for encoding in (USUAL, *CANDIDATES) if _can_decode(data, encoding)] or ["latin-1"]
    few = len({byte for byte in sample if byte >= 0x80}) < MIN_BYTES  # whose frequencies say nothing
    scores = {
        name: _score_text(str(match), -match.chaos if few else match.coherence - match.chaos)
        for name, match in matches.items()
    }
    best = max(scores, key=lambda encoding: scores[encoding])
    text = str(matches[best])
    if few and _share_of_mixed_words(text) <= HALF and not _count_names(text):
        return [best, *(encoding for encoding in CANDIDATES if encoding != best and _can_decode(data, encoding))]
    known = not few and (matches[best].coherence or _count_names(text))
    least = scores[best] - (MIN_GAP if known else MIN_GAP_UNKNOWN)
    return [best, *(encoding for encoding, score in scores.items() if score > least and encoding != best)]


def _find_usual_name(match: CharsetMatch) -> str:
    """Return the most usual of the encodings that read a text as a match does."""
    return USUAL if USUAL in match.could_be_from_charset else match.encoding


def _score_text(text: str, score: float) -> float:
    """Return how likely a text is one in a language, from that of its letter frequencies.

    Known names of columns count, and letters that one language has.
    """
    letters = {one for one in text.lower() if not one.isascii() and unicodedata.category(one)[0] in "LM"}
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in letters)
    alike = scripts.most_common(1)[0][1] if scripts else 0
    mixed = _share_of_mixed_words(text)
    share = alike / max(len(letters), 1) * (1 - mixed)
    if "LATIN" in scripts:
        usual = max(len(letters & {*usual}) for usual in LETTERS.values())
        share = usual / len(letters) * mixed
    return score + share + _count_names(text)


def _share_of_mixed_words(text: str) -> float:
    """Return the share of words with letters beyond ASCII that have letters from A to Z, too."""
    words = [word for word in WORD.findall(text) if not word.isascii()]
    return sum(any(map(str.isascii, word)) for word in words) / max(len(words), 1)


def _count_names(text: str) -> int:
    """Count the columns of known names with letters beyond ASCII."""
    header = WORD.findall(text.partition("\n")[0].lower())
    return sum(not name.isascii() and name in NAMES for name in header)


def _cut_at_line(data: bytes) -> bytes:
    """Return the beginning of a text, of whole lines."""
    if len(data) <= SNIFFED_BYTES:
        return data
    return data[: data.rfind(b"\n", 0, SNIFFED_BYTES) + 1] or data[:SNIFFED_BYTES]


def _can_decode(data: bytes, encoding: str) -> bool:
    with suppress(UnicodeError):
        data.decode(encoding)
        return True
    return False


def _list_differing_words(data: bytes, encodings: Sequence[str]) -> list[tuple[str, str]]:
    """Return the first word that several encodings read otherwise, as each reads it."""
    texts = [WORD.findall(_cut_at_line(data).decode(encoding)) for encoding in encodings[:MAX_RIVALS]]
    differing = (words for words in zip(*texts, strict=False) if len({*words}) == len(words))
    return [*zip(encodings, next(differing, [words[0] for words in texts]), strict=False)]


def _require_single_encoding(data: bytes, where: str) -> None:
    """Raise UsageError with the first line that is not UTF-8, where more lines are."""
    lines = [line for line in data.split(b"\n") if not line.isascii()]
    valid = sum(_can_decode(line, "utf-8") for line in lines)
    if valid > len(lines) - valid:
        number = _find_line(data, utf8=False)
        raise UsageError(f"{where}: line {number:,} is not UTF-8, but others are; save all of it as UTF-8")


def _find_line(data: bytes, *, utf8: bool) -> int:
    """Return the number of the first line with letters beyond ASCII that is UTF-8, or is not; 0 without one."""
    lines = enumerate(data.split(b"\n"), 1)
    return next((n for n, line in lines if not line.isascii() and _can_decode(line, "utf-8") == utf8), 0)
