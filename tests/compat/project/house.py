"""A plugin as README.md, docs/plugins.md, docs/checks.md and harness/hookspec.py of 5f30330 say; loaded with -p."""

import json
from contextlib import contextmanager
from pathlib import Path

from harness import (
    Built, Caveat, Finding, Marking, Metric, Progress, ItemResult, Run, Sampling, Score, UsageError, hookimpl, metric,
)  # fmt: skip
from harness.evaluation.checks import STAGES
from harness.records.run import Trial
from harness.release.conversions import NOTE
from harness.testing import FakeSource, FakeSubject, write_fake

SEEN = Path("watched.jsonl")


def seen(hook: str, *what):
    with SEEN.open("a") as file:
        file.write(json.dumps([hook, *what]) + "\n")


# -- a loader ----------------------------------------------------------------------------------------


class Talker(FakeSubject):
    """A subject with all that one may have."""

    context = 200
    prefix = ""
    notes = ["spoken aloud"]

    def count_tokens(self, pairs):
        return [len(str(p).split()) + len(c.split()) for p, c in pairs]

    def render(self, messages):
        return "\n".join(m["content"] for m in messages)

    def token_kl(self, texts, against):
        return [(abs(self.skill - against.skill) * len(t), len(t.split())) for t in texts]

    def stream_generate(self, prompts, *, max_new_tokens=64, stop=(), sampling=None, truncate=False):
        yield from enumerate(self.generate(prompts, max_new_tokens=max_new_tokens))

    def stream_logprobs(self, pairs, *, truncate=False):
        yield from enumerate(self.logprobs(pairs))


def skill(folder):
    return json.loads((Path(folder) / "skill.json").read_text())["skill"]


@contextmanager
def load(refs, *, dtype: str = "auto", louder: bool = False):
    """Load talkers."""
    yield [Talker(r.name, skill(r.adapter or r.path), r.digest) for r in refs]


def open_source(path, *, dtype: str = "auto", louder: bool = False):
    if not (Path(path) / "skill.json").is_file():
        raise UsageError(f'path "{path}": no talker is there')
    return FakeSource(path, f"{skill(path):.3f}".encode().hex())


load.open = open_source
load.identity = lambda ref, **options: f"{skill(ref.adapter or ref.path)} {options}"


# -- an adapter and a trainer ------------------------------------------------------------------------


class Number:
    """An adapter by the protocol of harness/subject.py."""

    quantization = None

    def __init__(self, loses):
        self.loses = loses

    def check(self):
        if self.loses > 1:
            raise UsageError(f"loses is {self.loses}, want at most 1")

    def check_targets(self, base):
        skill(base)

    def check_merge(self, variant):
        if variant == "dequantized":
            raise UsageError("a number is never quantised")

    def check_fits(self, base, base_digest, adapter):
        if not (adapter / "skill.json").is_file():
            raise UsageError(f'adapter "{adapter}": holds no skill.json')

    def peft_config(self):
        return None

    def merge(self, base, adapter, out, *, variant, progress):
        progress(Progress("merge", 1, 1))
        write_fake(out, skill(adapter) - self.loses)

    def verify(self, base, adapter, merged, *, variant):
        return {"lost": round(skill(adapter) - skill(merged), 3)}


def number(*, loses: float = 0.0):
    """A number instead of an adapter."""
    return Number(loses)


def train(
    ref, adapter, rows, out, *, progress, seed, flag, watch=None, reaches: float = 0.9, validation: float = 0.0
):
    """Reach a skill."""
    out.parent.mkdir(parents=True, exist_ok=True)
    flag("X2", Finding("note", "the trainer looked"))
    write_fake(out, reaches)
    facts = watch(Talker("adapter", reaches)) if watch else {}
    progress(Progress("train", 1, 1, {"loss": 0.5, **facts}, remark="epoch 1"))
    return out


def build(ref, adapter, rows, *, seed, reaches: float = 0.9, validation: float = 0.0):
    return Built(None, (), len(rows), None, False, lambda n: iter(()), None, None)


def check_train(*, reaches: float = 0.9, validation: float = 0.0):
    if reaches > 1:
        raise UsageError(f"reaches is {reaches}, want at most 1")


def measure(ref, adapter, rows, *, seed, reaches: float = 0.9, validation: float = 0.0):
    took = {"setup": 2.0, "steps": 3, "tokens": 30, "seconds": 1.0, "processor": 1.0}
    return took | {"whole_steps": 30, "whole_tokens": 300}


train.check, train.build, train.measure = check_train, build, measure


# -- evaluators --------------------------------------------------------------------------------------


@metric("wins", better="higher", scale="proportion")
def longer(samples, answers, baseline_answers, *, marking, max_new_tokens: int = 64):
    """Share of answers that are longer than the baseline's."""
    for s, ours, theirs in zip(samples, answers, baseline_answers, strict=True):
        yield Score(s.id, {"wins": float(len(ours) > len(theirs))}, answer=ours, details={"theirs": theirs})


longer.marks = "pairs"


@metric("right", better="higher", scale="proportion")
def graded(samples, answers, baseline_answers, *, marking: Marking, strict: bool = True, stop: list[str] = ()):
    """Share of answers that a marker takes."""
    assert baseline_answers is None
    marking.kept["asked"] = marking.kept.get("asked", 0) + len(samples)
    for s, a in zip(samples, answers, strict=True):
        yield Score(s.id, {"right": float(a == s.target)}, answer=a)
    yield Caveat(f"{marking.judged} was graded, {marking.what}")


graded.marks = lambda options: "answers"
graded.adversaries = lambda options: {"a parrot": lambda prompt: "parrot"}
graded.estimate = lambda options, samples, models, answers: f"{len(samples)} rows are graded"


def own(subject, samples, *, folder, words: int = 2):
    """Answers to rows of its own."""
    assert (folder / "house.py").is_file()
    drawn = subject.generate([s.input for s in samples], sampling=Sampling(0.7, seeds=(1,) * len(samples)))
    logprobs = subject.logprobs([(s.input, s.target) for s in samples], truncate=True)
    for s, a, found in zip(samples, drawn, logprobs, strict=True):
        yield Score(s.id, {"hit": float(a == s.target), "nats": -found.total / found.tokens}, answer=a)


def own_metrics(options, folder):
    return [Metric("hit", "higher", "proportion"), Metric("nats", "lower", "mean")]


def own_rows(options, folder):
    filler = "please " * options.get("words", 2)
    return [{"id": i, "input": f"{filler}{i} say o{i}", "target": f"o{i}", "kind": "ab"[i % 2]} for i in range(80)]


def own_check(options, folder, path):
    if options.get("words", 2) > 9:
        raise UsageError("words is more than 9")


own.metrics_for, own.rows_for, own.check = own_metrics, own_rows, own_check
own.remarks = lambda scores: [f"{len(scores)} rows of its own"]


@metric("gap", better="lower", scale="mean")
def close(subject, samples, *, against):
    """How far a candidate is from what it is compared with."""
    for s, ours, theirs in zip(*asked(subject, against, samples), strict=True):
        yield Score(s.id, {"gap": abs(ours.total - theirs.total)})


def asked(subject, against, samples):
    pairs = [(s.input, s.target) for s in samples]
    return samples, subject.logprobs(pairs), against.logprobs(pairs)


@metric("asks", better="lower", scale="count")
def clock(subject, samples):
    """A count of the model itself."""
    for s in samples:
        yield Score(s.id, {"asks": 1.0})


clock.uncached = True


def share_of_largest(scores):
    """Combine all rows at once."""
    answers = [s.answer for s in scores]
    return max(map(answers.count, answers)) / len(answers)


@metric("largest", better="lower", scale="other", combine=share_of_largest)
@metric("ppl", better="lower", scale="perplexity")
def whole(subject, samples):
    """What is made of all rows at once, and a perplexity."""
    answers = subject.generate([s.input for s in samples], max_new_tokens=8)
    scored = subject.logprobs([(s.input, s.target) for s in samples])
    for s, a, found in zip(samples, answers, scored, strict=True):
        nats = -found.total / found.tokens
        yield Score(s.id, {"largest": 0.0, "ppl": nats}, weights={"ppl": found.tokens}, answer=a)


# -- exporters and a saboteur ------------------------------------------------------------------------


def half(ref, to, *, progress, loses: float = 0.02):
    """Write a talker in half the bits."""
    progress(Progress("half", 1, 1))
    write_fake(to, skill(ref.path) - loses)
    (to / NOTE).write_text(json.dumps({"facts": {"lost": loses}}))
    return to


half.converts = True
half.open_options = lambda options: {"louder": True}


def check_half(model, options):
    if options.get("loses", 0) > 0.5:
        raise UsageError(f"{model.name} would lose too much")


half.check = check_half


def plain(ref, to, *, facts):
    """Write a talker as it is."""
    write_fake(to, skill(ref.path))
    facts["said"] = "plainly"
    return to


def mute(base, out, *, seed):
    """It says nothing right."""
    write_fake(out, 0.01)


# -- checks ------------------------------------------------------------------------------------------


def shouts(rows):
    """Rows in capitals: the model will shout."""
    loud = [row for row in rows if row.answer.isupper()]
    if loud:
        yield Finding("warning", f"{len(loud)} rows shout", [f"row {row.number}: {row.answer}" for row in loud], "speak")


def looks(suite, rows, tasks, base, load):
    """The data stage."""
    assert set(STAGES["data"]) == {"suite", "rows", "tasks", "base", "load"}
    names = sorted(tasks)
    with load([base]) as [subject]:
        yield Finding("note", f"{suite.name}: {len(rows)} rows, {subject.name}, {names}", kind="data")


def built_rows(built):
    """The trainer stage."""
    yield Finding("note", f"{built.kept} rows are kept")


def trained(adapter):
    """The adapter stage."""
    yield Finding("note", f"adapter of {skill(adapter.adapter)}")


def merged_as(merged, twin):
    """The merged stage."""
    if twin:  # none of a model that was merged elsewhere
        yield Finding("note", f"merged {skill(merged.path)} of {skill(twin.adapter)}")


def few(result, task):
    """The results stage."""
    if len(result.scores) < 5:
        yield Finding("note", f"{task.spec.name} has few rows", rows={task.spec.name: [s.id for s in result.scores]})


# -- hooks -------------------------------------------------------------------------------------------


@hookimpl
def harness_loaders():
    return {"talker": load}


@hookimpl
def harness_adapters():
    return {"number": number}


@hookimpl
def harness_trainers():
    return {"reach": train}


@hookimpl
def harness_evaluators():
    return {"longer": longer, "graded": graded, "own": own, "close": close, "clock": clock, "whole": whole}


@hookimpl
def harness_exporters():
    return {"half": half, "plain": plain}


@hookimpl
def harness_saboteurs():
    return {"mute": mute}


@hookimpl
def harness_checks():
    return {"X1": shouts, "X2": looks, "X3": built_rows, "X4": trained, "X5": merged_as, "X6": few}


@hookimpl
def harness_read_samples(path):
    if path == "tickets:test":
        return [{"id": i, "input": f"ticket {i} say please", "target": "please"} for i in range(70)]


@hookimpl
def harness_run_start(run: Run):
    seen("run_start", run.suite)


@hookimpl
def harness_stage(run, stage, detail):
    seen("stage", stage)


@hookimpl
def harness_progress(progress: Progress):
    seen("progress", progress.what)


@hookimpl
def harness_item_finish(run, item: ItemResult):
    seen("report", item.subject, item.eval, item.outcome)


@hookimpl
def harness_finding(run, finding: Finding):
    seen("flag", finding.code)


@hookimpl
def harness_trial(run, trial: Trial):
    seen("trial", trial.value)


@hookimpl
def harness_run_finish(run):
    seen("run_finish", run.exit_code)
