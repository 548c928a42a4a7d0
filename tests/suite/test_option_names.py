"""Options of LLaMA-Factory, axolotl, Unsloth, TRL and lm_eval are named as a suite calls them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.errors import suggest_option
from harness.plugins import load_plugins
from harness.records.claims.gate import Gate
from harness.records.suite_header import SuiteTable
from harness.schema import list_options
from harness.suite import tables
from harness.testing import ROWS, SUITE, TRAIN, Project
from harness.texts.option_names import OPTION_NAMES

SHOWN: dict[str, tuple[str, str]] = {  # name -> the table that it is written in, and what is said of it
    "lora_rank": ("adapter", 'did you mean "r"?'),
    "lora_target": ("adapter", 'did you mean "target_modules"?'),
    "lora_alpha_": ("adapter", 'did you mean "lora_alpha"?'),
    "cutoff_len": ("train", 'did you mean "max_length"?'),
    "sequence_len": ("train", 'did you mean "max_length"?'),
    "micro_batch_size": ("train", 'did you mean "per_device_train_batch_size"?'),
    "val_set_size": ("train", 'did you mean "validation"?'),
    "lr": ("train", 'did you mean "learning_rate"?'),
    "epochs": ("train", 'did you mean "num_train_epochs"?'),
    "num_epochs": ("train", 'did you mean "num_train_epochs"?'),
    "lora_r": ("train", 'it is "r" in [adapter]'),
    "base_model": ("train", 'it is "path" in [model]'),
    "export_dir": ("train", 'it is "to" in [[export]]'),
    "load_in_4bit": ("train", 'write use = "qlora" in [adapter]'),
    "train_on_inputs": ("train", "write completion_only_loss in [train], with the opposite value"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_an_option_of_another_tool_is_named_as_it_is_here(name: str, project: Project) -> None:
    """The line about an unknown option says which it is here, and in which table."""
    pytest.importorskip("trl")
    table, said = SHOWN[name]
    text = SUITE.replace('[adapter]\nuse = "fake"', '[adapter]\nuse = "lora"').replace(
        '[train]\nuse = "fake"', '[train]\nuse = "sft"'
    )
    text = text.replace(f"[{table}]\n", f"[{table}]\n{name} = 1\n", 1)
    outcome = project.write({"suite.toml": text, "test.jsonl": ROWS, "train.jsonl": TRAIN}).run()  # type: ignore[dict-item]
    assert outcome.code == 4
    assert f'"{name}"' in outcome.err and said in outcome.err, outcome.err


def test_a_table_of_another_tool_is_named_too(project: Project) -> None:
    """What other tools write at the top of their file belongs into a table."""
    text = f'base_model = "x"\nmicro_batch_size = 2\n{SUITE}'
    outcome = project.write({"suite.toml": text}).run()
    assert 'unknown table "base_model"; it is "path" in [model]' in outcome.err
    assert 'unknown table "micro_batch_size"; it is "per_device_train_batch_size" in [train]' in outcome.err


@pytest.mark.slow
def test_every_key_that_is_named_exists() -> None:
    """Each TABLE.KEY is a field of its table, or an option of a plugin of ours or of the library behind it."""
    peft, trl = pytest.importorskip("peft"), pytest.importorskip("trl")
    provided = load_plugins(None).provided

    def options(kind: str, *libraries: Any) -> set[str]:
        own = {n for (k, _), p in provided.items() if k == kind for n in list_options(p.function)[0]}
        return own.union(*({f.name for f in dataclasses.fields(library)} for library in libraries))

    def fields(cls: Any) -> set[str]:
        return {f.name.rstrip("_") for f in dataclasses.fields(cls)}

    known = {
        "model": fields(tables.Model) | options("loader"), "suite": fields(SuiteTable),
        "adapter": fields(tables.Use) | options("adapter", peft.LoraConfig),
        "train": fields(tables.Train) | options("trainer", trl.SFTConfig, trl.DPOConfig),
        "candidate": fields(tables.Candidate), "export": fields(tables.Export), "gate": fields(Gate),
        "eval": fields(tables.Eval) | options("evaluator"), "subject.NAME": fields(tables.Baseline),
    }  # fmt: skip
    named = {meant.rpartition(".")[::2] for meant in OPTION_NAMES.values() if " " not in meant}
    assert [(table, key) for table, key in named if key not in known[table]] == []
    assert all(suggest_option(name, ()) for name in OPTION_NAMES)
