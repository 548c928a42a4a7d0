"""[train] dpo and kto: rows that are judged, losses that are TRL's, a reference that is the start; eval preference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from harness.data.judged_rows import to_judged_rows  # noqa: E402
from harness.errors import CheckFailedError, UsageError  # noqa: E402
from harness.records.models import Logprob, ModelRef, Progress  # noqa: E402
from harness.records.samples import Sample  # noqa: E402
from harness_hf.models import load_model, load_tokenizer, quiet_loading  # noqa: E402
from harness_lora import lora, qlora  # noqa: E402
from harness_preference import dpo, kto, preference  # noqa: E402
from harness_preference.methods import select_labelled, select_pairs  # noqa: E402
from harness_sft.train import quiet_libraries  # noqa: E402

slow = pytest.mark.slow
PAIRS = [
    {"prompt": f"what is {i}?", "chosen": f" it is {i * i}", "rejected": f" {'no' * (1 + i % 3)} {i}"}
    for i in range(16)
]
LABELLED = [
    {"prompt": p["prompt"], "completion": p[c], "label": c == "chosen"} for p in PAIRS for c in ("chosen", "rejected")
]
PAIR, LABEL = ("prompt", "chosen", "rejected"), ("prompt", "completion", "label")
USER, GOOD, BAD = (
    {"role": r, "content": c} for r, c in (("user", "Who?"), ("assistant", "Ann."), ("assistant", "Bob."))
)
Train = Callable[..., Path]


def convert_to_chats(rows: Any) -> list[dict[str, Any]]:
    """Return rows as messages."""
    return [{name: message(name, value) for name, value in row.items()} for row in rows]


def message(column: str, value: Any) -> Any:
    """Return a text as a message of whoever says what stands in a column."""
    role = "user" if column == "prompt" else "assistant"
    return [{"role": role, "content": value.strip()}] if isinstance(value, str) else value


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> Train:
    """Return a function that trains the tiny model on the CPU by `dpo` or `kto` and returns the folder it wrote."""

    def run(
        trainer: Any = dpo,
        rows: Any = None,
        *,
        adapter: Any = None,
        name: str = "run",
        progress: Any = None,
        **more: Any,
    ) -> Path:
        ref = ModelRef("base", str(tiny_model), digest="d" * 64, options={"device": "cpu", "dtype": "float32"})
        recipe = {"learning_rate": 1e-3, "max_length": 64, "gradient_accumulation_steps": 1, "logging_steps": 1} | more
        rows = rows or (PAIRS if trainer is dpo else LABELLED)
        out = tmp_path / name / "made"
        return trainer(ref, adapter, rows, out, progress=progress or (lambda _: None), seed=3, **recipe)

    return run


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "a", "chosen": "b"},
            ': row 1 has "prompt", "chosen" and no "rejected" (1 such rows); rows need prompt',
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": None},
            (
                "row 1: rows need prompt, chosen and rejected, either all texts, or all messages that "
                "end with an answer of the assistant that is not empty"
            ),
        ),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "[train] data: row 1"),
        ({"prompt": "a", "chosen": [GOOD], "rejected": [BAD]}, "[train] data: row 1"),
        (
            {"prompt": [USER], "chosen": [{"content": "x"}], "rejected": [BAD]},
            "[train] data: row 1",
        ),
        ({"prompt": [USER], "chosen": [GOOD, USER], "rejected": [BAD]}, "[train] data: row 1"),
    ],
)
def test_wrong_pairs(row: dict[str, Any], message: str) -> None:
    """What is no pair is told by its row, in one line."""
    with pytest.raises(UsageError) as caught:
        select_pairs(to_judged_rows([row], PAIR, {}, "here", {}))
    assert message in caught.value.messages[0]
    assert len(caught.value.messages) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b"}, 'row 1 has "prompt", "completion" and no "label" (1 such rows)'),
        ({"prompt": "a", "completion": "b", "label": "yes"}, "row 1: label is 'yes'; it must be true or false"),
        ({"prompt": "a", "completion": "b", "label": None}, "row 1: label is None; it must be true or false"),
        (
            {"prompt": "a", "completion": "", "label": True},
            (
                "row 1: rows need prompt and completion, either all texts, or all messages that "
                "end with an answer of the assistant that is not empty"
            ),
        ),
        ({"prompt": [USER], "completion": ["b"], "label": True}, "[train] data: row 1"),
        (
            {"prompt": "a", "completion": "b", "label": True},
            "all rows are wanted answers (label); add some of the other kind, or use sft",
        ),
    ],
)
def test_wrong_labels(row: dict[str, Any], message: str) -> None:
    """What is no answer with a label is told by its row, in one line."""
    with pytest.raises(UsageError) as caught:
        select_labelled(to_judged_rows([row], LABEL, {}, "here", {}))
    assert message in caught.value.messages[0]


@pytest.mark.parametrize("good", ["So.", 5, {"role": "assistant", "content": "So."}])
def test_answers_of_other_forms_are_read_as_completions_are(good: Any) -> None:
    """After messages a text, a number or one message is an answer, and a number is its text."""
    [row] = to_judged_rows([{"prompt": [USER], "chosen": good, "rejected": "No."}], PAIR, {}, "here", {})
    content = good["content"] if isinstance(good, dict) else str(good)
    assert row["chosen"] == [{"role": "assistant", "content": content}]
    assert row["rejected"] == [{"role": "assistant", "content": "No."}]
    assert select_pairs([row])
    if not isinstance(good, dict):
        [row] = to_judged_rows([{"prompt": "a", "chosen": good, "rejected": 1}], PAIR, {}, "here", {})
        assert (row["chosen"], row["rejected"]) == (f" {good}", " 1")


def test_labels_of_a_table_are_true_or_false() -> None:
    """A CSV file has only texts, and its labels are read as they are written."""
    texts = ("True", "false", "1", "0")
    rows = [{"prompt": "a", "completion": "b", "label": text} for text in texts]
    found = select_labelled(to_judged_rows(rows, LABEL, {}, "here", {}))
    assert [row["label"] for row in found] == [True, False] * 2


def test_one_label_to_train_on_is_told_whatever_is_held_out() -> None:
    """Rows of the other kind that are only validated with leave nothing to tell answers apart by."""
    rows = [{**row, **({"held_out": True} if not row["label"] else {})} for row in LABELLED]
    with pytest.raises(UsageError, match="all rows are wanted answers"):
        select_labelled(rows)
    assert len(select_labelled([*rows[:-1], LABELLED[-1]])) == len(LABELLED)


def test_the_prompt_of_two_conversations_is_what_both_begin_with() -> None:
    """Conversations with the prompt in them, with it beside them or without, are rows of a prompt and two answers."""
    whole = {"chosen": [USER, GOOD], "rejected": [USER, BAD]}
    wanted = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
    for row in (whole, whole | {"prompt": "Who?"}, whole | {"prompt": [USER]}, wanted):
        assert to_judged_rows([row], PAIR, {}, "here", {}) == [wanted]
    turns = [USER, GOOD, USER]
    [row] = to_judged_rows([{"chosen": [*turns, GOOD], "rejected": [*turns, BAD]}], PAIR, {}, "here", {})
    assert row == {"prompt": turns, "chosen": [GOOD], "rejected": [BAD]}
    other = {"role": "user", "content": "When?"}
    [row] = to_judged_rows([{"chosen": [USER, GOOD], "rejected": [other, BAD]}], PAIR, {}, "here", {})
    assert row == {"prompt": [USER], "chosen": [GOOD], "rejected": [other, BAD]}
    named = [{"question": "a", "good": "b", "bad": "c"}]
    assert to_judged_rows(named, PAIR, {"chosen": "good", "rejected": "bad"}, "here", {}) == [
        {"prompt": "a", "chosen": " b", "rejected": " c"}
    ]
    with pytest.raises(
        UsageError, match='here: there is no column "best" for chosen; the columns are "question", "good", "bad"'
    ):
        to_judged_rows(named, PAIR, {"chosen": "best"}, "here", {})
    with pytest.raises(UsageError, match=r'"choosen" is not used by this trainer; did you mean "chosen"\?'):
        to_judged_rows(named, PAIR, {"choosen": "good"}, "here", {})


@slow
@pytest.mark.parametrize(
    ("trainer", "options", "message"),
    [
        (dpo, {"beta": "much"}, 'option "beta": is "much"; it must be a number'),
        (dpo, {"loss_typ": "ipo"}, 'option "loss_typ": is not a field of TRL\'s DPOConfig; did you mean "loss_type"?'),
        (dpo, {"sync_ref_model": True}, 'option "sync_ref_model": cannot be set: the reference is the model before'),
        (
            dpo,
            {"label_smoothing": 0.1},
            "label_smoothing: has no effect with this loss_type; set that to aot or aot_unpaired",
        ),
        (
            dpo,
            {"loss_type": "ipo", "discopop_tau": 0.1},
            "discopop_tau: has no effect with this loss_type; set that to discop",
        ),
        (
            kto,
            {"label_smoothing_factor": 0.1},
            "label_smoothing_factor: has no effect with this loss_type; set that to nll",
        ),
        (kto, {"packing": True}, 'option "packing": is not a field of TRL\'s KTOConfig'),
        (kto, {"use_liger_kernel": True}, "use_liger_kernel: its kernels are written for GPUs, but this is a CPU"),
    ],
)
def test_wrong_options(trainer: Any, options: dict[str, Any], message: str) -> None:
    """What TRL would refuse, or what would make another reference, is told before a model is loaded."""
    with pytest.raises(UsageError) as caught:
        trainer.check(**options)
    assert caught.value.messages[0].startswith(message)


@slow
def test_an_adapter_that_moves_the_base_has_no_reference(tiny_model: Path) -> None:
    """With PiSSA, or trained biases, the base without the adapter is not the model before training."""
    ref = ModelRef("base", str(tiny_model))
    for options in ({"init_lora_weights": "pissa"}, {"bias": "all"}):
        with pytest.raises(UsageError, match=r"which is the reference|the reference is the base"):
            dpo.build(ref, lora(**options), PAIRS, seed=3)
    with pytest.raises(UsageError, match=r"TRL rejects the rows: Actual .* batch size must be > 1"):
        kto.build(ref, lora(), LABELLED, seed=3, per_device_train_batch_size=1)


CONFIGURATIONS: dict[str, tuple[Any, bool, bool, dict[str, Any]]] = {  # trainer, chat, whole, options
    "dpo": (dpo, False, False, {}),
    "kto": (kto, False, False, {}),
    "dpo, all weights": (dpo, False, True, {}),
    "dpo, messages": (dpo, True, False, {}),
    "ipo": (dpo, False, False, {"loss_type": "ipo", "beta": 0.5}),
    "hinge, accumulated": (dpo, False, False, {"loss_type": "hinge", "gradient_accumulation_steps": 3}),
    "two losses": (dpo, False, False, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    "smoothed, cut": (dpo, False, False, {"loss_type": "robust", "label_smoothing": 0.1, "max_length": 20}),
    "kto, messages, accumulated": (kto, True, False, {"gradient_accumulation_steps": 2, "undesirable_weight": 1.5}),
    "apo, all weights": (kto, False, True, {"loss_type": "apo_zero_unpaired"}),
}


@slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_losses_are_trls(name: str, trained: Train, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """On torch's own kernels each step's loss and the weights at the end are plain TRL's, bit for bit."""
    trainer, chat, whole, options = CONFIGURATIONS[name]
    monkeypatch.setattr("harness_hf.cpu.linear.is_onednn_available", lambda: False)
    monkeypatch.setattr("harness_hf.cpu.head.project_labelled_once", nullcontext)
    rows = PAIRS if trainer is dpo else LABELLED
    rows = convert_to_chats(rows) if chat else rows
    adapter = None if whole else lora(lora_dropout=0.0, r=4)
    seen: list[float] = []
    with record_losses(seen):
        out = trained(trainer, rows, adapter=adapter, **options)
    recipe = {"learning_rate": 1e-3, "max_length": 64, "gradient_accumulation_steps": 1} | options
    theirs, model = train_with_trl(trainer, rows, adapter, tiny_model, tmp_path, recipe)
    assert seen == theirs
    assert len(seen) >= 3
    if whole:
        ours, same = load_file(out / "model.safetensors"), model.state_dict()
        assert all(torch.equal(tensor, same[name]) for name, tensor in ours.items())
    else:
        ours = load_file(out / "adapter_model.safetensors")
        same = {k.replace(".default", ""): v for k, v in model.state_dict().items() if ".default" in k}
        assert ours.keys() == same.keys()
        assert all(torch.equal(tensor, same[name]) for name, tensor in ours.items())


@slow
def test_losses_are_trls_on_our_kernels(trained: Train, tiny_model: Path, tmp_path: Path) -> None:
    """With the products of oneDNN and each logit computed once, losses are TRL's but for the rounding of sums."""
    seen: list[float] = []
    with record_losses(seen):
        trained(adapter=lora(lora_dropout=0.0, r=4))
    recipe = {"learning_rate": 1e-3, "max_length": 64, "gradient_accumulation_steps": 1}
    theirs, _ = train_with_trl(dpo, PAIRS, lora(lora_dropout=0.0, r=4), tiny_model, tmp_path, recipe)
    assert seen == pytest.approx(theirs, abs=1e-5)


@contextmanager
def record_losses(seen: list[float]) -> Iterator[None]:
    """Note the loss of every step of the trainings within."""
    from harness_sft.trainer import ProgressCallback

    before = ProgressCallback.on_step_end

    def note(self: Any, *args: Any, **given: Any) -> None:
        before(self, *args, **given)
        seen.append(self.steps[-1].loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressCallback, "on_step_end", note)
        yield


def train_with_trl(
    trainer: Any, rows: Any, adapter: Any, base: Path, folder: Path, recipe: dict[str, Any]
) -> tuple[list[float], Any]:
    """Train with TRL alone, as its documentation says; return the loss of every step and the model."""
    with quiet_loading(), quiet_libraries():
        return _train_with_trl(trainer, rows, adapter, base, folder, recipe)


def _train_with_trl(
    trainer: Any, rows: Any, adapter: Any, base: Path, folder: Path, recipe: dict[str, Any]
) -> tuple[list[float], Any]:
    import trl
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, TrainerCallback, set_seed

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        set_seed(3)
        model = get_peft_model(model, adapter.peft_config())
    config, made = (trl.DPOConfig, trl.DPOTrainer) if trainer is dpo else (trl.KTOConfig, trl.KTOTrainer)
    batch = 2 if trainer is dpo else 4
    about = {"warmup_steps": 0.05, "lr_scheduler_type": "cosine", "per_device_train_batch_size": batch, "seed": 3}
    about |= {"data_seed": 3, "num_train_epochs": 1, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    about |= {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_nan_inf_filter": False}
    losses: list[float] = []

    class Note(made):  # type: ignore[misc, valid-type]
        def training_step(self, *args: Any, **given: Any) -> Any:
            loss = super().training_step(*args, **given)
            parts.append(float(loss))
            return loss

    class Sum(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **given: Any) -> None:
            total = 0.0
            for part in parts:
                total += part
            losses.append(total)
            parts.clear()

    parts: list[float] = []
    args = config(output_dir=str(folder / "plain"), **(about | recipe))
    one = Note(
        model,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(base),
        callbacks=[Sum()],
    )
    one.train()
    return losses, one.model


@slow
def test_facts_and_resume(trained: Train, tmp_path: Path) -> None:
    """The first loss is ln 2, rewards and margins are told, and a training that was killed ends with the same bits."""

    def interrupt(progress: Progress) -> None:
        if progress.done == 5:
            raise OSError("killed")

    recipe = {"save_steps": 2, "validation": 0.25, "adapter": qlora(r=4), "learning_rate": 1e-2}
    whole = trained(name="whole", **recipe)
    with pytest.raises(OSError, match="killed"):
        trained(progress=interrupt, **recipe)
    again = trained(**recipe)
    facts = [json.loads((out / "harness-adapter.json").read_text())["facts"] for out in (whole, again)]
    assert facts[0] | {"tokens_per_second": 0} == facts[1] | {"tokens_per_second": 0}
    one, two = (load_file(out / "adapter_model.safetensors") for out in (whole, again))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert facts[0]["first_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert facts[0]["first_reward"] == 0.0
    assert facts[0]["reward_margin"] == pytest.approx(facts[0]["chosen_reward"] - facts[0]["rejected_reward"])
    assert facts[0]["reward_margin"] > 0 and 0 <= facts[0]["reward_accuracy"] <= 1
    assert (facts[0]["validation_rows"], len(facts[0]["validation_loss"])) == (4, 1)
    assert sorted(file.name for file in whole.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "harness-adapter.json",
    ]


@slow
def test_a_first_step_of_one_label_has_its_reward(trained: Train) -> None:
    """Where the first answers are all unwanted, P1 is still told how far their rewards are from 0."""
    out = trained(kto, sorted(LABELLED, key=lambda row: row["label"]), adapter=lora(r=4), max_steps=2)
    facts = json.loads((out / "harness-adapter.json").read_text())["facts"]
    assert facts["first_reward"] == 0.0 and "chosen_reward" not in facts


@slow
def test_another_reference_is_told(trained: Train, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that is not the model before training stops it at the first step."""
    from harness_preference.methods import METHODS

    def other(ref: Any, adapter: Any) -> dict[str, Any]:
        model = load_model(tiny_model, dtype="float32", device="cpu")
        for parameter in model.parameters():
            parameter.data.mul_(1.05)
        return {"ref_model": model}

    monkeypatch.setitem(vars(METHODS["dpo"]), "beside", other)
    with pytest.raises(
        CheckFailedError,
        match=r"the first loss is 0\.\d+, but it must be ln 2 = 0\.6931, so the reference is another model",
    ):
        trained()
    with pytest.raises(CheckFailedError, match=r"it must be 0\.5 \* ln 2 = 0\.3466, so the reference is another model"):
        trained(name="half", loss_type=["sigmoid"], loss_weights=[0.5])


@slow
@pytest.mark.parametrize("options", [{"loss_type": ["sigmoid"], "loss_weights": [0.5]}, {"use_weighting": True}])
def test_a_weighted_loss_is_no_other_reference(options: dict[str, Any], trained: Train) -> None:
    """A first loss that is scaled, or weighted by likelihoods (WPO), is what no difference gives."""
    folder = trained(max_steps=1, adapter=lora(lora_dropout=0.0, r=4), **options)
    assert (folder / "adapter_model.safetensors").is_file()


class Known:
    """A subject that knows how likely each answer is: total nats and tokens."""

    def __init__(self, **known: tuple[float, int]) -> None:
        self.known = known

    def logprobs(self, pairs: Any, **_: Any) -> list[Logprob]:
        return [Logprob(*self.known[text.strip()], len(text), False) for _, text in pairs]


def test_preference() -> None:
    """A pair counts where the chosen answer is likelier, as a whole or by the token; a tie and a NaN do not."""
    subject: Any = Known(short=(-3.0, 1), long=(-4.0, 4), same=(-3.0, 1), broken=(float("nan"), 1))
    pairs = [("short", "long"), ("long", "short"), ("short", "same"), ("short", "broken")]
    samples = [Sample(str(i), "q", row={"chosen": f" {a}", "rejected": f" {b}"}) for i, (a, b) in enumerate(pairs)]
    scores = list(preference(subject, samples))
    assert [(s.values["preferred"], s.values["preferred_norm"]) for s in scores[:3]] == [(1, 0), (0, 1), (0, 0)]
    assert scores[2].note == "tie" and scores[3].values["preferred"] != scores[3].values["preferred"]
    bare = [Sample(s.id, s.input, row={name: text.strip() for name, text in s.row.items()}) for s in samples]
    assert [(s.values, s.answer) for s in preference(subject, bare[:3])] == [(s.values, s.answer) for s in scores[:3]]
    chat = Sample(
        "c", [USER], row={"chosen": [USER, {**GOOD, "content": "short"}], "rejected": [{**BAD, "content": "long"}]}
    )
    assert next(preference(subject, [chat])).values["preferred"] == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a"}, 'column "rejected" is None; it must be a text'),
        ({"chosen": "a", "rejected": 3}, 'column "rejected" is 3; it must be a text'),
        ({"chosen": "", "rejected": "b"}, "column \"chosen\" is ''; it must be a text"),
        ({"chosen": "a", "rejected": "a"}, 'columns "chosen" and "rejected" are equal'),
        ({"chosen": [GOOD], "rejected": [BAD]}, 'column "chosen" is [{'),
    ],
)
def test_wrong_rows_of_preference(row: dict[str, Any], message: str) -> None:
    """What is no pair of answers is told by its row."""
    subject: Any = Known()
    with pytest.raises(UsageError) as caught:
        list(preference(subject, [Sample("x", "q", row=row)]))
    assert 'row "x"' in caught.value.messages[0] and message in caught.value.messages[0]
