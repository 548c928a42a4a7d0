"""D16: targets that no answer can be, whatever a model has learnt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import Finding, ModelRef, Sample, Task, checker, continuation, schema
from harness_checks.lint import counted

SAID = ("exact_match", "json", "contains", "token_f1", "regression", "hf_metric")  # whose targets are said as they are
SURE, MANY = SAID[:2], 0.05  # what scores nothing but whole targets, and a share of the rows that spoils its score


@checker(title="unreachable-targets")
def unreachable(tasks: Mapping[str, Task], base: ModelRef) -> Iterator[Finding]:
    """Targets that cannot be answered.

    An answer ends at `max_new_tokens` and at the first `stop` string, by default a line break. A target that is longer
    (-long), or has such a string inside (-stop), is missed by base and candidate alike, and a gate that compares the
    two passes. Of several targets one will do. For exact_match and json 5 % of the rows are an error.
    """
    for name, task in tasks.items():
        use, given = task.spec.use, schema.with_defaults(task.function, task.spec.options)
        loose = given.get("compare") is False or given.get("ignore") or given.get("earlier") == "against"
        if use not in SAID or loose or not {"max_new_tokens", "stop"} <= given.keys():
            continue
        samples = [s for s in task.samples or () if s.input and s.target]
        least = (lambda text: "".join(text.split())) if use == "json" else (lambda text: text.strip().rstrip(".!?"))
        rows = [(s, [least(text) for text in s.targets]) for s in samples]
        stops, most = [stop for stop in given["stop"] if stop], given["max_new_tokens"]
        inside = {s.id: next((x for x in stops if all(x in text for text in texts)), None) for s, texts in rows}
        stopped = {i: f"has the stop string {json.dumps(stop)} inside" for i, stop in inside.items() if stop}
        sizes = _sizes([(s, texts) for s, texts in rows if s.id not in stopped], most, Path(base.path))
        long = {i: f"takes {size} tokens of {most}" for i, size in sizes.items()}
        for kind, why, fix in (("stop", stopped, "stop = []"), ("long", long, "raise max_new_tokens")):
            if why:
                first, spoilt = next(iter(why)), use in SURE and len(why) >= MANY * len(rows)
                what = f'{counted(len(why), len(rows))} of "{name}" cannot be answered: row "{first}" {why[first]}'
                lines = [f'row "{i}" {said}' for i, said in why.items()]
                yield Finding("error" if spoilt else "warning", what, lines, fix, kind, {name: [*why]})


def _sizes(rows: list[tuple[Sample, list[str]]], most: int, folder: Path) -> dict[str, int]:
    """Return the tokens of the shortest target of each row, where they are more than an answer may have."""
    pairs = [(s, text) for s, texts in rows if min(len(t.encode()) for t in texts) > most for text in texts]
    if not pairs or not (folder / "tokenizer_config.json").is_file():
        return {}
    from harness_hf import Tokens

    tokens = Tokens.of(str(folder))
    asked = [s.input if isinstance(s.input, str) else "" for s, _ in pairs]  # a template's end is no part of an answer
    whole = [prompt + continuation(s.input, text) for prompt, (s, text) in zip(asked, pairs, strict=True)]
    sizes: dict[str, int] = {}
    for (s, _), before, after in zip(pairs, tokens.prompts(asked), tokens.prompts(whole), strict=True):
        sizes[s.id] = min(len(after) - len(before), sizes.get(s.id, len(after)))
    return {i: size for i, size in sizes.items() if size > most}
