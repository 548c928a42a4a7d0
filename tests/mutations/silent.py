"""Mutations of what an engineer brings: weights, tokenizers, adapters, rows, recipes and evaluations of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.mutations.lab import ROWS, Lab, Seen
from tests.mutations.mutations import Mutation, trained

NAN = float("nan")
STEPS = [{**row, "completion": f"<step>{row['completion']}</step>"} for row in ROWS]


def _stepping(lab: Lab, size: int, change: Callable[[Any], None], rows: Any = STEPS, **changes: Any) -> Seen:
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


def _zero(head: Any) -> None:
    head[261:] = 0


def _same(head: Any) -> None:
    head[261:] = head[261]


def _stepped(name: str, code: str, size: int, change: Any, **healthy: Any) -> Mutation:
    good = partial(_stepping, size=263, change=change if healthy else len, **healthy)
    return Mutation(name, code, partial(_stepping, size=size, change=change), good)


SAVED = {"adapter_modules_to_save": ["lm_head", "embed_tokens"]}
HEAD = {"adapter_modules_to_save": ["lm_head"]}


def _candidate(lab: Lab, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Return a model that somebody made of the base, by changing its weights."""

    def write(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return lab.model(write)


def _beside(name: str, code: str, broken: str, healthy: str) -> Mutation:
    """Return a mutation of the tokenizer that is saved beside an adapter."""
    bad, good = ({"train_use": "with_tokenizer", "train_how": how} for how in (broken, healthy))
    return trained(name, code, bad, good)


def _spoilt(name: str, code: str, how: str) -> Mutation:
    """Return a mutation of what lies beside a merged model; its twin was written by another hand."""
    bad, good = ({"adapter_use": "merging", "adapter_how": h} for h in (how, "renamed"))
    return trained(name, code, bad, good)


MUTATIONS: list[Mutation] = [
    _stepped("tokens in answers that are beyond the embeddings", "D22-beyond", 261, len),
    _stepped("one token in answers that is beyond the embeddings", "D22-beyond", 262, len),
    _stepped("tokens in answers whose rows of the head are zeros", "D22-zero", 263, _zero),
    _stepped("tokens in answers whose rows of the head are zeros, and trained", "D22-zero", 263, _zero, **SAVED),
    _stepped("tokens in answers that have one row of the head", "D22-equal", 263, _same),
    _stepped("tokens in answers that have one row of the head, and are trained", "D22-equal", 263, _same, **HEAD),
    _spoilt("special tokens that are split into letters", "M4-ids", "split"),
    _spoilt("spaces that are cleaned up in answers", "M4-options", "clean"),
    _spoilt("a tokenizer that cuts at 16 tokens", "M4-length", "short"),
    _spoilt("a tokenizer that cuts on the left", "M4-length", "left"),
    Mutation(
        "a candidate with a NaN in the embedding of a token that no row has",
        "M7",
        lambda lab: lab.run("M5", candidate=_candidate(lab, lambda w: w["model.embed_tokens.weight"][200].fill_(NAN))),
        lambda lab: lab.run("M5", candidate=_candidate(lab, lambda w: w["model.embed_tokens.weight"].mul_(1.001))),
    ),
    _spoilt("a NaN in one row of the merged model's embeddings", "M7", "nan row"),
    _beside("another chat template beside the adapter", "M8-template", "template", "comment"),
    _beside("tokens beside the adapter that the base has not", "M8-vocabulary", "tokens", "pad"),
]
