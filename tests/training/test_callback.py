"""GateCallback in trainers of TRL: the training stays the same to the bit, is stopped, and its best checkpoint kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from harness.errors import ExitCode, UsageError  # noqa: E402
from harness.training import GateCallback  # noqa: E402
from tests.helpers.loops import SUITE, losses, make_trainer, write_forgetting_suite, write_loop_suite  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]  # of names of TrainingArguments
ROOT = Path(__file__).parents[2]


@pytest.fixture
def suite(tiny_model: Path, tmp_path: Path) -> Path:
    return write_loop_suite(tmp_path / "suite", tiny_model)


def read_looks(trainer: Any, name: str = "harness/old.likely") -> dict[int, float]:
    """Return a logged number of each look, by step."""
    return {entry["step"]: entry[name] for entry in trainer.state.log_history if name in entry}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sft", {}),
        ("sft", {"packing": True, "max_length": 48, "per_device_train_batch_size": 1}),
        ("sft", {"gradient_checkpointing": True}),
        ("sft", {"packing": True, "gradient_checkpointing": True, "per_device_train_batch_size": 1}),
        ("sft", {"adapter": False}),
        ("sft", {"bf16": True}),
        ("dpo", {}),
        ("dpo", {"gradient_checkpointing": True}),
        ("dpo", {"adapter": False, "learning_rate": 1e-4}),
        ("kto", {}),
        ("grpo", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value) or "plain",
)
def test_losses_are_the_same(kind: str, options: dict[str, Any], suite: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A training with looks has the losses of one without, to the bit, and so have the weights."""
    plain = make_trainer(kind, tiny_model, tmp_path / "plain", **options)
    plain.train()
    looked = make_trainer(
        kind, tiny_model, tmp_path / "looked", callbacks=[GateCallback(suite, every_steps=2, stop="")], **options
    )
    looked.train()
    assert losses(plain) == losses(looked)
    assert len(losses(plain)) == 6
    pairs = zip(plain.model.state_dict().items(), looked.model.state_dict().items(), strict=True)
    assert all(one == other and torch.equal(a, b) for (one, a), (other, b) in pairs)
    assert list(read_looks(looked)) == [2, 4, 6]


def test_plain_trainer(suite: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A `Trainer` of transformers without a tokenizer works as one of TRL does."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    args = TrainingArguments(str(tmp_path / "out"), max_steps=3, use_cpu=True, report_to=[], save_strategy="no")
    ids = [{"input_ids": torch.arange(9), "labels": torch.arange(9)} for _ in range(8)]
    trainer = Trainer(model, args, train_dataset=ids, callbacks=[GateCallback(suite, every_steps=2)])
    trainer.train()
    assert list(read_looks(trainer)) == [2, 3]


def test_model_is_given_back(suite: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Training mode of each module, `requires_grad`, `use_cache` and randomness are what they were."""
    from harness.records.models import ModelRef
    from harness_hf import open_live_model

    model = make_trainer("dpo", tiny_model, tmp_path, gradient_checkpointing=True).model
    model.train()
    frozen = next(module for name, module in model.named_modules() if name.endswith("mlp"))
    frozen.eval()
    model.get_base_model().config.use_cache = False
    state = ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for base in (True, False):
        with open_live_model(model, ModelRef("x", str(tiny_model), "d"), base=base) as subject:
            subject.generate(["hello"], max_new_tokens=2)
            torch.rand(7)
            assert not any(m.training for m in model.modules())
        assert state == ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
        assert model.get_base_model().config.use_cache is False
    assert torch.equal(torch.rand(3), expected)


def test_4bit_base_is_not_repacked(tiny_model: Path) -> None:
    """A 4-bit model that somebody else loaded keeps its layout, of which training computes its gradients."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from harness.records.models import ModelRef
    from harness_hf import assert_not_repacked, open_live_model

    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=nf4, device_map="cpu")
    layers = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    assert layers
    before = [layer.weight.data.clone() for layer in layers]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True  # as on a processor that has it
    with open_live_model(model, ModelRef("x", str(tiny_model), "d")) as subject:
        subject.logprobs([("a", " b")])
    assert_not_repacked(model)
    assert all(torch.equal(layer.weight.data, data) for layer, data in zip(layers, before, strict=True))


def test_base_is_the_model_without_its_adapter(tiny_model: Path, tmp_path: Path) -> None:
    """As its base a model with a trained adapter scores as the folder does; with it, otherwise."""
    from harness.records.models import ModelRef
    from harness_hf import load, open_live_model

    trainer = make_trainer("sft", tiny_model, tmp_path)
    trainer.train()
    pairs = [("train question 3?", " it is 33")]
    scores = {}
    for base in (True, False):
        with open_live_model(trainer.model, ModelRef("x", str(tiny_model), "d"), base=base) as subject:
            [scores[base]] = subject.logprobs(pairs)
    with load([ModelRef("base", str(tiny_model))], dtype="float32", device="cpu") as [subject]:
        [there] = subject.logprobs(pairs)
    assert scores[True].total == pytest.approx(there.total, rel=1e-5)
    assert scores[False].total > there.total + 0.5


@pytest.fixture
def collapsing(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a suite of which the guard's rows are lost by a training on other texts."""
    return write_forgetting_suite(tmp_path / "forgetting", tiny_model)


COLLAPSE = {"learning_rate": 5e-2, "max_steps": 30, "lr_scheduler_type": "constant"}


def test_refuted_guard_stops(collapsing: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """A training that loses what the base can ends at the first look that proves it; by `stop=""` it goes on."""
    stopped = make_trainer(
        "sft", tiny_model, tmp_path / "a", callbacks=[GateCallback(collapsing, every_steps=3)], **COLLAPSE
    )
    stopped.train()
    text = capsys.readouterr().err
    assert stopped.state.global_step < 30
    assert stopped.state.global_step % 3 == 0
    assert re.search(r"no-forgetting FAIL .*; stopped, since no-forgetting is refuted", text)
    assert max(read_looks(stopped, "harness/old.same")) == stopped.state.global_step
    whole = make_trainer(
        "sft", tiny_model, tmp_path / "b", callbacks=[GateCallback(collapsing, every_steps=3, stop="")], **COLLAPSE
    )
    whole.train()
    assert whole.state.global_step == 30
    # a checkpoint at which the guard is refuted is never the best, however well it does otherwise
    assert whole.state.best_global_step is None or whole.state.best_global_step < stopped.state.global_step


def test_best_is_loaded_at_the_end(suite: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """The look with the best score is a checkpoint, which `load_best_model_at_end` loads in place of the eval loss."""
    options = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    options |= {"eval_strategy": "steps", "eval_steps": 1, "learning_rate": 3e-2, "max_steps": 8}
    callback = GateCallback(suite, every_steps=2, stop="")
    trainer = make_trainer("sft", tiny_model, tmp_path / "out", callbacks=[callback], **options)
    trainer.train()
    scores = read_looks(trainer, "harness/new.nats")
    best = min(scores, key=scores.__getitem__)
    assert trainer.state.best_global_step == best
    assert trainer.state.best_metric == scores[best]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "out" / f"checkpoint-{best}")
    assert trainer.args.metric_for_best_model == "loss"
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(f"harness run {suite} --candidate {trainer.state.best_model_checkpoint}")
    from harness.records.models import ModelRef
    from harness.training.live_suite import open_live_suite

    live = open_live_suite(suite)
    with live.live(trainer.model, ModelRef("x", str(tiny_model), "d")) as subject:
        assert live.evaluate(subject)["new"].metrics["nats"] == pytest.approx(scores[best], rel=1e-6)


def test_the_printed_command_runs(suite: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """What confirms is a command that gates the checkpoint on the other rows."""
    import shlex

    from harness.cli.main import main

    make_trainer("sft", tiny_model, tmp_path / "out", callbacks=[GateCallback(suite, every_steps=6)]).train()
    command = capsys.readouterr().err.splitlines()[-1].partition("run: ")[2]
    assert main([*shlex.split(command)[1:], "--out", str(tmp_path / "reports")]) in (
        ExitCode.OK,
        ExitCode.FAILED,
        ExitCode.INCONCLUSIVE,
    )
    assert list((tmp_path / "reports").glob("*/report.json"))


def test_look_at_the_end(suite: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """The last step is looked at once, also where it is no multiple, and where another callback ends the training."""
    from transformers import TrainerCallback

    trainer = make_trainer("sft", tiny_model, tmp_path, callbacks=[GateCallback(suite, every_steps=4)])
    trainer.train()
    assert list(read_looks(trainer)) == [4, 6]
    assert "2 looks, every 4 of 6 steps; no-forgetting: 40 rows see a loss of 0.100" in capsys.readouterr().err

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 3

    trainer = make_trainer("sft", tiny_model, tmp_path, callbacks=[GateCallback(suite, every_steps=4), Stop()])
    trainer.train()
    assert list(read_looks(trainer)) == [3]


def test_numbers_reach_the_trackers(suite: Path, tiny_model: Path, tmp_path: Path) -> None:
    """What reports the trainer's log gets what a look found, whether it comes before this callback or after it."""
    from transformers import TrainerCallback

    class Tracker(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seen: list[tuple[int, float]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "harness/new.nats" in logs:
                self.seen.append((state.global_step, logs["harness/no-forgetting: lower"]))

    first, last = Tracker(), Tracker()
    callbacks = [first, GateCallback(suite, every_steps=3), last]
    trainer = make_trainer("sft", tiny_model, tmp_path, callbacks=callbacks, report_to=["tensorboard"])
    trainer.train()
    assert first.seen == last.seen == [*read_looks(trainer, "harness/no-forgetting: lower").items()]
    assert len(first.seen) == 2
    assert len(losses(trainer)) == 6  # what the step itself logs is logged all the same


def test_error_in_a_look(suite: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """An evaluator that raises ends no training: it is said once, the next look is tried, the losses stay the same."""
    plain = make_trainer("sft", tiny_model, tmp_path / "plain")
    plain.train()
    text = (suite.parent / "harnessfile.py").read_text()
    answers = "    for sample, answer in zip"
    broken = text.replace(
        answers, f'    CALLS.append(1)\n    if len(CALLS) in (2, 3): raise ValueError("no\\nluck")\n{answers}'
    )
    (suite.parent / "harnessfile.py").write_text("CALLS = []\n" + broken)
    trainer = make_trainer("sft", tiny_model, tmp_path / "out", callbacks=[GateCallback(suite, every_steps=2)])
    trainer.train()
    assert losses(plain) == losses(trainer)
    assert list(read_looks(trainer)) == [6]
    told = capsys.readouterr().err
    assert told.count("the look failed") == 1
    assert "step 2: the look failed: " in told
    assert "2 of 3 looks failed" in told


def test_error_on_the_base(suite: Path, tiny_model: Path, tmp_path: Path) -> None:
    """An evaluator that cannot evaluate the base is a mistake before the first step."""
    path = suite.parent / "harnessfile.py"
    path.write_text(path.read_text().replace('    """Does it say anything?"""', '    raise ValueError("broken")'))
    assert (
        read_usage_error(tiny_model, tmp_path / "out", suite)
        == f"{suite}: the base was not evaluated: ValueError: broken"
    )


def test_suite_that_trains(tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """Of a suite that trains, merges and exports only the model, the evals and the gates on the result are used.

    A gate of its recipe is named and left out.
    """
    more = """
[adapter]
use = "lora"

[train]
use = "sft"
data = "train.jsonl"
seeds = [1, 2, 3]

[[gate]]
id = "recipe"
metric = "old.likely"
min = 0.1
of = "recipe"

[[export]]
use = "adapter"
from = "adapter"
to = "release"
"""
    path = write_loop_suite(tmp_path / "suite", tiny_model, SUITE + more)
    (path.parent / "release").mkdir()
    (path.parent / "release" / "note").write_text("something that is not ours")
    trainer = make_trainer("sft", tiny_model, tmp_path / "out", callbacks=[GateCallback(path, every_steps=6)])
    trainer.train()
    assert list(read_looks(trainer)) == [6]
    assert 'gate "recipe" is about the recipe, and not about one training of it' in capsys.readouterr().err


def test_gates_that_cannot_be_looked_at(suite: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """A gate on an eval without select rows is named before the first step, and left out."""
    suite.write_text(suite.read_text().replace('select = "old-select.jsonl"\n', ""))
    trainer = make_trainer("sft", tiny_model, tmp_path, callbacks=[GateCallback(suite, every_steps=6)])
    trainer.train()
    told = capsys.readouterr().err
    assert 'gate "no-forgetting" is on eval "old", which has no select split' in told
    assert "no gate guards what the base can, so nothing stops it; new.nats chooses" in told


def test_base_floor_is_a_guard(suite: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """A bound that the base proves is a guard; one that is still to be reached is none."""
    floors = """
[[gate]]
id = "speaks"
metric = "talk.text"
min = 0.5

[[gate]]
id = "far"
metric = "new.likely"
min = 0.9
"""
    suite.write_text(suite.read_text() + floors)
    trainer = make_trainer("sft", tiny_model, tmp_path, callbacks=[GateCallback(suite, every_steps=6)])
    trainer.train()
    told = capsys.readouterr().err
    assert "speaks: 40 rows" in told
    assert "far: " not in told
    assert re.search(r"far FAIL", told)
    assert trainer.state.global_step == 6


def test_resumed_training(suite: Path, tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    """A training that goes on compares with the base, not with what it had become, and knows its best."""
    for adapter in (True, False):
        out = tmp_path / f"out-{adapter}"
        options = {"save_strategy": "steps", "save_steps": 2, "adapter": adapter}
        whole = make_trainer("sft", tiny_model, out, callbacks=[GateCallback(suite, every_steps=2, stop="")], **options)
        whole.train()
        capsys.readouterr()
        again = make_trainer("sft", tiny_model, out, callbacks=[GateCallback(suite, every_steps=2, stop="")], **options)
        again.train(resume_from_checkpoint=str(out / "checkpoint-4"))
        lines = [line for line in capsys.readouterr().err.splitlines() if "look 1 of 3" in line]
        assert len(lines) == 1
        expected = read_looks(whole, "harness/no-forgetting: estimate")[6]
        assert read_looks(again, "harness/no-forgetting: estimate")[6] == expected
        assert again.state.best_global_step == whole.state.best_global_step


def test_evaluate_by_hand(suite: Path, tiny_model: Path, tmp_path: Path) -> None:
    """`trainer.evaluate()` before, after and during a training is the trainer's own, and no look."""
    trainer = make_trainer("sft", tiny_model, tmp_path, callbacks=[GateCallback(suite, every_steps=6)])
    rows = trainer.train_dataset.select(range(2))
    assert "eval_loss" in trainer.evaluate(rows)
    trainer.train()
    assert "eval_loss" in trainer.evaluate(rows)
    assert list(read_looks(trainer)) == [6]


def test_two_trainings(suite: Path, tiny_model: Path, tmp_path: Path) -> None:
    """One callback serves trainings one after the other."""
    callback = GateCallback(suite, every_steps=6)
    for name in ("a", "b"):
        trainer = make_trainer("sft", tiny_model, tmp_path / name, callbacks=[callback])
        trainer.train()
        assert list(read_looks(trainer)) == [6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every_steps": 0}, "every_steps is 0; it must be a whole number, 1 or more"),
        ({"every_steps": 2.5}, "every_steps is 2.5; it must be"),
        ({"stop": "failed"}, "stop is 'failed'; it must be"),
        ({"keep": "last"}, "keep is 'last'; it must be"),
    ],
)
def test_wrong_options(given: dict[str, Any], message: str) -> None:
    """An option that is wrong is refused where it is given."""
    with pytest.raises(UsageError, match=re.escape(message)):
        GateCallback("suite.toml", **given)


def read_usage_error(model: Path, out: Path, suite: Path, **options: Any) -> str:
    """Return the one line with which a training is refused before its first step."""
    callbacks = options.pop("callbacks", None) or [GateCallback(suite)]
    trainer = make_trainer("sft", model, out, callbacks=callbacks, **options)
    with pytest.raises(UsageError) as error:
        trainer.train()
    assert trainer.state.global_step == 0
    [line] = str(error.value).splitlines()
    return line


def test_refused_suites(suite: Path, tiny_model: Path, tmp_path: Path) -> None:
    """What a suite lacks is one line before the first step."""
    text = suite.read_text()
    assert "no eval has select rows" in read_error_of_suite(
        suite, re.sub("select = .*\n", "", text), tiny_model, tmp_path
    )
    no_gates = text[: text.index("[[gate]]")]
    assert "no gate can be looked at in training: there is no gate" in read_error_of_suite(
        suite, no_gates, tiny_model, tmp_path
    )
    other = text.replace('use = "hf"', 'use = "api"\nurl = "http://127.0.0.1:9"').replace('dtype = "float32"\n', "")
    other = other.replace('device = "cpu"\n', "")
    assert 'the loader "api" cannot evaluate a model in training; use = "hf"' in read_error_of_suite(
        suite, other, tiny_model, tmp_path
    )
    assert "nowhere.toml" in read_usage_error(tiny_model, tmp_path / "out", suite.parent / "nowhere.toml")


def read_error_of_suite(suite: Path, text: str, model: Path, folder: Path) -> str:
    suite.write_text(text)
    return read_usage_error(model, folder / "out", suite)


def test_refused_models(suite: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base or a tokenizer that is not the suite's, and a second callback, are one line before the first step."""
    from transformers import EarlyStoppingCallback

    from tests.helpers.loops import make_trainer as make

    two = [GateCallback(suite), GateCallback(suite)]
    assert "the trainer has 2 of them" in read_usage_error(tiny_model, tmp_path / "out", suite, callbacks=two)
    assert 'save_strategy is "best"' in read_usage_error(
        tiny_model, tmp_path / "out", suite, save_strategy="best", metric_for_best_model="loss", eval_strategy="no"
    )
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps"}
    assert 'scheduler "reduce_lr_on_plateau" reads' in read_usage_error(tiny_model, tmp_path / "out", suite, **options)
    for both in ([GateCallback(suite), EarlyStoppingCallback()], [EarlyStoppingCallback(), GateCallback(suite)]):
        options = {"metric_for_best_model": "loss", "eval_strategy": "steps", "load_best_model_at_end": True}
        options |= {"save_strategy": "steps", "callbacks": both}
        assert "EarlyStoppingCallback stops by" in read_usage_error(tiny_model, tmp_path / "out", suite, **options)
    trainer = make("sft", tiny_model, tmp_path / "out", callbacks=[GateCallback(suite)])
    config = trainer.model.get_base_model().config
    monkeypatch.setattr(config, "num_hidden_layers", 3)
    with pytest.raises(UsageError, match=r"has num_hidden_layers 3, the suite's base .* has 2"):
        trainer.train()
    trainer = make("sft", tiny_model, tmp_path / "out", callbacks=[GateCallback(suite)])
    tokenizer = trainer.processing_class
    changed = json.loads(tokenizer.backend_tokenizer.to_str())
    changed["post_processor"] = None
    from tokenizers import Tokenizer

    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(changed))
    with pytest.raises(UsageError, match="has another tokenizer than the suite's base"):
        trainer.train()


def test_sharded_trainings(suite: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where accelerate splits the model between processes, nothing is evaluated."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    trainer = make_trainer("sft", tiny_model, tmp_path)
    for kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        monkeypatch.setitem(PartialState._shared_state, "distributed_type", kind)
        with pytest.raises(UsageError, match=f"{kind.name} splits the model"):
            GateCallback(suite)._check(trainer.args)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own
def test_wrapped_models(tiny_model: Path) -> None:
    """What DDP or torch.compile wraps is evaluated itself; what is sharded between processes is refused."""
    from transformers import AutoModelForCausalLM

    from harness.records.models import ModelRef
    from harness_hf import open_live_model

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ref, found = ModelRef("x", str(tiny_model), "d"), []
    for wrapped in (model, torch.compile(model), torch.nn.DataParallel(model)):
        with open_live_model(wrapped, ref) as subject:
            found += subject.logprobs([("a", " b")])
    assert found[0] == found[1] == found[2]

    class FullyShardedDataParallel(torch.nn.Module):  # stands for what only several processes can make
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        config = model.config

    with (
        pytest.raises(UsageError, match="is sharded between processes"),
        open_live_model(FullyShardedDataParallel(), ref),
    ):
        pass


WORKER = """
import json, sys
from pathlib import Path
from harness.training import GateCallback
from tests.helpers.loops import losses, make_trainer
model, suite, out, looked = sys.argv[1:]
callbacks = [GateCallback(suite, every_steps=2)] if looked == "yes" else []
how = {"ddp_backend": "gloo", "max_steps": MAX, "learning_rate": RATE}
trainer = make_trainer("sft", Path(model), Path(out), callbacks=callbacks, **how)
trainer.train()
found = {"losses": losses(trainer), "step": trainer.state.global_step, "best": trainer.state.best_global_step}
Path(out, f"found-{trainer.args.process_index}.json").write_text(json.dumps(found))
"""


def run_processes(folder: Path, model: Path, suite: Path, *, looked: bool, steps: int = 6, rate: float = 5e-3) -> Any:
    """Train in two processes; return what each found, and the standard error of both."""
    folder.mkdir()
    script = folder / "worker.py"
    script.write_text(WORKER.replace("MAX", str(steps)).replace("RATE", str(rate)))
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]
    command += ["--standalone", str(script), str(model), str(suite), str(folder), "yes" if looked else "no"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"found-{i}.json").read_text()) for i in range(2)], done.stderr


def test_two_processes(suite: Path, collapsing: Path, tiny_model: Path, tmp_path: Path) -> None:
    """In two processes the first looks, both stop at the same step, and the losses are those without looks."""
    plain, _ = run_processes(tmp_path / "plain", tiny_model, suite, looked=False)
    looked, told = run_processes(tmp_path / "looked", tiny_model, suite, looked=True)
    assert plain[0]["losses"] == looked[0]["losses"]
    assert looked[0]["best"] == looked[1]["best"]
    assert told.count("harness: step 2, look 1 of 3") == 1
    stopped, _ = run_processes(tmp_path / "stopped", tiny_model, collapsing, looked=True, steps=30, rate=5e-2)
    assert stopped[0]["step"] == stopped[1]["step"] < 30
