"""vLLM against a fake of it that behaves as it was seen to: no stale row is read, and what is wrong is one line."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import random
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import harness_vllm
from harness import Logprob, loader
from harness.capabilities import LoaderCapabilities
from harness.errors import CheckFailedError, UsageError
from harness.records.models import ModelRef, Sampling
from harness.testing import Project
from harness.workers.loading import load_in_process
from harness_vllm import environment, scoring

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SCORED = Logprob(0.0, 1, 1, True)
FAKE = Path(__file__).parent.parent.parent / "helpers/fake_vllm.py"
SUITE = """
[suite]
name = "apart"
[model]
use = "vllm"
path = "model"
{options}
[[eval]]
name = "qa"
use = "{evaluator}"
data = "rows.jsonl"
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The fake, as the `vllm` that is installed here."""
    put(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in {*environment.QUIET_ENVIRONMENT, *environment.ENGINE, "HF_HUB_DISABLE_TELEMETRY"}:
        monkeypatch.setenv(name, os.environ.get(name, ""))  # to be put back
    for name in environment.PLACES:
        monkeypatch.setenv(name, str(tmp_path))
    sys.modules.pop("vllm", None)
    yield importlib.import_module("vllm")
    del sys.modules["vllm"]


def put(site: Path) -> None:
    """Install the fake in a folder of packages."""
    about = site / "vllm-0.32.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n", "utf-8")
    shutil.copyfile(FAKE, site / "vllm.py")


def engine(folder: Path, *, block: int = 4, blocks: int = 40, length: int = 100) -> Any:
    """Start an engine of a model that is a number of tokens long."""
    from harness_vllm.engine import VLLM
    from harness_vllm.environment import Flags

    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text('{"max_position_embeddings": 512}', "utf-8")
    (folder / "model/model.safetensors").write_bytes(b"")
    flags = Flags(engine={"block_size": block, "kv_cache_memory_bytes": blocks * block * 64})
    return VLLM("base", folder / "model", torch.float32, length, flags, 1)


def compute_expected_scores(fake: Any, windows: Sequence[scoring.Pair]) -> list[scoring.ScoredWindow]:
    """Return what windows must be given."""
    found = []
    for context, target in windows:
        steps = [(context + target[:i], token) for i, token in enumerate(target)]
        total = sum(fake.truth(*step) for step in steps)
        found.append(scoring.ScoredWindow(pytest.approx(total), all(fake.likeliest(b) == t for b, t in steps)))
    return found


def draw_adversarial_windows(luck: random.Random, fake: Any, length: int) -> list[scoring.Pair]:
    """Return windows that begin alike, contain each other, are split elsewhere, or are asked twice, in any order."""
    stem = [luck.randrange(3, 200) for _ in range(length)]
    found: list[scoring.Pair] = []
    for _ in range(luck.randrange(1, 14)):
        ids = stem[: luck.randrange(2, length)]
        ids += [luck.randrange(3, 200) for _ in range(luck.randrange(0, 3))]
        if luck.random() < 0.3:
            ids.append(fake.likeliest(ids))
        cut = luck.randrange(1, len(ids))
        found += [(ids[:cut], ids[cut:])] * luck.choice([1, 1, 2])
    luck.shuffle(found)
    return found


@pytest.mark.slow
def test_no_order_gives_a_stale_row(fake: Any, tmp_path: Path) -> None:
    """Of 1,000 adversarial orders, in caches with hardly any room, every score is that of an empty cache."""
    made: dict[tuple[int, int], Any] = {}
    luck, reads = random.Random(42019), 0
    for _ in range(1000):
        block, blocks = luck.choice([2, 4, 8]), luck.choice([14, 20, 60])
        if (block, blocks) not in made:
            made[block, blocks] = engine(tmp_path, block=block, blocks=blocks, length=block * 12)
        one = made[block, blocks]
        windows = draw_adversarial_windows(luck, fake, block * 10)
        if luck.random() < 0.3:
            one.forget()
        assert scoring.score_windows(one, windows) == compute_expected_scores(fake, windows)
        reads += any(o.num_cached_tokens for o in one.score([c + t for c, t in windows], reads=True))
    assert reads > 500


def test_a_piece_keeps_an_engine_busy() -> None:
    """Rows of ordinary length are asked eight times as many at once as vLLM answers side by side."""
    given: list[int] = []

    class Subject:
        name = digest = "one"

        def logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[Logprob]:
            given.append(len(pairs))
            return [SCORED] * len(pairs)

    @loader(piece=LoaderCapabilities.of(harness_vllm.load).piece)
    @contextmanager
    def load(refs: Sequence[ModelRef]) -> Iterator[list[Any]]:
        yield [Subject() for _ in refs]

    pairs = [(f"{number} is asked {number:0450}", f" answer {number}") for number in range(6000)]
    with load_in_process(load, [ModelRef("one", "model")], lambda _: None) as [subject]:
        assert subject.logprobs(pairs) == [SCORED] * 6000
    assert len(given) > 1 and min(given[:-1]) >= 8 * 256


@pytest.mark.parametrize("guard", ["_is_target_uncached", "_iterate_waves_fitting_cache"])
def test_the_guards_are_what_keeps_stale_rows_out(
    guard: str, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without either of the two, one of the same orders is wrong, or has no row for a token."""
    careless = {
        "_is_target_uncached": lambda *_: True,
        "_iterate_waves_fitting_cache": lambda _, pairs: [pairs] if pairs else [],
    }
    monkeypatch.setattr(scoring, guard, careless[guard])
    luck, wrong = random.Random(42019), 0
    one = engine(tmp_path, blocks=20, length=48)
    for _ in range(60):
        windows = draw_adversarial_windows(luck, fake, 40)
        try:
            wrong += scoring.score_windows(one, windows) != compute_expected_scores(fake, windows)
        except CheckFailedError:
            wrong += 1
    assert wrong


def test_the_cache_is_read_and_only_what_must_be_is_asked_again(fake: Any, tmp_path: Path) -> None:
    """Ten endings of one long beginning cost one run of it, and an ending that is in the cache one more."""
    one, asked = engine(tmp_path, blocks=1000, length=400), list[tuple[int, bool]]()
    ask = one.score
    one.score = lambda prompts, *, reads: asked.append((len(prompts), reads)) or ask(prompts, reads=reads)
    stem = list(range(3, 185))
    windows = [(stem, [i]) for i in range(3, 13)]
    assert scoring.score_windows(one, windows) == compute_expected_scores(fake, windows)
    assert asked == [(1, True), (9, True)]
    asked.clear()
    windows = [(stem[:90], stem[90:])]  # its target is in the cache
    assert scoring.score_windows(one, windows) == compute_expected_scores(fake, windows)
    assert asked == [(1, True), (1, False)]


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"other": 0.5}, UsageError, "scores differ by 0.5 nats per token when it uses its prefix cache"),
        ({"stale": True}, CheckFailedError, "tokens from its prefix cache despite a request not to; scores are stale"),
    ],
)
def test_what_differs_at_load_is_refused(
    how: dict[str, Any], error: type[Exception], says: str, fake: Any, tmp_path: Path
) -> None:
    """A model that scores otherwise with its cache, or ignores the switch, answers nothing."""
    one, windows = engine(tmp_path), [(list(range(3, 43)), [50 + i]) for i in range(8)]
    scoring.compare_prefix_cache(one, windows, "base", "float32")
    fake.BROKEN.update(how)
    one.score([c + t for c, t in windows], reads=False)
    with pytest.raises(error, match=says):
        scoring.compare_prefix_cache(one, windows, "base", "float32")


def test_what_is_no_number_is_found_where_it_is_asked_for(fake: Any, tmp_path: Path) -> None:
    """A model of NaN loads, as with "hf", and neither its scores nor its answers count."""
    from harness.records.models import Generate

    one, windows = engine(tmp_path), [(list(range(3, 43)), [50 + i]) for i in range(8)]
    fake.BROKEN["nan"] = True
    scoring.compare_prefix_cache(one, windows, "base", "float32")
    with pytest.raises(CheckFailedError, match="log-probabilities are not finite"):
        scoring.score_windows(one, windows)
    with pytest.raises(CheckFailedError, match="logits are not finite"):
        one.answer([[3, 4]], Generate(max_new_tokens=4), [4], [])


def test_an_engine_is_told_what_makes_its_answers_ours(fake: Any, tmp_path: Path) -> None:
    """No default of a model's, no code of a model's, no other dtype; and nothing is sent anywhere."""
    engine(tmp_path)
    told = fake.STARTED[-1]
    assert (told["dtype"], told["generation_config"], told["trust_remote_code"]) == ("float32", "vllm", False)
    assert (os.environ["VLLM_NO_USAGE_STATS"], os.environ["DO_NOT_TRACK"]) == ("1", "1")
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    fake.BROKEN["dtype"] = True
    with pytest.raises(UsageError, match=r"vLLM computes in torch\.float16 instead of torch\.float32"):
        engine(tmp_path)
    fake.BROKEN.clear()
    with pytest.raises(UsageError, match="vLLM cannot load it: the KV cache is too small"):
        engine(tmp_path, blocks=3)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0; it must be 1 or more"),
    ({"gpu_memory_utilization": 1.5}, "; it must be a share from 0 to 1"),
    ({"max_model_len": 1}, "max_model_len is 1; it must be more than 2"),
    ({"engine": {"quantization": "int4"}}, 'engine: "quantization" is not an option passed to vLLM'),
    ({"engine": {"blok_size": 16}}, 'engine: "blok_size" is not an option passed to vLLM; did you mean "block_size"?'),
    ({"engine": {"block_size": "16"}}, 'engine: block_size is "16"; it must be an integer'),
    ({}, "python: is not set, and vllm is not installed here; set it to an environment with vllm,"),
    ({"python": "nowhere/bin/python"}, 'python "nowhere/bin/python": No such file or directory'),
    ({"python": sys.executable}, "its environment lacks vllm; docs/how-to/use-vllm.md explains how to create one"),
    ({"python": "/bin/false"}, 'python "/bin/false": is not a Python interpreter ('),
    ({"python": "/bin/true"}, 'python "/bin/true": is not a Python interpreter ('),
]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed here")
@pytest.mark.parametrize(("options", "says"), BAD, ids=[says[:40] for _, says in BAD])
def test_what_cannot_be_is_one_line(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    """A value, an interpreter or an environment that is no good is told before a model is looked at."""
    with pytest.raises(UsageError) as caught:
        harness_vllm.open_source(str(tmp_path), **options)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_environment_of_another_harness_is_one_line(tmp_path: Path) -> None:
    """Its version is told before anything is done."""
    site = tmp_path / "site"
    put(site)
    for name in ("harness", "harness_vllm", "peft"):
        (site / f"{name}.py").write_text("", "utf-8")
    (site / "finetune_harness-0.0.1.dist-info").mkdir()
    about = "Metadata-Version: 2.1\nName: finetune-harness\nVersion: 0.0.1\n"
    (site / "finetune_harness-0.0.1.dist-info/METADATA").write_text(about, "utf-8")
    with pytest.raises(UsageError, match=r"its environment has harness 0\.0\.1, but this is 0\.1\.0"):
        harness_vllm.open_source(str(tmp_path), python=write_interpreter(tmp_path, [str(site)], "-S"))


def test_what_it_cannot_give_is_refused_at_collection(project: Project) -> None:
    """`drift` asks for whole distributions, and says so before anything is trained."""
    text = SUITE.format(options="", evaluator="drift")
    outcome = project.write({"suite.toml": text, "rows.jsonl": [{"input": "a", "text": "b"}]}).run()
    assert outcome.code == 4
    assert '"drift" needs token_kl, which the loader "vllm" does not provide; use = "hf" in [model]' in outcome.err


def test_it_is_listed_without_importing_vllm(project: Project) -> None:
    """Whoever lists plugins needs no vLLM, and loads none."""
    outcome = project.harness("plugins")
    assert outcome.code == 0 and "loader vllm" in outcome.out and "vllm" not in sys.modules


# -- with a tokenizer --------------------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path) -> str:
    """An interpreter of an environment with the fake in it."""
    put(tmp_path / "apart")
    return write_interpreter(tmp_path, [str(tmp_path / "apart"), *sys.path])


def write_interpreter(folder: Path, path: Sequence[str], *switches: str) -> str:
    """Write an interpreter that finds modules in some folders."""
    found = folder / "python"
    search = os.pathsep.join(p or "." for p in path)
    found.write_text(f'#!/bin/sh\nPYTHONPATH="{search}" exec "{sys.executable}" {" ".join(switches)} "$@"\n', "utf-8")
    found.chmod(found.stat().st_mode | stat.S_IXUSR)
    return str(found)


def make_small_options(engine: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return options of a small engine."""
    return {"dtype": "float32", "engine": {"block_size": 8, "kv_cache_memory_bytes": 8 * 64 * 256, **(engine or {})}}


def test_answers_and_scores_are_those_of_the_tokens(tiny_model: Path, fake: Any) -> None:
    """Prompts, splits, windows and stops are those of "hf"; what is too long is a line."""
    from harness_hf import ModelTokenizer

    tokens = ModelTokenizer.of(str(tiny_model))
    shots = "".join(f"{i} is {i} " for i in range(30))
    pairs: list[Any] = [(shots + f"{i} is", f" {i}") for i in range(5)]
    assert tokens.encode_pairs(pairs)[0][1] == tokens.encode_prompts([" 0"])[0][1:]
    pairs += [("", "a whole text " * 60), ([{"role": "user", "content": "hi"}], "hello")]
    with harness_vllm.load([ModelRef("base", str(tiny_model))], **make_small_options()) as [subject]:
        scored = subject.logprobs(pairs)
        windows = subject.encode_windows(pairs, truncate=False)  # type: ignore[attr-defined]
        assert len(windows[5]) == 2
        for found, several, (_, text) in zip(scored, windows, pairs, strict=True):
            wanted = compute_expected_scores(fake, several)
            assert found.total == sum(w.total.expected for w in wanted)
            assert (found.tokens, found.bytes) == (sum(len(t) for _, t in several), len(text.encode()))
        [ids] = tokens.encode_prompts(["say"])
        made = list(itertools.islice(answer(fake, ids), 40))
        assert subject.generate(["say"], max_new_tokens=6) == [tokens.decode(made[:6])]
        stops = subject.stops  # type: ignore[attr-defined]
        whole = next(i for i, token in enumerate(answer(fake, ids)) if token in stops)
        said = [subject.generate(["say"], max_new_tokens=n)[0] for n in (whole, whole + 1)]
        assert [(s.finish_reason, s.tokens) for s in said] == [("length", whole), ("eos", whole + 1)]
        text = tokens.decode(made[:40])
        assert subject.generate(["say"], max_new_tokens=40, stop=[text[3:5]])[0].finish_reason == "stop"
        assert subject.generate(["say"], max_new_tokens=40, stop=[text[3:5]]) == [text[: text.find(text[3:5])]]
        drawn = Sampling(1.0, seeds=(7, 7, 8))
        one, again, other = subject.generate(["say"] * 3, max_new_tokens=12, sampling=drawn)
        assert one == again != other
        with pytest.raises(UsageError, match="a prompt has"):
            subject.generate(["word " * 600])
        assert subject.generate(["say"], max_new_tokens=0) == [""]


def answer(fake: Any, ids: list[int]) -> Iterator[int]:
    """Yield the tokens that come after others."""
    ids = list(ids)
    while (token := fake.likeliest(ids)) != fake.EOS:
        ids.append(token)
        yield token


def test_a_worker_answers_in_vllms_environment(tiny_model: Path, apart: str, fake: Any, tmp_path: Path) -> None:
    """Its identity is told there, it holds no key, and a suite's other settings make another identity."""
    from harness.plugins import load_plugins
    from harness.workers.local import parse_workers
    from harness.workers.pool import LoadRequest, Pool

    pair = ("a prompt that is a little longer", " yes")
    identities = []
    for options in (make_small_options(), make_small_options({"max_num_seqs": 8}) | {"dtype": "bfloat16"}):
        options |= {"python": apart}
        refs = [ModelRef("base", str(tiny_model), options=options)]
        crew = parse_workers("", load_plugins(None), options)
        assert crew
        pool = Pool(crew, LoadRequest("vllm", refs, "", []), lambda _: None)
        if not identities:
            with pool.load_models() as [subject]:
                [found] = subject.logprobs([pair])
                identities.append(pool.identities)
        else:
            identities.append(pool.start())
            pool.close()
    from harness_hf import ModelTokenizer

    [window] = ModelTokenizer.of(str(tiny_model)).encode_pairs([pair])
    assert found.total == compute_expected_scores(fake, [window])[0].total
    assert all(identities) and identities[0] != identities[1]


def test_an_adapter_is_folded_for_the_engine_and_leaves_nothing(
    tiny_model: Path, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's weights are base and adapter, summed and rounded once; afterwards they are gone."""
    from safetensors.torch import load_file

    from harness_lora import lora
    from harness_vllm.subject import fold_adapter
    from tests.helpers.adapters import make_adapter

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for name, fields in (("plain", {}), ("dora", {"use_dora": True}), ("saved", {"modules_to_save": ["lm_head"]})):
        adapter = tmp_path / name
        model = make_adapter(tiny_model, lora(**fields), adapter)
        merged = model.merge_and_unload().state_dict()
        for dtype in (torch.float32, torch.bfloat16):
            with fold_adapter(tiny_model, adapter, dtype) as whole:
                found = load_file(whole / "model.safetensors")
                assert json.loads((whole / "config.json").read_text("utf-8"))["vocab_size"]
                near = 1e-5 if dtype == torch.float32 else 2**-7
                for key, tensor in found.items():
                    torch.testing.assert_close(tensor.float(), merged[key].float(), atol=1e-7, rtol=near)
                assert {t.dtype for t in found.values()} <= {torch.float32, dtype}
            assert [path.name for path in (tmp_path / "cache/vllm").iterdir()] == ["folding.lock"]
    with harness_vllm.load([ModelRef("adapter", str(tiny_model), adapter=adapter)], **make_small_options()) as [
        subject
    ]:
        assert subject.notes == ["adapter: merged into its base for vLLM, rounded once to float32"]  # type: ignore[attr-defined]
        assert fake.STARTED[-1]["model"] != str(tiny_model)
    held = ModelRef("adapter", str(tiny_model), quantization={"load_in_4bit": True})
    what = "is loaded in 4 bits, which is not tested with vLLM"
    with pytest.raises(UsageError, match=what), harness_vllm.load([held], **make_small_options()):
        pass


def test_workers_fold_once_and_the_last_removes_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who wants the same while another holds it gets that; what a killed one left is made again and not believed."""
    from harness_lora import lora
    from harness_vllm import subject as module
    from tests.helpers.adapters import make_adapter

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    make_adapter(tiny_model, lora(), tmp_path / "plain")
    made: list[Path] = []
    fold = module._write_merged_base
    monkeypatch.setattr(module, "_write_merged_base", lambda *given: (made.append(given[-1]), fold(*given)))
    want = (tiny_model, tmp_path / "plain", torch.float32, "d" * 64)
    with module.fold_adapter(*want) as one:
        with module.fold_adapter(*want) as other:
            assert other == one and len(made) == 1
        assert (one / "model.safetensors").is_file()
        with module.fold_adapter(*want[:2], torch.bfloat16, want[3]) as rounded:
            assert rounded != one and len(made) == 2
    assert not one.exists()
    one.mkdir()  # of a process that was killed
    with module.fold_adapter(*want) as again:
        assert (again / "model.safetensors").is_file() and len(made) == 3


def test_a_context_is_what_vllm_has_room_for(tiny_model: Path, apart: str, tmp_path: Path) -> None:
    """It is two tokens shorter than the engine's; more than the model has, or weights in 4 bits, are a line."""
    assert harness_vllm.open_source(str(tiny_model), python=apart).context == 510
    assert harness_vllm.open_source(str(tiny_model), python=apart, max_model_len=66).context == 64
    with pytest.raises(UsageError, match="max_model_len is 513, but the context of model"):
        harness_vllm.open_source(str(tiny_model), python=apart, max_model_len=513)
    shutil.copytree(tiny_model, tmp_path / "int4")
    config = json.loads((tmp_path / "int4/config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "int4/config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(UsageError, match='is stored in gptq, which is not tested with vLLM; use = "hf"'):
        harness_vllm.open_source(str(tmp_path / "int4"), python=apart)
