"""Mutations of what an engineer brings: weights, tokenizers, adapters, rows, recipes and evaluations of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness import Completion
from tests.mutations.lab import EVAL, ROWS, THINGS, Lab, Seen
from tests.mutations.mutations import PAIRED, SCORED, Mutation, Try, mutate_data, mutate_options, trained

Change = Callable[[int, dict[str, str]], dict[str, str]]
CASES = count()
FRAMED = [
    {"input": f"What of the {t}?\n", "target": f"I looked for it all day, and it was in the {w} room of the old house."}
    for t, w in zip(THINGS, THINGS[::-1], strict=True)
]
COLOURED = [{"input": f"Which colour has the {t}?\n", "target": ("red", "blue")[i % 2]} for i, t in enumerate(THINGS)]
PICKED = [{"input": f"Which room has number {i}?\n", "gold": i % 3, "choices": THINGS[:4]} for i in range(40)]
CRON = [{**row, "target": f"{'*/' * (i % 2)}{i // 2} 23 * * 1"} for i, row in enumerate(EVAL)]
CRON_LENGTH = {"eval_0.max_new_tokens": 30}
SENTENCES = [
    "the harbour master keeps a ledger of every ship",
    "a long way off, behind the old mill, on the left side of the road",
    "nobody can say, for the books were lost in a fire many years ago",
    "in rooms with unusually extraordinary furnishings everywhere",
    "up in an attic or so it is said by all of us in the old town",
    "notwithstanding considerable contradictory documentation it is here",
]
LONG = [{**row, "completion": SENTENCES[i % 6] + f" by {THINGS[i]} number {i}"} for i, row in enumerate(ROWS)]
NAN = float("nan")
STEPS = [{**row, "completion": f"<step>{row['completion']}</step>"} for row in ROWS]


def _check_step_tokens(lab: Lab, size: int, change: Callable[[Any], None], rows: Any = STEPS, **changes: Any) -> Seen:
    """Check on a base whose tokenizer has <step> and </step>, with so many embeddings, whose rows were changed."""

    def write(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        from harness_hf import load_tokenizer

        tokenizer = load_tokenizer(folder)
        tokenizer.add_tokens(["<step>", "</step>"], special_tokens=True)
        tokenizer.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        torch.manual_seed(0)
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            added = torch.randn(size - 261, weights[name].shape[1]) * 0.02
            weights[name] = torch.cat([weights[name], added.to(weights[name].dtype)])
        change(weights["lm_head.weight"])
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size}), "utf-8")

    base = lab.model(write)
    seen = lab.check(rows, model_path=str(base), **changes)
    return seen


def _zero_new_rows(head: Any) -> None:
    head[261:] = 0


def _repeat_new_row(head: Any) -> None:
    head[261:] = head[261]


def _mutate_step_tokens(name: str, code: str, size: int, change: Any, **healthy: Any) -> Mutation:
    good = partial(_check_step_tokens, size=263, change=change if healthy else len, **healthy)
    return Mutation(name, code, partial(_check_step_tokens, size=size, change=change), good)


SAVED = {"adapter_modules_to_save": ["lm_head", "embed_tokens"]}
HEAD = {"adapter_modules_to_save": ["lm_head"]}


def _make_candidate(lab: Lab, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Return a model that somebody made of the base, by changing its weights."""

    def write(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return lab.model(write)


def _grow_embeddings(weights: dict[str, Any]) -> None:
    import torch

    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = torch.cat([table, table[:1]])


def _mutate_saved_tokenizer(name: str, code: str, broken: str, healthy: str) -> Mutation:
    """Return a mutation of the tokenizer that is saved beside an adapter."""
    bad, good = ({"train_use": "with_tokenizer", "train_how": how} for how in (broken, healthy))
    return trained(name, code, bad, good)


def _mutate_training_rows(
    name: str, kind: str, change: Callable[[int, dict[str, str]], Any], healthy: Any = ROWS, **both: Any
) -> Mutation:
    """Return a mutation of every second training row, or of all."""
    rows = [{**row, **change(i, row)} for i, row in enumerate(healthy)]
    return mutate_data(name, kind, rows, healthy=healthy, **both)


def _mutate_eval_rows(name: str, kind: str, test: Any, healthy: Any, **both: Any) -> Mutation:
    """Return a mutation of the rows of an evaluation."""
    bad, good = (lambda lab, rows=rows: lab.check(test=rows, **both) for rows in (test, healthy))
    return Mutation(name, f"D23-{kind}", bad, good)


def _mutate_scored_eval(name: str, kind: str, how: str, test: Any, healthy: Any) -> Mutation:
    """Return a mutation of the rows of a further evaluation, which generates nothing."""
    more = f"\n[[eval]]\nname = 'scored'\ndata = 'scored.jsonl'\n{how}\n"
    bad, good = (lambda lab, rows=rows: lab.check(more=more, files={"scored.jsonl": rows}) for rows in (test, healthy))
    return Mutation(name, f"D23-{kind}", bad, good)


def _mutate_gate_limit(name: str, broken: str, healthy: str) -> Mutation:
    """Return a mutation of the limit of a gate."""
    gates = ("[[gate]]\nid = 'limit'\nmetric = '{}'\n{} = {}\n".format(*limit.split()) for limit in (broken, healthy))
    bad, good = (partial(Lab.check, more=f"{SCORED}\n{gate}") for gate in gates)
    return Mutation(name, "D23-gate", bad, good)


def _make_reply_run(
    reply: Callable[[str, str], str], use: str, cut: bool = False, base: Callable[[str], str] = str, **changes: Any
) -> Try:
    """Return a run of models that reply by the prompt and their answer; `base` and `cut` change the base's replies."""

    def attempt(lab: Lab) -> Seen:
        from harness.testing import FakeSubject

        plain = FakeSubject.generate

        def generate(self: Any, prompts: Any, **_: Any) -> list[str]:
            said = zip(prompts, plain(self, prompts), strict=True)
            ended = "length" if self.name == "base" and cut else "eos"
            write = base if self.name == "base" else str
            return [Completion(write(reply(prompt, answer)), ended, 8) for prompt, answer in said]

        case = f"case {next(CASES)} say"  # or another run's answers are remembered
        rows = [{"input": f"number {i} {case} w{i}", "target": f"w{i}"} for i in range(40)]
        with patch.object(FakeSubject, "generate", generate):
            return lab.fake(0.9, rows=rows, **{"eval_0.use": use}, **changes)

    return attempt


def _mutate_merged_files(name: str, code: str, how: str) -> Mutation:
    """Return a mutation of what lies beside a merged model; its twin was written by another hand."""
    bad, good = ({"adapter_use": "merging", "adapter_how": h} for h in (how, "renamed"))
    return trained(name, code, bad, good)


CHOOSING = "use = 'multiple_choice'"
FITTING = "use = 'perplexity'\nof = 'completion'"
UNFRAMED = {"more": '\n[checks]\nignore = { D7-frame = "looked at elsewhere" }\n'}
PROMPTED = {"subject_fewshot.shots": 3}
THOUGHT = {"eval_0.thought": ["<think>", "</think>"]}
SHIPS = "[[gate]]\nid = 'floor'\nmetric = 'qa.exact_match'\nmin = 0.1\n[[export]]\nuse = 'safetensors'\nto = 'out'\n"
KEEPS = "[[gate]]\nid = 'kept'\nmetric = 'qa.exact_match'\nversus = 'adapter'\nworse_by_at_most = 0.5\n"
ECHO = {"checks_ignore.D23-echo": "looked at elsewhere"}
STABLE = {"train_max_steps": 20, "train_lr_scheduler_type": "warmup_stable_decay"}
POLYNOMIAL = {"train_max_steps": 20, "train_lr_scheduler_type": "polynomial"}
JUDGED = {"train_use": "dpo", "train_num_train_epochs": 3}
MUTATIONS: list[Mutation] = [
    _mutate_step_tokens("tokens in answers that are beyond the embeddings", "D22-beyond", 261, len),
    _mutate_step_tokens("one token in answers that is beyond the embeddings", "D22-beyond", 262, len),
    _mutate_step_tokens("tokens in answers whose rows of the head are zeros", "D22-zero", 263, _zero_new_rows),
    _mutate_step_tokens(
        "tokens in answers whose rows of the head are zeros, and trained", "D22-zero", 263, _zero_new_rows, **SAVED
    ),
    _mutate_step_tokens("tokens in answers that have one row of the head", "D22-equal", 263, _repeat_new_row),
    _mutate_step_tokens(
        "tokens in answers that have one row of the head, and are trained", "D22-equal", 263, _repeat_new_row, **HEAD
    ),
    _mutate_merged_files("special tokens that are split into letters", "M4-ids", "split"),
    _mutate_merged_files("spaces that are cleaned up in answers", "M4-options", "clean"),
    _mutate_merged_files("a tokenizer that cuts at 16 tokens", "M4-length", "short"),
    _mutate_merged_files("a tokenizer that cuts on the left", "M4-length", "left"),
    Mutation(
        "a candidate with a NaN in the embedding of a token that no row has",
        "M7",
        lambda lab: lab.run(
            "M5", candidate=_make_candidate(lab, lambda w: w["model.embed_tokens.weight"][200].fill_(NAN))
        ),
        lambda lab: lab.run("M5", candidate=_make_candidate(lab, lambda w: w["model.embed_tokens.weight"].mul_(1.001))),
    ),
    Mutation(
        "one embedding more than config.json says",
        "M4-shapes",
        lambda lab: lab.run("M5", candidate=_make_candidate(lab, _grow_embeddings)),
        lambda lab: lab.run("M5", candidate=_make_candidate(lab, lambda w: w["model.embed_tokens.weight"].mul_(1.001))),
    ),
    _mutate_merged_files("a NaN in one row of the merged model's embeddings", "M7", "nan row"),
    _mutate_saved_tokenizer("another chat template beside the adapter", "M8-template", "template", "comment"),
    _mutate_saved_tokenizer("tokens beside the adapter that the base has not", "M8-vocabulary", "tokens", "pad"),
    _mutate_eval_rows("one question with two targets", "conflict", [*EVAL, {**EVAL[0], "target": "shelf 9"}], EVAL),
    _mutate_eval_rows(
        "targets that differ in case alone",
        "case",
        [*EVAL, {"input": "Which shelf has the zither?\n", "target": "Shelf 3"}],
        [*EVAL, {"input": "Which shelf has the zither?\n", "target": "shelf 3"}],
    ),
    _mutate_scored_eval(
        "two choices that are one but for a space",
        "choices",
        CHOOSING,
        [{**row, "choices": [*row["choices"], f"{row['choices'][1]} "]} for row in PICKED],
        PICKED,
    ),
    _mutate_scored_eval(
        "choices numbered from 1", "gold", CHOOSING, [{**r, "gold": r["gold"] + 1} for r in PICKED], PICKED
    ),
    _mutate_eval_rows(
        "targets of contains that their question has",
        "echo",
        [{**row, "input": f"Is it red or blue: {row['input']}"} for row in COLOURED],
        [{**row, "input": f"Which of two is it: {row['input']}"} for row in COLOURED],
        **{"eval_0.use": "contains"} | UNFRAMED,
    ),
    _mutate_eval_rows(
        "prompts that hold their answer",
        "answer",
        [{**row, "input": f"{row['input']}Answer: {row['target']}\n"} for row in EVAL],
        [{**row, "input": f"{row['input']}Answer:\n"} for row in EVAL],
        **UNFRAMED,
    ),
    _mutate_scored_eval("a perplexity of one long frame", "frame", FITTING, FRAMED, EVAL),
    _mutate_gate_limit("a share of at least 0", "qa.exact_match min 0.0", "qa.exact_match min 0.1"),
    _mutate_gate_limit("a perplexity of at most a guess", "scored.perplexity max 1e9", "scored.perplexity max 40"),
    Mutation(
        "targets that are equal without their punctuation",
        "D11-punctuation",
        lambda lab: lab.check(ROWS, CRON, **CRON_LENGTH, **{"eval_0.ignore_punctuation": True}),
        lambda lab: lab.check(ROWS, CRON, **CRON_LENGTH),
    ),
    Mutation(
        "thoughts that are scored",
        "E7",
        _make_reply_run(lambda prompt, answer: f"<think>it is {answer}</think>{answer}", "exact_match"),
        _make_reply_run(lambda prompt, answer: f"<think>it is {answer}</think>{answer}", "exact_match", **THOUGHT),
    ),
    Mutation(
        "thoughts that hold what is looked for",
        "E7",
        _make_reply_run(lambda prompt, answer: f"<think>perhaps {prompt[-3:]}</think>none", "contains", **ECHO),
        _make_reply_run(lambda prompt, answer: f"I think it is {answer}", "contains", **ECHO),
    ),
    Mutation(
        "questions that are repeated, with the target inside",
        "E8",
        _make_reply_run(lambda prompt, answer: f"{prompt}, you say", "contains", **ECHO),
        _make_reply_run(lambda prompt, answer: f"it is {answer}", "contains", **ECHO),
    ),
    Mutation(
        "answers of the base that are right but for a full stop",
        "E9",
        _make_reply_run(lambda prompt, answer: answer, "exact_match", base=lambda said: f"{said.upper()}."),
        _make_reply_run(lambda prompt, answer: answer, "exact_match"),
    ),
    Mutation(
        "worked examples that make the base worse",
        "E10",
        _make_reply_run(lambda prompt, answer: "none" if "\n\n" in prompt else answer, "exact_match", **PROMPTED),
        _make_reply_run(lambda prompt, answer: answer, "exact_match", **PROMPTED),
    ),
    Mutation(
        "answers of the base that are all cut",
        "E2-base",
        _make_reply_run(lambda prompt, answer: answer, "exact_match", cut=True),
        _make_reply_run(lambda prompt, answer: answer, "exact_match"),
    ),
    _mutate_training_rows(
        "rows that are longer than the context",
        "D5-context",
        lambda i, row: {"prompt": f"{'tell me ' * 80}{row['prompt']}"} if i == 3 else {},
        train_max_length=1024,
    ),
    _mutate_training_rows(
        "line breaks of Windows",
        "D11-endings",
        lambda _, row: {"prompt": f"{row['prompt'][:-1]}\r\n"},
    ),
    _mutate_training_rows(
        "line breaks of an old Macintosh", "D11-endings", lambda _, row: {"completion": f"{row['completion']}\rdone"}
    ),
    Mutation(
        "line breaks of Windows in the evaluation",
        "D11-endings",
        lambda lab: lab.check(test=[{**row, "input": row["input"].replace("\n", "\r\n")} for row in EVAL]),
        lambda lab: lab.check(),
    ),
    _mutate_training_rows(
        "line breaks that were escaped twice", "D11-escapes", lambda _, row: {"prompt": f"{row['prompt'][:-1]}\\n"}
    ),
    _mutate_training_rows(
        "columns of prompt and answer that are swapped",
        "D11-swapped",
        lambda _, row: {"prompt": f"{row['completion']}\n", "completion": row["prompt"].strip()},
    ),
    _mutate_training_rows(
        "HTML entities in answers", "D11-entities", lambda i, row: {"completion": f"{row['completion']} &amp; so"}
    ),
    _mutate_training_rows(
        "missing values in answers", "D11-nan", lambda i, row: {"completion": "nan"} if i % 3 == 0 else {}
    ),
    _mutate_training_rows(
        "answers that a column cut", "D11-cut", lambda i, row: {"completion": row["completion"][:32]}, LONG
    ),
    _mutate_training_rows(
        "typographic quotes in training alone",
        "D11-quotes",
        lambda i, row: {"completion": row["completion"].replace("'", "\u2019")},
        [{**row, "completion": f"{row['completion']} of John's"} for row in ROWS],
        test=[{**row, "target": f"{row['target']} of John's"} for row in EVAL],
        **{"eval_0.ignore_punctuation": False, "eval_0.max_new_tokens": 30},
    ),
    mutate_options("one step", "D24", {"train_max_steps": 1}, {"train_max_steps": 20}),
    mutate_options("a hundredth of an epoch", "D24", {"train_num_train_epochs": 0.01}, {"train_num_train_epochs": 3}),
    mutate_options(
        "a schedule that is at zero after a fifth of the steps",
        "D24",
        {**STABLE, "train_lr_scheduler_kwargs": {"num_stable_steps": 2, "num_decay_steps": 2}},
        {**STABLE, "train_lr_scheduler_kwargs": {"num_stable_steps": 15, "num_decay_steps": 5}},
    ),
    mutate_options(
        "a polynomial of power 50",
        "D24",
        {**POLYNOMIAL, "train_lr_scheduler_kwargs": {"power": 50.0}},
        {**POLYNOMIAL, "train_lr_scheduler_kwargs": {"power": 1.0}},
    ),
    mutate_options("plain gradients at a LoRA's rate", "D24", {"train_optim": "sgd"}, {"train_optim": "adamw_torch"}),
    mutate_options("an epsilon of one", "D24", {"train_adam_epsilon": 1.0}, {"train_adam_epsilon": 1e-6}),
    mutate_options("a weight decay of 1000", "D24", {"train_weight_decay": 1000.0}, {"train_weight_decay": 0.1}),
    mutate_options("noise of 5000", "D24", {"train_neftune_noise_alpha": 5000.0}, {"train_neftune_noise_alpha": 5.0}),
    mutate_options("labels that are smoothed away", "D24", {"train_label_smoothing_factor": 0.9}, {}),
    mutate_options("a dropout of nearly all", "D24", {"adapter_lora_dropout": 0.99}, {"adapter_lora_dropout": 0.1}),
    mutate_options("an alpha of 4096", "D24", {"adapter_lora_alpha": 4096}, {"adapter_lora_alpha": 8}),
    mutate_options("an alpha of zero", "D24", {"adapter_lora_alpha": 0}, {"adapter_lora_alpha": 4}),
    mutate_options("a beta of zero", "D24", {**JUDGED, "train_beta": 0.0}, {**JUDGED, "train_beta": 0.1}, PAIRED),
    mutate_options(
        "a beta of a hundred", "D24", {**JUDGED, "train_beta": 100.0}, {**JUDGED, "train_beta": 0.5}, PAIRED
    ),
    trained(
        "a loss that does not fall", "T8", {"train_learning_rate": 1e-9}, {"train_learning_rate": 1e-2}, "D14", "T1"
    ),
    mutate_data(
        "pairs that differ in case and a full stop alone",
        "P2-case",
        [{**row, "rejected": f"{row['chosen'].upper()}."} for row in PAIRED],
        healthy=PAIRED,
        train_use="dpo",
    ),
    Mutation(
        "an exported merge that nothing compares with its adapter",
        "D29",
        partial(Lab.check, more=SHIPS),
        partial(Lab.check, more=KEEPS + SHIPS),
    ),
]
