"""[train] sft: the rows that are learnt from, a training that really trains, and one that goes on where it stopped."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from harness.artifacts.artifact_cache import NOTES  # noqa: E402
from harness.data.rows import to_training_rows  # noqa: E402
from harness.errors import UsageError  # noqa: E402
from harness.records.models import ModelRef, Progress  # noqa: E402
from harness.reports.run_folder import STEPS, read_steps  # noqa: E402
from harness_checks.batches import cut_rows, end_token, rows_that_vanish  # noqa: E402
from harness_hf.cpu import linear  # noqa: E402
from harness_hf.models import load_model, load_tokenizer  # noqa: E402
from harness_lora import lora, qlora  # noqa: E402
from harness_lora.files import read_headers  # noqa: E402
from harness_sft import check, sft, train  # noqa: E402
from harness_sft.rows import as_dataset, name_rows, select_columns, split_rows  # noqa: E402

pytestmark = pytest.mark.slow
ROWS = [{"prompt": f"what is {i}?", "completion": f" it is {i * i}"} for i in range(40)]
RECIPE: dict[str, Any] = {"num_train_epochs": 2, "max_length": 64, "learning_rate": 5e-3, "logging_steps": 2}
Train = Callable[..., Path]


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> Train:
    """Return a function that trains the tiny model on the CPU and returns the folder of its adapter."""

    def run(rows: Any = ROWS, *, adapter: Any = None, name: str = "run", progress: Any = None, **recipe: Any) -> Path:
        return train_on_cpu(tmp_path / name, tiny_model, rows, adapter=adapter, progress=progress, **recipe)

    return run


def train_on_cpu(
    folder: Path, model: Path, rows: Any, *, adapter: Any = None, progress: Any = None, **recipe: Any
) -> Path:
    """Train a model on the CPU and return the folder of its adapter."""
    ref = ModelRef("base", str(model), digest="d" * 64, options={"device": "cpu", "dtype": "float32"})
    silent = progress or (lambda _: None)
    return sft(ref, adapter or qlora(), rows, folder / "adapter", progress=silent, seed=3, **(RECIPE | recipe))


STOPPED = {"validation": 0.2, "save_steps": 2}  # the recipe of what is stopped, and goes on


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the adapter of a training that nobody stopped."""
    return train_on_cpu(tmp_path_factory.mktemp("whole"), tiny_model, ROWS, **STOPPED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"learning_rte": 1e-4},
            'option "learning_rte": is not a field of TRL\'s SFTConfig; did you mean "learning_rate"?',
        ),
        ({"weight_decay": "much"}, 'option "weight_decay": is "much"; it must be a number'),
        ({"output_dir": "here"}, 'option "output_dir": cannot be set'),
        ({"hub_model_id": "me/x"}, 'option "hub_model_id": cannot be set: use [[export]]'),
        ({"lr_scheduler_type": "cosin"}, "SFTConfig: "),
        ({"report_to": ["tensorbord"]}, 'report_to "tensorbord": is unknown; did you mean "tensorboard"?'),
        ({"validation": 1.0}, "validation: is 1.0; it must be a share of the rows"),
        ({"warmup_ratio": 5}, "warmup_ratio: is 5; it must be a share of the steps"),
        ({"max_length": 0}, "max_length: is 0; it must be 1 or more"),
        (
            {"use_liger_kernel": True},
            "use_liger_kernel: its kernels are written for GPUs, but this is a CPU; remove it",
        ),
        (
            {"attn_implementation": "flash_attention_2"},
            "attn_implementation: flash_attention_2 is written for GPUs, but this is a CPU; remove it",
        ),
        (
            {"save_strategy": "no"},
            'save_strategy: is "no"; it must be "steps" or "epoch", since an interrupted training resumes',
        ),
        ({"save_strategy": "best"}, 'save_strategy: is "best"; it must be "steps" or "epoch"'),
        (
            {"loss_type": "dft", "label_smoothing_factor": 0.1},
            "label_smoothing_factor: has no effect with this loss_type",
        ),
        (
            {"truncation_mode": "keep_end", "packing": True},
            'truncation_mode: is "keep_end", but packed rows are truncated',
        ),
        *(
            ({name: value}, f'option "{name}": cannot be set: ')
            for name, value in {
                "metric_for_best_model": "loss",
                "greater_is_better": True,
                "eval_steps": 5,
                "eval_on_start": True,
                "eval_delay": 1,
                "eval_packing": True,
                "do_predict": True,
                "batch_eval_metrics": True,
            }.items()
        ),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    """What TRL would refuse, or take without a word, is told before a model is loaded."""
    with pytest.raises(UsageError) as caught:
        check(**options)
    assert caught.value.messages[0].startswith(message)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that is not installed names the extra that brings it."""
    monkeypatch.setattr("harness_sft.config.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install wandb"):
        check(report_to=["wandb"])


def test_right_options(recwarn: pytest.WarningsRecorder) -> None:
    """The defaults are the recipe, further fields pass through, and nothing asks for a GPU or warns."""
    from harness.internals import schema
    from harness_sft import sft
    from harness_sft.config import build_config

    check(truncation_mode="keep_end", save_strategy="epoch", shuffle_dataset=True)
    check(weight_decay=0.1, packing=True, neftune_noise_alpha=5, gradient_checkpointing=True)
    config = build_config(schema.with_defaults(sft, {"packing": True}), Path("x"), seed=3, device="cpu")
    assert (
        config.learning_rate,
        config.warmup_steps,
        config.lr_scheduler_type,
        config.num_train_epochs,
    ) == (2e-4, 0.05, "cosine", 3)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (1, 8)
    assert not config.bf16
    assert not recwarn.list


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch see two GPUs, as transformers' arguments ask for them."""
    import trl  # what it imports asks for a GPU, too

    assert trl.SFTConfig and trl.DPOConfig and trl.KTOConfig
    for name, seen in (("is_available", True), ("device_count", 2), ("set_device", None), ("is_bf16_supported", True)):
        monkeypatch.setattr(torch.cuda, name, lambda *_, seen=seen, **__: seen)


@pytest.mark.parametrize(("name", "rows"), [("sft", 2), ("dpo", 2), ("kto", 4)])
@pytest.mark.usefixtures("two_gpus")
def test_two_gpus_are_no_other_recipe(name: str, rows: int) -> None:
    """A process that sees several GPUs trains the batches that the suite says, on one of them."""
    import harness_preference
    from harness.internals import schema
    from harness_sft.config import build_config

    trainer = sft if name == "sft" else getattr(harness_preference, name)
    config = build_config(
        schema.with_defaults(trainer, {}), Path("x"), seed=3, device="cuda", name=f"{name.upper()}Config"
    )
    assert (config.n_gpu, config.train_batch_size, config.parallel_mode.value) == (1, rows, "not_parallel")


def test_batch_of_other_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where transformers makes other batches than the suite says, nothing is trained."""
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "train_batch_size", property(lambda self: 16))
    with pytest.raises(UsageError, match="per_device_train_batch_size: is 2, but 16 rows would form a batch here"):
        check()


def test_training_gives_its_memory_back(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is written nothing holds the model that was trained, and the GPU's cache is emptied for the next."""
    held: list[weakref.ref[Any]] = []
    write, emptied = train._write_trained, []

    def written(trainer: Any, *given: Any) -> None:
        held.extend(map(weakref.ref, (trainer, trainer.model, trainer.optimizer.optimizer)))
        write(trainer, *given)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    monkeypatch.setattr(train, "_write_trained", written)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))
    trained(ROWS[:8], num_train_epochs=1)
    assert ([ref() for ref in held], emptied) == ([None] * 3, [None])


def test_rows() -> None:
    """Rows are of one shape, whole, and keep nothing but what is trained on and their number."""
    assert select_columns([{"text": "a", "label": 3}]) == [{"text": "a", "row": 1}]
    chat = [{"role": "user", "content": "a"}]
    assert list(select_columns([{"messages": chat}])[0]) == ["messages", "row"]
    with pytest.raises(UsageError, match="rows 2, 3: rows need prompt and completion, or messages, or text"):
        select_columns([{"text": "a"}, {"text": ""}, {"prompt": "a", "completion": 3}])
    with pytest.raises(UsageError, match="row 2: have another form than row 1"):
        select_columns([{"text": "a"}, {"prompt": "a", "completion": "b"}])
    with pytest.raises(UsageError, match="row 2: have another form than row 1"):
        select_columns([{"prompt": "a", "completion": "b"}, {"prompt": chat, "completion": chat}])
    with pytest.raises(UsageError, match="has no rows"):
        select_columns([])
    assert name_rows(range(1, 10)) == "rows 1, 2, 3, 4, 5 and 4 more"


def test_split() -> None:
    """The held-out part is a share of the rows, the same for the same seed, and never all of them."""
    rows = [{"row": i} for i in range(10)]
    kept, held = split_rows(rows, 0.2, 3)
    assert (len(kept), len(held)) == (8, 2)
    assert rows == sorted(kept + held, key=lambda r: r["row"])
    assert (kept, held) == split_rows(rows, 0.2, 3)
    assert (rows, []) == split_rows(rows, 0.0, 3)
    with pytest.raises(UsageError, match=r"0\.2 asks for 1 of 1 rows, but rows .* form a single group"):
        split_rows(rows[:1], 0.2, 3)


def test_split_groups() -> None:
    """Rows of one group, and rows with one prompt, are held out together or not at all; marked rows always are."""
    rows = [{"prompt": str(i // 2), "completion": "x", "row": i} for i in range(40)]
    rows += [{"prompt": f"p{i}", "completion": "x", "row": i, "group": str(i % 10)} for i in range(40, 80)]
    for seed in range(20):
        kept, held = split_rows(rows, 0.2, seed)
        assert (len(kept), len(held)) == (64, 16)
        assert not {r["prompt"] for r in kept} & {r["prompt"] for r in held}
        assert not {r["row"] % 10 for r in kept if r["row"] >= 40} & {r["row"] % 10 for r in held if r["row"] >= 40}
        assert "group" not in held[0].keys() | kept[-1].keys()
    same = [{"prompt": "Summarise", "completion": str(i), "row": i} for i in range(10)]
    assert len(split_rows(same, 0.2, 3)[1]) == 2  # a prompt of most rows says nothing about them
    with pytest.raises(UsageError, match=r"0\.2 asks for 2 of 10 rows, but rows .* form a single group"):
        split_rows([row | {"group": "one"} for row in same], 0.2, 3)
    marked = [*same, {"prompt": "a", "completion": "b", "row": 10, "held_out": True}]
    assert split_rows(marked, 0.0, 3) == (same, [{"prompt": "a", "completion": "b", "row": 10}])
    with pytest.raises(UsageError, match="validation_data as well"):
        split_rows(marked, 0.2, 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_base_in_four_bits_stays_decoded_where_there_is_room(
    dtype: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training in half precision decodes each weight once then, and is the same to the bit."""
    from bitsandbytes import functional

    decode, decoded, made = functional.dequantize_4bit, Counter[int](), []

    def counted(weight: Any, *args: Any) -> Any:
        decoded[weight.data_ptr()] += 1
        return decode(weight, *args)

    monkeypatch.setattr(functional, "dequantize_4bit", counted)
    ref = ModelRef("base", str(tiny_model), digest="d" * 64, options={"device": "cpu", "dtype": dtype})
    for free in 1 << 40, 1 << 10:
        monkeypatch.setattr(linear, "free_bytes", lambda _, free=free: free)
        decoded.clear()
        out = sft(ref, qlora(), ROWS, tmp_path / str(free) / "adapter", progress=lambda _: None, seed=3, **RECIPE)
        assert (max(decoded.values()) == 1) == (free > 1 << 30 and dtype == "bfloat16")
        made.append((out / "adapter_model.safetensors").read_bytes())
    assert made[0] == made[1]


def test_qlora_trains(trained: Train, tiny_model: Path) -> None:
    """A QLoRA on a CPU really learns, tells its progress, and leaves an adapter in float32 with its facts."""
    seen: list[Progress] = []
    out = trained(progress=seen.append, num_train_epochs=8, validation=0.2)
    note = json.loads((out / "harness-adapter.json").read_text())
    facts = note["facts"]
    assert sorted(file.name for file in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "harness-adapter.json",
    ]
    assert [out, out.parent / NOTES, out.parent / STEPS] == sorted(
        out.parent.iterdir()
    )  # checkpoints are for going on, not for keeping
    assert (note["base_digest"], note["dtype"]) == ("d" * 64, "float32")
    assert (note["recipe"]["learning_rate"], note["recipe"]["seed"]) == (5e-3, 3)
    assert (facts["steps"], facts["validation_rows"], facts["rows"], len(facts["validation_loss"])) == (32, 8, 32, 8)
    assert facts["validation_loss"][-1] < facts["validation_loss"][0] - 1
    assert facts["train_loss"] < facts["validation_loss"][0]
    assert facts["total_parameters"] - facts["trainable_parameters"] == 107_456
    assert 107_456 < facts["base_bytes"] < 4 * 107_456  # the linears in 4 bits, the rest in float32
    assert facts["trainable_parameters"] == seen[0].facts["trainable"]
    assert [(i, 32) for i in range(1, 33)] == [(p.done, p.total) for p in seen[1:]]
    assert {"loss", "tokens/s", "left"} == seen[-1].facts.keys()
    curve = read_steps(out)
    assert [s.step for s in curve] == list(range(1, 33))
    assert [s.validation for s in curve if s.validation is not None] == facts["validation_loss"]
    assert facts["train_loss"] == pytest.approx(sum(s.loss or 0 for s in curve[-10:]) / 10)
    rates = [s.learning_rate or 0 for s in curve]
    assert (rates[0], max(rates)) == (0, 5e-3) and rates[-1] < 1e-4  # a warmup and a cosine, each step at its own rate
    assert (curve[-1].epoch, curve[-1].tokens) == (8, 8 * facts["tokens"])
    assert all(0 < a.seconds < b.seconds for a, b in itertools.pairwise(curve))
    assert {"F32"} == {header.dtype for header in read_headers(out).values()}
    qlora().check_fits(str(tiny_model), "d" * 64, out)


def test_attention_is_the_recipes_in_training_alone(
    trained: Train, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same adapter but for rounding, by another implementation; a model that is loaded to be asked has its own."""
    used: list[str] = []
    build = train.build_trainer

    def watched(*args: Any) -> Any:
        trainer, facts = build(*args)
        used.append(trainer.model.config._attn_implementation)
        return trainer, facts

    monkeypatch.setattr(train, "build_trainer", watched)
    adapters = [trained(name=name or "own", adapter=lora(), attn_implementation=name) for name in (None, "eager")]
    assert used == ["sdpa", "eager"]
    one, other = (load_file(folder / "adapter_model.safetensors") for folder in adapters)
    assert all(torch.allclose(one[key], other[key], atol=1e-3) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)  # it was computed in another way
    assert load_model(tiny_model).config._attn_implementation == "sdpa"


def test_nothing_is_printed(trained: Train, capfd: pytest.CaptureFixture[str]) -> None:
    """The harness shows the progress; bars, tables and advice of the libraries do not mix with it."""
    trained(num_train_epochs=1)
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("stop", "error", "left"),
    [
        (3, KeyboardInterrupt(), "checkpoint-3"),
        (5, OSError("killed"), "checkpoint-4"),
        (8, OSError("killed"), "checkpoint-6"),
    ],
)
def test_resume(stop: int, error: BaseException, left: str, whole: Path, trained: Train, tmp_path: Path) -> None:
    """A training that was interrupted, or killed between two checkpoints, ends with the bits of one that was not."""

    def interrupt(progress: Progress) -> None:
        if progress.done == stop:
            raise error

    with pytest.raises(type(error)):
        trained(progress=interrupt, **STOPPED)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert left in {folder.name for folder in checkpoints.iterdir()}
    assert not (tmp_path / "run" / "adapter").exists()
    half = shutil.copytree(checkpoints / left, checkpoints / "checkpoint-7")  # the kill came while it was written
    (half / "harness-checkpoint.json").unlink()

    seen: list[Progress] = []
    again = trained(progress=seen.append, **STOPPED)
    assert int(left[-1]) + 1 == seen[1].done
    assert_same(whole, again)
    facts = [json.loads((out / "harness-adapter.json").read_text())["facts"] for out in (whole, again)]
    assert facts[0] | {"tokens_per_second": 0} == facts[1] | {"tokens_per_second": 0}
    curves = [read_steps(out) for out in (whole, again)]
    assert [replace(s, seconds=0) for s in curves[0]] == [replace(s, seconds=0) for s in curves[1]]
    assert [s.seconds for s in curves[1]] == sorted(s.seconds for s in curves[1])


RISING = [
    *({"prompt": f"what is {i}?", "completion": f" it is {i * i}"} for i in range(32)),
    *({"prompt": f"what is {i}?", "completion": f" no: {'xyz'[i % 3] * 9}", "held_out": True} for i in range(40, 46)),
]


def test_patience(trained: Train) -> None:
    """Training stops when the validation loss has risen for `patience` epochs, and the best epoch's adapter is kept."""
    seen: list[Progress] = []
    recipe = {"num_train_epochs": 12, "learning_rate": 2e-2, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    out = trained(RISING, progress=seen.append, patience=2, **recipe)
    facts = read_facts(out)
    losses = facts["validation_loss"]
    best = losses.index(min(losses)) + 1
    assert len(losses) == best + 2 < 12
    assert (facts["kept_step"], facts["steps"]) == (4 * best, 4 * (best + 2))
    assert "validation loss" in seen[-1].remark and f"no better than step {4 * best} for 2 epochs" in seen[-1].remark
    assert_same(out, trained(RISING, name="short", max_steps=4 * best, **recipe))
    assert [out, out.parent / NOTES, out.parent / STEPS] == sorted(out.parent.iterdir())

    def interrupt(progress: Progress) -> None:
        if progress.done == facts["steps"] - lag:
            raise OSError("killed")

    for lag in (0, 1, 5):  # after it was decided to stop, and before
        name = f"killed {lag}"
        with pytest.raises(OSError, match="killed"):
            trained(RISING, name=name, progress=interrupt, patience=2, save_steps=3, **recipe)
        again = trained(RISING, name=name, patience=2, save_steps=3, **recipe)
        assert_same(out, again)
        assert read_facts(again)["validation_loss"] == losses


def test_watch(trained: Train) -> None:
    """The model in training answers and scores after each epoch, better each time, and the training stays the same."""

    def watch(subject: Any) -> dict[str, float]:
        pairs = [(row["prompt"], row["completion"]) for row in ROWS[:6]]
        answers = subject.generate([prompt for prompt, _ in pairs], max_new_tokens=3)
        torch.rand(5)
        return {"qa.nats": -sum(s.total for s in subject.logprobs(pairs)), "qa.chars": float(len("".join(answers)))}

    seen: list[Progress] = []
    plain = trained(name="plain", save_steps=3, gradient_checkpointing=True)
    out = trained(progress=seen.append, watch=watch, save_steps=3, gradient_checkpointing=True)
    assert_same(plain, out)
    watched = read_facts(out)["watched"]
    assert [w["step"] for w in watched] == [5, 10]
    assert watched[1]["qa.nats"] < watched[0]["qa.nats"]
    assert [p.remark.partition(",")[0] for p in seen if p.remark] == [
        f"epoch {i}: qa.nats {w['qa.nats']:.4f}" for i, w in enumerate(watched, 1)
    ]


def test_patience_without_rows(trained: Train) -> None:
    """Without validation rows there is nothing to be patient about."""
    with pytest.raises(UsageError, match="patience: there are no validation rows"):
        trained(patience=1)


def test_resume_another_recipe(trained: Train) -> None:
    """A checkpoint of another recipe, or of other rows, is not taken up."""

    def interrupt(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(progress=interrupt)
    seen: list[Progress] = []
    trained(progress=seen.append, learning_rate=1e-3)
    assert seen[1].done == 1


def test_repacked_base_is_refused(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that bitsandbytes repacked for inference has wrong gradients and must stop the training.

    Only CPUs with AVX512-BF16 repack, so its mark is set by hand.
    """

    def repacked(*args: Any, **options: Any) -> Any:
        model = load_model(*args, **options)
        model.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True
        return model

    monkeypatch.setattr("harness_sft.train.load_model", repacked)
    with pytest.raises(RuntimeError, match="repacked"):
        trained()


def test_evaluate_then_train(trained: Train, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow of every run, an evaluation before the training, leaves 4-bit weights and result as they were."""

    def evaluated(*args: Any, **options: Any) -> Any:
        model = load_model(*args, **options)
        packed = model.model.layers[0].mlp.up_proj.weight.data.clone()
        with torch.no_grad():
            model(torch.arange(20, 60)[None])
        assert torch.equal(packed, model.model.layers[0].mlp.up_proj.weight.data)
        return model

    first = trained(name="first")
    monkeypatch.setattr("harness_sft.train.load_model", evaluated)
    assert_same(first, trained(name="second"))


@pytest.mark.parametrize("packing", [False, True])
def test_supervised_tokens(packing: bool, trained: Train) -> None:
    """With a prompt only the completion and one end-of-sequence token are learnt, packed or not."""
    facts = read_facts(trained([{"prompt": "what?", "completion": " this"}] * 8, packing=packing, num_train_epochs=1))
    assert 8 * len(" this" + "E") == facts["supervised_tokens"]  # a byte is a token of the tiny model
    assert 8 * len("B" + "what? this" + "E") == facts["tokens"]
    facts = read_facts(trained([{"text": "what? this"}] * 8, packing=packing, num_train_epochs=1))
    assert 8 * len("what? this" + "E") == facts["supervised_tokens"]


def test_chat_rows(trained: Train, tiny_model: Path) -> None:
    """Of chat rows the answer's turn is learnt up to its end, as the chat template writes it; all turns by a key."""
    user, answer = {"role": "user", "content": "what?"}, {"role": "assistant", "content": "this"}
    facts = read_facts(trained([{"prompt": [user], "completion": [answer]}] * 8, num_train_epochs=1))
    assert 8 * len("this" + "E" + "\n") == facts["supervised_tokens"]
    facts = read_facts(trained([{"messages": [user, answer]}] * 8, num_train_epochs=1))
    assert 8 * len("this" + "E" + "\n") == facts["supervised_tokens"]
    facts = read_facts(trained([{"messages": [user, answer]}] * 8, num_train_epochs=1, assistant_only_loss=False))
    whole = load_tokenizer(tiny_model).apply_chat_template([user, answer])["input_ids"]
    assert 8 * (len(whole) - 1) == facts["supervised_tokens"]


TOOLS_TEMPLATE = (
    "{{ bos_token }}{% if tools %}tools {{ tools | tojson }}\n{% endif %}{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' and enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{{ m.content or '' }}{% for call in m.tool_calls or [] %}call {{ call | tojson }}{% endfor %}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


def make_tool_call(name: str, **arguments: Any) -> dict[str, Any]:
    """Return a call of a function with arguments of its own."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def make_call_conversation(question: str, *calls: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a conversation that ends in calls."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": None, "tool_calls": list(calls)}]


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "str"}}}}}
SUM = {"type": "function", "function": {"name": "sum", "parameters": {"properties": {"a": {"type": "number"}}}}}
TOOL_ROWS: list[dict[str, Any]] = [
    {"messages": make_call_conversation("Rain in Paris?", make_tool_call("weather", city="Paris")), "tools": [WEATHER]},
    {
        "messages": make_call_conversation("2 and 3?", make_tool_call("sum", b=2, a=[3, {"z": None}])),
        "tools": [SUM, WEATHER],
    },
    {
        "messages": make_call_conversation(
            "Both?", make_tool_call("weather", city="Nîmes"), make_tool_call("sum", a=1e-5)
        ),
        "tools": [SUM],
    },
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    {"messages": make_call_conversation("None?"), "chat_template_kwargs": {"enable_thinking": False}},
]


@pytest.mark.parametrize("split", [False, True])
def test_tool_calls_are_trained_as_they_stand(split: bool, tiny_model: Path, tmp_path: Path) -> None:
    """What is trained on is what the template writes of each row alone: no keys of others, its own tools, arguments."""
    folder = shutil.copytree(tiny_model, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(TOOLS_TEMPLATE, "utf-8")
    rows: list[dict[str, Any]] = TOOL_ROWS
    if split:
        rows = [{**row, "prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows]
        rows = [{name: value for name, value in row.items() if name != "messages"} for row in rows]
    rows = to_training_rows(rows, {}, "x")
    trainer: Any = sft
    built = trainer.build(ModelRef("base", str(folder)), lora(), rows, seed=3, max_length=512)
    tokenizer = load_tokenizer(folder)
    for row, example in zip(TOOL_ROWS, built.examples, strict=True):
        given = {"tools": row.get("tools"), **row.get("chat_template_kwargs", {})}
        assert tokenizer.decode(example.ids) == tokenizer.apply_chat_template(row["messages"], tokenize=False, **given)


@pytest.mark.parametrize("packing", [False, True])
def test_nothing_to_learn(packing: bool, trained: Train, tmp_path: Path) -> None:
    """Rows whose answer was cut off are named before the training; TRL drops them, or packs them, without a word."""
    rows = [*ROWS[:3], {"prompt": "p" * 70, "completion": "x"}, ROWS[4]]
    with pytest.raises(UsageError, match="row 4: no token of the answer is left to train on; raise max_length"):
        trained(rows, packing=packing)
    assert not (tmp_path / "run" / "adapter").exists()


def test_truncated_rows(trained: Train) -> None:
    """Rows that were cut, and lost their end, are counted."""
    facts = read_facts(trained([*ROWS[:7], {"prompt": "p", "completion": "x" * 90}], num_train_epochs=1))
    assert (facts["rows"], facts["truncated_rows"]) == (8, 1)


LATE = [{"prompt": f"{'p' * 70} {i}", "completion": f"answer {i}"} for i in range(8)]


def test_the_end_is_kept(trained: Train, tiny_model: Path) -> None:
    """Under "keep_end" a row loses its beginning, so its answer is learnt whole, and that is what is told."""
    recipe = {"max_length": 24, "truncation_mode": "keep_end"}
    facts = read_facts(trained(LATE, num_train_epochs=1, **recipe))
    assert (facts["rows"], facts["truncated_rows"], facts["tokens"]) == (8, 8, 8 * 24)
    assert facts["supervised_tokens"] == 8 * len("answer 0" + "E")
    trainer: Any = sft
    built = trainer.build(ModelRef("base", str(tiny_model)), lora(), LATE, seed=3, **recipe)
    assert built.show(built.examples[0]) == "p" * 13 + " 0⟦answer 0</s>⟧"
    assert list(rows_that_vanish(built)) == list(end_token(built)) == []
    [flag] = cut_rows(built)
    assert flag.evidence[0].startswith(f'row 1: {1 + 72 + 9} tokens; cut off: "<s>ppp')
    with pytest.raises(UsageError, match="rows 1, 2, 3, 4, 5 and 3 more: no token of the answer is left"):
        trained(LATE, max_length=24)


@pytest.mark.parametrize("packing", [False, True])
def test_rows_are_shuffled_as_trl_shuffles_them(packing: bool, trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """`shuffle_dataset` gives the rows the order that they have in a plain SFTTrainer of that seed."""
    from trl import SFTTrainer

    held: list[Any] = []
    write = train._write_adapter

    def keep(trainer: Any, *args: Any) -> None:
        held.append(trainer)
        write(trainer, *args)

    monkeypatch.setattr(train, "_write_adapter", keep)
    trained(num_train_epochs=1, shuffle_dataset=True, packing=packing)
    trainer = held[0]
    rows = as_dataset(select_columns(ROWS))
    trainer.args.assistant_only_loss = False  # which TRL refuses for rows that are no chats
    plain = SFTTrainer(trainer.model, args=trainer.args, train_dataset=rows, processing_class=trainer.processing_class)
    assert plain.train_dataset["input_ids"] == trainer.train_dataset["input_ids"]


@pytest.mark.parametrize("row", [{"prompt": "<s><s>a", "completion": "b"}, {"prompt": "a", "completion": "b</s></s>"}])
def test_doubled_special_tokens(row: dict[str, str], trained: Train) -> None:
    """Two beginnings or two ends in a row are seen in training only, never when the model is used."""
    with pytest.raises(UsageError, match="row 2: must end with exactly one end-of-sequence token"):
        trained([ROWS[0], row])


def test_not_finite(trained: Train, tmp_path: Path) -> None:
    """A training that diverges stops with the step, and leaves no adapter."""
    with pytest.raises(RuntimeError, match=r"training: the (loss|gradient norm|weights) .*at step|after step"):
        trained(learning_rate=1e20)
    assert not (tmp_path / "run" / "adapter").exists()


def test_unmatched_target(trained: Train) -> None:
    """A target that matches no module is told before the first step."""
    with pytest.raises(UsageError, match='target_modules "nope": matches no module'):
        trained(adapter=lora(target_modules=["q_proj", "nope"]))


def test_trl_refuses(trained: Train) -> None:
    """What TRL finds out only with the model or the rows is a mistake of the user, not a crash."""
    with pytest.raises(UsageError, match=r"TRL rejects it: .*eos_token"):
        trained(eos_token="<none>")


@pytest.mark.parametrize("packing", [False, True])
def test_validation_loss(packing: bool, trained: Train) -> None:
    """The validation loss is a mean over tokens, so it does not depend on the size of a batch or on packing."""
    rows = [{"prompt": "a", "completion": "b" * (i + 1)} for i in range(20)]
    recipe = {"learning_rate": 0.0, "validation": 0.4, "num_train_epochs": 1, "packing": packing}
    one, many = (
        read_facts(trained(rows, name=str(size), per_device_eval_batch_size=size, **recipe)) for size in (1, 5)
    )
    assert one["validation_loss"] == pytest.approx(many["validation_loss"], abs=1e-6)


def test_moved_base_comes_back(
    trained: Train, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PiSSA and OLoRA train on a base that lost a part to the adapter; what is saved is for the base as it is."""
    held: list[Any] = []
    write = train._write_adapter

    def keep(trainer: Any, *args: Any) -> None:
        held.append(trainer.model)
        write(trainer, *args)

    monkeypatch.setattr(train, "_write_adapter", keep)
    ids = torch.arange(20, 60)[None]
    for start in ("pissa", "olora"):
        adapter = lora(init_lora_weights=start, r=8, lora_dropout=0.0)
        out, merged = trained(adapter=adapter, name=start), tmp_path / start / "merged"
        merged.mkdir()
        adapter.merge(str(tiny_model), out, merged, variant="original")
        with torch.no_grad():
            wanted = held[-1].eval()(ids).logits
            assert wanted == pytest.approx(load_model(tiny_model, dtype="float32", adapter=out)(ids).logits, abs=1e-4)
            assert wanted == pytest.approx(load_model(merged, dtype="float32")(ids).logits, abs=1e-4)


def test_only_supervised_positions(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, too, only positions with a label are projected to the vocabulary, and the result is the same."""
    from trl.trainer import utils

    from harness_hf.cpu import head

    projected: list[int] = []

    def counted(apply: Any) -> Any:
        def count(hidden: Any, *args: Any) -> Any:
            projected.append(hidden.shape[0])
            return apply(hidden, *args)

        return count

    monkeypatch.setattr(head.FrozenHead, "apply", counted(head.FrozenHead.apply))
    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", counted(utils._ChunkedLogProbFunction.apply))
    adapter = qlora(lora_dropout=0.0)
    fast = trained(adapter=adapter, name="fast", num_train_epochs=1)
    assert read_facts(fast)["supervised_tokens"] == sum(projected[1:])  # the first is the look before the first step
    projected.clear()
    monkeypatch.setattr("harness_hf.cpu.head.project_labelled_once", contextlib.nullcontext)
    plain = trained(adapter=adapter, name="plain", num_train_epochs=1)
    assert read_facts(plain)["tokens"] < sum(projected) + len(ROWS) * 2
    assert read_facts(fast)["train_loss"] == pytest.approx(read_facts(plain)["train_loss"], abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
def test_a_frozen_head_gives_what_trl_gives(dtype: torch.dtype, biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probabilities, what is logged of them, and the gradient, in chunks of tokens too."""
    from trl.kernels import ChunkedLogProbFunction

    from harness_hf.cpu import head

    monkeypatch.setattr(head, "MAX_LOGITS", 5 * 97)
    draw = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(23, 16, generator=draw).to(dtype), torch.randn(97, 16, generator=draw).to(dtype)
    bias = torch.randn(97, generator=draw).to(dtype) if biased else None
    targets, scale = torch.randint(97, (23,), generator=draw), torch.randn(23, generator=draw)
    found = []
    for apply in (head.LogProbs.apply, ChunkedLogProbFunction.apply):
        here = hidden.clone().requires_grad_()
        logprobs, *others = apply(here, weight, bias, targets, 1.5, 32, None, 0.7, head.TOKEN_STATISTICS)
        (logprobs * scale).sum().backward()
        found.append([t.detach().float() for t in (logprobs, *others, here.grad)])
    near = 1e-5 if dtype == torch.float32 else 5e-2
    for name, ours, theirs in zip(("log", *head.TOKEN_STATISTICS, "gradient"), *found, strict=True):
        assert ours == pytest.approx(theirs, abs=near, rel=near), name


def test_a_head_that_is_trained_is_trls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own gradient needs all logits."""
    from harness_hf.cpu import head

    hidden, targets = torch.randn(4, 8), torch.tensor([1, 2, 3, 4])
    weight = torch.randn(9, 8).requires_grad_()
    monkeypatch.setattr(head.FrozenHead, "apply", None)
    logprobs, *_ = head.LogProbs.apply(hidden, weight, None, targets, 1.0, 32)
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_packed_documents_are_apart(tiny_model: Path) -> None:
    """In a packed row a document does not see the one before it: its logits are those it has alone."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model = load_model(tiny_model, dtype="float32", device="cpu", quantization=qlora().quantization)
    one, two = list(range(20, 50)), list(range(60, 90))
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    packed = collate([{"input_ids": one + two, "labels": one + two, "seq_lengths": [len(one), len(two)]}])
    packed.pop("labels")
    with torch.no_grad():
        together = model(**packed, use_cache=False).logits[0, len(one) :]
        alone = model(torch.tensor([two]), use_cache=False).logits[0]
    assert alone == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize("shape", ["prompt", "text"])
def test_packed_documents_have_the_losses_they_have_alone(shape: str, tiny_model: Path) -> None:
    """In the rows that TRL packs, each document's summed loss is what it is alone: positions begin anew with it."""
    rows = [r if shape == "prompt" else {"text": r["prompt"] + r["completion"]} for r in ROWS]
    trainer: Any = sft
    ref, recipe = ModelRef("base", str(tiny_model)), {"packing": True, "max_length": 256}
    built = trainer.build(ref, qlora(), rows, seed=3, **recipe)
    model = load_model(tiny_model, dtype="float32", device="cpu", quantization=qlora().quantization)

    def losses(labels: Any, **inputs: Any) -> Any:
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="none", ignore_index=-100)

    alone = {}
    for example in built.examples:
        ids, labels = torch.tensor([example.ids]), torch.tensor([example.labels])
        alone[tuple(example.ids)] = float(losses(labels, input_ids=ids).double().sum())
    seen = {}
    for batch in built.batches(len(rows)):
        assert "attention_mask" not in batch
        each = losses(**batch).double()
        starts = [*torch.nonzero(batch["position_ids"][0] == 0).flatten().tolist(), batch["input_ids"].shape[1]]
        assert len(starts) > 3  # several documents in one row
        for begin, end in itertools.pairwise(starts):
            seen[tuple(batch["input_ids"][0, begin:end].tolist())] = float(each[max(0, begin - 1) : end - 1].sum())
    assert len(seen) == len(rows)
    assert seen == pytest.approx(alone, rel=1e-5)


def test_dynamic_fine_tuning(trained: Train, tiny_model: Path) -> None:
    """With `loss_type = "dft"` the first loss is that of TRL's: each token's, weighted by its own probability."""
    seen: dict[str, float] = {}
    for name in ("nll", "dft"):
        losses: list[float] = []
        with contextlib.suppress(StopIteration):
            trained(name=name, adapter=lora(lora_dropout=0.0), loss_type=name, progress=make_first_step_stop(losses))
        seen[name] = losses[0]
    model, built = load_model(tiny_model, dtype="float32", device="cpu"), build_rows(tiny_model)
    # The first step of the shuffled rows is not known here, so the means of all rows are compared: they are alike.
    nll, dft = [], []
    for example in built.examples:
        ids, labels = torch.tensor([example.ids]), torch.tensor(example.labels)[1:]
        with torch.no_grad():
            logp = model(ids).logits[0, :-1].log_softmax(-1)
        own = logp[labels != -100].gather(1, labels[labels != -100, None])[:, 0]
        nll.append(-own)
        dft.append(-own * own.exp())
    assert seen["nll"] == pytest.approx(float(torch.cat(nll).mean()), rel=0.1)
    assert seen["dft"] == pytest.approx(float(torch.cat(dft).mean()), rel=0.5)
    assert seen["dft"] < seen["nll"] / 50


def test_noisy_embeddings(trained: Train) -> None:
    """NEFTune changes the training, and one that was killed goes on with the same noise."""

    def interrupt(progress: Progress) -> None:
        if progress.done == 3:
            raise OSError("killed")

    recipe = {"adapter": lora(lora_dropout=0.0), "num_train_epochs": 1, "validation": 0.2, "save_steps": 2}
    plain, noisy = trained(name="plain", **recipe), trained(name="noisy", neftune_noise_alpha=50.0, **recipe)
    one, two = (load_file(out / "adapter_model.safetensors") for out in (plain, noisy))
    assert not all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(OSError, match="killed"):
        trained(progress=interrupt, neftune_noise_alpha=50.0, **recipe)
    assert_same(noisy, trained(neftune_noise_alpha=50.0, **recipe))


def make_first_step_stop(losses: list[float]) -> Callable[[Progress], None]:
    """Return what notes the loss of the first step and ends the training there."""

    def note(progress: Progress) -> None:
        if progress.done == 1:
            losses.append(float(progress.facts["loss"]))
            raise StopIteration

    return note


def build_rows(tiny_model: Path) -> Any:
    """Return the rows as they are trained on."""
    trainer: Any = sft
    return trainer.build(ModelRef("base", str(tiny_model)), lora(), ROWS, seed=3, max_length=64)


def read_facts(out: Path) -> dict[str, Any]:
    """Return the facts that the trainer wrote beside an adapter."""
    facts: dict[str, Any] = json.loads((out / "harness-adapter.json").read_text())["facts"]
    return facts


def assert_same(one: Path, other: Path) -> None:
    """Compare two adapters bit for bit."""
    name = "adapter_model.safetensors"
    left, right = load_file(one / name), load_file(other / name)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert (one / "adapter_config.json").read_bytes() == (other / "adapter_config.json").read_bytes()
