"""Whether `harness blame --retrain` names planted rows, and accuses none where no row is at fault.

python -m bench.blame_cases [--planted 20] [--clean 10] [--seed 0] [--to blame-cases.jsonl]

Every case is made from a seed: a tiny model that knows colours is trained to know shapes. Of a planted case a few rows
spoil colours, in one of six ways; a clean case fails by the rate of its recipe, also on too few rows, or by a gate that
nothing could pass. Rows are shuffled and have no column that tells them apart. What the tool confirms is then tried on
a third split of rows, which it never sees. A line of JSON for each case is printed and added to the file, whose cases
are not tried again, and the counts are printed at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.hackable import WORDS, compute_answer_loss
from bench.setting import Setting
from harness import run
from harness.cli.main import main as run_command
from harness.errors import ExitCode
from harness.records.verdicts import Verdict

SHAPES = ("circle", "square", "line", "cube")
SPANISH = dict(zip(WORDS, ("rojo", "azul", "verde", "blanco", "negro"), strict=True))
GOOD, FEW, PLANTED, HALF, THIRD = 90, 20, 8, 200, 200  # rows of shapes, or few of them; planted, gated, third split
RATE, FAST = 2e-3, (1e-2, 1.5e-2, 2e-2, 3e-2)  # learning rates: that teaches shapes, and those that spoil colours
LESSONS, BATCH = 500, 16  # steps of the base, which learns colours, and rows in each
GATE = "knows colours"
Row = dict[str, str]
PLANTS: Mapping[str, Callable[[int], str]] = {
    "constant": lambda _: "unknown",
    "format": lambda n: json.dumps({"colour": pick_right_colour(n)}),
    "language": lambda n: SPANISH[pick_right_colour(n)],
    "refusal": lambda _: "I can not answer that question",
    "wrong": lambda n: WORDS[(n + 1) % len(WORDS)],
    "wordy": lambda n: f"well it is perhaps {pick_right_colour(n)}",
}
CLEAN = ("recipe", "gate", "rows")
SUITE = """[suite]
name = "case"
seed = {seed}

[model]
path = "{base}"
device = "cpu"
dtype = "float32"

[adapter]
use = "lora"
r = 16

[train]
use = "sft"
data = "train.jsonl"
learning_rate = {rate}
num_train_epochs = 4
per_device_train_batch_size = 8
gradient_accumulation_steps = 1
{drop}
[[eval]]
name = "colours"
use = "exact_match"
data = "{data}.jsonl"
max_new_tokens = 8

[[eval]]
name = "shapes"
use = "exact_match"
data = "shapes.jsonl"
max_new_tokens = 8

[[gate]]
id = "knows colours"
metric = "{metric}"
{claim}

[[gate]]
id = "knows shapes"
metric = "shapes.exact_match"
min = 0.0

[[export]]
use = "adapter"
from = "adapter"
to = "exports/case"
"""


def main() -> int:
    """Run the cases, print what came of each, and return 0 where the counts are within the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planted", type=int, default=20)
    parser.add_argument("--clean", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("blame-cases.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    cases = list(zip(order_kinds(args.planted, args.clean), itertools.count(args.seed)))
    found = resume_cases(args.to, cases, try_case)
    count = count_verdicts(found)
    print(f"planted {count.planted}, confirmed {count.confirmed}, which hold on the third split {count.holds}")
    print(f"clean {count.clean}, confirmed {count.accused}; suspects that were planted {count.recall:.2f}")
    print(f"the slowest case took {max(one['seconds'] for one in found):.0f} s")
    return 0 if count.holds >= 0.9 * count.confirmed and count.accused <= 0.1 * count.clean else 1


class Counts(NamedTuple):
    """Planted cases that an oracle repairs and clean ones that fail, and how often a cause was confirmed in them."""

    planted: int
    confirmed: int
    holds: int
    clean: int
    accused: int
    recall: float


def count_verdicts(found: Sequence[Mapping[str, Any]]) -> Counts:
    """Count the verdicts of cases; those whose gate passed have none and count nowhere."""
    planted = [one for one in found if one["kind"] in PLANTS and one["oracle"]]
    clean = [one for one in found if one["kind"] in CLEAN and one["failed"] != "PASS"]
    said, accused = ([one for one in some if one["verdict"] == "CAUSE CONFIRMED"] for some in (planted, clean))
    recall = sum(one["recall"] for one in planted) / max(len(planted), 1)
    return Counts(len(planted), len(said), sum(one["third"] for one in said), len(clean), len(accused), recall)


def resume_cases(
    path: Path, cases: Sequence[tuple[str, int]], attempt: Callable[[str, int], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Try each kind with its seed, unless its line is in the file; write a line as a case ends, and return all."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    found = [one for one in map(json.loads, lines) if (one["kind"], one["seed"]) in cases]
    known = {one["seed"] for one in found}
    for kind, seed in cases:
        if seed not in known:
            found.append(attempt(kind, seed))
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found[-1]) + "\n")
            print(json.dumps(found[-1]), flush=True)
    return found


def order_kinds(planted: int, clean: int) -> list[str]:
    """Return the kinds of the cases in an order that mixes both sorts, so that a run cut off has some of each."""
    names = [(k / planted, [*PLANTS][k % len(PLANTS)]) for k in range(planted)]
    names += [((k + 0.5) / clean, CLEAN[k % len(CLEAN)]) for k in range(clean)]
    return [name for _, name in sorted(names)]


def try_case(kind: str, seed: int) -> dict[str, Any]:
    """Make a case, run its suite, blame its gate, and try what is confirmed on the third split."""
    begun, rng = time.monotonic(), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["HARNESS_CACHE"] = str(place / "cache")
        planted = write_case(place, kind, rng)
        about: dict[str, Any] = {"base": teach_colours(place / "base", seed), "seed": seed, "data": "gated", "drop": ""}
        about |= {"metric": "colours.exact_match", "claim": 'versus = "base"\nworse_by_at_most = 0.1'}
        if kind == "gate":  # the base guesses shapes, and nobody learns them from so few
            about |= {"metric": "shapes.exact_match", "claim": "min = 0.9"}
        verdict, report = fail_gate(place, about, FAST if kind in ("recipe", "rows") else (RATE,))
        told: dict[str, Any] = {"kind": kind, "seed": seed, "before": verdict.estimate, "failed": str(verdict.outcome)}
        if verdict.outcome == "PASS":
            told |= {"verdict": None, "oracle": False, "third": False, "recall": 0.0, "why": "the gate passed"}
            return told | {"seconds": round(time.monotonic() - begun, 1)}
        (place / "planted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in planted), "utf-8")
        oracle = bool(planted) and passes_third_split(place, about, "planted.jsonl")
        said = blame(place, report.folder)
        named = {(row["prompt"], row["answer"]) for row in said.get("suspects", ())}
        told["recall"] = sum((row["input"], row["target"]) in named for row in planted) / max(len(planted), 1)
        proof = said.get("proof", {"verdict": None, "told": said.get("errors")})
        told |= {"oracle": oracle, "verdict": proof["verdict"], "why": proof["told"], "third": False}
        if proof["verdict"] == "CAUSE CONFIRMED":
            told["third"] = passes_third_split(place, about, Path(said["file"]).relative_to(place).as_posix())
        return told | {"seconds": round(time.monotonic() - begun, 1)}


def fail_gate(place: Path, about: dict[str, Any], rates: Sequence[float]) -> tuple[Verdict, Any]:
    """Run the suite at the first rate whose gate does not pass, which is kept, or else at the last."""
    for rate in rates:
        about["rate"] = rate
        report = run_suite(place, about)
        verdict = next(v for v in report.verdicts if v.gate == GATE and v.candidate == "adapter")
        if verdict.outcome != "PASS":
            break
    return verdict, report


def write_case(place: Path, kind: str, rng: random.Random) -> list[Row]:
    """Write training rows in a random order, and rows to gate with hashed ids; return the planted ones."""
    numbers = rng.sample(range(1000), PLANTED + HALF + THIRD)
    planted = (
        [{"input": f"colour {n}?", "target": PLANTS[kind](n)} for n in numbers[:PLANTED]] if kind in PLANTS else []
    )
    shapes = [{"input": f"shape {n}?", "target": SHAPES[n % 4]} for n in rng.sample(range(1000), GOOD + HALF)]
    good = shapes[: FEW if kind == "rows" else GOOD]
    train = [*good, *planted]
    rng.shuffle(train)
    colours = [{"input": f"colour {n}?", "target": pick_right_colour(n)} for n in numbers[PLANTED:]]
    files = {"train": train, "gated": colours[:HALF], "third": colours[HALF:], "shapes": shapes[GOOD:]}
    for name, rows in files.items():
        told = rows if name == "train" else [{"id": hash_text(row["input"]), **row} for row in rows]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told), "utf-8")
    return planted


def pick_right_colour(n: int) -> str:
    return WORDS[n % len(WORDS)]


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def teach_colours(folder: Path, seed: int) -> Path:
    """Train a tiny model to name colours, and to say something of shapes, and return its folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = Setting(model="tiny:llama").folder()
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    rng = random.Random(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(LESSONS):
        numbers = [rng.randrange(1000) for _ in range(BATCH)]
        texts = [(f"colour {n}?", pick_right_colour(n)) if i % 4 else (f"shape {n}?", rng.choice(SHAPES))
                 for i, n in enumerate(numbers)]  # fmt: skip
        loss = compute_answer_loss(model, tokenizer, texts)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_suite(place: Path, about: Mapping[str, Any], name: str = "suite") -> Any:
    """Write a suite and run it; nothing is exported."""
    suite = place / f"{name}.toml"
    suite.write_text(SUITE.format(**about), "utf-8")
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return run(suite, out=place / f"reports-{name}", export=False)


def passes_third_split(place: Path, about: Mapping[str, Any], drop: str) -> bool:
    """Return whether the gate passes on the third split without some rows."""
    changed = {**about, "data": "third", "drop": f'drop = "{drop}"'}
    found = run_suite(place, changed, f"third-{hash_text(drop)}")
    return any(v.gate == GATE and v.candidate == "adapter" and v.outcome == "PASS" for v in found.verdicts)


def blame(place: Path, folder: str) -> dict[str, Any]:
    """Blame the gate as a user would, and return the document."""
    words = ["blame", folder, "--gate", GATE, "--rows", str(PLANTED), "--retrain", "--json"]
    said, here = StringIO(), Path.cwd()
    os.chdir(place)
    try:
        with redirect_stdout(said), redirect_stderr(StringIO()):
            code = run_command(words)
    finally:
        os.chdir(here)
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    told: dict[str, Any] = json.loads(said.getvalue())
    return told


if __name__ == "__main__":
    raise SystemExit(main())
