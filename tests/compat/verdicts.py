"""Drawn gates on drawn rows, over all kinds, scales, estimands, slices, labels, early stopping, leaks and attempts.

`python -m tests.compat.verdicts` writes what the tree makes of them: verdicts.jsonl holds outcomes and numbers, which
no refactoring changes, words.jsonl what is said of them, which is reviewed when it changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from harness.collection.collection import Collection, Item, Task
from harness.pipeline.adjudication import Adjudicator
from harness.records.claims.gate import Gate
from harness.records.metrics import Metric
from harness.records.samples import Caveat, Labels, Result, Sample, Score, rows_digest
from harness.records.suite_header import SuiteTable
from harness.release.evidence_rows import read_rows
from harness.release.export import evidence_evaluations, evidence_rows
from harness.release.lock_reader import FORMAT_VERSION, read_lock
from harness.release.recomputation import recompute_verdicts
from harness.stats import hypothesis_tests
from harness.stats.eprocess import interim_sizes
from harness.suite.tables import Eval, Model, Suite
from harness.texts.json_text import dumps
from harness_domain.cost import median_seconds

HERE = Path(__file__).parent
CASES = 2000  # numbers that are drawn; those with a key that gates no longer have are left out
KINDS = ("a", "research and development", "50% off", "x=y")  # values of the column that slices are made of
SCALES = ("proportion", "share", "mean", "perplexity", "count", "agreement", "labelled", "other")
EDITS = ("outcome", "p_pass", "p_fail", "estimate", "threshold", "alpha", "n", "value", "lower", "won")


@dataclass(frozen=True)
class Drawn:
    """A suite's gates on one evaluation, and what base and candidate made of its rows."""

    gates: tuple[Gate, ...]
    metrics: Mapping[str, Metric]
    samples: tuple[Sample, ...]
    ours: Result
    theirs: Result | None
    spec: Eval
    alpha: float
    leaks: Mapping[str, Mapping[str, str]] | None
    is_removed: bool = False  # drawn with a key that gates had once


def draw_case(number: int) -> Drawn:
    """Draw a case; the same of every number, whatever else is drawn."""
    luck = random.Random(f"verdicts {number}")
    while True:
        draw = _Draw(luck)
        case = draw.case()
        if not (draw.is_mistake or any(_has_mistake(g, case.metrics) for g in case.gates)):
            return replace(case, is_removed=draw.is_removed)


def _has_mistake(gate: Gate, metrics: Mapping[str, Metric]) -> bool:
    """Return whether a gate is no case; a cap of a proportion was none when the cases were first drawn."""
    metric = metrics.get(gate.metric_name)
    capped = gate.cap is not None and metric is not None and metric.is_share and not gate.kind.counts
    return bool(gate.find_mistakes() or capped or (metric is not None and gate.find_metric_mistakes(metric)))


class _Draw:
    def __init__(self, luck: random.Random) -> None:
        self.luck = luck
        self.n = luck.choices([1, 2, 3, 8, 20, 40, 64, 90, 150, 260], [1, 1, 1, 4, 8, 9, 9, 9, 9, 6])[0]
        self.kind = luck.choices(SCALES, [30, 8, 12, 12, 5, 5, 6, 5])[0]
        self.better = luck.choice(["higher", "lower"])
        self.versus = luck.random() < 0.55 and self.kind not in ("agreement", "labelled")
        self.early = self.kind in ("proportion", "share") and luck.random() < 0.12
        self.clustered = not self.early and luck.random() < 0.4
        self.is_removed = self.is_mistake = False

    def chance(self, p: float) -> bool:
        return self.luck.random() < p

    def case(self) -> Drawn:
        luck, samples = self.luck, self.samples()
        leaks = {"e": {s.id: "D10-exact" for s in samples if self.chance(0.1)}} if self.chance(0.9) else None
        base = self.values()
        ours = self.result("merged", samples, self.changed(base))
        theirs = self.result("base", samples, base) if self.versus else None
        if self.early:
            order = [s.id for s in samples]
            luck.shuffle(order)
            stop = luck.choice(interim_sizes(len(samples)))
            ours = replace(
                ours, order=tuple(order[:stop]), scores=tuple(s for s in ours.scores if s.id in order[:stop])
            )
        spec = Eval("e", "exact_match", "", slices=["kind"], stop="early" if self.early else "end")
        return Drawn(
            self.gates(samples), self.metrics(), samples, ours, theirs, spec, luck.choice([0.01, 0.05, 0.1]), leaks
        )

    def metrics(self) -> dict[str, Metric]:
        scale: Any = {"share": "proportion", "labelled": "proportion"}.get(self.kind, self.kind)
        combine, name = (median_seconds, "seconds") if self.kind == "other" else (None, "m")
        return {name: Metric(name, self.better, scale, combine, labelled=self.kind == "labelled")}  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        return "seconds" if self.kind == "other" else "m"

    def samples(self) -> tuple[Sample, ...]:
        luck, n = self.luck, self.n
        sizes, clusters = luck.choice([(1, 2), (3, 3), (1, 12)]), list[str]()
        while len(clusters) < n:
            clusters += [f"c{len(clusters)}"] * luck.randint(*sizes)
        asks = [f"q{luck.randrange(n) if self.copies else i}" for i in range(n)]
        return tuple(
            Sample(f"r{i}", row={"kind": luck.choices(KINDS, [5, 3, 2, 1])[0]}, key=asks[i],
                   cluster=clusters[i] if self.clustered else None)
            for i in range(n)
        )  # fmt: skip

    @property
    def copies(self) -> bool:
        return not self.early and self.n % 4 == 0 and self.luck.random() < 0.2

    def values(self) -> list[float]:
        luck, p = self.luck, self.luck.choice([0.05, 0.3, 0.6, 0.9, 1.0])
        draw = {
            "proportion": lambda: float(luck.random() < p),
            "labelled": lambda: float(luck.random() < p),
            "share": lambda: round(luck.betavariate(1 + 4 * p, 2), 3),
            "mean": lambda: round(luck.gauss(p, 1), 6),
            "perplexity": lambda: round(luck.lognormvariate(p, 0.5), 6),
            "count": lambda: float(luck.randrange(3)),
            "agreement": lambda: 0.0,
            "other": lambda: round(luck.lognormvariate(0, 0.4), 6),
        }[self.kind]
        return [draw() for _ in range(self.n)]

    def changed(self, base: list[float]) -> list[float]:
        rate = self.luck.choices([0.0, 0.02, 0.1, 0.4, 1.0], [1, 4, 6, 6, 3])[0]
        fresh, shift = self.values(), self.luck.choice([0.0, -0.3, 0.3, 1.0])
        moved = [v + shift if self.kind in ("mean", "perplexity") else v for v in fresh]
        return [m if self.chance(rate) else b for b, m in zip(base, moved, strict=True)]

    def result(self, subject: str, samples: tuple[Sample, ...], values: list[float]) -> Result:
        luck, uneven = random.Random(f"weights {self.n} {self.kind}"), self.n % 3 == 0
        weights = [
            luck.randint(1, 60) if self.kind == "perplexity" else 1 + uneven * luck.randrange(3) for _ in samples
        ]
        weights = [0 if self.n > 3 and i % 17 == 5 else w for i, w in enumerate(weights)]
        losable, ends = self.kind == "proportion" and self.chance(0.06), self.luck.choice([0.0, 0.03, 0.3])
        scores = []
        for s, v, w in zip(samples, values, weights, strict=True):
            lost = losable and self.chance(0.1)
            about: dict[str, Any] = {"finish_reason": "length" if self.chance(ends) else "eos", "tokens": 5}
            about |= {"lost": ("m",), "weights": {"m": 0.0}} if lost else {}
            scores.append(Score(s.id, {self.name: v}, float(1 if self.early else w), answer=f"{v}", **about))
        return Result(subject, "e", tuple(scores), {self.name: 0.0}, f"digest of {subject}", rows="rows",
                      caveats=self.caveats(), labels=self.labels())  # fmt: skip

    def caveats(self) -> tuple[Caveat, ...]:
        outcome: Any = self.luck.choice([None, "INCONCLUSIVE", "ERROR"])
        return (Caveat("as the evaluator says", outcome),) if self.chance(0.03) else ()

    def labels(self) -> tuple[Labels, ...]:
        if self.kind not in ("agreement", "labelled") or self.chance(0.1):
            return ()
        luck, n, p = self.luck, self.luck.choice([1, 20, 60, 120]), self.luck.choice([0.6, 0.9, 1.0])
        truth = [float(luck.random() < 0.6) for _ in range(n)]
        said = [t if luck.random() < p else 1 - t for t in truth]
        prompts, rows = tuple(i // 2 for i in range(n)), tuple(f"r{i}" for i in range(n))
        return (Labels("m", tuple(truth), tuple(said), prompts, rows),)

    def gates(self, samples: tuple[Sample, ...]) -> tuple[Gate, ...]:
        group = self.chance(0.15) and not self.early and self.kind != "count"
        gates = [self.gate(f"g{i}", plain=group) for i in range(2 if group else 1)]
        if group:  # gates of which one was enough
            self.is_removed = True
        elif self.chance(0.1):
            gates.append(replace(self.gate("later"), requires=["g0"]))
        return tuple(gates)

    def gate(self, name: str, *, plain: bool = False) -> Gate:
        luck, about = self.luck, dict[str, Any]()
        if self.versus:
            margin: Any = luck.choice([0.0, 0.02, 0.05, 0.3, "2%", "10%"])
            about = {"versus": "base", luck.choice(["better_by", "worse_by_at_most"]): margin}
            about |= {"cap": luck.choice([0.3, 0.5])} if self.chance(0.15) else {}
        elif self.kind == "proportion" and self.chance(0.35) and not plain and not self.early:
            about = {"max_failures": luck.choice([0, 1, 5])}
        else:
            bounds = {"perplexity": [1.5, 3.0, 9.0], "count": [2.0, 40.0], "mean": [0.0, 0.7], "other": [0.8, 1.3]}
            about = {luck.choice(["min", "max"]): luck.choice(bounds.get(self.kind, [0.05, 0.5, 0.8, 0.97]))}
        if "max_failures" not in about and not self.early and self.kind != "agreement":
            about |= (
                {"slice": luck.choice(["kind=*", "kind=a", [f"kind={k}" for k in KINDS[:3]]])}
                if self.chance(0.25)
                else {}
            )
            about |= {"min_n": luck.choice([5, 20])} if "slice" in about else {}
            if self.clustered and self.chance(0.2):  # a mean over clusters
                self.is_removed = True
                self.is_mistake |= self.kind in ("other", "count")
            about |= {"clean_only": True} if self.chance(0.12) else {}
            if self.chance(0.06) and not plain:  # a value that was compared without a test
                self.is_mistake |= self.kind != "count"
        about |= {"cut_at_most": 0.1} if self.chance(0.08) else {}
        about |= {"severity": "warn"} if self.chance(0.1) and not plain else {}
        return Gate(name, f"e.{self.name}", "suite.toml:1", **about)


# -- what the tree makes of a case -----------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """What is said of a case: numbers that stay, and words."""

    numbers: dict[str, Any]
    words: dict[str, Any]


def judge_and_verify_case(number: int) -> Made:
    """Judge a case as a run does, decide it again from the evidence, and with one number of a verdict changed."""
    case = draw_case(number)
    verdicts = decide_case(case)
    numbers = {name: _list_verdict_numbers(v) for name, v in verdicts.items()}
    words: dict[str, Any] = {name: v["why"] for name, v in verdicts.items()}
    with tempfile.TemporaryDirectory() as folder:
        evidence = Evidence(case, Path(folder))
        numbers["verify"], words["verify"] = verify_case(evidence, verdicts)
        edited = _edit_one_verdict(verdicts, random.Random(f"edit {number}"))
        numbers["edited"], words["edited"] = verify_case(evidence, edited)
    return Made({"case": number, **numbers}, {"case": number, **words})


def decide_case(case: Drawn) -> dict[str, dict[str, Any]]:
    suite = Suite(Path("suite.toml"), SuiteTable("drawn", alpha=case.alpha), Model("base", ""), None, None, None, {},
                  (case.spec,), case.gates, (), (), "digest")  # fmt: skip
    items = tuple(Item("drawn", subject, "e") for subject in ("base", "merged"))
    task = Task(case.spec, judge_and_verify_case, case.metrics, case.samples)
    plugins: Any = None
    collection = Collection(suite, plugins, {"e": task}, ("base",), ("merged",), items)
    court = Adjudicator(collection, (), date(2026, 1, 1), {}, None)
    court.leaks = case.leaks
    for item, result in zip(items, (case.theirs, case.ours), strict=True):
        if result:
            court.results[item.subject, item.eval] = result
        court.on_evaluation_end(item)
    return {v.gate: json.loads(dumps(dataclasses.asdict(v))) | {"why": v.why} for v in court.verdicts}


class Evidence:
    """The files of an export that verdicts are verified by."""

    def __init__(self, case: Drawn, folder: Path) -> None:
        results = {(r.subject, "e"): r for r in (case.theirs, case.ours) if r}
        task = Task(case.spec, judge_and_verify_case, case.metrics, case.samples)
        (folder / "evidence").mkdir()
        items = "".join(f"{json.dumps(row)}\n" for row in evidence_rows(results, {"e": task}, case.leaks)).encode()
        (folder / "evidence/items.jsonl").write_bytes(items)
        files = {"evidence/items.jsonl": {"sha256": hashlib.sha256(items).hexdigest()}}
        told = json.loads(dumps(evidence_evaluations(results)))
        self.folder = folder
        self.manifest = {
            "candidate": "merged",
            "statistics": hypothesis_tests.METHOD_VERSION,
            "files": files,
            "evaluations": told,
            "started": "2026-01-01T00:00:00+00:00",
            "ledger": {"lines": [], "looks": [], "attempts": {}},
        }
        self.locked = read_lock(_make_lock(case), "merged")


def _make_lock(case: Drawn) -> dict[str, Any]:
    from harness.gates import contamination

    code = {"seconds": "harness_domain.cost:median_seconds"}
    metrics = {
        m.name: {"better": m.better, "scale": m.scale, "combine": code.get(m.name), "labelled": m.labelled}
        for m in case.metrics.values()
    }
    left_out = (
        contamination.count_left_out(case.leaks, case.gates, {"e": case.samples}) if case.leaks is not None else {}
    )
    return {
        "format": FORMAT_VERSION,
        "suite": {
            "header": {"name": "drawn", "alpha": case.alpha},
            "exports": [],
            "evals": [_table_to_dict(case.spec)],
        },
        "gates": [
            {**_table_to_dict(g), "claim": g.claim(), "blocking": g.blocking, "candidates": ["merged"], "digest": ""}
            for g in case.gates
        ],
        "waivers": [],
        "attempts": {},
        "subjects": {"base": "base"},
        "metrics": {"e": metrics},
        "data": {"e": {"rows": len(case.samples), "sha256": rows_digest(case.samples)}},
        **({"looks": {"e": interim_sizes(len(case.samples))}} if case.spec.stop == "early" else {}),
        **({"left_out": left_out} if left_out else {}),
    }


def _table_to_dict(table: Any) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(table).items() if k not in ("where", "options") and v is not None}


def verify_case(evidence: Evidence, verdicts: Mapping[str, dict[str, Any]]) -> tuple[list[Any], list[str]]:
    """Return whether verdicts are decided again alike, which of them, and in which words."""
    try:
        again = recompute_verdicts(
            evidence.manifest, evidence.locked, verdicts, read_rows(evidence.folder, evidence.manifest), {}
        )
    except (ValueError, KeyError, TypeError) as error:
        return ["malformed"], [str(error)]
    return [not again.differs, sorted(again.gates), sorted(again.unable)], [again.differs, again.summary]


def _edit_one_verdict(verdicts: Mapping[str, dict[str, Any]], luck: random.Random) -> dict[str, dict[str, Any]]:
    """Return the verdicts with one of their numbers changed, as somebody might who wants to ship."""
    name, key = luck.choice(sorted(verdicts)), luck.choice(EDITS)
    one = dict(verdicts[name])
    if key == "outcome":
        one[key] = luck.choice([o for o in ("PASS", "FAIL", "INCONCLUSIVE", "ERROR") if o != one[key]])
    elif key == "won":
        one[key] = [*one[key], "r0"]
    else:
        one[key] = luck.choice([0.0, 1.0, 0.04, None, 7, (one[key] or 0) * 1.01, -(one[key] or 1)])
    return {**verdicts, name: one}


def _list_verdict_numbers(verdict: Mapping[str, Any]) -> list[Any]:
    """Return what a verdict says but for its words, floats with twelve digits and lists of ids as a digest."""

    def part(name: str) -> dict[str, Any]:
        found: dict[str, Any] = verdict["parts"].get(name, {})
        return found

    keys = ("outcome", "blocking", "value", "baseline", "estimate", "lower", "upper", "threshold", "alpha", "p_pass",
            "p_fail", "n")  # fmt: skip
    clusters, leaked, slices = part("clusters"), part("leaked"), part("slices")
    needed = part("rows_needed")
    numbers = [verdict[key] for key in keys]
    numbers += [part("weightless").get("rows", 0), clusters.get("count"), clusters.get("effective"), verdict["method"]]
    numbers += [needed.get("rows"), needed.get("range"), verdict["won_count"], verdict["lost_count"]]
    numbers += [leaked.get("rows"), part("repeated").get("rows", 0), clusters.get("crossed", [])]
    numbers += [leaked.get("value"), leaked.get("baseline")]
    ids = hashlib.sha256(json.dumps([verdict["won"], verdict["lost"]]).encode()).hexdigest()[:8]
    table = [
        [s["name"], s["n"], s["outcome"], s["alarm"], _round_float(s["lower"]), _round_float(s["upper"])]
        for s in slices.get("slices", ())
    ]
    driver = slices.get("driver") or part("worst_slice").get("worst", {}).get("name", "")
    return [*map(_round_float, numbers), ids, driver, table]


def _round_float(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.12g}") if math.isfinite(value) else None
    return value


def main() -> None:
    """Write both files."""
    cases = [judge_and_verify_case(number) for number in range(CASES) if not draw_case(number).is_removed]
    for name, lines in (("verdicts", [c.numbers for c in cases]), ("words", [c.words for c in cases])):
        text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
        (HERE / f"{name}.jsonl").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
