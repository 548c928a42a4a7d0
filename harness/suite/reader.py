"""Reader of a TOML file into a frozen Suite.

It reports every mistake at once, by file, line and table.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from harness import schema
from harness.artifacts.digests import digest_value
from harness.data import reading
from harness.errors import Mistakes, UsageError, did_you_mean, suggest_option
from harness.files import read_text
from harness.records.claims.gate import DERIVED_FIELDS, FEWEST_SEEDS, Gate
from harness.records.suite_header import SuiteTable
from harness.stats.values import find_alpha_error
from harness.suite import tables
from harness.suite.lines import read_toml_lines, reject_deep_keys
from harness.texts import secrets

TABLES = (
    "suite", "model", "rows", "adapter", "train", "sweep", "candidate", "subject", "eval", "gate", "merge", "export",
    "checks",
)  # fmt: skip
SWEPT_TABLES = {"adapter": tables.Use, "train": tables.Train}  # tables of whose options one may be swept
ARRAYS = ("eval", "gate", "export")


def read_suite(
    path: Path, overrides: Sequence[str] = (), candidate: str | Mapping[str, str] | None = None
) -> tables.Suite:
    """Read a suite from its TOML file.

    `overrides` are `table.key=value`. `candidate` is a folder that takes the place of training, or the table of such a
    candidate as a lock has it. Raises UsageError with every mistake of the file.
    """
    inside, near = path / "suite.toml", [p.name for p in path.parent.glob("*.toml") if not path.exists()]
    known = f"; name {inside}" if inside.is_file() else did_you_mean(path.name, near)
    text = read_text(path, hint=known or "; name a suite, for instance suites/smoke.toml")
    try:
        reject_deep_keys(text)
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        if found := re.match(r"Cannot declare \('(\w+)',\) twice \(at line (\d+),", str(error)):
            name, line = found.groups()
            instead = f"write [[{name}]] for each" if name in ARRAYS else "remove one of them"
            raise UsageError(f"{path}:{line}: [{name}] occurs twice; {instead}") from None
        raise UsageError(_describe_toml_error(path, text, str(error))) from None
    except RecursionError:
        raise UsageError(
            f"{path}: nests tables or lists more than {schema.MAX_DEPTH} levels deep; flatten it"
        ) from None
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise UsageError(f"{path}: contains an integer of thousands of digits; write it as text") from None
    sweep: Any = raw.get("sweep")  # whose quoted key "adapter.r" is what TOML reads without quotes: a table in a table
    for key in [k for k in sweep if "." in k] if isinstance(sweep, dict) else ():
        table, _, option = key.partition(".")
        if isinstance(inner := sweep.setdefault(table, {}), dict):
            inner[option] = sweep.pop(key)
    mistakes = Mistakes()
    for override in overrides:
        with mistakes.collecting():
            _apply_override(raw, override)
    mistakes.raise_errors()
    if candidate is not None:
        raw["candidate"] = _parse_candidate(candidate) if isinstance(candidate, str) else dict(candidate)
    secrets.register_secrets(raw)
    return _Reader(path, text, raw, given=candidate is not None).suite()


class _Reader:
    """Parser of one file's tables that reports mistakes by line."""

    def __init__(self, path: Path, text: str, raw: dict[str, Any], given: bool) -> None:
        self.path, self.raw = path, raw
        self.given = given  # the candidate came with the command: [train] then only names the few-shot examples
        self.lines = read_toml_lines(text)
        self.mistakes = Mistakes()

    def suite(self) -> tables.Suite:
        self.sound()
        for name in (name for name in self.raw if name not in TABLES):
            self.tell(name, "", f'unknown table "{name}"{suggest_option(name, TABLES)}')
        about, rows = self.one("suite", SuiteTable, required=True), self.rows()
        model, sweep = self.one("model", tables.Model, required="rows" not in self.raw), self.sweep()
        adapter, train = self.one("adapter", tables.Use), self.one("train", tables.Train)
        candidate, subjects = self.one("candidate", tables.Candidate), self.subjects()
        evals, gates = self.many("eval", tables.Eval, "name"), self.many("gate", Gate, "id")
        exports = self.many("export", tables.Export, "to")
        checks = self.one("checks", tables.Ignored) or tables.Ignored("[checks]")
        merges = self.merge(wanted=any(e.from_.startswith("merged") for e in exports))
        self.coherent(about, adapter, train, candidate)
        self.mistakes.raise_errors()
        assert about and (model or rows)  # or raise_errors raised
        source = secrets.drop_secret_options(self.raw)
        digest = digest_value(source)  # a digest of a short password would tell it
        made = tables.Suite(
            self.path, about, model or tables.Model("", "[rows]", "rows"), adapter, train, candidate, subjects, evals,
            tuple(gates), merges, exports, digest, self.raw.get("merge", {}).get("choose"), checks,
            None if candidate else sweep, rows,
            source if source == self.raw == secrets.redact_options(self.raw) else None,
            digest_value({name: table for name, table in source.items() if name != "gate"}),
        )  # fmt: skip
        return made.trial(made.sweep.values[0]) if made.sweep else made

    def rows(self) -> dict[str, tables.ScoredRows]:
        """Return the [rows] tables, which take the place of models.

        Tables that need a model are mistakes beside them.
        """
        given = self.raw.get("rows", {})
        if not isinstance(given, dict) or ("rows" in self.raw and "candidate" not in given):
            self.tell("rows", "", "write tables [rows.base] and [rows.candidate], or only the second")
            return {}
        for name in TABLES if given else ():
            if name in self.raw and name not in ("suite", "rows", "eval", "gate"):
                title = f"[[{name}]]" if name in ARRAYS else f"[{name}]"
                ships = "an export needs a model evaluated by this suite"
                why = ships if name == "export" else "rows were scored elsewhere, so the suite has no model"
                self.complain(
                    (name, 0),
                    "[rows]",
                    "",
                    f"cannot be combined with {title}: {why}; gate the model itself, or remove {title}",
                )
        found = {}
        for name, table in given.items():
            at = (f"rows.{name}", 0)
            if name not in ("base", "candidate"):
                self.complain(
                    at, f"[rows.{schema.format_toml(name)}]", "", "is unknown; write [rows.base] or [rows.candidate]"
                )
            elif made := self.table(tables.ScoredRows, table, at, f"[rows.{name}]"):
                found[name] = made
        return found

    def sound(self) -> None:
        """Raise UsageError if a value is valid for no key.

        This comes before anything else reads the values.
        """
        for name, value in self.raw.items():
            for i, table in enumerate(value if isinstance(value, list) else [value]):
                if not schema.find_value_error(table):
                    continue
                for key, inner in (table if isinstance(table, dict) else {"": table}).items():
                    if what := schema.find_value_error({key: inner}):
                        self.complain((name, i), f"[{name}]", key, f"{schema.format_toml(key)} {what}" if key else what)
        self.mistakes.raise_errors()

    def coherent(
        self, about: SuiteTable | None, adapter: tables.Use | None, train: tables.Train | None,
        candidate: tables.Candidate | None,
    ) -> None:  # fmt: skip
        """Record values out of range and tables that do not combine."""
        if about and (what := tables.find_name_error(about.name)):
            self.tell("suite", "name", what)
        if about and (error := find_alpha_error(about.alpha)):
            self.tell("suite", "alpha", f"alpha is {about.alpha}; {error}")
        if about and not 0 <= about.seed < 2**32:  # what numpy takes
            self.tell("suite", "seed", f"seed is {about.seed}; it must be from 0 to 2**32 - 1")
        if train and train.watch_rows < 1:
            self.tell("train", "watch_rows", f"watch_rows is {train.watch_rows}; it must be 1 or more")
        if train and train.seeds is not None and (what := _find_seeds_error(train.seeds)):
            self.tell("train", "seeds", f'"seeds" is {schema.format_toml(train.seeds)}; {what}')
        if train and not train.sources:
            self.tell("train", "data", '"data" is empty; name a source of rows')
        if candidate and train and not self.given:
            self.tell("candidate", "", "replaces [train]; remove one of them")
        if candidate and (candidate.adapter is None) == (candidate.merged is None):
            self.tell("candidate", "", 'needs exactly one of "adapter" and "merged"')
        if train and not adapter and "adapter" not in self.raw:
            self.tell("train", "", 'needs an [adapter], for instance use = "lora"')
        if adapter and not train and not candidate and "train" not in self.raw:
            self.tell("adapter", "", "needs a [train] or a [candidate]")
        if not self.raw.get("eval"):
            self.mistakes.add(str(self.path), "there is no [[eval]]; add at least one")

    def complain(self, at: tuple[str, int], title: str, key: str, what: str) -> None:
        line = self.lines.get((*at, key)) or self.lines.get((*at, ""))
        self.mistakes.add(f"{self.path}:{line}" if line else str(self.path), f"{title} {what}".strip())

    def tell(self, name: str, key: str, what: str) -> None:
        """Complain of a table that stands once."""
        self.complain((name, 0), f"[{name}]", key, what)

    def one(self, name: str, cls: type[schema.T], required: bool = False) -> schema.T | None:
        if (table := self.raw.get(name)) is None:
            if required:
                self.mistakes.add(str(self.path), f"table [{name}] is missing")
            return None
        return self.table(cls, table, (name, 0), f"[{name}]")

    def many(self, name: str, cls: type[schema.T], key: str) -> tuple[schema.T, ...]:
        if not isinstance(given := self.raw.get(name, []), list):
            self.tell(name, "", f"is a single table; write [[{name}]]")
            return ()
        records, seen = list[schema.T](), set[str]()
        for i, table in enumerate(given):
            label = table.get(key) if isinstance(table, dict) else None
            title = f"{name} {schema.format_toml(str(label))}" if label else f"[[{name}]] number {i + 1}"
            if label is not None and str(label) in seen:
                self.complain(
                    (name, i), title, key, f'the {key} "{label}" is used by an earlier [[{name}]]; choose another'
                )
            seen.add(str(label))
            if (made := self.table(cls, table, (name, i), title)) is not None:
                records.append(made)
        return tuple(records)

    def table(self, cls: type[schema.T], table: Any, at: tuple[str, int], title: str) -> schema.T | None:
        if not isinstance(table, dict):
            self.complain(at, title, "", f"is {schema.format_toml(table)}; it must be a table")
            return None
        line = self.lines.get((*at, ""))
        where = f"{self.path}:{line}: {title}" if line else f"{self.path}: {title}"
        return schema.read_table(cls, table, partial(self.complain, at, title), **{**DERIVED_FIELDS, "where": where})

    def subjects(self) -> dict[str, tables.Baseline]:
        if not isinstance(given := self.raw.get("subject", {}), dict):
            self.tell("subject", "", "must be written as tables [subject.NAME]")
            return {}
        compared = []
        for kind, key in (("gate", "versus"), ("eval", "against")):
            listed = self.raw.get(kind)
            compared += [t.get(key) for t in listed if isinstance(t, dict)] if isinstance(listed, list) else []
        given = {**given, **{name: {} for name in tables.RELEASES if name in compared and name not in given}}
        baselines: dict[str, tables.Baseline] = {}
        for name, table in given.items():
            title = f"subject.{name}"
            if what := tables.find_name_error(name):
                self.complain((title, 0), f"[subject.{schema.format_toml(name)}]", "", what)
                continue
            if twin := next((n for n in baselines if n.lower() == name.lower()), None):
                self.tell(title, "", f'differs from "{twin}" only in upper and lower case; choose another name')
            if tables.is_reserved(name):
                self.tell(title, "", f'the name "{name}" is reserved; choose another')
                continue
            if (which := tables.RELEASES.get(name)) and isinstance(table, dict):
                table = {"from": which, **table}
                if table["from"] != which:
                    self.tell(
                        title, "from", f'"from" is {schema.format_toml(table["from"])}; "{name}" is the {which} release'
                    )
            if made := self.table(tables.Baseline, table, (title, 0), f"[{title}]"):
                self.other_model(made, partial(self.tell, title))
                baselines[name] = made
        return baselines

    def other_model(self, made: tables.Baseline, complain: schema.Complain) -> None:
        """Record missing and misplaced keys of a baseline.

        Some keys are only for a release, or for another model.
        """
        if made.released:
            if made.path is None and not self.raw.get("export"):
                complain("", 'is a release; name its folder with "path", or add an [[export]]')
            if made.use is not None:
                complain("use", 'is loaded as the suite\'s own model; remove "use"')
        elif (made.use is None) != (made.path is None):
            complain("", 'needs both "use" and "path" for another model, or neither')
        if made.shots is not None and made.shots < 0:
            complain("shots", f"shots is {made.shots}; it must be 0 or more")
        if made.digest is not None and not (made.released and re.fullmatch("[0-9a-f]{8,64}", made.digest)):
            complain("digest", '"digest" pins a release; give 8 to 64 hex digits of its weights\' digest')
        known = [f.name.rstrip("_") for f in fields(tables.Baseline) if f.name not in ("where", "options")]
        for key in made.options if made.use is None else ():
            complain(key, f'unknown key "{key}"{suggest_option(key, known)}')

    def merge(self, wanted: bool) -> tuple[str, ...]:
        if not isinstance(table := self.raw.get("merge", {"base": "original" if wanted else []}), dict):
            self.tell("merge", "", "must be a table")
            return ()
        for key in table.keys() - {"base", "choose"}:
            self.tell("merge", key, f'unknown key "{key}"{did_you_mean(key, ["base", "choose"])}')
        choose, base = table.get("choose", "EVAL.METRIC"), table.get("base", "original")
        if not isinstance(choose, str) or not all(choose.partition(".")):
            self.tell("merge", "choose", f'"choose" is {schema.format_toml(choose)}; write EVAL.METRIC')
        elif "choose" in table and not (isinstance(base, list) and len(base) > 1):
            self.tell("merge", "choose", '"choose" needs several bases to choose from')
        bases = [base] if isinstance(base, str) else base
        if not isinstance(bases, list) or any(b not in tables.MERGES for b in bases) or len(set(bases)) != len(bases):
            want = 'write "original", "dequantized" or both in a list'
            self.tell("merge", "base", f'"base" is {schema.format_toml(base)}, {want}')
            return ()
        return tuple(bases)

    def sweep(self) -> tables.Sweep | None:
        if (table := self.raw.get("sweep")) is None:
            return None
        complain = partial(self.tell, "sweep")
        if not isinstance(table, dict):
            complain("", f"is {schema.format_toml(table)}; it must be a table")
            return None
        mistakes_before = len(self.mistakes.messages)
        if "train" not in self.raw:
            complain("", "compares trainings; add [train]")
        given = {key: value for key, value in table.items() if not isinstance(value, dict)}
        for key in given.keys() - {"by", "alpha", "rule"}:
            complain(key, f'unknown key "{key}"; a sweep takes "by", "alpha", "rule" and an option such as "adapter.r"')
        by, alpha, rule = given.get("by"), given.get("alpha"), given.get("rule", "step")
        if rule not in ("step", "best"):
            complain("rule", f'"rule" is {schema.format_toml(rule)}; write "step" or "best"')
        if not isinstance(by, str) or not all(by.partition(".")):
            state = f'"by" is {schema.format_toml(by)}' if "by" in given else '"by" is missing'
            complain("by", f"{state}; write EVAL.METRIC of an eval with select rows, which decides")
        if alpha is not None and (error := find_alpha_error(alpha if schema.matches_type(alpha, float) else math.nan)):
            complain("alpha", f'"alpha" is {schema.format_toml(alpha)}; {error}')
        options = [(t, o, values) for t, o in table.items() if isinstance(o, dict) for o, values in o.items()]
        for name, option, _ in options:
            taken = (
                [f.name for f in fields(SWEPT_TABLES[name]) if f.name != "options"]
                if name in SWEPT_TABLES
                else [option]
            )
            if option in taken:
                complain(name, f'"{name}.{option}" cannot be swept; name an option of [adapter] or [train]')
        if len(options) != 1:
            names = " and ".join(f'"{name}.{option}"' for name, option, _ in options)
            complain("", f'sweeps {names or "nothing"}; name one option, for instance "adapter.r" = [8, 16, 32]')
            return None
        [(name, option, values)] = options
        if problem := _find_sweep_values_error(values, by_step=rule == "step"):
            complain(name, f'"{name}.{option}" is {schema.format_toml(values)}, {problem}')
        if len(self.mistakes.messages) > mistakes_before:
            return None
        line = self.lines.get(("sweep", 0, name))
        where = f"{self.path}:{line}: [sweep]" if line else f"{self.path}: [sweep]"
        return tables.Sweep(where, name, option, tuple(values), str(by), alpha, rule)


def read_override(override: str) -> tuple[list[str], Any]:
    """Return the keys and the value of one `--set table.key=value`. Raises UsageError."""
    path, equals, value = override.partition("=")
    where = f"--set {schema.format_toml(override)}"
    if not equals or "." not in path:
        raise UsageError(f"{where}: write table.key=value, for instance train.learning_rate=1e-4")
    keys = path.split(".")
    if len(keys) > schema.MAX_DEPTH + 1:
        raise UsageError(f"{where}: names a table more than {schema.MAX_DEPTH} levels deep")
    try:
        return keys, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, value  # a bare word is a string
    except RecursionError:
        raise UsageError(f"{where}: nests tables or lists more than {schema.MAX_DEPTH} levels deep") from None
    except ValueError:
        raise UsageError(f"{where}: contains an integer of thousands of digits; write it as text") from None


def _apply_override(raw: dict[str, Any], override: str) -> None:
    """Apply one `--set table.key=value`; elements of lists by name or index."""
    (*parents, last), parsed = read_override(override)
    where = f"--set {schema.format_toml(override)}"
    here: Any = raw
    for step in parents:
        here = here[_find_index(here, step, where)] if isinstance(here, list) else here.setdefault(step, {})
        if not isinstance(here, (dict, list)):
            raise UsageError(f"{where}: {schema.format_toml(step)} is {schema.format_toml(here)}, not a table")
    if isinstance(here, list):
        here[_find_index(here, last, where)] = parsed
    else:
        here[last] = parsed


def _find_index(here: list[Any], step: str, where: str) -> int:
    """Return the place in a list that is named: by number, or as an eval by its `name` and a gate by its `id`."""
    names = [str(t.get("name", t.get("id", t.get("to")))) if isinstance(t, dict) else "" for t in here]
    if step in names:
        return names.index(step)
    if not re.fullmatch(r"[0-9]{1,9}", step) or int(step) >= len(here):
        what = f"{schema.format_toml(step)} is not an index of a list of {len(here)} elements; indices start at 0"
        raise UsageError(f"{where}: {what}{did_you_mean(step, filter(None, names))}")
    return int(step)


def _describe_toml_error(path: Path, text: str, error: str) -> str:
    """Describe a TOML syntax error with its line and a hint.

    The text of a line that may hold a secret is left out.
    """
    if not (found := re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", error)):
        return f"{path}: not valid TOML: {error}"
    line = text.split("\n")[int(found[2]) - 1].strip()
    hint = '; write straight quotes, "…"' if re.search("[“”„‘’«»]", line) else ""
    hint = hint or ('; TOML is key = "value"' if re.match(r"[\w-]+:", line) else reading.ESCAPE * ("\\" in line))
    hidden = any(map(secrets.is_secret, re.findall(r"""[\w-]+(?=["']?\s*[=:])""", line)))
    shown = "" if hidden else f": {secrets.redact_text(line)}"
    return f"{path}:{found[2]}: not valid TOML: {found[1]}{shown[: schema.MAX_VALUE_CHARS]}{hint}"


def _find_seeds_error(seeds: Sequence[int]) -> str:
    """Return the problem with a recipe's seeds, or an empty text."""
    again = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if again is not None:
        return f"{again} occurs twice; remove one"
    if len(seeds) < FEWEST_SEEDS:
        return f"give at least {FEWEST_SEEDS}, since fewer do not show how far runs differ"
    wrong = next((seed for seed in seeds if not 0 <= seed < 2**32), None)
    return "" if wrong is None else f"{wrong} is not from 0 to 2**32 - 1"


def _find_sweep_values_error(values: Any, *, by_step: bool) -> str:
    """Return the problem with a sweep's values, or an empty text."""
    if not isinstance(values, list):
        return "write a list of values"
    if len(values) < 2:
        return "give two values or more; a single one needs no sweep"
    if any(value in values[:i] for i, value in enumerate(values)):
        return "which has a value twice; remove one"
    numbers = by_step and all(schema.matches_type(value, float) for value in values)
    if numbers and values not in (sorted(values), sorted(values, reverse=True)):
        return "which neither rises nor falls; sort them, since a sweep stops at the first step that does not help"
    return ""


def _parse_candidate(given: str) -> dict[str, str]:
    """Return the table of a candidate given on the command line.

    A text that is no existing path may be the name of a served model. Raises UsageError if it is no path, or if a GGUF
    file is not alone in its folder.
    """
    try:
        path = Path(given)
        if path.suffix == ".gguf" and path.is_file():
            if others := [p.name for p in path.parent.glob("*.gguf") if p.name != path.name]:
                what = f'its folder also contains "{min(others)}"; move one of them to another folder'
                raise UsageError(f'--candidate "{path}": {what}')
            path = path.parent
        kind = "adapter" if (path / "adapter_config.json").is_file() else "merged"
        return {kind: str(path.resolve()) if path.exists() else given}
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"--candidate {schema.format_toml(given)}: is not a path: {error}; name an adapter or a model"
        ) from None
